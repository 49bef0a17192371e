//! The Store port: one atomic, durable commit; bounded reads; nothing else decides what is on disk.
//!
//! A [`Commit`] holds everything that one answer depends on: the events that were published, the session state that
//! changed with them (packet ids, subscriptions, mailbox entries, retained values) and the cursors that moved. It is
//! durable as a whole or not at all, and its [`Completion`] is called only after fdatasync returned (P1).
//!
//! Commits become durable and visible in the order in which they were submitted. Completions are called in that order
//! too, after the events can be read.
//!
//! **Streams and consumers.** A *stream* is a named log. Each (stream, uplink) pair that the configuration names is a
//! *consumer* with one durable cursor and a budget of its own, so a dead uplink fills its own budget and not its
//! neighbour's (P2). A stream with no uplink has one pseudo-consumer, [`UplinkId::NONE`], whose cursor only retention
//! moves: its events wait, within the bounds, for the first uplink that will be configured.
//!
//! **State** is an ordered map per [`Table`]; the latest put wins. **Mailboxes** are queues of references to events, one
//! per persistent session; an event that waits for a thousand sessions is stored once.

use super::Completion;
use crate::Text;
use crate::event::{Event, LogId, Position, StoredEvent, Timestamp};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// Index of a stream in [`StoreSpec::streams`]; the store maps it to a durable number by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u16);

/// Index of an uplink in [`StoreSpec::uplinks`]; the store maps it to a durable number by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UplinkId(pub u16);

impl StreamId {
    /// No stream: what only mailboxes wait for, and [`CommitError::Full`] when there is no room for it.
    pub const NONE: StreamId = StreamId(u16::MAX);
}

impl UplinkId {
    /// The pseudo-consumer of a stream that has no uplink yet.
    pub const NONE: UplinkId = UplinkId(u16::MAX);
}

/// Number of a persistent session, given by the session engine, never reused, kept in its session record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionNo(pub u64);

/// One (stream, uplink) pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Consumer {
    /// What is read.
    pub stream: StreamId,
    /// Who reads it.
    pub uplink: UplinkId,
}

/// What happens to a stream when a consumer's budget is used up (P5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhenFull {
    /// The commit fails with [`CommitError::Full`]; the sender is not answered until room returns.
    Refuse,
    /// The oldest events of that consumer are given up, counted with [`LossReason::QueueFull`].
    DropOldest,
}

/// Bounds and readers of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// Unique, 1..=64 bytes.
    pub name: Text,
    /// The uplinks that read it, as indices into [`StoreSpec::uplinks`].
    pub uplinks: Vec<UplinkId>,
    /// Budget of each consumer, in stored bytes.
    pub max_bytes: u64,
    /// Older events are given up, counted with [`LossReason::Expired`].
    pub max_age: Option<Duration>,
    /// Policy at the budget.
    pub when_full: WhenFull,
}

/// What an entry of a mailbox takes of [`StoreSpec::mailboxes_max_bytes`], beside its event.
pub const MAILBOX_CLAIM_BYTES: u64 = 32;

/// What a store is opened with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSpec {
    /// All streams; [`StreamId`] indexes here.
    pub streams: Vec<StreamSpec>,
    /// Names of all uplinks; [`UplinkId`] indexes here.
    pub uplinks: Vec<Text>,
    /// Hard limit of the data directory, in bytes on disk.
    pub disk_max: u64,
    /// Budget of one session's mailbox; beyond it the oldest entry is given up ([`LossReason::SessionQueueFull`]).
    pub mailbox_max_bytes: u64,
    /// The same in entries.
    pub mailbox_max_events: u64,
    /// Budget of all mailboxes together: the stored bytes of the events that wait in them, each once, and
    /// [`MAILBOX_CLAIM_BYTES`] for each entry. Beyond it the fullest mailboxes give up their oldest entries.
    pub mailboxes_max_bytes: u64,
}

