//! Networks, their policies and members, and what only an administrator may do.

use super::{Script, Seat};
use crate::support::*;

/// Ports below 1024 are for members with a tag.
const POLICY: &str = r#"{"version": 1, "rules": [
  {"name": "low-ports", "on": "connect", "match": "port < 1000 and not has_tag(peer_tags, \"ops\")",
   "actions": [{"type": "deny"}]}]}"#;

#[test]
fn members_and_administrators() {
    let dir = temp_dir();
    let mut s = Script::new("networks", dir.path());
    let rendezvous = Rendezvous::start_with(&["--admin-token", "sesame"]);
    let plugins = dir.path().join("plugins");
    stage(&plugins, &PLUGINS);
    let start = |name: &str| Host::start(dir.path(), name, &rendezvous, &plugins);
    let (alice, bob, _carol) = (start("alice"), start("bob"), start("carol"));
    let [a, b, c] = [&alice, &bob, &_carol].map(Seat::at);
    let admin = Seat::at(&alice).with("PILOT_ADMIN_TOKEN", "sesame");
    let wrong = Seat::at(&alice).with("PILOT_ADMIN_TOKEN", "open up");

    s.part("Making networks");
    s.both(&a, &["network", "list"]);
    s.both(&a, &["network", "create", "--name", "lab"]);
    s.both(&wrong, &["network", "create", "--name", "lab"]);
    s.run(&admin, &["network", "create", "--name", "lab"]);
    s.json(&admin, &["network", "create", "--name", "club", "--join-rule", "invite", "--enterprise"]);
    s.run(&admin, &["network", "create", "--name", "lab"]);
    s.json(&admin, &["network", "create", "--name", "guests", "--join-rule", "token", "--token", "s3cret"]);
    s.both(&a, &["network", "list"]);

    s.part("Joining and leaving");
    s.run(&b, &["network", "join", "1"]);
    s.json(&c, &["network", "join", "1"]);
    s.both(&b, &["network", "join", "1"]);
    s.both(&b, &["network", "join", "3"]);
    s.both(&b, &["network", "join", "3", "--token", "wrong"]);
    s.run(&b, &["network", "join", "3", "--token", "s3cret"]);
    s.both(&b, &["network", "join", "77"]);
    s.run(&admin, &["network", "join", "3", "--token", "s3cret", "--node-id", "carol"]);
    s.both(&b, &["network", "members", "1"]);
    s.both(&b, &["network", "members", "2"]);
    s.both(&b, &["network", "leave", "3"]);
    s.both(&b, &["network", "leave", "77"]);

    s.part("Invitations");
    s.both(&b, &["network", "invites"]);
    s.both(&a, &["network", "invite", "2", "bob"]);
    s.json(&a, &["network", "invite", "2", "3"]);
    s.both(&b, &["network", "invite", "2", "3"]);
    s.both(&b, &["network", "invites"]);
    s.run(&b, &["network", "accept", "2"]);
    s.both(&b, &["network", "accept", "2"]);
    s.json(&c, &["network", "reject", "2"]);
    s.both(&c, &["network", "reject", "2"]);
    s.run(&a, &["network", "invite", "2", "3"]);
    s.json(&c, &["network", "accept", "2"]);
    s.both(&a, &["network", "members", "2"]);

    s.part("Roles");
    s.both(&a, &["network", "role", "2"]);
    s.both(&a, &["network", "role", "2", "bob"]);
    s.run(&a, &["network", "promote", "2", "bob"]);
    s.json(&a, &["network", "promote", "2", "3"]);
    s.both(&b, &["network", "promote", "2", "3"]);
    s.run(&a, &["network", "demote", "2", "3"]);
    s.json(&a, &["network", "demote", "2", "2"]);
    s.both(&c, &["network", "kick", "2", "2"]);
    s.run(&a, &["network", "kick", "2", "3"]);
    s.json(&a, &["network", "kick", "2", "3"]);
    s.run(&a, &["network", "transfer", "2", "bob"]);
    s.json(&b, &["network", "transfer", "2", "1"]);

    s.part("Limits, names, features");
    s.both(&a, &["network", "policy", "2"]);
    s.both(&a, &["network", "policy", "2", "--max-members", "10", "--allowed-ports", "7,1001"]);
    s.both(&a, &["network", "rename", "2", "the-club"]);
    s.both(&admin, &["network", "enterprise", "1", "on"]);
    s.both(&a, &["network", "enterprise", "1", "off"]);

    s.part("Policies");
    let policy = a.home.join("gate.json");
    std::fs::write(&policy, POLICY).unwrap();
    s.both(&a, &["policy", "validate", "gate.json"]);
    s.both(&a, &["policy", "validate", "--inline", r#"{"version":1,"rules":[{"name":"x"}]}"#]);
    s.both(&a, &["policy", "validate", "nothing.json"]);
    s.both(&a, &["policy", "test", "gate.json", "--event", "connect", "--context", "port=22"]);
    s.both(&a, &["policy", "test", "gate.json", "--event", "connect", "--context", "port=8080"]);
    s.both(&a, &["policy", "test", "gate.json", "--event", "rain"]);
    s.both(&a, &["policy", "get", "--net", "1"]);
    s.both(&a, &["managed", "status"]);
    s.both(&a, &["policy", "set", "--net", "1", "--file", "gate.json"]);
    s.both(&admin, &["policy", "set", "--net", "1", "--file", "gate.json"]);
    s.both(&a, &["policy", "get", "--net", "1"]);
    eventually("the peers of the network", || {
        (alice.ok(&["managed", "status", "--net", "1"])["peers"] == 2).then_some(())
    });
    s.both(&a, &["managed", "status", "--net", "1"]);
    s.both(&a, &["managed", "rankings", "--net", "1"]);
    s.both(&a, &["managed", "cycle", "--net", "1"]);
    s.both(&a, &["managed", "reconcile", "--net", "1"]);
    s.both(&a, &["managed", "score", "--net", "1", "--node", "2", "--delta", "5"]);
    s.both(&admin, &["member-tags", "set", "--net", "1", "--node", "bob", "--tags", "ops,eu"]);
    s.both(&b, &["member-tags", "set", "--net", "1", "--node", "3", "--tags", "ops"]);
    s.both(&a, &["member-tags", "get", "--net", "1"]);
    s.both(&a, &["member-tags", "get", "--net", "1", "--node", "2"]);

    s.part("Administration");
    let blueprint = r#"{"name": "office", "enterprise": true, "policy": {"max_members": 50},
      "roles": [{"external_id": "bob@example.com", "role": "admin"}]}"#;
    std::fs::write(a.home.join("office.json"), blueprint).unwrap();
    let directory = r#"{"entries": [{"external_id": "bob@example.com", "role": "admin"}]}"#;
    std::fs::write(a.home.join("directory.json"), directory).unwrap();
    s.both(&a, &["provision", "office.json"]);
    s.both(&admin, &["provision", "office.json"]);
    s.both(&admin, &["provision", "nothing.json"]);
    s.both(&admin, &["provision-status"]);
    s.both(&admin, &["provision-status", "--net", "4"]);
    s.both(&admin, &["external-id", "set", "bob", "bob@example.com"]);
    s.both(&admin, &["external-id", "get", "bob"]);
    s.both(&admin, &["directory-sync", "--net", "4", "--file", "directory.json"]);
    s.both(&admin, &["directory-status", "--net", "4"]);
    s.both(&admin, &["idp", "get"]);
    s.both(&admin, &["idp", "set", "--type", "oidc", "--url", "https://id.example.com"]);
    s.both(&admin, &["idp", "get"]);
    s.both(&admin, &["audit-export", "get"]);
    s.both(&admin, &["audit-export", "set", "--format", "json", "--endpoint", "http://127.0.0.1:1/audit"]);
    s.both(&admin, &["audit-export", "get"]);
    s.both(&admin, &["audit-export", "disable"]);
    s.both(&a, &["audit"]);
    s.both(&admin, &["audit", "--limit", "5"]);
    s.run(&admin, &["deprovision", "4"]);
    s.json(&admin, &["deprovision", "4"]);
    s.run(&a, &["network", "delete", "2"]);
    s.json(&admin, &["network", "delete", "1"]);
    s.both(&a, &["network", "delete", "77"]);
    s.finish();
}
