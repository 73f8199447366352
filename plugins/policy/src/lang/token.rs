//! Text of an expression to tokens (policy.md section 2.3). Called by the parser.
//!
//! The lexical rules are those of the Go library: words are taken as long as they go, so `notes` is a name and not
//! `not es`.

use super::Refusal;

/// One token and where it starts, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub kind: Kind,
    pub at: usize,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Int(i64),
    Float(f64),
    Text(String),
    /// A name, `true`, `false`, `nil`, or a word of the grammar.
    Word(String),
    /// Operators, brackets and separators, as written.
    Sign(&'static str),
    End,
}

/// Longest first, so that the first hit is the right one.
const SIGNS: [&str; 36] = [
    "**", "==", "!=", "<=", ">=", "&&", "||", "??", "?.", "..", "+", "-", "*", "/", "%", "^", "<", ">", "!",
    "?", ":", ",", ";", ".", "|", "#", "(", ")", "[", "]", "{", "}", "=", "&", "@", "\\",
];

/// Splits `text`; comments and blanks are dropped. The last token is `End`.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Refusal> {
    let mut lexer = Lexer { text, at: 0 };
    let mut found = Vec::new();
    loop {
        let token = lexer.next()?;
        let is_end = token.kind == Kind::End;
        found.push(token);
        if is_end {
            return Ok(found);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn next(&mut self) -> Result<Token, Refusal> {
        self.skip_blanks()?;
        let at = self.at;
        let kind = match self.rest().chars().next() {
            None => Kind::End,
            Some(c) if c.is_ascii_digit() => self.number()?,
            Some('.') if self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number()?,
            Some(c @ ('"' | '\'')) => self.quoted(c)?,
            Some('`') => self.raw()?,
            Some(c) if is_word(c) => Kind::Word(self.word().to_owned()),
            Some(c) => match SIGNS.into_iter().find(|sign| self.rest().starts_with(sign)) {
                Some(sign) => {
                    self.at += sign.len();
                    Kind::Sign(sign)
                }
                None => return Err(Refusal::new(at, format!("unrecognized character: {c:?}"))),
            },
        };
        Ok(Token { kind, at })
    }

    fn skip_blanks(&mut self) -> Result<(), Refusal> {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            let skipped = if trimmed.starts_with("//") {
                trimmed.find('\n').unwrap_or(trimmed.len())
            } else if trimmed.starts_with("/*") {
                trimmed.find("*/").ok_or_else(|| Refusal::new(self.at, "unclosed comment"))? + 2
            } else {
                return Ok(());
            };
            self.at += skipped;
        }
    }

    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let word = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
        self.at += word.len();
        word
    }

    fn number(&mut self) -> Result<Kind, Refusal> {
        let at = self.at;
        let bad = || Refusal::new(at, "bad number syntax");
        let rest = self.rest();
        let radix = match rest.as_bytes() {
            [b'0', b'x' | b'X', ..] => 16,
            [b'0', b'o' | b'O', ..] => 8,
            [b'0', b'b' | b'B', ..] => 2,
            _ => 10,
        };
        if radix != 10 {
            let digits = self.word()[2..].replace('_', "");
            return i64::from_str_radix(&digits, radix).map(Kind::Int).map_err(|_| bad());
        }
        let len = decimal_len(rest.as_bytes());
        self.at += len;
        if self.rest().starts_with(is_word) {
            return Err(bad());
        }
        let digits = rest[..len].replace('_', "");
        if digits.contains(['.', 'e', 'E']) {
            let float = digits.parse::<f64>().ok().filter(|f| f.is_finite());
            return float.map(Kind::Float).ok_or_else(bad);
        }
        digits.parse().map(Kind::Int).map_err(|_| bad())
    }

    fn raw(&mut self) -> Result<Kind, Refusal> {
        let content = &self.rest()[1..];
        let len = content.find('`').ok_or_else(|| self.unterminated())?;
        self.at += len + 2;
        Ok(Kind::Text(content[..len].to_owned()))
    }

    fn quoted(&mut self, quote: char) -> Result<Kind, Refusal> {
        let start = self.at;
        let mut text = String::new();
        let mut chars = self.rest()[1..].char_indices();
        while let Some((offset, c)) = chars.next() {
            match c {
                '\n' => break,
                c if c == quote => {
                    self.at = start + 1 + offset + c.len_utf8();
                    return Ok(Kind::Text(text));
                }
                '\\' => {
                    let (value, len) = escape(chars.as_str())
                        .ok_or_else(|| Refusal::new(start + 1 + offset, "unknown escape in string"))?;
                    text.push(value);
                    for _ in 0..len {
                        chars.next();
                    }
                }
                c => text.push(c),
            }
        }
        Err(self.unterminated())
    }

    fn unterminated(&self) -> Refusal {
        Refusal::new(self.at, "literal not terminated")
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c == '$' || c.is_alphanumeric()
}

