//! What a plugin may ask of the daemon: the rules, read from the configuration and judged for each call by the plugin's
//! own handle (`face`). Pure: knows no daemon, no clock.
//!
//! The rules keep honest plugins to what the operator had in mind, and make mistakes visible. A plugin in the daemon's
//! own process shares its memory: against one that means harm, use `isolation = "process"` and signatures.

use std::fmt;

use plugin_abi::Addr;

/// Services that a plugin may provide, as the configuration spells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// The allow-list of known nodes.
    TrustChecker,
    /// Trust store and handshake protocol.
    Handshake,
    /// Policies, which gate every stream and datagram.
    Policy,
    /// Webhook controls.
    Webhook,
}

/// Things that act on the whole daemon, as the configuration spells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read the admin token.
    AdminToken,
    /// Read and change trust: the handshake service, trusted peers, requests, revocations, reply windows.
    Trust,
    /// Drop the tunnel to a peer.
    Tunnels,
    /// Replace the cached tags of this node.
    Tags,
    /// Change the webhook URL.
    Webhook,
}

macro_rules! words {
    ($type:ident { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $type {
            /// All of them.
            pub const ALL: &'static [$type] = &[$($type::$variant),+];

            /// The word of the configuration.
            pub const fn as_str(self) -> &'static str {
                match self { $($type::$variant => $word),+ }
            }

            /// The inverse of [`as_str`](Self::as_str).
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|s| s.as_str() == text)
            }
        }
    };
}
words!(Service {
    TrustChecker => "trust-checker", Handshake => "handshake", Policy => "policy", Webhook => "webhook",
});
words!(Action {
    AdminToken => "admin-token", Trust => "trust", Tunnels => "tunnels", Tags => "tags", Webhook => "webhook",
});

/// A range of ports: `444`, `"2000-2999"`, `"*"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// Every port.
    pub const ANY: Ports = Ports { first: 0, last: u16::MAX };

    /// Reads one entry of the configuration.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Ports::ANY);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first <= last).then_some(Ports { first, last })
    }

    fn holds(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// Event topics: `*`, `a.*` (everything below `a`), or one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics(String);

impl Topics {
    /// Reads one entry of the configuration.
    pub fn parse(text: &str) -> Option<Self> {
        let inner = text.strip_suffix(".*").unwrap_or(text);
        (text == "*" || !inner.is_empty() && !inner.contains('*')).then(|| Topics(text.to_owned()))
    }

    /// Whether every topic that `pattern` matches is one of these. A topic is a pattern for itself.
    fn covers(&self, pattern: &str) -> bool {
        if self.0 == "*" || self.0 == pattern {
            return true;
        }
        // `a.*` covers `a.b` and `a.b.*`, and nothing covers the pattern `*` but `*` itself.
        match self.0.strip_suffix('*') {
            Some(below) => pattern.starts_with(below) && pattern != "*" && !pattern.is_empty(),
            None => false,
        }
    }
}

/// Whom a plugin may dial or send datagrams to: `NETWORK:NODE:PORT`, each a number or `*`, or `*` for everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    network: Option<u16>,
    node: Option<u32>,
    port: Option<Ports>,
}

impl Target {
    /// Everybody.
    pub const ANY: Target = Target { network: None, node: None, port: None };

    /// Reads one entry of the configuration.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Target::ANY);
        }
        fn part<T: std::str::FromStr>(text: &str) -> Option<Option<T>> {
            if text == "*" { Some(None) } else { text.parse().ok().map(Some) }
        }
        let mut parts = text.split(':');
        let target = Target {
            network: part(parts.next()?)?,
            node: part(parts.next()?)?,
            port: Some(Ports::parse(parts.next()?)?),
        };
        parts.next().is_none().then_some(target)
    }

    fn holds(self, addr: Addr, port: u16) -> bool {
        self.network.is_none_or(|n| n == addr.network)
            && self.node.is_none_or(|n| n == addr.node)
            && self.port.is_none_or(|p| p.holds(port))
    }
}

/// Calls per second; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Dials and datagrams.
    pub dials: u32,
    /// Events published.
    pub publishes: u32,
    /// Registry calls.
    pub registry_calls: u32,
    /// Log lines.
    pub log_lines: u32,
}

/// What one plugin may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Ports it may bind.
    pub ports: Vec<Ports>,
    /// Topics it may publish.
    pub publish: Vec<Topics>,
    /// Topics it may subscribe to.
    pub subscribe: Vec<Topics>,
    /// Whom it may dial or send datagrams to.
    pub dial: Vec<Target>,
    /// Beginnings of messages that it may have signed; an empty text is every message.
    pub sign: Vec<String>,
    /// Registry operations, by name; `*` is every one.
    pub registry: Vec<String>,
    /// Services it may provide.
    pub services: Vec<Service>,
    /// What it may do to the daemon.
    pub actions: Vec<Action>,
    /// How often.
    pub rates: Rates,
}

