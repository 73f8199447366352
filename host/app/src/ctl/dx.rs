//! A connection to a peer's data exchange service (port 1001), and the dial that every stream command shares.

use std::time::Duration;

use bytes::{Buf, Bytes};
use pilot_net::ipc::{Client, ClientError, Stream};
use pilot_wire::dataexchange::{Event, FrameDecoder, FrameType};
use pilot_wire::ports;

use super::context::Target;
use super::fail::Failure;
use super::values::go_duration;

/// Replies are short texts; a peer that sends more is not a data exchange service.
const MAX_REPLY: u32 = 1 << 20;

/// One whole frame from the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub kind: FrameType,
    pub payload: Vec<u8>,
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoReply {
    #[error("the peer closed the connection")]
    Closed,
    #[error("no response within {}", go_duration(*.0))]
    Timeout(Duration),
    #[error("the peer sent something else than data exchange frames: {0}")]
    Garbled(String),
}

impl From<NoReply> for Failure {
    fn from(error: NoReply) -> Failure {
        match error {
            NoReply::Timeout(_) => Failure::timeout(error.to_string())
                .hint("increase with --timeout, or see whether the peer is busy"),
            NoReply::Closed | NoReply::Garbled(_) => Failure::connection(error.to_string()),
        }
    }
}

/// The connection.
#[derive(Debug)]
pub(super) struct DataExchange {
    stream: Stream,
    decoder: FrameDecoder,
    /// Received and not yet decoded.
    pending: Bytes,
    /// The frame being put together.
    partial: Option<Reply>,
}

impl DataExchange {
    /// Dials the peer's service.
    pub(super) async fn open(
        client: &Client,
        target: &Target,
        limit: Duration,
    ) -> Result<DataExchange, Failure> {
        let stream = client.dial(target.addr, ports::DATA_EXCHANGE, limit).await.map_err(|error| {
            let what =
                format!("cannot connect to {} (data exchange port {})", target.addr, ports::DATA_EXCHANGE);
            unreachable_peer(what, target, &error)
        })?;
        Ok(DataExchange {
            stream,
            decoder: FrameDecoder::new(MAX_REPLY),
            pending: Bytes::new(),
            partial: None,
        })
    }

    /// Hands encoded frames to the daemon.
    pub(super) async fn send(&self, pieces: impl IntoIterator<Item = Bytes>) -> Result<(), ClientError> {
        self.stream.write_all(pieces).await
    }

    /// The next frame of the peer.
    pub(super) async fn reply(&mut self, limit: Duration) -> Result<Reply, NoReply> {
        match tokio::time::timeout(limit, self.next()).await {
            Ok(reply) => reply,
            Err(_) => Err(NoReply::Timeout(limit)),
        }
    }

    /// The next frame of the peer, however long it takes. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Reply, NoReply> {
        loop {
            if let Some(reply) = self.decode()? {
                return Ok(reply);
            }
            self.pending = self.stream.read().await.ok_or(NoReply::Closed)?;
        }
    }

    /// The next frame if it is here already.
    pub(super) async fn ready(&mut self) -> Result<Option<Reply>, NoReply> {
        tokio::select! {
            biased;
            reply = self.next() => reply.map(Some),
            () = std::future::ready(()) => Ok(None),
        }
    }

    /// Works off what has been received, up to the end of a frame.
    fn decode(&mut self) -> Result<Option<Reply>, NoReply> {
        let chunk = self.pending.clone();
        let mut input = &chunk[..];
        let mut done = None;
        while done.is_none() {
            let event = self.decoder.decode(&mut input).map_err(|e| NoReply::Garbled(e.to_string()))?;
            match event {
                None => break,
                Some(Event::Frame(header)) => {
                    self.partial = Some(Reply { kind: header.kind, payload: Vec::new() });
                }
                Some(Event::File { .. }) => {}
                Some(Event::Payload(bytes)) => {
                    if let Some(reply) = &mut self.partial {
                        reply.payload.extend_from_slice(bytes);
                    }
                }
                Some(Event::End) => done = self.partial.take(),
            }
        }
        self.pending.advance(chunk.len() - input.len());
        Ok(done)
    }

    /// Ends the stream after what was sent.
    pub(super) async fn close(self) -> Result<(), ClientError> {
        self.stream.close().await
    }
}

/// A dial that failed, with the hint that fits its reason (cli.md section 1, ipc.md section 4).
pub(super) fn unreachable_peer(what: String, target: &Target, error: &ClientError) -> Failure {
    let cause = error.daemon_text().map_or_else(|| error.to_string(), str::to_owned);
    let hint = if cause.contains("pending queue full") || cause.contains("key exchange pending") {
        "handshake in progress, retry in a moment".to_owned()
    } else {
        format!("check that {} is reachable: pilotctl ping {}", target.addr, target.addr)
    };
    Failure::connection(what).hint(format!("{hint}  ({cause})"))
}
