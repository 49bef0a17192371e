//! SIGTERM and SIGINT: the first stops in order, the second at once.
//!
//! "At once" is kept by a thread of its own: while the first is obeyed, the runtime's thread may stand in a write to a disk
//! that does not answer, and so may whoever closes the store. That thread ends the process without running anybody's
//! destructor. Nothing acknowledged depends on an orderly stop (P1): the next start does what this one leaves undone.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::warn;

/// Exit code after a second signal, plus its number: 143 for SIGTERM, 130 for SIGINT, as a shell reports a process that
/// the signal has ended.
const BY_SIGNAL: i32 = 128;

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
        self.next_kind().await.0
    }

    /// Its name and number.
    async fn next_kind(&mut self) -> (&'static str, i32) {
        tokio::select! {
            _ = self.term.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
            _ = self.int.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
        }
    }
}

/// From now on, the next of them ends the process at once.
pub(super) fn end_at_the_next() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        // Caught before this returns: a second signal that comes now is not lost.
        let _within = runtime.enter();
        Signals::catch()?
    };
    let watch = move || {
        let (signal, number) = runtime.block_on(signals.next_kind());
        warn!(signal, "stopping at once");
        std::process::exit(BY_SIGNAL + number);
    };
    std::thread::Builder::new().name("edge-signals".to_owned()).stack_size(256 << 10).spawn(watch).map(drop)
}
