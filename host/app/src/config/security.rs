//! `[security]`: the sandbox that keeps a host's files in one directory, and the security profile (cli.md section 3,
//! "Daemon flags").
//!
//! What other daemons mean by the profile `enterprise` is not published. Here it turns on what only refuses more than
//! before, and says in the log what it does not do.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::file::{Merger, RawSecurity, expand};
use super::{Config, ConfigError, RegistryTls};

/// How much is asked of peers and of the registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Profile {
    /// What the other keys say.
    #[default]
    Compatible,
    /// `engine.strict` is on unless it is written otherwise.
    Enterprise,
}

/// `[security]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecuritySettings {
    /// The profile.
    pub profile: Profile,
    /// The directory that configuration, state, identity and socket have to lie in; `None`: anywhere.
    pub sandbox: Option<PathBuf>,
}

impl Merger<'_> {
    pub(super) fn security(&self, raw: RawSecurity) -> Result<SecuritySettings, ConfigError> {
        let over = self.over;
        let name = self.pick("--security-profile", &over.security_profile, raw.profile, String::new());
        let profile = match name.value.as_str() {
            "" | "compatible" => Profile::Compatible,
            "enterprise" => Profile::Enterprise,
            other => {
                let text = format!("{other:?} is not a profile; use compatible or enterprise");
                return Err(self.bad(&name, "security.profile", text));
            }
        };
        let on = self.pick("--sandbox", &over.sandbox, raw.sandbox, false).value;
        let written = raw.sandbox_dir.map(|dir| expand(dir.get_ref()));
        let dir = over.sandbox_dir.clone().or(written).unwrap_or_else(super::default_state_dir);
        Ok(SecuritySettings { profile, sandbox: on.then_some(dir) })
    }
}

/// Checks that everything the sandbox covers lies in it, symbolic links followed.
pub(super) fn confine(origin: &str, file: Option<&Path>, config: &Config) -> Result<(), ConfigError> {
    let Some(dir) = &config.security.sandbox else { return Ok(()) };
    let inside = |path: &Path| match (real(dir), real(path)) {
        (Some(dir), Some(path)) => path.starts_with(dir),
        _ => false,
    };
    let covered = [
        ("", file, "--config"),
        ("node.state_dir", Some(config.node.state_dir.as_path()), "--state-dir"),
        ("node.identity", Some(config.node.identity.as_path()), "--identity"),
        ("ipc.socket", Some(config.socket.as_path()), "--socket"),
    ];
    for (key, path, flag) in covered {
        let Some(path) = path.filter(|p| !inside(p)) else { continue };
        return Err(ConfigError {
            origin: origin.to_owned(),
            line: 0,
            key: key.to_owned(),
            message: format!(
                "{} lies outside the sandbox {}; name a place inside it ({flag}), or another sandbox (--sandbox-dir)",
                path.display(),
                dir.display()
            ),
        });
    }
    Ok(())
}

/// Where a path really leads: what exists of it without links, what does not as it is written. `None` when that
/// cannot be told: the rest climbs out of what exists, or a link leads nowhere yet.
fn real(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let mut rest: Vec<OsString> = Vec::new();
    let mut known = path.as_path();
    loop {
        if let Ok(mut real) = known.canonicalize() {
            real.extend(rest.iter().rev());
            return Some(real);
        }
        if known.symlink_metadata().is_ok() {
            return None; // a link to nowhere yet, or nothing we may look at
        }
        match known.components().next_back()? {
            Component::Normal(name) => rest.push(name.to_owned()),
            _ => return None,
        }
        known = known.parent()?;
    }
}

/// What was asked for and is not what happens, for the log.
pub(super) fn remarks(config: &Config) -> Vec<String> {
    let over = &config.source.merged;
    let mut out = Vec::new();
    let lists = [
        (
            "reply-whitelist",
            &over.reply_whitelist,
            "peers that turn to this node come in by trust (pilotctl handshake, pilotctl approve)",
        ),
        (
            "rekey-whitelist",
            &over.rekey_whitelist,
            "the limit of key exchanges counts each address, before anybody can know who sends them",
        ),
    ];
    for (name, list, instead) in lists {
        if list.as_ref().is_some_and(|l| !l.trim().is_empty()) {
            out.push(format!("{name} is accepted and has no effect in this host: {instead}"));
        }
    }
    if config.security.profile == Profile::Enterprise {
        let mut text =
            "security profile enterprise: nothing more than engine.strict follows from it here".to_owned();
        if config.registry_tls == RegistryTls::Off && config.registry.is_some() {
            text += "; the registry is spoken to in the clear (see --registry-fingerprint, --registry-ca)";
        }
        if !config.engine.strict {
            text += "; engine.strict is switched off by its own key";
        }
        for (on, key) in
            [(config.node.public, "node.public"), (config.node.trust_auto_approve, "node.trust_auto_approve")]
        {
            if on {
                text += &format!("; {key} lets strangers in all the same");
            }
        }
        out.push(text);
    }
    out
}
