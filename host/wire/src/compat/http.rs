//! The HTTP/1.1 head in front of a WebSocket: what a beacon answers to which request, byte for byte (wss.md section 1).
//!
//! [`Head::parse`] takes a head apart; [`answer`] is the beacon's whole decision; [`upgrade_request`] and
//! [`check_upgrade`] are the client's side. Bodies are never read: no request of this protocol has one. A `Date` header
//! is not written, as HTTP allows a server without a clock.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{HEALTH_PATH, PATH, SUBPROTOCOL};

/// Longest head that is read, bytes; a longer one ends the connection.
pub const MAX_HEAD: usize = 16 << 10;

/// First line and headers of a request or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The three parts of the first line: method, target, version; or version, status, reason.
    pub start: [String; 3],
    headers: Vec<(String, String)>,
}

/// A head that is not HTTP.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an HTTP/1 head: {0}")]
pub struct HeadError(&'static str);

/// Where the head in `bytes` ends (behind its empty line), if it is complete.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

impl Head {
    /// Takes a complete head apart.
    ///
    /// # Errors
    /// When it is not ASCII or has a line that is no header.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeadError> {
        let text = std::str::from_utf8(bytes).map_err(|_| HeadError("bytes that are no text"))?;
        let mut lines = text.split("\r\n");
        let mut parts = lines.next().unwrap_or_default().splitn(3, ' ').map(str::to_owned);
        let mut part = || parts.next().filter(|p| !p.is_empty());
        let (Some(first), Some(second)) = (part(), part()) else {
            return Err(HeadError("its first line has not three words"));
        };
        let start = [first, second, part().unwrap_or_default()];
        let mut headers = Vec::new();
        for line in lines.filter(|l| !l.is_empty()) {
            let (name, value) = line.split_once(':').ok_or(HeadError("a header without a colon"))?;
            if name.is_empty() || name.contains([' ', '\t']) {
                return Err(HeadError("a header whose name has spaces"));
            }
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        Ok(Self { start, headers })
    }

    /// Every value of a header, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The first value of a header, or nothing.
    pub fn first(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    /// Whether a header that is a list has `token`, in any of its lines and any case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.tokens(name).any(|t| t.eq_ignore_ascii_case(token))
    }

    fn tokens<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.all(name).flat_map(|v| v.split(',')).map(str::trim)
    }

    /// Whether the connection ends behind the answer: asked for, or because a body we do not read would follow.
    pub fn is_last(&self) -> bool {
        self.has_token("Connection", "close")
            || self.start[2] != "HTTP/1.1"
            || !matches!(self.first("Content-Length"), "" | "0")
            || self.all("Transfer-Encoding").next().is_some()
    }
}

/// What a beacon answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Send this; when `keep` the next request may follow on the same connection.
    Plain {
        /// The whole answer.
        bytes: Vec<u8>,
        /// Whether the connection stays.
        keep: bool,
    },
    /// A sound upgrade: send [`upgrade_answer`] with the accept value of this key, then speak WebSocket.
    Upgrade {
        /// `Sec-WebSocket-Key` of the request.
        key: String,
        /// The subprotocol to name, in the client's spelling.
        subprotocol: Option<String>,
    },
}

/// The beacon's decision on a request; `full`: the configured number of clients is reached.
pub fn answer(head: &Head, full: bool) -> Answer {
    let keep = !head.is_last();
    let path = head.start[1].split('?').next().unwrap_or_default();
    let plain = |status: &str, extra: &[(&str, &str)], body: &str| Answer::Plain {
        bytes: plain_answer(status, extra, body, keep),
        keep,
    };
    if head.start[2] == "HTTP/1.1" && head.all("Host").count() != 1 {
        return plain("400 Bad Request", &[], "missing required Host header");
    }
    match path {
        HEALTH_PATH => {
            let end = if keep { "" } else { "Connection: close\r\n" };
            return Answer::Plain {
                bytes: format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{end}\r\n").into_bytes(),
                keep,
            };
        }
        PATH => {}
        _ => return plain("404 Not Found", &[], "404 page not found"),
    }
    if full {
        return plain("503 Service Unavailable", &[], "wss: at capacity");
    }
    match refusal(head) {
        Some((status, extra, body)) => plain(status, extra, &body),
        None => Answer::Upgrade {
            key: head.first("Sec-WebSocket-Key").to_owned(),
            subprotocol: head
                .tokens("Sec-WebSocket-Protocol")
                .find(|t| t.eq_ignore_ascii_case(SUBPROTOCOL))
                .map(str::to_owned),
        },
    }
}

