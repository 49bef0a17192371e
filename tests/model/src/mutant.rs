//! Nodes that are wrong, each in one way: the model must notice.

use eventmesh_edge_core::event::{Position, Qos};
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::hub::{
    Accepted, Delivery, Hub, MailboxOptions, Outlet, Submission, SubscribeOptions, SubscriberId,
};
use eventmesh_edge_core::ports::store::{CommitError, MailboxItem, ReadError, SessionNo, StateChange, Table};
use eventmesh_edge_core::topic::TopicFilter;
use std::sync::Arc;

/// What is wrong with the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// It answers before the commit is durable (P1).
    AnswersEarly,
    /// Subscriptions are not stored.
    ForgetsSubscriptions,
    /// Wills are not stored.
    ForgetsWills,
    /// A published will stays on disk.
    KeepsWills,
    /// Packet identifiers of QoS 2 publishes are not stored.
    ForgetsInbound,
    /// That a QoS 2 message was received by its client is not stored.
    ForgetsOutbound,
    /// Acknowledged messages stay in the mailbox.
    KeepsMailboxes,
    /// Each third read of a mailbox misses its first entry.
    LosesFromMailboxes,
    /// No Local is not heeded.
    IgnoresNoLocal,
    /// Everything is granted QoS 2.
    RaisesQos,
    /// Subscription Identifiers are not kept.
    DropsIdentifiers,
    /// Retained messages are never deleted.
    KeepsRetained,
    /// Every member of a shared subscription gets every message.
    SharesWithAll,
    /// Unsubscribing does nothing.
    IgnoresUnsubscribe,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 14] = [
        Mutant::AnswersEarly,
        Mutant::ForgetsSubscriptions,
        Mutant::ForgetsWills,
        Mutant::KeepsWills,
        Mutant::ForgetsInbound,
        Mutant::ForgetsOutbound,
        Mutant::KeepsMailboxes,
        Mutant::LosesFromMailboxes,
        Mutant::IgnoresNoLocal,
        Mutant::RaisesQos,
        Mutant::DropsIdentifiers,
        Mutant::KeepsRetained,
        Mutant::SharesWithAll,
        Mutant::IgnoresUnsubscribe,
    ];

    /// Whether this change of state gets through.
    fn passes(self, change: &StateChange) -> bool {
        let put = |wanted| matches!(change, StateChange::Put { table, .. } if *table == wanted);
        let deleted = |wanted| matches!(change, StateChange::Delete { table, .. } if *table == wanted);
        match self {
            Mutant::ForgetsSubscriptions => !put(Table::Subscription),
            Mutant::ForgetsWills => !put(Table::Will),
            Mutant::KeepsWills => !deleted(Table::Will),
            Mutant::ForgetsInbound => !put(Table::Inbound),
            Mutant::ForgetsOutbound => !put(Table::Outbound),
            Mutant::KeepsMailboxes => !matches!(change, StateChange::MailboxRemove { .. }),
            _ => true,
        }
    }
}

/// A hub with something wrong.
pub(crate) struct Mutated {
    inner: Arc<dyn Hub>,
    mutant: Mutant,
    reads: std::sync::atomic::AtomicU64,
}

impl Mutated {
    pub(crate) fn new(inner: Arc<dyn Hub>, mutant: Mutant) -> Mutated {
        Mutated { inner, mutant, reads: std::sync::atomic::AtomicU64::new(0) }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == mutant
    }
}

impl Hub for Mutated {
    fn submit(&self, mut submission: Submission, done: Completion<Result<Accepted, CommitError>>) {
        submission.state.retain(|change| self.mutant.passes(change));
        if self.is(Mutant::KeepsRetained) {
            for publication in &mut submission.publications {
                publication.event.retain &= !publication.event.payload.is_empty();
            }
        }
        if self.is(Mutant::AnswersEarly) {
            let count = submission.publications.len();
            self.inner.submit(submission, Box::new(drop));
            let accepted =
                Accepted { positions: vec![None; count], matched: vec![1; count], ..Accepted::default() };
            return done(Ok(accepted));
        }
        self.inner.submit(submission, done);
    }

    fn attach(&self, session: Option<SessionNo>, outlet: Option<Arc<dyn Outlet>>) -> SubscriberId {
        self.inner.attach(session, outlet)
    }

    fn reattach(&self, subscriber: SubscriberId, outlet: Option<Arc<dyn Outlet>>) {
        self.inner.reattach(subscriber, outlet);
    }

    fn detach(&self, subscriber: SubscriberId) {
        self.inner.detach(subscriber);
    }

    fn subscribe(
        &self,
        subscriber: SubscriberId,
        filter: &TopicFilter,
        mut options: SubscribeOptions,
    ) -> bool {
        options.no_local &= !self.is(Mutant::IgnoresNoLocal);
        if self.is(Mutant::RaisesQos) {
            options.qos = Qos::ExactlyOnce;
        }
        if self.is(Mutant::DropsIdentifiers) {
            options.identifier = 0;
        }
        if self.is(Mutant::SharesWithAll) && filter.share().is_some() {
            let plain = TopicFilter::parse(filter.filter().to_owned()).expect("it is part of a filter");
            return self.inner.subscribe(subscriber, &plain, options);
        }
        self.inner.subscribe(subscriber, filter, options)
    }

    fn unsubscribe(&self, subscriber: SubscriberId, filter: &TopicFilter) -> bool {
        self.is(Mutant::IgnoresUnsubscribe) || self.inner.unsubscribe(subscriber, filter)
    }

    fn retained(&self, filter: &TopicFilter, options: SubscribeOptions) -> Vec<Delivery> {
        self.inner.retained(filter, options)
    }

    fn read_mailbox(
        &self,
        session: SessionNo,
        after: Position,
        max_events: usize,
        done: Completion<Result<Vec<MailboxItem>, ReadError>>,
    ) {
        let read = self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let loses = self.is(Mutant::LosesFromMailboxes) && read % 3 == 2;
        let done = move |result: Result<Vec<MailboxItem>, ReadError>| {
            done(result.map(|items| items.into_iter().skip(usize::from(loses)).collect()));
        };
        self.inner.read_mailbox(session, after, max_events, Box::new(done));
    }

    fn resume(&self, subscriber: SubscriberId, through: Position) -> bool {
        self.inner.resume(subscriber, through)
    }

    fn mailbox_options(&self, item: &MailboxItem) -> MailboxOptions {
        self.inner.mailbox_options(item)
    }
}
