//! `serve-*`: what is sent on port 1001, what comes back, which files and events there are afterwards.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use pilot_vectors::{Entry, difference};
use plugin_abi::test_kit::PATIENCE;
use plugin_abi::{Addr, Connection};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{Running, list};

/// The content of every recorded transfer that needs a partial file to exist.
const TRANSFER_CONTENT: &[u8] = b"tiny file body";

#[test]
fn vectors_dataexchange() {
    pilot_vectors::run("pilot-loader", &["dataexchange"], |_, entry| serve(entry));
}

fn serve(entry: &Entry) {
    let running = Running::start("dataexchange", |daemon, state| {
        let mut config = Map::new();
        for key in ["include_base64", "received_max_bytes", "inbox_max_bytes"] {
            if let Some(value) = entry.fields.get(key) {
                config.insert(key.into(), value.clone());
            }
        }
        daemon.set_config(Value::Object(config));
        if entry.name.contains("stream-resume") {
            put_partial(state, &TRANSFER_CONTENT[..6]);
        } else if entry.name.contains("oversized-partial") {
            put_partial(state, &[7; 50]);
        }
    });
    let remote: Addr = entry.text("remote_addr").parse().unwrap();
    let conn = running.daemon.connect_from(remote, 1001).unwrap();
    conn.set_read_timeout(Some(PATIENCE)).unwrap();
    let differs = difference("dataexchange", &entry.name).is_some();
    let mut open = true;
    for step in list(&entry.fields, "exchange") {
        conn.write(&hex::decode(step["send_hex"].as_str().unwrap()).unwrap()).unwrap();
        if step.get("closed") == Some(&json!(true)) {
            assert!(receive(&conn).is_none(), "{}: still open", entry.name);
            open = false;
        } else if step.get("no_reply") != Some(&json!(true)) {
            let reply = receive(&conn).unwrap_or_else(|| panic!("{}: closed", entry.name));
            check_reply(entry, step, reply, differs);
        }
    }
    if open {
        // Whatever was answered that should not have been would come before this answer.
        conn.write(&[0, 0, 0, 99, 0, 0, 0, 0]).unwrap();
        assert_eq!(receive(&conn), Some((1, b"ACK UNKNOWN(99) 0 bytes".to_vec())), "{}", entry.name);
    }
    if entry.fields.contains_key("inbox_max_bytes") && differs {
        check_corrected_budget(&running, entry);
    } else {
        check_files(&running, entry, differs);
        check_events(&running, entry);
    }
}

fn put_partial(state: &Path, bytes: &[u8]) {
    let id = hex::encode(&Sha256::digest(TRANSFER_CONTENT)[..16]);
    std::fs::create_dir_all(state.join("received/.partial")).unwrap();
    std::fs::write(state.join("received/.partial").join(id), bytes).unwrap();
}

/// Type and payload of the next frame; `None` when the plugin closed.
fn receive(conn: &Arc<dyn Connection>) -> Option<(u32, Vec<u8>)> {
    let head = exactly(conn, 8)?;
    let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
    Some((word(0), exactly(conn, word(4) as usize).expect("a whole frame")))
}

fn exactly(conn: &Arc<dyn Connection>, n: usize) -> Option<Vec<u8>> {
    let (mut bytes, mut have) = (vec![0; n], 0);
    while have < n {
        match conn.read(&mut bytes[have..]).unwrap() {
            0 => {
                assert_eq!(have, 0, "closed inside a frame");
                return None;
            }
            more => have += more,
        }
    }
    Some(bytes)
}

