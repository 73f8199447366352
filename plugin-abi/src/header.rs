//! The static header: plain bytes in section `.pilot_plugin` of every plugin file, readable without opening the library.
//! The export macro writes it, the loader and the inspection commands read it. It decides nothing about memory layout;
//! that is checked after opening (see [`crate::abi::open`]).
//!
//! | bytes | field |
//! |---|---|
//! | 0..16 | magic `PILOT-PLUGIN` 0 0 0 1 |
//! | 16..20 | size of this header, `u32` little endian; later versions append, so readers accept more than they know |
//! | 20..22, 22..24 | treaty major and minor, `u16` little endian |
//! | 24..32 | flags, `u64` little endian; bit 0: built with panic=unwind |
//! | 32..64 | plugin name |
//! | 64..96 | plugin version |
//! | 96..160 | compiler |
//! | 160..208 | target triple |
//!
//! Texts are UTF-8 padded with zero bytes.

use std::fmt;

use crate::abi::{ABI_MAJOR, ABI_MINOR};

/// The ELF section that holds the header.
pub const SECTION: &str = ".pilot_plugin";
/// Length of the header that this version writes.
pub const HEADER_LEN: usize = 208;
/// First bytes of every header.
pub const MAGIC: [u8; 16] = *b"PILOT-PLUGIN\0\0\0\x01";
/// Flag bit: the plugin was built with `panic = "unwind"`, so its panics can be contained.
pub const FLAG_UNWIND: u64 = 1;
/// The target triple that this crate was built for.
pub const TARGET: &str = env!("PLUGIN_ABI_TARGET");
/// The compiler that built this crate.
pub const RUSTC: &str = env!("PLUGIN_ABI_RUSTC");

const NAME_AT: usize = 32;
const VERSION_AT: usize = 64;
const RUSTC_AT: usize = 96;
const TARGET_AT: usize = 160;

/// Builds the header of a plugin; evaluated while the plugin is compiled.
///
/// # Panics
/// At compile time when `name` is not 1 to 31 bytes of `a-z`, `0-9`, `-`, `_`.
pub const fn encode(name: &str, version: &str, flags: u64) -> [u8; HEADER_LEN] {
    assert!(valid_name(name), "a plugin name has 1 to 31 characters of a-z, 0-9, - and _");
    encode_raw(MAGIC, ABI_MAJOR, ABI_MINOR, flags, name, version, RUSTC, TARGET)
}

/// As [`encode`], every field free: for tests that need a header which must be refused.
#[allow(clippy::too_many_arguments)] // one argument per header field
pub const fn encode_raw(
    magic: [u8; 16],
    major: u16,
    minor: u16,
    flags: u64,
    name: &str,
    version: &str,
    rustc: &str,
    target: &str,
) -> [u8; HEADER_LEN] {
    let mut out = [0; HEADER_LEN];
    put(&mut out, 0, &magic, 16);
    put(&mut out, 16, &(HEADER_LEN as u32).to_le_bytes(), 4);
    put(&mut out, 20, &major.to_le_bytes(), 2);
    put(&mut out, 22, &minor.to_le_bytes(), 2);
    put(&mut out, 24, &flags.to_le_bytes(), 8);
    put(&mut out, NAME_AT, name.as_bytes(), VERSION_AT - NAME_AT);
    put(&mut out, VERSION_AT, version.as_bytes(), RUSTC_AT - VERSION_AT);
    put(&mut out, RUSTC_AT, rustc.as_bytes(), TARGET_AT - RUSTC_AT);
    put(&mut out, TARGET_AT, target.as_bytes(), HEADER_LEN - TARGET_AT);
    out
}

/// Whether `name` may be a plugin's name: 1 to 31 bytes of `a-z`, `0-9`, `-`, `_`. It becomes a file name, a
/// configuration key and part of event topics.
pub const fn valid_name(name: &str) -> bool {
    let b = name.as_bytes();
    let mut i = 0;
    while i < b.len() {
        if !matches!(b[i], b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_') {
            return false;
        }
        i += 1;
    }
    !b.is_empty() && b.len() < VERSION_AT - NAME_AT
}

