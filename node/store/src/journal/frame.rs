//! One frame: one commit, written and read. Layout in [`super`].

use super::RECORD_OVERHEAD;
use super::header::Header;
use crate::backing::{Lsn, StreamNo};
use crate::codec::{Reader, as_u32, patch_varint, put_bytes, put_varint};
use eventmesh_edge_core::event::{Event, Position, Sequence, record};
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

/// The reason with that number on disk.
pub(crate) fn loss_reason(number: u8) -> Option<LossReason> {
    LossReason::ALL.into_iter().find(|reason| *reason as u8 == number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use eventmesh_edge_core::event::{Qos, Timestamp, Via};
    use eventmesh_edge_core::ports::store::SessionNo;
    use proptest::prelude::*;

    const BASE: Base = Base { seed: 77, first_lsn: Lsn(10), first_position: Position(100) };

    pub(crate) fn event(payload: &[u8]) -> Event {
        Event {
            via: Via::Mqtt3,
            qos: Qos::AtLeastOnce,
            retain: false,
            source: "mqtt://plant-7/sensor-12".into(),
            id: None,
            time: Some(Timestamp(1_790_000_000_000)),
            received: Timestamp(1_790_000_000_000),
            expires: None,
            topic: "plant/7/temp".into(),
            payload: Bytes::copy_from_slice(payload),
            properties: None,
        }
    }

    fn frame(
        events: &[(u32, Vec<MailboxEntry>, Vec<u8>)],
        cursors: &[CursorEntry],
        losses: &[LossEntry],
    ) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = FrameWriter::start(&mut out, &BASE, Lsn(12), Position(105), true);
        writer.events(events.len());
        for (stream, claims, payload) in events {
            writer.event(StreamNo(*stream), claims, &event(payload), Sequence { source: 1, stream: 2 });
        }
        writer.changes(2);
        writer.change(&Change::Put { table: 3, key: b"k", value: b"v" });
        writer.change(&Change::MailboxClear { session: 9 });
        writer.cursors(cursors);
        writer.losses(losses);
        writer.finish(BASE.seed);
        out
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            payloads in proptest::collection::vec((0u32..9, 0usize..3, proptest::collection::vec(any::<u8>(), 0..90)), 0..5),
            acked in proptest::collection::vec(any::<u64>(), 0..3),
        ) {
            let claim = |session| MailboxEntry { session: SessionNo(session), options: Bytes::from_static(b"q1") };
            let events: Vec<_> = payloads
                .into_iter()
                .map(|(stream, claims, payload)| (stream, (0..claims as u64).map(claim).collect::<Vec<_>>(), payload))
                .collect();
            let cursors: Vec<_> = acked
                .into_iter()
                .map(|p| CursorEntry { stream: StreamNo(1), uplink: UplinkNo(2), acked: Position(p) })
                .collect();
            let losses = [LossEntry { stream: StreamNo(0), uplink: UplinkNo(0), reason: LossReason::Damaged, events: 1,
                bytes: 2, first: Position(3), last: Position(4) }];
            let bytes = frame(&events, &cursors, &losses);
            let Found::Frame(body) = check(&bytes, bytes.len(), BASE.seed) else { panic!("must check") };
            let frame = Frame::parse(body, &BASE).unwrap();
            prop_assert_eq!((frame.lsn, frame.first_position, frame.is_group_start()), (Lsn(12), Position(105), true));
            let items: Vec<_> = frame.items().collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(items.len(), events.len() + 2 + cursors.len() + 1);
            let mut seen_events = 0;
            let mut seen_cursors = 0;
            for item in items {
                match item {
                    Item::Event(entry) => {
                        let (stream, claims, payload) = &events[seen_events];
                        prop_assert_eq!(entry.position, Position(105 + seen_events as u64));
                        prop_assert_eq!(entry.stream.0, *stream);
                        let read: Vec<_> = entry.mailboxes.map(|(s, o)| (s, o.to_vec())).collect();
                        let written: Vec<_> = claims.iter().map(|c| (c.session.0, c.options.to_vec())).collect();
                        prop_assert_eq!(read, written);
                        let (read, _) = record::decode(&Bytes::copy_from_slice(entry.body)).unwrap();
                        prop_assert_eq!(&read.payload[..], &payload[..]);
                        seen_events += 1;
                    }
                    Item::Cursor(cursor) => {
                        prop_assert_eq!(cursor, cursors[seen_cursors]);
                        seen_cursors += 1;
                    }
                    Item::Loss(loss) => prop_assert_eq!(loss, losses[0]),
                    Item::Change(_) => {}
                }
            }
        }

        #[test]
        fn no_body_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(frame) = Frame::parse(&body, &BASE) {
                for item in frame.items() { if let Ok(Item::Event(e)) = item { e.mailboxes.for_each(drop); } }
            }
        }
    }

    #[test]
    fn a_torn_frame_never_checks() {
        let bytes = frame(&[(1, Vec::new(), vec![7; 50])], &[], &[]);
        for cut in 0..bytes.len() {
            let mut torn = bytes.clone();
            torn[cut..].fill(0);
            // The last bytes of a frame may be zeros by themselves: then nothing was torn off.
            if torn != bytes {
                assert!(!matches!(check(&torn, torn.len(), BASE.seed), Found::Frame(_)), "cut at {cut}");
            }
        }
        assert!(
            !matches!(check(&bytes, bytes.len(), BASE.seed + 1), Found::Frame(_)),
            "another segment's seed"
        );
    }

    #[test]
    fn a_lone_event_pays_little_beside_its_payload() {
        let mut out = Vec::new();
        let mut writer = FrameWriter::start(&mut out, &BASE, Lsn(10_010), Position(10_100), true);
        writer.events(1);
        writer.event(StreamNo(1), &[], &event(&[b'x'; 200]), Sequence { source: 100_000, stream: 100_000 });
        writer.finish(BASE.seed);
        assert!(out.len() <= 200 + 80, "{}", out.len());
    }
}
