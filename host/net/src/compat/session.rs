//! One connection while it lives: messages both ways, pings, the data keepalive, and the close (wss.md sections 3 to 5).
//! Called by the supervisor in [`client`](super::client), which decides what follows.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::SplitSink;
use futures_util::{FutureExt as _, SinkExt as _, Stream, StreamExt as _};
use pilot_wire::beacon;
use pilot_wire::compat::Close;
use pilot_wire::tunnel::is_beacon_message;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use super::config::Timing;
use super::datagrams::Shared;
use super::dial::{Socket, closed_by_beacon};
use crate::websocket::close_frame;

/// How long a closing connection may take to say so.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

/// Messages handed to the driver after which it is woken at the latest.
const WAKE_EVERY: usize = 64;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// [`Client::close`](super::Client::close).
    Closed,
    /// [`Client::renew`](super::Client::renew).
    Renewed,
    /// For this reason; another one is wanted.
    Lost(String),
}

type Sink = SplitSink<Socket, Message>;

/// What a connection shares with the rest.
pub(super) struct Ways<'a> {
    pub node: u32,
    pub timing: Timing,
    pub shared: &'a Shared,
    pub to_driver: &'a mpsc::Sender<Bytes>,
    pub close: &'a CancellationToken,
    pub renew: &'a Notify,
}

impl Ways<'_> {
    /// Carries messages until the connection ends, and closes it where there is somebody to tell.
    pub async fn run(&self, socket: Socket) -> End {
        let (mut sink, mut source) = socket.split();
        let (pong, pongs) = watch::channel(0);
        let (end, say) = tokio::select! {
            biased;
            () = self.close.cancelled() => (End::Closed, Some(Close::CLIENT_ENDS)),
            () = self.renew.notified() => (End::Renewed, Some(Close::CLIENT_ENDS)),
            (why, say) = self.read(&mut source, &pong) => (End::Lost(why), say),
            (why, say) = self.write(&mut sink, pongs) => (End::Lost(why), say),
        };
        // What was queued before an orderly end still leaves, farewells of the driver among it.
        let last = if matches!(end, End::Closed) { self.shared.take_now() } else { Default::default() };
        self.shared.disconnected();
        if let (Some(say), Ok(mut socket)) = (say, sink.reunite(source)) {
            let farewell = async {
                for datagram in last.into_iter().flat_map(super::datagrams::Run::datagrams) {
                    socket.feed(Message::Binary(datagram)).await?;
                }
                socket.close(Some(close_frame(say))).await
            };
            let _ = timeout(FAREWELL, farewell).await;
        }
        end
    }

    /// Hands messages to the driver; waits while its queue is full, so that TCP slows the beacon down. The driver is woken
    /// once for all messages that came together: each wake-up is two calls of the system and, often, another thread's turn.
    async fn read(
        &self,
        source: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
        pong: &watch::Sender<u64>,
    ) -> (String, Option<Close>) {
        // Handed over and not yet said.
        let mut unsaid = 0;
        loop {
            let next = match source.next().now_or_never() {
                Some(next) if unsaid < WAKE_EVERY => next,
                ready => {
                    if std::mem::take(&mut unsaid) > 0 {
                        self.shared.signal();
                    }
                    match ready {
                        Some(next) => next,
                        None => source.next().await,
                    }
                }
            };
            match next {
                Some(Ok(Message::Binary(data))) if is_beacon_message(&data) => {
                    self.shared.received.fetch_add(1, Ordering::Relaxed);
                    let handed = match self.to_driver.try_send(data) {
                        Err(TrySendError::Full(data)) => {
                            self.shared.signal();
                            self.to_driver.send(data).await.is_ok()
                        }
                        done => done.is_ok(),
                    };
                    if !handed {
                        return ("the driver has ended".to_owned(), Some(Close::CLIENT_ENDS));
                    }
                    unsaid += 1;
                }
                // Nothing of the beacon's protocol. A bare tunnel frame in particular must not reach the engine, which
                // would answer it in kind.
                Some(Ok(Message::Binary(_))) => {
                    self.shared.foreign.fetch_add(1, Ordering::Relaxed);
                }
                Some(Ok(Message::Pong(payload))) => {
                    if let Some(n) = std::str::from_utf8(&payload).ok().and_then(|n| n.parse().ok()) {
                        pong.send_replace(n);
                    }
                }
                Some(Ok(Message::Close(frame))) => return (closed_by_beacon(frame.as_ref()), None),
                // Texts are reserved; pings are answered by the library.
                Some(Ok(_)) => {}
                Some(Err(Error::Capacity(e))) => {
                    return (format!("the beacon sent too much: {e}"), Some(Close::TOO_LARGE));
                }
                Some(Err(e)) => return (format!("read: {e}"), None),
                None => return ("the connection ended".to_owned(), None),
            }
        }
    }

    /// Writes what the driver queued, pings, and Discover messages, the first one at once: only who discovers is known
    /// beyond this beacon.
    async fn write(&self, sink: &mut Sink, mut pongs: watch::Receiver<u64>) -> (String, Option<Close>) {
        let Timing { ping_interval, pong_wait, keepalive, .. } = self.timing;
        // A write that takes longer is a connection that takes nothing.
        let patience = ping_interval + pong_wait;
        let mut discover_at = Instant::now();
        let mut ping_at = discover_at + ping_interval;
        let mut pings = 0_u64;
        let mut awaited: Option<Instant> = None;
        loop {
            let mut batch = Batch::default();
            tokio::select! {
                runs = self.shared.take() => {
                    batch.messages = runs.into_iter().flat_map(super::datagrams::Run::datagrams).collect();
                }
                () = sleep_until(discover_at) => {
                    discover_at += keepalive;
                    batch.messages.push(discover(self.node));
                }
                () = sleep_until(ping_at), if awaited.is_none() => {
                    pings += 1;
                    ping_at += ping_interval;
                    awaited = Some(Instant::now() + pong_wait);
                    batch.ping = Some(pings);
                }
                Ok(()) = pongs.changed() => {
                    if *pongs.borrow_and_update() == pings {
                        awaited = None;
                    }
                    continue;
                }
                () = sleep_until(awaited.unwrap_or(ping_at)), if awaited.is_some() => {
                    let text = format!("no pong within {pong_wait:?}");
                    return (text, Some(Close::PING_TIMEOUT));
                }
            }
            match timeout(patience, batch.write(sink)).await {
                Ok(Ok(sent)) => {
                    self.shared.sent.fetch_add(sent, Ordering::Relaxed);
                }
                Ok(Err(e)) => return (format!("write: {e}"), None),
                Err(_) => return (format!("nothing could be written for {patience:?}"), None),
            }
        }
    }
}

/// What one turn writes before it flushes.
#[derive(Default)]
struct Batch {
    messages: Vec<Bytes>,
    ping: Option<u64>,
}

impl Batch {
    async fn write(self, sink: &mut Sink) -> Result<u64, Error> {
        let sent = self.messages.len() as u64;
        for message in self.messages {
            sink.feed(Message::Binary(message)).await?;
        }
        if let Some(n) = self.ping {
            sink.feed(Message::Ping(n.to_string().into())).await?;
        }
        sink.flush().await?;
        Ok(sent)
    }
}

fn discover(node: u32) -> Bytes {
    let mut message = Vec::with_capacity(5);
    beacon::Message::Discover { node, key: None }.encode(&mut message);
    message.into()
}
