//! Area `zap` without Z-Wing: primitives, frames, calls and whole exchanges with a small backend.

use pilot_vectors::Entry;
use pilot_wire::Split;
use pilot_wire::zap::{
    self, Answer, ClusterInfo, DecodeError, Frame, Reader, Reply, Request, Rpc, StringMap, TypeOctet, Writer,
};
use serde_json::{Map, Value, json};

pub fn check(entry: &Entry) {
    match entry.kind.as_str() {
        "buffer" if entry.error => assert_eq!(buffer_error(entry).to_string(), entry.text("peer_error")),
        "buffer" => check_buffer(entry),
        "frame" => check_frame(entry),
        "frame-header" => {
            let split = zap::split_frame(&entry.bytes).unwrap();
            let missing = usize::try_from(entry.number("length")).unwrap();
            assert_eq!(split, Split::Incomplete { missing });
            assert_eq!(u64::from(entry.bytes[4]), entry.number("type"));
        }
        "request-frame" => check_request(entry),
        "response-frame" => check_response(entry),
        "exchange" => check_exchange(entry),
        other => panic!("no rule for kind {other}"),
    }
}

fn buffer_error(entry: &Entry) -> DecodeError {
    let mut r = Reader::new(&entry.bytes);
    let what = entry.text("read_as");
    let result = match what {
        "u8" => r.u8().map(drop),
        "u16" => r.u16().map(drop),
        "u32" => r.u32().map(drop),
        "u64" => r.u64().map(drop),
        "i32" => r.i32().map(drop),
        "i64" => r.i64().map(drop),
        "bool" => r.bool().map(drop),
        "bytes" => r.bytes().map(drop),
        "string" => r.string().map(drop),
        "map" => r.map().map(drop),
        "optional string" => r.optional_string().map(drop),
        "optional ClusterInfo" => Answer::decode(Rpc::Status, &entry.bytes).map(drop),
        what if what.starts_with("count") => r.count(1).map(drop),
        other => panic!("no reader {other}"),
    };
    result.unwrap_err()
}

/// Each field names a primitive; all are read in the order of the file, which is the order of writing.
fn check_buffer(entry: &Entry) {
    let mut r = Reader::new(&entry.bytes);
    let mut out = Vec::new();
    let mut w = Writer::new(&mut out);
    for (what, want) in &entry.fields {
        match what.as_str() {
            "u8" => {
                let value = r.u8().unwrap();
                assert_eq!(json!(value), *want);
                w.u8(value);
            }
            "u16" => {
                let value = r.u16().unwrap();
                assert_eq!(json!(value), *want);
                w.u16(value);
            }
            "u32" => {
                let value = r.u32().unwrap();
                assert_eq!(json!(value), *want);
                w.u32(value);
            }
            "u64" => {
                let value = r.u64().unwrap();
                assert_eq!(json!(value.to_string()), *want);
                w.u64(value);
            }
            "i32" => {
                let value = r.i32().unwrap();
                assert_eq!(json!(value), *want);
                w.i32(value);
            }
            "i64" => {
                let value = r.i64().unwrap();
                assert_eq!(json!(value.to_string()), *want);
                w.i64(value);
            }
            "bool" => {
                for want in want.as_array().unwrap() {
                    let value = r.bool().unwrap();
                    assert_eq!(json!(value), *want);
                    w.bool(value);
                }
            }
            "bytes" => {
                let value = r.bytes().unwrap();
                assert_eq!(json!(hex::encode(value)), *want);
                w.bytes(value);
            }
            "string" => {
                let value = r.string().unwrap();
                assert_eq!(json!(value), *want);
                w.string(&value);
            }
            "map" => {
                let value = r.map().unwrap();
                assert_eq!(json!(value), *want);
                w.map(&value);
            }
            "opt_string" => {
                let value = r.optional_string().unwrap();
                assert_eq!(json!(value), *want);
                w.optional_string(value.as_deref());
            }
            _ => {}
        }
    }
    if entry.fields.get("decode_only").and_then(Value::as_bool) != Some(true) {
        assert_eq!(out, entry.bytes);
    }
}

