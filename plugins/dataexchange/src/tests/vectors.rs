//! The recorded exchanges (dataexchange.md section 8) against a live plugin.
//!
//! Two recorded outcomes are known differences: the inbox budget (section 3.1, quirk b: we delete the oldest message and
//! store the new one) and the partial file after a hash mismatch (section 5.1: we delete it).

use std::os::unix::fs::PermissionsExt;

use pilot_vectors::Entry;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::*;

/// The content of every recorded transfer that needs a partial file to exist.
const TRANSFER_CONTENT: &[u8] = b"tiny file body";

#[test]
fn vectors() {
    pilot_vectors::run("pilot-plugin-dataexchange", &["dataexchange"], |_, entry| serve(entry));
}

fn serve(entry: &Entry) {
    let corrected_budget = entry.name.contains("inbox-budget");
    let mut config = Map::new();
    for key in ["include_base64", "received_max_bytes", "inbox_max_bytes"] {
        if let Some(value) = entry.fields.get(key) {
            config.insert(key.into(), value.clone());
        }
    }
    let dir = tempfile::tempdir().unwrap();
    if entry.name.contains("stream-resume") {
        put_partial(dir.path(), &TRANSFER_CONTENT[..6]);
    } else if entry.name.contains("oversized-partial") {
        put_partial(dir.path(), &[7; 50]);
    }
    let rig = Rig::in_dir(dir, Value::Object(config));
    let remote: Addr = entry.text("remote_addr").parse().unwrap();
    let client = rig.connect_from(remote);

    let mut open = true;
    for step in list(&entry.fields, "exchange") {
        client.0.write(&hex::decode(step["send_hex"].as_str().unwrap()).unwrap()).unwrap();
        if step.get("closed").is_some_and(|v| v == true) {
            assert!(client.is_closed(), "{}: still open", entry.name);
            open = false;
        } else if step.get("no_reply").is_none_or(|v| v != true) {
            check_reply(entry, step, &client, corrected_budget);
        }
    }
    if open {
        // Whatever was answered that should not have been would come before this answer.
        client.send(FrameType(99), b"");
        assert_eq!(client.text(), "ACK UNKNOWN(99) 0 bytes", "{}: a reply too many", entry.name);
    }
    if corrected_budget {
        check_corrected_budget(&rig, entry);
    } else {
        check_files(&rig, entry);
        check_events(&rig, entry);
    }
}

fn list<'a>(map: &'a Map<String, Value>, key: &str) -> &'a [Value] {
    map.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn put_partial(root: &Path, bytes: &[u8]) {
    let id = hex::encode(&Sha256::digest(TRANSFER_CONTENT)[..16]);
    std::fs::create_dir_all(root.join("received/.partial")).unwrap();
    std::fs::write(root.join("received/.partial").join(id), bytes).unwrap();
}

fn check_reply(entry: &Entry, step: &Value, client: &Client, corrected_budget: bool) {
    let name = &entry.name;
    let (kind, payload) = client.receive().unwrap_or_else(|| panic!("{name}: closed"));
    assert_eq!(u64::from(kind.0), step["reply_type"].as_u64().unwrap(), "{name}");
    if let Some(text) = step.get("reply_text").and_then(Value::as_str) {
        let got = String::from_utf8(payload).unwrap();
        if corrected_budget && text.contains("inbox byte budget exceeded") {
            assert!(got.starts_with("ACK "), "{name}: {got}");
        } else {
            assert_eq!(ours(&got), ours(text), "{name}");
        }
    } else if let Some(stream) = step.get("reply_stream") {
        assert_eq!(u64::from(payload[0]), stream["kind"].as_u64().unwrap(), "{name}");
        assert_eq!(hex::encode(&payload[1..17]), stream["transfer_id"], "{name}");
        assert_eq!(hex::encode(&payload[17..]), stream["body_hex"], "{name}");
    } else {
        let reply: Map<String, Value> = serde_json::from_slice(&payload).unwrap();
        let keys: Vec<&String> = reply.keys().collect();
        assert_eq!(json!(keys), step["reply_json_keys"], "{name}");
        assert_eq!(reply["inner_ack"], step["inner_ack"], "{name}");
        assert_eq!(reply["sent_at_ns"], step["sent_at_ns"], "{name}");
        let time = |key: &str| reply[key].as_i64().unwrap();
        assert!(time("received_at_ns") <= time("inbox_written_at_ns"), "{name}");
        assert!(time("inbox_written_at_ns") <= time("ack_sent_at_ns"), "{name}");
    }
}

