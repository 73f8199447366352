//! `[registry]` and `[rendezvous]`: which registry this host uses and how it believes it, and the one it may serve.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use pilot_net::rendezvous::{CertificateFiles, CompatListen, Limits};
use pilot_rendezvous::Settings;

use super::file::{Field, Given, Merger, RawRegistry, RawRendezvous, optional_path};
use super::{ConfigError, TransportChoice};

/// How the registry's connections are secured (registry.md section 5).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RegistryTls {
    /// Not at all.
    #[default]
    Off,
    /// TLS to the server with this certificate.
    Pinned(String),
    /// TLS to a server whose certificate leads to one of the roots in this file.
    CaFile(PathBuf),
    /// TLS to a server whose certificate leads to one of the system's roots.
    System,
}

/// What the rendezvous shows on its registry port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RendezvousTls {
    /// No TLS.
    #[default]
    Off,
    /// A certificate of its own, kept in the data directory.
    SelfSigned,
    /// A certificate from files.
    Files {
        /// PEM chain, the server's own first.
        certificate: PathBuf,
        /// PEM private key.
        key: PathBuf,
    },
}

/// What a beacon relays for one source in a second, as the Go peer's (beacon.md, "Limits").
const RELAY_LIMIT: u32 = 4_000;
/// Silence after which a node may at most, and at least, be removed: each reports once a minute.
const MOST_SILENCE: Duration = Duration::from_secs(30 * 24 * 3600);
const LEAST_SILENCE: Duration = Duration::from_secs(120);

/// `[rendezvous]`
#[derive(Debug, Clone, PartialEq)]
pub struct RendezvousSettings {
    /// TCP address of the registry.
    pub registry: SocketAddr,
    /// UDP address of the beacon.
    pub beacon: SocketAddr,
    /// Where state is kept; `None` keeps it in memory.
    pub data_dir: Option<PathBuf>,
    /// Admin token of the registry, or empty (admin operations are off).
    pub admin_token: String,
    /// TLS of the registry port.
    pub tls: RendezvousTls,
    /// Where the beacon takes WebSocket clients.
    pub compat: Option<CompatListen>,
    /// Datagrams per second that the beacon relays for one source; `None`: any number.
    pub relay_limit: Option<u32>,
    /// How much the registry takes from whom.
    pub limits: RegistryLimits,
    /// Where the dashboard listens.
    pub dashboard: Option<SocketAddr>,
    /// Shows networks on the dashboard, or empty.
    pub dashboard_token: String,
    /// What standbys have to know, or empty (there are none).
    pub replication_token: String,
    /// The registry to follow.
    pub primary: Option<PrimarySettings>,
}

/// What a registry takes from its clients, and how long it remembers silent ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryLimits {
    /// Nodes silent for longer are removed from the directory.
    pub reap_after: Duration,
    /// Connections at a time.
    pub connections: usize,
    /// Requests per second of one connection, from which on its answers wait.
    pub slow_above: u32,
    /// Requests per second of one connection, from which on it is closed.
    pub close_above: u32,
    /// The same of all connections together; `None`: any number.
    pub close_above_together: Option<u32>,
    /// New keys per source address and minute; `None`: any number.
    pub registrations_per_minute: Option<u32>,
    /// Addresses that none of the limits per second or minute count, relay and punch included.
    pub unlimited: Vec<IpAddr>,
}

/// The registry that a standby follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimarySettings {
    /// HOST:PORT.
    pub addr: String,
    /// The fingerprint of its certificate; `None`: it speaks in the clear.
    pub fingerprint: Option<String>,
}

/// The keys of `[rendezvous]` that become [`RegistryLimits`].
struct RawLimits {
    reap_after: Field<String>,
    max_connections: Field<usize>,
    requests_slow: Field<u32>,
    requests_close: Field<u32>,
    requests_together: Field<u32>,
    registrations_per_minute: Field<u32>,
    unlimited: Field<Vec<String>>,
}

type RegistryParts = (Option<String>, Vec<String>, RegistryTls);

