//! What a workload says about itself while it is recorded: one line of JSON per write to the marker file, so that the
//! trace holds it in its place among the file operations.

use bytes::Bytes;
use eventmesh_edge_core::event::{Event, Position, Qos, Timestamp, Via};
use eventmesh_edge_core::ports::store::{
    Commit, Consumer, CursorChange, LedgerEntry, Loss, LossReason, MailboxEntry, NewEvent, SessionNo,
    StateChange, StateValue, StreamId, Table, UplinkId,
};
use serde::{Deserialize, Serialize};

/// One marker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mark {
    /// The store is open for the `life`-th time.
    Opened {
        /// From 0.
        life: u32,
        /// Its epoch.
        epoch: u32,
        /// Its log id.
        log: u32,
    },
    /// A commit is about to be handed over.
    Submit(Planned),
    /// Its answer has come.
    Answer {
        /// Which commit.
        number: u64,
        /// Positions, or why not.
        outcome: Result<Vec<u64>, Refusal>,
    },
    /// What the store said about its ledger: `(stream, uplink, reason, events)`; durable from then on.
    Ledger(Vec<(u16, u16, u8, u64)>),
    /// Entries that the store gave out to be handed on; final from then on.
    Entries(Vec<ToldEntry>),
    /// A process is about to open the store with these readers of the stream `changing`.
    Start(Shape),
    /// The open store is about to be asked for others.
    Change(Shape),
    /// And has become what it was asked for.
    Changed,
    /// The store was closed in order.
    Closed,
    /// So far a program of format 1 was at work, whose losses nobody handed on: they are in totals only.
    Older,
}

/// Who reads the stream `changing`, and what becomes of those who do not any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Uplinks. Each number is given to one reader only, so that what is said of it is said of one time.
    pub readers: Vec<u16>,
    /// They get what waits for them.
    pub drain: Vec<u16>,
    /// They are given up.
    pub drop: Vec<u16>,
}

/// An entry of the ledger in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldEntry {
    /// Its number.
    pub no: u64,
    /// Of which stream, by name.
    pub stream: Option<String>,
    /// For which uplink.
    pub uplink: Option<String>,
    /// Number of the reason.
    pub reason: u8,
    /// How many.
    pub events: u64,
    /// Stored bytes.
    pub bytes: u64,
}

impl From<&LedgerEntry> for ToldEntry {
    fn from(entry: &LedgerEntry) -> ToldEntry {
        ToldEntry {
            no: entry.no,
            stream: entry.stream.as_ref().map(ToString::to_string),
            uplink: entry.uplink.as_ref().map(ToString::to_string),
            reason: entry.reason as u8,
            events: entry.events,
            bytes: entry.bytes,
        }
    }
}

/// Why a commit was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Budget or disk.
    Full,
    /// Anything else, in words.
    Other(String),
}

/// A commit in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// From 1, over all lives.
    pub number: u64,
    /// Events.
    pub events: Vec<PlannedEvent>,
    /// State changes.
    pub state: Vec<PlannedChange>,
    /// Cursors: stream, uplink, position.
    pub cursors: Vec<(u16, u16, u64)>,
    /// What somebody else than the store gave up.
    #[serde(default)]
    pub losses: Vec<PlannedLoss>,
}

/// An entry for the ledger in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedLoss {
    /// Stream and uplink, [`NOBODY`] for a loss of no consumer.
    pub of: (u16, u16),
    /// Number of the reason.
    pub reason: u8,
    /// Its position.
    pub position: u64,
}

/// The consumer of a loss that is no consumer's.
pub const NOBODY: (u16, u16) = (u16::MAX, 0);

/// An event in words; its bytes follow from them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedEvent {
    /// Which stream, if any.
    pub stream: Option<u16>,
    /// Unique over the workload; in the payload.
    pub tag: u64,
    /// Which source.
    pub source: u8,
    /// Payload bytes.
    pub bytes: u32,
    /// Receipt, ms since 1970.
    pub received: u64,
    /// Sessions that wait for it, with options.
    pub mailboxes: Vec<(u64, u8)>,
}

/// A state change in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlannedChange {
    /// Table, key, value.
    Put(u8, String, String),
    /// Table, key, which event's position.
    PutPosition(u8, String, usize),
    /// Table, key, which event's record.
    PutRecord(u8, String, usize),
    /// Table, key.
    Delete(u8, String),
    /// Session, position.
    MailboxRemove(u64, u64),
    /// Session, position, options: only in what older programs said.
    MailboxUpdate(u64, u64, u8),
    /// Session.
    MailboxClear(u64),
    /// Entries of the ledger up to this number were handed on.
    LedgerForget(u64),
}

