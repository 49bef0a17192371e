//! The last groups that became durable, as they were written: a consumer that keeps up reads from here.

use crate::backing::StreamNo;
use crate::journal::frame::{Base, FRAME_HEADER, Frame, Item};
use bytes::Bytes;
use eventmesh_edge_core::event::Position;
use std::collections::VecDeque;

struct Group {
    frames: Bytes,
    /// What they take in memory.
    bytes: usize,
    base: Base,
    last: Position,
}

/// An event that was found; `body` shares the bytes of its group or chunk.
#[derive(Clone, Debug)]
pub(crate) struct FoundEvent {
    pub(crate) position: Position,
    pub(crate) stored_bytes: u32,
    pub(crate) body: Bytes,
}

/// How much a read wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// Collects events until there are enough.
#[derive(Debug)]
pub(crate) struct Harvest {
    want: Want,
    bytes: usize,
    pub(crate) events: Vec<FoundEvent>,
}

impl Harvest {
    pub(crate) fn new(want: Want) -> Self {
        Harvest { want: Want { events: want.events.max(1), bytes: want.bytes }, bytes: 0, events: Vec::new() }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.events.len() >= self.want.events || (self.bytes >= self.want.bytes && !self.events.is_empty())
    }

    /// What is still wanted.
    pub(crate) fn rest(&self) -> Want {
        Want {
            events: self.want.events.saturating_sub(self.events.len()),
            bytes: self.want.bytes.saturating_sub(self.bytes),
        }
    }

    /// False if it does not fit any more: the first may exceed the bytes wanted, the others not.
    pub(crate) fn offer(
        &mut self,
        position: Position,
        stored_bytes: u32,
        body: impl FnOnce() -> Bytes,
    ) -> bool {
        let bytes = self.bytes + stored_bytes as usize;
        if self.is_full() || (bytes > self.want.bytes && !self.events.is_empty()) {
            return false;
        }
        self.bytes = bytes;
        self.events.push(FoundEvent { position, stored_bytes, body: body() });
        true
    }

    /// Takes the stream's events after a position from one frame; false if it got full before the frame's end.
    pub(crate) fn frame(&mut self, body: &Bytes, base: &Base, stream: StreamNo, after: Position) -> bool {
        let Ok(frame) = Frame::parse(body, base) else { return true };
        for item in frame.items() {
            let Ok(Item::Event(entry)) = item else { break };
            if entry.stream == stream
                && entry.position > after
                && !self.offer(entry.position, entry.stored_bytes(), || body.slice_ref(entry.body))
            {
                return false;
            }
        }
        true
    }
}

/// A bounded ring.
pub(crate) struct Recent {
    groups: VecDeque<Group>,
    bytes: usize,
    max_bytes: usize,
    /// Everything later than this is in the ring.
    floor: Position,
}

impl Recent {
    pub(crate) fn new(max_bytes: usize, floor: Position) -> Self {
        Recent { groups: VecDeque::new(), bytes: 0, max_bytes, floor }
    }

    /// Takes a group over whose last event is `last`.
    pub(crate) fn push(&mut self, frames: Bytes, bytes: usize, base: Base, last: Position) {
        self.bytes += bytes;
        self.groups.push_back(Group { frames, bytes, base, last });
        while self.bytes > self.max_bytes {
            let Some(group) = self.groups.pop_front() else { return };
            self.bytes -= group.bytes;
            self.floor = group.last;
        }
    }

    /// True if everything after the position can be read here.
    pub(crate) fn covers(&self, after: Position) -> bool {
        after >= self.floor
    }

    /// Reads; true if the ring's end was reached. Only if [`Recent::covers`].
    pub(crate) fn read(&self, stream: StreamNo, after: Position, harvest: &mut Harvest) -> bool {
        let first = self.groups.partition_point(|group| group.last <= after);
        for group in self.groups.range(first..) {
            if harvest.is_full() || !read_group(group, stream, after, harvest) {
                return false;
            }
        }
        true
    }
}

