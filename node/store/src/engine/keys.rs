//! Keys of the views. The first byte says which kind; numbers are big-endian, so that scans come in their order.
//!
//! ```text
//! b | session u64 | position u64   stored bytes u32, then options       a claim, as format version 1 kept them
//! c | stream u32 | uplink u32      position u64                         cursor (uplink 0: no uplink yet)
//! d | segment u32 | offset u32     nothing                              damage of the journal that was counted
//! d | stream u32 | uplink u32 | position u64     nothing                the same of a generation, by its last position
//! e | number u64                   stream u32, uplink u32, reason u8, sum             entry of the ledger, to be handed on
//! g | generation u64               extents                              what a sealed generation should hold
//! h | 'b'                          bytes, events, bytes of all: u64 each          mailbox bounds in force
//! h | 'e'                          number u64                           newest entry of the ledger ever made
//! h | 'i'                          epoch u32, log id u32, each           log ids, if the directory moved
//! h | 'm'                          bytes u64                            stored bytes of the events in `m`
//! h | 'p'                          position u64                         last durable one when the newest segment began
//! k | session u64 | last position u64       block: position step, stored bytes, options each   claims of a session
//! l | stream u32 | uplink u32 | reason u8   events, bytes, first, last: u64 each     ledger: totals
//! m | position u64                 record body                          event that mailboxes wait for, once
//! n | session u64                  entries, bytes, lowest position, newest block and its claims: varints   a mailbox's figures
//! o | stream u32 | uplink u32 | reason u8   the same                   ledger: what no entry has yet
//! q | source                       counter, then stream and counter pairs: varints   sequence numbers
//! r | position u64                 claims u32                           claims on `m`, where there are several
//! s | stream u32                   newest position u64, then the name   stream numbers
//! t | table u8 | key               value                                keyed state of the port
//! u | uplink u32                   name                                 uplink numbers
//! x | stream u32 | uplink u32      position u64                         last event of a consumer that is being drained
//! ```
//! Two more keys are never stored: a view change of `hc` makes ledger entries, one of `hf` (number u64) forgets them.

use super::ledger::LedgerKey;
use crate::backing::StreamNo;
use crate::journal::frame::UplinkNo;
use bytes::Bytes;
use eventmesh_edge_core::event::Position;

pub(crate) const CLAIM: u8 = b'b';
pub(crate) const CURSOR: u8 = b'c';
pub(crate) const COUNTED: u8 = b'd';
pub(crate) const ENTRY: u8 = b'e';
pub(crate) const GENERATION: u8 = b'g';
pub(crate) const LEDGER: u8 = b'l';
pub(crate) const GATHERED: u8 = b'o';
pub(crate) const MAIL: u8 = b'm';
pub(crate) const MAILBOX: u8 = b'n';
pub(crate) const STREAM: u8 = b's';
pub(crate) const UPLINK: u8 = b'u';
pub(crate) const LEAVING: u8 = b'x';
pub(crate) const BOUNDS: &[u8] = b"hb";
pub(crate) const BODIES: &[u8] = b"hm";
pub(crate) const SPACES: &[u8] = b"hi";
pub(crate) const LAST: &[u8] = b"hp";
pub(crate) const LEDGER_CUT: &[u8] = b"hc";
pub(crate) const LEDGER_NO: &[u8] = b"he";
pub(crate) const LEDGER_FORGET: &[u8] = b"hf";

fn key(kind: u8, parts: &[&[u8]]) -> Bytes {
    let len = 1 + parts.iter().map(|p| p.len()).sum::<usize>();
    let mut out = Vec::with_capacity(len);
    out.push(kind);
    for part in parts {
        out.extend_from_slice(part);
    }
    Bytes::from(out)
}

/// The block of claims that ends with a position.
pub(crate) fn block(session: u64, last: Position) -> Bytes {
    key(b'k', &[&session.to_be_bytes(), &last.0.to_be_bytes()])
}

pub(crate) fn blocks(session: u64) -> Bytes {
    key(b'k', &[&session.to_be_bytes()])
}

/// Position in a [`block`] key, and in that of a [`CLAIM`].
pub(crate) fn claim_position(key: &[u8]) -> Option<Position> {
    Some(Position(u64::from_be_bytes(*key.get(9..)?.first_chunk()?)))
}

/// Of damage in a segment, from an offset on.
pub(crate) fn counted(segment: u32, from: u32) -> Bytes {
    key(COUNTED, &[&segment.to_be_bytes(), &from.to_be_bytes()])
}

/// Of damage in a generation, for one consumer, up to a position.
pub(crate) fn counted_extent(stream: StreamNo, uplink: UplinkNo, last: Position) -> Bytes {
    key(COUNTED, &[&stream.0.to_be_bytes(), &uplink.0.to_be_bytes(), &last.0.to_be_bytes()])
}

/// A position as a value.
pub(crate) fn position(position: Position) -> Bytes {
    Bytes::copy_from_slice(&position.0.to_be_bytes())
}

pub(crate) fn cursor(stream: StreamNo, uplink: UplinkNo) -> Bytes {
    key(CURSOR, &[&stream.0.to_be_bytes(), &uplink.0.to_be_bytes()])
}

/// Of a consumer that is being drained.
pub(crate) fn leaving(stream: StreamNo, uplink: UplinkNo) -> Bytes {
    key(LEAVING, &[&stream.0.to_be_bytes(), &uplink.0.to_be_bytes()])
}

pub(crate) fn generation(number: u64) -> Bytes {
    key(GENERATION, &[&number.to_be_bytes()])
}

pub(crate) fn entry(no: u64) -> Bytes {
    key(ENTRY, &[&no.to_be_bytes()])
}

/// [`LEDGER`] or [`GATHERED`].
pub(crate) fn ledger(kind: u8, (stream, uplink, reason): LedgerKey) -> Bytes {
    key(kind, &[&stream.0.to_be_bytes(), &uplink.0.to_be_bytes(), &[reason]])
}

pub(crate) fn mail(position: Position) -> Bytes {
    key(MAIL, &[&position.0.to_be_bytes()])
}

pub(crate) fn mail_claims(position: Position) -> Bytes {
    key(b'r', &[&position.0.to_be_bytes()])
}

pub(crate) fn mailbox(session: u64) -> Bytes {
    key(b'n', &[&session.to_be_bytes()])
}

pub(crate) fn sequence(source: &str) -> Bytes {
    key(b'q', &[source.as_bytes()])
}

pub(crate) fn stream(stream: StreamNo) -> Bytes {
    key(STREAM, &[&stream.0.to_be_bytes()])
}

pub(crate) fn table(table: u8, user_key: &[u8]) -> Bytes {
    key(b't', &[&[table], user_key])
}

pub(crate) fn uplink(uplink: UplinkNo) -> Bytes {
    key(UPLINK, &[&uplink.0.to_be_bytes()])
}
