//! `eventmesh-edge check`: is my file right, and what would it do?

use crate::cli;
use crate::exit::Failure;
use eventmesh_edge_config::{Config, LoadError, Overrides, ProcessEnvironment};

/// Prints every problem, one line each, or what the node would do and what may not be meant.
pub(crate) fn check(args: &cli::Check) -> Result<(), Failure> {
    let config = match Config::load(args.config.as_deref(), &ProcessEnvironment, &Overrides::default()) {
        Ok(config) => config,
        Err(error @ LoadError::Read { .. }) => return Err(Failure::CannotStart(error.into())),
        Err(LoadError::Problems(problems)) => return Err(Failure::Failed(problems.into())),
    };
    for line in config.summary() {
        println!("{line}");
    }
    for warning in &config.warnings {
        println!("warning: {warning}");
    }
    Ok(())
}
