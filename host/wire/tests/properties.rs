//! Properties every codec of this crate has: what is written reads back, the announced length is the written length, no
//! cut message is taken for a whole one, and no bytes whatever make a decoder panic.

#![allow(clippy::unwrap_used)] // in a test a panic is the report

use std::net::{IpAddr, SocketAddr as IpSocketAddr};

use pilot_wire::addr::{Addr, SocketAddr};
use pilot_wire::beacon::{self, Grant, Message};
use pilot_wire::packet::{self, Flags, HEADER_LEN, Header, Protocol};
use pilot_wire::registry::{self as reg, HeartbeatResp, LookupResult, ResolveResult};
use pilot_wire::tunnel::{self, KeyExchange, KeyRequest, SealedHeader, Trailer};
use pilot_wire::{Split, blueprint, dataexchange as dx, eventstream, gojson, goquote, sack};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

fn addr() -> impl Strategy<Value = Addr> {
    (any::<u16>(), any::<u32>()).prop_map(|(network, node)| Addr { network, node })
}

prop_compose! {
    fn header()(
        flags in any::<u8>(), protocol: u8, src in addr(), dst in addr(), src_port: u16, dst_port: u16, seq: u32,
        ack: u32, window: u16,
    ) -> Header {
        let (flags, protocol) = (Flags::from_bits(flags), Protocol(protocol));
        Header { flags, protocol, src, dst, src_port, dst_port, seq, ack, window }
    }
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=max)
}

fn key() -> impl Strategy<Value = [u8; 32]> {
    any::<[u8; 32]>()
}

/// Every proper prefix of a message must be refused.
fn assert_cuts_refused(whole: &[u8], taken: impl Fn(&[u8]) -> bool) {
    for cut in 0..whole.len() {
        assert!(!taken(&whole[..cut]), "taken although cut at {cut} of {}", whole.len());
    }
}

