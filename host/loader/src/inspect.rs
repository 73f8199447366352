//! Judges a file by its bytes: an ELF library for this machine, with a plugin header that this host accepts. Nothing of
//! the file runs here. Also what `plugin inspect` commands show.

use object::elf::{ET_DYN, FileHeader64};
use object::read::elf::{FileHeader, SectionHeader, Sym};
use object::{Endianness, elf};
use plugin_abi::header::{Header, HeaderError, SECTION};
use sha2::{Digest, Sha256};

use crate::refusal::{Code, Refusal};
use crate::scan::PluginFile;

/// What a file says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The static header.
    pub header: Header,
    /// SHA-256 of the whole file, lower-case hex.
    pub sha256: String,
}

/// What the ELF tables of a library say, beyond its header; for people who look at a file before they trust it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Symbols that others may link to. A plugin needs two: `PILOT_PLUGIN_HEADER` and `PILOT_PLUGIN_ROOT`.
    pub exports: Vec<String>,
    /// Libraries that the system's loader will look for.
    pub needs: Vec<String>,
    /// Functions that run as soon as the library is opened: `.init_array` entries plus `.init`. A Rust library has one
    /// or two of the compiler's own.
    pub initialisers: usize,
    /// Whether debugging information is in the file.
    pub debug_info: bool,
}

/// Reads the dynamic tables of `file`.
///
/// # Errors
/// [`Code::NotElf`] when they are damaged.
pub fn tables(file: &PluginFile) -> Result<Tables, Refusal> {
    let data = file.bytes.as_slice();
    let damaged = |e: object::Error| not_elf(file, format!("is a damaged ELF file: {e}"));
    let head = FileHeader64::<Endianness>::parse(data).map_err(damaged)?;
    let endian = head.endian().map_err(damaged)?;
    let sections = head.sections(endian, data).map_err(damaged)?;
    let mut found = Tables::default();
    let symbols = sections.symbols(endian, data, elf::SHT_DYNSYM).map_err(damaged)?;
    for symbol in symbols.iter() {
        if symbol.is_undefined(endian) || symbol.st_bind() == elf::STB_LOCAL || symbol.st_name(endian) == 0 {
            continue;
        }
        let name = symbols.symbol_name(endian, symbol).map_err(damaged)?;
        found.exports.push(String::from_utf8_lossy(name).into_owned());
    }
    found.exports.sort_unstable();
    let dynamic = sections.dynamic_table(endian, data).map_err(damaged)?;
    for entry in dynamic.iter().filter(|d| d.tag == elf::DT_NEEDED) {
        let name = dynamic.string(entry).map_err(damaged)?;
        found.needs.push(String::from_utf8_lossy(name).into_owned());
    }
    for section in sections.iter() {
        match sections.section_name(endian, section).map_err(damaged)? {
            b".init_array" => found.initialisers += usize::try_from(section.sh_size(endian) / 8).unwrap_or(0),
            b".init" => found.initialisers += 1,
            b".debug_info" => found.debug_info = true,
            _ => {}
        }
    }
    Ok(found)
}

/// Judges `file`.
pub fn inspect(file: &PluginFile) -> Result<Inspection, Refusal> {
    let bytes = section(file)?;
    let header = Header::parse(bytes).map_err(|e| header_refusal(file, bytes, &e))?;
    Ok(Inspection { header, sha256: hex::encode(Sha256::digest(&file.bytes)) })
}

/// Finds the header's bytes in the ELF file.
fn section(file: &PluginFile) -> Result<&[u8], Refusal> {
    let data = file.bytes.as_slice();
    if data.get(..4) != Some(&elf::ELFMAG) {
        let start = data[..data.len().min(8)].escape_ascii();
        return Err(not_elf(file, format!("starts with \"{start}\", expected an ELF shared library")));
    }
    let damaged = |e: object::Error| not_elf(file, format!("is a damaged ELF file: {e}"));
    let head = FileHeader64::<Endianness>::parse(data)
        .map_err(|_| not_elf(file, "is not a 64-bit ELF file of this format"))?;
    let endian = head.endian().map_err(damaged)?;
    if head.e_type(endian) != ET_DYN {
        return Err(not_elf(file, "is an ELF file but not a shared library"));
    }
    let sections = head.sections(endian, data).map_err(damaged)?;
    match sections.section_by_name(endian, SECTION.as_bytes()) {
        Some((_, section)) => section.data(endian, data).map_err(damaged),
        None => Err(Refusal::new(
            Code::NoHeader,
            &file.path,
            format!("is a library without a plugin header (section {SECTION})"),
            "build it with plugin_abi::export_plugin!, or remove it from the plugins directory",
        )),
    }
}

fn not_elf(file: &PluginFile, reason: impl Into<String>) -> Refusal {
    Refusal::new(Code::NotElf, &file.path, reason, "remove it from the plugins directory, or build it again")
}

fn header_refusal(file: &PluginFile, bytes: &[u8], error: &HeaderError) -> Refusal {
    let (code, remedy) = match error {
        HeaderError::Major { .. } => {
            (Code::OtherTreaty, "rebuild it with the plugin-abi version of this host")
        }
        HeaderError::Target { .. } => (Code::OtherTarget, "rebuild it for this machine"),
        HeaderError::PanicAbort => (Code::PanicAbort, "rebuild it with panic = \"unwind\" in its profile"),
        _ => (Code::BadHeader, "rebuild it with plugin_abi::export_plugin!"),
    };
    let refusal = Refusal::new(code, &file.path, error.to_string(), remedy);
    match Header::name_of(bytes) {
        Some(name) => refusal.of(&name),
        None => refusal,
    }
}
