//! The link between a connection and everything that calls it: the hub's deliveries, in a queue with a bound, and what
//! the connection waits for (a commit, a login, a session to take over).
//!
//! One [`Link`] belongs to one session and outlives its connections: a commit that a lost connection started still
//! reports here, and the next connection of that session reads it. An empty link allocates nothing beside itself.

use crate::session::Session;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::hub::{Accepted, Delivery, Denied, Offer, Outlet, Principal};
use eventmesh_edge_core::ports::store::{CommitError, MailboxItem, ReadError};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// What happened for a connection.
pub enum Event {
    /// The login was checked.
    Authenticated(Result<Principal, Denied>),
    /// The client id is this connection's now; with the session that was kept under it.
    Claimed(Option<Box<Session>>),
    /// A submission is durable, or failed.
    Completed {
        /// As in [`crate::session::Action::Submit`].
        token: u64,
        /// The outcome.
        result: Result<Accepted, CommitError>,
    },
    /// A piece of the mailbox.
    Mailbox {
        /// Which connection of the session asked.
        generation: u64,
        /// After which position.
        after: Position,
        /// What was read.
        result: Result<Vec<MailboxItem>, ReadError>,
    },
    /// Another connection uses the client id [MQTT-3.1.4-3].
    TakenOver {
        /// Which connection has to go: the link may be another's by the time this is read.
        generation: u64,
    },
    /// The node stops: say goodbye.
    Stop,
    /// The node stops now: end without another byte.
    Abort,
}

/// Bounds of a delivery queue (P5). What does not fit is refused: a persistent session has it in its mailbox, anybody
/// else loses it and the hub counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueBounds {
    /// Deliveries.
    pub max_events: usize,
    /// Payload, topic and a fixed share for each.
    pub max_bytes: usize,
}

/// See the module's description.
pub struct Link {
    bounds: QueueBounds,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    deliveries: VecDeque<Delivery>,
    queued_bytes: usize,
    /// Something was refused since the last [`Link::take_overflow`].
    overflowed: bool,
    /// No connection reads here.
    closed: bool,
    events: VecDeque<Event>,
    waker: Option<Waker>,
}

impl Link {
    /// An empty link.
    #[must_use]
    pub fn new(bounds: QueueBounds) -> Link {
        Link { bounds, state: Mutex::default() }
    }

    /// Nothing in here panics while it holds the lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event and wakes the connection.
    pub fn push(&self, event: Event) {
        let waker = {
            let mut state = self.lock();
            state.events.push_back(event);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next event.
    #[must_use]
    pub fn next_event(&self) -> Option<Event> {
        let mut state = self.lock();
        let event = state.events.pop_front();
        if state.events.is_empty() {
            state.events = VecDeque::new();
        }
        event
    }

    /// The next delivery, in the order offered.
    #[must_use]
    pub fn next_delivery(&self) -> Option<Delivery> {
        let mut state = self.lock();
        let delivery = state.deliveries.pop_front()?;
        state.queued_bytes = state.queued_bytes.saturating_sub(weight(&delivery));
        if state.deliveries.is_empty() {
            state.deliveries = VecDeque::new();
        }
        Some(delivery)
    }

    /// True once after a delivery was refused.
    #[must_use]
    pub fn take_overflow(&self) -> bool {
        std::mem::take(&mut self.lock().overflowed)
    }

    /// Whom to wake from now on. Events that are already there are the caller's to read afterwards.
    pub fn register(&self, waker: &Waker) {
        let mut state = self.lock();
        match &mut state.waker {
            Some(known) if known.will_wake(waker) => {}
            known => *known = Some(waker.clone()),
        }
    }

    /// A connection reads here from now on; what waited for an earlier one is in the mailbox, or lost with it.
    pub fn open(&self) {
        let mut state = self.lock();
        state.deliveries = VecDeque::new();
        state.queued_bytes = 0;
        state.overflowed = false;
        state.closed = false;
    }

    /// The connection is gone: nothing is taken any more, and what was taken is given back.
    pub fn close(&self) -> VecDeque<Delivery> {
        let mut state = self.lock();
        state.queued_bytes = 0;
        state.closed = true;
        state.waker = None;
        std::mem::take(&mut state.deliveries)
    }

    /// Deliveries that wait.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.lock().deliveries.len()
    }
}

impl Outlet for Link {
    fn offer(&self, delivery: Delivery) -> Offer {
        let mut state = self.lock();
        let bytes = weight(&delivery);
        // The first one always fits, whatever its size: otherwise a large message could never be delivered.
        let fits = state.deliveries.is_empty()
            || (state.deliveries.len() < self.bounds.max_events
                && state.queued_bytes.saturating_add(bytes) <= self.bounds.max_bytes);
        if state.closed || !fits {
            state.overflowed = true;
            return Offer::Full;
        }
        state.queued_bytes += bytes;
        state.deliveries.push_back(delivery);
        Offer::Taken
    }

