//! Cutting lists so that a reply fits one frame (ipc.md sections 8 and 9).

use std::collections::HashSet;

use pilot_wire::ipc::MAX_JSON;
use serde_json::{Map, Value};

/// The info object within [`MAX_JSON`]: peers first lose their tail (those without open connections, highest node ids),
/// then connections; a note says so.
pub(super) fn info(mut object: Map<String, Value>) -> Value {
    let mut excess = excess(&object);
    if excess > 0 {
        let busy: HashSet<u32> = rows(&object, "conn_list").iter().filter_map(remote_node).collect();
        if let Some(Value::Array(peers)) = object.get_mut("peer_list") {
            let id = |p: &Value| p.get("node_id").and_then(Value::as_u64).unwrap_or(u64::MAX);
            peers.sort_by_key(|p| (!busy.contains(&u32::try_from(id(p)).unwrap_or(0)), id(p)));
        }
        cut(&mut object, "peer_list", "peer_list_truncated", &mut excess);
    }
    if excess > 0 {
        cut(&mut object, "conn_list", "conn_list_truncated", &mut excess);
    }
    Value::Object(object)
}

/// A reply with one list, newest first already, within [`MAX_JSON`].
pub(super) fn list(mut object: Map<String, Value>, key: &str, note: &str) -> Value {
    let mut excess = excess(&object);
    if excess > 0 {
        cut(&mut object, key, note, &mut excess);
    }
    Value::Object(object)
}

/// Bytes over the limit.
fn excess(object: &Map<String, Value>) -> usize {
    size(&Value::Object(object.clone())).saturating_sub(MAX_JSON)
}

fn size(value: &Value) -> usize {
    value.to_string().len()
}

fn rows<'a>(object: &'a Map<String, Value>, key: &str) -> &'a [Value] {
    object.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The node in a connection row's `remote_addr`.
fn remote_node(row: &Value) -> Option<u32> {
    let addr: pilot_wire::addr::Addr = row.get("remote_addr")?.as_str()?.parse().ok()?;
    Some(addr.node)
}

/// Drops rows from the end of a list until `excess` is gone, and adds the note.
fn cut(object: &mut Map<String, Value>, key: &str, note: &str, excess: &mut usize) {
    let Some(Value::Array(list)) = object.get_mut(key) else { return };
    // The note itself costs room: `,"note":true`.
    *excess += note.len() + 8;
    while *excess > 0 {
        let Some(row) = list.pop() else { break };
        *excess = excess.saturating_sub(size(&row) + 1);
    }
    object.insert(note.to_owned(), true.into());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn peers_with_connections_stay() {
        let peers: Vec<Value> =
            (0..20_000).map(|i| json!({ "node_id": i, "endpoint": "203.0.113.200:40000", "encrypted": true, "authenticated": true })).collect();
        let conns = json!([{ "id": 1, "remote_addr": "0:0000.0000.4E1F" }]);
        let object = json!({ "node_id": 1, "peer_list": peers, "conn_list": conns });
        let cut = info(object.as_object().unwrap().clone());
        assert!(size(&cut) <= MAX_JSON);
        assert!(size(&cut) > MAX_JSON - 200, "no more is cut than needed");
        assert_eq!(cut["peer_list_truncated"], true);
        assert_eq!(cut["peer_list"][0]["node_id"], 0x4E1F);
        assert_eq!(cut["peer_list"][1]["node_id"], 0);
        assert_eq!(cut["conn_list"].as_array().unwrap().len(), 1);
        assert!(cut.get("conn_list_truncated").is_none());
    }

    #[test]
    fn small_objects_stay_as_they_are() {
        let object = json!({ "peer_list": [{ "node_id": 2 }, { "node_id": 1 }] });
        assert_eq!(info(object.as_object().unwrap().clone()), object);
    }
}
