//! Data exchange with real processes where things get large or go wrong: memory, a kill in the middle, a full disk, hostile
//! names, an inbox at its cap. The numbers that people ask for are printed (`--nocapture`).
//!
//! Small sizes always run; `PILOT_LONG=1` adds 256 MiB, 1 GiB and 10 GiB (see `long`).

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests are tests

mod support;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use pilot_net::ipc::{Client, Stream};
use pilot_wire::addr::Addr;
use pilot_wire::dataexchange::{self, FrameType, StreamKind, TransferId};
use sha2::{Digest, Sha256};
use support::*;

const MIB: u64 = 1 << 20;
/// What one side may need for a transfer of any size.
const MEMORY: u64 = 16 * MIB;

fn long() -> bool {
    std::env::var_os("PILOT_LONG").is_some()
}

/// Two hosts that trust each other; `table` is bob's `[plugin.dataexchange]`.
struct Pair {
    dir: tempfile::TempDir,
    rendezvous: Rendezvous,
    alice: Host,
    bob: Host,
    bob_id: String,
}

impl Pair {
    fn start(table: &str) -> Pair {
        let dir = temp_dir();
        let rendezvous = Rendezvous::start();
        let plugins = dir.path().join("plugins");
        stage(&plugins, &PLUGINS);
        let config = dir.path().join("bob.toml");
        std::fs::write(&config, format!("[plugin.dataexchange]\n{table}\n")).unwrap();
        let alice = Host::start(dir.path(), "alice", &rendezvous, &plugins);
        let bob = Self::start_bob(dir.path(), &rendezvous);
        befriend(&alice, &bob);
        let bob_id = bob.node_id().to_string();
        Pair { dir, rendezvous, alice, bob, bob_id }
    }

    fn start_bob(dir: &Path, rendezvous: &Rendezvous) -> Host {
        let config = dir.join("bob.toml");
        let extra = ["--config", config.to_str().unwrap()];
        Host::start_with(dir, "bob", rendezvous, &dir.join("plugins"), &extra)
    }

    /// A file of `len` bytes that do not repeat, written piece by piece.
    fn file(&self, name: &str, len: u64) -> PathBuf {
        let path = self.dir.path().join(name);
        let mut file = std::fs::File::create(&path).unwrap();
        let mut left = len;
        while left > 0 {
            let piece = noise(left.min(4 * MIB) as usize, left);
            file.write_all(&piece).unwrap();
            left -= piece.len() as u64;
        }
        path
    }

    fn received(&self) -> PathBuf {
        self.bob.state().join("received")
    }

