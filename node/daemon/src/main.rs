//! EventMesh Edge: takes devices' MQTT messages in, keeps them on disk until they are handed on, forwards them as
//! CloudEvents. This crate alone knows every other one: it parses, builds, wires, runs and drains, and decides nothing.

mod check;
mod cli;
mod exit;
mod log;
mod memory;
mod panics;
mod password;
mod reload;
mod run;
mod status;
mod store;
mod system;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    memory::keep_little();
    let done = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::check(&args),
        Command::Status(args) => status::status(&args),
        Command::Reload(args) => reload::reload(&args),
        Command::Password(args) => password::password(&args),
        Command::Store(args) => store::store(&args),
    };
    let Err(failure) = done else { return ExitCode::SUCCESS };
    let message = failure.to_string();
    if !message.is_empty() {
        eprintln!("{message}");
    }
    failure.code()
}
