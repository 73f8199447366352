//! Whether a file is one that the operator wants: a SHA-256 allow-list, and detached Ed25519 signatures in `<file>.sig`.
//! Judged on the bytes that are opened afterwards, before they are opened. Keys and hashes come from the configuration.
//!
//! A signature file is text, one signature per line: `ed25519 <public key, 64 hex> <signature, 128 hex>`; empty lines
//! and lines that start with `#` are passed over. What is signed is
//! `"pilot-plugin-v1" 0 name 0 version 0 target 0 SHA-512(file)`, so that a signature for one plugin, version or
//! machine says nothing about another.

use std::collections::BTreeSet;
use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha512};

use crate::inspect::Inspection;
use crate::refusal::{Code, Refusal};
use crate::scan::PluginFile;

/// The largest signature file that is read.
pub const MAX_SIGNATURE_FILE: u64 = 16 << 10;

/// What happens to a file that nothing vouches for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrustMode {
    /// It is loaded.
    #[default]
    Off,
    /// It is loaded, and a warning is logged.
    Warn,
    /// It is refused.
    Enforce,
}

/// Who and what the operator trusts. A *wrong* signature by a known key is refused in every mode: somebody changed the
/// file, or the signature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustPolicy {
    /// For files that nothing vouches for.
    pub mode: TrustMode,
    hashes: BTreeSet<String>,
    keys: Vec<VerifyingKey>,
}

/// A hash or key of the configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustConfigError {
    /// Not 64 hex digits.
    #[error("\"{0}\" is not a SHA-256 hash (64 hex digits)")]
    Hash(String),
    /// Not 64 hex digits, or no point of the curve.
    #[error("\"{0}\" is not an Ed25519 public key (64 hex digits)")]
    Key(String),
    /// A key for which anybody can make signatures.
    #[error("\"{0}\" is a weak Ed25519 key: anybody could sign for it")]
    WeakKey(String),
}

impl TrustPolicy {
    /// From the configuration's texts: SHA-256 hashes of allowed files, and public keys of signers, both in hex.
    pub fn new<H: AsRef<str>, K: AsRef<str>>(
        mode: TrustMode,
        hashes: impl IntoIterator<Item = H>,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Self, TrustConfigError> {
        let mut policy = TrustPolicy { mode, ..TrustPolicy::default() };
        for hash in hashes {
            let hash = hash.as_ref();
            let bytes = parse_hex::<32>(hash).ok_or_else(|| TrustConfigError::Hash(hash.to_owned()))?;
            policy.hashes.insert(hex::encode(bytes));
        }
        for key in keys {
            let key = key.as_ref();
            let bad = || TrustConfigError::Key(key.to_owned());
            let parsed =
                VerifyingKey::from_bytes(&parse_hex::<32>(key).ok_or_else(bad)?).map_err(|_| bad())?;
            if parsed.is_weak() {
                return Err(TrustConfigError::WeakKey(key.to_owned()));
            }
            policy.keys.push(parsed);
        }
        Ok(policy)
    }

    /// Judges a file.
    pub(crate) fn judge(&self, file: &PluginFile, inspection: &Inspection) -> Result<Trust, Refusal> {
        let trust = match self.signer(file, inspection)? {
            Some(key) => Trust::Signed(key),
            None if self.hashes.contains(&inspection.sha256) => Trust::AllowListed,
            None => Trust::Unvouched,
        };
        let name = &inspection.header.name;
        match (self.mode, &trust) {
            (TrustMode::Enforce, Trust::Unvouched) => Err(Refusal::new(
                Code::NotTrusted,
                &file.path,
                format!(
                    "no known key has signed it and its hash {} is not on the allow-list",
                    inspection.sha256
                ),
                "put its signature beside it as <file>.sig, or its hash into the configuration",
            )
            .of(name)),
            (TrustMode::Warn, Trust::Unvouched) => {
                tracing::warn!(
                    plugin = name,
                    sha256 = inspection.sha256,
                    "nothing vouches for this plugin file"
                );
                Ok(trust)
            }
            _ => Ok(trust),
        }
    }

    /// The first known key with a good signature. A known key with a wrong one is an error; unknown keys say nothing.
    fn signer(&self, file: &PluginFile, inspection: &Inspection) -> Result<Option<String>, Refusal> {
        let Some(text) = &file.signature else { return Ok(None) };
        let lines = parse_signatures(text).map_err(|why| bad_signature(file, inspection, why))?;
        let message = message(inspection, &file.bytes);
        let mut signer = None;
        for (key, signature) in lines {
            let Some(known) = self.keys.iter().find(|k| k.as_bytes() == &key) else { continue };
            if known.verify_strict(&message, &signature).is_err() {
                let why = format!("the signature by key {} is wrong", hex::encode(key));
                return Err(bad_signature(file, inspection, why));
            }
            signer.get_or_insert_with(|| hex::encode(key));
        }
        Ok(signer)
    }
}

fn bad_signature(file: &PluginFile, inspection: &Inspection, reason: String) -> Refusal {
    let remedy = "get the file and its signature again from its author";
    Refusal::new(Code::BadSignature, &file.path, reason, remedy).of(&inspection.header.name)
}

/// One line of a signature file, judged by the key that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureLine {
    /// The key that the line names, hex. Whether anybody trusts it is another question.
    pub key: String,
    /// Whether that key made this signature for this file.
    pub good: bool,
}

