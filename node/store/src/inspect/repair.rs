//! What a start makes of damage, as a step of its own.

use super::report::{PendingLoss, StoreReport};
use super::{InspectError, InspectOptions, Inspection};
use crate::{JournalStore, Opened};
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::Store;
use std::path::Path;
use std::sync::Arc;

/// What [`repair`] did.
#[derive(Clone, Debug)]
pub struct Repaired {
    /// What the start found.
    pub opened: Opened,
    /// What it counted in the ledger.
    pub counted: Vec<PendingLoss>,
    /// The store as it is now.
    pub report: StoreReport,
}

/// Starts the store as a node does, with the streams, uplinks and cursors that the directory remembers, and closes it in
/// order: what is damaged is moved or copied to `quarantine` and counted in the ledger, a torn tail is cut off. Nothing is
/// forwarded, expired or dropped.
///
/// # Errors
/// [`InspectError`]; the next start tries again.
pub fn repair(dir: &Path, options: &InspectOptions, clock: Arc<dyn Clock>) -> Result<Repaired, InspectError> {
    let before = Inspection::open(dir, options)?;
    let (spec, store_options) = (before.spec(), before.store_options());
    let counted = before.report().pending_losses;
    drop(before);
    let (store, opened) = JournalStore::open(dir, spec, &store_options, clock)?;
    store.close();
    drop(store);
    let report = Inspection::open(dir, options)?.report();
    Ok(Repaired { opened, counted, report })
}
