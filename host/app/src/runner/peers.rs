//! Synthetic peers: overlay nodes that live inside the runner and send what no host would, to see how a node takes it
//! (netrunner.md section 5, "AttachPeer" and "SendOutboundMessage"). Each has an identity, a number from the registry, a UDP
//! socket, and a session with one node; what that node sends is opened, logged and kept for a while.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pilot_engine::Identity;
use pilot_engine::tunnel::kdf;
use pilot_net::control::{BackendError, BackendResult, SendOutboundMessage};
use pilot_net::registry_client::{Registration, RegistryClient};
use pilot_wire::addr::Addr;
use pilot_wire::packet;
use pilot_wire::tunnel::{
    self, Frame, KeyExchange, KeyRequest, MAGIC_PLAIN, SEALED_HEADER_LEN, SealedHeader, Trailer,
    signed_message,
};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;
use tokio::time::{interval, timeout};
use x25519_dalek::{PublicKey, StaticSecret};

use super::cluster::Cluster;
use super::spec::fault;

/// Peers of one cluster.
const MAX_PEERS: usize = 64;
/// Packets each keeps; the oldest goes first.
const RING: usize = 1024;
/// How long a peer may take to have a session.
const READY: Duration = Duration::from_secs(10);
/// How often it offers its key meanwhile.
const REPEAT: Duration = Duration::from_millis(250);
/// Largest datagram.
const MAX_DATAGRAM: usize = 65_507;
/// Where the checksum stands in a packet's header (packet.md).
const CHECKSUM: std::ops::Range<usize> = 30..34;

/// All peers of a cluster, by their id.
#[derive(Default)]
pub(super) struct Peers(Mutex<BTreeMap<String, Arc<Peer>>>);

/// One of them.
struct Peer {
    node: String,
    at: SocketAddr,
    socket: Arc<UdpSocket>,
    own: u32,
    session: Mutex<Session>,
    /// What the node sent, opened.
    received: Arc<Mutex<VecDeque<Vec<u8>>>>,
    listener: AbortHandle,
}

/// What a frame is sealed with.
struct Session {
    key: Arc<LessSafeKey>,
    prefix: [u8; 4],
    counter: u64,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.listener.abort();
        let kept = lock(&self.received).len();
        tracing::debug!(node = self.node, kept, "runner: an attached peer is gone");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peers {
    /// Drops all.
    pub(super) async fn clear(&self) {
        lock(&self.0).clear();
    }

    /// Drops those of one node.
    pub(super) async fn drop_of(&self, node: &str) {
        lock(&self.0).retain(|_, peer| peer.node != node);
    }
}

/// Makes a peer of `name`, ready to send; gives its id.
pub(super) async fn attach(cluster: &Arc<Cluster>, name: &str) -> BackendResult<String> {
    let Some(node) = cluster.node(name) else { return fault("node not found in network") };
    let _turn = super::operations::turn(cluster, &node).await?;
    if node.is_paused() {
        return fault("node has been paused already");
    }
    if !node.is_alive() {
        return fault(format!("node {name:?} stopped unexpectedly"));
    }
    if lock(&cluster.peers.0).len() >= MAX_PEERS {
        return fault(format!("too many attached peers: one cluster has at most {MAX_PEERS}"));
    }
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, node.spec().port));
    let ready = tokio::select! {
        () = cluster.stop.cancelled() => return fault(super::cluster::STOPPED),
        ready = timeout(READY, Peer::connect(&cluster.services.registry, name, at)) => ready,
    };
    let (id, peer) = ready
        .unwrap_or_else(|_| fault(format!("node {name:?} did not answer the peer's key exchange in time")))?;
    lock(&cluster.peers.0).insert(id.clone(), Arc::new(peer));
    Ok(id)
}

