//! Which URLs a blueprint may name (blueprint.md section 1, "URL check").
//!
//! The generic syntax is taken apart the way the peer's standard library does, so that both refuse the same texts and see
//! the same host; browsers' URL rules differ in just the cases that matter here. Names are not resolved.

use std::net::{IpAddr, Ipv6Addr};

use crate::goquote::quote;

/// Hosts that hand out a machine's credentials in the large clouds.
const METADATA_HOSTS: [&str; 5] = [
    "metadata.google.internal",
    "metadata.google.com",
    "ec2.internal",
    "instance-data-service.ec2.internal",
    "metadata.azure.com",
];

/// Accepts http and https URLs whose host is not link-local and not a cloud's metadata service. Loopback and private
/// addresses pass.
///
/// # Errors
/// [`UrlError`].
pub fn check_url(url: &str) -> Result<(), UrlError> {
    let parsed = parse(url).map_err(|detail| UrlError::Unparsable { detail })?;
    if !matches!(parsed.scheme.as_str(), "http" | "https") {
        return Err(UrlError::Scheme { scheme: parsed.scheme });
    }
    let host = host_name(&parsed.host);
    if host.is_empty() {
        return Err(UrlError::NoHost);
    }
    let address = host.split('%').next().unwrap_or_default().parse::<IpAddr>();
    if address.is_ok_and(is_link_local) {
        return Err(UrlError::LinkLocal { host: host.to_owned() });
    }
    if METADATA_HOSTS.iter().any(|name| name.eq_ignore_ascii_case(host)) {
        return Err(UrlError::Metadata { host: host.to_owned() });
    }
    Ok(())
}

/// 169.254/16, fe80::/10, 224.0.0/24, and multicast of link-local scope with any flags; also as IPv4-mapped IPv6.
fn is_link_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local() || matches!(ip.octets(), [224, 0, 0, _]),
        IpAddr::V6(ip) => {
            ip.is_unicast_link_local()
                || matches!(ip.octets(), [0xFF, flags_scope, ..] if flags_scope & 0x0F == 2)
        }
    }
}

struct Url {
    /// Lower case; empty when there is none.
    scheme: String,
    /// With port and brackets, percent-decoded.
    host: String,
}

type Detail = &'static str;

fn parse(url: &str) -> Result<Url, Detail> {
    let (url, fragment) = url.split_once('#').unwrap_or((url, ""));
    if url.bytes().any(|b| b < 0x20 || b == 0x7F) {
        return Err("invalid control character in URL");
    }
    check_escapes(fragment)?;
    let (scheme, rest) = split_scheme(url)?;
    let rest = rest.split_once('?').map_or(rest, |(path, _query)| path);
    let no_host = |scheme: &str| Ok(Url { scheme: scheme.to_ascii_lowercase(), host: String::new() });
    if !rest.starts_with('/') {
        let first_segment = rest.split('/').next().unwrap_or_default();
        return match scheme {
            "" if first_segment.contains(':') => Err("first path segment in URL cannot contain colon"),
            "" => check_escapes(rest).and_then(|()| no_host(scheme)),
            _ => no_host(scheme),
        };
    }
    let authority = rest.strip_prefix("//").filter(|_| !scheme.is_empty() || !rest.starts_with("///"));
    let Some(authority) = authority else { return check_escapes(rest).and_then(|()| no_host(scheme)) };
    let (authority, path) = authority.split_at(authority.find('/').unwrap_or(authority.len()));
    let host = parse_authority(authority)?;
    check_escapes(path)?;
    Ok(Url { scheme: scheme.to_ascii_lowercase(), host })
}

/// Scheme and what follows its colon; an empty scheme when the text does not start with one.
fn split_scheme(url: &str) -> Result<(&str, &str), Detail> {
    for (i, b) in url.bytes().enumerate() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if i > 0 => {}
            b':' if i == 0 => return Err("missing protocol scheme"),
            b':' => return Ok((&url[..i], &url[i + 1..])),
            _ => return Ok(("", url)),
        }
    }
    Ok(("", url))
}

