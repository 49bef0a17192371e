//! Where the store is, and who has it.

use super::args::Place;
use crate::exit::Failure;
use eventmesh_edge_config::{Config, Overrides, ProcessEnvironment};
use eventmesh_edge_store::OpenError;
use eventmesh_edge_store::inspect::{InspectError, InspectOptions};

/// The configuration of the node in question; the defaults where no file is named.
pub(super) fn config(place: &Place) -> Result<Config, Failure> {
    let overrides = Overrides { data_dir: place.data_dir.clone(), listen: Vec::new() };
    let config = Config::load(place.config.as_deref(), &ProcessEnvironment, &overrides);
    config.map_err(|error| Failure::CannotStart(error.into()))
}

/// How a stopped store is looked at.
pub(super) fn options(place: &Place) -> InspectOptions {
    match &place.scratch {
        Some(scratch) => InspectOptions { scratch: scratch.clone() },
        None => InspectOptions::default(),
    }
}

/// The process that has the data directory, if that is why it cannot be opened.
pub(super) fn holder(error: &InspectError) -> Option<&str> {
    match error {
        InspectError::Open(OpenError::InUse { pid, .. }) => Some(pid),
        _ => None,
    }
}

/// Why a store cannot be looked at, as the end of the process.
pub(super) fn failed(error: InspectError) -> Failure {
    match error {
        InspectError::Open(_) => Failure::CannotStart(error.into()),
        _ => Failure::Failed(error.into()),
    }
}

/// What a command that changes something says to a running node.
pub(super) fn needs_a_stopped_node(command: &str, error: InspectError) -> Failure {
    match holder(&error) {
        Some(pid) => Failure::CannotStart(anyhow::anyhow!(
            "`store {command}` changes the store and a node has it open (pid {pid}): stop that node first, then run this again"
        )),
        None => failed(error),
    }
}
