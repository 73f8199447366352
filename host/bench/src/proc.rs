//! Processor time and memory of a process, from /proc. Linux only, as the whole project at present.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Clock ticks per second in /proc/PID/stat: fixed for user space on Linux (USER_HZ).
const TICKS: u64 = 100;
/// Page size in /proc/PID/statm on x86-64.
const PAGE: u64 = 4096;

/// What one process used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time since its start, to 10 ms.
    pub cpu: Duration,
    /// Resident memory now, bytes.
    pub resident: u64,
}

impl Usage {
    /// Of the process `pid`.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> Result<Usage> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let statm = fs::read_to_string(format!("/proc/{pid}/statm"))?;
        Ok(Usage {
            cpu: cpu(&stat).context("reading /proc/PID/stat")?,
            resident: resident(&statm).context("reading /proc/PID/statm")?,
        })
    }
}

fn cpu(stat: &str) -> Option<Duration> {
    // The second field is the program's name in parentheses and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * (1000 / TICKS)))
}

fn resident(statm: &str) -> Option<u64> {
    Some(statm.split_whitespace().nth(1)?.parse::<u64>().ok()? * PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_an_awkward_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 99 1000 25";
        assert_eq!(cpu(stat), Some(Duration::from_secs(3)));
        assert_eq!(resident("5000 25 3 1 0 9 0"), Some(102_400));
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(Usage::of(std::process::id()).unwrap().resident > 0);
    }
}
