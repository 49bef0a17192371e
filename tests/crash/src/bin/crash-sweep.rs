//! The long sweep, and the child process that workloads live in.

use clap::{Parser, Subcommand};
use eventmesh_edge_crash::marks::Mark;
use eventmesh_edge_crash::record::{End, failures_dir, record, record_after};
use eventmesh_edge_crash::strata::{SLED, sync_kinds};
use eventmesh_edge_crash::sweep::{Plan, Report, cuts, sweep};
use eventmesh_edge_crash::trace::{Moment, Trace};
use eventmesh_edge_crash::workload::{WORKLOADS, Workload, live};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(about = "Power cuts at every file operation of the store")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Records every workload and judges images of it, evenly over the parts of the store.
    Sweep {
        /// How many images in all.
        #[arg(long, default_value_t = 5000)]
        images: u64,
        /// What is recorded, and which images are chosen.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Only this workload.
        #[arg(long)]
        workload: Option<Workload>,
        /// Syncs of this kind do nothing: must fail.
        #[arg(long)]
        without: Option<String>,
        /// The syncs that sled calls itself count.
        #[arg(long)]
        trust_sled: bool,
        /// Prints the operations on paths that begin so, before the first failure.
        #[arg(long)]
        show: Option<String>,
    },
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
    },
    /// Records starts after cuts and kills, and cuts again during them.
    Again {
        /// How many starts, of each kind and workload.
        #[arg(long, default_value_t = 10)]
        starts: u64,
        /// Images of each start.
        #[arg(long, default_value_t = 60)]
        images: u64,
        /// What is recorded, and which images are chosen.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Only this workload.
        #[arg(long)]
        workload: Option<Workload>,
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

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Life { workload, seed, life, data, marker, faulty } => {
            live((workload, seed, life), faulty, &data, &marker).map(|()| true).map_err(Into::into)
        }
        Command::Again { starts, images, seed, workload } => again((starts, images), seed, workload),
        Command::Mutate { images, seed, workload } => mutate(images, seed, workload),
        Command::Sweep { images, seed, workload, without, trust_sled, show } => {
            let how = How { without, trust_sled, show };
            sweep_all(images, seed, workload, &how)
        }
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

struct How {
    without: Option<String>,
    trust_sled: bool,
    show: Option<String>,
}

fn sweep_all(images: u64, seed: u64, only: Option<Workload>, how: &How) -> Result<bool, Box<dyn Error>> {
    let program = std::env::current_exe()?;
    let chosen: Vec<Workload> =
        WORKLOADS.into_iter().filter(|w| only.is_none_or(|only| only == *w)).collect();
    let mut total = Report::default();
    for workload in &chosen {
        let trace = record(&program, *workload, seed)?;
        let kinds = sync_kinds(&trace);
        let ignored = match &how.without {
            Some(name) => Some(
                kinds
                    .iter()
                    .flatten()
                    .find(|kind| **kind == name)
                    .copied()
                    .ok_or("no such kind of sync here")?,
            ),
            None => None,
        };
        eprintln!("{workload:?}: {} operations, {} moments", trace.steps.len(), trace.moments.len());
        let plan = Plan {
            without: ignored,
            mistrust_sled: !how.trust_sled,
            ..Plan::of(*workload, images / chosen.len() as u64, seed)
        };
        let report = sweep(&trace, &plan, &|done| {
            if done.is_multiple_of(50) || done == plan.images {
                eprint!("\r  {done} of {} images", plan.images);
                std::io::stderr().flush().ok();
            }
        })?;
        eprintln!(", {} failed, slowest {} ms", report.failed, report.slowest.as_millis());
        tell(*workload, seed, &report, &program)?;
        if let (Some(prefix), Some(failure)) = (&how.show, report.failures.first()) {
            show(&trace, prefix, failure.cut.after);
        }
        total.add(report);
    }
    println!("{:>8}  cut during", "images");
    for (stratum, images) in &total.strata {
        println!("{images:>8}  {stratum}");
    }
    println!("{:>8}  in all, {} failed", total.images(), total.failed);
    Ok(total.failed == 0)
}

fn again((starts, images): (u64, u64), seed: u64, only: Option<Workload>) -> Result<bool, Box<dyn Error>> {
    let program = std::env::current_exe()?;
    let mut total = Report::default();
    for workload in WORKLOADS.into_iter().filter(|w| only.is_none_or(|only| only == *w)) {
        let trace = record(&program, workload, seed)?;
        for end in [End::Power, End::Kill] {
            let mut failed = 0;
            let mut swept = 0;
            for cut in cuts(&trace, &Plan::of(workload, starts, seed)) {
                let plan = Plan::of(workload, images, cut.seed);
                let (second, plan) = record_after(&program, &trace, &plan, (&cut, end))?;
                let report = sweep(&second, &plan, &|_| {})?;
                if report.failed > 0 {
                    println!("after {end:?} at {cut:?} of {workload:?}:");
                }
                tell(workload, seed, &report, &program)?;
                swept += report.images();
                failed += report.failed;
                total.add(report);
            }
            eprintln!("{workload:?} after {end:?}: {swept} images, {failed} failed");
        }
    }
    for (stratum, images) in &total.strata {
        println!("{images:>8}  {stratum}");
    }
    println!("{:>8}  in all, {} failed", total.images(), total.failed);
    Ok(total.failed == 0)
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

fn mutate(images: u64, seed: u64, only: Option<Workload>) -> Result<bool, Box<dyn Error>> {
    let program = std::env::current_exe()?;
    let mut seen: BTreeMap<&str, (u64, Option<String>)> = BTreeMap::new();
    for workload in WORKLOADS.into_iter().filter(|w| only.is_none_or(|only| only == *w)) {
        let trace = record(&program, workload, seed)?;
        let kinds: BTreeSet<&'static str> = sync_kinds(&trace).into_iter().flatten().collect();
        for kind in kinds.into_iter().filter(|kind| *kind != SLED) {
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

fn tell(workload: Workload, seed: u64, report: &Report, program: &std::path::Path) -> std::io::Result<()> {
    for (index, failure) in report.failures.iter().enumerate() {
        let dir = failures_dir(program).join(format!("{workload:?}-{seed}-{index}"));
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        failure.image.write(&dir)?;
        println!(
            "{workload:?} seed {seed} cut {:?} during {}, {:?}: {}: {}\n  image: {}",
            failure.cut,
            failure.stratum,
            failure.unkindness,
            failure.broken.promise,
            failure.broken.why,
            dir.display()
        );
    }
    Ok(())
}
