//! Selective acknowledgements: up to four ranges of received segments, carried as the payload of a stream packet with
//! flag ACK (packet.md section 5).
//!
//! Called by the engine's streams. A payload that is not a SACK is ordinary data, so decoding gives an `Option` and no
//! error. The stricter test for received data is the stream layer's (stream.md section 6).

use std::ops::Deref;

use crate::cursor::Cursor;

/// The four bytes every SACK starts with.
pub const PREFIX: [u8; 4] = *b"SACK";
/// The most blocks one payload carries.
pub const MAX_BLOCKS: usize = 4;

/// A range of sequence numbers that have arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// First sequence number of the range.
    pub left: u32,
    /// The sequence number after the range.
    pub right: u32,
}

/// One to four blocks; a slice by `Deref`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    blocks: [Block; MAX_BLOCKS],
    len: usize,
}

impl Deref for Blocks {
    type Target = [Block];
    fn deref(&self) -> &[Block] {
        &self.blocks[..self.len]
    }
}

/// Length of the encoding of `blocks` blocks.
pub const fn encoded_len(blocks: usize) -> usize {
    match blocks {
        0 => 0,
        n if n > MAX_BLOCKS => 5 + 8 * MAX_BLOCKS,
        n => 5 + 8 * n,
    }
}

/// Appends the encoding of the first four blocks to `out`; nothing for an empty list.
pub fn encode(blocks: &[Block], out: &mut Vec<u8>) {
    let blocks = &blocks[..blocks.len().min(MAX_BLOCKS)];
    let Ok(count @ 1..) = u8::try_from(blocks.len()) else { return };
    out.extend_from_slice(&PREFIX);
    out.push(count);
    for block in blocks {
        out.extend_from_slice(&block.left.to_be_bytes());
        out.extend_from_slice(&block.right.to_be_bytes());
    }
}

/// Reads the blocks if this is a SACK, `None` if it is data. Bytes behind the last block are ignored.
pub fn decode(payload: &[u8]) -> Option<Blocks> {
    let mut c = Cursor::new(payload.strip_prefix(&PREFIX)?);
    let len = usize::from(c.u8()?);
    let mut blocks = [Block::default(); MAX_BLOCKS];
    if len == 0 {
        return None;
    }
    for slot in blocks.get_mut(..len)? {
        *slot = Block { left: c.u32()?, right: c.u32()? };
    }
    Some(Blocks { blocks, len })
}
