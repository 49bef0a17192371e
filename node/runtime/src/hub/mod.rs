//! The Hub port: every message of every protocol passes here, once.
//!
//! ```text
//! ingress ─submit─▶ plan (route · mailboxes · retained) ─one Commit─▶ store
//!                                                                       │ completion, on the store's thread
//! ingress ◀─done── offer to outlets, flush once each ◀── hub's task ◀── inbox
//! ```
//!
//! What the hub adds to the port's own promises:
//!
//! - **Order.** Commits are handed to the store in the order of submission, and answered in the order in which the store
//!   completes them. One publisher has one submission of publications at the store at a time; what it submits
//!   meanwhile waits in the hub and goes when that one is answered. So nothing of one publisher overtakes, also when
//!   its stream is full. An ingress therefore puts everything that a read of the socket gave it into one submission.
//!   Whoever a submission's first publication names as publisher is the publisher of all of it.
//! - **Nothing durable.** A submission that no stream, no persistent session, no retained value and no state of the
//!   ingress needs on disk does not go to the store. It is answered by the hub's task all the same.
//! - **Full streams.** A refused submission is parked, unless it asked to be refused, and tried again when the store says
//!   that room returned; new submissions for that stream go behind it, other streams go on. What is parked is bounded by
//!   [`HubOptions::parked_max`] and [`HubOptions::parked_max_bytes`]; beyond that a submission is answered with
//!   [`CommitError::Full`] although it was willing to wait. A will has bounds of its own, and is passed by what its client
//!   publishes to other streams when it is back ([`Submission::kept`]).
//! - **Large fan-outs.** What is too large for one commit is stored in parts (see `parts`); each event with its mailbox
//!   entries stays atomic.
//! - **Persistent sessions** are offered what is in their mailbox directly after the commit while they keep up;
//!   [`Handover`] says when they read it instead. A message that is in no mailbox (QoS 0) is offered while the session
//!   is live, and otherwise counted as lost to a slow subscriber if it is connected at all. Whatever an outlet of a session
//!   has no room for, it is offered nothing more before it resumes.
//! - **Other subscribers** that have no room lose the message: counted per subscriber ([`NodeHub::dropped`]) and in the
//!   ledger as [`LossReason::SlowSubscriber`](eventmesh_edge_core::ports::store::LossReason::SlowSubscriber), once a
//!   second at most.
//! - **Shared subscriptions.** A message that its member does not take, because it has gone between the choice of the member
//!   and the offer, goes to another one. What a member leaves unanswered its ingress hands on ([`Audience::Shares`](eventmesh_edge_core::ports::hub::Audience::Shares)).
//! - **From above.** What comes down from an uplink ([`NodeHub::downward`]) is published to local subscribers and to no
//!   stream, so it cannot go round in circles.
//!
//! The store calls back on its own threads and never waits for the hub: those threads only push into an inbox. One lock
//! guards what the hub knows; no outlet and no callback is called under it.

mod deliver;
mod downward;
mod inbox;
mod losses;
mod mailbox;
mod parking;
mod parts;
mod plan;
mod state;
mod subscribers;
#[cfg(test)]
mod tests;

pub use downward::UplinkSink;

use bytes::Bytes;
use deliver::Round;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, Position, Qos, record};
use eventmesh_edge_core::namespace::{Handover, RetainedStats};
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::hub::{
    Accepted, Delivery, Hub, MailboxOptions, Outlet, Submission, SubscribeOptions, SubscriberId,
};
use eventmesh_edge_core::ports::store::{
    Change, Commit, CommitError, MailboxItem, ReadError, SessionNo, StateChange, Store, Table,
};
use eventmesh_edge_core::route::Router;
use eventmesh_edge_core::topic::TopicFilter;
use inbox::Inbox;
use mailbox::MailboxRead;
use state::State;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Bounds of the hub (P5).
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// Name of the node, for the `source` of what comes down from uplinks.
    pub node: Text,
    /// Memory for retained values; beyond it new ones are refused.
    pub retained_max_bytes: usize,
    /// Most submissions that wait for room.
    pub parked_max: usize,
    /// Most bytes that they take.
    pub parked_max_bytes: usize,
    /// Most submissions that wait and are on disk at their submitters ([`Submission::kept`]: wills). They take no room of
    /// the others.
    pub kept_max: usize,
    /// Most bytes that they take.
    pub kept_max_bytes: usize,
    /// How many messages from above are remembered, to recognise one that comes again.
    pub remembered_max: usize,
}

