//! The texts with which the Go peer refuses JSON, because they are part of replies that clients show and tests compare
//! (`set_tags: invalid JSON: unexpected end of JSON input`).
//!
//! A syntax check only: values are parsed by serde_json afterwards. Not a JSON parser for anybody's data.

use serde_json::Value;

/// How deep arrays and objects may nest before the Go peer gives up.
const MAX_DEPTH: usize = 10_000;

/// The Go encoder's complaint about `text`, or `None` when it is one well-formed JSON value.
pub fn go_json_error(text: &[u8]) -> Option<String> {
    Scanner { text, at: 0 }.document().err()
}

/// Parses a JSON array of strings as Go decodes into a list of strings: `null` is an empty list, a `null` element an
/// empty string. The error is the Go text.
pub fn go_string_list(text: &[u8]) -> Result<Vec<String>, String> {
    if let Some(error) = go_json_error(text) {
        return Err(error);
    }
    let mismatch =
        |v: &Value, want: &str| format!("json: cannot unmarshal {} into Go value of type {want}", go_kind(v));
    match serde_json::from_slice(text).map_err(|e| e.to_string())? {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => items
            .into_iter()
            .map(|item| match item {
                Value::String(s) => Ok(s),
                Value::Null => Ok(String::new()),
                other => Err(mismatch(&other, "string")),
            })
            .collect(),
        other => Err(mismatch(&other, "[]string")),
    }
}

/// What the Go decoder calls a value's type.
pub(super) fn go_kind(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Walks the text without recursion: nesting is a stack of brackets, so hostile depth costs memory linear in the input.
struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

type Step<T> = Result<T, String>;

impl Scanner<'_> {
    fn document(mut self) -> Step<()> {
        let mut open: Vec<u8> = Vec::new();
        loop {
            // One value, or the opening bracket of one.
            match self.visible()? {
                b'{' => {
                    self.at += 1;
                    push(&mut open, b'{')?;
                    if self.visible()? != b'}' {
                        self.key()?;
                        continue;
                    }
                }
                b'[' => {
                    self.at += 1;
                    push(&mut open, b'[')?;
                    if self.visible()? != b']' {
                        continue;
                    }
                }
                b'"' => self.string()?,
                b't' => self.literal("true")?,
                b'f' => self.literal("false")?,
                b'n' => self.literal("null")?,
                b'-' | b'0'..=b'9' => self.number()?,
                _ => return Err(self.invalid("looking for beginning of value")),
            }
            // Then what its surroundings allow: close any number of brackets, or a comma.
            loop {
                let Some(&bracket) = open.last() else {
                    self.skip_space();
                    return match self.text.get(self.at) {
                        None => Ok(()),
                        Some(_) => Err(self.invalid("after top-level value")),
                    };
                };
                match (bracket, self.visible()?) {
                    (b'{', b'}') | (b'[', b']') => {
                        self.at += 1;
                        open.pop();
                    }
                    (b'[', b',') => {
                        self.at += 1;
                        break;
                    }
                    (b'{', b',') => {
                        self.at += 1;
                        self.visible()?;
                        self.key()?;
                        break;
                    }
                    (b'[', _) => return Err(self.invalid("after array element")),
                    (_, _) => return Err(self.invalid("after object key:value pair")),
                }
            }
        }
    }

    /// A string key and its colon.
    fn key(&mut self) -> Step<()> {
        if self.visible()? != b'"' {
            return Err(self.invalid("looking for beginning of object key string"));
        }
        self.string()?;
        if self.visible()? != b':' {
            return Err(self.invalid("after object key"));
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Step<()> {
        self.at += 1;
        loop {
            match self.byte()? {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => {
                    self.at += 1;
                    match self.byte()? {
                        b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => self.at += 1,
                        b'u' => {
                            self.at += 1;
                            for _ in 0..4 {
                                if !self.byte()?.is_ascii_hexdigit() {
                                    return Err(self.invalid("in \\u hexadecimal character escape"));
                                }
                                self.at += 1;
                            }
                        }
                        _ => return Err(self.invalid("in string escape code")),
                    }
                }
                0..0x20 => return Err(self.invalid("in string literal")),
                _ => self.at += 1,
            }
        }
    }

    fn literal(&mut self, word: &str) -> Step<()> {
        for expected in word.bytes() {
            if self.byte()? != expected {
                let context = format!("in literal {word} (expecting {})", quote(expected));
                return Err(self.invalid(&context));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Step<()> {
        if self.byte()? == b'-' {
            self.at += 1;
        }
        match self.byte()? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            _ => return Err(self.invalid("in numeric literal")),
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.some_digits("after decimal point in numeric literal")?;
        }
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.text.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.some_digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    fn some_digits(&mut self, context: &str) -> Step<()> {
        if !self.byte()?.is_ascii_digit() {
            return Err(self.invalid(context));
        }
        self.digits();
        Ok(())
    }

    fn digits(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }

    fn skip_space(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// The next byte that is not white space, not consumed.
    fn visible(&mut self) -> Step<u8> {
        self.skip_space();
        self.byte()
    }

    fn byte(&self) -> Step<u8> {
        self.text.get(self.at).copied().ok_or_else(|| "unexpected end of JSON input".to_owned())
    }

    fn invalid(&self, context: &str) -> String {
        let c = self.text.get(self.at).copied().unwrap_or_default();
        format!("invalid character {} {context}", quote(c))
    }
}

fn push(open: &mut Vec<u8>, bracket: u8) -> Step<()> {
    if open.len() >= MAX_DEPTH {
        return Err("exceeded max depth".to_owned());
    }
    open.push(bracket);
    Ok(())
}

/// A byte as a quoted Go character; a byte is read as the character of that number.
fn quote(c: u8) -> String {
    match c {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        0x07 => r"'\a'".to_owned(),
        0x08 => r"'\b'".to_owned(),
        0x0C => r"'\f'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        0x0B => r"'\v'".to_owned(),
        0..0x20 | 0x7F => format!("'\\x{c:02x}'"),
        0x80..=0xA0 | 0xAD => format!("'\\u{c:04x}'"),
        _ => format!("'{}'", char::from(c)),
    }
}
