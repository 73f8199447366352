//! The host behind its local socket: carries out what the dispatcher (`ipc`) asks for.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use pilot_loader::Loaded;
use pilot_net::bus::BusSubscription;
use pilot_net::node::{Datagram, Listener, Stream};
use pilot_wire::addr::Addr;
use plugin_abi::{HandshakeService, PolicyManager, WebhookManager};
use serde_json::{Map, Value, json};
use tokio::sync::broadcast;

use crate::core::{Core, Nudge};
use crate::ipc::{Change, Inbox, IpcBackend, IpcEvents, IpcListener, IpcStream, Later, Object};
use crate::{status, supervision};

/// Pings between the two engines give up after this time.
const PING_LIMIT: Duration = Duration::from_secs(10);

/// The real backend.
pub struct HostBackend {
    core: Arc<Core>,
    plugins: Arc<Loaded>,
}

impl HostBackend {
    /// Over a running host.
    pub fn new(core: Arc<Core>, plugins: Arc<Loaded>) -> Self {
        HostBackend { core, plugins }
    }
}

struct Wrapped(Stream);

impl IpcStream for Wrapped {
    fn id(&self) -> u32 {
        self.0.id()
    }

    fn remote(&self) -> (Addr, u16) {
        let info = self.0.info();
        (info.remote, info.remote_port)
    }

    fn read(&self) -> Later<'_, Option<Bytes>> {
        // A broken stream and a finished one look the same on the socket: a close (ipc.md section 6).
        Box::pin(async { self.0.read().await.ok().flatten() })
    }

    fn write(&self, data: Bytes) -> Later<'_, Result<(), String>> {
        Box::pin(async { self.0.write(data).await.map_err(|e| e.to_string()) })
    }

    fn close(&self) {
        self.0.close();
    }
}

struct WrappedListener(Listener);

impl IpcListener for WrappedListener {
    fn accept(&self) -> Later<'_, Option<Arc<dyn IpcStream>>> {
        Box::pin(async { self.0.accept().await.map(|s| Arc::new(Wrapped(s)) as Arc<dyn IpcStream>) })
    }
}

struct Events(BusSubscription);

impl IpcEvents for Events {
    fn changed(&mut self) -> Later<'_, bool> {
        Box::pin(async { self.0.next().await.is_some() })
    }
}

impl IpcBackend for HostBackend {
    fn node_id(&self) -> u32 {
        self.core.node_id()
    }

    fn public_key(&self) -> Option<String> {
        self.core.identity().map(|i| STANDARD.encode(i.public_key()))
    }

    fn sign(&self, message: &[u8]) -> Option<[u8; 64]> {
        self.core.identity().map(|i| i.sign(message))
    }

    fn admin_token(&self) -> String {
        self.core.config.node.admin_token.clone()
    }

