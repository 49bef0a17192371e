//! Many images of one trace: cut, written, judged, counted.

use crate::fixture::Fixture;
use crate::judge::{Broken, Case, judge};
use crate::model::Said;
use crate::record::{End, scratch};
use crate::strata::{Kind, SLED, Stratum, SyncKind, cell, strata, sync_kinds};
use crate::trace::{Moment, Trace};
use crate::volume::{Image, Keep, Unkindness, Volume};
use crate::workload::Workload;
use eventmesh_edge_contract::Rng;
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Which images.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What was recorded.
    pub workload: Workload,
    /// How many.
    pub images: u64,
    /// Where the choice begins.
    pub seed: u64,
    /// Syncs of this kind do nothing; cuts only after the first of them. Must fail.
    pub without: Option<SyncKind>,
    /// The syncs that sled calls itself do nothing, either. Must not fail.
    pub mistrust_sled: bool,
    /// Bytes were changed behind the store's back.
    pub damaged: bool,
    /// Stop at the first failure.
    pub stop: bool,
}

impl Plan {
    /// The plain one.
    #[must_use]
    pub fn of(workload: Workload, images: u64, seed: u64) -> Plan {
        let damaged = workload.damages();
        Plan { workload, images, seed, without: None, mistrust_sled: true, damaged, stop: false }
    }

    /// On a disk where syncs of `kind` do nothing, up to the first broken promise.
    #[must_use]
    pub fn without(kind: SyncKind, workload: Workload, images: u64, seed: u64) -> Plan {
        Plan { without: Some(kind), stop: true, ..Plan::of(workload, images, seed) }
    }
}

/// A cut: everything else follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Moments that have happened.
    pub after: usize,
    /// Decides what is kept.
    pub seed: u64,
}

/// An image that breaks a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which cut.
    pub cut: Cut,
    /// Where.
    pub stratum: Stratum,
    /// How.
    pub unkindness: Unkindness,
    /// What is broken.
    pub broken: Broken,
    /// The image, with what it is judged by.
    pub fixture: Fixture,
}

/// What a sweep found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Images per part of the store's work.
    pub strata: BTreeMap<Stratum, u64>,
    /// Images per kind of operation.
    pub kinds: BTreeMap<Kind, u64>,
    /// Those that broke a promise; no more than a few are kept.
    pub failures: Vec<Failure>,
    /// How many failed in all.
    pub failed: u64,
    /// Longest judgement.
    pub slowest: Duration,
}

impl Report {
    /// How many images.
    #[must_use]
    pub fn images(&self) -> u64 {
        self.strata.values().sum()
    }

    /// Adds another one.
    pub fn add(&mut self, other: Report) {
        for (stratum, images) in other.strata {
            *self.strata.entry(stratum).or_default() += images;
        }
        for (kind, images) in other.kinds {
            *self.kinds.entry(kind).or_default() += images;
        }
        self.failures.extend(other.failures);
        self.failed += other.failed;
        self.slowest = self.slowest.max(other.slowest);
    }
}

/// Failing images kept per sweep.
const FAILURES_KEPT: usize = 5;

