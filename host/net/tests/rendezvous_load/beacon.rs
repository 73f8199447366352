//! Floods against the beacon, from addresses that have limits (127.0.0.1 has none).

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use pilot_wire::beacon::{self, Message};

use super::server::*;

/// A node's socket on one of loopback's other addresses.
struct Node {
    socket: UdpSocket,
    id: u32,
}

fn address(number: u32) -> Ipv4Addr {
    let [_, b, c, d] = number.to_be_bytes();
    Ipv4Addr::new(127, 1 + b, c, 1 + d % 200)
}

impl Node {
    fn bind(server: &Server, ip: Ipv4Addr, id: u32) -> Node {
        let socket = UdpSocket::bind(SocketAddr::from((ip, 0))).unwrap();
        let buffers = socket2::SockRef::from(&socket);
        let _ = buffers.set_recv_buffer_size(4 << 20);
        socket.connect(server.beacon).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Node { socket, id }
    }

    fn send(&self, message: Message<'_>) {
        let mut datagram = Vec::new();
        message.encode(&mut datagram);
        // A full queue is part of a flood.
        let _ = self.socket.send(&datagram);
    }

    fn discover(&self) {
        self.send(Message::Discover { node: self.id, key: None });
        let mut buffer = [0; 64];
        let n = self.socket.recv(&mut buffer).unwrap();
        let observed = self.socket.local_addr().unwrap();
        assert_eq!(beacon::decode(&buffer[..n]), Ok(Message::DiscoverReply { observed }));
    }

    /// What has arrived within `patience` after the last arrival.
    fn drain(&self, patience: Duration) -> Vec<Vec<u8>> {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 2048];
        let mut all = Vec::new();
        while let Ok(n) = self.socket.recv(&mut buffer) {
            all.push(buffer[..n].to_vec());
        }
        all
    }
}

/// Asks until an honest node's frame has come through; whoever floods may make one or the other fall out of a queue.
fn relays(from: &Node, to: &Node) {
    to.socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let started = Instant::now();
    let mut buffer = [0; 2048];
    loop {
        assert!(started.elapsed() < Duration::from_secs(20), "nothing comes through");
        from.send(Message::Relay { sender: from.id, dest: to.id, frame: b"PILS" });
        while let Ok(n) = to.socket.recv(&mut buffer) {
            if beacon::decode(&buffer[..n]) == Ok(Message::RelayDeliver { sender: from.id, frame: b"PILS" }) {
                return;
            }
        }
    }
}

#[test]
fn floods_meet_limits_and_disturb_nobody() {
    let server = Server::start(None);
    let honest = Node::bind(&server, address(1), 1);
    let victim = Node::bind(&server, address(2), 2);
    honest.discover();
    victim.discover();
    relays(&honest, &victim);
    let before = server.resident();

    // One source, more than its share. The windows are whole seconds, so a burst may meet two or three of them.
    let greedy = Node::bind(&server, address(3), 3);
    let started = Instant::now();
    let flood = std::thread::spawn(move || {
        for _ in 0..30_000 {
            greedy.send(Message::Relay { sender: 3, dest: 2, frame: b"flood" });
        }
    });
    let arrived = victim.drain(Duration::from_millis(500)).len();
    flood.join().unwrap();
    let windows = started.elapsed().as_secs() as usize + 2;
    assert!(arrived > 0 && arrived <= 4_000 * windows, "{arrived} in {windows} windows");
    relays(&honest, &victim);

    // New nodes from many sources, and frames for nodes that are nowhere.
    let count: u32 = if long() { 600_000 } else { 20_000 };
    let sources: Vec<Node> = (0..64).map(|n| Node::bind(&server, address(1000 + n), 0)).collect();
    let mut datagram = Vec::new();
    for id in 0..count {
        let source = &sources[id as usize % sources.len()];
        datagram.clear();
        Message::Discover { node: 1_000_000 + id, key: Some(&[7; 32]) }.encode(&mut datagram);
        let _ = source.socket.send(&datagram);
        datagram.clear();
        Message::Relay { sender: 1, dest: 0x4000_0000 + id, frame: &[0; 1200] }.encode(&mut datagram);
        let _ = source.socket.send(&datagram);
    }
    relays(&honest, &victim);
    let grown = server.resident().saturating_sub(before);
    println!(
        "beacon: one source had {arrived} of 30000 frames relayed in {windows} windows of 4000; {count} new nodes and as many \
         frames for unknown ones from 64 sources: {} KiB more, others served meanwhile",
        grown / 1024
    );
    // 500,000 nodes at most; the receive slots of one batch are there from the start on.
    assert!(grown < 256 << 20, "{grown} bytes");

    // Counts that lie, cut messages, unknown types.
    for bad in [&[7, 0, 0, 0, 1, 0xFF, 0xFF, 0, 0][..], &[7], &[5, 0, 0], &[1], &[0xFF; 1400], &[]] {
        let _ = sources[0].socket.send(bad);
    }
    // A gossip that claims all nodes does not take away the one that is here.
    let mut sync = Vec::new();
    beacon::encode_sync(9, 0..10_000, &mut sync);
    let _ = sources[1].socket.send(&sync);
    relays(&honest, &victim);
}
