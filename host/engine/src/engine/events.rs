//! The queue of events towards the host.

use std::collections::VecDeque;

use crate::event::Event;
use crate::notice::Notice;

/// Events in order. Those about a stream are never dropped: each stream has at most a handful in the queue at a time.
/// Datagrams and notices are dropped, the newest first, while more than `max` events wait.
#[derive(Debug)]
pub(crate) struct Events {
    queue: VecDeque<Event>,
    max: usize,
    dropped: u64,
}

impl Events {
    pub(crate) fn new(max: usize) -> Self {
        Self { queue: VecDeque::new(), max, dropped: 0 }
    }

    /// Adds an event that must arrive.
    pub(crate) fn push(&mut self, event: Event) {
        self.queue.push_back(event);
    }

    /// Adds an event that may be dropped.
    pub(crate) fn offer(&mut self, event: Event) {
        if self.queue.len() < self.max {
            self.queue.push_back(event);
        } else {
            self.dropped += 1;
        }
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.offer(Event::Notice(notice));
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        self.queue.pop_front()
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_dropped_is() {
        let mut e = Events::new(2);
        e.offer(Event::BeaconNotify);
        e.offer(Event::BeaconNotify);
        e.offer(Event::BeaconNotify);
        e.push(Event::Readable { conn: crate::ConnId(1) });
        assert_eq!(e.dropped(), 1);
        assert_eq!(std::iter::from_fn(|| e.pop()).count(), 3);
    }
}
