//! Chunked transfers beyond the recorded ones: order, limits, two writers, resuming.

use sha2::{Digest, Sha256};

use super::*;
use crate::partial::MAX_FILES;

/// A file as a sender would announce it.
struct Outgoing {
    content: Vec<u8>,
    id: TransferId,
}

impl Outgoing {
    fn new(len: usize) -> Outgoing {
        let content: Vec<u8> = (0..len).map(|i| (i * 31 + i / 251) as u8).collect();
        let id = TransferId::of_hash(&Sha256::digest(&content).into());
        Outgoing { content, id }
    }

    fn init(&self, client: &Client, name: &[u8]) {
        let mut body = (self.content.len() as u64).to_be_bytes().to_vec();
        body.extend_from_slice(&Sha256::digest(&self.content));
        body.extend_from_slice(&49_152u32.to_be_bytes());
        body.extend_from_slice(&(name.len() as u16).to_be_bytes());
        body.extend_from_slice(name);
        client.send_stream(StreamKind::INIT, self.id, &body);
    }

    fn chunk(&self, client: &Client, from: usize, to: usize) {
        let mut body = (from as u64).to_be_bytes().to_vec();
        body.extend_from_slice(&self.content[from..to]);
        client.send_stream(StreamKind::CHUNK, self.id, &body);
    }

    fn done(&self, client: &Client) {
        client.send_stream(StreamKind::DONE, self.id, b"");
    }

    /// Expects a reply of `kind` whose body is a position, and gives that.
    fn position(&self, client: &Client, kind: StreamKind) -> u64 {
        let (got, id, body) = client.stream();
        assert_eq!((got, id.as_slice()), (kind.0, &self.id.0[..]), "{}", String::from_utf8_lossy(&body));
        u64::from_be_bytes(body.try_into().unwrap())
    }

    /// Expects COMPLETE and gives its text; `None` when it is a success.
    fn refusal(&self, client: &Client) -> Option<String> {
        let (kind, id, body) = client.stream();
        assert_eq!((kind, id.as_slice()), (StreamKind::COMPLETE.0, &self.id.0[..]));
        let text = String::from_utf8(body[1..].to_vec()).unwrap();
        (body[0] != 0).then_some(text)
    }

    fn acked(&self, client: &Client) -> u64 {
        self.position(client, StreamKind::ACK)
    }
}

#[test]
fn every_chunk_is_acknowledged_and_the_file_is_whole() {
    let rig = Rig::new(json!({}));
    let client = rig.connect();
    let file = Outgoing::new(1_000_000);
    file.init(&client, b"big.bin");
    assert_eq!(file.position(&client, StreamKind::INIT_ACK), 0);
    let mut acked = 0;
    for from in (0..file.content.len()).step_by(49_152) {
        if from - acked > 700_000 {
            acked = file.acked(&client) as usize;
        }
        file.chunk(&client, from, file.content.len().min(from + 49_152));
    }
    while acked < file.content.len() {
        let next = file.acked(&client) as usize;
        assert!(next > acked && (next - acked) <= 49_152, "one ACK per chunk");
        acked = next;
    }
    file.done(&client);
    assert_eq!(file.refusal(&client), None);
    let stored = format!("received/big-{STAMP}-000001.bin");
    assert_eq!(rig.files(), std::slice::from_ref(&stored));
    assert!(std::fs::read(rig.path(&stored)).unwrap() == file.content);
}

#[test]
fn chunks_may_arrive_in_any_order() {
    let rig = Rig::new(json!({}));
    let client = rig.connect();
    let file = Outgoing::new(1000);
    file.init(&client, b"f");
    assert_eq!(file.position(&client, StreamKind::INIT_ACK), 0);
    for (from, to, cursor) in [
        (200, 300, 0),
        (100, 200, 0),
        (100, 200, 0),
        (500, 1000, 0),
        (0, 100, 300),
        (50, 80, 300),
        (300, 500, 1000),
    ] {
        file.chunk(&client, from, to);
        assert_eq!(file.acked(&client), cursor, "{from}..{to}");
    }
    file.done(&client);
    assert_eq!(file.refusal(&client), None);
}

