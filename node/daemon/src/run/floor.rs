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
