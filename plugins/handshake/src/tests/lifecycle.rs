//! Start, stop, and what is on disk in between.

use super::*;

#[test]
fn init_binds_and_registers_and_shutdown_undoes_it() {
    let (a, _, _) = pair();
    let a = a.start();
    assert_eq!(a.daemon.bound_ports(), [PORT]);
    let service = a.service();
    a.stop();
    a.stop();
    assert_eq!(a.daemon.bound_ports(), [] as [u16; 0]);
    service.stop();
    assert!(!service.is_trusted(2) && !service.wait_for_trust(2, Duration::from_secs(60)));
    assert_eq!(service.send_request(2, "late").expect_err("stopped").kind(), ErrorKind::Closed);
    service.process_relayed_request(2, "late");
    assert_eq!(service.pending_count(), 0);
    // The plugin keeps nothing of the daemon: one reference is ours, one may be the node's own.
    assert_eq!(Arc::strong_count(&a.daemon), 1);
}

#[test]
fn a_taken_port_fails_the_start() {
    let (a, _, _) = pair();
    let _taken = a.daemon.ports().bind(PORT).expect("free");
    let error = a.plugin.init(a.daemon.clone()).expect_err("taken");
    assert_eq!(error.message(), "port 444 already bound");
    assert!(a.daemon.handshake_service().is_none());
}

#[test]
fn a_wrong_setting_fails_the_start_before_anything_is_opened() {
    let (a, _, _) = pair();
    a.daemon.set_config(json!({"direct_timeout_ms": "soon"}));
    assert!(a.plugin.init(a.daemon.clone()).is_err());
    assert_eq!(a.daemon.bound_ports(), [] as [u16; 0]);
}

#[test]
fn silent_streams_and_waiters_do_not_delay_the_end() {
    let (a, _, _) = pair();
    let a = a.start();
    let silent: Vec<_> =
        (0..5).map(|_| a.daemon.connect_from(Addr::backbone(9), PORT).expect("bound")).collect();
    let service = a.service();
    std::thread::scope(|s| {
        let waiter = s.spawn(|| service.wait_for_trust(2, Duration::from_secs(600)));
        a.plugin.shutdown(Duration::from_secs(5)).expect("in time");
        assert!(!waiter.join().expect("no panic"));
    });
    for stream in silent {
        wait_for_close(stream.as_ref());
    }
}

#[test]
fn a_registry_that_hangs_costs_the_deadline_and_no_more() {
    let (a, b, _) = pair();
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    b.daemon.set_trust_auto_approve(true);
    b.daemon.on_registry_call(move |op, _| {
        if op == "report_trust" {
            let _ = lock(&gate).recv();
        }
        Err(Error::new(ErrorKind::Registry, "away"))
    });
    let b = b.start();
    deliver(&b, 1, &[&a.message(2, Kind::Request, "hi").encode()]);
    assert!(b.service().is_trusted(1));
    let error = b.plugin.shutdown(Duration::from_millis(1200)).expect_err("something hangs");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(saved(&b.state_file())["trusted"][0]["node_id"], 1, "saved all the same");
    drop(release);
}

#[test]
fn state_survives_a_restart() {
    let (a, b, _) = pair();
    let b = b.start();
    deliver(&b, 1, &[&a.message(2, Kind::Request, "remember me").encode()]);
    b.service().process_relayed_request(3, "me too");
    b.service().approve(1).expect("approved");
    b.service().send_request(5, "hello").expect("relayed");
    b.service().revoke_trust(9).expect_err("was not trusted");
    b.stop();
    let b = b.start();
    assert!(b.service().is_trusted_with_key(1, &a.key_text()));
    assert_eq!(b.service().pending_requests()[0].justification, "me too");
    b.service().process_relayed_approval(5);
    assert!(b.service().is_trusted(5), "the own request is remembered");
    let file = saved(&b.state_file());
    assert_eq!(file["revoked"][0]["node_id"], 9);
}

#[test]
fn a_change_is_on_disk_without_a_stop() {
    let (a, b, _) = pair();
    let b = b.start();
    deliver(&b, 1, &[&a.message(2, Kind::Request, "hi").encode()]);
    eventually("saved", || saved(&b.state_file())["pending"][0]["justification"] == "hi");
    assert!(!b.folder.path().join("trust.json.tmp").exists());
}

#[test]
fn an_unreadable_file_survives_a_start_and_a_stop() {
    let (a, _, _) = pair();
    fs::write(a.state_file(), "not JSON").expect("writes");
    let a = a.start();
    assert!(a.service().trusted_peers().is_empty());
    a.stop();
    assert_eq!(fs::read_to_string(a.state_file()).expect("still there"), "not JSON");
}

#[test]
fn without_changes_no_file_is_made_and_without_identity_none_ever() {
    let (a, b, _) = pair();
    let a = a.start();
    a.stop();
    assert!(!a.state_file().exists());
    b.daemon.set_identity_path(None);
    let b = b.start();
    b.service().process_relayed_request(3, "hi");
    b.stop();
    assert_eq!(fs::read_dir(b.folder.path()).expect("folder").count(), 0);
}

#[test]
fn a_failed_save_is_tried_again_at_the_end() {
    let (a, _, _) = pair();
    let beyond = a.folder.path().join("blocked");
    fs::write(&beyond, "a file where a folder should be").expect("writes");
    a.daemon.set_identity_path(Some(beyond.join("identity.json")));
    let a = a.start();
    a.service().process_relayed_request(3, "hi");
    fs::remove_file(&beyond).expect("removes");
    a.stop();
    assert_eq!(saved(&beyond.join("trust.json"))["pending"][0]["node_id"], 3);
}

#[test]
fn without_an_identity_messages_are_unsigned() {
    let (a, b, _) = pair();
    let (a, b) = (a.start(), b.start());
    a.service().send_request(2, "hi").expect("sent");
    b.daemon.wait_for_event("handshake.pending").expect("arrives");
    b.daemon.clear_identity();
    b.service().approve(1).expect("approved");
    assert!(a.service().wait_for_trust(2, Duration::from_secs(10)), "an accept is known by its stream");
    assert_eq!(a.service().trusted_peers()[0].public_key, "");
}
