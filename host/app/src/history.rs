//! The bus's recent past, for `pilotctl events` and `top`: the newest [`KEPT`] events, numbered, and a way to wait for the
//! next one. Filled by one task; asked by the local socket. Not a log: what falls out of the ring is gone, and a reader
//! that was too slow is told how many it missed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pilot_net::bus::{Bus, BusEvent};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Events kept; the oldest is forgotten when one more comes.
pub const KEPT: usize = 1024;
/// Most events in one page.
pub const PAGE: usize = 256;
/// A page ends after this many bytes of JSON, so that it fits a frame of the local socket.
const PAGE_BYTES: usize = 512 << 10;
/// The longest a reader may wait in one question.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// The ring.
#[derive(Debug)]
pub struct History {
    ring: Mutex<Ring>,
    grown: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<BusEvent>>,
    /// The number that the next event gets; numbers count from 1.
    next: u64,
}

/// What a reader wants.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Events with a higher number than this; `None`: the newest `limit` of what is kept.
    pub after: Option<u64>,
    /// `*` or empty (all), `a.*`, or one topic.
    pub topic: String,
    /// At most this many.
    pub limit: usize,
    /// How long to wait while there is none.
    pub wait: Duration,
}

impl Default for History {
    fn default() -> Self {
        History { ring: Mutex::new(Ring { events: VecDeque::new(), next: 1 }), grown: watch::Sender::new(0) }
    }
}

impl History {
    /// Records everything on the bus until it ends.
    pub async fn record(self: Arc<Self>, bus: Bus) {
        let events = bus.subscribe("*");
        while let Some(event) = events.next().await {
            self.push(event);
        }
    }

    fn push(&self, event: Arc<BusEvent>) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.events.len() == KEPT {
            ring.events.pop_front();
        }
        ring.events.push_back(event);
        ring.next += 1;
        let next = ring.next;
        drop(ring);
        self.grown.send_replace(next);
    }

    /// A page of events as JSON: `events`, `next` (to be given as `after`), `missed` (how many were forgotten since
    /// `after`). Waits at most `wanted.wait` for the first one.
    pub async fn page(&self, wanted: &Wanted) -> Value {
        let mut grown = self.grown.subscribe();
        let deadline = tokio::time::Instant::now() + wanted.wait.min(WAIT_MAX);
        let mut after = wanted.after;
        let mut missed = 0;
        loop {
            grown.mark_unchanged();
            let page = self.take(wanted, after);
            missed += page.missed;
            let reply = json!({ "events": page.events, "next": page.next, "missed": missed });
            if !page.events.is_empty() || wanted.after.is_none() {
                return reply;
            }
            // What does not match the topic need not be looked at again.
            after = Some(page.next);
            if tokio::time::timeout_at(deadline, grown.changed()).await.is_err() {
                return reply;
            }
        }
    }

    fn take(&self, wanted: &Wanted, after: Option<u64>) -> Page {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let first = ring.next - ring.events.len() as u64;
        let matching = ring
            .events
            .iter()
            .enumerate()
            .map(|(i, e)| (first + i as u64, e))
            .filter(|(_, e)| topic_matches(&wanted.topic, &e.topic));
        let limit = wanted.limit.min(PAGE);
        let chosen: Vec<_> = match after {
            None => {
                let mut newest: Vec<_> = matching.rev().take(limit).collect();
                newest.reverse();
                newest
            }
            Some(after) => matching.filter(|(seq, _)| *seq > after).take(limit + 1).collect(),
        };
        // A reader that knows a number of another run of this host starts over.
        let after = after.map(|a| a.min(ring.next - 1));
        let missed = after.map_or(0, |after| first.saturating_sub(after + 1));
        let (mut events, mut bytes, mut next) = (Vec::new(), 0, ring.next - 1);
        for (seq, event) in chosen {
            let row = row(seq, event);
            bytes += row.to_string().len();
            if events.len() == limit || (bytes > PAGE_BYTES && !events.is_empty()) {
                next = seq - 1;
                break;
            }
            events.push(row);
        }
        Page { events, next, missed }
    }
}

struct Page {
    events: Vec<Value>,
    next: u64,
    missed: u64,
}

fn row(seq: u64, event: &BusEvent) -> Value {
    let time = jiff::Timestamp::try_from(event.time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    json!({
        "seq": seq,
        "topic": event.topic,
        "node_id": event.node_id,
        "time": time.to_string(),
        "payload": event.payload,
    })
}

/// The bus's own patterns (plugin-contract.md section 4).
fn topic_matches(pattern: &str, topic: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => true,
        Some(prefix) if prefix.ends_with('.') => topic.starts_with(prefix),
        _ => pattern.is_empty() || pattern == topic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(after: Option<u64>, topic: &str, limit: usize) -> Wanted {
        Wanted { after, topic: topic.into(), limit, wait: Duration::ZERO }
    }

    fn event(topic: &str) -> Arc<BusEvent> {
        let time = std::time::SystemTime::UNIX_EPOCH;
        Arc::new(BusEvent::new(topic, 1, time, None))
    }

    fn numbers(page: &Value) -> Vec<u64> {
        page["events"].as_array().unwrap().iter().map(|e| e["seq"].as_u64().unwrap()).collect()
    }

    #[tokio::test]
    async fn pages_follow_each_other() {
        let history = History::default();
        for i in 0..10 {
            history.push(event(if i % 2 == 0 { "a.x" } else { "b" }));
        }
        let newest = history.page(&wanted(None, "*", 3)).await;
        assert_eq!((numbers(&newest), &newest["next"]), (vec![8, 9, 10], &10.into()));
        let first = history.page(&wanted(Some(0), "a.*", 3)).await;
        assert_eq!((numbers(&first), &first["missed"]), (vec![1, 3, 5], &0.into()));
        let second = history.page(&wanted(first["next"].as_u64(), "a.*", 3)).await;
        assert_eq!((numbers(&second), &second["next"]), (vec![7, 9], &10.into()));
        assert_eq!(numbers(&history.page(&wanted(Some(10), "*", 3)).await), Vec::<u64>::new());
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_what_it_missed() {
        let history = History::default();
        (0..KEPT + 5).for_each(|_| history.push(event("a")));
        let page = history.page(&wanted(Some(0), "", 2)).await;
        assert_eq!((numbers(&page), &page["missed"]), (vec![6, 7], &5.into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_waits_for_what_it_asked_for() {
        let history = Arc::new(History::default());
        let reader = Arc::clone(&history);
        let ask = Wanted { wait: Duration::from_secs(20), ..wanted(Some(0), "b", 9) };
        let waiting = tokio::spawn(async move { reader.page(&ask).await });
        tokio::task::yield_now().await;
        history.push(event("a"));
        tokio::task::yield_now().await;
        history.push(event("b"));
        assert_eq!(numbers(&waiting.await.unwrap()), [2]);
    }
}
