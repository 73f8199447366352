//! Keeps this node registered and its inbox read: carries out what the engine's membership machine decides, and hands
//! relayed handshakes to the handshake service. One task; each action runs on a task of its own and reports back.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pilot_engine::identity::Identity;
use pilot_engine::membership::{Action, Beat, Look, Membership};
use pilot_net::clock::Clock;
use pilot_net::node::Signal;
use pilot_net::registry_client::{HandshakeInbox, Registration};
use serde_json::{Map, json};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use crate::core::{Core, Nudge};
use crate::run::local_endpoint;

/// What a node registers that can be reached through the beacon only and has no socket (wss.md section 6).
const NO_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

/// How an action ended.
enum Outcome {
    Registered(bool),
    Beat(Beat),
    Polled(Vec<u32>),
}

/// Nudges from the local socket, each with the answer it waits for.
pub type Nudges = mpsc::Receiver<(Nudge, oneshot::Sender<()>)>;

/// Runs until the host stops. A poll that is under way then is finished: the registry has forgotten what it handed out.
pub async fn run(core: Arc<Core>, mut signals: mpsc::Receiver<Signal>, mut nudges: Nudges, seed: [u8; 32]) {
    let clock = Clock::start();
    let local = local_endpoint(core.node.local_addr());
    let mut machine = Membership::new(clock.now(), local, seed);
    if core.compat.is_some() {
        // There is no address to learn, and no beacon that would answer.
        machine.fixed_address(clock.now(), NO_ADDRESS);
    } else if let Some(endpoint) = core.config.node.endpoint {
        machine.observed(clock.now(), endpoint);
    }
    let (done_tx, mut done) = mpsc::channel(16);
    let mut looking: Vec<oneshot::Sender<()>> = Vec::new();
    loop {
        while let Some(action) = machine.poll_action() {
            if action == Action::Discover && core.compat.is_some() {
                continue; // the transport does that, at its own times
            }
            if action == Action::Discover {
                core.node.configure(|engine, now| engine.discover(now)).await;
                continue;
            }
            let (core, done) = (core.clone(), done_tx.clone());
            tokio::spawn(async move {
                if let Some(outcome) = act(&core, action).await {
                    let _ = done.send(outcome).await;
                }
            });
        }
        let wake = machine.poll_timeout().map(|t| clock.deadline(t));
        let wake = wake.unwrap_or_else(|| tokio::time::Instant::now() + std::time::Duration::from_secs(3600));
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = tokio::time::sleep_until(wake) => machine.handle_timeout(clock.now()),
            Some(signal) = signals.recv() => match signal {
                // A configured endpoint is what the operator wants others to see.
                Signal::ObservedAddr(addr) if core.config.node.endpoint.is_none() => {
                    machine.observed(clock.now(), addr);
                }
                Signal::ObservedAddr(_) => {}
                Signal::PollHandshakes => machine.notified(clock.now()),
            },
            Some((nudge, waiting)) = nudges.recv() => {
                let look = match nudge {
                    Nudge::OwnRequest(peer) => {
                        machine.own_request(clock.now(), peer, true);
                        Look::Now
                    }
                    Nudge::ClientLooks => machine.client_looks(clock.now()),
                    Nudge::ClientWaits(peer) => machine.client_waits(clock.now(), peer),
                };
                // Dropping the sender lets the client go on; its own limit covers `until`.
                if let Look::Wait { .. } = look {
                    looking.retain(|w| !w.is_closed());
                    looking.push(waiting);
                }
            }
            Some(outcome) = done.recv() => match outcome {
                Outcome::Registered(ok) => machine.registered(clock.now(), ok),
                Outcome::Beat(beat) => machine.heartbeat_done(clock.now(), beat),
                Outcome::Polled(answered) => {
                    for peer in answered {
                        machine.answered(peer);
                    }
                    machine.poll_done(clock.now());
                    looking.clear();
                }
            },
        }
    }
}

async fn act(core: &Arc<Core>, action: Action) -> Option<Outcome> {
    match action {
        Action::Register { listen_addr } => Some(Outcome::Registered(register(core, listen_addr).await)),
        Action::Restore { again } => {
            restore(core, again).await;
            None
        }
        Action::Heartbeat => Some(Outcome::Beat(heartbeat(core).await)),
        Action::PollHandshakes => Some(Outcome::Polled(poll(core).await)),
        _ => None,
    }
}

fn registration(core: &Core, identity: &Identity, listen_addr: SocketAddr) -> Registration {
    let compat = core.compat.is_some();
    let listen_addr = match compat {
        true => NO_ADDRESS,
        false => core.config.node.endpoint.unwrap_or(listen_addr),
    };
    Registration {
        public_key: STANDARD.encode(identity.public_key()),
        listen_addr: listen_addr.to_string(),
        hostname: core.hostname(),
        lan_addrs: if compat { Vec::new() } else { lan_addrs(core) },
        version: crate::version::VERSION.to_owned(),
        relay_only: compat || core.config.engine.relay_only,
        ..Registration::default()
    }
}

/// Registers once more because a local client asks for it, for example after a deregistration.
///
/// # Errors
/// `registry connection not initialized`, or the registry's.
pub async fn register_now(core: &Arc<Core>) -> Result<Map<String, serde_json::Value>, String> {
    let (Some(registry), Some(identity)) = (core.registry(), core.identity()) else {
        return Err("registry connection not initialized".to_owned());
    };
    let bound = local_endpoint(core.node.local_addr());
    let what = registration(core, &identity, bound);
    let got = registry.register(&what).await.map_err(|e| e.to_string())?;
    let endpoint = if got.observed_addr.is_empty() { what.listen_addr } else { got.observed_addr };
    core.registered(got.node_id, &endpoint).await;
    announce(core, &got.address, &endpoint, false);
    restore(core, true).await;
    let answer = json!({
        "type": "register_ok", "node_id": got.node_id, "address": got.address, "public_key": what.public_key,
        "hostname": core.hostname(),
    });
    Ok(answer.as_object().cloned().unwrap_or_default())
}

