//! The bounded queue on disk: events that wait for delivery, in order, across restarts. Called by the client, under its
//! lock, when `spool_dir` is configured.
//!
//! ```text
//!   <spool_dir>/url            whom the events are for; those for another URL are discarded
//!              /position       NUMBER DONE: of the oldest segment, that many lines are delivered
//!              /<NUMBER>.log   segments, one body a line, numbers ascending
//! ```
//!
//! A body is on disk before it is sent, and the position moves after it was delivered: a kill at any moment loses nothing
//! and repeats at most one event (its `event_id` tells). Nothing is forced to the disk, so a power cut may lose seconds.
//! Full, the new event is refused, as in the queue in memory. One segment is in memory, no more.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A segment is closed when it has this many bytes.
const SEGMENT: u64 = 256 << 10;

/// The queue of one URL.
pub struct Spool {
    dir: PathBuf,
    max_bytes: u64,
    /// Closed segments and the one that is written, oldest first: number and bytes.
    segments: VecDeque<(u64, u64)>,
    /// The newest segment.
    out: File,
    /// What is left of the oldest segment.
    head: VecDeque<String>,
    /// Lines of the oldest segment that are delivered.
    done: u64,
}

impl Spool {
    /// Opens the queue in `dir` for `url`, with what an earlier process left.
    ///
    /// # Errors
    /// Of the file system.
    pub fn open(dir: &Path, url: &str, max_bytes: u64) -> io::Result<Spool> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let owner = dir.join("url");
        if fs::read_to_string(&owner).is_ok_and(|before| before != url) {
            tracing::info!("events that waited for another webhook URL are discarded");
            discard(dir)?;
        }
        private(&owner, OpenOptions::new().write(true).create(true).truncate(true))?
            .write_all(url.as_bytes())?;
        let mut numbers = segments(dir)?;
        let position = fs::read_to_string(dir.join("position")).unwrap_or_default();
        let mut position = position.split(' ').map_while(|n| n.trim().parse::<u64>().ok());
        let (oldest, mut done) = (position.next().unwrap_or(0), position.next().unwrap_or(0));
        // A segment in front of the position is delivered; a crash kept it from being deleted.
        for number in numbers.iter().filter(|n| **n < oldest) {
            fs::remove_file(segment(dir, *number))?;
        }
        numbers.retain(|n| *n >= oldest);
        if numbers.first() != Some(&oldest) {
            done = 0;
        }
        let next = numbers.last().map_or(oldest, |last| last + 1);
        numbers.push(next);
        let mut list = VecDeque::new();
        for number in numbers {
            let len = fs::metadata(segment(dir, number)).map_or(0, |m| m.len());
            list.push_back((number, len));
        }
        let out = private(&segment(dir, next), OpenOptions::new().append(true).create(true))?;
        let mut spool =
            Spool { dir: dir.to_owned(), max_bytes, segments: list, out, head: VecDeque::new(), done };
        spool.load()?;
        Ok(spool)
    }

    /// Puts a body (one line) at the end; `false`: there is no room, or the disk refuses.
    pub fn push(&mut self, body: &str) -> bool {
        let bytes = body.len() as u64 + 1;
        let held: u64 = self.segments.iter().map(|(_, len)| len).sum();
        if held + bytes > self.max_bytes {
            return false;
        }
        match self.append(body, bytes) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "event not written to the spool");
                false
            }
        }
    }

    fn append(&mut self, body: &str, bytes: u64) -> io::Result<()> {
        let (newest, len) = *self.segments.back().expect("there is always a segment that is written");
        if len >= SEGMENT {
            let next = newest + 1;
            self.out = private(&segment(&self.dir, next), OpenOptions::new().append(true).create_new(true))?;
            self.segments.push_back((next, 0));
        }
        let line = format!("{body}\n");
        if let Err(error) = self.out.write_all(line.as_bytes()) {
            // Half a line must not become the front of the next one.
            let whole = self.segments.back().map_or(0, |(_, len)| *len);
            self.out.set_len(whole)?;
            return Err(error);
        }
        if let Some((_, len)) = self.segments.back_mut() {
            *len += bytes;
        }
        if self.segments.len() == 1 {
            self.head.push_back(body.to_owned());
        }
        Ok(())
    }

    /// The oldest body.
    pub fn front(&self) -> Option<&str> {
        self.head.front().map(String::as_str)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.head.is_empty()
    }

    /// The oldest body is done with.
    pub fn pop(&mut self) {
        if self.head.pop_front().is_none() {
            return;
        }
        self.done += 1;
        let result = if self.head.is_empty() { self.advance() } else { self.note() };
        if let Err(error) = result {
            tracing::warn!(%error, "the spool's position is not on disk; an event may be delivered twice");
        }
    }

    /// Lets go of the oldest segment, whose lines are all delivered.
    fn advance(&mut self) -> io::Result<()> {
        if self.segments.len() == 1 {
            // It is still written: give the space back once that is worth it.
            let Some((newest, len)) = self.segments.back().copied() else { return Ok(()) };
            if len < SEGMENT {
                return self.note();
            }
            let next = newest + 1;
            self.out = private(&segment(&self.dir, next), OpenOptions::new().append(true).create_new(true))?;
            self.segments.push_back((next, 0));
        }
        let gone = self.segments.pop_front();
        self.done = 0;
        self.note()?;
        if let Some((number, _)) = gone {
            fs::remove_file(segment(&self.dir, number))?;
        }
        self.load()
    }

    /// Reads the oldest segment that has something left.
    fn load(&mut self) -> io::Result<()> {
        loop {
            let Some((number, _)) = self.segments.front().copied() else { return Ok(()) };
            let text = match fs::read(segment(&self.dir, number)) {
                Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
                Err(e) => return Err(e),
            };
            // A line without its end was cut off by a crash: nobody was told that it is safe.
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            let skip = usize::try_from(self.done).unwrap_or(usize::MAX);
            self.head = whole.lines().skip(skip).filter(|line| !line.is_empty()).map(str::to_owned).collect();
            if !self.head.is_empty() || self.segments.len() == 1 {
                return Ok(());
            }
            self.segments.pop_front();
            self.done = 0;
            self.note()?;
            fs::remove_file(segment(&self.dir, number))?;
        }
    }

    fn note(&self) -> io::Result<()> {
        let Some((oldest, _)) = self.segments.front() else { return Ok(()) };
        let temporary = self.dir.join("position.tmp");
        let mut file = private(&temporary, OpenOptions::new().write(true).create(true).truncate(true))?;
        write!(file, "{oldest} {}", self.done)?;
        fs::rename(&temporary, self.dir.join("position"))
    }
}

