//! The channel as a machine: bytes and answers in, steps out.

use std::collections::VecDeque;
use std::time::Duration;

use hkdf::Hkdf;
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::auth::{AuthFrame, ReplayStore, verify_auth};
use super::record::{OVERHEAD, Records, Role, split};
use super::{KEY_LEN, SecureError};
use crate::Split;

/// Info of the key derivation.
const INFO: &[u8] = b"pilot-secure-v1";

/// What a side that authenticates knows beforehand.
#[derive(Clone, Debug)]
pub struct Authenticate {
    /// Our node id.
    pub node: u32,
    /// 16 fresh random bytes.
    pub nonce: [u8; 16],
    /// The peer's Ed25519 key when it is known beforehand, as a client knows its server's. Without it the key of the node
    /// that the peer says it is will be asked for ([`Step::FindKey`]).
    pub peer_key: Option<[u8; 32]>,
}

/// What the caller does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write these bytes to the stream.
    Write(Vec<u8>),
    /// Sign this message with the node's identity and call [`Channel::signed`].
    Sign(Vec<u8>),
    /// Look up this node's Ed25519 key and call [`Channel::found_key`].
    FindKey {
        /// Who the peer says it is; not proven yet.
        node: u32,
    },
    /// The handshake is done.
    Established {
        /// The proven node id; 0 when authentication was not used. Compare it with whom you meant to talk to: a client
        /// that knows the key beforehand learns here which id the key's holder gave.
        peer: u32,
    },
    /// One message of the peer.
    Data(Vec<u8>),
}

/// One end of a secure channel.
///
/// Feed what the stream gives to [`receive`](Self::receive), then take steps with [`poll`](Self::poll) until it has none.
/// After an error the channel is of no use any more.
#[derive(Debug)]
pub struct Channel {
    role: Role,
    auth: Option<Authenticate>,
    state: State,
    /// Bytes that do not make a whole record yet: below 16 MiB plus what one `receive` brought.
    input: Vec<u8>,
    /// Where the unread part of `input` starts.
    read: usize,
    steps: VecDeque<Step>,
}

/// Between key exchange and the end of authentication.
#[derive(Debug)]
struct Exchange {
    records: Records,
    own_x25519: [u8; KEY_LEN],
    peer_x25519: [u8; KEY_LEN],
    /// Our Unix time when the keys were exchanged.
    since: Duration,
}

enum State {
    /// The peer's X25519 key is awaited.
    Keys(StaticSecret),
    /// The caller signs our frame.
    Signing(Exchange, u64, u32),
    /// The peer's frame is awaited.
    Frame(Exchange),
    /// The caller looks for the key of the peer whose frame this is.
    Finding(Exchange, Vec<u8>),
    /// Messages.
    Open(Records),
    /// An error was given out.
    Broken,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            State::Keys(_) => "Keys",
            State::Signing(..) => "Signing",
            State::Frame(_) => "Frame",
            State::Finding(..) => "Finding",
            State::Open(_) => "Open",
            State::Broken => "Broken",
        })
    }
}

impl Channel {
    /// A channel whose ephemeral X25519 private key is `secret` (32 fresh random bytes). With `auth` both sides prove who
    /// they are; both must be set up alike, there is no negotiation.
    pub fn new(role: Role, secret: [u8; KEY_LEN], auth: Option<Authenticate>) -> Self {
        let secret = StaticSecret::from(secret);
        let mut steps = VecDeque::new();
        if role == Role::Client {
            steps.push_back(Step::Write(PublicKey::from(&secret).to_bytes().to_vec()));
        }
        Channel { role, auth, state: State::Keys(secret), input: Vec::new(), read: 0, steps }
    }

