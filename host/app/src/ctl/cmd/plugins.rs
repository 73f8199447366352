//! `plugins`: what is loaded, how it is, and starting, stopping and replacing one of them while the daemon runs.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::Outcome;
use crate::ctl::context::Context;
use crate::ctl::fail::{Failure, code};
use crate::ctl::out::{Cell, Out, Report, row};
use crate::ctl::values::{list, number, text};

/// `plugins`
#[derive(Debug, Args)]
pub(crate) struct Plugins {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All plugins: state, version, faults, reason of a failure (the default)
    List,
    /// Everything known about one plugin, with its last faults
    Status(Name),
    /// Load and start a plugin that does not run, also one whose file is new in the plugins directory
    Start(Name),
    /// Shut one plugin down; the others go on
    Stop(Name),
    /// Shut one plugin down and start it again from the code that is loaded
    Restart(Name),
    /// Replace a running plugin by its file as it is now; ports stay bound, and the old one comes back if the new one
    /// does not start
    Reload(Name),
    /// End a plugin's quarantine and start it
    Lift(Name),
    /// The last log lines of one plugin
    Logs(Logs),
}

#[derive(Debug, Args)]
struct Name {
    /// The plugin's name, as `pilotctl plugins` lists it.
    name: String,
}

#[derive(Debug, Args)]
struct Logs {
    /// The plugin's name.
    name: String,
    /// How many lines.
    #[arg(long, short = 'n', default_value_t = 50, value_name = "N")]
    lines: u64,
    /// Go on with new lines as they come; end with Ctrl-C.
    #[arg(long, short)]
    follow: bool,
}

/// How often `logs --follow` looks for new lines.
const LOOK: Duration = Duration::from_millis(250);

pub(crate) async fn run(ctx: &Context, args: Plugins) -> Outcome {
    match args.command.unwrap_or(Command::List) {
        Command::List => all(ctx).await,
        Command::Status(n) => status(ctx, &n.name).await,
        Command::Start(n) => change(ctx, "start", &n.name).await,
        Command::Stop(n) => change(ctx, "stop", &n.name).await,
        Command::Restart(n) => change(ctx, "restart", &n.name).await,
        Command::Reload(n) => change(ctx, "reload", &n.name).await,
        Command::Lift(n) => change(ctx, "lift", &n.name).await,
        Command::Logs(l) => logs(ctx, l).await,
    }
}

async fn all(ctx: &Context) -> Outcome {
    let client = ctx.connect().await?;
    let Some(answer) = ctx.host(&client, "plugins", json!({})).await? else {
        return Err(not_ours());
    };
    let out = &ctx.out;
    let rows = list(&answer, "plugins").iter().map(|p| {
        row![
            text(p, "name").to_owned(),
            text(p, "version").to_owned(),
            state(p),
            runs(p),
            number(p, "starts").to_string(),
            number(p, "faults").to_string(),
            text(p, "reason").to_owned(),
        ]
    });
    let head = ["NAME", "VERSION", "STATE", "RUNS", "STARTS", "FAULTS", "REASON"];
    let text = match rows.len() {
        0 => "no plugins are loaded".to_owned(),
        _ => out.table(&head, &["STARTS", "FAULTS"], rows.collect()),
    };
    Ok(Report::new(answer, text))
}

fn state(p: &Value) -> Cell {
    match text(p, "state") {
        s @ ("running" | "started") => Cell::good(s),
        s => Cell::bad(s),
    }
}

/// Where it runs: `in-process`, `process 1234`, or `process` while there is none.
fn runs(p: &Value) -> String {
    match p.get("pid").and_then(Value::as_u64) {
        Some(pid) => format!("{} {pid}", text(p, "isolation")),
        None => text(p, "isolation").to_owned(),
    }
}

fn not_ours() -> Failure {
    Failure::new(code::UNAVAILABLE, "this daemon has no loadable plugins")
}

async fn ask(ctx: &Context, op: &str, params: Value) -> Result<Value, Failure> {
    let client = ctx.connect().await?;
    match ctx.host(&client, op, params).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(not_ours()),
        Err(e) => Err(explained(e.into())),
    }
}

