//! Opens a library from bytes that were judged: what runs is what was looked at, whatever happens to the path meanwhile.
//! The only module of this crate with unsafe code.

#![allow(unsafe_code)]

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

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

/// Opens, checks the root module, and never unloads.
///
/// The library's initialisers run in here; everything that can be decided without them has been decided before.
pub(crate) fn open(file: &PluginFile, inspection: &Inspection, via: &OpenVia) -> Result<Module, Refusal> {
    let name = &inspection.header.name;
    let library = match via {
        OpenVia::Memory => from_memory(file, name).or_else(|why| {
            tracing::debug!(plugin = name, why, "cannot open from memory; using a private copy");
            let dir = private_dir().map_err(|e| format!("{why}; no directory for a copy: {e}"))?;
            let library = from_copy(file, inspection, &dir);
            let _ = std::fs::remove_dir(&dir);
            library
        }),
        OpenVia::PrivateCopy(dir) => from_copy(file, inspection, dir),
    };
    let library = library.map_err(|why| {
        let remedy = "build it again on this machine; a missing symbol or library is named in the reason";
        Refusal::new(Code::OpenFailed, &file.path, format!("cannot be opened: {why}"), remedy).of(name)
    })?;
    // SAFETY: `get` only looks the symbol up; reading it as a raw pointer makes no claim about what lies there.
    let root = unsafe { library.get::<*const ()>(ROOT_SYMBOL.to_bytes_with_nul()) }.map(|s| s.as_raw_ptr());
    // From here on the code stays mapped: objects, threads and texts of the plugin may live until the process ends.
    std::mem::forget(library);
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
    Ok(module)
}

fn from_memory(file: &PluginFile, name: &str) -> Result<Library, String> {
    let handle = sealed(&file.bytes, name).map_err(|e| format!("no sealed memory file: {e}"))?;
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    if !Path::new(&path).exists() {
        return Err("no /proc/self/fd".into());
    }
    let library = dlopen(OsStr::new(&path))?;
    // Kept open for ever: the system's loader knows libraries by path and inode, and another file under the same number
    // would give this library again.
    let _ = handle.into_raw_fd();
    Ok(library)
}

/// A memory file that nobody can change any more, this process included.
fn sealed(bytes: &[u8], name: &str) -> std::io::Result<OwnedFd> {
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
    // The hash in the name: the same path would give the library that was opened there before.
    let path = dir.join(format!("{}-{}.so", inspection.header.name, &inspection.sha256[..16]));
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
        let source = std::error::Error::source(&e).map(ToString::to_string);
        source.unwrap_or_else(|| e.to_string())
    })
}
