//! Area `packet`: addresses, socket addresses, packets, SACK payloads.

use pilot_vectors::Entry;
use pilot_wire::addr::{Addr, SocketAddr};
use pilot_wire::packet::{self, Flags, HEADER_LEN, Header, Protocol};
use pilot_wire::sack;

pub fn check(entry: &Entry) {
    match entry.kind.as_str() {
        "packet" => check_packet(entry),
        "addr" => check_addr(entry),
        "sockaddr" => check_socket_addr(entry),
        "sack" => check_sack(entry),
        other => panic!("no rule for kind {other}"),
    }
}

fn check_packet(entry: &Entry) {
    let decoded = packet::decode(&entry.bytes);
    if entry.error {
        assert_eq!(decoded.unwrap_err().to_string(), entry.text("message"));
        return;
    }
    let decoded = decoded.unwrap();
    let header = Header {
        flags: Flags::from_bits(u8::try_from(entry.number("flags")).unwrap()),
        protocol: Protocol(u8::try_from(entry.number("protocol")).unwrap()),
        src: entry.text("src").parse().unwrap(),
        dst: entry.text("dst").parse().unwrap(),
        src_port: u16::try_from(entry.number("src_port")).unwrap(),
        dst_port: u16::try_from(entry.number("dst_port")).unwrap(),
        seq: u32::try_from(entry.number("seq")).unwrap(),
        ack: u32::try_from(entry.number("ack")).unwrap(),
        window: u16::try_from(entry.number("window")).unwrap(),
    };
    let payload = entry.hex("payload_hex");
    assert_eq!(decoded.header, header);
    assert_eq!(decoded.payload, payload);
    assert_eq!(payload.len() as u64, entry.number("payload_len"));
    assert_eq!(entry.number("version"), u64::from(packet::VERSION));

    let mut encoded = Vec::new();
    packet::encode_into(&header, &payload, &mut encoded).unwrap();
    let whole = &entry.bytes[..HEADER_LEN + payload.len()]; // some entries carry ignored bytes behind the packet
    assert_eq!(encoded, whole);
    assert_eq!(hex::encode(&encoded[30..34]), entry.text("checksum"));

    let mut in_place = vec![0xEE; HEADER_LEN];
    in_place.extend_from_slice(&payload);
    packet::write_in_place(&header, &mut in_place).unwrap();
    assert_eq!(in_place, whole);
}

fn check_addr(entry: &Entry) {
    let parsed = entry.text("text").parse::<Addr>();
    if entry.error {
        assert_eq!(parsed.unwrap_err().to_string(), entry.text("message"));
        return;
    }
    let addr = parsed.unwrap();
    assert_eq!(addr.to_bytes().as_slice(), entry.bytes);
    assert_eq!(Addr::from_bytes(entry.bytes.as_slice().try_into().unwrap()), addr);
    assert_eq!(addr.to_string(), entry.text("canonical"));
    assert_eq!(u64::from(addr.network), entry.number("network"));
    assert_eq!(u64::from(addr.node), entry.number("node"));
    assert_eq!(Some(addr.is_zero()), entry.fields["is_zero"].as_bool());
    assert_eq!(Some(addr.is_broadcast()), entry.fields["is_broadcast"].as_bool());
}

fn check_socket_addr(entry: &Entry) {
    let parsed = entry.text("text").parse::<SocketAddr>();
    if entry.error {
        assert_eq!(parsed.unwrap_err().to_string(), entry.text("message"));
        return;
    }
    let parsed = parsed.unwrap();
    assert_eq!(parsed.to_string(), entry.text("canonical"));
    assert_eq!(parsed.addr.to_bytes().as_slice(), entry.bytes);
    assert_eq!(u64::from(parsed.port), entry.number("port"));
    assert_eq!(u64::from(parsed.addr.network), entry.number("network"));
    assert_eq!(u64::from(parsed.addr.node), entry.number("node"));
}

fn check_sack(entry: &Entry) {
    let blocks = |key: &str| -> Option<Vec<sack::Block>> {
        let edge = |b: &serde_json::Value, k: &str| u32::try_from(b[k].as_u64().unwrap()).unwrap();
        let list = entry.fields.get(key)?.as_array()?;
        Some(list.iter().map(|b| sack::Block { left: edge(b, "Left"), right: edge(b, "Right") }).collect())
    };
    let decoded = sack::decode(&entry.bytes);
    let is_sack =
        entry.fields.get("is_sack").or(entry.fields.get("go_peer_is_sack")).and_then(|v| v.as_bool());
    assert_eq!(decoded.is_some(), is_sack.unwrap_or(!entry.error));
    if let Some(want) = blocks("decoded") {
        assert_eq!(decoded.as_deref(), Some(want.as_slice()));
    }
    if let Some(given) = blocks("given") {
        let mut encoded = Vec::new();
        sack::encode(&given, &mut encoded);
        assert_eq!(encoded, entry.bytes);
        assert_eq!(encoded.len(), sack::encoded_len(given.len()));
    }
}
