//! The commands on real files: keys, signatures, refusals, and the way from one to the next.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Parser;
use serde_json::Value;

use super::*;
use crate::cli::{Cli, Command};

/// Runs one command line; its `--json` object, or its failure.
fn plugin(args: &[&str]) -> Result<(bool, Value), Failure> {
    let line = ["pilot-host", "plugin"].iter().chain(args);
    let Command::Plugin(command) = Cli::parse_from(line).command else { panic!("not a plugin command") };
    let answer = match &command {
        PluginCommand::New(args) => new::run(args),
        PluginCommand::Inspect(args) => inspect::run(args),
        PluginCommand::Keygen(args) => keys::keygen(args),
        PluginCommand::Sign(args) => keys::sign(args),
        PluginCommand::Verify(args) => keys::verify(args),
        other => panic!("{other:?} needs processes of its own: tests/author.rs"),
    }?;
    assert!(!answer.text.is_empty() && answer.text.ends_with(|c: char| c != ' '));
    Ok((answer.good, answer.json))
}

/// A file that is a plugin to everybody who only reads it: the smallest ELF library with a plugin header.
fn minimal(dir: &Path, name: &str) -> PathBuf {
    let header = plugin_abi::header::encode(name, "1.2.3", plugin_abi::header::FLAG_UNWIND);
    let names = b"\0.pilot_plugin\0.shstrtab\0";
    let (head, section) = (64_u64, 64_u64);
    let (header_at, names_at) = (head, head + header.len() as u64);
    let table_at = (names_at + names.len() as u64).next_multiple_of(8);
    let mut elf = Vec::new();
    elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf.extend_from_slice(&3_u16.to_le_bytes()); // ET_DYN
    elf.extend_from_slice(&62_u16.to_le_bytes()); // x86-64
    elf.extend_from_slice(&1_u32.to_le_bytes());
    elf.extend_from_slice(&[0; 16]); // entry, program headers
    elf.extend_from_slice(&table_at.to_le_bytes());
    elf.extend_from_slice(&0_u32.to_le_bytes());
    for half in [64_u16, 56, 0, section as u16, 3, 2] {
        elf.extend_from_slice(&half.to_le_bytes());
    }
    elf.extend_from_slice(&header);
    elf.extend_from_slice(names);
    elf.resize(table_at as usize, 0);
    for (name, kind, at, size) in
        [(0_u32, 0_u32, 0, 0), (1, 1, header_at, header.len() as u64), (15, 3, names_at, names.len() as u64)]
    {
        elf.extend_from_slice(&name.to_le_bytes());
        elf.extend_from_slice(&kind.to_le_bytes());
        elf.extend_from_slice(&[0; 16]); // flags, address
        elf.extend_from_slice(&at.to_le_bytes());
        elf.extend_from_slice(&size.to_le_bytes());
        elf.extend_from_slice(&[0; 24]); // link, info, alignment, entry size
    }
    let path = dir.join(format!("{name}.so"));
    std::fs::write(&path, elf).unwrap();
    path
}

#[test]
fn from_a_key_to_a_verified_file_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let file = minimal(dir.path(), "sample");
    let (file, key) = (file.to_str().unwrap(), dir.path().join("key"));
    let key = key.to_str().unwrap();

    let (_, made) = plugin(&["keygen", key]).unwrap();
    let public = made["key"].as_str().unwrap().to_owned();
    assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(plugin(&["keygen", key]).unwrap_err().code, "usage", "a key is never overwritten");

    let (good, seen) = plugin(&["inspect", file]).unwrap();
    assert!(good && seen["signatures"].as_array().unwrap().is_empty());
    assert_eq!((seen["name"].as_str(), seen["version"].as_str()), (Some("sample"), Some("1.2.3")));
    assert!(!plugin(&["verify", file]).unwrap().0, "not signed is not verified");

    let (_, signed) = plugin(&["sign", file, "--key", key]).unwrap();
    assert_eq!(signed["key"], public.as_str());
    assert!(plugin(&["verify", file]).unwrap().0);
    assert!(plugin(&["verify", file, "--key", &format!("{key}.pub")]).unwrap().0);
    assert!(plugin(&["verify", file, "--key", &public.to_uppercase()]).unwrap().0);
    assert!(!plugin(&["verify", file, "--key", &"ab".repeat(32)]).unwrap().0, "signed, but by somebody else");

    // A second signer adds a line; the first one's second signature replaces his.
    let second = dir.path().join("second");
    plugin(&["keygen", second.to_str().unwrap()]).unwrap();
    plugin(&["sign", file, "--key", second.to_str().unwrap()]).unwrap();
    plugin(&["sign", file, "--key", key]).unwrap();
    let (good, seen) = plugin(&["inspect", file]).unwrap();
    assert!(good && seen["signatures"].as_array().unwrap().len() == 2, "{seen}");

    let mut bytes = std::fs::read(file).unwrap();
    bytes.push(0);
    std::fs::write(file, bytes).unwrap();
    assert!(
        !plugin(&["verify", file]).unwrap().0 && !plugin(&["inspect", file]).unwrap().0,
        "changed afterwards"
    );
}

#[test]
fn a_secret_that_others_can_read_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let (file, key) = (minimal(dir.path(), "sample"), dir.path().join("key"));
    plugin(&["keygen", key.to_str().unwrap()]).unwrap();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o640)).unwrap();
    let sign = ["sign", file.to_str().unwrap(), "--key", key.to_str().unwrap()];
    let failure = plugin(&sign).unwrap_err();
    assert_eq!((failure.code, failure.hint), ("key-unsafe", format!("run: chmod 600 {}", key.display())));
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&key, "something else").unwrap();
    assert_eq!(plugin(&sign).unwrap_err().code, "usage");
}

#[test]
fn what_is_no_plugin_is_refused_with_the_loaders_code() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("notes.so");
    std::fs::write(&file, "to do: buy milk").unwrap();
    for command in ["inspect", "verify"] {
        assert_eq!(plugin(&[command, file.to_str().unwrap()]).unwrap_err().code, "not-elf");
    }
    assert_eq!(plugin(&["inspect", "/nonexistent.so"]).unwrap_err().code, "file-unreadable");
}

#[test]
fn a_new_crate_is_complete_and_never_overwrites() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("fresh");
    let (_, made) = plugin(&["new", "my-echo", "--path", at.to_str().unwrap()]).unwrap();
    assert_eq!(
        (made["package"].as_str(), made["library"].as_str()),
        (Some("my-echo"), Some("libmy_echo.so"))
    );
    for file in ["Cargo.toml", "src/lib.rs", "src/tests.rs"] {
        let text = std::fs::read_to_string(at.join(file)).unwrap();
        assert!(!text.contains("{{") && !text.contains("}}"), "{file}:\n{text}");
    }
    assert_eq!(plugin(&["new", "my-echo", "--path", at.to_str().unwrap()]).unwrap_err().code, "usage");
    assert_eq!(plugin(&["new", "My Echo"]).unwrap_err().code, "usage");
}