fn check_frame(entry: &Entry) {
    let read = zap::read_frame(&mut entry.bytes.as_slice());
    if entry.error {
        assert_eq!(read.unwrap_err().to_string(), entry.text("peer_error"));
        assert!(!matches!(zap::split_frame(&entry.bytes), Ok(Split::Complete { .. })));
        return;
    }
    let (kind, payload) = read.unwrap();
    assert_reencodes(&entry.bytes, kind, |out| out.extend_from_slice(&payload));
}

fn assert_reencodes(frame: &[u8], kind: TypeOctet, write: impl FnOnce(&mut Vec<u8>)) {
    let mut out = Vec::new();
    zap::encode_frame(kind, &mut out, write).unwrap();
    assert_eq!(out, frame);
}

/// The one frame of an entry.
fn the_frame(bytes: &[u8]) -> Frame<'_> {
    match zap::split_frame(bytes).unwrap() {
        Split::Complete { message, consumed } if consumed == bytes.len() => message,
        other => panic!("{other:?}"),
    }
}

fn check_request(entry: &Entry) {
    let frame = the_frame(&entry.bytes);
    assert_eq!(u64::from(frame.kind.0), entry.number("opcode"));
    let (id, body) = frame.call().unwrap();
    assert_eq!(u64::from(id), entry.number("request_id"));
    if let Some(sub) = entry.fields.get("sub_opcode") {
        assert_eq!(json!(body[0]), *sub);
    }
    let request = Request::decode(frame.kind, body).unwrap();
    for (key, got) in request_fields(&request) {
        // The peer's absent and empty maps are the same on the wire.
        let want = entry.fields.get(key).cloned().unwrap_or_else(|| panic!("no field {key}"));
        let empty = want.is_null() && got == json!({});
        assert!(empty || got == want, "{key}: {got} instead of {want}");
    }
    let mut out = Vec::new();
    request.encode(id, &mut out).unwrap();
    assert_eq!(out, entry.bytes);
}

fn request_fields(request: &Request) -> Vec<(&'static str, Value)> {
    let map = |m: &StringMap| json!(m);
    match request {
        Request::AddNode(a) => vec![
            ("Name", json!(a.name)),
            ("ExecPath", json!(a.exec_path)),
            ("NodeConfig", json!(a.node_config)),
            ("ChainConfigs", map(&a.chain_configs)),
            ("UpgradeConfigs", map(&a.upgrade_configs)),
            ("ChainConfigFiles", map(&a.chain_config_files)),
            ("PluginDir", json!(a.plugin_dir)),
        ],
        Request::RestartNode(a) => vec![
            ("Name", json!(a.name)),
            ("ExecPath", json!(a.exec_path)),
            ("WhitelistedChains", json!(a.whitelisted_chains)),
            ("ChainConfigs", map(&a.chain_configs)),
            ("UpgradeConfigs", map(&a.upgrade_configs)),
            ("ChainConfigFiles", map(&a.chain_config_files)),
            ("PluginDir", json!(a.plugin_dir)),
        ],
        Request::RemoveNode { name } | Request::PauseNode { name } | Request::ResumeNode { name } => {
            vec![("Name", json!(name))]
        }
        Request::AttachPeer { node_name } => vec![("NodeName", json!(node_name))],
        Request::SendOutboundMessage(m) => vec![
            ("NodeName", json!(m.node_name)),
            ("PeerID", json!(m.peer_id)),
            ("Op", json!(m.op)),
            ("MsgBodyHex", json!(hex::encode(&m.body))),
        ],
        _ => Vec::new(),
    }
}

