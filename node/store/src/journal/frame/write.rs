//! A frame on its way into a buffer.

use super::{
    Base, CHANGES, CLEAN_END, CURSORS, Change, CursorEntry, EVENTS, FRAME_HEADER, GROUP_START, LOSSES,
    LossEntry, ONE_EVENT, stored_bytes,
};
use crate::backing::{Lsn, StreamNo};
use crate::codec::{as_u32, patch_varint, put_bytes, put_varint};
use eventmesh_edge_core::event::{Event, Position, Sequence, record};
use eventmesh_edge_core::ports::store::MailboxEntry;

/// Writes one frame at the end of a buffer.
pub(crate) struct FrameWriter<'b> {
    out: &'b mut Vec<u8>,
    start: usize,
    flags_at: usize,
    flags: u8,
}

impl<'b> FrameWriter<'b> {
    pub(crate) fn start(
        out: &'b mut Vec<u8>,
        base: &Base,
        lsn: Lsn,
        first: Position,
        group_start: bool,
    ) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; FRAME_HEADER]);
        put_varint(out, lsn.0.saturating_sub(base.first_lsn.0));
        let flags_at = out.len();
        out.push(0);
        put_varint(out, first.0.saturating_sub(base.first_position.0));
        FrameWriter { out, start, flags_at, flags: if group_start { GROUP_START } else { 0 } }
    }

    pub(crate) fn clean_end(&mut self) {
        self.flags |= CLEAN_END;
    }

    pub(crate) fn events(&mut self, count: usize) {
        match count {
            0 => {}
            1 => self.flags |= EVENTS | ONE_EVENT,
            _ => {
                self.flags |= EVENTS;
                put_varint(self.out, count as u64);
            }
        }
    }

    /// One event; returns its stored bytes.
    pub(crate) fn event(
        &mut self,
        stream: StreamNo,
        claims: &[MailboxEntry],
        event: &Event,
        sequence: Sequence,
    ) -> u32 {
        put_varint(self.out, u64::from(stream.0) << 1 | u64::from(!claims.is_empty()));
        if !claims.is_empty() {
            put_varint(self.out, claims.len() as u64);
            for claim in claims {
                put_varint(self.out, claim.session.0);
                put_bytes(self.out, &claim.options);
            }
        }
        // Two bytes hold a length below 16 KiB; the record is that short if everything but the payload is.
        let short = event.payload.len() + event.topic.len() + event.source.len() < 8 << 10
            && event.properties.is_none();
        let field = self.out.len();
        self.out.extend_from_slice(if short { &[0; 2] } else { &[0; 4] });
        let body = self.out.len();
        record::encode(event, sequence, self.out);
        let len = self.out.len() - body;
        if let Some(field) = self.out.get_mut(field..body) {
            patch_varint(field, len as u64);
        }
        stored_bytes(len)
    }

    pub(crate) fn changes(&mut self, count: usize) {
        self.section(CHANGES, count);
    }

    pub(crate) fn change(&mut self, change: &Change<'_>) {
        let out = &mut *self.out;
        match change {
            Change::Put { table, key, value } => {
                out.extend_from_slice(&[1, *table]);
                put_bytes(out, key);
                put_bytes(out, value);
            }
            Change::PutRecord { table, key, event } => {
                out.extend_from_slice(&[2, *table]);
                put_bytes(out, key);
                put_varint(out, *event as u64);
            }
            Change::Delete { table, key } => {
                out.extend_from_slice(&[3, *table]);
                put_bytes(out, key);
            }
            Change::MailboxRemove { session, position } => {
                out.push(4);
                put_varint(out, *session);
                put_varint(out, position.0);
            }
            Change::MailboxUpdate { session, position, options } => {
                out.push(5);
                put_varint(out, *session);
                put_varint(out, position.0);
                put_bytes(out, options);
            }
            Change::MailboxClear { session } => {
                out.push(6);
                put_varint(out, *session);
            }
            Change::View { key, value } => {
                out.push(7);
                put_bytes(out, key);
                put_bytes(out, value);
            }
            Change::ViewDelete { key } => {
                out.push(8);
                put_bytes(out, key);
            }
        }
    }

    pub(crate) fn cursors(&mut self, cursors: &[CursorEntry]) {
        self.section(CURSORS, cursors.len());
        for cursor in cursors {
            put_varint(self.out, u64::from(cursor.stream.0));
            put_varint(self.out, u64::from(cursor.uplink.0));
            put_varint(self.out, cursor.acked.0);
        }
    }

    pub(crate) fn losses(&mut self, losses: &[LossEntry]) {
        self.section(LOSSES, losses.len());
        for loss in losses {
            put_varint(self.out, u64::from(loss.stream.0));
            put_varint(self.out, u64::from(loss.uplink.0));
            self.out.push(loss.reason as u8);
            for number in [loss.events, loss.bytes, loss.first.0, loss.last.0] {
                put_varint(self.out, number);
            }
        }
    }

    fn section(&mut self, flag: u8, count: usize) {
        if count > 0 {
            self.flags |= flag;
            put_varint(self.out, count as u64);
        }
    }

    /// Fills length and checksum in.
    pub(crate) fn finish(self, seed: u32) {
        if let Some(flags) = self.out.get_mut(self.flags_at) {
            *flags = self.flags;
        }
        let Some(frame) = self.out.get_mut(self.start..) else { return };
        let Some((head, body)) = frame.split_first_chunk_mut::<FRAME_HEADER>() else { return };
        let len = as_u32(body.len()).to_le_bytes();
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(seed, &len), body).to_le_bytes();
        let (to_len, to_crc) = head.split_at_mut(4);
        to_len.copy_from_slice(&len);
        to_crc.copy_from_slice(&crc);
    }

    /// Takes everything back.
    pub(crate) fn abandon(self) {
        self.out.truncate(self.start);
    }
}
