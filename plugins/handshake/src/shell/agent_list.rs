//! The trusted-agents list of the configuration: read at the start, looked at again with every sweep, and offered to
//! the daemon as its trust checker.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::SystemTime;

use plugin_abi::TrustChecker;

use super::lock;
use crate::protocol::agents::{Agents, MAX_LIST};

/// One list and where it comes from.
pub struct AgentList {
    path: PathBuf,
    key: Option<[u8; 32]>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    agents: Agents,
    /// What the last look found, taken over or not; `None` before the first look.
    seen: Option<Found>,
}

/// Change time and length of a file; `None` for no file.
type Found = Option<(SystemTime, u64)>;

impl AgentList {
    /// Reads the list; one that is refused or missing leaves an empty list and a warning.
    pub fn open(path: PathBuf, key: Option<[u8; 32]>) -> Self {
        let list = AgentList { path, key, state: Mutex::default() };
        list.refresh();
        list
    }

    /// Reads the file again if it changed. A failure keeps the current list.
    pub fn refresh(&self) {
        let seen = Some(fs::metadata(&self.path).and_then(|m| Ok((m.modified()?, m.len()))).ok());
        if lock(&self.state).seen == seen {
            return;
        }
        match self.read() {
            Ok(agents) => {
                tracing::info!(path = %self.path.display(), agents = agents.len(), "trusted agents");
                *lock(&self.state) = State { agents, seen };
            }
            Err(cause) => {
                tracing::warn!(path = %self.path.display(), cause, "trusted agents not read, the current list stays");
                lock(&self.state).seen = seen;
            }
        }
    }

    fn read(&self) -> Result<Agents, String> {
        let mut bytes = Vec::new();
        File::open(&self.path)
            .and_then(|f| f.take(MAX_LIST as u64 + 1).read_to_end(&mut bytes))
            .map_err(|e| e.to_string())?;
        Agents::parse(&bytes, self.key.as_ref()).map_err(|e| e.to_string())
    }

    /// Whether the list has an entry for this node, with whatever pin.
    pub fn is_listed(&self, node: u32) -> bool {
        lock(&self.state).agents.name(node).is_some()
    }

    /// The entry's name, if its pin allows this key.
    pub fn name_with_key(&self, node: u32, key: &str) -> Option<String> {
        lock(&self.state).agents.name_with_key(node, key).map(str::to_owned)
    }
}

impl TrustChecker for AgentList {
    fn is_trusted(&self, node: u32) -> Option<String> {
        lock(&self.state).agents.name(node).map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_list_keeps_the_current_one() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("agents.json");
        let list = AgentList::open(path.clone(), None);
        assert_eq!(list.is_trusted(1), None);
        fs::write(&path, r#"{"agents":[{"hostname":"one","node_id":1}]}"#).expect("writes");
        list.refresh();
        assert_eq!(list.is_trusted(1).as_deref(), Some("one"));
        fs::write(&path, r#"{"agents":[{"hostname":"one","node_id":1,"public_key":"AAAA"}]}"#)
            .expect("writes");
        list.refresh();
        assert_eq!(list.is_trusted(1).as_deref(), Some("one"));
        fs::remove_file(&path).expect("removes");
        list.refresh();
        assert_eq!(list.is_trusted(1).as_deref(), Some("one"));
    }
}