    fn dial(&self, to: Addr, port: u16) -> Later<'_, Result<Arc<dyn IpcStream>, String>> {
        Box::pin(async move {
            let stream = self.core.dial(to, port).await.map_err(|e| e.to_string())?;
            Ok(Arc::new(Wrapped(stream)) as Arc<dyn IpcStream>)
        })
    }

    fn bind(&self, port: u16) -> Later<'_, Result<Box<dyn IpcListener>, String>> {
        Box::pin(async move {
            let listener = self.core.node.bind(port).await.map_err(|e| e.to_string())?;
            Ok(Box::new(WrappedListener(listener)) as Box<dyn IpcListener>)
        })
    }

    fn close_connection(&self, id: u32) -> Later<'_, ()> {
        Box::pin(self.core.node.close_by_id(id))
    }

    fn send_datagram(&self, to: Addr, port: u16, data: Bytes) -> Later<'_, Result<(), String>> {
        Box::pin(async move { self.core.send_datagram(to, port, data).await })
    }

    fn broadcast(&self, network: u16, port: u16, data: Bytes) -> Later<'_, Result<(), String>> {
        Box::pin(async move {
            let mut params = Map::new();
            params.insert("network_id".into(), network.into());
            params.insert("admin_token".into(), self.admin_token().into());
            let answer = self.core.registry_call("list_nodes", params).await?;
            let members = answer.get("nodes").and_then(Value::as_array).cloned().unwrap_or_default();
            let own = self.core.node_id();
            let ids =
                members.iter().filter_map(|m| m["node_id"].as_u64()).filter_map(|id| u32::try_from(id).ok());
            for node in ids.filter(|id| *id != own) {
                // A member that cannot be reached is not the broadcast's failure.
                if let Err(e) = self.core.send_datagram(Addr { network, node }, port, data.clone()).await {
                    tracing::debug!(node, error = %e, "broadcast: one member not reached");
                }
            }
            Ok(())
        })
    }

    fn datagrams(&self) -> broadcast::Receiver<Datagram> {
        self.core.node.datagrams()
    }

    fn events(&self, pattern: &str) -> Box<dyn IpcEvents> {
        Box::new(Events(self.core.bus().subscribe(pattern)))
    }

    fn info(&self) -> Later<'_, Object> {
        Box::pin(status::info(&self.core))
    }

    fn health(&self) -> Later<'_, Object> {
        Box::pin(status::health(&self.core))
    }

    fn handshake(&self) -> Option<Arc<dyn HandshakeService>> {
        self.core.services.handshake.get()
    }

    fn handshake_request(&self, node: u32, justification: &str) -> Result<bool, String> {
        self.core.handshake_request(node, justification).map_err(|e| e.to_string())
    }

    fn poll_inbox(&self, why: Inbox) -> Later<'_, ()> {
        Box::pin(async move {
            match why {
                Inbox::Look => self.core.poll_inbox(Nudge::ClientLooks).await,
                Inbox::WaitFor(node) => self.core.poll_inbox(Nudge::ClientWaits(node)).await,
            }
        })
    }

    fn registry(&self, op: &'static str, params: Object) -> Later<'_, Result<Object, String>> {
        Box::pin(self.core.registry_call(op, params))
    }

    fn changed(&self, change: Change) -> Later<'_, ()> {
        Box::pin(async move {
            match change {
                Change::Hostname(name) => self.core.set_hostname(&name),
                Change::Visibility(public) => self.core.set_public(public).await,
                Change::Tags(_) => {}
                Change::Deregistered => self.core.learn_networks().await,
                Change::Joined(network, answer) => {
                    self.core.note_network(network, true);
                    let mut payload = Map::new();
                    payload.insert("network_id".into(), network.into());
                    payload.insert("member_tags".into(), json!([]));
                    for key in ["rules", "expr_policy"] {
                        if let Some(value) = answer.get(key).filter(|v| !v.is_null()) {
                            payload.insert(key.into(), value.clone());
                        }
                    }
                    self.core.bus().publish("network.joined", Some(payload));
                }
                Change::Left(network) => {
                    self.core.note_network(network, false);
                    let mut payload = Map::new();
                    payload.insert("network_id".into(), network.into());
                    self.core.bus().publish("network.left", Some(payload));
                }
            }
        })
    }

    fn webhook(&self) -> Option<Arc<dyn WebhookManager>> {
        self.core.services.webhook.get()
    }

    fn policy(&self) -> Option<Arc<dyn PolicyManager>> {
        self.core.services.policy.get()
    }

    fn prefer_direct(&self, node: u32) -> Later<'_, Option<Object>> {
        Box::pin(async move {
            let snapshot = self.core.node.snapshot().await?;
            let peer = snapshot.peers.iter().find(|p| p.node == node);
            let (had_tunnel, relay) = (peer.is_some_and(|p| p.encrypted), peer.is_some_and(|p| p.relay));
            self.core
                .node
                .configure(move |engine, now| {
                    engine.prefer_direct(now, node);
                })
                .await;
            let reply = json!({
                "node_id": node, "had_tunnel": had_tunnel, "was_relay_active": relay, "was_relay_pinned": false,
                "pila_pushed": had_tunnel, "resolve_error": "",
            });
            reply.as_object().cloned()
        })
    }

    fn rotate_key(&self) -> Later<'_, Option<Result<Object, String>>> {
        Box::pin(async move { Some(self.core.rotate_key().await) })
    }

    fn plugins(&self) -> Value {
        Value::Array(self.plugins.plugins().iter().map(|p| supervision::row(&self.core, p)).collect())
    }

    fn settled(&self) -> Later<'_, ()> {
        Box::pin(self.core.services.settled())
    }

    fn ping(&self, peer: Addr) -> Later<'_, Result<Duration, String>> {
        Box::pin(async move {
            let payload = Bytes::from_static(b"pilot-ping");
            match tokio::time::timeout(PING_LIMIT, self.core.node.ping(peer, payload)).await {
                Ok(result) => result.map_err(|e| e.to_string()),
                Err(_) => Err("no answer".into()),
            }
        })
    }

    fn stop(&self) {
        self.core.stop.cancel();
    }

    fn host_request<'a>(&'a self, op: &'a str, params: Object) -> Later<'a, Option<Result<Value, String>>> {
        if !op.starts_with("plugins.") {
            return Box::pin(crate::operations::answer(&self.core, op, params));
        }
        let (core, plugins, op) = (self.core.clone(), self.plugins.clone(), op.to_owned());
        // Starting and stopping a plugin waits for its code.
        let task = tokio::task::spawn_blocking(move || supervision::request(&core, &plugins, &op, &params));
        Box::pin(async { task.await.unwrap_or_else(|e| Some(Err(format!("the request failed: {e}")))) })
    }
}
