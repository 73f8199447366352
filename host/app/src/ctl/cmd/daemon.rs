//! `daemon start | stop | status`: the daemon as a process (cli.md sections 2 and 3).

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::{Args, Subcommand};
use pilot_net::ipc::Client;
use pilot_wire::ipc::Request;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::Outcome;
use crate::ctl::context::{Context, write_private};
use crate::ctl::fail::{Failure, code};
use crate::ctl::out::Report;
use crate::ctl::values::{duration, go_duration, number, text, uptime};

/// How often a starting or stopping daemon is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long a daemon may take to end after it was asked, before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Lines of the log that a failed start shows.
const LOG_LINES: usize = 5;
/// Program names behind a pid file that are believed; a recycled number is somebody else's.
const PROGRAMS: [&str; 3] = ["pilot-host", "pilot-daemon", "daemon"];

/// `daemon ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Daemon {
    /// Start the daemon in the background and wait until it answers
    Start(Box<Start>),
    /// Stop it and wait until it is gone
    Stop,
    /// Whether it runs
    Status(Status),
}

/// `daemon start`
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Registry to register with.
    #[arg(long, value_name = "HOST:PORT")]
    registry: Option<String>,
    /// Beacon to use.
    #[arg(long, value_name = "HOST:PORT")]
    beacon: Option<String>,
    /// UDP address of the tunnel socket.
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<String>,
    /// Identity file; made when missing.
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Name to register.
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// The daemon's configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory for identity, trust, inbox and received files.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Directory with the plugins.
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Let strangers look this node up and connect.
    #[arg(long)]
    public: bool,
    /// Approve every handshake request.
    #[arg(long)]
    trust_auto_approve: bool,
    /// Admin token; handed to the daemon in its environment.
    #[arg(long, value_name = "TOKEN")]
    admin_token: Option<String>,
    /// Log level of the daemon.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Log format of the daemon: text or json.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Become the daemon instead of starting it in the background.
    #[arg(long)]
    foreground: bool,
    /// How long to wait for it.
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = duration)]
    wait: Duration,
    /// Address of the owner; other daemons ask for it, this one does not.
    #[arg(long, alias = "owner", hide = true)]
    email: Option<String>,
    /// Further arguments for the daemon, behind `--`.
    #[arg(last = true, value_name = "ARGS")]
    rest: Vec<String>,
}

/// `daemon status`
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Print nothing; exit 0 when it answers, else 1.
    #[arg(long)]
    check: bool,
}

pub(crate) async fn run(ctx: &Context, command: Daemon) -> Outcome {
    match command {
        Daemon::Start(args) => start(ctx, *args).await,
        Daemon::Stop => stop(ctx).await,
        Daemon::Status(args) => status(ctx, args).await,
    }
}

// ---- start

