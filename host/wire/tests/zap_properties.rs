//! Properties of the control protocol's codec: every call and answer reads back, every cut body is refused, hostile counts
//! cost nothing, and no bytes whatever make a decoder panic.

#![allow(clippy::unwrap_used)] // in a test a panic is the report

use pilot_wire::Split;
use pilot_wire::zap::{
    self, AddNode, Answer, ChainInfo, ChainSpec, ClusterInfo, DecodeError, Frame, LoadSnapshot, NodeInfo,
    Reply, Request, RestartNode, Rpc, SendOutboundMessage, Start, StringMap, TypeOctet,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    ".{0,8}"
}

fn map() -> impl Strategy<Value = StringMap> {
    btree_map(text(), text(), 0..3)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..9)
}

prop_compose! {
    fn node()(texts: [u8; 8], name in text(), config in bytes(), paused: bool) -> NodeInfo {
        let [a, b, c, d, e, f, g, _] = texts.map(|n| n.to_string());
        NodeInfo {
            name, exec_path: a, uri: b, id: c, log_dir: d, db_dir: e, config, plugin_dir: f, whitelisted_subnets: g, paused,
        }
    }
}

prop_compose! {
    fn cluster()(
        nodes in vec(node(), 0..3), chain in option::of((text(), text(), bytes())), pid: i32, healthy: bool,
        subnets in vec(text(), 0..3), network_id: u32, root_data_dir in text(),
    ) -> ClusterInfo {
        let mut nodes = nodes;
        nodes.sort_by(|a, b| a.name.cmp(&b.name)); // as they are written
        let custom_chains = chain.into_iter().map(|(chain_name, chain_id, genesis)| ChainInfo {
            chain_name, chain_id, genesis, vm_id: "v".to_owned(), ..ChainInfo::default()
        });
        ClusterInfo {
            node_names: nodes.iter().map(|n| n.name.clone()).collect(),
            custom_chains: custom_chains.collect(),
            nodes, pid, root_data_dir, healthy, subnets, network_id,
        }
    }
}

prop_compose! {
    fn spec()(name in text(), blueprint in bytes(), participants in vec(text(), 0..3)) -> ChainSpec {
        ChainSpec { name, blueprint, participants }
    }
}

fn request() -> impl Strategy<Value = Request> {
    let opt = || option::of(text());
    let flag = || option::of(any::<bool>());
    let maps = || (map(), map(), map());
    prop_oneof![
        prop::sample::select(vec![
            Request::Ping,
            Request::RpcVersion,
            Request::Stop,
            Request::Health,
            Request::WaitForHealthy,
            Request::Uris,
            Request::Status,
            Request::GetSnapshotNames,
            Request::Reserved(Rpc::TransformElasticChains),
            Request::Reserved(Rpc::AddPermissionlessValidator),
            Request::Reserved(Rpc::RemoveChainValidator),
        ]),
        any::<i64>().prop_map(|push_interval_ns| Request::StreamStatus { push_interval_ns }),
        any::<u32>().prop_map(|target| Request::CancelStream { target }),
        (text(), 0..7).prop_map(|(name, which)| match which {
            0 => Request::RemoveNode { name },
            1 => Request::PauseNode { name },
            2 => Request::ResumeNode { name },
            3 => Request::AttachPeer { node_name: name },
            4 => Request::SaveSnapshot { name },
            5 => Request::SaveHotSnapshot { name },
            _ => Request::RemoveSnapshot { name },
        }),
        (vec(spec(), 0..3), any::<bool>()).prop_map(|(specs, old)| if old {
            Request::CreateBlockchains(specs)
        } else {
            Request::CreateChains(specs)
        }),
        (text(), text(), any::<u32>(), bytes()).prop_map(|(node_name, peer_id, op, body)| {
            Request::SendOutboundMessage(SendOutboundMessage { node_name, peer_id, op, body })
        }),
        (text(), text(), opt(), maps(), text()).prop_map(
            |(name, exec_path, node_config, maps, plugin_dir)| {
                let (chain_configs, upgrade_configs, chain_config_files) = maps;
                Request::AddNode(AddNode {
                    name,
                    exec_path,
                    node_config,
                    chain_configs,
                    upgrade_configs,
                    chain_config_files,
                    plugin_dir,
                })
            }
        ),
        (text(), opt(), opt(), maps(), text()).prop_map(
            |(name, exec_path, whitelisted_chains, maps, plugin_dir)| {
                let (chain_configs, upgrade_configs, chain_config_files) = maps;
                Request::RestartNode(RestartNode {
                    name,
                    exec_path,
                    whitelisted_chains,
                    chain_configs,
                    upgrade_configs,
                    chain_config_files,
                    plugin_dir,
                })
            }
        ),
        (text(), opt(), opt(), opt(), flag(), maps()).prop_map(
            |(snapshot_name, exec_path, root, global, flag, maps)| {
                Request::LoadSnapshot(LoadSnapshot {
                    snapshot_name,
                    exec_path,
                    root_data_dir: root,
                    global_node_config: global,
                    reassign_ports_if_used: flag,
                    chain_configs: maps.0,
                    upgrade_configs: maps.1,
                    chain_config_files: maps.2,
                    ..LoadSnapshot::default()
                })
            }
        ),
        (text(), option::of(any::<u32>()), opt(), flag(), flag(), maps()).prop_map(
            |(exec_path, n, root, a, b, maps)| {
                Request::Start(Start {
                    exec_path,
                    num_nodes: n,
                    root_data_dir: root,
                    reassign_ports_if_used: a,
                    dynamic_ports: b,
                    custom_node_configs: maps.0,
                    chain_configs: maps.1,
                    chain_config_files: maps.2,
                    ..Start::default()
                })
            }
        ),
    ]
}

