//! Goodput over links that lose, repeat and reorder, beside what the link and Reno's loss model allow. The reviewed table is
//! `goodput.txt` next to this file: change it on purpose, with `PILOT_LONG=1 PILOT_SNAPSHOT=write cargo test -p pilot-engine
//! --release --test simnet table`, and read the difference.
//!
//! Every transfer, of the short run and the long one, also proves that every byte arrives, in order and once.

use std::fmt::Write as _;

use pilot_engine::Config;
use pilot_engine::time::Duration;

use crate::net::{Link, Net, ms, pattern, secs};

/// 100 Mbit/s with 20 ms of queue; one datagram in a hundred comes twice.
const RATE: u64 = 12_500_000;
const QUEUE: u64 = 250_000;
const REPEAT: u64 = 10;
/// Payload and length of a full datagram.
const SEGMENT: f64 = 1152.0;
const DATAGRAM: f64 = 1222.0;
/// Thousandths lost.
const LOSSES: [u64; 5] = [0, 1, 10, 50, 200];
/// Milliseconds one way, and megabytes of a transfer: so many that it is not all slow start.
const LATENCIES: [(u64, usize); 3] = [(1, 3), (50, 10), (200, 20)];
const SHORT: u64 = 1;
const LONG: u64 = 200;
const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/simnet/goodput.txt");

fn is_long() -> bool {
    std::env::var_os("PILOT_LONG").is_some()
}

/// Bytes per second of one transfer.
fn transfer(seed: u64, loss: u64, (latency, megabytes): (u64, usize)) -> f64 {
    // Datagrams overtake up to two milliseconds' worth of others.
    let jitter = (ms(latency) / 10).min(ms(2));
    let link = Link { loss, repeat: REPEAT, latency: ms(latency), jitter, rate: Some((RATE, QUEUE)) };
    let mut net = Net::pair(seed, link, &Config { admit_all: true, ..Config::default() });
    net.label = format!("seed {seed}, {loss}/1000 lost, {latency} ms");
    let (a, b) = net.connect(0, 1);
    let len = megabytes * 1_000_000;
    let data = pattern(len, seed);
    net.hosts[0].send(a, data.clone(), true);
    let took = net.run(secs(600), |n| n.hosts[1].stream(b).data.len() >= len);
    net.run(secs(60), |n| n.hosts[1].stream(b).finished);
    assert!(net.hosts[1].stream(b).data == data, "seed {seed}, loss {loss}/1000, latency {latency} ms");
    len as f64 / took.as_secs_f64()
}

#[derive(Debug, PartialEq)]
struct Row {
    loss: u64,
    latency: u64,
    median: f64,
    slowest: f64,
}

impl Row {
    fn measure(loss: u64, path: (u64, usize), seeds: u64) -> Self {
        let mut rates: Vec<f64> = (1..=seeds).map(|seed| transfer(seed, loss, path)).collect();
        rates.sort_by(f64::total_cmp);
        Self { loss, latency: path.0, median: rates[rates.len() / 2], slowest: rates[0] }
    }

    /// What the link carries of a long transfer whose losses are all repeated.
    fn link(&self) -> f64 {
        RATE as f64 * SEGMENT / DATAGRAM * (1.0 - self.loss as f64 / 1000.0)
    }

    /// What Reno would get of it (Mathis et al. 1997): MSS / RTT * sqrt(3/2) / sqrt(p).
    fn reno(&self) -> f64 {
        let rtt = Duration::from_millis(2 * self.latency).as_secs_f64();
        let p = self.loss as f64 / 1000.0;
        (SEGMENT / rtt * (1.5 / p).sqrt()).min(self.link())
    }

    fn text(&self) -> String {
        let kb = |rate: f64| (rate / 1000.0).round();
        format!(
            "{:>6.1} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9.2} {:>9.2}",
            self.loss as f64 / 10.0,
            self.latency,
            kb(self.link()),
            kb(self.reno()),
            kb(self.median),
            kb(self.slowest),
            self.median / self.link(),
            self.median / self.reno(),
        )
    }

    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let [loss, latency, _, _, median, slowest, ..] = fields[..] else { return None };
        Some(Self {
            loss: (loss * 10.0).round() as u64,
            latency: latency as u64,
            median: median * 1000.0,
            slowest: slowest * 1000.0,
        })
    }
}

fn header() -> String {
    format!(
        "Goodput of one stream of 3, 10 or 20 MB, kB/s: {LONG} seeds per row, 100 Mbit/s, 20 ms of queue, 1 % repeated,\n\
         reordered by up to a tenth of the latency or 2 ms. link: what the link carries; reno: the least of that and\n\
         MSS/RTT sqrt(1.5/p). A fifth to a half of the time over long paths is slow start. Written by tests/simnet/table.rs.\n\n\
         loss %  latency     link     reno   median  slowest med./link med./reno\n"
    )
}

#[test]
fn table_of_goodput_against_the_loss_model() {
    let seeds = if is_long() { LONG } else { SHORT };
    let rows: Vec<Row> = LOSSES
        .iter()
        .flat_map(|loss| LATENCIES.map(|path| (*loss, path)))
        .map(|(loss, path)| std::thread::spawn(move || Row::measure(loss, path, seeds)))
        .collect::<Vec<_>>()
        .into_iter()
        .map(|row| row.join().unwrap())
        .collect();
    let mut text = header();
    for row in &rows {
        writeln!(text, "{}", row.text()).unwrap();
    }
    println!("{text}");
    if std::env::var_os("PILOT_SNAPSHOT").is_some_and(|v| v == "write") {
        assert!(is_long(), "the table is of {LONG} seeds: set PILOT_LONG=1 as well");
        std::fs::write(SNAPSHOT, &text).unwrap();
    }
    let reviewed = std::fs::read_to_string(SNAPSHOT).unwrap();
    let reviewed: Vec<Row> = reviewed.lines().filter_map(Row::parse).collect();
    assert_eq!(reviewed.len(), rows.len(), "{SNAPSHOT} has other rows");
    for (now, then) in rows.iter().zip(&reviewed) {
        assert_eq!((now.loss, now.latency), (then.loss, then.latency));
        // The few seeds of a short run are among those of the table.
        assert!(now.slowest >= 0.8 * then.slowest, "slower than reviewed: {now:?}, {then:?}");
        if is_long() {
            let ratio = now.median / then.median;
            assert!((0.9..=1.1).contains(&ratio), "no longer as reviewed: {now:?}, {then:?}");
        }
    }
}
