//! Who follows what, and what waits for whom. No streams and no threads here: a subscriber is a queue.
//!
//! A publication goes to the subscribers of its topic and to those of `*`, never back to its sender. A subscriber that
//! does not keep up loses publications, and after three in a row its place.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Publications waiting for one subscriber; the next one is lost when full.
const QUEUE_FRAMES: usize = 256;
/// Bytes waiting for one subscriber; a publication that does not fit is lost. Room for two of the largest.
const QUEUE_BYTES: usize = 2 * (crate::frame::MAX_PAYLOAD + 2048);
/// Losses in a row after which a subscriber is removed.
const STRIKES: u32 = 3;
/// Publications per second of one connection.
const RATE: f64 = 100.0;
/// How many it may save up.
const BURST: f64 = 200.0;

/// What waits for one subscriber.
#[derive(Debug, Default)]
pub struct Outbox {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<Arc<[u8]>>,
    bytes: usize,
    closed: bool,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `false`: there is no room, the frame is lost.
    fn push(&self, frame: &Arc<[u8]>) -> bool {
        let mut waiting = self.lock();
        let fits = waiting.frames.len() < QUEUE_FRAMES && waiting.bytes + frame.len() <= QUEUE_BYTES;
        if waiting.closed || !fits {
            return false;
        }
        waiting.bytes += frame.len();
        waiting.frames.push_back(Arc::clone(frame));
        self.changed.notify_one();
        true
    }

    /// The next frame; waits for one. `None` once closed.
    pub fn pop(&self) -> Option<Arc<[u8]>> {
        let mut waiting = self.lock();
        while !waiting.closed {
            if let Some(frame) = waiting.frames.pop_front() {
                waiting.bytes -= frame.len();
                return Some(frame);
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    /// Ends [`pop`](Self::pop); what waits is dropped.
    pub fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        waiting.frames.clear();
        waiting.bytes = 0;
        self.changed.notify_all();
    }
}

struct Subscriber {
    topic: Vec<u8>,
    outbox: Arc<Outbox>,
    strikes: u32,
}

/// All subscribers, by connection id.
#[derive(Default)]
pub struct Broker(Mutex<HashMap<u32, Subscriber>>);

impl Broker {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Subscriber>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a subscriber; what it gets is read from the outbox.
    pub fn subscribe(&self, id: u32, topic: &[u8]) -> Arc<Outbox> {
        let outbox = Arc::new(Outbox::default());
        let subscriber = Subscriber { topic: topic.to_vec(), outbox: Arc::clone(&outbox), strikes: 0 };
        self.lock().insert(id, subscriber);
        outbox
    }

    /// Removes a subscriber and closes its outbox.
    pub fn unsubscribe(&self, id: u32) {
        if let Some(gone) = self.lock().remove(&id) {
            gone.outbox.close();
        }
    }

    /// Hands a frame to everybody who follows `topic`; the ids that were removed because they do not keep up.
    pub fn publish(&self, from: u32, topic: &[u8], frame: &[u8]) -> Vec<u32> {
        let frame: Arc<[u8]> = frame.into();
        let mut subscribers = self.lock();
        let mut slow = Vec::new();
        for (id, s) in subscribers.iter_mut().filter(|(id, _)| **id != from) {
            if s.topic != topic && s.topic != b"*" {
                continue;
            }
            if s.outbox.push(&frame) {
                s.strikes = 0;
            } else {
                s.strikes += 1;
                if s.strikes >= STRIKES {
                    slow.push(*id);
                }
            }
        }
        for id in &slow {
            if let Some(gone) = subscribers.remove(id) {
                gone.outbox.close();
            }
        }
        slow
    }
}

/// How much one connection may still publish.
#[derive(Debug)]
pub struct Allowance {
    tokens: f64,
    at: Instant,
}

impl Allowance {
    /// A full one.
    pub fn new(now: Instant) -> Allowance {
        Allowance { tokens: BURST, at: now }
    }

    /// Takes one publication; `false` when it is one too many.
    pub fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).max(Duration::ZERO).as_secs_f64();
        self.tokens = (self.tokens + passed * RATE).min(BURST);
        self.at = now;
        let good = self.tokens >= 1.0;
        if good {
            self.tokens -= 1.0;
        }
        good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(outbox: &Outbox) -> Vec<Vec<u8>> {
        outbox.lock().frames.iter().map(|f| f.to_vec()).collect()
    }

    #[test]
    fn topics_are_compared_exactly_and_a_star_follows_all() {
        let broker = Broker::default();
        let [a, b, all] = [(1, &b"a"[..]), (2, b"b"), (3, b"*")].map(|(id, t)| broker.subscribe(id, t));
        broker.publish(9, b"a", b"1");
        broker.publish(1, b"a", b"2");
        broker.publish(9, b"*", b"3");
        assert_eq!(waiting(&a), [b"1"], "not its own, and not what goes to the star");
        assert_eq!(waiting(&b), Vec::<Vec<u8>>::new());
        assert_eq!(waiting(&all), [b"1", b"2", b"3"]);
    }

    #[test]
    fn who_does_not_keep_up_loses_its_place() {
        let broker = Broker::default();
        let slow = broker.subscribe(1, b"a");
        for _ in 0..QUEUE_FRAMES + 2 {
            assert!(broker.publish(9, b"a", b"x").is_empty());
        }
        assert_eq!(waiting(&slow).len(), QUEUE_FRAMES);
        assert_eq!(broker.publish(9, b"a", b"x"), [1]);
        assert_eq!(slow.pop(), None);
    }

    #[test]
    fn a_publisher_has_a_rate() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        assert_eq!((0..300).filter(|_| allowance.take(start)).count(), 200);
        let later = start + Duration::from_millis(500);
        assert_eq!((0..300).filter(|_| allowance.take(later)).count(), 50);
    }
}
