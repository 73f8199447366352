//! What the incremental framings of this crate answer when asked for the first message in a buffer.

/// The result of looking for one whole message at the front of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split<T> {
    /// There is one.
    Complete {
        /// The message.
        message: T,
        /// How many bytes of the buffer it took.
        consumed: usize,
    },
    /// Not yet: at least this many more bytes are needed.
    Incomplete {
        /// Bytes missing, as far as is known.
        missing: usize,
    },
}
