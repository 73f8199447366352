//! `inbox` and `received`: what the data exchange plugin stored (dataexchange.md sections 3 and 4). Reads files only; the
//! daemon is asked where they are.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use pilot_wire::addr::Addr;
use serde_json::{Value, json};

use super::Outcome;
use crate::ctl::context::{Context, literal};
use crate::ctl::fail::Failure;
use crate::ctl::out::{Report, row};
use crate::ctl::values::{bytes, local_time, moment, number, text};

/// A stored message larger than this is not shown; the plugin takes no such frames.
const MAX_MESSAGE_FILE: u64 = 512 << 20;
/// Characters of a message in the list.
const PREVIEW: usize = 200;

/// `inbox`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Inbox {
    #[command(subcommand)]
    one: Option<InboxOne>,
    #[command(flatten)]
    filter: InboxFilter,
}

#[derive(Debug, Subcommand)]
enum InboxOne {
    /// Show one message whole
    Read {
        /// The message's id, as the list shows it.
        id: String,
    },
}

#[derive(Debug, Args)]
struct InboxFilter {
    /// Delete all messages.
    #[arg(long)]
    clear: bool,
    /// Only the newest message.
    #[arg(long)]
    latest: bool,
    /// Show at most this many, newest first; 0 shows all.
    #[arg(long, default_value_t = 10, value_name = "N")]
    limit: usize,
    /// Only messages of this node (address or node number).
    #[arg(long, value_name = "PEER")]
    from: Option<String>,
    /// Only messages after this time, or of the last so long (2h).
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only messages before this time.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    before: Option<Timestamp>,
    /// Do not shorten messages.
    #[arg(long)]
    full: bool,
}

/// `received`
#[derive(Debug, Args)]
pub(crate) struct Received {
    /// Delete all received files.
    #[arg(long)]
    clear: bool,
    /// Show at most this many, newest first; 0 shows all.
    #[arg(long, default_value_t = 10, value_name = "N")]
    limit: usize,
    /// Only files after this time, or of the last so long (2h).
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only files before this time.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    before: Option<Timestamp>,
}

/// One stored message.
struct Stored {
    at: Timestamp,
    json: Value,
}

pub(crate) async fn inbox(ctx: &Context, args: Inbox) -> Outcome {
    let dir = ctx.dirs().await.inbox;
    if let Some(InboxOne::Read { id }) = args.one {
        return read_one(&dir, &id);
    }
    let filter = args.filter;
    if filter.clear {
        return clear(&dir, |name| name.ends_with(".json"), "message");
    }
    let from =
        match &filter.from {
            Some(peer) => Some(literal(peer).ok_or_else(|| {
                Failure::invalid(format!("{peer:?} is neither an address nor a node number"))
            })?),
            None => None,
        };
    let mut messages = messages(&dir)?;
    messages.retain(|m| {
        let sender = || text(&m.json, "from").parse::<Addr>().ok();
        from.is_none_or(|f| sender().is_some_and(|s| s.node == f.node))
            && filter.since.is_none_or(|t| m.at >= t)
            && filter.before.is_none_or(|t| m.at < t)
    });
    messages.sort_by(|a, b| (b.at, text(&b.json, "id")).cmp(&(a.at, text(&a.json, "id"))));
    let total = messages.len();
    let limit = match (filter.latest, filter.limit) {
        (true, _) => 1,
        (false, 0) => total,
        (false, n) => n,
    };
    let shown: Vec<Value> = messages.into_iter().take(limit).map(|m| m.json).collect();
    let text = inbox_text(ctx, &shown, total, filter.full || filter.latest);
    let data = json!({ "messages": shown, "total": total, "dir": dir.display().to_string() });
    Ok(Report::new(data, text))
}

