//! The configuration's promises: precedence, places in messages, the example.

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    file::parse("pilot.toml", text, &Overrides::default())
}

#[test]
fn example_is_valid_with_and_without_its_comment_signs() {
    let plain = parse(example_toml()).unwrap();
    assert_eq!(plain.plugins.dir, PathBuf::from(DEFAULT_PLUGINS_DIR));
    let open: String = example_toml()
        .lines()
        .map(|l| match l.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') && rest.contains(" = ") => format!("{rest}\n"),
            _ => format!("{l}\n"),
        })
        .collect();
    let opened = parse(&open).unwrap();
    assert_eq!(opened.node.listen, plain.node.listen);
    assert_eq!(opened.plugins, plain.plugins);
    assert_eq!(opened.rendezvous, plain.rendezvous);
    assert_eq!(opened.plugin["dataexchange"]["inbox_dir"], "inbox");
}

#[test]
fn example_names_every_key() {
    // A misspelt key fails above; a forgotten one fails here, because the reader lists what it knows.
    let unknown = parse("[node]\nno_such_key = 1\n").unwrap_err().message;
    for key in
        unknown.split('`').filter(|k| k.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !k.is_empty())
    {
        if key != "no_such_key" {
            assert!(example_toml().contains(&format!("#{key} = ")), "{key} is not in the example");
        }
    }
}

#[test]
fn a_bad_value_names_file_line_and_key() {
    for (text, line, key) in [
        ("[node]\n\nlisten = \"here\"\n", 3, "node.listen"),
        ("[node]\npublic = \"yes\"\n", 2, "node.public"),
        ("[node]\nnetworks = [1, 70000]\n", 2, "node.networks"),
        ("[node]\nhostname = \"Bad Name\"\n", 2, "node.hostname"),
        ("[registry]\naddr = \"nowhere\"\n", 2, "registry.addr"),
        ("[plugins]\ninit_timeout = \"soon\"\n", 2, "plugins.init_timeout"),
        ("[log]\nformat = \"xml\"\n", 2, "log.format"),
        ("[plugins]\ndir = \"\"\n", 2, "plugins.dir"),
        ("\n[node]\ncolour = 1\n", 3, "node.colour"),
    ] {
        let e = parse(text).unwrap_err();
        assert_eq!((e.origin.as_str(), e.line, e.key.as_str()), ("pilot.toml", line, key), "{e}");
    }
}

#[test]
fn broken_toml_names_the_line() {
    let e = parse("[node]\nlisten = \n").unwrap_err();
    assert_eq!(e.line, 2, "{e}");
}

#[test]
fn flag_beats_file_beats_default() {
    let over = Overrides { registry: Some("r:1".into()), ..Overrides::default() };
    let c = file::parse("f", "[registry]\naddr = \"x:2\"\n[beacon]\naddr = \"b:3\"\n", &over).unwrap();
    assert_eq!(c.registry.as_deref(), Some("r:1"));
    assert_eq!(c.beacon.as_deref(), Some("b:3"));
    assert_eq!(c.log.level, "info");
}

#[test]
fn a_bad_flag_names_the_flag() {
    let over = Overrides { listen: Some("x".into()), ..Overrides::default() };
    let e = file::parse("f", "", &over).unwrap_err();
    assert_eq!((e.origin.as_str(), e.line), ("--listen", 0));
}

#[test]
fn plugin_tables_pass_through_as_json() {
    let c = parse("[plugin.webhook]\nurl = \"http://127.0.0.1:1/\"\nretries = [1, 2.5, true]\n").unwrap();
    assert_eq!(c.plugin_table("webhook")["retries"][1], 2.5);
    assert_eq!(c.plugin_table("other"), serde_json::json!({}));
}

#[test]
fn beacon_follows_the_registry() {
    let c = parse("[registry]\naddr = \"reg.example:9000\"\n").unwrap();
    assert_eq!(c.beacon_addr("reg.example:9000"), "reg.example:9001");
}