async fn start(ctx: &Context, args: Start) -> Outcome {
    let stop_first = "stop it first with: pilotctl daemon stop";
    if Client::connect(&ctx.socket).await.is_ok() {
        let text = format!("daemon is already running (socket {} is active)", ctx.socket.display());
        return Err(Failure::new(code::ALREADY_EXISTS, text).hint(stop_first));
    }
    let home = args.state_dir.clone().unwrap_or_else(|| ctx.home.clone());
    let pid_file = home.join("pilot.pid");
    if let Some(pid) = running_pid(&pid_file) {
        let text = format!("daemon is already running (pid {pid})");
        return Err(Failure::new(code::ALREADY_EXISTS, text).hint(stop_first));
    }
    claim(&pid_file)?;
    let program = program()?;
    let mut command = command(ctx, &args, &program);
    if args.foreground {
        // The pid stays the same when this process becomes the daemon.
        write_pid(&pid_file, std::process::id())?;
        let error = command.exec();
        return Err(Failure::internal(format!("cannot run {}: {error}", program.display())));
    }
    let log_file = home.join("pilot.log");
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_file);
    let log = log.map_err(|e| Failure::internal(format!("cannot write {}: {e}", log_file.display())))?;
    let begin = log.metadata().map(|m| m.len()).unwrap_or(0);
    let stderr = log.try_clone().map_err(|e| Failure::internal(e.to_string()))?;
    // Out of the terminal's foreground group, so that its Ctrl-C is not the daemon's.
    command.stdin(Stdio::null()).stdout(log).stderr(stderr).process_group(0);
    let child =
        command.spawn().map_err(|e| Failure::internal(format!("cannot run {}: {e}", program.display())))?;
    let pid = child.id();
    write_pid(&pid_file, pid)?;
    let info = wait_for(ctx, child, args.wait, &log_file, begin).await?;
    let data = json!({
        "pid": pid,
        "node_id": info["node_id"],
        "address": info["address"],
        "hostname": info["hostname"],
        "socket": ctx.socket.display().to_string(),
        "log_file": log_file.display().to_string(),
    });
    let node = match number(&info, "node_id") {
        0 => ctx.out.yellow("not registered yet"),
        n => format!("node {n}, {}", text(&info, "address")),
    };
    let text = ctx.out.facts(&[
        ("Daemon", format!("{} (pid {pid})", ctx.out.green("running"))),
        ("Node", node),
        ("Hostname", text(&info, "hostname").to_owned()),
        ("Socket", ctx.socket.display().to_string()),
        ("Log", log_file.display().to_string()),
    ]);
    Ok(Report::new(data, text))
}

/// The daemon's program: named by the environment, beside this one, or in the path.
fn program() -> Result<PathBuf, Failure> {
    const NAMES: [&str; 2] = ["pilot-host", "pilot-daemon"];
    if let Some(path) = std::env::var_os("PILOT_DAEMON_BIN").filter(|v| !v.is_empty()) {
        return Ok(path.into());
    }
    let mut dirs: Vec<PathBuf> = Vec::new();
    dirs.extend(std::env::current_exe().ok().and_then(|p| p.parent().map(Path::to_owned)));
    dirs.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    let found = dirs.iter().flat_map(|d| NAMES.map(|n| d.join(n))).find(|p| p.is_file());
    found.ok_or_else(|| {
        Failure::not_found("cannot find the daemon's program (pilot-host)")
            .hint("install it beside pilotctl or in the PATH, or set PILOT_DAEMON_BIN")
    })
}

/// The command line: flags, else what `config.json` says, else the daemon's own defaults.
fn command(ctx: &Context, args: &Start, program: &Path) -> Command {
    let mut command = Command::new(program);
    if program.file_name().is_some_and(|n| n == "pilot-host") {
        command.arg("run");
    }
    let mut flag = |name: &str, value: Option<std::ffi::OsString>| {
        if let Some(value) = value {
            command.arg(format!("--{name}")).arg(value);
        }
    };
    let configured = |given: &Option<String>, key: &str| {
        given
            .clone()
            .or_else(|| Some(ctx.configured(key).to_owned()).filter(|v| !v.is_empty()))
            .map(Into::into)
    };
    flag("socket", Some(ctx.socket.clone().into()));
    flag("registry", configured(&args.registry, "registry"));
    flag("beacon", configured(&args.beacon, "beacon"));
    flag("listen", configured(&args.listen, "listen"));
    flag("hostname", configured(&args.hostname, "hostname"));
    flag("identity", args.identity.clone().map(Into::into));
    flag("config", args.config.clone().map(Into::into));
    flag("state-dir", args.state_dir.clone().map(Into::into));
    flag("plugins", args.plugins.clone().map(Into::into));
    flag("log-level", args.log_level.clone().map(Into::into));
    flag("log-format", args.log_format.clone().map(Into::into));
    if args.public || matches!(ctx.config.get("public"), Some(Value::Bool(true))) {
        command.arg("--public");
    }
    if args.trust_auto_approve {
        command.arg("--trust-auto-approve");
    }
    // A secret on a command line is there for every user of the machine to read.
    if let Some(token) = args.admin_token.clone().or_else(|| ctx.setting("PILOT_ADMIN_TOKEN", "admin_token"))
    {
        command.env("PILOT_ADMIN_TOKEN", token);
    }
    command.args(&args.rest);
    command
}

