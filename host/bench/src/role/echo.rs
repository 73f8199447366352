//! The baselines of the ping metric: bare UDP, no frame, no cipher. One thread sends every datagram back to where it came
//! from; the role's own thread measures round trips to a peer. Two ways to wait: a blocking receive, which a program can
//! use that waits for nothing else, and `--batch`, what anything with timers and other inputs has to do: `ppoll`, then one
//! receive call for a batch (recvmmsg with GRO), with the very socket type of a node.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pilot_net::udp::Udp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Parent, not_mine};
use crate::protocol::{Reply, Request, Target};

/// Longest wait for one echo. Loopback loses nothing here: at most one datagram is under way.
const LIMIT: Duration = Duration::from_secs(2);

/// Runs until the parent closes the input.
///
/// # Errors
/// When the sockets cannot be had or the parent is gone.
pub async fn run(batch: bool) -> Result<()> {
    if batch {
        return run_batch().await;
    }
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

async fn run_batch() -> Result<()> {
    let bind = || Udp::bind(SocketAddr::from(([127, 0, 0, 1], 0)));
    let (mut server, mut client) = (bind()?, bind()?);
    let addr = server.local_addr()?;
    // Ends with the process, as above.
    std::thread::spawn(move || {
        let mut answers = Vec::new();
        while wait(&server).is_ok() {
            let _ = server.receive(|from, datagram| answers.push((from, datagram.to_vec())));
            for (to, datagram) in answers.drain(..) {
                let _ = server.send(to, &datagram, None);
            }
        }
    });
    let mut parent = Parent::new();
    parent.ready(Target::Udp(addr))?;
    let mut peer = None;
    while let Some(request) = parent.next().await? {
        let reply = match (request, peer) {
            (Request::Target(Target::Udp(found)), _) => {
                peer = Some(found);
                Ok(Reply::Done)
            }
            (Request::Ping { count }, Some(peer)) => ping_batch(&mut client, peer, count),
            (other, _) => not_mine(&other),
        };
        parent.answer(reply)?;
    }
    Ok(())
}

fn ping_batch(client: &mut Udp, peer: SocketAddr, count: u32) -> Result<Reply> {
    let mut times = Vec::with_capacity(count as usize);
    for i in 0..count {
        let payload = super::ping_payload(i);
        let mut same = None;
        let start = Instant::now();
        client.send(peer, &payload, None)?;
        while same.is_none() {
            wait(client)?;
            client.receive(|_, datagram| same = Some(*datagram == payload))?;
        }
        times.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        ensure!(same == Some(true), "the echo differs");
    }
    Ok(Reply::Pings { inner: times.clone(), called: times })
}

/// Sleeps until there is something to receive.
fn wait(socket: &Udp) -> Result<()> {
    let limit = Timespec { tv_sec: i64::try_from(LIMIT.as_secs())?, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)], Some(&limit))?;
    if ready == 0 {
        bail!("nothing came within {LIMIT:?}");
    }
    Ok(())
}
