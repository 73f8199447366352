//! The configuration's promises: precedence, places in messages, the example.

use super::*;
use crate::capability::{Action, Capabilities};
use pilot_loader::{Isolation, TrustMode};

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
    assert_eq!((&opened.transport, &opened.registry_tls), (&plain.transport, &plain.registry_tls));
    // What the example shows for a plugin is what an unknown one has.
    let caps = |c: &Config| c.plugins.capabilities("example");
    assert_eq!(caps(&opened), caps(&plain));
    assert_eq!(caps(&plain), Capabilities::least("example", 200));
    let general = |c: &Config| PluginsConfig { settings: BTreeMap::new(), ..c.plugins.clone() };
    assert_eq!(general(&opened), general(&plain));
    assert_eq!(opened.rendezvous, plain.rendezvous);
    assert_eq!(opened.plugin["dataexchange"]["inbox_dir"], "inbox");
}

#[test]
fn compat_clients_need_an_address_and_a_whole_certificate() {
    let rendezvous = |text: &str| parse(&format!("[rendezvous]\n{text}")).map(|c| c.rendezvous);
    let plain = rendezvous("compat_listen = '127.0.0.1:8443'\nrelay_limit = 0").unwrap();
    let listen = plain.compat.unwrap();
    assert_eq!((listen.addr.port(), listen.tls, plain.relay_limit), (8443, None, None));
    let files = "compat_cert = 'c.pem'\ncompat_key = 'k.pem'\n";
    let tls = rendezvous(&format!("compat_listen = '0.0.0.0:443'\n{files}")).unwrap();
    assert!(tls.compat.unwrap().tls.is_some());
    assert_eq!((tls.relay_limit, rendezvous("").unwrap().compat), (Some(4_000), None));
    for (text, key) in [
        (files, "rendezvous.compat_listen"),
        ("compat_listen = '127.0.0.1:1'\ncompat_key = 'k.pem'", "rendezvous.compat_cert"),
        ("compat_listen = '127.0.0.1:1'\ncompat_max_clients = 0", "rendezvous.compat_max_clients"),
        ("compat_listen = '127.0.0.1:1'\ncompat_challenge_age = 0", "rendezvous.compat_challenge_age"),
        ("compat_listen = 'beacon:443'", "rendezvous.compat_listen"),
    ] {
        assert_eq!(rendezvous(text).unwrap_err().key, key, "{text}");
    }
}

#[test]
fn limits_of_the_registry_are_settings() {
    let limits = |text: &str| parse(&format!("[rendezvous]\n{text}")).map(|c| c.rendezvous.limits);
    let plain = limits("").unwrap();
    assert_eq!((plain.slow_above, plain.close_above, plain.close_above_together), (100, 500, Some(1_000)));
    assert_eq!((plain.reap_after.as_secs(), plain.registrations_per_minute), (1_800, None));
    let set = limits(
        "reap_after = '1h'\nmax_connections = 9\nrequests_slow = 1\nrequests_close = 2\nrequests_together = 0\n\
         registrations_per_minute = 10\nunlimited = ['192.0.2.7', '::ffff:192.0.2.8']",
    )
    .unwrap();
    assert_eq!((set.reap_after.as_secs(), set.connections), (3_600, 9));
    assert_eq!((set.slow_above, set.close_above, set.close_above_together), (1, 2, None));
    let hosts: Vec<String> = set.unlimited.iter().map(ToString::to_string).collect();
    assert_eq!((set.registrations_per_minute, hosts.join(" ")), (Some(10), "192.0.2.7 192.0.2.8".into()));
    for (text, key) in [
        ("reap_after = '5s'", "rendezvous.reap_after"),
        ("reap_after = 'soon'", "rendezvous.reap_after"),
        ("max_connections = 0", "rendezvous.max_connections"),
        ("requests_slow = 0", "rendezvous.requests_slow"),
        ("unlimited = ['localhost']", "rendezvous.unlimited"),
    ] {
        assert_eq!(limits(text).unwrap_err().key, key, "{text}");
    }
}

