//! What other threads leave for the hub's task.

use super::lock;
use super::plan::Flight;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::namespace::ReadMark;
use eventmesh_edge_core::ports::hub::SubscriberId;
use eventmesh_edge_core::ports::store::{CommitError, Committed};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// A submission whose fate is decided.
pub(super) struct Completed {
    pub(super) flight: Box<Flight>,
    pub(super) result: Result<Committed, CommitError>,
}

/// A read of a mailbox found nothing after `after`.
pub(super) struct FoundNothing {
    pub(super) subscriber: SubscriberId,
    pub(super) mark: ReadMark,
    pub(super) after: Position,
}

/// Has locks of its own, held for a push and nothing else: the store's threads never wait for the hub, and may call in
/// while the hub is calling them.
#[derive(Default)]
pub(super) struct Inbox {
    completed: Mutex<VecDeque<Completed>>,
    evidence: Mutex<Vec<FoundNothing>>,
    room: AtomicU64,
    wake: Notify,
}

impl Inbox {
    pub(super) fn push(&self, completed: Completed) {
        lock(&self.completed).push_back(completed);
        self.wake.notify_one();
    }

    pub(super) fn take(&self) -> VecDeque<Completed> {
        std::mem::take(&mut *lock(&self.completed))
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.completed).is_empty()
    }

    pub(super) fn found_nothing(&self, evidence: FoundNothing) {
        lock(&self.evidence).push(evidence);
    }

    pub(super) fn take_evidence(&self) -> Vec<FoundNothing> {
        std::mem::take(&mut *lock(&self.evidence))
    }

    /// Room returned in the store.
    pub(super) fn room(&self) {
        self.room.fetch_add(1, Ordering::Release);
        self.wake.notify_one();
    }

    /// How often room has returned. A submission remembers the number it was committed under; if it is refused and
    /// the number has changed since, the news overtook the refusal and it may be tried again at once.
    pub(super) fn rooms(&self) -> u64 {
        self.room.load(Ordering::Acquire)
    }

    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }
}
