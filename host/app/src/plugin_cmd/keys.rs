//! `plugin keygen`, `plugin sign`, `plugin verify`: Ed25519 keys and the detached signatures that
//! `pilot_loader::trust` defines. Secrets are written with mode 0600 and read only from such files.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::Args;
use pilot_loader::inspect::inspect;
use pilot_loader::scan::read_file;
use pilot_loader::trust::{self, public_key, signatures};
use serde_json::json;
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use super::{Answer, Failure, lines};

/// First word of a key file's one line; the seed in hex follows.
const KEY_WORD: &str = "pilot-plugin-key-v1";
/// A key file is a comment and a line.
const MAX_KEY_FILE: u64 = 4096;

/// Flags of `plugin keygen`.
#[derive(Debug, Args)]
#[command(after_help = "\
FILE gets the secret, mode 0600; FILE.pub the public key, 64 hex digits. Nothing is overwritten.\n\
Keep FILE to yourself; give the public key to operators, who put it into their host's configuration \
(`pilot-host config example`, table [plugins]).\n\n\
Exit codes: 0 made; 1 not; 2 wrong usage.\n\n\
Example:\n  pilot-host plugin keygen ~/.pilot/plugin-key\n  pilot-host plugin sign libhello.so --key ~/.pilot/plugin-key")]
pub struct KeygenArgs {
    /// Where the secret goes.
    pub file: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `plugin sign`.
#[derive(Debug, Args)]
#[command(after_help = "\
Signs the file's bytes together with the name, version and target in its header, so sign what you ship: after it is \
built and stripped. Lines of other keys in FILE.sig stay; an older line of the same key is replaced. The file is \
written beside and renamed.\n\n\
Exit codes: 0 signed; 1 not; 2 wrong usage.\n\n\
Example:\n  pilot-host plugin sign libhello.so --key ~/.pilot/plugin-key")]
pub struct SignArgs {
    /// The plugin file.
    pub file: PathBuf,
    /// The secret that `plugin keygen` made.
    #[arg(long, value_name = "KEYFILE")]
    pub key: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `plugin verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --key every line of FILE.sig is judged by the key that it names itself: that proves that the file is what \
that key's owner signed, not that you should trust him. With --key one of the given keys must have signed it.\n\n\
Exit codes: 0 verified; 1 not signed, not by these keys, or a signature is wrong; 2 wrong usage.\n\n\
Example:\n  pilot-host plugin verify hello.so --key ~/.pilot/plugin-key.pub")]
pub struct VerifyArgs {
    /// The plugin file.
    pub file: PathBuf,
    /// A public key, 64 hex digits, or the file that holds it; may be repeated.
    #[arg(long = "key", value_name = "KEY")]
    pub keys: Vec<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

pub(super) fn keygen(args: &KeygenArgs) -> Result<Answer, Failure> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(|e| Failure {
        code: "io",
        message: format!("the system gave no randomness: {e}"),
        hint: "try again".into(),
    })?;
    let public = public_key(&seed);
    let public_file = with_suffix(&args.file, ".pub");
    if public_file.exists() {
        let text = format!("{} is there already", public_file.display());
        return Err(Failure::usage(text, "choose another name, or remove the old key first"));
    }
    let secret = Zeroizing::new(format!(
        "# Secret key for signing plugin files. Public key: {public}\n{KEY_WORD} {}\n",
        Zeroizing::new(hex::encode(seed.as_slice())).as_str()
    ));
    write_new(&args.file, secret.as_bytes(), 0o600, false)?;
    write_new(&public_file, format!("{public}\n").as_bytes(), 0o644, false)?;
    let text = lines(&[
        ("secret", format!("{} (mode 0600)", args.file.display())),
        ("public", public_file.display().to_string()),
        ("key", public.clone()),
    ]);
    Ok(Answer::good(json!({ "secret": args.file, "public": public_file, "key": public }), text))
}

pub(super) fn sign(args: &SignArgs) -> Result<Answer, Failure> {
    let seed = read_secret(&args.key)?;
    let file = read_file(&args.file)?;
    let found = inspect(&file)?;
    let key = public_key(&seed);
    // Also a wrong line of ours is replaced, so what counts here is only that the file is one of signatures.
    let others = file.signature.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    let mut text: String = others
        .lines()
        .filter(|line| line.split_whitespace().nth(1) != Some(key.as_str()))
        .map(|line| format!("{line}\n"))
        .collect();
    text += &trust::sign(&file, &found, &seed);
    text.push('\n');
    if text.len() as u64 > trust::MAX_SIGNATURE_FILE {
        let text =
            format!("{}.sig would have more than {} bytes", args.file.display(), trust::MAX_SIGNATURE_FILE);
        return Err(Failure::usage(text, "remove the lines of keys that nobody uses"));
    }
    let out = with_suffix(&args.file, ".sig");
    write_new(&out, text.as_bytes(), 0o644, true)?;
    let json = json!({
        "file": args.file, "signature": out, "key": key,
        "name": found.header.name, "version": found.header.version, "sha256": found.sha256,
    });
    let told = format!(
        "{}: {} {} signed by {key}, signature in {}",
        args.file.display(),
        found.header.name,
        found.header.version,
        out.display()
    );
    Ok(Answer::good(json, told))
}

pub(super) fn verify(args: &VerifyArgs) -> Result<Answer, Failure> {
    let wanted = args.keys.iter().map(|k| read_public(k)).collect::<Result<Vec<_>, _>>()?;
    let file = read_file(&args.file)?;
    let found = inspect(&file)?;
    let signed = signatures(&file, &found)?;
    let by_wanted = |key: &str| wanted.is_empty() || wanted.iter().any(|w| w == key);
    let wrong = signed.iter().any(|s| !s.good);
    let good = !wrong && signed.iter().any(|s| s.good && by_wanted(&s.key));
    let mut text = String::new();
    for line in &signed {
        let verdict = match (line.good, by_wanted(&line.key)) {
            (false, _) => "WRONG: the file or the signature was changed",
            (true, true) if wanted.is_empty() => "good (--key says whether it is a key that you trust)",
            (true, true) => "good",
            (true, false) => "good, but not a key that was asked for",
        };
        text += &format!(
            "{}: {} {} by key {}: {verdict}\n",
            args.file.display(),
            found.header.name,
            found.header.version,
            line.key
        );
    }
    if signed.is_empty() {
        text = format!("{}: not signed (no {}.sig)\n", args.file.display(), args.file.display());
    }
    let json = json!({
        "file": args.file, "name": found.header.name, "version": found.header.version, "sha256": found.sha256,
        "verified": good,
        "signatures": signed.iter().map(|s| json!({ "key": s.key, "good": s.good, "asked_for": by_wanted(&s.key) })).collect::<Vec<_>>(),
    });
    Ok(Answer { json, text, good })
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Writes a whole file or none: beside it first, then in its place.
fn write_new(path: &Path, bytes: &[u8], mode: u32, replace: bool) -> Result<(), Failure> {
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let hint = "name a file in a directory that exists and that you may write to";
    let failed = |e: &std::io::Error| Failure::io(format!("write {}", path.display()), e, hint);
    // A temporary file is made with mode 0600: a secret is never readable by others, not even for a moment.
    let mut file = NamedTempFile::new_in(dir).map_err(|e| failed(&e))?;
    file.write_all(bytes).map_err(|e| failed(&e))?;
    let permissions = std::fs::Permissions::from_mode(mode);
    file.as_file().set_permissions(permissions).map_err(|e| failed(&e))?;
    file.as_file().sync_all().map_err(|e| failed(&e))?;
    if replace {
        file.persist(path).map_err(|e| failed(&e.error))?;
        return Ok(());
    }
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => Err(Failure::usage(
            format!("{} is there already", path.display()),
            "choose another name, or remove the old key first",
        )),
        Err(e) => Err(failed(&e.error)),
    }
}

fn read_secret(path: &Path) -> Result<Zeroizing<[u8; 32]>, Failure> {
    let hint = "make one with `pilot-host plugin keygen FILE`";
    let failed = |e: &std::io::Error| Failure::io(format!("read the key {}", path.display()), e, hint);
    let meta = std::fs::metadata(path).map_err(|e| failed(&e))?;
    if meta.mode() & 0o077 != 0 {
        let text =
            format!("{} has mode {:o}: others can read this secret", path.display(), meta.mode() & 0o777);
        return Err(Failure {
            code: "key-unsafe",
            message: text,
            hint: format!("run: chmod 600 {}", path.display()),
        });
    }
    let bad = || Failure::usage(format!("{} is not a secret key for signing plugins", path.display()), hint);
    if meta.len() > MAX_KEY_FILE {
        return Err(bad());
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|e| failed(&e))?);
    let line = text.lines().find(|l| !l.trim().is_empty() && !l.starts_with('#')).ok_or_else(bad)?;
    let seed = line.strip_prefix(KEY_WORD).ok_or_else(bad)?.trim();
    let mut out = Zeroizing::new([0; 32]);
    hex::decode_to_slice(seed, out.as_mut_slice()).map_err(|_| bad())?;
    Ok(out)
}

/// A public key in hex, given as such or as the name of a file that holds it.
fn read_public(text: &str) -> Result<String, Failure> {
    let is_key = |t: &str| t.len() == 64 && t.bytes().all(|b| b.is_ascii_hexdigit());
    if is_key(text) {
        return Ok(text.to_ascii_lowercase());
    }
    let hint = "give 64 hex digits, or the .pub file that `plugin keygen` made";
    let content =
        std::fs::read_to_string(text).map_err(|e| Failure::io(format!("read the key {text}"), &e, hint))?;
    let found = content.trim();
    is_key(found)
        .then(|| found.to_ascii_lowercase())
        .ok_or_else(|| Failure::usage(format!("{text} holds no public key"), hint))
}
