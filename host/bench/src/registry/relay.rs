//! Frames through the beacon: one node sends, another receives, and never more than a window of them is under way. The
//! baseline echoes the same datagrams to their sender, with the same sockets and the same window.

use std::io::{ErrorKind, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pilot_wire::beacon::Message;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};

use super::{Settings, median};

/// What is carried, bytes.
const FRAME: usize = 1200;
/// Datagrams under way at most; a few batches, well within any socket buffer.
const WINDOW: u64 = 512;
/// Datagrams per system call of the client.
const RUN: usize = 32;
const SENDER: u32 = 0x00FF_0001;
const RECEIVER: u32 = 0x00FF_0002;

/// Alternating rounds: medians of frames per second through the beacon and through the echo.
pub async fn measure(settings: &Settings, beacon: SocketAddr) -> Result<(f64, f64)> {
    let settings = settings.clone();
    tokio::task::spawn_blocking(move || {
        // One pair of sockets for all rounds: a beacon believes a new endpoint of a node every 30 s only.
        let relayed =
            Path { sender: node(beacon, SENDER)?, receiver: node(beacon, RECEIVER)?, frame: relay_frame() };
        let echoed = Path::echo(echo()?)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..settings.rounds {
            ours.push(round(&relayed, settings.round_ms)?);
            theirs.push(round(&echoed, settings.round_ms)?);
        }
        Ok((median(&mut ours), median(&mut theirs)))
    })
    .await?
}

/// A thread that sends every datagram back, one system call each way. It ends with the process.
fn echo() -> Result<SocketAddr> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    enlarge(&socket);
    let addr = socket.local_addr()?;
    std::thread::spawn(move || {
        let mut buf = [0; 2048];
        while let Ok((n, from)) = socket.recv_from(&mut buf) {
            let _ = socket.send_to(&buf[..n], from);
        }
    });
    Ok(addr)
}

fn enlarge(socket: &UdpSocket) {
    let socket = socket2::SockRef::from(socket);
    let _ = socket.set_recv_buffer_size(4 << 20);
    let _ = socket.set_send_buffer_size(4 << 20);
}

fn node(beacon: SocketAddr, id: u32) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    enlarge(&socket);
    socket.connect(beacon)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut discover = Vec::new();
    Message::Discover { node: id, key: None }.encode(&mut discover);
    socket.send(&discover)?;
    let mut reply = [0; 64];
    let n = socket.recv(&mut reply).context("no discover reply")?;
    ensure!(n > 0, "an empty discover reply");
    Ok(socket)
}

/// Where datagrams go in and come out.
struct Path {
    sender: UdpSocket,
    receiver: UdpSocket,
    frame: Vec<u8>,
}

impl Path {
    fn echo(to: SocketAddr) -> Result<Path> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        enlarge(&socket);
        socket.connect(to)?;
        Ok(Path { sender: socket.try_clone()?, receiver: socket, frame: vec![0x5A; FRAME] })
    }
}

fn relay_frame() -> Vec<u8> {
    let mut frame = Vec::new();
    Message::Relay { sender: SENDER, dest: RECEIVER, frame: &[0x5A; FRAME] }.encode(&mut frame);
    frame
}

fn round(path: &Path, millis: u64) -> Result<f64> {
    let receiver = path.receiver.try_clone()?;
    let (received, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let counter = std::thread::spawn({
        let (received, stop) = (received.clone(), stop.clone());
        move || count(&receiver, &received, &stop)
    });
    let started = Instant::now();
    let sent = send(&path.sender, &path.frame, &received, started + Duration::from_millis(millis));
    let elapsed = started.elapsed();
    let arrived = received.load(Ordering::Acquire);
    stop.store(true, Ordering::Release);
    counter.join().map_err(|_| anyhow::anyhow!("the receiving thread failed"))??;
    sent?;
    Ok(arrived as f64 / elapsed.as_secs_f64())
}

/// Sends runs for as long as the window allows. Lost datagrams would close it for good: after a pause without any arrival
/// it is opened anew.
fn send(socket: &UdpSocket, frame: &[u8], received: &AtomicU64, end: Instant) -> Result<()> {
    let state = UdpSocketState::new(socket.into())?;
    let destination = socket.peer_addr()?;
    let contents = frame.repeat(RUN.min(state.max_gso_segments()));
    let run = (contents.len() / frame.len()) as u64;
    let (mut sent, mut seen, mut moved) = (0_u64, 0, Instant::now());
    while Instant::now() < end {
        let arrived = received.load(Ordering::Acquire);
        if arrived != seen {
            (seen, moved) = (arrived, Instant::now());
        } else if moved.elapsed() > Duration::from_millis(20) {
            (sent, moved) = (arrived, Instant::now());
        }
        if sent + run > arrived + WINDOW {
            std::thread::yield_now();
            continue;
        }
        let segment_size = (run > 1).then_some(frame.len());
        let transmit = Transmit { destination, ecn: None, contents: &contents, segment_size, src_ip: None };
        match state.try_send(socket.into(), &transmit) {
            Ok(()) => sent += run,
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn count(socket: &UdpSocket, received: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    // The state switches the socket to non-blocking; a short wait keeps the loop from burning a core for nothing.
    let state = UdpSocketState::new(socket.into())?;
    let mut buffers = vec![0; 65_535 * BATCH_SIZE];
    let mut metas = [RecvMeta::default(); BATCH_SIZE];
    while !stop.load(Ordering::Acquire) {
        let mut slots: Vec<_> = buffers.chunks_exact_mut(65_535).map(IoSliceMut::new).collect();
        match state.recv(socket.into(), &mut slots, &mut metas) {
            Ok(runs) => {
                let arrived: usize = metas.iter().take(runs).map(|m| m.len.div_ceil(m.stride.max(1))).sum();
                received.fetch_add(arrived as u64, Ordering::AcqRel);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock || e.kind() == ErrorKind::TimedOut => {
                std::thread::sleep(Duration::from_micros(20));
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
