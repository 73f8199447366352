//! The event bus: publish never blocks, every subscriber has its own bounded buffer (plugin-contract.md section 4).
//! Called by the node driver, the plugins' daemon handles and the local socket. Keeps no history.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use crate::queue::{Queue, Waited};

/// Events buffered per subscriber; the newest is dropped when full (plugin-contract.md section 4).
pub const SUBSCRIBER_BUFFER: usize = 1024;

/// One event; shared between subscribers, never changed.
#[derive(Clone, Debug, PartialEq)]
pub struct BusEvent {
    /// Dotted topic.
    pub topic: String,
    /// This node's id at publish time, 0 before registration.
    pub node_id: u32,
    /// Wall-clock time of publishing.
    pub time: SystemTime,
    /// The payload map, or none.
    pub payload: Option<Map<String, Value>>,
    text: OnceLock<Option<String>>,
}

impl BusEvent {
    /// An event as it was published.
    pub fn new(topic: &str, node_id: u32, time: SystemTime, payload: Option<Map<String, Value>>) -> Self {
        BusEvent { topic: topic.to_owned(), node_id, time, payload, text: OnceLock::new() }
    }

    /// The payload as JSON text, or none; written once, however many subscribers want it.
    pub fn payload_text(&self) -> Option<&str> {
        // A map of JSON values always has a text: the keys are strings.
        let write = || self.payload.as_ref().and_then(|map| serde_json::to_string(map).ok());
        self.text.get_or_init(write).as_deref()
    }
}

/// Which topics a subscriber gets.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    All,
    Below(String),
    Exactly(String),
}

impl Pattern {
    fn parse(text: &str) -> Self {
        match text {
            "" | "*" => Pattern::All,
            _ => match text.strip_suffix('*') {
                Some(prefix) if prefix.ends_with('.') => Pattern::Below(prefix.to_owned()),
                _ => Pattern::Exactly(text.to_owned()),
            },
        }
    }

    fn matches(&self, topic: &str) -> bool {
        match self {
            Pattern::All => true,
            Pattern::Below(prefix) => topic.starts_with(prefix.as_str()),
            Pattern::Exactly(exact) => topic == exact,
        }
    }
}

struct Subscriber {
    pattern: Pattern,
    queue: Arc<Queue<Arc<BusEvent>>>,
}

#[derive(Default)]
struct Inner {
    subscribers: RwLock<Vec<Subscriber>>,
    node_id: AtomicU32,
}

/// A cheap handle to the one bus of a daemon.
#[derive(Clone, Default)]
pub struct Bus {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bus")
    }
}

impl Bus {
    /// A bus without subscribers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The node id stamped on later events.
    pub fn set_node_id(&self, node_id: u32) {
        self.inner.node_id.store(node_id, Ordering::Relaxed);
    }

    /// Publishes; a subscriber whose buffer is full loses this event, nobody waits.
    pub fn publish(&self, topic: &str, payload: Option<Map<String, Value>>) {
        let subscribers = self.inner.subscribers.read().unwrap_or_else(PoisonError::into_inner);
        let mut event = None;
        for s in subscribers.iter().filter(|s| s.pattern.matches(topic)) {
            let event = event.get_or_insert_with(|| {
                let node_id = self.inner.node_id.load(Ordering::Relaxed);
                Arc::new(BusEvent::new(topic, node_id, SystemTime::now(), payload.clone()))
            });
            // Full or closed: that subscriber's loss, by contract.
            let _ = s.queue.push(event.clone());
        }
    }

    /// Subscribes to `*` or empty (everything), `a.*` (everything below `a`) or one exact topic.
    pub fn subscribe(&self, pattern: &str) -> BusSubscription {
        let queue = Arc::new(Queue::new(SUBSCRIBER_BUFFER));
        let subscriber = Subscriber { pattern: Pattern::parse(pattern), queue: queue.clone() };
        self.inner.subscribers.write().unwrap_or_else(PoisonError::into_inner).push(subscriber);
        BusSubscription { bus: self.clone(), queue }
    }
}

/// A subscription; dropping it cancels.
#[derive(Debug)]
pub struct BusSubscription {
    bus: Bus,
    queue: Arc<Queue<Arc<BusEvent>>>,
}

