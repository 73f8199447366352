//! The peers of one network as its policy sees them (policy.md section 4). Pure; called by the other parts of the runner.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::document::number;

/// How long an evicted peer is kept out.
const EVICTED_FOR: Duration = Duration::from_secs(60);
/// What `last_seen` is for a peer never seen: the Go peer's zero time, in Unix seconds.
const NEVER: f64 = -62_135_596_800.0;

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Given by the policy.
    pub tags: Vec<String>,
    /// Given by the registry.
    pub registry_tags: Vec<String>,
    /// When it entered the table.
    pub added_at: Timestamp,
    /// `None`: never.
    pub last_seen: Option<Timestamp>,
}

impl Peer {
    /// A peer that enters now.
    pub fn new(registry_tags: Vec<String>, now: Timestamp) -> Peer {
        Peer { tags: Vec::new(), registry_tags, added_at: now, last_seen: None }
    }

    /// Registry tags, then policy tags, each once.
    pub fn effective_tags(&self) -> Vec<String> {
        union([&self.registry_tags, &self.tags])
    }

    /// Seconds since it entered; negative when the clock was set back.
    pub fn age(&self, now: Timestamp) -> f64 {
        now.duration_since(self.added_at).as_secs_f64()
    }

    fn last_seen_seconds(&self) -> f64 {
        self.last_seen.map_or(NEVER, |t| t.as_nanosecond() as f64 / 1e9)
    }
}

/// In order, duplicates left out.
pub(crate) fn union<'a>(lists: impl IntoIterator<Item = &'a Vec<String>>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for tag in lists.into_iter().flatten() {
        if !all.contains(tag) {
            all.push(tag.clone());
        }
    }
    all
}

/// What is remembered of a network.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub peers: BTreeMap<u32, Peer>,
    pub joined_at: Timestamp,
    pub cycle_num: u64,
    /// When a peer was evicted, by the clock that only moves forward.
    evicted: HashMap<u32, Duration>,
}

impl Table {
    pub fn new(joined_at: Timestamp) -> Table {
        Table { peers: BTreeMap::new(), joined_at, cycle_num: 0, evicted: HashMap::new() }
    }

    /// Removes a peer and keeps it out for a while.
    pub fn evict(&mut self, node: u32, now: Duration) {
        self.peers.remove(&node);
        self.evicted.insert(node, now);
    }

    /// Whether a peer is kept out.
    pub fn is_kept_out(&self, node: u32, now: Duration) -> bool {
        self.evicted.get(&node).is_some_and(|at| now.saturating_sub(*at) < EVICTED_FOR)
    }

    /// Forgets evictions that are over.
    pub fn forget_evictions(&mut self, now: Duration) {
        self.evicted.retain(|_, at| now.saturating_sub(*at) < EVICTED_FOR);
    }

    /// The effect of a `tag` directive; says whether anything changed. Values that are no lists of text are ignored.
    pub fn tag(&mut self, node: u32, params: Option<&Map<String, Value>>) -> bool {
        let Some(peer) = self.peers.get_mut(&node) else { return false };
        let before = peer.tags.clone();
        for tag in texts(params, "add") {
            if !peer.tags.iter().any(|t| t == tag) {
                peer.tags.push(tag.to_owned());
            }
        }
        for tag in texts(params, "remove") {
            if let Some(at) = peer.tags.iter().position(|t| t == tag) {
                peer.tags.remove(at);
            }
        }
        peer.tags != before
    }

    /// The first `count` peers in the order of `by`.
    pub fn first_by(&self, params: Option<&Map<String, Value>>) -> Vec<u32> {
        let count = params.and_then(|p| p.get("count")).map_or(0, number);
        let by = params.and_then(|p| p.get("by")).and_then(Value::as_str).unwrap_or("age");
        let mut ranked: Vec<(u32, &Peer)> = self.peers.iter().map(|(node, peer)| (*node, peer)).collect();
        match by {
            "age" => ranked.sort_by_key(|(_, peer)| peer.added_at),
            // Never seen is before everything.
            "activity" => ranked.sort_by_key(|(_, peer)| peer.last_seen),
            _ => {}
        }
        ranked.into_iter().take(usize::try_from(count).unwrap_or(0)).map(|(node, _)| node).collect()
    }

