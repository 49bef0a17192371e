//! Everything at once, judged against a model of what must be there.

use super::support::*;
use bytes::Bytes;
use eventmesh_edge_core::event::{Event, Position};
use eventmesh_edge_core::ports::store::{
    CommitError, Consumer, LossReason, Reshape, ReshapeError, Store, StoreSpec, StreamId, UplinkId,
};
use eventmesh_edge_store::sim_disk::{Fault, Kind};
use eventmesh_edge_store::{SimSite, SteppedStore};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What must be there: accepted and not acknowledged, in order, for one consumer.
#[derive(Default)]
struct Queue {
    waiting: Vec<(Position, Bytes)>,
    /// Highest acknowledgement asked for, and highest one that was answered.
    asked: Position,
    answered: Position,
    dropped: u64,
}

struct World {
    site: SimSite,
    rng: Rng,
    store: SteppedStore,
    queues: BTreeMap<Consumer, Queue>,
    /// Payloads of commits that were not answered, or answered with an I/O error.
    uncertain: BTreeSet<Bytes>,
    sequences: BTreeMap<String, BTreeMap<Position, u64>>,
    given: Position,
    made: u64,
    /// Counted for readers that were taken away.
    removed: u64,
    /// The disk fails, or is full.
    is_faulty: bool,
}

/// With or without the second reader of the first stream.
fn spec_with(second: bool) -> StoreSpec {
    let mut spec = spec();
    if !second {
        spec.streams[0].uplinks = vec![UplinkId(0)];
    }
    spec
}

fn reshape(store: &SteppedStore, spec: StoreSpec, drop: Vec<Consumer>) -> Result<(), ReshapeError> {
    let slot = Arc::new(Mutex::new(None));
    let into = Arc::clone(&slot);
    let change = Reshape { spec, drain: Vec::new(), drop };
    store.reshape(change, Box::new(move |outcome| *into.lock().unwrap() = Some(outcome)));
    let outcome = slot.lock().unwrap().take();
    outcome.expect("an immediate store answers before it returns")
}

impl World {
    fn new(seed: u64) -> World {
        let site = SimSite::new();
        let (store, _) = open(&site);
        let queues = [A, B, DROPS].into_iter().map(|c| (c, Queue::default())).collect();
        World {
            site,
            rng: Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            store,
            queues,
            uncertain: BTreeSet::new(),
            sequences: BTreeMap::new(),
            given: Position::ZERO,
            made: 0,
            removed: 0,
            is_faulty: false,
        }
    }

    fn events(&mut self) -> (u16, Vec<Event>) {
        let stream = u16::try_from(self.rng.below(2)).unwrap();
        let count = 1 + self.rng.below(4);
        let events = (0..count).map(|_| {
            self.made += 1;
            let source = ["x", "y", "z"][usize::try_from(self.rng.below(3)).unwrap()];
            event(source, self.made, usize::try_from(self.rng.below(600)).unwrap())
        });
        let events = events.collect();
        (stream, events)
    }

    fn publish(&mut self) {
        let (stream, events) = self.events();
        let payloads: Vec<Bytes> = events.iter().map(|e| e.payload.clone()).collect();
        match commit(&self.store, to_stream(stream, events)) {
            Ok(at) => {
                assert!(at[0] > self.given, "P3: {} after {}", at[0], self.given);
                self.given = *at.last().unwrap();
                for (consumer, queue) in &mut self.queues {
                    if consumer.stream == StreamId(stream) {
                        queue.waiting.extend(at.iter().copied().zip(payloads.iter().cloned()));
                    }
                }
            }
            Err(CommitError::Io(_)) => self.uncertain.extend(payloads),
            Err(CommitError::Full { .. }) => {
                assert!(stream == 0 || self.is_faulty, "the other one makes room")
            }
            Err(other) => panic!("{other}"),
        }
        self.adopt_drops();
    }

    fn adopt_drops(&mut self) {
        let dropped = lost(&self.store, LossReason::QueueFull);
        let queue = self.queues.get_mut(&DROPS).unwrap();
        let now = usize::try_from(dropped - queue.dropped).unwrap();
        assert!(now <= queue.waiting.len(), "more dropped than there was");
        queue.waiting.drain(..now);
        queue.dropped = dropped;
    }