fn check_response(entry: &Entry) {
    let frame = the_frame(&entry.bytes);
    assert_eq!(u64::from(frame.kind.0), entry.number("type_octet"));
    assert_eq!(u64::from(frame.kind.opcode()), entry.number("opcode"));
    let (id, reply) = Reply::of_frame(&frame).unwrap();
    assert_eq!(u64::from(id), entry.number("request_id"));
    let body = match reply {
        Reply::Success(body) => body,
        Reply::Error(text) => return assert_eq!(String::from_utf8_lossy(text), entry.text("error_text")),
    };
    // An answer does not say what it answers; the recorded fields do.
    let has = |key: &str| entry.fields.contains_key(key);
    let rpc = match () {
        () if has("PID") => Rpc::Ping,
        () if has("Version") => Rpc::RpcVersion,
        () if has("URIs") => Rpc::Uris,
        () if has("Sent") => Rpc::SendOutboundMessage,
        () if has("AttachedPeerID") => Rpc::AttachPeer,
        () => Rpc::Status,
    };
    let answer = Answer::decode(rpc, body).unwrap();
    match &answer {
        Answer::Pid(pid) => assert_eq!(json!(pid), entry.fields["PID"]),
        Answer::Version(version) => assert_eq!(json!(version), entry.fields["Version"]),
        Answer::Texts(texts) => assert_eq!(json!(texts), entry.fields["URIs"]),
        Answer::Sent(sent) => assert_eq!(json!(sent), entry.fields["Sent"]),
        Answer::Cluster(info) => assert_cluster(info.as_ref(), &entry.fields),
        Answer::Attached { cluster, peer_id } => {
            assert_cluster(cluster.as_ref(), &entry.fields);
            assert_eq!(json!(peer_id), entry.fields["AttachedPeerID"]);
        }
        other => panic!("{other:?}"),
    }
    let mut out = Vec::new();
    answer.encode(TypeOctet(frame.kind.opcode()), id, &mut out).unwrap();
    assert_eq!(out, entry.bytes);
}

fn assert_cluster(info: Option<&ClusterInfo>, fields: &Map<String, Value>) {
    let got = info.map(|info| {
        let nodes = info.nodes.iter().map(|n| {
            json!({
                "Name": n.name, "ExecPath": n.exec_path, "URI": n.uri, "ID": n.id, "LogDir": n.log_dir, "DBDir": n.db_dir,
                "ConfigHex": hex::encode(&n.config), "PluginDir": n.plugin_dir, "Whitelisted": n.whitelisted_subnets,
                "Paused": n.paused,
            })
        });
        let nodes: Vec<Value> = nodes.collect();
        let chains = info.custom_chains.iter().map(|c| {
            json!({
                "ChainName": c.chain_name, "VMID": c.vm_id, "VMName": c.vm_name, "ChainID": c.chain_id,
                "SubnetID": c.subnet_id, "Genesis": String::from_utf8_lossy(&c.genesis),
            })
        });
        let chains: Vec<Value> = chains.collect();
        json!({
            "NodeNames": info.node_names, "Nodes": nodes, "PID": info.pid, "RootDataDir": info.root_data_dir,
            "Healthy": info.healthy, "Chains": chains, "Subnets": info.subnets, "NetworkID": info.network_id,
        })
    });
    assert_eq!(json!(got), fields["ClusterInfo"]);
}

/// Serves the request octets with the backend the recording used: process id 42, no network, no node of any name.
fn check_exchange(entry: &Entry) {
    let mut input = entry.bytes.as_slice();
    let mut output = Vec::new();
    while let Split::Complete { message: frame, consumed } = zap::split_frame(input).unwrap() {
        input = &input[consumed..];
        let Some((id, body)) = frame.call() else { continue };
        let answer = match Request::decode(frame.kind, body) {
            Ok(Request::Ping) => Ok(Answer::Pid(42)),
            Ok(Request::RpcVersion) => Ok(Answer::VERSION),
            Ok(Request::Uris) => Ok(Answer::Texts(Vec::new())),
            Ok(Request::RemoveNode { .. } | Request::PauseNode { .. } | Request::ResumeNode { .. }) => {
                Err("node not found".to_owned())
            }
            Ok(Request::Reserved(_)) => Err(zap::UNSUPPORTED.to_owned()),
            Ok(_) => Ok(Answer::Cluster(None)),
            Err(e) => Err(e.to_string()),
        };
        match answer {
            Ok(answer) => answer.encode(frame.kind, id, &mut output).unwrap(),
            Err(text) => {
                zap::encode_error(frame.kind, id, &text, &mut output);
                if let Some(want) = entry.fields.get("error_text").and_then(Value::as_str) {
                    assert_eq!(text, want);
                }
            }
        }
    }
    let want = entry.fields.get("response_hex").and_then(Value::as_str).unwrap_or_default();
    assert_eq!(hex::encode(output), want);
}