impl Merger<'_> {
    pub(super) fn registry(
        &self,
        raw: RawRegistry,
        transport: TransportChoice,
    ) -> Result<RegistryParts, ConfigError> {
        let over = self.over;
        let addr = self
            .endpoint("registry.addr", &self.pick("--registry", &over.registry, raw.addr, String::new()))?;
        let listed = Some(over.standbys.clone()).filter(|list| !list.is_empty());
        let listed = self.pick("--registry-standby", &listed, raw.standbys, Vec::new());
        let mut standbys = Vec::new();
        for standby in &listed.value {
            let given = listed.with(standby.clone());
            match self.endpoint("registry.standbys", &given)? {
                Some(standby) => standbys.push(standby),
                None => return Err(self.bad(&listed, "registry.standbys", "an address is empty".into())),
            }
        }
        if addr.is_none() && !standbys.is_empty() {
            let text = "standbys of which registry? give registry.addr (--registry) too";
            return Err(self.bad(&listed, "registry.standbys", text.into()));
        }
        let trust = self.pick("--registry-trust", &over.registry_trust, raw.trust, String::new());
        let system = match trust.value.trim() {
            "system" => true,
            // Behind a firewall the registry has a name and 443, as the beacon has (wss.md section 6).
            "" => {
                transport == TransportChoice::Compat && addr.as_deref().is_some_and(|a| a.ends_with(":443"))
            }
            "pinned" => false,
            other => {
                let text = format!("{other:?} is neither system nor pinned");
                return Err(self.bad(&trust, "registry.trust", text));
            }
        };
        let tls = match self.registry_tls(raw.fingerprint, raw.ca_file, system)? {
            RegistryTls::Off if system => RegistryTls::System,
            other => other,
        };
        Ok((addr, standbys, tls))
    }

    /// A fingerprint or a file of roots switches TLS on; without either one there would be nobody to believe.
    fn registry_tls(
        &self,
        pin: Field<String>,
        ca_file: Field<String>,
        system: bool,
    ) -> Result<RegistryTls, ConfigError> {
        let pin = self.pick("--registry-fingerprint", &self.over.registry_fingerprint, pin, String::new());
        let ca_file = optional_path(&self.over.registry_ca_file, ca_file);
        match (self.fingerprint(&pin, "registry.fingerprint")?, ca_file) {
            (None, None) if self.over.registry_tls == Some(true) && !system => {
                let text = "TLS to the registry was asked for, but nothing says whom to believe: give --registry-fingerprint, --registry-ca or --registry-trust system";
                Err(self.bad(&pin, "registry.fingerprint", text.to_owned()))
            }
            (None, None) => Ok(RegistryTls::Off),
            (None, Some(path)) => Ok(RegistryTls::CaFile(path)),
            (Some(fingerprint), None) => Ok(RegistryTls::Pinned(fingerprint)),
            (Some(_), Some(_)) => {
                let text =
                    "give either fingerprint or ca_file: one certificate, or whom its issuer vouches for";
                Err(self.bad(&pin, "registry.fingerprint", text.to_owned()))
            }
        }
    }

    /// `None` when it is empty.
    fn fingerprint(&self, pin: &Given<String>, key: &str) -> Result<Option<String>, ConfigError> {
        match pin.value.as_str() {
            "" => Ok(None),
            text if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Ok(Some(text.to_ascii_lowercase()))
            }
            text => {
                let text = format!(
                    "{text:?} is no fingerprint; give the 64 hexadecimal digits that the rendezvous prints when it starts"
                );
                Err(self.bad(pin, key, text))
            }
        }
    }

    fn rendezvous_tls(
        &self,
        tls: Field<bool>,
        certificate: Field<String>,
        key: Field<String>,
    ) -> Result<RendezvousTls, ConfigError> {
        let over = self.over;
        let on = self.pick("--tls", &over.rendezvous_tls, tls, false);
        let certificate = optional_path(&over.rendezvous_tls_cert, certificate);
        let key = optional_path(&over.rendezvous_tls_key, key);
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(RendezvousTls::Files { certificate, key }),
            (None, None) if on.value => Ok(RendezvousTls::SelfSigned),
            (None, None) => Ok(RendezvousTls::Off),
            _ => {
                let text = "a certificate needs its key: give tls_cert and tls_key, or neither for a certificate of its own";
                Err(self.bad(&on, "rendezvous.tls_cert", text.to_owned()))
            }
        }
    }

    fn rendezvous_compat(
        &self,
        listen: Field<String>,
        certificate: Field<String>,
        key: Field<String>,
        max_clients: Field<usize>,
        challenge_age: Field<u32>,
    ) -> Result<Option<CompatListen>, ConfigError> {
        let over = self.over;
        let listen = self.pick("--compat-listen", &over.rendezvous_compat, listen, String::new());
        let certificate = optional_path(&over.rendezvous_compat_cert, certificate);
        let key = optional_path(&over.rendezvous_compat_key, key);
        let default = CompatListen::MAX_CLIENTS;
        let max_clients =
            self.pick("--compat-max-clients", &over.rendezvous_compat_max_clients, max_clients, default);
        let tls = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(CertificateFiles { certificate, key }),
            (None, None) => None,
            _ => {
                let text = "a certificate needs its key: give compat_cert and compat_key, or neither for plain HTTP behind a TLS front";
                return Err(self.bad(&listen, "rendezvous.compat_cert", text.to_owned()));
            }
        };
        if listen.value.is_empty() {
            if tls.is_some() {
                let text = "a certificate for which address? give compat_listen too, such as \"0.0.0.0:443\"";
                return Err(self.bad(&listen, "rendezvous.compat_listen", text.to_owned()));
            }
            return Ok(None);
        }
        if max_clients.value == 0 {
            let text = "0 clients is nobody; leave compat_listen empty to take none";
            return Err(self.bad(&max_clients, "rendezvous.compat_max_clients", text.to_owned()));
        }
        let addr = self.socket_addr("rendezvous.compat_listen", &listen)?;
        // No flag: nobody needs it twice.
        let age = self.pick("", &None, challenge_age, CompatListen::CHALLENGE_MAX_AGE);
        if age.value == 0 {
            let text = "whoever answers in the next second would be too late; 30 is usual";
            return Err(self.bad(&age, "rendezvous.compat_challenge_age", text.to_owned()));
        }
        let (max_clients, challenge_max_age) = (max_clients.value, age.value);
        Ok(Some(CompatListen { addr, tls, max_clients, challenge_max_age }))
    }

    /// From the file alone. `raw`: the keys of the table that are about limits.
    fn registry_limits(&self, raw: RawLimits) -> Result<RegistryLimits, ConfigError> {
        let (registry, tcp) = (Settings::default(), Limits::default());
        let positive = |key: &'static str, file: Field<u32>, default: u32| {
            let given = self.pick(key, &None, file, default);
            let text = "0 would answer nobody; give the number of requests a second";
            if given.value == 0 { Err(self.bad(&given, key, text.to_owned())) } else { Ok(given.value) }
        };
        let any = |key: &'static str, file: Field<u32>, default: Option<u32>| {
            Some(self.pick(key, &None, file, default.unwrap_or(0)).value).filter(|limit| *limit > 0)
        };
        let reap_after = match raw.reap_after {
            None => registry.reap_after,
            given => {
                let given = self.pick("rendezvous.reap_after", &None, given, String::new());
                let reap_after = self.duration_up_to("rendezvous.reap_after", &given, MOST_SILENCE)?;
                if reap_after < LEAST_SILENCE {
                    let text = "nodes report once a minute; give at least 2m";
                    return Err(self.bad(&given, "rendezvous.reap_after", text.to_owned()));
                }
                reap_after
            }
        };
        let connections =
            self.pick("rendezvous.max_connections", &None, raw.max_connections, tcp.connections);
        if connections.value == 0 {
            let text = "0 connections is nobody; give at least 1";
            return Err(self.bad(&connections, "rendezvous.max_connections", text.to_owned()));
        }
        let listed = self.pick("rendezvous.unlimited", &None, raw.unlimited, Vec::new());
        let mut unlimited = Vec::new();
        for text in &listed.value {
            let addr: IpAddr = text.trim().parse().map_err(|_| {
                let text = format!("{text:?} is no IP address; give addresses such as \"192.0.2.7\"");
                self.bad(&listed, "rendezvous.unlimited", text)
            })?;
            unlimited.push(addr.to_canonical());
        }
        Ok(RegistryLimits {
            reap_after,
            connections: connections.value,
            slow_above: positive("rendezvous.requests_slow", raw.requests_slow, tcp.slow_above)?,
            close_above: positive("rendezvous.requests_close", raw.requests_close, tcp.close_above)?,
            close_above_together: any(
                "rendezvous.requests_together",
                raw.requests_together,
                tcp.close_above_together,
            ),
            registrations_per_minute: any(
                "rendezvous.registrations_per_minute",
                raw.registrations_per_minute,
                registry.registrations_per_minute,
            ),
            unlimited,
        })
    }

    pub(super) fn rendezvous(&self, raw: RawRendezvous) -> Result<RendezvousSettings, ConfigError> {
        let over = self.over;
        let at = |flag, over: &Option<String>, file, default: &str| {
            self.pick(flag, over, file, default.to_owned())
        };
        let registry = at("--registry", &over.rendezvous_registry, raw.registry, "127.0.0.1:9000");
        let beacon = at("--beacon", &over.rendezvous_beacon, raw.beacon, "127.0.0.1:9001");
        let dashboard = at("--dashboard", &over.rendezvous_dashboard, raw.dashboard, "");
        let token = |flag, over: &Option<String>, file| at(flag, over, file, "").value;
        let relay_limit =
            self.pick("--relay-limit", &over.rendezvous_relay_limit, raw.relay_limit, RELAY_LIMIT);
        let primary = at("--standby-of", &over.rendezvous_primary, raw.primary, "");
        let pin =
            at("--standby-of-fingerprint", &over.rendezvous_primary_fingerprint, raw.primary_fingerprint, "");
        let fingerprint = self.fingerprint(&pin, "rendezvous.primary_fingerprint")?;
        Ok(RendezvousSettings {
            registry: self.socket_addr("rendezvous.registry", &registry)?,
            beacon: self.socket_addr("rendezvous.beacon", &beacon)?,
            data_dir: optional_path(&over.rendezvous_data_dir, raw.data_dir),
            admin_token: token("--admin-token", &over.rendezvous_admin_token, raw.admin_token),
            tls: self.rendezvous_tls(raw.tls, raw.tls_cert, raw.tls_key)?,
            compat: self.rendezvous_compat(
                raw.compat_listen,
                raw.compat_cert,
                raw.compat_key,
                raw.compat_max_clients,
                raw.compat_challenge_age,
            )?,
            relay_limit: Some(relay_limit.value).filter(|limit| *limit > 0),
            limits: self.registry_limits(RawLimits {
                reap_after: raw.reap_after,
                max_connections: raw.max_connections,
                requests_slow: raw.requests_slow,
                requests_close: raw.requests_close,
                requests_together: raw.requests_together,
                registrations_per_minute: raw.registrations_per_minute,
                unlimited: raw.unlimited,
            })?,
            dashboard: match dashboard.value.is_empty() {
                true => None,
                false => Some(self.socket_addr("rendezvous.dashboard", &dashboard)?),
            },
            dashboard_token: token(
                "--dashboard-token",
                &over.rendezvous_dashboard_token,
                raw.dashboard_token,
            ),
            replication_token: token(
                "--replication-token",
                &over.rendezvous_replication_token,
                raw.replication_token,
            ),
            primary: self
                .endpoint("rendezvous.primary", &primary)?
                .map(|addr| PrimarySettings { addr, fingerprint }),
        })
    }
}