fn inbox_text(ctx: &Context, messages: &[Value], total: usize, full: bool) -> String {
    if messages.is_empty() {
        return "the inbox is empty".to_owned();
    }
    let out = &ctx.out;
    let mut blocks: Vec<String> = messages
        .iter()
        .map(|m| {
            let body = match text(m, "data_encoding") {
                "base64" => out.dim(&format!(
                    "({} of binary data; pilotctl inbox read {})",
                    bytes(number(m, "bytes")),
                    text(m, "id")
                )),
                _ => shorten(text(m, "data"), full),
            };
            let at = text(m, "received_at").parse::<Timestamp>().map(Timestamp::as_second).unwrap_or(0);
            let head = format!("{}  {} from {}", local_time(at), text(m, "type"), text(m, "from"));
            format!("{}  {}\n  {body}", out.bold(&head), out.dim(text(m, "id")))
        })
        .collect();
    if messages.len() < total {
        blocks.push(out.dim(&format!("{} more: --limit 0", total - messages.len())));
    }
    blocks.join("\n")
}

/// One line of a message, control characters made visible: it was written by somebody else.
fn shorten(data: &str, full: bool) -> String {
    let clean = |c: char| if c.is_control() && !(full && matches!(c, '\n' | '\t')) { ' ' } else { c };
    if full {
        return data.chars().map(clean).collect();
    }
    let mut line: String = data.chars().take(PREVIEW).map(clean).collect();
    if data.chars().nth(PREVIEW).is_some() {
        line.push('\u{2026}');
    }
    line
}

fn read_one(dir: &Path, id: &str) -> Outcome {
    let missing = || {
        Failure::not_found(format!("no message {id:?} in {}", dir.display()))
            .hint("list them with: pilotctl inbox")
    };
    if id.contains('/') || id.starts_with('.') {
        return Err(missing());
    }
    let name = id.strip_suffix(".json").unwrap_or(id);
    let message = load(&dir.join(format!("{name}.json"))).ok_or_else(missing)?.json;
    let body = match text(&message, "data_encoding") {
        "base64" => {
            let raw = STANDARD.decode(text(&message, "data_b64")).unwrap_or_default();
            String::from_utf8(raw).unwrap_or_else(|_| text(&message, "data_b64").to_owned())
        }
        _ => text(&message, "data").to_owned(),
    };
    Ok(Report::new(message, body))
}

/// All messages; files that are none are skipped. A missing directory holds none.
fn messages(dir: &Path) -> Result<Vec<Stored>, Failure> {
    let names = entries(dir)?;
    let is_message = |name: &OsString| {
        name.to_string_lossy().ends_with(".json") && !name.to_string_lossy().starts_with('.')
    };
    Ok(names.into_iter().filter(is_message).filter_map(|name| load(&dir.join(name))).collect())
}

fn load(path: &Path) -> Option<Stored> {
    let meta = std::fs::metadata(path).ok().filter(|m| m.is_file() && m.len() <= MAX_MESSAGE_FILE)?;
    let mut json: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let members = json.as_object_mut()?;
    let id = path.file_stem()?.to_string_lossy().into_owned();
    members.insert("id".to_owned(), id.into());
    // Older daemons wrote no encoding: base64 when there is only that.
    if !members.contains_key("data_encoding") {
        let encoding =
            if members.contains_key("data_b64") && !members.contains_key("data") { "base64" } else { "utf8" };
        members.insert("data_encoding".to_owned(), encoding.into());
    }
    let modified = || meta.modified().ok().and_then(|t| Timestamp::try_from(t).ok());
    let at = text(&json, "received_at").parse().ok().or_else(modified)?;
    Some(Stored { at, json })
}

/// The names in a directory; a missing one has none.
fn entries(dir: &Path) -> Result<Vec<OsString>, Failure> {
    match std::fs::read_dir(dir) {
        Ok(entries) => Ok(entries.filter_map(|e| e.ok()).map(|e| e.file_name()).collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Failure::internal(format!("cannot read {}: {e}", dir.display()))),
    }
}

