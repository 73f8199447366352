//! One attempt to deliver one body: a POST, and the redirects it leads to (webhook.md section 2).
//!
//! Called by the client's worker. Each hop is checked by `target` before it is taken, and so is each address that its
//! name resolves to; the peer checks only the URL it was given.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use plugin_abi::Error;
use ureq::config::Config as HttpConfig;
use ureq::http::{Response, StatusCode, Uri, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Body};

use crate::body::SIGNATURE_HEADER;
use crate::config::Config;
use crate::target;

/// Most redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// What one attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint took it: any status below 400.
    Delivered,
    /// Trying again is of no use: a 4xx status, or a redirect to where nothing is sent.
    Refused(String),
    /// A 5xx status or a network error.
    Failed(String),
}

/// Sends a body somewhere. The client's tests have one without a network.
pub trait Transport: Send {
    /// One attempt; bounded in time.
    fn post(&self, body: &[u8], signature: Option<&str>) -> Outcome;
}

/// HTTP to one URL.
pub struct Http {
    agent: Agent,
    url: String,
    timeout: Duration,
}

impl Http {
    /// A transport to `url`, which has been checked.
    ///
    /// # Errors
    /// The configured authorities cannot be read.
    pub fn new(url: &str, config: &Config) -> Result<Self, Error> {
        let mut tls = TlsConfig::builder();
        if let Some(path) = &config.ca_file {
            let wrong = |cause: String| {
                Error::invalid(format!("[plugin.webhook] ca_file {}: {cause}", path.display()))
            };
            let pem = fs::read(path).map_err(|e| wrong(e.to_string()))?;
            let mut authorities = Vec::new();
            for item in parse_pem(&pem) {
                if let PemItem::Certificate(certificate) = item.map_err(|e| wrong(e.to_string()))? {
                    authorities.push(certificate);
                }
            }
            if authorities.is_empty() {
                return Err(wrong("no certificate in it".into()));
            }
            tls = tls.root_certs(RootCerts::new_with_certs(&authorities));
        }
        let http = HttpConfig::builder()
            .http_status_as_error(false)
            // Followed here, because every hop is looked at first.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("pilot-webhook/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls.build())
            .build();
        let agent = Agent::with_parts(http, DefaultConnector::default(), GuardedResolver::default());
        Ok(Http { agent, url: url.to_owned(), timeout: config.timeout })
    }

    fn send(&self, url: &str, body: Option<&[u8]>, signature: Option<&str>, left: Duration) -> Sent {
        let url = request_form(url);
        let direct = is_loopback(&url);
        macro_rules! prepared {
            ($request:expr) => {{
                let mut request = $request.header(header::CONTENT_TYPE, "application/json");
                if let Some(signature) = signature {
                    request = request.header(SIGNATURE_HEADER, signature);
                }
                let mut request = request.config().timeout_global(Some(left));
                if direct {
                    // As for the peer: the environment's proxy is not for this machine itself.
                    request = request.proxy(None);
                }
                request.build()
            }};
        }
        match body {
            Some(body) => prepared!(self.agent.post(&url)).send(body),
            None => prepared!(self.agent.get(&url)).call(),
        }
    }
}

type Sent = Result<Response<Body>, ureq::Error>;

impl Transport for Http {
    fn post(&self, body: &[u8], signature: Option<&str>) -> Outcome {
        let deadline = Instant::now() + self.timeout;
        let (mut url, mut body) = (self.url.clone(), Some(body));
        for _ in 0..=MAX_REDIRECTS {
            if let Err(cause) = target::check(&url) {
                return Outcome::Refused(format!("redirect to {url} not followed: {cause}"));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Outcome::Failed("timeout".into());
            }
            let response = match self.send(&url, body, signature, left) {
                Ok(response) => response,
                Err(cause) => return Outcome::Failed(cause.to_string()),
            };
            let status = response.status();
            match (redirect_location(&response), status.as_u16()) {
                (Some(location), 301..=303) => {
                    // The event does not travel on: the next request is a GET without body.
                    body = None;
                    url = join(&url, &location);
                }
                (Some(location), 307 | 308) => url = join(&url, &location),
                (_, 0..=399) => return Outcome::Delivered,
                (_, 400..=499) => return Outcome::Refused(format!("status {status}")),
                _ => return Outcome::Failed(format!("status {status}")),
            }
        }
        Outcome::Failed(format!("stopped after {MAX_REDIRECTS} redirects"))
    }
}

fn redirect_location(response: &Response<Body>) -> Option<String> {
    let followed = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    let location =
        response.headers().get(header::LOCATION).filter(|_| followed.contains(&response.status()))?;
    let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
    (!location.is_empty()).then_some(location)
}

