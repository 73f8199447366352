//! `deliver-*`, `circuit-*`: events on the bus, requests at a server. `url-*`: which URLs may be set.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use pilot_vectors::{Entry, difference};
use plugin_abi::Daemon;
use plugin_abi::test_kit::PATIENCE;
use serde_json::{Map, Value, json};
use sha2::Sha256;

use super::{Running, eventually, list};

const SECRET: &str = "vector secret";

#[test]
fn vectors_webhook() {
    let running = Running::start("webhook", |_, _| {});
    pilot_vectors::run("pilot-loader", &["webhook"], |_, entry| match entry.kind.as_str() {
        "url" => url(&running, entry),
        _ => delivery(entry),
    });
}

fn url(running: &Running, entry: &Entry) {
    let url = entry.text("url");
    if url.is_empty() {
        // Before it is judged, an empty URL means "off".
        return;
    }
    let manager = running.daemon.webhook_manager().unwrap();
    match manager.set_url(url) {
        Ok(()) => {
            assert!(!entry.error, "{}: {url} accepted", entry.name);
            assert_eq!(manager.url(), url);
        }
        Err(refusal) => {
            // Stricter is allowed, for targets that must not be reached by another spelling either.
            let stricter = difference("webhook", &entry.name).is_some()
                && refusal.message().starts_with("URL cannot target ");
            assert!(entry.error || stricter, "{}: {refusal}", entry.name);
            if let Some(text) = entry.error_text() {
                assert_eq!(refusal.message(), text);
            }
        }
    }
}

/// What the server saw of one request.
struct Seen {
    method: String,
    path: String,
    headers: Map<String, Value>,
    body: Vec<u8>,
    status: u64,
}

#[derive(Default)]
struct Log {
    seen: Mutex<Vec<Seen>>,
    changed: Condvar,
}

/// Answers with the given statuses in turn, the last one for ever.
fn serve(listener: TcpListener, statuses: Vec<u64>, log: Arc<Log>) {
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // A client that goes away early is its own problem.
            let _ = answer(&stream, &statuses, &log);
        }
    });
}

fn answer(stream: &TcpStream, statuses: &[u64], log: &Log) -> std::io::Result<()> {
    let mut input = BufReader::new(stream);
    let mut line = || {
        let mut text = String::new();
        input.read_line(&mut text).map(|_| text.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Map::new();
    while let Some((name, value)) = line()?.split_once(": ") {
        headers.insert(name.to_ascii_lowercase(), value.into());
    }
    let length = headers.get("content-length").and_then(|v| v.as_str()?.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    input.take(length).read_to_end(&mut body)?;
    let status = {
        let mut seen = log.seen.lock().unwrap();
        let status = *statuses.get(seen.len()).or(statuses.last()).unwrap();
        seen.push(Seen { method, path, headers, body, status });
        status
    };
    log.changed.notify_all();
    let location = if (300..400).contains(&status) { "Location: /moved\r\n" } else { "" };
    let mut output = stream;
    write!(output, "HTTP/1.1 {status} X\r\n{location}Content-Length: 0\r\nConnection: close\r\n\r\n")
}

/// Plays the events against a server with the listed statuses and compares what it saw.
fn delivery(entry: &Entry) {
    let wanted = list(&entry.fields, "requests_seen");
    let statuses = list(&entry.fields, "server_statuses_in_order_last_repeats");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let log = Arc::new(Log::default());
    serve(listener, statuses.iter().map(|s| s.as_u64().unwrap()).collect(), log.clone());

    // The recording's pause was 3 ms; where the breaker's cooldown of 100 ms matters, events came 60 ms apart.
    let probing = entry.name.contains("probe");
    let cooldown = if probing { 100 } else { 30_000 };
    let signed = wanted.iter().any(|r| r.get("signature_valid").is_some());
    let mut running = Running::start("webhook", |daemon, _| {
        let secret = if signed { SECRET } else { "" };
        daemon.set_config(json!({"url": url, "secret": secret, "backoff_ms": 3, "cooldown_ms": cooldown}));
    });
    let manager = running.daemon.webhook_manager().unwrap();
    let number = |name: &str| entry.number(name);
    for n in 1..=number("events_emitted") {
        running.daemon.publish(&format!("t.{n}"), json!({"n": n}).as_object().cloned());
        if probing {
            // This one vector is about time: the next event comes when 60 ms have passed and this one is settled.
            settle_by_time();
        }
    }
    if probing {
        // Only the pattern is compared, see webhook.md section 5: opened, skipped, probed.
        eventually("requests", || log.seen.lock().unwrap().len() >= 16);
        assert!(manager.stats().circuit_skips >= 1);
        return;
    }
    eventually("skips", || manager.stats().circuit_skips == number("circuit_skips"));
    let deadline = Instant::now() + PATIENCE;
    let mut seen = log.seen.lock().unwrap();
    while seen.len() < wanted.len() {
        assert!(Instant::now() < deadline, "{}: only {} requests", entry.name, seen.len());
        seen = log.changed.wait_timeout(seen, Duration::from_millis(50)).unwrap().0;
    }
    drop(seen);
    assert_eq!(manager.stats().dropped, number("dropped"));
    running.stop();
    let seen = log.seen.lock().unwrap();
    assert_eq!(seen.len(), wanted.len(), "{}", entry.name);
    for (seen, wanted) in seen.iter().zip(wanted) {
        for (name, value) in wanted.as_object().unwrap() {
            assert_eq!(observed(seen, name), *value, "{}: {name}", entry.name);
        }
    }
}

/// The one wait for time to pass: the recorded rhythm of the probe vector.
fn settle_by_time() {
    let until = Instant::now() + Duration::from_millis(60);
    while let left @ 1.. = until.saturating_duration_since(Instant::now()).as_micros() {
        std::thread::park_timeout(Duration::from_micros(left as u64));
    }
}

fn observed(seen: &Seen, name: &str) -> Value {
    let body = || serde_json::from_slice::<Value>(&seen.body).unwrap_or_default();
    let header = |name: &str| seen.headers.get(name).cloned().unwrap_or_default();
    match name {
        "method" => seen.method.as_str().into(),
        "path" => seen.path.as_str().into(),
        "content_type" => header("content-type"),
        "status_returned" => seen.status.into(),
        "event" | "event_id" => body()[name].clone(),
        "signature_valid" => {
            let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
            mac.update(&seen.body);
            (header("x-pilot-signature-256") == hex::encode(mac.finalize().into_bytes())).into()
        }
        name => panic!("observation {name} not understood"),
    }
}
