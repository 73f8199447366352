//! Text in double quotes as the Go peer prints it with the `%q` verb, and the number-parsing errors it embeds.
//!
//! Error texts that clients of the Go peer see contain both, so they have to agree to the byte (packet.md section 1,
//! blueprint.md section 1). Does not parse quoted text.

use std::fmt::Write;

/// Quotes a text: `"`, `\` and control characters are escaped, other printable characters stay as they are.
pub fn quote(text: &str) -> String {
    quote_bytes(text.as_bytes())
}

/// Quotes bytes that are meant to be text; a byte that is not part of valid UTF-8 becomes `\xHH`.
pub fn quote_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            push_escaped(&mut out, c);
        }
        for b in chunk.invalid() {
            push_format(&mut out, format_args!("\\x{b:02x}"));
        }
    }
    out.push('"');
    out
}

fn push_escaped(out: &mut String, c: char) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\u{07}' => out.push_str("\\a"),
        '\u{08}' => out.push_str("\\b"),
        '\u{0c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{0b}' => out.push_str("\\v"),
        c if is_printable(c) => out.push(c),
        c if u32::from(c) < 0x20 || c == '\u{7f}' => {
            push_format(out, format_args!("\\x{:02x}", u32::from(c)))
        }
        c if u32::from(c) < 0x1_0000 => push_format(out, format_args!("\\u{:04x}", u32::from(c))),
        c => push_format(out, format_args!("\\U{:08x}", u32::from(c))),
    }
}

fn push_format(out: &mut String, args: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(args);
}

/// Whether the Go peer calls a character printable: letters, marks, numbers, punctuation, symbols and the ASCII space.
///
/// The standard library keeps exactly this table for its own debug output but does not export it. A character behind
/// another one is escaped there only when it is not printable, so one debug-escaped pair answers the question.
pub fn is_printable(c: char) -> bool {
    let mut buf = [b'a'; 5];
    let len = 1 + c.encode_utf8(&mut buf[1..]).len();
    match std::str::from_utf8(&buf[..len]) {
        // These three are printable but escaped all the same.
        Ok(pair) => matches!(c, '\'' | '"' | '\\') || pair.escape_debug().count() == 2,
        Err(_) => false,
    }
}

/// Why a number could not be read; the texts follow the function name and the quoted input in the peer's errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumError {
    /// A character that is no digit of the base, or no characters at all.
    #[error("invalid syntax")]
    Syntax,
    /// All digits so far are fine but the value is over the maximum.
    #[error("value out of range")]
    Range,
}

/// Reads an unsigned number the strict way: digits only, no sign, no prefix, no separators, leading zeros allowed.
///
/// Errors come in reading order, so a number that is already too large is [`NumError::Range`] even when a bad character
/// follows.
pub fn parse_uint(text: &str, base: u32, max: u64) -> Result<u64, NumError> {
    if text.is_empty() {
        return Err(NumError::Syntax);
    }
    let mut value = 0_u64;
    for b in text.bytes() {
        let digit = char::from(b).to_digit(base).ok_or(NumError::Syntax)?;
        value = value
            .checked_mul(u64::from(base))
            .and_then(|v| v.checked_add(u64::from(digit)))
            .filter(|v| *v <= max)
            .ok_or(NumError::Range)?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_like_the_peer() {
        let cases: &[(&[u8], &str)] = &[
            (b"", r#""""#),
            (b"plain text", r#""plain text""#),
            (b"a\"b\\c'd", r#""a\"b\\c'd""#),
            (b"\x00\x07\x08\t\n\x0b\x0c\r\x1b\x7f", r#""\x00\a\b\t\n\v\f\r\x1b\x7f""#),
            ("é 漢 🦀 e\u{301}".as_bytes(), "\"é 漢 🦀 e\u{301}\""),
            ("\u{301}".as_bytes(), "\"\u{301}\""),
            (
                "\u{a0}\u{ad}\u{200b}\u{2028}\u{feff}\u{e000}".as_bytes(),
                r#""\u00a0\u00ad\u200b\u2028\ufeff\ue000""#,
            ),
            ("\u{10ffff}".as_bytes(), r#""\U0010ffff""#),
            ("\u{fffd}".as_bytes(), "\"\u{fffd}\""),
            (b"ok\xff\xc3(", r#""ok\xff\xc3(""#),
        ];
        for (input, want) in cases {
            assert_eq!(quote_bytes(input), *want);
        }
    }

    #[test]
    fn numbers_are_read_strictly() {
        assert_eq!(parse_uint("00080", 10, 65535), Ok(80));
        assert_eq!(parse_uint("fFfF", 16, 65535), Ok(65535));
        for bad in ["", "-1", "+1", " 1", "1 ", "1_0", "0x1", "１"] {
            assert_eq!(parse_uint(bad, 10, 65535), Err(NumError::Syntax), "{bad:?}");
        }
        assert_eq!(parse_uint("65536", 10, 65535), Err(NumError::Range));
        assert_eq!(parse_uint("99999x", 10, 65535), Err(NumError::Range));
        assert_eq!(parse_uint("99999999999999999999999", 10, u64::MAX), Err(NumError::Range));
    }
}
