//! The first and the last things that a child does.

use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use plugin_abi::Error;
use plugin_abi::host::Module;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Resource, Rlimit, Signal};

use super::home::Home;
use crate::child::frame::MAX_FROM_HOST;
use crate::child::message::{Birth, GREETING};
use crate::child::session::{Limits, Session};
use crate::open::OpenVia;
use crate::scan::PluginFile;

/// Calls of the host that are served at once; the host makes fewer.
const SERVING: usize = 128;

/// The whole life of a child process. Standard input is the socket to the host, standard output and error lead to its
/// log. Returns only when this process was not started by a host, with what to say about that.
pub fn child_main() -> String {
    let socket = match take_socket() {
        Ok(socket) => socket,
        Err(e) => return format!("not started by a host: {e}"),
    };
    // Together with the end of the socket: neither a stopped nor a looping child outlives its host.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let _ = rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let file = match receive_file(&socket) {
        Ok(file) => file,
        Err(e) => return format!("no file from the host: {e}"),
    };
    close_inherited(&[&socket, &file.0]);
    let limits = Limits {
        frame: MAX_FROM_HOST,
        serving: SERVING,
        serving_bytes: usize::MAX,
        calls: usize::MAX,
        // The host may be busy or stopped for a while; that is no reason to die.
        stall: Duration::from_secs(3600),
        grace: Duration::ZERO,
    };
    let session = Session::start("host", socket, limits, |link| Arc::new(Home::new(link, file)));
    let session = match session {
        Ok(session) => session,
        Err(e) => return e.to_string(),
    };
    session.server().logs.run(session.link());
    // The session has ended; `die` is on its way on another thread.
    loop {
        std::thread::park();
    }
}

/// The sealed file as it came over the socket.
pub(super) struct File(OwnedFd);

fn take_socket() -> rustix::io::Result<OwnedFd> {
    let stdin = std::io::stdin();
    rustix::net::sockopt::socket_domain(&stdin)?;
    let socket = rustix::io::fcntl_dupfd_cloexec(&stdin, 3)?;
    // A plugin that reads standard input must not read this.
    let null = fs::File::open("/dev/null").map_err(|_| rustix::io::Errno::NOENT)?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(socket)
}

fn receive_file(socket: &OwnedFd) -> Result<File, String> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut greeting = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut greeting)], &mut control, flags)
        .map_err(|e| e.to_string())?;
    if received.bytes != 1 || greeting[0] != GREETING {
        return Err("no greeting".into());
    }
    let mut files = control.drain().filter_map(|m| match m {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    files.next().map(File).ok_or_else(|| "the greeting brought none".into())
}

/// Closes what a careless part of the host may have left open for children.
#[allow(unsafe_code)]
fn close_inherited(keep: &[&OwnedFd]) {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let numbers: Vec<i32> = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    for fd in numbers {
        let ours = fd <= 2 || keep.iter().any(|k| k.as_fd().as_raw_fd() == fd);
        // The directory's own descriptor was listed too, and is closed by now.
        if !ours && fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok() {
            // SAFETY: this runs before anything else in this process opens descriptors, so an open number above 2 that is
            // not one of the two that we received was inherited, and nobody here owns it.
            unsafe { rustix::io::close(fd) };
        }
    }
}

/// Opens the library: the same way, and with the same checks, as in the host.
pub(super) fn open(file: File, birth: &Birth) -> Result<Module, Error> {
    if let Some(bytes) = birth.address_space {
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        rustix::process::setrlimit(Resource::As, limit)
            .map_err(|e| Error::other(format!("cannot limit the address space to {bytes} bytes: {e}")))?;
    }
    let handle = fs::File::from(file.0);
    let size = handle.metadata()?.len();
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    // The host's end has the same position, so none is used.
    handle.read_exact_at(&mut bytes, 0)?;
    let file = PluginFile { path: birth.path.clone(), bytes, signature: None };
    let inspection = crate::inspect::inspect(&file).map_err(|e| Error::other(e.to_string()))?;
    let via = birth.private_copy.clone().map_or(OpenVia::Memory, OpenVia::PrivateCopy);
    let opened = crate::open::open(&file, &inspection, &via).map_err(|e| Error::other(e.to_string()))?;
    Ok(opened.module)
}

/// Ends the process at once: no destructor of a plugin gets in the way.
pub(super) fn die(why: &str) -> ! {
    tracing::debug!(why, "the host is gone");
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    loop {
        std::thread::park();
    }
}