/// Copies `from` to `at`, at most `room` bytes: a compiler's version text may be longer than its field.
const fn put(out: &mut [u8; HEADER_LEN], at: usize, from: &[u8], room: usize) {
    let mut i = 0;
    while i < from.len() && i < room {
        out[at + i] = from[i];
        i += 1;
    }
}

/// Decimal text to number in const context; the texts come from Cargo.
pub(crate) const fn parse_u16(s: &str) -> u16 {
    let b = s.as_bytes();
    let (mut i, mut v) = (0, 0u16);
    while i < b.len() {
        v = v * 10 + (b[i] - b'0') as u16;
        i += 1;
    }
    v
}

/// A decoded header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Treaty major version.
    pub abi_major: u16,
    /// Treaty minor version.
    pub abi_minor: u16,
    /// See [`FLAG_UNWIND`]; unknown bits are ignored.
    pub flags: u64,
    /// The registration key.
    pub name: String,
    /// The plugin's own version.
    pub version: String,
    /// The compiler that built it.
    pub rustc: String,
    /// The target triple it was built for.
    pub target: String,
}

impl Header {
    /// The plugin's name as far as it can be read, also from a header that [`parse`](Header::parse) refuses; only for
    /// messages.
    pub fn name_of(bytes: &[u8]) -> Option<String> {
        let known = bytes.len() >= VERSION_AT && bytes[..12] == MAGIC[..12];
        let name = text(bytes.get(NAME_AT..VERSION_AT)?, "name").ok()?;
        (known && valid_name(&name)).then_some(name)
    }
}

/// Why bytes are not a header that this host accepts. The variants are in the order of the checks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderError {
    /// Shorter than a header, or its size field says so.
    TooShort {
        /// Bytes there.
        found: usize,
    },
    /// The first 16 bytes differ from [`MAGIC`].
    Magic {
        /// What is there, printable bytes only.
        found: String,
    },
    /// Another major version of the treaty.
    Major {
        /// The plugin's major version.
        found: u16,
    },
    /// Built for another machine or operating system.
    Target {
        /// The plugin's triple.
        found: String,
    },
    /// Built with panic=abort.
    PanicAbort,
    /// The name is not one that [`valid_name`] accepts, or a text field is not UTF-8.
    Text {
        /// Which field.
        field: &'static str,
    },
}

impl Header {
    /// Decodes and judges: magic, size, treaty major, target, panic strategy, name.
    pub fn parse(bytes: &[u8]) -> Result<Header, HeaderError> {
        let too_short = HeaderError::TooShort { found: bytes.len() };
        if bytes.len() < MAGIC.len() {
            return Err(too_short);
        }
        if bytes[..16] != MAGIC {
            return Err(HeaderError::Magic { found: bytes[..16].escape_ascii().to_string() });
        }
        let fixed: &[u8; HEADER_LEN] =
            bytes.get(..HEADER_LEN).and_then(|b| b.try_into().ok()).ok_or(too_short)?;
        let u16_at = |at: usize| u16::from_le_bytes([fixed[at], fixed[at + 1]]);
        let size = u32::from_le_bytes([fixed[16], fixed[17], fixed[18], fixed[19]]) as usize;
        // The major version first: an older or newer treaty may have another size, and the version is the reason.
        let abi_major = u16_at(20);
        if abi_major != ABI_MAJOR {
            return Err(HeaderError::Major { found: abi_major });
        }
        if size < HEADER_LEN {
            return Err(HeaderError::TooShort { found: size });
        }
        let mut flags = [0; 8];
        flags.copy_from_slice(&fixed[24..32]);
        let header = Header {
            abi_major,
            abi_minor: u16_at(22),
            flags: u64::from_le_bytes(flags),
            name: text(&fixed[NAME_AT..VERSION_AT], "name")?,
            version: text(&fixed[VERSION_AT..RUSTC_AT], "version")?,
            rustc: text(&fixed[RUSTC_AT..TARGET_AT], "compiler")?,
            target: text(&fixed[TARGET_AT..], "target")?,
        };
        if header.target != TARGET {
            return Err(HeaderError::Target { found: header.target });
        }
        if header.flags & FLAG_UNWIND == 0 {
            return Err(HeaderError::PanicAbort);
        }
        if !valid_name(&header.name) {
            return Err(HeaderError::Text { field: "name" });
        }
        Ok(header)
    }
}

