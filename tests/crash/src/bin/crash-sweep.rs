//! The long sweep, and the child process that workloads live in.

use clap::{Parser, Subcommand};
use eventmesh_edge_crash::fixture::Fixture;
use eventmesh_edge_crash::marks::Mark;
use eventmesh_edge_crash::record::{End, can_trace, failures_dir, record, record_after, scratch};
use eventmesh_edge_crash::strata::{SLED, sync_kinds};
use eventmesh_edge_crash::sweep::{Plan, Report, cuts, sweep};
use eventmesh_edge_crash::trace::{Moment, Trace};
use eventmesh_edge_crash::workload::{WORKLOADS, Workload, live};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

#[derive(Parser)]
#[command(about = "Power cuts at every file operation of the store")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Records every workload, again and again, and judges images of it, evenly over the parts of the store and the kinds
    /// of operation; a sixth of them are second cuts, during the start after a cut or a kill.
    Sweep(Sweep),
    /// Leaves out each kind of sync in turn, and tells which promise breaks.
    Mutate {
        /// Images per kind of sync and workload, at most.
        #[arg(long, default_value_t = 200)]
        images: u64,
        /// What is recorded, and which images are chosen.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Only this workload.
        #[arg(long)]
        workload: Option<Workload>,
        /// Only this kind of sync.
        #[arg(long)]
        only: Option<String>,
    },
    /// Judges kept images.
    Judge {
        /// Files of `tests/crash/fixtures`.
        fixtures: Vec<PathBuf>,
    },
    /// Makes a fixture of a directory and the markers of the lives that left it: of an older format, for the future.
    Pack {
        /// Where it comes from, in words.
        origin: String,
        /// Data directory.
        data: PathBuf,
        /// Marker file.
        marker: PathBuf,
        /// The fixture.
        out: PathBuf,
    },
    /// Lives one life of a workload; run under strace by `sweep`.
    Life {
        /// Which workload.
        workload: Workload,
        /// Its seed.
        seed: u64,
        /// From 0.
        life: u32,
        /// Data directory.
        data: PathBuf,
        /// Marker file.
        marker: PathBuf,
        /// Commits may be refused.
        #[arg(long)]
        faulty: bool,
    },
}