/// The text without what the Go peer's system library says behind it.
fn ours(text: &str) -> &str {
    let cause = ["save failed: write: ", "save failed: mkdir: "]
        .into_iter()
        .find_map(|c| text.find(c).map(|at| at + c.len()));
    &text[..cause.unwrap_or(text.len())]
}

fn check_files(rig: &Rig, entry: &Entry) {
    let name = &entry.name;
    let mismatch = list(&entry.fields, "exchange").iter().any(|step| {
        step.pointer("/reply_stream/body_text").is_some_and(|t| t.to_string().contains("sha256 mismatch"))
    });
    let mut expected = Vec::new();
    for file in list(&entry.fields, "files_after") {
        let path = file["path"].as_str().unwrap().replace("<STAMP>", STAMP);
        if mismatch && path.contains("/.partial/") {
            continue;
        }
        let full = rig.path(&path);
        let content = std::fs::read(&full).unwrap_or_else(|e| panic!("{name}: {path}: {e}"));
        if let Some(text) = file.get("content_text").and_then(Value::as_str) {
            let text = text.replace("<RFC3339NANO>", RECEIVED_AT);
            assert_eq!(String::from_utf8(content).unwrap(), text, "{name}: {path}");
        } else {
            assert_eq!(content.len() as u64, file["bytes"].as_u64().unwrap(), "{name}: {path}");
            assert_eq!(hex::encode(Sha256::digest(&content)), file["sha256"], "{name}: {path}");
        }
        let mode = std::fs::metadata(&full).unwrap().permissions().mode() & 0o7777;
        assert_eq!(format!("{mode:04o}"), file["mode"], "{name}: {path}");
        expected.push(path);
    }
    expected.sort();
    assert_eq!(rig.files(), expected, "{name}");
}

fn check_events(rig: &Rig, entry: &Entry) {
    let root = rig.dir.path().to_str().unwrap();
    let text = Value::Array(list(&entry.fields, "published").to_vec()).to_string();
    let text = text.replace("<STAMP>", STAMP).replace("<DIR>", root);
    let expected: Vec<Value> = serde_json::from_str(&text).unwrap();
    let got: Vec<Value> =
        events(rig).into_iter().map(|(topic, payload)| json!({"topic": topic, "payload": payload})).collect();
    assert_eq!(got, expected, "{}", entry.name);
}

/// The newest message is there, the limit is kept, and nothing was refused.
fn check_corrected_budget(rig: &Rig, entry: &Entry) {
    let max = entry.number("inbox_max_bytes");
    let files = rig.files();
    let used: u64 = files.iter().map(|f| std::fs::metadata(rig.path(f)).unwrap().len()).sum();
    assert!(used <= max, "{}: {used} > {max}", entry.name);
    let received = events(rig).iter().filter(|(topic, _)| topic == "message.received").count();
    let newest = format!("-{received:06}.json");
    assert!(files.iter().any(|f| f.ends_with(&newest)), "{}: {files:?}", entry.name);
    assert!(!files.iter().any(|f| f.ends_with("-000001.json")), "{}: {files:?}", entry.name);
    assert!(events(rig).iter().all(|(topic, _)| topic != "inbox.full"), "{}", entry.name);
}