    /// Bytes from the stream, any cut. What cannot be used yet is kept, so read no further while an answer to
    /// [`Step::Sign`] or [`Step::FindKey`] is owed.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.read > 0 {
            self.input.drain(..self.read);
            self.read = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    /// The next step, `None` when more bytes or an answer are needed. `now` is the Unix time; `replay` the process-wide
    /// store.
    ///
    /// # Errors
    /// Close the stream; see [`SecureError`].
    pub fn poll(&mut self, now: Duration, replay: &mut ReplayStore) -> Result<Option<Step>, SecureError> {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return Ok(Some(step));
            }
            match self.advance(now, replay) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(e) => {
                    self.state = State::Broken;
                    return Err(e);
                }
            }
        }
    }

    /// The signature over the message of the last [`Step::Sign`].
    ///
    /// # Errors
    /// [`SecureError::OutOfOrder`] when none was asked for.
    pub fn signed(&mut self, signature: [u8; 64]) -> Result<(), SecureError> {
        let (mut exchange, timestamp, peer) = match std::mem::replace(&mut self.state, State::Broken) {
            State::Signing(exchange, timestamp, peer) => (exchange, timestamp, peer),
            other => return self.out_of_order(other),
        };
        let auth = self.auth.as_ref().ok_or(SecureError::OutOfOrder)?;
        let frame = AuthFrame { node: auth.node, timestamp, nonce: auth.nonce, signature };
        let mut out = Vec::new();
        exchange.records.seal(&frame.encode(), &mut out)?;
        self.steps.push_back(Step::Write(out));
        match self.role {
            Role::Server => self.state = State::Frame(exchange),
            // The client speaks last.
            Role::Client => self.establish(exchange.records, peer),
        }
        Ok(())
    }

    /// The key of the node of the last [`Step::FindKey`]; `None` when it is not known.
    ///
    /// # Errors
    /// [`SecureError::UnknownPeer`], or a frame that does not hold; [`SecureError::OutOfOrder`] when none was asked for.
    pub fn found_key(
        &mut self,
        key: Option<[u8; 32]>,
        now: Duration,
        replay: &mut ReplayStore,
    ) -> Result<(), SecureError> {
        let (exchange, frame) = match std::mem::replace(&mut self.state, State::Broken) {
            State::Finding(exchange, frame) => (exchange, frame),
            other => return self.out_of_order(other),
        };
        let Some(key) = key else {
            return Err(SecureError::UnknownPeer(AuthFrame::decode(&frame)?.node));
        };
        self.judge(exchange, &frame, &key, now, replay)
    }

    /// One message as the bytes of one record, for the stream.
    ///
    /// # Errors
    /// [`SecureError::OutOfOrder`] before [`Step::Established`], [`SecureError::MessageTooLarge`] above
    /// [`MAX_MESSAGE`](Self::MAX_MESSAGE).
    pub fn seal(&mut self, message: &[u8]) -> Result<Vec<u8>, SecureError> {
        let State::Open(records) = &mut self.state else { return Err(SecureError::OutOfOrder) };
        let mut out = Vec::new();
        records.seal(message, &mut out)?;
        Ok(out)
    }

    /// Largest message of one record, bytes.
    pub const MAX_MESSAGE: usize = super::MAX_RECORD + 4 - OVERHEAD;

    fn out_of_order(&mut self, state: State) -> Result<(), SecureError> {
        self.state = state;
        Err(SecureError::OutOfOrder)
    }

    /// One transition; `false` when there is nothing to do.
    fn advance(&mut self, now: Duration, replay: &mut ReplayStore) -> Result<bool, SecureError> {
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Keys(secret) => {
                let Some(peer) = self.input[self.read..].first_chunk::<KEY_LEN>().copied() else {
                    self.state = State::Keys(secret);
                    return Ok(false);
                };
                self.read += KEY_LEN;
                self.exchange(&secret, peer, now)?;
                Ok(true)
            }
            State::Frame(mut exchange) => {
                let Some(frame) = self.record(&mut exchange.records)? else {
                    self.state = State::Frame(exchange);
                    return Ok(false);
                };
                match self.auth.as_ref().and_then(|a| a.peer_key) {
                    Some(key) => self.judge(exchange, &frame, &key, now, replay)?,
                    None => {
                        let node = AuthFrame::decode(&frame)?.node;
                        self.steps.push_back(Step::FindKey { node });
                        self.state = State::Finding(exchange, frame);
                    }
                }
                Ok(true)
            }
            State::Open(mut records) => {
                let message = self.record(&mut records)?;
                self.state = State::Open(records);
                let found = message.is_some();
                self.steps.extend(message.map(Step::Data));
                Ok(found)
            }
            waiting => {
                self.state = waiting;
                Ok(false)
            }
        }
    }

    fn exchange(
        &mut self,
        secret: &StaticSecret,
        peer: [u8; KEY_LEN],
        now: Duration,
    ) -> Result<(), SecureError> {
        let own_x25519 = PublicKey::from(secret).to_bytes();
        let shared = secret.diffie_hellman(&PublicKey::from(peer));
        if !shared.was_contributory() {
            return Err(SecureError::LowOrderKey);
        }
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(None, shared.as_bytes())
            .expand(INFO, key.as_mut_slice())
            .expect("32 bytes are one block, far below HKDF's limit");
        let records = Records::new(&key, self.role);
        if self.role == Role::Server {
            self.steps.push_back(Step::Write(own_x25519.to_vec()));
        }
        if self.auth.is_none() {
            self.establish(records, 0);
            return Ok(());
        }
        let exchange = Exchange { records, own_x25519, peer_x25519: peer, since: now };
        match self.role {
            Role::Server => self.ask_signature(exchange, now, 0),
            Role::Client => self.state = State::Frame(exchange),
        }
        Ok(())
    }

    fn ask_signature(&mut self, exchange: Exchange, now: Duration, peer: u32) {
        if let Some(auth) = &self.auth {
            let timestamp = now.as_secs();
            let message = AuthFrame::signed_message(auth.node, &exchange.own_x25519, timestamp, &auth.nonce);
            self.steps.push_back(Step::Sign(message.to_vec()));
            self.state = State::Signing(exchange, timestamp, peer);
        }
    }

    fn judge(
        &mut self,
        exchange: Exchange,
        frame: &[u8],
        key: &[u8; 32],
        now: Duration,
        replay: &mut ReplayStore,
    ) -> Result<(), SecureError> {
        let peer = verify_auth(frame, key, &exchange.peer_x25519, exchange.since, replay)?;
        match self.role {
            Role::Server => self.establish(exchange.records, peer),
            Role::Client => self.ask_signature(exchange, now, peer),
        }
        Ok(())
    }

    fn establish(&mut self, records: Records, peer: u32) {
        self.steps.push_back(Step::Established { peer });
        self.state = State::Open(records);
    }

    fn record(&mut self, records: &mut Records) -> Result<Option<Vec<u8>>, SecureError> {
        match split(&self.input[self.read..])? {
            Split::Incomplete { .. } => Ok(None),
            Split::Complete { message, consumed } => {
                let plain = records.open(message)?;
                self.read += consumed;
                Ok(Some(plain))
            }
        }
    }
}

#[cfg(test)]
mod tests;