/// Other streams, uplinks and budgets, while the store is open (docs/adr/0009).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reshape {
    /// What the store shall be like. Streams and uplinks that are there keep their numbers and names, new ones follow
    /// behind; a stream that is not used any more stays, without uplinks. Limits that are no stream's cannot change.
    pub spec: StoreSpec,
    /// Of the consumers that `spec` does not have any more: those that shall get what waits for them by now, and nothing
    /// that comes later. They are consumers until they are not named here any more.
    pub drain: Vec<Consumer>,
    /// Those whose events are given up, counted with [`LossReason::StreamRemoved`].
    pub drop: Vec<Consumer>,
}

/// Why a [`Reshape`] was not made. Nothing has changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReshapeError {
    /// Not what an open store can become.
    #[error("{0}")]
    Spec(String),
    /// Nobody has said what becomes of what waits (P2).
    #[error("{events} events wait for {consumer:?}, which would have no place any more: drain it or drop it")]
    Waiting {
        /// For whom.
        consumer: Consumer,
        /// How many.
        events: u64,
    },
    /// The change could not be made durable, or what waits could not be counted.
    #[error("write store: {0}")]
    Io(#[source] Arc<std::io::Error>),
    /// The store is shutting down.
    #[error("store is closed")]
    Closed,
}

impl ReshapeError {
    /// What the caller can do.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            ReshapeError::Io(_) => Class::Retry,
            ReshapeError::Spec(_) | ReshapeError::Waiting { .. } => Class::Reject,
            ReshapeError::Closed => Class::Fatal,
        }
    }
}

/// Everything that becomes durable together.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Get positions in this order.
    pub events: Vec<NewEvent>,
    /// Applied in this order, after the events.
    pub state: Vec<StateChange>,
    /// Cursors that moved forward.
    pub cursors: Vec<CursorChange>,
    /// Events given up by somebody else than the store (parked, expired at the uplink), for the ledger.
    pub losses: Vec<Loss>,
}

impl Commit {
    /// True if there is nothing to make durable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.state.is_empty() && self.cursors.is_empty() && self.losses.is_empty()
    }
}

/// An event on its way in.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The stream that takes it; `None` for an event that only local sessions wait for.
    pub stream: Option<StreamId>,
    /// The event.
    pub event: Event,
    /// The persistent sessions that wait for it.
    pub mailboxes: Vec<MailboxEntry>,
}

/// One session's claim on an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailboxEntry {
    /// Whose mailbox.
    pub session: SessionNo,
    /// Opaque to the store: granted QoS, retain flag, subscription identifiers.
    pub options: Bytes,
}

/// Names of the keyed tables. The number is on disk: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// client id -> session record.
    Session = 1,
    /// session number (u64 big-endian) | topic filter -> subscription options.
    Subscription = 2,
    /// session number | packet id (u16 big-endian) -> position, hash: QoS 1 and 2 publishes received and not released.
    Inbound = 3,
    /// session number | packet id -> QoS 2 messages sent whose PUBCOMP is outstanding after PUBREC.
    Outbound = 4,
    /// topic -> retained event (a record body).
    Retained = 5,
    /// Free for the daemon: time floor, node identity.
    Node = 6,
    /// will number (u64 big-endian) -> a will that is still owed: neither published nor taken back.
    Will = 7,
}

impl Table {
    /// All of them, in the order of their numbers.
    pub const ALL: [Table; 7] = [
        Table::Session,
        Table::Subscription,
        Table::Inbound,
        Table::Outbound,
        Table::Retained,
        Table::Node,
        Table::Will,
    ];
}

/// One change of keyed state or of a mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// `table[key] = value`.
    Put {
        /// Which table.
        table: Table,
        /// 1..=65,535 bytes.
        key: Bytes,
        /// What to keep.
        value: StateValue,
    },
    /// `table[key]` is gone.
    Delete {
        /// Which table.
        table: Table,
        /// Which key.
        key: Bytes,
    },
    /// The session has this event: its claim ends.
    MailboxRemove {
        /// Whose mailbox.
        session: SessionNo,
        /// Which event.
        position: Position,
    },
    /// The session has ended: all its claims end.
    MailboxClear {
        /// Whose mailbox.
        session: SessionNo,
    },
    /// Ledger entries up to this number were handed on: they are not given out again. The totals stay.
    LedgerForget {
        /// [`LedgerEntry::no`] of the last of them.
        through: u64,
    },
}

