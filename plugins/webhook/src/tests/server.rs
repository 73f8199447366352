//! An HTTP server of a few lines that notes what it was asked.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::PATIENCE;
use crate::lock;

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub status: u16,
}

impl Request {
    /// A header's value, empty when absent; the name in lower case.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

/// Answers with the given statuses in turn, the last one for ever; redirects lead to `location`.
pub struct Server {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    statuses: Vec<u16>,
    location: String,
    seen: Mutex<Vec<Request>>,
    changed: Condvar,
    stopping: AtomicBool,
}

impl Server {
    pub fn start(statuses: Vec<u16>) -> Server {
        Server::redirecting(statuses, "/moved")
    }

    pub fn redirecting(statuses: Vec<u16>, location: &str) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            statuses,
            location: location.into(),
            seen: Mutex::default(),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
        });
        let served = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if served.stopping.load(Ordering::SeqCst) {
                    return;
                }
                // A client that goes away early is not this server's problem.
                let _ = served.serve(&stream, &stream);
            }
        });
        Server { address, shared, thread: Some(thread) }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.seen).clone()
    }

    /// Waits for the `n`-th request (from 1).
    pub fn request(&self, n: usize) -> Request {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = lock(&self.shared.seen);
        loop {
            if let Some(request) = seen.get(n - 1) {
                return request.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "request {n} did not come");
            seen = self.shared.changed.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn serve(&self, input: impl Read, mut output: impl Write) -> io::Result<()> {
        let mut request = read_request(&mut BufReader::new(input))?;
        let status = {
            let mut seen = lock(&self.seen);
            let status = self.statuses.get(seen.len()).or(self.statuses.last()).copied().unwrap_or(200);
            request.status = status;
            seen.push(request);
            status
        };
        let location = if (300..400).contains(&status) {
            format!("Location: {}\r\n", self.location)
        } else {
            String::new()
        };
        write!(output, "HTTP/1.1 {status} X\r\n{location}Content-Length: 0\r\nConnection: close\r\n\r\n")?;
        output.flush()?;
        self.changed.notify_all();
        Ok(())
    }
}

/// Reads one request; shared with the TLS test.
pub fn read_request(input: &mut impl BufRead) -> io::Result<Request> {
    let mut line = || {
        let mut text = String::new();
        input.read_line(&mut text)?;
        Ok::<_, io::Error>(text.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    while let Some((name, value)) = line()?.split_once(": ") {
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let mut request = Request { method, path, headers, body: Vec::new(), status: 0 };
    let length = request.header("content-length").parse().unwrap_or(0);
    input.take(length).read_to_end(&mut request.body)?;
    Ok(request)
}
