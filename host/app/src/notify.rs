//! What a service manager is told (systemd's notification protocol): ready only when this node is registered and all
//! plugins run, signs of life while the data plane answers, reloads, the end. Without a service manager nothing happens.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

use crate::core::Core;

/// How long the data plane may take to answer before a sign of life is left out.
const ALIVE: Duration = Duration::from_secs(5);

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "the service manager was not told");
    }
}

/// Waits for the registration, says so, and gives signs of life until the host stops. To be called once all plugins run.
pub async fn run(core: Arc<Core>) {
    let events = core.bus().subscribe("agent.registered");
    tell(&[NotifyState::Status("plugins run; waiting for the registry")]);
    if core.node_id() == 0 {
        tokio::select! {
            () = core.stop.cancelled() => return,
            _ = events.next() => {}
        }
    }
    events.cancel();
    ready(&core);
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    loop {
        // An answer from the engine's own thread is what a live host looks like.
        if tokio::time::timeout(ALIVE, core.node.snapshot()).await.is_ok_and(|s| s.is_some()) {
            tell(&[NotifyState::Watchdog]);
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = tokio::time::sleep(limit / 3) => {}
        }
    }
}

/// The host is (again) doing its work.
pub fn ready(core: &Core) {
    let status = format!("node {}, {}", core.node_id(), core.addr());
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// The configuration is being read again.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The host is taking itself apart.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}
