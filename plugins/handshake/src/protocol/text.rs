//! Text that strangers wrote: bytes to text the way the Go peer reads them, justifications cleaned, base64 as the
//! identity sheet reads it.
//!
//! Called by the message codec, the state file and the trusted-agents list. Pure.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use pilot_wire::goquote::is_printable;

/// Longest justification that is kept, in bytes of UTF-8 (handshake.md section 3).
pub const MAX_JUSTIFICATION: usize = 1024;

/// Standard alphabet, padding required, non-zero trailing bits tolerated (identity.md, "Keys and encodings").
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Bytes as text; every byte that is not part of valid UTF-8 becomes one U+FFFD of its own.
///
/// (The standard library's lossy conversion makes one U+FFFD of a whole broken sequence, which gives other texts than
/// the Go peer sees.)
pub fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    Cow::Owned(out)
}

/// Cleans a justification (handshake.md section 3): printable characters only, then cut to [`MAX_JUSTIFICATION`] bytes,
/// which may leave an incomplete character at the end.
pub fn clean_bytes(input: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(input.len().min(MAX_JUSTIFICATION + 4));
    for c in lossy(input).chars().filter(|c| is_printable(*c)) {
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        if out.len() >= MAX_JUSTIFICATION {
            break;
        }
    }
    out.truncate(MAX_JUSTIFICATION);
    out
}

/// [`clean_bytes`] as text; a cut character shows as U+FFFD, which is also what the Go peer prints for it.
pub fn clean(input: &str) -> String {
    lossy(&clean_bytes(input.as_bytes())).into_owned()
}

/// Writes base64 as every key and signature of the protocol is written.
pub fn to_base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Reads base64; CR and LF inside are ignored. `None` when it is not base64.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    if text.contains(['\r', '\n']) {
        return BASE64.decode(text.replace(['\r', '\n'], "")).ok();
    }
    BASE64.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_broken_byte_becomes_one_replacement() {
        assert_eq!(lossy(b"ok"), "ok");
        assert_eq!(lossy(b"a\xe2\x82b"), "a\u{fffd}\u{fffd}b");
        assert_eq!(lossy(b"\xed\xa0\x80"), "\u{fffd}\u{fffd}\u{fffd}");
    }

    #[test]
    fn a_character_may_be_cut_at_the_limit() {
        let input = format!("{}\u{20ac}tail", "y".repeat(MAX_JUSTIFICATION - 1));
        let cut = clean_bytes(input.as_bytes());
        assert_eq!(cut.len(), MAX_JUSTIFICATION);
        assert_eq!(cut.last(), Some(&0xe2));
        assert!(clean(&input).ends_with("y\u{fffd}"));
    }

    #[test]
    fn only_printable_characters_stay() {
        let input = "a\tb\u{a0}c\u{200b}d\u{2028}e\u{feff}f\u{e000}g\u{378} h\"\\'";
        assert_eq!(clean(input), "abcdefg h\"\\'");
        assert_eq!(clean("\u{301}e\u{301} \u{1f600}"), "\u{301}e\u{301} \u{1f600}");
        assert_eq!(clean_bytes(b"x\xffy"), "x\u{fffd}y".as_bytes());
    }

    #[test]
    fn base64_is_read_as_the_identity_sheet_says() {
        assert_eq!(from_base64("AA==").as_deref(), Some(&[0][..]));
        assert_eq!(from_base64("A\r\nA=\n=").as_deref(), Some(&[0][..]));
        assert_eq!(from_base64("AB==").as_deref(), Some(&[0][..]), "trailing bits");
        assert_eq!(from_base64("AA"), None, "padding");
        assert_eq!(from_base64("_w=="), None, "alphabet");
        assert_eq!(from_base64("A A=="), None, "blank");
    }
}
