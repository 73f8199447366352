//! What the `data` of each command holds, in one line, for `pilotctl context` (cli.md section 2). Agents read it.

/// The members of a command's `data`; `None` for a command that is not listed, which a test forbids.
pub(super) fn of(command: &str) -> Option<&'static str> {
    if command.starts_with("net ") {
        return Some(CLUSTER);
    }
    RETURNS.iter().find(|(name, _)| *name == command).map(|(_, returns)| *returns)
}

/// An answer of the registry, passed through.
const REGISTRY: &str = "the registry's answer";
/// An answer of the daemon's policy engine, passed through.
const ENGINE: &str = "the engine's answer";
/// What a change of one plugin gives.
const PLUGIN: &str = "name, version, state, reason";
/// Text whatever the flags.
const TEXT: &str = "text, also with --json";
/// A cluster, or one node of it.
const CLUSTER: &str = "the runner's answer";

const RETURNS: &[(&str, &str)] = &[
    ("daemon start", "pid, node_id, address, hostname, socket, log_file"),
    ("daemon stop", "pid, forced?"),
    (
        "daemon status",
        "running, responsive, pid, pid_file, socket; when it answers node_id, address, hostname, uptime_secs, peers, connections",
    ),
    (
        "info",
        "the daemon's info object: node_id, address, hostname, public_key, networks, peer_list, conn_list, ...",
    ),
    ("health", "status, uptime_seconds, connections, peers, bytes_sent, bytes_recv, ..."),
    ("plugins", "plugins[{name, version, state, isolation, starts, faults, reason}]"),
    ("plugins list", "plugins[{name, version, state, isolation, starts, faults, reason}]"),
    (
        "plugins status",
        "name, version, state, path, sha256, trust, treaty, starts, faults, recent_faults[], ...",
    ),
    ("plugins start", PLUGIN),
    ("plugins stop", PLUGIN),
    ("plugins restart", PLUGIN),
    ("plugins reload", PLUGIN),
    ("plugins lift", PLUGIN),
    (
        "plugins logs",
        "lines[{unix_ms, level, target, message, fields}], next; with --follow one such object a line",
    ),
    ("peers", "peers[{node_id, endpoint, path, rtt_ms, loss, encrypted, authenticated, relay}], total"),
    ("connections", "connections[{id, local_port, remote_addr, remote_port, state, ...}], total"),
    ("events", "events[{time, topic, payload}], total; with --follow one such object a line"),
    ("top", "with --once: node_id, peers[], connections[], plugins[], events[], rates"),
    ("disconnect", "conn_id"),
    ("handshake", "status, node_id; with --wait trusted"),
    ("pending", "pending[{node_id, public_key, justification, received_at}]"),
    ("approve", "status, node_id"),
    ("reject", "status, node_id"),
    ("trust", "trusted[{node_id, public_key, mutual, network, approved_at}], total"),
    ("untrust", "node_id"),
    ("prefer-direct", "node_id, had_tunnel, was_relay_active, was_relay_pinned, pila_pushed, resolve_error"),
    (
        "send-message",
        "target, to, type, bytes, ack, rtt_ms, seq, reused; with --count results[]; with --wait reply",
    ),
    ("send-file", "filename, bytes, destination, ack, elapsed_ms, throughput_mbps"),
    (
        "inbox",
        "messages[{id, type, from, data, data_encoding, bytes, received_at}], total, dir; with --clear cleared",
    ),
    ("inbox read", "id, type, from, data, data_encoding, bytes, received_at"),
    ("received", "files[{name, bytes, modified, path}], total, dir; with --clear cleared"),
    ("ping", "target, results[{seq, bytes, rtt_ms, setup_ms} or {seq, error}], timeout"),
    ("traceroute", "target, setup_ms, rtt_samples[{rtt_ms, bytes}] or error"),
    (
        "bench",
        "target, sent_bytes, recv_bytes, send_duration_ms, total_duration_ms, send_mbps, total_mbps (MiB/s)",
    ),
    ("connect", "target, port, sent, response"),
    ("send", "target, port, sent, response"),
    ("recv", "messages[{seq, port, from, data, bytes}], timeout"),
    ("listen", "messages[{src_addr, src_port, data, bytes}], timeout; without an end one such object a line"),
    ("dgram", "target, port, bytes"),
    ("subscribe", "events[{topic, data, bytes}], timeout; without an end one such object a line"),
    ("publish", "target, topic, bytes"),
    ("broadcast", "network_id, port, bytes"),
    ("find", "hostname, node_id, address, public"),
    ("lookup", "node_id, address, public, public_key, hostname, networks, real_addr?, version"),
    ("set-hostname", "hostname, node_id"),
    ("clear-hostname", "hostname"),
    ("set-public", "node_id, visibility"),
    ("set-private", "node_id, visibility"),
    ("set-tags", "node_id, tags"),
    ("clear-tags", "node_id, tags"),
    ("set-webhook", "webhook, applied"),
    ("clear-webhook", "webhook, applied"),
    ("rotate-key", "node_id, public_key"),
    ("deregister", REGISTRY),
    ("register", "node_id, address, public_key, hostname"),
    ("key-info", REGISTRY),
    ("key-expiry", REGISTRY),
    ("network list", "networks[{id, name, join_rule, members?, enterprise, created}]"),
    ("network join", "network_id, address"),
    ("network leave", "network_id"),
    ("network members", "nodes[{node_id, hostname, address, public, role, last_seen, offline?}]"),
    ("network invite", "network_id, target_node_id, status?"),
    ("network invites", "invites[{network_id, inviter_id, timestamp}]"),
    ("network accept", "network_id, accepted"),
    ("network reject", "network_id, accepted"),
    ("network create", "network_id, name, enterprise"),
    ("network delete", REGISTRY),
    ("network rename", REGISTRY),
    ("network promote", REGISTRY),
    ("network demote", REGISTRY),
    ("network kick", REGISTRY),
    ("network transfer", REGISTRY),
    ("network role", "network_id, node_id, role"),
    ("network policy", REGISTRY),
    ("network enterprise", REGISTRY),
    ("policy get", "engine, expr_policy?, network_id"),
    ("policy set", "applied, network_id"),
    ("policy validate", "valid, version, rules[], events{}"),
    (
        "policy test",
        "event, context, assumed[], rules[{rule, outcome, directives?}], verdict?, directives[], because",
    ),
    ("managed status", ENGINE),
    ("managed rankings", "rankings[{node_id, rank, score, tags, added_at}]"),
    ("managed cycle", ENGINE),
    ("managed reconcile", "network_id, peers"),
    ("managed score", ENGINE),
    ("member-tags get", "network_id, target_node_id, tags; without --node members{}"),
    ("member-tags set", "network_id, target_node_id, tags"),
    ("audit", "entries[{timestamp, action, node_id?, network_id?, details}]"),
    ("provision", "network_id, name, created, actions[]"),
    ("deprovision", REGISTRY),
    ("provision-status", REGISTRY),
    ("idp get", REGISTRY),
    ("idp set", REGISTRY),
    ("audit-export get", REGISTRY),
    ("audit-export set", REGISTRY),
    ("audit-export disable", REGISTRY),
    ("directory-sync", REGISTRY),
    ("directory-status", REGISTRY),
    ("external-id get", REGISTRY),
    ("external-id set", REGISTRY),
    ("sign-request", "envelope, signature, address"),
    (
        "verify-request",
        "valid, reason? or node_id, address, verified_via, trusted; exit code 1 when not valid",
    ),
    ("verify", REGISTRY),
    ("recovery enroll", REGISTRY),
    ("quickstart", TEXT),
    ("init", "config_path, registry, beacon, socket, hostname"),
    (
        "config",
        "all keys of the file, and config_path, pid_file, log_file, registry, socket; with --set key, value",
    ),
    ("context", "version, tool, commands{}, error_codes{}, global_flags{}, environment[], config_file"),
    ("completions", TEXT),
    ("man", "dir, pages"),
    ("version", TEXT),
];
