//! The contract, row by row: what the daemon contract of the Go peers names, and what it is called here. For porting a
//! plugin, and for checking that nothing is missing: the test below this table uses every row with the type it must have.
//!
//! Where the shapes differ the reason is the border or the language: a handle plus functions on the daemon is an object
//! with methods here, a context is a deadline or a future that may be dropped, a returned nil is an `Option` or an error,
//! a channel is a subscription that is read.
//!
//! | Contract | Here |
//! |---|---|
//! | `RegisterPlugin(name, factory)` | [`export_plugin!`](crate::export_plugin) in a library, [`registry::register_plugin`](crate::registry::register_plugin) in a program |
//! | `Factory` | [`registry::Factory`](crate::registry::Factory); the constructor given to `export_plugin!` |
//! | `Registered()` | [`registry::registered`](crate::registry::registered) |
//! | `LoadAll(daemon)` | [`registry::load_all`](crate::registry::load_all), [`Registry::load_all`](crate::registry::Registry::load_all) |
//! | `ShutdownAll(ctx, plugins)` | [`registry::shutdown_all`](crate::registry::shutdown_all); its one error: [`ShutdownReport::into_result`](crate::registry::ShutdownReport::into_result) |
//! | `Plugin.Name()` | the name given to `export_plugin!`: constant by construction |
//! | `Plugin.Init(daemon)` | [`Plugin::init`](crate::Plugin::init) |
//! | `Plugin.Shutdown(ctx)` | [`Plugin::shutdown`](crate::Plugin::shutdown), with the time that is left |
//! | `Daemon.Start()`, `Daemon.Stop()` | not offered: the contract says that plugins do not call them |
//! | `Daemon.NodeID()` | [`Daemon::node_id`](crate::Daemon::node_id) |
//! | `Daemon.Identity()` | [`Daemon::identity`](crate::Daemon::identity): the public key; the private one never crosses |
//! | `Daemon.IdentityPath()` | [`Daemon::identity_path`](crate::Daemon::identity_path) |
//! | `Daemon.Sign(bytes)` | [`Daemon::sign`](crate::Daemon::sign) |
//! | `Daemon.AdminToken()` | [`Daemon::admin_token`](crate::Daemon::admin_token) |
//! | `Daemon.TrustAutoApprove()` | [`Daemon::trust_auto_approve`](crate::Daemon::trust_auto_approve) |
//! | `Daemon.Addr()` | [`Daemon::addr`](crate::Daemon::addr) |
//! | `Daemon.DialConnection(addr, port)` | [`Daemon::dial`](crate::Daemon::dial) |
//! | `Daemon.DialConnectionContext(ctx, ..)` | [`Daemon::dial`](crate::Daemon::dial) with a deadline; [`Daemon::dial_async`](crate::Daemon::dial_async), dropped to cancel |
//! | `Daemon.SendData(conn, bytes)` | [`Connection::write`](crate::Connection::write) |
//! | `Daemon.SendDatagram(addr, port, bytes)` | [`Daemon::send_datagram`](crate::Daemon::send_datagram) |
//! | `Daemon.CloseConnection(conn)` | [`Connection::close`](crate::Connection::close) |
//! | `Daemon.NewConnReadWriter(conn)` | nothing to make: [`Connection`](crate::Connection) reads and writes |
//! | `Daemon.Ports()` | [`Daemon::ports`](crate::Daemon::ports) |
//! | `Daemon.Tunnels()` | [`Daemon::tunnels`](crate::Daemon::tunnels) |
//! | `Daemon.RegistryClient()` | [`Daemon::registry_call`](crate::Daemon::registry_call): any operation, by name, signed by the daemon |
//! | `Daemon.RegConnListNodes(net, token)` | [`Daemon::list_nodes`](crate::Daemon::list_nodes) |
//! | `Daemon.SetMemberTags(net, tags)` | [`Daemon::set_member_tags`](crate::Daemon::set_member_tags) |
//! | `Daemon.PublishEvent(topic, payload)` | [`Daemon::publish`](crate::Daemon::publish) |
//! | `Daemon.Bus()` | [`Daemon::bus`](crate::Daemon::bus) |
//! | `Daemon.GetTrustChecker()`, `RegisterTrustChecker(tc)` | [`Daemon::trust_checker`](crate::Daemon::trust_checker), [`Daemon::register_trust_checker`](crate::Daemon::register_trust_checker) |
//! | `Daemon.HandshakeService()`, `RegisterHandshakeService(s)` | [`Daemon::handshake_service`](crate::Daemon::handshake_service), [`Daemon::register_handshake_service`](crate::Daemon::register_handshake_service) |
//! | `Daemon.TrustedPeers()` | [`Daemon::trusted_peers`](crate::Daemon::trusted_peers) |
//! | `Daemon.HandshakeRevokeTrust(node)` | [`Daemon::handshake_revoke_trust`](crate::Daemon::handshake_revoke_trust) |
//! | `Daemon.HandshakeSendRequest(node, reason)` | [`Daemon::handshake_send_request`](crate::Daemon::handshake_send_request) |
//! | `Daemon.RegisterPolicyManager(pm)` | [`Daemon::register_policy_manager`](crate::Daemon::register_policy_manager) |
//! | `Daemon.SetWebhookURL(url)` | [`Daemon::set_webhook_url`](crate::Daemon::set_webhook_url) |
//! | `Daemon.RegisterWebhookManager(wm)` | [`Daemon::register_webhook_manager`](crate::Daemon::register_webhook_manager) |
//! | `Daemon.VersionInfo()`, `VersionInfo` | [`Daemon::version_info`](crate::Daemon::version_info), [`VersionInfo`](crate::VersionInfo) |
//! | `Connection.Info()`, `ConnectionInfo` | [`Connection::info`](crate::Connection::info), [`ConnectionInfo`](crate::ConnectionInfo) |
//! | `ConnReadWriter` Read, Write, Close | [`Connection::read`](crate::Connection::read) (0 is the end), [`Connection::write`](crate::Connection::write) (all or an error), [`Connection::close`](crate::Connection::close) |
//! | `SetReadDeadline(t)` | [`Connection::set_read_timeout`](crate::Connection::set_read_timeout) |
//! | `Listener` Accept, Port, Close | [`Listener::accept`](crate::Listener::accept), [`Listener::port`](crate::Listener::port), [`Listener::close`](crate::Listener::close) |
//! | `PortAllocator` Bind, Unbind | [`PortAllocator::bind`](crate::PortAllocator::bind), [`PortAllocator::unbind`](crate::PortAllocator::unbind) |
//! | `TunnelRegistry.RemovePeer(node)` | [`TunnelRegistry::remove_peer`](crate::TunnelRegistry::remove_peer) |
//! | `EventBus.Publish`, `Event` | [`EventBus::publish`](crate::EventBus::publish), [`Event`](crate::Event) |
//! | `EventBus.Subscribe(pattern)`: channel and cancel | [`EventBus::subscribe`](crate::EventBus::subscribe): [`Subscription::recv`](crate::Subscription::recv) and [`Subscription::cancel`](crate::Subscription::cancel) |
//! | `TrustChecker.IsTrusted(node)` | [`TrustChecker::is_trusted`](crate::TrustChecker::is_trusted): the name, or `None` |
//! | `HandshakeService` IsTrusted, and with a key | [`is_trusted`](crate::HandshakeService::is_trusted), [`is_trusted_with_key`](crate::HandshakeService::is_trusted_with_key) |
//! | TrustedPeers, PendingRequests, PendingCount | [`trusted_peers`](crate::HandshakeService::trusted_peers), [`pending_requests`](crate::HandshakeService::pending_requests), [`pending_count`](crate::HandshakeService::pending_count) |
//! | SendRequest, ApproveHandshake, RejectHandshake, RevokeTrust | [`send_request`](crate::HandshakeService::send_request), [`approve`](crate::HandshakeService::approve), [`reject`](crate::HandshakeService::reject), [`revoke_trust`](crate::HandshakeService::revoke_trust) |
//! | WaitForTrust(node, timeout), Stop | [`wait_for_trust`](crate::HandshakeService::wait_for_trust), [`stop`](crate::HandshakeService::stop) |
//! | ProcessRelayedRequest, Approval, Rejection | [`process_relayed_request`](crate::HandshakeService::process_relayed_request), [`process_relayed_approval`](crate::HandshakeService::process_relayed_approval), [`process_relayed_rejection`](crate::HandshakeService::process_relayed_rejection) |
//! | `HandshakeTrustRecord`, `HandshakePendingRecord` | [`HandshakeTrustRecord`](crate::HandshakeTrustRecord), [`HandshakePendingRecord`](crate::HandshakePendingRecord) |
//! | `PolicyEventConnect`, `Dial`, `Datagram`, `Join`, `Leave`, `Cycle` | [`PolicyEvent`](crate::PolicyEvent) |
//! | `PolicyManager` Start, Stop, Get, All, StopAll, LoadPersisted | [`PolicyManager`](crate::PolicyManager); the runner that Start returns is [`get`](crate::PolicyManager::get)'s |
//! | `PolicyRunner` NetworkID, HasMember, EvaluatePortGate, EvaluateActions, Status, PeerList, ForceCycle, ReconcileNow, PolicyJSON, Stop | [`PolicyRunner`](crate::PolicyRunner); the gate's seven arguments are a [`PortGate`](crate::PortGate) |
//! | `WebhookManager` SetURL, Stats, `WebhookStats` | [`WebhookManager`](crate::WebhookManager), [`WebhookStats`](crate::WebhookStats) |

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use serde_json::{Map, Value};

    use crate::registry::{Factory, Registry, ShutdownReport, StartFailure, Started};
    use crate::*;

    type Json = Map<String, Value>;

    /// Every row of the table, with the type that the contract gives it; it is the compiler that runs this test.
    #[allow(clippy::too_many_lines)] // a table
    fn rows(
        d: &dyn Daemon,
        c: &dyn Connection,
        l: &dyn Listener,
        h: &dyn HandshakeService,
        m: &dyn PolicyManager,
        r: &dyn PolicyRunner,
        w: &dyn WebhookManager,
        p: &dyn Plugin,
    ) -> Result<()> {
        let daemon: Arc<dyn Daemon> = Err(Error::other("never run"))?;
        let (addr, limit) = (Addr::default(), Duration::ZERO);
        p.init(Arc::clone(&daemon))?;
        p.shutdown(limit)?;
        let _: u32 = d.node_id();
        let _: Option<PublicKey> = d.identity();
        let _: Option<std::path::PathBuf> = d.identity_path();
        let _: Option<Signature> = d.sign(b"");
        let _: String = d.admin_token();
        let _: bool = d.trust_auto_approve();
        let _: Addr = d.addr();
        let _: Arc<dyn Connection> = d.dial(addr, 1, limit)?;
        let dialling: BoxFuture<Result<Arc<dyn Connection>>> = d.dial_async(addr, 1);
        drop(dialling);
        d.send_datagram(addr, 1, b"")?;
        let bound: Arc<dyn Listener> = d.ports().bind(1)?;
        d.ports().unbind(bound.port());
        d.tunnels().remove_peer(1);
        let _: Json = d.registry_call("lookup", Json::new())?;
        let _: Json = d.list_nodes(1, "")?;
        d.set_member_tags(1, vec![String::new()]);
        d.publish("topic", Some(Json::new()));
        d.bus().publish("topic", None);
        let s: Arc<dyn Subscription> = d.bus().subscribe("*");
        if let Some(Event { topic, node_id, time, payload }) = s.recv(limit)? {
            let _: (String, u32, SystemTime, Option<Json>) = (topic, node_id, time, payload);
        }
        s.cancel();
        if let Some(checker) = d.trust_checker() {
            let _: Option<String> = checker.is_trusted(1);
            d.register_trust_checker(checker);
        }
        if let Some(service) = d.handshake_service() {
            d.register_handshake_service(service);
        }
        let _: Vec<HandshakeTrustRecord> = d.trusted_peers();
        d.handshake_revoke_trust(1)?;
        d.handshake_send_request(1, "why")?;
        let _: fn(&dyn Daemon, Arc<dyn PolicyManager>) = |d, m| d.register_policy_manager(m);
        let _: fn(&dyn Daemon, Arc<dyn WebhookManager>) = |d, w| d.register_webhook_manager(w);
        d.set_webhook_url("");
        let VersionInfo { version, commit, build_time } = d.version_info();
        let _: [String; 3] = [version, commit, build_time];

        let ConnectionInfo { local, local_port, remote, remote_port } = c.info();
        let _: ((Addr, u16), (Addr, u16)) = ((local, local_port), (remote, remote_port));
        let _: usize = c.read(&mut [0])?;
        c.write(b"")?;
        c.set_read_timeout(Some(limit))?;
        c.close();
        let _: (u16, Option<Arc<dyn Connection>>) = (l.port(), l.accept());
        l.close();

        let _: [bool; 3] = [h.is_trusted(1), h.is_trusted_with_key(1, ""), h.wait_for_trust(1, limit)];
        let _: (Vec<HandshakeTrustRecord>, Vec<HandshakePendingRecord>, u32) =
            (h.trusted_peers(), h.pending_requests(), h.pending_count());
        h.send_request(1, "why").and(h.approve(1)).and(h.reject(1, "why")).and(h.revoke_trust(1))?;
        h.process_relayed_request(1, "why");
        h.process_relayed_approval(1);
        h.process_relayed_rejection(1);
        h.stop();

        m.start(1, "{}")?;
        m.stop(1);
        let _: (Option<Arc<dyn PolicyRunner>>, Vec<Arc<dyn PolicyRunner>>) = (m.get(1), m.all());
        m.stop_all();
        let _: Vec<u16> = m.load_persisted()?;
        let gate = PortGate {
            event: PolicyEvent::Connect,
            port: 1,
            peer: 1,
            payload_size: 0,
            direction: Direction::In,
            local_tags: Vec::new(),
            node_info_tags: Vec::new(),
        };
        let _: (u16, bool, bool) = (r.network_id(), r.has_member(1), r.evaluate_port_gate(&gate));
        r.evaluate_actions("cycle", &Json::new());
        let _: (Json, Vec<Value>, Json, u32, String) =
            (r.status(), r.peer_list(), r.force_cycle()?, r.reconcile_now()?, r.policy_json());
        r.stop();
        w.set_url("")?;
        let WebhookStats { dropped, circuit_skips } = w.stats();
        let _: [u64; 2] = [dropped, circuit_skips];

        let factory: Factory = Arc::new(|| Ok(None));
        registry::register_plugin("name", Some(factory))?;
        let _: Vec<String> = registry::registered();
        let (started, failure): (Vec<Started>, Option<StartFailure>) = registry::load_all(&daemon, limit);
        let report: ShutdownReport = registry::shutdown_all(started, limit);
        drop((failure, Registry::new()));
        report.into_result()
    }

    #[test]
    fn constants_are_the_contracts() {
        let _ = rows;
        let words = ["connect", "dial", "datagram", "join", "leave", "cycle"];
        assert!(words.iter().all(|w| PolicyEvent::parse(w).is_some_and(|e| e.as_str() == *w)));
        assert_eq!((Direction::In.as_str(), Direction::Out.as_str()), ("in", "out"));
    }
}