/// Resolves names, and refuses those that lead to link-local addresses.
#[derive(Debug, Default)]
struct GuardedResolver(DefaultResolver);

impl Resolver for GuardedResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &HttpConfig,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.0.resolve(uri, config, timeout)?;
        // One bad address is enough: a name that mixes them is not an honest one.
        match found.iter().find(|address| target::is_link_local(address.ip())) {
            None => Ok(found),
            Some(address) => Err(ureq::Error::Io(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "{} resolves to the link-local address {}",
                    uri.host().unwrap_or_default(),
                    address.ip()
                ),
            ))),
        }
    }
}

fn is_loopback(url: &str) -> bool {
    let host = crate::gourl::parse(url).map(|u| u.host).unwrap_or_default();
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// The URL as it is put into a request: no fragment, and bytes escaped that may not stand in one.
fn request_form(url: &str) -> String {
    let url = url.split_once('#').map_or(url, |(url, _)| url);
    let mut out = String::with_capacity(url.len());
    for b in url.bytes() {
        match b {
            b' ' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x7f.. => {
                out.push_str(&format!("%{b:02X}"));
            }
            b => out.push(char::from(b)),
        }
    }
    out
}

/// Where a `Location` leads, seen from the URL it was found at (RFC 3986 section 5.2).
fn join(base: &str, location: &str) -> String {
    let location = location.split_once('#').map_or(location, |(l, _)| l);
    let has_scheme = location.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    });
    let base = base.split_once('#').map_or(base, |(b, _)| b);
    let Some((scheme, rest)) = base.split_once("://").filter(|_| !has_scheme) else {
        return location.to_owned();
    };
    if location.starts_with("//") {
        return format!("{scheme}:{location}");
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    let (base_path, base_query) = split_query(target);
    let (path, query) = split_query(location);
    let (path, query) = match path {
        "" => (base_path.to_owned(), if query.is_empty() { base_query } else { query }),
        _ if path.starts_with('/') => (path.to_owned(), query),
        _ => {
            let folder = base_path.rfind('/').map_or("/", |slash| &base_path[..=slash]);
            (format!("{folder}{path}"), query)
        }
    };
    format!("{scheme}://{authority}{}{query}", without_dots(&path))
}

/// The path, and the query with its question mark.
fn split_query(target: &str) -> (&str, &str) {
    target.split_at(target.find('?').unwrap_or(target.len()))
}

/// Resolves `.` and `..` segments.
fn without_dots(path: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    out.pop();
                }
                if last {
                    out.push("");
                }
            }
            _ => out.push(segment),
        }
    }
    format!("/{}", out.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_bug_resolved_addresses_are_not_checked() {
        let http = Http::new("http://unused/", &Config::default()).expect("a transport");
        // Past the check of the text, as if a name had resolved to it.
        let refused = http.send("http://169.254.169.254:9/", None, None, Duration::from_secs(5));
        let text = refused.expect_err("refused").to_string();
        assert!(text.contains("resolves to the link-local address 169.254.169.254"), "{text}");
    }

    #[test]
    fn locations_are_joined() {
        let base = "http://u@h:1/a/b?q#f";
        for (location, joined) in [
            ("https://x/y", "https://x/y"),
            ("//x/y", "http://x/y"),
            ("/moved", "http://u@h:1/moved"),
            ("c?d#e", "http://u@h:1/a/c?d"),
            ("../c", "http://u@h:1/c"),
            ("../../../c/./d/..", "http://u@h:1/c/"),
            ("?x", "http://u@h:1/a/b?x"),
            ("#x", "http://u@h:1/a/b?q"),
            ("./a:b", "http://u@h:1/a/a:b"),
        ] {
            assert_eq!(join(base, location), joined, "{location}");
        }
        assert_eq!(join("http://h", "c"), "http://h/c");
        assert_eq!(join("http://h?q", "/c"), "http://h/c");
    }

    #[test]
    fn a_request_carries_only_what_may_stand_in_one() {
        assert_eq!(
            request_form("http://h/a b|\u{e9}?x=<y>&z=%20#f"),
            "http://h/a%20b%7C%C3%A9?x=%3Cy%3E&z=%20"
        );
    }

    #[test]
    fn loopback_goes_without_a_proxy() {
        assert!(
            is_loopback("http://127.1.2.3:8/x")
                && is_loopback("http://[::1]/")
                && is_loopback("http://LocalHost/")
        );
        assert!(!is_loopback("http://example.com/") && !is_loopback("http://10.0.0.1/"));
    }
}