type Refusal = (&'static str, &'static [(&'static str, &'static str)], String);

/// Why a request for the WebSocket is no sound upgrade, in the order in which the Go peer looks.
fn refusal(head: &Head) -> Option<Refusal> {
    const VIOLATION: &str = "WebSocket protocol violation:";
    const UPGRADE: &[(&str, &str)] = &[("Connection", "Upgrade"), ("Upgrade", "websocket")];
    let [method, _, version] = &head.start;
    let upgrade = |body: String| Some(("426 Upgrade Required", UPGRADE, body));
    let bad = |body: String| Some(("400 Bad Request", &[] as &[_], body));
    if version != "HTTP/1.1" {
        return upgrade(format!("{VIOLATION} handshake request must be at least HTTP/1.1: {version:?}"));
    }
    if !head.has_token("Connection", "Upgrade") {
        let found = head.first("Connection");
        return upgrade(format!("{VIOLATION} Connection header {found:?} does not contain Upgrade"));
    }
    if !head.has_token("Upgrade", "websocket") {
        let found = head.first("Upgrade");
        return upgrade(format!("{VIOLATION} Upgrade header {found:?} does not contain websocket"));
    }
    if method != "GET" {
        let body = format!("{VIOLATION} handshake request method is not GET but {method:?}");
        return Some(("405 Method Not Allowed", &[], body));
    }
    let version = head.first("Sec-WebSocket-Version");
    if version != "13" {
        let body = format!("unsupported WebSocket protocol version (only 13 is supported): {version:?}");
        return Some(("400 Bad Request", &[("Sec-Websocket-Version", "13")], body));
    }
    let keys: Vec<_> = head.all("Sec-WebSocket-Key").collect();
    match keys.as_slice() {
        [] => return bad(format!("{VIOLATION} missing Sec-WebSocket-Key")),
        [key] if STANDARD.decode(key).is_ok_and(|k| k.len() == 16) => {}
        [key] => {
            return bad(format!(
                "{VIOLATION} invalid Sec-WebSocket-Key {key:?}, must be 16 byte base64 encoded string"
            ));
        }
        _ => return bad(format!("{VIOLATION} multiple Sec-WebSocket-Key headers")),
    }
    let (origin, host) = (head.first("Origin"), head.first("Host"));
    if origin.is_empty() {
        return None;
    }
    let (scheme, rest) = origin.split_once("://").unwrap_or(("", ""));
    let from = rest.split('/').next().unwrap_or_default();
    let known = from.eq_ignore_ascii_case(host) || scheme.eq_ignore_ascii_case("pilot");
    let body = || format!("request Origin {from:?} is not authorized for Host {host:?}");
    (!known).then(|| ("403 Forbidden", &[] as &[_], body()))
}

/// An answer with a line of text, its headers in the order of the Go peer.
fn plain_answer(status: &str, extra: &[(&str, &str)], body: &str, keep: bool) -> Vec<u8> {
    let mut headers =
        vec![("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff")];
    // A connection that ends says so in its last line, and nothing else under that name.
    headers.extend(extra.iter().filter(|(name, _)| keep || *name != "Connection"));
    headers.sort_unstable();
    let mut text = format!("HTTP/1.1 {status}\r\n");
    for (name, value) in headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    let _ = write!(text, "Content-Length: {}\r\n", body.len() + 1);
    text.push_str(if keep { "\r\n" } else { "Connection: close\r\n\r\n" });
    text.push_str(body);
    text.push('\n');
    text.into_bytes()
}

/// The answer to what is no HTTP head, or too long a one; the connection ends behind it.
pub fn malformed_answer() -> Vec<u8> {
    plain_answer("400 Bad Request", &[], "malformed HTTP request", false)
}

