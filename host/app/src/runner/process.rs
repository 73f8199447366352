//! Child processes that are never left behind: each in a process group of its own, told its parent's pid so that it dies
//! with the runner, reaped always, its output kept in files of bounded size (netrunner.md section 3, "Process rules").
//!
//! A group is signalled only while its leader has not been reaped, under the same lock that the reaping takes, so a number
//! that was given to another process in the meantime is never hit.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

/// The variable that tells a host whose child it is; see [`die_with`].
pub const PARENT_VARIABLE: &str = "PILOT_PARENT_PID";
/// Largest log file; the one before it is kept beside it.
const MAX_LOG: u64 = 8 << 20;
/// How much of the end of standard error is kept for error texts.
const TAIL: usize = 2048;
/// What children see of the runner's environment, plus what a command sets itself.
const ENVIRONMENT: [&str; 6] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR", "RUST_BACKTRACE"];
/// How long the last words of a process may take.
const DRAIN: Duration = Duration::from_millis(500);
/// Enough for a thread that waits for one child.
const WAITER_STACK: usize = 128 << 10;
/// How often a stop by signal is looked for: the kernel tells nobody without consuming what the reaping needs.
const STOP_POLL: Duration = Duration::from_millis(5);

/// Called by a host at its start: asks the kernel to kill it when `parent` dies.
///
/// # Errors
/// When `parent` is gone already, or is not the parent.
pub fn die_with(parent: i32) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // Asked for first and compared then: a parent that dies in between is noticed by one of the two.
    let now = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    anyhow::ensure!(now == parent, "the process {parent} that started this one is gone");
    Ok(())
}

/// The thread that starts all children. The kernel kills a child when the *thread* that started it ends, so that must be
/// one that lives as long as the runner.
#[derive(Clone, Debug)]
pub(super) struct Nursery(mpsc::Sender<Job>);

type Job = (Command, oneshot::Sender<std::io::Result<Child>>);

