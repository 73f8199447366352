//! Every ability in one plugin: a port, dials, events, a trust service, configuration, a task on the host's runtime, a
//! runtime of its own, logs, faults. Each part is a few lines in a function of its own, to be copied.
//!
//! In a host it wants this much of the configuration (the second table is what the operator allows it):
//!
//! ```toml
//! [plugin.every-ability]
//! friends = [17, 23]
//!
//! [plugins.settings.every-ability.capabilities]
//! ports = [7100]
//! dial = ["*:*:7100"]
//! services = ["trust-checker"]
//! ```
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use plugin_abi::{
    Addr, Connection, Daemon, Error, ErrorKind, Listener, Plugin, Result, Subscription, TrustChecker,
    spawn_thread, task,
};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{mpsc, watch};

/// The table `[plugin.every-ability]`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Where it listens, and which port it dials.
    port: u16,
    /// How often it says that it is there.
    tick_ms: u64,
    /// Nodes that it vouches for.
    friends: Vec<u32>,
}

impl Default for Config {
    fn default() -> Self {
        Config { port: 7100, tick_ms: 1000, friends: Vec::new() }
    }
}

/// The plugin. Everything that runs is in `Running`, so that `shutdown` cannot forget a part.
#[derive(Default)]
struct EveryAbility {
    running: Mutex<Option<Running>>,
}

struct Running {
    /// Says "stop" to the task and to the runtime when it is dropped.
    stop: watch::Sender<bool>,
    listener: Arc<dyn Listener>,
    events: Arc<dyn Subscription>,
    threads: Vec<JoinHandle<()>>,
}

impl EveryAbility {
    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plugin for EveryAbility {
    fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
        let config: Config = serde_json::from_value(daemon.config())
            .map_err(|e| Error::invalid(format!("[plugin.every-ability]: {e}")))?;
        // The node id may still be 0 here: it is asked for again wherever it is needed.
        tracing::info!(port = config.port, friends = config.friends.len(), "starting");
        daemon.register_trust_checker(Arc::new(Friends(config.friends.clone())));

        let (stop, stopped) = watch::channel(false);
        let (jobs, queue) = mpsc::channel(64); // full: the newest job is dropped, and logged
        let listener = daemon.ports().bind(config.port)?;
        let events = daemon.bus().subscribe("node.*");
        let threads = vec![
            accept(&daemon, Arc::clone(&listener))?,
            watch_events(&daemon, Arc::clone(&events), jobs)?,
            own_runtime(&daemon, config.port, queue, stopped.clone())?,
        ];
        background_task(&daemon, Duration::from_millis(config.tick_ms), stopped);
        *self.running() = Some(Running { stop, listener, events, threads });
        Ok(())
    }

    fn shutdown(&self, _deadline: Duration) -> Result<()> {
        let Some(Running { stop, listener, events, threads }) = self.running().take() else { return Ok(()) };
        let _ = stop.send(true);
        listener.close();
        events.cancel();
        for thread in threads {
            let _ = thread.join();
        }
        tracing::info!("stopped");
        Ok(())
    }
}

plugin_abi::export_plugin!("every-ability", EveryAbility::default);

/// A service that the host asks, from memory: these calls are on its way to an answer.
struct Friends(Vec<u32>);

impl TrustChecker for Friends {
    fn is_trusted(&self, node: u32) -> Option<String> {
        self.0.contains(&node).then(|| format!("friend {node}"))
    }
}

/// A port: one thread accepts; what goes wrong with one stream is reported and ends that stream alone.
fn accept(daemon: &Arc<dyn Daemon>, listener: Arc<dyn Listener>) -> Result<JoinHandle<()>> {
    let reporter = Arc::clone(daemon);
    spawn_thread(Arc::clone(daemon), "every-accept", move || {
        while let Some(stream) = listener.accept() {
            let peer = stream.info().remote;
            if let Err(error) =
                task::contained(reporter.as_ref(), "greet", || greet(stream.as_ref())).unwrap_or(Ok(()))
            {
                tracing::warn!(%peer, %error, "stream");
            }
            stream.close();
        }
    })
}

/// Reads a name, answers with a greeting.
fn greet(stream: &dyn Connection) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut buffer = [0; 256];
    let n = stream.read(&mut buffer)?;
    let name = std::str::from_utf8(&buffer[..n]).map_err(|e| Error::invalid(e.to_string()))?;
    if name == "\u{1}" {
        panic!("a visitor said the word"); // contained and reported: the accept loop goes on
    }
    stream.write(format!("hello {name}").as_bytes())
}

/// Events: a thread of its own reads them, and turns some into jobs for the runtime.
fn watch_events(
    daemon: &Arc<dyn Daemon>,
    events: Arc<dyn Subscription>,
    jobs: mpsc::Sender<Addr>,
) -> Result<JoinHandle<()>> {
    let inner = Arc::clone(daemon);
    spawn_thread(Arc::clone(daemon), "every-events", move || {
        loop {
            match events.recv(Duration::from_secs(60)) {
                Ok(Some(event)) if event.topic == "node.registered" => {
                    tracing::info!(node = inner.node_id(), "registered");
                    if jobs.try_send(inner.addr()).is_err() {
                        tracing::warn!("too many jobs; this one is dropped");
                    }
                }
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::Closed => return, // cancelled by shutdown
                Err(error) => return tracing::warn!(%error, "events"),
            }
        }
    })
}

/// A runtime of its own, on one thread: for timers, sockets and tasks of tokio, which know nothing of the host's runtime.
/// The futures of the daemon may be awaited here as well.
fn own_runtime(
    daemon: &Arc<dyn Daemon>,
    port: u16,
    mut jobs: mpsc::Receiver<Addr>,
    mut stopped: watch::Receiver<bool>,
) -> Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let inner = Arc::clone(daemon);
    spawn_thread(Arc::clone(daemon), "every-runtime", move || {
        runtime.block_on(async {
            loop {
                let to = tokio::select! {
                    _ = stopped.changed() => break,
                    job = jobs.recv() => match job { Some(to) => to, None => break },
                };
                // A dial that takes longer is given up: dropping its future cancels it.
                match tokio::time::timeout(Duration::from_secs(5), inner.dial_async(to, port)).await {
                    Ok(Ok(stream)) => tracing::info!(%to, id = stream.id(), "dialled"),
                    Ok(Err(error)) => tracing::info!(%to, %error, "not reached"),
                    Err(_) => tracing::info!(%to, "no answer"),
                }
            }
        });
        runtime.shutdown_timeout(Duration::from_secs(1));
    })
}

/// A task on the host's runtime: it costs no thread. Inside, only the daemon's own timer, and channels.
fn background_task(daemon: &Arc<dyn Daemon>, every: Duration, mut stopped: watch::Receiver<bool>) {
    let inner = Arc::clone(daemon);
    daemon.spawn(Box::pin(async move {
        for number in 1_u64.. {
            tokio::select! {
                _ = stopped.changed() => return,
                () = inner.sleep(every) => {}
            }
            let payload = json!({ "number": number, "node": inner.node_id() });
            inner.publish("plugin.every-ability.tick", payload.as_object().cloned());
        }
    }));
}
