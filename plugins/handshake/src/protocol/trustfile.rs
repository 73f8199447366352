//! The text of `trust.json` (handshake.md section 6): what the stores look like on disk, readable by the Go peer and
//! reading what it wrote.
//!
//! Called by the shell's `state_file`, which does the file's I/O. A file that is no JSON is the caller's to report; an
//! entry whose time cannot be read is skipped; limits hold for a loaded file as for everything else.

use jiff::Timestamp;
use serde::Serialize;

use super::store::{Pending, Store, Trusted};
use super::text::lossy;
use super::tolerant::{JsonError, Object};

#[derive(Serialize)]
struct File<'a> {
    /// `None` is written as `null`, as the Go peer does for an empty list.
    trusted: Option<Vec<TrustedEntry<'a>>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pending: Vec<PendingEntry<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    revoked: Vec<RevokedEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    outgoing: Vec<OutgoingEntry>,
}

#[derive(Serialize)]
struct TrustedEntry<'a> {
    node_id: u32,
    public_key: &'a str,
    approved_at: String,
    mutual: bool,
    #[serde(skip_serializing_if = "is_zero")]
    network: u16,
}

#[derive(Serialize)]
struct PendingEntry<'a> {
    node_id: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    public_key: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    justification: &'a str,
    received_at: String,
    #[serde(skip_serializing_if = "is_zero")]
    source: u32,
}

#[derive(Serialize)]
struct RevokedEntry {
    node_id: u32,
    until: String,
}

#[derive(Serialize)]
struct OutgoingEntry {
    node_id: u32,
    sent_at: String,
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The whole file: two-space indent, no final newline. Cooldowns that are over at `now` are left out.
pub fn encode(store: &Store, now: Timestamp) -> String {
    let trusted: Vec<_> = store
        .trusted
        .iter()
        .map(|(&node_id, r)| TrustedEntry {
            node_id,
            public_key: &r.public_key,
            approved_at: whole_seconds(r.approved_at),
            mutual: r.mutual,
            network: r.network,
        })
        .collect();
    let file = File {
        trusted: (!trusted.is_empty()).then_some(trusted),
        pending: store
            .pending
            .iter()
            .map(|(&node_id, p)| PendingEntry {
                node_id,
                public_key: &p.public_key,
                justification: &p.justification,
                received_at: whole_seconds(p.received_at),
                source: p.source,
            })
            .collect(),
        revoked: store
            .revoked
            .iter()
            .filter(|(_, until)| now < **until)
            .map(|(&node_id, until)| RevokedEntry { node_id, until: whole_seconds(*until) })
            .collect(),
        outgoing: store
            .outgoing
            .iter()
            .map(|(&node_id, at)| OutgoingEntry { node_id, sent_at: whole_seconds(*at) })
            .collect(),
    };
    escape_json(&serde_json::to_string_pretty(&file).expect("plain values and text keys always serialise"))
}

/// Reads a file. Cooldowns that are over at `now` are not restored.
pub fn decode(bytes: &[u8], now: Timestamp) -> Result<Store, JsonError> {
    let text = lossy(bytes);
    let file = Object::parse(&text)?;
    let mut store = Store::default();
    for entry in file.objects("trusted")? {
        let node_id = entry.integer("node_id")?;
        let public_key = entry.text("public_key")?;
        let mutual = entry.boolean("mutual")?;
        let network = entry.integer("network")?;
        if let Some(approved_at) = time(&entry, "approved_at")? {
            store.trusted.insert(node_id, Trusted { public_key, approved_at, mutual, network });
        }
    }
    for entry in file.objects("pending")? {
        let node_id = entry.integer("node_id")?;
        let public_key = entry.text("public_key")?;
        let justification = entry.text("justification")?;
        let source = entry.integer("source")?;
        if let Some(received_at) = time(&entry, "received_at")? {
            store.queue(node_id, Pending { public_key, justification, received_at, source });
        }
    }
    for entry in file.objects("revoked")? {
        let node_id = entry.integer("node_id")?;
        if let Some(until) = time(&entry, "until")?.filter(|until| now < *until) {
            store.revoked.insert(node_id, until);
        }
    }
    for entry in file.objects("outgoing")? {
        let node_id = entry.integer("node_id")?;
        if let Some(at) = time(&entry, "sent_at")? {
            store.note_outgoing(node_id, at);
        }
    }
    Ok(store)
}

/// `<`, `>`, `&`, U+2028 and U+2029 can stand only inside strings; the Go peer escapes them in files too.
fn escape_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out
}

