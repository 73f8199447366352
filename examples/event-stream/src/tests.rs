//! Through the plugin's own face, with the fake daemon of plugin-abi's test kit.

use super::*;
use plugin_abi::test_kit::FakeDaemon;

fn frame(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
    out.extend(topic.as_bytes());
    out.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    out.extend(payload);
    out
}

fn read(stream: &dyn Connection, len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut chunk = [0; 1024];
    while out.len() < len {
        match stream.read(&mut chunk).unwrap() {
            0 => break,
            n => out.extend_from_slice(&chunk[..n]),
        }
    }
    out
}

#[test]
fn what_one_publishes_the_others_read() {
    let daemon = FakeDaemon::new(std::env::temp_dir());
    let plugin = EventStream::default();
    plugin.init(daemon.clone()).unwrap();
    let subscribe = |topic: &str, n| {
        let stream = daemon.connect(PORT).unwrap();
        stream.write(&frame(topic, b"")).unwrap();
        daemon.wait_for_nth_event("pubsub.subscribed", n).unwrap();
        stream
    };
    let chat = subscribe("chat", 1);
    let all = subscribe("*", 2);
    let other = subscribe("news", 3);
    let publisher = subscribe("chat", 4);
    let event = frame("chat", b"hello");
    publisher.write(&event).unwrap();
    assert_eq!(read(&*chat, event.len()), event);
    assert_eq!(read(&*all, event.len()), event);
    let published = daemon.wait_for_event("pubsub.published").unwrap();
    let payload = published.payload.unwrap();
    assert_eq!((&payload["topic"], &payload["size"]), (&"chat".into(), &5.into()));

    // Nothing came back to the publisher or to another topic: the next thing they see is what is meant for them.
    chat.write(&frame("news", b"1")).unwrap();
    assert_eq!(read(&*other, frame("news", b"1").len()), frame("news", b"1"));
    chat.write(&frame("chat", b"2")).unwrap();
    assert_eq!(read(&*publisher, frame("chat", b"2").len()), frame("chat", b"2"));

    // A broken frame ends the stream without a word.
    other.write(&[0xFF, 0xFF]).unwrap();
    assert_eq!(read(&*other, 1), b"");
    daemon.wait_for_event("pubsub.unsubscribed").unwrap();
    plugin.shutdown(Duration::from_secs(5)).unwrap();
    assert!(daemon.bound_ports().is_empty() && daemon.faults().is_empty());
}
