//! The baseline of the ping metric: bare UDP with blocking sockets. One thread sends every datagram back to where it came
//! from; the role's own thread measures round trips to a peer.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Parent, not_mine};
use crate::protocol::{Reply, Request, Target};

/// Longest wait for one echo. Loopback loses nothing here: at most one datagram is under way.
const LIMIT: Duration = Duration::from_secs(2);

/// Runs until the parent closes the input.
///
/// # Errors
/// When the sockets cannot be had or the parent is gone.
pub async fn run() -> Result<()> {
    let server = UdpSocket::bind("127.0.0.1:0")?;
    let addr = server.local_addr()?;
    // Ends with the process: it owns nothing that needs an orderly end.
    std::thread::spawn(move || {
        let mut buf = [0; 2048];
        while let Ok((n, from)) = server.recv_from(&mut buf) {
            let _ = server.send_to(&buf[..n], from);
        }
    });
    let client = UdpSocket::bind("127.0.0.1:0")?;
    client.set_read_timeout(Some(LIMIT))?;
    let mut parent = Parent::new();
    parent.ready(Target::Udp(addr))?;
    while let Some(request) = parent.next().await? {
        let reply = match request {
            Request::Target(Target::Udp(peer)) => {
                client.connect(peer).context("connect").map(|()| Reply::Done)
            }
            Request::Ping { count } => ping(&client, count),
            other => not_mine(&other),
        };
        parent.answer(reply)?;
    }
    Ok(())
}

fn ping(client: &UdpSocket, count: u32) -> Result<Reply> {
    let mut times = Vec::with_capacity(count as usize);
    let mut buf = [0; 2048];
    for i in 0..count {
        let payload = super::ping_payload(i);
        let start = Instant::now();
        client.send(&payload)?;
        let n = client.recv(&mut buf)?;
        times.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        ensure!(buf[..n] == payload, "the echo differs");
    }
    Ok(Reply::Pings { inner: times.clone(), called: times })
}
