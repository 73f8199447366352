//! Sessions with `pilotctl` against real hosts, kept as they looked and compared from then on: every command, as text and
//! with `--json`. What differs from run to run is replaced by rule (`normal`).
//!
//! The files are in `tests/golden`, one a subject, to be read by a person whenever they change. `PILOT_GOLDEN=write`
//! writes them anew. A command of the tool that stands in none of them fails [`every_command_is_shown`], unless it is
//! listed with a reason why it cannot.

mod networks;
mod node;
mod normal;
mod plugins;
mod registry;
mod setup;
mod talk;
mod trust;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use self::normal::Rules;
use crate::support::*;

/// Commands that no session shows, and why.
const NOT_SHOWN: [(&str, &str); 2] = [
    ("net", "a cluster of hosts and what happens in it: tests/runner.rs drives every one of them"),
    ("man", "writes files only; the packaging test looks for them"),
];

/// Commands that print the same with `--json` by contract, or nothing at all.
const ONE_FORM: [&str; 3] = ["version", "quickstart", "completions"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.txt"))
}

/// Where commands are typed: a socket, and a home of its own.
pub struct Seat {
    name: String,
    socket: PathBuf,
    home: PathBuf,
    /// Environment of the commands.
    vars: Vec<(String, String)>,
}

impl Seat {
    pub fn new(dir: &Path, name: &str) -> Seat {
        let home = dir.join(format!("home-{name}"));
        std::fs::create_dir_all(&home).unwrap();
        Seat { name: name.to_owned(), socket: dir.join(format!("{name}.sock")), home, vars: Vec::new() }
    }

    pub fn at(host: &Host) -> Seat {
        Seat::new(&host.home, &host.name)
    }

    pub fn with(mut self, key: &str, value: &str) -> Seat {
        self.vars.push((key.to_owned(), value.to_owned()));
        self
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(CTL);
        for key in ["PILOT_REGISTRY", "PILOT_CONFIG", "PILOT_ADMIN_TOKEN", "PILOT_PLUGINS_DIR"] {
            command.env_remove(key);
        }
        command.args(args).env("PILOT_SOCKET", &self.socket).env("PILOT_HOME", &self.home).env("TZ", "UTC");
        command.envs(self.vars.iter().map(|(k, v)| (k, v))).current_dir(&self.home);
        command
    }
}

/// A command that was begun and whose output is still to come.
pub struct Begun {
    line: String,
    running: Running,
    json: bool,
}

/// One session: what was typed and what was said.
pub struct Script {
    name: &'static str,
    rules: Rules,
    text: String,
}

impl Script {
    pub fn new(name: &'static str, dir: &Path) -> Script {
        Script { name, rules: Rules::new(dir), text: String::new() }
    }

    /// A heading.
    pub fn part(&mut self, title: &str) {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        self.text += &format!("{gap}## {title}\n");
    }

    /// Runs a command and writes down what it said.
    pub fn run(&mut self, seat: &Seat, args: &[&str]) -> Output {
        self.run_with(seat, args, "")
    }

    /// The same with something on its standard input.
    pub fn run_with(&mut self, seat: &Seat, args: &[&str], input: &str) -> Output {
        let begun = Self::begin_with(seat, args, input);
        self.end(begun)
    }

    /// As text, then with `--json`: for commands that may be repeated.
    pub fn both(&mut self, seat: &Seat, args: &[&str]) -> Value {
        self.run(seat, args);
        self.json(seat, args)
    }

    /// With `--json`; gives the data of a success, or the error object.
    pub fn json(&mut self, seat: &Seat, args: &[&str]) -> Value {
        let out = self.run(seat, &[&["--json"], args].concat());
        let said = if out.stdout.is_empty() { &out.stderr } else { &out.stdout };
        let envelope: Value = serde_json::from_slice(said).unwrap_or_default();
        if envelope["status"] == "ok" { envelope["data"].clone() } else { envelope }
    }

    /// Starts a command that waits for something.
    pub fn begin(seat: &Seat, args: &[&str]) -> Begun {
        Self::begin_with(seat, args, "")
    }

