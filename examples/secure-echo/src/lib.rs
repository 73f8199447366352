//! A plugin that uses the secure channel: on port 443 it gives back every message, and with `call = [NODE, ..]` in its table
//! of the configuration it calls these nodes once this host is registered, and publishes what they answered.
//!
//! A host gives a plugin that is not its own only what its configuration allows; this one needs
//!
//! ```toml
//! [plugins.settings.secure-echo.capabilities]
//! ports = [443]
//! dial = ["*:*:443"]
//! sign = ["pilot-secure-auth:"]   # nothing else than this protocol's proof
//! registry = ["lookup"]
//! ```
//!
//! What to look at: `stream.rs` shows the channel; here is what a server on a port looks like. Each connection has a thread
//! of its own (`spawn_thread` contains its panics), their number is bounded, and shutdown ends all of them.
#![forbid(unsafe_code)]

mod stream;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use plugin_abi::{Connection, Daemon, Listener, Plugin, Result, Subscription, spawn_thread};
use serde_json::{Map, Value, json};

use stream::{Context, PORT};

/// Connections at the same time; further ones are closed at once.
const MAX_CONNECTIONS: usize = 64;
/// What a caller says.
const GREETING: &[u8] = b"hello through the secure channel";

#[derive(Default)]
struct SecureEcho(Mutex<Option<Running>>);

struct Running {
    listener: Arc<dyn Listener>,
    registered: Arc<dyn Subscription>,
    open: Arc<Open>,
    threads: Vec<JoinHandle<()>>,
}

/// The connections that are served, so that shutdown can end them.
#[derive(Default)]
struct Open(Mutex<HashMap<u64, Arc<dyn Connection>>>);

impl Plugin for SecureEcho {
    fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
        let calls: Vec<u32> = daemon.config()["call"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|n| u32::try_from(n.as_u64()?).ok())
            .collect();
        let context = Context::new(Arc::clone(&daemon));
        let open = Arc::<Open>::default();
        let listener = daemon.ports().bind(PORT)?;
        let (accepting, from, list) = (context.clone(), Arc::clone(&listener), Arc::clone(&open));
        let server = spawn_thread(Arc::clone(&daemon), "secure-echo.accept", move || {
            serve(&accepting, from.as_ref(), &list);
        })?;
        let registered = daemon.bus().subscribe("node.registered");
        let events = Arc::clone(&registered);
        let client = spawn_thread(daemon, "secure-echo.call", move || {
            // Node id and keys are known once the host is registered.
            while let Ok(event) = events.recv(Duration::from_secs(1)) {
                if event.is_some() {
                    calls.iter().for_each(|node| call(&context, *node));
                }
            }
        })?;
        *lock(&self.0) = Some(Running { listener, registered, open, threads: vec![server, client] });
        Ok(())
    }

    fn shutdown(&self, _deadline: Duration) -> Result<()> {
        let Some(running) = lock(&self.0).take() else { return Ok(()) };
        running.listener.close();
        running.registered.cancel();
        lock(&running.open.0).values().for_each(|conn| conn.close());
        for thread in running.threads {
            // A panic in it was reported when it happened.
            let _ = thread.join();
        }
        Ok(())
    }
}

/// Accepts until the listener is closed.
fn serve(context: &Context, listener: &dyn Listener, open: &Arc<Open>) {
    let mut number = 0;
    while let Some(conn) = listener.accept() {
        number += 1;
        if lock(&open.0).len() >= MAX_CONNECTIONS {
            conn.close();
            continue;
        }
        lock(&open.0).insert(number, Arc::clone(&conn));
        let (context, list, mine) = (context.clone(), Arc::clone(open), number);
        let started = spawn_thread(Arc::clone(&context.daemon), "secure-echo.connection", move || {
            echo(&context, conn);
            lock(&list.0).remove(&mine);
        });
        if started.is_err() {
            lock(&open.0).remove(&number);
        }
    }
}

/// Gives back every message until the peer has had enough.
fn echo(context: &Context, conn: Arc<dyn Connection>) {
    let from = conn.info().remote;
    let mut stream = match context.accept(conn) {
        Ok(stream) => stream,
        Err(cause) => return tracing::info!(%from, %cause, "no secure channel"),
    };
    publish(context, "plugin.secure-echo.accepted", json!({"peer": stream.peer}));
    while let Ok(Some(message)) = stream.read() {
        if stream.write(&message).is_err() {
            break;
        }
    }
    stream.close();
}

/// Says hello to a node and publishes its answer.
fn call(context: &Context, node: u32) {
    let answer = context.dial(node).and_then(|mut stream| {
        stream.write(GREETING)?;
        let answer = stream.read()?;
        stream.close();
        Ok(answer.unwrap_or_default())
    });
    let payload = match answer {
        Ok(answer) => json!({"peer": node, "answer": String::from_utf8_lossy(&answer)}),
        Err(cause) => json!({"peer": node, "error": cause.to_string()}),
    };
    tracing::info!(result = %payload, "secure-echo called");
    publish(context, "plugin.secure-echo.answer", payload);
}

fn publish(context: &Context, topic: &str, payload: Value) {
    let payload: Option<Map<String, Value>> = payload.as_object().cloned();
    context.daemon.publish(topic, payload);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

plugin_abi::export_plugin!("secure-echo", SecureEcho::default);

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use ed25519_dalek::{Signer, SigningKey};
    use plugin_abi::test_kit::FakeDaemon;

    /// A node whose registry knows nodes 1 and 2, node 2 by the key of `second`.
    fn node(id: u32, config: Value, second: u8) -> (Arc<FakeDaemon>, SecureEcho) {
        let daemon = FakeDaemon::new(std::env::temp_dir());
        let key = SigningKey::from_bytes(&[id as u8; 32]);
        daemon.set_node_id(id);
        daemon.set_config(config);
        daemon.set_identity(key.verifying_key().to_bytes(), move |m| key.sign(m).to_bytes());
        daemon.on_registry_call(move |_, params| {
            let seed = if params["node_id"] == 2 { second } else { 1 };
            let key = SigningKey::from_bytes(&[seed; 32]).verifying_key();
            Ok(Map::from_iter([("public_key".to_owned(), STANDARD.encode(key.as_bytes()).into())]))
        });
        (daemon, SecureEcho::default())
    }

    fn call(second: u8) -> (Value, Vec<String>) {
        let ((a, caller), (b, server)) = (node(1, json!({"call": [2]}), second), node(2, json!({}), 2));
        a.add_peer(&b);
        server.init(b.clone()).unwrap();
        caller.init(a.clone()).unwrap();
        a.publish("node.registered", None);
        let answer = Value::Object(a.wait_for_event("plugin.secure-echo.answer").unwrap().payload.unwrap());
        caller.shutdown(Duration::from_secs(5)).unwrap();
        server.shutdown(Duration::from_secs(5)).unwrap();
        assert_eq!((a.faults(), b.faults()), (vec![], vec![]));
        (answer, b.events().into_iter().map(|e| e.topic).collect())
    }

    #[test]
    fn two_nodes_prove_themselves_and_talk() {
        let (answer, seen) = call(2);
        assert_eq!(answer, json!({"peer": 2, "answer": "hello through the secure channel"}));
        assert_eq!(seen, ["plugin.secure-echo.accepted"]);
    }

    #[test]
    fn a_server_with_another_key_gets_no_word() {
        let (answer, seen) = call(9);
        assert_eq!(answer["error"], "auth signature verification failed");
        assert!(seen.is_empty());
    }
}
