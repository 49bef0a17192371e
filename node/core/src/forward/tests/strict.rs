//! Strict order over many keys: how fast it is, counted in round trips, and that no number of held ones stops the others.

use super::super::Volume;
use super::*;
use std::collections::HashMap;

const KEYS: u64 = 1_000;
/// Events of one key, one behind the other ...
const RUN: u64 = 50;
/// ... and so many times.
const RUNS: u64 = 4;

/// As the configuration makes them for an EventMesh uplink with `order = "strict"`.
fn strict() -> Options {
    Options {
        order: Order::Strict,
        window: Volume { events: 16_384, bytes: 6 << 20 },
        read_ahead: Volume { events: 32_768, bytes: 12 << 20 },
        gap_max: 32_768,
        ..Options::new(UPLINK)
    }
}

/// A store with a backlog in runs and an upstream that takes whatever is under way once per round trip.
struct Far {
    forwarder: Forwarder,
    backlog: Vec<StoredEvent>,
    flying: Vec<StoredEvent>,
    last_of_key: HashMap<Text, Position>,
    /// Topics that begin so are held.
    held: &'static str,
}

impl Far {
    /// Connected, with whatever may be under way under way.
    fn new(topics: impl Iterator<Item = String>, held: &'static str) -> Self {
        let first = Position::first_of(1).0;
        let backlog = (first..).zip(topics).map(|(n, topic)| event(Position(n), &topic, WALL)).collect();
        let forwarder = Forwarder::new(strict(), &[StreamOptions::new(stream(0), Position::ZERO)]).unwrap();
        let mut far = Self { forwarder, backlog, flying: Vec::new(), last_of_key: HashMap::new(), held };
        far.step(Input::Start);
        far.step(Input::Up { window: usize::MAX, address: Text::from_static("a:1") });
        far
    }

    fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        self.forwarder.step(ms(1_000), WALL, input, &mut out);
        for action in out {
            match action {
                Action::Send { event, .. } => self.flying.push((*event).clone()),
                Action::Fetch(read) => {
                    let batch = self.read(read);
                    self.step(Input::Fetched { stream: stream(0), batch });
                }
                Action::CommitCursor { .. } => self.step(Input::CursorCommitted),
                _ => {}
            }
        }
    }

    fn read(&self, read: Read) -> Batch {
        let from = self.backlog.partition_point(|e| e.position <= read.after);
        let bytes = |max: usize| max / 100;
        let to = (from + read.max_events.min(bytes(read.max_bytes)).max(1)).min(self.backlog.len());
        let events = self.backlog[from..to].to_vec();
        let through = events.last().map_or(read.after, |e| e.position);
        Batch { events, through, at_end: to == self.backlog.len() }
    }

    fn round_trip(&mut self) {
        for event in std::mem::take(&mut self.flying) {
            let (stream, position) = (stream(0), event.position);
            if event.event.topic.starts_with(self.held) {
                let (group, reason) = (Text::from_static("g"), Text::from_static("held"));
                self.step(Input::Held { stream, position, group, retry_after: ms(1_000), reason });
                continue;
            }
            let last = self.last_of_key.insert(event.event.topic.clone(), event.position);
            assert!(last.is_none_or(|last| last < event.position), "in order");
            self.step(Input::Acked { stream, position });
        }
    }
}

/// 1,000 keys in runs of 50, 100 ms away: 5,000 events per second are 400 round trips for 200,000 events. With the read-ahead
/// that other orders have, some forty keys would be under way at a time.
#[test]
fn strict_over_many_keys_fills_a_long_pipe() {
    let mut far = Far::new((0..KEYS * RUN * RUNS).map(|n| format!("t{}", n / RUN % KEYS)), "none");
    let mut round_trips = 0;
    while far.forwarder.cursor(stream(0)) < far.backlog.last().map(|e| e.position) {
        assert!(far.forwarder.waiting().events <= 32_768);
        far.round_trip();
        round_trips += 1;
        assert!(round_trips <= 400, "{} under way", far.flying.len());
    }
}

/// More keys wait for a topic that is not there than are known one by one: the others are read and sent all the same.
#[test]
fn no_number_of_held_keys_stops_the_others() {
    let held = (0..70_000).map(|n| format!("held/{n}"));
    let mut far = Far::new(held.chain((0..1_000).map(|n| format!("t{n}"))), "held");
    while !far.flying.is_empty() {
        far.round_trip();
    }
    assert_eq!(far.last_of_key.len(), 1_000);
    assert!(far.forwarder.waiting().events <= 1, "{:?}", far.forwarder.waiting());
}