fn read_group(group: &Group, stream: StreamNo, after: Position, harvest: &mut Harvest) -> bool {
    let mut at = 0;
    while let Some(rest) = group.frames.get(at..) {
        // These bytes were made here and never left memory: the checksum is walked past, not trusted less.
        let Some(body) = frame_body(rest) else { return true };
        at += FRAME_HEADER + body.len();
        if !harvest.frame(&group.frames.slice_ref(body), &group.base, stream, after) {
            return false;
        }
    }
    true
}

fn frame_body(bytes: &[u8]) -> Option<&[u8]> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
    rest.get(4..4 + len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backing::Lsn;
    use crate::journal::frame::{Found, FrameWriter, check};
    use eventmesh_edge_core::event::{Event, Qos, Sequence, Timestamp, Via};

    const BASE: Base = Base { seed: 1, first_lsn: Lsn(1), first_position: Position(1) };

    fn group(first: u64, streams: &[u32]) -> Bytes {
        let event = Event {
            via: Via::Mqtt3,
            qos: Qos::AtLeastOnce,
            retain: false,
            source: "s".into(),
            id: None,
            time: None,
            received: Timestamp(5),
            expires: None,
            topic: "t".into(),
            payload: Bytes::from_static(&[1; 64]),
            properties: None,
        };
        let mut out = Vec::new();
        for (idx, stream) in streams.iter().enumerate() {
            let position = Position(first + idx as u64);
            let mut writer = FrameWriter::start(&mut out, &BASE, Lsn(position.0), position, idx == 0);
            writer.events(1);
            writer.event(StreamNo(*stream), &[], &event, Sequence::default());
            writer.finish(BASE.seed);
        }
        assert!(matches!(check(&out, out.len(), BASE.seed), Found::Frame(_)));
        Bytes::from(out)
    }

    fn positions(recent: &Recent, stream: u32, after: u64, events: usize) -> (Vec<u64>, bool) {
        let mut harvest = Harvest::new(Want { events, bytes: usize::MAX });
        let end = recent.read(StreamNo(stream), Position(after), &mut harvest);
        (harvest.events.iter().map(|e| e.position.0).collect(), end)
    }

    #[test]
    fn reads_one_stream_after_a_position_up_to_a_limit() {
        let mut recent = Recent::new(1 << 20, Position::ZERO);
        recent.push(group(1, &[1, 2, 1]), 1, BASE, Position(3));
        recent.push(group(4, &[2, 1, 1]), 1, BASE, Position(6));
        assert_eq!(positions(&recent, 1, 0, 100), (vec![1, 3, 5, 6], true));
        assert_eq!(positions(&recent, 1, 3, 1), (vec![5], false));
        assert_eq!(positions(&recent, 2, 2, 9), (vec![4], true));
        assert_eq!(positions(&recent, 1, 6, 9), (vec![], true));
    }

    #[test]
    fn forgets_the_oldest_and_says_from_where_it_is_complete() {
        let one = group(1, &[1]).len();
        let mut recent = Recent::new(one * 2, Position::ZERO);
        for position in 1..=3 {
            recent.push(group(position, &[1]), one, BASE, Position(position));
        }
        assert!(!recent.covers(Position::ZERO) && recent.covers(Position(1)));
        assert_eq!(positions(&recent, 1, 1, 9), (vec![2, 3], true));
    }

    #[test]
    fn the_first_event_may_exceed_the_bytes_wanted_alone() {
        let mut recent = Recent::new(1 << 20, Position::ZERO);
        recent.push(group(1, &[1, 1, 1]), 1, BASE, Position(3));
        let mut harvest = Harvest::new(Want { events: 9, bytes: 1 });
        assert!(!recent.read(StreamNo(1), Position::ZERO, &mut harvest));
        assert_eq!(harvest.events.len(), 1);
    }
}