/// The table with this number; numbers of plans are ours, so an unknown one is [`Table::Node`].
#[must_use]
pub fn table(number: u8) -> Table {
    Table::ALL.into_iter().find(|table| *table as u8 == number).unwrap_or(Table::Node)
}

impl PlannedEvent {
    /// The event itself.
    #[must_use]
    pub fn event(&self) -> Event {
        Event {
            via: Via::Mqtt5,
            qos: Qos::AtLeastOnce,
            retain: false,
            source: format!("mqtt://crash/{}", self.source).into(),
            id: None,
            time: Some(Timestamp(self.received)),
            received: Timestamp(self.received),
            expires: None,
            topic: format!("plant/{}/t", self.source).into(),
            payload: payload(self.tag, self.bytes as usize),
            properties: None,
        }
    }
}

/// The payload with this tag: the tag in words, then bytes that follow from it and do not compress.
#[must_use]
pub fn payload(tag: u64, bytes: usize) -> Bytes {
    let mut out = format!("{tag} ").into_bytes();
    let mut state = tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    Bytes::from(out)
}

/// The tag in a payload.
#[must_use]
pub fn tag_of(payload: &[u8]) -> Option<u64> {
    let digits = payload.split(|byte| *byte == b' ').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

impl Planned {
    /// The commit itself.
    #[must_use]
    pub fn commit(&self) -> Commit {
        Commit {
            events: self.events.iter().map(new_event).collect(),
            state: self.state.iter().filter_map(change).collect(),
            cursors: self.cursors.iter().map(cursor).collect(),
            losses: self.losses.iter().map(loss).collect(),
        }
    }
}

/// The reason with this number; numbers of plans are ours, so an unknown one is [`LossReason::Rejected`].
#[must_use]
pub fn reason(number: u8) -> LossReason {
    LossReason::ALL.into_iter().find(|reason| *reason as u8 == number).unwrap_or(LossReason::Rejected)
}

fn loss(planned: &PlannedLoss) -> Loss {
    let (stream, uplink) = planned.of;
    let consumer = Consumer { stream: StreamId(stream), uplink: UplinkId(uplink) };
    let position = Position(planned.position);
    Loss {
        consumer: (planned.of != NOBODY).then_some(consumer),
        reason: reason(planned.reason),
        events: 1,
        bytes: LOSS_BYTES,
        range: (position, position),
    }
}

/// What every planned loss counts in bytes.
pub const LOSS_BYTES: u64 = 100;

fn new_event(planned: &PlannedEvent) -> NewEvent {
    let claim = |(session, options): &(u64, u8)| MailboxEntry {
        session: SessionNo(*session),
        options: Bytes::from(vec![*options]),
    };
    NewEvent {
        stream: planned.stream.map(StreamId),
        event: planned.event(),
        mailboxes: planned.mailboxes.iter().map(claim).collect(),
    }
}

fn cursor((stream, uplink, acked): &(u16, u16, u64)) -> CursorChange {
    let consumer = Consumer { stream: StreamId(*stream), uplink: UplinkId(*uplink) };
    CursorChange { consumer, acked: Position(*acked) }
}

/// `None` for what only older programs committed.
fn change(planned: &PlannedChange) -> Option<StateChange> {
    let key = |key: &String| Bytes::from(key.clone());
    let put = |t: &u8, k: &String, value| StateChange::Put { table: table(*t), key: key(k), value };
    Some(match planned {
        PlannedChange::Put(t, k, value) => put(t, k, StateValue::Bytes(Bytes::from(value.clone()))),
        PlannedChange::PutPosition(t, k, event) => {
            put(t, k, StateValue::Position { event: *event, suffix: Bytes::from_static(b"!") })
        }
        PlannedChange::PutRecord(t, k, event) => put(t, k, StateValue::Record { event: *event }),
        PlannedChange::Delete(t, k) => StateChange::Delete { table: table(*t), key: key(k) },
        PlannedChange::MailboxRemove(session, position) => {
            StateChange::MailboxRemove { session: SessionNo(*session), position: Position(*position) }
        }
        PlannedChange::MailboxUpdate(..) => return None,
        PlannedChange::LedgerForget(through) => StateChange::LedgerForget { through: *through },
        PlannedChange::MailboxClear(session) => StateChange::MailboxClear { session: SessionNo(*session) },
    })
}
