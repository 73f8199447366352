//! What a collector of spans is sent: a local client's request, the engine's work below it, a plugin's calls.

use std::collections::HashMap;
use std::sync::mpsc;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use crate::sink::{Post, sink};
use crate::support::*;

/// All spans until `enough` is satisfied by them.
fn collect(posts: &mpsc::Receiver<Post>, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
    let mut spans = Vec::new();
    while !enough(&spans) {
        let post = posts
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("no more spans after {:?}", names(&spans)));
        assert!(post.head.starts_with("post /v1/traces "), "{}", post.head);
        assert!(post.head.contains("content-type: application/x-protobuf"), "{}", post.head);
        let request = ExportTraceServiceRequest::decode(post.body.as_slice()).unwrap();
        for resource in request.resource_spans {
            let about = format!("{:?}", resource.resource);
            assert!(about.contains("service.name") && about.contains("pilot-host"), "{about}");
            spans.extend(resource.scope_spans.into_iter().flat_map(|s| s.spans));
        }
    }
    spans
}

fn names(spans: &[Span]) -> Vec<&str> {
    spans.iter().map(|s| s.name.as_str()).collect()
}

#[test]
fn spans_reach_a_collector_with_their_causes() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &PLUGINS);
    let (url, posts) = sink();
    let mut host = Host::start_with(dir.path(), "alice", &rendezvous, &plugins, &["--otlp", &url]);
    // To itself: a request of a client, and a dial of the engine for it.
    let node = host.node_id().to_string();
    host.ok(&["ping", &node, "--count", "1"]);
    host.ok(&["trust"]);
    let dial = |spans: &[Span]| spans.iter().position(|s| s.name == "engine.dial");
    let spans = collect(&posts, |spans| {
        let parent = dial(spans).map(|at| spans[at].parent_span_id.clone());
        let there = |name: &str| spans.iter().any(|s| s.name == name);
        there("plugins.start")
            && there("plugin.call")
            && parent.is_some_and(|p| spans.iter().any(|s| s.span_id == p))
    });
    let by_id: HashMap<_, _> = spans.iter().map(|s| (s.span_id.clone(), s)).collect();
    let dial = &spans[dial(&spans).unwrap()];
    let request = by_id[&dial.parent_span_id];
    assert_eq!((request.name.as_str(), request.parent_span_id.is_empty()), ("request", true));
    assert_eq!(request.trace_id, dial.trace_id);
    assert!(dial.attributes.iter().any(|a| a.key == "port"), "{:?}", dial.attributes);
    assert!(host.process.lines_with("level=DEBUG").is_empty(), "the log level is another matter");
    println!("spans: request -> engine.dial; and {:?}", names(&spans));

    // The last ones are sent before the process ends.
    host.process.signal("-TERM");
    assert!(host.process.wait_exit().success());
    collect(&posts, |spans| spans.iter().any(|s| s.name == "plugins.stop"));
}

#[test]
fn a_collector_that_is_away_is_said_once_and_disturbs_nothing() {
    let dir = temp_dir();
    let rendezvous = Rendezvous::start();
    let plugins = dir.path().join("plugins");
    stage(&plugins, &PLUGINS);
    // Nobody listens there: the listener is gone before the host starts.
    let away = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{away}");
    let mut host = Host::start_with(dir.path(), "alice", &rendezvous, &plugins, &["--otlp", &url]);
    host.process.wait_line("spans are not exported");
    for _ in 0..3 {
        host.ok(&["info"]);
    }
    host.process.signal("-TERM");
    assert!(host.process.wait_exit().success());
    assert_eq!(host.process.lines_with("spans are not exported").len(), 1);
}
