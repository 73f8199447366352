//! The probe: a file that this host has not opened before is opened, checked and constructed in a child process first. A
//! crash or a hang there is a refusal with code `probe-failed`; the daemon itself never opens such a file.
//!
//! Opening a library runs its initialisers, and its constructor is the plugin's own code: neither can be contained in
//! the process that runs them. `init` is not tried, because it would act on the network a second time.
//!
//! What came of it is remembered by SHA-256 and host version in one file of the state directory, so that a file is
//! probed once and not at every start. The child is this same program under a hidden subcommand, which calls
//! [`serve`]; the bytes reach it through a pipe, so that it judges exactly what the daemon would open.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use plugin_abi::host::Supervisor;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use crate::inspect::{Inspection, inspect};
use crate::open::{OpenVia, open};
use crate::refusal::{Code, Refusal};
use crate::scan::{MAX_FILE_SIZE, PluginFile};

/// How many files are remembered; the oldest make room.
pub const REMEMBERED: usize = 256;
/// How long a child may take unless told otherwise: opening and constructing take milliseconds, a busy machine more.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// A larger memory file is not ours, and is replaced.
const MAX_MEMORY_FILE: u64 = 1 << 20;
/// What a child may say.
const MAX_ANSWER: u64 = 64 << 10;
/// A child's answer starts with this, whatever the plugin itself prints.
const ANSWER: &str = "pilot-plugin-probe ";
/// Variables that a file under suspicion has no business with.
const PRIVATE: [&str; 2] = ["PILOT_ADMIN_TOKEN", "PILOT_WEBHOOK_SECRET"];

/// How to probe. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The program that calls [`serve`], and its arguments.
    pub program: PathBuf,
    /// See `program`.
    pub arguments: Vec<OsString>,
    /// The file that remembers; `None` probes every time.
    pub memory: Option<PathBuf>,
    /// How long one child may take.
    pub deadline: Duration,
}

impl Probe {
    /// This very program under `arguments`, remembering in `memory`.
    pub fn with_this_program(arguments: &[&str], memory: Option<PathBuf>) -> Self {
        Probe {
            // The link, not its target: the file may have been replaced by a newer version since.
            program: "/proc/self/exe".into(),
            arguments: arguments.iter().map(OsString::from).collect(),
            memory,
            deadline: DEADLINE,
        }
    }

    /// Judges one file, from memory or by a child.
    ///
    /// # Errors
    /// [`Code::ProbeFailed`] when the child crashed or hung; the child's own refusal when it could open the file and
    /// found it wanting. Only what crashed is remembered as bad: a hang may be the machine's fault.
    pub fn judge(
        &self,
        file: &PluginFile,
        inspection: &Inspection,
        host_version: &str,
    ) -> Result<(), Refusal> {
        let mut memory = self.memory.as_deref().map(Memory::read).unwrap_or_default();
        match memory.files.get(&inspection.sha256).filter(|r| r.host == host_version) {
            Some(Record { crash: None, .. }) => return Ok(()),
            Some(Record { crash: Some(why), at, .. }) => {
                let reason = format!("was probed before, at Unix time {at}, and {why}");
                return Err(self.refuse(file, inspection, &reason));
            }
            None => {}
        }
        let crash = match self.child(file) {
            Ok(Verdict::Good) => None,
            Ok(Verdict::Refused { code, reason, remedy }) => {
                let code = Code::parse(&code).unwrap_or(Code::ProbeFailed);
                return Err(Refusal::new(code, &file.path, reason, remedy).of(&inspection.header.name));
            }
            Ok(Verdict::Hung) => {
                let reason = format!("did not open within {:?} in a child process", self.deadline);
                return Err(self.refuse(file, inspection, &reason));
            }
            Ok(Verdict::Crashed(why)) => Some(why),
            Err(e) => {
                let reason = format!("cannot be probed, because no child process could be run: {e}");
                let remedy = "give the host room for a process, or set [plugins] probe = false";
                return Err(
                    Refusal::new(Code::ProbeFailed, &file.path, reason, remedy).of(&inspection.header.name)
                );
            }
        };
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let record = Record {
            name: inspection.header.name.clone(),
            host: host_version.to_owned(),
            at,
            crash: crash.clone(),
        };
        memory.add(&inspection.sha256, record);
        if let Some(path) = &self.memory
            && let Err(e) = memory.write(path)
        {
            tracing::warn!(path = %path.display(), error = %e, "what the probe found could not be saved; it is probed again next time");
        }
        match crash {
            None => Ok(()),
            Some(why) => Err(self.refuse(file, inspection, &format!("{why} in a child process"))),
        }
    }