proptest! {
    #[test]
    fn addresses(addr in addr(), port: u16) {
        prop_assert_eq!(Addr::from_bytes(addr.to_bytes()), addr);
        prop_assert_eq!(addr.to_string().parse(), Ok(addr));
        let socket = SocketAddr { addr, port };
        prop_assert_eq!(socket.to_string().parse(), Ok(socket));
    }

    #[test]
    fn any_text_is_an_address_or_not(text in ".{0,30}", near in "[0-9:. A-Fx]{0,30}") {
        for text in [text, near] {
            let _ = (text.parse::<Addr>(), text.parse::<SocketAddr>());
        }
    }

    #[test]
    fn packets(header in header(), payload in bytes(300), behind in bytes(20), flip: prop::sample::Index, bit in 0..8_u32) {
        let mut whole = Vec::new();
        packet::encode_into(&header, &payload, &mut whole).unwrap();
        prop_assert_eq!(whole.len(), HEADER_LEN + payload.len());
        let decoded = packet::decode(&whole).unwrap();
        prop_assert_eq!((decoded.header, decoded.payload, decoded.encoded_len()), (header, payload.as_slice(), whole.len()));
        assert_cuts_refused(&whole, |b| packet::decode(b).is_ok());

        let mut longer = whole.clone();
        longer.extend_from_slice(&behind);
        prop_assert_eq!(packet::decode(&longer).map(|p| p.encoded_len()), Ok(whole.len()));

        let mut in_place = vec![0xA5; HEADER_LEN];
        in_place.extend_from_slice(&payload);
        packet::write_in_place(&header, &mut in_place).unwrap();
        prop_assert_eq!(&in_place, &whole);

        // A checksum of 32 bits finds every single flipped bit.
        let at = flip.index(whole.len());
        whole[at] ^= 1_u8 << bit;
        prop_assert!(packet::decode(&whole).is_err());
    }

    #[test]
    fn sacks(blocks in vec(any::<(u32, u32)>(), 0..7), behind in bytes(9)) {
        let blocks: Vec<_> = blocks.into_iter().map(|(left, right)| sack::Block { left, right }).collect();
        let mut whole = Vec::new();
        sack::encode(&blocks, &mut whole);
        prop_assert_eq!(whole.len(), sack::encoded_len(blocks.len()));
        assert_cuts_refused(&whole, |b| sack::decode(b).is_some());
        let kept = &blocks[..blocks.len().min(sack::MAX_BLOCKS)];
        whole.extend_from_slice(&behind);
        match sack::decode(&whole) {
            Some(decoded) => prop_assert_eq!(&*decoded, kept),
            None => prop_assert!(kept.is_empty()),
        }
    }

    #[test]
    fn key_frames(node: u32, x25519 in key(), ed25519 in key(), half in key(), capabilities: u64, flags: u64, behind in bytes(30)) {
        let request = KeyRequest { node, x25519 };
        let whole = request.to_bytes();
        prop_assert_eq!(tunnel::decode(&whole), Ok(tunnel::Frame::KeyRequest(request)));
        assert_cuts_refused(&whole, |b| tunnel::decode(b).is_ok());

        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&half);
        signature[32..].copy_from_slice(&half);
        for trailer in [Trailer::NONE, Trailer { capabilities, flags }, Trailer { capabilities: 0, flags }] {
            let exchange = KeyExchange { node, x25519: &x25519, ed25519: &ed25519, signature: &signature, trailer };
            let mut whole = Vec::new();
            exchange.encode(&mut whole);
            prop_assert_eq!(tunnel::decode(&whole), Ok(tunnel::Frame::KeyExchange(exchange)));
            assert_cuts_refused(&whole[..tunnel::KEY_EXCHANGE_LEN], |b| tunnel::decode(b).is_ok());
        }
        let _ = Trailer::decode(&behind);
    }

    #[test]
    fn sealed_frames(sender: u32, prefix: [u8; 4], counter: u64, body in vec(any::<u8>(), 16..80)) {
        let header = SealedHeader { sender, prefix, counter };
        let mut whole = header.to_bytes().to_vec();
        whole.extend_from_slice(&body);
        prop_assert_eq!(tunnel::decode(&whole), Ok(tunnel::Frame::Sealed(header, body.as_slice())));
        prop_assert_eq!(&header.nonce()[..], &whole[8..20]);
        prop_assert_eq!(&header.associated_data()[..], &whole[4..8]);
        assert_cuts_refused(&whole[..tunnel::SEALED_MIN_LEN], |b| tunnel::decode(b).is_ok());
    }

    #[test]
    fn any_datagram_is_a_frame_or_not(mut datagram in bytes(200), magic in 0..6_usize, kind: u8) {
        let _ = (tunnel::decode(&datagram), beacon::decode(&datagram), packet::decode(&datagram), sack::decode(&datagram));
        let magics = [*b"PILT", *b"PILS", *b"PILK", *b"PILA", *b"PILP", *b"SACK"];
        if let Some(first) = datagram.first_chunk_mut() {
            *first = magics[magic];
        }
        let _ = (tunnel::decode(&datagram), sack::decode(&datagram));
        if let Some(first) = datagram.first_mut() {
            *first = kind % 12;
        }
        if let Ok(message) = beacon::decode(&datagram) {
            // What decodes also encodes, to the bytes that were looked at.
            let mut again = Vec::new();
            message.encode(&mut again);
            prop_assert_eq!(beacon::decode(&again), Ok(message));
        }
    }

    #[test]
    fn beacon_messages(
        a: u32, b: u32, kind: u8, ip: IpAddr, port: u16, frame in bytes(60), key in key(), expiry: i64,
        nodes in vec(any::<u32>(), 0..40),
    ) {
        let endpoint = IpSocketAddr::new(ip.to_canonical(), port);
        let signature = [7; 64];
        let frame = frame.as_slice();
        // The second number is where the optional end begins: a cut there leaves a shorter valid message.
        let messages = [
            (Message::Discover { node: a, key: None }, 5),
            (Message::Discover { node: a, key: Some(&key) }, 5),
            (Message::DiscoverEx { node: a, key: Some(&key) }, 5),
            (Message::DiscoverReply { observed: endpoint }, usize::MAX),
            (Message::PunchRequest { requester: a, target: b, grant: None }, 9),
            (Message::PunchRequest { requester: a, target: b, grant: Some(Grant { expiry, signature: &signature }) }, 9),
            (Message::PunchCommand { peer: endpoint }, usize::MAX),
            (Message::Relay { sender: a, dest: b, frame }, 9),
            (Message::RelayDeliver { sender: a, frame }, 5),
            (Message::RelayDeliverDest { sender: a, dest: b, frame }, 9),
            (Message::Notify { kind }, usize::MAX),
        ];
        for (message, fixed) in messages {
            let mut whole = Vec::new();
            message.encode(&mut whole);
            prop_assert_eq!(beacon::decode(&whole), Ok(message));
            assert_cuts_refused(&whole[..whole.len().min(fixed)], |b| beacon::decode(b).is_ok());
            whole.push(0); // ignored, except that a relayed frame goes to the end
            prop_assert!(beacon::decode(&whole).is_ok());
        }
        let mut sync = Vec::new();
        beacon::encode_sync(a, nodes.iter().copied(), &mut sync);
        let Ok(Message::Sync { beacon, nodes: decoded }) = beacon::decode(&sync) else { panic!("no sync") };
        prop_assert_eq!((beacon, decoded.iter().collect::<Vec<_>>(), decoded.len()), (a, nodes.clone(), nodes.len()));
        assert_cuts_refused(&sync, |b| beacon::decode(b).is_ok());
    }

    #[test]
    fn registry_fixed_messages(a: u32, b: u32, signature in bytes(70), unix_time: i64, key_expiry_warning: bool) {
        let padded = |n: usize| -> u8 { signature.get(n).copied().unwrap_or(0) };
        let whole = reg::encode_heartbeat_req(a, &signature);
        let decoded = reg::decode_heartbeat_req(&whole).unwrap();
        prop_assert_eq!((decoded.node_id, decoded.signature), (a, std::array::from_fn(padded)));
        assert_cuts_refused(&whole, |b| reg::decode_heartbeat_req(b).is_ok());

        let response = HeartbeatResp { unix_time, key_expiry_warning };
        let whole = reg::encode_heartbeat_resp(&response);
        prop_assert_eq!(reg::decode_heartbeat_resp(&whole), Ok(response));
        assert_cuts_refused(&whole, |b| reg::decode_heartbeat_resp(b).is_ok());

        let whole = reg::encode_lookup_req(a);
        prop_assert_eq!(reg::decode_lookup_req(&whole), Ok(a));
        assert_cuts_refused(&whole, |b| reg::decode_lookup_req(b).is_ok());

        let whole = reg::encode_resolve_req(a, b, &signature);
        let decoded = reg::decode_resolve_req(&whole).unwrap();
        prop_assert_eq!((decoded.node_id, decoded.requester_id, decoded.signature), (a, b, std::array::from_fn(padded)));
        assert_cuts_refused(&whole, |b| reg::decode_resolve_req(b).is_ok());
    }

    #[test]
    fn registry_answers(
        node_id: u32, public: bool, task_exec: bool, networks in vec(any::<u16>(), 0..20), pub_key in bytes(40),
        hostname in ".{0,20}", tags in vec(".{0,8}", 0..5), real_addr in ".{0,30}", external_id in ".{0,20}",
        lan_addrs in vec(".{0,30}", 0..5), age: Option<u32>,
    ) {
        let lookup = LookupResult {
            node_id, public, task_exec, networks, pub_key, hostname, tags, external_id, real_addr: real_addr.clone(),
        };
        let whole = reg::encode_lookup_resp(&lookup);
        prop_assert_eq!(reg::decode_lookup_resp(&whole), Ok(lookup));
        assert_cuts_refused(&whole, |b| reg::decode_lookup_resp(b).is_ok());

        let resolve = ResolveResult { node_id, real_addr, lan_addrs, key_age_days: age.filter(|a| *a != u32::MAX) };
        let whole = reg::encode_resolve_resp(&resolve);
        prop_assert_eq!(reg::decode_resolve_resp(&whole), Ok(resolve));
        assert_cuts_refused(&whole, |b| reg::decode_resolve_resp(b).is_ok());
    }

    #[test]
    fn registry_framings(kind: u8, payload in bytes(100), behind in bytes(10), json in json()) {
        let mut whole = Vec::new();
        reg::encode_frame(kind, &payload, &mut whole).unwrap();
        for cut in 0..whole.len() {
            let Split::Incomplete { missing } = reg::split_frame(&whole[..cut]).unwrap() else { panic!("cut at {cut}") };
            prop_assert!(missing >= 1 && missing <= whole.len() - cut);
            prop_assert!(reg::read_frame(&mut &whole[..cut]).is_err());
        }
        let consumed = whole.len();
        whole.extend_from_slice(&behind);
        let split = reg::split_frame(&whole).unwrap();
        prop_assert_eq!(split, Split::Complete { message: (kind, payload.as_slice()), consumed });
        prop_assert_eq!(reg::read_frame(&mut whole.as_slice()).unwrap(), (kind, payload.clone()));

        let message = serde_json::Map::from_iter([("m".to_owned(), json)]);
        let mut whole = Vec::new();
        reg::encode_message(&message, &mut whole).unwrap();
        assert_cuts_refused(&whole, |b| matches!(reg::split_message(b).unwrap(), Split::Complete { .. }));
        assert_cuts_refused(&whole, |b| reg::read_message(&mut &*b).is_ok());
        prop_assert_eq!(reg::read_message(&mut whole.as_slice()).unwrap(), message);
    }

    #[test]
    fn any_payload_is_a_registry_message_or_not(payload in bytes(120)) {
        let _ = reg::decode_heartbeat_req(&payload);
        let _ = reg::decode_heartbeat_resp(&payload);
        let _ = reg::decode_lookup_req(&payload);
        let _ = reg::decode_lookup_resp(&payload);
        let _ = reg::decode_resolve_req(&payload);
        let _ = reg::decode_resolve_resp(&payload);
        let _ = reg::decode_error(&payload);
        let _ = (reg::split_frame(&payload), reg::read_frame(&mut payload.as_slice()));
        let _ = (reg::split_message(&payload), reg::read_message(&mut payload.as_slice()));
        let _ = reg::decode_message(&payload);
    }

    #[test]
    fn json_reads_back(value in json(), text in ".{0,40}") {
        let written = gojson::to_string(&value);
        prop_assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), value.clone());
        prop_assert_eq!(gojson::from_slice(written.as_bytes()).unwrap(), value.clone());
        let compact = gojson::compact(&serde_json::to_string_pretty(&value).unwrap());
        prop_assert_eq!(serde_json::from_str::<Value>(&compact).unwrap(), value);
        prop_assert_eq!(gojson::compact(&written), written);
        prop_assert_eq!(serde_json::from_str::<String>(&gojson::quote(&text)).unwrap(), text.clone());
        let unsafe_in_html = ['<', '>', '&', '\u{2028}', '\u{2029}'];
        prop_assert!(!gojson::quote(&text).contains(unsafe_in_html));
    }

    #[test]
    fn any_text_is_json_or_not(raw in bytes(60), text in r#"["\\uUdD89aAbBcC0-9{}:,é]{0,40}"#) {
        let _ = (gojson::from_slice(&raw), gojson::from_slice(text.as_bytes()), goquote::quote_bytes(&raw));
        let _ = gojson::from_slice(format!("\"{}\"", text.replace('"', "")).as_bytes());
        let _ = gojson::compact(&text);
    }

    #[test]
    fn any_blueprint_is_judged(json in json(), text in "[a-z:/@%\\[\\]0-9.#?]{0,40}") {
        let mut input = json.to_string().into_bytes();
        for _ in 0..2 {
            if let Ok(blueprint) = blueprint::parse_blueprint(&input) {
                let _ = blueprint::validate_blueprint(&blueprint);
                let again = blueprint.to_json().unwrap();
                prop_assert_eq!(blueprint::parse_blueprint(again.as_bytes()).unwrap().to_json().unwrap(), again);
            }
            let _ = blueprint::parse_rules(&input);
            input.truncate(input.len() / 2);
        }
        let _ = (blueprint::check_url(&text), blueprint::check_url(&format!("http://{text}")));
    }

    #[test]
    fn data_exchange_frames(frames in vec((0..9_u32, bytes(80)), 1..5), name in "[^/\\\\]{0,60}", step in 1..40_usize) {
        let mut whole = Vec::new();
        let mut want = Vec::new();
        for (kind, payload) in frames {
            let kind = dx::FrameType(kind);
            let before = whole.len();
            if kind == dx::FrameType::FILE && name != "." && name != ".." {
                dx::encode_file(&name, &payload, &mut whole).unwrap();
                prop_assert_eq!(whole.len() - before, dx::HEADER_LEN + 2 + name.len() + payload.len());
                want.push(dx::Frame { kind, name: name.clone(), payload });
            } else if kind != dx::FrameType::FILE {
                dx::encode_frame(kind, &payload, &mut whole).unwrap();
                want.push(dx::Frame { kind, name: String::new(), payload });
            }
        }
        prop_assert_eq!(&decode_in_steps(&whole, step, u32::MAX).unwrap(), &want);
        // A cut anywhere but between two frames is noticed, and the frames before it are whole.
        for cut in 0..whole.len() {
            let mut source = &whole[..cut];
            let mut read = Vec::new();
            let end = loop {
                match dx::read_frame(&mut source, u32::MAX) {
                    Ok(Some(frame)) => read.push(frame),
                    other => break other.map_err(|e| e.kind()),
                }
            };
            prop_assert_eq!(&read, &want[..read.len()]);
            prop_assert_eq!(decode_in_steps(&whole[..cut], step, u32::MAX).is_ok(), end.is_ok());
        }
    }

    #[test]
    fn any_stream_is_frames_or_not(stream in bytes(120), step in 1..20_usize, kind in 0..9_u8, max in 0..200_u32) {
        let mut tame = stream.clone();
        if let Some(head) = tame.first_chunk_mut::<7>() {
            *head = [0, 0, 0, kind, 0, 0, 0];
        }
        for stream in [stream, tame] {
            let incremental = decode_in_steps(&stream, step, max);
            prop_assert_eq!(&incremental, &decode_in_steps(&stream, stream.len().max(1), max));
            let _ = dx::read_frame(&mut stream.as_slice(), max);
            let _ = dx::split_file_payload(&stream);
            let _ = dx::Trace::decode(dx::FrameType::TRACE, &stream);
            let _ = dx::StreamFrame::decode(&stream).map(|f| f.message());
            let _ = dx::stream_file_name(&stream);
            let _ = dx::TimingReply::from_json(&stream);
            let _ = eventstream::split_event(&stream);
        }
    }

    #[test]
    fn transfer_messages(
        id: [u8; 16], size: u64, sha256 in key(), chunk_size: u32, offset: u64, data in bytes(60), good: bool, kind in 8..=255_u8,
    ) {
        use dx::StreamMessage as M;
        let data = data.as_slice();
        let id = dx::TransferId(id);
        let messages = [
            M::Init(dx::Init { size, sha256: &sha256, chunk_size, name: data }),
            M::Chunk { offset, data },
            M::Ack { offset },
            M::Done,
            M::InitAck { offset },
            M::Complete { good, text: data },
            M::Abort { text: data },
            M::Unknown(dx::StreamKind(kind)),
        ];
        for message in messages {
            let mut whole = Vec::new();
            dx::encode_stream(id, &message, &mut whole).unwrap();
            let frame = dx::read_frame(&mut whole.as_slice(), u32::MAX).unwrap().unwrap();
            let decoded = dx::StreamFrame::decode(&frame.payload).unwrap();
            prop_assert_eq!((decoded.id, decoded.message()), (id, Ok(message)));
            // Text and content run to the end of the frame, so only what has a length can be seen to be cut.
            let open_ended = matches!(message, M::Chunk { .. } | M::Complete { .. } | M::Abort { .. });
            let body = match message {
                M::Chunk { .. } => 8,
                M::Complete { .. } => 1,
                _ => decoded.body.len() * usize::from(!open_ended),
            };
            for cut in 0..body {
                let cut = dx::StreamFrame { body: &decoded.body[..cut], ..decoded };
                prop_assert!(cut.message().is_err());
            }
        }
    }

    #[test]
    fn traces(inner: u32, sent_at_ns: i64, payload in bytes(40), times: [i64; 3], inner_ack in ".{0,20}") {
        let trace = dx::Trace { inner: dx::FrameType(inner), sent_at_ns, payload: &payload };
        let mut whole = Vec::new();
        dx::encode_trace(&trace, &mut whole).unwrap();
        let frame = dx::read_frame(&mut whole.as_slice(), u32::MAX).unwrap().unwrap();
        prop_assert_eq!(dx::Trace::decode(frame.kind, &frame.payload), Ok(trace));
        assert_cuts_refused(&frame.payload[..dx::Trace::HEADER_LEN], |b| dx::Trace::decode(frame.kind, b).is_ok());
        let [ack_sent_at_ns, inbox_written_at_ns, received_at_ns] = times;
        let reply = dx::TimingReply { ack_sent_at_ns, inbox_written_at_ns, inner_ack, received_at_ns, sent_at_ns };
        prop_assert_eq!(dx::TimingReply::from_json(reply.to_json().unwrap().as_bytes()).unwrap(), reply);
    }

    #[test]
    fn events(topic in bytes(40), payload in bytes(60), behind in bytes(9)) {
        let event = eventstream::Event { topic: &topic, payload: &payload };
        let mut whole = Vec::new();
        event.encode(&mut whole).unwrap();
        for cut in 0..whole.len() {
            let Split::Incomplete { missing } = eventstream::split_event(&whole[..cut]).unwrap() else { panic!() };
            prop_assert!(missing >= 1 && missing <= whole.len() - cut);
        }
        let consumed = whole.len();
        whole.extend_from_slice(&behind);
        prop_assert_eq!(eventstream::split_event(&whole), Ok(Split::Complete { message: event, consumed }));
    }
}