impl Nursery {
    pub(super) fn new() -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new().name("nursery".into()).spawn(move || {
            for (mut command, answer) in queue {
                let child = command.spawn();
                if let Err(Ok(mut child)) = answer.send(child) {
                    // Nobody waits for it any more.
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
        })?;
        Ok(Nursery(jobs))
    }

    /// Starts `exec` with `args` and `env` (added to a short list of the runner's own variables), output into `logs`.
    /// `changed` is called when it has ended.
    pub(super) async fn spawn(
        &self,
        exec: &Path,
        args: &[&std::ffi::OsStr],
        env: &[(&str, &str)],
        logs: &Path,
        changed: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Process> {
        let mut command = Command::new(exec);
        command.args(args).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for name in ENVIRONMENT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env(PARENT_VARIABLE, std::process::id().to_string()).envs(env.iter().copied());
        command.process_group(0);
        let gone = || std::io::Error::other("the runner is shutting down");
        let (answer, started) = oneshot::channel();
        self.0.send((command, answer)).map_err(|_| gone())?;
        let mut child = started.await.map_err(|_| gone())??;
        let outputs = (child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from));
        // From here on the handle owns it: what fails below kills it.
        let (process, open) = Process::new(child, changed)?;
        let sinks = [
            (outputs.0, "stdout.log", None),
            (outputs.1, "stderr.log", Some((process.0.tail.clone(), open))),
        ];
        for (output, name, tail) in sinks {
            let Some(output) = output else { continue };
            let log = Log::open(logs.join(name))?;
            tokio::spawn(keep(Receiver::from_owned_fd(output)?, log, tail));
        }
        Ok(process)
    }
}

/// One child. Clones are the same child; when the last is dropped, it is killed.
#[derive(Clone)]
pub(super) struct Process(Arc<Shared>);

struct Shared {
    pid: Pid,
    /// `None` once reaped.
    child: Arc<Mutex<Option<Child>>>,
    ended: watch::Receiver<Option<ExitStatus>>,
    tail: Tail,
    /// Its sender goes when standard error has been read to its end.
    drained: watch::Receiver<()>,
}

/// The last bytes of a stream.
type Tail = Arc<Mutex<VecDeque<u8>>>;

impl Drop for Shared {
    fn drop(&mut self) {
        if lock(&self.child).is_some() {
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    fn new(
        child: Child,
        changed: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<(Self, watch::Sender<()>)> {
        let pid = Pid::from_child(&child);
        let (end, ended) = watch::channel(None);
        let child = Arc::new(Mutex::new(Some(child)));
        let (tail, (open, drained)) = (Tail::default(), watch::channel(()));
        let process = Process(Arc::new(Shared { pid, child: child.clone(), ended, tail, drained }));
        // A thread of its own: the wait must leave the status in place until it is taken below, under the lock.
        let waiter =
            std::thread::Builder::new().name(format!("wait-{}", process.pid())).stack_size(WAITER_STACK);
        waiter.spawn(move || {
            let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while matches!(rustix::process::waitid(WaitId::Pid(pid), ended), Err(rustix::io::Errno::INTR)) {}
            let status = {
                let mut child = lock(&child);
                // Its own children, if it left any, while the group's number is still ours.
                let _ = rustix::process::kill_process_group(pid, Signal::KILL);
                let status = child.as_mut().and_then(|c| c.wait().ok());
                *child = None;
                status
            };
            end.send_replace(Some(status.unwrap_or_else(|| ExitStatus::from_raw(0))));
            changed();
        })?;
        Ok((process, open))
    }

    /// Its process id.
    pub(super) fn pid(&self) -> i32 {
        self.0.pid.as_raw_nonzero().get()
    }

    /// How it ended; `None` while it lives.
    pub(super) fn status(&self) -> Option<ExitStatus> {
        *self.0.ended.borrow()
    }

    /// Whether it has ended, even if nobody has been told yet: what was killed while it was stopped waits as a zombie.
    pub(super) fn is_gone(&self) -> bool {
        let child = lock(&self.0.child);
        child.is_none() || state_of(self.pid()).is_none_or(|state| matches!(state, 'Z' | 'X'))
    }

    /// Waits for its end.
    pub(super) async fn ended(&self) -> ExitStatus {
        let mut ended = self.0.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(status) => status.unwrap_or_else(|| ExitStatus::from_raw(0)),
            Err(_) => ExitStatus::from_raw(0),
        }
    }

    /// Waits until its standard error has been read; for a moment only, since others may hold it open.
    pub(super) async fn drained(&self) {
        let mut drained = self.0.drained.clone();
        let _ = timeout(DRAIN, drained.changed()).await;
    }

    /// The last of its standard error.
    pub(super) fn tail(&self) -> String {
        let bytes: Vec<u8> = lock(&self.0.tail).iter().copied().collect();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }

    /// Signals the whole group; `false` when it has ended.
    pub(super) fn signal_group(&self, signal: Signal) -> bool {
        let child = lock(&self.0.child);
        child.is_some() && rustix::process::kill_process_group(self.0.pid, signal).is_ok()
    }

    fn signal(&self, signal: Signal) -> bool {
        let child = lock(&self.0.child);
        child.is_some() && rustix::process::kill_process(self.0.pid, signal).is_ok()
    }

    /// Stops the group in its tracks, and makes sure: within `limit`, or it goes on as before and the answer is `false`.
    pub(super) async fn freeze(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        self.signal_group(Signal::STOP);
        while self.status().is_none() {
            if state_of(self.pid()) == Some('T') {
                return true;
            }
            if Instant::now() >= deadline {
                self.thaw();
                return false;
            }
            sleep(STOP_POLL).await;
        }
        false
    }

    /// Lets it go on.
    pub(super) fn thaw(&self) {
        self.signal_group(Signal::CONT);
    }

    /// Asks it to end and, after `limit`, ends the whole group. A stopped one is continued first, or it would not hear.
    pub(super) async fn end(&self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.thaw();
        match timeout(limit, self.ended()).await {
            Ok(status) => status,
            Err(_) => {
                self.signal_group(Signal::KILL);
                self.ended().await
            }
        }
    }
}

/// The one-letter state of a process, as the kernel prints it.
fn state_of(pid: i32) -> Option<char> {
    stat(pid)?.first()?.chars().next()
}

/// When a process was started, in the kernel's ticks since boot: tells it from a later one with its number.
pub(super) fn start_time(pid: i32) -> Option<u64> {
    stat(pid)?.get(19)?.parse().ok()
}

/// The fields of `/proc/PID/stat` behind the name.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// A log file that starts anew when it is full; the full one is kept as `NAME.1`.
struct Log {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Log {
    fn open(path: PathBuf) -> std::io::Result<Log> {
        let file = File::options().create(true).append(true).open(&path)?;
        let size = file.metadata()?.len();
        Ok(Log { path, file, size })
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.size + bytes.len() as u64 > MAX_LOG {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".1");
            std::fs::rename(&self.path, aside)?;
            *self = Log::open(std::mem::take(&mut self.path))?;
        }
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }
}

/// Moves a child's output into its log until it ends. A disk that is full costs log lines, never the child's progress.
async fn keep(mut output: Receiver, mut log: Log, tail: Option<(Tail, watch::Sender<()>)>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = output.read(&mut buffer).await {
        let bytes = &buffer[..count];
        let _ = log.write(bytes);
        if let Some((tail, _)) = &tail {
            let mut tail = lock(tail);
            tail.extend(bytes);
            let surplus = tail.len().saturating_sub(TAIL);
            tail.drain(..surplus);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    async fn shell(script: &str, logs: &Path) -> Process {
        let nursery = Nursery::new().unwrap();
        let args = [OsStr::new("-c"), OsStr::new(script)];
        nursery.spawn(Path::new("/bin/sh"), &args, &[("A", "b")], logs, || {}).await.unwrap()
    }

    #[tokio::test]
    async fn output_status_and_environment() {
        let dir = tempfile::tempdir().unwrap();
        // Keeps the nursery, whose end would be the child's.
        let nursery = Nursery::new().unwrap();
        let args = [OsStr::new("-c"), OsStr::new("echo out; echo \"err $A $LOGNAME\" >&2; exit 3")];
        let (tell, told) = oneshot::channel();
        let changed = || tell.send(()).unwrap();
        let child =
            nursery.spawn(Path::new("/bin/sh"), &args, &[("A", "b")], dir.path(), changed).await.unwrap();
        assert_eq!(child.ended().await.code(), Some(3));
        told.await.unwrap();
        assert!(!child.signal_group(Signal::TERM), "an ended group is not signalled");
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        timeout(Duration::from_secs(10), async {
            while child.tail() != "err b" || read("stdout.log") != "out\n" {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn frozen_and_ended_with_everything_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let child = shell("sleep 1000 & echo $! >&2; wait", dir.path()).await;
        let grandchild = timeout(Duration::from_secs(10), async {
            loop {
                if let Ok(pid) = child.tail().parse::<i32>() {
                    break pid;
                }
                tokio::task::yield_now().await;
            }
        });
        let grandchild = grandchild.await.unwrap();
        assert!(child.freeze(Duration::from_secs(10)).await);
        assert_eq!(state_of(child.pid()), Some('T'));
        assert!(start_time(child.pid()).is_some());
        let status = child.end(Duration::from_secs(10)).await;
        assert_eq!(status.signal(), Some(15));
        timeout(Duration::from_secs(10), async {
            while state_of(grandchild).is_some_and(|s| s != 'Z') {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }

    #[test]
    fn a_log_never_grows_past_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path().join("x.log")).unwrap();
        for _ in 0..5 {
            log.write(&vec![b'x'; (MAX_LOG / 2) as usize]).unwrap();
        }
        assert_eq!(std::fs::metadata(dir.path().join("x.log")).unwrap().len(), MAX_LOG / 2);
        assert_eq!(std::fs::metadata(dir.path().join("x.log.1")).unwrap().len(), MAX_LOG);
    }
}