/// The daemon's own code for why, as one that scripts know.
fn explained(failure: Failure) -> Failure {
    const CODES: [(&[&str], &str); 5] = [
        (&["not-found"], code::NOT_FOUND),
        (&["running"], code::ALREADY_EXISTS),
        (&["not-running", "not-quarantined"], code::NOT_RUNNING),
        (&["quarantined", "disabled", "not-trusted", "bad-signature"], code::PERMISSION_DENIED),
        (&["busy", "closing", "too-many-copies"], code::UNAVAILABLE),
    ];
    let says = |words: &[&str]| words.iter().any(|w| failure.message.contains(&format!("[{w}]")));
    let known = CODES.iter().find(|(words, _)| says(words)).map(|(_, code)| *code);
    // Any other refusal is the plugin's or its file's.
    let refused = failure.code == code::CONNECTION_FAILED && failure.message.contains("host plugins.");
    let code = known.unwrap_or(if refused { code::INTERNAL } else { failure.code });
    // The reason, without the way it came.
    let message = match failure.message.split_once("host plugins.").and_then(|(_, m)| m.split_once(": ")) {
        Some((_, message)) => message.to_owned(),
        None => failure.message,
    };
    Failure { code, message, ..failure }
}

async fn change(ctx: &Context, what: &str, name: &str) -> Outcome {
    let answer = ask(ctx, &format!("plugins.{what}"), json!({ "name": name })).await?;
    let done = match what {
        "start" | "lift" => "started",
        "stop" => "stopped",
        "restart" => "restarted",
        _ => "reloaded",
    };
    let mut line = format!("{name} {} {done}", text(&answer, "version"));
    if !["running", "stopped"].contains(&text(&answer, "state")) {
        line += &format!(": {} ({})", text(&answer, "state"), text(&answer, "reason"));
    }
    Ok(Report::new(answer, line))
}

async fn status(ctx: &Context, name: &str) -> Outcome {
    let p = ask(ctx, "plugins.status", json!({ "name": name })).await?;
    let out = &ctx.out;
    let count = |key: &str| number(&p, key).to_string();
    let mut shown = out.facts(&[
        ("Plugin", out.bold(&format!("{} {}", text(&p, "name"), text(&p, "version")))),
        ("State", format!("{} {}", text(&p, "state"), text(&p, "reason"))),
        ("Runs", runs(&p)),
        ("File", text(&p, "path").to_owned()),
        ("SHA-256", text(&p, "sha256").to_owned()),
        ("Trust", text(&p, "trust").to_owned()),
        ("Treaty", text(&p, "treaty").to_owned()),
        ("Built with", text(&p, "rustc").to_owned()),
        ("Starts", count("starts")),
        ("Panics", count("panics")),
        ("Overruns", count("overruns")),
        ("Crashes", count("crashes")),
        ("Refused calls", count("refused_calls")),
        ("Dropped events", count("dropped_events")),
        ("Mapped copies", format!("{} of at most {}", count("mapped_copies"), count("max_mapped_copies"))),
    ]);
    let faults = list(&p, "recent_faults");
    if !faults.is_empty() {
        shown += "\n\nLast faults, oldest first:";
        for f in faults {
            shown += &format!("\n{}  {}  {}: {}", time(f), text(f, "kind"), text(f, "op"), text(f, "text"));
        }
    }
    Ok(Report::new(p, shown))
}

fn time(line: &Value) -> String {
    let at = i64::try_from(number(line, "unix_ms")).unwrap_or(0);
    let stamp = jiff::Timestamp::from_millisecond(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    stamp.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn line(out: &Out, l: &Value) -> String {
    let level = text(l, "level").to_uppercase();
    let level = match level.as_str() {
        "ERROR" => out.red("ERROR"),
        "WARN" => out.yellow("WARN"),
        other => other.to_owned(),
    };
    let mut shown = format!("{} {level} {}: {}", time(l), text(l, "target"), text(l, "message"));
    let none = Map::new();
    for (key, value) in l.get("fields").and_then(Value::as_object).unwrap_or(&none) {
        shown += &match value {
            Value::String(s) => format!(" {key}={s}"),
            other => format!(" {key}={other}"),
        };
    }
    shown
}

async fn logs(ctx: &Context, args: Logs) -> Outcome {
    let params = |after: u64, count: u64| json!({ "name": args.name, "after": after, "count": count });
    let mut answer = ask(ctx, "plugins.logs", params(0, args.lines)).await?;
    if !args.follow {
        let shown: Vec<String> = list(&answer, "lines").iter().map(|l| line(&ctx.out, l)).collect();
        let text = if shown.is_empty() { "no lines".to_owned() } else { shown.join("\n") };
        return Ok(Report::new(answer, text));
    }
    loop {
        for l in list(&answer, "lines") {
            ctx.out.line(l, &line(&ctx.out, l));
        }
        let next = number(&answer, "next");
        tokio::time::sleep(LOOK).await;
        answer = ask(ctx, "plugins.logs", params(next, u64::from(u32::MAX))).await?;
    }
}
