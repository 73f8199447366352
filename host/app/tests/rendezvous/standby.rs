//! Two rendezvous, one of which follows the other, and hosts that go on when the first one is killed.

use std::time::Instant;

use pilot_net::registry_client::RegistryClient;
use pilot_net::tls::ClientTls;
use serde_json::Map;

use crate::support::*;

#[test]
fn hosts_find_each_other_through_the_standby_when_the_primary_is_killed() {
    let dir = temp_dir();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &["handshake"]);
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let token = ["--replication-token", "copy"];
    let primary_dir = path("primary");
    let mut primary = Rendezvous::start_with(&[&token[..], &["--tls", "--data-dir", &primary_dir]].concat());
    let pin = field(&primary.process.wait_line("speaks TLS"), "fingerprint");
    // Both have one certificate, so that hosts need one pin.
    let (certificate, key) = (path("primary/tls-cert.pem"), path("primary/tls-key.pem"));
    let standby_dir = path("standby");
    let standby = Rendezvous::start_with(
        &[
            &token[..],
            &["--tls-cert", &certificate, "--tls-key", &key, "--data-dir", &standby_dir],
            &["--standby-of", &primary.registry, "--standby-of-fingerprint", &pin],
        ]
        .concat(),
    );
    assert_eq!(field(&standby.process.wait_line("speaks TLS"), "fingerprint"), pin);
    let extra = ["--registry-fingerprint", &pin, "--registry-standby", standby.registry.as_str()];
    let start = |name: &str| Host::start_with(dir.path(), name, &primary, &plugins, &extra);
    let (alice, bob) = (start("alice"), start("bob"));
    befriend(&alice, &bob);
    let bob_id = bob.node_id().to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let direct = RegistryClient::unsigned(standby.registry.as_str());
        let direct = direct.tls(Some(ClientTls::pinned(&pin).unwrap()));
        // The pair is what comes last, and without it the standby would not say where a private node is.
        let pair = [("node_id", alice.node_id()), ("peer_id", bob.node_id())];
        let pair = Map::from_iter(pair.map(|(key, id)| (key.to_owned(), id.into())));
        let end = Instant::now() + PATIENCE;
        while !direct.call("check_trust", pair.clone()).await.is_ok_and(|answer| answer["trusted"] == true) {
            assert!(Instant::now() < end, "the standby does not learn that the hosts trust each other");
            tokio::task::yield_now().await;
        }
    });

    primary.process.signal("-KILL");
    primary.process.wait_exit();
    let found = alice.ok(&["lookup", &bob_id]);
    assert_eq!(found["hostname"], "bob");
    let ping = alice.ok(&["ping", &bob_id, "--count", "1"]);
    assert!(ping["results"][0]["rtt_ms"].is_number(), "{ping}");
}
