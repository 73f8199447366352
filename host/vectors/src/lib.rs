//! Runs recorded test vectors (a dev-dependency of every crate that has some, never a normal one).
//!
//! A vector file is `<area>.json`: an array of entries. The folder is `PILOT_VECTORS`, by default the project's own copy
//! (`host/wire/tests/vectors`). Which crate answers for which kind of entry, and which kinds wait for a later order of
//! work, stands in one place: `host/wire/tests/vectors/coverage.toml`. A kind that is listed nowhere fails.
//!
//! Does not know what any vector means; that is the caller's closure.
#![allow(clippy::print_stdout)] // test output is this crate's purpose

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// One entry of a vector file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Unique within its file.
    pub name: String,
    /// The entry's kind, see [`kind_of`].
    pub kind: String,
    /// The `hex` member, decoded.
    pub bytes: Vec<u8>,
    /// The `fields` member.
    pub fields: Map<String, Value>,
    /// Whether the entry must be refused.
    pub error: bool,
    /// The whole entry, for members that only one area has.
    pub raw: Value,
}

impl Entry {
    /// A text member of `fields`; panics with the entry's name when it is absent.
    pub fn text(&self, key: &str) -> &str {
        self.fields
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_else(|| panic!("{}: no text field {key:?}", self.name))
    }

    /// A number member of `fields`; panics with the entry's name when it is absent.
    pub fn number(&self, key: &str) -> u64 {
        self.fields
            .get(key)
            .and_then(Value::as_u64)
            .unwrap_or_else(|| panic!("{}: no number field {key:?}", self.name))
    }

    /// A hex member of `fields`, decoded; panics with the entry's name when it is absent or not hex.
    pub fn hex(&self, key: &str) -> Vec<u8> {
        hex::decode(self.text(key)).unwrap_or_else(|e| panic!("{}: field {key:?}: {e}", self.name))
    }

    /// The error text the Go peer gave, when the entry carries one.
    pub fn error_text(&self) -> Option<&str> {
        self.raw.get("error_text").and_then(Value::as_str)
    }
}

/// First words of policy entries that say what is tested; every other name speaks of its document (policy.md section 10).
const POLICY_KINDS: [&str; 7] = ["doc", "compile", "expr", "fleet", "runner", "generated", "network"];

/// The kind of an entry: `fields.kind`, else `fields.op`, else `decode:<fields.decode>`, else the first word of its name
/// (up to `-` or `_`), which is how the fact sheets speak of entries without a kind. In the area `policy` a first word
/// that the fact sheet does not list means `example`.
pub fn kind_of(area: &str, name: &str, fields: &Map<String, Value>) -> String {
    let text = |k: &str| fields.get(k).and_then(Value::as_str);
    if let Some(kind) = text("kind").or_else(|| text("op")) {
        return kind.to_owned();
    }
    if let Some(decoder) = text("decode") {
        return format!("decode:{decoder}");
    }
    match name.split(['-', '_']).next().unwrap_or(name) {
        word if area == "policy" && !POLICY_KINDS.contains(&word) => "example".to_owned(),
        word => word.to_owned(),
    }
}

/// The project's own copy of the vectors.
pub fn own_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../wire/tests/vectors")
}

/// The folder to read: `PILOT_VECTORS`, else the project's own.
pub fn folder() -> PathBuf {
    std::env::var_os("PILOT_VECTORS").filter(|v| !v.is_empty()).map_or_else(own_folder, PathBuf::from)
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct AreaCoverage {
    /// kind -> crate that tests it
    #[serde(default)]
    covered: BTreeMap<String, String>,
    /// kind -> the order of work that will cover it
    #[serde(default)]
    not_yet_covered: BTreeMap<String, String>,
}

/// A recorded outcome that ours is meant to differ from (`host/wire/tests/vectors/differences.toml`).
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// The vector file.
    pub area: String,
    /// Names of the entries it is about; `*` stands for any text.
    pub vectors: Vec<String>,
    /// What the Go peer does there.
    pub peer: String,
    /// What ours does.
    pub ours: String,
    /// Why.
    pub reason: String,
    /// Where the fact sheet speaks of it.
    pub sheet: String,
}

/// What the Go peer gets wrong by its fact sheet, and the test that holds ours to the right behaviour.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerBug {
    /// What the Go peer does.
    pub peer: String,
    /// Where the fact sheet names it.
    pub sheet: String,
    /// FILE::NAME of the test, the file from the top of the source tree.
    pub test: String,
}

/// The whole of `differences.toml`.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Differences {
    /// Recorded outcomes that ours differs from.
    pub difference: Vec<Difference>,
    /// Bugs of the Go peer that are not copied.
    pub bug: Vec<PeerBug>,
}

