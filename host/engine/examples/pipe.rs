//! How fast two engines are when nothing but themselves is in the way: one stream from one to the other, in memory, on one
//! thread. Prints megabytes per second for a few segment sizes.
//!
//! Usage: `cargo run --release -p pilot-engine --example pipe [megabytes]`
#![allow(clippy::print_stdout, clippy::disallowed_methods)] // it measures real time and says so

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use pilot_engine::time::{Duration, Instant};
use pilot_engine::{Answer, Config, ConnId, Engine, Event, Identity, Query, Read, Resolution};
use pilot_wire::addr::Addr;

const PORT: u16 = 1000;
/// Datagrams per call, as a driver with segmentation offload would take them.
const RUN: usize = 64;

struct End {
    engine: Engine,
    addr: SocketAddr,
    buf: Vec<u8>,
    conn: Option<ConnId>,
    received: u64,
    finished: bool,
}

fn end(node: u8, config: &Config, now: Instant) -> End {
    let mut engine = Engine::new(config.clone(), [node; 32], now);
    engine.set_identity(Arc::new(Identity::generate([node; 32])));
    engine.set_node(node.into(), true, &[]);
    let addr = SocketAddr::from(([127, 0, 0, 1], 4000 + u16::from(node)));
    End { engine, addr, buf: Vec::with_capacity(1 << 20), conn: None, received: 0, finished: false }
}

/// Answers questions, reads what came, hands over what is to be sent. True when anything happened.
fn pump(now: Instant, this: &mut End, other: &mut End) -> bool {
    let mut busy = false;
    while let Some((id, query)) = this.engine.poll_query() {
        let node = match query {
            Query::Resolve { node } | Query::PeerKey { node } => node,
            _ => 0,
        };
        let key = Identity::generate([node.to_le_bytes()[0]; 32]).public_key();
        let answer = match query {
            Query::Resolve { .. } => {
                Answer::Resolved(Resolution { real_addr: Some(other.addr), ..Resolution::default() })
            }
            _ => Answer::PeerKey { key: Some(key), trusted: true },
        };
        this.engine.answer(now, id, answer);
    }
    while let Some(event) = this.engine.poll_event() {
        match event {
            Event::Incoming { port, .. } => this.conn = this.engine.accept(port),
            Event::Readable { conn } => loop {
                match this.engine.read(now, conn, 1 << 20) {
                    Ok(Read::Data(data)) => this.received += data.len() as u64,
                    Ok(Read::Finished) => {
                        this.finished = true;
                        break;
                    }
                    _ => break,
                }
            },
            _ => {}
        }
    }
    // A few runs per turn, as one system call would bring them.
    for _ in 0..4 {
        this.buf.clear();
        let Some(t) = this.engine.poll_transmit(now, &mut this.buf, RUN) else { break };
        busy = true;
        for datagram in this.buf[..t.size].chunks_mut(t.segment_size.unwrap_or(t.size)) {
            other.engine.handle_datagram(now, this.addr, datagram);
        }
    }
    busy
}

fn run(name: &str, config: &Config, total: u64) {
    let mut now = Instant::ZERO;
    let (mut a, mut b) = (end(1, config, now), end(2, config, now));
    let Ok(()) = b.engine.bind(PORT) else { return };
    let Ok(conn) = a.engine.dial(now, Addr::backbone(2), PORT) else { return };
    let chunk = Bytes::from(vec![7; 256 * 1024]);
    let start = std::time::Instant::now();
    let mut left = total;
    while !b.finished {
        while left > 0 {
            let want = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match a.engine.write(now, conn, chunk.slice(..want)) {
                Ok(taken) if taken > 0 => left -= taken as u64,
                _ => break,
            }
            if left == 0 {
                a.engine.close(now, conn);
            }
        }
        let busy = pump(now, &mut a, &mut b) | pump(now, &mut b, &mut a);
        now += Duration::from_micros(20);
        if !busy {
            let next = [a.engine.poll_timeout(), b.engine.poll_timeout()].into_iter().flatten().min();
            now = next.unwrap_or(now).max(now);
            a.engine.handle_timeout(now);
            b.engine.handle_timeout(now);
        }
    }
    let secs = start.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss)]
    let rate = total as f64 / secs / 1e6;
    let s = a.engine.snapshot();
    println!("{name:>22}: {rate:8.0} MB/s  ({} datagrams, {} received)", s.pkts_sent, b.received);
}

fn main() {
    let megabytes = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(1000_u64);
    let total = megabytes * 1_000_000;
    let base = Config { admit_all: true, ..Config::default() };
    run("1152-byte segments", &Config { jumbo_segment: 1152, ..base.clone() }, total);
    run("4096-byte segments", &Config { jumbo_segment: 4096, ..base.clone() }, total);
    run("loopback default", &base, total);
}
