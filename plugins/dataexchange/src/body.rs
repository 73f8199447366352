//! The payload of a message on its way from the connection into the inbox: small ones stay in memory, larger ones go to
//! a nameless temporary file, so that a 64 MiB message needs no 64 MiB of memory. Called by the session and the inbox.

use std::io::{self, Read, Seek, Write};
use std::path::Path;

use tempfile::SpooledTempFile;

/// Bytes kept in memory before the temporary file is used.
const IN_MEMORY: usize = 256 << 10;
/// Bytes read back at a time.
const PIECE: usize = 64 << 10;

/// Collects a payload and remembers whether it is UTF-8.
pub(crate) struct Body {
    spool: SpooledTempFile,
    len: u64,
    utf8: Utf8Check,
}

impl Body {
    /// `dir` is where the temporary file goes if one is needed; it is asked for only then.
    pub fn new(dir: &Path) -> Body {
        Body { spool: tempfile::spooled_tempfile_in(IN_MEMORY, dir), len: 0, utf8: Utf8Check::default() }
    }

    /// Appends.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.utf8.push(bytes);
        self.len += bytes.len() as u64;
        self.spool.write_all(bytes)
    }

    /// Bytes collected.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether all of it together is UTF-8.
    pub fn is_utf8(&self) -> bool {
        self.utf8.is_valid()
    }

    /// Hands everything to `sink` in order, in pieces.
    pub fn read_bytes(&mut self, mut sink: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        self.spool.rewind()?;
        let mut piece = vec![0; PIECE];
        loop {
            match self.spool.read(&mut piece)? {
                0 => return Ok(()),
                n => sink(&piece[..n])?,
            }
        }
    }

    /// As [`read_bytes`](Self::read_bytes), in pieces that are text. An error when it is not.
    pub fn read_text(&mut self, mut sink: impl FnMut(&str) -> io::Result<()>) -> io::Result<()> {
        // What the end of one piece cut off: at most three bytes of a character.
        let mut pending = Vec::new();
        self.read_bytes(|bytes| {
            pending.extend_from_slice(bytes);
            let whole = match std::str::from_utf8(&pending) {
                Ok(text) => text,
                Err(e) if e.error_len().is_some() => return Err(io::ErrorKind::InvalidData.into()),
                Err(e) => std::str::from_utf8(&pending[..e.valid_up_to()]).map_err(io::Error::other)?,
            };
            sink(whole)?;
            let done = whole.len();
            pending.drain(..done);
            Ok(())
        })?;
        if pending.is_empty() { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

/// Checks UTF-8 across pieces.
#[derive(Default)]
struct Utf8Check {
    broken: bool,
    /// The beginning of a character whose end is still to come.
    pending: Vec<u8>,
}

impl Utf8Check {
    fn push(&mut self, mut bytes: &[u8]) {
        // A character is at most four bytes, so this ends after three rounds.
        while !self.broken && !self.pending.is_empty() {
            let Some((first, rest)) = bytes.split_first() else { return };
            self.pending.push(*first);
            bytes = rest;
            match std::str::from_utf8(&self.pending) {
                Ok(_) => self.pending.clear(),
                Err(e) => self.broken = e.error_len().is_some(),
            }
        }
        if self.broken {
            return;
        }
        if let Err(e) = std::str::from_utf8(bytes) {
            match e.error_len() {
                Some(_) => self.broken = true,
                None => self.pending.extend_from_slice(&bytes[e.valid_up_to()..]),
            }
        }
    }

    fn is_valid(&self) -> bool {
        !self.broken && self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&[u8]]) -> bool {
        let mut check = Utf8Check::default();
        for piece in pieces {
            check.push(piece);
        }
        check.is_valid()
    }

    #[test]
    fn characters_may_be_cut_anywhere() {
        let text = "aü€😀z".as_bytes();
        for cut in 0..=text.len() {
            for second in cut..=text.len() {
                assert!(check(&[&text[..cut], &text[cut..second], &text[second..]]), "{cut} {second}");
            }
        }
        let single: Vec<&[u8]> = text.chunks(1).collect();
        assert!(check(&single));
    }

    #[test]
    fn what_is_not_utf8_is_noticed_in_any_cut() {
        for bad in
            [&b"a\xffb"[..], b"\xe2\x82", b"\xe2\x28\xa1", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc0\xaf"]
        {
            for cut in 0..=bad.len() {
                assert!(!check(&[&bad[..cut], &bad[cut..]]), "{bad:x?} at {cut}");
            }
        }
    }

    #[test]
    fn a_large_body_comes_back_as_it_went_in() {
        let dir = tempfile::tempdir().unwrap();
        let mut body = Body::new(dir.path());
        let text = "€uro ".repeat(100_000);
        for piece in text.as_bytes().chunks(9_999) {
            body.push(piece).unwrap();
        }
        assert!(body.is_utf8());
        assert_eq!(body.len(), text.len() as u64);
        let mut back = String::new();
        body.read_text(|piece| {
            back.push_str(piece);
            Ok(())
        })
        .unwrap();
        assert!(back == text);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the temporary file has no name");
    }
}