/// Sends a message from an attached peer to its node.
pub(super) async fn send(cluster: &Cluster, message: SendOutboundMessage) -> BackendResult<bool> {
    if cluster.node(&message.node_name).is_none() {
        return fault("node not found in network");
    }
    let peer = lock(&cluster.peers.0).get(&message.peer_id).filter(|p| p.node == message.node_name).cloned();
    let Some(peer) = peer else {
        return fault(format!("peer with ID {} is not attached here", message.peer_id));
    };
    let frame = peer.frame(message.op, message.body)?;
    if frame.len() > MAX_DATAGRAM {
        return fault("message too large");
    }
    Ok(peer.socket.try_send_to(&frame, peer.at).is_ok())
}

impl Peer {
    async fn connect(registry: &str, node: &str, at: SocketAddr) -> BackendResult<(String, Peer)> {
        let failed =
            |what: &str, e: &dyn std::fmt::Display| BackendError::new(format!("attach peer: {what}: {e}"));
        let mut seeds = [0_u8; 68];
        getrandom::fill(&mut seeds).map_err(|e| failed("no random bytes", &e))?;
        let part = |at: usize| <[u8; 32]>::try_from(&seeds[at..at + 32]).unwrap_or_default();
        let identity = Arc::new(Identity::generate(part(0)));
        let secret = StaticSecret::from(part(32));
        let prefix = [seeds[64], seeds[65], seeds[66], seeds[67]];
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(|e| failed("no socket", &e))?;
        let local = socket.local_addr().map_err(|e| failed("no socket", &e))?;
        let signer = identity.clone();
        let client =
            RegistryClient::new(registry.to_owned(), move |message: &[u8]| Some(signer.sign(message)));
        let registration = Registration {
            public_key: STANDARD.encode(identity.public_key()),
            listen_addr: local.to_string(),
            version: crate::version::VERSION.to_owned(),
            ..Registration::default()
        };
        let registered = client.register(&registration).await.map_err(|e| failed("cannot register", &e))?;
        let own = registered.node_id;
        let x25519 = *PublicKey::from(&secret).as_bytes();
        let theirs =
            exchange(&socket, at, own, &identity, &x25519).await.map_err(|e| failed("key exchange", &e))?;
        let shared = kdf::shared_secret(&secret, &theirs)
            .ok_or_else(|| failed("key exchange", &"the node's key is of small order"))?;
        let key = UnboundKey::new(&AES_256_GCM, kdf::tunnel_key(&shared).as_slice())
            .map_err(|e| failed("key exchange", &e))?;
        let key = Arc::new(LessSafeKey::new(key));
        let socket = Arc::new(socket);
        let received = Arc::default();
        let session = Session { key: key.clone(), prefix, counter: 0 };
        let answer = Answer { own, identity, x25519, at };
        let listener =
            tokio::spawn(listen(socket.clone(), node.to_owned(), key, answer, Arc::clone(&received)))
                .abort_handle();
        let peer =
            Peer { node: node.to_owned(), at, socket, own, session: Mutex::new(session), received, listener };
        Ok((Addr::backbone(own).to_string(), peer))
    }

    /// The datagram that an operation sends.
    fn frame(&self, op: u32, body: Vec<u8>) -> BackendResult<Vec<u8>> {
        if body.len() > MAX_DATAGRAM {
            return fault("message too large");
        }
        match op {
            0 => Ok(body),
            1 => Ok([MAGIC_PLAIN.as_slice(), &body].concat()),
            2 => self.seal(body, false),
            3 => self.seal(with_checksum(body), false),
            4 => self.seal(body, true),
            // Hosts have no TCP listener of their own.
            _ => fault(format!("unsupported op {op}")),
        }
    }

    /// Seals with the next counter, or with the last one again.
    fn seal(&self, body: Vec<u8>, again: bool) -> BackendResult<Vec<u8>> {
        let mut session = lock(&self.session);
        if !again || session.counter == 0 {
            session.counter += 1;
        }
        let header = SealedHeader { sender: self.own, prefix: session.prefix, counter: session.counter };
        let mut sealed = body;
        session
            .key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(header.nonce()),
                Aad::from(header.associated_data()),
                &mut sealed,
            )
            .map_err(|_| BackendError::new("message too large"))?;
        Ok([header.to_bytes().as_slice(), &sealed].concat())
    }
}

