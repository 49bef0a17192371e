//! A frame's body, taken apart.

use super::{
    Base, CHANGES, CLEAN_END, CURSORS, Change, CursorEntry, EVENTS, EventEntry, GROUP_START, LOSSES,
    LossEntry, Mailboxes, ONE_EVENT, UplinkNo, loss_reason,
};
use crate::backing::{Lsn, StreamNo};
use crate::codec::Reader;
use eventmesh_edge_core::event::Position;

/// A frame's body, opened.
#[derive(Clone, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) lsn: Lsn,
    /// Of its first event; if it has none, the next position at that time.
    pub(crate) first_position: Position,
    flags: u8,
    rest: Reader<'a>,
}

/// A body that checks and still makes no sense: written by a program with a bug, or of a later version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("journal frame does not decode")]
pub(crate) struct Malformed;

/// Everything in a frame, in its order.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Item<'a> {
    Event(EventEntry<'a>),
    Change(Change<'a>),
    Cursor(CursorEntry),
    Loss(LossEntry),
}

impl<'a> Frame<'a> {
    pub(crate) fn parse(body: &'a [u8], base: &Base) -> Result<Frame<'a>, Malformed> {
        let mut rest = Reader::new(body);
        let mut parse = || {
            let lsn = Lsn(base.first_lsn.0.checked_add(rest.varint()?)?);
            let flags = rest.byte()?;
            let first_position = Position(base.first_position.0.checked_add(rest.varint()?)?);
            Some((lsn, flags, first_position))
        };
        let (lsn, flags, first_position) = parse().ok_or(Malformed)?;
        Ok(Frame { lsn, first_position, flags, rest })
    }

    pub(crate) fn is_group_start(&self) -> bool {
        self.flags & GROUP_START != 0
    }

    pub(crate) fn is_clean_end(&self) -> bool {
        self.flags & CLEAN_END != 0
    }

    /// True if there is more in it than plain events.
    pub(crate) fn has_more_than_events(&self) -> bool {
        self.flags & (CHANGES | CURSORS | LOSSES) != 0
    }

    pub(crate) fn items(&self) -> Items<'a> {
        Items {
            reader: self.rest,
            flags: self.flags,
            section: 0,
            left: 0,
            position: self.first_position,
            failed: false,
        }
    }
}

/// Iterator over [`Item`]s; ends after the first that makes no sense.
#[derive(Clone, Debug)]
pub(crate) struct Items<'a> {
    reader: Reader<'a>,
    flags: u8,
    section: u8,
    left: u64,
    position: Position,
    failed: bool,
}

impl<'a> Items<'a> {
    /// The section after the current one that the frame has.
    fn next_section(&mut self) -> Option<bool> {
        for flag in [EVENTS, CHANGES, CURSORS, LOSSES] {
            if flag > self.section && self.flags & flag != 0 {
                self.section = flag;
                self.left =
                    if flag == EVENTS && self.flags & ONE_EVENT != 0 { 1 } else { self.reader.varint()? };
                return Some(true);
            }
        }
        Some(false)
    }

    fn item(&mut self) -> Option<Item<'a>> {
        match self.section {
            EVENTS => self.event().map(Item::Event),
            CHANGES => self.change().map(Item::Change),
            CURSORS => self.cursor().map(Item::Cursor),
            _ => self.loss().map(Item::Loss),
        }
    }

    fn event(&mut self) -> Option<EventEntry<'a>> {
        let reader = &mut self.reader;
        let stream_and_flag = reader.varint()?;
        let mut mailboxes = Mailboxes { left: 0, reader: *reader };
        if stream_and_flag & 1 == 1 {
            let count = reader.varint()?;
            mailboxes = Mailboxes { left: count, reader: *reader };
            for _ in 0..count {
                reader.varint()?;
                reader.bytes()?;
            }
        }
        let body = reader.bytes()?;
        let position = self.position;
        self.position = position.next();
        Some(EventEntry {
            stream: StreamNo(u32::try_from(stream_and_flag >> 1).ok()?),
            position,
            mailboxes,
            body,
        })
    }

    fn change(&mut self) -> Option<Change<'a>> {
        let r = &mut self.reader;
        Some(match r.byte()? {
            1 => Change::Put { table: r.byte()?, key: r.bytes()?, value: r.bytes()? },
            2 => Change::PutRecord {
                table: r.byte()?,
                key: r.bytes()?,
                event: usize::try_from(r.varint()?).ok()?,
            },
            3 => Change::Delete { table: r.byte()?, key: r.bytes()? },
            4 => Change::MailboxRemove { session: r.varint()?, position: Position(r.varint()?) },
            5 => Change::MailboxUpdate {
                session: r.varint()?,
                position: Position(r.varint()?),
                options: r.bytes()?,
            },
            6 => Change::MailboxClear { session: r.varint()? },
            7 => Change::View { key: r.bytes()?, value: r.bytes()? },
            8 => Change::ViewDelete { key: r.bytes()? },
            _ => return None,
        })
    }

    fn cursor(&mut self) -> Option<CursorEntry> {
        let r = &mut self.reader;
        Some(CursorEntry {
            stream: StreamNo(r.varint_u32()?),
            uplink: UplinkNo(r.varint_u32()?),
            acked: Position(r.varint()?),
        })
    }

    fn loss(&mut self) -> Option<LossEntry> {
        let r = &mut self.reader;
        Some(LossEntry {
            stream: StreamNo(r.varint_u32()?),
            uplink: UplinkNo(r.varint_u32()?),
            reason: loss_reason(r.byte()?)?,
            events: r.varint()?,
            bytes: r.varint()?,
            first: Position(r.varint()?),
            last: Position(r.varint()?),
        })
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>, Malformed>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        while self.left == 0 {
            match self.next_section() {
                Some(true) => {}
                Some(false) => return None,
                None => {
                    self.failed = true;
                    return Some(Err(Malformed));
                }
            }
        }
        self.left -= 1;
        let item = self.item().ok_or(Malformed);
        self.failed = item.is_err();
        Some(item)
    }
}
