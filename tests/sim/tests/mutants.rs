//! Deliberately wrong forwarders and stores: the checks must catch each of them, or they are worth nothing.

use eventmesh_edge_contract::{MemoryDisk, MemoryStore, Rng};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Position, Timestamp};
use eventmesh_edge_core::forward::{Action, Input, Options, StreamOptions, Volume};
use eventmesh_edge_core::ports::store::{Store, StoreSpec, StreamId};
use eventmesh_edge_sim::runner::guarded;
use eventmesh_edge_sim::{Backend, Delivery, MakeDelivery, MemoryBackend, Plan, World, real_forwarder};
use std::sync::Arc;
use std::time::Duration;

/// How many seeds a mutant has to survive to be a scandal.
const SEEDS: u64 = 60;

/// What a mutant does to the inputs and actions of the real forwarder.
type Twist = fn(&mut Mutant, Duration, Timestamp, Input, &mut Vec<Action>);

struct Mutant {
    real: Box<dyn Delivery>,
    twist: Twist,
    /// For the mutant that remembers what it sent.
    sent: Vec<(StreamId, Position)>,
    /// For the one that counts connections.
    connections: u64,
}

impl Delivery for Mutant {
    fn step(&mut self, now: Duration, wall: Timestamp, input: Input, out: &mut Vec<Action>) {
        (self.twist)(self, now, wall, input, out);
    }

    fn in_flight(&self) -> Volume {
        self.real.in_flight()
    }

    fn waiting(&self) -> Volume {
        self.real.waiting()
    }

    fn cursor(&self, stream: StreamId) -> Option<Position> {
        self.real.cursor(stream)
    }
}

fn make_mutant(twist: Twist) -> impl Fn(Options, &[StreamOptions]) -> Box<dyn Delivery> {
    move |options, streams| {
        Box::new(Mutant { real: real_forwarder(options, streams), twist, sent: Vec::new(), connections: 0 })
    }
}

/// The promise that most runs of a mutant break, and the first line that says so.
fn caught(run: impl Fn(u64) -> Option<String>) -> Vec<String> {
    (0..SEEDS).filter_map(run).collect()
}

fn assert_caught(by: &str, twist: Twist) {
    let make = make_mutant(twist);
    let make: MakeDelivery<'_> = &make;
    let lines = caught(|seed| {
        let world = World::new(Plan::new(seed), MemoryBackend::new(seed), make);
        guarded("memory", seed, || world.run()).err().map(|failure| failure.what)
    });
    let right = lines.iter().filter(|line| line.starts_with(by)).count();
    assert!(right > 0, "no seed broke {by}; broken were: {lines:?}");
    println!("{by}: {right} of {SEEDS} seeds, for example {:?}", lines.first());
}

#[test]
fn a_forwarder_that_takes_the_end_of_a_connection_for_an_acknowledgement_breaks_p2() {
    assert_caught("P2", |mutant, now, wall, input, out| {
        if matches!(input, Input::Down { .. }) {
            for (stream, position) in std::mem::take(&mut mutant.sent) {
                mutant.real.step(now, wall, Input::Acked { stream, position }, out);
            }
        }
        let before = out.len();
        mutant.real.step(now, wall, input, out);
        for action in out.iter().skip(before) {
            if let Action::Send { stream, event, .. } = action {
                mutant.sent.push((*stream, event.position));
            }
        }
    });
}

#[test]
fn a_forwarder_that_gives_up_without_counting_breaks_p2() {
    assert_caught("P2", |mutant, now, wall, input, out| {
        mutant.real.step(now, wall, input, out);
        for action in out {
            if let Action::CommitCursor { losses, .. } = action {
                losses.clear();
            }
        }
    });
}

#[test]
fn a_forwarder_that_counts_twice_breaks_p2() {
    assert_caught("P2", |mutant, now, wall, input, out| {
        mutant.real.step(now, wall, input, out);
        for action in out {
            if let Action::CommitCursor { losses, .. } = action {
                losses.iter_mut().for_each(|loss| loss.events += 1);
            }
        }
    });
}

#[test]
fn a_forwarder_that_renames_what_it_sends_again_breaks_p3() {
    assert_caught("P3", |mutant, now, wall, input, out| {
        mutant.real.step(now, wall, input, out);
        for action in out {
            if let Action::Send { event, again: true, .. } = action {
                Arc::make_mut(event).event.id = Some(Text::from_static("another"));
            }
        }
    });
}

#[test]
fn a_forwarder_that_sends_the_newest_first_breaks_p4() {
    assert_caught("P4", |mutant, now, wall, input, out| {
        mutant.real.step(now, wall, input, out);
        out.sort_by_key(|action| match action {
            Action::Send { event, .. } => u64::MAX - event.position.0,
            _ => u64::MAX,
        });
    });
}

#[test]
fn a_forwarder_that_ignores_the_window_of_the_upstream_breaks_p5() {
    assert_caught("P5", |mutant, now, wall, input, out| {
        let input = match input {
            Input::Up { address, .. } => Input::Up { window: 10_000, address },
            other => other,
        };
        mutant.real.step(now, wall, input, out);
    });
}

#[test]
fn a_forwarder_that_polls_breaks_p5() {
    assert_caught("P5", |mutant, now, wall, input, out| {
        mutant.real.step(now, wall, input, out);
        out.push(Action::WakeAt(now + Duration::from_millis(1)));
    });
}

#[test]
fn a_forwarder_that_waits_for_a_publish_after_an_outage_does_not_drain() {
    // Once connected again it does not hear the answer to its first read, and asks for nothing until something is appended.
    assert_caught("drain", |mutant, now, wall, input, out| {
        if matches!(input, Input::Up { .. }) {
            mutant.connections += 1;
        }
        match input {
            Input::Fetched { stream, mut batch } if mutant.connections > 1 => {
                batch.events.clear();
                (batch.through, batch.at_end) = (Position::ZERO, true);
                mutant.real.step(now, wall, Input::Fetched { stream, batch }, out);
            }
            other => mutant.real.step(now, wall, other, out),
        }
    });
}

/// A store that answers before its disk has it: what the last commits before a power cut held is gone.
struct Liar {
    disk: MemoryDisk,
    store: Option<Arc<MemoryStore>>,
    synced: MemoryDisk,
    unsynced: usize,
}

impl Backend for Liar {
    fn open(&mut self, spec: StoreSpec) -> Arc<dyn Store> {
        let store = self.disk.open_manual(spec);
        self.synced = self.disk.snapshot();
        self.store = Some(Arc::clone(&store));
        store
    }

    fn pending(&self) -> usize {
        self.store.as_ref().map_or(0, |s| s.pending())
    }

    fn complete(&mut self, n: usize) -> usize {
        self.unsynced += 1;
        if self.unsynced.is_multiple_of(20) {
            self.synced = self.disk.snapshot();
        }
        self.store.as_ref().map_or(0, |s| s.complete_next(n))
    }

    fn power_cut(&mut self, _: &mut Rng) {
        if let Some(store) = self.store.take() {
            store.crash();
        }
        self.disk = self.synced.clone();
    }
}

#[test]
fn a_store_that_answers_before_it_is_durable_breaks_p1() {
    let lines = caught(|seed| {
        let (disk, synced) = (MemoryDisk::default(), MemoryDisk::default());
        let liar = Liar { disk, store: None, synced, unsynced: 0 };
        let world = World::new(Plan::new(seed), liar, &real_forwarder);
        guarded("memory", seed, || world.run()).err().map(|failure| failure.what)
    });
    assert!(lines.iter().any(|line| line.starts_with("P1")), "{lines:?}");
}
