//! The registry as connections see it: hand in a request, get an answer that may be sent.
//!
//! The registry stands behind a plain lock, held only while it works on one request and never across an await; lookups
//! share it. Signatures are checked before it is taken. Changes are queued for the committer under that lock, so the store sees them in the order in which they were made; the answer
//! comes back when the store has them.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use pilot_rendezvous::{Change, Claim, FrameReply, Proof, Registry};
use pilot_wire::registry::{MSG_ERROR, encode_error};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::committer::{CommitSender, Order};
use super::verifier::Verifier;

/// Notices to the beacon that wait at a time; when the queue is full a node finds out by its next regular poll.
const NOTICES: usize = 1024;
/// What a client reads when its change could not be stored.
const NOT_STORED: &str = "request failed";

/// An answer to a JSON request.
#[derive(Debug)]
pub(super) struct Answer {
    pub body: Map<String, Value>,
    /// Close the connection behind it.
    pub close: bool,
}

/// The shared registry.
#[derive(Debug)]
pub(super) struct Desk {
    registry: RwLock<Registry>,
    verifier: Arc<Verifier>,
    commits: Option<CommitSender>,
    notices: mpsc::Sender<u32>,
}

impl Desk {
    /// A desk, and the numbers of nodes that the beacon should notify.
    pub fn new(registry: Registry, commits: Option<CommitSender>) -> (Self, mpsc::Receiver<u32>) {
        let (notices, receiver) = mpsc::channel(NOTICES);
        (
            Self { registry: RwLock::new(registry), verifier: Arc::new(Verifier::new()), commits, notices },
            receiver,
        )
    }

    /// One request of JSON mode.
    pub async fn request(&self, source: SocketAddr, request: &Map<String, Value>) -> Answer {
        let claim = self.read().signature_claim(request);
        let proof = self.proof(claim).await;
        let work = |registry: &mut Registry| {
            let reply = registry.handle_proven(unix_now(), source, request, proof);
            (reply.changes, (reply.body, reply.close, reply.notify))
        };
        match self.work(work).await {
            Ok((body, close, notify)) => {
                self.notify(&notify);
                Answer { body, close }
            }
            Err(NotStored) => {
                let body =
                    Map::from_iter([("type".into(), json!("error")), ("error".into(), json!(NOT_STORED))]);
                Answer { body, close: false }
            }
        }
    }

    /// One frame of binary mode; gives type and payload of the answer.
    pub async fn frame(&self, source: SocketAddr, kind: u8, payload: &[u8]) -> (u8, Vec<u8>) {
        let (answer, claim) = {
            let registry = self.read();
            (registry.read_frame(kind, payload), registry.frame_signature_claim(kind, payload))
        };
        if let Some(answer) = answer {
            return answer;
        }
        let proof = self.proof(claim).await;
        let work = |registry: &mut Registry| {
            let FrameReply { kind, payload, changes, notify } =
                registry.handle_frame_proven(unix_now(), source, kind, payload, proof);
            (changes, (kind, payload, notify))
        };
        match self.work(work).await {
            Ok((kind, payload, notify)) => {
                self.notify(&notify);
                (kind, payload)
            }
            Err(NotStored) => (MSG_ERROR, encode_error(NOT_STORED)),
        }
    }

    /// Removes silent nodes.
    pub async fn sweep(&self) {
        // A failure is logged by the committer and made good with the next commit.
        let _ = self.work(|registry| (registry.sweep(unix_now()), ())).await;
    }

    /// Stores what is only worth storing at the end.
    pub async fn last_commit(&self) {
        if self.commits.is_some() {
            let _ = self.work(|registry| (registry.final_changes(), ())).await;
        }
    }

    pub fn key_of(&self, node: u32) -> Option<[u8; 32]> {
        self.read().key_of(node)
    }

    pub fn node_count(&self) -> usize {
        self.read().node_count()
    }

    /// Works on the registry and returns when the changes are stored.
    async fn work<T>(&self, work: impl FnOnce(&mut Registry) -> (Vec<Change>, T)) -> Result<T, NotStored> {
        let Some(commits) = &self.commits else { return Ok(work(&mut self.write()).1) };
        // The place in the queue comes first, so that nothing has to wait while the lock is held.
        let place = commits.reserve().await.map_err(|_| NotStored)?;
        let (result, stored) = {
            let mut registry = self.write();
            let (changes, result) = work(&mut registry);
            if changes.is_empty() {
                return Ok(result);
            }
            let (order, stored) = Order::write(changes);
            place.send(order);
            (result, stored)
        };
        match stored.await {
            Ok(true) => Ok(result),
            Ok(false) | Err(_) => Err(NotStored),
        }
    }

    fn notify(&self, nodes: &[u32]) {
        for node in nodes {
            let _ = self.notices.try_send(*node);
        }
    }

    /// Checks a signature before the registry is asked, so that nobody has to wait for it. A request without a proof is
    /// as good; the registry then checks it itself.
    async fn proof(&self, claim: Option<Claim>) -> Option<Proof> {
        match claim {
            Some(claim) => self.verifier.check(claim).await,
            None => None,
        }
    }

    /// Whose tasks check the signatures.
    pub fn verifier(&self) -> Arc<Verifier> {
        self.verifier.clone()
    }

    fn read(&self) -> RwLockReadGuard<'_, Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Registry> {
        self.registry.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store did not take the changes.
#[derive(Debug)]
struct NotStored;

/// The wall clock, unix seconds.
pub(super) fn unix_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
