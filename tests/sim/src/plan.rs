//! What a seed means: everything that is decided before a run begins.

use eventmesh_edge_contract::Rng;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_core::forward::{Backoff, Options, Order, Pipeline, Volume};
use eventmesh_edge_core::ports::store::{StoreSpec, StreamSpec, UplinkId, WhenFull};
use std::time::Duration;

/// Wall clock at the start of a run, 2026-09-21T14:13:20Z.
pub const START: Timestamp = Timestamp(1_790_000_000_000);

/// What attempts to connect meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// They succeed.
    Open,
    /// They are refused after a moment.
    Refused,
    /// Nobody answers at all.
    Silent,
}

/// How the upstream behaves for a while. Chances are per mille and per event received.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// What attempts to connect meet.
    pub door: Door,
    /// Most unanswered events that the upstream allows on a new connection.
    pub window: usize,
    /// Milliseconds until an event is there, and until its answer is back: 0 to this.
    pub latency_ms: u64,
    /// The event is taken over, its answer never comes.
    pub lose: u64,
    /// Refused for the moment.
    pub retry: u64,
    /// Refused for good.
    pub reject: u64,
    /// The connection is declared of no use.
    pub fatal: u64,
    /// The connection breaks in the middle of the window.
    pub reset: u64,
    /// The answer comes twice.
    pub twice: u64,
    /// Events whose number is a multiple of this break every connection that they are sent on; 0 for none.
    pub poison: u64,
}

impl Weather {
    /// Everything works.
    pub const FAIR: Weather = Weather {
        door: Door::Open,
        window: 1000,
        latency_ms: 5,
        lose: 0,
        retry: 0,
        reject: 0,
        fatal: 0,
        reset: 0,
        twice: 0,
        poison: 0,
    };

    fn draw(rng: &mut Rng) -> Weather {
        let fair = Weather { window: index(rng, 1, 64), latency_ms: rng.between(0, 40), ..Weather::FAIR };
        let some = |rng: &mut Rng| rng.between(1, 200);
        match rng.below(12) {
            0 => Weather { door: Door::Refused, ..fair },
            1 => Weather { door: Door::Silent, ..fair },
            2 => Weather { lose: 1000, ..fair },
            3 => Weather { lose: some(rng), twice: some(rng), ..fair },
            4 => Weather { retry: some(rng) * 4, ..fair },
            5 => Weather { reject: some(rng), ..fair },
            6 => Weather { reset: some(rng), ..fair },
            7 => Weather { fatal: some(rng), ..fair },
            8 => Weather { poison: rng.between(5, 20), ..fair },
            9 => Weather {
                lose: some(rng) / 4,
                retry: some(rng),
                reject: some(rng) / 4,
                reset: some(rng) / 8,
                fatal: some(rng) / 8,
                ..fair
            },
            _ => fair,
        }
    }
}

/// One uplink and what it will meet.
#[derive(Clone, Debug)]
pub struct UplinkPlan {
    /// Bounds and habits of its forwarder.
    pub options: Options,
    /// Weather from a moment on, in order; the last is fair and lasts.
    pub weather: Vec<(Duration, Weather)>,
}

/// Something that happens to the whole node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// The power goes, and returns.
    PowerCut,
    /// A graceful stop, and a start.
    Restart,
    /// The wall clock is set: to 1970, or by so many milliseconds forward or back from where it should be.
    Clock(WallClock),
}

/// Where the wall clock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WallClock {
    /// Right.
    Right,
    /// Never set: it began at 1970.
    Unset,
    /// Ahead by this.
    Ahead(Duration),
    /// Behind by this.
    Behind(Duration),
}

/// A run, decided.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where it came from.
    pub seed: u64,
    /// Streams and uplinks as the store is opened with.
    pub spec: StoreSpec,
    /// One per name in `spec.uplinks`.
    pub uplinks: Vec<UplinkPlan>,
    /// Devices, each publishing one batch at a time.
    pub clients: usize,
    /// Topics of each device.
    pub topics: u64,
    /// Milliseconds between two batches of a device, at most.
    pub think_ms: u64,
    /// Largest payload.
    pub payload_bytes: u64,
    /// Chance that an event has an expiry of its own, per mille.
    pub expiring: u64,
    /// When devices stop publishing.
    pub publish_until: Duration,
    /// Devices that were refused at that moment give up (instead of trying on), so that nothing new comes while the
    /// backlog drains.
    pub abandon: bool,
    /// From here on nothing goes wrong any more.
    pub quiet_from: Duration,
    /// In order of time, all before `quiet_from`.
    pub blows: Vec<(Duration, Blow)>,
    /// Chance of an injected store fault per call, per mille, until `quiet_from`.
    pub store_faults: u64,
    /// Chance that the disk stalls, per mille and commit.
    pub stall: u64,
}

