//! How a command fails: a code for scripts, a sentence for people, a hint what to do (cli.md section 1, "Error codes").

use pilot_net::ipc::ClientError;

/// The error codes that scripts know.
pub(super) mod code {
    pub const INVALID_ARGUMENT: &str = "invalid_argument";
    pub const NOT_FOUND: &str = "not_found";
    pub const ALREADY_EXISTS: &str = "already_exists";
    pub const NOT_RUNNING: &str = "not_running";
    pub const CONNECTION_FAILED: &str = "connection_failed";
    pub const TIMEOUT: &str = "timeout";
    pub const INTERNAL: &str = "internal";
    pub const TRUST_REQUIRED: &str = "trust_required";
    pub const AUTH_REQUIRED: &str = "auth_required";
    pub const PERMISSION_DENIED: &str = "permission_denied";
    pub const IO_ERROR: &str = "io_error";
    pub const UNAVAILABLE: &str = "unavailable";
}

/// A failed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// One of [`code`].
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failure {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn invalid(message: impl Into<String>) -> Failure {
        Failure::new(code::INVALID_ARGUMENT, message)
    }

    pub(super) fn internal(message: impl Into<String>) -> Failure {
        Failure::new(code::INTERNAL, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Failure {
        Failure::new(code::NOT_FOUND, message)
    }

    pub(super) fn connection(message: impl Into<String>) -> Failure {
        Failure::new(code::CONNECTION_FAILED, message)
    }

    pub(super) fn timeout(message: impl Into<String>) -> Failure {
        Failure::new(code::TIMEOUT, message)
    }
}

/// A request that failed, without more to say about it.
impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match &error {
            ClientError::Timeout(_) => Failure::timeout(error.to_string()),
            ClientError::Closed => Failure::connection("the daemon closed the connection")
                .hint("see whether it still runs: pilotctl daemon status"),
            // A name, node or network that nobody knows: asking again does not help.
            _ if error.daemon_text().is_some_and(|text| text.ends_with("not found")) => {
                Failure::not_found(error.to_string())
            }
            _ => match error.daemon_text().and_then(known) {
                Some((code, hint)) => Failure::new(code, error.to_string()).hint(hint),
                None => Failure::connection(error.to_string()),
            },
        }
    }
}

/// Code and hint for refusals whose text says what would help.
fn known(text: &str) -> Option<(&'static str, &'static str)> {
    const KNOWN: &[(&str, &str, &str)] = &[
        ("rbac: ", code::PERMISSION_DENIED, "ask the network's owner, or set PILOT_ADMIN_TOKEN"),
        (
            "admin token",
            code::AUTH_REQUIRED,
            "set PILOT_ADMIN_TOKEN or admin_token (pilotctl config --set admin_token=...)",
        ),
        (
            "invalid token for network",
            code::CONNECTION_FAILED,
            "give the network's token: pilotctl network join <id> --token <token>",
        ),
        (
            "no active managed networks",
            code::CONNECTION_FAILED,
            "no policy is in force here; see: pilotctl policy set --help",
        ),
        (
            "no active policy runner",
            code::CONNECTION_FAILED,
            "no policy is in force here; see: pilotctl policy set --help",
        ),
        (
            "request failed",
            code::CONNECTION_FAILED,
            "the registry gives no reason; it may not offer this, or not to this node",
        ),
        ("was not trusted", code::CONNECTION_FAILED, "those who are: pilotctl trust"),
        (
            "already bound",
            code::CONNECTION_FAILED,
            "choose another port, or end the program or plugin that has it",
        ),
        (
            "service not registered",
            code::CONNECTION_FAILED,
            "the plugin that does this is not loaded; see: pilotctl plugins",
        ),
    ];
    KNOWN.iter().find(|(words, ..)| text.contains(words)).map(|(_, code, hint)| (*code, *hint))
}