#[test]
fn example_names_every_key() {
    // A misspelt key fails above; a forgotten one fails here, because the reader lists what it knows.
    let settings = ["plugins.settings.x", "plugins.settings.x.process", "plugins.settings.x.capabilities"];
    let tables =
        ["node", "registry", "compat", "engine", "metrics", "plugins", "rendezvous", "security", "telemetry"];
    for table in tables.into_iter().chain(settings) {
        let unknown = parse(&format!("[{table}]\nno_such_key = 1\n")).unwrap_err().message;
        let is_key = |k: &&str| k.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !k.is_empty();
        for key in unknown.split('`').filter(is_key) {
            // Three are tables, which the example has as headers.
            if !["no_such_key", "settings", "process", "capabilities"].contains(&key) {
                assert!(example_toml().contains(&format!("#{key} = ")), "{key} is not in the example");
            }
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
        ("[engine]\nkeepalive = \"soon\"\n", 2, "engine.keepalive"),
        ("[engine]\nsyn_rate_limit = 0\n", 2, "engine.syn_rate_limit"),
        ("[engine]\nsyn_whitelist = \"2, x\"\n", 2, "engine.syn_whitelist"),
        ("[telemetry]\notlp = \"127.0.0.1:4318\"\n", 2, "telemetry.otlp"),
        ("[security]\nprofile = \"paranoid\"\n", 2, "security.profile"),
        ("[metrics]\nlisten = \"here\"\n", 2, "metrics.listen"),
        ("[ipc]\ngroup = \"no such group\"\n", 2, "ipc.group"),
        ("[plugins]\ninit_timeout = \"soon\"\n", 2, "plugins.init_timeout"),
        ("[log]\nformat = \"xml\"\n", 2, "log.format"),
        ("[plugins]\ndir = \"\"\n", 2, "plugins.dir"),
        ("\n[node]\ncolour = 1\n", 3, "node.colour"),
        ("[plugins]\ntrust = \"yes\"\n", 2, "plugins.trust"),
        ("[plugins]\nallow = [\n\"abc\"]\n", 3, "plugins.allow"),
        ("[plugins]\ntrusted_keys = [\"00\"]\n", 2, "plugins.trusted_keys"),
        ("[plugins]\ndisabled = [\"No\"]\n", 2, "plugins.disabled"),
        ("[plugins]\nquarantine_after = -1\n", 2, "plugins.quarantine_after"),
        ("[plugins]\nquarantine_window = \"25h\"\n", 2, "plugins.quarantine_window"),
        ("[plugins]\nmax_mapped_copies = 0\n", 2, "plugins.max_mapped_copies"),
        ("[plugins.settings.x]\nisolation = \"box\"\n", 2, "plugins.settings.x.isolation"),
        ("[plugins.settings.x]\ncolour = 1\n", 2, "plugins.settings.x.colour"),
        (
            "[plugins.settings.x.capabilities]\nports = [1, 70000]\n",
            2,
            "plugins.settings.x.capabilities.ports",
        ),
        ("[plugins.settings.x.capabilities]\ndial = [\"1:2\"]\n", 2, "plugins.settings.x.capabilities.dial"),
        ("[plugins.settings.x.capabilities]\nuse = [\"1\"]\n", 2, "plugins.settings.x.capabilities.use"),
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

#[test]
fn plugin_settings_are_laid_over_the_defaults_of_the_name() {
    let c = parse(
        "[plugins]\ntrust = \"enforce\"\ndisabled = [\"a\"]\nlog_rate = 7\n\
         [plugins.settings.b]\nenabled = false\n\
         [plugins.settings.webhook]\nisolation = \"process\"\n\
         capabilities = { ports = [], dials_per_second = 3 }\n\
         [plugins.settings.mine.capabilities]\nports = [444, \"2000-2999\"]\nactions = [\"trust\"]\n",
    )
    .unwrap()
    .plugins;
    assert_eq!(c.trust.mode, TrustMode::Enforce);
    assert_eq!(c.disabled.iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(c.settings["webhook"].isolation, Some(Isolation::Process));
    let webhook = c.capabilities("webhook");
    assert!(webhook.bind(1).is_err() && webhook.publish("x").is_ok());
    assert_eq!((webhook.rates.dials, webhook.rates.log_lines), (3, 7));
    let mine = c.capabilities("mine");
    assert!(mine.bind(2500).is_ok() && mine.bind(3000).is_err() && mine.publish("x").is_err());
    assert!(mine.act(Action::Trust).is_ok() && mine.act(Action::Tags).is_err());
}

#[test]
fn the_profile_makes_strict_and_its_own_key_beats_it() {
    let c = parse("[security]\nprofile = \"enterprise\"\n").unwrap();
    assert!(c.engine.strict && c.engine.apply(pilot_engine::Config::default()).echo);
    let c = parse("[security]\nprofile = \"enterprise\"\n[engine]\nstrict = false\necho = false\n").unwrap();
    assert!(!c.engine.strict && !c.engine.apply(pilot_engine::Config::default()).echo);
    assert!(c.remarks()[0].contains("engine.strict is switched off"), "{:?}", c.remarks());
    let over = Overrides { no_echo: Some(false), ..Overrides::default() };
    assert!(
        !file::parse("f", "[engine]\necho = false\n", &over).unwrap().engine.no_echo,
        "the flag beats the file"
    );
}

#[test]
fn lists_without_effect_are_read_and_talked_about() {
    let over = Overrides { reply_whitelist: Some("2,3".into()), ..Overrides::default() };
    let c = Config::load(None, &over).unwrap();
    assert!(c.remarks()[0].starts_with("reply-whitelist is accepted"), "{:?}", c.remarks());
    let over = Overrides { rekey_whitelist: Some("x".into()), ..Overrides::default() };
    assert_eq!(Config::load(None, &over).unwrap_err().origin, "--rekey-whitelist");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, r#"{"rekey_whitelist": "all", "no-echo": true}"#).unwrap();
    let c = Config::load(Some(&path), &Overrides::default()).unwrap();
    assert!(c.engine.no_echo && c.remarks()[0].starts_with("rekey-whitelist"));
}

#[test]
fn the_sandbox_holds_configuration_state_identity_and_socket() {
    let dir = tempfile::tempdir().unwrap();
    let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
    for dir in [&inside, &outside] {
        std::fs::create_dir(dir).unwrap();
    }
    std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
    let over = |socket: PathBuf| Overrides {
        sandbox: Some(true),
        sandbox_dir: Some(inside.clone()),
        state_dir: Some(inside.join("not/yet/there")),
        socket: Some(socket),
        ..Overrides::default()
    };
    assert!(Config::load(None, &over(inside.join("s"))).is_ok());
    for socket in ["s", "in/../out/s", "in/link/s", "in/nothing/../../s"] {
        let e = Config::load(None, &over(dir.path().join(socket))).unwrap_err();
        assert_eq!(e.key, "ipc.socket", "{e}");
    }
    let file = outside.join("pilot.toml");
    std::fs::write(&file, "").unwrap();
    let e = Config::load(Some(&file), &over(inside.join("s"))).unwrap_err();
    assert!(e.to_string().contains("outside the sandbox"), "{e}");
    let elsewhere = Overrides { identity: Some(outside.join("id")), ..over(inside.join("s")) };
    assert_eq!(Config::load(None, &elsewhere).unwrap_err().key, "node.identity");
}