    /// `pilotctl send-file` in the background.
    fn sending(&self, path: &Path, extra: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pilotctl"));
        command.arg("--socket").arg(self.alice.socket()).args(["--json", "send-file", &self.bob_id]);
        command.arg(path).args(extra).env("PILOT_HOME", &self.alice.home);
        command.env("PILOT_DATAEXCHANGE_MAX_FRAME", (512 * MIB).to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// A stream to bob's port 1001 through alice's local socket.
    async fn raw(&self) -> Stream {
        let client = Client::connect(&self.alice.socket()).await.unwrap();
        let node = self.bob_id.parse().unwrap();
        client.dial(Addr { network: 0, node }, 1001, Duration::from_secs(30)).await.unwrap()
    }
}

/// A line of /proc/PID/status, in bytes; `None` when the process is gone.
fn memory(pid: u32, line: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let text = status.lines().find(|l| l.starts_with(line))?;
    Some(text.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Sends a file and gives how far the memory of each of the three processes rose meanwhile: sender's host, receiver's
/// host, pilotctl. Of the first two the growth of the resident set counts, of the last everything that is not a file.
fn measured(pair: &Pair, path: &Path, extra: &[&str]) -> [u64; 3] {
    let hosts = [pair.alice.process.pid(), pair.bob.process.pid()];
    let before = hosts.map(|pid| {
        // The high-water mark starts anew.
        let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
        memory(pid, "VmRSS").unwrap()
    });
    let mut sender = pair.sending(path, extra);
    let mut tool = 0;
    while sender.try_wait().unwrap().is_none() {
        tool = tool.max(memory(sender.id(), "RssAnon").unwrap_or(0));
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let output = sender.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let peak = hosts.map(|pid| memory(pid, "VmHWM").unwrap());
    [peak[0].saturating_sub(before[0]), peak[1].saturating_sub(before[1]), tool]
}

fn report(what: &str, memory: [u64; 3]) {
    let [alice, bob, tool] = memory.map(|bytes| bytes as f64 / MIB as f64);
    println!("{what}: sender's host +{alice:.1} MiB, receiver's host +{bob:.1} MiB, pilotctl {tool:.1} MiB");
    assert!(memory.into_iter().all(|bytes| bytes < MEMORY), "{what}: {memory:?} is not below {MEMORY}");
}

/// The hash of a file, read piece by piece.
fn hash(path: &Path) -> String {
    let (mut file, mut hasher, mut piece) =
        (std::fs::File::open(path).unwrap(), Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece).unwrap() {
            0 => return hex::encode(hasher.finalize()),
            n => hasher.update(&piece[..n]),
        }
    }
}

#[test]
fn memory_stays_flat_for_one_large_frame_and_for_a_stream() {
    let pair = Pair::start("max_frame = 536870912\nreceived_max_bytes = -1");
    let size = if long() { 256 * MIB } else { 32 * MIB };
    let file = pair.file("large.bin", size);
    // The first transfer also pays for what stays: connections, threads, buffers that are kept.
    report(&format!("one frame of {} MiB", size / MIB), measured(&pair, &file, &["--no-stream"]));
    report(&format!("a stream of {} MiB", size / MIB), measured(&pair, &file, &[]));
    let arrived = files(&pair.received());
    assert_eq!(arrived.len(), 2);
    assert!(arrived.iter().all(|f| hash(f) == hash(&file)));
}

#[test]
fn a_sparse_file_of_ten_gibibytes_arrives() {
    let size = if long() { 10 << 30 } else { 64 * MIB };
    let pair = Pair::start("received_max_bytes = 21474836480");
    let path = pair.dir.path().join("sparse.bin");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(size).unwrap();
    drop(file);
    report(&format!("a sparse file of {} MiB", size / MIB), measured(&pair, &path, &["--timeout", "600s"]));
    let arrived = files(&pair.received());
    assert_eq!((arrived.len(), arrived[0].metadata().unwrap().len()), (1, size));
    assert_eq!(hash(&arrived[0]), hash(&path));
}

#[test]
fn a_transfer_killed_in_the_middle_is_resumed_whole() {
    let mut pair = Pair::start("received_max_bytes = -1");
    let size = if long() { 1 << 30 } else { 48 * MIB };
    let path = pair.file("random.bin", size);
    let mut sender = pair.sending(&path, &[]);
    let partial = pair.received().join(".partial");
    let stored = eventually("a third of the file", || {
        let stored = files(&partial).first().and_then(|f| f.metadata().ok()).map_or(0, |m| m.len());
        (stored > size / 3).then_some(stored)
    });
    pair.bob.process.signal("-KILL");
    pair.bob.process.wait_exit();
    let _ = sender.kill();
    let _ = sender.wait();
    assert!(files(&pair.received()).is_empty(), "no half file under a final name");

    pair.bob = Pair::start_bob(pair.dir.path(), &pair.rendezvous);
    report(&format!("the rest of {} MiB", size / MIB), measured(&pair, &path, &[]));
    let arrived = files(&pair.received());
    assert_eq!(arrived.len(), 1);
    assert_eq!(hash(&arrived[0]), hash(&path));
    assert!(files(&partial).is_empty(), "nothing is left behind");
    println!("killed after {stored} of {size} bytes, resumed, hashes equal");
}

/// A file system of a few MiB, unmounted with the handle. `None` where this process may not mount.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, size: &str) -> Option<SmallDisk> {
        std::fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"]).arg(at);
        let mounted = mount.stderr(Stdio::null()).status().is_ok_and(|s| s.success());
        mounted.then(|| SmallDisk(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the host that writes there may still be ending.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_a_clear_refusal_and_loses_nothing() {
    let outside = temp_dir();
    let disk = outside.path().join("disk");
    let Some(small) = SmallDisk::mount(&disk, "6m") else {
        return println!("skipped: this user may not mount a small file system");
    };
    let table = format!("inbox_dir = \"{0}/inbox\"\nreceived_dir = \"{0}/received\"", disk.display());
    let pair = Pair::start(&table);
    let sent = pair.alice.ok(&["send-message", &pair.bob_id, "--data", "before"]);
    assert_eq!(sent["ack"], "ACK TEXT 6 bytes");

    let path = pair.file("large.bin", 12 * MIB);
    let refused = pair.alice.fails(&["send-file", &pair.bob_id, path.to_str().unwrap()]);
    println!("stream: {}", refused["message"]);
    assert!(refused["message"].as_str().unwrap().contains("write at "), "{refused}");
    let refused = pair.alice.fails(&["send-file", "--no-stream", &pair.bob_id, path.to_str().unwrap()]);
    println!("frame: {}", refused["message"]);
    assert!(refused["message"].as_str().unwrap().contains("save failed: write: "), "{refused}");
    assert!(files(&disk.join("received")).is_empty(), "no half file under a final name");

    // What was stored is whole, the partial can go on, and small things still fit.
    let inbox = pair.bob.ok(&["inbox"]);
    assert_eq!(inbox["messages"][0]["data"], "before");
    for partial in files(&disk.join("received/.partial")) {
        assert!(partial.metadata().unwrap().len() < 6 * MIB);
        std::fs::remove_file(partial).unwrap();
    }
    let tiny = pair.file("tiny.bin", 1000);
    pair.alice.ok(&["send-file", &pair.bob_id, tiny.to_str().unwrap()]);
    assert_eq!(hash(&files(&disk.join("received"))[0]), hash(&tiny));
    drop(pair);
    drop(small);
}

fn frame(kind: FrameType, payload: &[u8]) -> Bytes {
    let mut out = Vec::new();
    dataexchange::encode_frame(kind, payload, &mut out).unwrap();
    out.into()
}

fn file_frame(name: &[u8], content: &[u8]) -> Bytes {
    frame(FrameType::FILE, &[&(name.len() as u16).to_be_bytes(), name, content].concat())
}

/// Everything the peer says until it closes or has said `n` bytes.
async fn reply(stream: &Stream, n: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < n {
        let next = tokio::time::timeout(PATIENCE, stream.read()).await.expect("an answer in time");
        match next {
            Some(bytes) => got.extend_from_slice(&bytes),
            None => break,
        }
    }
    got
}

#[tokio::test]
async fn hostile_names_never_leave_the_directory() {
    let pair = Pair::start("");
    let outside = |dir: &Path| {
        let mut all: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().flatten().map(|e| e.path()).collect();
        all.sort();
        all
    };
    let (state, dir) = (pair.bob.state(), pair.dir.path().to_owned());
    let before = (outside(&dir), outside(Path::new("/tmp")).len());
    for name in
        [&b"../../evil"[..], b"/etc/cron.d/evil", b"a/b", b"..\\evil", b"..", b".", b"\xff\xfe", &[b'n'; 256]]
    {
        // A whole frame with such a name ends the connection without an answer.
        let stream = pair.raw().await;
        stream.write(file_frame(name, b"evil")).await.unwrap();
        assert_eq!(reply(&stream, 1).await, b"", "{}", String::from_utf8_lossy(name));
    }
    let stream = pair.raw().await;
    let content = b"tiny file body";
    let sha256: [u8; 32] = Sha256::digest(content).into();
    let id = TransferId::of_hash(&sha256);
    let send =
        |kind: StreamKind, body: &[u8]| frame(FrameType::FILESTREAM, &[&[kind.0], &id.0[..], body].concat());
    for name in [&b"../../../etc/passwd"[..], b"..", b"/"] {
        let size = (content.len() as u64).to_be_bytes();
        let init = [&size[..], &sha256, &[0; 4], &(name.len() as u16).to_be_bytes(), name].concat();
        stream.write(send(StreamKind::INIT, &init)).await.unwrap();
        assert_eq!(reply(&stream, 33).await[8], StreamKind::INIT_ACK.0);
        stream.write(send(StreamKind::CHUNK, &[&[0; 8], &content[..]].concat())).await.unwrap();
        assert_eq!(reply(&stream, 33).await[8], StreamKind::ACK.0);
        stream.write(send(StreamKind::DONE, b"")).await.unwrap();
        assert_eq!(reply(&stream, 26).await[8], StreamKind::COMPLETE.0);
    }
    // Only the last element of a path ever counts: three files, all where they belong.
    let arrived = files(&state.join("received"));
    assert_eq!(arrived.len(), 3, "{arrived:?}");
    let names: Vec<_> = arrived.iter().map(|f| f.file_name().unwrap().to_str().unwrap()).collect();
    assert!(names.iter().any(|n| n.starts_with("passwd-")), "{names:?}");
    assert!(names.iter().any(|n| n.starts_with("received-") && n.ends_with(".bin")), "{names:?}");
    assert_eq!(outside(&dir), before.0);
    assert!(!Path::new("/tmp/evil").exists() && !dir.join("evil").exists());
}

#[test]
fn an_inbox_at_its_cap_keeps_the_newest() {
    let pair = Pair::start("inbox_max_bytes = 20000\nfsync = false");
    let text = "x".repeat(1000);
    let sent =
        pair.alice.ok(&["send-message", &pair.bob_id, "--data", &text, "--count", "60", "--reuse-conn"]);
    println!("{sent}");
    pair.alice.ok(&["send-message", &pair.bob_id, "--data", "the newest"]);
    let stored = files(&pair.bob.state().join("inbox"));
    let bytes: u64 = stored.iter().map(|f| f.metadata().unwrap().len()).sum();
    assert!(bytes <= 20_000 && stored.len() >= 10, "{} files, {bytes} bytes", stored.len());
    let inbox = pair.bob.ok(&["inbox"]);
    let newest = inbox["messages"].as_array().unwrap().iter().any(|m| m["data"] == "the newest");
    assert!(newest, "{inbox}");
    // One that does not fit at all is refused, and nothing is lost for it.
    let refused = pair.alice.fails(&["send-message", &pair.bob_id, "--data", &"y".repeat(30_000)]);
    assert!(refused["message"].as_str().unwrap().contains("inbox byte budget exceeded"), "{refused}");
    assert_eq!(files(&pair.bob.state().join("inbox")).len(), stored.len());
}
