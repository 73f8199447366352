//! The tool itself: `init`, `config`, `context`, `completions`, `man`, `quickstart`, `version`. Nothing here talks to a
//! daemon.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use pilot_net::ipc::default_socket_path;
use serde_json::{Map, Value, json};

use super::Outcome;
use crate::ctl::cli::Cli;
use crate::ctl::context::Context as Ctx;
use crate::ctl::fail::Failure;
use crate::ctl::out::Report;
use crate::ctl::returns;
use crate::version;

/// `init`
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Registry to register with.
    #[arg(long, value_name = "HOST:PORT")]
    registry: Option<String>,
    /// Beacon to use.
    #[arg(long, value_name = "HOST:PORT")]
    beacon: Option<String>,
    /// Name to register.
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
}

/// `config`
#[derive(Debug, Args)]
pub(crate) struct Config {
    /// Change one key.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Option<String>,
}

/// `context`
#[derive(Debug, Args)]
pub(crate) struct Context {
    /// Only this command.
    command: Option<String>,
}

/// `completions`
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// For which shell.
    shell: Shell,
}

/// `man`
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Where they go, for example /usr/share/man/man1; made when missing.
    dir: PathBuf,
}

pub(crate) fn init(ctx: &Ctx, args: Init) -> Outcome {
    let mut changes = Vec::new();
    for (key, value) in [("registry", &args.registry), ("beacon", &args.beacon), ("hostname", &args.hostname)]
    {
        if let Some(value) = value {
            changes.push((key, Value::from(value.as_str())));
        }
    }
    let socket = ctx.socket.display().to_string();
    changes.push(("socket", socket.as_str().into()));
    ctx.save_config(&changes)?;
    let value =
        |given: &Option<String>, key: &str| given.clone().unwrap_or_else(|| ctx.configured(key).to_owned());
    let data = json!({
        "config_path": ctx.config_path().display().to_string(),
        "registry": value(&args.registry, "registry"),
        "beacon": value(&args.beacon, "beacon"),
        "hostname": value(&args.hostname, "hostname"),
        "socket": socket,
    });
    Ok(Report::new(data, format!("wrote {}", ctx.config_path().display())))
}

pub(crate) fn config(ctx: &Ctx, args: Config) -> Outcome {
    if let Some(setting) = args.set {
        let (key, value) = setting
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| Failure::invalid(format!("config: {setting:?} is not of the form key=value")))?;
        ctx.save_config(&[(key, value.into())])?;
        return Ok(Report::new(json!({ "key": key, "value": value }), format!("{key} = {value}")));
    }
    let mut data = ctx.config.clone();
    let path = |p: PathBuf| Value::from(p.display().to_string());
    data.insert("config_path".to_owned(), path(ctx.config_path()));
    data.insert("pid_file".to_owned(), path(ctx.home.join("pilot.pid")));
    data.insert("log_file".to_owned(), path(ctx.home.join("pilot.log")));
    data.insert("socket".to_owned(), path(ctx.socket.clone()));
    data.entry("registry")
        .or_insert_with(|| ctx.setting("PILOT_REGISTRY", "registry").unwrap_or_default().into());
    // Secrets are for the daemon, not for a screen.
    if let Some(token) = data.get_mut("admin_token").filter(|t| t.as_str().is_some_and(|t| !t.is_empty())) {
        *token = "(set)".into();
    }
    // With the names that `--set` takes.
    let rows: Vec<(&str, String)> = data
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect();
    let text = ctx.out.facts(&rows);
    Ok(Report::new(Value::Object(data), text))
}

