//! Two channels wired together, and what a hostile peer may send.
#![allow(clippy::unwrap_used)]

use ed25519_dalek::{Signer, SigningKey};

use super::*;

const NOW: Duration = Duration::from_secs(1_780_000_000);

struct End {
    channel: Channel,
    signer: SigningKey,
    /// What `FindKey` answers.
    knows: Vec<(u32, [u8; 32])>,
    replay: ReplayStore,
    clock: Duration,
    established: Option<u32>,
    data: Vec<Vec<u8>>,
}

impl End {
    fn new(role: Role, seed: u8, auth: Option<Authenticate>) -> End {
        End {
            channel: Channel::new(role, [seed; 32], auth),
            signer: SigningKey::from_bytes(&[seed; 32]),
            knows: Vec::new(),
            replay: ReplayStore::new(),
            clock: NOW,
            established: None,
            data: Vec::new(),
        }
    }

    /// Runs to rest; gives what it wrote.
    fn run(&mut self, input: &[u8]) -> Result<Vec<u8>, SecureError> {
        let mut out = Vec::new();
        for byte in input {
            // The smallest cut there is.
            self.channel.receive(&[*byte]);
            self.rest(&mut out)?;
        }
        self.rest(&mut out)?;
        Ok(out)
    }

    fn rest(&mut self, out: &mut Vec<u8>) -> Result<(), SecureError> {
        while let Some(step) = self.channel.poll(self.clock, &mut self.replay)? {
            match step {
                Step::Write(bytes) => out.extend(bytes),
                Step::Sign(message) => self.channel.signed(self.signer.sign(&message).to_bytes())?,
                Step::FindKey { node } => {
                    let key = self.knows.iter().find(|k| k.0 == node).map(|k| k.1);
                    self.channel.found_key(key, self.clock, &mut self.replay)?;
                }
                Step::Established { peer } => self.established = Some(peer),
                Step::Data(bytes) => self.data.push(bytes),
            }
        }
        Ok(())
    }
}

fn auth(node: u32, peer_key: Option<[u8; 32]>) -> Option<Authenticate> {
    Some(Authenticate { node, nonce: [u8::try_from(node).unwrap(); 16], peer_key })
}

fn key(seed: u8) -> [u8; 32] {
    SigningKey::from_bytes(&[seed; 32]).verifying_key().to_bytes()
}

/// Both ends until neither writes.
fn talk(client: &mut End, server: &mut End) -> Result<(), SecureError> {
    let mut to_server = client.run(&[])?;
    loop {
        let to_client = server.run(&to_server)?;
        to_server = client.run(&to_client)?;
        if to_server.is_empty() && to_client.is_empty() {
            return Ok(());
        }
    }
}

#[test]
fn two_ends_without_authentication() {
    let (mut c, mut s) = (End::new(Role::Client, 1, None), End::new(Role::Server, 2, None));
    assert_eq!(c.channel.seal(b"early"), Err(SecureError::OutOfOrder));
    talk(&mut c, &mut s).unwrap();
    assert_eq!((c.established, s.established), (Some(0), Some(0)));
    let records = [c.channel.seal(b"hello").unwrap(), c.channel.seal(b"").unwrap()].concat();
    assert_eq!(records[..4], 33_u32.to_be_bytes());
    assert_eq!(records[37..41], 28_u32.to_be_bytes());
    s.run(&records).unwrap();
    assert_eq!(s.data, [b"hello".to_vec(), Vec::new()]);
}

#[test]
fn two_ends_that_prove_themselves() {
    let mut c = End::new(Role::Client, 1, auth(100, Some(key(2))));
    let mut s = End::new(Role::Server, 2, auth(200, None));
    s.knows.push((100, key(1)));
    talk(&mut c, &mut s).unwrap();
    assert_eq!((c.established, s.established), (Some(200), Some(100)));
    let record = s.channel.seal(b"answer").unwrap();
    c.run(&record).unwrap();
    assert_eq!(c.data, [b"answer"]);
}

#[test]
fn a_server_that_does_not_know_the_client_ends_it() {
    let mut c = End::new(Role::Client, 1, auth(100, Some(key(2))));
    let mut s = End::new(Role::Server, 2, auth(200, None));
    assert_eq!(talk(&mut c, &mut s), Err(SecureError::UnknownPeer(100)));
    assert_eq!(SecureError::UnknownPeer(100).to_string(), "unknown peer node 100: no public key found");
    assert_eq!(s.channel.seal(b"x"), Err(SecureError::OutOfOrder));
}

