//! The time floor: read at the start, written down every hour.

use bytes::Bytes;
use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::{Commit, ReadError, StateChange, StateValue, Store, Table};
use eventmesh_edge_runtime::floor::TimeFloor;
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

const KEY: Bytes = Bytes::from_static(b"time-floor");
/// Whether it is time to write it down is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The floor as the last run left it.
pub(super) fn open(store: &Arc<dyn Store>, clock: &Arc<dyn Clock>) -> Result<Arc<TimeFloor>, ReadError> {
    let kept = store.get(Table::Node, &KEY)?;
    let kept = kept.and_then(|value| value.as_ref().try_into().ok().map(u64::from_be_bytes)).map(Timestamp);
    if let Some(kept) = kept.filter(|kept| *kept > clock.now()) {
        warn!(
            kept_ms = kept.0,
            "the clock is behind what an earlier run has seen: certificates are checked against that"
        );
    }
    Ok(Arc::new(TimeFloor::new(Arc::clone(clock), kept)))
}

/// Writes it down when it is time.
pub(super) async fn keep(floor: Arc<TimeFloor>, store: Arc<dyn Store>) {
    loop {
        if let Some(Timestamp(ms)) = floor.to_keep() {
            let value = StateValue::Bytes(Bytes::copy_from_slice(&ms.to_be_bytes()));
            let put = StateChange::Put { table: Table::Node, key: KEY, value };
            let done = |outcome: Result<_, _>| {
                if let Err(error) = outcome {
                    let error: eventmesh_edge_core::ports::store::CommitError = error;
                    info!(%error, "the time floor is not written down, next time");
                }
            };
            store.submit(Commit { state: vec![put], ..Commit::default() }, Box::new(done));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eventmesh_edge_config::Config;
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A clock that is set by hand.
    #[derive(Default)]
    struct Hands(AtomicU64);

    impl Clock for Hands {
        fn now(&self) -> Timestamp {
            Timestamp(self.0.load(Ordering::SeqCst))
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    const SEEN: u64 = 1_795_000_000_000;

    fn store(dir: &std::path::Path) -> Arc<dyn Store> {
        let config = Config::parse("", "f", &BTreeMap::new(), &eventmesh_edge_config::Overrides::default());
        let clock: Arc<dyn Clock> = Arc::new(Hands::default());
        let options = eventmesh_edge_store::StoreOptions::default();
        let spec = config.unwrap().store_spec();
        let (store, _) = eventmesh_edge_store::JournalStore::open(dir, spec, &options, clock).unwrap();
        Arc::new(store)
    }

    /// What one run has seen is what the next one believes, although its clock stands at 1970; and it writes nothing down
    /// that it has only made up.
    #[tokio::test(start_paused = true)]
    async fn in_1970_certificates_are_checked_against_what_the_last_run_has_seen() {
        let dir = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(Hands(AtomicU64::new(SEEN)));
        let first = store(dir.path());
        let floor = open(&first, &clock).unwrap();
        let kept = keep(floor, Arc::clone(&first));
        // It never ends; what it does at once is submitted when it first sleeps.
        assert!(tokio::time::timeout(Duration::from_secs(1), kept).await.is_err());
        first.close();
        drop(first);

        let unset: Arc<dyn Clock> = Arc::new(Hands::default());
        let second = store(dir.path());
        let floor = open(&second, &unset).unwrap();
        assert_eq!(floor.now(), Timestamp(SEEN), "not 1970");
        assert!(
            tokio::time::timeout(Duration::from_secs(7_200), keep(floor, Arc::clone(&second))).await.is_err()
        );
        second.close();
        drop(second);
        let third = store(dir.path());
        assert_eq!(open(&third, &unset).unwrap().now(), Timestamp(SEEN), "what was made up is not kept");
    }

    #[test]
    fn without_a_kept_floor_it_is_the_year_of_the_program() {
        let dir = tempfile::tempdir().unwrap();
        let unset: Arc<dyn Clock> = Arc::new(Hands::default());
        assert_eq!(open(&store(dir.path()), &unset).unwrap().now(), Timestamp::CLOCK_SET);
    }
}
