//! What arrives on port 444.

use super::*;

#[test]
fn a_message_counts_once() {
    let (a, b, _) = pair();
    let b = b.start();
    let bytes = a.message(2, Kind::Request, "hi").encode();
    deliver(&b, 1, &[&bytes]);
    deliver(&b, 1, &[&bytes]);
    assert_eq!(b.topics(), ["handshake.received", "handshake.pending"]);
    // A new time does not make a new message, ten minutes and a sweep do.
    b.clock.advance(601);
    deliver(&b, 1, &[&a.message(2, Kind::Request, "hi").encode()]);
    assert_eq!(b.topics().len(), 2);
}

#[test]
fn a_message_in_two_segments_is_one_message() {
    let (a, b, _) = pair();
    let b = b.start();
    let bytes = a.message(2, Kind::Request, "hi").encode();
    let (first, second) = bytes.split_at(100);
    deliver(&b, 1, &[first, second]);
    assert_eq!(b.service().pending_count(), 1);
}

#[test]
fn nonsense_is_dropped_and_the_port_lives_on() {
    let (a, b, _) = pair();
    let b = b.start();
    let good = a.message(2, Kind::Request, "hi");
    let endless = vec![b' '; 70 * 1024];
    let stale = Message { timestamp: good.timestamp - 301, ..good.clone() };
    let foreign = Message { node_id: 7, ..good.clone() };
    let unsigned = Message { signature: String::new(), ..good.clone() };
    let foreign = [stale, foreign, unsigned].map(|m| m.encode());
    let bad = [&b"hello"[..], b"[]", b"\xff\xfe", b"{}{}", b"null", &endless];
    std::thread::scope(|s| {
        for bytes in bad.into_iter().chain(foreign.iter().map(Vec::as_slice)) {
            let b = &b;
            s.spawn(move || deliver(b, 1, &[bytes]));
        }
    });
    assert_eq!(b.topics(), Vec::<String>::new());
    deliver(&b, 1, &[&good.encode()]);
    assert_eq!(b.topics(), ["handshake.received", "handshake.pending"]);
}

#[test]
fn a_stream_that_ends_early_is_nothing() {
    let (_, b, _) = pair();
    let b = b.start();
    let stream = b.daemon.connect_from(Addr::backbone(1), PORT).expect("bound");
    stream.write(b"{\"type\":").expect("writes");
    stream.close();
    b.stop();
    assert!(b.topics().is_empty());
}

#[test]
fn answers_must_come_from_their_sender() {
    let (a, b, _) = pair();
    let b = b.start();
    b.service().send_request(1, "hi").expect("relayed");
    deliver(&b, 77, &[&a.message(2, Kind::Accept, "").encode()]);
    assert!(!b.service().is_trusted(1));
    deliver(&b, 1, &[&a.message(2, Kind::Accept, "").encode()]);
    assert!(b.service().is_trusted(1));
}

#[test]
fn a_request_may_come_over_another_stream_and_counts_for_that_source() {
    let (a, b, _) = pair();
    let b = b.start();
    deliver(&b, 77, &[&a.message(2, Kind::Request, "hi").encode()]);
    eventually("saved", || saved(&b.state_file())["pending"][0]["source"] == 77);
}

#[test]
fn a_claimed_key_the_registry_knows_better_is_dropped() {
    let (a, b, registry) = pair();
    let b = b.start();
    lock(&registry.nodes).get_mut(&1).expect("known").0 = to_base64(&[5; 32]);
    deliver(&b, 1, &[&a.message(2, Kind::Request, "hi").encode()]);
    assert_eq!(b.topics(), Vec::<String>::new());
    registry.fail("lookup", "registry away");
    deliver(&b, 1, &[&a.message(2, Kind::Request, "hi").encode()]);
    assert_eq!(
        b.topics(),
        ["handshake.received", "handshake.pending"],
        "unconfirmed, for a person to decide"
    );
}

#[test]
fn sixty_streams_at_once_are_all_served() {
    let (_, b, registry) = pair();
    let clock = Arc::clone(&b.clock);
    let b = b.start();
    std::thread::scope(|s| {
        // As many as the accept queue is sure to take.
        for id in 10..70 {
            let sender = Node::new(id, &registry, &clock);
            let b = &b;
            s.spawn(move || {
                let bytes = sender.message(2, Kind::Request, "hi").encode();
                deliver(b, id, &[&bytes]);
            });
        }
    });
    assert_eq!(b.service().pending_count(), 60);
}
