//! From 32-bit sequence numbers to 64-bit stream offsets and back.
//!
//! Inside the engine every position is an offset from the stream's initial sequence number: the SYN is at 0, the first
//! data byte at 1, and nothing wraps. Only here the wire's modulo-2^32 numbers appear.

/// A direction's initial sequence number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Isn(pub(crate) u32);

impl Isn {
    /// The wire form of an offset.
    #[allow(clippy::cast_possible_truncation)] // modulo 2^32 is the point
    pub(crate) const fn wire(self, offset: u64) -> u32 {
        self.0.wrapping_add(offset as u32)
    }

    /// The offset a wire number means: the one nearest to `near`. `None` when that lies before the stream's start.
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // serial number arithmetic
    pub(crate) const fn offset(self, wire: u32, near: u64) -> Option<u64> {
        let distance = wire.wrapping_sub(self.0).wrapping_sub(near as u32) as i32;
        near.checked_add_signed(distance as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_survive_the_wrap() {
        let isn = Isn(0xFFFF_FFF0);
        for offset in [0_u64, 1, 15, 16, 17, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 33) + 5, 1 << 40] {
            for near in [offset, offset.saturating_sub(70_000), offset + 70_000] {
                assert_eq!(isn.offset(isn.wire(offset), near), Some(offset), "{offset} near {near}");
            }
        }
        assert_eq!(isn.offset(0xFFFF_FFEF, 0), None);
    }
}