    fn begin_with(seat: &Seat, args: &[&str], input: &str) -> Begun {
        let words = args.iter().map(|a| match a.is_empty() || a.contains([' ', '"', '{', '*', '\n']) {
            true => format!("'{a}'"),
            false => (*a).to_owned(),
        });
        let set = seat.vars.iter().filter(|(key, _)| key != "PILOT_DAEMON_BIN");
        let set: String = set.map(|(key, value)| format!("{key}={value:?} ")).collect();
        let feed = if input.is_empty() { String::new() } else { format!("echo {input:?} | ") };
        let line = format!("{}$ {feed}{set}pilotctl {}", seat.name, words.collect::<Vec<_>>().join(" "));
        let running = Running::start(&mut seat.command(args), input.as_bytes());
        Begun { line, running, json: args.contains(&"--json") }
    }

    /// Waits for the end of a command and writes down what it said.
    pub fn end(&mut self, begun: Begun) -> Output {
        let out = begun.running.output();
        let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        println!("{}\n{stdout}{stderr}", begun.line);
        self.text += &format!("\n{}\n", self.rules.line(&begun.line));
        for (said, mark) in [(stdout, ""), (stderr, "! ")] {
            let shown = match begun.json {
                true => said.lines().map(|line| self.rules.json(line)).collect::<Vec<_>>().join("\n"),
                false => self.rules.block(&said),
            };
            for line in shown.lines() {
                self.text += format!("{mark}{line}").trim_end();
                self.text += "\n";
            }
        }
        if let Some(code @ 1..) = out.status.code() {
            self.text += &format!("[exit {code}]\n");
        }
        out
    }

    /// Compares the session with the one that is kept.
    pub fn finish(self) {
        let path = golden(self.name);
        if std::env::var_os("PILOT_GOLDEN").is_some_and(|v| v == "write") {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &self.text).unwrap();
            return;
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        let (new, old): (Vec<&str>, Vec<&str>) = (self.text.lines().collect(), kept.lines().collect());
        let Some(at) = (0..new.len().max(old.len())).find(|i| new.get(*i) != old.get(*i)) else { return };
        let around = |lines: &[&str]| {
            let from = lines[..at.min(lines.len())].iter().rposition(|l| l.contains("$ ")).unwrap_or(0);
            lines[from.min(lines.len())..lines.len().min(at + 12)].join("\n")
        };
        panic!(
            "{} differs from line {} on.\n--- kept\n{}\n--- now\n{}\n--- if this is what it should be: PILOT_GOLDEN=write, \
             then read the change",
            path.display(),
            at + 1,
            around(&old),
            around(&new)
        );
    }
}

/// The tool's commands as it tells them itself, from the definitions that its parser uses.
fn commands() -> Vec<String> {
    let dir = temp_dir();
    let out = finished(&mut Seat::new(dir.path(), "x").command(&["--json", "context"]), b"");
    let all: Value = serde_json::from_slice(&out.stdout).unwrap();
    all["data"]["commands"].as_object().unwrap().keys().cloned().collect()
}

#[test]
fn every_command_is_shown() {
    if std::env::var_os("PILOT_GOLDEN").is_some() {
        return; // the files are being written
    }
    let (mut text, mut json) = (Vec::new(), Vec::new());
    for file in files(golden("x").parent().unwrap()) {
        for line in std::fs::read_to_string(file).unwrap().lines() {
            let Some((_, typed)) = line.split_once("pilotctl ").filter(|(seat, _)| seat.contains("$ "))
            else {
                continue;
            };
            match typed.strip_prefix("--json ") {
                Some(words) => json.push(format!("{words} ")),
                None => text.push(format!("{typed} ")),
            }
        }
    }
    let commands = commands();
    assert!(commands.len() > 80, "{commands:?}");
    let excused =
        |c: &str| NOT_SHOWN.iter().any(|(name, _)| c == *name || c.starts_with(&format!("{name} ")));
    let shown = |lines: &[String], c: &str| lines.iter().any(|l| l.starts_with(&format!("{c} ")));
    let missing = |lines: &[String]| -> Vec<&String> {
        commands.iter().filter(|c| !excused(c) && !shown(lines, c)).collect()
    };
    assert_eq!(missing(&text), Vec::<&String>::new(), "shown in no session as text");
    let once: Vec<&String> = missing(&json).into_iter().filter(|c| !ONE_FORM.contains(&c.as_str())).collect();
    assert_eq!(once, Vec::<&String>::new(), "shown in no session with --json");
    // An excuse that is no longer needed goes.
    for (name, why) in NOT_SHOWN {
        assert!(!why.is_empty() && commands.iter().any(|c| excused(c) && c.starts_with(name)), "{name}");
        assert!(!shown(&text, name) || !shown(&json, name), "{name} is shown after all");
    }
}