/// Removes everything that waits in `dir`.
///
/// # Errors
/// Of the file system.
pub fn discard(dir: &Path) -> io::Result<()> {
    let fixed = ["position", "url"].map(|name| dir.join(name));
    let logs = segments(dir)?.into_iter().map(|number| segment(dir, number));
    for path in logs.chain(fixed) {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

fn segment(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.log"))
}

/// The numbers that are there, ascending; none without the directory.
fn segments(dir: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".log")?.parse().ok();
    let mut numbers: Vec<u64> = entries.flatten().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn private(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "http://h/";

    fn drain(spool: &mut Spool, n: usize) -> Vec<String> {
        (0..n)
            .map_while(|_| {
                let body = spool.front().map(str::to_owned);
                spool.pop();
                body
            })
            .collect()
    }

    #[test]
    fn bodies_come_in_order_across_restarts_and_segments() {
        let dir = tempfile::tempdir().expect("tempdir");
        let body = |n: usize| format!("{{\"n\":{n},\"x\":\"{}\"}}", "y".repeat(1000));
        let mut spool = Spool::open(dir.path(), URL, 10 << 20).expect("opens");
        for n in 0..1000 {
            assert!(spool.push(&body(n)));
        }
        assert!(segments(dir.path()).expect("lists").len() > 2);
        assert_eq!(drain(&mut spool, 300), (0..300).map(body).collect::<Vec<_>>());
        // As after a kill: nothing is said to the object.
        drop(spool);
        let mut spool = Spool::open(dir.path(), URL, 10 << 20).expect("opens");
        assert!(spool.push(&body(1000)));
        assert_eq!(drain(&mut spool, 2000), (300..=1000).map(body).collect::<Vec<_>>());
        assert!(spool.is_empty());
        let left: u64 = segments(dir.path())
            .expect("lists")
            .iter()
            .map(|n| fs::metadata(segment(dir.path(), *n)).map_or(0, |m| m.len()))
            .sum();
        assert!(left <= SEGMENT + 2000, "the space is given back: {left}");
        let mut spool = Spool::open(dir.path(), URL, 10 << 20).expect("opens");
        assert_eq!(drain(&mut spool, 10), [""; 0], "nothing twice");
    }

    #[test]
    fn a_full_spool_refuses_and_an_empty_one_takes_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut spool = Spool::open(dir.path(), URL, 600_000).expect("opens");
        let body = "b".repeat(99_999);
        let taken = (0..10).filter(|_| spool.push(&body)).count();
        assert_eq!(taken, 6);
        drain(&mut spool, 6);
        assert!(spool.push(&body));
    }

    #[test]
    fn a_cut_line_is_no_event() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut spool = Spool::open(dir.path(), URL, 1 << 20).expect("opens");
        assert!(spool.push("{\"whole\":1}"));
        drop(spool);
        let [number] = segments(dir.path()).expect("lists")[..] else { panic!("one segment") };
        let mut file = OpenOptions::new().append(true).open(segment(dir.path(), number)).expect("opens");
        file.write_all(b"{\"ha").expect("writes");
        let mut spool = Spool::open(dir.path(), URL, 1 << 20).expect("opens");
        assert!(spool.push("{\"next\":1}"));
        assert_eq!(drain(&mut spool, 5), ["{\"whole\":1}", "{\"next\":1}"]);
    }

    #[test]
    fn events_for_another_url_are_nobodys_business() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut spool = Spool::open(dir.path(), URL, 1 << 20).expect("opens");
        assert!(spool.push("{}"));
        drop(spool);
        assert!(Spool::open(dir.path(), "http://other/", 1 << 20).expect("opens").is_empty());
        discard(dir.path()).expect("discards");
        discard(&dir.path().join("missing")).expect("nothing to do");
    }
}