/// A value, possibly made from an event of the same commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateValue {
    /// These bytes.
    Bytes(Bytes),
    /// Position (u64 big-endian) of `events[event]`, then `suffix`.
    Position {
        /// Index into [`Commit::events`].
        event: usize,
        /// Appended after the eight bytes.
        suffix: Bytes,
    },
    /// The record body of `events[event]` ([`crate::event::record::encode`]), not stored twice in the journal.
    Record {
        /// Index into [`Commit::events`].
        event: usize,
    },
}

/// A consumer's cursor moves: everything up to and including `acked` is acknowledged by the upstream (P2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CursorChange {
    /// Whose.
    pub consumer: Consumer,
    /// Never moves backwards; an older value is ignored.
    pub acked: Position,
}

/// Why an event was given up. The number is on disk: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum LossReason {
    /// Budget of the (stream, uplink) pair, policy `drop-oldest`.
    QueueFull = 1,
    /// Older than `max_age`, or past its own expiry.
    Expired = 2,
    /// The upstream refused it for good.
    Rejected = 3,
    /// Kept failing until the gap bound was reached.
    Parked = 4,
    /// Mailbox budget of a session.
    SessionQueueFull = 5,
    /// Damage on disk; the range says which positions.
    Damaged = 6,
    /// Its stream is no longer in the configuration.
    StreamRemoved = 7,
    /// A subscriber without a session was too slow.
    SlowSubscriber = 8,
    /// Not taken in, and its sender has no way to know: QoS 0, or a protocol without an answer that says so.
    Refused = 9,
}

impl LossReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [LossReason; 9] = [
        LossReason::QueueFull,
        LossReason::Expired,
        LossReason::Rejected,
        LossReason::Parked,
        LossReason::SessionQueueFull,
        LossReason::Damaged,
        LossReason::StreamRemoved,
        LossReason::SlowSubscriber,
        LossReason::Refused,
    ];

    /// The label in metrics, logs and `status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LossReason::QueueFull => "queue_full",
            LossReason::Expired => "expired",
            LossReason::Rejected => "rejected",
            LossReason::Parked => "parked",
            LossReason::SessionQueueFull => "session_queue_full",
            LossReason::Damaged => "damaged",
            LossReason::StreamRemoved => "stream_removed",
            LossReason::SlowSubscriber => "slow_subscriber",
            LossReason::Refused => "refused",
        }
    }
}

/// An entry for the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Which stream, which uplink; `None` for a loss that is no consumer's (a session's mailbox, a slow subscriber).
    pub consumer: Option<Consumer>,
    /// Why.
    pub reason: LossReason,
    /// How many.
    pub events: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// First and last position given up.
    pub range: (Position, Position),
}

/// What a commit got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// One position per event of the commit, in its order.
    pub positions: Vec<Position>,
}

/// Why a commit was not made durable. Nothing of it is on disk, or nothing of it will be believed at the next start.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// A consumer's budget or the disk limit is used up, or the file system is full. Retry when [`Store::watch`] says that
    /// room returned.
    #[error("stream {stream:?} is full: {used} of {max} bytes, {need} more asked for")]
    Full {
        /// Which stream.
        stream: StreamId,
        /// Stored bytes waiting.
        used: u64,
        /// Its budget.
        max: u64,
        /// What the commit needs.
        need: u64,
    },
    /// One event is larger than the journal takes.
    #[error("event of {bytes} bytes is larger than the store's limit of {max}")]
    TooLarge {
        /// Encoded size.
        bytes: u64,
        /// Limit.
        max: u64,
    },
    /// Only the node publishes to its own topics ([`crate::topic::is_nodes_own`]).
    #[error("its topic is one of the node's own ($SYS, $edge), which only the node publishes to")]
    Reserved,
    /// Write or sync failed; the segment is not trusted again, the next commit goes to a new one.
    #[error("write journal: {0}")]
    Io(#[source] Arc<std::io::Error>),
    /// The store is shutting down.
    #[error("store is closed")]
    Closed,
}