/// The catalogue for agents: made from the definitions that the parser uses, so that it cannot disagree with them.
pub(crate) fn context(args: Context) -> Outcome {
    let root = Cli::command();
    if let Some(name) = args.command {
        let found = root.find_subcommand(&name).ok_or_else(|| {
            Failure::not_found(format!("no command {name:?}"))
                .hint("run 'pilotctl context' for the full command list")
        })?;
        let mut commands = Map::new();
        describe(&mut commands, "", found);
        return Ok(Report::plain(json!({ "commands": commands })));
    }
    let mut commands = Map::new();
    for command in root.get_subcommands().filter(|c| !c.is_hide_set()) {
        describe(&mut commands, "", command);
    }
    let codes = json!({
        "invalid_argument": "bad input or usage; do not retry unchanged",
        "not_found": "no such host name, node, file, message or command",
        "already_exists": "the daemon already runs",
        "not_running": "the daemon cannot be reached: pilotctl daemon start",
        "connection_failed": "a dial, the registry or a daemon request failed; may be retried",
        "timeout": "no answer in time; may be retried",
        "trust_required": "the peer is private and does not trust this node: pilotctl handshake",
        "auth_required": "an admin token is needed: PILOT_ADMIN_TOKEN",
        "io_error": "a local file cannot be read",
        "permission_denied": "the daemon belongs to another user",
        "unavailable": "this daemon does not offer it",
        "internal": "the local system, or the receiver's, failed",
    });
    let data = json!({
        "version": "1.4",
        "tool": format!("pilotctl {}", version::text()),
        "commands": commands,
        "error_codes": codes,
        "global_flags": {
            "--json": "one JSON line: {\"data\":...,\"status\":\"ok\"} on stdout, or an error object on stderr with exit code 1",
            "--socket": "the daemon's socket",
            "--verbose": "more on standard error",
            "--watch": "repeat a status command every N seconds",
        },
        "environment": ["PILOT_SOCKET", "PILOT_HOME", "PILOT_REGISTRY", "PILOT_ADMIN_TOKEN", "PILOT_DAEMON_BIN", "NO_COLOR"],
        "config_file": "~/.pilot/config.json",
        "default_socket": default_socket_path().display().to_string(),
    });
    Ok(Report::plain(data))
}

fn describe(commands: &mut Map<String, Value>, prefix: &str, command: &clap::Command) {
    let name = format!("{prefix}{}", command.get_name());
    for sub in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        describe(commands, &format!("{name} "), sub);
    }
    if command.is_subcommand_required_set() {
        return;
    }
    let shown =
        command.get_arguments().filter(|a| !a.is_hide_set() && !a.is_global_set() && a.get_id() != "help");
    let args: Vec<Value> = shown
        .map(|a| {
            let name = a.get_long().map_or_else(|| format!("<{}>", a.get_id()), |long| format!("--{long}"));
            json!({ "name": name, "required": a.is_required_set(), "help": a.get_help().map(ToString::to_string) })
        })
        .collect();
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let returns = returns::of(&name).unwrap_or_default();
    commands.insert(name, json!({ "description": about, "args": args, "returns": returns }));
}

pub(crate) fn completions(args: &Completions) -> Report {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "pilotctl", &mut script);
    Report::text(String::from_utf8_lossy(&script))
}

/// Manual pages of both programs, one for each command, from the definitions that the parsers use.
pub(crate) fn man(args: Man) -> Outcome {
    let fail = |e: std::io::Error| {
        Failure::internal(format!("cannot write manual pages to {}: {e}", args.dir.display()))
    };
    std::fs::create_dir_all(&args.dir).map_err(fail)?;
    let mut pages = 0;
    for mut root in [Cli::command(), crate::cli::Cli::command()] {
        // Names of subcommands become "pilotctl ping"; the build step also fills in the usage lines.
        root.build();
        pages += write_pages(&args.dir, &root, root.get_name()).map_err(fail)?;
    }
    let data = json!({ "dir": args.dir.display().to_string(), "pages": pages });
    Ok(Report::new(data, format!("{pages} manual pages in {}", args.dir.display())))
}

fn write_pages(dir: &Path, command: &clap::Command, name: &str) -> std::io::Result<usize> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone().display_name(name)).title(name).render(&mut page)?;
    std::fs::write(dir.join(format!("{name}.1")), page)?;
    let mut pages = 1;
    for sub in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        pages += write_pages(dir, sub, &format!("{name}-{}", sub.get_name()))?;
    }
    Ok(pages)
}

/// The first steps.
pub(crate) fn quickstart(ctx: &Ctx) -> Report {
    let b = |text: &str| ctx.out.bold(text);
    Report::text(format!(
        "{}\n  {}\n  {}\n\n{}\n  {}\n\n{}\n  {}\n  {}\n\n{}\n  {}\n  {}\n  {}\n\n{}\n  {}\n",
        b("1. Start a node and see who you are"),
        "pilotctl daemon start",
        "pilotctl info",
        b("2. Find a peer by name or number"),
        "pilotctl find <hostname>",
        b("3. Ask for trust; the other side approves"),
        "pilotctl handshake <peer> \"why\" --wait=60s",
        "pilotctl pending            # there, then: pilotctl approve <peer>",
        b("4. Talk"),
        "pilotctl ping <peer>",
        "pilotctl send-message <peer> --data hello",
        "pilotctl send-file <peer> report.pdf      # resumes after an interruption",
        b("5. Look"),
        "pilotctl top                # peers, paths, streams, plugins, events; q ends it",
    ))
}

pub(crate) fn version() -> Report {
    Report::text(format!("pilotctl {}", version::text()))
}