async fn register(core: &Arc<Core>, listen_addr: SocketAddr) -> bool {
    let (Some(registry), Some(identity)) = (core.registry(), core.identity()) else { return false };
    let what = registration(core, &identity, listen_addr);
    match registry.register(&what).await {
        Ok(got) => {
            if !got.hostname_error.is_empty() {
                warn!(hostname = %what.hostname, reason = %got.hostname_error, "the registry refused the hostname");
            }
            let endpoint = if got.observed_addr.is_empty() { what.listen_addr } else { got.observed_addr };
            let first = core.node_id() == 0;
            core.registered(got.node_id, &endpoint).await;
            // The first connection decides whether this host can start at all; later ones are the supervisor's.
            if let Err(why) = core.connect_compat().await {
                core.fail(why);
                return false;
            }
            announce(core, &got.address, &endpoint, first);
            true
        }
        Err(e) => {
            warn!(registry = registry.addr(), error = %e, "registration failed; trying again");
            false
        }
    }
}

/// The log lines that scripts wait for, and the events (plugin-contract.md section 4.1).
fn announce(core: &Core, address: &str, endpoint: &str, first: bool) {
    let node_id = core.node_id();
    let object = |v: serde_json::Value| v.as_object().cloned().unwrap_or_else(Map::new);
    if first {
        info!(node_id, addr = address, endpoint, "daemon registered");
        core.bus()
            .publish("node.registered", Some(object(json!({"address": address, "endpoint": endpoint}))));
        let payload = json!({"address": address, "endpoint": endpoint, "node_id": node_id});
        core.bus().publish("agent.registered", Some(object(payload)));
        info!(node_id, addr = address, "daemon running");
    } else {
        info!(node_id, addr = address, endpoint, "daemon registered again");
        core.bus().publish("node.reregistered", Some(object(json!({"address": address}))));
        let payload = json!({"address": address, "node_id": node_id, "reregistered": true});
        core.bus().publish("agent.registered", Some(object(payload)));
    }
}

/// `ip:port` of this machine's LAN addresses, when the tunnel socket listens on all of them.
fn lan_addrs(core: &Core) -> Vec<String> {
    let bound = core.node.local_addr();
    if !bound.ip().is_unspecified() {
        return Vec::new();
    }
    let usable = pilot_net::udp::lan_addresses().into_iter().filter(|ip| ip.is_ipv4() || bound.is_ipv6());
    usable.map(|ip| SocketAddr::new(ip, bound.port()).to_string()).collect()
}

/// What the registry forgets about a node that it meets anew. Failures are logged and not fatal.
async fn restore(core: &Arc<Core>, again: bool) {
    let Some(registry) = core.registry() else { return };
    if core.is_public()
        && let Err(e) = registry.set_visibility(true).await
    {
        warn!(error = %e, "the registry did not make this node public");
    }
    core.learn_networks().await;
    if again {
        let trusted = core.services.handshake.get().map(|s| s.trusted_peers()).unwrap_or_default();
        for record in trusted {
            if let Err(e) = registry.report_trust(record.node_id).await {
                debug!(peer = record.node_id, error = %e, "reporting trust failed");
            }
        }
        return;
    }
    for network in &core.config.node.networks {
        match registry.join_network(*network, "").await {
            Ok(_) => {
                core.note_network(*network, true);
                let mut payload = Map::new();
                payload.insert("network_id".into(), (*network).into());
                core.bus().publish("network.auto_joined", Some(payload));
            }
            Err(e) if e.to_string().contains("already") => {}
            Err(e) => warn!(network, error = %e, "joining a configured network failed"),
        }
    }
}

async fn heartbeat(core: &Arc<Core>) -> Beat {
    let Some(registry) = core.registry() else { return Beat::Failed };
    match registry.heartbeat().await {
        Ok(beat) => {
            if beat.key_expiry_warning {
                warn!("this node's key expires within a day; rotate it");
            }
            let mut payload = Map::new();
            payload.insert("address".into(), core.addr().to_string().into());
            payload.insert("node_id".into(), core.node_id().into());
            core.bus().publish("agent.heartbeat", Some(payload));
            Beat::Alive
        }
        Err(e) => {
            debug!(error = %e, "heartbeat failed");
            e.refusal().map_or(Beat::Failed, Beat::from_refusal)
        }
    }
}

/// Empties the inbox into the handshake service; the peers that answered a request of ours.
async fn poll(core: &Arc<Core>) -> Vec<u32> {
    let (Some(registry), Some(service)) = (core.registry(), core.services.handshake.get()) else {
        // Without a service nobody could act on what the registry would forget by handing it out.
        return Vec::new();
    };
    let inbox = match registry.poll_handshakes().await {
        Ok(inbox) => inbox,
        Err(e) => {
            debug!(error = %e, "polling for handshakes failed");
            return Vec::new();
        }
    };
    let HandshakeInbox { requests, responses } = inbox;
    let answered = responses.iter().map(|r| r.from_node_id).collect();
    let task = tokio::task::spawn_blocking(move || {
        for r in requests {
            service.process_relayed_request(r.from_node_id, &r.justification);
        }
        for r in responses {
            match r.accept {
                true => service.process_relayed_approval(r.from_node_id),
                false => service.process_relayed_rejection(r.from_node_id),
            }
        }
    });
    if let Err(e) = task.await {
        warn!(error = %e, "the handshake service failed on a relayed message");
    }
    answered
}