/// Waits until the daemon answers and is registered. One that answers but has no registry yet is good enough at the end.
async fn wait_for(
    ctx: &Context,
    mut child: Child,
    limit: Duration,
    log: &Path,
    begin: u64,
) -> Result<Value, Failure> {
    let deadline = Instant::now() + limit;
    let mut last = None;
    loop {
        if let Some(info) = info(ctx).await {
            if info["registered"] != Value::Bool(false) && number(&info, "node_id") != 0 {
                return Ok(info);
            }
            last = Some(info);
        }
        if let Ok(Some(status)) = child.try_wait() {
            let tail = tail(log, begin);
            let text = format!("the daemon ended during its start ({status}){tail}");
            return Err(Failure::internal(text).hint(format!("the whole log: {}", log.display())));
        }
        if Instant::now() >= deadline {
            return last.ok_or_else(|| {
                Failure::timeout(format!("the daemon did not answer within {}", go_duration(limit)))
                    .hint(format!("it keeps running; see {}", log.display()))
            });
        }
        sleep(LOOK).await;
    }
}

async fn info(ctx: &Context) -> Option<Value> {
    let client = Client::connect(&ctx.socket).await.ok()?;
    client.json(&Request::Info).await.ok()
}

/// The last lines the daemon wrote since it was started.
fn tail(log: &Path, begin: u64) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let fresh = bytes.get(usize::try_from(begin).unwrap_or(0)..).unwrap_or_default();
    let text = String::from_utf8_lossy(fresh);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES);
    lines[from..].iter().map(|l| format!("\n  {l}")).collect()
}

// ---- the pid file

/// The pid of a daemon that lives; `None` when the file is absent, empty, garbage, or names another program.
fn running_pid(file: &Path) -> Option<Pid> {
    let pid: i32 = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
    let pid = Pid::from_raw(pid)?;
    let program = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (PROGRAMS.contains(&program.trim()) && alive(pid)).then_some(pid)
}

/// Takes the pid file: exclusively when it is not there, over a stale one otherwise.
fn claim(file: &Path) -> Result<(), Failure> {
    let fail = |e: std::io::Error| Failure::internal(format!("cannot write {}: {e}", file.display()));
    let dir = file.parent().unwrap_or(Path::new("."));
    {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail)?;
    }
    let fresh = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    match fresh {
        Ok(mut f) => f.write_all(b"0").map_err(fail),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(fail(e)),
    }
}

fn write_pid(file: &Path, pid: u32) -> Result<(), Failure> {
    write_private(file, &pid.to_string())
        .map_err(|e| Failure::internal(format!("cannot write {}: {e}", file.display())))
}

/// Whether a process still runs; one that ended and waits for its parent does not.
fn alive(pid: Pid) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => {
            // The name in parentheses may hold anything, the state follows it.
            let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
            !matches!(state, None | Some('Z' | 'X'))
        }
        // No such process, or a system without /proc.
        Err(_) => !Path::new("/proc/self").exists() && rustix::process::test_kill_process(pid).is_ok(),
    }
}

// ---- stop

