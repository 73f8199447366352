//! Registry framings and binary messages.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilot_wire::{Split, registry as reg};

fuzz_target!(|data: &[u8]| {
    let _ = (reg::decode_heartbeat_req(data), reg::decode_heartbeat_resp(data));
    let _ = (reg::decode_lookup_req(data), reg::decode_resolve_req(data));
    if let Ok(result) = reg::decode_lookup_resp(data) {
        let again = reg::encode_lookup_resp(&result);
        let _ = reg::decode_lookup_resp(&again).unwrap();
    }
    if let Ok(result) = reg::decode_resolve_resp(data) {
        let again = reg::encode_resolve_resp(&result);
        let _ = reg::decode_resolve_resp(&again).unwrap();
    }
    let text = reg::decode_error(data);
    let _ = reg::encode_error(&text);

    match (reg::split_frame(data), reg::read_frame(&mut &*data)) {
        (Ok(Split::Complete { message: (kind, payload), consumed }), Ok(read)) => {
            assert_eq!((kind, payload), (read.0, read.1.as_slice()));
            let mut again = Vec::new();
            reg::encode_frame(kind, payload, &mut again).unwrap();
            assert_eq!(again, data[..consumed]);
        }
        (Ok(Split::Incomplete { missing }), Err(_)) => assert!(missing > 0),
        (Err(_), Err(_)) => {}
        (split, read) => panic!("{split:?} but {read:?}"),
    }
    if let Ok(Split::Complete { message: body, .. }) = reg::split_message(data) {
        let _ = reg::decode_message(body);
    }
    if let Ok(message) = reg::decode_message(data) {
        let mut again = Vec::new();
        reg::encode_message(&message, &mut again).unwrap();
        assert!(reg::read_message(&mut again.as_slice()).is_ok());
    }
});
