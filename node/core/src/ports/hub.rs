//! The Hub port: the one door through which every message of every protocol passes, and the one namespace that local
//! subscribers of every protocol share.
//!
//! An ingress hands publications to the hub and subscribes outlets at it; it does not know who else is there. The hub
//! routes each publication to its stream, adds the mailboxes of the persistent sessions whose filters match, commits all
//! of it at once with the ingress's own state changes, then serves the local subscribers and calls back (P1): an ingress
//! that answers its client only in that callback cannot acknowledge what is not on disk.

use super::Completion;
use super::store::{CommitError, Loss, MailboxItem, ReadError, SessionNo, StateChange};
use crate::Text;
use crate::event::{Event, Position, Qos};
use crate::topic::TopicFilter;
use std::sync::Arc;

/// A subscriber as the hub knows it; unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriberId(pub u64);

/// What a subscriber asked for (MQTT 5.0 section 3.8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubscribeOptions {
    /// Highest QoS to deliver with.
    pub qos: Qos,
    /// Do not send back what this subscriber published.
    pub no_local: bool,
    /// Keep the RETAIN flag as published.
    pub retain_as_published: bool,
    /// 0 send retained at subscribe, 1 only if the subscription is new, 2 never.
    pub retain_handling: u8,
    /// Subscription Identifier; 0 for none.
    pub identifier: u32,
}

/// One message for one subscriber, overlapping subscriptions already folded into one.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Shared by all subscribers: fan-out copies nothing.
    pub event: Arc<Event>,
    /// Where it is stored, if it is. Deliveries from a mailbox always have one: acknowledge it there.
    pub position: Option<Position>,
    /// Lower of published and granted QoS [MQTT-3.8.4-8].
    pub qos: Qos,
    /// RETAIN flag to send.
    pub retain: bool,
    /// Subscription Identifiers that matched, in order, without zeros.
    pub identifiers: Vec<u32>,
    /// The shared subscriptions that it is delivered for. A subscriber that goes before it has taken the message hands it on
    /// to them ([`Audience::Shares`]); of a message in a mailbox the mailbox says so.
    pub shares: Vec<Text>,
}

/// What became of a delivery that the hub offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is in the outlet's bounded queue.
    Taken,
    /// The queue is full. A persistent session has it in its mailbox and will read it from there (the hub stops offering
    /// until [`Hub::resume`]); for any other subscriber it is lost and the hub counts it.
    Full,
}

/// Where the hub puts what a connected subscriber gets. Called on the hub's task; must not block.
pub trait Outlet: Send + Sync {
    /// Takes one delivery or says that there is no room.
    fn offer(&self, delivery: Delivery) -> Offer;
    /// All offers of this round are made: wake the connection once.
    fn flush(&self);
}

/// One publication on its way in.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The event, complete but for `sequence` and position.
    pub event: Event,
    /// Who published it, for No Local.
    pub publisher: Option<SubscriberId>,
}

/// Whom the publications of a submission are for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Audience {
    /// Whoever subscribes, and the streams that routes name.
    #[default]
    Everyone,
    /// Per publication: one member of each of these shared subscriptions, and nobody else. The member that had it is gone
    /// (MQTT 5.0 section 4.8.2). Where there is no other member, nobody gets it.
    Shares(Vec<Vec<Text>>),
    /// One persistent session, which gets retained messages: the hub puts them into the submission when it commits it, so that
    /// none is older than what the session gets otherwise.
    Retained(Box<RetainedFor>),
}

/// Retained messages of QoS 1 and 2 for a session's mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedFor {
    /// Whose.
    pub subscriber: SubscriberId,
    /// Of which topics.
    pub filter: TopicFilter,
    /// How they are delivered.
    pub options: SubscribeOptions,
    /// Of topics behind this one, in their order; all of them if it is `None`.
    pub after: Option<Text>,
    /// Of topics up to this one; all of them if it is `None`.
    pub through: Option<Text>,
}

/// Everything an ingress wants durable before it answers, in one piece.
#[derive(Clone, Debug, Default)]
pub struct Submission {
    /// In the order received.
    pub publications: Vec<Publication>,
    /// May refer to `publications` by index ([`super::store::StateValue`]).
    pub state: Vec<StateChange>,
    /// True: a full stream fails the submission at once ([`CommitError::Full`]). False: the hub holds the submission
    /// until there is room, and the callback is late (the usual case: the socket is not read meanwhile).
    pub refuse_when_full: bool,
    /// Who submits; if `None`, the publisher of the first publication. Of one submitter's submissions those with
    /// publications keep their order, and one that is state alone overtakes none that writes the same key.
    pub origin: Option<SubscriberId>,
    /// The submitter has it on disk itself, and answers for it: a will. It waits for room in a stream apart from what devices
    /// wait for, with bounds of its own (P5); what its submitter publishes later stays behind it where it goes to the same
    /// stream, and does not wait for it anywhere else. Refused, it is no loss yet: it is tried again, or given up with
    /// [`Submission::losses`].
    pub kept: bool,
    /// Whom `publications` are for.
    pub audience: Audience,
    /// What the submitter gives up, for the ledger (P2).
    pub losses: Vec<Loss>,
}