impl Capabilities {
    /// Everything, without limits: what the project's own four plugins have unless configured otherwise. `log_lines` is
    /// the general limit of log lines per second.
    pub fn ample(log_lines: u32) -> Self {
        Capabilities {
            ports: vec![Ports::ANY],
            publish: vec![Topics("*".into())],
            subscribe: vec![Topics("*".into())],
            dial: vec![Target::ANY],
            sign: vec![String::new()],
            registry: vec!["*".into()],
            services: Service::ALL.to_vec(),
            actions: Action::ALL.to_vec(),
            rates: Rates { dials: 0, publishes: 0, registry_calls: 0, log_lines },
        }
    }

    /// What an unknown plugin has: it may log, read what everybody may know (node id, address, public key, version), and
    /// use its own corner of the bus, `plugin.NAME.*`, besides the daemon's own coming and going.
    pub fn least(name: &str, log_lines: u32) -> Self {
        let own = Topics(format!("plugin.{name}.*"));
        Capabilities {
            ports: Vec::new(),
            publish: vec![own.clone()],
            subscribe: vec![own, Topics("node.*".into()), Topics("daemon.*".into())],
            dial: Vec::new(),
            sign: Vec::new(),
            registry: Vec::new(),
            services: Vec::new(),
            actions: Vec::new(),
            rates: Rates { dials: 10, publishes: 50, registry_calls: 5, log_lines },
        }
    }

    /// The port may be bound.
    pub fn bind(&self, port: u16) -> Result<(), Denial> {
        let ok = self.ports.iter().any(|p| p.holds(port));
        self.judge(ok, || Denial::new(format!("bind port {port}"), "ports", port.to_string()))
    }

    /// The topic may be published.
    pub fn publish(&self, topic: &str) -> Result<(), Denial> {
        let ok = self.publish.iter().any(|t| t.covers(topic));
        self.judge(ok, || Denial::new(format!("publish {topic:.100}"), "publish", quoted(topic)))
    }

    /// The pattern may be subscribed to.
    pub fn subscribe(&self, pattern: &str) -> Result<(), Denial> {
        let pattern = if pattern.is_empty() { "*" } else { pattern };
        let ok = self.subscribe.iter().any(|t| t.covers(pattern));
        self.judge(ok, || Denial::new(format!("subscribe to {pattern:.100}"), "subscribe", quoted(pattern)))
    }

    /// The peer's port may be dialled or sent a datagram.
    pub fn dial(&self, addr: Addr, port: u16) -> Result<(), Denial> {
        let ok = self.dial.iter().any(|t| t.holds(addr, port));
        let target = || format!("{}:{}:{port}", addr.network, addr.node);
        self.judge(ok, || Denial::new(format!("reach port {port} of {addr}"), "dial", quoted(&target())))
    }

    /// The message may be signed.
    pub fn sign(&self, message: &[u8]) -> Result<(), Denial> {
        let ok = self.sign.iter().any(|p| message.starts_with(p.as_bytes()));
        self.judge(ok, || {
            let start = message[..message.len().min(16)].escape_ascii().to_string();
            Denial::new(format!("have a message signed that begins with \"{start}\""), "sign", quoted(&start))
        })
    }

    /// The registry operation may be called.
    pub fn registry(&self, op: &str) -> Result<(), Denial> {
        let ok = self.registry.iter().any(|r| r == "*" || r == op);
        self.judge(ok, || Denial::new(format!("call {op:.100} at the registry"), "registry", quoted(op)))
    }

    /// The service may be provided.
    pub fn provide(&self, service: Service) -> Result<(), Denial> {
        let ok = self.services.contains(&service);
        let word = service.as_str();
        self.judge(ok, || Denial::new(format!("provide the {word} service"), "services", quoted(word)))
    }

    /// The action may be taken.
    pub fn act(&self, action: Action) -> Result<(), Denial> {
        let word = action.as_str();
        self.judge(self.actions.contains(&action), || {
            Denial::new(format!("use the daemon's {word}"), "actions", quoted(word))
        })
    }

    fn judge(&self, ok: bool, denial: impl FnOnce() -> Denial) -> Result<(), Denial> {
        if ok { Ok(()) } else { Err(denial()) }
    }
}

fn quoted(text: &str) -> String {
    format!("\"{text:.100}\"")
}

