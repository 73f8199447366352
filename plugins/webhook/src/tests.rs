//! The plugin on a fake daemon and a server on loopback, and the vectors of URLs and bodies.

use std::io::{BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pilot_vectors::Entry;
use plugin_abi::test_kit::FakeDaemon;
use plugin_abi::{Daemon, ErrorKind, Plugin, WebhookManager, WebhookStats};
use serde_json::{Value, json};

use crate::body::{QueuedEvent, signature};
use crate::clock::Clock;
use crate::http::{Http, Outcome, Transport};
use crate::{Webhook, config::Config, lock, target};

pub mod server;
use server::Server;

/// How long a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Clocks that a test moves.
pub struct ManualClock(Instant, Mutex<Duration>);

impl ManualClock {
    pub fn new() -> Arc<Self> {
        Arc::new(ManualClock(Instant::now(), Mutex::default()))
    }

    pub fn advance(&self, time: Duration) {
        *lock(&self.1) += time;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_780_000_000).expect("in range") + *lock(&self.1)
    }

    fn instant(&self) -> Instant {
        self.0 + *lock(&self.1)
    }
}

/// Exactly the peer's verdict and text; ours refuses at least the same.
pub fn url_vector(entry: &Entry) {
    let url = entry.text("url");
    let verdict = target::check_as_the_peer(url);
    assert_eq!(verdict.is_err(), entry.error, "{verdict:?}");
    // A zone may or may not stand in the text; all else is exact.
    let zoneless = |text: &str| text.split('%').next().unwrap_or_default().to_owned();
    if let (Err(text), Some(wanted)) = (&verdict, entry.error_text()) {
        if wanted.starts_with("URL cannot target link-local") {
            assert_eq!(zoneless(text), zoneless(wanted));
        } else {
            assert_eq!(text, wanted);
        }
        assert_eq!(target::check(url), verdict);
    }
}

