//! The conformance kit: what a host will do to a plugin, done to one file with a daemon in memory, and what came of it.
//! `pilot-host plugin check` runs it in a process of its own, because a broken plugin may take its process with it.
//!
//! It judges behaviour at the border only: that the file is a plugin, that it starts, works, and goes away without a
//! trace, whatever the host does. It says nothing about what the plugin is for, and a plugin that means harm can hide
//! from it.

mod hostile;
mod steps;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

/// One step of the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Stable name, for programs.
    pub id: &'static str,
    /// What is being tried, for people.
    pub about: &'static str,
}

/// All steps, in order. Each needs the ones before it.
pub const STEPS: &[Step] = &[
    Step { id: "file", about: "a host would read it: regular, of a fitting size, writable by nobody else" },
    Step { id: "header", about: "its header: treaty, target, panic strategy, name" },
    Step { id: "exports", about: "the symbols that it shows to others" },
    Step { id: "layout", about: "opened, and its whole interface compared in both directions" },
    Step { id: "create", about: "two instances made, one of them dropped unused" },
    Step { id: "init", about: "started on a node that is not registered yet, within the deadline" },
    Step { id: "work", about: "events of every kind, strangers on its ports, services asked" },
    Step { id: "logs", about: "its lines arrive, and none that the host's level leaves out" },
    Step { id: "shutdown", about: "stopped within the deadline" },
    Step { id: "leftovers", about: "no thread, port, subscription or handle kept" },
    Step { id: "containment", about: "started on a daemon whose every method fails" },
    Step { id: "reload", about: "opened, started and stopped again and again" },
];

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Allowed, but worth a look.
    Note,
    /// A host would refuse this, or suffer from it.
    Fail,
    /// Not tried, because a step before it failed.
    Skipped,
}

impl Verdict {
    /// One word: `pass`, `note`, `fail`, `skipped`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Note => "note",
            Verdict::Fail => "fail",
            Verdict::Skipped => "skipped",
        }
    }

    /// The inverse of [`as_str`](Self::as_str).
    pub fn parse(text: &str) -> Option<Verdict> {
        [Verdict::Pass, Verdict::Note, Verdict::Fail, Verdict::Skipped]
            .into_iter()
            .find(|v| v.as_str() == text)
    }
}

/// What a step found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The step's stable name.
    pub step: &'static str,
    /// How it went.
    pub verdict: Verdict,
    /// What was found, one sentence.
    pub text: String,
    /// How long it took.
    pub took: Duration,
}

/// How to check.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What `init` and `shutdown` get each.
    pub deadline: Duration,
    /// How often the file is opened, started and stopped again.
    pub reloads: u32,
    /// What the plugin reads as its table of the configuration.
    pub config: Value,
    /// What it reads as the state directory; give it an empty one.
    pub state_dir: PathBuf,
}

impl Settings {
    /// 10 s, ten reloads, no configuration.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        let config = Value::Object(serde_json::Map::new());
        Settings { deadline: Duration::from_secs(10), reloads: 10, config, state_dir: state_dir.into() }
    }

    /// The longest that one step can take when all goes as badly as the deadlines allow.
    pub fn step_limit(&self) -> Duration {
        // The reload step starts and stops that often; the margin is for a busy machine.
        self.deadline * 2 * self.reloads.max(1) + Duration::from_secs(60)
    }
}

/// What [`check`] tells while it works.
#[derive(Clone, Debug)]
pub enum Progress {
    /// This step begins. If it is the last thing heard, the step ended the process.
    Begin(Step),
    /// And this came of it.
    End(Finding),
}

/// Checks the file. Every step of [`STEPS`] gets a finding; after a failure that leaves nothing to go on with, the rest
/// is [`Verdict::Skipped`].
///
/// Runs the plugin's code in this process, and leaves it mapped: call it where that does no harm. Threads that a
/// plugin leaves behind stay.
pub fn check(path: &Path, settings: &Settings, tell: &mut dyn FnMut(Progress)) {
    let mut bench = steps::Bench::new(path, settings);
    let mut broken = None;
    for step in STEPS {
        if let Some(cause) = broken {
            let text = format!("needs \"{cause}\"");
            let finding = Finding { step: step.id, verdict: Verdict::Skipped, text, took: Duration::ZERO };
            tell(Progress::End(finding));
            continue;
        }
        tell(Progress::Begin(*step));
        let started = Instant::now();
        let outcome = bench.run(step.id);
        let (verdict, text) = match outcome {
            Ok((verdict, text)) => (verdict, text),
            Err(text) => {
                broken = Some(step.id);
                (Verdict::Fail, text)
            }
        };
        tell(Progress::End(Finding { step: step.id, verdict, text, took: started.elapsed() }));
    }
}
