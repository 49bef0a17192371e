//! The contract of the Store port, on the real disk and on the simulated one.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests are not in `#[test]` functions"
)]

use eventmesh_edge_contract::Factory;
use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::{Store, StoreSpec};
use eventmesh_edge_store::{JournalStore, SimSite, SteppedStore, StoreOptions};
use std::sync::Arc;
use std::time::{Duration, Instant};

struct TestClock(Instant);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(1_790_000_000_000)
    }
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

mod real_disk {
    use super::*;
    use std::cell::RefCell;
    use std::path::PathBuf;

    thread_local! {
        /// A test may let go of its factory before its store: the directories stay until its thread ends.
        static DIRS: RefCell<Vec<tempfile::TempDir>> = const { RefCell::new(Vec::new()) };
    }

    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().to_owned();
            DIRS.with_borrow_mut(|dirs| dirs.push(dir));
            Dir(path)
        }
    }

    impl Factory for Dir {
        fn open(&self, spec: StoreSpec) -> Arc<dyn Store> {
            let clock = Arc::new(TestClock(Instant::now()));
            let options = StoreOptions { segment_bytes: 1 << 20, ..StoreOptions::default() };
            let (store, _) = JournalStore::open(&self.0, spec, &options, clock).unwrap();
            Arc::new(store)
        }

        fn cases(&self) -> u32 {
            8
        }
    }

    eventmesh_edge_contract::contract_tests!(Dir::new());
}

/// Segments so small that every test meets their ends, with seals and recycling on the way.
mod simulated_disk {
    use super::*;

    impl Factory for Site {
        fn open(&self, spec: StoreSpec) -> Arc<dyn Store> {
            let options = StoreOptions {
                segment_bytes: 512 << 10,
                recent_bytes: 8 << 10,
                seal_segments: 2,
                checkpoint_segments: 1,
                checkpoint_bytes: 4 << 10,
                ..StoreOptions::default()
            };
            let (store, _) = SteppedStore::open(&self.0, spec, &options, true).unwrap();
            Arc::new(store)
        }
    }

    struct Site(SimSite);

    eventmesh_edge_contract::contract_tests!(Site(SimSite::new()));
}
