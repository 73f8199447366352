//! Which address the registry stores for a node: what it says, or where it was seen (registry.md section 4, "Stored
//! address").
//!
//! Called at registration and by heartbeats that carry an address. Resolves no names.

use std::net::{IpAddr, SocketAddr};

/// The address to store for a node that announced `listen` over a connection from `source`.
///
/// A public address or a name is believed; for anything that cannot be reached from elsewhere the connection's address
/// with the announced port is taken; a text that is no `host:port` is kept as it is.
pub(crate) fn observed(listen: &str, source: SocketAddr) -> String {
    let source = SocketAddr::new(source.ip().to_canonical(), source.port());
    if listen.is_empty() {
        return source.to_string();
    }
    let Some((host, port)) = split_host_port(listen) else { return listen.to_owned() };
    // A zone is only meaningful on the machine that wrote it, and comes with link-local addresses.
    let ip = host.split('%').next().unwrap_or(host).parse::<IpAddr>();
    let believed = match ip {
        Ok(ip) => is_public(ip.to_canonical()),
        Err(_) => !host.is_empty(),
    };
    if believed { listen.to_owned() } else { join_host_port(source.ip(), port) }
}

fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.is_unspecified() || ip.is_private() || ip.is_loopback() || ip.is_link_local()),
        IpAddr::V6(ip) => {
            !(ip.is_unspecified() || ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local())
        }
    }
}

/// Splits `host:port` or `[host]:port`; `None` when it is neither.
fn split_host_port(text: &str) -> Option<(&str, &str)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        (host, rest.strip_prefix(':')?)
    } else {
        text.split_once(':')?
    };
    let stray = |part: &str, bad: &[char]| part.contains(bad);
    if stray(port, &[':', '[', ']']) || stray(host, &['[', ']']) {
        return None;
    }
    Some((host, port))
}

fn join_host_port(ip: IpAddr, port: &str) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{ip}:{port}"),
        IpAddr::V6(ip) => format!("[{ip}]:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_address_follows_the_table() {
        let v4: SocketAddr = "198.51.100.7:5000".parse().unwrap();
        let cases = [
            ("", "198.51.100.7:5000"),
            ("203.0.113.9:4000", "203.0.113.9:4000"),
            ("host.example:4000", "host.example:4000"),
            (":4000", "198.51.100.7:4000"),
            ("0.0.0.0:4000", "198.51.100.7:4000"),
            ("[::]:4000", "198.51.100.7:4000"),
            ("10.1.2.3:4000", "198.51.100.7:4000"),
            ("172.16.0.1:4000", "198.51.100.7:4000"),
            ("192.168.1.1:4000", "198.51.100.7:4000"),
            ("127.0.0.1:4000", "198.51.100.7:4000"),
            ("169.254.1.1:4000", "198.51.100.7:4000"),
            ("[::1]:4000", "198.51.100.7:4000"),
            ("[fd00::1]:4000", "198.51.100.7:4000"),
            ("[fe80::1%eth0]:4000", "198.51.100.7:4000"),
            ("[::ffff:10.0.0.1]:4000", "198.51.100.7:4000"),
            ("[2001:db8::1]:4000", "[2001:db8::1]:4000"),
            ("nonsense", "nonsense"),
            ("2001:db8::1:4000", "2001:db8::1:4000"),
            ("[::1]4000", "[::1]4000"),
        ];
        for (listen, want) in cases {
            assert_eq!(observed(listen, v4), want, "{listen}");
        }
        let v6: SocketAddr = "[2001:db8::7]:5000".parse().unwrap();
        assert_eq!(observed("0.0.0.0:4000", v6), "[2001:db8::7]:4000");
        let mapped: SocketAddr = "[::ffff:198.51.100.7]:5000".parse().unwrap();
        assert_eq!(observed("", mapped), "198.51.100.7:5000");
    }
}
