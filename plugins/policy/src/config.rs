//! The plugin's table of the configuration, `[plugin.policy]`. Called once, from `init`.

use std::path::{Path, PathBuf};

use plugin_abi::{Error, Result};
use serde_json::Value;

/// A policy that this host sets for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalPolicy {
    /// The document.
    pub path: PathBuf,
    /// The network it is for; 0 is the backbone.
    pub network: u16,
}

impl LocalPolicy {
    /// Reads the keys `document` (a path, relative ones below `state_dir`) and `network` (default 0). `None` without a
    /// document.
    pub fn parse(table: &Value, state_dir: &Path) -> Result<Option<LocalPolicy>> {
        let refuse = |key: &str, what: &str| Error::invalid(format!("[plugin.policy] {key} {what}"));
        let mut document = None;
        let mut network = None;
        for (key, value) in table.as_object().into_iter().flatten() {
            match key.as_str() {
                "document" => {
                    let text = value.as_str().filter(|text| !text.is_empty());
                    let text = text.ok_or_else(|| refuse(key, &format!("must be a path (got {value})")))?;
                    document = Some(state_dir.join(text));
                }
                "network" => {
                    let number = value.as_u64().and_then(|n| u16::try_from(n).ok());
                    let what = format!("must be a network number from 0 to 65535 (got {value})");
                    network = Some(number.ok_or_else(|| refuse(key, &what))?);
                }
                _ => return Err(refuse(key, "is not a key of this plugin")),
            }
        }
        match (document, network) {
            (Some(path), network) => Ok(Some(LocalPolicy { path, network: network.unwrap_or(0) })),
            (None, Some(_)) => Err(refuse("network", "needs a document")),
            (None, None) => Ok(None),
        }
    }

    /// The document's text.
    pub fn read(&self) -> Result<String> {
        std::fs::read_to_string(&self.path).map_err(|e| {
            let path = self.path.display();
            Error::new(plugin_abi::ErrorKind::Io, format!("[plugin.policy] document {path}: {e}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(table: Value) -> Result<Option<LocalPolicy>> {
        LocalPolicy::parse(&table, Path::new("/state"))
    }

    #[test]
    fn a_document_is_for_the_backbone_unless_said_otherwise() {
        assert_eq!(parse(json!({})), Ok(None));
        let local = parse(json!({"document": "gate.json"})).unwrap().unwrap();
        assert_eq!(local, LocalPolicy { path: "/state/gate.json".into(), network: 0 });
        assert_eq!(parse(json!({"document": "/etc/gate.json", "network": 7})).unwrap().unwrap().network, 7);
    }

    #[test]
    fn a_refusal_names_the_key() {
        for (table, text) in [
            (json!({"file": "x"}), "[plugin.policy] file is not a key of this plugin"),
            (json!({"document": 5}), "[plugin.policy] document must be a path (got 5)"),
            (
                json!({"document": "x", "network": 65_536}),
                "[plugin.policy] network must be a network number from 0 to 65535 (got 65536)",
            ),
            (json!({"network": 1}), "[plugin.policy] network needs a document"),
        ] {
            assert_eq!(parse(table).unwrap_err().message(), text);
        }
    }
}
