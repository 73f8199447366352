//! Base64 as the Go peers read and write keys and signatures (identity.md "Keys and encodings").

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Standard alphabet, padding required, non-zero trailing bits tolerated.
const STANDARD: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Why a text is no base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("illegal base64 data at input byte {offset}")]
pub struct Base64Error {
    /// Where reading stopped, in bytes of the text.
    pub offset: usize,
}

/// The canonical text: standard alphabet with padding.
pub fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Reads base64; carriage returns and line feeds inside are ignored.
///
/// # Errors
/// [`Base64Error`] with the offset of the first byte that does not fit.
pub fn decode_base64(text: &str) -> Result<Vec<u8>, Base64Error> {
    let is_break = |b: &u8| *b == b'\r' || *b == b'\n';
    let bare: Vec<u8> = text.bytes().filter(|b| !is_break(b)).collect();
    STANDARD.decode(&bare).map_err(|e| {
        let offset = match e {
            base64::DecodeError::InvalidByte(offset, _) => offset,
            base64::DecodeError::InvalidLastSymbol { offset, .. } => offset,
            _ => bare.len(),
        };
        // The offset in the text as given: line breaks before it count.
        let given = text.bytes().enumerate().filter(|(_, b)| !is_break(b)).map(|(i, _)| i).nth(offset);
        Base64Error { offset: given.unwrap_or(text.len()) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_is_as_tolerant_as_the_peers() {
        assert_eq!(decode_base64("AAEC").as_deref(), Ok(&[0, 1, 2][..]));
        assert_eq!(decode_base64("AA\r\nEC\n").as_deref(), Ok(&[0, 1, 2][..]));
        assert_eq!(decode_base64("AB==").as_deref(), Ok(&[0][..])); // trailing bits set
        assert!(decode_base64("AA").is_err());
        assert!(decode_base64("AA=").is_err());
        assert!(decode_base64("-_==").is_err());
        assert_eq!(decode_base64("***"), Err(Base64Error { offset: 0 }));
        assert_eq!(decode_base64("A\nA*="), Err(Base64Error { offset: 3 }));
    }
}