    fn refuse(&self, file: &PluginFile, inspection: &Inspection, reason: &str) -> Refusal {
        let remedy = match &self.memory {
            Some(path) => format!(
                "get a mended version from its author, or remove it; to probe this one again, remove {}",
                path.display()
            ),
            None => "get a mended version from its author, or remove it".to_owned(),
        };
        Refusal::new(Code::ProbeFailed, &file.path, reason, remedy).of(&inspection.header.name)
    }

    fn child(&self, file: &PluginFile) -> io::Result<Verdict> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).arg(&file.path);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // A group of its own, so that what the file may start ends with it.
        command.process_group(0);
        for name in PRIVATE {
            command.env_remove(name);
        }
        let mut guard = Group(command.spawn()?);
        let (input, output) = (guard.0.stdin.take(), guard.0.stdout.take());
        let (done, wait) = mpsc::sync_channel(1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // A child that is gone closes its end; its status says why.
                let _ = input.map(|mut pipe| pipe.write_all(&file.bytes));
            });
            scope.spawn(move || {
                let mut said = Vec::new();
                let _ = output.map(|pipe| pipe.take(MAX_ANSWER).read_to_end(&mut said));
                let _ = done.send(said);
            });
            let said = wait.recv_timeout(self.deadline);
            // The end of its output is the end of a child that behaves. In any case the group ends here, which closes
            // the pipes and lets the two threads return.
            let status = match said {
                Ok(_) => guard.end_within(Duration::from_secs(1)),
                Err(_) => None,
            };
            guard.kill();
            let said = match said {
                Ok(said) => said,
                Err(_) => return Ok(Verdict::Hung),
            };
            Ok(verdict(&String::from_utf8_lossy(&said), status))
        })
    }
}

/// A child and whatever it started; ended when dropped.
struct Group(Child);

impl Group {
    fn end_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let end = std::time::Instant::now() + limit;
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if std::time::Instant::now() < end => std::thread::sleep(Duration::from_millis(2)),
                _ => return None,
            }
        }
    }

    fn kill(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // Gone already is as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    Refused { code: String, reason: String, remedy: String },
    Crashed(String),
    Hung,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    /// A refusal's code, or nothing.
    code: Option<String>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    remedy: String,
}

/// What a child's output and end mean together.
fn verdict(said: &str, status: Option<ExitStatus>) -> Verdict {
    let answer = said.lines().find_map(|l| l.strip_prefix(ANSWER));
    let answer = answer.and_then(|text| serde_json::from_str::<Answer>(text).ok());
    match (answer, status) {
        (_, Some(status)) if status.signal().is_some() => {
            Verdict::Crashed(format!("ended its process: {status}"))
        }
        (Some(Answer { code: Some(code), reason, remedy }), _) => Verdict::Refused { code, reason, remedy },
        (Some(_), Some(status)) if status.success() => Verdict::Good,
        // Closed its output but went on: whatever it does, it is not what a library that is opened should do.
        (_, None) => Verdict::Hung,
        (_, Some(status)) => Verdict::Crashed(format!("ended its process: {status}")),
    }
}

/// The child: opens and constructs the bytes on standard input as `path`, and answers on standard output. The exit code
/// is the caller's only if this returns, which a broken file may prevent.
///
/// # Errors
/// When input or output break.
pub fn serve(path: &Path) -> io::Result<()> {
    // The plugin may print; its text must not run into the answer.
    let mut answer = std::fs::File::from(rustix::io::dup(io::stdout())?);
    rustix::stdio::dup2_stdout(io::stderr())?;
    // A crash here is an answer, not a case for the machine's crash collector.
    let _ = rustix::process::setrlimit(
        rustix::process::Resource::Core,
        rustix::process::Rlimit { current: Some(0), maximum: Some(0) },
    );
    let mut bytes = Vec::new();
    io::stdin().lock().take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes)?;
    let file = PluginFile { path: path.to_owned(), bytes, signature: None };
    let text = match try_out(&file) {
        Ok(()) => Answer { code: None, reason: String::new(), remedy: String::new() },
        Err(r) => Answer { code: Some(r.code.as_str().to_owned()), reason: r.reason, remedy: r.remedy },
    };
    let text = serde_json::to_string(&text).map_err(io::Error::other)?;
    answer.write_all(format!("\n{ANSWER}{text}\n").as_bytes())
}

