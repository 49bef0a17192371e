//! `sim --seeds N --from S`: as many seeds as there is time for, each on the memory store and on the real one over a
//! simulated disk, and a twentieth as many bad weeks; one line per failing seed.

use eventmesh_edge_sim::{
    Failure, Summary, run_seed, run_seed_on_journal, run_seeds, run_week, run_week_on_journal,
};
use std::process::ExitCode;

const USAGE: &str = "usage: sim [--seeds N] [--from S]   (2,000 seeds from 0; SIM_SEED=n replays one)";

type Run = fn(u64) -> Result<Summary, Failure>;
const STORES: [(&str, Run); 4] = [
    ("memory", run_seed),
    ("journal", run_seed_on_journal),
    ("week", run_week),
    ("week_on_journal", run_week_on_journal),
];
/// A week is as long as twenty of the other runs.
const SEEDS_PER_WEEK: u64 = 20;

struct Args {
    seeds: u64,
    from: u64,
}

fn args(mut list: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut args = Args { seeds: 2000, from: 0 };
    while let Some(name) = list.next() {
        let value = list.next().ok_or_else(|| format!("{name} needs a number\n{USAGE}"))?;
        let number = value.parse().map_err(|_| format!("{name} {value}: not a number\n{USAGE}"))?;
        match name.as_str() {
            "--seeds" => args.seeds = number,
            "--from" => args.from = number,
            _ => return Err(format!("{name}: no such option\n{USAGE}")),
        }
    }
    if let Ok(seed) = std::env::var("SIM_SEED") {
        let from = seed.parse().map_err(|_| format!("SIM_SEED={seed}: not a number"))?;
        args = Args { seeds: 1, from };
    }
    Ok(args)
}

fn main() -> ExitCode {
    let args = match args(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    // A panic is reported as its seed; the thread's own words would only be in the way.
    std::panic::set_hook(Box::new(|_| {}));
    let mut failed = 0;
    for (store, run) in STORES {
        let seeds = if store.starts_with("week") { args.seeds.div_ceil(SEEDS_PER_WEEK) } else { args.seeds };
        let campaign = run_seeds(args.from..args.from.saturating_add(seeds), run);
        for failure in &campaign.failures {
            println!("{failure}");
        }
        failed += campaign.failures.len();
        println!(
            "{store}: {} seeds, {} failed; {:?}",
            campaign.seeds,
            campaign.failures.len(),
            campaign.total
        );
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
