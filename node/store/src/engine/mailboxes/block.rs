//! One mailbox in memory, and the blocks that its claims lie in.

use super::BLOCK_CLAIMS;
use crate::codec::{Reader, put_bytes, put_varint};
use crate::engine::keys;
use crate::engine::rows::Rows;
use crate::engine::tables::Bounds;
use bytes::Bytes;
use eventmesh_edge_core::event::Position;

/// A block in the views that has fewer claims is joined with the next ones, if both fit into one.
const SMALL_BLOCK: u64 = 16;

/// One session's claim on an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) position: Position,
    /// Of the event.
    pub(crate) stored_bytes: u32,
    pub(crate) options: Bytes,
}

/// Claims that lie together: in the views, under their last position, or in memory.
pub(super) type Block = (Option<Position>, Vec<Claim>);

/// One mailbox.
#[derive(Clone, Debug, Default)]
pub(super) struct Mailbox {
    pub(super) events: u64,
    pub(super) bytes: u64,
    /// No claim is below it: where a scan for the oldest starts, past the rows that are gone.
    pub(super) lowest: Position,
    /// The newest block in the views, and how many claims it has; zero if there is none.
    pub(super) tail: (Position, u64),
    /// The newest claims, as a block.
    pub(super) fresh: Vec<u8>,
    pub(super) fresh_events: u64,
    /// First and last of them.
    pub(super) fresh_range: (Position, Position),
}

impl Mailbox {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(24);
        for number in [self.events, self.bytes, self.lowest.0, self.tail.0.0, self.tail.1] {
            put_varint(&mut out, number);
        }
        Bytes::from(out)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Mailbox> {
        let mut r = Reader::new(bytes);
        let (events, bytes, lowest) = (r.varint()?, r.varint()?, Position(r.varint()?));
        Some(Mailbox {
            events,
            bytes,
            lowest,
            tail: (Position(r.varint()?), r.varint()?),
            ..Mailbox::default()
        })
    }

    pub(super) fn push(&mut self, position: Position, stored_bytes: u32, options: &[u8]) {
        let before = if self.fresh_events == 0 { Position::ZERO } else { self.fresh_range.1 };
        put_claim(&mut self.fresh, before, position, stored_bytes, options);
        let first = if self.fresh_events == 0 { position } else { self.fresh_range.0 };
        self.fresh_range = (first, position);
        self.fresh_events += 1;
    }

    pub(super) fn set_fresh(&mut self, claims: &[Claim]) {
        self.fresh = encode_block(claims);
        self.fresh_events = claims.len() as u64;
        let first = claims.first().map_or(Position::ZERO, |c| c.position);
        self.fresh_range = (first, claims.last().map_or(Position::ZERO, |c| c.position));
    }

    pub(super) fn is_over(&self, bounds: &Bounds) -> bool {
        self.events > 1 && (self.events > bounds.events || self.bytes > bounds.bytes)
    }
}

fn put_claim(out: &mut Vec<u8>, before: Position, position: Position, stored_bytes: u32, options: &[u8]) {
    put_varint(out, position.0.wrapping_sub(before.0));
    put_varint(out, u64::from(stored_bytes));
    put_bytes(out, options);
}

pub(super) fn encode_block(claims: &[Claim]) -> Vec<u8> {
    let mut out = Vec::with_capacity(claims.len() * 10);
    let mut before = Position::ZERO;
    for claim in claims {
        put_claim(&mut out, before, claim.position, claim.stored_bytes, &claim.options);
        before = claim.position;
    }
    out
}

pub(super) fn decode_block(bytes: &[u8]) -> Vec<Claim> {
    let mut r = Reader::new(bytes);
    let mut claims = Vec::new();
    let mut before = 0u64;
    while !r.is_empty() {
        let (Some(step), Some(stored_bytes), Some(options)) = (r.varint(), r.varint_u32(), r.bytes()) else {
            tracing::error!("a block of mailbox claims does not decode to its end");
            break;
        };
        before = before.wrapping_add(step);
        let options = Bytes::copy_from_slice(options);
        claims.push(Claim { position: Position(before), stored_bytes, options });
    }
    claims
}

pub(super) fn may_join(mailbox: &Mailbox) -> bool {
    let claims = mailbox.tail.1;
    let small = claims > 0 && claims < SMALL_BLOCK && claims + mailbox.fresh_events <= BLOCK_CLAIMS;
    small && mailbox.fresh_events > 0
}

/// Takes a small newest block of the views back, to be written anew with what came since. One that cannot be read stays
/// where it is.
pub(super) fn join_tail(rows: &mut Rows<'_>, session: u64, mailbox: &mut Mailbox) {
    let key = keys::block(session, mailbox.tail.0);
    if let Ok(Some(block)) = rows.get(&key) {
        let mut claims = decode_block(&block);
        claims.extend(decode_block(&mailbox.fresh));
        mailbox.set_fresh(&claims);
        rows.delete(key);
    }
}

/// Moves what is in memory into a block of the views.
pub(super) fn put_block(rows: &mut Rows<'_>, session: u64, mailbox: &mut Mailbox) {
    if mailbox.fresh_events > 0 {
        let last = mailbox.fresh_range.1;
        rows.put(keys::block(session, last), Bytes::from(std::mem::take(&mut mailbox.fresh)));
        mailbox.tail = (last, mailbox.fresh_events);
        mailbox.fresh_events = 0;
    }
}
