//! The plugin object and its threads: one accepts, one per connection serves (dataexchange.md section 7). Called by the
//! host through plugin-abi.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use pilot_wire::dataexchange::{self, ERR_PREFIX, FrameType};
use pilot_wire::ports;
use plugin_abi::{Connection, Daemon, Error, ErrorKind, Listener, Plugin, Result};

use crate::channel::{Channel, Limits};
use crate::config::Config;
use crate::connections::Connections;
use crate::inbox::{self, Inbox};
use crate::partial::Partials;
use crate::received::Received;
use crate::remote::Remote;
use crate::session;
use crate::stamp::{Clock, Stamps, SystemClock};

/// What one connection needs of the plugin.
pub(crate) struct Service {
    pub daemon: Arc<dyn Daemon>,
    pub inbox: Inbox,
    pub received: Arc<Received>,
    pub partials: Arc<Partials>,
    pub stamps: Arc<Stamps>,
    limits: Limits,
    connections: Arc<Connections>,
}

impl Service {
    fn new(
        daemon: Arc<dyn Daemon>,
        config: Config,
        clock: Arc<dyn Clock>,
        zone: TimeZone,
    ) -> Result<Service> {
        let remote = match config.received_url.as_str() {
            "" => None,
            url => Some(Remote::open(url, &config.object_store).map_err(|cause| {
                Error::invalid(format!("[plugin.dataexchange] received_url {url}: {cause}"))
            })?),
        };
        let stamps = Arc::new(Stamps::new(clock, zone));
        let Config { inbox_dir, received_dir, fsync, .. } = config;
        let inbox_limits =
            inbox::Limits { max_bytes: config.inbox_max_bytes, max_files: config.inbox_max_files };
        let inbox = Inbox::open(inbox_dir, inbox_limits, config.include_base64, fsync, stamps.clone());
        let received = Received::open(received_dir, config.received_max_bytes, fsync, stamps.clone(), remote);
        let received = Arc::new(received);
        Ok(Service {
            daemon,
            inbox,
            partials: Partials::new(received.clone(), stamps.clone(), config.partial_max_age),
            received,
            stamps,
            limits: Limits { max_frame: config.max_frame, idle_timeout: config.idle_timeout },
            connections: Connections::new(config.max_connections, config.max_connections_per_peer),
        })
    }

    /// Frames in, replies out for `conn`.
    pub fn channel(&self, conn: Arc<dyn Connection>) -> Channel {
        Channel::new(conn, self.limits, self.stamps.clone(), self.connections.stop_flag())
    }

    /// Hands every connection to a thread of its own until the listener is closed.
    fn accept(self: &Arc<Self>, listener: &dyn Listener) {
        while let Some(conn) = listener.accept() {
            if let Err(reason) = self.start(&conn) {
                tracing::warn!(from = %conn.info().remote, %reason, "connection refused");
                turn_away(conn.as_ref(), &reason);
            }
        }
    }

    fn start(self: &Arc<Self>, conn: &Arc<dyn Connection>) -> std::result::Result<(), String> {
        let seat = self.connections.admit(conn)?;
        let (service, conn) = (self.clone(), conn.clone());
        plugin_abi::spawn_thread(self.daemon.clone(), "dataexchange.connection", move || {
            // Taken along so that it is freed when this thread ends, in whatever way.
            let _seat = seat;
            session::serve(&service, conn);
        })
        .map(drop)
        .map_err(|e| format!("no thread: {e}"))
    }
}

/// Tells the peer why it is not served. The reply fits into any send buffer, so this does not wait.
fn turn_away(conn: &dyn Connection, reason: &str) {
    let mut frame = Vec::new();
    let text = format!("{ERR_PREFIX}busy: {reason}");
    let encoded = dataexchange::encode_frame(FrameType::TEXT, text.as_bytes(), &mut frame);
    if encoded.is_err() || conn.write(&frame).is_err() {
        tracing::debug!(reason, "refusal not delivered");
    }
    conn.close();
}

/// The plugin: messages and files on port 1001.
pub(crate) struct DataExchange {
    clock: Arc<dyn Clock>,
    zone: TimeZone,
    running: Mutex<Option<Running>>,
}

struct Running {
    service: Arc<Service>,
    listener: Arc<dyn Listener>,
    /// Disconnected when the accept loop has ended.
    accepting: Receiver<()>,
}

impl DataExchange {
    /// With the clock and the time zone of this machine.
    pub fn new() -> DataExchange {
        DataExchange::with_clock(Arc::new(SystemClock::new()), TimeZone::system())
    }

    /// With a clock of the caller's.
    pub fn with_clock(clock: Arc<dyn Clock>, zone: TimeZone) -> DataExchange {
        DataExchange { clock, zone, running: Mutex::new(None) }
    }
}

impl Plugin for DataExchange {
    fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
        let config = Config::from_environment(&daemon.config(), &daemon.state_dir())?;
        let service = Service::new(daemon.clone(), config, self.clock.clone(), self.zone.clone())?;
        let service = Arc::new(service);
        let port = ports::DATA_EXCHANGE;
        let listener = (daemon.ports().bind(port))
            .map_err(|e| Error::new(e.kind(), format!("dataexchange: listen on port {port}: {e}")))?;
        let (ended, accepting) = mpsc::channel();
        let loop_parts = (service.clone(), listener.clone(), ended);
        plugin_abi::spawn_thread(daemon, "dataexchange.accept", move || {
            let (service, listener, _ended) = loop_parts;
            service.accept(listener.as_ref());
        })?;
        tracing::info!(port, "dataexchange service listening");
        let running = Running { service, listener, accepting };
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
        Ok(())
    }

    /// Closes the port and every connection, and waits for their threads. Unfinished transfers stay on the disk.
    fn shutdown(&self, deadline: Duration) -> Result<()> {
        let until = Instant::now() + deadline;
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Running { service, listener, accepting }) = running else { return Ok(()) };
        listener.close();
        service.connections.stop();
        let left = service.connections.wait_until_empty(until);
        let loop_ended = accepting.recv_timeout(until.saturating_duration_since(Instant::now()));
        if left > 0 || loop_ended == Err(RecvTimeoutError::Timeout) {
            let text = format!("deadline exceeded: {left} connections still open");
            return Err(Error::new(ErrorKind::TimedOut, text));
        }
        Ok(())
    }
}