    fn flush(&self) {
        let waker = self.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// What a queued delivery counts for; the event may be shared by others, but nobody promises that.
fn weight(delivery: &Delivery) -> usize {
    const FIXED: usize = 128;
    delivery.event.payload.len() + delivery.event.topic.len() + FIXED
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use eventmesh_edge_core::Text;
    use eventmesh_edge_core::event::{Event as CoreEvent, Qos, Timestamp, Via};
    use std::sync::Arc;

    fn delivery(payload_bytes: usize) -> Delivery {
        let event = CoreEvent {
            via: Via::Mqtt5,
            qos: Qos::AtMostOnce,
            retain: false,
            source: Text::from_static("mqtt://n/d"),
            id: None,
            time: None,
            received: Timestamp(0),
            expires: None,
            topic: Text::from_static("t"),
            payload: Bytes::from(vec![0; payload_bytes]),
            properties: None,
        };
        Delivery {
            event: Arc::new(event),
            position: None,
            qos: Qos::AtMostOnce,
            retain: false,
            identifiers: Vec::new(),
            shares: Vec::new(),
        }
    }

    #[test]
    fn a_full_queue_refuses_and_says_so_once() {
        let link = Link::new(QueueBounds { max_events: 2, max_bytes: 10_000 });
        assert_eq!(link.offer(delivery(1)), Offer::Taken);
        assert_eq!(link.offer(delivery(1)), Offer::Taken);
        assert_eq!(link.offer(delivery(1)), Offer::Full);
        assert!(link.take_overflow());
        assert!(!link.take_overflow());
        assert!(link.next_delivery().is_some());
        assert_eq!(link.offer(delivery(1)), Offer::Taken);
    }

    #[test]
    fn bytes_are_bounded_but_one_large_message_passes() {
        let link = Link::new(QueueBounds { max_events: 100, max_bytes: 1_000 });
        assert_eq!(link.offer(delivery(5_000)), Offer::Taken);
        assert_eq!(link.offer(delivery(1)), Offer::Full);
        drop(link.next_delivery());
        assert_eq!(link.offer(delivery(500)), Offer::Taken);
        assert_eq!(link.offer(delivery(500)), Offer::Full);
    }

    #[test]
    fn a_closed_link_takes_nothing_and_an_opened_one_starts_empty() {
        let link = Link::new(QueueBounds { max_events: 2, max_bytes: 1_000 });
        assert_eq!(link.offer(delivery(1)), Offer::Taken);
        link.close();
        assert_eq!(link.offer(delivery(1)), Offer::Full);
        link.open();
        assert!(!link.take_overflow());
        assert_eq!(link.queued(), 0);
    }

    #[test]
    fn an_idle_link_is_small() {
        assert!(std::mem::size_of::<Link>() <= 192, "{}", std::mem::size_of::<Link>());
    }
}
