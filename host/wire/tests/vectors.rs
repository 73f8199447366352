//! The recorded vectors this crate answers for, one module per area. Entries are tested by the rule of their kind, so any
//! folder of the same format can be run (`PILOT_VECTORS`).
#![allow(clippy::unwrap_used)] // in a test a panic is the report

#[path = "by_area/beacon.rs"]
mod beacon;
#[path = "by_area/blueprint.rs"]
mod blueprint;
#[path = "by_area/dataexchange.rs"]
mod dataexchange;
#[path = "by_area/packet.rs"]
mod packet;
#[path = "by_area/registry.rs"]
mod registry;
#[path = "by_area/secure.rs"]
mod secure;
#[path = "by_area/tunnel.rs"]
mod tunnel;
#[path = "by_area/wss.rs"]
mod wss;
#[path = "by_area/zap.rs"]
mod zap;

use pilot_vectors::Entry;

#[test]
fn vectors() {
    let mut replay = pilot_wire::secure::ReplayStore::new();
    pilot_vectors::run(
        "pilot-wire",
        &["packet", "beacon", "registry", "dataexchange", "blueprint", "zap", "secure", "wss"],
        |area, entry| match area {
            "packet" => packet::check(entry),
            "beacon" => beacon::check(entry),
            "blueprint" => blueprint::check(entry),
            "zap" => zap::check(entry),
            "wss" => wss::check(entry),
            "secure" => secure::check(entry, &mut replay),
            "dataexchange" => dataexchange::check(entry),
            _ => registry::check(entry),
        },
    );
}

#[test]
fn tunnel_vectors_have_the_layout() {
    let entries = pilot_vectors::load("tunnel").unwrap_or_default();
    entries.iter().filter(|e| e.kind.starts_with("PIL") || e.kind == "beacon").for_each(tunnel::check);
}

/// Asserts the recorded error text: whole, as a prefix, or only that there is an error (`error_match`).
fn assert_error_text(entry: &Entry, got: &str) {
    let want = entry.error_text().unwrap_or_default();
    match entry.raw.get("error_match").and_then(serde_json::Value::as_str) {
        Some("any") => {}
        Some("prefix") => assert!(got.starts_with(want), "{got:?} does not start with {want:?}"),
        _ => assert_eq!(got, want),
    }
}
