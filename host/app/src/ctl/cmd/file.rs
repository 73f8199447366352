//! `send-file`: streamed with resume, or as one frame for receivers that know nothing better.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use pilot_net::ipc::Client;
use pilot_wire::dataexchange::{
    ERR_PREFIX, MAX_FILE_NAME, MAX_FRAME_ENV, PORTABLE_MAX_FRAME, file_prefix, max_frame,
};
use pilot_wire::ipc::Request;
use serde_json::json;
use tokio::io::AsyncReadExt;

use super::Outcome;
use crate::ctl::context::{Context, DIAL_LIMIT, Target};
use crate::ctl::dx::DataExchange;
use crate::ctl::fail::Failure;
use crate::ctl::filestream::{self, Source, TransferError};
use crate::ctl::out::Report;
use crate::ctl::trust_gate;
use crate::ctl::values::{bytes, duration, rounded, took};

/// Bytes of a file read at a time for a single frame.
const PIECE: usize = 256 << 10;

/// `send-file`
#[derive(Debug, Args)]
#[command(after_help = "Example: pilotctl send-file bob report.pdf\n\
              The same again after an interruption: it goes on where it stopped.")]
pub(crate) struct SendFile {
    /// Address, node number or host name.
    peer: String,
    /// The file.
    path: PathBuf,
    /// How long the receiver may stay silent.
    #[arg(long, default_value = "90s", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
    /// Forget the relay first, so that the direct path is tried.
    #[arg(long)]
    prefer_direct: bool,
    /// Send one frame instead of a stream (at most 16 MiB, or PILOT_DATAEXCHANGE_MAX_FRAME).
    #[arg(long)]
    no_stream: bool,
    /// Do not ask public peers for trust on the way.
    #[arg(long)]
    no_auto_handshake: bool,
}

/// What went over the wire, and how.
struct Delivery {
    ack: String,
    method: &'static str,
    resumed: u64,
}

pub(crate) async fn run(ctx: &Context, args: SendFile) -> Outcome {
    let name = name_of(&args.path)?;
    let client = ctx.connect().await?;
    let target = ctx.target(&client, &args.peer).await?;
    trust_gate::check(ctx, &client, &target, !args.no_auto_handshake).await?;
    if args.prefer_direct && client.json(&Request::PreferDirect { node: target.addr.node }).await.is_err() {
        ctx.detail(|| "this daemon cannot prefer direct paths; going on".to_owned());
    }

    let progress = Progress::new(ctx, &args.path);
    let source = {
        let (path, name, progress) = (args.path.clone(), name.clone(), progress.clone());
        let hash = tokio::task::spawn_blocking(move || {
            progress.phase("hashing");
            Source::open(&path, name, |n| progress.at(n))
        });
        hash.await.map_err(|e| Failure::internal(e.to_string()))?.map_err(|e| unreadable(&args.path, &e))?
    };
    progress.length(source.size);
    let start = Instant::now();
    let outcome = deliver(ctx, &client, &target, &source, &args, &progress).await;
    progress.clear();
    let delivery = outcome?;

    let elapsed = start.elapsed().as_secs_f64();
    let moved = source.size - delivery.resumed;
    // Decimal megabytes, as the field has them; people see the unit beside the number.
    let rate = moved as f64 / 1e6 / elapsed.max(1e-6);
    let sha256 = hex::encode(source.sha256);
    let resumed = match delivery.resumed {
        0 => String::new(),
        n => format!(" (resumed at {})", bytes(n)),
    };
    // What fits into a few packets has no speed worth telling.
    let speed = if moved < 100_000 { String::new() } else { format!(", {}/s", bytes((rate * 1e6) as u64)) };
    let text = format!(
        "{} {}: {} in {}{speed}{resumed}\n{}",
        ctx.out.green("sent"),
        name,
        bytes(source.size),
        took(Duration::from_secs_f64(elapsed)),
        ctx.out.dim(&format!("sha256 {sha256}"))
    );
    let data = json!({
        "filename": name,
        "bytes": source.size,
        "destination": target.addr.to_string(),
        "ack": delivery.ack,
        "elapsed_ms": rounded(elapsed * 1e3),
        "throughput_mbps": rounded(rate),
        "sha256": sha256,
        "resumed_bytes": delivery.resumed,
        "method": delivery.method,
    });
    Ok(Report::new(data, text))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let text = format!("cannot read {}: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::NotFound => Failure::not_found(text),
        _ => Failure::invalid(text),
    }
}

/// The name the receiver is told: the last part of the path, at most 255 bytes.
fn name_of(path: &Path) -> Result<String, Failure> {
    let meta = std::fs::metadata(path).map_err(|e| unreadable(path, &e))?;
    if !meta.is_file() {
        return Err(Failure::invalid(format!("{} is not a regular file", path.display())));
    }
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    if name.len() > MAX_FILE_NAME {
        return Err(Failure::invalid(format!(
            "the file name has {} bytes, at most {MAX_FILE_NAME} are possible",
            name.len()
        )));
    }
    Ok(name)
}

