//! What this build is. One place, so that the daemon, the tool and the plugins say the same.

use plugin_abi::VersionInfo;

/// The version text, for example `v0.1.0`.
pub const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));

/// Version, commit and build time; the last two are set by packagers through `PILOT_COMMIT` and `PILOT_BUILD_TIME`.
pub fn info() -> VersionInfo {
    VersionInfo {
        version: VERSION.to_owned(),
        commit: option_env!("PILOT_COMMIT").unwrap_or("").to_owned(),
        build_time: option_env!("PILOT_BUILD_TIME").unwrap_or("").to_owned(),
    }
}
