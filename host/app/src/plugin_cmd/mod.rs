//! `pilot-host plugin ...`: what authors and operators do with one plugin file, without a running host. Called by the
//! program only. Each command's text for people and its `--json` object are made here; the judging is the loader's.
#![allow(clippy::print_stdout, clippy::print_stderr)] // these commands talk to the terminal

mod check;
mod inspect;
mod keys;
mod new;

use std::process::ExitCode;

use clap::Subcommand;
use pilot_loader::Refusal;
use serde_json::{Value, json};

pub use check::{CheckArgs, CheckChildArgs};
pub use inspect::InspectArgs;
pub use keys::{KeygenArgs, SignArgs, VerifyArgs};
pub use new::NewArgs;

/// `pilot-host plugin ...`
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Make the crate of a new plugin: it builds, its tests pass, a host loads it.
    New(NewArgs),
    /// Show what a plugin file says about itself; runs none of its code.
    Inspect(InspectArgs),
    /// Try a plugin file out, as a host would use it and a little worse.
    Check(CheckArgs),
    /// Make a key that signs plugin files.
    Keygen(KeygenArgs),
    /// Sign a plugin file; the signature goes into FILE.sig beside it.
    Sign(SignArgs),
    /// Check the signatures beside a plugin file.
    Verify(VerifyArgs),
    /// What `check` runs in a process of its own.
    #[command(hide = true)]
    CheckChild(CheckChildArgs),
    /// What the daemon runs before it opens a file that it does not know: opens and constructs the bytes on standard
    /// input.
    #[command(hide = true)]
    Probe {
        /// Where the bytes came from.
        file: std::path::PathBuf,
    },
}

/// The arguments under which this program is the daemon's probe (see [`pilot_loader::probe`]).
pub const PROBE: [&str; 2] = ["plugin", "probe"];

/// Runs one command; the exit code is what its help says.
pub fn run(command: &PluginCommand) -> ExitCode {
    match command {
        PluginCommand::New(args) => finish(args.json, new::run(args)),
        PluginCommand::Check(args) => finish(args.json, check::run(args)),
        PluginCommand::CheckChild(args) => end_child(check::child(args)),
        PluginCommand::Probe { file } => end_child(pilot_loader::probe::serve(file)),
        PluginCommand::Inspect(args) => finish(args.json, inspect::run(args)),
        PluginCommand::Keygen(args) => finish(args.json, keys::keygen(args)),
        PluginCommand::Sign(args) => finish(args.json, keys::sign(args)),
        PluginCommand::Verify(args) => finish(args.json, keys::verify(args)),
    }
}

/// The end of a process that had a plugin in it: at once, because the plugin may have left threads and exit handlers.
fn end_child(outcome: std::io::Result<()>) -> ExitCode {
    if let Err(e) = &outcome {
        eprintln!("error: {e}");
    }
    std::process::exit(i32::from(outcome.is_err()))
}

/// What a command that did its work has to say.
struct Answer {
    /// The `--json` object.
    json: Value,
    /// The same for people.
    text: String,
    /// Whether the file stood the test; decides between exit codes 0 and 1.
    good: bool,
}

impl Answer {
    fn good(json: Value, text: String) -> Self {
        Answer { json, text, good: true }
    }
}

/// Why a command could not do its work, and what to do.
#[derive(Debug)]
struct Failure {
    /// A loader's code, or `io` and `usage` for the command's own.
    code: &'static str,
    message: String,
    hint: String,
}

impl Failure {
    fn io(what: impl std::fmt::Display, error: &std::io::Error, hint: impl Into<String>) -> Self {
        Failure { code: "io", message: format!("{what}: {error}"), hint: hint.into() }
    }

    fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Failure { code: "usage", message: message.into(), hint: hint.into() }
    }
}

impl From<Refusal> for Failure {
    fn from(r: Refusal) -> Self {
        let message = format!("{}: {} [{}]", r.path.display(), r.reason, r.code);
        Failure { code: r.code.as_str(), message, hint: r.remedy }
    }
}

/// Prints the end of a command: its answer on standard output, a failure on standard error.
fn finish(as_json: bool, outcome: Result<Answer, Failure>) -> ExitCode {
    match outcome {
        Ok(answer) => {
            print(&if as_json { answer.json.to_string() } else { answer.text });
            if answer.good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(e) if as_json => {
            let error = json!({ "code": e.code, "message": e.message, "hint": e.hint });
            print(&json!({ "error": error }).to_string());
            e.exit()
        }
        Err(e) => {
            eprintln!("error: {}", e.message);
            eprintln!("hint:  {}", e.hint);
            e.exit()
        }
    }
}

impl Failure {
    fn exit(&self) -> ExitCode {
        match self.code {
            "usage" => ExitCode::from(2),
            "not-run" => ExitCode::from(3),
            _ => ExitCode::FAILURE,
        }
    }
}

/// One text on standard output; a reader that went away (`| head`) is no error.
fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.trim_end_matches('\n').as_bytes()).and_then(|()| out.write_all(b"\n"));
}

/// Lines of `name  value`, the names padded to one width.
fn lines(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

#[cfg(test)]
mod tests;
