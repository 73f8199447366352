//! The `config.json` of the other daemons: one JSON object whose members are flags without their dashes, `-` or `_` in
//! the names (cli.md section 3, "Config file"). Read when `--config` names a file that begins with `{`.
//!
//! Members that mean nothing here are left alone, as every reader of that file must: others keep theirs in it.

use serde_json::{Map, Value};

use super::{ConfigError, Overrides};

/// Whether a configuration file is one of these.
pub(super) fn looks_like(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

/// `over` with the file's values beneath it: a flag beats the file.
pub(super) fn beneath(origin: &str, text: &str, over: &Overrides) -> Result<Overrides, ConfigError> {
    let members: Map<String, Value> = serde_json::from_str(text).map_err(|e| ConfigError {
        origin: origin.to_owned(),
        line: e.line(),
        key: String::new(),
        message: format!("load config: {e}"),
    })?;
    let mut o = over.clone();
    for (key, value) in &members {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => continue,
        };
        if !value.is_empty() {
            take(&mut o, &key.replace('_', "-"), value).map_err(|message| ConfigError {
                origin: origin.to_owned(),
                line: 0,
                key: key.clone(),
                message,
            })?;
        }
    }
    Ok(o)
}

fn take(o: &mut Overrides, name: &str, value: String) -> Result<(), String> {
    fn put<T>(slot: &mut Option<T>, value: T) {
        slot.get_or_insert(value);
    }
    let flag = || matches!(value.as_str(), "true" | "1");
    let number = || value.parse().map_err(|_| format!("{value:?} is not a whole number"));
    match name {
        "registry" => put(&mut o.registry, value),
        "beacon" => put(&mut o.beacon, value),
        "listen" => put(&mut o.listen, value),
        "socket" => put(&mut o.socket, value.into()),
        "endpoint" | "advertise-endpoint" => put(&mut o.endpoint, value),
        "identity" => put(&mut o.identity, value.into()),
        "hostname" => put(&mut o.hostname, value),
        "public" => put(&mut o.public, flag()),
        "trust-auto-approve" => put(&mut o.trust_auto_approve, flag()),
        "admin-token" => put(&mut o.admin_token, value),
        "networks" => {
            let ids =
                value.split(',').map(|n| n.trim().parse().map_err(|_| format!("{n:?} is no network id")));
            put(&mut o.networks, ids.collect::<Result<Vec<i64>, _>>()?);
        }
        "registry-tls" => put(&mut o.registry_tls, flag()),
        "no-dataexchange" if flag() && !o.disabled_plugins.contains(&"dataexchange") => {
            o.disabled_plugins.push("dataexchange");
        }
        "registry-fingerprint" => put(&mut o.registry_fingerprint, value),
        "registry-trust" => put(&mut o.registry_trust, value),
        // Weaker than the variable, so not a flag's equal.
        "transport" => put(&mut o.transport_in_json, value),
        "compat-beacon" => put(&mut o.compat_beacon, value),
        "tls-trust" => put(&mut o.tls_trust, value),
        "compat-roots" => put(&mut o.compat_roots, value.into()),
        "proxy" => put(&mut o.proxy, value),
        "keepalive" => put(&mut o.keepalive, value),
        "idle-timeout" => put(&mut o.idle_timeout, value),
        "time-wait" => put(&mut o.time_wait, value),
        "syn-rate-limit" => put(&mut o.syn_rate_limit, number()?),
        "syn-whitelist" => put(&mut o.syn_whitelist, value),
        "max-conns-per-port" => put(&mut o.max_conns_per_port, number()?),
        "max-conns-total" => put(&mut o.max_conns_total, number()?),
        "relay-only" => put(&mut o.relay_only, flag()),
        "no-echo" => put(&mut o.no_echo, flag()),
        "reply-whitelist" => put(&mut o.reply_whitelist, value),
        "rekey-whitelist" => put(&mut o.rekey_whitelist, value),
        "sandbox" => put(&mut o.sandbox, flag()),
        "sandbox-dir" => put(&mut o.sandbox_dir, value.into()),
        "security-profile" => put(&mut o.security_profile, value),
        "strict-dataplane-trust" => put(&mut o.strict, flag()),
        "log-level" => put(&mut o.log_level, value),
        "log-format" => put(&mut o.log_format, value),
        "webhook" => plugin_key(o, "webhook", "url", value.into()),
        "webhook-secret" => plugin_key(o, "webhook", "secret", value.into()),
        "dataexchange-b64" => {
            let on = flag();
            plugin_key(o, "dataexchange", "include_base64", on.into());
        }
        // Tunnels of this host are always encrypted; a file that wants them open must not be believed silently.
        "encrypt" if !flag() => return Err("tunnels are always encrypted; remove it".to_owned()),
        _ => {}
    }
    Ok(())
}

fn plugin_key(o: &mut Overrides, plugin: &'static str, key: &'static str, value: Value) {
    if !o.plugin_keys.iter().any(|(p, k, _)| (*p, *k) == (plugin, key)) {
        o.plugin_keys.push((plugin, key, value));
    }
}
