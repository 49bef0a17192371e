//! Events and the store that takes them.

use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, Position, Qos, Timestamp, Via};
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::{
    Commit, Consumer, CursorChange, NewEvent, Store, StoreSpec, StreamId, StreamSpec, UplinkId, WhenFull,
};
use eventmesh_edge_store::{JournalStore, StoreOptions};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

pub(crate) const PAYLOAD_BYTES: usize = 200;
pub(crate) const ONLY: Consumer = Consumer { stream: StreamId(0), uplink: UplinkId(0) };
/// 2026-09, so that the clock counts as set.
pub(crate) const START_MS: u64 = 1_790_000_000_000;
const SENSORS: u64 = 50;
const POOL: u64 = 4096;

#[derive(Clone, Copy)]
pub(crate) enum Content {
    Telemetry,
    Random,
}

impl Content {
    pub(crate) fn named(name: &str) -> Option<Content> {
        match name {
            "telemetry" => Some(Content::Telemetry),
            "random" => Some(Content::Random),
            _ => None,
        }
    }
}

struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        // xorshift64* (Vigna 2016).
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Payloads, and the names that the load generator of the other benchmarks has; made once, so that making an event costs next to nothing.
pub(crate) struct Events {
    payloads: Vec<Bytes>,
    sources: Vec<Text>,
    topics: Vec<Text>,
    next: u64,
}

impl Events {
    pub(crate) fn new(content: Content) -> Events {
        let mut dice = Dice(7);
        let payloads = (0..POOL).map(|n| payload(content, n, &mut dice)).collect();
        let sources = (0..SENSORS).map(|n| format!("mqtt://bench/l{n}").into()).collect();
        let topics = (0..SENSORS).map(|n| format!("load/{n}").into()).collect();
        Events { payloads, sources, topics, next: 0 }
    }

    /// The next one, received at a time.
    pub(crate) fn event(&mut self, received: Timestamp) -> Event {
        let n = usize::try_from(self.next).expect("64 bits");
        self.next += 1;
        Event {
            via: Via::Mqtt3,
            qos: Qos::AtLeastOnce,
            retain: false,
            source: self.sources[n % self.sources.len()].clone(),
            id: None,
            time: Some(received),
            received,
            expires: None,
            topic: self.topics[n % self.topics.len()].clone(),
            payload: self.payloads[n % self.payloads.len()].clone(),
            properties: None,
        }
    }

    pub(crate) fn group(&mut self, count: u64) -> Vec<NewEvent> {
        let received = Timestamp(START_MS + self.next);
        (0..count).map(|_| in_stream(self.event(received))).collect()
    }
}

fn payload(content: Content, n: u64, dice: &mut Dice) -> Bytes {
    let mut out = match content {
        Content::Random => (0..PAYLOAD_BYTES.div_ceil(8)).flat_map(|_| dice.next().to_le_bytes()).collect(),
        // A sensor that sends its last readings together: nothing repeats but the names.
        Content::Telemetry => {
            let mut text = format!("{{\"seq\":{n},\"readings\":[");
            while text.len() < PAYLOAD_BYTES {
                let (t, v) = (START_MS + n * 100 + dice.next() % 100, dice.next());
                text += &format!("{{\"t\":{t},\"v\":{}.{:03}}},", v % 90, (v >> 32) % 1000);
            }
            text.into_bytes()
        }
    };
    out.resize(PAYLOAD_BYTES, b' ');
    Bytes::from(out)
}

pub(crate) fn in_stream(event: Event) -> NewEvent {
    NewEvent { stream: Some(StreamId(0)), event, mailboxes: Vec::new() }
}

struct WallClock(Instant);

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        Timestamp(START_MS + u64::try_from(self.0.elapsed().as_millis()).unwrap_or(0))
    }
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

fn spec() -> StoreSpec {
    let stream = StreamSpec {
        name: "telemetry".into(),
        uplinks: vec![UplinkId(0)],
        max_bytes: 16 << 30,
        max_age: None,
        when_full: WhenFull::Refuse,
    };
    StoreSpec {
        streams: vec![stream],
        uplinks: vec!["cloud".into()],
        disk_max: 16 << 30,
        mailbox_max_bytes: 1 << 20,
        mailbox_max_events: 1000,
        mailboxes_max_bytes: 1 << 30,
    }
}

pub(crate) fn open(dir: &Path) -> JournalStore {
    let clock = Arc::new(WallClock(Instant::now()));
    JournalStore::open(dir, spec(), &StoreOptions::default(), clock).expect("open").0
}

/// Commits and waits for the answer; returns the last position.
pub(crate) fn commit(store: &JournalStore, events: Vec<NewEvent>, acked: Option<Position>) -> Position {
    let cursors = acked.map(|acked| CursorChange { consumer: ONLY, acked }).into_iter().collect();
    let made = Commit { events, cursors, ..Commit::default() };
    let (tx, rx) = mpsc::channel();
    store.submit(made, Box::new(move |answer| tx.send(answer).expect("the caller waits")));
    let committed = rx.recv().expect("answered").expect("committed");
    committed.positions.last().copied().expect("there were events")
}
