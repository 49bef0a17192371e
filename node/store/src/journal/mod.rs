//! The journal: append-only segments that every commit lands in, and the only commit point of the store.
//!
//! # Layout, version 1
//!
//! `journal/<number, 8 hex digits>.seg`, each [`SEGMENT_BYTES`] long (an option), all bytes written once before first
//! use, so that a later fdatasync has no metadata to write. All fixed-width numbers are little-endian; `varint` is
//! unsigned LEB128; `text` and `bytes` are a varint length and as many bytes.
//!
//! ```text
//! segment   header | frames ... | 8 zero bytes | rest (zeros, or what an earlier use left) | header, again
//! header    64 bytes, at the start and as the last 64 bytes of the file
//!    0  8   magic "EMESHJNL"
//!    8  4   version u8 = 1, three zero bytes
//!   12  4   log id
//!   16  8   secret of the log: seeds the checksums of frames, leaves the disk nowhere
//!   24  4   epoch
//!   28  4   number of this segment, as in the file name; grows, never used twice
//!   32  8   LSN of the first frame
//!   40  8   lowest position that a frame of this segment can give out
//!   48  4   number of the segment before it, 0 for none
//!   52  4   where that one ends: what lies behind was never acknowledged and is not believed
//!   56  4   bytes of the file
//!   60  4   CRC32C of bytes 0..60
//! frame     len u32 | crc u32 | body of len bytes            one commit = one frame; whole or not at all
//!             crc = CRC32C of len and body, started with seed(secret, log id, segment number)
//! body      varint LSN - header's LSN
//!           u8     1 first of its group (all groups before it were synced), 2 events, 4 changes, 8 cursors,
//!                  16 losses, 32 exactly one event (then no count), 64 end of an orderly close
//!           varint position of its first event - header's position (there even without events)
//!           events   count, each:  varint stream number * 2 + has-mailboxes
//!                                  [count, each: varint session, bytes options]
//!                                  bytes record body (`eventmesh_edge_core::event::record`); positions count up by one
//!           changes  count, each:  u8 kind, see [`frame::Change`]
//!           cursors  count, each:  varint stream number, varint uplink number (0: none), varint position
//!           losses   count, each:  varint stream number, varint uplink number (both 0: of no consumer), u8 reason,
//!                                  varint events, varint bytes, varint first, varint last position
//! ```
//! A length of zero ends the frames. The seed is a different number for every segment number, so what an earlier use of
//! a recycled file left behind cannot pass for a frame of this one.
//!
//! # What is believed at a start
//!
//! Each header says where the segment before it ends, so only the newest segment has an open end. There the first frame
//! that does not check is the end (a torn tail, never acknowledged) unless the first frame of a later group follows: a
//! group is written only after the group before it was synced, so then the gap is damage. In a segment whose end is known
//! every gap is damage. Damage is skipped to the next frame that checks, and counted.
//!
//! After a write or sync failed the segment takes no more frames, and before the failure is reported the next segment is
//! opened with the end of the last good group in its header: what the failed group may have left is cut off.

pub(crate) mod frame;
pub(crate) mod header;
pub(crate) mod reader;
pub(crate) mod recover;
mod reserve;
pub(crate) mod writer;

/// Size of a segment unless the options say otherwise.
pub const SEGMENT_BYTES: u32 = 4 << 20;

/// Directory of the segments.
pub(crate) const DIR: &str = "journal";

/// Files beside the segments that hold room and nothing else.
pub(crate) const RESERVE_NAMES: [&str; 2] = ["reserve", "ballast"];

/// Directory of copies of damaged files.
pub(crate) const QUARANTINE: &str = "quarantine";

/// Bytes that a record pays in budgets beside its body: its share of the frame.
pub(crate) const RECORD_OVERHEAD: u32 = 16;

/// Zero bytes behind each group, overwritten by the next: a clean end is told from a torn one.
pub(crate) const TERMINATOR: usize = 8;

/// Path of a segment.
pub(crate) fn path_of(number: u32) -> String {
    format!("{DIR}/{number:08x}.seg")
}

/// Number in a segment's file name.
pub(crate) fn number_of(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".seg").filter(|d| d.len() == 8)?;
    u32::from_str_radix(digits, 16).ok()
}
