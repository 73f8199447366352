//! The host once more, as a build that says it is another one: for tests that restart a node with another build
//! (netrunner.md section 7, number 4). Compiled and linked by itself, of the same sources.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    pilot_host::version::set_build(Some("another-build"), None);
    pilot_host::program::main()
}
