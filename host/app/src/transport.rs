//! How this host's datagrams travel: its flags, the decision at start, and the underlay that comes of it (wss.md sections
//! 6 and 7). Called by `run`; the connection itself is `pilot_net::compat`.

use anyhow::Context as _;
use clap::Args;
use pilot_net::compat::{Client, CompatConfig, Decision, Proxy, Situation, check, decide, udp_answers};
use pilot_net::node::Underlay;
use pilot_net::tls::ClientTls;
use pilot_net::udp::Udp;
use pilot_wire::compat::{DEFAULT_URL, Url};
use tracing::{info, warn};

use crate::config::{Config, Overrides, RegistryTls, TlsTrust, TransportChoice};

/// The flags about it.
#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Transport")]
pub struct TransportArgs {
    /// How datagrams travel: udp, compat (one WebSocket to a beacon) or auto. Also PILOT_TRANSPORT.
    #[arg(long, value_name = "udp|compat|auto")]
    pub transport: Option<String>,
    /// The beacon's WebSocket, wss://HOST:PORT/v1/compat.
    #[arg(long, value_name = "URL")]
    pub compat_beacon: Option<String>,
    /// Whom the compat transport believes: the system's roots, or those of --compat-roots.
    #[arg(long, value_name = "system|pinned")]
    pub tls_trust: Option<String>,
    /// PEM file of the roots that vouch for the compat beacon, and nobody else.
    #[arg(long, value_name = "FILE")]
    pub compat_roots: Option<std::path::PathBuf>,
    /// HTTP proxy of the compat transport: auto (HTTPS_PROXY and NO_PROXY), off, or its URL.
    #[arg(long, env = "PILOT_PROXY", hide_env_values = true, value_name = "auto|off|URL")]
    pub proxy: Option<String>,
}

impl TransportArgs {
    /// Lays these flags, and the variables behind `--transport`, into the overrides.
    pub fn lay(&self, over: &mut Overrides) {
        over.transport.clone_from(&self.transport);
        // Not read by the parser of flags, which could only refuse an unknown value.
        over.transport_variable = std::env::var("PILOT_TRANSPORT").ok();
        over.transport_default = std::env::var("PILOT_TRANSPORT_DEFAULT").ok();
        over.compat_beacon.clone_from(&self.compat_beacon);
        over.tls_trust.clone_from(&self.tls_trust);
        over.compat_roots.clone_from(&self.compat_roots);
        over.proxy.clone_from(&self.proxy);
    }
}

/// What carries datagrams, and the handle to it when it is the compat transport.
#[derive(Debug)]
pub struct Carrier {
    /// For the driver.
    pub underlay: Underlay,
    /// For whoever dials it once the node is registered.
    pub compat: Option<Client>,
}

/// Decides and opens. With the compat transport no UDP socket is made, and nothing is dialled yet.
///
/// # Errors
/// When the socket cannot be bound, or the roots cannot be read.
pub async fn open(config: &Config) -> anyhow::Result<Carrier> {
    for ignored in &config.transport.ignored {
        warn!("{ignored}");
    }
    let compat = match config.transport.choice {
        TransportChoice::Udp => false,
        TransportChoice::Compat => true,
        TransportChoice::Auto => auto(config).await?,
    };
    if compat {
        let settings = compat_config(config)?;
        info!(beacon = %settings.url, proxy = settings.proxy.as_ref().map(tracing::field::display),
              "compat transport: no UDP socket");
        let (client, datagrams) = Client::new(settings)?;
        return Ok(Carrier { underlay: datagrams.into(), compat: Some(client) });
    }
    let udp = Udp::bind(config.node.listen).with_context(|| {
        format!(
            "bind the tunnel socket {}: choose another address with --listen or [node] listen",
            config.node.listen
        )
    })?;
    Ok(Carrier { underlay: udp.into(), compat: None })
}

fn url(config: &Config) -> Url {
    config.transport.beacon.clone().unwrap_or_else(|| DEFAULT_URL.parse().expect("the sheet's URL is one"))
}

fn proxy(config: &Config, url: &Url) -> anyhow::Result<Option<Proxy>> {
    let found = config.transport.proxy.choose(url, |name| std::env::var(name).ok());
    found.context("the proxy of the environment (HTTPS_PROXY): correct it, or start with --proxy off")
}

/// The proxy that leads to the registry: over UDP none, as ever; with the compat transport what its setting says.
///
/// # Errors
/// When the environment names something that is no proxy.
pub fn registry_proxy(config: &Config, compat: bool, registry: &str) -> anyhow::Result<Option<Proxy>> {
    match format!("https://{registry}").parse() {
        Ok(url) if compat => proxy(config, &url),
        _ => Ok(None),
    }
}

fn compat_config(config: &Config) -> anyhow::Result<CompatConfig> {
    let settings = &config.transport;
    let url = url(config);
    let (tls, trust_hint) = match &settings.trust {
        // What nobody will ask needs no roots.
        TlsTrust::System if !url.tls => (ClientTls::none()?, String::new()),
        TlsTrust::System => {
            (ClientTls::system()?, "trusted are the system's roots (--tls-trust, --compat-roots)".to_owned())
        }
        TlsTrust::Pinned(roots) => {
            (ClientTls::roots(roots)?, format!("trusted is only {} (--compat-roots)", roots.display()))
        }
    };
    let proxy = proxy(config, &url)?;
    let mut compat = CompatConfig::new(url, tls);
    compat.trust_hint = trust_hint;
    compat.proxy = proxy;
    compat.receive_queue = settings.receive_queue;
    compat.timing = settings.timing;
    Ok(compat)
}

/// The decision of `auto`; true for compat.
async fn auto(config: &Config) -> anyhow::Result<bool> {
    let url = url(config);
    let proxy = proxy(config, &url)?;
    let named = config.transport.beacon.is_some();
    let beacon = config.registry.as_deref().map(|registry| config.beacon_addr(registry));
    let mut situation = Situation {
        custom_registry_without_tls: config.registry_tls == RegistryTls::Off,
        custom_beacon_without_compat: config.beacon.is_some() && !named,
        udp_beacon: beacon.is_some(),
        compat_url: named,
        proxy: proxy.is_some(),
        ..Situation::default()
    };
    loop {
        match decide(&situation) {
            Decision::AskUdp => {
                let beacon = beacon.as_deref().unwrap_or_default();
                let mut found = tokio::net::lookup_host(beacon).await.into_iter().flatten();
                situation.udp_answered = Some(match found.next() {
                    Some(addr) => udp_answers(addr).await,
                    None => false,
                });
            }
            Decision::AskCompat => {
                let found = check(&url, proxy.as_ref()).await;
                info!(beacon = %url, outcome = ?found, "compat beacon checked");
                situation.check = Some(found);
            }
            Decision::Udp(reason) => {
                info!(transport = "udp", reason, "transport decided");
                return Ok(false);
            }
            Decision::Compat(reason) => {
                info!(transport = "compat", reason, "transport decided");
                return Ok(true);
            }
        }
    }
}
