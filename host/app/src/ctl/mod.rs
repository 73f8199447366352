//! `pilotctl`: the tool that people, scripts and agents drive a daemon with (fact sheet cli.md).
//!
//! A command is parsed (`cli`), carried out over the daemon's socket (`cmd`), and ends as a report or a failure;
//! only `main` prints those and chooses the exit code. Works against the Go daemon too, except for the few commands that
//! need a host of ours.

mod argv;
mod cli;
mod cmd;
mod context;
mod dx;
mod fail;
mod filestream;
mod out;
mod registry;
mod returns;
#[cfg(test)]
mod tests;
mod trust_gate;
mod values;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;

use self::argv::Argv;
pub(crate) use self::argv::is_single_dash_long;
use self::cli::Cli;
use self::context::Context;
use self::fail::Failure;
use self::out::{Out, Report};

/// Exit code for a missing or unknown command (cli.md section 1).
const EXIT_USAGE: u8 = 2;

/// Runs the tool with the process's arguments.
pub fn main() -> ExitCode {
    run(std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect(), &Out::terminal())
}

fn run(args: Vec<String>, out: &Out) -> ExitCode {
    let argv = Argv::new(args);
    let out = out.with_json(argv.json);
    let cli =
        match Cli::try_parse_from(std::iter::once("pilotctl".to_owned()).chain(argv.args.iter().cloned())) {
            Ok(cli) => cli,
            Err(error) => return usage(&argv, &error, &out),
        };
    let outcome = Context::new(&cli, out.clone()).and_then(|context| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::internal(format!("cannot start the runtime: {e}")))?;
        let outcome = runtime.block_on(async {
            match cli.watch {
                Some(every) => repeat(&context, &argv, every, cli.rounds).await,
                None => cmd::run(&context, cli.command).await,
            }
        });
        // A read from a terminal that nobody finishes must not keep the program alive.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(report) => finish(&out, &report),
        Err(failure) => {
            out.failure(&failure);
            ExitCode::FAILURE
        }
    }
}

/// What `--watch` may repeat: commands that only look.
const LOOKS: [&str; 10] =
    ["info", "health", "peers", "connections", "pending", "trust", "find", "lookup", "inbox", "received"];
/// The same, one level down.
const LOOKS_BELOW: [(&str, &[&str]); 6] = [
    ("plugins", &["list", "status"]),
    ("net", &["status", "health", "uris", "graph"]),
    ("daemon", &["status"]),
    ("network", &["list", "members", "invites", "role", "policy"]),
    ("managed", &["status"]),
    ("policy", &["get"]),
];

/// `--watch`: the command again and again, on a cleared screen for people, one bare object a line for scripts.
async fn repeat(context: &Context, argv: &Argv, every: Duration, rounds: u64) -> cmd::Outcome {
    let words: Vec<&str> = argv.words().collect();
    let command = words.first().copied().unwrap_or_default();
    let below = LOOKS_BELOW.iter().find(|(name, _)| *name == command).map(|(_, subs)| *subs);
    let looks = match below {
        Some(subs) => words.get(1).map_or(command == "plugins", |w| subs.contains(w)),
        None => LOOKS.contains(&command) && !argv.args.iter().any(|a| a == "--clear"),
    };
    if !looks {
        return Err(Failure::invalid("--watch repeats only commands that look and change nothing")
            .hint("for example: pilotctl peers --watch"));
    }
    let every = every.max(Duration::from_millis(100));
    let mut round = 0;
    loop {
        let args = std::iter::once("pilotctl".to_owned()).chain(argv.args.iter().cloned());
        let cli = Cli::try_parse_from(args).map_err(|e| Failure::internal(e.to_string()))?;
        if let cli::Command::Net(net) = &cli.command
            && let Some(outcome) = cmd::net::watch(context, net, every, cli.rounds).await
        {
            return outcome;
        }
        let report = cmd::run(context, cli.command).await?;
        context.out.clear();
        context.out.line(&report.data.unwrap_or_default(), &report.text);
        round += 1;
        if rounds > 0 && round >= rounds {
            return Ok(Report::silent(0));
        }
        tokio::time::sleep(every).await;
    }
}

fn finish(out: &Out, report: &Report) -> ExitCode {
    out.report(report);
    ExitCode::from(report.exit)
}

/// What clap could not parse, in the tool's own conventions.
fn usage(argv: &Argv, error: &clap::Error, out: &Out) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayVersion => {
            out.print(&error.to_string());
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelp if argv.command().is_some() => {
            let whole = argv.words().eq(["help"]);
            out.complain(&if whole { Cli::usage() } else { error.to_string() });
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | ErrorKind::MissingSubcommand
            if argv.command().is_none() =>
        {
            out.complain(&Cli::usage());
            ExitCode::from(EXIT_USAGE)
        }
        ErrorKind::InvalidSubcommand if argv.command().is_some_and(|c| !Cli::knows(c)) => {
            let command = argv.command().unwrap_or_default();
            if out.json() {
                let hint = "run 'pilotctl context' for the full command list";
                out.failure(&Failure::invalid(format!("unknown command: {command}")).hint(hint));
                return ExitCode::FAILURE;
            }
            out.complain(&format!("unknown command: {command}\n\n{}", Cli::usage()));
            ExitCode::from(EXIT_USAGE)
        }
        _ => {
            let text = error.to_string();
            // The message, without clap's own prefix, usage and tips.
            let path = Cli::path(argv.words());
            let command = if path.is_empty() { path } else { format!(" {path}") };
            let message = match error.kind() {
                ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
                    format!("pilotctl{command} needs a subcommand")
                }
                _ => {
                    let lines = text.lines().take_while(|l| !l.is_empty()).map(str::trim);
                    let message = lines.collect::<Vec<_>>().join(" ");
                    message.strip_prefix("error: ").unwrap_or(&message).to_owned()
                }
            };
            out.failure(
                &Failure::invalid(message).hint(format!("arguments and examples: pilotctl{command} --help")),
            );
            ExitCode::FAILURE
        }
    }
}
