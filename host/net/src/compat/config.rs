//! What a compat connection is made of: where it leads, whom it believes, who we are, and its times.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use pilot_engine::identity::Identity;
use pilot_wire::compat::{
    BACKOFF_FIRST, BACKOFF_MAX, DATA_KEEPALIVE, DIAL_TIMEOUT, PING_INTERVAL, PONG_WAIT, RECEIVE_QUEUE, Url,
};

use super::proxy::Proxy;
use crate::tls::ClientTls;

/// The times of a compat connection (wss.md sections 4 and 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Limit of one dial: names, TCP, proxy, TLS, upgrade and challenge together.
    pub dial_timeout: Duration,
    /// Time between two pings.
    pub ping_interval: Duration,
    /// How long a pong may take before the connection is given up.
    pub pong_wait: Duration,
    /// Time between two Discover messages; a beacon drops who sends no data message for 90 s.
    pub keepalive: Duration,
    /// First wait before a redial; doubles after each failed one.
    pub backoff_first: Duration,
    /// Longest wait before a redial.
    pub backoff_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            dial_timeout: DIAL_TIMEOUT,
            ping_interval: PING_INTERVAL,
            pong_wait: PONG_WAIT,
            keepalive: DATA_KEEPALIVE,
            backoff_first: BACKOFF_FIRST,
            backoff_max: BACKOFF_MAX,
        }
    }
}

/// Where a compat connection leads and how.
#[derive(Clone, Debug)]
pub struct CompatConfig {
    /// The beacon.
    pub url: Url,
    /// Whom `wss` believes; not used with `ws`, and never for a proxy's own TLS.
    pub tls: ClientTls,
    /// What to say of `tls` when the beacon's certificate is refused: where trust comes from and how to change it.
    pub trust_hint: String,
    /// The proxy to go through.
    pub proxy: Option<Proxy>,
    /// Messages from the beacon that may wait for the driver; at least one.
    pub receive_queue: usize,
    /// The connection's times.
    pub timing: Timing,
}

impl CompatConfig {
    /// A connection to `url` with the sheet's defaults and no proxy.
    pub fn new(url: Url, tls: ClientTls) -> Self {
        let (trust_hint, timing) = (String::new(), Timing::default());
        Self { url, tls, trust_hint, proxy: None, receive_queue: RECEIVE_QUEUE, timing }
    }
}

/// Who answers the beacon's challenge.
#[derive(Clone)]
pub struct Credentials {
    /// Our registered node number; not 0.
    pub node: u32,
    /// The key the registry has for it.
    pub identity: Arc<Identity>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials(node {})", self.node)
    }
}
