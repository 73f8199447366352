//! `pilot-host rendezvous` killed with SIGKILL at random moments under load. After each restart everything it had
//! acknowledged is there, every key has its number, and no number belongs to two keys. Five times by default, fifty with
//! `PILOT_LONG=1` (`scripts/check --long`).

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::support::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pilot_engine::identity::Identity;
use pilot_wire::registry::{challenge, read_message, write_raw_message};
use serde_json::{Value, json};

const ADMIN: &str = "sekrit";
const LISTEN: &str = "127.0.0.1:4000";
const WORKERS: usize = 8;

/// What is done to each node after its registration, in this order. Each step is another kind of record.
const STEPS: [Step; 6] = [Step::Name, Step::Tag, Step::Publish, Step::Trust, Step::Join, Step::Leave];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Name,
    Tag,
    Publish,
    /// In the node the same worker made before.
    Trust,
    Join,
    /// Deregisters, every fourth node only.
    Leave,
}

/// One node: what was acknowledged about it.
#[derive(Clone, Debug)]
struct Known {
    id: u32,
    peer: Option<u32>,
    /// How many of [`STEPS`] were acknowledged, and whether one more was asked for.
    done: usize,
    asked: usize,
}

impl Known {
    /// Whether the step certainly happened; `None` when it was asked for and never answered.
    fn happened(&self, step: Step) -> Option<bool> {
        let at = STEPS.iter().position(|s| *s == step).unwrap();
        if at < self.done {
            Some(true)
        } else if at < self.asked {
            None
        } else {
            Some(false)
        }
    }
}

/// By the number of the key.
type Book = Mutex<BTreeMap<u32, Known>>;

fn identity(number: u32) -> Identity {
    let mut seed = [0x5A; 32];
    seed[..4].copy_from_slice(&number.to_be_bytes());
    Identity::generate(seed)
}

struct Link(TcpStream);

impl Link {
    /// `None` when the server is gone.
    fn open(registry: &str) -> Option<Link> {
        let stream = TcpStream::connect(registry).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        Some(Link(stream))
    }

    fn ask(&mut self, request: &Value) -> Option<Value> {
        write_raw_message(&mut self.0, request.to_string().as_bytes()).ok()?;
        read_message(&mut self.0).ok().map(Value::Object)
    }

    /// A request that has to succeed, unless the server is gone.
    fn done(&mut self, request: &Value) -> Option<Value> {
        let answer = self.ask(request)?;
        assert_ne!(answer["type"], "error", "{request}: {answer}");
        Some(answer)
    }
}

fn register(link: &mut Link, number: u32) -> Option<u32> {
    let identity = identity(number);
    let key = identity.public_key_text();
    let signature = STANDARD.encode(identity.sign(challenge::register(LISTEN, &key).as_bytes()));
    let request = json!({
        "type": "register", "listen_addr": LISTEN, "public_key": key, "version": "kill", "signature": signature,
    });
    u32::try_from(link.done(&request)?["node_id"].as_u64().unwrap()).ok()
}

fn take(link: &mut Link, number: u32, known: &Known, step: Step) -> Option<()> {
    let (identity, id) = (identity(number), known.id);
    let sign = |text: String| STANDARD.encode(identity.sign(text.as_bytes()));
    let node_op = |op: &str| sign(challenge::node_op(op, id));
    let request = match step {
        Step::Name => json!({"type": "set_hostname", "hostname": format!("n{number}"),
            "signature": node_op("set_hostname")}),
        Step::Tag => {
            json!({"type": "set_tags", "tags": [format!("t{number}")], "signature": node_op("set_tags")})
        }
        Step::Publish => {
            json!({"type": "set_visibility", "public": true, "signature": node_op("set_visibility")})
        }
        Step::Trust => {
            let Some(peer) = known.peer else { return Some(()) };
            json!({"type": "report_trust", "peer_id": peer, "signature": sign(challenge::report_trust(id, peer))})
        }
        Step::Join => json!({"type": "join_network", "network_id": 1, "token": "", "inviter_id": 0,
            "signature": sign(challenge::join_network(id, 1))}),
        Step::Leave if !number.is_multiple_of(4) => return Some(()),
        Step::Leave => json!({"type": "deregister", "signature": node_op("deregister")}),
    };
    let mut request = request;
    request["node_id"] = json!(id);
    link.done(&request).map(drop)
}

