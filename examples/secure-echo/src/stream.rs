//! A secure channel over one stream: the machine of pilot-wire does the protocol, the daemon signs and knows other nodes'
//! keys, this file moves the bytes and keeps the time. Used by the server and by the client alike.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pilot_wire::secure::{Authenticate, Channel, HANDSHAKE_LIMIT, ReplayStore, Role, Step};
use plugin_abi::{Addr, Connection, Daemon, Error, ErrorKind, Result};
use serde_json::{Map, Value};

/// The port by convention.
pub const PORT: u16 = pilot_wire::secure::PORT;

/// What all channels of one process share: the daemon, and the nonces that were seen.
#[derive(Clone)]
pub struct Context {
    pub daemon: Arc<dyn Daemon>,
    pub replay: Arc<Mutex<ReplayStore>>,
}

/// An open channel; both ends have proven who they are.
pub struct SecureStream {
    conn: Arc<dyn Connection>,
    channel: Channel,
    context: Context,
    /// Who is at the other end.
    pub peer: u32,
}

impl Context {
    pub fn new(daemon: Arc<dyn Daemon>) -> Context {
        Context { daemon, replay: Arc::new(Mutex::new(ReplayStore::new())) }
    }

    /// The server's side of a stream that was accepted.
    pub fn accept(&self, conn: Arc<dyn Connection>) -> Result<SecureStream> {
        self.open(conn, Role::Server, None)
    }

    /// Dials `node` and insists that it is `node` that answers.
    pub fn dial(&self, node: u32) -> Result<SecureStream> {
        let key = self.key_of(node)?;
        let conn = self.daemon.dial(Addr::backbone(node), PORT, HANDSHAKE_LIMIT)?;
        let stream = self.open(conn, Role::Client, Some(key))?;
        // The key proves who answered; the number in its frame is only what it says about itself.
        if stream.peer != node {
            stream.conn.close();
            return Err(Error::other(format!("node {node} calls itself {}", stream.peer)));
        }
        Ok(stream)
    }

    fn open(
        &self,
        conn: Arc<dyn Connection>,
        role: Role,
        peer_key: Option<[u8; 32]>,
    ) -> Result<SecureStream> {
        let auth = Authenticate { node: self.daemon.node_id(), nonce: random()?, peer_key };
        let channel = Channel::new(role, random()?, Some(auth));
        let mut stream = SecureStream { conn, channel, context: self.clone(), peer: 0 };
        let end = Instant::now() + HANDSHAKE_LIMIT;
        match stream.next(Some(end)) {
            Ok(Some(Step::Established { peer })) => {
                stream.peer = peer;
                stream.conn.set_read_timeout(None)?;
                Ok(stream)
            }
            other => {
                // Nothing is said to the other side (secure.md, key exchange).
                stream.conn.close();
                Err(other.err().unwrap_or_else(|| Error::new(ErrorKind::Closed, "closed in the handshake")))
            }
        }
    }

    /// A node's Ed25519 key as the registry knows it. Blocks.
    fn key_of(&self, node: u32) -> Result<[u8; 32]> {
        let params = Map::from_iter([("node_id".to_owned(), Value::from(node))]);
        let answer = self.daemon.registry_call("lookup", params)?;
        let text = answer.get("public_key").and_then(Value::as_str).unwrap_or_default();
        let key = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        key.ok_or_else(|| Error::other(format!("the registry knows no key of node {node}")))
    }
}

impl SecureStream {
    /// The next message; `None` at the end of the stream.
    pub fn read(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            match self.next(None)? {
                Some(Step::Data(message)) => return Ok(Some(message)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// Sends one message.
    pub fn write(&mut self, message: &[u8]) -> Result<()> {
        let record = self.channel.seal(message).map_err(|e| Error::other(e.to_string()))?;
        self.conn.write(&record)
    }

    pub fn close(&self) {
        self.conn.close();
    }

    /// Takes the machine's steps until one is for the caller; `None` when the stream has ended.
    fn next(&mut self, end: Option<Instant>) -> Result<Option<Step>> {
        let refused = |e: pilot_wire::secure::SecureError| Error::other(e.to_string());
        let mut buffer = vec![0; 16 << 10];
        loop {
            let step = self.channel.poll(unix_time(), &mut self.context.replay()).map_err(refused)?;
            match step {
                Some(Step::Write(bytes)) => self.conn.write(&bytes)?,
                Some(Step::Sign(message)) => {
                    // The private key stays in the daemon.
                    let signature = self.context.daemon.sign(&message);
                    let signature = signature.ok_or_else(|| Error::other("this host has no identity"))?;
                    self.channel.signed(signature).map_err(refused)?;
                }
                Some(Step::FindKey { node }) => {
                    let key = self.context.key_of(node).ok();
                    self.channel.found_key(key, unix_time(), &mut self.context.replay()).map_err(refused)?;
                }
                Some(step) => return Ok(Some(step)),
                None => {
                    if let Some(end) = end {
                        let left = end.saturating_duration_since(Instant::now());
                        if left.is_zero() {
                            return Err(Error::new(ErrorKind::TimedOut, "the handshake takes too long"));
                        }
                        self.conn.set_read_timeout(Some(left))?;
                    }
                    match self.conn.read(&mut buffer)? {
                        0 => return Ok(None),
                        n => self.channel.receive(&buffer[..n]),
                    }
                }
            }
        }
    }
}

impl Context {
    fn replay(&self) -> std::sync::MutexGuard<'_, ReplayStore> {
        // A store that another thread's panic left is still a set of nonces.
        self.replay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Error::other(format!("no randomness: {e}")))?;
    Ok(bytes)
}

fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
