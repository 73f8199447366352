//! Two servers with one content: the feed a primary gives to whoever follows it, and the task that follows a primary
//! (registry.md section 7).
//!
//! A feed sends the whole content at once and again when something has changed, at most once a second, so a standby is
//! that far behind. A content that does not fit into one message (64 MiB, some 150,000 nodes) cannot be followed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use pilot_rendezvous::Snapshot;
use pilot_wire::registry::MAX_MESSAGE_SIZE;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::config::Follow;
use super::desk::Desk;
use super::listener::Shared;
use crate::framed::read_body;
use crate::transport;

/// How often a feed looks for news.
const TICK: Duration = Duration::from_secs(1);
/// How long a feed may be silent.
const HEARTBEAT: Duration = Duration::from_secs(15);
const HEARTBEAT_DEADLINE: Duration = Duration::from_secs(5);
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(10);
/// A primary that is silent for longer is gone.
const SILENCE: Duration = Duration::from_secs(45);
/// Between two attempts to follow.
const RETRY: Duration = Duration::from_secs(3);

/// Feeds a standby until it hangs up, does not read, or says anything: it has nothing to say.
pub(super) async fn feed(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    shared: &Shared,
) -> io::Result<()> {
    let Ok(_place) = shared.feeds.clone().try_acquire_owned() else {
        return Err(io::Error::other("too many standbys"));
    };
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut known, mut spoke) = (None, Instant::now());
    let mut byte = [0; 1];
    loop {
        tokio::select! {
            () = shared.stop.wait() => return Ok(()),
            read = reader.read(&mut byte) => return read.map(drop),
            _ = ticks.tick() => {}
        }
        if known != Some(shared.desk.generation()) {
            let desk = shared.desk.clone();
            // Large contents take a while to write down.
            let written = tokio::task::spawn_blocking(move || desk.snapshot()).await;
            let (generation, content) = written.map_err(io::Error::other)?;
            let head = br#"{"snapshot":"#;
            let tail = br#","type":"replication_snapshot"}"#;
            let message = [&head[..], &content, tail].concat();
            send(&mut writer, &message, SNAPSHOT_DEADLINE).await?;
            known = Some(generation);
            spoke = Instant::now();
        } else if spoke.elapsed() >= HEARTBEAT {
            send(&mut writer, br#"{"type":"heartbeat"}"#, HEARTBEAT_DEADLINE).await?;
            spoke = Instant::now();
        }
    }
}

async fn send(writer: &mut (impl AsyncWrite + Unpin), body: &[u8], deadline: Duration) -> io::Result<()> {
    let len = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_MESSAGE_SIZE);
    let len = len.ok_or_else(|| {
        let text = format!(
            "the registry's content takes {} bytes, a message at most {MAX_MESSAGE_SIZE}",
            body.len()
        );
        io::Error::other(text)
    })?;
    let write = async {
        writer.write_u32(len).await?;
        writer.write_all(body).await?;
        writer.flush().await
    };
    timeout(deadline, write).await.unwrap_or_else(|_| Err(transport::late("standby")))
}

/// Follows a primary until this server stops.
pub(super) async fn follow(primary: Follow, desk: Arc<Desk>, stop: CancellationToken) {
    let mut reachable = true;
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = follow_once(&primary, &desk) => ended,
        };
        if let Err(e) = ended {
            // Said once; a primary may be down for long.
            if reachable {
                tracing::warn!(primary = %primary.addr, error = %e, "standby: the primary is not there, serving what it last sent");
            }
            reachable = false;
        } else {
            reachable = true;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(RETRY) => {}
        }
    }
}

/// What a primary pushes.
#[derive(Deserialize)]
struct Push<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    snapshot: Option<&'a RawValue>,
    error: Option<String>,
}

async fn follow_once(primary: &Follow, desk: &Desk) -> io::Result<()> {
    let mut stream = transport::dial(&primary.addr, primary.tls.as_ref()).await?;
    let mut stream = stream.bytes();
    let hello = serde_json::json!({"type": "subscribe_replication", "token": primary.token}).to_string();
    send(&mut stream, hello.as_bytes(), HEARTBEAT_DEADLINE).await?;
    let mut followed = false;
    loop {
        let read = timeout(SILENCE, read(&mut stream)).await;
        let body = match read.unwrap_or_else(|_| Err(transport::late("primary"))) {
            Ok(body) => body,
            // v1.9.0 ends a feed every minute; that is no failure.
            Err(e) if followed && e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e),
        };
        let snapshot =
            tokio::task::spawn_blocking(move || parse(&body)).await.map_err(io::Error::other)??;
        // Heartbeats and deltas bring nothing that the next snapshot does not.
        let Some(snapshot) = snapshot else { continue };
        for note in snapshot.notes() {
            tracing::warn!(%note, "standby: left out of the primary's content");
        }
        if !followed {
            let (nodes, networks, trust) = snapshot.counts();
            tracing::info!(primary = %primary.addr, nodes, networks, trust, "standby: following");
        }
        followed = true;
        desk.follow(snapshot).await;
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let len = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if len > MAX_MESSAGE_SIZE {
        return Err(io::Error::other(format!("message too large: {len} bytes (max {MAX_MESSAGE_SIZE})")));
    }
    read_body(stream, len, |_| true).await
}

fn parse(body: &[u8]) -> io::Result<Option<Snapshot>> {
    let push: Push<'_> = serde_json::from_slice(body).map_err(io::Error::other)?;
    match (push.kind.as_str(), push.snapshot) {
        ("replication_snapshot", Some(snapshot)) => {
            Snapshot::parse(snapshot.get().as_bytes()).map(Some).map_err(io::Error::other)
        }
        ("error", _) => Err(io::Error::other(push.error.unwrap_or_else(|| "refused".to_owned()))),
        _ => Ok(None),
    }
}
