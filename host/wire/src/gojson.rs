//! JSON as the Go peer's encoder writes it and as its decoder reads it.
//!
//! Called wherever bytes are compared, hashed or signed against the peer's: registry and IPC messages, stored inbox
//! files, webhook bodies, policy documents. Written: no spaces, object keys sorted by bytes, `<`, `>`, `&`, U+2028 and
//! U+2029 escaped, floats in the peer's notation (dataexchange.md section 3, registry.md section 1.2). Read: as strict as
//! any JSON reader, except that broken UTF-8 and lone surrogates become U+FFFD instead of errors. No I/O.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::Formatter;
use serde_json::{Map, Number, Value};

/// Writes a value; keys come out sorted whatever map type the value holds.
pub fn to_string(value: &Value) -> String {
    let mut out = String::new();
    push_value(&mut out, value);
    out
}

/// As [`to_string`], as bytes.
pub fn to_vec(value: &Value) -> Vec<u8> {
    to_string(value).into_bytes()
}

/// As [`to_vec`], for an object that is not wrapped in a value.
pub fn object_to_vec(object: &Map<String, Value>) -> Vec<u8> {
    let mut out = String::new();
    push_object(&mut out, object);
    out.into_bytes()
}

/// One string with its quotes.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_string(&mut out, text);
    out
}

/// Writes anything serialisable: structure members in declaration order, as the peer writes its structures.
///
/// # Errors
/// What the type's own serialisation says; maps with keys that are not text are refused.
pub fn serialize<T: Serialize + ?Sized>(value: &T) -> Result<String, serde_json::Error> {
    let mut bytes = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, GoFormatter))?;
    String::from_utf8(bytes).map_err(serde::ser::Error::custom)
}

/// Removes insignificant white space from a valid JSON text and escapes what [`to_string`] escapes, changing nothing else:
/// number notation, member order and duplicate members stay.
pub fn compact(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut in_string = false;
    let mut escaped = false;
    for c in json.chars() {
        if !in_string {
            in_string = c == '"';
            if !matches!(c, ' ' | '\t' | '\n' | '\r') {
                out.push(c);
            }
            continue;
        }
        match html_escape(c) {
            Some(escape) => out.push_str(escape),
            None => out.push(c),
        }
        in_string = c != '"' || escaped;
        escaped = c == '\\' && !escaped;
    }
    out
}

/// Parses one JSON text with nothing but white space around it.
///
/// # Errors
/// As `serde_json`; nesting over its recursion limit is an error too.
pub fn from_slice(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_str(&readable(bytes))
}

/// The text in a form that a strict reader takes where the peer's lenient reader would: bytes that are not UTF-8 and
/// `\u` escapes of lone surrogates are replaced by U+FFFD.
pub fn readable(bytes: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(bytes);
    if !text.contains("\\u") {
        return text;
    }
    match replace_lone_surrogates(&text) {
        Some(fixed) => Cow::Owned(fixed),
        None => text,
    }
}

/// `None` when there are none. Escapes occur in strings only, so the rest of the text needs no parsing.
fn replace_lone_surrogates(text: &str) -> Option<String> {
    const ESCAPE_LEN: usize = 6;
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = text[at..].find('\\') {
        let here = at + found;
        let unit = code_unit(&text[here..]);
        at = here
            + match unit {
                Some(0xD800..=0xDBFF)
                    if matches!(code_unit(&text[here + ESCAPE_LEN..]), Some(0xDC00..=0xDFFF)) =>
                {
                    2 * ESCAPE_LEN
                }
                Some(0xD800..=0xDFFF) => {
                    out.push_str(&text[copied..here]);
                    out.push_str("\\ufffd");
                    copied = here + ESCAPE_LEN;
                    ESCAPE_LEN
                }
                // Any other escape: skip the backslash and the character it escapes.
                _ => 1 + text[here + 1..].chars().next().map_or(0, char::len_utf8),
            };
    }
    (copied > 0).then(|| out + &text[copied..])
}

/// The value of the `\uXXXX` escape a text starts with.
fn code_unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

fn push_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => push_number(out, n),
        Value::String(s) => push_string(out, s),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                push_value(out, item);
            }
            out.push(']');
        }
        Value::Object(object) => push_object(out, object),
    }
}

/// Writes an object with these members behind what `out` holds; no two of them may have the same name.
pub fn push_members<'a>(out: &mut String, members: impl IntoIterator<Item = (&'a str, &'a Value)>) {
    // Sorted here and not by trusting the map: whether it is sorted depends on a feature other crates may turn on.
    let mut members: Vec<_> = members.into_iter().collect();
    members.sort_unstable_by_key(|(key, _)| *key);
    out.push('{');
    for (i, (key, value)) in members.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        push_string(out, key);
        out.push(':');
        push_value(out, value);
    }
    out.push('}');
}

fn push_object(out: &mut String, object: &Map<String, Value>) {
    push_members(out, object.iter().map(|(key, value)| (key.as_str(), value)));
}

fn push_number(out: &mut String, number: &Number) {
    match number.as_f64() {
        Some(float) if number.is_f64() => out.push_str(&float_text(float)),
        _ => out.push_str(&number.to_string()),
    }
}

