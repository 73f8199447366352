//! Opens a library from bytes that were judged: what runs is what was looked at, whatever happens to the path meanwhile.
//! The only module of this crate with unsafe code.

#![allow(unsafe_code)]

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use object::Endianness;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use plugin_abi::abi::ROOT_SYMBOL;
use plugin_abi::host::{Module, OpenError};
use rustix::fs::{MemfdFlags, SealFlags};

use crate::inspect::Inspection;
use crate::refusal::{Code, Refusal};
use crate::scan::PluginFile;

/// How the bytes get to the system's loader, which wants a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OpenVia {
    /// A sealed file in memory; a private copy where the system does not allow that.
    #[default]
    Memory,
    /// A private copy in this directory, which must be the daemon's own (mode 0700); removed once it is mapped.
    PrivateCopy(PathBuf),
}

/// A library that was opened and checked. Its code stays mapped for ever.
pub(crate) struct Opened {
    /// What makes instances.
    pub(crate) module: Module,
    /// The memory file it was mapped from. Kept while the copy is in use, so that debuggers and backtraces find its
    /// symbols; not needed for the code itself.
    pub(crate) _image: Option<OwnedFd>,
}

/// Opens, checks the root module, and never unloads.
///
/// The library's initialisers run in here; everything that can be decided without them has been decided before.
pub(crate) fn open(file: &PluginFile, inspection: &Inspection, via: &OpenVia) -> Result<Opened, Refusal> {
    let name = &inspection.header.name;
    let library = match via {
        OpenVia::Memory => from_memory(file, name).or_else(|why| {
            tracing::debug!(plugin = name, why, "cannot open from memory; using a private copy");
            let dir = private_dir().map_err(|e| format!("{why}; no directory for a copy: {e}"))?;
            let library = from_copy(file, inspection, &dir);
            let _ = std::fs::remove_dir(&dir);
            Ok((library?, None))
        }),
        OpenVia::PrivateCopy(dir) => from_copy(file, inspection, dir).map(|library| (library, None)),
    };
    let (library, image) = library.map_err(|why| {
        let remedy = "build it again on this machine; a missing symbol or library is named in the reason";
        Refusal::new(Code::OpenFailed, &file.path, format!("cannot be opened: {why}"), remedy).of(name)
    })?;
    // SAFETY: `get` only looks the symbol up; reading it as a raw pointer makes no claim about what lies there.
    let root = unsafe { library.get::<*const ()>(ROOT_SYMBOL.to_bytes_with_nul()) }.map(|s| s.as_raw_ptr());
    // From here on the code stays mapped: objects, threads and texts of the plugin may live until the process ends.
    let fresh = is_fresh(library);
    if !fresh {
        // Never seen, because each path and each file is new; running an old copy as the new one must not go unnoticed.
        let reason = "the system's loader gave a library that was opened before";
        return Err(Refusal::new(Code::OpenFailed, &file.path, reason, "restart the host").of(name));
    }
    let root = root.map_err(|_| {
        let reason = format!("has a plugin header but no symbol {}", ROOT_SYMBOL.to_string_lossy());
        Refusal::new(Code::NoRoot, &file.path, reason, "build it with plugin_abi::export_plugin!").of(name)
    })?;
    // SAFETY: the address is that of `ROOT_SYMBOL` in a library that was just leaked, so it is valid for the rest of the
    // process. The static header of these very bytes names this treaty and this target, and the macro that writes that
    // header also writes the root symbol as a `LibHeader`.
    let module = unsafe { Module::check(root.cast_const().cast()) }.map_err(|e| {
        if let OpenError::Layout { full, .. } = &e {
            tracing::debug!(plugin = name, "full layout comparison:\n{full}");
        }
        let remedy = "rebuild it with the plugin-abi version of this host";
        Refusal::new(Code::OtherLayout, &file.path, e.to_string(), remedy).of(name)
    })?;
    let said = module.name();
    if said != *name {
        let reason = format!("the header names plugin \"{name}\", its code says \"{said}\"");
        return Err(Refusal::new(Code::NameMismatch, &file.path, reason, "build it again").of(name));
    }
    Ok(Opened { module, _image: image })
}

/// Libraries that this process has mapped through this module, whatever became of their plugins.
pub(crate) fn mapped() -> usize {
    HANDLES.lock().unwrap_or_else(PoisonError::into_inner).len()
}

/// The system loader's handles of all libraries opened here, as numbers.
static HANDLES: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// Leaks the library and tells whether it is one that was not open before: the system's loader gives the same handle for
/// the same library.
fn is_fresh(library: Library) -> bool {
    let handle = library.into_raw().addr();
    let mut handles = HANDLES.lock().unwrap_or_else(PoisonError::into_inner);
    let fresh = !handles.contains(&handle);
    if fresh {
        handles.push(handle);
    }
    fresh
}