/// Any JSON value of moderate size; members often carry names that some message knows.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Not whole, because the peer writes whole floats as integers.
        any::<f64>().prop_filter("whole", |f| f.fract() != 0.0).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(Value::from("https://h.test/<&>")),
    ];
    let name = prop_oneof![
        "[a-z]{1,4}",
        prop::sample::select(vec![
            "name",
            "join_rule",
            "policy",
            "allowed_ports",
            "roles",
            "role",
            "expr_policy",
            "version",
            "rules",
            "webhooks",
            "audit_url",
            "identity_provider",
            "type",
            "url",
            "links",
            "cycle",
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec((name.clone(), inner), 0..6).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Feeds a stream in pieces of `step` bytes and collects whole frames.
fn decode_in_steps(stream: &[u8], step: usize, max: u32) -> Result<Vec<dx::Frame>, dx::FrameError> {
    let mut decoder = dx::FrameDecoder::new(max);
    let (mut frames, mut open) = (Vec::new(), None::<(dx::Frame, usize)>);
    for mut piece in stream.chunks(step) {
        while let Some(event) = decoder.decode(&mut piece)? {
            match event {
                dx::Event::Frame(head) => {
                    assert!(open.is_none() && head.len <= max);
                    let frame = dx::Frame { kind: head.kind, name: String::new(), payload: Vec::new() };
                    open = Some((frame, usize::try_from(head.len).unwrap()));
                }
                dx::Event::File { name, content_len } => {
                    let (frame, len) = open.as_mut().unwrap();
                    *len = usize::try_from(content_len).unwrap();
                    name.clone_into(&mut frame.name);
                }
                dx::Event::Payload(chunk) => {
                    assert!(!chunk.is_empty());
                    open.as_mut().unwrap().0.payload.extend_from_slice(chunk);
                }
                dx::Event::End => {
                    let (frame, len) = open.take().unwrap();
                    assert_eq!(frame.payload.len(), len);
                    frames.push(frame);
                }
            }
        }
        assert!(piece.is_empty());
    }
    decoder.finish()?;
    Ok(frames)
}

#[test]
fn lengths_that_are_only_announced_cost_nothing() {
    // 64 MiB promised, three bytes sent: the readers end with an error instead of waiting on a huge buffer.
    let mut promise = vec![0x04, 0, 0, 0, 1, 2, 3];
    assert!(reg::read_frame(&mut promise.as_slice()).is_err());
    assert!(reg::read_message(&mut promise.as_slice()).is_err());
    promise.splice(0..0, [0, 0, 0, 1]);
    assert!(dx::read_frame(&mut promise.as_slice(), dx::DEFAULT_MAX_FRAME).is_err());
    // Lists whose counts promise more than the payload holds.
    let mut lookup = reg::encode_lookup_resp(&LookupResult::default());
    lookup[9..11].copy_from_slice(&1024_u16.to_be_bytes());
    assert!(reg::decode_lookup_resp(&lookup).is_err());
    lookup[9..11].copy_from_slice(&1025_u16.to_be_bytes());
    assert_eq!(
        reg::decode_lookup_resp(&lookup).unwrap_err().to_string(),
        "network count 1025 exceeds cap 1024"
    );
    let mut resolve = reg::encode_resolve_resp(&ResolveResult::default());
    resolve[6..8].copy_from_slice(&1025_u16.to_be_bytes());
    assert_eq!(
        reg::decode_resolve_resp(&resolve).unwrap_err().to_string(),
        "lan_addrs count 1025 exceeds cap 1024"
    );
}

#[test]
fn what_does_not_fit_is_refused_or_cut() {
    let header = Header {
        flags: Flags::SYN | Flags::ACK,
        protocol: Protocol::STREAM,
        src: Addr::backbone(1),
        dst: Addr::backbone(2),
        src_port: 1,
        dst_port: 2,
        seq: 3,
        ack: 4,
        window: 5,
    };
    let big = vec![0; packet::MAX_PAYLOAD + 1];
    let mut out = Vec::new();
    let error = packet::encode_into(&header, &big, &mut out).unwrap_err();
    assert_eq!(error.to_string(), "payload too large: 65536 bytes (max 65535)");
    assert!(out.is_empty());
    packet::encode_into(&header, &big[1..], &mut out).unwrap();
    assert_eq!(packet::decode(&out).unwrap().payload.len(), packet::MAX_PAYLOAD);

    assert_eq!(reg::encode_error(&"é".repeat(40_000)).len(), 2 + reg::ERROR_TEXT_MAX);
    let long = LookupResult {
        pub_key: vec![1; 300],
        hostname: "h".repeat(300),
        tags: vec!["t".repeat(300); 300],
        real_addr: "a".repeat(70_000),
        external_id: "e".repeat(300),
        ..LookupResult::default()
    };
    let cut = reg::decode_lookup_resp(&reg::encode_lookup_resp(&long)).unwrap();
    assert_eq!((cut.pub_key.len(), cut.hostname.len(), cut.external_id.len()), (255, 255, 255));
    assert_eq!((cut.tags.len(), cut.tags[254].len(), cut.real_addr.len()), (255, 255, 65_535));

    let mut sync = Vec::new();
    beacon::encode_sync(1, 0..70_000, &mut sync);
    let Ok(Message::Sync { nodes, .. }) = beacon::decode(&sync) else { panic!("no sync") };
    assert_eq!(nodes.len(), beacon::SYNC_MAX_NODES);

    let name = "n".repeat(256);
    let error = dx::encode_file(&name, b"", &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "filename too long: 256 bytes (max 255)");
    let topic = vec![b't'; 1025];
    let error = eventstream::Event { topic: &topic, payload: b"" }.encode(&mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "topic too long: 1025");
}

#[test]
fn names_on_disk_follow_the_rule() {
    let stamp = "20260102-030405.678";
    for (name, want) in [
        ("notes.txt", "notes-20260102-030405.678-000007.txt"),
        ("a.tar.gz", "a.tar-20260102-030405.678-000007.gz"),
        ("README", "README-20260102-030405.678-000007"),
        (".bashrc", "-20260102-030405.678-000007.bashrc"),
        ("end.", "end-20260102-030405.678-000007."),
    ] {
        assert_eq!(dx::stored_name(name, stamp, 7), want);
    }
    assert_eq!(
        dx::inbox_name(dx::FrameType(77), stamp, 1_234_567),
        "UNKNOWN(77)-20260102-030405.678-1234567.json"
    );
    for (announced, want) in [
        (&b""[..], Ok("received.bin")),
        (b".", Ok("received.bin")),
        (b"///", Ok("received.bin")),
        (b"a/b/report.pdf//", Ok("report.pdf")),
        (b"a/..", Err("invalid filename: path traversal name \"..\" not allowed")),
        (b"a\\b", Err("invalid filename: path traversal characters not allowed")),
        (b"\xff", Err("filename contains invalid UTF-8")),
    ] {
        assert_eq!(dx::stream_file_name(announced).map_err(|e| e.to_string()), want.map_err(str::to_owned));
    }
    for (setting, want) in [
        (None, dx::DEFAULT_MAX_FRAME),
        (Some("65536"), 65_536),
        (Some("2147483647"), i32::MAX as u32),
        (Some("65535"), dx::DEFAULT_MAX_FRAME),
        (Some("2147483648"), dx::DEFAULT_MAX_FRAME),
        (Some("1 MiB"), dx::DEFAULT_MAX_FRAME),
    ] {
        assert_eq!(dx::max_frame(setting), want);
    }
}