pub fn body_vector(entry: &Entry) {
    let wanted = entry.text("body_text");
    // The fields cannot tell an absent payload from a null one; the body can.
    let data = entry.fields["data"].clone();
    let absent = data.is_null() && !wanted.contains(r#""data":null"#);
    let event = QueuedEvent {
        event_id: entry.number("event_id"),
        event: entry.text("event").into(),
        node_id: u32::try_from(entry.number("node_id")).expect("a node id"),
        timestamp: entry.text("timestamp").parse().expect("a time"),
        data: (!absent).then_some(data),
    };
    assert_eq!(event.body(), wanted);
    assert_eq!(event.body().as_bytes(), entry.bytes);
    if entry.fields.contains_key("signature_header") {
        let header = signature(entry.text("secret").as_bytes(), &entry.bytes);
        assert_eq!(header, entry.text("signature_header"));
    }
}

struct Setup {
    daemon: Arc<FakeDaemon>,
    plugin: Webhook,
    folder: tempfile::TempDir,
}

impl Setup {
    fn new(config: Value) -> Setup {
        let folder = tempfile::tempdir().expect("tempdir");
        let daemon = FakeDaemon::new(folder.path());
        daemon.set_config(config);
        Setup { daemon, plugin: Webhook { clock: ManualClock::new(), ..Webhook::new() }, folder }
    }

    fn start(self) -> Setup {
        self.plugin.init(self.daemon.clone()).expect("init");
        self
    }

    fn manager(&self) -> Arc<dyn WebhookManager> {
        self.daemon.webhook_manager().expect("registered")
    }

    fn publish(&self, topic: &str, payload: Value) {
        self.daemon.publish(topic, payload.as_object().cloned());
    }

    fn saved(&self) -> Option<String> {
        std::fs::read_to_string(self.folder.path().join("webhook_url")).ok()
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        let _ = self.plugin.shutdown(Duration::from_secs(1));
    }
}

#[test]
fn events_of_the_bus_arrive_with_payload_and_without() {
    let server = Server::start(vec![200]);
    let setup = Setup::new(json!({"url": server.url("/hook"), "secret": "s"})).start();
    setup.publish("a.b", json!({"x": "<1>"}));
    server.request(1);
    setup.daemon.set_node_id(9);
    setup.publish("c", Value::Null);
    let (first, second) = (server.request(1), server.request(2));
    assert_eq!(
        String::from_utf8(first.body.clone()).expect("text"),
        r#"{"event_id":1,"event":"a.b","node_id":1,"timestamp":"2026-05-28T20:26:40Z","data":{"x":"\u003c1\u003e"}}"#
    );
    assert_eq!(first.header("x-pilot-signature-256"), signature(b"s", &first.body));
    assert_eq!(first.header("content-type"), "application/json");
    assert!(second.body.ends_with(br#""node_id":9,"timestamp":"2026-05-28T20:26:40Z","data":null}"#));
    assert_eq!(setup.saved(), None, "a configured URL is not saved");
}

#[test]
fn the_last_event_before_the_end_is_delivered() {
    let server = Server::start(vec![200]);
    let setup = Setup::new(json!({"url": server.url("/")})).start();
    for n in 0..50 {
        setup.publish("many", json!({"n": n}));
    }
    setup.publish("daemon.shutting_down", json!({}));
    setup.plugin.shutdown(PATIENCE).expect("drained");
    assert_eq!(server.requests().len(), 51);
    assert_eq!(server.request(51).json()["event"], "daemon.shutting_down");
    assert_eq!(setup.daemon.subscriptions(), 0);
    let manager = setup.manager();
    assert_eq!((manager.url(), manager.stats()), (String::new(), WebhookStats::default()));
    assert_eq!(manager.set_url("").expect_err("stopped").kind(), ErrorKind::Closed);
    assert_eq!(Arc::strong_count(&setup.daemon), 1, "nothing of the daemon is kept");
}

#[test]
fn an_endpoint_that_hangs_costs_the_deadline_and_no_more() {
    // Accepts into its backlog, answers never.
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let url = format!("http://{}/", silent.local_addr().expect("bound"));
    let setup = Setup::new(json!({"url": url, "timeout_ms": 600_000})).start();
    setup.publish("x", json!({}));
    let _stream = silent.accept().expect("the worker connects");
    let error = setup.plugin.shutdown(Duration::from_millis(300)).expect_err("gives up");
    assert_eq!((error.kind(), error.message()), (ErrorKind::TimedOut, "webhook: 1 event(s) given up"));
}

#[test]
fn one_attempt_has_a_time_limit() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let url = format!("http://{}/", silent.local_addr().expect("bound"));
    let config = Config { timeout: Duration::from_millis(50), ..Config::default() };
    let http = Http::new(&url, &config).expect("a transport");
    assert!(matches!(http.post(b"{}", None), Outcome::Failed(_)));
}

#[test]
fn a_swap_counts_from_one_and_saves() {
    let (old, new) = (Server::start(vec![200]), Server::start(vec![200]));
    let setup = Setup::new(json!({})).start();
    let manager = setup.manager();
    assert_eq!((manager.url().as_str(), setup.daemon.subscriptions()), ("", 0));
    for (server, topic) in [(&old, "one"), (&new, "two")] {
        manager.set_url(&server.url("/h")).expect("accepted");
        assert_eq!(manager.url(), server.url("/h"));
        assert_eq!(setup.saved(), Some(server.url("/h")));
        setup.publish(topic, json!({}));
        assert_eq!(server.request(1).json()["event_id"], 1);
        assert_eq!(server.request(1).json()["event"], topic);
    }
    assert_eq!(old.requests().len(), 1);

    let error = manager.set_url("http://169.254.169.254/").expect_err("refused");
    assert_eq!(error.message(), "URL cannot target link-local address 169.254.169.254");
    assert_eq!(manager.url(), new.url("/h"), "nothing changed");

    manager.set_url("").expect("off");
    assert_eq!((manager.url(), setup.saved(), setup.daemon.subscriptions()), (String::new(), None, 0));
    setup.publish("three", json!({}));
    setup.plugin.shutdown(PATIENCE).expect("nothing to do");
    assert_eq!(new.requests().len(), 1);
}

#[test]
fn the_saved_url_is_used_unless_it_is_refused() {
    let server = Server::start(vec![200]);
    let setup = Setup::new(json!({}));
    std::fs::write(setup.folder.path().join("webhook_url"), format!("{}\n", server.url("/s")))
        .expect("writes");
    let setup = setup.start();
    setup.publish("x", json!({}));
    assert_eq!(server.request(1).path, "/s");

    let setup = Setup::new(json!({}));
    std::fs::write(setup.folder.path().join("webhook_url"), "ftp://h/").expect("writes");
    let setup = setup.start();
    assert_eq!(setup.manager().url(), "");
    assert_eq!(setup.saved().as_deref(), Some("ftp://h/"), "left for a person to look at");
}

#[test]
fn go_bug_a_configured_url_is_not_checked() {
    let setup = Setup::new(json!({"url": "http://metadata.google.internal/"}));
    assert!(setup.plugin.init(setup.daemon.clone()).is_err());
    let setup = Setup::new(json!({"url": "https://localhost/", "ca_file": "/nonexistent/ca.pem"}));
    let error = setup.plugin.init(setup.daemon.clone()).expect_err("no such file");
    assert!(error.message().starts_with("[plugin.webhook] ca_file /nonexistent/ca.pem: "), "{error}");
    assert!(setup.daemon.webhook_manager().is_none());
}

#[test]
fn go_bug_redirect_targets_are_not_checked() {
    let config = Config::default();
    let server = Server::redirecting(vec![307], "http://169.254.169.254/latest/");
    let http = Http::new(&server.url("/"), &config).expect("a transport");
    assert!(matches!(http.post(b"{}", None), Outcome::Refused(text) if text.contains("link-local")));
    assert_eq!(server.requests().len(), 1);

    let endless = Server::redirecting(vec![308], "/again");
    let http = Http::new(&endless.url("/"), &config).expect("a transport");
    assert_eq!(http.post(b"{}", None), Outcome::Failed("stopped after 10 redirects".into()));
    assert_eq!(endless.requests().len(), 11);
    assert!(endless.requests().iter().all(|r| r.method == "POST" && r.body == b"{}"));

    let nowhere = Server::redirecting(vec![302], "");
    let http = Http::new(&nowhere.url("/"), &config).expect("a transport");
    assert_eq!(http.post(b"{}", None), Outcome::Delivered, "no target, and below 400");
}

#[test]
fn user_information_becomes_a_header() {
    let server = Server::start(vec![200]);
    let url = format!("http://user:pw@{}/", server.address);
    let http = Http::new(&url, &Config::default()).expect("a transport");
    assert_eq!(http.post(b"{}", None), Outcome::Delivered);
    assert_eq!(server.request(1).header("authorization"), "Basic dXNlcjpwdw==");
}

#[test]
fn https_trusts_the_configured_authority_and_nobody_else() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let folder = tempfile::tempdir().expect("tempdir");
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, made.cert.pem()).expect("writes");
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a server");
    let tls = Arc::new(tls);
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let url = format!("https://localhost:{}/tls", listener.local_addr().expect("bound").port());

    std::thread::scope(|s| {
        let served = s.spawn(|| {
            let mut seen = Vec::new();
            for _ in 0..2 {
                let (stream, _) = listener.accept().expect("a connection");
                let connection = rustls::ServerConnection::new(Arc::clone(&tls)).expect("a connection");
                let mut input = BufReader::new(rustls::StreamOwned::new(connection, stream));
                if let Ok(request) = server::read_request(&mut input) {
                    seen.push(request);
                    let _ = input.get_mut().write_all(b"HTTP/1.1 204 X\r\nConnection: close\r\n\r\n");
                }
            }
            seen
        });
        let stranger = Http::new(&url, &Config::default()).expect("a transport");
        assert!(matches!(stranger.post(b"{}", None), Outcome::Failed(_)));
        let config = Config { ca_file: Some(ca_file.clone()), ..Config::default() };
        let trusting = Http::new(&url, &config).expect("a transport");
        assert_eq!(trusting.post(b"{\"a\":1}", None), Outcome::Delivered);
        let seen = served.join().expect("no panic");
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].path.as_str(), seen[0].body.as_slice()), ("/tls", &b"{\"a\":1}"[..]));
    });
}
