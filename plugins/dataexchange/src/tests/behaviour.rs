//! What the fact sheet says in prose: limits, failures, ends of connections.
//!
//! Tests named `go_bug_..` are named after what the Go peer does there, and hold ours to the right behaviour.

use std::time::Duration;

use plugin_abi::ErrorKind;
use plugin_abi::test_kit::FakeDaemon;

use super::*;

#[test]
fn a_frame_that_stays_unfinished_for_two_minutes_ends_the_connection() {
    let rig = Rig::new(json!({}));
    let client = rig.connect();
    client.send(FrameType::TEXT, b"hi");
    assert_eq!(client.text(), "ACK TEXT 2 bytes");
    client.0.write(&header(FrameType::TEXT, 5)).unwrap();
    client.0.write(b"hel").unwrap();
    rig.clock.wait_until_watched();
    rig.clock.advance(Duration::from_secs(119));
    rig.clock.wait_until_watched();
    client.0.write(b"l").unwrap();
    rig.clock.advance(Duration::from_secs(1));
    assert!(client.is_closed());
    assert_eq!(rig.files().len(), 1, "nothing of the unfinished frame is kept");
}

#[test]
fn go_bug_a_frame_that_takes_longer_than_the_idle_timeout_is_cut() {
    let rig = Rig::new(json!({}));
    let client = rig.connect();
    client.0.write(&header(FrameType(99), 3 << 20)).unwrap();
    for _ in 0..3 {
        client.0.write(&vec![0; 1 << 20]).unwrap();
        rig.clock.wait_until_watched();
        rig.clock.advance(Duration::from_secs(100));
    }
    assert_eq!(client.text(), "ACK UNKNOWN(99) 3145728 bytes");
}

#[test]
fn the_idle_timeout_can_be_switched_off() {
    let rig = Rig::new(json!({"idle_timeout_secs": -1}));
    let client = rig.connect();
    rig.clock.advance(Duration::from_secs(86_400));
    client.send(FrameType::TEXT, b"hi");
    assert_eq!(client.text(), "ACK TEXT 2 bytes");
}

#[test]
fn a_cut_file_frame_leaves_nothing_behind() {
    let rig = Rig::new(json!({}));
    let client = rig.connect();
    client.0.write(&header(FrameType::FILE, 1_000_000)).unwrap();
    client.0.write(b"\x00\x01a").unwrap();
    client.0.write(&vec![1; 500_000]).unwrap();
    client.0.close();
    let next = rig.connect();
    next.send_file(b"b", b"whole");
    assert_eq!(next.text(), "ACK FILE 5 bytes");
    rig.plugin.shutdown(Duration::from_secs(10)).unwrap();
    assert_eq!(rig.files(), [format!("received/b-{STAMP}-000001")]);
}

#[test]
fn large_frames_are_stored_whole() {
    let rig = Rig::new(json!({}));
    let client = rig.connect();
    let content: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7 + i / 256) as u8).collect();
    let text = "größer <&> \u{2028}".repeat(100_000);
    let sender = std::thread::spawn({
        let (client, content, text) = (Client(client.0.clone()), content.clone(), text.clone());
        move || {
            client.send_file(b"big.bin", &content);
            client.send(FrameType::TEXT, text.as_bytes());
        }
    });
    assert_eq!(client.text(), format!("ACK FILE {} bytes", content.len()));
    assert_eq!(client.text(), format!("ACK TEXT {} bytes", text.len()));
    sender.join().unwrap();
    assert!(std::fs::read(rig.path(&format!("received/big-{STAMP}-000001.bin"))).unwrap() == content);
    let stored = std::fs::read(rig.path(&format!("inbox/TEXT-{STAMP}-000002.json"))).unwrap();
    let stored: Value = serde_json::from_slice(&stored).unwrap();
    assert!(stored["data"] == text.as_str());
    assert_eq!(stored["bytes"], text.len());
}

#[test]
fn what_a_crash_left_is_removed_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["inbox/.message-abc", "received/.partial/frame-xyz"] {
        std::fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
        std::fs::write(dir.path().join(path), b"half").unwrap();
    }
    let kept =
        ["inbox/TEXT-old.json", "received/.partial/00112233445566778899aabbccddeeff", "received/frame-1.png"];
    for path in kept {
        std::fs::write(dir.path().join(path), b"whole").unwrap();
    }
    let rig = Rig::in_dir(dir, json!({}));
    assert_eq!(rig.files(), kept);
}

