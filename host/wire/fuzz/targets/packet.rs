//! Packets, SACK payloads and address texts: whatever decodes must encode to the bytes it was read from.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilot_wire::addr::{Addr, SocketAddr};
use pilot_wire::{packet, sack};

fuzz_target!(|data: &[u8]| {
    // The checksum would stop nearly every mutation, so it is made right once.
    let mut fixed = data.to_vec();
    if let Ok(header) = probe(&fixed) {
        let _ = packet::write_in_place(&header, &mut fixed);
    }
    for bytes in [data, &fixed] {
        if let Ok(decoded) = packet::decode(bytes) {
            let mut again = Vec::new();
            packet::encode_into(&decoded.header, decoded.payload, &mut again).unwrap();
            assert_eq!(again, bytes[..decoded.encoded_len()]);
        }
    }
    if let Some(blocks) = sack::decode(data) {
        let mut again = Vec::new();
        sack::encode(&blocks, &mut again);
        assert_eq!(again, data[..sack::encoded_len(blocks.len())]);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        for parsed in [text.parse::<SocketAddr>(), text.parse::<Addr>().map(|a| SocketAddr::new(a, 0))] {
            match parsed {
                Ok(addr) => assert_eq!(addr.to_string().parse(), Ok(addr)),
                Err(e) => assert!(!e.to_string().is_empty()),
            }
        }
    }
});

/// The header the bytes would have with a right checksum.
fn probe(bytes: &[u8]) -> Result<packet::Header, ()> {
    let head = bytes.first_chunk::<{ packet::HEADER_LEN }>().ok_or(())?;
    let addr = |at: usize| {
        let mut raw = [0; 6];
        raw.copy_from_slice(&head[at..at + 6]);
        Addr::from_bytes(raw)
    };
    let be16 = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let be32 = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    Ok(packet::Header {
        flags: packet::Flags::from_bits(head[0]),
        protocol: packet::Protocol(head[1]),
        src: addr(4),
        dst: addr(10),
        src_port: be16(16),
        dst_port: be16(18),
        seq: be32(20),
        ack: be32(24),
        window: be16(28),
    })
}