fn answer() -> impl Strategy<Value = (Rpc, Answer)> {
    let state = || option::of(cluster());
    prop_oneof![
        any::<i32>().prop_map(|pid| (Rpc::Ping, Answer::Pid(pid))),
        any::<u32>().prop_map(|v| (Rpc::RpcVersion, Answer::Version(v))),
        any::<bool>().prop_map(|sent| (Rpc::SendOutboundMessage, Answer::Sent(sent))),
        vec(text(), 0..4).prop_map(|texts| (Rpc::Uris, Answer::Texts(texts))),
        text().prop_map(|path| (Rpc::SaveHotSnapshot, Answer::Path(path))),
        state().prop_map(|info| (Rpc::AddNode, Answer::Cluster(info))),
        (state(), option::of(text()))
            .prop_map(|(cluster, peer_id)| (Rpc::AttachPeer, Answer::Attached { cluster, peer_id })),
        (state(), vec(text(), 0..3))
            .prop_map(|(cluster, chain_ids)| (Rpc::CreateChains, Answer::Chains { cluster, chain_ids })),
        Just((Rpc::CancelStream, Answer::Empty)),
    ]
}

fn the_frame(bytes: &[u8]) -> Frame<'_> {
    match zap::split_frame(bytes).unwrap() {
        Split::Complete { message, consumed } if consumed == bytes.len() => message,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn requests(request in request(), id: u32, behind in bytes()) {
        let mut whole = Vec::new();
        request.encode(id, &mut whole).unwrap();
        let frame = the_frame(&whole);
        let (got_id, body) = frame.call().unwrap();
        prop_assert_eq!(got_id, id);
        prop_assert_eq!(frame.kind, request.rpc().type_octet());
        prop_assert_eq!(Request::decode(frame.kind, body), Ok(request.clone()));
        for cut in 0..body.len() {
            prop_assert!(Request::decode(frame.kind, &body[..cut]).is_err());
        }
        let longer = [body, &behind].concat();
        prop_assert_eq!(Request::decode(frame.kind, &longer), Ok(request));
        for cut in 0..whole.len() {
            let Split::Incomplete { missing } = zap::split_frame(&whole[..cut]).unwrap() else { panic!("cut at {cut}") };
            prop_assert!(missing >= 1 && missing <= whole.len() - cut);
            prop_assert!(zap::read_frame(&mut &whole[..cut]).is_err());
        }
    }

    #[test]
    fn answers((rpc, answer) in answer(), id: u32) {
        let mut whole = Vec::new();
        answer.encode(rpc.type_octet(), id, &mut whole).unwrap();
        let frame = the_frame(&whole);
        prop_assert!(frame.kind.is_response() && !frame.kind.is_error());
        let Some((got_id, Reply::Success(body))) = Reply::of_frame(&frame) else { panic!("no good answer") };
        prop_assert_eq!(got_id, id);
        prop_assert_eq!(Answer::decode(rpc, body), Ok(answer));
        for cut in 0..body.len() {
            prop_assert_eq!(Answer::decode(rpc, &body[..cut]), Err(DecodeError::UnexpectedEnd));
        }
    }

    #[test]
    fn error_answers(kind: u8, id: u32, message in ".{0,40}") {
        let mut whole = Vec::new();
        zap::encode_error(TypeOctet(kind), id, &message, &mut whole);
        let frame = the_frame(&whole);
        prop_assert_eq!(frame.kind.0, kind | 0xC0);
        prop_assert_eq!(Reply::of_frame(&frame), Some((id, Reply::Error(message.as_bytes()))));
    }

    #[test]
    fn any_body_is_a_call_or_not(kind in 58..=64_u8, sub in 0..50_u8, mut body in vec(any::<u8>(), 0..80), small: bool) {
        if small {
            body.iter_mut().for_each(|b| *b %= 3); // makes plausible lengths and counts
        }
        body.insert(0, sub);
        let _ = Request::decode(TypeOctet(kind), &body);
        if let Ok(request) = Request::decode(TypeOctet(62), &body) {
            let _ = Answer::decode(request.rpc(), &body[1..]);
            let mut again = Vec::new();
            request.encode(1, &mut again).unwrap();
            let again = the_frame(&again).call().unwrap().1.to_vec();
            prop_assert_eq!(Request::decode(TypeOctet(62), &again), Ok(request));
        }
    }
}

#[test]
fn hostile_counts_are_refused_at_once() {
    // A state whose node list promises four thousand million entries.
    let body = [1, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];
    assert_eq!(Answer::decode(Rpc::Status, &body), Err(DecodeError::UnexpectedEnd));
    assert_eq!(Answer::decode(Rpc::Uris, &[0xFF; 8]), Err(DecodeError::UnexpectedEnd));
    assert!(zap::read_frame(&mut &[1, 0, 0, 0, 60, 1, 2, 3][..]).is_err());
}

#[test]
fn only_one_is_present_in_the_attach_answer() {
    assert_eq!(
        Answer::decode(Rpc::AttachPeer, &[2, 7]),
        Ok(Answer::Attached { cluster: None, peer_id: None })
    );
}

#[test]
fn the_keep_alive_frame_answers_call_zero() {
    let bytes = zap::keep_alive_frame();
    assert_eq!(bytes, [0, 0, 0, 4, 0xBC, 0, 0, 0, 0]);
    assert_eq!(Reply::of_frame(&the_frame(&bytes)), Some((zap::KEEP_ALIVE_ID, Reply::Success(&[]))));
}
