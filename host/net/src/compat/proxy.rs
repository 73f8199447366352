//! The HTTP proxy in front of the beacon: which one, if any, and the `CONNECT` through it by name (wss.md section 1, "TLS
//! trust"). What follows on the stream is end to end; the proxy's own TLS, if it has any, is believed by the system's
//! roots whatever the beacon's trust setting says.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pilot_wire::compat::Url;
use pilot_wire::compat::http::connect_request;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::tls::ClientTls;
use crate::transport::Bytes;
use crate::websocket::read_head;

/// A proxy setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no proxy: {why}; expected auto, off, or http://[USER:PASSWORD@]HOST[:PORT]")]
pub struct ProxyError {
    text: String,
    why: String,
}

/// Which proxy to use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxySetting {
    /// What `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say (upper or lower case); loopback is reached without.
    #[default]
    Auto,
    /// None.
    Off,
    /// This one, for every target.
    Always(Proxy),
}

impl FromStr for ProxySetting {
    type Err = ProxyError;

    fn from_str(text: &str) -> Result<Self, ProxyError> {
        match text.trim() {
            "" | "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            url => url.parse().map(Self::Always),
        }
    }
}

impl ProxySetting {
    /// The proxy for `url`; `variable` reads the environment.
    ///
    /// # Errors
    /// When the environment names something that is no proxy.
    pub fn choose(
        &self,
        url: &Url,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Proxy>, ProxyError> {
        let read = |upper: &str| {
            [upper.to_owned(), upper.to_ascii_lowercase()]
                .iter()
                .find_map(|name| variable(name).filter(|v| !v.trim().is_empty()))
        };
        match self {
            Self::Off => Ok(None),
            Self::Always(proxy) => Ok(Some(proxy.clone())),
            Self::Auto => {
                let Some(text) = read(if url.tls { "HTTPS_PROXY" } else { "HTTP_PROXY" }) else {
                    return Ok(None);
                };
                if is_local(&url.host) || is_excepted(url, &read("NO_PROXY").unwrap_or_default()) {
                    return Ok(None);
                }
                // Without a scheme it is a host, as everybody reads these variables.
                let text = if text.contains("://") { text } else { format!("http://{}", text.trim()) };
                text.parse().map(Some)
            }
        }
    }
}

fn is_local(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether a `NO_PROXY` list names the target: `*`, a domain (with its subdomains; with a leading dot only those), an
/// address, or a network in CIDR form; a port behind the name must fit.
fn is_excepted(url: &Url, list: &str) -> bool {
    let host = url.host.to_ascii_lowercase();
    list.split(',').map(|entry| entry.trim().to_ascii_lowercase()).filter(|e| !e.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let (Ok(ip), Some((net, bits))) = (host.parse::<IpAddr>(), entry.split_once('/')) {
            return net.parse().is_ok_and(|net| in_network(ip, net, bits));
        }
        if entry.parse::<IpAddr>().is_ok_and(|ip| host.parse() == Ok(ip)) {
            return true;
        }
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, port)) if port.parse::<u16>().is_ok() => (name, port.parse().ok()),
            _ => (entry.as_str(), None),
        };
        if port.is_some_and(|port: u16| port != url.port) {
            return false;
        }
        let domain = name.trim_start_matches("*.").trim_start_matches('.');
        let below = host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
        !domain.is_empty() && (below || (host == domain && domain.len() == name.len()))
    })
}

fn in_network(ip: IpAddr, net: IpAddr, bits: &str) -> bool {
    let Ok(bits) = bits.parse::<u32>() else { return false };
    let same = |a: u128, b: u128, width: u32| {
        bits <= width && a.checked_shr(width - bits).unwrap_or(0) == b.checked_shr(width - bits).unwrap_or(0)
    };
    match (ip, net) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(u32::from(a).into(), u32::from(b).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.into(), b.into(), 128),
        _ => false,
    }
}

/// An HTTP proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    url: Url,
    /// The value of `Proxy-Authorization`.
    authorization: Option<String>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// Without the password.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.url.tls { "https" } else { "http" }, self.url.authority)
    }
}

impl FromStr for Proxy {
    type Err = ProxyError;