#[test]
fn go_bug_partial_files_stay_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("received/.partial")).unwrap();
    let path = dir.path().join("received/.partial/00112233445566778899aabbccddeeff");
    let old =
        std::time::SystemTime::from(RECEIVED_AT.parse::<Timestamp>().unwrap()) - Duration::from_secs(101);
    std::fs::write(&path, b"half").unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    let rig = Rig::in_dir(dir, json!({"partial_max_age_secs": 100}));
    assert_eq!(rig.files(), [""; 0]);
}

#[test]
fn go_bug_an_equal_name_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("inbox")).unwrap();
    let taken = format!("inbox/TEXT-{STAMP}-000001.json");
    std::fs::write(dir.path().join(&taken), b"old").unwrap();
    let rig = Rig::in_dir(dir, json!({}));
    let client = rig.connect();
    client.send(FrameType::TEXT, b"new");
    assert_eq!(client.text(), "ACK TEXT 3 bytes");
    assert_eq!(rig.files(), [taken.clone(), format!("inbox/TEXT-{STAMP}-000002.json")]);
    assert_eq!(std::fs::read(rig.path(&taken)).unwrap(), b"old");
}

#[test]
fn go_bug_the_default_byte_cap_empties_the_whole_inbox() {
    let rig = Rig::new(json!({"fsync": false}));
    let client = rig.connect();
    // Past the number at which the directory is tidied: nothing is near the cap, so nothing may go.
    for _ in 0..130 {
        client.send(FrameType::TEXT, b"x");
        assert_eq!(client.text(), "ACK TEXT 1 bytes");
    }
    assert_eq!(rig.files().len(), 130);
}

#[test]
fn go_bug_a_reader_of_the_inbox_sees_half_a_message() {
    let rig = Rig::new(json!({}));
    let client = rig.connect();
    client.0.write(&header(FrameType::TEXT, 900_000)).unwrap();
    client.0.write(&vec![b'x'; 600_000]).unwrap();
    rig.clock.wait_until_watched();
    // Listing tools look at `*.json`; what is still arriving is not under such a name, not even a short one.
    assert!(rig.files().iter().all(|f| !f.ends_with(".json")), "{:?}", rig.files());
    client.0.write(&vec![b'x'; 300_000]).unwrap();
    assert_eq!(client.text(), "ACK TEXT 900000 bytes");
    let [only] = &rig.files()[..] else { panic!("{:?}", rig.files()) };
    let stored: Value = serde_json::from_slice(&std::fs::read(rig.path(only)).unwrap()).unwrap();
    assert_eq!(stored["bytes"], 900_000);
}

#[test]
fn go_bug_a_message_is_refused_that_would_fit_after_one_more_deletion() {
    let rig = Rig::new(json!({"inbox_max_bytes": 1000}));
    let client = rig.connect();
    for i in 1..=8u8 {
        client.send(FrameType::TEXT, &[b'a' + i; 100]);
        assert_eq!(client.text(), "ACK TEXT 100 bytes");
    }
    let left = rig.files();
    let used: u64 = left.iter().map(|f| std::fs::metadata(rig.path(f)).unwrap().len()).sum();
    assert!(used <= 1000, "{used}");
    assert!(left.last().unwrap().ends_with("-000008.json"), "{left:?}");
    assert!(left.len() >= 3, "no more is deleted than needed: {left:?}");

    client.send(FrameType::TEXT, &[b'x'; 800]);
    let refusal = client.text();
    assert_eq!(refusal, format!("ERR TEXT save failed: inbox byte budget exceeded: {used} + 1056 > 1000"));
    assert_eq!(rig.files(), left, "a message that cannot fit deletes nothing");
    let (topic, payload) = events(&rig).pop().unwrap();
    assert_eq!(topic, "inbox.full");
    assert_eq!(
        payload,
        json!({"from": REMOTE.to_string(), "type": "TEXT", "frame_bytes": 800, "max_bytes": 1000})
    );
}

#[test]
fn the_number_of_messages_is_bounded() {
    let rig = Rig::new(json!({"inbox_max_files": 10, "fsync": false}));
    let client = rig.connect();
    for _ in 0..130 {
        client.send(FrameType::TEXT, b"x");
        assert_eq!(client.text(), "ACK TEXT 1 bytes");
    }
    let left = rig.files();
    assert!(left.len() <= 10 + 64, "{}", left.len());
    assert!(left.last().unwrap().ends_with("-000130.json"));
}

