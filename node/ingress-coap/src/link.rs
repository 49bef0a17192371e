//! The queue from the hub to the listener's task: outcomes of submissions, and deliveries within a bound (P5).

use eventmesh_edge_core::ports::hub::{Accepted, Delivery, Offer, Outlet};
use eventmesh_edge_core::ports::store::{CommitError, MailboxItem, ReadError, SessionNo};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What happened for the service.
pub enum Event {
    /// A submission is durable, or failed.
    Completed {
        /// As in [`crate::service::Action::Submit`].
        token: u64,
        /// The outcome.
        result: Result<Accepted, CommitError>,
    },
    /// Somebody published what observers asked for.
    Delivery(Delivery),
    /// Something came into a mailbox.
    Rung(SessionNo),
    /// A piece of a mailbox.
    Mailbox {
        /// Whose.
        session: SessionNo,
        /// What was read.
        result: Result<Vec<MailboxItem>, ReadError>,
    },
}

/// See the module's description.
pub struct Link {
    max_deliveries: usize,
    state: Mutex<State>,
    woken: Notify,
}

#[derive(Default)]
struct State {
    events: VecDeque<Event>,
    deliveries: usize,
}

impl Link {
    /// An empty link that holds so many deliveries. Outcomes are bounded by what the service submits.
    #[must_use]
    pub fn new(max_deliveries: usize) -> Link {
        Link { max_deliveries, state: Mutex::default(), woken: Notify::new() }
    }

    /// Nothing in here panics while it holds the lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event and wakes the task.
    pub fn push(&self, event: Event) {
        self.lock().events.push_back(event);
        self.woken.notify_one();
    }

    /// Everything that has happened, in order.
    #[must_use]
    pub fn take(&self) -> VecDeque<Event> {
        let mut state = self.lock();
        state.deliveries = 0;
        std::mem::take(&mut state.events)
    }

    /// Resolves when there is something to take.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }
}

impl Outlet for Link {
    fn offer(&self, delivery: Delivery) -> Offer {
        let mut state = self.lock();
        if state.deliveries >= self.max_deliveries {
            return Offer::Full;
        }
        state.deliveries += 1;
        state.events.push_back(Event::Delivery(delivery));
        Offer::Taken
    }

    fn flush(&self) {
        self.woken.notify_one();
    }
}
