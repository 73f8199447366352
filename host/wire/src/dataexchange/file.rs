//! Files in one frame: the name in front of the content, and the names files get on disk (sections 1.2, 3, 4 and 5.1).

use super::{FrameHeader, FrameType, HEADER_LEN, PayloadTooLarge};

/// The longest file name in bytes.
pub const MAX_FILE_NAME: usize = 255;

/// Splits the payload of a FILE frame into name and content.
///
/// A payload too short for its name is no error: it is all content and has no name (`None`). A name may be empty.
///
/// # Errors
/// [`NameError`]; the connection then ends without a reply.
pub fn split_file_payload(payload: &[u8]) -> Result<(Option<&str>, &[u8]), NameError> {
    let whole = Ok((None, payload));
    let Some((len, rest)) = payload.split_first_chunk::<2>() else { return whole };
    let Some((name, content)) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len))) else {
        return whole;
    };
    Ok((Some(check_name(name)?), content))
}

/// Applies the rules for file names that arrive from a peer. An empty name passes.
///
/// # Errors
/// [`NameError`], checks in the order of its variants.
pub fn check_name(name: &[u8]) -> Result<&str, NameError> {
    check_length(name.len())?;
    let text = std::str::from_utf8(name).map_err(|_| NameError::NotUtf8)?;
    match text {
        text if text.contains(['/', '\\']) => Err(NameError::Separator),
        "." | ".." => Err(NameError::Dots { name: text.to_owned() }),
        text => Ok(text),
    }
}

pub(super) fn check_length(len: usize) -> Result<(), NameError> {
    if len > MAX_FILE_NAME { Err(NameError::TooLong { len }) } else { Ok(()) }
}

/// Frame header, name length and name of a FILE frame; `content_len` bytes of content must follow.
///
/// # Errors
/// [`EncodeFileError`].
pub fn file_prefix(name: &str, content_len: u64) -> Result<Vec<u8>, EncodeFileError> {
    let too_long = EncodeFileError::Name(NameError::TooLong { len: name.len() });
    let Some(name_len) = u16::try_from(name.len()).ok().filter(|len| usize::from(*len) <= MAX_FILE_NAME)
    else {
        return Err(too_long);
    };
    let len = content_len
        .checked_add(2 + u64::from(name_len))
        .and_then(|len| u32::try_from(len).ok())
        .ok_or(EncodeFileError::TooLarge(PayloadTooLarge))?;
    let mut out = Vec::with_capacity(HEADER_LEN + 2 + name.len());
    out.extend_from_slice(&FrameHeader { kind: FrameType::FILE, len }.to_bytes());
    out.extend_from_slice(&name_len.to_be_bytes());
    out.extend_from_slice(name.as_bytes());
    Ok(out)
}

/// Appends one FILE frame to `out`. Only the name's length is checked, as by the Go peer's writer.
///
/// # Errors
/// [`EncodeFileError`]; `out` is then unchanged.
pub fn encode_file(name: &str, content: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeFileError> {
    let content_len = u64::try_from(content.len()).map_err(|_| PayloadTooLarge)?;
    out.extend_from_slice(&file_prefix(name, content_len)?);
    out.extend_from_slice(content);
    Ok(())
}

/// The name a received file gets on disk: stem and extension are split at the last dot, with stamp and sequence number
/// between them. `stamp` is local time as `YYYYMMDD-HHMMSS.mmm`.
pub fn stored_name(name: &str, stamp: &str, seq: u64) -> String {
    let dot = name.rfind('.').unwrap_or(name.len());
    let (stem, extension) = name.split_at(dot);
    format!("{stem}-{stamp}-{seq:06}{extension}")
}

/// The name a message gets in the inbox.
pub fn inbox_name(kind: FrameType, stamp: &str, seq: u64) -> String {
    format!("{kind}-{stamp}-{seq:06}.json")
}

/// The file name of a chunked transfer: the last path element of what the sender announced, `received.bin` when that is
/// nothing, and otherwise subject to [`check_name`] (the Go peer takes it unchecked).
///
/// # Errors
/// [`NameError`].
pub fn stream_file_name(announced: &[u8]) -> Result<&str, NameError> {
    let end = announced.iter().rposition(|b| *b != b'/').map_or(0, |last| last + 1);
    let path = &announced[..end];
    let element = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    match element {
        b"" | b"." => Ok("received.bin"),
        element => check_name(element),
    }
}

/// Why a file name is refused: the sender's fault. Texts as the Go peer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Over [`MAX_FILE_NAME`] bytes.
    #[error("filename too long: {len} bytes (max 255)")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// Not UTF-8.
    #[error("filename contains invalid UTF-8")]
    NotUtf8,
    /// Contains `/` or `\`.
    #[error("invalid filename: path traversal characters not allowed")]
    Separator,
    /// Is `.` or `..`.
    #[error("invalid filename: path traversal name \"{name}\" not allowed")]
    Dots {
        /// The name.
        name: String,
    },
}

/// Why a FILE frame cannot be written: the caller's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeFileError {
    /// The name is too long.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Name and content do not fit the length field.
    #[error(transparent)]
    TooLarge(#[from] PayloadTooLarge),
}
