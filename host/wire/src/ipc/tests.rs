//! Recorded vectors of the area ipc (bytes only; a live daemon's answers are tested where there is a daemon), error texts,
//! and properties: what is encoded decodes to the same value, no input panics, no cut frame decodes.

use bytes::{Bytes, BytesMut};
use pilot_vectors::Entry;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::addr::Addr;

fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut buf = BytesMut::from(bytes);
    let mut out = Vec::new();
    while let Some(frame) = decode_frame(&mut buf).unwrap() {
        out.push(frame);
    }
    assert!(buf.is_empty(), "{} bytes left over", buf.len());
    out
}

fn one(bytes: &[u8]) -> Frame {
    let mut all = frames(bytes);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// A request in the field names of the vectors.
fn describe(request: &Request) -> Map<String, Value> {
    let hex = |b: &Bytes| hex::encode(b);
    let v = match request {
        Request::Bind { port } | Request::Unbind { port } | Request::UnbindV1 { port } => {
            json!({ "port": port })
        }
        Request::Dial { to, port } => json!({ "dst_addr": to.to_string(), "dst_port": port }),
        Request::Send { conn, data } => json!({ "conn_id": conn, "data_hex": hex(data) }),
        Request::Close { conn } => json!({ "conn_id": conn }),
        Request::SendTo { to, port, data } | Request::SendToConfirmed { to, port, data } => {
            json!({ "dst_addr": to.to_string(), "dst_port": port, "data_hex": hex(data) })
        }
        Request::Broadcast { network, port, token, data } => json!({
            "network_id": network, "dst_port": port, "token": token, "token_len": token.len(), "data_hex": hex(data)
        }),
        Request::ResolveHostname(name) | Request::SetHostname(name) => json!({ "hostname": name }),
        Request::SetVisibility(public) => json!({ "public": public }),
        Request::SetTags(tags) => json!({ "json": tags }),
        Request::SetWebhook(url) => json!({ "url": url }),
        Request::PreferDirect { node } | Request::LookupNode { node } => json!({ "node_id": node }),
        Request::Subscribe { topic } | Request::Unsubscribe { topic } => {
            json!({ "topic": topic, "topic_len": topic.len() })
        }
        Request::SendTracked { conn, send_id, data } => {
            json!({ "conn_id": conn, "send_id": send_id, "data_hex": hex(data) })
        }
        Request::SignChallenge { challenge } => json!({ "challenge_hex": hex(challenge) }),
        Request::SubmitBadge { badge, badge_sig } => {
            json!({ "json": { "badge": badge, "badge_sig": badge_sig } })
        }
        Request::EnrollRecovery { enrollment, enrollment_sig } => {
            json!({ "json": { "enrollment": enrollment, "enrollment_sig": enrollment_sig } })
        }
        Request::SignEnvelope { audience, body: SignBody::Hash(h), .. } => {
            json!({ "json": { "audience": audience, "body_hash": h } })
        }
        Request::VerifyEnvelope { envelope, signature, max_skew_secs, check_standing } => json!({ "json": {
            "envelope": envelope, "signature": signature, "max_skew_secs": max_skew_secs, "check_standing": check_standing
        } }),
        Request::Handshake(r) => match r {
            HandshakeRequest::Request { node, justification: text }
            | HandshakeRequest::Reject { node, reason: text } => {
                json!({ "node_id": node, "text": text })
            }
            HandshakeRequest::Approve { node } | HandshakeRequest::Revoke { node } => {
                json!({ "node_id": node })
            }
            HandshakeRequest::Wait { node, timeout_ms } => {
                json!({ "node_id": node, "timeout_ms": timeout_ms })
            }
            HandshakeRequest::Pending | HandshakeRequest::Trusted => json!({}),
        },
        Request::Network(r) => match r {
            NetworkRequest::Join { network, token } => json!({ "network_id": network, "token": token }),
            NetworkRequest::Leave { network } | NetworkRequest::Members { network } => {
                json!({ "network_id": network })
            }
            NetworkRequest::Invite { network, node } => {
                json!({ "network_id": network, "target_node_id": node })
            }
            NetworkRequest::Respond { network, accept } => json!({ "network_id": network, "accept": accept }),
            NetworkRequest::List | NetworkRequest::PollInvites => json!({}),
        },
        Request::Managed(r) => match r {
            ManagedRequest::Score { network, node, delta, topic } => {
                json!({ "network_id": network, "node_id": node, "delta": delta, "topic": topic })
            }
            ManagedRequest::Status { network }
            | ManagedRequest::Rankings { network }
            | ManagedRequest::Cycle { network }
            | ManagedRequest::Reconcile { network } => json!({ "network_id": network }),
            ManagedRequest::PolicyGet { network } => json!({ "network_id": network, "action": 0 }),
            ManagedRequest::PolicySet { network, token, document } => json!({
                "network_id": network, "action": 1, "admin_token": token, "token_len": token.len(),
                "policy_json": serde_json::from_slice::<Value>(document).unwrap_or(Value::Null)
            }),
            ManagedRequest::MemberTagsGet { network, node } => {
                json!({ "network_id": network, "node_id": node, "action": 0 })
            }
            ManagedRequest::MemberTagsSet { network, node, tags } => {
                json!({ "network_id": network, "node_id": node, "action": 1, "tags": tags })
            }
        },
        _ => json!({}),
    };
    v.as_object().unwrap().clone()
}

fn check_request(e: &Entry) {
    let Some(frame) = frames(&e.bytes).pop() else {
        assert_eq!(e.bytes, [0; 4], "only an empty frame is skipped");
        return;
    };
    let code = frame.command;
    assert_eq!(format!("0x{code:02X}"), e.text("command"));
    let wanted_error = e.fields.get("reply").and_then(|r| r.get("message")).and_then(Value::as_str);
    match Request::decode(frame.clone()) {
        Ok(request) => {
            assert!(e.fields.get("short").is_none(), "a short body was accepted: {request:?}");
            let ours = describe(&request);
            for (key, value) in &ours {
                if let Some(theirs) = e.fields.get(key) {
                    assert_eq!(value, theirs, "field {key}");
                }
            }
            let first_form = matches!(&request, Request::Managed(ManagedRequest::PolicySet { .. })
                if frame.body.get(4) == Some(&b'{'));
            if !first_form {
                assert_eq!(request.encode().unwrap().to_vec(), e.bytes, "encoding differs");
            }
        }
        Err(Refusal::Answer(text)) => match code {
            // Dropped after May 2026, and the fork's other meaning of rotate key.
            0x1D => assert_eq!(text, "unknown command: 0x1D"),
            command::ROTATE_KEY => assert!(text.starts_with("set_peer_endpoints: ")),
            _ => {
                assert!(e.error, "refused a good request: {text}");
                let wanted = wanted_error.map_or_else(|| error_text(&e.hex("reply_hex")), str::to_owned);
                assert_eq!(text, wanted);
            }
        },
        // The recorded May 2026 daemon still answered these two; the newest is silent.
        Err(Refusal::Silent(_)) => assert!(matches!(code, command::SEND | command::SEND_TO)),
    }
    if e.fields.get("reply_hex").is_some_and(Value::is_string) {
        check_reply(e, &e.hex("reply_hex"));
    }
}

fn error_text(bytes: &[u8]) -> String {
    match Incoming::decode(one(bytes)).unwrap() {
        Incoming::Reply(Reply::Error { message }) => message,
        other => panic!("not an error reply: {other:?}"),
    }
}

fn check_reply(e: &Entry, bytes: &[u8]) {
    let frame = one(bytes);
    let empty = Map::new();
    let fields = e.fields.get("reply").and_then(Value::as_object).unwrap_or(&empty);
    let (text, number) =
        (|k: &str| fields.get(k).and_then(Value::as_str), |k: &str| fields.get(k).and_then(Value::as_u64));
    let encoded = match (frame.command, Incoming::decode(frame.clone()).unwrap()) {
        // Replies of the fork, which share codes with newest requests: built from the fields, since no client of ours
        // reads them.
        (command::SUBSCRIBE_OK, _) => Reply::Subscribed {
            topic: text("topic").unwrap().to_owned(),
            snapshot: hex::decode(text("payload_hex").unwrap()).unwrap().into(),
        }
        .encode(),
        (command::SEND_TRACKED_OK, _) => Reply::SendTracked {
            conn: number("conn_id").unwrap() as u32,
            send_id: number("send_id").unwrap(),
            code: SendCode::NotFound,
            message: text("message").unwrap().to_owned(),
        }
        .encode(),
        (command::UNSUBSCRIBE_OK, _) => Reply::Done { command: frame.command }.encode(),
        (_, Incoming::Unknown { .. }) => return,
        (_, Incoming::Closed { conn }) => {
            assert_eq!(number("conn_id").unwrap_or(conn.into()), u64::from(conn));
            Reply::CloseOk { conn }.encode()
        }
        (_, Incoming::Reply(reply)) => {
            if let Reply::Error { message } = &reply {
                assert_eq!(text("message").unwrap_or(message), message);
            }
            if let (Reply::Json { body, .. }, Some(json)) = (&reply, fields.get("json")) {
                assert_eq!(&serde_json::from_slice::<Value>(body).unwrap(), json);
            }
            reply.encode()
        }
        (_, Incoming::Push(push)) => panic!("a push is no reply: {push:?}"),
    };
    assert_eq!(encoded.unwrap().to_vec(), bytes, "encoding of the reply differs");
}

fn check_push(e: &Entry) {
    let push = match Incoming::decode(one(&e.bytes)).unwrap() {
        Incoming::Push(push) => push,
        Incoming::Closed { conn } => Push::Closed { conn },
        // The fork's send result.
        Incoming::Unknown { command: command::SEND_RESULT } => return,
        other => panic!("not a push: {other:?}"),
    };
    match &push {
        Push::Accept { port, conn, remote, remote_port } => {
            assert_eq!(u64::from(*port), e.number("local_port"));
            assert_eq!(u64::from(*conn), e.number("conn_id"));
            assert_eq!(remote.to_string(), e.text("remote_addr"));
            assert_eq!(u64::from(*remote_port), e.number("remote_port"));
        }
        Push::Recv { conn, data } => {
            assert_eq!(u64::from(*conn), e.number("conn_id"));
            assert_eq!(data, &e.hex("data_hex"));
        }
        Push::Closed { conn } => assert_eq!(u64::from(*conn), e.number("conn_id")),
        Push::Datagram { from, src_port, dst_port, data } => {
            assert_eq!(from.to_string(), e.text("src_addr"));
            assert_eq!(u64::from(*src_port), e.number("src_port"));
            assert_eq!(u64::from(*dst_port), e.number("dst_port"));
            assert_eq!(data, &e.hex("data_hex"));
        }
        Push::Notify { .. } => panic!("not a push of the newest protocol"),
    }
    assert_eq!(push.encode().unwrap().to_vec(), e.bytes);
}

/// Framing entries: bytes as they arrive. Whole frames must decode as requests, a rest must wait for more.
fn check_framing(e: &Entry) {
    let mut buf = BytesMut::from(&e.bytes[..]);
    while let Some(frame) = decode_frame(&mut buf).unwrap_or_else(|error| {
        assert!(e.error || e.text("behaviour").contains("close"), "{error}");
        buf.clear();
        None
    }) {
        Request::decode(frame).unwrap();
    }
    if e.text("behaviour").contains("replies") {
        assert!(buf.is_empty());
    }
}

#[test]
fn vectors() {
    pilot_vectors::run("pilot-wire", &["ipc"], |_, e| {
        let from_daemon = e.fields.get("direction").and_then(Value::as_str) == Some("daemon_to_client");
        match e.kind.as_str() {
            "framing" => check_framing(e),
            _ if from_daemon => check_push(e),
            _ => check_request(e),
        }
    });
}

#[test]
fn length_limit_is_inclusive() {
    let mut at_limit = BytesMut::from(&[0x00, 0x10, 0x00, 0x00, 0x06][..]);
    assert_eq!(decode_frame(&mut at_limit), Ok(None));
    at_limit.resize(4 + MAX_FRAME, 0);
    assert_eq!(decode_frame(&mut at_limit).unwrap().unwrap().body.len(), MAX_FRAME - 1);

    let mut over = BytesMut::from(&[0x00, 0x10, 0x00, 0x01][..]);
    assert_eq!(decode_frame(&mut over), Err(FrameTooLarge { length: MAX_FRAME + 1 }));

    let send = |n: usize| Request::Send { conn: 1, data: vec![0; n].into() }.encode();
    assert_eq!(send(MAX_FRAME - 5).unwrap().len(), MAX_FRAME + 4);
    assert_eq!(send(MAX_FRAME - 4), Err(FrameTooLarge { length: MAX_FRAME + 1 }));
}

#[test]
fn empty_frames_are_skipped() {
    let found = frames(&[0, 0, 0, 0, 0, 0, 0, 1, 0x21, 0, 0, 0, 0]);
    assert_eq!(found, [Frame { command: command::HEALTH, body: Bytes::new() }]);
}

#[test]
fn refusals_of_the_sheet() {
    let refuse = |code: u8, body: &[u8]| {
        let frame = Frame { command: code, body: Bytes::copy_from_slice(body) };
        Request::decode(frame).unwrap_err().to_string()
    };
    for (code, body, text) in [
        (command::BIND, &b""[..], "bind: missing port"),
        (command::DIAL, &[0; 7], "dial: missing address/port"),
        (command::CLOSE, &[0; 3], "close: missing conn_id"),
        (command::SEND_TO_CONFIRMED, &[0; 7], "sendto: missing header"),
        (command::BROADCAST, &[0; 5], "broadcast: missing header"),
        (command::BROADCAST, &[0, 0, 0, 0, 0, 1], "broadcast: truncated token"),
        (command::HANDSHAKE, b"", "handshake: missing sub-command"),
        (command::HANDSHAKE, &[6, 0], "handshake revoke: missing node_id"),
        (
            command::HANDSHAKE,
            &[7, 0, 0, 0, 1, 0],
            "handshake wait: payload must be [nodeID(4)][timeoutMs(4)]",
        ),
        (command::RESOLVE_HOSTNAME, b"", "resolve_hostname: missing hostname"),
        (command::SET_VISIBILITY, b"", "set_visibility: missing value"),
        (command::NETWORK, b"", "network: missing sub-command"),
        (command::MANAGED, b"", "managed: missing sub-command"),
        (command::MANAGED, &[0x77], "managed: unknown sub-command 0x77"),
        (command::MANAGED, &[5, 1, 0, 1, 0], "managed policy set: missing token length"),
        (command::MANAGED, &[5, 1, 0, 1, 0, 9, b'x'], "managed policy set: truncated token"),
        (command::MANAGED, &[6, 2, 0, 1, 0, 0, 0, 1], "managed member-tags: unknown action 0x02"),
        (command::UNBIND, &[0; 3], "unbind: port is required"),
        (command::PREFER_DIRECT, &[0; 5], "prefer_direct: payload must be 4 bytes (node_id)"),
        (command::SUBMIT_BADGE, b"{}", "submit_badge: badge and badge_sig required"),
        (command::SUBMIT_BADGE, b"[", "submit_badge: bad payload: unexpected end of JSON input"),
        (
            command::SIGN_ENVELOPE,
            br#"{"audience":"a","body_hash":"b","body_b64":"c"}"#,
            "sign_envelope: body_hash and body_b64 are mutually exclusive",
        ),
        (command::SIGN_ENVELOPE, br#"{"audience":"a"}"#, "sign_envelope: body_hash or body_b64 required"),
        (command::SUBSCRIBE, &[0], "subscribe: missing topic length"),
        (command::HOST, b"{}", "host: op required"),
        (0x1D, &[1], "unknown command: 0x1D"),
        (command::BIND_OK, &[0, 1], "unknown command: 0x02"),
        (command::RECV, &[0, 0, 0, 1], "unknown command: 0x07"),
        (0xFE, b"", "unknown command: 0xFE"),
    ] {
        assert_eq!(refuse(code, body), text);
    }
    assert_eq!(
        Request::decode(Frame { command: command::SEND, body: Bytes::from_static(&[0; 3]) }),
        Err(Refusal::Silent("send: missing conn_id"))
    );
}

#[test]
fn both_forms_of_policy_set() {
    let set = |rest: &[u8]| {
        let body = [&[5, 1, 0, 3][..], rest].concat();
        Request::decode(Frame { command: command::MANAGED, body: body.into() }).unwrap()
    };
    let wanted = |token: &str, document: &'static str| {
        Request::Managed(ManagedRequest::PolicySet {
            network: 3,
            token: token.into(),
            document: document.into(),
        })
    };
    assert_eq!(set(b"{}"), wanted("", "{}"));
    assert_eq!(set(b"\n{}"), wanted("", "\n{}"));
    assert_eq!(set(b"\x00\x02ab{}"), wanted("ab", "{}"));
    assert_eq!(set(b"\x00\x00"), wanted("", ""));
}

#[test]
fn go_texts() {
    for (text, wanted) in [
        ("", "unexpected end of JSON input"),
        ("{", "unexpected end of JSON input"),
        ("  [1,", "unexpected end of JSON input"),
        ("x", "invalid character 'x' looking for beginning of value"),
        ("[1 2]", "invalid character '2' after array element"),
        ("[1,]", "invalid character ']' looking for beginning of value"),
        ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
        ("{1:2}", "invalid character '1' looking for beginning of object key string"),
        ("{\"a\" 1}", "invalid character '1' after object key"),
        ("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
        ("[] []", "invalid character '[' after top-level value"),
        ("nul", "unexpected end of JSON input"),
        ("trux", "invalid character 'x' in literal true (expecting 'e')"),
        ("\"a\nb\"", "invalid character '\\n' in string literal"),
        ("\"\\x\"", "invalid character 'x' in string escape code"),
        ("\"\\u12g4\"", "invalid character 'g' in \\u hexadecimal character escape"),
        ("-a", "invalid character 'a' in numeric literal"),
        ("1.x", "invalid character 'x' after decimal point in numeric literal"),
        ("1e+x", "invalid character 'x' in exponent of numeric literal"),
        ("01", "invalid character '1' after top-level value"),
    ] {
        assert_eq!(go_json_error(text.as_bytes()).as_deref(), Some(wanted), "{text:?}");
    }
    assert_eq!(go_string_list(b"null"), Ok(vec![]));
    assert_eq!(go_string_list(br#"["a",null]"#), Ok(vec!["a".into(), String::new()]));
    let wrong = |text: &[u8]| go_string_list(text).unwrap_err();
    assert_eq!(wrong(b"{}"), "json: cannot unmarshal object into Go value of type []string");
    assert_eq!(wrong(b"[1]"), "json: cannot unmarshal number into Go value of type string");
    let deep = "[".repeat(10_001);
    assert_eq!(go_json_error(deep.as_bytes()).as_deref(), Some("exceeded max depth"));
}

fn addr() -> impl Strategy<Value = Addr> {
    (any::<u16>(), any::<u32>()).prop_map(|(network, node)| Addr { network, node })
}

fn data() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn word() -> impl Strategy<Value = String> {
    "[a-zä\"<>&\\\\ ]{1,20}"
}

fn request() -> impl Strategy<Value = Request> {
    let conn = any::<u32>();
    let port = any::<u16>();
    prop_oneof![
        port.prop_map(|port| Request::Bind { port }),
        port.prop_map(|port| Request::Unbind { port }),
        port.prop_map(|port| Request::UnbindV1 { port }),
        (addr(), port).prop_map(|(to, port)| Request::Dial { to, port }),
        (conn, data()).prop_map(|(conn, data)| Request::Send { conn, data }),
        conn.prop_map(|conn| Request::Close { conn }),
        (addr(), port, data()).prop_map(|(to, port, data)| Request::SendTo { to, port, data }),
        (addr(), port, data()).prop_map(|(to, port, data)| Request::SendToConfirmed { to, port, data }),
        (port, port, word(), data()).prop_map(|(network, port, token, data)| Request::Broadcast {
            network,
            port,
            token,
            data
        }),
        (conn, word()).prop_map(|(node, justification)| {
            Request::Handshake(HandshakeRequest::Request { node, justification })
        }),
        (conn, conn)
            .prop_map(|(node, timeout_ms)| Request::Handshake(HandshakeRequest::Wait { node, timeout_ms })),
        (port, conn, any::<bool>()).prop_map(|(network, node, invite)| {
            Request::Network(match invite {
                true => NetworkRequest::Invite { network, node },
                false => NetworkRequest::Respond { network, accept: node % 2 == 0 },
            })
        }),
        (port, conn, any::<i32>(), word()).prop_map(|(network, node, delta, topic)| {
            Request::Managed(ManagedRequest::Score { network, node, delta, topic })
        }),
        (port, word(), data()).prop_map(|(network, token, document)| {
            Request::Managed(ManagedRequest::PolicySet { network, token, document })
        }),
        (port, conn, prop::collection::vec(word(), 0..4)).prop_map(|(network, node, tags)| {
            Request::Managed(ManagedRequest::MemberTagsSet { network, node, tags })
        }),
        prop::collection::vec(word(), 0..4).prop_map(Request::SetTags),
        (word(), word()).prop_map(|(badge, badge_sig)| Request::SubmitBadge { badge, badge_sig }),
        (word(), word(), any::<i64>(), any::<bool>()).prop_map(
            |(envelope, signature, max_skew_secs, check_standing)| {
                Request::VerifyEnvelope { envelope, signature, max_skew_secs, check_standing }
            }
        ),
        (word(), word()).prop_map(|(audience, h)| Request::SignEnvelope {
            audience,
            body: SignBody::Hash(h),
            nonce: String::new()
        }),
        (conn, any::<u64>(), data()).prop_map(|(conn, send_id, data)| Request::SendTracked {
            conn,
            send_id,
            data
        }),
        word().prop_map(|topic| Request::Subscribe { topic }),
        word().prop_map(|op| Request::Host {
            params: Map::from_iter([("op".to_owned(), op.clone().into())]),
            op
        }),
    ]
}

proptest! {
    #[test]
    fn requests_survive_the_wire(request in request()) {
        // A token length of 0x7Bxx or so would read as the older form; tokens here are shorter.
        let bytes = request.encode().unwrap().to_vec();
        prop_assert_eq!(u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len() - 4);
        prop_assert_eq!(Request::decode(one(&bytes)), Ok(request));
        for cut in 0..bytes.len() {
            prop_assert_eq!(decode_frame(&mut BytesMut::from(&bytes[..cut])), Ok(None));
        }
    }

    #[test]
    fn pushes_survive_the_wire(conn in any::<u32>(), port in any::<u16>(), from in addr(), data in data()) {
        for push in [
            Push::Accept { port, conn, remote: from, remote_port: port },
            Push::Recv { conn, data: data.clone() },
            Push::Datagram { from, src_port: port, dst_port: !port, data },
        ] {
            let bytes = push.encode().unwrap().to_vec();
            prop_assert_eq!(Incoming::decode(one(&bytes)), Ok(Incoming::Push(push)));
        }
    }

    #[test]
    fn hostile_bytes_never_panic(command in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..64)) {
        let frame = Frame { command, body: body.into() };
        let _ = Request::decode(frame.clone());
        let _ = Incoming::decode(frame);
    }

    #[test]
    fn hostile_streams_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let mut buf = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = decode_frame(&mut buf) {}
    }

    #[test]
    fn syntax_check_agrees_with_the_parser(text in "[\\[\\]{},:\"a1e.\\-tru nl\\\\]{0,24}") {
        let ours = go_json_error(text.as_bytes()).is_none();
        prop_assert_eq!(ours, serde_json::from_str::<Value>(&text).is_ok(), "{:?}", go_json_error(text.as_bytes()));
    }
}
