//! Lists a plugins directory and reads its files, once each and through one descriptor, so that what is judged is what
//! is opened later. Refuses what somebody else could have put there.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::refusal::{Code, Refusal};
use crate::trust::MAX_SIGNATURE_FILE;

/// More files than this in one directory are refused: every one of them is read into memory and stays mapped.
pub const MAX_FILES: usize = 64;
/// The largest file that is read.
pub const MAX_FILE_SIZE: u64 = 256 << 20;

/// One file as it was read.
pub struct PluginFile {
    /// Where it was.
    pub path: PathBuf,
    /// All of it.
    pub bytes: Vec<u8>,
    /// All of `<file>.sig`, where there is one.
    pub signature: Option<Vec<u8>>,
}

/// All `*.so` files of `dir`, sorted bytewise by file name; hidden files and other names are passed over. A directory
/// without any is an empty list.
///
/// # Errors
/// The directory's own faults alone, else the refusals of every file that has one.
pub fn scan(dir: &Path) -> Result<Vec<PluginFile>, Vec<Refusal>> {
    let mut files = Vec::new();
    let mut refusals = Vec::new();
    for file in scan_each(dir).map_err(|r| vec![r])? {
        match file {
            Ok(file) => files.push(file),
            Err(refusal) => refusals.push(refusal),
        }
    }
    if refusals.is_empty() { Ok(files) } else { Err(refusals) }
}

/// As [`scan`], file by file: for those who look for one of them. Files are read as the iterator goes on.
///
/// # Errors
/// The directory's own faults.
pub fn scan_each(dir: &Path) -> Result<impl Iterator<Item = Result<PluginFile, Refusal>>, Refusal> {
    let (handle, names) = list(dir)?;
    let dir = dir.to_owned();
    Ok(names.into_iter().map(move |name| read_plugin(&handle, &name, dir.join(&name))))
}

/// Reads one file of `dir` by its name, with all checks of [`scan`] for that file and the directory.
pub fn read_one(dir: &Path, name: &OsStr) -> Result<PluginFile, Refusal> {
    let handle = open_dir(dir)?;
    read_plugin(&handle, name, dir.join(name))
}

/// Reads one file by path, with the same checks but those of its directory.
pub fn read_file(path: &Path) -> Result<PluginFile, Refusal> {
    read_plugin(rustix::fs::CWD, path.as_os_str(), path.to_owned())
}

/// Opens the directory and judges who could change it.
fn open_dir(dir: &Path) -> Result<OwnedFd, Refusal> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = rustix::fs::open(dir, flags, Mode::empty()).map_err(|e| match e {
        Errno::NOENT => Refusal::new(
            Code::DirMissing,
            dir,
            "the plugins directory does not exist",
            "create it and put plugin files into it, or name another directory in the configuration",
        ),
        Errno::NOTDIR => Refusal::new(
            Code::DirMissing,
            dir,
            "the plugins directory is not a directory",
            "name a directory in the configuration",
        ),
        e => unreadable(Code::DirUnreadable, dir, e),
    })?;
    let stat = rustix::fs::fstat(&handle).map_err(|e| unreadable(Code::DirUnreadable, dir, e))?;
    judge_owner(&stat, Code::DirUnsafe, dir)?;
    Ok(handle)
}

fn list(dir: &Path) -> Result<(OwnedFd, Vec<OsString>), Refusal> {
    let handle = open_dir(dir)?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&handle).map_err(|e| unreadable(Code::DirUnreadable, dir, e))? {
        let entry = entry.map_err(|e| unreadable(Code::DirUnreadable, dir, e))?;
        let name = entry.file_name().to_bytes();
        if name.starts_with(b".") || !name.ends_with(b".so") {
            continue;
        }
        names.push(OsStr::from_bytes(name).to_owned());
        if names.len() > MAX_FILES {
            return Err(Refusal::new(
                Code::TooMany,
                dir,
                format!("more than {MAX_FILES} plugin files"),
                "remove the files that are not needed",
            ));
        }
    }
    names.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok((handle, names))
}

fn read_plugin(dir: impl AsFd, name: &OsStr, path: PathBuf) -> Result<PluginFile, Refusal> {
    let open = |name: &OsStr| {
        // NONBLOCK: opening a FIFO would wait for its writer. NOFOLLOW: a link may lead out of the directory.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        rustix::fs::openat(dir.as_fd(), name, flags, Mode::empty())
    };
    let bytes = read(open(name), &path, MAX_FILE_SIZE)?;
    let with_sig = |name: &OsStr| {
        let mut name = name.to_owned();
        name.push(".sig");
        name
    };
    let signature = match open(&with_sig(name)) {
        Err(Errno::NOENT) => None,
        opened => Some(read(opened, Path::new(&with_sig(path.as_os_str())), MAX_SIGNATURE_FILE)?),
    };
    Ok(PluginFile { path, bytes, signature })
}