#[test]
fn chunks_ahead_of_the_cursor_are_kept_only_within_their_limit() {
    let rig = Rig::new(json!({}));
    let client = rig.connect();
    let file = Outgoing::new(2_000_000);
    file.init(&client, b"f");
    assert_eq!(file.position(&client, StreamKind::INIT_ACK), 0);
    file.chunk(&client, 100, 786_532);
    assert_eq!(file.acked(&client), 0);
    file.chunk(&client, 786_532, 786_533);
    assert_eq!(file.acked(&client), 0);
    file.chunk(&client, 0, 100);
    assert_eq!(file.acked(&client), 786_532, "the first was kept, the one byte too many was not");
}

#[test]
fn go_bug_without_a_quota_a_transfer_writes_past_its_size() {
    let rig = Rig::new(json!({"received_max_bytes": -1}));
    let client = rig.connect();
    let file = Outgoing::new(10);
    file.init(&client, b"f");
    assert_eq!(file.position(&client, StreamKind::INIT_ACK), 0);
    let body = [&0u64.to_be_bytes()[..], &[1; 11]].concat();
    client.send_stream(StreamKind::CHUNK, file.id, &body);
    assert_eq!(file.refusal(&client).unwrap(), "write at 0: past the announced size of 10 bytes");
    file.chunk(&client, 0, 10);
    assert_eq!(file.acked(&client), 10, "the transfer stays usable");
    file.done(&client);
    assert_eq!(file.refusal(&client), None);
}

#[test]
fn the_quota_holds_while_chunks_arrive() {
    let rig = Rig::new(json!({"received_max_bytes": 100}));
    let client = rig.connect();
    let (first, second) = (Outgoing::new(60), Outgoing::new(61));
    first.init(&client, b"a");
    assert_eq!(first.position(&client, StreamKind::INIT_ACK), 0);
    second.init(&client, b"b");
    assert_eq!(second.position(&client, StreamKind::INIT_ACK), 0);
    first.chunk(&client, 0, 60);
    assert_eq!(first.acked(&client), 60);
    second.chunk(&client, 0, 40);
    assert_eq!(second.acked(&client), 40);
    second.chunk(&client, 40, 61);
    assert_eq!(second.refusal(&client).unwrap(), "receiver disk quota exceeded at offset 40");
    first.done(&client);
    assert_eq!(first.refusal(&client), None);
}

#[test]
fn a_transfer_goes_on_where_the_last_connection_ended() {
    let rig = Rig::new(json!({}));
    let file = Outgoing::new(300_000);
    let first = rig.connect();
    file.init(&first, b"f");
    assert_eq!(file.position(&first, StreamKind::INIT_ACK), 0);
    file.chunk(&first, 0, 100_000);
    assert_eq!(file.acked(&first), 100_000);

    // The sender is back before its old connection is given up: the new one takes over.
    let second = rig.connect();
    file.init(&second, b"f");
    assert_eq!(file.position(&second, StreamKind::INIT_ACK), 100_000);
    file.chunk(&first, 100_000, 200_000);
    let (kind, _, text) = first.stream();
    assert_eq!((kind, text.as_slice()), (StreamKind::ABORT.0, &b"no active transfer (send INIT first)"[..]));
    file.done(&first);
    assert_eq!(file.refusal(&first).unwrap(), "no active transfer");

    file.chunk(&second, 100_000, 300_000);
    assert_eq!(file.acked(&second), 300_000);
    file.done(&second);
    assert_eq!(file.refusal(&second), None, "the stored first part counts in the hash");
}

#[test]
fn go_bug_two_connections_write_into_one_partial() {
    let rig = Rig::new(json!({}));
    let file = Outgoing::new(1000);
    let (first, other) = (rig.connect(), rig.connect_from(Addr::backbone(77)));
    file.init(&first, b"f");
    assert_eq!(file.position(&first, StreamKind::INIT_ACK), 0);
    file.init(&other, b"f");
    assert_eq!(file.refusal(&other).unwrap(), "this file is being received from another node");
    file.chunk(&first, 0, 1000);
    assert_eq!(file.acked(&first), 1000);
    file.done(&first);
    assert_eq!(file.refusal(&first), None);
    // Now the file is free again.
    file.init(&other, b"f");
    assert_eq!(file.position(&other, StreamKind::INIT_ACK), 0);
}

