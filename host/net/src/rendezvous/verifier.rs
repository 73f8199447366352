//! Checks the signatures of all connections, many at a time: dozens together take less than half of what they take one by
//! one, and one that was found good before is not checked again.
//!
//! Called by the desk before a request reaches the registry. A connection has at most one claim here, so the queue is as
//! bounded as the number of connections. One task per core takes claims from it; before it does, it lets everything run
//! that is ready to, so that under load claims come together by themselves and without load none has to wait.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pilot_rendezvous::{Claim, Proof, ProofMemory};
use tokio::sync::{Notify, oneshot};

/// Claims checked together; a batch of this size keeps a core busy for about two milliseconds. From about a hundred on the
/// calculation changes to one that gets cheaper with each further claim.
const BATCH: usize = 128;
/// Good signatures remembered, 32 bytes each.
const REMEMBERED: usize = 1 << 16;

/// The queue and the memory.
#[derive(Debug)]
pub(super) struct Verifier {
    queue: Mutex<VecDeque<(Claim, oneshot::Sender<Proof>)>>,
    filled: Notify,
    memory: Mutex<ProofMemory>,
}

impl Verifier {
    pub fn new() -> Self {
        Self {
            queue: Mutex::default(),
            filled: Notify::new(),
            memory: Mutex::new(ProofMemory::new(REMEMBERED)),
        }
    }

    /// Checks one claim. `None` when the server is stopping.
    pub async fn check(&self, claim: Claim) -> Option<Proof> {
        let claim = match lock(&self.memory).recall(claim) {
            Ok(proof) => return Some(proof),
            Err(claim) => claim,
        };
        let (done, proof) = oneshot::channel();
        lock(&self.queue).push_back((claim, done));
        self.filled.notify_one();
        proof.await.ok()
    }

    /// One of the tasks that do the work; it ends when it is dropped.
    pub async fn work(&self) {
        loop {
            self.filled.notified().await;
            tokio::task::yield_now().await;
            loop {
                let (claims, askers): (Vec<_>, Vec<_>) = {
                    let mut queue = lock(&self.queue);
                    let batch = queue.len().min(BATCH);
                    queue.drain(..batch).unzip()
                };
                if claims.is_empty() {
                    break;
                }
                // More than one batch: another task may take the rest meanwhile.
                self.filled.notify_one();
                let proofs = Claim::check_all(claims);
                {
                    let mut memory = lock(&self.memory);
                    proofs.iter().for_each(|proof| memory.keep(proof));
                }
                for (proof, asker) in proofs.into_iter().zip(askers) {
                    // Whoever hung up in the meantime needs no news.
                    let _ = asker.send(proof);
                }
                tokio::task::yield_now().await;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
