//! Takes POSTs over real HTTP and hands them on: a webhook's receiver, a collector of spans.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

/// One request: its head, lines and all, and its body.
pub struct Post {
    pub head: String,
    pub body: Vec<u8>,
}

/// A server on a free port; its URL without a path, and what it is sent.
pub fn sink() -> (String, mpsc::Receiver<Post>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let tx = tx.clone();
            std::thread::spawn(move || serve(stream, &tx));
        }
    });
    (url, rx)
}

/// One connection, kept alive as the client likes.
fn serve(mut stream: TcpStream, posts: &mpsc::Sender<Post>) {
    let mut data = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(end) = data.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&data[..end]).to_lowercase();
            let length = head.lines().find_map(|l| l.strip_prefix("content-length:")).map(str::trim);
            let length: usize = length.and_then(|l| l.parse().ok()).unwrap_or(0);
            if data.len() >= end + 4 + length {
                let body = data[end + 4..end + 4 + length].to_vec();
                data.drain(..end + 4 + length);
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                if stream.write_all(answer).is_err() || posts.send(Post { head, body }).is_err() {
                    return;
                }
                continue;
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(n) => data.extend_from_slice(&chunk[..n]),
        }
    }
}
