//! Reliable streams (stream.md): a TCP-like connection in packets of protocol 1.
//!
//! Used by the engine only; outside the crate just [`State`] is visible. `conn` holds one connection and its states,
//! built from a sending half (`send`, which finds losses with `scoreboard` and asks `cc` how much may be in flight)
//! and a receiving half (`recv`). `table` holds all connections. Nothing here knows tunnels, paths or trust.

pub(crate) mod cc;
pub(crate) mod conn;
pub(crate) mod pacer;
pub(crate) mod pieces;
pub(crate) mod ranges;
pub(crate) mod rate;
pub(crate) mod recv;
pub(crate) mod rtt;
pub(crate) mod scoreboard;
pub(crate) mod send;
pub(crate) mod sendbuf;
pub(crate) mod seq;
pub(crate) mod table;

use std::fmt;

/// Where a stream is in its life; prints as the texts of stream.md section 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Over.
    Closed,
    /// We sent a SYN.
    SynSent,
    /// Open in both directions.
    Established,
    /// We sent a FIN.
    FinWait,
    /// Both sides are done; repeats are still answered.
    TimeWait,
}

impl State {
    /// The text of status output.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Closed => "CLOSED",
            Self::SynSent => "SYN_SENT",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::TimeWait => "TIME_WAIT",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
