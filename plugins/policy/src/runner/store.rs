//! The state file of one network (policy.md section 4). Called by the runner and, for the list of files, by the manager.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::table::{Peer, Table};

/// Larger files are not read: 64 MiB is more than a hundred thousand peers.
const MAX_BYTES: u64 = 64 << 20;

/// Where one network's state is kept.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    network: u16,
    path: PathBuf,
}

impl Store {
    /// The file of a policy, or of a managed network.
    pub fn new(state_dir: &Path, network: u16, managed: bool) -> Store {
        let what = if managed { "managed" } else { "policy" };
        Store { network, path: state_dir.join(format!("{what}_{network}.json")) }
    }

    /// The saved state; a missing, unreadable or bad file gives an empty one that begins at `now`.
    pub fn load(&self, now: Timestamp) -> Table {
        let read = || -> io::Result<Record> {
            if std::fs::metadata(&self.path)?.len() > MAX_BYTES {
                return Err(io::Error::other(format!("larger than {MAX_BYTES} bytes")));
            }
            Ok(serde_json::from_slice(&std::fs::read(&self.path)?)?)
        };
        match read() {
            Ok(record) => record.into_table(now),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Table::new(now),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "policy state not readable, starting empty");
                Table::new(now)
            }
        }
    }

    /// Replaces the file as a whole.
    pub fn save(&self, table: &Table) -> io::Result<()> {
        let json = serde_json::to_vec_pretty(&Record::of(self.network, table))?;
        let dir = self.path.parent().unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let temporary = self.path.with_extension("json.tmp");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&json)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &self.path)?;
        File::open(dir)?.sync_all()
    }
}

/// The networks that have a state file; a missing directory has none.
pub(crate) fn saved_networks(state_dir: &Path) -> io::Result<Vec<u16>> {
    let entries = match std::fs::read_dir(state_dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let network = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        name.to_str()?.strip_prefix("policy_")?.strip_suffix(".json")?.parse().ok()
    };
    let mut networks: Vec<u16> = entries.flatten().filter_map(network).collect();
    networks.sort_unstable();
    Ok(networks)
}

/// The file's shape. Members that other versions write are ignored.
#[derive(Serialize, Deserialize)]
struct Record {
    network_id: u16,
    /// Decimal ids, sorted as text.
    #[serde(default)]
    peers: BTreeMap<String, PeerRecord>,
    #[serde(default)]
    joined_at: String,
    #[serde(default)]
    cycle_num: u64,
}

#[derive(Serialize, Deserialize)]
struct PeerRecord {
    node_id: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tags: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    registry_tags: Option<Vec<String>>,
    #[serde(default)]
    added_at: String,
    #[serde(default)]
    last_seen: String,
}

/// How the Go peer writes "never".
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

impl Record {
    fn of(network: u16, table: &Table) -> Record {
        let tags = |tags: &Vec<String>| (!tags.is_empty()).then(|| tags.clone());
        let peer = |(node, peer): (&u32, &Peer)| {
            let record = PeerRecord {
                node_id: *node,
                tags: tags(&peer.tags),
                registry_tags: tags(&peer.registry_tags),
                added_at: peer.added_at.to_string(),
                last_seen: peer.last_seen.map_or(ZERO_TIME.to_owned(), |t| t.to_string()),
            };
            (node.to_string(), record)
        };
        Record {
            network_id: network,
            peers: table.peers.iter().map(peer).collect(),
            joined_at: seconds_text(table.joined_at),
            cycle_num: table.cycle_num,
        }
    }

    fn into_table(self, now: Timestamp) -> Table {
        let mut table = Table::new(self.joined_at.parse().unwrap_or(now));
        table.cycle_num = self.cycle_num;
        for record in self.peers.into_values() {
            let peer = Peer {
                tags: record.tags.unwrap_or_default(),
                registry_tags: record.registry_tags.unwrap_or_default(),
                added_at: record.added_at.parse().unwrap_or(now),
                last_seen: (record.last_seen != ZERO_TIME).then(|| record.last_seen.parse().ok()).flatten(),
            };
            table.peers.insert(record.node_id, peer);
        }
        table
    }
}

/// RFC 3339 in UTC, seconds.
pub(super) fn seconds_text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_the_peer_wrote_it_and_written_alike() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{
  "network_id": 7,
  "peers": {
    "10": {
      "node_id": 10,
      "added_at": "2020-01-01T00:00:00.5Z",
      "last_seen": "2021-01-01T00:00:00Z"
    },
    "9": {
      "node_id": 9,
      "tags": [
        "x"
      ],
      "registry_tags": [
        "ops"
      ],
      "added_at": "2020-01-01T00:00:00Z",
      "last_seen": "0001-01-01T00:00:00Z"
    }
  },
  "joined_at": "2026-01-02T03:04:05Z",
  "cycle_num": 4
}"#;
        std::fs::write(dir.path().join("policy_7.json"), text).unwrap();
        let store = Store::new(dir.path(), 7, false);
        let table = store.load(Timestamp::UNIX_EPOCH);
        assert_eq!((table.cycle_num, table.peers.len()), (4, 2));
        assert_eq!(table.peers[&9].last_seen, None);
        assert!(table.peers[&10].last_seen.is_some());
        store.save(&table).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("policy_7.json")).unwrap(), text);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(saved_networks(dir.path()).unwrap(), [7]);
    }

    #[test]
    fn what_older_versions_wrote_besides_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"network_id":7,"peers":{"9":{"node_id":9,"score":1.5,"topics":["t"],"tags":null}},"extra":1}"#;
        std::fs::write(dir.path().join("policy_7.json"), text).unwrap();
        let table = Store::new(dir.path(), 7, false).load(Timestamp::UNIX_EPOCH);
        assert_eq!(table.peers[&9], Peer::new(vec![], Timestamp::UNIX_EPOCH));
    }

    #[test]
    fn a_bad_file_and_none_at_all_start_empty() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("sub"), 7, false);
        assert!(store.load(Timestamp::UNIX_EPOCH).peers.is_empty());
        store.save(&Table::new(Timestamp::UNIX_EPOCH)).unwrap();
        std::fs::write(dir.path().join("sub/policy_7.json"), "{").unwrap();
        assert!(store.load(Timestamp::UNIX_EPOCH).peers.is_empty());
        assert_eq!(saved_networks(&dir.path().join("none")).unwrap(), [0u16; 0]);
    }
}