/// Judges every line of `<file>.sig` by itself, for the commands that show signatures; [`TrustPolicy`] decides about
/// loading. No signature file is an empty list.
///
/// # Errors
/// [`Code::BadSignature`] when the signature file cannot be read as one.
pub fn signatures(file: &PluginFile, inspection: &Inspection) -> Result<Vec<SignatureLine>, Refusal> {
    let Some(text) = &file.signature else { return Ok(Vec::new()) };
    let lines = parse_signatures(text).map_err(|why| bad_signature(file, inspection, why))?;
    let message = message(inspection, &file.bytes);
    let judged = lines.into_iter().map(|(key, signature)| {
        let known = VerifyingKey::from_bytes(&key).ok().filter(|k| !k.is_weak());
        let good = known.is_some_and(|k| k.verify_strict(&message, &signature).is_ok());
        SignatureLine { key: hex::encode(key), good }
    });
    Ok(judged.collect())
}

/// The public key of a seed, hex: what the configuration of a host names.
pub fn public_key(seed: &[u8; 32]) -> String {
    hex::encode(SigningKey::from_bytes(seed).verifying_key().as_bytes())
}

fn parse_signatures(text: &[u8]) -> Result<Vec<([u8; 32], Signature)>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "its signature file is not text")?;
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| parse_line(line).ok_or_else(|| format!("its signature file has a bad line: {line:.80}")))
        .collect()
}

/// What vouches for a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// A good signature by this key, hex.
    Signed(String),
    /// Its hash is on the allow-list.
    AllowListed,
    /// Part of the host's own program; there is no file.
    Linked,
    /// Nothing.
    Unvouched,
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trust::Signed(key) => write!(f, "signed by {key}"),
            Trust::AllowListed => f.write_str("allow-listed"),
            Trust::Linked => f.write_str("linked"),
            Trust::Unvouched => f.write_str("unvouched"),
        }
    }
}

/// The line for `<file>.sig` that the key of `seed` makes.
pub fn sign(file: &PluginFile, inspection: &Inspection, seed: &[u8; 32]) -> String {
    let key = SigningKey::from_bytes(seed);
    let signature = key.sign(&message(inspection, &file.bytes));
    format!("ed25519 {} {}", hex::encode(key.verifying_key().as_bytes()), hex::encode(signature.to_bytes()))
}

fn message(inspection: &Inspection, bytes: &[u8]) -> Vec<u8> {
    let header = &inspection.header;
    let mut message = Vec::new();
    for part in ["pilot-plugin-v1", &header.name, &header.version, &header.target] {
        // Header texts end at their first zero byte, so none contains the separator.
        message.extend_from_slice(part.as_bytes());
        message.push(0);
    }
    message.extend_from_slice(&Sha512::digest(bytes));
    message
}

fn parse_line(line: &str) -> Option<([u8; 32], Signature)> {
    let mut words = line.split_whitespace();
    let parsed = (words.next()?, parse_hex(words.next()?)?, parse_hex::<64>(words.next()?)?);
    (parsed.0 == "ed25519" && words.next().is_none()).then(|| (parsed.1, Signature::from_bytes(&parsed.2)))
}

fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    hex::decode_to_slice(text, &mut out).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plugin_abi::header::{FLAG_UNWIND, Header, encode};
    use sha2::Sha256;

    const SEED: [u8; 32] = [7; 32];

    fn key(seed: [u8; 32]) -> String {
        public_key(&seed)
    }

    fn sample(signature: Option<&str>) -> (PluginFile, Inspection) {
        let bytes = b"the whole file".to_vec();
        let header = Header::parse(&encode("echo", "1.0.0", FLAG_UNWIND)).unwrap();
        let inspection = Inspection { header, sha256: hex::encode(Sha256::digest(&bytes)) };
        let signature = signature.map(|s| s.as_bytes().to_vec());
        (PluginFile { path: "echo.so".into(), bytes, signature }, inspection)
    }

    fn judged(
        mode: TrustMode,
        hashes: &[&str],
        keys: &[String],
        signature: Option<&str>,
    ) -> Result<Trust, Code> {
        let (file, inspection) = sample(signature);
        TrustPolicy::new(mode, hashes, keys).unwrap().judge(&file, &inspection).map_err(|r| r.code)
    }

    #[test]
    fn modes_and_vouchers() {
        let (file, inspection) = sample(None);
        let good = format!("# by us\n\n{}\n", sign(&file, &inspection, &SEED));
        let hash = inspection.sha256.to_uppercase();
        for mode in [TrustMode::Off, TrustMode::Warn, TrustMode::Enforce] {
            assert_eq!(judged(mode, &[], &[key(SEED)], Some(&good)), Ok(Trust::Signed(key(SEED))));
            assert_eq!(judged(mode, &[&hash], &[], None), Ok(Trust::AllowListed));
            let nothing =
                if mode == TrustMode::Enforce { Err(Code::NotTrusted) } else { Ok(Trust::Unvouched) };
            assert_eq!(judged(mode, &[], &[], None), nothing);
            assert_eq!(judged(mode, &[], &[], Some(&good)), nothing, "an unknown key says nothing");
            assert_eq!(judged(mode, &[], &[key([8; 32])], Some(&good)), nothing);
        }
    }

    #[test]
    fn a_wrong_signature_is_refused_in_every_mode_also_when_the_hash_is_allowed() {
        let (file, mut inspection) = sample(None);
        let hash = inspection.sha256.clone();
        inspection.header.version = "1.0.1".into();
        let other_version = sign(&file, &inspection, &SEED);
        for mode in [TrustMode::Off, TrustMode::Warn, TrustMode::Enforce] {
            for bad in [other_version.as_str(), "ed25519 00 00", "rsa 1 2", "nonsense", "ed25519"] {
                assert_eq!(judged(mode, &[&hash], &[key(SEED)], Some(bad)), Err(Code::BadSignature), "{bad}");
            }
        }
    }

    #[test]
    fn the_file_and_each_header_field_count() {
        let (file, inspection) = sample(None);
        let line = sign(&file, &inspection, &SEED);
        let policy = TrustPolicy::new(TrustMode::Enforce, [""; 0], [key(SEED)]).unwrap();
        let signed = |change: fn(&mut PluginFile, &mut Inspection)| {
            let (mut file, mut inspection) = sample(Some(&line));
            change(&mut file, &mut inspection);
            policy.judge(&file, &inspection).is_ok()
        };
        assert!(signed(|_, _| ()));
        assert!(!signed(|f, _| f.bytes[0] ^= 1));
        assert!(!signed(|_, i| i.header.name.push('x')));
        assert!(!signed(|_, i| i.header.target.push('x')));
    }

    #[test]
    fn each_line_of_a_signature_file_is_judged_by_its_own_key() {
        let (file, inspection) = sample(None);
        let (ours, theirs) = (sign(&file, &inspection, &SEED), sign(&file, &inspection, &[8; 32]));
        let swapped = theirs.replace(&key([8; 32]), &key([9; 32]));
        let (file, inspection) = sample(Some(&format!("{ours}\n{swapped}\n")));
        let lines = signatures(&file, &inspection).unwrap();
        let expected = [(SEED, true), ([9; 32], false)].map(|(s, good)| SignatureLine { key: key(s), good });
        assert_eq!(lines, expected);
        assert_eq!(signatures(&sample(None).0, &inspection), Ok(Vec::new()));
        assert_eq!(signatures(&sample(Some("x")).0, &inspection).unwrap_err().code, Code::BadSignature);
    }

    #[test]
    fn configuration_mistakes_are_named() {
        let zero = "00".repeat(32);
        let error =
            |hashes: &[&str], keys: &[&str]| TrustPolicy::new(TrustMode::Off, hashes, keys).unwrap_err();
        assert_eq!(error(&["abc"], &[]), TrustConfigError::Hash("abc".into()));
        assert_eq!(error(&[], &["abc"]), TrustConfigError::Key("abc".into()));
        assert_eq!(error(&[], &[&zero]), TrustConfigError::WeakKey(zero.clone()));
    }
}