fn whole_seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second())
        .expect("whole seconds of a valid time are a valid time")
        .to_string()
}

/// A time member; `Ok(None)` when its text is no RFC 3339 time.
fn time(entry: &Object<'_>, name: &'static str) -> Result<Option<Timestamp>, JsonError> {
    Ok(entry.text(name)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut store = Store::default();
        let key = "k".repeat(44);
        store.grant(1, Trusted { public_key: key.clone(), approved_at: at(10), mutual: true, network: 0 });
        store.grant(2, Trusted { public_key: String::new(), approved_at: at(11), mutual: false, network: 9 });
        let request = |source| Pending {
            public_key: key.clone(),
            justification: "<&>\u{2028}".into(),
            received_at: at(12),
            source,
        };
        store.queue(3, request(3));
        store.queue(4, request(0));
        store.note_outgoing(5, at(13));
        store.start_cooldown(6, at(14));
        let text = encode(&store, at(20));
        assert!(text.contains(r#""justification": "\u003c\u0026\u003e\u2028""#), "{text}");
        let read = decode(text.as_bytes(), at(20)).expect("own file");
        assert_eq!(encode(&read, at(20)), text);
        assert_eq!(
            (read.trusted, read.pending, read.outgoing),
            (store.trusted, store.pending, store.outgoing)
        );
        assert_eq!(read.revoked, store.revoked);
    }

    #[test]
    fn fractions_are_cut_and_ended_cooldowns_left_out() {
        let mut store = Store::default();
        store.note_outgoing(5, Timestamp::new(1, 999_999_999).expect("in range"));
        store.start_cooldown(6, at(0));
        let text = encode(&store, at(300));
        assert!(text.contains(r#""sent_at": "1970-01-01T00:00:01Z""#) && !text.contains("revoked"), "{text}");
        assert!(decode(encode(&store, at(1)).as_bytes(), at(300)).expect("own file").revoked.is_empty());
    }

    #[test]
    fn entries_without_a_time_are_skipped_and_strangers_ignored() {
        let text = br#"{"version":9,"trusted":[{"node_id":1,"approved_at":"yesterday"},
            {"NODE_ID":2,"approved_at":"2026-05-28T22:26:40+02:00","future":{}},{"node_id":3}],"pending":null}"#;
        let store = decode(text, at(0)).expect("JSON");
        assert_eq!(store.trusted.keys().copied().collect::<Vec<_>>(), [2]);
        assert_eq!(store.trusted[&2].approved_at, at(1_780_000_000));
        assert!(decode(br#"{"trusted":[{"node_id":"1"}]}"#, at(0)).is_err());
        assert!(decode(b"{", at(0)).is_err());
    }

    #[test]
    fn a_loaded_file_cannot_exceed_the_limits() {
        let pending: Vec<_> = (0..1000)
            .map(|n| format!(r#"{{"node_id":{n},"received_at":"2026-01-01T00:00:00Z","source":{n}}}"#))
            .collect();
        let outgoing: Vec<_> =
            (0..1000).map(|n| format!(r#"{{"node_id":{n},"sent_at":"2026-01-01T00:00:00Z"}}"#)).collect();
        let text = format!(r#"{{"pending":[{}],"outgoing":[{}]}}"#, pending.join(","), outgoing.join(","));
        let store = decode(text.as_bytes(), at(0)).expect("JSON");
        assert_eq!((store.pending.len(), store.outgoing.len()), (256, 256));
    }
}
