//! The families' answers and their error texts.

use std::sync::Arc;

use pilot_wire::ipc::{
    HandshakeRequest, Incoming, ManagedRequest, NetworkRequest, Reply, Request, SendCode, SignBody, command,
};
use serde_json::{Map, Value, json};

use super::fake::{FakeHook, PEER, SELF};
use super::{House, Raw};

fn handshake(r: HandshakeRequest) -> Request {
    Request::Handshake(r)
}

fn host(op: &str, params: Value) -> Request {
    let mut params = params.as_object().cloned().unwrap_or_else(Map::new);
    params.insert("op".to_owned(), op.into());
    Request::Host { op: op.to_owned(), params }
}

#[tokio::test]
async fn trust_family() {
    let house = House::open();
    let mut c = house.client().await;
    let request = |node| handshake(HandshakeRequest::Request { node, justification: "hi".into() });
    assert_eq!(c.json(request(7)).await, json!({ "node_id": 7, "status": "sent" }));
    house.daemon.log.saw("handshake 7 hi").await;
    assert_eq!(c.json(request(8)).await, json!({ "node_id": 8, "status": "in_flight" }));
    assert!(c.error(request(SELF)).await.starts_with("handshake request: "));
    assert_eq!(
        c.json(handshake(HandshakeRequest::Pending)).await,
        json!({ "pending": [{ "node_id": 6, "public_key": "a2V5", "justification": "hello", "received_at": 300 }] })
    );
    let trusted = c.json(handshake(HandshakeRequest::Trusted)).await;
    assert_eq!(trusted["trusted"][0]["node_id"], 4, "newest first");
    assert_eq!(
        trusted["trusted"][1],
        json!({ "node_id": 5, "public_key": "", "approved_at": 100, "mutual": true, "network": 0 })
    );
    assert_eq!(
        c.json(handshake(HandshakeRequest::Approve { node: 77 })).await,
        json!({ "node_id": 77, "status": "approved" })
    );
    assert_eq!(
        c.json(handshake(HandshakeRequest::Reject { node: 77, reason: "no".into() })).await,
        json!({ "node_id": 77, "status": "rejected" })
    );
    assert_eq!(
        c.json(handshake(HandshakeRequest::Revoke { node: 5 })).await,
        json!({ "node_id": 5, "status": "revoked" })
    );
    assert_eq!(
        c.error(handshake(HandshakeRequest::Revoke { node: 77 })).await,
        "handshake revoke: node 77 was not trusted"
    );
    assert_eq!(house.daemon.log.count("poll Look"), 4);

    *house.daemon.trust.lock().unwrap() = None;
    assert_eq!(c.error(handshake(HandshakeRequest::Pending)).await, "handshake: service not registered");
}

