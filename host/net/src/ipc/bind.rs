//! Putting a Unix socket on the file system: mode 0600 from its first instant, taking over only what nobody serves
//! (ipc.md section 1).
//!
//! The socket is bound inside a fresh 0700 directory beside the target and renamed onto it without ever replacing a file:
//! two daemons that start together cannot both believe they own the path. Long paths are bound and connected through
//! `/proc/self/fd`, so that the staging directory costs none of the roughly 107 bytes a socket address holds.

use std::fs::Permissions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use socket2::{Domain, SockAddr, Socket, Type};

/// Above this many bytes a path goes through `/proc/self/fd`; the system limit is 107 or 103.
const DIRECT_PATH: usize = 100;
/// How often another process may change the path under our hands before we give up.
const ATTEMPTS: usize = 5;

/// Why the daemon's socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody accepts connections there.
    #[error(
        "a daemon is already serving {}{}: stop it first (pilotctl daemon stop) or choose another socket",
        path.display(), pid.map(|p| format!(" (process {p})")).unwrap_or_default()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
        /// The process behind it, when the system tells.
        pid: Option<i32>,
    },
    /// The path exists and is no socket; it is not ours to remove.
    #[error("{} exists and is not a socket: remove it or choose another socket path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// A socket is there that we may not even connect to, so whether it is alive cannot be told.
    #[error("{} belongs to somebody else ({cause}): choose another socket path", path.display())]
    Foreign {
        /// The path.
        path: PathBuf,
        /// What connecting said.
        cause: io::Error,
    },
    /// The file system refused.
    #[error("cannot {action} for socket {}: {cause}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why it failed.
        cause: io::Error,
    },
}

/// A bound socket; dropping it removes the file if it is still the one we put there.
#[derive(Debug)]
pub(super) struct BoundSocket {
    path: PathBuf,
    /// Device and inode of our socket file.
    identity: (u64, u64),
}

impl BoundSocket {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket file");
        }
    }
}

/// Binds `path`; the listener is ready and the file has mode 0600, or 0660 and the given group.
pub(super) fn bind(path: &Path, group: Option<u32>) -> Result<(UnixListener, BoundSocket), BindError> {
    let fail = |action| move |cause| BindError::Io { action, path: path.to_owned(), cause };
    let dir = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    if path.file_name().is_none() {
        let cause = io::Error::new(io::ErrorKind::InvalidInput, "the path names no file");
        return Err(fail("bind")(cause));
    }
    // Fail before anything is created when somebody is there.
    dead_or_absent(path)?;

    let staging = tempfile::Builder::new()
        .prefix(".pilot-sock-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(dir)
        .map_err(fail("create a staging directory"))?;
    let staged = staging.path().join("s");
    let (short, _hold) = short_path(&staged).map_err(fail("open the staging directory"))?;
    let listener = UnixListener::bind(&short).map_err(fail("bind"))?;
    // The group before the mode: at no instant may a group that was not chosen have access.
    std::fs::set_permissions(&staged, Permissions::from_mode(0o600)).map_err(fail("set the mode"))?;
    if let Some(group) = group {
        std::os::unix::fs::chown(&staged, None, Some(group)).map_err(fail("set the group"))?;
        std::fs::set_permissions(&staged, Permissions::from_mode(0o660)).map_err(fail("set the mode"))?;
    }
    let meta = std::fs::symlink_metadata(&staged).map_err(fail("read the mode"))?;

    for _ in 0..ATTEMPTS {
        match rustix::fs::renameat_with(CWD, &staged, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => {
                let bound = BoundSocket { path: path.to_owned(), identity: (meta.dev(), meta.ino()) };
                return Ok((listener, bound));
            }
            Err(rustix::io::Errno::EXIST) => clear_dead(path, &staging.path().join("old"))?,
            Err(errno) => return Err(fail("rename")(errno.into())),
        }
    }
    Err(fail("claim")(io::Error::other("another process keeps changing it")))
}

/// Removes the dead socket at `path`, without ever removing a live one: the file is taken aside first, and put back if
/// somebody serves it after all.
fn clear_dead(path: &Path, aside: &Path) -> Result<(), BindError> {
    dead_or_absent(path)?;
    let fail = |action| move |cause| BindError::Io { action, path: path.to_owned(), cause };
    match rustix::fs::renameat(CWD, path, CWD, aside) {
        Ok(()) => {}
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(fail("move the old socket aside")(errno.into())),
    }
    let verdict = dead_or_absent(aside);
    if verdict.is_err() {
        // Somebody bound it between our look and our rename. Whoever put yet another file there keeps it.
        let back = rustix::fs::renameat_with(CWD, aside, CWD, path, RenameFlags::NOREPLACE);
        if let Err(errno) = back {
            tracing::warn!(path = %path.display(), error = %io::Error::from(errno), "cannot put a socket back");
        }
        return verdict.map_err(|e| e.at(path));
    }
    std::fs::remove_file(aside).map_err(fail("remove the old socket"))
}

impl BindError {
    /// The same complaint about another path.
    fn at(self, path: &Path) -> BindError {
        let path = path.to_owned();
        match self {
            BindError::InUse { pid, .. } => BindError::InUse { path, pid },
            BindError::NotASocket { .. } => BindError::NotASocket { path },
            BindError::Foreign { cause, .. } => BindError::Foreign { path, cause },
            BindError::Io { action, cause, .. } => BindError::Io { action, path, cause },
        }
    }
}

/// `Ok` when nothing is at `path` or a socket that refuses connections.
fn dead_or_absent(path: &Path) -> Result<(), BindError> {
    let path_buf = || path.to_owned();
    match connect_now(path) {
        Ok(stream) => Err(BindError::InUse { path: path_buf(), pid: peer_pid(&stream) }),
        Err(e) => match e.kind() {
            io::ErrorKind::NotFound => Ok(()),
            io::ErrorKind::ConnectionRefused => {
                // A regular file refuses too.
                use std::os::unix::fs::FileTypeExt;
                match std::fs::symlink_metadata(path) {
                    Ok(m) if m.file_type().is_socket() => Ok(()),
                    Ok(_) => Err(BindError::NotASocket { path: path_buf() }),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                    Err(cause) => Err(BindError::Foreign { path: path_buf(), cause }),
                }
            }
            // A full accept queue is a sign of life.
            io::ErrorKind::WouldBlock => Err(BindError::InUse { path: path_buf(), pid: None }),
            _ => Err(BindError::Foreign { path: path_buf(), cause: e }),
        },
    }
}

/// Connects without waiting for room in the accept queue.
fn connect_now(path: &Path) -> io::Result<UnixStream> {
    let (short, _hold) = short_path(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(short)?)?;
    Ok(socket.into())
}

fn peer_pid(stream: &UnixStream) -> Option<i32> {
    let pid = rustix::net::sockopt::socket_peercred(stream).ok()?.pid.as_raw_nonzero().get();
    (pid > 0).then_some(pid)
}

/// A name for `path` that fits a socket address, and the directory handle that must stay open while it is used.
pub(super) fn short_path(path: &Path) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok((path.to_owned(), None));
    };
    if path.as_os_str().len() <= DIRECT_PATH {
        return Ok((path.to_owned(), None));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, dir, flags, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    // Without /proc the long name is all there is; the system then says that it is too long.
    match rustix::fs::statat(CWD, "/proc/self/fd", AtFlags::empty()) {
        Ok(_) => Ok((short, Some(dir))),
        Err(_) => Ok((path.to_owned(), None)),
    }
}
