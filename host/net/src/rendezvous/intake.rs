//! Bytes a client has sent and that were not worked on yet. Used by `connection`.
//!
//! A length is not believed: the buffer grows with what arrives, at most to twice that. Up to [`OWN`] bytes are each
//! connection's own; what goes beyond comes out of a budget that all connections share, and goes back as soon as the
//! request that needed it is done.

use std::io;
use std::sync::Arc;

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::listener::MEMORY_UNIT;

/// What a connection has at first: enough for nearly every request, and little enough for those that never make one.
const FIRST: usize = 512;
/// Bytes that come out of no budget.
const OWN: usize = 64 << 10;

/// The buffer of one connection.
#[derive(Debug, Default)]
pub(super) struct Intake {
    buffer: Vec<u8>,
    /// Bytes at the front that are done.
    done: usize,
    budget: Option<OwnedSemaphorePermit>,
}

impl Intake {
    /// What is there.
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.done..]
    }

    /// Forgets the first `len` bytes, and memory that is no longer needed.
    pub fn consume(&mut self, len: usize) {
        self.done += len;
        if self.done >= self.buffer.len() {
            self.done = 0;
            self.buffer.clear();
            if self.buffer.capacity() > OWN {
                self.buffer = Vec::new();
                self.budget = None;
            }
        }
    }

    /// Makes room for some of `missing` more bytes; false when the shared budget has not enough left.
    pub fn make_room(&mut self, missing: usize, shared: &Arc<Semaphore>) -> bool {
        if self.done > 0 {
            self.buffer.drain(..self.done);
            self.done = 0;
        }
        let (len, capacity) = (self.buffer.len(), self.buffer.capacity());
        if capacity > len {
            return true;
        }
        let wanted = (2 * len).min(len + missing.max(1)).max(FIRST);
        if wanted > OWN {
            let held = self.budget.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let units = (wanted - OWN).div_ceil(MEMORY_UNIT).saturating_sub(held);
            let units = u32::try_from(units).unwrap_or(u32::MAX);
            let Ok(more) = shared.clone().try_acquire_many_owned(units) else { return false };
            match &mut self.budget {
                Some(budget) => budget.merge(more),
                None => self.budget = Some(more),
            }
        }
        self.buffer.reserve_exact(wanted - len);
        true
    }

    /// Reads what the stream has, as far as there is room.
    ///
    /// # Errors
    /// `UnexpectedEof` when the stream has ended; its own errors.
    pub async fn read(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
        let room = self.buffer.capacity() - self.buffer.len();
        match stream.read_buf(&mut (&mut self.buffer).limit(room)).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_follows_the_bytes_and_comes_back() {
        let shared = Arc::new(Semaphore::new(300));
        let sent = vec![7; 200_000];
        let mut stream = &sent[..];
        let mut intake = Intake::default();
        while intake.pending().len() < sent.len() {
            assert!(intake.make_room(1 << 30, &shared));
            intake.read(&mut stream).await.unwrap();
            let (len, capacity) = (intake.pending().len(), intake.buffer.capacity());
            assert!(capacity <= (2 * len).max(FIRST), "{capacity} for {len}");
            let charged = (300 - shared.available_permits()) * MEMORY_UNIT;
            assert!(charged + OWN >= capacity, "{charged} for {capacity}");
        }
        assert_eq!(intake.pending(), sent);
        intake.consume(150_000);
        assert_eq!(intake.pending(), &sent[150_000..]);
        intake.consume(50_000);
        assert_eq!((shared.available_permits(), intake.buffer.capacity()), (300, 0));
        assert!(intake.make_room(10, &shared));
        assert_eq!(intake.read(&mut stream).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_used_up_budget_grants_nothing() {
        let shared = Arc::new(Semaphore::new(10));
        let sent = vec![7; 200_000];
        let mut stream = &sent[..];
        let mut intake = Intake::default();
        while intake.make_room(1 << 20, &shared) {
            intake.read(&mut stream).await.unwrap();
        }
        assert!(intake.pending().len() <= OWN + 10 * MEMORY_UNIT);
        drop(intake);
        assert_eq!(shared.available_permits(), 10);
    }

    #[tokio::test]
    async fn a_request_is_read_no_further_than_its_end_when_it_is_large() {
        let shared = Arc::new(Semaphore::new(0));
        let sent = vec![7; 5_000];
        let mut stream = &sent[..];
        let mut intake = Intake::default();
        assert!(intake.make_room(4, &shared));
        intake.read(&mut stream).await.unwrap();
        assert_eq!(intake.pending().len(), FIRST);
        assert!(intake.make_room(100, &shared));
        intake.read(&mut stream).await.unwrap();
        assert_eq!(intake.pending().len(), FIRST + 100);
    }
}
