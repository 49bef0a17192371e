//! Many seeds, on as many threads as there are; the first failing ones, each in one line.

use crate::backend::{JournalBackend, MemoryBackend};
use crate::delivery::real_forwarder;
use crate::plan::Plan;
use crate::world::{Summary, World};
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A seed that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which world and store: `memory`, `journal`, `week` or `week_on_journal`.
    pub store: &'static str,
    /// Replays it.
    pub seed: u64,
    /// Which promise and how, or the panic.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { store, seed, what } = self;
        write!(f, "{store} seed {seed}: {what}; ")?;
        let (file, more) =
            if store.starts_with("week") { ("weeks", "") } else { ("seeds", " (SIM_TRACE=1 tells more)") };
        write!(f, "replay: SIM_SEED={seed} cargo test -p eventmesh-edge-sim --test {file} {store}_{more}")
    }
}

/// What a campaign amounted to.
#[derive(Clone, Debug, Default)]
pub struct Campaign {
    /// Seeds that were run.
    pub seeds: u64,
    /// Sums over all of them.
    pub total: Summary,
    /// Failed ones, in order.
    pub failures: Vec<Failure>,
}

/// Failing seeds kept: more tell nothing new.
const FAILURES_MAX: usize = 10;

/// One seed on the memory store and the real forwarder.
///
/// # Errors
/// What it broke.
pub fn run_seed(seed: u64) -> Result<Summary, Failure> {
    guarded("memory", seed, || world(seed).run())
}

/// One seed on the real store over a simulated disk, and the real forwarder.
///
/// # Errors
/// What it broke.
pub fn run_seed_on_journal(seed: u64) -> Result<Summary, Failure> {
    guarded("journal", seed, || world_on_journal(seed).run())
}

/// [`run_seed`], telling on standard error what happens.
///
/// # Errors
/// What it broke.
pub fn trace_seed(seed: u64) -> Result<Summary, Failure> {
    eprintln!("{:#?}", Plan::new(seed));
    guarded("memory", seed, || world(seed).traced().run())
}

/// [`run_seed_on_journal`], telling on standard error what happens.
///
/// # Errors
/// What it broke.
pub fn trace_seed_on_journal(seed: u64) -> Result<Summary, Failure> {
    eprintln!("{:#?}", Plan::new(seed));
    guarded("journal", seed, || world_on_journal(seed).traced().run())
}

fn world(seed: u64) -> World<'static> {
    World::new(Plan::new(seed), MemoryBackend::new(seed), &real_forwarder)
}

fn world_on_journal(seed: u64) -> World<'static> {
    let plan = Plan::new(seed);
    let backend = JournalBackend::new(seed, plan.store_faults);
    World::new(plan, backend, &real_forwarder)
}

/// Runs one world; a panic in it is a failure of its seed.
///
/// # Errors
/// What it broke.
pub fn guarded(
    store: &'static str,
    seed: u64,
    run: impl FnOnce() -> Result<Summary, crate::checks::Violation>,
) -> Result<Summary, Failure> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(summary)) => Ok(summary),
        Ok(Err(violation)) => Err(Failure { store, seed, what: violation.to_string() }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic");
            Err(Failure { store, seed, what: format!("panic: {text:.300}") })
        }
    }
}

/// All seeds of a range, spread over the machine's processors.
pub fn run_seeds(seeds: Range<u64>, run: impl Fn(u64) -> Result<Summary, Failure> + Sync) -> Campaign {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, campaign) = (AtomicU64::new(seeds.start), Mutex::new(Campaign::default()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || !campaign.lock().unwrap().note(run(seed)) {
                        return;
                    }
                }
            });
        }
    });
    let mut campaign = campaign.into_inner().unwrap();
    campaign.failures.sort_by_key(|f| f.seed);
    campaign
}

impl Campaign {
    /// Adds one outcome. False if there are enough failures.
    fn note(&mut self, outcome: Result<Summary, Failure>) -> bool {
        self.seeds += 1;
        match outcome {
            Ok(summary) => self.total.add(&summary),
            Err(failure) => self.failures.push(failure),
        }
        self.failures.len() < FAILURES_MAX
    }
}

impl Summary {
    fn add(&mut self, other: &Summary) {
        self.accepted += other.accepted;
        self.received += other.received;
        self.duplicates += other.duplicates;
        self.lost += other.lost;
        self.refused += other.refused;
        self.cuts += other.cuts;
        self.virtual_ms += other.virtual_ms;
        self.steps += other.steps;
    }
}