/// Length of a decimal number: digits, a fraction unless a range follows, an exponent.
fn decimal_len(bytes: &[u8]) -> usize {
    let digits = |from: usize| {
        bytes[from..].iter().position(|b| !b.is_ascii_digit() && *b != b'_').map_or(bytes.len(), |n| from + n)
    };
    let mut len = digits(0);
    if bytes.get(len) == Some(&b'.') && bytes.get(len + 1) != Some(&b'.') {
        len = digits(len + 1);
    }
    if matches!(bytes.get(len), Some(b'e' | b'E')) {
        let signed = usize::from(matches!(bytes.get(len + 1), Some(b'+' | b'-')));
        len = digits(len + 1 + signed);
    }
    len
}

/// The character that an escape stands for, given the text behind the backslash, and how many characters it takes there.
fn escape(rest: &str) -> Option<(char, usize)> {
    let numeric = |skip: usize, len: usize, radix: u32| {
        let code = u32::from_str_radix(rest.get(skip..skip + len)?, radix).ok()?;
        Some((char::from_u32(code)?, skip + len))
    };
    let value = match rest.chars().next()? {
        'a' => '\u{07}',
        'b' => '\u{08}',
        'f' => '\u{0c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{0b}',
        c @ ('\\' | '\'' | '"') => c,
        'x' => return numeric(1, 2, 16),
        'u' => return numeric(1, 4, 16),
        'U' => return numeric(1, 8, 16),
        '0'..='3' => return numeric(0, 3, 8),
        _ => return None,
    };
    Some((value, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Kind> {
        tokens(text).unwrap().into_iter().map(|t| t.kind).collect()
    }

    fn word(text: &str) -> Kind {
        Kind::Word(text.into())
    }

    #[test]
    fn words_are_taken_whole() {
        assert_eq!(kinds("notes in _a$1"), [word("notes"), word("in"), word("_a$1"), Kind::End]);
    }

    #[test]
    fn numbers() {
        for (text, kind) in [
            ("1_000", Kind::Int(1000)),
            ("0x_fF", Kind::Int(255)),
            ("0o17", Kind::Int(15)),
            ("0b101", Kind::Int(5)),
            ("1.5e-1", Kind::Float(0.15)),
            (".5", Kind::Float(0.5)),
            ("1.", Kind::Float(1.0)),
        ] {
            assert_eq!(kinds(text), [kind, Kind::End], "{text}");
        }
        assert_eq!(kinds("1..5"), [Kind::Int(1), Kind::Sign(".."), Kind::Int(5), Kind::End]);
        for bad in ["1a", "0xg", "99999999999999999999", "1e999", "0b2", "0x", "1e"] {
            assert!(tokens(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn strings_and_comments() {
        let text = |s: &str| Kind::Text(s.into());
        assert_eq!(
            kinds(r#""a\"\n\u00e9\\n" 'it"s' `r\aw`"#),
            [text("a\"\né\\n"), text("it\"s"), text("r\\aw"), Kind::End]
        );
        assert_eq!(kinds("1 // x\n/* y */ 2 // z"), [Kind::Int(1), Kind::Int(2), Kind::End]);
        for bad in ["\"a", "'a\nb'", "`a", "/* a", r#""\q""#, r#""\u12""#, r#""\ud800""#, "\"\\"] {
            assert!(tokens(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn any_text_is_split_or_refused() {
        for text in ["é", "\u{0}", "~", "$", "\\", "@", "=", "&", "''", "0x_", "...", "\u{2028}1"] {
            let _ = tokens(text);
        }
    }
}