async fn deliver(
    ctx: &Context,
    client: &Client,
    target: &Target,
    source: &Source,
    args: &SendFile,
    progress: &Progress,
) -> Result<Delivery, Failure> {
    if args.no_stream {
        return one_frame(client, target, source, args, None).await;
    }
    let mut peer = DataExchange::open(client, target, args.timeout.min(DIAL_LIMIT)).await?;
    progress.phase("sending");
    match filestream::send(&mut peer, source, args.timeout, |n| progress.at(n)).await {
        Ok(sent) => {
            peer.close().await?;
            let ack = format!("ACK FILE {} bytes", source.size);
            Ok(Delivery { ack, method: "stream", resumed: sent.resumed })
        }
        Err(TransferError::Unsupported(why)) => {
            peer.close().await?;
            ctx.detail(|| format!("the receiver does not stream files ({why}); sending one frame"));
            one_frame(client, target, source, args, Some(why)).await
        }
        Err(TransferError::Refused(text)) => Err(Failure::internal(text)),
        Err(TransferError::NoReply(error)) => {
            let failure: Failure = error.into();
            Err(failure.hint("run the same command again: the transfer resumes where it stopped"))
        }
        Err(error @ TransferError::File { .. }) => Err(Failure::invalid(error.to_string())),
        Err(TransferError::Daemon(error)) => Err(error.into()),
    }
}

/// The largest frame that this receiver is known to take: what every receiver takes, or what the environment says of the
/// receivers one has to do with (dataexchange.md section 1.1).
fn frame_limit() -> u32 {
    match std::env::var(MAX_FRAME_ENV) {
        Ok(value) => max_frame(Some(&value)),
        Err(_) => PORTABLE_MAX_FRAME,
    }
}

/// The old way: the whole file in one FILE frame over a connection of its own.
async fn one_frame(
    client: &Client,
    target: &Target,
    source: &Source,
    args: &SendFile,
    instead: Option<String>,
) -> Result<Delivery, Failure> {
    // Receivers of the first kind refuse `..` anywhere in a name and end the connection.
    let mut name = source.name.clone();
    while name.contains("..") {
        name = name.replace("..", ".");
    }
    let too_large = || {
        let why = instead.as_ref().map(|w| format!("; it does not take streams ({w})")).unwrap_or_default();
        Failure::invalid(format!(
            "{} is too large for one frame to an unknown receiver{why}",
            bytes(source.size)
        ))
    };
    let prefix = file_prefix(&name, source.size).map_err(|_| too_large())?;
    if source.size + prefix.len() as u64 > u64::from(frame_limit()) {
        return Err(too_large());
    }
    let mut peer = DataExchange::open(client, target, args.timeout.min(DIAL_LIMIT)).await?;
    peer.send([prefix.into()]).await?;
    // Piece by piece: a frame may be far larger than what this process should hold.
    let mut file = tokio::fs::File::open(&source.path).await.map_err(|e| unreadable(&source.path, &e))?;
    let mut left = source.size;
    while left > 0 {
        let mut piece = bytes::BytesMut::with_capacity(PIECE.min(usize::try_from(left).unwrap_or(PIECE)));
        let n = file.read_buf(&mut piece).await.map_err(|e| unreadable(&source.path, &e))? as u64;
        if n == 0 {
            // The receiver drops a frame that ends early.
            let text = format!("{} became shorter while it was sent", source.path.display());
            return Err(Failure::invalid(text));
        }
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= piece.len() as u64;
        peer.send([piece.freeze()]).await?;
    }
    let reply = peer.reply(args.timeout).await?;
    peer.close().await?;
    let ack = String::from_utf8_lossy(&reply.payload).into_owned();
    if ack.starts_with(ERR_PREFIX) {
        return Err(Failure::internal(format!("receiver refused the file: {ack}")));
    }
    Ok(Delivery { ack, method: "frame", resumed: 0 })
}

/// A bar with rate and remaining time on a terminal, nothing elsewhere.
#[derive(Clone)]
struct Progress(ProgressBar);

impl Progress {
    fn new(ctx: &Context, path: &Path) -> Progress {
        let size = std::fs::metadata(path).map(|m| m.len()).unwrap_or(0);
        if !ctx.out.interactive() {
            return Progress(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(size);
        let template = "{msg:8} {percent:>3} % {wide_bar:.cyan/238} {bytes:>10} of {total_bytes}  \
                        {bytes_per_sec:>12}  {eta:>4} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        Progress(bar)
    }

    fn phase(&self, name: &'static str) {
        self.0.set_message(name);
        self.0.reset();
    }

    fn length(&self, n: u64) {
        self.0.set_length(n);
    }

    fn at(&self, n: u64) {
        self.0.set_position(n);
    }

    fn clear(&self) {
        self.0.finish_and_clear();
    }
}