/// The shortest digits that give the float again; an exponent below 1e-6 and from 1e21 on.
fn float_text(float: f64) -> String {
    let size = float.abs();
    if size == 0.0 || (1e-6..1e21).contains(&size) {
        return format!("{float}");
    }
    let text = format!("{float:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
        _ => text,
    }
}

fn push_string(out: &mut String, text: &str) {
    out.push('"');
    // Nearly all texts are plain from end to end and go over in one piece.
    let plain = |b: u8| matches!(b, 0x20..=0x7f) && !matches!(b, b'"' | b'\\' | b'<' | b'>' | b'&');
    // What stops it is either ASCII or the first byte of a character.
    let (start, rest) = text.split_at(text.bytes().position(|b| !plain(b)).unwrap_or(text.len()));
    out.push_str(start);
    for c in rest.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{08}' => out.push_str("\\b"),
            '\u{0c}' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => match html_escape(c) {
                Some(escape) => out.push_str(escape),
                None => out.push(c),
            },
        }
    }
    out.push('"');
}

/// The five characters that are escaped so that the text may stand inside HTML or a script.
const fn html_escape(c: char) -> Option<&'static str> {
    match c {
        '<' => Some("\\u003c"),
        '>' => Some("\\u003e"),
        '&' => Some("\\u0026"),
        '\u{2028}' => Some("\\u2028"),
        '\u{2029}' => Some("\\u2029"),
        _ => None,
    }
}

/// The same rules for `serde_json`'s serialiser, whose own escapes of control characters agree already.
struct GoFormatter;

impl Formatter for GoFormatter {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(float_text(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c, escape)) = rest.char_indices().find_map(|(i, c)| Some((i, c, html_escape(c)?)))
        {
            writer.write_all(&rest.as_bytes()[..at])?;
            writer.write_all(escape.as_bytes())?;
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_raw_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        writer.write_all(compact(fragment).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn writes_like_the_peer() {
        let value =
            json!({"b": [1, -2, 1.0, 0.5, true, null], "a": {"z": {}, "Z": []}, "ä": "<&>\u{2028}\u{2029}"});
        assert_eq!(
            to_string(&value),
            r#"{"a":{"Z":[],"z":{}},"b":[1,-2,1,0.5,true,null],"ä":"\u003c\u0026\u003e\u2028\u2029"}"#
        );
        assert_eq!(
            quote("a\"\\\n\r\t\u{8}\u{c}\u{1}\u{1f}\u{7f}é/"),
            "\"a\\\"\\\\\\n\\r\\t\\b\\f\\u0001\\u001f\u{7f}é/\""
        );
    }

    #[test]
    fn floats_use_the_peers_notation() {
        for (float, want) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (100.0, "100"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.5e300, "1.5e+300"),
            (1e-6, "0.000001"),
            (9.5e-7, "9.5e-7"),
            (-1e-10, "-1e-10"),
            (0.1, "0.1"),
            (1.0 / 3.0, "0.3333333333333333"),
        ] {
            assert_eq!(to_string(&json!(float)), want);
            assert_eq!(serialize(&float).unwrap(), want);
        }
        assert_eq!(to_string(&json!(u64::MAX)), "18446744073709551615");
        assert_eq!(to_string(&json!(i64::MIN)), "-9223372036854775808");
    }

    #[test]
    fn structures_keep_their_order_and_escape_alike() {
        #[derive(Serialize)]
        struct Shape<'a> {
            z: &'a str,
            a: f64,
        }
        let shape = Shape { z: "x<y>&\u{2028}\u{8}\u{1}\"", a: 2.0 };
        assert_eq!(serialize(&shape).unwrap(), r#"{"z":"x\u003cy\u003e\u0026\u2028\b\u0001\"","a":2}"#);
    }

    #[test]
    fn compacting_touches_only_space_and_html() {
        let json = "{ \"a b\" :\t[ 1.0 , 1e0 ,\"\\\" <\\\\\" ], \"a b\": \"\u{2028}\" }\r\n";
        assert_eq!(compact(json), r#"{"a b":[1.0,1e0,"\" \u003c\\"],"a b":"\u2028"}"#);
    }

    #[test]
    fn reading_is_lenient_about_text_only() {
        assert_eq!(from_slice(b"\"a\xffb\"").unwrap(), json!("a\u{fffd}b"));
        assert_eq!(from_slice(br#""\ud83e\udd80""#).unwrap(), json!("🦀"));
        assert_eq!(from_slice(br#""x\ud83ey""#).unwrap(), json!("x\u{fffd}y"));
        assert_eq!(
            from_slice(br#""\ud83e\ud83e\udd80\udd80\\ud83e""#).unwrap(),
            json!("\u{fffd}🦀\u{fffd}\\ud83e")
        );
        for bad in
            [&b""[..], b"{", b"1 2", b"\"\\u12\"", b"\"\\ud83", b"\"\\", b"\\", "\"\\é\"".as_bytes(), b"01"]
        {
            assert!(from_slice(bad).is_err(), "{bad:?}");
        }
    }
}