/// What the caller of a failed operation can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The same again, later.
    Retry,
    /// Never again: the input is at fault.
    Reject,
    /// Not here, not now: stop.
    Fatal,
}

impl CommitError {
    /// What the caller can do.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            CommitError::Full { .. } | CommitError::Io(_) => Class::Retry,
            CommitError::TooLarge { .. } | CommitError::Reserved => Class::Reject,
            CommitError::Closed => Class::Fatal,
        }
    }
}

/// Why a read failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The disk said no.
    #[error("read store: {0}")]
    Io(#[source] Arc<std::io::Error>),
    /// The store is shutting down.
    #[error("store is closed")]
    Closed,
}

/// A bounded read of one consumer's events.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// Whose.
    pub consumer: Consumer,
    /// Only later ones.
    pub after: Position,
    /// At most this many, at least one if there is any.
    pub max_events: usize,
    /// Stop when this many stored bytes are reached; the first event may exceed it alone.
    pub max_bytes: usize,
}

/// What a read found, in order of position.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The events.
    pub events: Vec<StoredEvent>,
    /// Everything of this stream up to here was looked at: continue after it. At least the last event's position.
    pub through: Position,
    /// True if nothing later was durable at the moment of the read.
    pub at_end: bool,
}

/// One entry of a session's mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailboxItem {
    /// The event.
    pub event: StoredEvent,
    /// Latest options.
    pub options: Bytes,
}

/// What waits for a consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Events after the cursor.
    pub events: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Receipt time of the oldest of them, if known without reading the disk.
    pub oldest: Option<Timestamp>,
    /// The cursor.
    pub acked: Position,
    /// Position of the newest event of the stream, [`Position::ZERO`] if it never had one.
    pub newest: Position,
}

/// One line of the loss ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerLine {
    /// Which pair; names are in the spec.
    pub consumer: Option<Consumer>,
    /// Why.
    pub reason: LossReason,
    /// Events in all since the store was made.
    pub events: u64,
    /// Stored bytes in all.
    pub bytes: u64,
    /// First position ever given up for this reason.
    pub first: Position,
    /// Last one.
    pub last: Position,
}

/// Ledger entries that wait to be handed on, at most: what is lost meanwhile is gathered in one entry per stream, uplink
/// and reason (P5).
pub const LEDGER_ENTRIES_MAX: usize = 1024;

/// What was lost since the last entry of its stream, uplink and reason. Never changes once it was given out, so whoever
/// hands it on can say it twice and be understood once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Counts up by one over the life of the store.
    pub no: u64,
    /// Name of the stream, which the configuration may not have any more; `None` for a loss that is no stream's.
    pub stream: Option<Text>,
    /// Name of the uplink; `None` for a loss that is no uplink's.
    pub uplink: Option<Text>,
    /// Why.
    pub reason: LossReason,
    /// How many events.
    pub events: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// First position given up; [`Position::ZERO`] if it never had one.
    pub first: Position,
    /// Last one. Other streams, and events that were not lost, have positions between the two.
    pub last: Position,
}

/// Figures for `status` and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Commits that returned durable.
    pub commits: u64,
    /// fdatasync calls on the journal.
    pub syncs: u64,
    /// Events made durable since the start.
    pub events: u64,
    /// Bytes written by the store since the start (journal, generations, views).
    pub bytes_written: u64,
    /// Journal segments in use.
    pub journal_segments: u64,
    /// Sealed generations.
    pub generations: u64,
    /// Bytes of the data directory on disk, as the store accounts for them.
    pub disk_bytes: u64,
    /// This start's epoch.
    pub epoch: u32,
    /// Files quarantined at this start.
    pub quarantined: u64,
    /// What the mailboxes take of their common budget ([`StoreSpec::mailboxes_max_bytes`]).
    pub mailbox_bytes: u64,
    /// The file system has no room: events wait, what was kept for everything else is in use.
    pub short_of_room: bool,
}

