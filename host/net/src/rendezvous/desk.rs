//! The registry as connections see it: hand in a request, get an answer that may be sent.
//!
//! The registry stands behind a plain lock, held only while it works on one request and never across an await; lookups
//! share it. Signatures are checked before it is taken. Changes are queued for the committer under that lock, so the store
//! sees them in the order in which they were made; the answer comes back when the store has them.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use pilot_rendezvous::{Change, Claim, FrameReply, Proof, Registry, Snapshot, Stats};
use pilot_wire::registry::{MSG_ERROR, encode_error};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::committer::{CommitSender, Order};
use super::verifier::Verifier;
use super::webhook::{self, Letter};

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
    /// Nothing is sent; the client becomes a standby that is fed.
    pub subscribed: bool,
}

/// The shared registry.
#[derive(Debug)]
pub(super) struct Desk {
    registry: RwLock<Registry>,
    verifier: Arc<Verifier>,
    commits: Option<CommitSender>,
    notices: mpsc::Sender<u32>,
    letters: mpsc::Sender<Letter>,
}

/// What others do for the registry.
#[derive(Debug)]
pub(super) struct Errands {
    /// Nodes that the beacon should notify.
    pub notices: mpsc::Receiver<u32>,
    /// Audit entries for the webhook.
    pub letters: mpsc::Receiver<Letter>,
}

impl Desk {
    /// A desk, and what it wants done elsewhere.
    pub fn new(registry: Registry, commits: Option<CommitSender>) -> (Self, Errands) {
        let (notices, noticed) = mpsc::channel(NOTICES);
        let (letters, posted) = mpsc::channel(webhook::QUEUE);
        let desk = Self {
            registry: RwLock::new(registry),
            verifier: Arc::new(Verifier::new()),
            commits,
            notices,
            letters,
        };
        (desk, Errands { notices: noticed, letters: posted })
    }

    /// One request of JSON mode.
    pub async fn request(&self, source: SocketAddr, request: &Map<String, Value>) -> Answer {
        let claim = self.read().signature_claim(request);
        let proof = self.proof(claim).await;
        let work = |registry: &mut Registry| {
            let reply = registry.handle_proven(unix_now(), source, request, proof);
            let letter = letter(registry, reply.audit);
            (reply.changes, (reply.body, reply.close, reply.subscribed, reply.notify, letter))
        };
        match self.work(work).await {
            Ok((body, close, subscribed, notify, letter)) => {
                self.notify(&notify);
                self.post(letter);
                Answer { body, close, subscribed }
            }
            Err(NotStored) => {
                let body =
                    Map::from_iter([("type".into(), json!("error")), ("error".into(), json!(NOT_STORED))]);
                Answer { body, close: false, subscribed: false }
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
            let FrameReply { kind, payload, changes, notify, audit } =
                registry.handle_frame_proven(unix_now(), source, kind, payload, proof);
            let letter = letter(registry, audit);
            (changes, (kind, payload, notify, letter))
        };
        match self.work(work).await {
            Ok((kind, payload, notify, letter)) => {
                self.notify(&notify);
                self.post(letter);
                (kind, payload)
            }
            Err(NotStored) => (MSG_ERROR, encode_error(NOT_STORED)),
        }
    }

    /// Becomes what a primary has.
    pub async fn follow(&self, snapshot: Snapshot) {
        // A failure is logged by the committer and made good with the next commit.
        let _ = self.work(|registry| (registry.follow(snapshot), ())).await;
    }

    /// Grows with every change.
    pub fn generation(&self) -> u64 {
        self.read().generation()
    }

    /// The whole content, and the generation it is of.
    pub fn snapshot(&self) -> (u64, Vec<u8>) {
        let registry = self.read();
        (registry.generation(), registry.snapshot())
    }

    pub fn stats(&self) -> Stats {
        self.read().stats()
    }

    pub fn network_sizes(&self) -> Vec<(u16, String, usize)> {
        self.read().network_sizes()
    }

    pub fn undelivered(&self, entry: Map<String, Value>) {
        self.write().undelivered(entry);
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

    fn post(&self, letter: Option<Letter>) {
        if let Some(letter) = letter
            && let Err(e) = self.letters.try_send(letter)
        {
            self.undelivered(e.into_inner().entry);
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

/// An audit entry with the webhook's address, when there is one.
fn letter(registry: &Registry, audit: Option<Map<String, Value>>) -> Option<Letter> {
    let entry = audit?;
    Some(Letter { url: registry.webhook_url()?.to_owned(), entry })
}

/// The store did not take the changes.
#[derive(Debug)]
struct NotStored;

/// The wall clock, unix seconds.
pub(super) fn unix_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
