//! The child's side: a process in one role that answers the parent's requests until its input ends.

pub mod answer;
pub mod duties;
pub mod echo;
pub mod load;
pub mod pilot;
pub mod quic;
pub mod rendezvous;
pub mod tcp;
pub mod tls;

use std::io::Write;

use anyhow::{Result, bail};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};

use crate::protocol::{Reply, Request, Target};

/// The parent, as a child sees it.
#[derive(Debug)]
pub struct Parent {
    input: Lines<BufReader<Stdin>>,
}

impl Parent {
    /// Over standard input and output. Must be called inside the runtime.
    pub fn new() -> Self {
        Parent { input: BufReader::new(tokio::io::stdin()).lines() }
    }

    /// Says that this child is up.
    ///
    /// # Errors
    /// When the parent is gone.
    pub fn ready(&self, me: Target) -> Result<()> {
        say(&Reply::Ready(me))
    }

    /// The next request; `None` when it is time to go.
    ///
    /// # Errors
    /// A line that is no request.
    pub async fn next(&mut self) -> Result<Option<Request>> {
        match self.input.next_line().await? {
            Some(line) => Ok(Some(serde_json::from_str(&line)?)),
            None => Ok(None),
        }
    }

    /// Answers the last request.
    ///
    /// # Errors
    /// When the parent is gone.
    pub fn answer(&self, result: Result<Reply>) -> Result<()> {
        match result {
            Ok(reply) => say(&reply),
            Err(e) => say(&Reply::Failed(format!("{e:#}"))),
        }
    }
}

/// Prints one line for the parent.
///
/// # Errors
/// When the parent is gone.
pub fn say(reply: &Reply) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, reply)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

/// The answer to a request that a role has no use for.
///
/// # Errors
/// Always.
pub fn not_mine(request: &Request) -> Result<Reply> {
    bail!("this role does not know {request:?}")
}

/// What a ping carries: 32 bytes that tell it from its neighbours.
pub fn ping_payload(number: u32) -> [u8; 32] {
    let mut payload = [0x5A; 32];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    payload
}
