//! Durations as the Go peer writes them in configuration and rules: `24h`, `1m30s`, `1.5h`.
//!
//! Called by the blueprint checks, by policy documents and by configuration that must read the peer's files
//! (blueprint.md section 2). There are no days. Values are signed nanoseconds in 64 bits, about 292 years either way.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const NANOSECOND: u64 = 1;
const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// The magnitude of the most negative value.
const LIMIT: u64 = 1 << 63;

/// A signed number of nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(i64);

impl GoDuration {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From signed nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Signed nanoseconds.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Whether it is below zero.
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }
}

impl From<Duration> for GoDuration {
    /// A duration beyond the range becomes the largest one.
    fn from(d: Duration) -> Self {
        Self(i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl TryFrom<GoDuration> for Duration {
    type Error = NegativeDuration;

    fn try_from(d: GoDuration) -> Result<Self, NegativeDuration> {
        u64::try_from(d.0).map(Self::from_nanos).map_err(|_| NegativeDuration)
    }
}

/// A duration below zero where none can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("duration is negative")]
pub struct NegativeDuration;

impl FromStr for GoDuration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, ParseDurationError> {
        let invalid = || ParseDurationError::Invalid { text: text.to_owned() };
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self::ZERO);
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total = 0_u64;
        while !rest.is_empty() {
            let (part, after) = read_part(text, rest)?;
            total = total.checked_add(part).filter(|t| *t <= LIMIT).ok_or_else(invalid)?;
            rest = after;
        }
        match (negative, i64::try_from(total)) {
            (false, Ok(nanos)) => Ok(Self(nanos)),
            (true, Ok(nanos)) => Ok(Self(-nanos)),
            (true, Err(_)) => Ok(Self(i64::MIN)),
            (false, Err(_)) => Err(invalid()),
        }
    }
}

/// One number with its unit, in nanoseconds, and what follows it.
fn read_part<'a>(text: &str, rest: &'a str) -> Result<(u64, &'a str), ParseDurationError> {
    let invalid = || ParseDurationError::Invalid { text: text.to_owned() };
    let (whole, rest) = split_while(rest, |b| b.is_ascii_digit());
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => split_while(rest, |b| b.is_ascii_digit()),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(invalid());
    }
    let (unit, rest) = split_while(rest, |b| b != b'.' && !b.is_ascii_digit());
    let scale = match unit {
        "" => return Err(ParseDurationError::MissingUnit { text: text.to_owned() }),
        "ns" => NANOSECOND,
        // Both Unicode spellings of the micro sign.
        "us" | "µs" | "μs" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return Err(ParseDurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() }),
    };
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().map_err(|_| invalid())? };
    let nanos = whole.checked_mul(scale).filter(|n| *n <= LIMIT).ok_or_else(invalid)?;
    let nanos =
        nanos.checked_add(fraction_nanos(fraction, scale)).filter(|n| *n <= LIMIT).ok_or_else(invalid)?;
    Ok((nanos, rest))
}

/// Splits where `belongs` first fails. Multi-byte characters are kept whole because both tests in use treat all their
/// bytes alike.
fn split_while(text: &str, belongs: impl Fn(u8) -> bool) -> (&str, &str) {
    let at = text.bytes().position(|b| !belongs(b)).unwrap_or(text.len());
    text.split_at(at)
}

/// The fraction's digits times the unit, truncated. Digits beyond 63 bits change nothing.
///
/// The product is taken in floating point because the peer does so, and both have to agree to the nanosecond.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn fraction_nanos(digits: &str, scale: u64) -> u64 {
    let (mut value, mut divisor) = (0_u64, 1.0_f64);
    for b in digits.bytes() {
        let Some(next) = value.checked_mul(10).and_then(|v| v.checked_add(u64::from(b - b'0'))) else {
            break;
        };
        if next > LIMIT {
            break;
        }
        value = next;
        divisor *= 10.0;
    }
    (value as f64 * (scale as f64 / divisor)) as u64
}

impl fmt::Display for GoDuration {
    /// `1h0m0s`, `1m30s`, `1.5s`, `2ms`, `0s`: the largest unit that is not zero down to seconds, smaller units alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.is_negative() {
            f.write_str("-")?;
        }
        match nanos {
            0 => return f.write_str("0s"),
            1..MICROSECOND => return write!(f, "{nanos}ns"),
            MICROSECOND..MILLISECOND => return write_fraction(f, nanos, MICROSECOND, 3, "µs"),
            MILLISECOND..SECOND => return write_fraction(f, nanos, MILLISECOND, 6, "ms"),
            _ => {}
        }
        let (hours, minutes) = (nanos / HOUR, nanos % HOUR / MINUTE);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write_fraction(f, nanos % MINUTE, SECOND, 9, "s")
    }
}