async fn stop(ctx: &Context) -> Outcome {
    let mut pid_file = ctx.home.join("pilot.pid");
    let (pid, asked) = match Client::connect(&ctx.socket).await {
        Ok(client) => {
            let behind = client.daemon_pid().and_then(Pid::from_raw);
            // A daemon with a state directory of its own has its pid file there.
            if let Ok(Some(paths)) = ctx.host(&client, "paths", json!({})).await
                && let Some(dir) = paths["state_dir"].as_str()
            {
                pid_file = Path::new(dir).join("pilot.pid");
            }
            let answer = ctx.host(&client, "stop", json!({})).await;
            (behind, matches!(answer, Ok(Some(_))))
        }
        Err(_) => (None, false),
    };
    let Some(pid) = pid.or_else(|| running_pid(&pid_file)) else {
        return Err(Failure::new(code::NOT_RUNNING, "daemon is not running")
            .hint(format!("nothing answers on {}", ctx.socket.display())));
    };
    if !asked {
        signal(pid, Signal::TERM)?;
    }
    let mut forced = false;
    if !gone(ctx, pid, STOP_LIMIT).await {
        forced = true;
        signal(pid, Signal::KILL)?;
        if !gone(ctx, pid, STOP_LIMIT).await {
            return Err(Failure::timeout(format!("daemon (pid {pid}) did not end")));
        }
    }
    if std::fs::read_to_string(&pid_file).is_ok_and(|text| text.trim() == pid.to_string()) {
        // Gone or replaced meanwhile: nothing to tidy up.
        let _ = std::fs::remove_file(&pid_file);
    }
    let mut data = json!({ "pid": pid.as_raw_nonzero().get() });
    let mut text = format!("daemon stopped (pid {pid})");
    if forced {
        data["forced"] = true.into();
        text = ctx.out.yellow(&format!("daemon killed (pid {pid}): it did not stop by itself"));
    }
    Ok(Report::new(data, text))
}

fn signal(pid: Pid, signal: Signal) -> Result<(), Failure> {
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => {
            Err(Failure::new(code::PERMISSION_DENIED, format!("cannot signal the daemon (pid {pid}): {e}")))
        }
    }
}

/// Waits until the process has ended and nobody answers on the socket.
async fn gone(ctx: &Context, pid: Pid, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if !alive(pid) && Client::connect(&ctx.socket).await.is_err() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(LOOK).await;
    }
}

// ---- status

async fn status(ctx: &Context, args: Status) -> Outcome {
    let client = Client::connect(&ctx.socket).await.ok();
    let info = match &client {
        Some(client) => client.json(&Request::Info).await.ok(),
        None => None,
    };
    if args.check {
        return Ok(Report::silent(u8::from(info.is_none())));
    }
    let pid_file = ctx.home.join("pilot.pid");
    let behind = client.as_ref().and_then(Client::daemon_pid).and_then(Pid::from_raw);
    let pid = behind.or_else(|| running_pid(&pid_file));
    let mut data = json!({
        "running": pid.is_some() || client.is_some(),
        "responsive": info.is_some(),
        "pid": pid.map_or(0, |p| p.as_raw_nonzero().get()),
        "pid_file": pid_file.display().to_string(),
        "socket": ctx.socket.display().to_string(),
    });
    let out = &ctx.out;
    let state = match (&info, pid) {
        (Some(_), _) => out.green("running"),
        (None, Some(_)) => out.yellow("running, but it does not answer"),
        (None, None) => out.red("not running"),
    };
    let mut rows = vec![
        ("Daemon", state),
        ("Pid", pid.map(|p| p.to_string()).unwrap_or_default()),
        ("Socket", ctx.socket.display().to_string()),
    ];
    if let Some(info) = &info {
        for key in ["node_id", "address", "hostname", "uptime_secs", "peers", "connections"] {
            data[key] = info[key].clone();
        }
        rows.push(("Node", number(info, "node_id").to_string()));
        rows.push(("Address", text(info, "address").to_owned()));
        rows.push(("Hostname", text(info, "hostname").to_owned()));
        rows.push(("Uptime", uptime(info["uptime_secs"].as_f64().unwrap_or(0.0))));
        rows.push(("Peers", number(info, "peers").to_string()));
        rows.push(("Connections", number(info, "connections").to_string()));
    }
    Ok(Report::new(data, out.facts(&rows)))
}
