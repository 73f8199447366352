//! Nodes behind a WebSocket: how the beacon tells them from UDP endpoints, and which connection is a node's present one.
//!
//! A bridged node has an address like any other, [`bridge_addr`], in the IPv6 block that leads nowhere (RFC 6666): the
//! driver hands messages in from there and carries what goes there to the node's connection. So rate limits count per
//! authenticated node by themselves. Unlike on UDP the sender of a message is known, and checked (wss.md section 3).

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};

use super::Beacon;

/// The address of a node that is connected over a WebSocket.
pub fn bridge_addr(node: u32) -> SocketAddr {
    let [high, low] = [node >> 16, node & 0xFFFF].map(|half| half as u16);
    SocketAddr::new(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, high, low).into(), 0)
}

/// The node that [`bridge_addr`] made an address of. A driver must not hand in UDP datagrams that claim to come from one.
pub fn bridged_node(addr: SocketAddr) -> Option<u32> {
    match addr {
        SocketAddr::V6(v6) if v6.port() == 0 => match v6.ip().segments() {
            [0x100, 0, 0, 0, 0, 0, high, low] => Some(u32::from(high) << 16 | u32::from(low)),
            _ => None,
        },
        _ => None,
    }
}

impl Beacon {
    /// `node` has proved itself over a WebSocket: what is for it goes to [`bridge_addr`], before any UDP endpoint.
    pub fn attach(&mut self, node: u32) {
        self.bridged.insert(node);
    }

    /// The node's connection is gone; a UDP endpoint it had announced counts again.
    pub fn detach(&mut self, node: u32) {
        self.bridged.remove(&node);
        if self.nodes.get(&node).is_some_and(|entry| entry.endpoint == bridge_addr(node)) {
            self.nodes.remove(&node);
        }
    }
}

/// The connections of bridged nodes: one per node, the newest. A connection is known by its own number, so that the
/// late end of a replaced one touches nothing of its successor (a Go beacon had that fault, wss.md section 5).
#[derive(Debug)]
pub struct Clients<T>(BTreeMap<u32, (u64, T)>);

impl<T> Default for Clients<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Clients<T> {
    /// Takes a connection in; gives the one that it replaces.
    pub fn insert(&mut self, node: u32, connection: u64, client: T) -> Option<T> {
        self.0.insert(node, (connection, client)).map(|(_, old)| old)
    }

    /// The end of a connection; false when it is not the node's present one.
    pub fn remove(&mut self, node: u32, connection: u64) -> bool {
        self.is_present(node, connection) && self.0.remove(&node).is_some()
    }

    /// Whether a connection is the node's present one.
    pub fn is_present(&self, node: u32, connection: u64) -> bool {
        self.0.get(&node).is_some_and(|(present, _)| *present == connection)
    }

    /// How many nodes are connected.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The node's present connection.
    pub fn get(&self, node: u32) -> Option<&T> {
        self.0.get(&node).map(|(_, client)| client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BeaconSettings, Moment};

    fn handle(beacon: &mut Beacon, from: SocketAddr, message: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut sent = Vec::new();
        let mut message = message.to_vec();
        beacon.handle_datagram(Moment::default(), from, &mut message, |_| None, &mut |to, bytes| {
            sent.push((to, bytes.to_vec()));
        });
        sent
    }

    #[test]
    fn a_node_behind_a_websocket_is_reached_first_and_speaks_for_itself_only() {
        let udp: SocketAddr = "198.51.100.7:4000".parse().unwrap();
        let mut beacon = Beacon::new(BeaconSettings::default());
        assert_eq!(bridged_node(bridge_addr(0xDEAD_BEEF)), Some(0xDEAD_BEEF));
        assert_eq!(bridged_node(udp), None);
        handle(&mut beacon, udp, &[1, 0, 0, 0, 2]);
        handle(&mut beacon, udp, &[1, 0, 0, 0, 3]);
        let relay = [5, 0, 0, 0, 3, 0, 0, 0, 2, 0xAA];
        let delivery = vec![6, 0, 0, 0, 3, 0xAA];
        assert_eq!(handle(&mut beacon, udp, &relay), [(udp, delivery.clone())]);
        // Not attached: such an address has no voice.
        assert_eq!(handle(&mut beacon, bridge_addr(3), &relay), []);
        beacon.attach(2);
        assert_eq!(handle(&mut beacon, udp, &relay), [(bridge_addr(2), delivery)]);
        assert_eq!(
            handle(&mut beacon, bridge_addr(2), &[5, 0, 0, 0, 2, 0, 0, 0, 3, 1]),
            [(udp, vec![6, 0, 0, 0, 2, 1])]
        );
        assert_eq!(handle(&mut beacon, bridge_addr(2), &[5, 0, 0, 0, 9, 0, 0, 0, 3, 1]), []);
        assert_eq!(handle(&mut beacon, bridge_addr(2), &[5, 0, 0, 0, 2]), []);
        // A discover counts and is not answered; nobody is told to punch into a pipe.
        beacon.attach(8);
        assert_eq!(handle(&mut beacon, bridge_addr(8), &[1, 0, 0, 0, 8]), []);
        assert_eq!(handle(&mut beacon, bridge_addr(8), &[1, 0, 0, 0, 9]), []);
        assert_eq!(beacon.node_count(), 3);
        assert_eq!(handle(&mut beacon, udp, &[3, 0, 0, 0, 3, 0, 0, 0, 8]), []);
        beacon.detach(8);
        beacon.detach(2);
        assert_eq!(beacon.node_count(), 2);
        assert_eq!(handle(&mut beacon, udp, &relay).len(), 1);
    }

    #[test]
    fn the_late_end_of_a_replaced_connection_touches_nothing() {
        let mut clients = Clients::default();
        assert_eq!(clients.insert(7, 1, "old"), None);
        assert_eq!(clients.insert(7, 2, "new"), Some("old"));
        assert!(!clients.remove(7, 1) && !clients.is_present(7, 1));
        assert_eq!(clients.get(7), Some(&"new"));
        assert!(clients.remove(7, 2) && !clients.remove(7, 2));
    }
}
