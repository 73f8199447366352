//! URLs as the Go peer reads them: what parses, what the host is, and the texts of what does not parse (webhook.md
//! section 4).
//!
//! Called by `target`. Browser-style URL libraries are no help here: they repair what the peer refuses and rewrite hosts
//! before anybody has looked at them. This reads scheme, authority and escapes; it builds no URL and resolves nothing.

use pilot_wire::goquote::{quote, quote_bytes};

/// The parts the checks look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoUrl {
    /// Lower-cased; empty without one.
    pub scheme: String,
    /// Without port and brackets, escapes resolved; a zone is still there.
    pub host: String,
}

/// Reads a URL; the error is the peer's whole text, `parse "<url>": <reason>`.
pub fn parse(raw: &str) -> Result<GoUrl, String> {
    let (url, fragment) = raw.split_once('#').unwrap_or((raw, ""));
    read(url).map_err(|reason| format!("parse {}: {reason}", quote(url))).and_then(|parsed| {
        match unescape(fragment.as_bytes(), Part::Other) {
            Ok(_) => Ok(parsed),
            Err(reason) => Err(format!("parse {}: {reason}", quote(raw))),
        }
    })
}

fn read(url: &str) -> Result<GoUrl, String> {
    if url.bytes().any(|b| b < b' ' || b == 0x7f) {
        return Err("net/url: invalid control character in URL".into());
    }
    let (scheme, rest) = split_scheme(url)?;
    let scheme = scheme.to_ascii_lowercase();
    let rest = rest.split_once('?').map_or(rest, |(before, _)| before);
    let no_host = |scheme| GoUrl { scheme, host: String::new() };
    if url == "*" {
        return Ok(no_host(scheme));
    }
    if !rest.starts_with('/') {
        if !scheme.is_empty() {
            return Ok(no_host(scheme));
        }
        let first = rest.split_once('/').map_or(rest, |(first, _)| first);
        if first.contains(':') {
            return Err("first path segment in URL cannot contain colon".into());
        }
    }
    let mut host = Vec::new();
    let mut path = rest;
    if (!scheme.is_empty() || !rest.starts_with("///"))
        && let Some(authority) = rest.strip_prefix("//")
    {
        let end = authority.find('/').unwrap_or(authority.len());
        host = read_authority(&authority[..end])?;
        path = &authority[end..];
    }
    unescape(path.as_bytes(), Part::Other)?;
    Ok(GoUrl { scheme, host: hostname(&String::from_utf8_lossy(&host)).to_owned() })
}

/// The scheme and what follows its colon; an empty scheme where there is none.
fn split_scheme(url: &str) -> Result<(&str, &str), String> {
    for (i, b) in url.bytes().enumerate() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if i > 0 => {}
            b':' if i == 0 => return Err("missing protocol scheme".into()),
            b':' => return Ok((&url[..i], &url[i + 1..])),
            _ => return Ok(("", url)),
        }
    }
    Ok(("", url))
}

/// User information, checked and dropped, and the host with its port.
fn read_authority(authority: &str) -> Result<Vec<u8>, String> {
    let Some((user, host)) = authority.rsplit_once('@') else { return read_host(authority) };
    let host = read_host(host)?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b);
    if !user.bytes().all(allowed) {
        return Err("net/url: invalid userinfo".into());
    }
    unescape(user.as_bytes(), Part::Other)?;
    Ok(host)
}

fn read_host(host: &str) -> Result<Vec<u8>, String> {
    if host.contains('[') {
        let end = host.rfind(']').ok_or("missing ']' in host")?;
        check_port(&host[end + 1..])?;
        if let Some(zone) = host[..end].find("%25") {
            // A zone may hold escapes that a host may not.
            let mut read = unescape(&host.as_bytes()[..zone], Part::Host)?;
            read.extend(unescape(&host.as_bytes()[zone..end], Part::Zone)?);
            read.extend(unescape(&host.as_bytes()[end..], Part::Host)?);
            return Ok(read);
        }
    } else if let Some(colon) = host.rfind(':') {
        check_port(&host[colon..])?;
    }
    unescape(host.as_bytes(), Part::Host)
}

