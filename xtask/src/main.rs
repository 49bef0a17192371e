//! One name per chore. `cargo xtask --help` lists them; the README needs only `quickstart` and `test`.

mod arm;
mod bench;
mod bench_uplinks;
mod clients;
mod process;
mod quickstart;
mod receivers;
mod suites;
mod tools;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "One name per chore of EventMesh Edge", version)]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Starts an upstream hub, the node and two simulated devices, and shows what flows
    Quickstart(quickstart::Options),
    /// Runs everything: format, lints, unit, property, contract, simulation, crash, end to end, docs
    Test(suites::Options),
    /// Runs the seeded simulation of store and forwarder: more seeds than the test does, or one (`SIM_SEED=n`)
    Sim {
        /// How many seeds
        #[arg(long, default_value_t = 20_000)]
        seeds: u64,
        /// The first one
        #[arg(long, default_value_t = 1)]
        from: u64,
    },
    /// Power cuts at every file operation of the store, and kills of a loaded node: more of both than the test does
    Crash(suites::CrashOptions),
    /// Scripted, seeded faults of the upstream under each uplink and the real forwarder: more of them than the tests do
    Faults {
        /// How many for each uplink
        #[arg(long, default_value_t = 1_000)]
        faults: u64,
        /// Where the scripts begin
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Measures the release build beside its peers and prints a table (takes minutes, needs a quiet machine)
    Bench(bench::Options),
    /// Builds the node for ARM (64 and 32 bits) with Debian's cross compilers and tries it under QEMU
    Arm {
        /// Only these target triples
        triples: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = match Args::parse().chore {
        Chore::Quickstart(options) => quickstart::run_scene(&options),
        Chore::Test(options) => suites::run_all(&options),
        Chore::Sim { seeds, from } => suites::sim(seeds, from),
        Chore::Crash(options) => suites::crash(&options),
        Chore::Faults { faults, seed } => suites::faults(faults, seed),
        Chore::Bench(options) => bench::run_all(&options),
        Chore::Arm { triples } => arm::run_for(&triples),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