fn text(field: &[u8], name: &'static str) -> Result<String, HeaderError> {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    std::str::from_utf8(&field[..end]).map(str::to_owned).map_err(|_| HeaderError::Text { field: name })
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderError::TooShort { found } => {
                write!(f, "plugin header of {found} bytes, expected at least {HEADER_LEN}")
            }
            HeaderError::Magic { found } => {
                write!(f, "plugin header starts with \"{found}\", expected \"{}\"", MAGIC.escape_ascii())
            }
            HeaderError::Major { found } => {
                write!(f, "built for treaty {found}, this host speaks treaty {ABI_MAJOR}.{ABI_MINOR}")
            }
            HeaderError::Target { found } => write!(f, "built for {found}, this host runs on {TARGET}"),
            HeaderError::PanicAbort => f.write_str("built with panic=abort, expected panic=unwind"),
            HeaderError::Text { field } => write!(f, "the header's {field} field is not valid"),
        }
    }
}

impl std::error::Error for HeaderError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> [u8; HEADER_LEN] {
        encode("echo", "1.2.3", FLAG_UNWIND)
    }

    #[test]
    fn round_trip() {
        let h = Header::parse(&good()).unwrap();
        assert_eq!((h.name.as_str(), h.version.as_str(), h.target.as_str()), ("echo", "1.2.3", TARGET));
        assert_eq!((h.abi_major, h.abi_minor), (ABI_MAJOR, ABI_MINOR));
        assert!(RUSTC.starts_with(&h.rustc));
    }

    #[test]
    fn a_longer_header_of_a_later_minor_is_accepted() {
        let mut longer = good().to_vec();
        longer.extend([7; 40]);
        longer[16..20].copy_from_slice(&248u32.to_le_bytes());
        assert!(Header::parse(&longer).is_ok());
    }

    #[test]
    fn every_truncation_is_refused() {
        for cut in 0..HEADER_LEN {
            assert_eq!(Header::parse(&good()[..cut]), Err(HeaderError::TooShort { found: cut }));
        }
    }

    #[test]
    fn each_field_is_judged() {
        let with = |at: usize, bytes: &[u8]| {
            let mut h = good();
            h[at..at + bytes.len()].copy_from_slice(bytes);
            Header::parse(&h).unwrap_err()
        };
        assert_eq!(with(0, b"X"), HeaderError::Magic { found: "XILOT-PLUGIN\\x00\\x00\\x00\\x01".into() });
        assert_eq!(with(16, &[9, 0, 0, 0]), HeaderError::TooShort { found: 9 });
        assert_eq!(with(20, &[9, 0]), HeaderError::Major { found: 9 });
        assert_eq!(with(24, &[0]), HeaderError::PanicAbort);
        assert_eq!(with(NAME_AT, b"UPPER"), HeaderError::Text { field: "name" });
        assert_eq!(with(NAME_AT, &[0xff]), HeaderError::Text { field: "name" });
        assert_eq!(
            with(TARGET_AT, b"riscv"),
            HeaderError::Target { found: format!("riscv{}", &TARGET[5..]) }
        );
    }

    #[test]
    fn names() {
        assert!(valid_name("handshake") && valid_name("a-b_9") && valid_name(&"x".repeat(31)));
        assert!(!valid_name("") && !valid_name("A") && !valid_name("a/b") && !valid_name(&"x".repeat(32)));
    }
}