/// Judges as many images as planned, on a thread per core and one more: a start waits now and then. `progress` is told
/// after each.
///
/// # Errors
/// From the file system of the images.
pub fn sweep(trace: &Trace, plan: &Plan, progress: &(dyn Fn(u64) + Sync)) -> io::Result<Report> {
    let cuts = choose(trace, plan);
    let workers = std::thread::available_parallelism().map_or(2, usize::from) + 1;
    // In turn: later images are larger.
    let share = |first: usize| cuts.iter().skip(first).step_by(workers).copied().collect::<Vec<Cut>>();
    let done = AtomicU64::new(0);
    let failed = AtomicU64::new(0);
    let report = Mutex::new(Report::default());
    let run = |cuts: &[Cut]| -> io::Result<()> {
        let part = walk(trace, plan, cuts, &|| failed.load(Ordering::Relaxed) > 0, &|was_bad| {
            if was_bad {
                failed.fetch_add(1, Ordering::Relaxed);
            }
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
        })?;
        report.lock().unwrap_or_else(PoisonError::into_inner).add(part);
        Ok(())
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..workers).map(|first| scope.spawn(move || run(&share(first)))).collect();
        let own = run(&share(0));
        let panicked = |_| Err(io::Error::other("a worker of the sweep panicked"));
        others.into_iter().map(|other| other.join().unwrap_or_else(panicked)).fold(own, Result::and)
    })?;
    Ok(report.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Moments behind a sync that is left out, within which half of the cuts fall: most of what it is for shows there.
const NEAR: usize = 16;
/// The same behind the beginning of a recording that goes on after a kill.
const NEAR_START: usize = 160;

/// Cuts in equal shares of the strata, and within each of the kinds of operation, in order of time.
fn choose(trace: &Trace, plan: &Plan) -> Vec<Cut> {
    let strata = strata(trace);
    let kinds = sync_kinds(trace);
    let is_left_out = |moment: &Moment| match (plan.without, moment) {
        (Some(kind), Moment::End(step)) => kinds.get(*step).is_some_and(|k| *k == Some(kind)),
        _ => false,
    };
    let moments = || trace.moments.iter().enumerate().skip(trace.begins);
    // Those before the beginning are missing all the same.
    let all = trace.moments.iter().enumerate();
    let left_out: Vec<usize> = all.filter(|(_, m)| is_left_out(m)).map(|(index, _)| index).collect();
    if plan.without.is_some() && left_out.is_empty() {
        return Vec::new();
    }
    let mut places: BTreeMap<Stratum, BTreeMap<Kind, Vec<usize>>> = BTreeMap::new();
    for (index, moment) in moments().skip_while(|(index, _)| left_out.first().is_some_and(|f| index < f)) {
        let (stratum, kind) = cell(trace, &strata, moment);
        places.entry(stratum).or_default().entry(kind).or_default().push(index + 1);
    }
    let mut rng = Rng::new(plan.seed);
    let mut cuts = Vec::new();
    let mut turn = 0;
    while (cuts.len() as u64) < plan.images && !places.is_empty() {
        for kinds in places.values() {
            if cuts.len() as u64 >= plan.images {
                break;
            }
            let Some(indices) = kinds.values().nth(turn % kinds.len()) else { continue };
            let mut after = indices.get(rng.index(indices.len())).copied().unwrap_or(0);
            if !left_out.is_empty() && rng.chance(500) {
                let near = left_out.get(rng.index(left_out.len())).copied().unwrap_or(0);
                let from = near.max(trace.begins);
                let within = if near < trace.begins { NEAR_START } else { NEAR };
                after = (from + rng.index(within) + 1).min(trace.moments.len());
            }
            cuts.push(Cut { after, seed: rng.next_u64() });
        }
        turn += 1;
    }
    cuts.sort_by_key(|cut| cut.after);
    cuts
}

fn walk(
    trace: &Trace,
    plan: &Plan,
    cuts: &[Cut],
    failed: &dyn Fn() -> bool,
    progress: &dyn Fn(bool),
) -> io::Result<Report> {
    let mut report = Report::default();
    let strata = strata(trace);
    let dir = scratch()?;
    let mut film = Film::new(trace, plan);
    for (index, cut) in cuts.iter().enumerate() {
        if plan.stop && failed() {
            break;
        }
        film.advance(cut.after);
        let moment = trace.moments.get(cut.after.saturating_sub(1)).unwrap_or(&Moment::Life);
        let (stratum, kind) = cell(trace, &strata, moment);
        let (image, unkindness, verdict, took) = film.shoot(cut, &dir.path().join(index.to_string()))?;
        *report.strata.entry(stratum).or_default() += 1;
        *report.kinds.entry(kind).or_default() += 1;
        report.slowest = report.slowest.max(took);
        progress(verdict.is_err());
        if let Err(broken) = verdict {
            report.failed += 1;
            if report.failures.len() < FAILURES_KEPT {
                let fixture = film.fixture(image, &format!("{cut:?} during {stratum}: {}", broken.why));
                report.failures.push(Failure { cut: *cut, stratum, unkindness, broken, fixture });
            }
        }
    }
    Ok(report)
}

/// A trace while it is played.
struct Film<'a> {
    trace: &'a Trace,
    plan: &'a Plan,
    volume: Volume,
    said: Said,
    at: usize,
}

impl<'a> Film<'a> {
    fn new(trace: &'a Trace, plan: &'a Plan) -> Self {
        let ignored = plan.without.into_iter().chain(plan.mistrust_sled.then_some(SLED)).collect();
        let volume = Volume::ignoring(ignored, sync_kinds(trace));
        Film { trace, plan, volume, said: trace.before.clone(), at: 0 }
    }

    fn advance(&mut self, to: usize) {
        for moment in self.trace.moments.get(self.at..to).unwrap_or_default() {
            self.volume.advance(self.trace, moment);
            self.said.advance(moment);
        }
        self.at = to;
    }

    fn fixture(&self, image: Image, origin: &str) -> Fixture {
        Fixture {
            origin: format!("{:?}, {origin}", self.plan.workload),
            said: self.said.clone(),
            torn_append: image.torn_append,
            damaged: self.plan.damaged,
            image,
        }
    }

    fn shoot(&self, cut: &Cut, dir: &Path) -> io::Result<(Image, Unkindness, Result<(), Broken>, Duration)> {
        let mut rng = Rng::new(cut.seed);
        let mut unkindness = Unkindness::draw(&mut rng);
        if self.plan.without.is_some() {
            // What a missing sync costs shows best when nothing comes by luck, or names and bytes part.
            match rng.below(4) {
                0 => unkindness.data = Keep::None,
                1 => (unkindness.names, unkindness.data) = (Keep::None, Keep::All),
                _ => {}
            }
        }
        let image = self.volume.cut(&unkindness, &mut rng);
        image.write(dir)?;
        let case = Case {
            said: &self.said,
            torn_append: image.torn_append,
            damaged: self.plan.damaged,
            faulty: false,
            twice: rng.chance(200),
        };
        let begun = Instant::now();
        let verdict = catch_unwind(AssertUnwindSafe(|| judge(dir, &case))).unwrap_or_else(|panic| {
            let why = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "panic".to_owned());
            Err(Broken { promise: "P6", why: format!("panics: {why}") })
        });
        let took = begun.elapsed();
        std::fs::remove_dir_all(dir)?;
        Ok((image, unkindness, verdict, took))
    }
}

/// Some cuts of a plan.
#[must_use]
pub fn cuts(trace: &Trace, plan: &Plan) -> Vec<Cut> {
    choose(trace, plan)
}

/// The directory after a cut, and what was said before it.
#[must_use]
pub fn image(trace: &Trace, plan: &Plan, cut: &Cut, end: End) -> (Image, Said) {
    let mut film = Film::new(trace, plan);
    film.advance(cut.after);
    let mut rng = Rng::new(cut.seed);
    let unkindness = match end {
        End::Power => Unkindness::draw(&mut rng),
        End::Kill => Unkindness::NONE,
    };
    (film.volume.cut(&unkindness, &mut rng), film.said.clone())
}
