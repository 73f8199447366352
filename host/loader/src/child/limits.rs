//! How long an isolated plugin may take, how much it may hold, and what follows when it crashes. Numbers only; the watching
//! thread and the session keep them.

use std::time::Duration;

/// Limits of one isolated plugin.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildLimits {
    /// For starting the process, opening the file and the constructor.
    pub create: Duration,
    /// For `init`.
    pub init: Duration,
    /// For a call that decides about a packet or a stream; after it the answer is "no".
    pub decision: Duration,
    /// For any other call; after it the answer is an error.
    pub call: Duration,
    /// A call that is not answered this long after its limit ends the child: it is stuck.
    pub grace: Duration,
    /// How often the child is asked whether it is there.
    pub heartbeat: Duration,
    /// A child that does not answer that within this time is ended.
    pub silence: Duration,
    /// Calls of the child that the host serves at once; more are answered "busy". Each may hold a thread.
    pub serving: usize,
    /// Memory of such calls, bytes.
    pub serving_bytes: usize,
    /// Limit of the child's address space (`RLIMIT_AS`), bytes.
    pub address_space: Option<u64>,
    /// What follows a crash.
    pub restarts: Restarts,
}

impl Default for ChildLimits {
    fn default() -> Self {
        ChildLimits {
            create: Duration::from_secs(10),
            init: Duration::from_secs(10),
            decision: Duration::from_secs(1),
            call: Duration::from_secs(60),
            grace: Duration::from_secs(5),
            heartbeat: Duration::from_secs(1),
            silence: Duration::from_secs(10),
            serving: 512,
            serving_bytes: 32 << 20,
            address_space: None,
            restarts: Restarts::default(),
        }
    }
}

/// What follows a crash.
#[derive(Clone, Debug, PartialEq)]
pub struct Restarts {
    /// Pause before the first restart.
    pub first: Duration,
    /// Each crash soon after a start doubles the pause, up to this.
    pub longest: Duration,
    /// A child that lived this long starts the count, and the pause, anew.
    pub healthy: Duration,
    /// After so many crashes in a row it is not started any more; 0 never gives up.
    pub quarantine: u32,
}

impl Default for Restarts {
    /// First restart after 100 ms, then 200 ms and so on up to 30 s; given up after 10 crashes none of which was a minute
    /// after its start.
    fn default() -> Self {
        Restarts {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(30),
            healthy: Duration::from_secs(60),
            quarantine: 10,
        }
    }
}

impl Restarts {
    /// The pause after `crashes` (at least one) in a row.
    pub fn pause(&self, crashes: u32) -> Duration {
        let doubled = 1u32.checked_shl(crashes.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(doubled).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let restarts = Restarts::default();
        let ms: Vec<_> = (1..=11).map(|n| restarts.pause(n).as_millis()).collect();
        assert_eq!(ms, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        assert_eq!(restarts.pause(u32::MAX), restarts.longest);
    }
}
