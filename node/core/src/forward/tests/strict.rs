//! How fast strict order is, counted in round trips: nothing here looks at a clock.

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
}

impl Far {
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
            let last = self.last_of_key.insert(event.event.topic.clone(), event.position);
            assert!(last.is_none_or(|last| last < event.position), "in order");
            self.step(Input::Acked { stream: stream(0), position: event.position });
        }
    }
}

/// 1,000 keys in runs of 50, 100 ms away: 5,000 events per second are 400 round trips for 200,000 events. With the read-ahead
/// that other orders have, some forty keys would be under way at a time.
#[test]
fn strict_over_many_keys_fills_a_long_pipe() {
    let first = Position::first_of(1).0;
    let backlog = (0..KEYS * RUN * RUNS)
        .map(|n| event(Position(first + n), &format!("t{}", n / RUN % KEYS), WALL))
        .collect();
    let forwarder = Forwarder::new(strict(), &[StreamOptions::new(stream(0), Position::ZERO)]).unwrap();
    let mut far = Far { forwarder, backlog, flying: Vec::new(), last_of_key: HashMap::new() };
    far.step(Input::Start);
    far.step(Input::Up { window: usize::MAX, address: Text::from_static("a:1") });
    let mut round_trips = 0;
    while far.forwarder.cursor(stream(0)) < far.backlog.last().map(|e| e.position) {
        assert!(far.forwarder.waiting().events <= 32_768);
        far.round_trip();
        round_trips += 1;
        assert!(round_trips <= 400, "{} under way", far.flying.len());
    }
}