    /// Peers, oldest first.
    pub fn oldest_first(&self) -> Vec<(u32, &Peer)> {
        let mut peers: Vec<(u32, &Peer)> = self.peers.iter().map(|(node, peer)| (*node, peer)).collect();
        peers.sort_by_key(|(node, peer)| (peer.added_at, *node));
        peers
    }

    /// The variables that describe one peer: those of `evict_where`, and of the cycle's pass over the peers.
    pub fn describe(&self, node: u32, now: Timestamp) -> Map<String, Value> {
        let mut values = Map::new();
        values.insert("peer_id".into(), node.into());
        if let Some(peer) = self.peers.get(&node) {
            values.insert("peer_tags".into(), peer.effective_tags().into());
            values.insert("peer_age_s".into(), peer.age(now).into());
            values.insert("last_seen".into(), peer.last_seen_seconds().into());
        }
        values
    }
}

fn texts<'a>(params: Option<&'a Map<String, Value>>, key: &str) -> impl Iterator<Item = &'a str> {
    params.and_then(|p| p.get(key)).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table(peers: &[(u32, &str)]) -> Table {
        let mut table = Table::new(Timestamp::UNIX_EPOCH);
        for (node, added_at) in peers {
            table.peers.insert(*node, Peer::new(vec![], added_at.parse().unwrap()));
        }
        table
    }

    fn params(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn tags_are_added_then_removed_and_odd_values_ignored() {
        let mut table = table(&[(1, "2020-01-01T00:00:00Z")]);
        assert!(table.tag(1, Some(&params(json!({"add": ["a", "b", "a"], "remove": ["b", "c"]})))));
        assert_eq!(table.peers[&1].tags, ["a"]);
        assert!(!table.tag(1, Some(&params(json!({"add": "x", "remove": 5})))));
        assert!(!table.tag(2, Some(&params(json!({"add": ["a"]})))), "not in the table");
    }

    #[test]
    fn ranks_and_counts() {
        let table =
            table(&[(1, "2022-01-01T00:00:00Z"), (2, "2020-01-01T00:00:00Z"), (3, "2021-01-01T00:00:00Z")]);
        let first = |value| table.first_by(Some(&params(value)));
        assert_eq!(first(json!({"count": 2})), [2, 3]);
        assert_eq!(first(json!({"count": 1.9, "by": "age"})), [2]);
        assert_eq!(first(json!({"count": -1})), [0u32; 0]);
        assert_eq!(first(json!({"count": "2"})), [0u32; 0]);
        assert_eq!(first(json!({"count": 9, "by": "activity"})).len(), 3);
    }

    #[test]
    fn an_evicted_peer_is_kept_out_for_a_minute() {
        let mut table = table(&[(1, "2020-01-01T00:00:00Z")]);
        let at = |s| Duration::from_secs(s);
        table.evict(1, at(100));
        assert!(table.peers.is_empty());
        assert!(
            table.is_kept_out(1, at(159)) && !table.is_kept_out(1, at(160)) && !table.is_kept_out(2, at(100))
        );
        table.forget_evictions(at(160));
        assert!(table.evicted.is_empty());
    }

    #[test]
    fn a_peer_never_seen_has_the_zero_time() {
        let table = table(&[(1, "2020-01-01T00:00:00Z")]);
        let now = "2020-01-01T00:00:12.5Z".parse().unwrap();
        let values = table.describe(1, now);
        assert_eq!(values["last_seen"], json!(-62_135_596_800.0));
        assert_eq!(values["peer_age_s"], json!(12.5));
        assert_eq!(values["peer_tags"], json!([]));
    }
}