#[test]
fn a_client_holds_the_server_to_the_key_it_knows() {
    let mut c = End::new(Role::Client, 1, auth(100, Some(key(3))));
    let mut s = End::new(Role::Server, 2, auth(200, None));
    s.knows.push((100, key(1)));
    assert_eq!(talk(&mut c, &mut s), Err(SecureError::BadSignature));
}

#[test]
fn clocks_may_differ_by_five_seconds() {
    for (apart, ok) in [(5_000, true), (5_001, false)] {
        let mut c = End::new(Role::Client, 1, auth(100, Some(key(2))));
        let mut s = End::new(Role::Server, 2, auth(200, None));
        s.knows.push((100, key(1)));
        c.clock += Duration::from_millis(apart);
        assert_eq!(talk(&mut c, &mut s).is_ok(), ok, "{apart} ms");
    }
}

#[test]
fn one_side_without_authentication_sees_the_frame_as_data() {
    let mut c = End::new(Role::Client, 1, None);
    let mut s = End::new(Role::Server, 2, auth(200, None));
    talk(&mut c, &mut s).unwrap();
    assert_eq!(c.data[0].len(), crate::secure::AUTH_FRAME_LEN);
    assert_eq!(s.established, None);
}

#[test]
fn a_low_order_key_is_refused() {
    let mut s = End::new(Role::Server, 2, None);
    assert_eq!(s.run(&[0; 32]), Err(SecureError::LowOrderKey));
}

#[test]
fn reflected_repeated_and_reordered_records_are_refused() {
    let pair = || {
        let (mut c, mut s) = (End::new(Role::Client, 1, None), End::new(Role::Server, 2, None));
        talk(&mut c, &mut s).unwrap();
        (c, s)
    };
    let (mut c, _) = pair();
    let own = c.channel.seal(b"mine").unwrap();
    assert_eq!(c.run(&own), Err(SecureError::Direction(2)));

    let (mut c, mut s) = pair();
    let (first, second) = (c.channel.seal(b"1").unwrap(), c.channel.seal(b"2").unwrap());
    s.run(&second).unwrap();
    assert_eq!(s.run(&first), Err(SecureError::Counter { got: 1, last: 2 }));

    let (mut c, mut s) = pair();
    let record = c.channel.seal(b"1").unwrap();
    s.run(&record).unwrap();
    assert_eq!(s.run(&record), Err(SecureError::Counter { got: 1, last: 1 }));
}

#[test]
fn every_changed_bit_of_a_record_is_noticed() {
    let (mut c, mut s) = (End::new(Role::Client, 1, None), End::new(Role::Server, 2, None));
    talk(&mut c, &mut s).unwrap();
    let record = c.channel.seal(b"hi").unwrap();
    for bit in 32..record.len() * 8 {
        let mut s = End::new(Role::Server, 2, None);
        let hello = PublicKey::from(&StaticSecret::from([1; 32])).to_bytes();
        s.run(&hello).unwrap();
        let mut broken = record.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(s.run(&broken), Err(SecureError::Decrypt), "bit {bit}");
    }
}

#[test]
fn lengths_are_judged_before_anything_is_awaited() {
    let cases = [
        (11_u32, "encrypted message too short"),
        (MAX + 1, "encrypted message too large: 16777217 bytes"),
        (u32::MAX, "encrypted message too large: 4294967295 bytes"),
    ];
    for (length, text) in cases {
        let (mut c, mut s) = (End::new(Role::Client, 1, None), End::new(Role::Server, 2, None));
        talk(&mut c, &mut s).unwrap();
        assert_eq!(s.run(&length.to_be_bytes()).unwrap_err().to_string(), text);
    }
    let (mut c, mut s) = (End::new(Role::Client, 1, None), End::new(Role::Server, 2, None));
    talk(&mut c, &mut s).unwrap();
    assert!(c.channel.seal(&vec![0; Channel::MAX_MESSAGE + 1]).is_err());
    assert_eq!(c.channel.seal(&vec![0; Channel::MAX_MESSAGE]).unwrap()[..4], MAX.to_be_bytes());
    // 12 to 27 are long enough to be looked at and cannot hold a tag.
    let short = [12_u32.to_be_bytes().to_vec(), vec![0; 12]].concat();
    assert_eq!(s.run(&short), Err(SecureError::Decrypt));
}

const MAX: u32 = 16 << 20;
