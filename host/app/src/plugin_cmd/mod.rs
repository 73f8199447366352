//! `pilot-host plugin ...`: what authors and operators do with one plugin file, without a running host. Called by the
//! program only. Each command's text for people and its `--json` object are made here; the judging is the loader's.
#![allow(clippy::print_stdout, clippy::print_stderr)] // these commands talk to the terminal

mod inspect;
mod keys;
mod new;

use std::process::ExitCode;

use clap::Subcommand;
use pilot_loader::Refusal;
use serde_json::{Value, json};

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
    /// Make a key that signs plugin files.
    Keygen(KeygenArgs),
    /// Sign a plugin file; the signature goes into FILE.sig beside it.
    Sign(SignArgs),
    /// Check the signatures beside a plugin file.
    Verify(VerifyArgs),
}

/// Runs one command; the exit code is what its help says.
pub fn run(command: &PluginCommand) -> ExitCode {
    match command {
        PluginCommand::New(args) => finish(args.json, new::run(args)),
        PluginCommand::Inspect(args) => finish(args.json, inspect::run(args)),
        PluginCommand::Keygen(args) => finish(args.json, keys::keygen(args)),
        PluginCommand::Sign(args) => finish(args.json, keys::sign(args)),
        PluginCommand::Verify(args) => finish(args.json, keys::verify(args)),
    }
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
        if self.code == "usage" { ExitCode::from(2) } else { ExitCode::FAILURE }
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
