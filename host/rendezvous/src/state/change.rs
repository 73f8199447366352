//! Changed records as a store sees them: a key, and the new bytes or nothing.
//!
//! Made by [`State`](super::State), carried by every [`Reply`](crate::Reply), written by a [`Store`](crate::Store). A
//! change holds the record's whole new content, so applying it twice, or only the last of several, gives the same result.

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
    pub fn to_bytes(self) -> Vec<u8> {
        let (table, numbers): (u8, Vec<u8>) = match self {
            Self::Meta => (b'#', Vec::new()),
            Self::Identity(id) => (b'i', id.to_be_bytes().to_vec()),
            Self::Node(id) => (b'n', id.to_be_bytes().to_vec()),
            Self::Network(id) => (b'w', id.to_be_bytes().to_vec()),
            Self::Member(network, node) => (b'm', [&network.to_be_bytes()[..], &node.to_be_bytes()].concat()),
            Self::Trust(low, high) => (b't', [low.to_be_bytes(), high.to_be_bytes()].concat()),
            Self::Inbox(id) => (b'h', id.to_be_bytes().to_vec()),
            Self::Invites(id) => (b'v', id.to_be_bytes().to_vec()),
            Self::Audit(number) => (b'a', number.to_be_bytes().to_vec()),
            Self::Operator => (b'o', Vec::new()),
        };
        [&[table][..], &numbers].concat()
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

/// One changed record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which record.
    pub key: RecordKey,
    /// Its new content, or `None` when it is gone.
    pub value: Option<Vec<u8>>,
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
