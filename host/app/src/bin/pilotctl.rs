//! The control tool's program; everything is in the library (`pilot_host::ctl`).
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    pilot_host::version::set_build(option_env!("PILOT_COMMIT"), option_env!("PILOT_BUILD_TIME"));
    pilot_host::ctl::main()
}
