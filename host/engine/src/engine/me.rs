//! This node: its identity and keys, its number, its surroundings; and the key exchange frames it sends.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use pilot_wire::tunnel::{KeyExchange, KeyRequest, Trailer, signed_message};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::identity::Identity;
use crate::time::Instant;

/// This node.
pub(crate) struct Me {
    /// Our number; 0 before registration.
    pub(crate) node: u32,
    pub(crate) identity: Option<Arc<Identity>>,
    /// Lives as long as the engine and is the same towards all peers.
    pub(crate) secret: StaticSecret,
    public: [u8; 32],
    pub(crate) beacon: Option<SocketAddr>,
    pub(crate) observed: Option<SocketAddr>,
    pub(crate) lan: Vec<IpAddr>,
    /// Anyone may connect.
    pub(crate) public_node: bool,
    pub(crate) networks: Vec<u16>,
    /// A moment on both clocks.
    pub(crate) wall_clock: Option<(Instant, u64)>,
    /// Our PILA without a trailer; made again when number or identity change, not for every send.
    exchange: Option<Vec<u8>>,
}

impl Me {
    pub(crate) fn new(secret: [u8; 32]) -> Self {
        let secret = StaticSecret::from(secret);
        let public = *PublicKey::from(&secret).as_bytes();
        Self {
            node: 0,
            identity: None,
            secret,
            public,
            beacon: None,
            observed: None,
            lan: Vec::new(),
            public_node: false,
            networks: Vec::new(),
            wall_clock: None,
            exchange: None,
        }
    }

    /// Signs our key for the current number and identity.
    pub(crate) fn renew_exchange(&mut self) {
        self.exchange = self.identity.as_ref().filter(|_| self.node != 0).map(|identity| {
            let signature = identity.sign(&signed_message(self.node, &self.public));
            let mut frame = Vec::new();
            KeyExchange {
                node: self.node,
                x25519: &self.public,
                ed25519: &identity.public_key(),
                signature: &signature,
                trailer: Trailer::NONE,
            }
            .encode(&mut frame);
            frame
        });
    }

    /// Our key exchange: PILA with a trailer, or PILK without an identity. `None` before registration.
    pub(crate) fn exchange_frame(&self, trailer: Trailer) -> Option<Vec<u8>> {
        if self.node == 0 {
            return None;
        }
        Some(match &self.exchange {
            Some(signed) => {
                let mut frame = signed.clone();
                trailer.encode(&mut frame);
                frame
            }
            None => self.request_frame().to_vec(),
        })
    }

    /// Whether [`Me::exchange_frame`] is signed.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.exchange.is_some()
    }

    /// Our PILK.
    pub(crate) fn request_frame(&self) -> [u8; pilot_wire::tunnel::KEY_REQUEST_LEN] {
        KeyRequest { node: self.node, x25519: self.public }.to_bytes()
    }

    /// Unix time in nanoseconds, when the host has said.
    pub(crate) fn unix_nanos(&self, now: Instant) -> Option<u64> {
        self.wall_clock.map(|(at, unix)| unix.saturating_add(now.as_nanos().saturating_sub(at.as_nanos())))
    }
}
