//! Which log id names the events of which start. A directory that is found on another machine goes on under a new log id:
//! its copies give out the same epochs and counters from there on, and must not give out the same ids (P3). What was
//! stored before keeps the id that it had.

use crate::codec::Reader;
use bytes::Bytes;
use eventmesh_edge_core::event::{LogId, Position};

/// More moves than a directory sees in its life; beyond, the oldest are forgotten.
const SPACES_MAX: usize = 256;

/// Log ids by the first epoch that has them, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spaces(Vec<(u32, LogId)>);

impl Spaces {
    /// Of a directory that never moved.
    pub(crate) fn one(log: LogId) -> Spaces {
        Spaces(vec![(0, log)])
    }

    /// From this epoch on, this one.
    pub(crate) fn add(&mut self, epoch: u32, log: LogId) {
        self.0.retain(|(first, _)| *first != epoch);
        let at = self.0.partition_point(|(first, _)| *first < epoch);
        self.0.insert(at, (epoch, log));
        if self.0.len() > SPACES_MAX {
            self.0.remove(0);
        }
    }

    /// What the id of an event is made with.
    pub(crate) fn of(&self, position: Position) -> LogId {
        let at = self.0.partition_point(|(first, _)| u64::from(*first) <= position.epoch());
        let space = self.0.get(at.saturating_sub(1)).or(self.0.first());
        space.map_or(LogId(0), |(_, log)| *log)
    }

    /// Of what is stored now.
    pub(crate) fn newest(&self) -> LogId {
        self.of(Position(u64::MAX))
    }

    /// True once it has moved.
    pub(crate) fn has_moved(&self) -> bool {
        self.0.len() > 1
    }

    pub(crate) fn encode(&self) -> Bytes {
        let numbers = self.0.iter().flat_map(|(epoch, log)| [*epoch, log.0]);
        numbers.flat_map(u32::to_be_bytes).collect()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Spaces> {
        let mut reader = Reader::new(bytes);
        let mut spaces = Vec::new();
        while !reader.is_empty() {
            spaces.push((reader.u32_be()?, LogId(reader.u32_be()?)));
        }
        (!spaces.is_empty()).then_some(Spaces(spaces))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_has_the_log_id_of_its_time() {
        let mut spaces = Spaces::one(LogId(1));
        spaces.add(5, LogId(2));
        spaces.add(9, LogId(3));
        spaces.add(9, LogId(4));
        let of = |epoch| spaces.of(Position::first_of(epoch)).0;
        assert_eq!([of(1), of(4), of(5), of(8), of(9), of(70_000)], [1, 1, 2, 2, 4, 4]);
        assert_eq!(spaces.newest(), LogId(4));
        assert_eq!(Spaces::decode(&spaces.encode()), Some(spaces));
        assert_eq!(Spaces::decode(&[0; 7]), None);
        assert_eq!(Spaces::decode(&[]), None);
    }

    #[test]
    fn they_are_bounded() {
        let mut spaces = Spaces::one(LogId(1));
        (1..1000).for_each(|epoch| spaces.add(epoch, LogId(epoch)));
        assert_eq!(spaces.encode().len(), SPACES_MAX * 8);
        assert_eq!(spaces.newest(), LogId(999));
    }
}