fn check_reply(entry: &Entry, step: &Value, (kind, payload): (u32, Vec<u8>), differs: bool) {
    let name = &entry.name;
    assert_eq!(u64::from(kind), step["reply_type"].as_u64().unwrap(), "{name}");
    if let Some(text) = step.get("reply_text").and_then(Value::as_str) {
        let got = String::from_utf8(payload).unwrap();
        if differs && text.contains("inbox byte budget exceeded") {
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
        assert_eq!(json!(reply.keys().collect::<Vec<_>>()), step["reply_json_keys"], "{name}");
        assert_eq!(reply["inner_ack"], step["inner_ack"], "{name}");
        assert_eq!(reply["sent_at_ns"], step["sent_at_ns"], "{name}");
    }
}

/// The text without what the Go peer's system library says behind it.
fn ours(text: &str) -> &str {
    let causes = ["save failed: write: ", "save failed: mkdir: "];
    let cut = causes.into_iter().find_map(|c| text.find(c).map(|at| at + c.len()));
    &text[..cut.unwrap_or(text.len())]
}

/// File names and `received_at` with the time taken out, as the vectors write them.
fn timeless(text: &str) -> String {
    const STAMP: &str = "00000000-000000.000";
    let digits = |c: char| if c.is_ascii_digit() { '0' } else { c };
    let shape: String = text.chars().map(digits).collect();
    match shape.find(STAMP) {
        // All in front of the stamp may hold other characters than ASCII: count them, not their bytes.
        Some(at) => {
            let before = shape[..at].chars().count();
            let kept = |(i, c): (usize, char)| (i < before || i >= before + STAMP.len()).then_some((i, c));
            let mut out = String::new();
            for (i, c) in text.chars().enumerate().filter_map(kept) {
                if i == before + STAMP.len() {
                    out.push_str("<STAMP>");
                }
                out.push(c);
            }
            if text.chars().count() == before + STAMP.len() { out + "<STAMP>" } else { out }
        }
        None => text.to_owned(),
    }
}

fn timeless_content(text: &str) -> String {
    match text.split_once("\"received_at\":\"") {
        Some((before, rest)) => {
            let (time, after) = rest.split_once('"').unwrap();
            assert!(time.len() >= 20 && time.as_bytes()[10] == b'T', "{time}");
            format!("{before}\"received_at\":\"<RFC3339NANO>\"{after}")
        }
        None => text.to_owned(),
    }
}

fn files(running: &Running) -> Vec<String> {
    fn collect(root: &Path, dir: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                collect(root, &entry.path(), found);
            } else {
                found.push(entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut found = Vec::new();
    collect(&running.state(), &running.state(), &mut found);
    found.sort();
    found
}

fn check_files(running: &Running, entry: &Entry, differs: bool) {
    let name = &entry.name;
    let found = files(running);
    let mut expected = Vec::new();
    for file in list(&entry.fields, "files_after") {
        let path = file["path"].as_str().unwrap();
        if differs && path.contains("/.partial/") {
            continue;
        }
        expected.push(path.to_owned());
        let Some(real) = found.iter().find(|f| timeless(f) == path) else {
            panic!("{name}: no file {path} in {found:?}")
        };
        let full = running.state().join(real);
        let content = std::fs::read(&full).unwrap();
        if let Some(text) = file.get("content_text").and_then(Value::as_str) {
            assert_eq!(timeless_content(&String::from_utf8(content).unwrap()), text, "{name}: {path}");
        } else {
            assert_eq!(content.len() as u64, file["bytes"].as_u64().unwrap(), "{name}: {path}");
            assert_eq!(hex::encode(Sha256::digest(&content)), file["sha256"], "{name}: {path}");
        }
        let mode = std::fs::metadata(&full).unwrap().permissions().mode() & 0o7777;
        assert_eq!(format!("{mode:04o}"), file["mode"], "{name}: {path}");
    }
    expected.sort();
    let mut shapes: Vec<String> = found.iter().map(|f| timeless(f)).collect();
    shapes.sort();
    assert_eq!(shapes, expected, "{name}");
}

fn check_events(running: &Running, entry: &Entry) {
    let root = running.state();
    let expected = Value::Array(list(&entry.fields, "published").to_vec());
    let got: Vec<Value> = running
        .published()
        .into_iter()
        .map(|(topic, mut payload)| {
            for key in ["path", "filename"] {
                if let Some(text) = payload.get(key).and_then(Value::as_str) {
                    payload[key] = timeless(&text.replace(root.to_str().unwrap(), "<DIR>")).into();
                }
            }
            json!({"topic": topic, "payload": payload})
        })
        .collect();
    assert_eq!(Value::Array(got), expected, "{}", entry.name);
}

/// The newest message is there, the limit is kept, and nothing was refused.
fn check_corrected_budget(running: &Running, entry: &Entry) {
    let found = files(running);
    let size = |f: &String| std::fs::metadata(running.state().join(f)).unwrap().len();
    assert!(found.iter().map(size).sum::<u64>() <= entry.number("inbox_max_bytes"), "{}", entry.name);
    let events = running.published();
    let received = events.iter().filter(|(topic, _)| topic == "message.received").count();
    assert!(found.iter().any(|f| f.ends_with(&format!("-{received:06}.json"))), "{}", entry.name);
    assert!(events.iter().all(|(topic, _)| topic != "inbox.full"), "{}", entry.name);
}
