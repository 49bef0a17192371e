//! The store of the running node, for `eventmesh-edge store`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use eventmesh_edge_admin::{EventsPage, StoreSource, StoredRecord};
use eventmesh_edge_core::event::{Position, StoredEvent, record};
use eventmesh_edge_runtime::routes::LiveRouter;
use eventmesh_edge_store::JournalStore;
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes of events in one page, about.
const PAGE_BYTES: usize = 1 << 20;

/// Reads what it is asked for and changes nothing.
pub(super) struct Desk {
    pub(super) store: Arc<JournalStore>,
    pub(super) dir: PathBuf,
    pub(super) routes: Arc<LiveRouter>,
}

impl StoreSource for Desk {
    fn report(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec(&self.store.report(&self.dir)).map_err(|error| error.to_string())
    }

    fn events(&self, stream: u32, after: u64, max: usize) -> Result<EventsPage, String> {
        let page = self.store.read_stream(stream, Position(after), max, PAGE_BYTES);
        let page = page.map_err(|error| error.to_string())?;
        Ok(EventsPage {
            events: page.events.iter().map(|stored| self.stored(stored)).collect(),
            through: page.through.0,
            at_end: page.at_end,
            lost: page.lost.iter().map(|(first, last)| (first.0, last.0)).collect(),
        })
    }
}

impl Desk {
    fn stored(&self, stored: &StoredEvent) -> StoredRecord {
        let mut body = Vec::new();
        record::encode(&stored.event, stored.sequence, &mut body);
        StoredRecord {
            position: stored.position.0,
            stored_bytes: stored.stored_bytes,
            kind: self.routes.kind_for(&stored.event.topic, stored.event.via).to_string(),
            body: STANDARD.encode(body),
        }
    }
}
