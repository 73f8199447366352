//! `pilot-host config example`: every key, its meaning and its default. A test parses what is printed here, with the
//! comment signs removed, so a key can neither be missing nor misspelt.

/// The commented example file.
pub fn example_toml() -> &'static str {
    r#"# pilot.toml: the configuration of one Pilot host.
# Every key may be left out; the values shown are the defaults. Precedence: flag, environment, this file, default.

[node]
# Where this node keeps its state (identity, trust, inbox, received files).
# Default: $PILOT_HOME/.pilot, else ~/.pilot. Flag --state-dir.
#state_dir = "~/.pilot"
# The identity file, mode 0600; made when missing. Default: identity.json in state_dir.
# Flag --identity, environment PILOT_IDENTITY.
#identity = "~/.pilot/identity.json"
# Name to register; lower-case letters, digits, inner hyphens. Flag --hostname.
#hostname = ""
# UDP address of the tunnel socket; port 0 lets the system choose. Flag --listen.
#listen = "0.0.0.0:0"
# Address to advertise instead of the one the beacon observes; empty: observe. Flag --endpoint.
#endpoint = ""
# Whether strangers may look this node up and connect without trust. Flag --public.
#public = false
# Approve every handshake request without asking. For tests and closed groups. Flag --trust-auto-approve.
#trust_auto_approve = false
# Token for administrative registry operations. Environment PILOT_ADMIN_TOKEN.
#admin_token = ""
# Networks to join at start, by id.
#networks = []
# How datagrams travel: udp; compat (one WebSocket to a beacon, for networks that let nothing but TCP 443 out, see
# [compat]); or auto (udp if the beacon answers over it, else compat if that beacon answers). Precedence: flag
# --transport, PILOT_TRANSPORT, this key, PILOT_TRANSPORT_DEFAULT; an unknown value in a variable is ignored.
#transport = "udp"

[registry]
# HOST:PORT of the registry. Empty: start a rendezvous in this process on loopback (see [rendezvous]), or use the one
# that already runs there. Flag --registry, environment PILOT_REGISTRY.
#addr = ""
# Registries that follow that one, HOST:PORT each; they are asked when it cannot be reached, with the same TLS settings.
# Flag --registry-standby.
#standbys = []
# TLS to the registry: the fingerprint of its certificate (64 hex digits; the rendezvous prints it when it starts), or a
# PEM file of the roots that vouch for it. Neither: in the clear. Flags --registry-fingerprint (environment
# PILOT_REGISTRY_FINGERPRINT) and --registry-ca.
#fingerprint = ""
#ca_file = ""
# pinned (by the keys above), or system: TLS by the system's roots. With the compat transport and a registry on port 443
# system is the default. Flag --registry-trust, environment PILOT_REGISTRY_TRUST.
#trust = ""

[beacon]
# HOST:PORT of the beacon. Empty: the registry's host, port 9001. Flag --beacon, environment PILOT_BEACON.
#addr = ""

[compat]
# The compat transport. URL of the beacon's WebSocket, wss://HOST[:PORT]/v1/compat (ws:// is taken too). Empty: the public
# one, which auto does not consider. Flag --compat-beacon.
#beacon = ""
# Whom to believe: system (the machine's roots; SSL_CERT_FILE and SSL_CERT_DIR count), or pinned (the roots in the PEM file
# roots_file and nobody else; the file alone means pinned). Flags --tls-trust, --compat-roots.
#tls_trust = ""
#roots_file = ""
# HTTP proxy: auto (HTTPS_PROXY, NO_PROXY), off, or http://[USER:PASSWORD@]HOST[:PORT]. The registry is reached through it
# too. Flag --proxy, environment PILOT_PROXY.
#proxy = "auto"
# Limit of one dial: names, TCP, proxy, TLS, upgrade and challenge together.
#dial_timeout = "20s"
# Time between pings, and how long a pong may take before the connection is given up.
#ping_interval = "30s"
#pong_wait = "10s"
# Time between two data messages that say we are here; at most 60s, because a beacon drops a silent client after 90 s.
#keepalive = "45s"
# Messages from the beacon that may wait; beyond it nothing more is read from the connection.
#receive_queue = 256
# Wait before a lost connection is dialled again; doubles after each failed dial up to backoff_max.
#backoff_first = "250ms"
#backoff_max = "30s"

