//! What arrives on the tunnel socket: tunnel frames and beacon messages.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilot_wire::tunnel::{self, Frame};
use pilot_wire::{beacon, packet};

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = beacon::decode(data) {
        assert!(tunnel::is_beacon_message(data));
        let mut again = Vec::new();
        message.encode(&mut again);
        assert_eq!(beacon::decode(&again), Ok(message));
    }
    match tunnel::decode(data) {
        Ok(Frame::Plain(inner)) => {
            let _ = packet::decode(inner);
        }
        Ok(Frame::KeyRequest(request)) => assert!(data.starts_with(&request.to_bytes())),
        Ok(Frame::KeyExchange(exchange)) => {
            let mut again = Vec::new();
            exchange.encode(&mut again);
            assert_eq!(tunnel::decode(&again), Ok(Frame::KeyExchange(exchange)));
        }
        Ok(Frame::Sealed(header, body)) => {
            assert!(data.starts_with(&header.to_bytes()) && body.len() >= tunnel::TAG_LEN);
        }
        Ok(Frame::Punch) | Err(_) => {}
    }
});
