//! The plugin's log lines on their way to the host: never a reason to wait. Lines go to a bounded queue, one thread sends
//! what is there together, and lines that find the queue full are counted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::child::link::Link;
use crate::child::message::{Line, Mention};
use crate::child::outbox::Patience;

/// Lines that may wait.
const MAX_LINES: usize = 1024;
/// Longest text of a line; the host keeps less.
const MAX_TEXT: usize = 16 << 10;
/// Lines sent together at most.
const BATCH: usize = 64;

pub(super) struct Logs {
    /// What the host keeps, one bit for each level; renewed with every ping.
    levels: AtomicU8,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Line>,
    dropped: u64,
    /// A batch is on its way.
    sending: bool,
    closed: bool,
}

impl Logs {
    pub fn new(levels: u8) -> Self {
        Logs { levels: AtomicU8::new(levels), queue: Mutex::default(), changed: Condvar::new() }
    }

    pub fn set_levels(&self, levels: u8) {
        self.levels.store(levels, Ordering::Relaxed);
    }

    pub fn enabled(&self, level: u8) -> bool {
        self.levels.load(Ordering::Relaxed) & (1 << level.clamp(1, 5).saturating_sub(1)) != 0
    }

    pub fn put(&self, level: u8, target: &str, message: &str, fields: String) {
        let clip = |text: &str| text[..text.floor_char_boundary(MAX_TEXT.min(text.len()))].to_owned();
        // Half an object is none.
        let fields = if fields.len() > MAX_TEXT { "{\"fields\":\"too long\"}".to_owned() } else { fields };
        let line = Line { level, target: clip(target), message: clip(message), fields };
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.lines.len() >= MAX_LINES {
            queue.dropped += 1;
            return;
        }
        queue.lines.push_back(line);
        drop(queue);
        self.changed.notify_all();
    }

    /// Waits until every line is on its way.
    pub fn flush(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while (queue.sending || !queue.lines.is_empty()) && !queue.closed {
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sends lines until the session ends; the work of one thread.
    pub fn run(&self, link: &Link) {
        loop {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            while queue.lines.is_empty() {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            let n = queue.lines.len().min(BATCH);
            let lines = queue.lines.drain(..n).collect();
            let dropped = std::mem::take(&mut queue.dropped);
            queue.sending = true;
            drop(queue);
            let sent = link.note(&Mention::Logs { lines, dropped }, Patience::Endless);
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.sending = false;
            queue.closed = sent.is_err();
            drop(queue);
            self.changed.notify_all();
            if sent.is_err() {
                return;
            }
        }
    }
}