fn write_fraction(
    f: &mut fmt::Formatter<'_>,
    value: u64,
    scale: u64,
    digits: usize,
    unit: &str,
) -> fmt::Result {
    write!(f, "{}", value / scale)?;
    if !value.is_multiple_of(scale) {
        let fraction = format!("{:0digits$}", value % scale);
        write!(f, ".{}", fraction.trim_end_matches('0'))?;
    }
    f.write_str(unit)
}

/// Why a text is no duration. Texts as the Go peer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseDurationError {
    /// No number where one is needed, or beyond the range.
    #[error("time: invalid duration {}", quote(.text))]
    Invalid {
        /// The whole text.
        text: String,
    },
    /// A number without a unit.
    #[error("time: missing unit in duration {}", quote(.text))]
    MissingUnit {
        /// The whole text.
        text: String,
    },
    /// A unit that is none of ns, us, ms, s, m, h.
    #[error("time: unknown unit {} in duration {}", quote(.unit), quote(.text))]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// The quoting of this one family of errors: everything that is not printable ASCII as bytes.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for b in text.bytes() {
        match b {
            b'"' | b'\\' => out.extend(['\\', char::from(b)]),
            0x20..0x80 => out.push(char::from(b)),
            _ => out.push_str(&format!("\\x{b:02x}")),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nanos(text: &str) -> i64 {
        text.parse::<GoDuration>().unwrap().as_nanos()
    }

    #[test]
    fn reads_what_the_peer_reads() {
        for (text, want) in [
            ("0", 0),
            ("-0", 0),
            ("0s", 0),
            ("5s", 5_000_000_000),
            ("+5s", 5_000_000_000),
            ("-1.5h", -5_400_000_000_000),
            ("1h30m10.5s", 5_410_500_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("1us", 1_000),
            ("1µs", 1_000),
            ("1μs", 1_000),
            ("0.3333333333333333333h", 1_200_000_000_000),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
            ("9007199254740993ns", 9_007_199_254_740_993),
            ("0.100000000000000000000h", 360_000_000_000),
            ("0.830103483285477580700h", 2_988_372_539_827),
        ] {
            assert_eq!(nanos(text), want, "{text}");
        }
    }

    #[test]
    fn refuses_with_the_peers_texts() {
        for (text, want) in [
            ("", r#"time: invalid duration """#),
            ("-", r#"time: invalid duration "-""#),
            ("3", r#"time: missing unit in duration "3""#),
            ("daily", r#"time: invalid duration "daily""#),
            ("1d", r#"time: unknown unit "d" in duration "1d""#),
            ("1hé", r#"time: unknown unit "h\xc3\xa9" in duration "1h\xc3\xa9""#),
            (".s", r#"time: invalid duration ".s""#),
            ("1s ", r#"time: unknown unit "s " in duration "1s ""#),
            ("9223372036854775808ns", r#"time: invalid duration "9223372036854775808ns""#),
            ("-9223372036854775809ns", r#"time: invalid duration "-9223372036854775809ns""#),
            ("3000000h", r#"time: invalid duration "3000000h""#),
            ("\"\\\n", r#"time: invalid duration "\"\\\x0a""#),
        ] {
            assert_eq!(text.parse::<GoDuration>().unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn prints_like_the_peer() {
        for (value, want) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (3_600_000_000_000, "1h0m0s"),
            (480_000_000_001, "8m0.000000001s"),
            (i64::MAX, "2562047h47m16.854775807s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(GoDuration::from_nanos(value).to_string(), want);
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(value: i64) {
            // The fraction is read through floating point, exact up to 2^53 nanoseconds of one part.
            let text = GoDuration::from_nanos(value).to_string();
            prop_assert_eq!(nanos(&text), value);
        }

        #[test]
        fn any_text_is_taken_or_refused(text in ".{0,40}") {
            let _ = text.parse::<GoDuration>();
        }

        #[test]
        fn any_number_is_taken_or_refused(text in "[-+]?[0-9.]{0,30}(ns|us|ms|s|m|h)[0-9.]{0,25}(ns|h)?") {
            let _ = text.parse::<GoDuration>();
        }
    }
}
