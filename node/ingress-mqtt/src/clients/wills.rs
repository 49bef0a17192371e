//! Wills that are due.

use super::{Sessions, warn_if_failed};
use crate::session::PendingWill;
use eventmesh_edge_core::ports::hub::{Accepted, Submission, SubscriberId};
use eventmesh_edge_core::ports::store::{Class, CommitError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A disk that refused a will is not asked again before.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Wills that could not be stored, each with the time of its next try. They are on disk as wills still, so nothing is
/// lost if the node ends before; there are no more than there were clients (P5).
#[derive(Default)]
pub(super) struct Failed(Mutex<Vec<Waiting>>);

struct Waiting {
    retry_at: Duration,
    will: Box<PendingWill>,
    publisher: Option<SubscriberId>,
}

impl Failed {
    /// Nothing in here panics while it holds the lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    /// Publishes a will: its event is stored and its row is removed, in one commit (P1). A full stream keeps it waiting
    /// in the hub.
    pub fn publish_will(&self, will: Box<PendingWill>, publisher: Option<SubscriberId>) {
        let submission = will.publish(self.clock.now(), publisher);
        let retry_at = self.clock.monotonic() + RETRY_AFTER;
        let (failed, hub) = (self.failed_wills.clone(), Arc::downgrade(&self.hub));
        let done = move |result: Result<Accepted, CommitError>| {
            let Err(error) = result else { return };
            let class = error.class();
            warn_if_failed("will", Some(error));
            match class {
                Class::Retry => failed.lock().push(Waiting { retry_at, will, publisher }),
                // It can never be stored: kept, it would be refused at every start.
                Class::Reject => {
                    let submission = Submission { state: vec![will.forget()], ..Submission::default() };
                    if let Some(hub) = hub.upgrade() {
                        hub.submit(
                            submission,
                            Box::new(|result| warn_if_failed("end of a will", result.err())),
                        );
                    }
                }
                // Published at the next start.
                Class::Fatal => {}
            }
        };
        self.hub.submit(submission, Box::new(done));
    }

    /// Tries again what could not be stored.
    pub(super) fn retry_wills(&self, now: Duration) {
        let due: Vec<_> =
            self.failed_wills.lock().extract_if(.., |waiting| waiting.retry_at <= now).collect();
        for Waiting { will, publisher, .. } in due {
            self.publish_will(will, publisher);
        }
    }
}
