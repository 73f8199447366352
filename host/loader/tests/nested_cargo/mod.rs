//! The cargo that tests start to build libraries: used by this crate's tests and by those of `pilot-host`. It only prepares
//! the command; what to build, and with which profile, is the caller's to say.

use std::process::Command;

/// `cargo`, without what the outer cargo told this test about its own package. Build scripts watch those variables
/// (`CARGO_MANIFEST_DIR`, `CARGO_PKG_NAME`, ...): inherited, they would make the inner cargo compile `ring` and everything
/// above it again, and the next outer one once more.
pub fn cargo() -> Command {
    let mut command = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let of_this_package =
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|p| text.starts_with(p))
                || ["CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"].contains(&text.as_ref());
        if of_this_package {
            command.env_remove(&name);
        }
    }
    // As the workspace's own profile has it, so that crates outside the workspace find their dependencies compiled.
    for setting in PROFILE {
        command.args(["--config", setting]);
    }
    command
}

/// Arguments that build the libraries of the workspace, the four plugins among them; the name of the running test program
/// follows. Naming one package, or no test, would select fewer features of the dependencies than `cargo test --workspace`
/// did, and compile them all once more.
#[allow(dead_code, reason = "not every test program builds the workspace")]
pub const WORKSPACE_LIBRARIES: [&str; 5] = ["build", "--quiet", "--workspace", "--lib", "--test"];

const PROFILE: [&str; 3] = [
    "profile.dev.opt-level = 1",
    "profile.dev.debug = 'line-tables-only'",
    "profile.dev.package.'*'.debug = false",
];
