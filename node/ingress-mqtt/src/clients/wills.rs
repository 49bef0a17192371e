//! Wills that are due.
//!
//! A will whose stream is full waits in the hub, before what its client publishes there later, within bounds
//! ([`Submission::kept`]). One that a disk refused waits here, within bounds too, and is tried again. For every will that waits
//! there is memory and a row on disk, and clients could make ever more of them: beyond the bounds a will is given up (P5),
//! which the ledger counts as [`LossReason::Refused`] in the commit that ends its row (P2), and the log says.

use super::Sessions;
use crate::session::PendingWill;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::hub::{Accepted, Hub, Submission, SubscriberId};
use eventmesh_edge_core::ports::store::{Class, CommitError, Loss, LossReason};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A disk that refused a will is not asked again before.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How often the log says how many wills were given up, at most.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Wills that a disk refused and that wait.
const WAITING_MAX: usize = 1024;
/// What those take.
const WAITING_MAX_BYTES: usize = 1 << 20;

/// What became of wills that were due. Those that wait are on disk as wills still, so nothing is lost if the node ends before.
#[derive(Default)]
pub(super) struct Due(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: Vec<Waiting>,
    waiting_bytes: usize,
    /// Given up since the log said so.
    unsaid: u64,
    say_at: Duration,
}

struct Waiting {
    retry_at: Duration,
    will: Box<PendingWill>,
    publisher: Option<SubscriberId>,
}

impl Due {
    /// Nothing in here panics while it holds the lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps it for another try; gives it back if too many wait.
    fn wait(&self, waiting: Waiting) -> Option<Box<PendingWill>> {
        let mut state = self.lock();
        let bytes = state.waiting_bytes + waiting.will.bytes();
        if state.waiting.len() >= WAITING_MAX || bytes > WAITING_MAX_BYTES {
            return Some(waiting.will);
        }
        state.waiting_bytes = bytes;
        state.waiting.push(waiting);
        None
    }

    fn take_due(&self, now: Duration) -> Vec<Waiting> {
        let mut state = self.lock();
        let due: Vec<_> = state.waiting.extract_if(.., |waiting| waiting.retry_at <= now).collect();
        state.waiting_bytes -= due.iter().map(|waiting| waiting.will.bytes()).sum::<usize>();
        due
    }

    /// How many were given up, when it is time to say so.
    fn to_say(&self, now: Duration) -> Option<u64> {
        let mut state = self.lock();
        if state.unsaid == 0 || now < state.say_at {
            return None;
        }
        state.say_at = now + SAY_EVERY;
        Some(std::mem::take(&mut state.unsaid))
    }
}

impl Sessions {
    /// Publishes a will: its event is stored and its row is removed, in one commit (P1). A full stream keeps it waiting
    /// in the hub.
    pub fn publish_will(&self, will: Box<PendingWill>, publisher: Option<SubscriberId>) {
        let submission = will.publish(self.clock.now(), publisher);
        let retry_at = self.clock.monotonic() + RETRY_AFTER;
        let (due, stats, hub) = (self.due_wills.clone(), self.stats.clone(), Arc::downgrade(&self.hub));
        let done = move |result: Result<Accepted, CommitError>| {
            let Err(error) = result else { return };
            tracing::debug!(%error, "will was not stored");
            let lost = match (error.class(), &error) {
                // Published at the next start.
                (Class::Fatal, _) => None,
                // As many wait in the hub as may; or it can never be stored and would be refused at every start.
                (Class::Reject, _) | (_, CommitError::Full { .. }) => Some(will),
                (Class::Retry, _) => due.wait(Waiting { retry_at, will, publisher }),
            };
            if let Some((will, hub)) = lost.zip(hub.upgrade()) {
                due.lock().unsaid += 1;
                stats.will_given_up();
                give_up(&*hub, &will);
            }
        };
        self.hub.submit(submission, Box::new(done));
    }

    /// Tries again what could not be stored, and says what was given up.
    pub(super) fn look_after_wills(&self, now: Duration) {
        for Waiting { will, publisher, .. } in self.due_wills.take_due(now) {
            self.publish_will(will, publisher);
        }
        if let Some(wills) = self.due_wills.to_say(now) {
            tracing::warn!(wills, "too many wills wait for room, given up and counted as refused");
        }
    }
}

/// Its row ends, and the ledger has it.
fn give_up(hub: &dyn Hub, will: &PendingWill) {
    let (events, bytes, consumer) = (1, will.bytes() as u64, None);
    let range = (Position::ZERO, Position::ZERO);
    let losses = vec![Loss { consumer, reason: LossReason::Refused, events, bytes, range }];
    let submission = Submission { state: vec![will.forget()], losses, ..Submission::default() };
    hub.submit(submission, Box::new(|result| super::warn_if_failed("end of a will", result.err())));
}
