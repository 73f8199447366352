//! Arbitrary bytes at every step of a secure channel, and records of a peer that holds the key.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use pilot_wire::secure::{AuthFrame, Authenticate, Channel, ReplayStore, Role, Step};

fuzz_target!(|data: &[u8]| {
    let Some((&[choice, cut], bytes)) = data.split_first_chunk::<2>() else { return };
    if let Ok(frame) = AuthFrame::decode(bytes) {
        assert_eq!(frame.encode().as_slice(), bytes);
    }
    let auth = (choice & 1 != 0).then(|| Authenticate {
        node: 7,
        nonce: [choice; 16],
        peer_key: (choice & 2 != 0).then_some([9; 32]),
    });
    let role = if choice & 4 != 0 { Role::Client } else { Role::Server };
    let mut channel = Channel::new(role, [choice | 1; 32], auth);
    // A peer that did the key exchange and then sends what it likes, sealed or not.
    let mut peer = Channel::new(role.peer(), [5; 32], None);
    let mut replay = ReplayStore::new();
    if choice & 8 != 0 {
        exchange(&mut channel, &mut peer, &mut replay);
        if let Ok(record) = peer.seal(bytes) {
            let _ = drive(&mut channel, &record, usize::from(cut) + 1, &mut replay);
        }
    }
    let _ = drive(&mut channel, bytes, usize::from(cut) + 1, &mut replay);
});

fn exchange(channel: &mut Channel, peer: &mut Channel, replay: &mut ReplayStore) {
    for _ in 0..2 {
        for (from, to) in [(0, 1), (1, 0)] {
            let (from, to): (&mut Channel, &mut Channel) = match (from, to) {
                (0, _) => (&mut *channel, &mut *peer),
                _ => (&mut *peer, &mut *channel),
            };
            while let Ok(Some(step)) = from.poll(Duration::ZERO, replay) {
                match step {
                    Step::Write(bytes) => to.receive(&bytes),
                    Step::Sign(_) => return,
                    _ => {}
                }
            }
        }
    }
}

fn drive(channel: &mut Channel, bytes: &[u8], cut: usize, replay: &mut ReplayStore) -> Option<()> {
    for piece in bytes.chunks(cut) {
        channel.receive(piece);
        while let Some(step) = channel.poll(Duration::ZERO, replay).ok()? {
            match step {
                Step::Sign(_) => channel.signed([1; 64]).ok()?,
                Step::FindKey { node } => channel.found_key((node & 1 == 0).then_some([3; 32]), Duration::ZERO, replay).ok()?,
                Step::Write(_) | Step::Established { .. } | Step::Data(_) => {}
            }
        }
    }
    Some(())
}
