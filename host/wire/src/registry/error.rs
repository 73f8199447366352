//! Binary error payload: u16 length, text (registry.md section 1.3).

/// Bytes after which the encoder cuts a text.
pub const ERROR_TEXT_MAX: usize = 65_000;

/// `EncodeError`: a text over [`ERROR_TEXT_MAX`] bytes is cut there, wherever that falls.
pub fn encode_error(text: &str) -> Vec<u8> {
    let bytes = &text.as_bytes()[..text.len().min(ERROR_TEXT_MAX)];
    let mut out = Vec::with_capacity(2 + bytes.len());
    super::lookup::push_long(&mut out, bytes);
    out
}

/// `DecodeError`: never fails. No length: `unknown error`; a length beyond the payload takes what is there.
pub fn decode_error(payload: &[u8]) -> String {
    let Some((len, rest)) = payload.split_first_chunk::<2>() else { return "unknown error".to_owned() };
    let len = usize::from(u16::from_be_bytes(*len)).min(rest.len());
    String::from_utf8_lossy(&rest[..len]).into_owned()
}
