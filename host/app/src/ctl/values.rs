//! Values on the command line and on the screen: durations, byte counts, times.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pilot_wire::goduration::GoDuration;
use serde_json::Value;

/// A duration in Go form (`30s`, `1m30s`, `250ms`) or a plain number of seconds (cli.md section 1).
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no duration: write it like 30s, 1m30s or 250ms");
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| bad());
    }
    let parsed: GoDuration = text.parse().map_err(|_| bad())?;
    Duration::try_from(parsed).map_err(|_| bad())
}

/// A duration as the Go tool prints it, for messages such as `no response within 30s`.
pub(super) fn go_duration(d: Duration) -> String {
    GoDuration::from(d).to_string()
}

/// Milliseconds for JSON, to the microsecond.
pub(super) fn ms(d: Duration) -> f64 {
    rounded(d.as_secs_f64() * 1e3)
}

/// A measured value without digits that mean nothing.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// A byte count for people.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Seconds for people: `3d 4h`, `2h 5m`, `42s`.
pub(super) fn uptime(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    match (s / 86_400, s / 3600 % 24, s / 60 % 60, s % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m {s}s"),
        (0, h, m, _) => format!("{h}h {m}m"),
        (d, h, _, _) => format!("{d}d {h}h"),
    }
}

/// How long something took, for people: `2m 5s`, `4.21 s`, `12.3 ms`.
pub(super) fn took(d: Duration) -> String {
    match d.as_secs_f64() {
        s if s >= 60.0 => uptime(s),
        s if s >= 1.0 => format!("{s:.2} s"),
        s => format!("{:.1} ms", s * 1e3),
    }
}

/// Unix seconds as local time.
pub(super) fn local_time(unix: i64) -> String {
    match Timestamp::from_second(unix) {
        Ok(t) if unix != 0 => t.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        _ => "-".to_owned(),
    }
}

/// A moment on the command line: RFC 3339, or a duration back from now.
pub(super) fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    let back = duration(text)
        .map_err(|_| format!("{text:?} is neither a time (2026-01-31T12:00:00Z) nor a duration (2h)"))?;
    let back = jiff::SignedDuration::try_from(back).map_err(|e| e.to_string())?;
    Timestamp::now().checked_sub(back).map_err(|e| e.to_string())
}

/// A member as an unsigned number; fractions are cut, anything else is 0.
pub(super) fn number(object: &Value, key: &str) -> u64 {
    let value = &object[key];
    value.as_u64().unwrap_or_else(|| value.as_f64().unwrap_or(0.0).max(0.0) as u64)
}

/// A member as text, or empty.
pub(super) fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}

/// A list member; Go daemons write `null` for an empty one.
pub(super) fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object[key].as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in
            [("30s", 30_000), ("1m30s", 90_000), ("250ms", 250), ("5", 5000), ("0.5", 500), ("0", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "x", "-1s", "-3", "1 s", "inf", "NaN", "1e300"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(go_duration(Duration::from_secs(90)), "1m30s");
    }

    #[test]
    fn for_people() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(100 << 20), "100.0 MiB");
        assert_eq!(uptime(59.9), "59s");
        assert_eq!(uptime(7500.0), "2h 5m");
        assert_eq!(uptime(300_000.0), "3d 11h");
        assert_eq!(local_time(0), "-");
        let times = [61_000, 1_500, 12].map(|ms| took(Duration::from_millis(ms)));
        assert_eq!(times, ["1m 1s", "1.50 s", "12.0 ms"]);
    }
}