#[test]
fn a_failure_to_store_is_answered_and_the_connection_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), b"in the way").unwrap();
    let rig = Rig::in_dir(dir, json!({"inbox_dir": "file/inbox", "received_dir": "file/received"}));
    let client = rig.connect();
    client.send(FrameType::JSON, b"{}");
    assert!(client.text().starts_with("ERR JSON save failed: mkdir: "));
    client.send_file(b"a", b"content");
    assert!(client.text().starts_with("ERR FILE save failed: mkdir: "));
    client.send(FrameType(6), b"abc");
    assert_eq!(client.text(), "ACK UNKNOWN(6) 3 bytes");
    // A transfer cannot go on without its directory.
    let id = TransferId::of_hash(&[1; 32]);
    let init = [&0u64.to_be_bytes()[..], &[1; 32], &[0; 6]].concat();
    client.send_stream(StreamKind::INIT, id, &init);
    assert!(client.text().starts_with("ERR mkdir: "));
    assert!(client.is_closed());
}

#[test]
fn a_name_the_file_system_refuses_is_an_answer_not_an_end() {
    let rig = Rig::new(json!({}));
    let client = rig.connect();
    client.send_file(b"a\0b", b"content");
    assert!(client.text().starts_with("ERR FILE save failed: write: "));
    client.send_file(b"a", b"content");
    assert_eq!(client.text(), "ACK FILE 7 bytes");
    assert_eq!(rig.files().len(), 1);
}

#[test]
fn pipelined_frames_are_answered_in_order() {
    let rig = Rig::new(json!({"fsync": false}));
    let client = rig.connect();
    let mut all = Vec::new();
    for n in 0..50usize {
        all.extend(frame(FrameType(1000 + n as u32), &vec![0; n]));
    }
    client.0.write(&all).unwrap();
    for n in 0..50 {
        assert_eq!(client.text(), format!("ACK UNKNOWN({}) {n} bytes", 1000 + n));
    }
}

#[test]
fn too_many_connections_are_told_so() {
    let rig = Rig::new(json!({"max_connections": 2, "max_connections_per_peer": 1}));
    let first = rig.connect();
    first.send(FrameType(99), b"");
    assert_eq!(first.text(), "ACK UNKNOWN(99) 0 bytes");
    let same_peer = rig.connect();
    assert_eq!(same_peer.text(), "ERR busy: too many connections from your node (max 1)");
    assert!(same_peer.is_closed());
    let second = rig.connect_from(Addr::backbone(5));
    second.send(FrameType(99), b"");
    assert_eq!(second.text(), "ACK UNKNOWN(99) 0 bytes");
    let third = rig.connect_from(Addr::backbone(6));
    assert_eq!(third.text(), "ERR busy: too many connections (max 2), try again later");
    assert!(third.is_closed());
}

#[test]
fn a_reply_that_cannot_be_delivered_is_reported() {
    let rig = Rig::new(json!({}));
    let client = rig.connect();
    // The frame waits in the buffer of a connection that nobody reads any more.
    client.send(FrameType::TEXT, b"hi");
    client.0.close();
    let event = rig.daemon.wait_for_event("dataexchange.ack_failed").unwrap();
    let payload = Value::Object(event.payload.unwrap());
    assert_eq!(payload["remote"], json!({"Network": 1, "Node": 0x00A3_F291}));
    assert_eq!(payload["frame_type"], "TEXT");
    assert!(payload["error"].is_string());
}

#[test]
fn shutdown_ends_connections_and_lets_go_of_the_daemon() {
    let rig = Rig::new(json!({}));
    let client = rig.connect();
    client.send(FrameType(99), b"");
    assert_eq!(client.text(), "ACK UNKNOWN(99) 0 bytes");
    client.0.write(&header(FrameType::TEXT, 5)).unwrap();
    client.0.write(b"he").unwrap();
    rig.plugin.shutdown(Duration::from_secs(10)).unwrap();
    assert!(client.is_closed());
    assert_eq!(rig.daemon.bound_ports(), [0u16; 0]);
    rig.plugin.shutdown(Duration::from_secs(10)).unwrap();
}

#[test]
fn a_taken_port_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = FakeDaemon::new(dir.path());
    let _taken = plugin_abi::Daemon::ports(daemon.as_ref()).bind(1001).unwrap();
    let error = DataExchange::new().init(daemon).unwrap_err();
    assert_eq!(error.message(), "dataexchange: listen on port 1001: port 1001 already bound");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}
