//! Where events may go: the peer's URL check, and what is stricter here (webhook.md section 4).
//!
//! Called before a URL is taken over, for every redirect, and with every address that a name resolved to. The metadata
//! services of clouds answer on link-local addresses to whoever can make a machine send a request; a webhook is such a
//! request.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::gourl;
use pilot_wire::goquote::quote;

/// Names of metadata services.
const METADATA_HOSTS: [&str; 5] = [
    "metadata.google.internal",
    "metadata.google.com",
    "ec2.internal",
    "instance-data-service.ec2.internal",
    "metadata.azure.com",
];

/// The check: everything the peer refuses, and the forms that reach the same targets by another spelling.
///
/// # Errors
/// The peer's text.
pub fn check(url: &str) -> Result<(), String> {
    check_as_the_peer(url)?;
    let Ok(parsed) = gourl::parse(url) else { return Ok(()) };
    let written = parsed.host.as_str();
    let host = without_zone(written).trim_end_matches('.');
    check_host(host, written)?;
    match numeric_address(host).map(IpAddr::V4) {
        Some(address) if is_link_local(address) => Err(link_local(written)),
        _ => Ok(()),
    }
}

/// The Go peer's check, in its order, with its texts.
///
/// # Errors
/// The text of the first check that fails.
pub fn check_as_the_peer(url: &str) -> Result<(), String> {
    let parsed = gourl::parse(url).map_err(|cause| format!("invalid URL: {cause}"))?;
    if !matches!(parsed.scheme.as_str(), "http" | "https") {
        return Err(format!("URL must use http or https scheme, got {}", quote(&parsed.scheme)));
    }
    let host = without_zone(&parsed.host);
    if host.is_empty() {
        return Err("URL must have a host".into());
    }
    check_host(host, host)
}

/// Whether an address is link-local, unicast or multicast, in whatever form it is embedded.
pub fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local() || matches!(v4.octets(), [224, 0, 0, _]),
        IpAddr::V6(v6) => match embedded(v6) {
            Some(v4) => is_link_local(IpAddr::V4(v4)),
            None => {
                v6.is_unicast_link_local() || matches!(v6.octets(), [0xff, scope, ..] if scope & 0x0f == 2)
            }
        },
    }
}

/// The IPv4 address inside an IPv6 one: mapped, compatible, or behind the well-known translation prefix.
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => {}
        // `::` and `::1` are not embedded addresses.
        [0, 0, 0, 0, 0, 0, high, _] if high != 0 => {}
        _ => return None,
    }
    let [.., a, b, c, d] = v6.octets();
    Some(Ipv4Addr::new(a, b, c, d))
}

fn check_host(host: &str, written: &str) -> Result<(), String> {
    if host.parse().is_ok_and(is_link_local) {
        return Err(link_local(written));
    }
    if METADATA_HOSTS.contains(&host.to_lowercase().as_str()) {
        return Err(format!("URL cannot target cloud metadata endpoint {written}"));
    }
    Ok(())
}

fn link_local(host: &str) -> String {
    format!("URL cannot target link-local address {host}")
}

fn without_zone(host: &str) -> &str {
    host.split_once('%').map_or(host, |(address, _)| address)
}

/// An IPv4 address in the old notations that resolvers still take: one to four parts, each decimal, octal (`0` in
/// front) or hexadecimal (`0x` in front), the last one filling the remaining bytes.
fn numeric_address(host: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u32> = host.split('.').map(numeric_part).collect::<Option<_>>()?;
    let (last, front) = parts.split_last()?;
    if front.len() > 3 || front.iter().any(|part| *part > 0xff) {
        return None;
    }
    let free_bits = 32 - 8 * front.len() as u32;
    if u64::from(*last) >= 1 << free_bits {
        return None;
    }
    let upper = front.iter().enumerate().fold(0, |sum, (i, part)| sum | part << (24 - 8 * i));
    Some(Ipv4Addr::from(upper | last))
}

fn numeric_part(part: &str) -> Option<u32> {
    let lower = part.to_ascii_lowercase();
    let (digits, base) = match lower.strip_prefix("0x") {
        Some(hex) => (hex, 16),
        None if lower.len() > 1 && lower.starts_with('0') => (&lower[1..], 8),
        None => (lower.as_str(), 10),
    };
    // `from_str_radix` would take a sign.
    if digits.starts_with('+') { None } else { u32::from_str_radix(digits, base).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_bug_other_spellings_reach_a_forbidden_target() {
        for host in [
            "2852039166",
            "0xa9fea9fe",
            "0251.0376.0251.0376",
            "169.254.43518",
            "169.16689662",
            "0xa9.0xfe.169.254",
            "169.254.169.254.",
            "[::a9fe:a9fe]",
            "[64:ff9b::a9fe:a9fe]",
            "[::ffff:a9fe:a9fe]",
            "224.1",
            "metadata.google.internal.",
            "METADATA.azure.com.",
        ] {
            assert!(check(&format!("http://{host}/")).is_err(), "{host}");
        }
    }

    #[test]
    fn what_the_peer_allows_is_allowed() {
        for host in [
            "127.0.0.1:9",
            "localhost",
            "10.0.0.5",
            "[::1]",
            "[::]",
            "192.168.0.1",
            "225.0.0.1",
            "example.com.",
            "x.metadata.google.internal",
            "1.2.3.4.5",
            "0x.example",
            "4294967296",
            "256.1.1.1",
            "+2852039166",
        ] {
            assert_eq!(check(&format!("http://{host}/")), Ok(()), "{host}");
        }
    }

    #[test]
    fn zones_do_not_hide_an_address() {
        assert!(check_as_the_peer("http://[fe80::1%25eth0]/").is_err());
        assert!(check_as_the_peer("http://[ff12::1]/").is_err());
        assert!(check_as_the_peer("http://[ff15::1]/").is_ok());
    }
}
