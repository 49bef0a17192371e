//! The command line.

use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

/// MQTT at the edge, CloudEvents upstream: what is acknowledged is on disk, and is never lost silently.
#[derive(Debug, Parser)]
#[command(name = "eventmesh-edge", version, after_help = EXAMPLES, max_term_width = 110, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  eventmesh-edge run                                   listens on 127.0.0.1:1883, stores in ./data, no file needed
  eventmesh-edge run --config node.toml                does what the file says
  eventmesh-edge check --config node.toml              says what is wrong with it, or what it would do
  eventmesh-edge status                                asks the node that stores in ./data
  eventmesh-edge reload --dry-run                      says what a changed file would change in the running node
  eventmesh-edge password plant-7 >> passwords         adds a user to the password file of a listener
  eventmesh-edge store verify                          checks every checksum of what is stored in ./data

Exit codes:
  0  done; stopped in order; the node is up and moving
  1  run: it failed while running. check: problems found. status: no node answers. reload: nothing was changed.
     store: damage found, or cut short
  2  it could not start: command line, configuration, data directory, address or certificate; the message says which
  3  status: the node is up, but something needs a look
  70 a bug of ours: the log has the place";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the node until SIGTERM or SIGINT
    Run(Run),
    /// Check a configuration without opening anything: all its problems, or what it would do
    Check(Check),
    /// Ask a running node how it is
    Status(Status),
    /// Have a running node read its configuration again and change what can be changed while it runs
    Reload(crate::reload::Reload),
    /// Hash a password for a listener's password file
    Password(Password),
    /// Look at what is stored: verify, repair, dump, export, import, stats
    Store(crate::store::args::Store),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Configuration file; the defaults without it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Store here, whatever the configuration says
    #[arg(short, long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Listen here instead of where the configuration says (repeatable; port 0 takes a free one)
    #[arg(short, long, value_name = "ADDR")]
    pub(crate) listen: Vec<SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Configuration file; the defaults and the environment without it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// As the node answers, instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// The node's admin socket
    #[arg(long, value_name = "PATH", conflicts_with_all = ["data_dir", "config"])]
    pub(crate) socket: Option<PathBuf>,
    /// The node's data directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The node's configuration file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The password is read from standard input, or asked for on a terminal. One line comes out:\n\
                        eventmesh-edge password plant-7 >> /etc/eventmesh-edge/passwords"
)]
pub(crate) struct Password {
    /// User name
    pub(crate) username: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
