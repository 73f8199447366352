//! What is measured from a plugin's side: calls of the daemon, made as often as told, over a plain trait object. In the
//! opened library that object is the border's adapter, in the linked twin it is the host's own. Each call takes its object
//! from memory anew (`black_box`), as programs do; a loop that keeps the method's address in a register measures nothing
//! that exists.

use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use plugin_abi::{Addr, Connection, Daemon, Error, Result, Subscription};

/// The port on which the measuring daemon's streams give back what they were sent.
pub const ECHO: u16 = 7;
/// The port on which its streams take everything and give zeros.
pub const SINK: u16 = 9;
/// The topic of its events.
pub const TOPIC: &str = "bench.event";

/// Runs the loop called `name`.
///
/// # Errors
/// An unknown name, or a call that failed: then there is nothing to measure.
pub fn run(name: &str, daemon: &Arc<dyn Daemon>, times: u64) -> Result<Duration> {
    let daemon = black_box(daemon);
    match name {
        "plugin_to_host" => Ok(node_id(daemon.as_ref(), times)),
        "borrow_1k" => borrow(daemon.as_ref(), 1 << 10, times),
        "borrow_64k" => borrow(daemon.as_ref(), 64 << 10, times),
        "copy_1k" => copy(daemon.as_ref(), 1 << 10, times),
        "copy_64k" => copy(daemon.as_ref(), 64 << 10, times),
        "async_dial" => now(async_dial(daemon.as_ref(), times)),
        "async_echo" => spawn_echo(daemon),
        "fanout_1" => fanout(daemon.as_ref(), 1, times),
        "fanout_10" => fanout(daemon.as_ref(), 10, times),
        "fanout_100" => fanout(daemon.as_ref(), 100, times),
        other => Err(Error::invalid(format!("no loop {other}"))),
    }
}

#[inline(never)]
fn node_id(daemon: &dyn Daemon, times: u64) -> Duration {
    let started = Instant::now();
    for _ in 0..times {
        black_box(black_box(daemon).node_id());
    }
    started.elapsed()
}

/// A slice lent to the host for the time of a call.
#[inline(never)]
fn borrow(daemon: &dyn Daemon, size: usize, times: u64) -> Result<Duration> {
    let stream = daemon.dial(Addr::backbone(1), SINK, Duration::from_secs(1))?;
    let data = vec![7; size];
    let started = Instant::now();
    for _ in 0..times {
        black_box(&stream).write(black_box(&data))?;
    }
    Ok(started.elapsed())
}

/// A buffer lent to the host, which copies into it.
#[inline(never)]
fn copy(daemon: &dyn Daemon, size: usize, times: u64) -> Result<Duration> {
    let stream = daemon.dial(Addr::backbone(1), SINK, Duration::from_secs(1))?;
    let mut data = vec![7; size];
    let started = Instant::now();
    for _ in 0..times {
        black_box(black_box(&stream).read(black_box(&mut data))?);
    }
    Ok(started.elapsed())
}

/// Spawns a future that sends 1 KiB to an echo, reads it back, wakes itself and yields, for ever. Whoever polls it
/// measures: each poll is one echo.
fn spawn_echo(daemon: &Arc<dyn Daemon>) -> Result<Duration> {
    let stream = daemon.dial(Addr::backbone(1), ECHO, Duration::from_secs(1))?;
    let (sent, mut got) = (vec![7; 1 << 10], vec![0; 1 << 10]);
    daemon.spawn(Box::pin(std::future::poll_fn(move |cx| {
        if stream.write(black_box(&sent)).is_err() || stream.read(black_box(&mut got)).is_err() {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })));
    Ok(Duration::ZERO)
}

/// A stream opened by a future, 1 KiB there and back, and the stream dropped; nothing ever has to wait.
async fn async_dial(daemon: &dyn Daemon, times: u64) -> Result<Duration> {
    let (sent, mut got) = (vec![7; 1 << 10], vec![0; 1 << 10]);
    let started = Instant::now();
    for _ in 0..times {
        let stream: Arc<dyn Connection> = daemon.dial_async(Addr::backbone(1), ECHO).await?;
        stream.write(black_box(&sent))?;
        black_box(stream.read(black_box(&mut got))?);
    }
    Ok(started.elapsed())
}

/// Events to so many subscriptions, each read to the end: per event, how long until all have it. Batches fit into the
/// subscriptions' buffers.
#[inline(never)]
fn fanout(daemon: &dyn Daemon, subscribers: usize, times: u64) -> Result<Duration> {
    const BATCH: u64 = 64;
    let bus = daemon.bus();
    let all: Vec<Arc<dyn Subscription>> = (0..subscribers).map(|_| bus.subscribe(TOPIC)).collect();
    let mut took = Duration::ZERO;
    for _ in 0..times.div_ceil(BATCH) {
        let started = Instant::now();
        // One call makes the host publish a whole batch, as its own parts would.
        daemon.set_webhook_url(TOPIC);
        for subscription in &all {
            for _ in 0..BATCH {
                let event = subscription.recv(Duration::ZERO)?;
                black_box(event.ok_or_else(|| Error::other("an event is missing"))?);
            }
        }
        took += started.elapsed();
    }
    Ok(took)
}

/// Runs a future that is always ready.
fn now<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => Err(Error::other("a future of this measurement had to wait")),
    }
}
