//! Area `secure`: whole conversations, auth frames, judged frames, records that must be refused.

use std::time::Duration;

use ed25519_dalek::{Signer, SigningKey};
use pilot_vectors::Entry;
use pilot_wire::secure::{AuthFrame, Authenticate, Channel, ReplayStore, Role, Step, verify_auth};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// `replay` is one store for all entries in the order of the file, as a process has one: an entry about a repeated nonce
/// repeats that of an entry before it.
pub fn check(entry: &Entry, replay: &mut ReplayStore) {
    match entry.kind.as_str() {
        "conversation" => check_conversation(entry),
        "auth" => check_auth_frame(entry),
        "verify" => check_verify(entry, replay),
        "record" => check_record(entry),
        other => panic!("no rule for kind {other}"),
    }
}

fn array<const N: usize>(entry: &Entry, field: &str) -> [u8; N] {
    entry.hex(field).try_into().unwrap_or_else(|_| panic!("{}: {field} is not {N} bytes", entry.name))
}

fn list(entry: &Entry, field: &str) -> Vec<Vec<u8>> {
    let items = entry.fields[field].as_array().unwrap();
    items.iter().map(|v| hex::decode(v.as_str().unwrap()).unwrap()).collect()
}

/// One side, played from the recorded private values.
struct Side {
    channel: Channel,
    signer: Option<SigningKey>,
    peer_key: Option<[u8; 32]>,
    now: Duration,
    writes: Vec<Vec<u8>>,
    read: Vec<u8>,
    established: Option<u32>,
    replay: ReplayStore,
}

impl Side {
    fn new(entry: &Entry, role: Role) -> Side {
        let (me, peer) = match role {
            Role::Client => ("client", "server"),
            Role::Server => ("server", "client"),
        };
        let authenticated = entry.fields["authenticated"].as_bool().unwrap();
        let seed = |who: &str| SigningKey::from_bytes(&array(entry, &format!("{who}_ed25519_seed")));
        let (mut auth, mut now) = (None, Duration::ZERO);
        if authenticated {
            // Time and nonce are inside the recorded frame.
            let own = &list(entry, &format!("{me}_writes"))[1];
            let frame = AuthFrame::decode(&open(&array(entry, "aes_key"), own)).unwrap();
            let node = u32::try_from(entry.number(&format!("{me}_node_id"))).unwrap();
            assert_eq!(frame.node, node);
            now = Duration::from_secs(frame.timestamp);
            let known = seed(peer).verifying_key().to_bytes();
            auth = Some(Authenticate {
                node,
                nonce: frame.nonce,
                peer_key: (role == Role::Client).then_some(known),
            });
        }
        Side {
            channel: Channel::new(role, array(entry, &format!("{me}_x25519_private")), auth),
            signer: authenticated.then(|| seed(me)),
            peer_key: authenticated.then(|| seed(peer).verifying_key().to_bytes()),
            now,
            writes: Vec::new(),
            read: Vec::new(),
            established: None,
            replay: ReplayStore::new(),
        }
    }

    fn rest(&mut self) {
        while let Some(step) = self.channel.poll(self.now, &mut self.replay).unwrap() {
            match step {
                Step::Write(bytes) => self.writes.push(bytes),
                Step::Sign(message) => {
                    let signature = self.signer.as_ref().unwrap().sign(&message).to_bytes();
                    self.channel.signed(signature).unwrap();
                }
                Step::FindKey { .. } => {
                    self.channel.found_key(self.peer_key, self.now, &mut self.replay).unwrap();
                }
                Step::Established { peer } => self.established = Some(peer),
                Step::Data(bytes) => self.read.extend(bytes),
            }
        }
    }
}

fn open(key: &[u8; 32], record: &[u8]) -> Vec<u8> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
    let nonce = Nonce::try_assume_unique_for_key(&record[4..16]).unwrap();
    let mut sealed = record[16..].to_vec();
    key.open_in_place(nonce, Aad::from(&record[4..8]), &mut sealed).unwrap().to_vec()
}

fn check_conversation(entry: &Entry) {
    for role in [Role::Client, Role::Server] {
        let (me, peer) = match role {
            Role::Client => ("client", "server"),
            Role::Server => ("server", "client"),
        };
        let mut side = Side::new(entry, role);
        side.rest();
        for bytes in list(entry, &format!("{peer}_writes")) {
            side.channel.receive(&bytes);
            side.rest();
        }
        let peer_node = entry.fields.get(&format!("{peer}_node_id")).map_or(Some(0), |n| n.as_u64());
        assert_eq!(side.established.map(u64::from), peer_node, "{me}");
        for message in list(entry, &format!("{me}_plain_messages")) {
            let record = side.channel.seal(&message).unwrap();
            side.writes.push(record);
        }
        assert_eq!(side.writes, list(entry, &format!("{me}_writes")), "{me} writes");
        assert_eq!(side.read, list(entry, &format!("{peer}_plain_messages")).concat(), "{me} reads");
        if role == Role::Client {
            assert_eq!(side.writes.concat(), entry.bytes);
        }
    }
}

fn check_auth_frame(entry: &Entry) {
    let node = u32::try_from(entry.number("node_id")).unwrap();
    let timestamp: u64 = entry.text("timestamp").parse().unwrap();
    let nonce = array(entry, "nonce");
    let message =
        AuthFrame::signed_message(node, &array(entry, "x25519_public_of_sender"), timestamp, &nonce);
    assert_eq!(message.as_slice(), entry.hex("signed_message_hex"));
    let signature = SigningKey::from_bytes(&array(entry, "ed25519_seed")).sign(&message).to_bytes();
    let frame = AuthFrame { node, timestamp, nonce, signature };
    assert_eq!(frame.encode().as_slice(), entry.bytes);
    assert_eq!(AuthFrame::decode(&entry.bytes), Ok(frame));
}

fn check_verify(entry: &Entry, replay: &mut ReplayStore) {
    let x25519 = array(entry, "peer_x25519_public");
    let now = Duration::from_secs(entry.number("now"));
    let judged = verify_auth(&entry.bytes, &entry.hex("peer_ed25519_public"), &x25519, now, replay);
    if entry.error {
        assert_eq!(judged.unwrap_err().to_string(), entry.text("error_text"));
    } else {
        let node = entry.bytes.first_chunk().copied().map(u32::from_be_bytes).unwrap();
        assert_eq!(judged, Ok(node));
    }
}

fn check_record(entry: &Entry) {
    // The length is judged before the key matters.
    let mut server = Channel::new(Role::Server, [1; 32], None);
    let mut client = Channel::new(Role::Client, [2; 32], None);
    let mut replay = ReplayStore::new();
    let Some(Step::Write(hello)) = client.poll(Duration::ZERO, &mut replay).unwrap() else {
        panic!("no hello")
    };
    server.receive(&hello);
    while server.poll(Duration::ZERO, &mut replay).unwrap().is_some() {}
    server.receive(&entry.bytes);
    let judged = server.poll(Duration::ZERO, &mut replay);
    assert!(entry.error, "records of this kind are refused");
    let (got, want) = (judged.unwrap_err().to_string(), entry.text("error_text"));
    // What follows the colon of a decryption error is the library's wording.
    match want.split_once(": ") {
        Some(("decrypt", _)) => assert!(got.starts_with("decrypt: "), "{got}"),
        _ => assert_eq!(got, want),
    }
}
