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

[registry]
# HOST:PORT of the registry. Empty: start a rendezvous in this process on loopback (see [rendezvous]), or use the one
# that already runs there. Flag --registry, environment PILOT_REGISTRY.
#addr = ""

[beacon]
# HOST:PORT of the beacon. Empty: the registry's host, port 9001. Flag --beacon, environment PILOT_BEACON.
#addr = ""

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

[ipc]
# The local socket for pilotctl and SDKs, mode 0600. Default: $XDG_RUNTIME_DIR/pilot.sock, else /tmp/pilot.sock.
# Flag --socket, environment PILOT_SOCKET.
#socket = "/tmp/pilot.sock"

[plugins]
# Directory whose *.so files are loaded at start. Flag --plugins, environment PILOT_PLUGINS_DIR.
#dir = "/usr/lib/pilot/plugins"
# How long one plugin may take to start, and to stop. From 1ms to 1h.
#init_timeout = "10s"
#shutdown_timeout = "5s"

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

[plugin.dataexchange]
# Directories for messages and files; relative ones are below node.state_dir.
#inbox_dir = "inbox"
#received_dir = "received"

[plugin.policy]
# A policy document (JSON file, relative ones are below node.state_dir) that gates this host from the start, and the
# network it speaks for (0, the backbone, unless given): document = "policy.json", network = 0
"#
}
