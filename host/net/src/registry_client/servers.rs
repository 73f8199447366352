//! The registries a client knows: the primary and its standbys, and which of them is worth a try.

use std::sync::{Mutex, PoisonError};

use std::time::Duration;
use tokio::time::Instant;

/// How long a registry that could not be reached is tried last.
const AVOIDED: Duration = Duration::from_secs(10);

/// Where requests can go, in the order of preference.
#[derive(Debug)]
pub(super) struct Servers {
    addrs: Vec<String>,
    /// When each one last failed.
    failed: Mutex<Vec<Option<Instant>>>,
}

impl Servers {
    pub fn new(addrs: Vec<String>) -> Self {
        let failed = Mutex::new(vec![None; addrs.len()]);
        Self { addrs, failed }
    }

    pub fn addr(&self, server: usize) -> &str {
        self.addrs.get(server).map_or("", String::as_str)
    }

    /// The one to ask: the first that has not failed lately.
    pub fn preferred(&self) -> usize {
        self.order().first().copied().unwrap_or(0)
    }

    /// All of them, those that failed lately behind the others.
    pub fn order(&self) -> Vec<usize> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut order: Vec<usize> = (0..self.addrs.len()).collect();
        let avoided = |server: &usize| failed[*server].is_some_and(|at| at.elapsed() < AVOIDED);
        // Stable, so the order of preference stays within both groups.
        order.sort_by_key(avoided);
        order
    }

    pub fn note(&self, server: usize, reached: bool) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = failed.get_mut(server) {
            *at = (!reached).then(Instant::now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_failed_is_tried_last_for_a_while() {
        let servers = Servers::new(["a", "b", "c"].map(str::to_owned).to_vec());
        assert_eq!(servers.order(), [0, 1, 2]);
        servers.note(0, false);
        assert_eq!((servers.order(), servers.preferred()), (vec![1, 2, 0], 1));
        servers.note(1, false);
        assert_eq!(servers.order(), [2, 0, 1]);
        tokio::time::advance(AVOIDED).await;
        assert_eq!(servers.order(), [0, 1, 2]);
        servers.note(0, false);
        servers.note(0, true);
        assert_eq!(servers.preferred(), 0);
    }
}
