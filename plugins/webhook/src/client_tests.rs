//! The client over transports without a network, and the recorded deliveries over one with.

use super::*;
use std::sync::mpsc;

use pilot_vectors::Entry;
use plugin_abi::test_kit::FakeDaemon;
use serde_json::json;

use crate::http::Http;
use crate::tests::server::{Request, Server};
use crate::tests::{ManualClock, PATIENCE};

impl Client {
    /// Waits until everything emitted so far is done with.
    pub(crate) fn settle(&self) {
        assert_eq!(self.idle(Instant::now() + PATIENCE).in_hand(), 0, "still busy");
    }
}

/// Hands each body to the test and waits for the outcome.
struct Puppet {
    bodies: mpsc::Sender<String>,
    outcomes: mpsc::Receiver<Outcome>,
}

impl Transport for Puppet {
    fn post(&self, body: &[u8], _signature: Option<&str>) -> Outcome {
        let _ = self.bodies.send(String::from_utf8_lossy(body).into_owned());
        self.outcomes.recv().unwrap_or(Outcome::Delivered)
    }
}

fn puppet(config: &Config) -> (Client, mpsc::Receiver<String>, mpsc::Sender<Outcome>) {
    let (bodies, seen) = mpsc::channel();
    let (decide, outcomes) = mpsc::channel();
    let daemon = FakeDaemon::new(std::env::temp_dir());
    let client = Client::start(daemon, Puppet { bodies, outcomes }, config, ManualClock::new(), None);
    (client.expect("starts"), seen, decide)
}

fn quick() -> Config {
    Config { backoff: Duration::from_millis(3), ..Config::default() }
}

