//! How the process ends, as numbers that scripts and service managers can rely on. Beside those below: 143 or 130 after a
//! second SIGTERM or SIGINT, which ends `run` at once.

use std::fmt;
use std::process::ExitCode;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// `check` found problems, `status` found no node, `run` failed while running: 1.
    Failed(anyhow::Error),
    /// It could not start: configuration, data directory, address, certificate: 2, as for a wrong command line.
    CannotStart(anyhow::Error),
    /// `status`: the node is up, but something needs a look: 3. Everything has been printed.
    NeedsALook,
    /// `store`: damage was found, or not everything could be read: 1. Everything has been printed.
    Told,
    /// A task of ours panicked: 70, EX_SOFTWARE of sysexits(3).
    Bug,
}

impl Failure {
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Failed(_) | Failure::Told => 1,
            Failure::CannotStart(_) => 2,
            Failure::NeedsALook => 3,
            Failure::Bug => 70,
        })
    }
}

impl fmt::Display for Failure {
    /// Empty where everything has been said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // `{:#}`: the chain on one line, outermost first.
            Failure::Failed(error) | Failure::CannotStart(error) => write!(f, "{error:#}"),
            Failure::NeedsALook | Failure::Told | Failure::Bug => Ok(()),
        }
    }
}