fn try_out(file: &PluginFile) -> Result<(), Refusal> {
    let inspection = inspect(file)?;
    let opened = open(file, &inspection, &OpenVia::default())?;
    let name = &inspection.header.name;
    let instance = opened.module.create(env!("CARGO_PKG_VERSION"), Supervisor::new(name));
    let remedy = "see the reason; the plugin's constructor refused";
    let told = |e| Refusal::new(Code::CreateFailed, &file.path, format!("create: {e}"), remedy).of(name);
    instance.map(drop).map_err(told)
}

/// What is known of files that were probed.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Memory {
    files: BTreeMap<String, Record>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The plugin's name, for people who read the file.
    name: String,
    /// The host version that probed: another one may behave differently.
    host: String,
    /// When, Unix seconds.
    at: u64,
    /// What happened, when it was bad.
    crash: Option<String>,
}

impl Memory {
    /// A file that is missing, foreign or damaged is an empty memory: then everything is probed again.
    fn read(path: &Path) -> Memory {
        let read = || -> io::Result<Memory> {
            let mut text = String::new();
            std::fs::File::open(path)?.take(MAX_MEMORY_FILE).read_to_string(&mut text)?;
            serde_json::from_str(&text).map_err(io::Error::other)
        };
        match read() {
            Ok(memory) => memory,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Memory::default(),
            Err(e) => {
                tracing::warn!(path = %path.display(), error = %e, "what the probe found earlier cannot be read; files are probed again");
                Memory::default()
            }
        }
    }

    fn add(&mut self, sha256: &str, record: Record) {
        self.files.insert(sha256.to_owned(), record);
        while self.files.len() > REMEMBERED {
            let oldest = self.files.iter().min_by_key(|(_, r)| r.at).map(|(hash, _)| hash.clone());
            if let Some(hash) = oldest {
                self.files.remove(&hash);
            }
        }
    }

    /// Whole or not at all.
    fn write(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path).map(drop).map_err(|e| e.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(at: u64, crash: Option<&str>) -> Record {
        Record { name: "p".into(), host: "1".into(), at, crash: crash.map(str::to_owned) }
    }

    #[test]
    fn a_memory_is_bounded_and_survives_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("probed.json");
        let mut memory = Memory::read(&path);
        assert!(memory.files.is_empty());
        for i in 0..=REMEMBERED as u64 {
            memory.add(&format!("{i:064x}"), record(i, None));
        }
        assert_eq!(memory.files.len(), REMEMBERED);
        assert!(!memory.files.contains_key(&format!("{:064x}", 0)), "the oldest made room");
        memory.write(&path).unwrap();
        assert_eq!(Memory::read(&path).files, memory.files);
        std::fs::write(&path, "{").unwrap();
        assert!(Memory::read(&path).files.is_empty());
    }

    #[test]
    fn what_a_childs_end_means() {
        let good = format!("noise\n{ANSWER}{{\"code\":null}}\n");
        let exit = |code: i32| Some(ExitStatus::from_raw(code << 8));
        assert_eq!(verdict(&good, exit(0)), Verdict::Good);
        assert_eq!(verdict(&good, None), Verdict::Hung);
        let Verdict::Crashed(text) = verdict(&good, Some(ExitStatus::from_raw(11))) else {
            panic!("not a crash")
        };
        assert!(text.contains("SIGSEGV"), "{text}");
        for (said, status) in [(String::new(), exit(0)), (good, exit(42)), (String::new(), exit(1))] {
            assert!(matches!(verdict(&said, status), Verdict::Crashed(_)), "{said:?} {status:?}");
        }
        let refused = format!("{ANSWER}{{\"code\":\"no-root\",\"reason\":\"r\",\"remedy\":\"x\"}}\n");
        assert!(matches!(verdict(&refused, exit(0)), Verdict::Refused { code, .. } if code == "no-root"));
    }
}
