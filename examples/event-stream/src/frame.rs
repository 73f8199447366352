//! The frames of the event stream: `u16 length, topic, u32 length, payload`, big-endian. Reads from anything that gives
//! bytes; memory grows with what has arrived, never with what was announced.

/// The longest topic in bytes.
pub const MAX_TOPIC: usize = 1024;
/// The largest payload in bytes, inclusive.
pub const MAX_PAYLOAD: usize = 1 << 24;

/// One frame, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The whole frame, to be handed on unchanged.
    pub bytes: Vec<u8>,
    topic: usize,
}

impl Frame {
    /// The topic; any bytes.
    pub fn topic(&self) -> &[u8] {
        &self.bytes[2..2 + self.topic]
    }

    /// Bytes of the payload.
    pub fn payload_len(&self) -> usize {
        self.bytes.len() - 6 - self.topic
    }
}

/// Collects bytes until they are frames.
#[derive(Debug, Default)]
pub struct Reader(Vec<u8>);

impl Reader {
    /// Takes bytes from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// What is wrong with it; the stream is then of no use any more.
    pub fn next(&mut self) -> Result<Option<Frame>, String> {
        let Some(topic) = self.0.first_chunk::<2>().map(|b| usize::from(u16::from_be_bytes(*b))) else {
            return Ok(None);
        };
        if topic > MAX_TOPIC {
            return Err(format!("topic too long: {topic}"));
        }
        let Some(payload) = self.0.get(2 + topic..).and_then(|rest| rest.first_chunk::<4>()) else {
            return Ok(None);
        };
        let payload = usize::try_from(u32::from_be_bytes(*payload)).unwrap_or(usize::MAX);
        if payload > MAX_PAYLOAD {
            return Err(format!("payload too large: {payload}"));
        }
        let whole = 6 + topic + payload;
        if self.0.len() < whole {
            return Ok(None);
        }
        let rest = self.0.split_off(whole);
        let bytes = std::mem::replace(&mut self.0, rest);
        Ok(Some(Frame { bytes, topic }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whatever_the_pieces() {
        let two = [&[0, 1, b'a', 0, 0, 0, 2, b'x', b'y'][..], &[0, 0, 0, 0, 0, 0]].concat();
        let mut reader = Reader::default();
        let mut seen = Vec::new();
        for byte in &two {
            reader.push(&[*byte]);
            seen.extend(reader.next().unwrap().map(|f| (f.topic().to_vec(), f.payload_len())));
        }
        assert_eq!(seen, [(b"a".to_vec(), 2), (Vec::new(), 0)]);
    }

    #[test]
    fn limits_are_those_of_the_other_readers() {
        let refused = |bytes: &[u8]| {
            let mut reader = Reader::default();
            reader.push(bytes);
            reader.next()
        };
        assert_eq!(refused(&[4, 1]), Err("topic too long: 1025".into()));
        assert_eq!(refused(&[0, 0, 1, 0, 0, 1]), Err("payload too large: 16777217".into()));
        assert_eq!(refused(&[4, 0, 0]), Ok(None));
        assert_eq!(refused(&[0, 0, 1, 0, 0, 0]), Ok(None));
    }
}
