//! A running store answers for itself.

use super::JournalStore;
use crate::backing::StreamNo;
use crate::inspect::report::report;
use crate::inspect::{EventPage, StoreReport};
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::ReadError;
use std::path::Path;

impl JournalStore {
    /// What it holds. Walks the views in pages: not for every second, and not on a thread that must not block.
    #[must_use]
    pub fn report(&self, dir: &Path) -> StoreReport {
        report(&self.shared.core, dir, true)
    }

    /// Reads what lies on disk of a stream, by its number in the report, after a position; no cursor bounds it and none
    /// moves. Blocks on the disk.
    ///
    /// # Errors
    /// [`ReadError`] if the disk fails; what is damaged is stepped over, counted, and named in [`EventPage::lost`].
    pub fn read_stream(
        &self,
        stream: u32,
        after: Position,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<EventPage, ReadError> {
        let page = self.shared.core.read_stream(StreamNo(stream), after, max_events, max_bytes)?;
        Ok(page.into())
    }
}
