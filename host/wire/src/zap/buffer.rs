//! Primitives of message bodies (zap.md section 2). No alignment, no padding; big-endian.

use std::collections::BTreeMap;

use crate::cursor::Cursor;

/// Writes a body into the caller's buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Appends to `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// One octet.
    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    /// Two octets.
    pub fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// Four octets.
    pub fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// Eight octets.
    pub fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// Four octets, two's complement.
    pub fn i32(&mut self, value: i32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// Eight octets, two's complement.
    pub fn i64(&mut self, value: i64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// 0 or 1.
    pub fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    /// A list's or map's number of elements, or a length.
    pub fn count(&mut self, n: usize) {
        // What does not fit here is far over the frame limit, and the frame is refused for that.
        self.u32(u32::try_from(n).unwrap_or(u32::MAX));
    }

    /// Length and octets.
    pub fn bytes(&mut self, value: &[u8]) {
        self.count(value.len());
        self.out.extend_from_slice(value);
    }

    /// Length and text.
    pub fn string(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }

    /// Count and texts.
    pub fn strings(&mut self, list: &[String]) {
        self.count(list.len());
        list.iter().for_each(|s| self.string(s));
    }

    /// Count and pairs, sorted by key.
    pub fn map(&mut self, map: &BTreeMap<String, String>) {
        self.count(map.len());
        for (key, value) in map {
            self.string(key);
            self.string(value);
        }
    }

    /// Presence octet (always 0 or 1), then the value when there is one.
    pub fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.bool(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    /// [`Self::optional`] for a text.
    pub fn optional_string(&mut self, value: Option<&str>) {
        self.optional(value, Self::string);
    }
}

/// Reads a body. Octets behind the last field are simply not asked for.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Reader<'a> {
    /// Reads from the start of `body`.
    pub fn new(body: &'a [u8]) -> Self {
        Self { cursor: Cursor::new(body) }
    }

    /// Octets not read yet.
    pub fn left(&self) -> usize {
        self.cursor.rest().len()
    }

    /// One octet.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.cursor.u8().ok_or(DecodeError::UnexpectedEnd)
    }

    /// Two octets.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.cursor.u16().ok_or(DecodeError::UnexpectedEnd)
    }

    /// Four octets.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.cursor.u32().ok_or(DecodeError::UnexpectedEnd)
    }

    /// Eight octets.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.cursor.u64().ok_or(DecodeError::UnexpectedEnd)
    }

    /// Four octets, two's complement.
    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        self.cursor.array().map(|b| i32::from_be_bytes(*b)).ok_or(DecodeError::UnexpectedEnd)
    }

    /// Eight octets, two's complement.
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.cursor.array().map(|b| i64::from_be_bytes(*b)).ok_or(DecodeError::UnexpectedEnd)
    }

    /// Any octet but 0 is true.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.u8()? != 0)
    }

    /// A count of elements that take at least `min_size` octets each, checked against what is left.
    ///
    /// # Errors
    /// [`DecodeError::InvalidFormat`] for a count that cannot be true.
    pub fn count(&mut self, min_size: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.u32()?).map_err(|_| DecodeError::InvalidFormat)?;
        match count.checked_mul(min_size) {
            Some(need) if need <= self.left() => Ok(count),
            _ => Err(DecodeError::InvalidFormat),
        }
    }

    /// A list of elements that take at least `min_size` octets each. A count that promises more than is there is what a
    /// cut body looks like, and reported as such.
    pub fn list<T>(
        &mut self,
        min_size: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.count(min_size).map_err(|_| DecodeError::UnexpectedEnd)?;
        (0..count).map(|_| read(self)).collect()
    }

    /// Length and octets.
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = usize::try_from(self.u32()?).map_err(|_| DecodeError::UnexpectedEnd)?;
        self.cursor.take(len).ok_or(DecodeError::UnexpectedEnd)
    }

    /// Length and text.
    pub fn string(&mut self) -> Result<String, DecodeError> {
        std::str::from_utf8(self.bytes()?).map(str::to_owned).map_err(|_| DecodeError::NotUtf8)
    }

    /// Count and texts.
    pub fn strings(&mut self) -> Result<Vec<String>, DecodeError> {
        self.list(4, Self::string)
    }

    /// Count and pairs in any order; of two equal keys the later one counts.
    pub fn map(&mut self) -> Result<BTreeMap<String, String>, DecodeError> {
        Ok(self.list(8, |r| Ok((r.string()?, r.string()?)))?.into_iter().collect())
    }

    /// Presence octet (any but 0 is "present"), then the value.
    pub fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.bool()? { read(self).map(Some) } else { Ok(None) }
    }

    /// As [`Self::optional`], but only 1 is "present": how the peer reads two octets of one answer.
    pub fn optional_if_one<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.u8()? == 1 { read(self).map(Some) } else { Ok(None) }
    }

    /// [`Self::optional`] for a text.
    pub fn optional_string(&mut self) -> Result<Option<String>, DecodeError> {
        self.optional(Self::string)
    }
}

/// Why a body cannot be read: the sender's fault. The first two texts are the Go peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The body ends inside a field.
    #[error("unexpected EOF")]
    UnexpectedEnd,
    /// A count is larger than what is left could hold.
    #[error("zap: invalid message format")]
    InvalidFormat,
    /// A text is not UTF-8.
    #[error("string is not valid UTF-8")]
    NotUtf8,
}