/// The packet with a right checksum, where it is long enough to have one.
fn with_checksum(mut body: Vec<u8>) -> Vec<u8> {
    if body.len() >= packet::HEADER_LEN {
        body[CHECKSUM].fill(0);
        let sum = crc32fast::hash(&body);
        body[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    }
    body
}

/// Both our offers: the signed key, and the request that is always answered (tunnel.md section 4).
fn offers(own: u32, identity: &Identity, x25519: &[u8; 32]) -> (Vec<u8>, [u8; 40]) {
    let mut signed = Vec::new();
    KeyExchange {
        node: own,
        x25519,
        ed25519: &identity.public_key(),
        signature: &identity.sign(&signed_message(own, x25519)),
        trailer: Trailer::REQUEST,
    }
    .encode(&mut signed);
    (signed, KeyRequest { node: own, x25519: *x25519 }.to_bytes())
}

/// Offers our key until the node answers with its own.
async fn exchange(
    socket: &UdpSocket,
    at: SocketAddr,
    own: u32,
    identity: &Identity,
    x25519: &[u8; 32],
) -> std::io::Result<[u8; 32]> {
    let (signed, request) = offers(own, identity, x25519);
    let mut again = interval(REPEAT);
    let mut buffer = vec![0; 2048];
    loop {
        tokio::select! {
            _ = again.tick() => {
                socket.send_to(&signed, at).await?;
                socket.send_to(&request, at).await?;
            }
            received = socket.recv_from(&mut buffer) => {
                let Ok((size, from)) = received else { continue };
                if from == at && let Ok(Frame::KeyExchange(theirs)) = tunnel::decode(&buffer[..size]) {
                    return Ok(*theirs.x25519);
                }
            }
        }
    }
}

/// What it takes to answer the node's own key exchanges.
struct Answer {
    own: u32,
    identity: Arc<Identity>,
    x25519: [u8; 32],
    at: SocketAddr,
}

/// Opens what the node sends and keeps the last of it.
async fn listen(
    socket: Arc<UdpSocket>,
    node: String,
    key: Arc<LessSafeKey>,
    answer: Answer,
    received: Arc<Mutex<VecDeque<Vec<u8>>>>,
) {
    let (signed, _) = offers(answer.own, &answer.identity, &answer.x25519);
    let mut buffer = vec![0; 65_536];
    loop {
        // An error here is the node's port being closed for a moment.
        let Ok((size, from)) = socket.recv_from(&mut buffer).await else { continue };
        if from != answer.at {
            continue;
        }
        match tunnel::decode(&buffer[..size]) {
            // Once per request: a node that asks has lost our key.
            Ok(Frame::KeyRequest(_)) => {
                let _ = socket.try_send_to(&signed, answer.at);
            }
            Ok(Frame::Sealed(header, _)) => {
                let nonce = Nonce::assume_unique_for_key(header.nonce());
                let aad = Aad::from(header.associated_data());
                let sealed = &mut buffer[SEALED_HEADER_LEN..size];
                let Ok(plain) = key.open_in_place(nonce, aad, sealed) else { continue };
                tracing::debug!(node, bytes = plain.len(), "runner: packet for an attached peer");
                let mut received = lock(&received);
                if received.len() == RING {
                    received.pop_front();
                }
                received.push_back(plain.to_vec());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilot_wire::packet::{Flags, Header, Protocol};

    const HEADER: Header = Header {
        flags: Flags::SYN,
        protocol: Protocol::STREAM,
        src: Addr::backbone(1),
        dst: Addr::backbone(2),
        src_port: 3,
        dst_port: 4,
        seq: 5,
        ack: 6,
        window: 7,
    };

    #[test]
    fn the_checksum_makes_a_packet_right() {
        let mut bytes = Vec::new();
        packet::encode_into(&HEADER, b"payload", &mut bytes).unwrap();
        let right = bytes.clone();
        bytes[CHECKSUM].fill(9);
        assert!(packet::decode(&bytes).is_err());
        assert_eq!(with_checksum(bytes), right);
        assert_eq!(with_checksum(vec![1, 2]), [1, 2]);
    }
}
