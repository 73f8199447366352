//! How much may be in flight: the congestion controller behind one small trait, so that another algorithm can take its
//! place without touching the sender.

mod bbr;
mod cubic;

use std::fmt;

pub(crate) use bbr::Bbr;
pub(crate) use cubic::Cubic;

use super::rate::Sample;
use super::rtt::Rtt;
use crate::time::{Duration, Instant};

/// Bytes a stream may send before it has learnt anything (stream.md section 3, "initial cwnd").
pub(crate) const INITIAL_WINDOW: u64 = 40_960;

/// What an acknowledgement brought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acked {
    /// When it arrived.
    pub(crate) now: Instant,
    /// Bytes newly known to have arrived, cumulatively or selectively.
    pub(crate) bytes: u64,
    /// Bytes newly considered lost.
    pub(crate) lost: u64,
    /// Bytes in flight now.
    pub(crate) in_flight: u64,
    /// The sender was held back by this controller, not by the application or the peer's window.
    pub(crate) limited: bool,
    /// A loss that acknowledgements showed is being repaired; the window was reduced for it if that is the controller's way.
    pub(crate) repairing: bool,
    /// A fresh round trip time.
    pub(crate) rtt: Option<Duration>,
    /// A fresh delivery rate.
    pub(crate) sample: Option<Sample>,
}

/// A congestion controller: told what happens, asked for the window. All amounts are payload bytes.
pub(crate) trait Controller: fmt::Debug + Send {
    /// Segments are now at most this long.
    fn set_segment(&mut self, bytes: u64);
    /// Something arrived.
    fn on_ack(&mut self, acked: Acked, rtt: &Rtt);
    /// The first loss of a flight was noticed.
    fn on_loss(&mut self, now: Instant);
    /// Nothing was heard for a whole retransmission timeout.
    fn on_timeout(&mut self, now: Instant);
    /// Bytes that may be in flight.
    fn window(&self) -> u64;
    /// Window at which slow start ends; `u64::MAX` before the first loss.
    fn ssthresh(&self) -> u64;
    /// Bytes per second at which to send; `None`: as fast as the window allows.
    fn pace(&self) -> Option<u64> {
        None
    }
}
