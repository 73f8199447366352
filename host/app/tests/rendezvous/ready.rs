//! `pilot-host rendezvous --json`: one line on standard output, and everything it names is there.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use pilot_net::registry_client::RegistryClient;
use pilot_net::tls::ClientTls;
use pilot_wire::beacon::{Message, decode};
use serde_json::{Value, json};

use crate::support::*;

/// A rendezvous whose standard output goes to `output`, and what its first line says.
fn start(output: &Path, extra: &[&str]) -> (Process, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilot-host"));
    command
        .args(["rendezvous", "--json", "--registry", "127.0.0.1:0", "--beacon", "127.0.0.1:0"])
        .args(extra);
    let process = Process::spawn("rendezvous", command.stdout(File::create(output).unwrap()));
    let end = Instant::now() + PATIENCE;
    loop {
        let text = std::fs::read_to_string(output).unwrap();
        if let Some((line, _)) = text.split_once('\n') {
            return (process, serde_json::from_str(line).unwrap());
        }
        assert!(Instant::now() < end, "no line on standard output");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The status line of a GET.
fn get(url: &str, path: &str) -> String {
    let host = url.strip_prefix("http://").or(url.strip_prefix("ws://")).unwrap().split('/').next().unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn the_first_line_says_where_everything_is() {
    let dir = temp_dir();
    let output = dir.path().join("out");
    let data = dir.path().join("data");
    let extra = ["--tls", "--dashboard", "127.0.0.1:0", "--compat-listen", "127.0.0.1:0", "--data-dir"];
    let (mut process, ready) = start(&output, &[&extra[..], &[data.to_str().unwrap()]].concat());
    assert_eq!((&ready["status"], &ready["pid"]), (&json!("ready"), &json!(process.pid())), "{ready}");
    let text = |key: &str| ready[key].as_str().unwrap_or_else(|| panic!("no {key} in {ready}")).to_owned();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = RegistryClient::unsigned(text("registry"));
    let client = client.tls(Some(ClientTls::pinned(&text("fingerprint")).unwrap()));
    assert_eq!(runtime.block_on(client.list_networks()).unwrap().len(), 1);

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut discover = Vec::new();
    Message::Discover { node: 0, key: None }.encode(&mut discover);
    socket.send_to(&discover, text("beacon")).unwrap();
    let mut reply = [0; 64];
    let (len, _) = socket.recv_from(&mut reply).unwrap();
    let observed = socket.local_addr().unwrap();
    assert_eq!(decode(&reply[..len]), Ok(Message::DiscoverReply { observed }));

    assert_eq!(get(&text("dashboard"), "/healthz"), "HTTP/1.1 200 OK");
    let compat = text("compat");
    assert!(compat.ends_with("/v1/compat"), "{compat}");
    assert_eq!(get(&compat, "/health"), "HTTP/1.1 200 OK");

    process.signal("-TERM");
    assert!(process.wait_exit().success());
    // Logs and farewells go elsewhere.
    assert_eq!(std::fs::read_to_string(&output).unwrap(), format!("{ready}\n"));
}

#[test]
fn what_there_is_not_is_null() {
    let dir = temp_dir();
    let (_process, ready) = start(&dir.path().join("out"), &[]);
    for key in ["compat", "dashboard", "fingerprint"] {
        assert_eq!(ready.get(key), Some(&Value::Null), "{key}: {ready}");
    }
}
