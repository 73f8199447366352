//! Tells the operator's webhook what the audit log says (registry.md section 9): one entry per POST, one after the other.
//!
//! Fed by the desk through a bounded queue. What does not fit into it, and what three tries did not deliver, goes to the
//! registry's list of dead letters.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::desk::Desk;

/// Entries that wait.
pub(super) const QUEUE: usize = 1024;
const TRIES: u32 = 3;
/// Before the second try; doubles.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest one try may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// An audit entry and where it goes.
#[derive(Debug)]
pub(super) struct Letter {
    pub url: String,
    pub entry: Map<String, Value>,
}

/// Delivers until the server stops; what waits then is lost, but still in the audit log.
pub(super) async fn run(mut letters: mpsc::Receiver<Letter>, desk: Arc<Desk>, stop: CancellationToken) {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(DEADLINE)).build().into();
    loop {
        let letter = tokio::select! {
            () = stop.cancelled() => return,
            letter = letters.recv() => letter,
        };
        let Some(letter) = letter else { return };
        let delivered = tokio::select! {
            () = stop.cancelled() => return,
            delivered = deliver(&agent, &letter) => delivered,
        };
        if let Err(error) = delivered {
            tracing::warn!(url = %letter.url, %error, "rendezvous: the webhook did not take an audit entry");
            desk.undelivered(letter.entry);
        }
    }
}

async fn deliver(agent: &ureq::Agent, letter: &Letter) -> Result<(), String> {
    let body = serde_json::to_vec(&letter.entry).map_err(|e| e.to_string())?;
    let mut wait = FIRST_WAIT;
    let mut tried = 0;
    loop {
        let (agent, url, body) = (agent.clone(), letter.url.clone(), body.clone());
        let post =
            move || agent.post(&url).header("Content-Type", "application/json").send(&body[..]).map(drop);
        let sent = tokio::task::spawn_blocking(post).await.map_err(|e| e.to_string())?;
        tried += 1;
        match sent {
            Ok(()) => return Ok(()),
            Err(e) if tried == TRIES => return Err(e.to_string()),
            Err(_) => tokio::time::sleep(wait).await,
        }
        wait *= 2;
    }
}