#[test]
fn go_bug_a_corrupt_partial_fails_every_later_attempt() {
    let rig = Rig::new(json!({}));
    let client = rig.connect();
    let file = Outgoing::new(500);
    file.init(&client, b"f");
    assert_eq!(file.position(&client, StreamKind::INIT_ACK), 0);
    client.send_stream(StreamKind::CHUNK, file.id, &[&0u64.to_be_bytes()[..], &[9; 500]].concat());
    assert_eq!(file.acked(&client), 500);
    file.done(&client);
    assert_eq!(file.refusal(&client).unwrap(), "sha256 mismatch — file corrupt, .partial retained");
    file.init(&client, b"f");
    assert_eq!(file.position(&client, StreamKind::INIT_ACK), 0, "it starts anew");
    file.chunk(&client, 0, 500);
    assert_eq!(file.acked(&client), 500);
    file.done(&client);
    assert_eq!(file.refusal(&client), None);
}

#[test]
fn go_bug_announcements_are_not_checked() {
    let rig = Rig::new(json!({}));
    let client = rig.connect();
    let file = Outgoing::new(10);
    let hash: [u8; 32] = Sha256::digest(&file.content).into();
    let init = |size: u64, hash: [u8; 32], name: &[u8]| {
        let name_len = (name.len() as u16).to_be_bytes();
        [&size.to_be_bytes()[..], &hash, &[0; 4], &name_len, name].concat()
    };
    for (body, text) in [
        (init(1 << 63, hash, b"f"), "file size 9223372036854775808 is not possible"),
        (init(10, [3; 32], b"f"), "transfer id is not the start of the file's hash"),
        (init(10, hash, b"a\\b"), "invalid filename: path traversal characters not allowed"),
        (init(10, hash, b"a\xffb"), "filename contains invalid UTF-8"),
        (init(10, hash, b"a\0b"), "invalid filename: NUL not allowed"),
        (init(10, hash, &[b'n'; 256]), "filename too long: 256 bytes (max 255)"),
        (b"short".to_vec(), "malformed INIT"),
        (init(10, hash, b"f")[..46].to_vec(), "malformed INIT"),
    ] {
        client.send_stream(StreamKind::INIT, file.id, &body);
        assert_eq!(file.refusal(&client).as_deref(), Some(text));
    }
    assert_eq!(rig.files(), [""; 0]);
}

#[test]
fn aborted_and_odd_frames_get_no_answer() {
    let rig = Rig::new(json!({}));
    let client = rig.connect();
    let file = Outgoing::new(10);
    file.init(&client, b"f");
    assert_eq!(file.position(&client, StreamKind::INIT_ACK), 0);
    file.chunk(&client, 0, 5);
    assert_eq!(file.acked(&client), 5);
    client.send_stream(StreamKind::ABORT, file.id, b"changed my mind");
    client.send(FrameType::FILESTREAM, &[1; 16]);
    client.send_stream(StreamKind::ACK, file.id, &[0; 8]);
    file.chunk(&client, 5, 10);
    assert_eq!(client.stream().0, StreamKind::ABORT.0);
    client.send_stream(StreamKind::CHUNK, file.id, &[0; 7]);
    assert_eq!(file.refusal(&client).unwrap(), "malformed CHUNK");
    // The bytes are still there for later.
    file.init(&client, b"f");
    assert_eq!(file.position(&client, StreamKind::INIT_ACK), 5);
}

/// A quota of bytes does not stop a peer that announces files and sends none.
#[test]
fn files_that_were_only_begun_do_not_pile_up() {
    let dir = tempfile::tempdir().unwrap();
    let partial = dir.path().join("received/.partial");
    std::fs::create_dir_all(&partial).unwrap();
    for i in 0..MAX_FILES + 50 {
        std::fs::write(partial.join(format!("{i:032x}")), "").unwrap();
    }
    let count = || std::fs::read_dir(&partial).unwrap().count();
    let rig = Rig::in_dir(dir, json!({"partial_max_age_secs": -1}));
    assert_eq!(count(), MAX_FILES, "at the start");
    let client = rig.connect();
    let files: Vec<Outgoing> = (1..=5).map(Outgoing::new).collect();
    for file in &files {
        file.init(&client, b"begun.bin");
        assert_eq!(file.position(&client, StreamKind::INIT_ACK), 0);
        client.send_stream(StreamKind::ABORT, file.id, b"");
    }
    assert!(count() <= MAX_FILES + 1, "{}", count());
    assert!(partial.join(files[4].id.to_string()).exists(), "the newest is there");
}