[rendezvous]
# Used by `pilot-host rendezvous`, and by `pilot-host run` when no registry is configured.
# TCP address of the registry.
#registry = "127.0.0.1:9000"
# UDP address of the beacon.
#beacon = "127.0.0.1:9001"
# Directory for the registry's state; empty keeps it in memory.
#data_dir = ""
# Token that unlocks administrative operations; empty switches them off.
#admin_token = ""
# TLS 1.3 on the registry's port. With tls_cert and tls_key (PEM) that certificate is shown, without them one of its own,
# kept in data_dir. Nodes then need its fingerprint or its issuer, see [registry]. Flags --tls, --tls-cert, --tls-key.
#tls = false
#tls_cert = ""
#tls_key = ""
# IP:PORT (TCP) where the beacon takes nodes without UDP, over a WebSocket; empty: nowhere. With compat_cert and
# compat_key (PEM, read again when they change) it speaks TLS, else plain HTTP for a TLS front on this machine. More than
# compat_max_clients nodes at a time get HTTP 503. Flags --compat-listen, --compat-cert, --compat-key, --compat-max-clients.
# A node must meet the beacon's challenge before it is compat_challenge_age seconds old (and within ten seconds).
#compat_listen = ""
#compat_cert = ""
#compat_key = ""
#compat_max_clients = 16384
#compat_challenge_age = 30
# Datagrams per second that the beacon relays for one UDP endpoint or one WebSocket client; what goes beyond is lost.
# 0: any number. UDP from this machine itself has no limit. Flag --relay-limit.
#relay_limit = 4000
# A node that was silent for this long leaves the directory; its number, key and trust stay.
#reap_after = "30m"
# Connections to the registry at a time; further ones are closed at once.
#max_connections = 65536
# Requests per second of one connection, counted since it was opened and looked at after 5 s: above the first number its
# answers wait 10 ms each, above the second it is closed. requests_together: what all such connections may ask for in one
# second before whoever asks next is closed; 0: any number.
#requests_slow = 100
#requests_close = 500
#requests_together = 1000
# New nodes per source address and minute; 0: any number.
#registrations_per_minute = 0
# IP addresses that these limits, and the beacon's on relay and punch requests, do not count.
#unlimited = []
# The keys below are for `pilot-host rendezvous` only. IP:PORT of the dashboard (HTTP); empty: none. Flag --dashboard.
#dashboard = ""
# Shows the networks' names to whoever opens the page with ?token=. Environment PILOT_DASHBOARD_TOKEN.
#dashboard_token = ""
# What standbys have to know; empty: there are none. Environment PILOT_REPLICATION_TOKEN.
#replication_token = ""
# HOST:PORT of the registry to follow as a standby, with the same replication_token; empty: this is a primary.
# Flag --standby-of.
#primary = ""
# Its fingerprint when it speaks TLS. Flag --standby-of-fingerprint.
#primary_fingerprint = ""

[ipc]
# The local socket for pilotctl and SDKs, mode 0600. Default: $XDG_RUNTIME_DIR/pilot.sock, else /tmp/pilot.sock.
# Flag --socket, environment PILOT_SOCKET.
#socket = "/tmp/pilot.sock"
# A group (name or number) whose members may use the socket as well; its mode is then 0660. Whoever may use it may do
# everything pilotctl can. Flag --socket-group.
#group = ""

[engine]
# Limits and timers of the data plane. The values shown are the defaults.
# A stream that was silent for this long sends a keepalive. Flag --keepalive.
#keepalive = "30s"
# A stream that was silent for this long is closed. Flag --idle-timeout.
#idle_timeout = "120s"
# How long a closed stream stays known. Flag --time-wait.
#time_wait = "10s"
# New streams per second in all. Flag --syn-rate-limit.
#syn_rate_limit = 100
# Peers that this limit, and the one of 10 per second and peer, do not count: node ids with commas between them, or "all".
# Flag --syn-whitelist, environment PILOT_SYN_WHITELIST.
#syn_whitelist = ""
# Streams on one local port, and in all. Flags --max-conns-per-port, --max-conns-total.
#max_conns_per_port = 1024
#max_conns_total = 65536
# Be reached through the beacon only: peers do not learn this machine's address. Flag --relay-only.
#relay_only = false
# Port 7 answers with what it is sent; ping, traceroute and bench need it. false: nothing answers there. Flag --no-echo.
#echo = true
# Strangers get no key exchange and no answer to a ping either. Flag --strict-dataplane-trust.
#strict = false

[metrics]
# IP:PORT where GET /metrics answers in the Prometheus text format; empty: off. Flag --metrics. There is no password:
# keep it on loopback or behind a firewall.
#listen = ""

[telemetry]
# URL of an OpenTelemetry collector (OTLP over HTTP) that is sent spans: local clients' requests, the engine's work, calls
# between host and plugins; empty: off. They go to /v1/traces below it. Flag --otlp. What the collector wants besides,
# for example a token, is given by OTEL_EXPORTER_OTLP_HEADERS in the environment.
#otlp = ""