/// Checks and reads what was opened.
fn read(opened: rustix::io::Result<OwnedFd>, path: &Path, max: u64) -> Result<Vec<u8>, Refusal> {
    let handle = opened.map_err(|e| match e {
        Errno::LOOP => Refusal::new(
            Code::NotAFile,
            path,
            "is a symbolic link, expected a regular file",
            "copy the file itself into the directory",
        ),
        e => unreadable(Code::FileUnreadable, path, e),
    })?;
    let stat = rustix::fs::fstat(&handle).map_err(|e| unreadable(Code::FileUnreadable, path, e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Refusal::new(
            Code::NotAFile,
            path,
            "is not a regular file",
            "remove it from the plugins directory",
        ));
    }
    judge_owner(&stat, Code::FileUnsafe, path)?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size == 0 || size > max {
        return Err(bad_size(path, size, max));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    // One byte more than allowed tells a file that grew meanwhile from one that fits.
    File::from(handle)
        .take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| unreadable(Code::FileUnreadable, path, e))?;
    if bytes.is_empty() || bytes.len() as u64 > max {
        return Err(bad_size(path, bytes.len() as u64, max));
    }
    Ok(bytes)
}

/// Only the daemon's user and root may be able to change it. A group counts as the user when it is the process's own:
/// many systems give each user such a group, and a umask that lets it write.
fn judge_owner(stat: &Stat, code: Code, path: &Path) -> Result<(), Refusal> {
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid != me && stat.st_uid != 0 {
        return Err(Refusal::new(
            code,
            path,
            format!("belongs to user {}, expected {me} (the daemon's) or 0", stat.st_uid),
            format!("run: chown {me} {}", path.display()),
        ));
    }
    let mode = stat.st_mode & 0o7777;
    let foreign_group = mode & 0o020 != 0 && stat.st_gid != rustix::process::getegid().as_raw();
    if mode & 0o002 != 0 || foreign_group {
        let who = if mode & 0o002 != 0 { "everybody".to_owned() } else { format!("group {}", stat.st_gid) };
        return Err(Refusal::new(
            code,
            path,
            format!("mode {mode:o} lets {who} change it"),
            format!("run: chmod go-w {}", path.display()),
        ));
    }
    Ok(())
}

fn unreadable(code: Code, path: &Path, error: impl std::fmt::Display) -> Refusal {
    Refusal::new(code, path, format!("cannot be read: {error}"), "make it readable for the daemon's user")
}

fn bad_size(path: &Path, size: u64, max: u64) -> Refusal {
    Refusal::new(
        Code::Size,
        path,
        format!("has {size} bytes, expected 1 to {max}"),
        "copy the file again; write to a temporary name and rename, so that it is never seen half-written",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn dir_with(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(dir.path().join(name), b"x").unwrap();
        }
        dir
    }

    fn code(dir: &Path) -> Code {
        scan(dir).err().unwrap()[0].code
    }

    #[test]
    fn sorted_and_only_libraries() {
        let dir = dir_with(&["b.so", "a.so", "B.so", "readme.txt", ".hidden.so", "c.so.tmp"]);
        let names: Vec<_> = scan(dir.path()).ok().unwrap().into_iter().map(|f| f.path).collect();
        assert_eq!(names, ["B.so", "a.so", "b.so"].map(|n| dir.path().join(n)));
        assert!(scan(dir_with(&[]).path()).ok().unwrap().is_empty());
    }

    #[test]
    fn directories_that_are_refused() {
        let dir = dir_with(&["a.so"]);
        assert_eq!(code(&dir.path().join("none")), Code::DirMissing);
        assert_eq!(code(&dir.path().join("a.so")), Code::DirMissing);
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let refusals = scan(dir.path()).err().unwrap();
        assert_eq!(refusals[0].code, Code::DirUnsafe);
        assert!(
            refusals[0]
                .to_string()
                .contains("mode 777 lets everybody change it [dir-unsafe]; run: chmod go-w")
        );
        let many: Vec<String> = (0..=MAX_FILES).map(|i| format!("{i}.so")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(code(dir_with(&many).path()), Code::TooMany);
    }

    #[test]
    fn files_that_are_refused_are_all_named() {
        let dir = dir_with(&["fine.so", "writable.so", "empty.so"]);
        let at = |name: &str| dir.path().join(name);
        std::fs::set_permissions(at("writable.so"), PermissionsExt::from_mode(0o666)).unwrap();
        std::fs::write(at("empty.so"), b"").unwrap();
        symlink(at("fine.so"), at("link.so")).unwrap();
        symlink(at("nowhere"), at("fine.so.sig")).unwrap();
        std::fs::create_dir(at("folder.so")).unwrap();
        let refusals = scan(dir.path()).err().unwrap();
        let codes: Vec<_> = refusals.iter().map(|r| (r.path.clone(), r.code)).collect();
        assert_eq!(
            codes,
            [
                (at("empty.so"), Code::Size),
                (at("fine.so.sig"), Code::NotAFile),
                (at("folder.so"), Code::NotAFile),
                (at("link.so"), Code::NotAFile),
                (at("writable.so"), Code::FileUnsafe),
            ]
        );
    }
}