    fn from_str(text: &str) -> Result<Self, ProxyError> {
        // What is quoted goes to logs: never with a password.
        let wrong = |why: &str| {
            let shown = text.rsplit_once('@').map_or(text, |(_, host)| host);
            ProxyError { text: shown.to_owned(), why: why.to_owned() }
        };
        let (scheme, rest) = text.trim().split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
        if !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) {
            return Err(wrong("its scheme is not http or https"));
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (user, host) = match rest[..end].rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, &rest[..end]),
        };
        let url: Url =
            format!("{scheme}://{host}").parse().map_err(|_| wrong("it has no host, or no port"))?;
        let authorization = match user {
            None => None,
            Some(user) => {
                let plain = percent_decoded(user).ok_or_else(|| wrong("its user or password is garbled"))?;
                Some(format!("Basic {}", STANDARD.encode(plain)))
            }
        };
        Ok(Self { url, authorization })
    }
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            out.push(u8::try_from(16 * high + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

impl Proxy {
    /// A stream to `host:port` through the proxy, which looks the name up, and a second descriptor of the connection to
    /// the proxy.
    ///
    /// # Errors
    /// Those of the way to the proxy, and what the proxy answers instead of 200.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> io::Result<(Box<dyn Bytes>, OwnedFd)> {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("proxy {self}: {e}"));
        let tcp = TcpStream::connect((self.url.host.as_str(), self.url.port)).await.map_err(named)?;
        tcp.set_nodelay(true)?;
        let socket = tcp.as_fd().try_clone_to_owned()?;
        let mut stream: Box<dyn Bytes> = match self.url.tls {
            false => Box::new(tcp),
            true => {
                let name = ServerName::try_from(self.url.host.clone()).map_err(io::Error::other)?;
                let tls = ClientTls::system().map_err(io::Error::other)?;
                Box::new(tls.connector().connect(name, tcp).await.map_err(named)?)
            }
        };
        let mut request = connect_request(host, port);
        if let Some(authorization) = &self.authorization {
            request.truncate(request.len() - 2);
            request.extend_from_slice(format!("Proxy-Authorization: {authorization}\r\n\r\n").as_bytes());
        }
        stream.write_all(&request).await.map_err(named)?;
        stream.flush().await.map_err(named)?;
        let mut rest = Vec::new();
        let head = read_head(&mut stream, &mut rest).await.map_err(named)?;
        let head = head.ok_or_else(|| named(io::ErrorKind::UnexpectedEof.into()))?;
        let [_, status, reason] = &head.start;
        if status != "200" {
            return Err(io::Error::other(format!(
                "proxy {self} refused to connect to {host}:{port}: {status} {reason}"
            )));
        }
        // The other end speaks only when spoken to.
        if !rest.is_empty() {
            return Err(io::Error::other(format!("proxy {self} sent something behind its answer")));
        }
        Ok((stream, socket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(setting: &str, url: &str, environment: &[(&str, &str)]) -> Option<String> {
        let setting: ProxySetting = setting.parse().unwrap();
        let variable =
            |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        setting.choose(&url.parse().unwrap(), variable).unwrap().map(|p| p.to_string())
    }

    #[test]
    fn the_environment_names_the_proxy_unless_the_setting_does() {
        let both = [("HTTPS_PROXY", "p:3128"), ("http_proxy", "http://q")];
        let far = "wss://beacon.example/v1/compat";
        assert_eq!(chosen("auto", far, &both).unwrap(), "http://p:3128");
        assert_eq!(chosen("auto", "ws://beacon.example/", &both).unwrap(), "http://q");
        assert_eq!(chosen("off", far, &both), None);
        assert_eq!(chosen("auto", far, &[]), None);
        assert_eq!(chosen("auto", "wss://127.0.0.1:8443/", &both), None);
        assert_eq!(
            chosen("https://u:s3cret@p.example:8080/x", "wss://127.0.0.1/", &[]).unwrap(),
            "https://p.example:8080"
        );
    }

    #[test]
    fn exceptions_are_domains_addresses_and_networks() {
        let excepted = |url: &str, list: &str| is_excepted(&url.parse().unwrap(), list);
        for list in ["*", "example", "x, beacon.example", ".example", "*.example", "beacon.example:443"] {
            assert!(excepted("wss://Beacon.Example/", list), "{list}");
        }
        for list in ["", "con.example", ".beacon.example", "beacon.example:8443", "10.0.0.0/8"] {
            assert!(!excepted("wss://beacon.example/", list), "{list}");
        }
        assert!(excepted("wss://10.1.2.3/", "10.0.0.0/8") && !excepted("wss://11.1.2.3/", "10.0.0.0/8"));
        assert!(excepted("wss://10.1.2.3/", "10.1.2.3") && excepted("wss://10.1.2.3/", "0.0.0.0/0"));
        assert!(!excepted("wss://10.1.2.3/", "10.0.0.0/33") && excepted("wss://[fd00::1]/", "fd00::/8"));
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_its_password() {
        for bad in ["socks5://u:secret@p:1080", "p:3128", "http://u:secret@", "http://%zz@p", "on"] {
            let text = bad.parse::<ProxySetting>().unwrap_err().to_string();
            assert!(text.contains("is no proxy") && !text.contains("secret"), "{text}");
        }
    }
}
