//! The whole plugin against the fake daemon: real threads, real files, a clock that the test moves.

mod behaviour;
mod remote;
mod transfers;
mod vectors;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pilot_wire::dataexchange::{self, FrameHeader, FrameType, StreamKind, TransferId};
use plugin_abi::test_kit::FakeDaemon;
use plugin_abi::{Addr, Connection, Plugin};
use serde_json::{Value, json};

use crate::service::DataExchange;
use crate::stamp::Clock;

/// What `TestClock` makes of stamps at its start.
const STAMP: &str = "20261121-005142.678";
const RECEIVED_AT: &str = "2026-11-21T00:51:42.678Z";
/// The remote address of the recorded vectors.
const REMOTE: Addr = Addr { network: 1, node: 0x00A3_F291 };

/// Stands still until a test moves it.
#[derive(Default)]
struct TestClock {
    now: Mutex<Duration>,
    /// How often the plugin asked what time it is.
    looks: Mutex<u64>,
    looked: Condvar,
}

impl TestClock {
    fn advance(&self, by: Duration) {
        *self.now.lock().unwrap() += by;
    }

    /// Waits until the plugin asked twice more: it then waits on a deadline of the present time.
    fn wait_until_watched(&self) {
        let looks = self.looks.lock().unwrap();
        let enough = *looks + 2;
        drop(self.looked.wait_while(looks, |looks| *looks < enough).unwrap());
    }
}

impl Clock for TestClock {
    fn wall(&self) -> Timestamp {
        RECEIVED_AT.parse::<Timestamp>().unwrap() + *self.now.lock().unwrap()
    }

    fn monotonic(&self) -> Duration {
        *self.looks.lock().unwrap() += 1;
        self.looked.notify_all();
        *self.now.lock().unwrap()
    }
}

/// A running plugin.
struct Rig {
    dir: tempfile::TempDir,
    daemon: Arc<FakeDaemon>,
    plugin: DataExchange,
    clock: Arc<TestClock>,
}

impl Rig {
    fn new(config: Value) -> Rig {
        Rig::in_dir(tempfile::tempdir().unwrap(), config)
    }

    fn in_dir(dir: tempfile::TempDir, config: Value) -> Rig {
        let daemon = FakeDaemon::new(dir.path());
        daemon.set_config(config);
        let clock = Arc::<TestClock>::default();
        let plugin = DataExchange::with_clock(clock.clone(), TimeZone::UTC);
        plugin.init(daemon.clone()).unwrap();
        Rig { dir, daemon, plugin, clock }
    }

    fn connect(&self) -> Client {
        self.connect_from(REMOTE)
    }

    fn connect_from(&self, from: Addr) -> Client {
        let conn = self.daemon.connect_from(from, 1001).unwrap();
        conn.set_read_timeout(Some(plugin_abi::test_kit::PATIENCE)).unwrap();
        Client(conn)
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// All files below the state directory, as sorted relative paths.
    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        collect(self.dir.path(), self.dir.path(), &mut found);
        found.sort();
        found
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.plugin.shutdown(Duration::from_secs(10)).unwrap();
            assert_eq!(self.daemon.faults(), []);
        }
    }
}

fn collect(root: &Path, dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            collect(root, &entry.path(), found);
        } else {
            found.push(entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
}

/// The sending end of a connection.
struct Client(Arc<dyn Connection>);

impl Client {
    fn send(&self, kind: FrameType, payload: &[u8]) {
        self.0.write(&frame(kind, payload)).unwrap();
    }

    fn send_file(&self, name: &[u8], content: &[u8]) {
        let mut payload = (name.len() as u16).to_be_bytes().to_vec();
        payload.extend_from_slice(name);
        payload.extend_from_slice(content);
        self.send(FrameType::FILE, &payload);
    }

    fn send_stream(&self, kind: StreamKind, id: TransferId, body: &[u8]) {
        let mut payload = vec![kind.0];
        payload.extend_from_slice(&id.0);
        payload.extend_from_slice(body);
        self.send(FrameType::FILESTREAM, &payload);
    }

    /// The next reply; `None` when the server closed.
    fn receive(&self) -> Option<(FrameType, Vec<u8>)> {
        let header = self.exactly(8)?;
        let header = FrameHeader::from_bytes(header.try_into().unwrap());
        Some((header.kind, self.exactly(header.len as usize).expect("a whole frame")))
    }

    fn text(&self) -> String {
        let (kind, payload) = self.receive().expect("a reply");
        assert_eq!(kind, FrameType::TEXT);
        String::from_utf8(payload).unwrap()
    }

    /// Kind, id and body of the next FILESTREAM reply.
    fn stream(&self) -> (u8, Vec<u8>, Vec<u8>) {
        let (kind, payload) = self.receive().expect("a reply");
        assert_eq!(kind, FrameType::FILESTREAM);
        (payload[0], payload[1..17].to_vec(), payload[17..].to_vec())
    }

    fn exactly(&self, n: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; n];
        let mut have = 0;
        while have < n {
            match self.0.read(&mut bytes[have..]).unwrap() {
                0 => {
                    assert_eq!(have, 0, "the server closed inside a frame");
                    return None;
                }
                more => have += more,
            }
        }
        Some(bytes)
    }

    fn is_closed(&self) -> bool {
        self.receive().is_none()
    }
}

fn events(rig: &Rig) -> Vec<(String, Value)> {
    let payload = |e: plugin_abi::Event| (e.topic, e.payload.map_or(json!(null), Value::Object));
    rig.daemon.events().into_iter().map(payload).collect()
}

fn frame(kind: FrameType, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    dataexchange::encode_frame(kind, payload, &mut out).unwrap();
    out
}

fn header(kind: FrameType, len: u32) -> [u8; 8] {
    FrameHeader { kind, len }.to_bytes()
}
