//! What differs from run to run, replaced by rule: members of JSON by their name, everything else by its form. Where the
//! form has a fixed width, so has what replaces it, and columns stay where they were.

use std::path::Path;

use regex::Regex;
use serde_json::Value;

/// Members that hold a moment. Zero and empty stay: they mean "none".
const TIMES: [&str; 17] = [
    "added_at",
    "approved_at",
    "at",
    "created",
    "created_at",
    "expires_at_unix",
    "joined_at",
    "key_created_at",
    "key_rotated_at",
    "last_seen",
    "last_seen_unix",
    "last_sync",
    "modified",
    "next",
    "received_at",
    "timestamp",
    "unix_ms",
];

/// Members that count or measure what this run happened to do.
const COUNTS: [&str; 40] = [
    "accept_queue_drops",
    "bytes_recv",
    "bytes_sent",
    "cong_win",
    "connections",
    "dropped_events",
    "dup_acks",
    "event_id",
    "fast_retx",
    "in_flight",
    "key_age_days",
    "conn_id",
    "last_heard",
    "local_port",
    "loss",
    "mapped_copies",
    "ooo_buf",
    "peer_recv_win",
    "pid",
    "pkts_recv",
    "pkts_sent",
    "polo_score",
    "recv_win",
    "rekeys",
    "relay_peer_count",
    "reconnects",
    "retransmits",
    "rto",
    "sack_recv",
    "sack_sent",
    "segs_recv",
    "segs_sent",
    "seqno",
    "src_port",
    "ssthresh",
    "state_bytes",
    "tunnel_encryption_failure",
    "tunnel_encryption_success",
    "unacked",
    "uptime_seconds",
];

/// Members that come a moment later than the rest, or depend on which way was faster.
const CHANCE: [&str; 3] = ["had_tunnel", "pila_pushed", "public_key"];

/// Columns of tables that hold such values.
const COLUMNS: [&str; 9] =
    ["ID", "LAST HEARD", "LOSS", "PORT", "RECEIVED", "REKEYS", "RESENT", "RTT", "SENT"];

/// The rules of one session.
pub struct Rules {
    forms: Vec<(Regex, String)>,
}

