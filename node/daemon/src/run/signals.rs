//! SIGTERM and SIGINT: the first stops in order, the second at once.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Both signals, caught from now on.
#[derive(Debug)]
pub(super) struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// Within a tokio runtime.
    pub(super) fn catch() -> io::Result<Signals> {
        Ok(Signals { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// The name of the next one.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}
