//! The exchange recorded with a v1.9.0 registry, replayed in order against our server over a real connection.
//!
//! The allowed differences stand in `registry_differences.toml`; volatile members are compared by presence and type, lists
//! that the peer keeps in a hash map without regard to order.
#![allow(clippy::unwrap_used)] // a test that cannot go on says so by its panic

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pilot_net::rendezvous::{RendezvousConfig, RendezvousServer};
use pilot_vectors::Entry;
use pilot_wire::registry::{
    MSG_ERROR, MSG_HEARTBEAT_OK, MSG_JSON, MSG_LOOKUP_OK, MSG_RESOLVE_OK, PREAMBLE, decode_heartbeat_resp,
    decode_lookup_resp, decode_resolve_resp, read_frame, read_message, write_raw_message,
};
use serde_json::{Map, Value};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Differences {
    rule: Vec<Rule>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    kind: Kind,
    #[serde(default)]
    answers: Vec<String>,
    #[serde(default)]
    members: Vec<String>,
    recorded: Option<String>,
    #[serde(default)]
    contains: Vec<String>,
    #[serde(default)]
    request_without: Vec<String>,
    /// Of registry.md.
    section: String,
    reason: String,
}

#[derive(Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Added,
    Absent,
    Any,
    Text,
}

impl Differences {
    fn load() -> Self {
        let all: Self =
            toml::from_str(include_str!("registry_differences.toml")).expect("the rules are in order");
        let stands = |r: &Rule| !r.reason.is_empty() && r.section.starts_with(|c: char| c.is_ascii_digit());
        assert!(all.rule.iter().all(stands), "every rule stands on a section");
        all
    }

    fn member(
        &self,
        kind: Kind,
        (answer, request): (&str, &Map<String, Value>),
        member: &str,
        recorded: Option<&Value>,
    ) -> bool {
        self.rule.iter().any(|r| {
            r.kind == kind
                && r.answers.iter().any(|a| a == answer)
                && r.members.iter().any(|m| m == member)
                && r.recorded.as_deref().is_none_or(|text| recorded.and_then(Value::as_str) == Some(text))
                && !r.request_without.iter().any(|m| request.contains_key(m))
        })
    }

    fn text(&self, recorded: &str, ours: &str) -> bool {
        self.rule.iter().any(|r| {
            r.kind == Kind::Text
                && r.recorded.as_deref() == Some(recorded)
                && r.contains.iter().any(|part| ours.contains(part.as_str()))
        })
    }
}

/// Compares one answer with its recording.
struct Comparison<'a> {
    differences: &'a Differences,
    name: &'a str,
    /// Its type, and the request that it answers.
    answer: (&'a str, &'a Map<String, Value>),
    volatile: Vec<&'a str>,
}

impl Comparison<'_> {
    fn objects(&self, recorded: &Map<String, Value>, ours: &Map<String, Value>) {
        for (key, want) in recorded {
            match ours.get(key) {
                None => assert!(
                    self.differences.member(Kind::Absent, self.answer, key, Some(want)),
                    "{}: {key:?} is missing from {ours:?}",
                    self.name
                ),
                Some(got) => self.values(key, want, got),
            }
        }
        for key in ours.keys().filter(|key| !recorded.contains_key(*key)) {
            assert!(
                self.differences.member(Kind::Added, self.answer, key, None),
                "{}: {key:?} is not in the recording, but in {ours:?}",
                self.name
            );
        }
    }

    fn values(&self, key: &str, want: &Value, got: &Value) {
        let same_type = std::mem::discriminant(want) == std::mem::discriminant(got);
        if self.volatile.contains(&key) || self.differences.member(Kind::Any, self.answer, key, Some(want)) {
            assert!(same_type, "{}: {key}: want the type of {want}, got {got}", self.name);
            return;
        }
        match (want, got) {
            (Value::Object(want), Value::Object(got)) => self.objects(want, got),
            (Value::Array(want), Value::Array(got)) => self.lists(key, want, got),
            _ => assert_eq!(want, got, "{}: {key}", self.name),
        }
    }

    /// Lists of objects with an id are sorted by it: the peer gives them in the order of a hash map.
    fn lists(&self, key: &str, want: &[Value], got: &[Value]) {
        assert_eq!(want.len(), got.len(), "{}: {key}: {got:?}", self.name);
        let sorted = |list: &[Value]| {
            let mut list = list.to_vec();
            let id = |v: &Value| ["id", "node_id"].iter().find_map(|k| v.get(*k)?.as_u64());
            list.sort_by_key(id);
            list
        };
        for (want, got) in sorted(want).iter().zip(&sorted(got)) {
            self.values(key, want, got);
        }
    }
}

