//! The one thread of sessions and uplinks rests while the store gathers a group anyway, instead of waking up for each message:
//! at 2,000 messages a second over 50 clients that is a wake-up for several of them. It is never longer than the store says
//! ([`Rest::LONGEST`]; `commit_delay = "0 s"` turns it off), and it is taken only when there is nothing else to do.

use eventmesh_edge_store::{JournalStore, Rest};
use std::sync::{Arc, OnceLock};

/// The runtime is built before the store that it asks. One node per process.
static STORE: OnceLock<Arc<Rest>> = OnceLock::new();

pub(super) fn as_long_as_it_gathers(store: &JournalStore) {
    // A second store in one process keeps the first one's advice: it is only advice.
    STORE.get_or_init(|| store.rest());
}

/// For `on_thread_park` of the runtime: called when no task is ready.
pub(super) fn before_park() {
    if let Some(left) = STORE.get().and_then(|rest| rest.left()) {
        std::thread::sleep(left);
    }
}
