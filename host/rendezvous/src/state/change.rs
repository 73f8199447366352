//! Changed records as a store sees them: a key, and the new bytes or nothing.
//!
//! Made by [`State`](super::State), carried by every [`Reply`](crate::Reply), written by a [`Store`](crate::Store). A
//! change holds the record's whole new content, so applying it twice, or only the last of several, gives the same result.

use bytes::Bytes;

/// Which record a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    /// The counters.
    Meta,
    /// Key and owner of a node number.
    Identity(u32),
    /// A live node.
    Node(u32),
    /// A network.
    Network(u16),
    /// A node's membership.
    Member(u16, u32),
    /// A trust pair, smaller number first.
    Trust(u32, u32),
    /// A node's handshake inbox.
    Inbox(u32),
    /// A node's network invitations.
    Invites(u32),
    /// An entry of the audit log, by its running number.
    Audit(u64),
    /// What the admin has set about the server itself.
    Operator,
}

impl RecordKey {
    /// The key as bytes for a store: one letter for the table, then the numbers big-endian, so that one table's records
    /// lie together in numeric order.
    pub fn to_bytes(self) -> KeyBytes {
        let mut key = KeyBytes { bytes: [0; KeyBytes::MAX], len: 0 };
        match self {
            Self::Meta => key.push(b"#"),
            Self::Identity(id) => key.push(b"i").push(&id.to_be_bytes()),
            Self::Node(id) => key.push(b"n").push(&id.to_be_bytes()),
            Self::Network(id) => key.push(b"w").push(&id.to_be_bytes()),
            Self::Member(network, node) => {
                key.push(b"m").push(&network.to_be_bytes()).push(&node.to_be_bytes())
            }
            Self::Trust(low, high) => key.push(b"t").push(&low.to_be_bytes()).push(&high.to_be_bytes()),
            Self::Inbox(id) => key.push(b"h").push(&id.to_be_bytes()),
            Self::Invites(id) => key.push(b"v").push(&id.to_be_bytes()),
            Self::Audit(number) => key.push(b"a").push(&number.to_be_bytes()),
            Self::Operator => key.push(b"o"),
        };
        key
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (table, numbers) = bytes.split_first()?;
        let node = || Some(u32::from_be_bytes(numbers.try_into().ok()?));
        Some(match table {
            b'#' if numbers.is_empty() => Self::Meta,
            b'i' => Self::Identity(node()?),
            b'n' => Self::Node(node()?),
            b'w' => Self::Network(u16::from_be_bytes(numbers.try_into().ok()?)),
            b'm' => {
                let (network, node) = numbers.split_first_chunk()?;
                Self::Member(u16::from_be_bytes(*network), u32::from_be_bytes(node.try_into().ok()?))
            }
            b't' => {
                let (low, high) = numbers.split_first_chunk()?;
                Self::Trust(u32::from_be_bytes(*low), u32::from_be_bytes(high.try_into().ok()?))
            }
            b'h' => Self::Inbox(node()?),
            b'v' => Self::Invites(node()?),
            b'a' => Self::Audit(u64::from_be_bytes(numbers.try_into().ok()?)),
            b'o' if numbers.is_empty() => Self::Operator,
            _ => return None,
        })
    }
}

/// A [`RecordKey`] as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyBytes {
    bytes: [u8; Self::MAX],
    len: usize,
}

impl KeyBytes {
    /// The longest: a letter and eight bytes of numbers.
    const MAX: usize = 9;

    fn push(&mut self, part: &[u8]) -> &mut Self {
        for byte in part {
            self.bytes[self.len] = *byte;
            self.len += 1;
        }
        self
    }
}

impl std::ops::Deref for KeyBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// One changed record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which record.
    pub key: RecordKey,
    /// Its new content, or `None` when it is gone. The contents of changes that are taken together lie in one buffer.
    pub value: Option<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_way_through_bytes() {
        let keys = [
            RecordKey::Meta,
            RecordKey::Identity(1),
            RecordKey::Node(u32::MAX),
            RecordKey::Network(7),
            RecordKey::Member(7, 9),
            RecordKey::Trust(3, 4),
            RecordKey::Inbox(0),
            RecordKey::Invites(5),
            RecordKey::Audit(u64::MAX),
            RecordKey::Operator,
        ];
        for key in keys {
            let bytes = key.to_bytes();
            assert_eq!(RecordKey::from_bytes(&bytes), Some(key));
            for cut in 0..bytes.len() {
                assert_ne!(RecordKey::from_bytes(&bytes[..cut]), Some(key));
            }
            assert_eq!(RecordKey::from_bytes(&[&bytes[..], b"x"].concat()), None);
        }
        assert_eq!(RecordKey::from_bytes(b"?"), None);
    }
}
