//! The loads, written once over "something that opens streams", so that Pilot and its baseline run the very same code.
//!
//! A stream begins with nine bytes from its opener: the kind of load and a big-endian byte count. The acceptor answers as
//! [`serve`] says; the opener closes first.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::protocol::{Reply, Request};

/// Bytes per write.
const CHUNK: usize = 64 << 10;
const HEADER: usize = 9;
const COUNT: u8 = 0;
const VERIFY: u8 = 1;
const ECHO: u8 = 2;

/// One reliable stream.
pub trait Pipe: Send + 'static {
    /// Queues `data`, waiting for room.
    fn write(&mut self, data: Bytes) -> impl Future<Output = Result<()>> + Send;
    /// The next bytes; `None` at the end.
    fn read(&mut self) -> impl Future<Output = Result<Option<Bytes>>> + Send;
    /// Closes the sending side.
    fn finish(&mut self);
}

/// A way to one peer.
pub trait Way: Clone + Send + Sync + 'static {
    /// Its streams.
    type Pipe: Pipe;
    /// Opens a stream.
    fn open(&self) -> impl Future<Output = Result<Self::Pipe>> + Send;
}

/// Runs one load over `way`; streams that stay open go to `held`. `None` when the request is not a load.
///
/// # Errors
/// The first stream's error.
pub async fn run<W: Way>(way: &W, held: &mut Vec<W::Pipe>, request: &Request) -> Option<Result<Reply>> {
    Some(match *request {
        Request::Transfer { streams, bytes, verify } => transfer(way, streams, bytes, verify).await.map(took),
        Request::Dial { count, parallel } => dial(way, count, parallel).await.map(took),
        Request::Hold { count } => hold(way, count, held).await.map(|()| Reply::Done),
        _ => return None,
    })
}

fn took(time: Duration) -> Reply {
    Reply::Took(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

async fn transfer<W: Way>(way: &W, streams: u32, bytes: u64, verify: bool) -> Result<Duration> {
    ensure!(streams > 0, "no streams");
    let chunk = Bytes::from(pattern());
    let share = bytes / u64::from(streams);
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..streams {
        let (way, chunk) = (way.clone(), chunk.clone());
        tasks.spawn(async move { send(way.open().await?, share, &chunk, verify).await });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(start.elapsed())
}

async fn send<P: Pipe>(mut pipe: P, bytes: u64, chunk: &Bytes, verify: bool) -> Result<()> {
    pipe.write(header(if verify { VERIFY } else { COUNT }, bytes)).await?;
    let mut left = bytes;
    while left > 0 {
        let n = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        pipe.write(chunk.slice(..n)).await?;
        left -= n as u64;
    }
    let reply = exactly(&mut pipe, 8).await?;
    ensure!(reply == bytes.to_be_bytes(), "the peer got something else than was sent");
    pipe.finish();
    Ok(())
}

async fn dial<W: Way>(way: &W, count: u32, parallel: u32) -> Result<Duration> {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for i in 0..count {
        if i >= parallel {
            tasks.join_next().await.context("a dial got lost")???;
        }
        let way = way.clone();
        tasks.spawn(async move {
            let mut pipe = touch(&way).await?;
            pipe.finish();
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(start.elapsed())
}

async fn hold<W: Way>(way: &W, count: u32, held: &mut Vec<W::Pipe>) -> Result<()> {
    for _ in 0..count {
        held.push(touch(way).await?);
    }
    Ok(())
}

/// Opens a stream and has one byte come back.
async fn touch<W: Way>(way: &W) -> Result<W::Pipe> {
    let mut pipe = way.open().await?;
    pipe.write(header(ECHO, 1)).await?;
    ensure!(exactly(&mut pipe, 1).await? == [ECHO], "the echo differs");
    Ok(pipe)
}

/// The acceptor's part of one stream: counts (and compares) the bytes and reports their number, or sends one byte back;
/// then waits for the end.
///
/// # Errors
/// When the stream breaks or holds something else.
pub async fn serve<P: Pipe>(mut pipe: P) -> Result<()> {
    let mut head = Vec::with_capacity(HEADER);
    let mut rest = Bytes::new();
    while head.len() < HEADER {
        let Some(mut data) = pipe.read().await? else { bail!("ended within the header") };
        head.extend_from_slice(&data.split_to(data.len().min(HEADER - head.len())));
        rest = data;
    }
    let kind = head[0];
    let bytes = u64::from_be_bytes(head[1..].try_into().expect("nine bytes were read"));
    match kind {
        ECHO => pipe.write(Bytes::from_static(&[ECHO])).await?,
        COUNT | VERIFY => {
            let pattern = pattern();
            let mut got = 0;
            loop {
                if kind == VERIFY {
                    compare(&rest, got, &pattern)?;
                }
                got += rest.len() as u64;
                if got >= bytes {
                    break;
                }
                rest = pipe.read().await?.context("ended within the data")?;
            }
            pipe.write(Bytes::copy_from_slice(&got.to_be_bytes())).await?;
        }
        other => bail!("unknown kind of load {other}"),
    }
    // The opener has what it wanted; however it leaves now is a proper end.
    while let Ok(Some(_)) = pipe.read().await {}
    pipe.finish();
    Ok(())
}

fn header(kind: u8, bytes: u64) -> Bytes {
    let mut header = vec![kind];
    header.extend_from_slice(&bytes.to_be_bytes());
    header.into()
}

/// One chunk of bytes in which a shift by any number of places shows.
fn pattern() -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(CHUNK).collect()
}

fn compare(mut data: &[u8], offset: u64, pattern: &[u8]) -> Result<()> {
    let mut at = usize::try_from(offset % CHUNK as u64).expect("less than a chunk");
    while !data.is_empty() {
        let n = data.len().min(CHUNK - at);
        ensure!(data[..n] == pattern[at..at + n], "the data differs near byte {offset}");
        data = &data[n..];
        at = 0;
    }
    Ok(())
}

async fn exactly<P: Pipe>(pipe: &mut P, bytes: usize) -> Result<Vec<u8>> {
    let mut all = Vec::with_capacity(bytes);
    while all.len() < bytes {
        let Some(data) = pipe.read().await? else { bail!("the peer closed early") };
        all.extend_from_slice(&data);
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
