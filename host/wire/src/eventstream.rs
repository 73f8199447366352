//! Event stream frames (port 1002): topic and payload (dataexchange.md section 9).
//!
//! Called by a broker and by the command line's `publish` and `subscribe`. The first frame of a connection subscribes to
//! its topic, each further one publishes; that is the broker's business, not this codec's.

use crate::cursor::Cursor;
use crate::split::Split;

/// The longest topic in bytes.
pub const MAX_TOPIC: usize = 1024;
/// The largest payload in bytes, inclusive.
pub const MAX_PAYLOAD: usize = 1 << 24;
/// The topic that stands for every topic.
pub const ANY_TOPIC: &[u8] = b"*";

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The topic; not checked for UTF-8.
    pub topic: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
}

/// Looks for one frame at the front of `buffer`. A buffer of 6 + [`MAX_TOPIC`] + [`MAX_PAYLOAD`] bytes holds any.
///
/// # Errors
/// [`EventError`]; the connection is then closed without a word.
pub fn split_event(buffer: &[u8]) -> Result<Split<Event<'_>>, EventError> {
    let mut c = Cursor::new(buffer);
    let Some(topic_len) = c.u16() else { return Ok(Split::Incomplete { missing: 2 - buffer.len() }) };
    let topic_len = usize::from(topic_len);
    if topic_len > MAX_TOPIC {
        return Err(EventError::TopicTooLong { len: topic_len });
    }
    let after_topic = topic_len + 4;
    let (Some(topic), Some(payload_len)) = (c.take(topic_len), c.u32()) else {
        return Ok(Split::Incomplete { missing: 2 + after_topic - buffer.len() });
    };
    let payload_len = usize::try_from(payload_len).unwrap_or(usize::MAX);
    if payload_len > MAX_PAYLOAD {
        return Err(EventError::PayloadTooLarge { len: payload_len });
    }
    Ok(match c.take(payload_len) {
        Some(payload) => {
            Split::Complete { message: Event { topic, payload }, consumed: 2 + after_topic + payload_len }
        }
        None => Split::Incomplete { missing: payload_len - c.rest().len() },
    })
}

impl Event<'_> {
    /// Appends the frame to `out`, to be sent in one write.
    ///
    /// # Errors
    /// [`EventError`] when a reader would refuse it; `out` is then unchanged.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EventError> {
        let too_long = EventError::TopicTooLong { len: self.topic.len() };
        let too_large = EventError::PayloadTooLarge { len: self.payload.len() };
        let topic_len =
            u16::try_from(self.topic.len()).ok().filter(|n| usize::from(*n) <= MAX_TOPIC).ok_or(too_long)?;
        let payload_len = u32::try_from(self.payload.len())
            .ok()
            .filter(|_| self.payload.len() <= MAX_PAYLOAD)
            .ok_or(too_large)?;
        out.extend_from_slice(&topic_len.to_be_bytes());
        out.extend_from_slice(self.topic);
        out.extend_from_slice(&payload_len.to_be_bytes());
        out.extend_from_slice(self.payload);
        Ok(())
    }
}

/// Why a frame is refused. Texts as the Go peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The topic is over [`MAX_TOPIC`].
    #[error("topic too long: {len}")]
    TopicTooLong {
        /// The announced length.
        len: usize,
    },
    /// The payload is over [`MAX_PAYLOAD`].
    #[error("payload too large: {len}")]
    PayloadTooLarge {
        /// The announced length.
        len: usize,
    },
}
