//! Answers the engine's questions off its path: where a node is, which key it has, who may come in (stream.md section 7).
//! One task takes questions; each is answered on a task of its own, a bounded number at once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pilot_engine::{Answer, Query, QueryId, Resolution, Verdict};
use plugin_abi::{Direction, PolicyEvent};
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, debug_span};

use crate::core::Core;
use crate::services::Decider;

/// Questions answered at once; later ones wait, and the engine gives up on those that wait too long.
const IN_FLIGHT: usize = 256;
/// How long a "no" of the registry's trust check is believed, so that a stranger's repeats cost nothing.
const REFUSAL_TTL: Duration = Duration::from_secs(5);
/// Remembered refusals; when full they are all forgotten.
const REFUSALS: usize = 4096;

/// Runs until the engine's questions end.
pub async fn run(core: Arc<Core>, mut queries: mpsc::Receiver<(QueryId, Query)>) {
    let admission = Arc::new(Admission { core, refused: Mutex::default() });
    let permits = Arc::new(Semaphore::new(IN_FLIGHT));
    while let Some((id, query)) = queries.recv().await {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let admission = admission.clone();
        tokio::spawn(async move {
            let answer = admission.answer(query).await;
            admission.core.node.answer(id, answer).await;
            drop(permit);
        });
    }
}

struct Admission {
    core: Arc<Core>,
    refused: Mutex<HashMap<u32, Instant>>,
}

impl Admission {
    async fn answer(&self, query: Query) -> Answer {
        match query {
            Query::Resolve { node } => self.resolve(node).await,
            Query::PeerKey { node } => self.peer_key(node).await,
            Query::AdmitSyn { peer, dst, dst_port, reply_window, .. } => {
                if !reply_window && !self.trusted(peer).await {
                    return Answer::Admit(Verdict::Untrusted);
                }
                self.port(PolicyEvent::Connect, dst.network, peer, dst_port, 0).await
            }
            Query::AdmitDatagram { peer, dst, dst_port, size, .. } => {
                if !self.trusted(peer).await {
                    return Answer::Admit(Verdict::Untrusted);
                }
                let size = u32::try_from(size).unwrap_or(u32::MAX);
                self.port(PolicyEvent::Datagram, dst.network, peer, dst_port, size).await
            }
            Query::AdmitPing { peer } => match self.trusted(peer).await {
                true => Answer::Admit(Verdict::Allow),
                false => Answer::Admit(Verdict::Untrusted),
            },
            other => Answer::Failed(format!("the host does not know this question: {other:?}")),
        }
    }

    async fn resolve(&self, node: u32) -> Answer {
        let Some(registry) = self.core.registry() else {
            return Answer::Failed("registry connection not initialized".into());
        };
        match registry.resolve(node).await {
            Ok(found) => {
                let real_addr = match found.real_addr.is_empty() {
                    true => None,
                    false => lookup(&found.real_addr).await,
                };
                let lan_addrs = found.lan_addrs.iter().filter_map(|a| a.parse().ok()).take(16).collect();
                Answer::Resolved(Resolution { real_addr, lan_addrs, relay_only: found.relay_only })
            }
            Err(e) => Answer::Failed(format!("resolve node {node}: {e}")),
        }
    }

    async fn peer_key(&self, node: u32) -> Answer {
        let Some(registry) = self.core.registry() else {
            return Answer::Failed("registry connection not initialized".into());
        };
        match registry.lookup(node).await {
            Ok(found) => {
                let key = STANDARD.decode(&found.public_key).ok().and_then(|k| <[u8; 32]>::try_from(k).ok());
                self.core.note_peer(node, &found.public_key, found.tags);
                let trusted = self.known(node).await;
                Answer::PeerKey { key, trusted }
            }
            Err(e) => Answer::Failed(format!("lookup node {node}: {e}")),
        }
    }

    /// The trust gate: public nodes let everybody in; a private one asks its trust store, then the registry, which
    /// knows shared networks.
    async fn trusted(&self, peer: u32) -> bool {
        if self.core.is_public() || peer == self.core.node_id() {
            return true;
        }
        if self.known(peer).await {
            return true;
        }
        if self.refused_lately(peer) {
            return false;
        }
        let Some(registry) = self.core.registry() else { return false };
        let trusted = registry.check_trust(self.core.node_id(), peer).await.unwrap_or_else(|e| {
            debug!(peer, error = %e, "trust check failed");
            false
        });
        if !trusted {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            if refused.len() >= REFUSALS {
                refused.clear();
            }
            refused.insert(peer, Instant::now());
        }
        trusted
    }

    /// Whether the trust store holds a grant for the peer that its present key does not contradict.
    async fn known(&self, peer: u32) -> bool {
        let Decider::Ask(service) = self.core.services.handshake.decide().await else { return false };
        let key = self.core.peer_key_text(peer);
        // In-memory by contract, yet a plugin's code: never on a runtime thread. A failure is a "no".
        let span = debug_span!("plugin.call", op = "is_trusted_with_key", peer);
        let ask = move || span.in_scope(|| service.is_trusted_with_key(peer, &key));
        tokio::task::spawn_blocking(ask).await.unwrap_or(false)
    }

    fn refused_lately(&self, peer: u32) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(&peer).is_some_and(|at| at.elapsed() < REFUSAL_TTL)
    }

    async fn port(&self, event: PolicyEvent, network: u16, peer: u32, port: u16, size: u32) -> Answer {
        match self.core.port_allowed(event, network, peer, port, size, Direction::In).await {
            true => Answer::Admit(Verdict::Allow),
            false => Answer::Admit(Verdict::PortDenied),
        }
    }
}

/// A registered endpoint is usually a literal; names are looked up.
async fn lookup(text: &str) -> Option<SocketAddr> {
    match text.parse() {
        Ok(addr) => Some(addr),
        Err(_) => tokio::net::lookup_host(text).await.ok()?.next(),
    }
}