#[derive(clap::Args)]
struct Sweep {
    /// How many images in all.
    #[arg(long, default_value_t = 5000)]
    images: u64,
    /// What is recorded, and which images are chosen.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this workload.
    #[arg(long)]
    workload: Option<Workload>,
    /// Images of one recording; then the workload is recorded anew, with the next seed.
    #[arg(long, default_value_t = 1200)]
    per_recording: u64,
    /// Where failing images are kept, each in a file that tells how it is broken.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Syncs of this kind do nothing: must fail.
    #[arg(long)]
    without: Option<String>,
    /// The syncs that sled calls itself count.
    #[arg(long)]
    trust_sled: bool,
    /// Prints the operations on paths that begin so, before the first failure.
    #[arg(long)]
    show: Option<String>,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Life { workload, seed, life, data, marker, faulty } => {
            live((workload, seed, life), faulty, &data, &marker).map(|()| true).map_err(Into::into)
        }
        Command::Mutate { images, seed, workload, only } => mutate((images, seed), workload, only.as_deref()),
        Command::Judge { fixtures } => judge_all(&fixtures),
        Command::Pack { origin, data, marker, out } => pack(&origin, &data, &marker, &out),
        Command::Sweep(options) => sweep_all(&options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("crash-sweep: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Second cuts are one in so many images.
const SECOND_CUTS: u64 = 6;
/// Images of one start after a cut.
const PER_START: u64 = 20;

/// A sweep over everything, as far as it has come.
struct Progress {
    bar: Bar,
    total: Report,
    second: u64,
    keep: PathBuf,
}

fn sweep_all(options: &Sweep) -> Result<bool, Box<dyn Error>> {
    can_trace()?;
    let program = std::env::current_exe()?;
    let chosen: Vec<Workload> =
        WORKLOADS.into_iter().filter(|w| options.workload.is_none_or(|only| only == *w)).collect();
    let each = options.images.div_ceil(chosen.len() as u64);
    let keep = options.keep.clone().unwrap_or_else(|| failures_dir(&program));
    let mut progress =
        Progress { bar: Bar::new(each * chosen.len() as u64), total: Report::default(), second: 0, keep };
    let mut round = 0;
    let mut left: BTreeMap<Workload, u64> = chosen.iter().map(|w| (*w, each)).collect();
    while left.values().any(|left| *left > 0) {
        for (workload, left) in left.iter_mut().filter(|(_, left)| **left > 0) {
            let images = options.per_recording.min(*left);
            one_recording(&program, (*workload, options.seed + round), images, options, &mut progress)?;
            *left -= images;
        }
        round += 1;
    }
    progress.bar.end();
    summary(&progress);
    Ok(progress.total.failed == 0)
}

fn one_recording(
    program: &Path,
    (workload, seed): (Workload, u64),
    images: u64,
    options: &Sweep,
    progress: &mut Progress,
) -> Result<(), Box<dyn Error>> {
    let trace = record(program, workload, seed)?;
    let without = match &options.without {
        Some(name) => Some(
            sync_kinds(&trace)
                .into_iter()
                .flatten()
                .find(|kind| *kind == name)
                .ok_or("no such kind of sync here")?,
        ),
        None => None,
    };
    let plan = |images, seed| Plan {
        without,
        mistrust_sled: !options.trust_sled,
        ..Plan::of(workload, images, seed)
    };
    // Cuts of a recording are not those of the next one.
    let starts = images / SECOND_CUTS / PER_START;
    let first = plan(images - starts * PER_START, seed.wrapping_mul(7919));
    let report = sweep(&trace, &first, &|_| progress.bar.step())?;
    if let (Some(prefix), Some(failure)) = (&options.show, report.failures.first()) {
        show(&trace, prefix, failure.cut.after);
    }
    progress.take(report, (workload, seed))?;
    for (index, cut) in cuts(&trace, &plan(starts, seed)).into_iter().enumerate() {
        let end = if index % 2 == 0 { End::Power } else { End::Kill };
        let plan = plan(PER_START, cut.seed);
        let second = record_after(program, &trace, &plan, (&cut, end))?;
        let report = sweep(&second, &plan, &|_| progress.bar.step())?;
        if report.failed > 0 {
            println!("after {end:?} at {cut:?} of {workload:?}, seed {seed}:");
        }
        progress.second += report.images();
        progress.take(report, (workload, seed))?;
    }
    Ok(())
}

impl Progress {
    fn take(&mut self, report: Report, (workload, seed): (Workload, u64)) -> std::io::Result<()> {
        for failure in &report.failures {
            let name = format!("{workload:?}-{seed}-{}-{:x}", failure.cut.after, failure.cut.seed);
            let path = failure.fixture.keep(&self.keep, &name.to_lowercase())?;
            println!(
                "\n{workload:?} seed {seed} cut {:?} during {}, {:?}: {}: {}\n  kept: {}",
                failure.cut,
                failure.stratum,
                failure.unkindness,
                failure.broken.promise,
                failure.broken.why,
                path.display()
            );
        }
        self.total.add(report);
        self.total.failures.clear();
        Ok(())
    }
}

fn summary(progress: &Progress) {
    let total = &progress.total;
    println!("{:>8}  cut during", "images");
    for (stratum, images) in &total.strata {
        println!("{images:>8}  {stratum}");
    }
    println!("{:>8}  at an operation of the kind", "images");
    for (kind, images) in &total.kinds {
        println!("{images:>8}  {kind}");
    }
    println!(
        "{:>8}  in all, {} of them second cuts, {} failed; the slowest took {} ms",
        total.images(),
        progress.second,
        total.failed,
        total.slowest.as_millis()
    );
    if total.failed > 0 {
        println!("failing images are kept in {}: fix, and commit them with the fix", progress.keep.display());
    }
}

/// How far it is: a bar on a terminal, now and then a line elsewhere.
struct Bar {
    of: u64,
    done: AtomicU64,
    begun: Instant,
    is_terminal: bool,
}

impl Bar {
    fn new(of: u64) -> Bar {
        let is_terminal = std::io::stderr().is_terminal();
        Bar { of, done: AtomicU64::new(0), begun: Instant::now(), is_terminal }
    }

    fn step(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let every = if self.is_terminal { 25 } else { self.of.div_ceil(20).max(1) };
        if !done.is_multiple_of(every) && done != self.of {
            return;
        }
        let seconds = self.begun.elapsed().as_secs();
        let left = seconds * self.of.saturating_sub(done) / done;
        let filled = usize::try_from(done * 40 / self.of.max(1)).unwrap_or(40).min(40);
        let (before, after) = if self.is_terminal { ("\r", "") } else { ("", "\n") };
        eprint!(
            "{before}[{}{}] {done} of {} images, {seconds} s, {left} s to go   {after}",
            "#".repeat(filled),
            " ".repeat(40 - filled),
            self.of
        );
    }

    fn end(&self) {
        if self.is_terminal {
            eprintln!();
        }
    }
}

fn judge_all(fixtures: &[PathBuf]) -> Result<bool, Box<dyn Error>> {
    let mut all = true;
    for path in fixtures {
        let fixture = Fixture::load(path)?;
        let verdict = fixture.judge(&scratch()?.path().join("image"))?;
        match &verdict {
            Ok(()) => println!("{}: kept every promise ({})", path.display(), fixture.origin),
            Err(broken) => {
                println!("{}: {}: {} ({})", path.display(), broken.promise, broken.why, fixture.origin)
            }
        }
        all &= verdict.is_ok();
    }
    Ok(all)
}

fn pack(origin: &str, data: &Path, marker: &Path, out: &Path) -> Result<bool, Box<dyn Error>> {
    std::fs::write(out, Fixture::pack(origin, data, marker)?.encode()?)?;
    Ok(true)
}

/// The last operations on some paths before a cut.
fn show(trace: &Trace, prefix: &str, after: usize) {
    let kinds = sync_kinds(trace);
    let before: Vec<(usize, &Moment)> = trace.moments.iter().enumerate().take(after).collect();
    let wanted = |step: usize| trace.steps.get(step).filter(|step| step.path.starts_with(prefix));
    let mut lines = Vec::new();
    for (index, moment) in before {
        match moment {
            Moment::Begin(step) => lines.extend(wanted(*step).map(|found| {
                let kind = kinds.get(*step).copied().flatten().unwrap_or("");
                format!("{index:>6} {:?} {} {kind}", found.op, found.path)
            })),
            Moment::Life => lines.push(format!("{index:>6} -- life ends")),
            Moment::Mark(Mark::Opened { .. } | Mark::Closed) => lines.push(format!("{index:>6} {moment:?}")),
            _ => {}
        }
    }
    for line in lines.iter().skip(lines.len().saturating_sub(120)) {
        println!("{}", line.chars().take(230).collect::<String>());
    }
}

fn mutate(
    (images, seed): (u64, u64),
    only: Option<Workload>,
    only_kind: Option<&str>,
) -> Result<bool, Box<dyn Error>> {
    let program = std::env::current_exe()?;
    let mut seen: BTreeMap<&str, (u64, Option<String>)> = BTreeMap::new();
    for workload in WORKLOADS.into_iter().filter(|w| only.is_none_or(|only| only == *w)) {
        let trace = record(&program, workload, seed)?;
        let kinds: BTreeSet<&'static str> = sync_kinds(&trace).into_iter().flatten().collect();
        let wanted = |kind: &&str| *kind != SLED && only_kind.is_none_or(|only| only == *kind);
        for kind in kinds.into_iter().filter(wanted) {
            let (tried, red) = seen.entry(kind).or_default();
            if red.is_some() {
                continue;
            }
            let report = sweep(&trace, &Plan::without(kind, workload, images, seed), &|_| {})?;
            *tried += report.images();
            *red = report.failures.first().map(|f| {
                format!("{workload:?} cut during {}: {}: {}", f.stratum, f.broken.promise, f.broken.why)
            });
            eprintln!("{workload:?}, without {kind}: {} images, {red:?}", report.images());
        }
    }
    for (kind, (tried, red)) in &seen {
        match red {
            Some(red) => println!("red after {tried:>5}  {kind}: {red}"),
            None => println!("GREEN    {tried:>6}  {kind}"),
        }
    }
    Ok(seen.values().all(|(_, red)| red.is_some()))
}