/// Nothing, or a colon and digits (also none).
fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()))
}

fn check_port(text: &str) -> Result<(), String> {
    if is_port(text) { Ok(()) } else { Err(format!("invalid port {} after host", quote(text))) }
}

/// The host of an authority: port and brackets removed.
fn hostname(host: &str) -> &str {
    let host = match host.rfind(':') {
        Some(colon) if is_port(&host[colon..]) => &host[..colon],
        _ => host,
    };
    host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Host,
    Zone,
    Other,
}

/// Resolves `%XX`, as strictly as the part of the URL asks for.
fn unescape(text: &[u8], part: Part) -> Result<Vec<u8>, String> {
    let wrong_escape = |at: usize| {
        let end = (at + 3).min(text.len());
        format!("invalid URL escape {}", quote_bytes(text.get(at..end).unwrap_or_default()))
    };
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&b) = text.get(at) {
        if b != b'%' {
            if part != Part::Other && b.is_ascii() && !allowed_in_host(b) {
                return Err(format!("invalid character {} in host name", quote_bytes(&[b])));
            }
            out.push(b);
            at += 1;
            continue;
        }
        let digit = |i: usize| text.get(i).and_then(|d| char::from(*d).to_digit(16));
        let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else { return Err(wrong_escape(at)) };
        // Two hex digits fit in a byte.
        let value = (high * 16 + low) as u8;
        let is_percent = text.get(at..at + 3) == Some(b"%25");
        let refused = match part {
            // Only what cannot be written otherwise may be escaped in a host.
            Part::Host => high < 8 && !is_percent,
            Part::Zone => !is_percent && value != b' ' && !allowed_in_host(value),
            Part::Other => false,
        };
        if refused {
            return Err(wrong_escape(at));
        }
        out.push(value);
        at += 3;
    }
    Ok(out)
}

fn allowed_in_host(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]<>\"".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found() {
        for (url, host) in [
            ("http://example.com/hook", "example.com"),
            ("HTTPS://EXAMPLE.com:8443", "EXAMPLE.com"),
            ("http://u:p@w@h:80/", "h"),
            ("http://[fe80::1]:80/", "fe80::1"),
            ("http://[fe80::1%25eth0]/", "fe80::1%eth0"),
            ("http://h:/", "h"),
            ("http://%e4%b8%ad/", "中"),
            ("http:///path", ""),
            ("http:opaque", ""),
            ("http:", ""),
            ("http://?q", ""),
            ("http://h?x=//other/", "h"),
        ] {
            assert_eq!(parse(url).expect(url).host, host, "{url}");
        }
        assert_eq!(parse("").expect("nothing is wrong with it").scheme, "");
        assert_eq!(parse("HTTP://h").expect("fine").scheme, "http");
        assert_eq!(parse("//h/p").expect("fine").scheme, "");
    }

    #[test]
    fn refusals_have_the_peers_texts() {
        for (url, reason) in [
            ("http://example.com/%ZZ", "invalid URL escape \"%ZZ\""),
            ("http://example.com/%4", "invalid URL escape \"%4\""),
            ("http://exa mple.com/", "invalid character \" \" in host name"),
            ("http://h%41/", "invalid URL escape \"%41\""),
            ("http://[::1/", "missing ']' in host"),
            ("http://h:8x/", "invalid port \":8x\" after host"),
            ("http://[::1]8/", "invalid port \"8\" after host"),
            ("http://a b@h/", "net/url: invalid userinfo"),
            (":x", "missing protocol scheme"),
            (" http://h/", "first path segment in URL cannot contain colon"),
            ("http://h/\n", "net/url: invalid control character in URL"),
        ] {
            assert_eq!(parse(url), Err(format!("parse {}: {reason}", quote(url))), "{url}");
        }
        assert_eq!(parse("http://h/#%zz"), Err("parse \"http://h/#%zz\": invalid URL escape \"%zz\"".into()));
    }
}