    fn acknowledge(&mut self) {
        let consumer = [A, B, DROPS][usize::try_from(self.rng.below(3)).unwrap()];
        let Some(queue) = self.queues.get_mut(&consumer) else { return };
        let Some(nth) = (!queue.waiting.is_empty()).then(|| self.rng.below(queue.waiting.len() as u64))
        else {
            return;
        };
        let (position, _) = queue.waiting[usize::try_from(nth).unwrap()];
        queue.asked = queue.asked.max(position);
        if ack(&self.store, consumer, position).is_ok() {
            queue.answered = queue.answered.max(position);
            queue.waiting.retain(|(p, _)| *p > position);
        }
    }

    fn reads_second(&self) -> bool {
        self.queues.contains_key(&B)
    }

    /// The second reader is given up, or comes again; if the change fails, the next start makes it.
    fn change_readers(&mut self) {
        let comes = !self.reads_second();
        let drop = if comes { Vec::new() } else { vec![B] };
        let outcome = reshape(&self.store, spec_with(comes), drop);
        assert!(outcome.is_ok() || self.is_faulty, "{outcome:?}");
        match (comes, outcome.is_ok()) {
            (true, true) => {
                let at = self.store.backlog(B);
                assert_eq!((at.events, at.acked), (0, self.store.backlog(A).newest), "from now on");
                self.queues.insert(B, Queue { asked: at.acked, answered: at.acked, ..Queue::default() });
            }
            (false, is_made) => {
                let queue = self.queues.remove(&B).unwrap_or_default();
                let waits = queue.waiting.len() as u64;
                if is_made {
                    self.removed += waits;
                    assert_eq!(
                        lost(&self.store, LossReason::StreamRemoved),
                        self.removed,
                        "counted, and once"
                    );
                } else {
                    // An acknowledgement that failed may be there all the same.
                    let at_least = queue.waiting.iter().filter(|(at, _)| *at > queue.asked).count() as u64;
                    self.reopen_after_cut();
                    self.adopt_removal(at_least, waits);
                }
            }
            (true, false) => {
                self.reopen_after_cut();
                self.adopt_removal(0, 0);
            }
        }
    }

    /// It is gone with this start or was before; commits of which nobody knows may have waited for it too.
    fn adopt_removal(&mut self, at_least: u64, waited: u64) {
        let now = lost(&self.store, LossReason::StreamRemoved) - self.removed;
        let most = waited + self.uncertain.len() as u64;
        assert!((at_least..=most).contains(&now), "{now} counted where {at_least} to {waited} waited (P2)");
        self.removed += now;
    }

    fn open(&mut self) {
        let spec = spec_with(self.reads_second());
        self.store = SteppedStore::open(&self.site, spec, &options(), true).unwrap().0;
        assert!(lost(&self.store, LossReason::StreamRemoved) >= self.removed, "the ledger went back");
    }

    fn cut_in_the_middle(&mut self) {
        let skip = self.rng.below(14);
        self.is_faulty = true;
        self.site.disk.fail(Kind::Any, skip, u64::MAX, Fault::Io);
        for _ in 0..1 + self.rng.below(3) {
            if self.rng.below(3) == 0 { self.acknowledge() } else { self.publish() }
        }
        if self.reads_second() && self.rng.below(4) == 0 {
            self.change_readers();
        }
        if self.is_faulty {
            self.reopen_after_cut();
        }
    }

    fn reopen_after_cut(&mut self) {
        let seed = self.rng.next();
        self.site.power_cut(seed);
        // The start itself may meet a cut as well.
        if self.rng.below(3) == 0 {
            let skip = self.rng.below(20);
            self.site.disk.fail(Kind::Any, skip, u64::MAX, Fault::Io);
            let spec = spec_with(self.reads_second());
            drop(SteppedStore::open(&self.site, spec, &options(), true));
            let seed = self.rng.next();
            self.site.power_cut(seed);
        }
        self.is_faulty = false;
        self.open();
        self.adopt_survivors();
    }