impl HubOptions {
    /// Defaults for a gateway with 256 MB.
    #[must_use]
    pub fn new(node: Text) -> HubOptions {
        HubOptions {
            node,
            retained_max_bytes: 8 << 20,
            parked_max: 16_384,
            parked_max_bytes: 16 << 20,
            kept_max: 4096,
            kept_max_bytes: 4 << 20,
            remembered_max: 1024,
        }
    }
}

/// Figures for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubStats {
    /// Known subscribers, connected or not.
    pub subscribers: usize,
    /// Subscribers with an outlet.
    pub connected: usize,
    /// Persistent sessions among the subscribers.
    pub sessions: usize,
    /// Subscriptions of all of them.
    pub subscriptions: usize,
    /// Submissions at the store.
    pub committing: usize,
    /// Submissions that wait for room in a stream.
    pub parked: usize,
    /// What those take in memory.
    pub parked_bytes: usize,
    /// Submissions that wait for an earlier one of the same publisher.
    pub behind: usize,
    /// Retained values.
    pub retained: RetainedStats,
    /// Messages that slow subscribers lost since the start.
    pub slow_subscriber_losses: u64,
    /// Messages from above that had been there before, since the start.
    pub repeated: u64,
}

/// What [`NodeHub::restore`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Retained values loaded.
    pub retained: usize,
    /// Retained values that exceed the budget; they stay on disk and are not served.
    pub without_room: usize,
    /// Records that do not decode.
    pub damaged: usize,
}

/// How long losses are gathered before they go to the ledger.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Housekeepings between two looks for expired retained values, and between two trials of parked submissions that
/// nobody said there is room for.
const RARE: u64 = 30;
/// Retained values deleted in one commit.
const EXPIRED_AT_ONCE: usize = 256;
/// Retained values loaded in one read.
const SCAN_PAGE: usize = 256;

/// The Hub port over a store, a router and a clock.
pub struct NodeHub {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    inbox: Arc<Inbox>,
    state: Mutex<State>,
    remembered: Arc<Mutex<downward::Remembered>>,
    node: Text,
}

impl NodeHub {
    /// A hub that does nothing yet: [`NodeHub::restore`] it, then spawn [`NodeHub::run`].
    #[must_use]
    pub fn new(
        options: HubOptions,
        store: Arc<dyn Store>,
        router: Router,
        clock: Arc<dyn Clock>,
    ) -> Arc<NodeHub> {
        let inbox = Arc::new(Inbox::default());
        let news = inbox.clone();
        store.watch(Arc::new(move |change| {
            if change == Change::Room {
                news.room();
            }
        }));
        let state = Mutex::new(State::new(&options, store.clone(), router, inbox.clone()));
        let remembered = Arc::new(Mutex::new(downward::Remembered::new(options.remembered_max)));
        Arc::new(NodeHub { store, clock, inbox, state, remembered, node: options.node })
    }