fn parse_authority(authority: &str) -> Result<String, Detail> {
    let Some((user, host)) = authority.rsplit_once('@') else { return parse_host(authority) };
    let host = parse_host(host)?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b);
    if !user.bytes().all(allowed) {
        return Err("invalid userinfo");
    }
    check_escapes(user)?;
    Ok(host)
}

fn parse_host(host: &str) -> Result<String, Detail> {
    if !host.starts_with('[') {
        if let Some(colon) = host.rfind(':') {
            check_port(&host[colon..])?;
        }
        return unescape(host, EscapesIn::Host);
    }
    let (literal, port) = host.split_at(host.rfind(']').ok_or("missing ']' in host")?);
    check_port(&port[1..])?;
    // An IPv6 zone is behind an escaped percent sign and may hold more escapes than a host.
    let decoded = match literal.find("%25") {
        Some(zone) => {
            unescape(&literal[..zone], EscapesIn::Host)? + &unescape(&literal[zone..], EscapesIn::Zone)?
        }
        None => unescape(literal, EscapesIn::Host)?,
    };
    let (address, zone) = decoded[1..].split_once('%').map_or((&decoded[1..], None), |(a, z)| (a, Some(z)));
    if address.parse::<Ipv6Addr>().is_err() || zone == Some("") {
        return Err("invalid IP literal");
    }
    Ok(decoded + port)
}

/// Nothing, or a colon and digits (perhaps none).
fn check_port(text: &str) -> Result<(), Detail> {
    match text.strip_prefix(':') {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Ok(()),
        None if text.is_empty() => Ok(()),
        _ => Err("invalid port after host"),
    }
}

/// The host without port and brackets.
fn host_name(host: &str) -> &str {
    let host = match host.rfind(':') {
        Some(colon) if check_port(&host[colon..]).is_ok() => &host[..colon],
        _ => host,
    };
    host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
}

#[derive(Clone, Copy, PartialEq)]
enum EscapesIn {
    /// Only bytes beyond ASCII, and the percent sign.
    Host,
    /// As a host's plain characters, and the percent sign and the space.
    Zone,
}

fn unescape(text: &str, place: EscapesIn) -> Result<String, Detail> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let byte = escaped_byte(tail)?;
            let allowed = match place {
                EscapesIn::Host => byte >= 0x80 || byte == b'%',
                EscapesIn::Zone => byte == b'%' || byte == b' ' || is_host_byte(byte),
            };
            if !allowed {
                return Err("invalid URL escape");
            }
            out.push(byte);
            rest = &tail[2..];
        } else {
            if !is_host_byte(*first) && *first < 0x80 {
                return Err("invalid character in host name");
            }
            out.push(*first);
            rest = tail;
        }
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// ASCII that may stand in a host without an escape.
fn is_host_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]<>\"".contains(&b)
}

/// Every percent sign must be followed by two hex digits.
fn check_escapes(text: &str) -> Result<(), Detail> {
    text.as_bytes().split(|b| *b == b'%').skip(1).try_for_each(|after| escaped_byte(after).map(drop))
}

fn escaped_byte(digits: &[u8]) -> Result<u8, Detail> {
    let text = digits
        .get(..2)
        .filter(|d| d.iter().all(u8::is_ascii_hexdigit))
        .and_then(|d| std::str::from_utf8(d).ok());
    text.and_then(|d| u8::from_str_radix(d, 16).ok()).ok_or("invalid URL escape")
}

/// Why a URL is refused: its author's fault. Texts as the Go peer's, up to `detail`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// Not a URL at all.
    #[error("invalid URL: {detail}")]
    Unparsable {
        /// What is wrong with it.
        detail: &'static str,
    },
    /// Neither http nor https.
    #[error("URL must use http or https scheme, got {}", quote(.scheme))]
    Scheme {
        /// The scheme in lower case, empty when there is none.
        scheme: String,
    },
    /// No host.
    #[error("URL must have a host")]
    NoHost,
    /// An address that is only valid on the local link.
    #[error("URL cannot target link-local address {host}")]
    LinkLocal {
        /// The host without brackets.
        host: String,
    },
    /// A cloud's metadata service.
    #[error("URL cannot target cloud metadata endpoint {host}")]
    Metadata {
        /// The host.
        host: String,
    },
}
