//! What a rendezvous offers besides answering: TLS, a dashboard, a webhook, and a standby that goes on when it is gone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey};
use pilot_net::registry_client::{Registration, RegistryClient, RegistryError};
use pilot_net::rendezvous::{Follow, RendezvousConfig, RendezvousServer};
use pilot_net::tls::{ClientTls, ServerTls};
use serde_json::{Map, Value, json};

/// Longest any single condition may take; generous, because a busy machine is not a failure.
const PATIENCE: Duration = Duration::from_secs(60);

fn config() -> RendezvousConfig {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    RendezvousConfig {
        registry_addr: any,
        beacon_addr: any,
        admin_token: Some("sekrit".into()),
        ..RendezvousConfig::default()
    }
}

/// A client with a key made of one byte.
fn client(registry: impl ToString, seed: u8) -> RegistryClient {
    let key = SigningKey::from_bytes(&[seed; 32]);
    RegistryClient::new(registry.to_string(), move |message: &[u8]| Some(key.sign(message).to_bytes()))
}

async fn register(client: &RegistryClient, seed: u8) -> u32 {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let registration = Registration {
        public_key: STANDARD.encode(key.verifying_key().as_bytes()),
        listen_addr: format!("127.0.0.1:{}", 4000 + u16::from(seed)),
        version: "test".into(),
        ..Registration::default()
    };
    client.register(&registration).await.unwrap().node_id
}

fn params(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// Asks again until something holds.
async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ask().await {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

// ---- TLS

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_from_an_authority_is_believed_under_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(params, authority_key);
    let issue = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf =
            rcgen::CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(at("cert.pem"), leaf.pem()).unwrap();
        std::fs::write(at("key.pem"), key.serialize_pem()).unwrap();
        ServerTls::from_files(&at("cert.pem"), &at("key.pem")).unwrap()
    };
    std::fs::write(at("ca.pem"), authority.pem()).unwrap();
    for (name, good) in [("localhost", true), ("elsewhere.example", false)] {
        let server =
            RendezvousServer::bind(RendezvousConfig { tls: Some(issue(name)), ..config() }).await.unwrap();
        let addr = format!("localhost:{}", server.registry_addr().port());
        let client = client(addr, 1).tls(Some(ClientTls::roots(&at("ca.pem")).unwrap()));
        if good {
            assert_eq!(register(&client, 1).await, 1);
        } else {
            let refused = client.lookup(1).await.unwrap_err();
            assert!(refused.is_transport() && refused.to_string().contains("certificate"), "{refused}");
        }
        server.shutdown().await;
    }
}

// ---- standby

#[tokio::test(flavor = "multi_thread")]
async fn nodes_resolve_through_the_standby_when_the_primary_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let tls = ServerTls::self_signed(None).unwrap();
    let pin = ClientTls::pinned(tls.fingerprint()).unwrap();
    let mut primary = RendezvousConfig { tls: Some(tls.clone()), ..config() };
    primary.registry.replication_token = Some("copy".into());
    let primary = RendezvousServer::bind(primary).await.unwrap();
    let primary_addr = primary.registry_addr();
    let follow = Follow { addr: primary_addr.to_string(), token: "copy".into(), tls: Some(pin.clone()) };
    let standby = RendezvousConfig {
        tls: Some(tls),
        follow: Some(follow),
        data_dir: Some(dir.path().join("standby")),
        ..config()
    };
    let standby = RendezvousServer::bind(standby).await.unwrap();

    let both = |seed: u8| {
        client(primary_addr, seed).tls(Some(pin.clone())).standbys([standby.registry_addr().to_string()])
    };
    let (a, b) = (both(1), both(2));
    let (a_id, b_id) = (register(&a, 1).await, register(&b, 2).await);
    a.report_trust(b_id).await.unwrap();
    b.set_hostname("bob").await.unwrap();
    let direct = client(standby.registry_addr(), 1).tls(Some(pin.clone()));
    direct.set_node(a_id);
    eventually("the standby's content", async || direct.resolve(b_id).await.ok()).await;
    eventually("the last change's arrival", async || direct.resolve_hostname("bob").await.ok()).await;

    let before = a.resolve(b_id).await.unwrap();
    primary.shutdown().await;
    assert!(TcpStream::connect(primary_addr).is_err(), "the primary is still there");

    let began = Instant::now();
    assert_eq!(a.resolve(b_id).await.unwrap().real_addr, before.real_addr);
    assert_eq!(a.lookup(b_id).await.unwrap().hostname, "bob");
    b.heartbeat().await.unwrap();
    // A change finds no taker, and says so as an unreachable registry would.
    let (refused, resolved) = tokio::join!(b.set_hostname("bobby"), async {
        // Reads go on while it is being tried.
        for _ in 0..20 {
            a.resolve(b_id).await.unwrap();
        }
        began.elapsed()
    });
    assert!(matches!(refused, Err(RegistryError::Unreachable(_))), "{refused:?}");
    assert!(resolved < PATIENCE, "{resolved:?}");
    standby.shutdown().await;

    // What the standby stored makes a primary.
    let heir = RendezvousConfig { data_dir: Some(dir.path().join("standby")), ..config() };
    let heir = RendezvousServer::bind(heir).await.unwrap();
    assert_eq!(heir.node_count(), 2);
    assert_eq!(register(&client(heir.registry_addr(), 3), 3).await, 3);
    heir.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_without_the_token_gets_nothing() {
    let mut primary = config();
    primary.registry.replication_token = Some("copy".into());
    let primary = RendezvousServer::bind(primary).await.unwrap();
    register(&client(primary.registry_addr(), 1), 1).await;
    let subscribe = |token: &str| {
        let mut stream = TcpStream::connect(primary.registry_addr()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = json!({"type": "subscribe_replication", "token": token}).to_string();
        pilot_wire::registry::write_raw_message(&mut stream, request.as_bytes()).unwrap();
        let answer = pilot_wire::registry::read_message(&mut stream).unwrap();
        (stream, answer)
    };
    let (mut stream, answer) = subscribe("wrong");
    assert_eq!(answer["error"], "invalid replication token");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "closed behind the refusal");
    let (_stream, answer) = subscribe("copy");
    assert_eq!(answer["type"], "replication_snapshot");
    assert_eq!(answer["snapshot"]["next_node"], 2);
    primary.shutdown().await;
}