/// What a watcher is told. Several may be folded into one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Events became readable.
    Appended,
    /// Room returned somewhere, or the disk recovered: refused commits may be tried again.
    Room,
}

/// Called from the store's threads after something changed; must not block.
pub type Watcher = Arc<dyn Fn(Change) + Send + Sync>;

/// The port. See the module's description for what every implementation guarantees; `tests/contract` checks it.
pub trait Store: Send + Sync {
    /// Queues a commit. `done` is called after it is durable, or with the reason why it is not.
    ///
    /// Never blocks on the disk. The caller bounds what it has outstanding.
    fn submit(&self, commit: Commit, done: Completion<Result<Committed, CommitError>>);

    /// Becomes what a store opened with [`Reshape::spec`] would be, between two commits; `done` is called when that is
    /// durable, or with the reason why nothing has changed.
    ///
    /// A new consumer begins at the end of its stream if other uplinks read it; where nobody did it gets what waited
    /// ([`UplinkId::NONE`]). A consumer that was to be drained and is in the spec again goes on where it stands. What a
    /// consumer leaves behind is given up only by name ([`Reshape::drop`]); nothing that comes after the change is routed to
    /// it. A start with another spec does the same by itself, except that nobody can be asked there: what waits for an
    /// uplink that is gone is counted, unless another one takes it over; and a new uplink begins at the oldest event that is
    /// there, because a start cannot tell a new one from one whose cursor was damaged (P6).
    fn reshape(&self, change: Reshape, done: Completion<Result<(), ReshapeError>>);

    /// Reads a consumer's events. `done` may be called before this returns, when the answer is in memory.
    fn read(&self, read: Read, done: Completion<Result<Batch, ReadError>>);

    /// Reads a session's mailbox: entries after `after`, at most `max_events` and about `max_bytes`.
    fn read_mailbox(
        &self,
        session: SessionNo,
        after: Position,
        max_events: usize,
        max_bytes: usize,
        done: Completion<Result<Vec<MailboxItem>, ReadError>>,
    );

    /// `table[key]` as of the last durable commit.
    ///
    /// # Errors
    /// [`ReadError`] if the view cannot be read.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ReadError>;

    /// Up to `max` entries of `table` whose key starts with `prefix`, after the key `after`, in key order.
    ///
    /// # Errors
    /// [`ReadError`] if the view cannot be read.
    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, ReadError>;

    /// Entries and stored bytes in a session's mailbox.
    fn mailbox_len(&self, session: SessionNo) -> (u64, u64);

    /// What waits for a consumer.
    fn backlog(&self, consumer: Consumer) -> Backlog;

    /// The ledger, durable part.
    fn ledger(&self) -> Vec<LedgerLine>;

    /// Up to `max` ledger entries with a number above `after`, in their order; from memory.
    ///
    /// Losses are gathered by stream, uplink and reason until somebody asks; asking makes entries of them, which this
    /// call or, since they have to be durable first, one of the next gives out. Entries that were never forgotten
    /// ([`StateChange::LedgerForget`]) are given out again after a restart, the same as before.
    fn ledger_after(&self, after: u64, max: usize) -> Vec<LedgerEntry>;

    /// Figures.
    fn stats(&self) -> StoreStats;

    /// Which log this is.
    fn log_id(&self) -> LogId;

    /// Adds a watcher for the life of the store.
    fn watch(&self, watcher: Watcher);

    /// Lets the store do what is due by time (expiry, checkpoints). Cheap when nothing is due.
    fn tick(&self, now: Timestamp);

    /// Flushes and ends: outstanding commits are finished, later ones fail with [`CommitError::Closed`].
    fn close(&self);
}
