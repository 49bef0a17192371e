//! `eventmesh-edge status`: asks a running node.

use crate::cli;
use crate::exit::Failure;
use anyhow::Context;
use eventmesh_edge_admin::{fetch_status, render};
use eventmesh_edge_config::{ADMIN_SOCKET, Config, Overrides, ProcessEnvironment};
use std::path::{Path, PathBuf};

/// Prints the status; fails with a code of its own if something needs a look.
pub(crate) fn status(args: &cli::Status) -> Result<(), Failure> {
    let socket = socket(args.socket.as_deref(), args.data_dir.as_deref(), args.config.as_deref())?;
    let status = fetch_status(&socket).map_err(|error| Failure::Failed(error.into()))?;
    if args.json {
        let json = serde_json::to_string_pretty(&status).context("write status as JSON");
        println!("{}", json.map_err(Failure::Failed)?);
    } else {
        print!("{}", render(&status));
    }
    if status.troubles().is_empty() { Ok(()) } else { Err(Failure::NeedsALook) }
}

/// Where the node in question listens. A configuration that is wrong by now may still be the running node's: then
/// `--socket` or `--data-dir` says where it is.
pub(crate) fn socket(
    socket: Option<&Path>,
    data_dir: Option<&Path>,
    config: Option<&Path>,
) -> Result<PathBuf, Failure> {
    if let Some(socket) = socket {
        return Ok(socket.to_owned());
    }
    if let (Some(dir), None) = (data_dir, config) {
        return Ok(dir.join(ADMIN_SOCKET));
    }
    let overrides = Overrides { data_dir: data_dir.map(Path::to_owned), listen: Vec::new() };
    let config = Config::load(config, &ProcessEnvironment, &overrides);
    config.map(|config| config.admin.socket).map_err(|error| Failure::CannotStart(error.into()))
}
