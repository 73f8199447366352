//! The address of a compat beacon: `wss://host[:port]/path`.

use std::fmt;
use std::str::FromStr;

/// A beacon's URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// TLS (`wss`, `https`) or not (`ws`, `http`).
    pub tls: bool,
    /// Name or address; IPv6 without its brackets.
    pub host: String,
    /// Written port, else 443 or 80.
    pub port: u16,
    /// Host and port as written, for the `Host` header.
    pub authority: String,
    /// Path without query, at least `/`.
    pub path: String,
}

/// Why a text is no beacon URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no beacon URL: {why}; expected wss://HOST[:PORT]/v1/compat")]
pub struct UrlError {
    text: String,
    why: &'static str,
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let wrong = |why| UrlError { text: text.to_owned(), why };
        let (scheme, rest) = text.trim().split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "wss" | "https" => true,
            "ws" | "http" => false,
            _ => return Err(wrong("its scheme is not ws or wss")),
        };
        if rest.chars().any(|c| c.is_control() || c == ' ') {
            return Err(wrong("it contains white space"));
        }
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => v6.split_once(']').ok_or_else(|| wrong("its bracket is not closed"))?,
            None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
        };
        let port = match port.strip_prefix(':') {
            Some(digits) => digits.parse().map_err(|_| wrong("its port is no number below 65536"))?,
            None if port.is_empty() => {
                if tls {
                    443
                } else {
                    80
                }
            }
            None => return Err(wrong("something follows its host")),
        };
        if host.is_empty() || authority.contains('@') {
            return Err(wrong("it has no host, or carries a password"));
        }
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { tls, host: host.to_owned(), port, authority: authority.to_owned(), path: path.to_owned() })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.tls { "wss" } else { "ws" }, self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_urls_apart() {
        let url: Url = "wss://beacon.example/v1/compat?x=1".parse().unwrap();
        assert_eq!((url.tls, url.port, url.host.as_str()), (true, 443, "beacon.example"));
        assert_eq!(url.to_string(), "wss://beacon.example/v1/compat");
        let url: Url = "ws://[::1]:8443".parse().unwrap();
        assert_eq!((url.host.as_str(), url.port, url.authority.as_str()), ("::1", 8443, "[::1]:8443"));
        assert_eq!(url.path, "/");
        for bad in
            ["", "beacon", "ftp://b/", "wss:///v1", "wss://b:x/", "wss://b:70000/", "ws://[::1", "ws://a b/"]
        {
            bad.parse::<Url>().unwrap_err();
        }
    }
}