/// Deletes the files of a directory whose names `mine` accepts; directories and other files stay.
fn clear(dir: &Path, mine: impl Fn(&str) -> bool, what: &str) -> Outcome {
    if !dir.exists() {
        return Err(Failure::not_found(format!("{} does not exist", dir.display())));
    }
    let mut cleared = 0;
    for name in entries(dir)? {
        let path = dir.join(&name);
        let is_file = std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_file());
        if !is_file || !mine(&name.to_string_lossy()) {
            continue;
        }
        match std::fs::remove_file(&path) {
            Ok(()) => cleared += 1,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Failure::internal(format!("cannot delete {}: {e}", path.display()))),
        }
    }
    let s = if cleared == 1 { "" } else { "s" };
    Ok(Report::new(json!({ "cleared": cleared }), format!("{cleared} {what}{s} deleted")))
}

pub(crate) async fn received(ctx: &Context, args: Received) -> Outcome {
    let dir = ctx.dirs().await.received;
    if args.clear {
        return clear(&dir, |name| !name.starts_with('.'), "file");
    }
    let mut files: Vec<(Timestamp, Value)> = entries(&dir)?
        .into_iter()
        .filter(|name| !name.to_string_lossy().starts_with('.'))
        .filter_map(|name| file_row(dir.join(name)))
        .filter(|(at, _)| args.since.is_none_or(|t| *at >= t) && args.before.is_none_or(|t| *at < t))
        .collect();
    files.sort_by(|(a, x), (b, y)| (b, text(y, "name")).cmp(&(a, text(x, "name"))));
    let total = files.len();
    let limit = if args.limit == 0 { total } else { args.limit };
    let shown: Vec<Value> = files.into_iter().take(limit).map(|(_, row)| row).collect();
    let rows = shown.iter().map(|f| {
        let at = text(f, "modified").parse::<Timestamp>().map(Timestamp::as_second).unwrap_or(0);
        row![local_time(at), bytes(number(f, "bytes")), shorten(text(f, "name"), true)]
    });
    let mut report = match total {
        0 => "no files have arrived".to_owned(),
        _ => ctx.out.table(&["RECEIVED AT", "SIZE", "NAME"], &["SIZE"], rows.collect()),
    };
    if shown.len() < total {
        report += &format!("\n{}", ctx.out.dim(&format!("{} more: --limit 0", total - shown.len())));
    }
    if total > 0 {
        report += &format!("\n{}", ctx.out.dim(&format!("in {}", dir.display())));
    }
    let data = json!({ "files": shown, "total": total, "dir": dir.display().to_string() });
    Ok(Report::new(data, report))
}

fn file_row(path: PathBuf) -> Option<(Timestamp, Value)> {
    let meta = std::fs::symlink_metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
    let modified = Timestamp::try_from(meta.modified().ok()?).ok()?;
    let row = json!({
        "name": path.file_name()?.to_string_lossy(),
        "bytes": meta.len(),
        "modified": modified.to_string(),
        "path": path.display().to_string(),
    });
    Some((modified, row))
}

/// Notices messages that arrive after a moment.
pub(super) struct Watch {
    dir: PathBuf,
    before: HashSet<OsString>,
}

impl Watch {
    /// From now on. An unreadable inbox counts as empty.
    pub(super) fn start(dir: &Path) -> Watch {
        Watch { dir: dir.to_owned(), before: entries(dir).unwrap_or_default().into_iter().collect() }
    }

    /// The oldest new message of a node.
    pub(super) fn first_from(&self, addr: Addr) -> Option<Value> {
        let fresh = entries(&self.dir).unwrap_or_default().into_iter().filter(|n| !self.before.contains(n));
        let loaded =
            fresh.filter(|n| n.to_string_lossy().ends_with(".json")).filter_map(|n| load(&self.dir.join(n)));
        let of_peer =
            loaded.filter(|m| text(&m.json, "from").parse::<Addr>().is_ok_and(|a| a.node == addr.node));
        of_peer.min_by_key(|m| m.at).map(|m| m.json)
    }
}
