//! A plugin that uses every part of treaty 1.0 and logs what it saw. Built against the released treaty, today's, and
//! edited copies of both, so it keeps to what 1.0 had.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use plugin_abi::{
    Addr, Daemon, Error, ErrorKind, Plugin, Result, TrustChecker, WebhookManager, WebhookStats, spawn_thread,
};

#[derive(Default)]
struct Witness(Mutex<Vec<std::thread::JoinHandle<()>>>);

struct Even;

impl TrustChecker for Even {
    fn is_trusted(&self, node: u32) -> Option<String> {
        (node % 2 == 0).then(|| format!("even {node}"))
    }
}

struct Hook(Mutex<String>);

impl WebhookManager for Hook {
    fn set_url(&self, url: &str) -> Result<()> {
        if url == "bad" {
            return Err(Error::new(ErrorKind::Invalid, "not a URL"));
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = url.to_owned();
        Ok(())
    }

    fn url(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn stats(&self) -> WebhookStats {
        WebhookStats { dropped: 3, circuit_skips: 4 }
    }
}

impl Plugin for Witness {
    fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
        tracing::info!(treaty = daemon.treaty().0, "hello");
        tracing::info!(
            node = daemon.node_id(),
            addr = %daemon.addr(),
            key = daemon.identity().is_some(),
            signed = daemon.sign(b"message").is_some(),
            config = %daemon.config(),
            version = daemon.version_info().version,
            "facts"
        );
        daemon.register_trust_checker(Arc::new(Even));
        daemon.register_webhook_manager(Arc::new(Hook(Mutex::default())));
        let checker = daemon.trust_checker().ok_or_else(|| Error::other("the checker is gone"))?;
        tracing::info!(two = ?checker.is_trusted(2), three = ?checker.is_trusted(3), "trust");

        // A port of our own, and a caller that comes in through the daemon.
        let listener = daemon.ports().bind(7007)?;
        let taken = daemon.ports().bind(7007).err().map(|e| (e.kind(), e.to_string()));
        tracing::info!(port = listener.port(), ?taken, "bound");
        let echo = spawn_thread(Arc::clone(&daemon), "witness-echo", move || {
            while let Some(stream) = listener.accept() {
                let mut buffer = [0; 64];
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    let _ = stream.write(&buffer[..n]);
                }
            }
        })?;

        let events = daemon.bus().subscribe("witness.*");
        let payload = serde_json::json!({ "n": 7, "list": [true, null] });
        daemon.publish("witness.event", payload.as_object().cloned());
        let event = events.recv(Duration::from_secs(10))?.ok_or_else(|| Error::other("no event"))?;
        tracing::info!(topic = event.topic, payload = ?event.payload.map(|p| p["list"].to_string()), "event");
        events.cancel();

        // A future of ours on the host's runtime, which awaits two futures of the host.
        let (done, finished) = mpsc::channel();
        let inner = Arc::clone(&daemon);
        daemon.spawn(Box::pin(async move {
            inner.sleep(Duration::from_millis(1)).await;
            let refused = inner.dial_async(Addr::backbone(9), 1).await.err().map(|e| e.kind());
            let _ = done.send(refused);
        }));
        let refused = finished.recv_timeout(Duration::from_secs(10)).ok().flatten();
        tracing::info!(?refused, "future");
        let answer = daemon.registry_call("lookup", serde_json::Map::new()).map_err(|e| e.kind());
        tracing::info!(?answer, "registry");

        let broken = spawn_thread(Arc::clone(&daemon), "witness-broken", || panic!("on purpose"))?;
        let _ = broken.join();
        daemon.ports().unbind(7007);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(echo);
        tracing::info!("seen all");
        Ok(())
    }

    fn shutdown(&self, _deadline: Duration) -> Result<()> {
        for thread in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = thread.join();
        }
        tracing::info!("goodbye");
        Ok(())
    }
}

plugin_abi::export_plugin!("witness", Witness::default);
