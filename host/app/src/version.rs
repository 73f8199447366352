//! What this build is. One place, so that the daemon, the tool and the plugins say the same.
//!
//! The version is the crate's. Commit and time are the build's: the two programs take them from the environment of the
//! compiler (`PILOT_COMMIT`, `PILOT_BUILD_TIME`) and say them here when they begin, so that another commit costs another
//! link and no compilation of this library.

use std::sync::OnceLock;

use plugin_abi::VersionInfo;

/// The version text, for example `v0.1.0`.
pub const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));

static BUILD: OnceLock<VersionInfo> = OnceLock::new();

/// Says which build this program is; once, at its begin. Later calls change nothing.
pub fn set_build(commit: Option<&str>, build_time: Option<&str>) {
    BUILD.get_or_init(|| VersionInfo {
        version: VERSION.to_owned(),
        commit: commit.unwrap_or_default().to_owned(),
        build_time: build_time.unwrap_or_default().to_owned(),
    });
}

/// Version, commit and build time; the last two are empty when nobody said them.
pub fn info() -> VersionInfo {
    BUILD
        .get()
        .cloned()
        .unwrap_or_else(|| VersionInfo { version: VERSION.to_owned(), ..VersionInfo::default() })
}

/// For people: the version, and behind it the commit in brackets where one is known.
pub fn text() -> String {
    with_commit(VERSION, &info().commit)
}

/// The same for a version and a commit from elsewhere, such as another process.
pub fn with_commit(version: &str, commit: &str) -> String {
    match commit {
        "" => version.to_owned(),
        commit => format!("{version} ({commit})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commit_is_shown_where_there_is_one() {
        assert_eq!(with_commit("v1.2.3", ""), "v1.2.3");
        assert_eq!(with_commit("v1.2.3", "abc"), "v1.2.3 (abc)");
    }
}
