//! What a seed means for a week.

use eventmesh_edge_contract::Rng;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::ports::store::{StoreSpec, StreamSpec, UplinkId, WhenFull};
use std::time::Duration;

pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// The node's own stream: last in the specification.
pub(super) const OWN: &str = "node-events";
/// Devices publish to topics whose first level is the stream: what a receiver knows from the routes.
pub(super) const STREAMS: [&str; 2] = ["telemetry", "alarms"];

/// How an upstream behaves for some hours. Chances are per mille and per event.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Climate {
    pub(super) closed: bool,
    /// Taken over, never answered.
    pub(super) lose: u64,
    pub(super) reject: u64,
    pub(super) retry: u64,
    pub(super) reset: u64,
    /// Events whose payload ends so are refused for the moment for as long as it lasts: they end as dead letters.
    pub(super) stubborn: bool,
}

/// A week, decided.
#[derive(Clone, Debug)]
pub struct WeekPlan {
    pub(super) seed: u64,
    pub(super) spec: StoreSpec,
    /// Per uplink, in order of time; fair weather from [`WeekPlan::quiet_from`] on.
    pub(super) climates: Vec<Vec<(Duration, Climate)>>,
    pub(super) devices: usize,
    /// Of these, the first ones publish with QoS 0.
    pub(super) careless: usize,
    /// Longest pause of a device.
    pub(super) think: Duration,
    pub(super) look_every: Duration,
    pub(super) heartbeat: Duration,
    pub(super) cuts: Vec<Duration>,
    /// The power that returns after a cut returns within this.
    pub(super) dark: Duration,
    pub(super) quiet_from: Duration,
    pub(super) end: Duration,
}

impl WeekPlan {
    /// All of it from the seed.
    #[must_use]
    pub fn new(seed: u64) -> WeekPlan {
        let mut rng = Rng::new(seed ^ 0x0007_7765_656b);
        let quiet_from = 7 * DAY;
        let uplinks = if rng.chance(400) { 2 } else { 1 };
        let devices = index(&mut rng, 2, 4);
        let cuts = rng.below(8);
        WeekPlan {
            seed,
            spec: spec(&mut rng, uplinks),
            climates: (0..uplinks).map(|_| climates(&mut rng, quiet_from)).collect(),
            devices,
            careless: rng.index(devices),
            think: minutes(&mut rng, 100, 300),
            look_every: minutes(&mut rng, 10, 25),
            heartbeat: minutes(&mut rng, 60, 240),
            cuts: (0..cuts).map(|_| Duration::from_secs(rng.below(quiet_from.as_secs()))).collect(),
            dark: minutes(&mut rng, 1, 300),
            quiet_from,
            end: quiet_from + DAY,
        }
    }
}

fn index(rng: &mut Rng, low: u64, high: u64) -> usize {
    usize::try_from(rng.between(low, high)).unwrap_or(0)
}

fn minutes(rng: &mut Rng, low: u64, high: u64) -> Duration {
    Duration::from_secs(60 * rng.between(low, high))
}

fn spec(rng: &mut Rng, uplinks: u16) -> StoreSpec {
    let stream = |name: &'static str, when_full, max_bytes, max_age| StreamSpec {
        name: Text::from_static(name),
        uplinks: (0..uplinks).map(UplinkId).collect(),
        max_bytes,
        max_age,
        when_full,
    };
    let age = |rng: &mut Rng| rng.chance(500).then(|| HOUR * u32::try_from(rng.between(4, 60)).unwrap_or(4));
    // Never smaller than what all devices together have under way.
    let size = |rng: &mut Rng| rng.between(12, 40) * 1024;
    let own = if rng.chance(300) { rng.between(8, 24) * 1024 } else { 1 << 20 };
    let (ages, sizes) = ([age(rng), age(rng)], [size(rng), size(rng)]);
    StoreSpec {
        streams: vec![
            stream(STREAMS[0], WhenFull::DropOldest, sizes[0], ages[0]),
            stream(STREAMS[1], WhenFull::Refuse, sizes[1], ages[1]),
            stream(OWN, WhenFull::DropOldest, own, None),
        ],
        uplinks: (0..uplinks).map(|u| Text::from(format!("up-{u}"))).collect(),
        disk_max: 1 << 30,
        mailbox_max_bytes: 1 << 20,
        mailbox_max_events: 1000,
        mailboxes_max_bytes: 1 << 30,
    }
}

fn climates(rng: &mut Rng, quiet_from: Duration) -> Vec<(Duration, Climate)> {
    let mut climates = Vec::new();
    let mut at = Duration::ZERO;
    while at < quiet_from {
        climates.push((at, climate(rng)));
        at += minutes(rng, 120, 2400);
    }
    climates.push((quiet_from, Climate::default()));
    climates
}

fn climate(rng: &mut Rng) -> Climate {
    let some = |rng: &mut Rng| rng.between(1, 150);
    match rng.below(8) {
        0..3 => Climate { closed: true, ..Climate::default() },
        3 => Climate { lose: some(rng), reset: some(rng) / 4, ..Climate::default() },
        4 => Climate { reject: some(rng), retry: some(rng), ..Climate::default() },
        5 => Climate { stubborn: true, retry: some(rng), ..Climate::default() },
        _ => Climate::default(),
    }
}