impl Plan {
    /// All of it from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Plan {
        let mut rng = Rng::new(seed);
        let quiet_from = Duration::from_millis(rng.between(4_000, 40_000));
        let publish_ms = rng.between(2_000, 30_000);
        let uplinks = if rng.chance(300) { 2 } else { 1 };
        let streams = index(&mut rng, 1, 3);
        let calm = rng.chance(200);
        Plan {
            seed,
            spec: spec(&mut rng, streams, uplinks),
            uplinks: (0..uplinks).map(|n| uplink(&mut rng, n, quiet_from, calm)).collect(),
            clients: index(&mut rng, 1, 4),
            topics: rng.between(1, 3),
            think_ms: rng.between(80, 2000),
            payload_bytes: rng.between(10, 900),
            expiring: if rng.chance(300) { rng.between(1, 300) } else { 0 },
            publish_until: Duration::from_millis(publish_ms),
            abandon: rng.chance(500),
            quiet_from: quiet_from.max(Duration::from_millis(publish_ms)),
            blows: blows(&mut rng, quiet_from),
            store_faults: if rng.chance(250) { rng.between(1, 150) } else { 0 },
            stall: if rng.chance(300) { rng.between(1, 100) } else { 0 },
        }
    }
}

fn index(rng: &mut Rng, low: u64, high: u64) -> usize {
    usize::try_from(rng.between(low, high)).unwrap_or(usize::MAX)
}

fn spec(rng: &mut Rng, streams: usize, uplinks: u16) -> StoreSpec {
    let stream = |n: usize| {
        // Every uplink reads the first stream, so that nobody is idle.
        let readers: Vec<UplinkId> = (0..uplinks)
            .filter(|u| n == 0 || (n + usize::from(*u)).is_multiple_of(2))
            .map(UplinkId)
            .collect();
        // Never smaller than what all devices together have under way, so that nothing is given up unseen.
        let small = rng.chance(400);
        StreamSpec {
            name: Text::from(format!("stream-{n}")),
            uplinks: if readers.is_empty() { vec![UplinkId(0)] } else { readers },
            max_bytes: if small { rng.between(20, 40) * 1024 } else { 8 << 20 },
            max_age: rng.chance(200).then(|| Duration::from_millis(rng.between(2_000, 20_000))),
            when_full: if rng.chance(500) { WhenFull::DropOldest } else { WhenFull::Refuse },
        }
    };
    StoreSpec {
        streams: (0..streams).map(stream).collect(),
        uplinks: (0..uplinks).map(|u| Text::from(format!("up-{u}"))).collect(),
        disk_max: 1 << 30,
        mailbox_max_bytes: 1 << 20,
        mailbox_max_events: 1000,
        mailboxes_max_bytes: 1 << 30,
    }
}

fn uplink(rng: &mut Rng, uplink: u16, quiet_from: Duration, calm: bool) -> UplinkPlan {
    let mut weather = Vec::new();
    let mut at = Duration::ZERO;
    while !calm && at < quiet_from {
        weather.push((at, Weather::draw(rng)));
        at += Duration::from_millis(rng.between(200, 10_000));
    }
    weather.push((quiet_from, Weather::FAIR));
    UplinkPlan { options: options(rng, uplink), weather }
}

fn options(rng: &mut Rng, uplink: u16) -> Options {
    let ms = |rng: &mut Rng, low, high| Duration::from_millis(rng.between(low, high));
    let volume = |rng: &mut Rng, events| {
        let bytes_max = if rng.chance(500) { 4_000 } else { 200_000 };
        Volume { events: index(rng, 1, events), bytes: index(rng, 200, bytes_max) }
    };
    let backoff = |rng: &mut Rng| Backoff { base: ms(rng, 20, 300), cap: ms(rng, 300, 4_000) };
    Options {
        order: if rng.chance(600) { Order::Strict } else { Order::Sequence },
        pipeline: if rng.chance(500) { Pipeline::Ordered } else { Pipeline::Unordered },
        window: volume(rng, 64),
        read_ahead: volume(rng, 96),
        fetch: volume(rng, 64),
        gap_max: index(rng, 2, 200),
        attempts_max: u32::try_from(rng.between(1, 8)).unwrap_or(1),
        retry: backoff(rng),
        connect: backoff(rng),
        connect_timeout: ms(rng, 500, 3_000),
        stable_after: ms(rng, 500, 5_000),
        answer_timeout: ms(rng, 1_000, 8_000),
        commit_events: u32::try_from(rng.between(1, 64)).unwrap_or(1),
        commit_every: ms(rng, 1, 500),
        addresses: index(rng, 1, 3),
        seed: rng.next_u64(),
        ..Options::new(UplinkId(uplink))
    }
}

fn blows(rng: &mut Rng, quiet_from: Duration) -> Vec<(Duration, Blow)> {
    let until = u64::try_from(quiet_from.as_millis()).unwrap_or(u64::MAX);
    let draw = |rng: &mut Rng| match rng.below(10) {
        0..6 => Blow::PowerCut,
        6..8 => Blow::Restart,
        _ => Blow::Clock(match rng.below(4) {
            0 => WallClock::Unset,
            1 => WallClock::Ahead(Duration::from_secs(rng.between(1, 100_000))),
            2 => WallClock::Behind(Duration::from_secs(rng.between(1, 100_000))),
            _ => WallClock::Right,
        }),
    };
    let count = if rng.chance(250) { 0 } else { rng.between(1, 6) };
    let mut blows: Vec<_> =
        (0..count).map(|_| (Duration::from_millis(rng.below(until)), draw(rng))).collect();
    blows.sort_by_key(|(at, _)| *at);
    blows
}
