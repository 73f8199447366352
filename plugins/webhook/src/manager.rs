//! The webhook's controls: which URL is in use, and the swap to another one (webhook.md section 3).
//!
//! A swap cancels the subscription, waits for the bridge, closes the old client, starts a new one, saves. All under one
//! lock; reading the URL or the counters does not wait for it.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plugin_abi::{
    Daemon, Error, ErrorKind, Result, Subscription, WebhookManager, WebhookStats, spawn_thread,
};
use serde_json::Value;

use crate::client::Client;
use crate::clock::Clock;
use crate::config::Config;
use crate::http::Http;
use crate::saved::SavedUrl;
use crate::spool::{self, Spool};
use crate::{lock, target};

/// How long an old client may work off its queue.
const DRAIN: Duration = Duration::from_secs(5);
/// The bridge is woken by an event or by the end of its subscription; this only bounds one wait.
const BRIDGE_WAIT: Duration = Duration::from_secs(30);

/// The manager; off until [`start`](Self::start).
pub struct Manager {
    config: Config,
    saved: SavedUrl,
    clock: Arc<dyn Clock>,
    /// Held during a swap.
    swap: Mutex<Swap>,
    /// What is in use, for readers; changed only under `swap`.
    current: RwLock<Option<Current>>,
}

struct Swap {
    /// `None` once stopped.
    daemon: Option<Arc<dyn Daemon>>,
    bridge: Option<Bridge>,
}

#[derive(Clone)]
struct Current {
    url: String,
    client: Arc<Client>,
}

/// From the bus to the client.
struct Bridge {
    subscription: Arc<dyn Subscription>,
    thread: JoinHandle<()>,
}

impl Manager {
    /// A manager without a URL.
    pub fn new(daemon: Arc<dyn Daemon>, config: Config, clock: Arc<dyn Clock>) -> Self {
        let saved = SavedUrl::new(daemon.state_dir());
        let swap = Mutex::new(Swap { daemon: Some(daemon), bridge: None });
        Manager { config, saved, clock, swap, current: RwLock::new(None) }
    }

    /// Takes the configured URL, else the saved one if it may be used.
    ///
    /// # Errors
    /// The client cannot be started.
    pub fn start(&self) -> Result<()> {
        let mut swap = lock(&self.swap);
        if !self.config.url.is_empty() {
            return self.replace(&mut swap, &self.config.url, DRAIN).map(|_| ());
        }
        let url = self.saved.load().unwrap_or_else(|cause| {
            tracing::warn!(%cause, "saved webhook URL not read");
            String::new()
        });
        match target::check(&url) {
            _ if url.is_empty() => Ok(()),
            Ok(()) => self.replace(&mut swap, &url, DRAIN).map(|_| ()),
            Err(cause) => {
                tracing::warn!(cause, "saved webhook URL refused, the webhook stays off");
                Ok(())
            }
        }
    }

    /// Delivers what is queued and ends; nothing is saved. Calling it again does nothing.
    ///
    /// # Errors
    /// [`TimedOut`](ErrorKind::TimedOut) when events were given up.
    pub fn stop(&self, deadline: Duration) -> Result<()> {
        let mut swap = lock(&self.swap);
        let given_up = self.replace(&mut swap, "", deadline.min(DRAIN));
        swap.daemon = None;
        match given_up {
            Ok(0) => Ok(()),
            Ok(n) => Err(Error::new(ErrorKind::TimedOut, format!("webhook: {n} event(s) given up"))),
            // Stopped before.
            Err(_) => Ok(()),
        }
    }

    /// The swap itself; the number of events that the old client gave up.
    fn replace(&self, swap: &mut Swap, url: &str, patience: Duration) -> Result<usize> {
        let Some(daemon) = swap.daemon.clone() else {
            return Err(Error::new(ErrorKind::Closed, "the webhook plugin has been stopped"));
        };
        // Made first: what cannot be started must not end what runs.
        let transport = if url.is_empty() { None } else { Some(Http::new(url, &self.config)?) };
        let deadline = Instant::now() + patience;
        if let Some(bridge) = swap.bridge.take() {
            bridge.subscription.cancel();
            // Reads what is buffered, then sees the end. Its panic, if any, was reported.
            let _ = bridge.thread.join();
        }
        let old = self.current.write().unwrap_or_else(PoisonError::into_inner).take();
        let given_up =
            old.map_or(0, |old| old.client.close(deadline.saturating_duration_since(Instant::now())));
        if given_up > 0 {
            tracing::warn!(given_up, "webhook events given up");
        }
        if let Some(transport) = transport {
            let clock = Arc::clone(&self.clock);
            let spool = self.spool(url)?;
            let client = Client::start(Arc::clone(&daemon), transport, &self.config, clock, spool)?;
            let client = Arc::new(client);
            swap.bridge = Some(Bridge::start(&daemon, Arc::clone(&client))?);
            let current = Current { url: url.to_owned(), client };
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(current);
        }
        Ok(given_up)
    }

    /// The queue on disk for a URL, if one is configured.
    fn spool(&self, url: &str) -> Result<Option<Spool>> {
        let Some(dir) = &self.config.spool_dir else { return Ok(None) };
        let opened = Spool::open(dir, url, self.config.spool_max_bytes);
        opened.map(Some).map_err(|e| {
            Error::new(ErrorKind::Io, format!("[plugin.webhook] spool_dir {}: {e}", dir.display()))
        })
    }

    fn current(&self) -> Option<Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Bridge {
    fn start(daemon: &Arc<dyn Daemon>, client: Arc<Client>) -> Result<Self> {
        let subscription = daemon.bus().subscribe("*");
        let (events, node) = (Arc::clone(&subscription), Arc::clone(daemon));
        let thread = spawn_thread(Arc::clone(daemon), "webhook-bridge", move || {
            while let Ok(event) = events.recv(BRIDGE_WAIT) {
                if let Some(event) = event {
                    let data = event.payload.map_or(Value::Null, Value::Object);
                    client.emit(event.topic, node.node_id(), Some(data));
                }
            }
        })?;
        Ok(Bridge { subscription, thread })
    }
}

impl WebhookManager for Manager {
    fn set_url(&self, url: &str) -> Result<()> {
        if !url.is_empty() {
            target::check(url).map_err(Error::invalid)?;
        }
        let mut swap = lock(&self.swap);
        self.replace(&mut swap, url, DRAIN)?;
        if let (true, Some(dir)) = (url.is_empty(), &self.config.spool_dir)
            && let Err(cause) = spool::discard(dir)
        {
            tracing::warn!(%cause, "events of the former webhook URL are still on disk");
        }
        if let Err(cause) = self.saved.store(url) {
            tracing::warn!(%cause, "webhook URL in use but not saved");
        }
        Ok(())
    }

    fn url(&self) -> String {
        self.current().map(|c| c.url).unwrap_or_default()
    }

    fn stats(&self) -> WebhookStats {
        self.current().map(|c| c.client.stats()).unwrap_or_default()
    }
}
