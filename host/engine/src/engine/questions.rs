//! Questions to the host that wait for an answer, and what waits for them.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use pilot_wire::packet::Header;

use crate::query::{Query, QueryId};
use crate::time::{Duration, Instant};

/// Questions of one kind about one node.
const MAX_PER_GROUP: usize = 64;

/// What an answer is needed for.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// A peer's path.
    Resolve {
        node: u32,
    },
    /// Key exchanges of a node; they are parked with the key cache.
    PeerKey {
        node: u32,
    },
    Syn {
        header: Header,
    },
    Datagram {
        header: Header,
        payload: Bytes,
    },
    Ping {
        header: Header,
        payload: Bytes,
    },
}

impl Purpose {
    /// Two questions for the same thing need only be asked once.
    fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Resolve { node: a }, Self::Resolve { node: b })
            | (Self::PeerKey { node: a }, Self::PeerKey { node: b }) => a == b,
            (Self::Syn { header: a }, Self::Syn { header: b }) => {
                (a.source(), a.destination()) == (b.source(), b.destination())
            }
            _ => false,
        }
    }

    /// Groups questions by kind and node, so that equal ones are found and no node fills the table.
    fn group(&self) -> (u8, u32) {
        match self {
            Self::Resolve { node } => (0, *node),
            Self::PeerKey { node } => (1, *node),
            Self::Syn { header } => (2, header.src.node),
            Self::Datagram { header, .. } => (3, header.src.node),
            Self::Ping { header, .. } => (4, header.src.node),
        }
    }
}

/// The questions of one engine. A question that finds [`Config::max_queries`](crate::Config::max_queries) others waiting is
/// not asked, nor one beyond [`MAX_PER_GROUP`].
#[derive(Debug)]
pub(crate) struct Questions {
    last_id: u64,
    max: usize,
    timeout: Duration,
    /// Not yet polled.
    out: VecDeque<(QueryId, Query)>,
    waiting: BTreeMap<QueryId, Purpose>,
    groups: BTreeMap<(u8, u32), Vec<QueryId>>,
    /// In the order they were asked, so the first falls due first.
    deadlines: VecDeque<(Instant, QueryId)>,
}

impl Questions {
    pub(crate) fn new(max: usize, timeout: Duration) -> Self {
        Self {
            last_id: 0,
            max,
            timeout,
            out: VecDeque::new(),
            waiting: BTreeMap::new(),
            groups: BTreeMap::new(),
            deadlines: VecDeque::new(),
        }
    }

    /// Asks, unless the same is being asked already; `false` when there is no room for another question.
    pub(crate) fn ask(&mut self, now: Instant, query: Query, purpose: Purpose) -> bool {
        let group = purpose.group();
        let ids = self.groups.get(&group).map_or(&[][..], Vec::as_slice);
        if ids.iter().filter_map(|id| self.waiting.get(id)).any(|p| p.same_as(&purpose)) {
            return true;
        }
        if self.waiting.len() >= self.max || ids.len() >= MAX_PER_GROUP {
            return false;
        }
        self.last_id += 1;
        let id = QueryId(self.last_id);
        self.groups.entry(group).or_default().push(id);
        self.out.push_back((id, query));
        self.waiting.insert(id, purpose);
        self.deadlines.push_back((now + self.timeout, id));
        true
    }

    /// The next question for the host.
    pub(crate) fn poll(&mut self) -> Option<(QueryId, Query)> {
        while let Some((id, query)) = self.out.pop_front() {
            if self.waiting.contains_key(&id) {
                return Some((id, query));
            }
        }
        None
    }

    /// What waited for an answer; `None` when it came too late.
    pub(crate) fn take(&mut self, id: QueryId) -> Option<Purpose> {
        let purpose = self.waiting.remove(&id)?;
        let group = purpose.group();
        if let Some(ids) = self.groups.get_mut(&group) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.groups.remove(&group);
            }
        }
        Some(purpose)
    }

    /// Forgets the question about the SYN that began the stream of this packet, if it still waits.
    pub(crate) fn withdraw_syn(&mut self, h: &Header) {
        let purpose = Purpose::Syn { header: *h };
        let ids = self.groups.get(&purpose.group()).map_or(&[][..], Vec::as_slice);
        let found = ids.iter().find(|id| self.waiting.get(id).is_some_and(|p| p.same_as(&purpose))).copied();
        if let Some(id) = found {
            self.take(id);
        }
    }

    /// When the next question runs out of time.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(at, _)| *at)
    }

    /// What waited in vain until now.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<Purpose> {
        while let Some((at, id)) = self.deadlines.front().copied() {
            if at > now {
                return None;
            }
            self.deadlines.pop_front();
            if let Some(purpose) = self.take(id) {
                return Some(purpose);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(q: &mut Questions, node: u32) -> bool {
        q.ask(Instant::ZERO, Query::Resolve { node }, Purpose::Resolve { node })
    }

    #[test]
    fn the_same_is_asked_once_and_no_more_than_allowed() {
        let mut q = Questions::new(2, Duration::from_secs(5));
        assert!(ask(&mut q, 1) && ask(&mut q, 1) && ask(&mut q, 2));
        assert!(!ask(&mut q, 3));
        let (first, _) = q.poll().unwrap();
        assert!(q.poll().is_some() && q.poll().is_none());
        assert!(matches!(q.take(first), Some(Purpose::Resolve { node: 1 })));
        assert!(q.take(first).is_none());
        assert!(ask(&mut q, 1));
    }

    #[test]
    fn a_question_runs_out_of_time() {
        let mut q = Questions::new(2, Duration::from_secs(5));
        ask(&mut q, 1);
        let due = q.deadline().unwrap();
        assert!(q.expired(Instant::ZERO).is_none());
        assert!(matches!(q.expired(due), Some(Purpose::Resolve { node: 1 })));
        assert!(q.poll().is_none(), "nobody needs the answer any more");
        assert!(q.groups.is_empty() && q.waiting.is_empty() && q.deadline().is_none());
    }
}