impl Rules {
    /// For hosts whose files are below `dir`.
    pub fn new(dir: &Path) -> Rules {
        let dir = regex::escape(&dir.display().to_string());
        let version = regex::escape(env!("CARGO_PKG_VERSION"));
        let forms = [
            (dir.as_str(), "<dir>"),
            (r"/[^ ]*/(pilot-host|pilotctl)\b", "<bin>/$1"),
            (r"\b((?:127\.0\.0\.1|0\.0\.0\.0)):[1-9]\d{3,4}\b", "$1:<port>"),
            // A port of somebody's own choice behind an overlay address.
            (r"(\d:[0-9A-F]{4}\.[0-9A-F]{4}\.[0-9A-F]{4}):\d{5}\b", "$1:<port>"),
            (r"\b[0-9a-f]{64}\b", "<sha256>"),
            (r"\|\d{10}\|[0-9a-f]{16}\|", "|<seconds>|<nonce>|"),
            (r"[A-Za-z0-9+/]{86}==", "<signature>"),
            (r"[A-Za-z0-9+/]{43}=", "<key>"),
            (r"\b\d{8}-\d{6}\.\d{3}(-\d+)?", "<stamp>"),
            (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "<time>"),
            (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b", "YYYY-MM-DD hh:mm:ss"),
            (r"\b\d\d:\d\d:\d\d\.\d{3}\b", "hh:mm:ss.mmm"),
            (r"\bpid \d+", "pid <pid>"),
            (r"\b(process |Pid:\s*)\d+", "${1}<pid>"),
            // As wide as it is now.
            (r"\bv?VERSION(-[0-9a-z.]+)?\b", "V.V.V"),
            (r"\b(disconnect|connection) \d+\b", "$1 <n>"),
            (r"\bup \d+[smhd]( \d+[smhd])?", "up <time>"),
            (r"\b(sent|received) [0-9.]+ [KMGT]?i?B\b", "$1 <n>"),
            (r"^((?:Sent|Received):\s+)[0-9.]+ [KMGT]?i?B$", "$1<n>"),
            (r"\b\d\d:\d\d:\d\d ", "hh:mm:ss "),
            (r"\brustc \d[^ ]*( \([^)]*\))?", "rustc <version>"),
            (r"\b[0-9.]+ ([KMGT]i)?B/s", "<rate>"),
            (r"\b[0-9.]+ [KMGT]?i?B in \d+ packets", "<n> in <n> packets"),
            (r"\b\d+\.\d+ (ms|s)\b", "<time>"),
            (r"\b\d+ ms\b", "<time>"),
            (r"\b(min|avg|max) \d+\.\d+", "$1 <n>"),
            (r"(Uptime:\s+)\d+[smhd]( \d+[smhd])?", "$1<time>"),
            (r"((?:Connections|Mapped copies|Ports):\s+)\d+", "$1<n>"),
        ];
        let forms =
            forms.map(|(form, to)| (Regex::new(&form.replace("VERSION", &version)).unwrap(), to.to_owned()));
        Rules { forms: forms.into() }
    }

    /// One line of text.
    pub fn line(&self, line: &str) -> String {
        self.forms.iter().fold(line.to_owned(), |line, (form, to)| form.replace_all(&line, to).into_owned())
    }

    /// What a command said to a person.
    pub fn block(&self, text: &str) -> String {
        // The columns of numbers in the table of streams; elsewhere an id is a network.
        let streams = text.contains("REMOTE");
        let masked = |name: &str| COLUMNS.contains(&name) && (streams || !["ID", "PORT"].contains(&name));
        let Some(head) = text.lines().next().filter(|l| is_head(l)) else {
            return text.lines().map(|l| self.line(l)).collect::<Vec<_>>().join("\n");
        };
        let names = cells(head);
        let rows = text.lines().map(|line| {
            let mut row = cells(line);
            if row.len() == names.len() && !is_head(line) {
                for (cell, name) in row.iter_mut().zip(&names) {
                    if masked(name) {
                        *cell = "<n>".into();
                    }
                }
            }
            (line, self.line(&row.join("  ")))
        });
        let rows: Vec<(&str, String)> = rows.collect();
        // Widths are kept when nothing in the table has a width of its own.
        let steady = rows.iter().all(|(line, ruled)| {
            let same = self.line(line);
            same.chars().count() == line.chars().count() && cells(&same).join("  ") == *ruled
        });
        let shown = rows.into_iter().map(|(line, ruled)| if steady { self.line(line) } else { ruled });
        shown.collect::<Vec<_>>().join("\n")
    }

    /// One line of JSON: over several lines when it is long, so that a change shows where it is.
    pub fn json(&self, line: &str) -> String {
        let Ok(mut value) = serde_json::from_str::<Value>(line) else {
            return format!("NOT JSON: {}", self.line(line));
        };
        self.walk("", &mut value);
        let short = value.to_string();
        if short.chars().count() <= 110 { short } else { format!("{value:#}") }
    }

    fn walk(&self, key: &str, value: &mut Value) {
        let none = match value {
            Value::String(text) => text.is_empty(),
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::Null => true,
            _ => false,
        };
        if TIMES.contains(&key) && !none && (value.is_string() || value.is_number()) {
            *value = "<time>".into();
        } else if (COUNTS.contains(&key) || is_measure(key)) && value.is_number() {
            *value = "<n>".into();
        }
        if CHANCE.contains(&key) {
            *value = "<any>".into();
        }
        match value {
            Value::String(text) => *text = self.line(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.walk(key, item)),
            Value::Object(members) => {
                if members.contains_key("local_port") {
                    members.insert("id".into(), "<n>".into());
                }
                // An event: how many came before it is chance.
                if members.contains_key("topic") && members.contains_key("time") {
                    members.insert("seq".into(), "<n>".into());
                }
                members.iter_mut().for_each(|(key, member)| self.walk(key, member));
            }
            _ => {}
        }
    }
}

fn is_measure(key: &str) -> bool {
    ["_ms", "_mbps", "_secs", "_us", "_ns", "_win"].iter().any(|end| key.ends_with(end))
        && key != "max_skew_secs"
}

/// The head of a table: capitals only.
fn is_head(line: &str) -> bool {
    let capital = |c: char| c.is_ascii_uppercase() || matches!(c, ' ' | '/' | '-');
    line.trim().len() > 3 && line.chars().all(capital) && line.chars().any(|c| c.is_ascii_uppercase())
}

/// The cells of a row: what is two or more blanks apart.
fn cells(line: &str) -> Vec<String> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
}
