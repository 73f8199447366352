//! The connection to the runner: where it is, who must answer, who we are, what its refusals mean.

use pilot_net::control::keys::{Keys, to_text};
use pilot_net::control::{CallError, Client, ClientConfig, DialError, Expect};
use serde_json::json;

use super::args::Reach;
use crate::ctl::cmd::Outcome;
use crate::ctl::context::Context;
use crate::ctl::fail::{Failure, code};
use crate::ctl::out::Report;
use crate::runner::serve::{default_dir, pin};

/// Where a runner listens unless something says otherwise (zap.md section 1).
const DEFAULT_ADDRESS: &str = "127.0.0.1:9999";

impl Reach {
    fn dir(&self) -> std::path::PathBuf {
        self.runner_dir.clone().unwrap_or_else(default_dir)
    }

    fn keys(&self) -> Result<Keys, Failure> {
        Keys::load_or_create(&self.dir().join("client.key"))
            .map_err(|e| Failure::new(code::IO_ERROR, e.to_string()))
    }
}

/// `net identity`
pub(super) fn identity(reach: &Reach) -> Outcome {
    let identity = reach.keys()?.identity();
    let text = to_text(identity.public());
    let fingerprint = identity.public().fingerprint();
    Ok(Report::new(json!({ "identity": text, "fingerprint": fingerprint }), text))
}

/// Connects and makes sure who answers.
pub(super) async fn connect(ctx: &Context, reach: &Reach) -> Result<Client, Failure> {
    let dir = reach.dir();
    let told = reach.runner.clone().filter(|a| !a.is_empty());
    let noted = || std::fs::read_to_string(dir.join("address")).ok().map(|a| a.trim().to_owned());
    let address = told.or_else(noted).unwrap_or_else(|| DEFAULT_ADDRESS.to_owned());
    let no_runner = |text: String| {
        Failure::new(code::NOT_RUNNING, text)
            .hint("start one with: pilot-host runner serve --plugins DIR; or name it with --runner and --runner-dir")
    };
    let known = reach.runner_identity.clone().unwrap_or_else(|| dir.join("runner.pub").display().to_string());
    let expect = pin(&known).map_err(|e| no_runner(format!("no runner is known here: {e:#}")))?;
    let config = ClientConfig::new(Expect::OneOf(vec![expect]));
    ctx.detail(|| format!("runner at {address}"));
    Client::dial(address.as_str(), &reach.keys()?, &config).await.map_err(|e| match &e {
        DialError::Connect(cause) => no_runner(format!("no runner answers at {address}: {cause}")),
        _ => Failure::new(code::PERMISSION_DENIED, format!("runner at {address}: {e}"))
            .hint("it may not know us: give it the text of `pilotctl net identity` with --allow"),
    })
}

/// A call that the runner refused, or that has no answer.
pub(super) fn call_failed(error: CallError) -> Failure {
    let text = match &error {
        CallError::Remote(text) => text.clone(),
        other => other.to_string(),
    };
    let code = match text.as_str() {
        "not bootstrapped" => {
            return Failure::new(code::NOT_RUNNING, text).hint("start a cluster with: pilotctl net start");
        }
        "already bootstrapped" => {
            return Failure::new(code::ALREADY_EXISTS, text)
                .hint("a runner has one cluster: pilotctl net stop ends it");
        }
        "context deadline exceeded" => code::TIMEOUT,
        t if t.ends_with("not found") || t.contains("does not exist") => code::NOT_FOUND,
        t if t.starts_with("repeated") || t.ends_with("already exists") => code::ALREADY_EXISTS,
        t if t.starts_with("invalid") || t.contains("is managed by the runner") || t.contains("is not ") => {
            code::INVALID_ARGUMENT
        }
        _ if !matches!(error, CallError::Remote(_)) => code::CONNECTION_FAILED,
        _ => code::INTERNAL,
    };
    Failure::new(code, text)
}
