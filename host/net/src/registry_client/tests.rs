//! The client against servers that misbehave: local errors and their texts, reconnecting, bounds.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A server that treats each connection by a script, one after the other.
async fn scripted<F>(script: impl Fn(u32, TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        for n in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(script(n, stream));
        }
    });
    addr
}

async fn read_request(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let len = stream.read_u32().await?;
    let mut body = vec![0; usize::try_from(len).unwrap()];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

async fn write(stream: &mut TcpStream, body: &[u8]) {
    stream.write_u32(u32::try_from(body.len()).unwrap()).await.unwrap();
    stream.write_all(body).await.unwrap();
}

/// A server that gives one answer to everything.
async fn answering(body: &'static str) -> String {
    scripted(move |_, mut stream| async move {
        while read_request(&mut stream).await.is_ok() {
            write(&mut stream, body.as_bytes()).await;
        }
    })
    .await
}

async fn ask(addr: String) -> Result<Map<String, Value>, RegistryError> {
    RegistryClient::unsigned(addr).call("lookup", Map::new()).await
}

#[tokio::test]
async fn answers_are_told_from_refusals_and_nonsense() {
    let text = |e: RegistryError| e.to_string();
    assert_eq!(ask(answering(r#"{"type":"x_ok"}"#).await).await.unwrap().len(), 1);
    assert_eq!(ask(answering("{}").await).await.unwrap().len(), 0);
    assert_eq!(ask(answering("null").await).await.unwrap().len(), 0);
    let refused =
        ask(answering(r#"{"type":"error","error":"node 7: node not found"}"#).await).await.unwrap_err();
    assert!(refused.is_not_found() && !refused.is_transport());
    assert_eq!(text(refused), "registry: node 7: node not found");
    assert_eq!(text(ask(answering(r#"{"error":7}"#).await).await.unwrap_err()), "registry: 7");
    assert_eq!(
        text(ask(answering(r#"{"x":1}"#).await).await.unwrap_err()),
        "registry: malformed response (missing \"type\" field)"
    );
}

#[tokio::test]
async fn a_registration_without_number_or_address_is_none() {
    let what = Registration::default();
    for (body, want) in [
        (r#"{"type":"register_ok","address":"0:0000.0000.0001"}"#, "register: missing node_id in response"),
        (r#"{"type":"register_ok","node_id":"1","address":"x"}"#, "register: missing node_id in response"),
        (r#"{"type":"register_ok","node_id":1,"address":7}"#, "register: missing address in response"),
    ] {
        let client = RegistryClient::unsigned(answering(body).await);
        assert_eq!(client.register(&what).await.unwrap_err().to_string(), want);
        assert_eq!(client.node(), 0);
    }
}

#[tokio::test]
async fn what_needs_a_signature_fails_before_anything_is_sent() {
    let client = RegistryClient::unsigned("127.0.0.1:1");
    let error = client.heartbeat().await.unwrap_err();
    assert_eq!(error.to_string(), "registry client: no signer configured (call SetSigner first)");
    let client = RegistryClient::new("127.0.0.1:1", |_: &[u8]| None);
    client.set_node(7);
    let error = client.resolve(9).await.unwrap_err();
    assert_eq!(error.to_string(), "registry client: signer returned empty signature for \"resolve:7:9\"");
}

#[tokio::test]
async fn an_admin_token_stands_in_for_a_signature_where_it_may() {
    let client = RegistryClient::unsigned(answering(r#"{"type":"join_network_ok"}"#).await);
    let params = json!({"network_id": 1, "admin_token": "t"}).as_object().unwrap().clone();
    client.call_signed("join_network", params.clone()).await.unwrap();
    assert!(matches!(client.call_signed("set_tags", params).await, Err(RegistryError::NoSigner)));
}

#[tokio::test]
async fn who_can_sign_keeps_the_admin_token() {
    let addr = scripted(|_, mut stream| async move {
        let request = read_request(&mut stream).await.unwrap();
        let request: Map<String, Value> = serde_json::from_slice(&request).unwrap();
        let both = (request.contains_key("signature"), request.contains_key("admin_token"));
        write(&mut stream, format!("{{\"type\":\"{both:?}\"}}").as_bytes()).await;
    })
    .await;
    let client = RegistryClient::new(addr, |_: &[u8]| Some([7; 64]));
    let params = json!({"network_id": 1, "admin_token": "t"}).as_object().unwrap().clone();
    let answer = client.call_signed("leave_network", params.clone()).await.unwrap();
    assert_eq!(answer["type"], "(true, false)");
    // Where it stands for more than the signature it has to be there.
    let answer = client.call_signed("invite_to_network", params).await.unwrap();
    assert_eq!(answer["type"], "(true, true)");
}

#[tokio::test]
async fn a_request_is_sent_once_more_over_a_new_connection() {
    // The first connection takes the request and dies; the second one answers.
    let addr = scripted(|n, mut stream| async move {
        while let Ok(request) = read_request(&mut stream).await {
            assert_eq!(request, br#"{"type":"lookup"}"#);
            if n == 0 {
                return;
            }
            write(&mut stream, b"{\"type\":\"lookup_ok\"}").await;
        }
    })
    .await;
    ask(addr).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_died_in_its_sleep_is_not_used() {
    let addr = scripted(|_, mut stream| async move {
        if read_request(&mut stream).await.is_ok() {
            write(&mut stream, b"{\"type\":\"lookup_ok\"}").await;
        }
    })
    .await;
    let client = RegistryClient::unsigned(addr).connections(1);
    let began = std::time::Instant::now();
    for _ in 0..5 {
        client.call("lookup", Map::new()).await.unwrap();
        // Its end may still be on the way; then the request is sent again, which is just slower.
        tokio::task::yield_now().await;
    }
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn an_answer_that_never_ends_is_bounded() {
    let addr = scripted(|_, mut stream| async move {
        if read_request(&mut stream).await.is_ok() {
            let _ = stream.write_all(&[4, 0, 0, 1, b'{']).await;
        }
    })
    .await;
    let error = ask(addr).await.unwrap_err();
    assert!(error.is_transport());
    assert_eq!(error.to_string(), "recv: message too large: 67108865 bytes (max 67108864)");
}

#[tokio::test(start_paused = true)]
async fn reconnecting_is_given_up_after_five_attempts() {
    // A port that was just free: nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let began = tokio::time::Instant::now();
    let error = ask(free.to_string()).await.unwrap_err();
    assert!(error.is_transport());
    let text = error.to_string();
    assert!(
        text.starts_with("send failed and reconnect failed: reconnect failed after 5 attempts: "),
        "{text}"
    );
    let waited = began.elapsed();
    let want = Duration::from_millis(500 + 1000 + 2000 + 4000 + 8000);
    assert!(want <= waited, "{waited:?}");
}

#[tokio::test]
async fn closing_ends_a_request_that_runs() {
    let addr = scripted(|_, mut stream| async move {
        let _ = read_request(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let client = Arc::new(RegistryClient::unsigned(addr));
    let running = tokio::spawn({
        let client = client.clone();
        async move { client.call("lookup", Map::new()).await }
    });
    tokio::task::yield_now().await;
    client.close();
    assert!(matches!(running.await.unwrap(), Err(RegistryError::Closed)));
    assert!(client.take_idle().is_none());
}

#[tokio::test]
async fn slow_answers_do_not_hold_up_other_requests() {
    // Whoever asks for "slow" waits for ever.
    let addr = scripted(|_, mut stream| async move {
        while let Ok(request) = read_request(&mut stream).await {
            if request == br#"{"type":"slow"}"# {
                std::future::pending::<()>().await;
            }
            write(&mut stream, b"{\"type\":\"ok\"}").await;
        }
    })
    .await;
    let client = Arc::new(RegistryClient::unsigned(addr));
    let slow = tokio::spawn({
        let client = client.clone();
        async move { client.call("slow", Map::new()).await }
    });
    for _ in 0..3 {
        client.call("fast", Map::new()).await.unwrap();
    }
    slow.abort();
}
