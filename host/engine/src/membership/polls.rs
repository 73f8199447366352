//! When the registry's handshake inbox is polled (handshake.md section 5, "Poll schedule"): after each heartbeat, every 2 s
//! while an own request waits for its answer, when a local client looks, when the beacon says so. At most one poll runs
//! at a time, and whoever comes while it runs waits for that one.

use std::collections::BTreeMap;

use crate::time::{Duration, Instant};

/// While a request of ours is watched, polls follow each other this closely; nobody but the regular poll and the client's
/// own look comes sooner after another one.
const CLOSE: Duration = Duration::from_secs(2);
/// How long a request is watched.
const WINDOW: Duration = Duration::from_secs(120);
/// An automatic request does not open a second window for its peer within this time.
const WINDOW_REST: Duration = Duration::from_secs(600);
/// Peers whose requests are watched or rest.
const MAX_WINDOWS: usize = 64;
/// How long a client waits for a poll, from the poll's start.
const CLIENT_PATIENCE: Duration = Duration::from_secs(3);
/// Pokes of the beacon that are followed at once, and how fast that right comes back.
const NOTIFY_BURST: u32 = 3;
const NOTIFY_REFILL: Duration = Duration::from_secs(5);

/// Whether a client that wants to see the newest state should wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// What is known is new enough, or not to be had any sooner.
    Now,
    /// Until the next report of a finished poll, but no longer than this.
    Wait {
        /// When to give up; the poll goes on.
        until: Instant,
    },
}

#[derive(Clone, Copy, Debug)]
struct Window {
    opened: Instant,
    open: bool,
}

/// The schedule.
#[derive(Debug, Default)]
pub(super) struct Polls {
    running: bool,
    started: Option<Instant>,
    /// The next poll that something else than a window asks for.
    wanted: Option<Instant>,
    windows: BTreeMap<u32, Window>,
    tokens: Tokens,
}

impl Polls {
    /// Wants a poll at once.
    pub fn want(&mut self, now: Instant) {
        self.want_at(now);
    }

    fn want_at(&mut self, at: Instant) {
        self.wanted = Some(self.wanted.map_or(at, |wanted| wanted.min(at)));
    }

    /// When a poll is due; `None` while one runs or nothing asks for one.
    pub fn next(&self) -> Option<Instant> {
        if self.running {
            return None;
        }
        let closely = self.windows.values().filter(|w| w.open).map(|w| self.follow_up(w.opened)).min();
        [self.wanted, closely].into_iter().flatten().min()
    }

    /// 2 s after the last poll, and after `since`.
    fn follow_up(&self, since: Instant) -> Instant {
        self.started.unwrap_or(since).max(since) + CLOSE
    }

    /// Begins a poll if one is due.
    pub fn start(&mut self, now: Instant) -> bool {
        self.end_windows(now);
        if self.next().is_none_or(|at| now < at) {
            return false;
        }
        self.running = true;
        self.started = Some(now);
        self.wanted = None;
        true
    }

    /// The running poll has come to its end.
    pub fn done(&mut self) {
        self.running = false;
    }

    /// Watches for the answer of `peer`. A second request does not extend its window.
    pub fn open_window(&mut self, now: Instant, peer: u32, explicit: bool) {
        self.end_windows(now);
        let free = match self.windows.get(&peer) {
            Some(window) => !window.open && explicit,
            None => true,
        };
        if !free {
            return;
        }
        if self.windows.len() >= MAX_WINDOWS && !self.windows.contains_key(&peer) {
            // One that only rests may go; while all are open, the regular poll has to do for this peer.
            let resting = self.windows.iter().filter(|(_, w)| !w.open).min_by_key(|(_, w)| w.opened);
            let Some(oldest) = resting.map(|(peer, _)| *peer) else { return };
            self.windows.remove(&oldest);
        }
        self.windows.insert(peer, Window { opened: now, open: true });
    }

    /// No need to watch for `peer` any longer.
    pub fn close_window(&mut self, peer: u32) {
        if let Some(window) = self.windows.get_mut(&peer) {
            window.open = false;
        }
    }

    /// Whether the answer of `peer` is being watched for.
    pub fn watches(&mut self, now: Instant, peer: u32) -> bool {
        self.end_windows(now);
        self.windows.get(&peer).is_some_and(|w| w.open)
    }

    fn end_windows(&mut self, now: Instant) {
        for window in self.windows.values_mut() {
            window.open &= now < window.opened + WINDOW;
        }
        self.windows.retain(|_, w| w.open || now < w.opened + WINDOW_REST);
    }

    /// A client wants to see the newest state.
    pub fn look(&mut self, now: Instant) -> Look {
        let until = match self.started {
            Some(started) if self.running => started + CLIENT_PATIENCE,
            Some(started) if now < started + CLOSE => return Look::Now,
            _ => {
                self.want(now);
                now + CLIENT_PATIENCE
            }
        };
        if now < until { Look::Wait { until } } else { Look::Now }
    }

    /// The beacon pokes. Pokes that come while one is already being followed are one poke.
    pub fn notify(&mut self, now: Instant) {
        let earliest = self.started.map_or(now, |started| (started + CLOSE).max(now));
        if self.wanted.is_some_and(|at| at <= earliest) || !self.tokens.take(now) {
            return;
        }
        self.want_at(earliest);
    }
}

/// A bucket of rights to poll at the beacon's word.
#[derive(Debug, Default)]
struct Tokens {
    /// Spent ones that have not come back yet.
    spent: u32,
    /// Since when the oldest of them is on its way back.
    since: Instant,
}

impl Tokens {
    fn take(&mut self, now: Instant) -> bool {
        while self.spent > 0 && now >= self.since + NOTIFY_REFILL {
            self.spent -= 1;
            self.since += NOTIFY_REFILL;
        }
        if self.spent == NOTIFY_BURST {
            return false;
        }
        if self.spent == 0 {
            self.since = now;
        }
        self.spent += 1;
        true
    }
}