/// The answer that begins the WebSocket. `accept` is the base64 of what RFC 6455 makes of the key.
pub fn upgrade_answer(accept: &str, subprotocol: Option<&str>) -> Vec<u8> {
    let mut text = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nSec-Websocket-Accept: {accept}\r\n"
    );
    if let Some(name) = subprotocol {
        let _ = write!(text, "Sec-Websocket-Protocol: {name}\r\n");
    }
    text.push_str("Upgrade: websocket\r\n\r\n");
    text.into_bytes()
}

/// A client's request for the WebSocket. `key` is the base64 of 16 random bytes.
pub fn upgrade_request(authority: &str, path: &str, key: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    )
    .into_bytes()
}

/// The request of the liveness check of `transport = auto` (wss.md section 7): only a 426 counts as an answer.
pub fn check_request(host: &str, path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: pilot-daemon/transport-auto\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}

/// A client's request to a proxy, by name.
pub fn connect_request(host: &str, port: u16) -> Vec<u8> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n").into_bytes()
}

/// Whether the beacon's answer begins a WebSocket. `accept` as for [`upgrade_answer`].
///
/// # Errors
/// What is wrong with the answer, for people.
pub fn check_upgrade(head: &Head, accept: &str) -> Result<(), String> {
    let [_, status, reason] = &head.start;
    if status != "101" {
        return Err(format!("the beacon answered {status} {reason} instead of switching to WebSocket"));
    }
    if !head.has_token("Connection", "Upgrade") || !head.has_token("Upgrade", "websocket") {
        return Err("the answer's Connection and Upgrade headers do not name a WebSocket".into());
    }
    if head.first("Sec-WebSocket-Accept") != accept {
        return Err("the answer's Sec-WebSocket-Accept does not belong to our key".into());
    }
    if let Some(other) = head.all("Sec-WebSocket-Protocol").find(|p| !p.eq_ignore_ascii_case(SUBPROTOCOL)) {
        return Err(format!("the beacon chose the subprotocol {other:?}, which was not offered"));
    }
    if head.all("Sec-WebSocket-Extensions").next().is_some() {
        return Err("the beacon chose an extension, and none was offered".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(request: &str, full: bool) -> String {
        match answer(&Head::parse(request.as_bytes()).unwrap(), full) {
            Answer::Plain { bytes, .. } => String::from_utf8(bytes).unwrap()[9..12].to_owned(),
            Answer::Upgrade { .. } => "101".to_owned(),
        }
    }

    #[test]
    fn every_request_has_its_status() {
        let good = "GET /v1/compat HTTP/1.1\r\nHost: b:1\r\nConnection: keep-alive, upgrade\r\nUpgrade: WebSocket\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let with = |from: &str, to: &str| good.replacen(from, to, 1) + "\r\n";
        for (request, want) in [
            (with("", ""), "101"),
            (with("GET", "POST"), "405"),
            (with("HTTP/1.1", "HTTP/1.0"), "426"),
            (with("upgrade", "x"), "426"),
            (with("WebSocket\r", "h2c\r"), "426"),
            (with("13", "12"), "400"),
            (with("Sec-WebSocket-Key", "X"), "400"),
            (with("ZQ==", "ZQ="), "400"),
            (with("Host: b:1", "X: y"), "400"),
            (with("Upgrade:", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nUpgrade:"), "400"),
            (with("Upgrade:", "Origin: https://B:1\r\nUpgrade:"), "101"),
            (with("Upgrade:", "Origin: pilot://any\r\nUpgrade:"), "101"),
            (with("Upgrade:", "Origin: null\r\nUpgrade:"), "403"),
            (with("/v1/compat", "/health"), "200"),
            (with("/v1/compat", "/v1"), "404"),
        ] {
            assert_eq!(status(&request, false), want, "{request}");
        }
        assert_eq!(status(&with("", ""), true), "503");
    }

    #[test]
    fn a_client_checks_what_it_gets() {
        let check = |text: &str| check_upgrade(&Head::parse(text.as_bytes()).unwrap(), "abc=");
        let own = String::from_utf8(upgrade_answer("abc=", Some("pilot.v1"))).unwrap();
        check(&own).unwrap();
        check(&own.replace("Sec-Websocket-Protocol: pilot.v1\r\n", "")).unwrap();
        check(&own.replace("pilot.v1", "chat")).unwrap_err();
        check(&own.replace("abc=", "xyz=")).unwrap_err();
        check(&own.replace("101 Switching Protocols", "503 Busy")).unwrap_err();
    }
}
