//! The daemon's program: parses, builds the configuration, runs. Called by the binary `pilot-host`, which is this and the
//! name of its build.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a program talks to its terminal

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cli::{Cli, Command, ConfigCommand, RendezvousAction, RendezvousArgs, RunArgs, RunnerCommand};
use crate::config::{Config, ConfigError, EXIT_CONFIG, Overrides, example_toml};
use crate::{compat, embedded, logging, plugin_cmd, run, runner, telemetry, version};

/// Does what the command line says, to the end of the process. The exit codes are in README.md.
pub fn main() -> ExitCode {
    match Cli::parse_from(compat::command_line(std::env::args_os())).command {
        Command::Run(args) => tied(args.parent_pid, || with_config(run_config(&args), run::run)),
        Command::Rendezvous(args) => match &args.action {
            Some(RendezvousAction::Import { file, data_dir }) => match embedded::import(file, data_dir) {
                Ok(report) => {
                    print!("{report}");
                    ExitCode::SUCCESS
                }
                Err(e) => {
                    eprintln!("error: {e:#}");
                    ExitCode::FAILURE
                }
            },
            None => tied(args.parent_pid, || {
                with_config(rendezvous_config(&args), |config| run::rendezvous(config, args.json))
            }),
        },
        Command::Config(ConfigCommand::Example) => {
            print!("{}", example_toml());
            ExitCode::SUCCESS
        }
        Command::Config(ConfigCommand::Check { file }) => {
            match Config::load(Some(&file), &Overrides::default()) {
                Ok(_) => {
                    println!("{}: good", file.display());
                    ExitCode::SUCCESS
                }
                Err(e) => config_error(&e),
            }
        }
        Command::Runner(RunnerCommand::Serve(args)) => {
            logging::init(&args.log(), None);
            block_on(runner::serve::run(*args))
        }
        Command::Plugin(command) => plugin_cmd::run(&command),
        Command::PluginChild => {
            eprintln!("error: {}", pilot_loader::child::child_main());
            ExitCode::FAILURE
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "pilot-host", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
        Command::Version => {
            println!("pilot-host {}", version::text());
            ExitCode::SUCCESS
        }
    }
}

fn run_config(args: &RunArgs) -> Result<Config, ConfigError> {
    Config::load(args.config.as_deref(), &args.overrides())
}

fn rendezvous_config(args: &RendezvousArgs) -> Result<Config, ConfigError> {
    Config::load(args.config.as_deref(), &args.overrides())
}

fn config_error(e: &ConfigError) -> ExitCode {
    eprintln!("error: {e}");
    eprintln!("hint:  `pilot-host config example` prints every key with its meaning");
    ExitCode::from(u8::try_from(EXIT_CONFIG).unwrap_or(1))
}

fn with_config<F>(config: Result<Config, ConfigError>, start: impl FnOnce(Config) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    let config = match config {
        Ok(config) => config,
        Err(e) => return config_error(&e),
    };
    let spans = match config.telemetry.as_deref().map(telemetry::layer).transpose() {
        Ok(spans) => spans,
        Err(e) => {
            eprintln!("error: {e:#}");
            return ExitCode::FAILURE;
        }
    };
    logging::init(&config.log, spans);
    let exit = block_on(start(config));
    telemetry::end();
    exit
}

/// Before anything else: a host that belongs to a runner must not outlive it.
fn tied(parent: Option<i32>, start: impl FnOnce() -> ExitCode) -> ExitCode {
    match parent.map_or(Ok(()), runner::process::die_with) {
        Ok(()) => start(),
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn block_on(start: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("error: cannot start the runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(start);
    // A plugin whose Shutdown hangs keeps its thread; the process ends without waiting for it.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}
