//! Which packet identifier carries which event.

use crate::suspicion::TopicKey;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::StreamId;
use std::collections::VecDeque;

/// Identifiers that publications use: all but 0, which is none [MQTT-2.2.1-3], and the last one, kept for SUBSCRIBE.
const IDS: u16 = u16::MAX - 1;

/// The identifier of SUBSCRIBE.
pub(crate) const SUBSCRIBE_ID: u16 = u16::MAX;

/// What is under way under an identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flying {
    pub(crate) stream: StreamId,
    pub(crate) position: Position,
    pub(crate) topic: TopicKey,
}

/// Unanswered PUBLISH packets of one connection.
///
/// Identifiers are given in turn through their whole range, not from the lowest free one: an identifier comes back after 65,534
/// publications, so a late second PUBACK meets an empty place and cannot answer for another event. A server acknowledges in order
/// [MQTT-4.6.0-2], so the open ones are a short window that slides; a list indexed by distance holds it without hashing.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    /// `None`: answered, but an earlier one is not.
    slots: VecDeque<Option<Flying>>,
    /// Zero-based identifier of the first slot.
    first: u16,
    unanswered: usize,
}

impl InFlight {
    /// How many wait for an answer.
    pub(crate) fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// The first one that waits for an answer.
    pub(crate) fn first(&self) -> Option<Flying> {
        self.slots.iter().find_map(|slot| *slot)
    }

    /// Gives the next identifier to an event. `None` while the identifiers from the oldest unanswered one on are used up: the server has
    /// left one unanswered while it answered 65,533 later ones.
    pub(crate) fn open(&mut self, event: Flying) -> Option<u16> {
        let distance = u16::try_from(self.slots.len()).ok().filter(|d| *d < IDS)?;
        self.slots.push_back(Some(event));
        self.unanswered += 1;
        Some(advance(self.first, distance) + 1)
    }

    /// Takes back what [`InFlight::open`] gave last; its packet was not written.
    pub(crate) fn undo(&mut self) {
        if let Some(Some(_)) = self.slots.pop_back() {
            self.unanswered -= 1;
        }
    }

    /// The event that this identifier carries; it is answered now. `None` if nothing waits under it.
    pub(crate) fn close(&mut self, id: u16) -> Option<Flying> {
        let zero_based = id.checked_sub(1).filter(|i| *i < IDS)?;
        let distance =
            if zero_based >= self.first { zero_based - self.first } else { zero_based + (IDS - self.first) };
        let event = self.slots.get_mut(usize::from(distance))?.take()?;
        self.unanswered -= 1;
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first = advance(self.first, 1);
        }
        Some(event)
    }
}

/// `(from + by) mod IDS`, without overflow.
fn advance(from: u16, by: u16) -> u16 {
    let room = IDS - from;
    if by < room { from + by } else { by - room }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suspicion::Suspicion;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn flying(position: u64) -> Flying {
        let topic = Suspicion::default().key("t");
        Flying { stream: StreamId(0), position: Position(position), topic }
    }

    fn position(event: Flying) -> u64 {
        event.position.0
    }

    #[test]
    fn identifiers_are_1_to_65534_in_turn() {
        let mut all = InFlight::default();
        for round in 0..3_u64 {
            for id in 1..=IDS {
                assert_eq!(all.open(flying(round)), Some(id));
                assert_eq!(all.close(id).map(position), Some(round));
                assert_eq!(all.close(id), None, "a second answer is nobody's");
            }
        }
    }

    #[test]
    fn one_that_is_never_answered_does_not_get_a_second_event() {
        let mut all = InFlight::default();
        let stuck = all.open(flying(1)).unwrap();
        let mut opened = 1_u64;
        while let Some(id) = all.open(flying(2)) {
            opened += 1;
            assert_ne!(id, stuck);
            all.close(id).unwrap();
        }
        assert_eq!((opened, all.unanswered()), (u64::from(IDS), 1));
        assert_eq!(all.close(stuck).map(position), Some(1));
        assert!(all.open(flying(3)).is_some());
    }

    proptest! {
        /// Whatever is answered, in whatever order, twice or never given: each answer closes exactly what was sent under it.
        #[test]
        fn pairing_is_a_map(ops in proptest::collection::vec((any::<bool>(), any::<u16>()), 1..400), start in 0..IDS) {
            let mut all = InFlight { first: start, ..InFlight::default() };
            let mut model = HashMap::new();
            for (n, (open, id)) in (1..).zip(ops) {
                if open {
                    let id = all.open(flying(n)).unwrap();
                    prop_assert_eq!(model.insert(id, n), None);
                } else {
                    // Near the window, so that answers meet open identifiers.
                    let id = advance(start, id % 64) + 1;
                    prop_assert_eq!(all.close(id).map(position), model.remove(&id));
                }
                prop_assert_eq!(all.unanswered(), model.len());
            }
        }
    }
}