impl BusSubscription {
    /// The next event, or `None` once cancelled and drained.
    pub async fn next(&self) -> Option<Arc<BusEvent>> {
        self.queue.pop().await
    }

    /// Blocks this thread for at most `timeout`.
    pub fn next_blocking(&self, timeout: Duration) -> Waited<Arc<BusEvent>> {
        self.queue.pop_blocking(Some(timeout))
    }

    /// Ends this subscription and begins one of the same pattern that gets everything this one has not read, with nothing
    /// lost and nothing twice in between. `None` when it was cancelled.
    pub fn hand_over(&self) -> Option<BusSubscription> {
        // Publishers hold this lock for reading: none is half-way through.
        let mut subscribers = self.bus.inner.subscribers.write().unwrap_or_else(PoisonError::into_inner);
        let subscriber = subscribers.iter_mut().find(|s| Arc::ptr_eq(&s.queue, &self.queue))?;
        let queue = Arc::new(Queue::new(SUBSCRIBER_BUFFER));
        for event in self.queue.close_and_take() {
            // Fits: both have the same capacity.
            let _ = queue.push(event);
        }
        subscriber.queue = queue.clone();
        drop(subscribers);
        Some(BusSubscription { bus: self.bus.clone(), queue })
    }

    /// Events this subscriber lost because its buffer was full.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped()
    }

    /// Stops delivery; buffered events may still be read. Idempotent.
    pub fn cancel(&self) {
        self.queue.close();
        let mut subscribers = self.bus.inner.subscribers.write().unwrap_or_else(PoisonError::into_inner);
        subscribers.retain(|s| !Arc::ptr_eq(&s.queue, &self.queue));
    }
}

impl Drop for BusSubscription {
    fn drop(&mut self) {
        self.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_follow_the_contract() {
        for (pattern, topic, want) in [
            ("*", "a.b", true),
            ("", "a.b", true),
            ("network.*", "network.a.b", true),
            ("network.*", "network", false),
            ("network.*", "networks.x", false),
            ("a.b", "a.b", true),
            ("a.b", "a.B", false),
            ("a*", "ab", false),
        ] {
            assert_eq!(Pattern::parse(pattern).matches(topic), want, "{pattern} {topic}");
        }
    }

    #[test]
    fn full_subscriber_loses_the_newest_and_others_do_not() {
        let bus = Bus::new();
        let slow = bus.subscribe("*");
        for i in 0..=SUBSCRIBER_BUFFER {
            let mut payload = Map::new();
            payload.insert("i".into(), i.into());
            bus.publish("t", Some(payload));
        }
        let quick = bus.subscribe("t");
        bus.publish("t", None);
        assert_eq!(slow.dropped(), 2);
        assert!(matches!(quick.next_blocking(Duration::ZERO), Waited::Item(_)));
        let Waited::Item(first) = slow.next_blocking(Duration::ZERO) else { panic!("nothing buffered") };
        assert_eq!(first.payload.as_ref().unwrap()["i"], 0);
    }

    #[test]
    fn a_successor_gets_what_was_not_read_and_nothing_twice() {
        let bus = Bus::new();
        let old = bus.subscribe("*");
        for topic in ["a", "b"] {
            bus.publish(topic, None);
        }
        let topic = |s: &BusSubscription| match s.next_blocking(Duration::ZERO) {
            Waited::Item(e) => e.topic.clone(),
            other => format!("{other:?}"),
        };
        assert_eq!(topic(&old), "a");
        let new = old.hand_over().unwrap();
        bus.publish("c", None);
        assert_eq!(topic(&old), "Closed");
        assert!(old.hand_over().is_none());
        drop(old);
        bus.publish("d", None);
        assert_eq!([topic(&new), topic(&new), topic(&new)], ["b", "c", "d"]);
    }

    #[test]
    fn cancel_keeps_what_was_buffered() {
        let bus = Bus::new();
        let s = bus.subscribe("*");
        bus.publish("a", None);
        s.cancel();
        s.cancel();
        bus.publish("b", None);
        assert!(matches!(s.next_blocking(Duration::ZERO), Waited::Item(e) if e.topic == "a"));
        assert_eq!(s.next_blocking(Duration::ZERO), Waited::Closed);
    }
}