    /// After a cut: nothing answered is missing, nothing is invented, cursors are between what was answered and asked.
    fn adopt_survivors(&mut self) {
        for (consumer, queue) in &mut self.queues {
            let told = self.store.backlog(*consumer);
            assert!(told.acked >= queue.answered, "a cursor went back");
            let found = read_after(&self.store, *consumer, told.acked);
            if consumer.stream == StreamId(0) {
                assert!(
                    told.acked <= queue.asked.max(queue.answered),
                    "a cursor ahead of what was acknowledged (P2)"
                );
                queue.waiting.retain(|(p, _)| *p > told.acked);
                queue.answered = told.acked;
            } else {
                // Drops that were not answered may have happened; they are counted, and acknowledgements are below them.
                let dropped = lost(&self.store, LossReason::QueueFull);
                let before = queue.waiting.len();
                queue.waiting.retain(|(p, _)| *p > told.acked);
                let gone = (before - queue.waiting.len()) as u64;
                assert!(
                    dropped - queue.dropped <= gone + self.uncertain.len() as u64,
                    "more counted than lost"
                );
                if told.acked > queue.asked {
                    assert!(dropped > queue.dropped || gone == 0, "given up without being counted (P2)");
                }
                queue.dropped = dropped;
                queue.answered = told.acked;
            }
            let found: Vec<(Position, Bytes)> =
                found.into_iter().map(|e| (e.position, e.event.payload)).collect();
            for waits in &queue.waiting {
                assert!(found.contains(waits), "an answered event is gone (P1): {waits:?}");
            }
            for survivor in &found {
                let known = queue.waiting.contains(survivor);
                assert!(known || self.uncertain.contains(&survivor.1), "invented: {survivor:?}");
            }
            queue.waiting = found;
        }
    }

    fn check(&mut self) {
        for (consumer, queue) in &self.queues {
            let found = waiting(&self.store, *consumer);
            for event in &found {
                let of_source = self.sequences.entry(event.event.source.to_string()).or_default();
                let before = of_source.insert(event.position, event.sequence.source);
                assert!(before.is_none_or(|b| b == event.sequence.source), "a number changed (P3)");
            }
            self.given = self.given.max(found.last().map_or(Position::ZERO, |e| e.position));
            let found: Vec<(Position, Bytes)> =
                found.into_iter().map(|e| (e.position, e.event.payload)).collect();
            assert_eq!(found, queue.waiting, "{consumer:?}");
        }
    }

    fn check_sequences(&self) {
        for (source, numbers) in &self.sequences {
            let mut last = 0;
            for (position, number) in numbers {
                assert!(*number > last, "{source}: {number} at {position} after {last}");
                last = *number;
            }
        }
    }

    fn step(&mut self) {
        match self.rng.below(26) {
            0..=11 => self.publish(),
            12..=16 => self.acknowledge(),
            17 => {
                self.store.close();
                self.open();
            }
            18 => self.reopen_after_cut(),
            19 => self.cut_in_the_middle(),
            20 => {
                let (kind, skip) = (
                    [Kind::Sync, Kind::Write][usize::try_from(self.rng.below(2)).unwrap()],
                    self.rng.below(3),
                );
                let fault =
                    [Fault::Io, Fault::Short, Fault::NoSpace][usize::try_from(self.rng.below(3)).unwrap()];
                self.is_faulty = true;
                self.site.disk.fail(kind, skip, 1 + self.rng.below(2), fault);
                self.publish();
                self.acknowledge();
                self.site.disk.heal();
                self.is_faulty = false;
            }
            21 => {
                self.is_faulty = true;
                self.site.disk.set_capacity(self.site.disk.used());
                for _ in 0..6 {
                    self.publish();
                }
                // Seldom somebody has what is given back as well.
                if self.rng.below(4) == 0 {
                    self.store.tick(NOW);
                    self.acknowledge();
                }
                self.site.disk.heal();
                self.is_faulty = false;
                self.store.tick(NOW);
                assert!(!self.store.stats().short_of_room, "there is room again, and it is not seen");
            }
            22 => self.store.tick(NOW),
            23 | 24 => self.change_readers(),
            _ => self.site.backing.fail_seals(1),
        }
        self.check();
    }
}

#[test]
fn nothing_answered_is_lost_and_nothing_is_invented_whatever_happens() {
    // `SIM_SEED=n` replays one, `SIM_SEEDS=n` runs the first n.
    let number = |name| std::env::var(name).ok().map(|seed| seed.parse::<u64>().unwrap());
    let many = 0..number("SIM_SEEDS").unwrap_or(150);
    let seeds = number("SIM_SEED").map_or(many, |seed| seed..seed + 1);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(seed + 1);
            for _ in 0..120 {
                world.step();
            }
            world.check_sequences();
        });
        assert!(outcome.is_ok(), "replay with SIM_SEED={seed}");
    }
}