/// Makes nodes until the server is gone.
fn work(registry: &str, next: &AtomicU32, book: &Book) {
    let Some(mut link) = Link::open(registry) else { return };
    let mut peer = None;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(id) = register(&mut link, number) else { return };
        let mut known = Known { id, peer, done: 0, asked: 0 };
        for step in STEPS {
            book.lock().unwrap().insert(number, Known { asked: known.done + 1, ..known.clone() });
            if take(&mut link, number, &known, step).is_none() {
                return;
            }
            known.done += 1;
        }
        known.asked = known.done;
        book.lock().unwrap().insert(number, known);
        // A node that has left is no one to trust.
        peer = (!number.is_multiple_of(4)).then_some(id);
    }
}

/// Everything acknowledged is there, nothing is there twice.
fn check(registry: &str, book: &BTreeMap<u32, Known>) {
    let mut link = Link::open(registry).unwrap();
    let mut holders = BTreeMap::new();
    for (checked, (number, known)) in book.iter().enumerate() {
        // A connection that asks for long is slowed down.
        if checked % 500 == 499 {
            link = Link::open(registry).unwrap();
        }
        let id = known.id;
        assert_eq!(holders.insert(id, number), None, "number {id} was given away twice");
        let found = link.ask(&json!({"type": "lookup", "node_id": id})).unwrap();
        let left = if number % 4 == 0 { known.happened(Step::Leave) } else { Some(false) };
        if found["type"] == "error" {
            assert_ne!(left, Some(false), "node {id} is gone: {found}");
            continue;
        }
        assert_ne!(left, Some(true), "node {id} is back: {found}");
        assert_eq!(found["public_key"], identity(*number).public_key_text(), "node {id}");
        let is = |step: Step, there: bool| {
            if let Some(expected) = known.happened(step) {
                assert_eq!(there, expected, "{step:?} of node {id}, {known:?}: {found}");
            }
        };
        is(Step::Name, found["hostname"] == format!("n{number}"));
        is(Step::Tag, found["tags"] == json!([format!("t{number}")]));
        is(Step::Publish, found["public"] == json!(true));
        is(Step::Join, found["networks"] == json!([0, 1]));
        if let Some(peer) = known.peer {
            let trusts = link.ask(&json!({"type": "check_trust", "node_id": id, "peer_id": peer})).unwrap();
            // Members of one network are related without a pair.
            if known.happened(Step::Join) == Some(false) || known.happened(Step::Trust) == Some(true) {
                is(Step::Trust, trusts["trusted"] == json!(true));
            }
        }
    }
}

fn start(dir: &Path) -> Rendezvous {
    Rendezvous::start_with(&[
        "--data-dir",
        dir.to_str().unwrap(),
        "--admin-token",
        ADMIN,
        "--log-level",
        "info",
    ])
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    let kills = if std::env::var_os("PILOT_LONG").is_some_and(|v| v == "1") { 50 } else { 5 };
    let dir = temp_dir();
    let book = Book::default();
    let next = AtomicU32::new(1);
    let mut random = 0x9E37_79B9_7F4A_7C15_u64 ^ u64::from(std::process::id());
    for kill in 0..kills {
        let mut server = start(dir.path());
        if kill == 0 {
            let mut link = Link::open(&server.registry).unwrap();
            let founder = register(&mut link, 0).unwrap();
            let create =
                json!({"type": "create_network", "node_id": founder, "name": "team", "admin_token": ADMIN});
            assert_eq!(link.done(&create).unwrap()["network_id"], 1);
        }
        check(&server.registry, &book.lock().unwrap());
        let enough = book.lock().unwrap().len() + WORKERS;
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| work(&server.registry, &next, &book));
            }
            while book.lock().unwrap().len() < enough {
                std::thread::yield_now();
            }
            // At no particular moment of the work: 0 to 65 ms later.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let moment = Instant::now() + Duration::from_micros(random >> 48);
            while Instant::now() < moment {
                std::hint::spin_loop();
            }
            server.process.signal("-KILL");
        });
        assert!(!server.process.wait_exit().success());
    }
    let server = start(dir.path());
    let book = book.into_inner().unwrap();
    check(&server.registry, &book);
    // A key that registers again gets its number, also when it had left; a new key gets one that nobody had.
    let mut link = Link::open(&server.registry).unwrap();
    for (number, known) in book.iter().rev().take(200) {
        assert_eq!(register(&mut link, *number), Some(known.id));
    }
    let fresh = register(&mut link, u32::MAX).unwrap();
    assert!(book.values().all(|known| known.id < fresh), "{fresh} was given away before");
    let changes: usize = book.values().map(|known| 1 + known.done).sum();
    println!(
        "kill -9: {kills} times under load; {} nodes with {changes} acknowledged changes all there, ids unchanged, next number {fresh}",
        book.len()
    );
}
