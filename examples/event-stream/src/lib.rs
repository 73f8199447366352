//! The plugin "eventstream": a publish/subscribe broker on port 1002, behind `pilotctl publish` and `subscribe`.
//!
//! The first frame of a stream subscribes to its topic, each further one is a publication. Two threads for each stream:
//! one reads, one writes what waits. Every peer that passes the daemon's trust gate and policies may use it.
#![forbid(unsafe_code)]

mod broker;
mod frame;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plugin_abi::{Connection, Daemon, Error, Listener, Plugin, Result, spawn_thread};
use serde_json::{Map, Value, json};

use crate::broker::{Allowance, Broker};
use crate::frame::Reader;

/// Where the event stream is served.
const PORT: u16 = 1002;
/// Streams at a time; a further one is closed at once.
const MAX_STREAMS: usize = 512;

/// The plugin: nothing runs before `init`.
#[derive(Default)]
struct EventStream(Mutex<Option<Running>>);

struct Running {
    listener: Arc<dyn Listener>,
    service: Arc<Service>,
    accept: JoinHandle<()>,
}

/// What all threads share.
struct Service {
    daemon: Arc<dyn Daemon>,
    broker: Broker,
    open: Mutex<HashMap<u32, (Arc<dyn Connection>, JoinHandle<()>)>>,
}

impl Plugin for EventStream {
    fn init(&self, daemon: Arc<dyn Daemon>) -> Result<()> {
        let listener =
            daemon.ports().bind(PORT).map_err(|e| Error::other(format!("listen on port {PORT}: {e}")))?;
        let service = Arc::new(Service {
            daemon: Arc::clone(&daemon),
            broker: Broker::default(),
            open: Mutex::default(),
        });
        let (incoming, serving) = (Arc::clone(&listener), Arc::clone(&service));
        let accept = spawn_thread(daemon, "eventstream-accept", move || {
            while let Some(stream) = incoming.accept() {
                serving.clone().welcome(stream);
            }
        })?;
        tracing::info!(port = PORT, "eventstream service listening");
        *lock(&self.0) = Some(Running { listener, service, accept });
        Ok(())
    }

    fn shutdown(&self, _deadline: Duration) -> Result<()> {
        let Some(running) = lock(&self.0).take() else { return Ok(()) };
        running.listener.close();
        let _ = running.accept.join();
        // Nothing is added any more; closing a stream ends its reader, which ends its writer.
        let open: Vec<_> = lock(&running.service.open).drain().map(|(_, both)| both).collect();
        for (stream, _) in &open {
            running.service.broker.unsubscribe(stream.id());
            stream.close();
            let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
        }
        for (_, thread) in open {
            let _ = thread.join();
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remote(stream: &dyn Connection) -> String {
    let info = stream.info();
    format!("{}:{}", info.remote, info.remote_port)
}

impl Service {
    fn publish(&self, topic: &str, members: Value) {
        self.daemon.publish(topic, members.as_object().cloned().or_else(|| Some(Map::new())));
    }

    /// Gives a new stream its thread.
    fn welcome(self: Arc<Self>, stream: Arc<dyn Connection>) {
        let mut open = lock(&self.open);
        open.retain(|_, (_, thread)| !thread.is_finished());
        if open.len() >= MAX_STREAMS {
            tracing::warn!(limit = MAX_STREAMS, "too many event streams, closed the newest");
            return stream.close();
        }
        let (service, served) = (Arc::clone(&self), Arc::clone(&stream));
        let thread =
            spawn_thread(Arc::clone(&self.daemon), "eventstream-reader", move || service.serve(served));
        match thread {
            Ok(thread) => {
                open.insert(stream.id(), (stream, thread));
            }
            Err(error) => {
                tracing::warn!(%error, "no thread for an event stream");
                stream.close();
            }
        }
    }

    /// One stream from its first frame to its end.
    fn serve(self: Arc<Self>, stream: Arc<dyn Connection>) {
        let mut reader = Reader::default();
        let Some(hello) = next(&*stream, &mut reader) else { return stream.close() };
        let (id, from) = (stream.id(), remote(&*stream));
        let topic = String::from_utf8_lossy(hello.topic()).into_owned();
        let outbox = self.broker.subscribe(id, hello.topic());
        self.publish("pubsub.subscribed", json!({ "topic": topic, "remote": from }));
        let out = Arc::clone(&stream);
        let writer = spawn_thread(Arc::clone(&self.daemon), "eventstream-writer", move || {
            while let Some(frame) = outbox.pop() {
                if out.write(&frame).is_err() {
                    break;
                }
            }
            // Removed, or not writable: either way nobody listens there any more.
            out.close();
        });
        if writer.is_ok() {
            self.relay(&*stream, &mut reader, &from);
        }
        self.broker.unsubscribe(id);
        stream.close();
        if let Ok(writer) = writer {
            let _ = writer.join();
        }
        self.publish("pubsub.unsubscribed", json!({ "topic": topic, "remote": from }));
    }

    /// Publications of one stream, until it ends.
    fn relay(&self, stream: &dyn Connection, reader: &mut Reader, from: &str) {
        let mut allowance = Allowance::new(Instant::now());
        while let Some(frame) = next(stream, reader) {
            let topic = String::from_utf8_lossy(frame.topic()).into_owned();
            if !allowance.take(Instant::now()) {
                self.publish("pubsub.rate_limited", json!({ "topic": topic, "remote": from }));
                continue;
            }
            for slow in self.broker.publish(stream.id(), frame.topic(), &frame.bytes) {
                tracing::warn!(conn = slow, "a subscriber does not keep up and was removed");
            }
            let size = frame.payload_len();
            self.publish("pubsub.published", json!({ "topic": topic, "size": size, "from": from }));
        }
    }
}

/// The next frame of a stream; `None` at its end, whatever ended it.
fn next(stream: &dyn Connection, reader: &mut Reader) -> Option<frame::Frame> {
    let mut chunk = [0; 16 << 10];
    loop {
        match reader.next() {
            Ok(Some(frame)) => return Some(frame),
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(error, remote = remote(stream), "not an event stream");
                return None;
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(n) => reader.push(&chunk[..n]),
        }
    }
}

plugin_abi::export_plugin!("eventstream", EventStream::default);
#[cfg(test)]
mod tests;
