//! A lossy network in virtual time: every message of every exchange may be lost, doubled, delayed and overtaken. A
//! confirmable POST is stored exactly once and answered, whatever the seed.

use crate::device::Device;
use crate::site::{Site, peer};
use bytes::Bytes;
use eventmesh_edge_coap::Code;
use eventmesh_edge_contract::Rng;
use eventmesh_edge_core::ports::clock::Clock as _;
use eventmesh_edge_ingress_coap::Params;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

const DEVICES: u16 = 3;
const JOBS: u64 = 4;
/// Losses between two steps of progress of one device: fewer than it has transmissions.
const LOSSES_MAX: u32 = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

struct Network {
    rng: Rng,
    /// By arrival.
    wire: BTreeMap<(Duration, u64), (u16, Way, Bytes)>,
    sent: u64,
    losses: HashMap<u16, (u64, u32)>,
    loss: f64,
    double: f64,
}

impl Network {
    fn fraction(&mut self) -> f64 {
        self.rng.below(1 << 20) as f64 / f64::from(1 << 20)
    }

    fn carry(&mut self, now: Duration, device: u16, way: Way, bytes: Bytes, progress: u64) {
        let entry = self.losses.entry(device).or_insert((progress, 0));
        if entry.0 != progress {
            *entry = (progress, 0);
        }
        let may_lose = entry.1 < LOSSES_MAX;
        if may_lose && self.fraction() < self.loss {
            if let Some(entry) = self.losses.get_mut(&device) {
                entry.1 += 1;
            }
            return;
        }
        let copies = if self.fraction() < self.double { 2 + self.rng.below(2) } else { 1 };
        for copy in 0..copies {
            // The first copy is not so late that the sender has given up; a later one may come when all is over, up to
            // MAX_LATENCY.
            let longest = if copy == 0 { 1_500 } else { 90_000 };
            let delay = Duration::from_millis(self.rng.below(longest));
            self.sent += 1;
            self.wire.insert((now + delay, self.sent), (device, way, bytes.clone()));
        }
    }
}

fn payload(device: u16, job: u64) -> Vec<u8> {
    let mut payload = format!("{device}/{job}/").into_bytes();
    payload.resize(20 + usize::from(device) * 40, b'.');
    payload
}

/// One seed, from the first POST to the last late copy.
async fn run(seed: u64) {
    let mut network = Network {
        rng: Rng::new(seed),
        wire: BTreeMap::new(),
        sent: 0,
        losses: HashMap::new(),
        loss: 0.05 + 0.4 * (seed % 7) as f64 / 7.0,
        double: 0.3 * (seed % 3) as f64 / 2.0,
    };
    let mut site = Site::manual(Params::default());
    let mut devices: Vec<Device> =
        (0..DEVICES).map(|_| Device::new(network.rng.below(65_536) as u16)).collect();
    let mut jobs = vec![0u64; usize::from(DEVICES)];
    let mut commit_at = Duration::ZERO;
    let mut now = site.clock.monotonic();
    let end = now + Duration::from_secs(3_600);
    while now < end {
        let busy = devices.iter().any(|device| !device.is_idle()) || jobs.iter().any(|jobs| *jobs < JOBS);
        if !busy && network.wire.is_empty() {
            break;
        }
        for (index, device) in devices.iter_mut().enumerate() {
            let number = index as u16;
            if device.is_idle() && jobs[index] < JOBS {
                device.post(
                    jobs[index],
                    &payload(number, jobs[index]),
                    (jobs[index] + u64::from(number)) % 3 == 2,
                );
                jobs[index] += 1;
            }
            let spread = network.fraction();
            if let Some(bytes) = device.tick(now, spread) {
                network.carry(now, number, Way::Up, bytes, device.progress);
            }
        }
        let arrival = network.wire.first_key_value().map(|((at, _), _)| *at);
        let due = devices.iter().filter_map(Device::deadline).min();
        let commit = (site.store.pending() > 0).then_some(commit_at);
        let times = [arrival, due, commit, Some(site.service.deadline())];
        now = times.into_iter().flatten().min().unwrap().max(now);
        site.set_time(now);
        while let Some(entry) = network.wire.first_entry().filter(|entry| entry.key().0 <= now) {
            let (number, way, bytes) = entry.remove();
            let device = &mut devices[usize::from(number)];
            match way {
                Way::Up => site.receive(peer(number + 1), &bytes),
                Way::Down => {
                    if let Some(answer) = device.receive(now, &bytes) {
                        network.carry(now, number, Way::Up, answer, device.progress);
                    }
                }
            }
        }
        if site.store.pending() > 0 && commit_at <= now {
            site.store.complete_next(1 + network.rng.below(3) as usize);
            commit_at = now + Duration::from_millis(network.rng.below(2_500));
        }
        site.settle().await;
        for (to, bytes) in site.datagrams() {
            let number = to.port() - 1;
            let progress = devices[usize::from(number)].progress;
            network.carry(now, number, Way::Down, bytes, progress);
        }
    }
    judge(seed, &site, &devices);
}

fn judge(seed: u64, site: &Site, devices: &[Device]) {
    let stored = site.stored();
    let count = |wanted: &[u8]| stored.iter().filter(|stored| stored.event.payload == wanted).count();
    for (index, device) in devices.iter().enumerate() {
        assert_eq!(device.given_up, 0, "seed {seed}: device {index} was not answered");
        assert_eq!(device.answered.len() as u64, JOBS, "seed {seed}: device {index}");
        for (job, code) in &device.answered {
            assert_eq!(*code, Code::CHANGED, "seed {seed}: device {index} job {job}");
            let times = count(&payload(index as u16, *job));
            assert_eq!(times, 1, "seed {seed}: device {index} job {job} is stored {times} times");
        }
    }
    assert_eq!(stored.len() as u64, u64::from(DEVICES) * JOBS, "seed {seed}: and nothing else is");
}

fn seeds() -> std::ops::Range<u64> {
    match std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..400,
    }
}

/// `SIM_SEED=n` repeats one.
#[tokio::test(start_paused = true)]
async fn a_confirmable_post_is_stored_exactly_once_and_answered() {
    for seed in seeds() {
        run(seed).await;
    }
}

/// `cargo test -p eventmesh-edge-ingress-coap --release -- --ignored thousands`
#[tokio::test(start_paused = true)]
#[ignore = "the long run: minutes"]
async fn the_same_over_thousands_of_seeds() {
    for seed in 400..10_000 {
        run(seed).await;
    }
}
