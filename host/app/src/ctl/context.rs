//! What every command needs: where the socket and the state are, the tool's own configuration, and how to reach the
//! daemon and name a peer (cli.md sections 1, 3 and 4).

use std::path::{Path, PathBuf};
use std::time::Duration;

use pilot_net::ipc::{Client, ClientError, ConnectError, default_socket_path};
use pilot_wire::addr::Addr;
use pilot_wire::ipc::Request;
use serde_json::{Map, Value, json};

use super::cli::Cli;
use super::fail::{Failure, code};
use super::out::Out;
use super::values::text;
use crate::config::default_state_dir;

/// How long a dial may take unless a command says otherwise (ipc.md section 6).
pub(super) const DIAL_LIMIT: Duration = Duration::from_secs(30);

/// Where a daemon that runs as a system service has its socket.
const SYSTEM_SOCKET: &str = "/run/pilot/pilot.sock";

/// The environment of one command.
#[derive(Debug)]
pub(super) struct Context {
    pub out: Out,
    pub verbose: bool,
    /// The daemon's socket.
    pub socket: PathBuf,
    /// `~/.pilot`.
    pub home: PathBuf,
    /// `config.json`, empty when there is none.
    pub config: Map<String, Value>,
}

/// Where a daemon keeps what the tool reads as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dirs {
    pub inbox: PathBuf,
    pub received: PathBuf,
}

/// A peer as the user named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub addr: Addr,
    /// The words on the command line.
    pub name: String,
}

impl Context {
    pub(super) fn new(cli: &Cli, out: Out) -> Result<Context, Failure> {
        let home = default_state_dir();
        let config = read_config(&home.join("config.json"), &out);
        let env = std::env::var_os("PILOT_SOCKET").filter(|v| !v.is_empty()).map(PathBuf::from);
        let configured =
            config.get("socket").and_then(Value::as_str).filter(|s| !s.is_empty()).map(PathBuf::from);
        let socket = cli.socket.clone().or(env).or(configured).unwrap_or_else(|| {
            let own = default_socket_path();
            // Nobody's own daemon: then the machine's, where a package runs one.
            match !own.exists() && Path::new(SYSTEM_SOCKET).exists() {
                true => SYSTEM_SOCKET.into(),
                false => own,
            }
        });
        Ok(Context { out, verbose: cli.verbose, socket, home, config })
    }

    pub(super) fn config_path(&self) -> PathBuf {
        self.home.join("config.json")
    }

    /// A text from the configuration, or empty.
    pub(super) fn configured(&self, key: &str) -> &str {
        self.config.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// An environment variable, else the configuration; `None` when both are empty.
    pub(super) fn setting(&self, variable: &str, key: &str) -> Option<String> {
        let env = std::env::var(variable).ok().filter(|v| !v.is_empty());
        env.or_else(|| Some(self.configured(key).to_owned()).filter(|v| !v.is_empty()))
    }

    /// Changes one key of `config.json`, atomically.
    pub(super) fn save_config(&self, changes: &[(&str, Value)]) -> Result<(), Failure> {
        let mut config = self.config.clone();
        for (key, value) in changes {
            config.insert((*key).to_owned(), value.clone());
        }
        let path = self.config_path();
        write_private(&path, &format!("{:#}\n", Value::Object(config)))
            .map_err(|e| Failure::internal(format!("cannot write {}: {e}", path.display())))
    }

    /// Connects to the daemon.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        Client::connect(&self.socket).await.map_err(|error| match &error {
            ConnectError::NotRunning { path } => Failure::new(code::NOT_RUNNING, "daemon is not running")
                .hint(format!("start the daemon with: pilotctl daemon start  (tried {})", path.display())),
            ConnectError::Io { cause, .. } if cause.kind() == std::io::ErrorKind::PermissionDenied => {
                Failure::new(code::PERMISSION_DENIED, format!("{error}"))
                    .hint("the socket belongs to another user; use that user's account or another --socket")
            }
            ConnectError::Io { .. } => Failure::new(code::NOT_RUNNING, format!("{error}")),
        })
    }

    /// One of our own host's requests; `None` when the daemon does not know it.
    pub(super) async fn host(
        &self,
        client: &Client,
        op: &str,
        params: Value,
    ) -> Result<Option<Value>, ClientError> {
        let params = params.as_object().cloned().unwrap_or_default();
        match client.json(&Request::Host { op: op.to_owned(), params }).await {
            Ok(value) => Ok(Some(value)),
            Err(ClientError::Daemon(text))
                if text.starts_with("unknown command") || text.starts_with("host: unknown op") =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Where the daemon behind the socket keeps messages and files. Without one, or when it does not say, below
    /// `~/.pilot`.
    pub(super) async fn dirs(&self) -> Dirs {
        let paths = match self.connect().await {
            Ok(client) => self.host(&client, "paths", json!({})).await.ok().flatten(),
            Err(_) => None,
        };
        let dir = |key: &str, default: &str| {
            let told = paths.as_ref().map(|p| text(p, key)).filter(|p| !p.is_empty());
            told.map_or_else(|| self.home.join(default), PathBuf::from)
        };
        Dirs { inbox: dir("inbox_dir", "inbox"), received: dir("received_dir", "received") }
    }

    /// An address, a node number, or a host name that the daemon resolves.
    pub(super) async fn target(&self, client: &Client, name: &str) -> Result<Target, Failure> {
        if let Some(addr) = literal(name) {
            return Ok(Target { addr, name: name.to_owned() });
        }
        let found =
            client.json(&Request::ResolveHostname(name.to_owned())).await.map_err(|error| {
                match error.daemon_text() {
                    Some(text) if !text.contains("not found") => {
                        Failure::connection(format!("cannot resolve {name:?}: {text}"))
                    }
                    Some(_) => Failure::not_found(format!(
                        "cannot resolve {name:?} \u{2014} is the hostname correct and is there mutual trust? \
                     (see: pilotctl handshake)"
                    )),
                    None => error.into(),
                }
            })?;
        let addr: Addr = text(&found, "address")
            .parse()
            .map_err(|e| Failure::connection(format!("the daemon gave no address for {name:?}: {e}")))?;
        self.out.remark(&format!("resolved {name:?} \u{2192} {addr}"));
        Ok(Target { addr, name: name.to_owned() })
    }

    /// A remark for `--verbose`.
    pub(super) fn detail(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            self.out.complain(&text());
        }
    }
}

/// An address or a plain node number.
pub(super) fn literal(name: &str) -> Option<Addr> {
    if let Ok(addr) = name.parse::<Addr>() {
        return Some(addr);
    }
    let digits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    name.parse().ok().filter(|_| digits).map(Addr::backbone)
}

/// The tool's configuration; a broken file is named and ignored.
fn read_config(path: &Path, out: &Out) -> Map<String, Value> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Map::new(),
        Err(e) => {
            out.remark(&format!("warning: cannot read {}: {e}; using defaults", path.display()));
            return Map::new();
        }
    };
    serde_json::from_slice(&bytes).unwrap_or_else(|e| {
        out.remark(&format!("warning: {} is not valid: {e}; using defaults", path.display()));
        Map::new()
    })
}

/// Replaces a file atomically, mode 0600, its directory 0700 when it has to be made.
pub(super) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::DirBuilderExt;
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // Temporary files of this library have mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
