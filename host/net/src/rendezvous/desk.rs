//! The registry as connections see it: hand in a request, get an answer that may be sent.
//!
//! The registry stands behind a plain lock, held only while it works on requests and never across an await; lookups share
//! it. All other requests come through a queue and are worked on many at a time: read, and their signatures checked,
//! before the lock is taken. Changes are queued for the committer under the lock, so the store
//! sees them in the order in which they were made; an answer to a change goes back when the store has it.

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use pilot_rendezvous::{Change, Claim, Proof, ProofMemory, Registry, Reply, Snapshot, Stats};
use pilot_wire::registry::MessageError;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};

use super::committer::{CommitSender, Order};
use super::queue::{After, Done, Queue, Visit, Waiting};
use super::webhook::{self, Letter};

/// Good signatures remembered, 32 bytes each.
const REMEMBERED: usize = 1 << 16;
/// Notices to the beacon that wait at a time; when the queue is full a node finds out by its next regular poll.
const NOTICES: usize = 1024;
/// The shared registry.
#[derive(Debug)]
pub(super) struct Desk {
    registry: RwLock<Registry>,
    queue: Queue,
    proofs: Mutex<ProofMemory>,
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
            queue: Queue::default(),
            proofs: Mutex::new(ProofMemory::new(REMEMBERED)),
            commits,
            notices,
            letters,
        };
        (desk, Errands { notices: noticed, letters: posted })
    }

    /// Answers a frame that only reads (a lookup); `None` for all others, which have to [`ask`](Self::ask).
    pub fn read_frame(&self, kind: u8, payload: &[u8]) -> Option<(u8, Vec<u8>)> {
        self.read().read_frame(kind, payload)
    }

    /// One request, together with those of other connections; its answer is in the visit that comes back. `None` when the
    /// server is stopping.
    pub async fn ask(&self, visit: Box<Visit>) -> Option<Done> {
        let (waiting, over) = Waiting::new(visit);
        self.queue.put(waiting);
        over.await.ok()
    }

    /// One request by itself: one that takes long to read, so that no other has to wait for it.
    pub async fn ask_alone(self: &Arc<Self>, visit: Box<Visit>) -> Option<Done> {
        let (waiting, over) = Waiting::new(visit);
        self.serve(vec![waiting]).await;
        over.await.ok()
    }

    /// One of the tasks that do the work; it ends when it is dropped.
    pub async fn work(self: Arc<Self>) {
        loop {
            // First what one before this has left behind.
            while let Some((batch, turn)) = self.queue.take() {
                self.serve(batch).await;
                drop(turn);
                tokio::task::yield_now().await;
            }
            self.queue.filled().await;
        }
    }

    /// Works on some requests and gives each back: at once, or when its changes are stored.
    async fn serve(self: &Arc<Self>, mut batch: Vec<Waiting>) {
        // The place in the committer's queue comes first, so that nothing has to wait while the lock is held.
        let place = match &self.commits {
            // Without a committer the server is stopping, and who waits finds that out.
            Some(commits) => match commits.clone().reserve_owned().await {
                Ok(place) => Some(place),
                Err(_) => return,
            },
            None => None,
        };
        let (replies, stored) = self.handle(&mut batch, place);
        let mut unstored = Vec::with_capacity(if stored.is_some() { batch.len() } else { 0 });
        for (Waiting { visit, done }, reply) in batch.into_iter().zip(replies) {
            match reply {
                Ok(reply) if stored.is_some() && reply.reply.changed => {
                    unstored.push((Waiting { visit, done }, reply));
                }
                Ok(reply) => self.finish(visit, done, reply),
                Err(e) => {
                    let _ = done.send((visit, After::Unreadable(e)));
                }
            }
        }
        if let Some(stored) = stored {
            let desk = self.clone();
            tokio::spawn(async move {
                let stored = matches!(stored.await, Ok(true));
                for (Waiting { mut visit, done }, mut reply) in unstored {
                    if !stored {
                        reply = reply.not_stored(&mut visit);
                    }
                    desk.finish(visit, done, reply);
                }
            });
        }
    }

    /// The part that needs the registry: puts the answers into the visits. Also gives the news whether the changes are
    /// stored, if there are any.
    fn handle(
        &self,
        batch: &mut [Waiting],
        place: Option<mpsc::OwnedPermit<Order>>,
    ) -> (Vec<Result<Handled, MessageError>>, Option<oneshot::Receiver<bool>>) {
        let mut outs: Vec<_> = batch.iter_mut().map(|w| std::mem::take(&mut w.visit.out)).collect();
        let texts: Vec<_> = batch.iter().map(|w| w.visit.text()).collect();
        let queries: Vec<_> = batch.iter().zip(&texts).map(|(w, text)| w.visit.query(text)).collect();
        let claims = {
            let registry = self.read();
            queries.iter().map(|q| registry.signature_claim(q.as_ref().ok()?)).collect()
        };
        let proofs = self.check(claims);
        let (now, mut scratch) = (unix_now(), String::with_capacity(512));
        let mut replies = Vec::with_capacity(batch.len());
        let mut registry = self.write();
        for (((waiting, query), proof), out) in batch.iter().zip(queries).zip(proofs).zip(&mut outs) {
            replies.push(query.map(|query| {
                let mut reply = registry.handle(now, waiting.visit.source, &query, proof);
                let letter = letter(&registry, reply.audit.take()).map(Box::new);
                let before = out.len();
                // Written at once, lock or not: memory that is free again before the next answer needs some costs a tenth of
                // memory that is not.
                let after = answer(&mut reply, &mut scratch, out);
                Handled { reply, letter, after, before }
            }));
        }
        let changes = registry.take_changes();
        let stored = place.filter(|_| !changes.is_empty()).map(|place| {
            let (order, stored) = Order::write(changes);
            place.send(order);
            stored
        });
        drop(registry);
        drop(texts);
        for (waiting, out) in batch.iter_mut().zip(outs) {
            waiting.visit.out = out;
        }
        (replies, stored)
    }

    /// Checks signatures before the registry is asked, so that nobody has to wait for it.
    fn check(&self, claims: Vec<Option<Claim>>) -> Vec<Option<Proof>> {
        let mut proofs: Vec<_> = Vec::with_capacity(claims.len());
        let (mut unknown, mut places) = (Vec::new(), Vec::new());
        {
            let memory = self.proofs.lock().unwrap_or_else(PoisonError::into_inner);
            for (place, claim) in claims.into_iter().enumerate() {
                proofs.push(None);
                match claim.map(|claim| memory.recall(claim)) {
                    Some(Ok(proof)) => proofs[place] = Some(proof),
                    Some(Err(claim)) => {
                        unknown.push(claim);
                        places.push(place);
                    }
                    None => {}
                }
            }
        }
        if unknown.is_empty() {
            return proofs;
        }
        let checked = Claim::check_all(unknown);
        let mut memory = self.proofs.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, proof) in places.into_iter().zip(checked) {
            memory.keep(&proof);
            proofs[place] = Some(proof);
        }
        proofs
    }

    /// Passes news on and gives the visit back.
    fn finish(&self, visit: Box<Visit>, done: oneshot::Sender<Done>, handled: Handled) {
        for node in &handled.reply.notify {
            let _ = self.notices.try_send(*node);
        }
        if let Some(letter) = handled.letter
            && let Err(e) = self.letters.try_send(*letter)
        {
            self.undelivered(e.into_inner().entry);
        }
        // Whoever hung up in the meantime needs no answer.
        let _ = done.send((visit, handled.after));
    }

    /// Becomes what a primary has.
    pub async fn follow(&self, snapshot: Snapshot) {
        // A failure is logged by the committer and made good with the next commit.
        let _ = self.change(|registry| registry.follow(snapshot)).await;
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
        let _ = self.change(|registry| registry.sweep(unix_now())).await;
    }

    /// Lets the store tidy up when it has nothing else to do.
    pub fn tidy(&self) {
        if let Some(commits) = &self.commits {
            // A full queue says that it has.
            let _ = commits.try_send(Order::Tidy);
        }
    }

    /// Stores what is only worth storing at the end.
    pub async fn last_commit(&self) {
        if self.commits.is_some() {
            let _ = self.change(Registry::final_changes).await;
        }
    }

    pub fn key_of(&self, node: u32) -> Option<[u8; 32]> {
        self.read().key_of(node)
    }

    pub fn node_count(&self) -> usize {
        self.read().node_count()
    }

    /// Works on the registry and returns when the changes are stored.
    async fn change(&self, work: impl FnOnce(&mut Registry) -> Vec<Change>) -> Result<(), NotStored> {
        let Some(commits) = &self.commits else {
            work(&mut self.write());
            return Ok(());
        };
        // First, for the same reason as above.
        let place = commits.reserve().await.map_err(|_| NotStored)?;
        let stored = {
            let mut registry = self.write();
            let changes = work(&mut registry);
            if changes.is_empty() {
                return Ok(());
            }
            let (order, stored) = Order::write(changes);
            place.send(order);
            stored
        };
        if matches!(stored.await, Ok(true)) { Ok(()) } else { Err(NotStored) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Registry> {
        self.registry.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the registry made of one request; its answer is in the visit.
struct Handled {
    reply: Reply,
    letter: Option<Box<Letter>>,
    after: After,
    /// Length of the answers without this one.
    before: usize,
}

impl Handled {
    /// The same with a refusal for its answer.
    fn not_stored(self, visit: &mut Visit) -> Self {
        let mut reply = self.reply.not_stored();
        visit.out.truncate(self.before);
        let after = answer(&mut reply, &mut String::new(), &mut visit.out);
        Self { reply, letter: None, after, before: self.before }
    }
}

/// Writes an answer.
fn answer(reply: &mut Reply, scratch: &mut String, out: &mut Vec<u8>) -> After {
    if reply.subscribed {
        return After::Feed;
    }
    match reply.write(scratch, out) {
        Err(e) => After::TooLarge(e),
        Ok(()) if reply.close => After::Close,
        Ok(()) => After::Next,
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
