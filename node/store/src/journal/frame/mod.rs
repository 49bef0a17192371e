//! One frame: one commit, written and read. Layout in [`super`].

mod read;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use self::read::{Frame, Item};
pub(crate) use self::write::FrameWriter;

use super::RECORD_OVERHEAD;
use super::header::Header;
use crate::backing::{Lsn, StreamNo};
use crate::codec::{Reader, as_u32};
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::{
    Commit, LossReason, MailboxEntry, NewEvent, StateChange, StateValue,
};

/// `len` and `crc`.
pub(crate) const FRAME_HEADER: usize = 8;

const GROUP_START: u8 = 1;
const EVENTS: u8 = 2;
const CHANGES: u8 = 4;
const CURSORS: u8 = 8;
const LOSSES: u8 = 16;
const ONE_EVENT: u8 = 32;
const CLEAN_END: u8 = 64;

/// Durable number of an uplink; 0 is the pseudo-consumer of a stream without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct UplinkNo(pub(crate) u32);

/// What the numbers in a segment's frames count from, and what its checksums start with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base {
    pub(crate) seed: u32,
    pub(crate) first_lsn: Lsn,
    pub(crate) first_position: Position,
}

impl From<&Header> for Base {
    fn from(header: &Header) -> Base {
        Base { seed: header.seed(), first_lsn: header.first_lsn, first_position: header.first_position }
    }
}

/// A change of state as a frame holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    /// 1: u8 table, bytes key, bytes value.
    Put { table: u8, key: &'a [u8], value: &'a [u8] },
    /// 2: u8 table, bytes key, varint index of the event whose record is the value.
    PutRecord { table: u8, key: &'a [u8], event: usize },
    /// 3: u8 table, bytes key.
    Delete { table: u8, key: &'a [u8] },
    /// 4: varint session, varint position.
    MailboxRemove { session: u64, position: Position },
    /// 5: varint session, varint position, bytes options. Earlier versions of the program wrote it.
    MailboxUpdate { session: u64, position: Position, options: &'a [u8] },
    /// 6: varint session.
    MailboxClear { session: u64 },
    /// 7: bytes key, bytes value, written into the views as they are.
    View { key: &'a [u8], value: &'a [u8] },
    /// 8: bytes key, removed from the views.
    ViewDelete { key: &'a [u8] },
}

/// A cursor in durable numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CursorEntry {
    pub(crate) stream: StreamNo,
    pub(crate) uplink: UplinkNo,
    pub(crate) acked: Position,
}

/// A loss in durable numbers; stream and uplink both 0 if it is no consumer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LossEntry {
    pub(crate) stream: StreamNo,
    pub(crate) uplink: UplinkNo,
    pub(crate) reason: LossReason,
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) first: Position,
    pub(crate) last: Position,
}

/// An event as a frame holds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventEntry<'a> {
    pub(crate) stream: StreamNo,
    pub(crate) position: Position,
    pub(crate) mailboxes: Mailboxes<'a>,
    pub(crate) body: &'a [u8],
}

impl EventEntry<'_> {
    pub(crate) fn stored_bytes(&self) -> u32 {
        stored_bytes(self.body.len())
    }
}

/// What a record of that many bytes takes in budgets.
pub(crate) fn stored_bytes(body: usize) -> u32 {
    as_u32(body).saturating_add(RECORD_OVERHEAD)
}

/// The claims on one event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mailboxes<'a> {
    left: u64,
    reader: Reader<'a>,
}

impl Mailboxes<'_> {
    pub(crate) fn claims(&self) -> u64 {
        self.left
    }
}

impl<'a> Iterator for Mailboxes<'a> {
    type Item = (u64, &'a [u8]);
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some((self.reader.varint()?, self.reader.bytes()?))
    }
}

/// Upper bound of the frame that a commit makes, all but the cursors and losses that the store adds.
pub(crate) fn bound(commit: &Commit) -> usize {
    let events: usize = commit.events.iter().map(event_bound).sum();
    let state: usize = commit.state.iter().map(change_bound).sum();
    FRAME_HEADER + 64 + events + state + commit.cursors.len() * 24 + commit.losses.len() * 64
}

fn event_bound(new: &NewEvent) -> usize {
    let event = &new.event;
    let properties = event.properties.as_deref().map_or(0, |p| {
        let user: usize = p.user.iter().map(|(k, v)| k.len() + v.len() + 10).sum();
        let text = |t: &Option<eventmesh_edge_core::Text>| t.as_ref().map_or(0, |t| t.len());
        let correlation = p.correlation_data.as_ref().map_or(0, bytes::Bytes::len);
        user + text(&p.content_type) + text(&p.response_topic) + correlation + 40
    });
    let mailboxes: usize = new.mailboxes.iter().map(claim_bytes).sum();
    let id = event.id.as_ref().map_or(0, |id| id.len());
    event.payload.len() + event.topic.len() + event.source.len() + id + properties + mailboxes + 100
}

/// Exact: a message for a hundred thousand sessions has a hundred thousand of them.
fn claim_bytes(claim: &MailboxEntry) -> usize {
    let options = claim.options.len();
    varint_len(claim.session.0) + varint_len(options as u64) + options
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn change_bound(change: &StateChange) -> usize {
    let variable = match change {
        StateChange::Put { key, value, .. } => {
            key.len()
                + match value {
                    StateValue::Bytes(bytes) => bytes.len(),
                    StateValue::Position { suffix, .. } => suffix.len() + 8,
                    StateValue::Record { .. } => 10,
                }
        }
        StateChange::Delete { key, .. } => key.len(),
        StateChange::MailboxRemove { .. }
        | StateChange::MailboxClear { .. }
        | StateChange::LedgerForget { .. } => 0,
    };
    variable + 32
}

/// What stands at some place of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// A frame that checks; its body.
    Frame(&'a [u8]),
    /// A length of zero, or nothing.
    End,
    /// The slice ends before the frame would: that many bytes are needed in all.
    Cut(usize),
    /// No frame.
    Bad,
}

/// Looks at the front of `bytes`; a frame may be at most `room` bytes, header included.
pub(crate) fn check(bytes: &[u8], room: usize, seed: u32) -> Found<'_> {
    let Some((head, rest)) = bytes.split_first_chunk::<FRAME_HEADER>() else {
        return if room < FRAME_HEADER { Found::End } else { Found::Cut(FRAME_HEADER) };
    };
    let (len_bytes, crc) = head.split_at(4);
    let Ok(len) = len_bytes.try_into().map(u32::from_le_bytes) else { return Found::Bad };
    if len == 0 {
        return Found::End;
    }
    let Ok(len) = usize::try_from(len) else { return Found::Bad };
    if len > room.saturating_sub(FRAME_HEADER) {
        return Found::Bad;
    }
    let Some(body) = rest.get(..len) else { return Found::Cut(FRAME_HEADER + len) };
    let seen = crc32c::crc32c_append(crc32c::crc32c_append(seed, len_bytes), body).to_le_bytes();
    if seen == crc { Found::Frame(body) } else { Found::Bad }
}

/// The reason with that number on disk.
pub(crate) fn loss_reason(number: u8) -> Option<LossReason> {
    LossReason::ALL.into_iter().find(|reason| *reason as u8 == number)
}