/// What a submission got.
#[derive(Clone, Debug, Default)]
pub struct Accepted {
    /// Per publication: its position, `None` where nothing durable had to be kept (no stream, no persistent session).
    pub positions: Vec<Option<Position>>,
    /// Per publication: how many subscribers matched (for 0x10 No matching subscribers; streams count as one).
    pub matched: Vec<u32>,
    /// Set if only the beginning is stored. A submission whose fan-out is too large for one commit is stored in parts,
    /// in order, each atomic with the state that refers to its publications; this is why a later part was not. What
    /// `positions` and `matched` list is durable, nothing else may be answered.
    pub cut: Option<CommitError>,
}

/// The port. All calls return at once.
pub trait Hub: Send + Sync {
    /// Commits and delivers. `done` is called on the hub's task, in order of submission, after local subscribers were
    /// offered the events. Dropping interest is allowed: `done` may refer to a connection that has gone.
    fn submit(&self, submission: Submission, done: Completion<Result<Accepted, CommitError>>);

    /// Makes a subscriber known. With `session`, messages of QoS 1 and 2 for it go through that mailbox; without, they
    /// live in memory only. `outlet` is `None` for a persistent session that is away.
    fn attach(&self, session: Option<SessionNo>, outlet: Option<Arc<dyn Outlet>>) -> SubscriberId;

    /// Gives a known subscriber another outlet (the client came back), or none (it left). What a persistent session
    /// missed is read with [`Hub::read_mailbox`]; the hub offers new events only after [`Hub::resume`].
    fn reattach(&self, subscriber: SubscriberId, outlet: Option<Arc<dyn Outlet>>);

    /// Forgets a subscriber and all its subscriptions.
    fn detach(&self, subscriber: SubscriberId);

    /// Adds or replaces a subscription in the index; durability is the caller's ([`Submission::state`]). Returns true if
    /// it is new.
    fn subscribe(&self, subscriber: SubscriberId, filter: &TopicFilter, options: SubscribeOptions) -> bool;

    /// Removes a subscription. False if there was none.
    fn unsubscribe(&self, subscriber: SubscriberId, filter: &TopicFilter) -> bool;

    /// Retained messages that match, as deliveries under `options` with RETAIN set; at most what the hub's retained
    /// budget holds.
    fn retained(&self, filter: &TopicFilter, options: SubscribeOptions) -> Vec<Delivery>;

    /// The next entries of a mailbox after `after`.
    fn read_mailbox(
        &self,
        session: SessionNo,
        after: Position,
        max_events: usize,
        done: Completion<Result<Vec<MailboxItem>, ReadError>>,
    );

    /// The subscriber has read its mailbox up to `through`: offer everything later. Returns false if later entries are
    /// already there, which must be read first (then call again).
    fn resume(&self, subscriber: SubscriberId, through: Position) -> bool;

    /// How the options of a mailbox entry are written by the hub.
    fn mailbox_options(&self, item: &MailboxItem) -> MailboxOptions;
}

/// Decoded options of a mailbox entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailboxOptions {
    /// QoS to deliver with.
    pub qos: Qos,
    /// RETAIN flag to send.
    pub retain: bool,
    /// Subscription Identifiers.
    pub identifiers: Vec<u32>,
    /// The shared subscriptions that it is delivered for.
    pub shares: Vec<Text>,
}

/// Who may do what; asked by every ingress for every client (P7).
pub trait Authenticator: Send + Sync {
    /// Checks a user name and password. May take a while (argon2id): call it off the runtime's thread.
    ///
    /// # Errors
    /// [`Denied`] with the reason for the log; the client learns only that it was refused.
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Principal, Denied>;

    /// The answer, if it is known without work: whoever was let in a moment ago with the same credentials. Must not
    /// block; `None` says nothing about the credentials. A returning client does not queue behind a flood of logins.
    fn recall(&self, _credentials: &Credentials<'_>) -> Option<Principal> {
        None
    }

    /// Looks whether what it knows is still what its files say; with `now`, reads them in any case. Called every few
    /// seconds, off the runtime's thread.
    fn refresh(&self, _now: bool) {}
}

/// What a client showed.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// MQTT client id or the like; not proof of anything.
    pub client_id: &'a str,
    /// User name, if one was sent.
    pub username: Option<&'a str>,
    /// Password, if one was sent.
    pub password: Option<&'a [u8]>,
}

/// An authenticated identity; becomes the device part of `source`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal {
    /// User name, or the client id of an anonymous client.
    pub name: Text,
    /// True if nothing was proven.
    pub anonymous: bool,
}

/// Refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No credentials, and the listener wants them.
    #[error("no user name given and the listener does not allow anonymous clients")]
    NoCredentials,
    /// Unknown user or wrong password; not told apart on purpose.
    #[error("user name or password is wrong")]
    BadCredentials,
}