#[tokio::test]
async fn waiting_for_trust() {
    let house = House::open();
    let trust = house.daemon.trust.lock().unwrap().clone().unwrap();
    let mut c = house.client().await;
    let wait = |node, timeout_ms| handshake(HandshakeRequest::Wait { node, timeout_ms });
    assert_eq!(c.json(wait(5, 0)).await, json!({ "node_id": 5, "trusted": true }));
    assert_eq!(c.json(wait(9, 0)).await, json!({ "node_id": 9, "trusted": false }));
    house.daemon.log.saw("poll WaitFor(9)").await;
    // Somebody else's health is answered while this one waits, and the grant wakes it.
    c.send(wait(10, 20_000)).await;
    house.daemon.log.saw("poll WaitFor(10)").await;
    c.nothing_more().await;
    trust.granted.lock().unwrap().push(10);
    trust.changed.notify_all();
    match c.next().await {
        Incoming::Reply(Reply::Json { body, .. }) => {
            assert_eq!(
                serde_json::from_slice::<Value>(&body).unwrap(),
                json!({ "node_id": 10, "trusted": true })
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn names_and_settings() {
    let house = House::open();
    let log = &house.daemon.log;
    let mut c = house.client().await;
    for _ in 0..2 {
        let found = c.json(Request::ResolveHostname("peer-b".into())).await;
        assert_eq!(
            (found["node_id"].clone(), found["address"].clone()),
            (json!(9), json!("0:0000.0000.0009"))
        );
    }
    let asked = r#"registry resolve_hostname {"hostname":"peer-b","requester_id":2}"#;
    assert_eq!(log.count(asked), 1, "the second answer comes from memory");
    c.json(Request::SetHostname("peer-b".into())).await;
    log.saw(r#"changed Hostname("peer-b")"#).await;
    c.json(Request::ResolveHostname("peer-b".into())).await;
    assert_eq!(log.count(asked), 2, "a name that moved is asked again");
    assert_eq!(
        c.error(Request::ResolveHostname("nobody".into())).await,
        "resolve_hostname: registry: hostname \"nobody\" not found"
    );
    c.json(Request::SetVisibility(true)).await;
    log.saw("changed Visibility(true)").await;
    c.json(Request::SetTags(vec!["x".into()])).await;
    log.saw(r#"registry set_tags {"tags":["x"]}"#).await;
    assert_eq!(c.json(Request::Deregister).await, json!({ "type": "deregister_ok" }));

    assert_eq!(c.error(Request::SetWebhook("http://h/".into())).await, "set_webhook: service not registered");
    *house.daemon.hook.lock().unwrap() = Some(Arc::new(FakeHook));
    assert_eq!(c.json(Request::SetWebhook("http://h/".into())).await, json!({ "webhook": "http://h/" }));
    assert_eq!(
        c.error(Request::SetWebhook("ftp://x".into())).await,
        "URL must use http or https scheme, got \"ftp\""
    );
}

#[tokio::test]
async fn networks() {
    let house = House::open();
    *house.daemon.token.lock().unwrap() = "secret".into();
    let log = &house.daemon.log;
    let mut c = house.client().await;
    let mut ask = async |r| c.json(Request::Network(r)).await;
    ask(NetworkRequest::List).await;
    log.saw("registry list_networks {}").await;
    ask(NetworkRequest::Join { network: 3, token: "t".into() }).await;
    log.saw(r#"registry join_network {"admin_token":"secret","inviter_id":0,"network_id":3,"token":"t"}"#)
        .await;
    log.saw(r#"changed Joined(3, {"type": String("join_network_ok")})"#).await;
    ask(NetworkRequest::Invite { network: 3, node: 9 }).await;
    log.saw(
        r#"registry invite_to_network {"admin_token":"secret","inviter_id":2,"network_id":3,"target_node_id":9}"#,
    )
    .await;
    ask(NetworkRequest::Members { network: 3 }).await;
    log.saw(r#"registry list_nodes {"admin_token":"secret","network_id":3}"#).await;
    ask(NetworkRequest::Respond { network: 3, accept: false }).await;
    log.saw(r#"registry respond_invite {"accept":false,"network_id":3}"#).await;
    ask(NetworkRequest::Leave { network: 3 }).await;
    log.saw("changed Left(3)").await;
}

#[tokio::test]
async fn policies_without_a_plugin() {
    let house = House::open();
    let mut c = house.client().await;
    let managed = Request::Managed;
    assert_eq!(
        c.json(managed(ManagedRequest::PolicyGet { network: 1 })).await,
        json!({ "type": "managed_policy_ok", "network_id": 1, "engine": "none" })
    );
    for (request, text) in [
        (ManagedRequest::Status { network: 0 }, "managed: no active managed networks"),
        (ManagedRequest::Rankings { network: 0 }, "managed: no active managed networks"),
        (ManagedRequest::Cycle { network: 1 }, "managed: no active managed networks"),
        (ManagedRequest::Reconcile { network: 1 }, "managed: no active policy runner for network"),
        (
            ManagedRequest::Score { network: 4, node: 1, delta: 2, topic: String::new() },
            "managed: no engine for network 4",
        ),
    ] {
        assert_eq!(c.error(managed(request)).await, text);
    }
    let set = |token: &str, document: &'static str| {
        Request::Managed(ManagedRequest::PolicySet {
            network: 1,
            token: token.into(),
            document: document.into(),
        })
    };
    assert_eq!(c.error(set("", "")).await, "managed policy set: missing policy JSON");
    *house.daemon.token.lock().unwrap() = "secret".into();
    assert_eq!(c.error(set("", "{}")).await, "managed policy set: invalid admin token");
    assert_eq!(c.error(set("secret", "{}")).await, "managed policy set: policy plugin not registered");
    c.json(managed(ManagedRequest::MemberTagsSet { network: 1, node: 9, tags: vec!["a".into()] })).await;
    let asked =
        r#"registry set_member_tags {"admin_token":"secret","network_id":1,"tags":["a"],"target_node_id":9}"#;
    house.daemon.log.saw(asked).await;
}

#[tokio::test]
async fn broadcast_needs_the_token() {
    let house = House::open();
    let mut c = house.client().await;
    let send =
        |token: &str| Request::Broadcast { network: 1, port: 9, token: token.into(), data: "x".into() };
    assert_eq!(c.error(send("")).await, "broadcast: no admin token configured");
    *house.daemon.token.lock().unwrap() = "secret".into();
    assert_eq!(c.error(send("guess")).await, "broadcast: invalid admin token");
    assert_eq!(c.ask(send("secret")).await, Incoming::Reply(Reply::Done { command: command::BROADCAST_OK }));
    assert_eq!(house.daemon.log.count("broadcast 1 9"), 1);
}

#[tokio::test]
async fn info_is_shared_for_a_moment() {
    let house = House::open();
    let (mut a, mut b) = (house.client().await, house.client().await);
    let (first, second) = tokio::join!(a.json(Request::Info), b.json(Request::Info));
    assert_eq!(first, second);
    assert_eq!(first["node_id"], SELF);
}

#[tokio::test]
async fn host_requests() {
    let house = House::open();
    let mut c = house.client().await;
    assert_eq!(
        c.json(host("plugins", json!({}))).await,
        json!({ "plugins": [{ "name": "handshake", "state": "running" }] })
    );
    let pong = c.json(host("ping", json!({ "address": PEER.to_string() }))).await;
    assert_eq!(pong["rtt_ms"], 1.5);
    let nobody = json!({ "address": "0:0000.0000.0063", "timeout_ms": 1 });
    assert_eq!(c.error(host("ping", nobody)).await, "host ping: no answer in time");
    assert_eq!(c.error(host("ping", json!({}))).await, "host ping: address required");
    let lookup = |node: u32| host("lookup", json!({ "node_id": node }));
    house.daemon.nodes.lock().unwrap().insert(9, json!({ "node_id": 9, "public": true }));
    assert_eq!(c.json(lookup(9)).await["public"], true);
    assert_eq!(c.error(lookup(10)).await, "host lookup: registry: node 10: node not found");
    assert_eq!(c.error(host("lookup", json!({}))).await, "host lookup: node_id required");
    assert_eq!(c.error(host("extra", json!({}))).await, "host extra: not today");
    assert_eq!(c.error(host("nonsense", json!({}))).await, "host: unknown op \"nonsense\"");
    let stopping = c.json(host("stop", json!({}))).await;
    assert_eq!(stopping["stopping"], true);
    house.daemon.log.saw("stop").await;
}

#[tokio::test]
async fn envelopes_are_signed_only_in_our_own_words() {
    let house = House::open();
    let mut c = house.client().await;
    let sign = |audience: &str, body| Request::SignEnvelope {
        audience: audience.into(),
        body,
        nonce: "00112233445566ff".into(),
    };
    let signed = c.json(sign("aud", SignBody::Base64("aGVsbG8=".into()))).await;
    let envelope = signed["envelope"].as_str().unwrap();
    assert!(envelope.starts_with("pilot-req-v1|000000000002|"));
    assert!(
        envelope.ends_with(
            "|00112233445566ff|2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824|aud"
        )
    );
    house.daemon.log.saw(&format!("sign {envelope}")).await;
    assert!(
        c.error(sign("AUD", SignBody::Hash("0".repeat(64)))).await.starts_with("sign_envelope: reqsig: ")
    );
    assert!(
        c.error(sign("a", SignBody::Base64("!".into())))
            .await
            .starts_with("sign_envelope: body_b64 not base64: ")
    );

    let verify = |envelope: &str| Request::VerifyEnvelope {
        envelope: envelope.into(),
        signature: "c2ln".into(),
        max_skew_secs: 0,
        check_standing: false,
    };
    let verdict = c.json(verify("nonsense")).await;
    assert_eq!(
        (verdict["valid"].clone(), verdict["type"].clone()),
        (json!(false), json!("verify_envelope_ok"))
    );
    assert!(verdict["reason"].as_str().unwrap().starts_with("reqsig: "));
    let verdict = c.json(verify(envelope)).await;
    assert!(
        verdict["reason"].as_str().unwrap().starts_with("public key for node 2 unavailable: "),
        "{verdict}"
    );
}

#[tokio::test]
async fn fork_requests() {
    let house = House::open();
    let mut c = house.client().await;
    let tracked = |conn| Request::SendTracked { conn, send_id: 7, data: "x".into() };
    let conn = c.dial(7).await;
    for (id, code, message) in
        [(conn, SendCode::Ok, ""), (99_999, SendCode::NotFound, "connection 99999 not found")]
    {
        let wanted = Reply::SendTracked { conn: id, send_id: 7, code, message: message.into() };
        assert_eq!(raw(&mut c, tracked(id)).await, wanted.encode().unwrap().to_vec());
    }
    let topic = || "turn_endpoint".to_owned();
    let empty = Reply::Subscribed { topic: topic(), snapshot: "".into() };
    assert_eq!(raw(&mut c, Request::Subscribe { topic: topic() }).await, empty.encode().unwrap().to_vec());
    let done = Reply::Done { command: command::UNSUBSCRIBE_OK };
    assert_eq!(raw(&mut c, Request::Unsubscribe { topic: topic() }).await, done.encode().unwrap().to_vec());

    let pending = raw(&mut c, Request::Subscribe { topic: "handshake_pending".into() }).await;
    assert!(String::from_utf8_lossy(&pending).contains(r#""node_id":6"#));
    // Nothing changed: no push.
    house.daemon.news.send_modify(|n| *n += 1);
    c.nothing_more().await;

    house.daemon.nodes.lock().unwrap().insert(9, json!({ "public_key": "a2V5" }));
    let found = raw(&mut c, Request::LookupNode { node: 9 }).await;
    assert_eq!(found[4], command::LOOKUP_NODE_OK);
    let proof = raw(&mut c, Request::SignChallenge { challenge: "abc".into() }).await;
    assert_eq!(proof[4], command::SIGN_CHALLENGE_OK);
    house.daemon.log.saw("sign pilot.ipc.sign_challenge.v1\0abc").await;
}

/// The whole reply frame, for codes that the newest protocol reads otherwise.
async fn raw(c: &mut Raw, request: Request) -> Vec<u8> {
    c.send(request).await;
    let frame = c.frame().await.unwrap();
    let length = (frame.body.len() as u32 + 1).to_be_bytes();
    [&length[..], &[frame.command], &frame.body].concat()
}
