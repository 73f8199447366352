//! The child as a process: how it is started, told from others, ended, and what its end was.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, PipeReader, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::message::GREETING;

/// Environment variables that a child keeps: how times and texts look, where certificates are, how panics are shown.
const KEPT: [&str; 8] = [
    "TZ",
    "LANG",
    "LC_ALL",
    "RUST_BACKTRACE",
    "RUST_LIB_BACKTRACE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "TMPDIR",
];
/// Wanted size of the socket's buffers, bytes; the system may give less.
const SOCKET_BUFFER: usize = 1 << 20;
/// Longest line of a child's standard output or error that is logged, bytes.
const MAX_LINE: u64 = 4096;
/// Lines a second that are logged; the others are counted.
const MAX_LINES: u32 = 100;

/// What is run as the child.
#[derive(Clone, Debug)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Its arguments, which must lead to [`child_main`](super::child_main).
    pub args: Vec<OsString>,
    /// Variables on top of the few that are kept.
    pub env: Vec<(OsString, OsString)>,
}

impl Program {
    /// The running program itself, with the subcommand `plugin-child`.
    ///
    /// # Errors
    /// When the system does not say which program is running.
    pub fn own() -> std::io::Result<Self> {
        // The link, not what it says: the file may have been replaced by an update since this process started.
        let own = PathBuf::from("/proc/self/exe");
        let path = if own.exists() { own } else { std::env::current_exe()? };
        Ok(Program { path, args: vec!["plugin-child".into()], env: Vec::new() })
    }
}

/// A running child. The thread that starts it must live as long as the child: the kernel ends the child with it.
pub(super) struct Process {
    child: Child,
    pid: Pid,
    pidfd: OwnedFd,
}

/// What comes with a new child.
pub(super) struct Ends {
    pub socket: OwnedFd,
    pub output: PipeReader,
}

impl Process {
    /// Starts a child and sends it the sealed `library`.
    pub fn start(program: &Program, name: &str, library: &File) -> std::io::Result<(Process, Ends)> {
        let (ours, theirs) = UnixStream::pair()?;
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&ours, SOCKET_BUFFER);
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&theirs, SOCKET_BUFFER);
        let (output, input) = std::io::pipe()?;
        let mut command = Command::new(&program.path);
        command
            .arg0("pilot-host")
            .args(&program.args)
            .env_clear()
            .envs(KEPT.iter().filter_map(|k| Some((k, std::env::var_os(k)?))))
            .envs(program.env.iter().map(|(k, v)| (k, v)))
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(input.try_clone()?))
            .stderr(Stdio::from(input));
        let mut child = command.spawn()?;
        // The command holds the child's ends.
        drop(command);
        let started = pid_of(&child).and_then(|pid| {
            let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
            greet(&ours, library)?;
            Ok((pid, pidfd))
        });
        match started {
            Ok((pid, pidfd)) => {
                tracing::debug!(plugin = name, pid = child.id(), "child started");
                Ok((Process { child, pid, pidfd }, Ends { socket: ours.into(), output }))
            }
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(e)
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Becomes readable when the process has ended.
    pub fn ended(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Ends it and everything that it started in its group, and gives its end. What has ended by itself keeps its own.
    pub fn finish(mut self) -> std::io::Result<ExitStatus> {
        // Not reaped yet, so the number is still its own.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        self.child.wait()
    }
}

fn pid_of(child: &Child) -> std::io::Result<Pid> {
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| std::io::Error::other("no process id"))
}

fn greet(socket: &UnixStream, library: &File) -> std::io::Result<()> {
    let files = [library.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(std::io::Error::other("no room for the file's descriptor"));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&[GREETING])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A process's end in words: `killed by SIGSEGV`, `exited with 0`.
pub(super) fn end_text(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("killed by {}", signal_name(signal)),
        (None, Some(code)) => format!("exited with {code}"),
        (None, None) => format!("ended: {status}"),
    }
}

/// Linux on x86-64 and most others (`signal(7)`).
fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 31] = [
        "SIGHUP",
        "SIGINT",
        "SIGQUIT",
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGKILL",
        "SIGUSR1",
        "SIGSEGV",
        "SIGUSR2",
        "SIGPIPE",
        "SIGALRM",
        "SIGTERM",
        "SIGSTKFLT",
        "SIGCHLD",
        "SIGCONT",
        "SIGSTOP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGVTALRM",
        "SIGPROF",
        "SIGWINCH",
        "SIGIO",
        "SIGPWR",
        "SIGSYS",
    ];
    let name = usize::try_from(signal).ok().and_then(|n| NAMES.get(n.wrapping_sub(1)));
    name.map_or_else(|| format!("signal {signal}"), |n| (*n).to_owned())
}

/// Hands each line that the child writes to its standard output or error to `line`, until nobody can write any more.
pub(super) fn follow(output: PipeReader, mut line: impl FnMut(&str)) {
    let mut reader = BufReader::new(output);
    let mut bytes = Vec::new();
    let (mut window, mut seen, mut skipped) = (Instant::now(), 0u32, 0u64);
    loop {
        bytes.clear();
        match reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if window.elapsed() >= Duration::from_secs(1) {
            if skipped > 0 {
                line(&format!("({skipped} lines more were written and not logged)"));
            }
            (window, seen, skipped) = (Instant::now(), 0, 0);
        }
        seen += 1;
        if seen > MAX_LINES {
            skipped += 1;
            continue;
        }
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end();
        if !text.is_empty() {
            line(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_in_words() {
        assert_eq!(end_text(ExitStatus::from_raw(11)), "killed by SIGSEGV");
        assert_eq!(end_text(ExitStatus::from_raw(6 | 0x80)), "killed by SIGABRT");
        assert_eq!(end_text(ExitStatus::from_raw(34)), "killed by signal 34");
        assert_eq!(end_text(ExitStatus::from_raw(0)), "exited with 0");
        assert_eq!(end_text(ExitStatus::from_raw(3 << 8)), "exited with 3");
    }

    #[test]
    fn lines_are_bounded_in_length_and_number() {
        use std::io::Write;
        let (output, mut input) = std::io::pipe().unwrap();
        let writer = std::thread::spawn(move || {
            input.write_all(&vec![b'x'; 10_000]).unwrap();
            input.write_all(b"\n\n").unwrap();
            for i in 0..1000 {
                writeln!(input, "line {i}").unwrap();
            }
        });
        let mut lines = Vec::new();
        follow(output, |l| lines.push(l.to_owned()));
        writer.join().unwrap();
        assert!(lines.iter().all(|l| l.len() <= 4096) && lines.len() < 1000, "{}", lines.len());
        assert!(lines.contains(&"line 0".to_owned()));
    }
}