/// Reads `differences.toml`.
pub fn differences() -> Differences {
    let path = own_folder().join("differences.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The difference that is listed for one entry. Tests tolerate a difference only when this knows it.
pub fn difference(area: &str, name: &str) -> Option<Difference> {
    let mut all = differences().difference.into_iter();
    all.find(|d| d.area == area && d.vectors.iter().any(|v| matches(v, name)))
}

/// Whether `name` fits `pattern`, whose `*` stand for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let (first, rest) = pattern.split_once('*').map_or((pattern, None), |(a, b)| (a, Some(b)));
    let Some(left) = name.strip_prefix(first) else { return false };
    match rest {
        None => left.is_empty(),
        // The shortest text for this star that leaves the rest of the pattern its chance.
        Some(rest) => (0..=left.len()).any(|n| left.is_char_boundary(n) && matches(rest, &left[n..])),
    }
}

fn coverage() -> BTreeMap<String, AreaCoverage> {
    let path = own_folder().join("coverage.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Loads `<area>.json` from [`folder`]; `None` when the folder has no such file.
pub fn load(area: &str) -> Option<Vec<Entry>> {
    load_from(&folder(), area)
}

/// Loads `<area>.json` from a given folder.
pub fn load_from(folder: &Path, area: &str) -> Option<Vec<Entry>> {
    let path = folder.join(format!("{area}.json"));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
        Err(e) => panic!("{}: {e}", path.display()),
    };
    let list: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Some(list.into_iter().enumerate().map(|(i, raw)| entry(&path, area, i, raw)).collect())
}

fn entry(path: &Path, area: &str, index: usize, raw: Value) -> Entry {
    let at = || format!("{} entry {index}", path.display());
    let name =
        raw.get("name").and_then(Value::as_str).unwrap_or_else(|| panic!("{}: no name", at())).to_owned();
    let fields = raw.get("fields").and_then(Value::as_object).cloned().unwrap_or_default();
    let hex_text = raw.get("hex").and_then(Value::as_str).unwrap_or("");
    let bytes = hex::decode(hex_text).unwrap_or_else(|e| panic!("{} ({name}): hex: {e}", at()));
    let error = raw.get("error").and_then(Value::as_bool).unwrap_or(false);
    Entry { kind: kind_of(area, &name, &fields), name, bytes, fields, error, raw }
}

/// Runs the entries of `areas` that `krate` answers for; `check` panics (with any assertion) when one is wrong.
///
/// An area that the folder lacks is skipped with a line; a folder that has none of them fails; an entry of a kind that
/// `coverage.toml` does not name fails; a kind that waits for a later order is skipped with a line.
pub fn run(krate: &str, areas: &[&str], mut check: impl FnMut(&str, &Entry)) {
    let coverage = coverage();
    let folder = folder();
    let mut found = 0;
    let mut failures = Vec::new();
    for area in areas {
        let Some(entries) = load_from(&folder, area) else {
            println!("vectors: {area}: not in {}, skipped", folder.display());
            continue;
        };
        found += 1;
        let rules = coverage.get(*area).unwrap_or_else(|| panic!("coverage.toml has no table [{area}]"));
        let (mut ran, mut skipped) = (0, BTreeMap::<&str, usize>::new());
        for e in &entries {
            match (rules.covered.get(&e.kind), rules.not_yet_covered.get(&e.kind)) {
                (Some(owner), _) if owner.split(',').any(|o| o.trim() == krate) => {
                    ran += 1;
                    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(area, e)));
                    if outcome.is_err() {
                        failures.push(format!("{area}/{} (kind {})", e.name, e.kind));
                    }
                }
                (Some(_), _) => {}
                (None, Some(_)) => *skipped.entry(&e.kind).or_default() += 1,
                (None, None) => failures.push(format!("{area}/{}: kind {:?} is unknown", e.name, e.kind)),
            }
        }
        println!("vectors: {area}: {krate} ran {ran} of {} entries", entries.len());
        for (kind, n) in skipped {
            println!(
                "vectors: {area}: {n} of kind {kind:?} not yet covered ({})",
                rules.not_yet_covered[kind]
            );
        }
    }
    assert!(found > 0, "{} holds none of {areas:?}", folder.display());
    assert!(failures.is_empty(), "{} vector(s) failed:\n  {}", failures.len(), failures.join("\n  "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_text() {
        for (pattern, name, fits) in [
            ("a-b", "a-b", true),
            ("a-b", "a-bc", false),
            ("a*", "a", true),
            ("*b*", "abc", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcdef", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    /// The list is only worth something while every line of it is about something.
    #[test]
    fn every_listed_difference_and_test_exists() {
        let list = differences();
        for d in &list.difference {
            let entries = load_from(&own_folder(), &d.area).unwrap_or_else(|| panic!("no area {}", d.area));
            for pattern in &d.vectors {
                // Other folders of vectors may hold more of a kind than ours does; a plain name must be here.
                let here = entries.iter().any(|e| matches(pattern, &e.name));
                assert!(here || pattern.contains('*'), "{}: no entry {pattern}", d.area);
            }
            assert!(!d.reason.trim().is_empty() && !d.peer.is_empty() && !d.ours.is_empty(), "{d:?}");
        }
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for bug in &list.bug {
            let (file, test) =
                bug.test.split_once("::").unwrap_or_else(|| panic!("{}: not FILE::NAME", bug.test));
            let source = std::fs::read_to_string(top.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
            assert!(source.contains(&format!("fn {test}(")), "{file} has no test {test}");
        }
    }
}
