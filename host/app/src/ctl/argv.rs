//! The command line before clap sees it: `--json` counts wherever it stands, and long flags may have one dash, as in the
//! Go tool (cli.md section 1, "Argument parsing").

/// Flags that take a value and may stand before a command's words: the tool's own, and those of `net`.
const GLOBAL_WITH_VALUE: [&str; 5] =
    ["--socket", "--rounds", "--runner", "--runner-dir", "--runner-identity"];

/// The prepared command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Argv {
    /// `--json` was there.
    pub json: bool,
    /// Everything else.
    pub args: Vec<String>,
}

impl Argv {
    pub(super) fn new(args: Vec<String>) -> Argv {
        let mut out = Argv { json: false, args: Vec::with_capacity(args.len()) };
        let mut args = args.into_iter();
        for arg in args.by_ref() {
            match arg.as_str() {
                "--" => {
                    out.args.push(arg);
                    break;
                }
                "--json" | "-json" | "--json=true" => out.json = true,
                _ if is_single_dash_long(&arg) => out.args.push(format!("-{arg}")),
                _ => out.args.push(arg),
            }
        }
        out.args.extend(args);
        // The newest Go tool wants its operator commands behind this word; here they stand on their own.
        if out.command() == Some("extras")
            && let Some(at) = out.args.iter().position(|a| a == "extras")
        {
            out.args.remove(at);
        }
        out
    }

    /// The first word that is no flag.
    pub(super) fn command(&self) -> Option<&str> {
        self.words().next()
    }

    /// All words that are no flag and no value of one of the tool's own flags.
    pub(super) fn words(&self) -> impl Iterator<Item = &str> {
        let mut value = false;
        self.args.iter().map(String::as_str).filter(move |arg| {
            let skipped = std::mem::replace(&mut value, GLOBAL_WITH_VALUE.contains(arg));
            !skipped && !arg.starts_with('-')
        })
    }
}

/// `-email`, `-log-level=debug`; but not `-v`, `-1`, `-3x` or `-`.
pub(crate) fn is_single_dash_long(arg: &str) -> bool {
    let Some(name) = arg.strip_prefix('-') else { return false };
    let name = name.split('=').next().unwrap_or(name);
    name.len() > 1
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(line: &str) -> Argv {
        Argv::new(line.split(' ').map(str::to_owned).collect())
    }

    #[test]
    fn json_counts_anywhere() {
        assert_eq!(argv("info --json"), Argv { json: true, args: vec!["info".into()] });
        assert!(argv("--json ping x --count 1").json);
        assert!(!argv("send-message x --data -- --json").json, "not behind the end of flags");
    }

    #[test]
    fn the_operators_prefix_is_dropped_once() {
        assert_eq!(argv("extras set-tags extras").args, ["set-tags", "extras"]);
        assert_eq!(argv("info extras").args, ["info", "extras"]);
    }

    #[test]
    fn one_dash_is_enough_for_long_flags() {
        assert_eq!(argv("-count 3 -v -1 -3x - -x=y").args, ["--count", "3", "-v", "-1", "-3x", "-", "-x=y"]);
        assert_eq!(argv("-log-level=debug").args, ["--log-level=debug"]);
    }

    #[test]
    fn the_command_is_found_behind_flags() {
        assert_eq!(argv("--socket /s -v info x").command(), Some("info"));
        assert_eq!(argv("--socket /s").command(), None);
    }
}
