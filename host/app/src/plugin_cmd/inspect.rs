//! `plugin inspect`: header, versions, sizes, symbols, signatures of a file, read from its bytes alone.

use std::path::PathBuf;

use clap::Args;
use pilot_loader::inspect::{inspect, tables};
use pilot_loader::scan::read_file;
use pilot_loader::trust::signatures;
use plugin_abi::abi::{ABI_MAJOR, ABI_MINOR};
use plugin_abi::header::{FLAG_UNWIND, RUSTC};
use serde_json::json;

use super::{Answer, Failure, lines};

/// The two symbols that every plugin has, and that it should not have more than.
const WANTED: [&str; 2] = ["PILOT_PLUGIN_HEADER", "PILOT_PLUGIN_ROOT"];

/// Flags of `plugin inspect`.
#[derive(Debug, Args)]
#[command(after_help = "\
Reads the bytes and opens nothing: a file that you do not trust can be looked at safely.\n\
The hash is what an allow-list in the host's configuration names; the signatures are each judged by the key that the \
line names (`plugin verify --key` says whether it is a key of yours).\n\n\
Exit codes: 0 it is a plugin for this host; 1 it is not, the code in brackets says why; 2 wrong usage.\n\n\
Example:\n  pilot-host plugin inspect target/release/libhello.so")]
pub struct InspectArgs {
    /// The plugin file.
    pub file: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: &InspectArgs) -> Result<Answer, Failure> {
    let file = read_file(&args.file)?;
    let found = inspect(&file)?;
    let tables = tables(&file)?;
    let signed = signatures(&file, &found)?;
    let header = &found.header;

    let extra: Vec<&str> =
        tables.exports.iter().map(String::as_str).filter(|e| !WANTED.contains(e)).collect();
    let relation = match header.abi_minor.cmp(&ABI_MINOR) {
        std::cmp::Ordering::Equal => "the same as this host's".to_owned(),
        std::cmp::Ordering::Less => format!("older than this host's {ABI_MAJOR}.{ABI_MINOR}, which is fine"),
        std::cmp::Ordering::Greater => {
            format!("newer than this host's {ABI_MAJOR}.{ABI_MINOR}, which is fine")
        }
    };
    let compiler = if header.rustc == RUSTC { "" } else { " (this host: another one, which is fine)" };
    let symbols = match extra.as_slice() {
        [] => "the two that a plugin needs".to_owned(),
        more => format!("the two that a plugin needs, and {} more: {}", more.len(), more.join(", ")),
    };
    let mut pairs = vec![
        ("name", header.name.clone()),
        ("version", header.version.clone()),
        ("treaty", format!("{}.{}, {relation}", header.abi_major, header.abi_minor)),
        ("compiler", format!("{}{compiler}", header.rustc)),
        ("target", header.target.clone()),
        ("panics", "unwind: they can be contained".into()),
        (
            "size",
            format!(
                "{} bytes{}",
                file.bytes.len(),
                if tables.debug_info { ", with debugging information" } else { "" }
            ),
        ),
        ("sha256", found.sha256.clone()),
        ("exports", symbols),
        ("needs", if tables.needs.is_empty() { "nothing".into() } else { tables.needs.join(", ") }),
        ("on opening", format!("{} initialiser(s) run", tables.initialisers)),
    ];
    if signed.is_empty() {
        pairs.push(("signature", "none (no FILE.sig beside it)".into()));
    }
    for line in &signed {
        let good = if line.good { "good" } else { "WRONG: the file or the signature was changed" };
        pairs.push(("signature", format!("by key {}: {good}", line.key)));
    }
    let json = json!({
        "file": args.file,
        "name": header.name,
        "version": header.version,
        "treaty": { "major": header.abi_major, "minor": header.abi_minor },
        "host_treaty": { "major": ABI_MAJOR, "minor": ABI_MINOR },
        "rustc": header.rustc,
        "target": header.target,
        "unwind": header.flags & FLAG_UNWIND != 0,
        "size": file.bytes.len(),
        "sha256": found.sha256,
        "exports": tables.exports,
        "needs": tables.needs,
        "initialisers": tables.initialisers,
        "debug_info": tables.debug_info,
        "signatures": signed.iter().map(|s| json!({ "key": s.key, "good": s.good })).collect::<Vec<_>>(),
    });
    Ok(Answer { json, text: lines(&pairs), good: signed.iter().all(|s| s.good) })
}
