//! Received files in an object store: a server of a few lines that speaks as much S3 as an upload needs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

use super::*;

/// Objects by path, and parts of uploads that are not complete.
#[derive(Default)]
struct Bucket {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    parts: Mutex<BTreeMap<u32, Vec<u8>>>,
    largest_part: Mutex<usize>,
    /// Every request fails.
    broken: AtomicBool,
}

impl Bucket {
    fn start() -> (Arc<Bucket>, SocketAddr) {
        let bucket = Arc::<Bucket>::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let served = bucket.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let bucket = served.clone();
                std::thread::spawn(move || while bucket.serve(&stream).is_ok() {});
            }
        });
        (bucket, address)
    }

    fn serve(&self, stream: &TcpStream) -> std::io::Result<()> {
        let mut input = BufReader::new(stream);
        let mut line = || {
            let mut text = String::new();
            match input.read_line(&mut text)? {
                0 => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
                _ => Ok(text.trim_end().to_owned()),
            }
        };
        let first = line()?;
        let (mut length, mut expects) = (0u64, false);
        loop {
            let header = line()?.to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
            expects |= header.starts_with("expect: ");
        }
        let mut output = stream;
        if expects {
            output.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut body = Vec::new();
        input.take(length).read_to_end(&mut body)?;
        let (method, target) = first.split_once(' ').unwrap();
        let target = target.split(' ').next().unwrap();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let (status, answer) = match (method, query) {
            _ if self.broken.load(Ordering::SeqCst) => (403, String::new()),
            ("HEAD", _) => (404, String::new()),
            ("POST", "uploads" | "uploads=") => (
                200,
                "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>u1</UploadId></InitiateMultipartUploadResult>".into(),
            ),
            ("PUT", query) if query.contains("partNumber=") => {
                let number = query.split(['=', '&']).find_map(|n| n.parse().ok()).unwrap();
                let mut largest = self.largest_part.lock().unwrap();
                *largest = body.len().max(*largest);
                self.parts.lock().unwrap().insert(number, body);
                (200, String::new())
            }
            ("POST", _) => {
                let whole = std::mem::take(&mut *self.parts.lock().unwrap()).into_values().flatten().collect();
                self.objects.lock().unwrap().insert(path.to_owned(), whole);
                (200, "<CompleteMultipartUploadResult><ETag>\"e\"</ETag></CompleteMultipartUploadResult>".into())
            }
            ("PUT", _) => {
                self.objects.lock().unwrap().insert(path.to_owned(), body);
                (200, String::new())
            }
            _ => (400, String::new()),
        };
        write!(
            output,
            "HTTP/1.1 {status} X\r\nETag: \"e\"\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        )
    }
}

fn rig(address: SocketAddr) -> Rig {
    Rig::new(json!({
    "received_url": "s3://bucket/from/peers",
    "object_store": {
        "aws_endpoint": format!("http://{address}"),
        "aws_allow_http": "true",
        "aws_region": "us-east-1",
        "aws_access_key_id": "id",
        "aws_secret_access_key": "key",
    }}))
}

#[test]
fn files_go_to_the_object_store_and_nothing_of_them_stays() {
    let (bucket, address) = Bucket::start();
    let rig = rig(address);
    let client = rig.connect();
    client.send_file(b"small.txt", b"content");
    assert_eq!(client.text(), "ACK FILE 7 bytes");
    let event = rig.daemon.wait_for_event("file.received").unwrap().payload.unwrap();
    let url = format!("s3://bucket/from/peers/small-{STAMP}-000001.txt");
    assert_eq!((&event["path"], &event["filename"]), (&json!(url), &json!("small.txt")));
    let objects = bucket.objects.lock().unwrap().clone();
    assert_eq!(objects[&format!("/bucket/from/peers/small-{STAMP}-000001.txt")], b"content");

    // Larger than a part: streamed in parts.
    let large: Vec<u8> = (0..12_000_000u32).map(|i| (i * 7 + i / 256) as u8).collect();
    let sender = std::thread::spawn({
        let (client, large) = (Client(client.0.clone()), large.clone());
        move || client.send_file(b"large.bin", &large)
    });
    assert_eq!(client.text(), format!("ACK FILE {} bytes", large.len()));
    sender.join().unwrap();
    let objects = bucket.objects.lock().unwrap().clone();
    let (_, stored) = objects.iter().find(|(path, _)| path.contains("large-")).unwrap();
    assert_eq!(Sha256::digest(stored), Sha256::digest(&large));
    assert_eq!(*bucket.largest_part.lock().unwrap(), 5 << 20);
    assert_eq!(rig.files(), [""; 0], "the local copies are gone");

    // Messages stay here, where tools read them.
    client.send(FrameType::TEXT, b"hi");
    assert_eq!(client.text(), "ACK TEXT 2 bytes");
    assert_eq!(rig.files().len(), 1);
}

#[test]
fn a_store_that_refuses_is_an_answer_and_a_transfer_can_be_tried_again() {
    let (bucket, address) = Bucket::start();
    bucket.broken.store(true, Ordering::SeqCst);
    let rig = rig(address);
    let client = rig.connect();
    client.send_file(b"a", b"content");
    let refusal = client.text();
    assert!(refusal.starts_with("ERR FILE save failed: write: "), "{refusal}");
    assert_eq!(rig.files(), [""; 0]);

    let content = b"a file in one chunk";
    let sha256: [u8; 32] = Sha256::digest(content).into();
    let id = TransferId::of_hash(&sha256);
    let init = [&(content.len() as u64).to_be_bytes()[..], &sha256, &[0; 4], &[0, 1], b"f"].concat();
    client.send_stream(StreamKind::INIT, id, &init);
    assert_eq!(client.stream().0, StreamKind::INIT_ACK.0);
    client.send_stream(StreamKind::CHUNK, id, &[&[0; 8], &content[..]].concat());
    assert_eq!(client.stream().0, StreamKind::ACK.0);
    client.send_stream(StreamKind::DONE, id, b"");
    let (kind, _, body) = client.stream();
    assert_eq!((kind, body[0] != 0), (StreamKind::COMPLETE.0, true));
    assert!(String::from_utf8_lossy(&body[1..]).starts_with("rename: "));

    bucket.broken.store(false, Ordering::SeqCst);
    client.send_stream(StreamKind::DONE, id, b"");
    assert_eq!(client.stream().2, [0], "the same transfer, complete now");
    assert_eq!(bucket.objects.lock().unwrap().values().next().unwrap(), content);
    assert_eq!(rig.files(), [""; 0]);
}

#[test]
fn a_url_that_names_no_store_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = FakeDaemon::new(dir.path());
    daemon.set_config(json!({"received_url": "ftp://somewhere/"}));
    let error = DataExchange::new().init(daemon).unwrap_err();
    assert!(error.message().starts_with("[plugin.dataexchange] received_url ftp://somewhere/: "), "{error}");
}