fn from_memory(file: &PluginFile, name: &str) -> Result<(Library, Option<OwnedFd>), String> {
    let image =
        sealed(worth_keeping(&file.bytes), name).map_err(|e| format!("no sealed memory file: {e}"))?;
    let path = fresh_path(&image);
    if !Path::new(&path).exists() {
        return Err("no /proc/self/fd".into());
    }
    Ok((dlopen(OsStr::new(&path))?, Some(image)))
}

/// Copies that keep their symbols, so that backtraces of their panics have names. Later ones leave behind what is not
/// mapped, which is most of a file with debug information: a memory file occupies memory from end to end.
const WITH_SYMBOLS: usize = 16;

/// The bytes that go into the memory file: all of them, or those up to the end of the last segment.
fn worth_keeping(bytes: &[u8]) -> &[u8] {
    match mapped() < WITH_SYMBOLS {
        true => bytes,
        false => &bytes[..end_of_segments(bytes).unwrap_or(bytes.len())],
    }
}

/// Where the last loaded segment ends in the file; `None` when the file does not say so plainly.
fn end_of_segments(bytes: &[u8]) -> Option<usize> {
    let head = FileHeader64::<Endianness>::parse(bytes).ok()?;
    let endian = head.endian().ok()?;
    let segments = head.program_headers(endian, bytes).ok()?;
    let loaded = segments.iter().filter(|s| s.p_type(endian) == PT_LOAD);
    let end = loaded.map(|s| s.p_offset(endian).checked_add(s.p_filesz(endian))).max()??;
    usize::try_from(end).ok().filter(|end| (1..=bytes.len()).contains(end))
}

/// A path of a descriptor that this process has not used before. The system's loader knows libraries by path, letter by
/// letter, and then by device and inode: the number of a descriptor comes back once it is closed, and would give the
/// library that was opened under it before. The inode is no danger: the mapping keeps it from being used again. So a
/// serial number is written into the slashes of the path, where the kernel passes over it.
fn fresh_path(image: &OwnedFd) -> String {
    static SERIAL: AtomicU64 = AtomicU64::new(1);
    let mut serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let mut path = String::from("/proc/self/fd");
    while serial > 0 {
        path.push_str(if serial & 1 == 1 { "/." } else { "/" });
        serial >>= 1;
    }
    path.push_str(&format!("/{}", image.as_raw_fd()));
    path
}

/// A memory file that nobody can change any more, this process included.
pub(crate) fn sealed(bytes: &[u8], name: &str) -> std::io::Result<OwnedFd> {
    let label = CString::new(format!("pilot-plugin-{name}")).map_err(std::io::Error::other)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // EXEC says aloud what is meant; kernels before 6.3 do not know it and mean it anyway.
    let handle = rustix::fs::memfd_create(&label, flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(&label, flags))?;
    let mut file = File::from(handle);
    file.write_all(bytes)?;
    let handle = OwnedFd::from(file);
    rustix::fs::fcntl_add_seals(
        &handle,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(handle)
}

fn from_copy(file: &PluginFile, inspection: &Inspection, dir: &Path) -> Result<Library, String> {
    // Never the same name twice: it would give the library that was opened there before.
    static SERIAL: AtomicU64 = AtomicU64::new(1);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!("{}-{}-{serial}.so", inspection.header.name, &inspection.sha256[..16]));
    let write = || {
        let mut copy = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o500).open(&path)?;
        copy.write_all(&file.bytes)
    };
    let library = write().map_err(|e| format!("private copy {}: {e}", path.display()));
    let library = library.and_then(|()| dlopen(path.as_os_str()));
    let _ = std::fs::remove_file(&path);
    library
}

fn private_dir() -> std::io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let base = std::env::temp_dir();
    for attempt in 0..100 {
        let dir = base.join(format!("pilot-plugins-{}-{attempt}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            result => return result.map(|()| dir),
        }
    }
    Err(std::io::Error::other("no free name"))
}

fn dlopen(path: &OsStr) -> Result<Library, String> {
    // NOW: a missing symbol is an error here, not a crash at the first call. LOCAL: plugins do not see each other's.
    // SAFETY: opening runs the library's initialisers. These are bytes that the operator put into the plugins directory
    // and that were judged before; beyond that a plugin is trusted code in this process, as its documentation says.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|e| {
        let text = std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
        // The path is one of ours, not the plugin's.
        let own = format!("{}: ", path.display());
        text.strip_prefix(own.as_str()).unwrap_or(&text).to_owned()
    })
}
