//! A Go registry's state file taken over by `pilot-host rendezvous import`, and served afterwards.

use std::net::TcpStream;
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pilot_wire::registry::{read_message, write_raw_message};
use serde_json::json;

use crate::support::*;

fn import(file: &str, data_dir: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilot-host"));
    command.args(["rendezvous", "import", file, "--data-dir", data_dir]).output().unwrap()
}

#[test]
fn a_go_registry_moves_in_with_its_numbers() {
    let dir = temp_dir();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (file, data_dir) = (path("registry.json"), path("data"));
    let key = |byte: u8| STANDARD.encode([byte; 32]);
    let node = |id: u32, public: bool, hostname: &str| {
        json!({"id": id, "public_key": key(id as u8), "real_addr": "192.0.2.1:4000", "networks": [0, 1],
            "public": public, "hostname": hostname, "last_seen": "2026-06-01T10:00:00+02:00"})
    };
    let state = json!({"version": 1, "next_node": 12, "next_net": 2,
        "nodes": {"7": node(7, true, "seven"), "9": node(9, false, "")},
        "pub_key_idx": {key(7): 7, key(9): 9, key(11): 11},
        "networks": {"0": {"id": 0, "name": "backbone", "join_rule": "open", "members": [7, 9]},
            "1": {"id": 1, "name": "team", "join_rule": "token", "token": "t", "members": [7, 9],
                "member_roles": {"7": "owner"}, "enterprise": true, "created": "2026-05-01T00:00:00Z"}},
        "trust_pairs": ["7:9"]});
    std::fs::write(&file, state.to_string()).unwrap();
    let done = import(&file, &data_dir);
    let report = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success() && report.starts_with("3 nodes, 1 networks and 1 trust pairs"), "{report}");

    let rendezvous = Rendezvous::start_with(&["--data-dir", &data_dir]);
    let mut stream = TcpStream::connect(&rendezvous.registry).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut ask = |request: serde_json::Value| {
        write_raw_message(&mut stream, request.to_string().as_bytes()).unwrap();
        read_message(&mut stream).unwrap()
    };
    let seven = ask(json!({"type": "lookup", "node_id": 7}));
    assert_eq!((&seven["hostname"], &seven["networks"]), (&json!("seven"), &json!([0, 1])), "{seven:?}");
    assert_eq!(ask(json!({"type": "check_trust", "node_id": 9, "peer_id": 7}))["trusted"], true);
    // A key that was known keeps its number, a new one gets the next.
    for (byte, number) in [(11, 11), (13, 12)] {
        let answer = ask(json!({"type": "register", "listen_addr": "127.0.0.1:1", "public_key": key(byte)}));
        assert_eq!(answer["node_id"], number, "{answer:?}");
    }
    drop(rendezvous);

    let again = import(&file, &data_dir);
    let refusal = String::from_utf8(again.stderr).unwrap();
    assert!(!again.status.success() && refusal.contains("import into an empty directory"), "{refusal}");
}