    /// Loads the retained values. Subscriptions of persistent sessions are put back by the ingress that owns them.
    ///
    /// # Errors
    /// [`ReadError`] if the store cannot be read.
    pub fn restore(&self) -> Result<Restored, ReadError> {
        let mut restored = Restored::default();
        let mut after: Option<Bytes> = None;
        loop {
            let page = self.store.scan(Table::Retained, &[], after.as_deref(), SCAN_PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            let mut state = self.state();
            for (_, value) in &page {
                match record::decode(value) {
                    Err(_) => restored.damaged += 1,
                    Ok((event, _)) if state.retained.restore(&event) => restored.retained += 1,
                    Ok(_) => restored.without_room += 1,
                }
            }
        }
        if restored.without_room > 0 || restored.damaged > 0 {
            let Restored { without_room, damaged, .. } = restored;
            tracing::warn!(without_room, damaged, "some retained messages are not served");
        }
        Ok(restored)
    }

    /// The hub's task. Ends after `stop`: new submissions and those that wait for room are answered with
    /// [`CommitError::Closed`], those at the store are waited for, delivered and answered, losses go to the ledger.
    ///
    /// Stop what submits first, close the store last. How long the store may take is its own matter; the caller sets
    /// the limit.
    pub async fn run(self: Arc<Self>, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut round = Round::default();
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = 0u64;
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                _ = housekeeping.tick() => {
                    self.keep_house(ticks % RARE == RARE - 1);
                    ticks += 1;
                }
                () = self.inbox.woken() => {}
            }
            self.work_off(&mut round).await;
        }
        self.finish(&mut round).await;
    }

    async fn finish(&self, round: &mut Round) {
        self.state().close();
        self.settle_all(round).await;
        self.commit_losses();
        self.settle_all(round).await;
    }

    async fn settle_all(&self, round: &mut Round) {
        loop {
            self.work_off(round).await;
            if self.state().is_settled() && self.inbox.is_empty() {
                return;
            }
            self.inbox.woken().await;
        }
    }

    fn keep_house(&self, rarely: bool) {
        self.commit_losses();
        if rarely {
            self.delete_expired();
            let mut state = self.state();
            if state.has_parked() {
                state.try_parked(true);
            }
        }
    }

    /// One commit for all losses since the last one.
    fn commit_losses(&self) {
        let mut state = self.state();
        let losses = state.losses.take();
        if !losses.is_empty() {
            state.send_own(Commit { losses, ..Commit::default() });
        }
    }

    fn delete_expired(&self) {
        let now = self.clock.now();
        let mut state = self.state();
        let topics = state.retained.take_expired(now, EXPIRED_AT_ONCE);
        if !topics.is_empty() {
            let delete =
                |topic: Text| StateChange::Delete { table: Table::Retained, key: topic.into_bytes() };
            let commit = Commit { state: topics.into_iter().map(delete).collect(), ..Commit::default() };
            state.send_own(commit);
        }
    }

    /// Another router, between two commits: what is planned from now on goes where it says, what waits for room too. What is
    /// committed stays in the stream that took it, and nothing is routed twice (docs/adr/0009).
    pub fn reroute(&self, router: Router) {
        let mut state = self.state();
        state.router = router;
        state.try_parked(true);
    }

    /// Figures for `status`.
    #[must_use]
    pub fn stats(&self) -> HubStats {
        let repeated = lock(&self.remembered).repeated();
        HubStats { repeated, ..self.state().stats() }
    }

    /// Entries and stored bytes in the mailboxes of all persistent sessions. Walks the sessions: for `status`, not for
    /// every message.
    #[must_use]
    pub fn mailboxes(&self) -> (u64, u64) {
        let sessions: Vec<SessionNo> = self.state().subscribers.session_numbers().collect();
        let lengths = sessions.into_iter().map(|session| self.store.mailbox_len(session));
        lengths.fold((0, 0), |(events, bytes), (e, b)| (events + e, bytes + b))
    }

    /// Messages that this subscriber lost because it was too slow; `None` if it is not known.
    #[must_use]
    pub fn dropped(&self, subscriber: SubscriberId) -> Option<u64> {
        self.state().subscribers.get(subscriber).map(|subscriber| subscriber.dropped)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Hub for NodeHub {
    fn submit(&self, submission: Submission, done: Completion<Result<Accepted, CommitError>>) {
        let mut state = self.state();
        if state.is_closed() {
            drop(state);
            return done(Err(CommitError::Closed));
        }
        state.submit(submission, done);
    }

    fn attach(&self, session: Option<SessionNo>, outlet: Option<Arc<dyn Outlet>>) -> SubscriberId {
        let has_entries = session.is_some_and(|session| self.store.mailbox_len(session).0 > 0);
        let earlier = session.and_then(|session| self.state().subscribers.of_session(session));
        if let Some(earlier) = earlier {
            tracing::warn!(?session, "session attached twice, the earlier subscriber is forgotten");
            self.detach(earlier);
        }
        self.state().subscribers.add(session, Handover::new(has_entries), outlet)
    }

    fn reattach(&self, subscriber: SubscriberId, outlet: Option<Arc<dyn Outlet>>) {
        let earlier = self.state().subscribers.set_outlet(subscriber, outlet);
        drop(earlier);
    }

    fn detach(&self, subscriber: SubscriberId) {
        let forgotten = {
            let mut state = self.state();
            state.index.remove(subscriber);
            state.subscribers.remove(subscriber)
        };
        drop(forgotten);
    }

    fn subscribe(&self, subscriber: SubscriberId, filter: &TopicFilter, options: SubscribeOptions) -> bool {
        let mut state = self.state();
        if state.subscribers.get(subscriber).is_none() {
            return false;
        }
        state.subscribed();
        state.index.subscribe(subscriber, filter, options)
    }

    fn unsubscribe(&self, subscriber: SubscriberId, filter: &TopicFilter) -> bool {
        self.state().index.unsubscribe(subscriber, filter)
    }

    fn retained(&self, filter: &TopicFilter, options: SubscribeOptions) -> Vec<Delivery> {
        // Not for shared subscriptions (MQTT 5.0 section 4.8.2), not if the client does not want any [MQTT-3.3.1-11].
        if filter.share().is_some() || options.retain_handling == 2 {
            return Vec::new();
        }
        let mut events = Vec::new();
        self.state().retained.find(filter, self.clock.now(), &mut events);
        let identifiers = if options.identifier == 0 { Vec::new() } else { vec![options.identifier] };
        let delivery = |event: Arc<Event>| Delivery {
            qos: event.qos.min(options.qos),
            event,
            position: None,
            retain: true,
            identifiers: identifiers.clone(),
            shares: Vec::new(),
        };
        events.into_iter().map(delivery).collect()
    }

    fn read_mailbox(
        &self,
        session: SessionNo,
        after: Position,
        max_events: usize,
        done: Completion<Result<Vec<MailboxItem>, ReadError>>,
    ) {
        let reader = {
            let state = self.state();
            let id = state.subscribers.of_session(session);
            id.and_then(|id| Some((id, state.subscribers.get(id)?.handover.mark())))
        };
        let (store, inbox) = (self.store.clone(), self.inbox.clone());
        let (items, bytes) = (Vec::new(), 0);
        MailboxRead { store, inbox, session, reader, after, max_events, items, bytes, done }.go_on();
    }

    fn resume(&self, subscriber: SubscriberId, through: Position) -> bool {
        let mut state = self.state();
        state.take_evidence();
        let Some(subscriber) = state.subscribers.get_mut(subscriber) else { return false };
        subscriber.outlet().is_some() && subscriber.handover.resume(through)
    }

    fn mailbox_options(&self, item: &MailboxItem) -> MailboxOptions {
        MailboxOptions::decode(&item.options).unwrap_or_else(|| MailboxOptions {
            // Not written by this version: better delivered with what the event says than not at all.
            qos: item.event.event.qos.max(Qos::AtLeastOnce),
            retain: false,
            identifiers: Vec::new(),
            shares: Vec::new(),
        })
    }
}

/// Locks whatever a panic elsewhere left: every change under these locks is complete when it can be seen.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