#[test]
fn a_full_queue_drops_the_new_event_and_counts_its_number() {
    let (client, seen, decide) = puppet(&quick());
    client.emit("first".into(), 7, None);
    // In hand now, no longer queued.
    let first = seen.recv_timeout(PATIENCE).expect("taken");
    assert!(first.starts_with(r#"{"event_id":1,"event":"first","node_id":7,"timestamp":""#), "{first}");
    for _ in 0..QUEUE + 3 {
        client.emit("more".into(), 7, None);
    }
    assert_eq!(client.stats().dropped, 3);
    drop(decide);
    client.settle();
    client.emit("later".into(), 7, None);
    client.settle();
    let later = seen.try_iter().last().expect("delivered");
    assert!(later.starts_with(&format!(r#"{{"event_id":{},"event":"later""#, QUEUE + 5)), "{later}");
    assert_eq!(client.close(PATIENCE), 0);
}

#[test]
fn closing_gives_up_what_does_not_end_and_later_events_are_nothing() {
    let (client, seen, decide) = puppet(&quick());
    for _ in 0..3 {
        client.emit("x".into(), 7, None);
    }
    seen.recv_timeout(PATIENCE).expect("taken");
    assert_eq!(client.close(Duration::from_millis(10)), 3);
    client.emit("x".into(), 7, None);
    decide.send(Outcome::Failed("slow".into())).expect("worker waits");
    // Neither a second attempt nor a second event follows.
    client.settle();
    assert_eq!(client.close(PATIENCE), 0);
    assert_eq!(seen.try_iter().count(), 0);
}

#[test]
fn a_pause_does_not_delay_the_end() {
    let (client, seen, decide) = puppet(&Config { backoff: Duration::from_secs(3600), ..Config::default() });
    client.emit("x".into(), 7, None);
    decide.send(Outcome::Failed("once".into())).expect("worker waits");
    seen.recv_timeout(PATIENCE).expect("taken");
    assert_eq!(client.close(Duration::ZERO), 1);
    client.settle();
    assert_eq!(client.close(PATIENCE), 0, "a second call waits again");
}

#[test]
fn refusals_are_not_repeated_and_count_for_nothing() {
    let (client, seen, decide) = puppet(&quick());
    let mut outcomes = vec![Outcome::Failed("down".into()); 12];
    outcomes.extend(vec![Outcome::Refused("status 404".into()); 3]);
    outcomes.extend(vec![Outcome::Failed("down".into()); 3]);
    for outcome in outcomes {
        decide.send(outcome).expect("open");
    }
    for _ in 0..10 {
        client.emit("x".into(), 7, None);
    }
    client.settle();
    // Four failures, three refusals, the fifth failure opens.
    assert_eq!(client.stats().circuit_skips, 2);
    assert_eq!(seen.try_iter().count(), 18);
}

#[test]
fn vectors() {
    pilot_vectors::run("pilot-plugin-webhook", &["webhook"], |_, entry| match entry.kind.as_str() {
        "url" => crate::tests::url_vector(entry),
        "body" => crate::tests::body_vector(entry),
        "deliver" | "circuit" => delivery(entry),
        kind => panic!("kind {kind} is not ours"),
    });
}

/// Plays the events against a server with the listed statuses and compares what it saw.
fn delivery(entry: &Entry) {
    const SECRET: &str = "vector secret";
    let list = |name: &str| entry.fields[name].as_array().expect("a list").clone();
    let wanted = list("requests_seen");
    let signed = wanted.iter().any(|r| r.get("signature_valid").is_some());
    let statuses = list("server_statuses_in_order_last_repeats");
    let server = Server::start(statuses.iter().map(|s| s.as_u64().expect("a status") as u16).collect());

    // Events come 60 ms apart where the breaker's cooldown of 100 ms matters.
    let probing = entry.name.contains("probe");
    let cooldown = if probing { Duration::from_millis(100) } else { Duration::from_secs(30) };
    let secret = if signed { SECRET.to_owned() } else { String::new() };
    let config = Config { secret, cooldown, ..quick() };
    let clock = ManualClock::new();
    let http = Http::new(&server.url("/hook"), &config).expect("a transport");
    let daemon = FakeDaemon::new(std::env::temp_dir());
    let client = Client::start(daemon, http, &config, Arc::clone(&clock) as _, None).expect("starts");
    for n in 1..=entry.number("events_emitted") {
        client.emit(format!("t.{n}"), 41, Some(json!({"n": n})));
        client.settle();
        clock.advance(Duration::from_millis(60));
    }
    assert_eq!(client.close(PATIENCE), 0);
    assert_eq!(client.stats().dropped, entry.number("dropped"));
    assert_eq!(client.stats().circuit_skips, entry.number("circuit_skips"));

    let seen = server.requests();
    assert_eq!(seen.len(), wanted.len(), "{seen:?}");
    for (seen, wanted) in seen.iter().zip(&wanted) {
        for (name, value) in wanted.as_object().expect("an object") {
            assert_eq!(observed(seen, name, SECRET), *value, "{name} of {seen:?}");
        }
    }
}

fn observed(request: &Request, name: &str, secret: &str) -> Value {
    let body = || serde_json::from_slice::<Value>(&request.body).unwrap_or_default();
    match name {
        "method" => request.method.as_str().into(),
        "path" => request.path.as_str().into(),
        "content_type" => request.header("content-type").into(),
        "status_returned" => request.status.into(),
        "event" => body()["event"].clone(),
        "event_id" => body()["event_id"].clone(),
        "signature_valid" => {
            (request.header("x-pilot-signature-256") == signature(secret.as_bytes(), &request.body)).into()
        }
        name => panic!("observation {name} not understood"),
    }
}

#[test]
fn a_spooled_event_stays_in_front_until_it_is_delivered() {
    let dir = tempfile::tempdir().expect("tempdir");
    let spool = || Some(Spool::open(dir.path(), "http://h/", 1 << 20).expect("opens"));
    let start = |bodies, outcomes| {
        let daemon = FakeDaemon::new(std::env::temp_dir());
        let config = Config { cooldown: Duration::from_millis(1), ..quick() };
        Client::start(
            daemon,
            Puppet { bodies, outcomes },
            &config,
            Arc::new(crate::clock::SystemClock),
            spool(),
        )
        .expect("starts")
    };
    let (bodies, seen) = mpsc::channel();
    let (decide, outcomes) = mpsc::channel();
    let client = start(bodies, outcomes);
    for topic in ["one", "two", "three"] {
        client.emit(topic.into(), 7, None);
    }
    // Twice the whole of its attempts: it is tried again, and nothing overtakes it.
    for _ in 0..6 {
        decide.send(Outcome::Failed("down".into())).expect("worker waits");
        let body = seen.recv_timeout(PATIENCE).expect("tried");
        assert!(body.contains(r#""event":"one""#), "{body}");
    }
    decide.send(Outcome::Delivered).expect("worker waits");
    assert!(seen.recv_timeout(PATIENCE).expect("tried").contains("one"));
    decide.send(Outcome::Refused("status 404".into())).expect("worker waits");
    assert!(seen.recv_timeout(PATIENCE).expect("tried").contains("two"), "in order");
    assert!(seen.recv_timeout(PATIENCE).expect("tried").contains("three"));
    // The end comes in the middle of the third one: it is not lost, and not waited for.
    for _ in 0..3 {
        decide.send(Outcome::Failed("down".into())).expect("worker waits");
    }
    assert_eq!(client.close(PATIENCE), 0);
    drop((client, decide));

    let (bodies, seen) = mpsc::channel();
    let (decide, outcomes) = mpsc::channel();
    let client = start(bodies, outcomes);
    client.emit("four".into(), 7, None);
    for topic in ["three", "four"] {
        decide.send(Outcome::Delivered).expect("worker waits");
        let body = seen.recv_timeout(PATIENCE).expect("delivered after the restart");
        assert!(body.contains(topic), "{body}");
    }
    assert_eq!(client.close(PATIENCE), 0);
    assert_eq!(client.stats(), WebhookStats::default(), "nothing dropped, nothing skipped");
}
