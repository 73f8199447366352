//! `plugin new`: the crate of a plugin from the templates beside this file. What it writes builds, passes its own test
//! and loads; the tests of this module and of `tests/author.rs` do exactly that.

use std::path::{Path, PathBuf};

use clap::Args;
use plugin_abi::abi::{ABI_MAJOR, ABI_MINOR};
use plugin_abi::header::valid_name;
use serde_json::json;

use super::{Answer, Failure};

const MANIFEST: &str = include_str!("template/Cargo.toml.txt");
const LIB: &str = include_str!("template/lib.rs.txt");
const TEST: &str = include_str!("template/tests.rs.txt");

/// Flags of `plugin new`.
#[derive(Debug, Args)]
#[command(after_help = "\
The new crate depends on plugin-abi: at --plugin-abi if given (a directory, or a version of a registry), else in the \
project checkout that the working directory lies in, else in the one that this program was built from, else by \
version. Nothing that exists is overwritten.\n\n\
Exit codes: 0 made; 1 not; 2 wrong usage, a bad name, or the directory is there already.\n\n\
Example:\n  pilot-host plugin new hello\n  cd hello\n  cargo test\n  cargo build\n  pilot-host run --plugins target/debug")]
pub struct NewArgs {
    /// The plugin's name: 1 to 31 characters of a-z, 0-9, - and _.
    pub name: String,
    /// Where the crate goes; NAME in the working directory if not given.
    #[arg(long, value_name = "DIR")]
    pub path: Option<PathBuf>,
    /// The plugin-abi crate: a directory, or a version such as 1.0.
    #[arg(long, value_name = "PATH|VERSION")]
    pub plugin_abi: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: &NewArgs) -> Result<Answer, Failure> {
    let name = args.name.as_str();
    if !valid_name(name) {
        let hint = "use 1 to 31 characters of a-z, 0-9, - and _";
        return Err(Failure::usage(format!("\"{name}\" cannot be a plugin's name"), hint));
    }
    // Cargo's own rule for package names; the plugin's name may be any.
    let package =
        if name.starts_with(|c: char| c.is_ascii_digit()) { format!("plugin-{name}") } else { name.into() };
    let dir = args.path.clone().unwrap_or_else(|| name.into());
    if dir.exists() {
        let hint = "choose another with --path, or remove it";
        return Err(Failure::usage(format!("{} is there already", dir.display()), hint));
    }
    let here = std::env::current_dir().unwrap_or_default();
    let dependency = dependency(args.plugin_abi.as_deref(), &here)?;
    let library = package.replace('-', "_");
    let fill = |text: &str| {
        text.replace("{{package}}", &package)
            .replace("{{library}}", &library)
            .replace("{{name}}", name)
            .replace("{{type}}", &type_name(name))
            .replace("{{plugin-abi}}", &dependency)
    };
    let files = [
        ("Cargo.toml", fill(MANIFEST)),
        ("src/lib.rs", fill(LIB)),
        ("src/tests.rs", fill(TEST)),
        (".gitignore", "/target\n".into()),
    ];
    for (file, text) in &files {
        let path = dir.join(file);
        let parent = path.parent().unwrap_or(&dir);
        std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, text)).map_err(|e| {
            Failure::io(format!("write {}", path.display()), &e, "name a directory that you may write to")
        })?;
    }
    let shown = dir.display();
    let text = format!(
        "made {shown}: src/lib.rs is the plugin, src/tests.rs its test\n\n\
         next:\n  cd {shown}\n  cargo test\n  cargo build\n  pilot-host run --plugins target/debug\n\n\
         check it as a host would, before you publish it:\n  pilot-host plugin check target/debug/lib{library}.so\n"
    );
    let json = json!({
        "dir": dir, "name": name, "package": package,
        "library": format!("lib{library}.so"), "plugin_abi": dependency,
        "files": files.iter().map(|(f, _)| f).collect::<Vec<_>>(),
    });
    Ok(Answer::good(json, text))
}

/// What the manifest says about plugin-abi.
fn dependency(given: Option<&str>, here: &Path) -> Result<String, Failure> {
    let is_crate = |dir: &Path| dir.join("Cargo.toml").is_file() && dir.join("src/export.rs").is_file();
    let by_path = |dir: &Path| {
        let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        // A TOML literal string: no escapes, so only its own quote would be in the way.
        format!("path = '{}'", dir.display())
    };
    match given {
        Some(text) if is_crate(Path::new(text)) => return Ok(by_path(Path::new(text))),
        Some(text) if text.starts_with(|c: char| c.is_ascii_digit() || c == '=' || c == '^') => {
            return Ok(format!("version = \"{}\"", text.replace(['"', '\\'], "")));
        }
        Some(text) => {
            let hint = "give the plugin-abi directory of a checkout, or a version such as 1.0";
            return Err(Failure::usage(format!("{text} holds no plugin-abi crate"), hint));
        }
        None => {}
    }
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugin-abi");
    let above = here.ancestors().map(|dir| dir.join("plugin-abi"));
    let found =
        above.chain([built_from]).find(|dir| is_crate(dir) && !dir.display().to_string().contains('\''));
    Ok(found.map_or_else(|| format!("version = \"{ABI_MAJOR}.{ABI_MINOR}\""), |dir| by_path(&dir)))
}

/// `my-plugin` as a type: `MyPlugin`.
fn type_name(name: &str) -> String {
    let mut out: String = name
        .split(['-', '_'])
        .flat_map(|word| {
            let mut letters = word.chars();
            letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters)
        })
        .collect();
    if !out.starts_with(|c: char| c.is_ascii_alphabetic()) {
        out.insert_str(0, "Plugin");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_types() {
        for (name, expected) in
            [("hello", "Hello"), ("my-own_echo", "MyOwnEcho"), ("2fast", "Plugin2fast"), ("-", "Plugin")]
        {
            assert_eq!(type_name(name), expected);
        }
    }

    #[test]
    fn where_plugin_abi_is_found() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let checkout = here.join("../../plugin-abi").canonicalize().unwrap();
        let by_path = format!("path = '{}'", checkout.display());
        assert_eq!(dependency(None, here).unwrap(), by_path, "above the working directory");
        assert_eq!(dependency(None, Path::new("/")).unwrap(), by_path, "where the program was built");
        assert_eq!(dependency(Some(checkout.to_str().unwrap()), Path::new("/")).unwrap(), by_path);
        assert_eq!(dependency(Some("1.0"), here).unwrap(), "version = \"1.0\"");
        assert_eq!(dependency(Some("/nowhere"), here).unwrap_err().code, "usage");
    }

    #[test]
    fn the_template_is_short() {
        assert!(LIB.lines().count() < 40, "{} lines", LIB.lines().count());
    }
}
