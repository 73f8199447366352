//! The local protocol, read from both ends.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use pilot_wire::ipc::{Frame, Incoming, Request, decode_frame, go_json_error, go_string_list};

fuzz_target!(|data: &[u8]| {
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(frame)) = decode_frame(&mut buffer) {
        check(frame);
    }
    // Framing aside, so that mutations reach the bodies.
    if let Some((command, body)) = data.split_first() {
        check(Frame { command: *command, body: Bytes::copy_from_slice(body) });
    }
    let _ = (go_json_error(data), go_string_list(data));
});

fn check(frame: Frame) {
    let _ = Incoming::decode(frame.clone());
    if let Ok(request) = Request::decode(frame) {
        let Ok(encoded) = request.encode() else { return };
        let mut again = BytesMut::from(encoded.to_vec().as_slice());
        let frame = decode_frame(&mut again).unwrap().unwrap();
        assert_eq!(Request::decode(frame), Ok(request));
    }
}
