//! The parent's side of a child process: start it in a role, ask it things, end it. Every wait has a limit, and a child
//! never outlives its parent: its input closes with the parent, and that ends it.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::proc::Usage;
use crate::protocol::{Reply, Request, Target};

/// Longest a child may take to come up, and to go after its input was closed.
const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Longest one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(180);

/// One child process.
#[derive(Debug)]
pub struct Worker {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// How other children reach it.
    pub target: Target,
}

impl Worker {
    /// Starts this very program in `role` with `args` and waits until it is up.
    ///
    /// # Errors
    /// When it does not start, says something unexpected, or takes too long.
    pub async fn start(role: &'static str, args: &[String]) -> Result<Worker> {
        let program = std::env::current_exe().context("where is this program?")?;
        let mut child = Command::new(program)
            .arg("role")
            .arg(role)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting a child in the role {role}"))?;
        let input = child.stdin.take().context("child without input")?;
        let output = child.stdout.take().context("child without output")?;
        let mut output = BufReader::new(output).lines();
        match timeout(START_LIMIT, next(role, &mut output)).await {
            Ok(Ok(Reply::Ready(target))) => Ok(Worker { name: role, child, input, output, target }),
            Ok(Ok(Reply::Failed(text))) => bail!("{role} did not start: {text}"),
            Ok(Ok(other)) => bail!("{role} started with an unexpected {other:?}"),
            Ok(Err(e)) => Err(e),
            Err(_) => bail!("{role} did not start within {START_LIMIT:?}"),
        }
    }

    async fn ask(&mut self, request: &Request) -> Result<Reply> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        let exchange = async {
            self.input.write_all(line.as_bytes()).await?;
            self.input.flush().await?;
            next(self.name, &mut self.output).await
        };
        match timeout(REQUEST_LIMIT, exchange).await {
            Ok(Ok(Reply::Failed(text))) => bail!("{}: {request:?} failed: {text}", self.name),
            Ok(reply) => reply,
            Err(_) => bail!("{}: {request:?} took longer than {REQUEST_LIMIT:?}", self.name),
        }
    }

    /// Points this child at `peer`.
    ///
    /// # Errors
    /// The child's.
    pub async fn aim(&mut self, peer: &Worker) -> Result<()> {
        self.done(&Request::Target(peer.target.clone())).await
    }

    /// A request without a result.
    ///
    /// # Errors
    /// The child's.
    pub async fn done(&mut self, request: &Request) -> Result<()> {
        match self.ask(request).await? {
            Reply::Done => Ok(()),
            other => bail!("{}: unexpected {other:?}", self.name),
        }
    }

    /// A request whose result is the time it took.
    ///
    /// # Errors
    /// The child's.
    pub async fn took(&mut self, request: &Request) -> Result<Duration> {
        match self.ask(request).await? {
            Reply::Took(nanos) => Ok(Duration::from_nanos(nanos)),
            other => bail!("{}: unexpected {other:?}", self.name),
        }
    }

    /// Round trips in nanoseconds: as the socket's owner sees them, and as the caller does.
    ///
    /// # Errors
    /// The child's.
    pub async fn pings(&mut self, count: u32) -> Result<(Vec<u64>, Vec<u64>)> {
        match self.ask(&Request::Ping { count }).await? {
            Reply::Pings { inner, called } => Ok((inner, called)),
            other => bail!("{}: unexpected {other:?}", self.name),
        }
    }

    /// UDP payload bytes sent and received since the start.
    ///
    /// # Errors
    /// The child's.
    pub async fn counters(&mut self) -> Result<(u64, u64)> {
        match self.ask(&Request::Counters).await? {
            Reply::Counters { sent, received } => Ok((sent, received)),
            other => bail!("{}: unexpected {other:?}", self.name),
        }
    }

    /// Processor time and memory of the child at this moment.
    ///
    /// # Errors
    /// When the child is gone.
    pub fn usage(&self) -> Result<Usage> {
        let pid = self.child.id().with_context(|| format!("{} ended", self.name))?;
        Usage::of(pid)
    }

    /// Ends the child by closing its input; one that does not go by itself is killed.
    ///
    /// # Errors
    /// When it ended badly or had to be killed.
    pub async fn stop(self) -> Result<()> {
        let Worker { name, mut child, input, .. } = self;
        drop(input);
        match timeout(STOP_LIMIT, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => bail!("{name} ended with {status}"),
            Ok(Err(e)) => Err(e).context(name),
            Err(_) => {
                child.kill().await?;
                bail!("{name} did not end by itself within {STOP_LIMIT:?} and was killed")
            }
        }
    }
}

async fn next(name: &str, output: &mut Lines<BufReader<ChildStdout>>) -> Result<Reply> {
    let line = output.next_line().await?.with_context(|| format!("{name} ended without an answer"))?;
    serde_json::from_str(&line).with_context(|| format!("{name} said {line:?}"))
}