/// A server with both kinds of connection.
struct Live {
    runtime: tokio::runtime::Runtime,
    server: Option<RendezvousServer>,
    json: TcpStream,
    binary: TcpStream,
    seq: u64,
}

impl Live {
    fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut config = RendezvousConfig {
            registry_addr: any,
            beacon_addr: any,
            admin_token: Some("sekrit".into()),
            ..RendezvousConfig::default()
        };
        // As the recorded server does; ours checks every heartbeat unless told otherwise.
        config.registry.heartbeat_verify_every = Duration::from_secs(120);
        // It rotates keys in the old form.
        config.registry.legacy_rotation = true;
        let server = runtime.block_on(RendezvousServer::bind(config)).unwrap();
        let connect = || {
            let stream = TcpStream::connect(server.registry_addr()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        };
        let (json, mut binary) = (connect(), connect());
        binary.write_all(&PREAMBLE).unwrap();
        Self { runtime, server: Some(server), json, binary, seq: 0 }
    }

    fn ask(&mut self, request: &str) -> Map<String, Value> {
        write_raw_message(&mut self.json, request.as_bytes()).unwrap();
        read_message(&mut self.json).unwrap()
    }

    fn ask_frame(&mut self, request: &[u8]) -> (u8, Vec<u8>) {
        self.binary.write_all(request).unwrap();
        read_frame(&mut self.binary).unwrap()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.shutdown());
        }
    }
}

#[test]
fn recorded_exchange_vectors() {
    let differences = Differences::load();
    let whole = is_whole(&pilot_vectors::load("registry").unwrap_or_default());
    let mut live: Option<Live> = None;
    pilot_vectors::run("pilot-net", &["registry"], |_, entry| {
        if entry.kind.starts_with("transcript") {
            let seq = entry.number("seq");
            // A transcript begins with an empty server.
            if live.as_ref().is_none_or(|live| live.seq >= seq) {
                live = Some(Live::start());
            }
            let live = live.as_mut().unwrap();
            live.seq = seq;
            compare_message(&differences, entry, &live.ask(entry.text("request")));
        } else {
            let live = live.get_or_insert_with(Live::start);
            compare_frame(&differences, whole, entry, live.ask_frame(&entry.hex("request_hex")));
        }
    });
}

/// Whether the file holds all steps that led to the state which the binary requests were recorded in. If not, what they
/// say about keys and networks is not reached by the steps there are. A key that no step mentions gives it away.
fn is_whole(entries: &[Entry]) -> bool {
    let requests: Vec<&str> =
        entries.iter().filter(|e| e.kind.starts_with("transcript")).map(|e| e.text("request")).collect();
    let key_of = |e: &Entry| {
        let (kind, payload) = read_frame(&mut &e.bytes[..]).ok()?;
        let found = decode_lookup_resp(&payload).ok().filter(|_| kind == MSG_LOOKUP_OK)?;
        Some(STANDARD.encode(found.pub_key))
    };
    let binary = entries.iter().filter(|e| e.kind.starts_with("binary_transcript"));
    binary.filter_map(key_of).all(|key| requests.iter().any(|r| r.contains(&key)))
}