/// A call that the rules do not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What was asked, after "may not".
    pub what: String,
    /// The setting that would allow it.
    pub key: &'static str,
    /// What to write there, as TOML.
    pub entry: String,
}

impl Denial {
    fn new(what: String, key: &'static str, entry: String) -> Self {
        Denial { what, key, entry }
    }

    /// The sentence for the plugin's author and the operator.
    pub fn explain(&self, plugin: &str) -> String {
        format!(
            "plugin \"{plugin}\" may not {}; to allow it: [plugins.settings.{plugin}.capabilities] {} = [{}]",
            self.what, self.key, self.entry
        )
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(network: u16, node: u32) -> Addr {
        Addr { network, node }
    }

    #[test]
    fn entries_that_can_be_read_and_those_that_cannot() {
        for (text, port, inside) in
            [("444", 444, true), ("2000-2999", 2999, true), ("2000-2999", 3000, false)]
        {
            assert_eq!(Ports::parse(text).unwrap().holds(port), inside, "{text} {port}");
        }
        for bad in ["", "x", "2-1", "70000", "-", "1-"] {
            assert_eq!(Ports::parse(bad), None, "{bad}");
        }
        for bad in ["", "a*", "*.a", ".*", "a.*.b"] {
            assert_eq!(Topics::parse(bad), None, "{bad}");
        }
        for bad in ["", "1", "1:2", "1:2:3:4", "x:*:*", "0:*:70000"] {
            assert_eq!(Target::parse(bad), None, "{bad}");
        }
        assert_eq!(Service::parse("policy"), Some(Service::Policy));
        assert_eq!(Action::parse("Trust"), None);
    }

    #[test]
    fn topics_cover_patterns_and_not_only_names() {
        for (rule, pattern, covered) in [
            ("*", "*", true),
            ("a.*", "a.b", true),
            ("a.*", "a.b.*", true),
            ("a.*", "a.*", true),
            ("a.*", "a", false),
            ("a.*", "ab.c", false),
            ("a.*", "*", false),
            ("a.b", "a.b", true),
            ("a.b", "a.*", false),
            ("a.b", "a.b.c", false),
        ] {
            assert_eq!(Topics::parse(rule).unwrap().covers(pattern), covered, "{rule} {pattern}");
        }
        let least = Capabilities::least("x", 0);
        assert!(least.subscribe("").is_err(), "empty is everything");
    }

    #[test]
    fn targets() {
        let rule = |text: &str| Target::parse(text).unwrap();
        assert!(rule("*:*:444").holds(to(3, 9), 444) && !rule("*:*:444").holds(to(3, 9), 445));
        assert!(rule("0:7:*").holds(to(0, 7), 1) && !rule("0:7:*").holds(to(1, 7), 1));
        assert!(rule("0:7:10-20").holds(to(0, 7), 15) && !rule("0:7:10-20").holds(to(0, 8), 15));
    }

    #[test]
    fn the_four_may_everything_and_a_stranger_next_to_nothing() {
        let (ample, least) = (Capabilities::ample(100), Capabilities::least("x", 100));
        type Ask = fn(&Capabilities) -> Result<(), Denial>;
        let asks: [Ask; 8] = [
            |c| c.bind(444),
            |c| c.publish("tunnel.established"),
            |c| c.subscribe("*"),
            |c| c.dial(Addr { network: 0, node: 1 }, 444),
            |c| c.sign(b"anything"),
            |c| c.registry("lookup"),
            |c| c.provide(Service::Policy),
            |c| c.act(Action::AdminToken),
        ];
        for ask in asks {
            assert_eq!(ask(&ample), Ok(()));
            assert!(ask(&least).is_err());
        }
        assert_eq!(least.publish("plugin.x.hello"), Ok(()));
        assert_eq!(
            least.bind(444).unwrap_err().explain("x"),
            "plugin \"x\" may not bind port 444; to allow it: [plugins.settings.x.capabilities] ports = [444]"
        );
        assert_eq!(
            least.dial(to(0, 7), 444).unwrap_err().explain("x"),
            "plugin \"x\" may not reach port 444 of 0:0000.0000.0007; to allow it: \
             [plugins.settings.x.capabilities] dial = [\"0:7:444\"]"
        );
    }

    #[test]
    fn signing_is_bound_to_beginnings() {
        let mut rules = Capabilities::least("x", 0);
        rules.sign = vec!["pilot-x:".into()];
        assert!(rules.sign(b"pilot-x:1").is_ok() && rules.sign(b"pilot-y:1").is_err());
        assert!(rules.sign(&[0xff; 4]).unwrap_err().explain("x").contains("\\xff\\xff"));
    }
}
