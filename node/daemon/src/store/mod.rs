//! `eventmesh-edge store`: looking at what a node keeps, and moving it.
//!
//! Reading works beside a running node too: then the node answers over its admin socket for what is its own, and only files
//! that never change are looked at directly. What changes something wants the node stopped, and says so.

pub(crate) mod args;
mod dump;
mod export;
mod import;
mod line;
mod place;
mod progress;
mod repair;
mod source;
mod stats;
#[cfg(test)]
mod tests;
mod verify;
mod walk;

use self::args::StoreCommand;
use crate::exit::Failure;
use std::io::{self, Write};

/// Runs one of the commands.
pub(crate) fn store(args: &args::Store) -> Result<(), Failure> {
    match &args.command {
        StoreCommand::Verify(args) => verify::verify(args),
        StoreCommand::Repair(args) => repair::repair(args),
        StoreCommand::Dump(args) => dump::dump(args),
        StoreCommand::Export(args) => export::export(args),
        StoreCommand::Import(args) => import::import(args),
        StoreCommand::Stats(args) => stats::stats(args),
    }
}

/// Standard output that is gone (`| head`) ends a listing without a complaint.
fn is_closed_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// One JSON document on standard output.
fn print_json<T: serde::Serialize>(value: &T) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(value).map_err(|error| Failure::Failed(error.into()))?;
    match writeln!(io::stdout(), "{json}") {
        Err(error) if !is_closed_pipe(&error) => Err(Failure::Failed(error.into())),
        _ => Ok(()),
    }
}