fn compare_message(differences: &Differences, entry: &Entry, ours: &Map<String, Value>) {
    let recorded: Map<String, Value> = serde_json::from_slice(&entry.bytes).unwrap();
    // Some requests are meant to be no objects.
    let request = serde_json::from_str(entry.text("request")).unwrap_or_default();
    let volatile = entry.fields.get("volatile_fields").and_then(Value::as_array).into_iter().flatten();
    let comparison = Comparison {
        differences,
        name: &entry.name,
        answer: (recorded.get("type").and_then(Value::as_str).unwrap_or(""), &request),
        volatile: volatile.filter_map(Value::as_str).collect(),
    };
    if !entry.error {
        comparison.objects(&recorded, ours);
        return;
    }
    assert_eq!(ours.get("type").and_then(Value::as_str), Some("error"), "{}: {ours:?}", entry.name);
    let want = recorded["error"].as_str().unwrap();
    let got = ours["error"].as_str().unwrap();
    let agrees = match entry.raw.get("error_match").and_then(Value::as_str) {
        Some("any") => true,
        Some("prefix") => got.starts_with(want),
        // Behind "illegal base64 data at input byte" and the like stands the decoder's own count; ours counts alike.
        _ => got == want,
    };
    assert!(agrees || differences.text(want, got), "{}: want {want:?}, got {got:?}", entry.name);
}

fn frame_member(differences: &Differences, answer: &str, member: &str) -> bool {
    differences.member(Kind::Absent, (answer, &Map::new()), member, None)
}

fn compare_frame(differences: &Differences, whole: bool, entry: &Entry, (kind, payload): (u8, Vec<u8>)) {
    let (want_kind, want) = read_frame(&mut &entry.bytes[..]).unwrap();
    assert_eq!(kind, want_kind, "{}: {}", entry.name, String::from_utf8_lossy(&payload));
    match kind {
        MSG_JSON => {
            let recorded: Map<String, Value> = serde_json::from_slice(&want).unwrap();
            let ours: Map<String, Value> = serde_json::from_slice(&payload).unwrap();
            let mut volatile = vec!["time", "timestamp", "created", "last_seen", "created_at"];
            if !whole {
                volatile.extend(["networks", "public_key"]);
            }
            let answer = (recorded.get("type").and_then(Value::as_str).unwrap_or(""), &Map::new());
            let comparison = Comparison { differences, name: &entry.name, answer, volatile };
            comparison.objects(&recorded, &ours);
        }
        MSG_HEARTBEAT_OK => {
            let (want, got) =
                (decode_heartbeat_resp(&want).unwrap(), decode_heartbeat_resp(&payload).unwrap());
            assert_eq!(want.key_expiry_warning, got.key_expiry_warning, "{}", entry.name);
        }
        MSG_LOOKUP_OK => {
            // Decoding leaves the reserved bytes out.
            assert!(frame_member(differences, "binary lookup_ok", "polo_score"));
            let (mut want, mut got) =
                (decode_lookup_resp(&want).unwrap(), decode_lookup_resp(&payload).unwrap());
            if got.external_id.is_empty() && frame_member(differences, "binary lookup_ok", "external_id") {
                want.external_id.clear();
            }
            if !whole {
                assert_eq!(want.pub_key.len(), got.pub_key.len(), "{}", entry.name);
                for result in [&mut want, &mut got] {
                    result.pub_key.clear();
                    result.networks.clear();
                }
            }
            assert_eq!(want, got, "{}", entry.name);
        }
        MSG_RESOLVE_OK => {
            // Decoding leaves out what follows.
            assert!(frame_member(differences, "binary resolve_ok", "public_key"));
            assert_eq!(decode_resolve_resp(&want), decode_resolve_resp(&payload), "{}", entry.name)
        }
        MSG_ERROR => assert_eq!(want, payload, "{}", entry.name),
        other => panic!("{}: unexpected message type {other:#04x}", entry.name),
    }
}