[plugins]
# Directory whose *.so files are loaded at start. Flag --plugins, environment PILOT_PLUGINS_DIR.
#dir = "/usr/lib/pilot/plugins"
# How long one plugin may take to start, and to stop. From 1ms to 1h.
#init_timeout = "10s"
#shutdown_timeout = "5s"
# What happens to a file that neither a signature (NAME.so.sig) nor the allow-list vouches for: off (it is loaded), warn
# (and a warning is logged), enforce (it is refused). A wrong signature by a trusted key is refused in every mode.
#trust = "off"
# Public keys whose signatures count, 64 hex digits each. `pilot-host plugin keygen` makes a pair.
#trusted_keys = []
# SHA-256 hashes of files that are wanted, 64 hex digits each.
#allow = []
# Plugins whose files are left alone.
#disabled = []
# A plugin with this many panics, missed deadlines and crashes within this time (1ms to 24h) is stopped and not started
# again until `pilotctl plugins lift NAME`. 0: never.
#quarantine_after = 5
#quarantine_window = "10m"
# Whether a file that this host has not opened before is opened in a child process first: a crash or a hang there is a
# refusal, and the daemon never opens it. What came of it is kept in plugins.probed.json of the state directory.
#probe = true
# Plugin libraries that this process maps at most. Code is never unmapped: each reload maps one more, which keeps the
# loadable part of its file and its own relocated tables (2.7 MB in all for an unoptimised webhook, 3.6 MB for dataexchange).
#max_mapped_copies = 1200
# Log lines per second and plugin; what is more is dropped and counted. 0: no limit.
#log_rate = 200

# The host's own settings for one plugin, [plugins.settings.NAME]. What is left out is the default for that name.
[plugins.settings.example]
# Whether its file is loaded.
#enabled = true
# in-process: in the daemon's own process. process: in a child of the daemon, whose crash costs the daemon nothing.
# Default: in-process for dataexchange, handshake, policy, webhook and for signed or allow-listed files.
#isolation = "in-process"

# For isolation = "process". After the decision timeout a gate says no, after the call timeout any other call is an error;
# a process that has not answered five seconds later is stuck and is ended. After a crash it is started again after a
# pause that doubles with each crash in a row, until quarantine_after. address_space in MiB limits its memory; threads
# reserve much of it, so give 1024 or more.
[plugins.settings.example.process]
#decision_timeout = "1s"
#call_timeout = "1m"
#restart_pause = "100ms"
#longest_restart_pause = "30s"
#address_space = 1024

# What the plugin may ask of the daemon. The four that come with the host may everything unless it is written here; any
# other plugin has what is shown. A call that is not allowed fails with a text that names the key.
[plugins.settings.example.capabilities]
# Ports it may bind: 444, "2000-2999", "*".
#ports = []
# Topics it may publish and subscribe to: a topic, "a.*" for everything below a, "*" for all.
#publish = ["plugin.example.*"]
#subscribe = ["plugin.example.*", "node.*", "daemon.*"]
# Whom it may dial or send datagrams to, "NETWORK:NODE:PORT": "0:7:444", "*:*:1000-1999", "*".
#dial = []
# Beginnings of messages that it may have signed with this node's key; "" is every message.
#sign = []
# Registry operations it may call, by name; "*" is every one.
#registry = []
# Services it may provide: trust-checker, handshake, policy, webhook.
#services = []
# What it may do to the daemon: admin-token, trust, tunnels, tags, webhook.
#actions = []
# How often; 0 is no limit. log_lines_per_second is plugins.log_rate unless given.
#dials_per_second = 10
#publishes_per_second = 50
#registry_calls_per_second = 5
#log_lines_per_second = 200

[security]
# Whether configuration, state, identity and socket have to lie in sandbox_dir (default: as node.state_dir); the host does
# not start when one does not. Flags --sandbox, --sandbox-dir.
#sandbox = false
#sandbox_dir = "~/.pilot"
# compatible, or enterprise: engine.strict is then on unless it is written otherwise. Flag --security-profile,
# environment PILOT_SECURITY_PROFILE.
#profile = "compatible"

[log]
# error, warn, info, debug, trace, or directives such as "info,pilot_engine=debug". Flag --log-level.
#level = "info"
# text or json. Flag --log-format.
#format = "text"

# Each plugin has a table of its own, handed to it as it stands. The keys belong to the plugin; its own documentation
# lists them. The four that come with the host know among others:

[plugin.webhook]
# Where every event is POSTed; empty: off.
#url = ""
# Signs each body with HMAC-SHA-256 (header X-Pilot-Signature-256).
#secret = ""
# Undelivered events wait here on disk, and are delivered after a restart; empty: in memory only.
#spool_dir = ""

[plugin.dataexchange]
# Directories for messages and files; relative ones are below node.state_dir.
#inbox_dir = "inbox"
#received_dir = "received"
# Complete files go to an object store instead: s3://BUCKET/PREFIX, gs://.., az://... Credentials come from the environment.
#received_url = ""

[plugin.policy]
# A policy document (JSON file, relative ones are below node.state_dir) that gates this host from the start, and the
# network it speaks for (0, the backbone, unless given): document = "policy.json", network = 0
"#
}
