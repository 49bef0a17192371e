//! The store under test, from the side that cuts its power.

use eventmesh_edge_contract::{MemoryDisk, MemoryStore, Rng};
use eventmesh_edge_core::event::LogId;
use eventmesh_edge_core::ports::store::{Store, StoreSpec};
use std::sync::Arc;

/// A store whose disk is in the simulation's hands.
pub trait Backend {
    /// Opens what is durable; the first time, an empty store.
    fn open(&mut self, spec: StoreSpec) -> Arc<dyn Store>;

    /// Commits submitted and not completed yet.
    fn pending(&self) -> usize;

    /// Makes up to `n` commits durable, in order, and calls their completions. Returns how many. May take more than `n`
    /// where the store groups them.
    fn complete(&mut self, n: usize) -> usize;

    /// The power goes. What was submitted and not completed may be there afterwards, from the front, or not: by `rng`.
    fn power_cut(&mut self, rng: &mut Rng);
}

/// [`MemoryStore`] in manual mode.
pub struct MemoryBackend {
    disk: MemoryDisk,
    store: Option<Arc<MemoryStore>>,
}

impl MemoryBackend {
    /// Empty; the log id is the seed's.
    #[must_use]
    pub fn new(seed: u64) -> MemoryBackend {
        let id = Rng::new(seed).below(1 << 32);
        MemoryBackend { disk: MemoryDisk::new(LogId(u32::try_from(id).unwrap_or(0))), store: None }
    }
}

impl Backend for MemoryBackend {
    fn open(&mut self, spec: StoreSpec) -> Arc<dyn Store> {
        let store = self.disk.open_manual(spec);
        self.store = Some(Arc::clone(&store));
        store
    }

    fn pending(&self) -> usize {
        self.store.as_ref().map_or(0, |s| s.pending())
    }

    fn complete(&mut self, n: usize) -> usize {
        self.store.as_ref().map_or(0, |s| s.complete_next(n))
    }

    fn power_cut(&mut self, rng: &mut Rng) {
        if let Some(store) = self.store.take() {
            store.crash_keeping(rng.index(store.pending() + 1));
        }
    }
}
