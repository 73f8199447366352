//! Bounded reading for the helpers that are generic over `Read`: memory grows with what arrives, never with a length that
//! was merely announced.
//!
//! Private; called by the framing helpers of this crate.

use std::io::{self, Read};

/// What is allocated before the first byte of a body has arrived.
pub(crate) const FIRST_ALLOCATION: usize = 64 * 1024;

/// Reads exactly `len` bytes; `UnexpectedEof` when the source ends before.
pub(crate) fn read_body(source: &mut impl Read, len: usize) -> io::Result<Vec<u8>> {
    let mut body = Vec::with_capacity(len.min(FIRST_ALLOCATION));
    let limit = u64::try_from(len).unwrap_or(u64::MAX);
    source.by_ref().take(limit).read_to_end(&mut body)?;
    if body.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}
