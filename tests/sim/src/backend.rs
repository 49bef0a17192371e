//! The store under test, from the side that cuts its power.

use eventmesh_edge_contract::{Layer, Layered, MemoryDisk, MemoryStore, Rng};
use eventmesh_edge_core::event::LogId;
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::store::{Commit, CommitError, Committed, Store, StoreSpec};
use eventmesh_edge_store::sim_disk::{Fault, Kind};
use eventmesh_edge_store::{SimSite, SteppedStore, StoreOptions};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A store whose disk is in the simulation's hands.
pub trait Backend {
    /// Opens what is durable; the first time, an empty store.
    fn open(&mut self, spec: StoreSpec) -> Arc<dyn Store>;

    /// Commits submitted and not completed yet.
    fn pending(&self) -> usize;

    /// Makes up to `n` commits durable, in order, and calls their completions. Returns how many. May take more than `n`
    /// where the store groups them.
    fn complete(&mut self, n: usize) -> usize;

    /// Nothing goes wrong any more.
    fn heal(&mut self) {}

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

/// The real store (journal, engine, sealed generations, views) over a simulated disk that loses and tears what was not
/// synced, in segments so small that seals, checkpoints and recycling happen all the time.
pub struct JournalBackend {
    site: SimSite,
    options: StoreOptions,
    rng: Rng,
    /// Chance of a failing write, sync or name change per commit, per mille.
    faults: u64,
    store: Option<Arc<Layered<Queued>>>,
}

impl JournalBackend {
    /// Empty. Disk faults come by the seed, with a chance of `faults` per mille, until [`Backend::heal`].
    #[must_use]
    pub fn new(seed: u64, faults: u64) -> JournalBackend {
        let mut rng = Rng::new(seed ^ 0x6a6f_7572_6e61_6c00);
        let options = StoreOptions {
            segment_bytes: u32::try_from(rng.between(5, 16) * 4096).unwrap_or(1 << 16),
            recent_bytes: if rng.chance(500) { 1 << 10 } else { 1 << 20 },
            seal_segments: if rng.chance(700) { 1 } else { 8 },
            checkpoint_segments: 1,
            checkpoint_bytes: 4 << 10,
            ..StoreOptions::default()
        };
        JournalBackend { site: SimSite::new(), options, rng, faults, store: None }
    }

    fn maybe_fail(&mut self) {
        if self.rng.chance(self.faults) {
            let kind = [Kind::Write, Kind::Sync, Kind::Names][self.rng.index(3)];
            let fault = [Fault::NoSpace, Fault::Io, Fault::Short][self.rng.index(3)];
            self.site.disk.fail(kind, self.rng.below(3), self.rng.between(1, 3), fault);
        }
    }
}

impl Backend for JournalBackend {
    /// # Panics
    /// If the store does not start: whatever happened, it must (P6).
    fn open(&mut self, spec: StoreSpec) -> Arc<dyn Store> {
        self.store = None;
        // Faults are for a running store; what a start does on a broken disk is the store's own test.
        self.site.disk.heal();
        let opened = SteppedStore::open(&self.site, spec, &self.options, false);
        let (store, _) = opened.expect("P6: the store always starts");
        let queued = Arc::new(Layered(Queued { inner: store, queue: Mutex::default() }));
        self.store = Some(Arc::clone(&queued));
        queued
    }

    fn pending(&self) -> usize {
        self.store.as_ref().map_or(0, |s| s.queue().len())
    }

    fn complete(&mut self, n: usize) -> usize {
        self.maybe_fail();
        self.store.as_ref().map_or(0, |s| s.pass_on(n))
    }

    fn heal(&mut self) {
        self.faults = 0;
        self.site.disk.heal();
    }

    fn power_cut(&mut self, rng: &mut Rng) {
        if let Some(store) = self.store.take() {
            // From some operation on nothing works any more: in the middle of a write, a sync, a seal, a checkpoint.
            self.site.disk.fail(Kind::Any, rng.below(12), u64::MAX, Fault::Io);
            let under_way = store.queue().len();
            store.pass_on(rng.index(under_way + 1));
        }
        self.site.power_cut(rng.next_u64());
    }
}

/// Keeps commits until the simulation lets the store have them.
struct Queued {
    inner: SteppedStore,
    queue: Mutex<VecDeque<(Commit, CommitDone)>>,
}

type CommitDone = Completion<Result<Committed, CommitError>>;

impl Queued {
    fn queue(&self) -> MutexGuard<'_, VecDeque<(Commit, CommitDone)>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to `n` commits as one group, and the maintenance that is due after them.
    fn pass_on(&self, n: usize) -> usize {
        let taken: Vec<_> = {
            let mut queue = self.queue();
            let n = n.min(queue.len());
            queue.drain(..n).collect()
        };
        let count = taken.len();
        for (commit, done) in taken {
            self.inner.submit(commit, done);
        }
        self.inner.step();
        count
    }
}

impl Layer for Queued {
    fn behind(&self) -> &dyn Store {
        &self.inner
    }

    fn submit(&self, commit: Commit, done: CommitDone) {
        self.queue().push_back((commit, done));
    }

    fn close(&self) {
        self.pass_on(usize::MAX);
        self.inner.close();
    }
}
