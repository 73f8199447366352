//! Frames and bodies of the control protocol.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilot_wire::Split;
use pilot_wire::zap::{self, Answer, Request, Rpc, TypeOctet};

const READERS: [Rpc; 9] = [
    Rpc::Ping,
    Rpc::RpcVersion,
    Rpc::Uris,
    Rpc::AttachPeer,
    Rpc::SendOutboundMessage,
    Rpc::CreateChains,
    Rpc::SaveSnapshot,
    Rpc::RemoveSnapshot,
    Rpc::Status,
];

fuzz_target!(|data: &[u8]| {
    if let Ok(Split::Complete { message: frame, consumed }) = zap::split_frame(data) {
        let (kind, payload) = zap::read_frame(&mut &*data).unwrap();
        assert_eq!((kind, payload.as_slice()), (frame.kind, frame.payload));
        let mut again = Vec::new();
        zap::encode_frame(kind, &mut again, |out| out.extend_from_slice(&payload)).unwrap();
        assert_eq!(again, data[..consumed]);
        if let Some((_, body)) = frame.call() {
            check(frame.kind, body);
        }
    }
    // Framing aside, so that mutations reach the bodies.
    check(TypeOctet(62), data);
    let Some((which, body)) = data.split_first() else { return };
    let rpc = READERS[usize::from(*which) % READERS.len()];
    if let Ok(answer) = Answer::decode(rpc, body) {
        let mut again = Vec::new();
        answer.encode(rpc.type_octet(), 1, &mut again).unwrap();
        // The nodes and chains of a state are written sorted, so the second reading may differ from the first, but not
        // from the third.
        let second = Answer::decode(rpc, &again[zap::HEADER_LEN + 4..]).unwrap();
        let mut third = Vec::new();
        second.encode(rpc.type_octet(), 1, &mut third).unwrap();
        assert_eq!(again, third);
    }
});

fn check(kind: TypeOctet, body: &[u8]) {
    if let Ok(request) = Request::decode(kind, body) {
        let mut again = Vec::new();
        request.encode(1, &mut again).unwrap();
        assert_eq!(Request::decode(request.rpc().type_octet(), &again[zap::HEADER_LEN + 4..]), Ok(request));
    }
}