// ---- dashboard

pub(super) fn get(addr: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_shows_what_there_is() {
    let any = "127.0.0.1:0".parse().unwrap();
    let server = RendezvousServer::bind(RendezvousConfig {
        dashboard_addr: Some(any),
        dashboard_token: Some("look".into()),
        ..config()
    })
    .await
    .unwrap();
    let dashboard = server.dashboard_addr().unwrap();
    let client = client(server.registry_addr(), 1);
    let mut network = json!({"name": "team", "node_id": register(&client, 1).await, "admin_token": "sekrit"});
    client.call("create_network", params(network.take())).await.unwrap();
    let seen = tokio::task::spawn_blocking(move || {
        ["/", "/api/stats", "/api/stats?token=look", "/healthz", "/metrics", "/nothing"]
            .map(|p| get(dashboard, p))
    });
    let [page, stats, all, health, metrics, nothing] = seen.await.unwrap();
    assert!(page.0.starts_with("HTTP/1.1 200") && page.0.to_lowercase().contains("content-security-policy"));
    assert!(page.1.contains("Nodes online") && page.1.ends_with("</html>\n"));
    assert!(
        !page.1.contains("http://") && !page.1.contains("<script") && !page.1.contains("team"),
        "{}",
        page.1
    );
    let stats: Value = serde_json::from_str(&stats.1).unwrap();
    assert_eq!((&stats["active_nodes"], &stats["total_requests"]), (&json!(1), &json!(2)));
    assert_eq!((&stats["versions"], stats.get("networks")), (&json!({"test": 1}), None));
    let all: Value = serde_json::from_str(&all.1).unwrap();
    assert_eq!(all["networks"], json!([{"id": 1, "name": "team", "members": 1}]));
    let health: Value = serde_json::from_str(&health.1).unwrap();
    assert_eq!((&health["status"], &health["nodes_online"]), (&json!("ok"), &json!(1)));
    for line in ["pilot_requests_total{type=\"register\"} 1", "pilot_nodes_online 1", "# EOF"] {
        assert!(metrics.1.contains(line), "{line} is not in {}", metrics.1);
    }
    assert!(nothing.0.starts_with("HTTP/1.1 404"));
    server.shutdown().await;
}

// ---- webhook

#[tokio::test(flavor = "multi_thread")]
async fn the_webhook_hears_of_changes_and_what_it_refuses_is_kept() {
    let hook = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/audit", hook.local_addr().unwrap());
    let (sender, mut bodies) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for (n, stream) in hook.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut text = Vec::new();
            let mut chunk = [0; 4096];
            let body = loop {
                let read = stream.read(&mut chunk).unwrap();
                assert_ne!(read, 0, "a whole request");
                text.extend_from_slice(&chunk[..read]);
                let Some(at) = text.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
                if let Ok(body) = serde_json::from_slice::<Value>(&text[at + 4..]) {
                    break body;
                }
            };
            // The first entry is taken, all others are not.
            let status = if n == 0 { "204 No Content" } else { "500 Oops" };
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
            if sender.send(body).is_err() {
                return;
            }
        }
    });
    let server = RendezvousServer::bind(config()).await.unwrap();
    let client = client(server.registry_addr(), 1);
    let admin = async |op: &str, value: Value| {
        let mut with = params(value);
        with.insert("admin_token".into(), "sekrit".into());
        client.call(op, with).await.unwrap()
    };
    let node = register(&client, 1).await;
    admin("set_webhook", json!({"url": url})).await;
    let told = tokio::time::timeout(PATIENCE, bodies.recv()).await.unwrap().unwrap();
    assert_eq!((&told["action"], &told["event_id"]), (&json!("webhook.set"), &json!(1)));
    admin("create_network", json!({"name": "team", "node_id": node})).await;
    for _ in 0..3 {
        let told = tokio::time::timeout(PATIENCE, bodies.recv()).await.unwrap().unwrap();
        assert_eq!((&told["action"], &told["details"]["name"]), (&json!("network.created"), &json!("team")));
    }
    let dead = eventually("giving up", async || {
        let answer = admin("get_webhook_dlq", json!({})).await;
        (answer["count"] == 1).then_some(answer)
    });
    assert_eq!(dead.await["entries"][0]["event_id"], 2);
    server.shutdown().await;
}
