//! `cargo xtask bench`: the release build beside its peers, in one interleaved run (method: `docs/benchmarks.md`).

use crate::process::{Outcome, cargo, root, run, target_dir};
use clap::Args;
use std::process::Command;

#[derive(Args)]
pub(crate) struct Options {
    /// Which measurements, see `tests/bench/broker_perf.py --help`
    #[arg(long, default_value = "start,ack1,ingest,paced,idle,bridgekill")]
    scenarios: String,
    /// Which brokers of `tests/bench/brokers.json`; one whose program is not on the PATH is skipped
    #[arg(long)]
    only: Option<String>,
    /// Runs of each, interleaved; medians are printed
    #[arg(long, default_value_t = 3)]
    repeats: u32,
    /// Messages of the backlog scenarios
    #[arg(long, default_value_t = 1_000_000)]
    backlog: u64,
    /// Where data directories go: on the disk that is to be measured
    #[arg(long, default_value = "target/bench")]
    work: String,
    /// Build the smallest node (MQTT in and out) too, and print its size
    #[arg(long)]
    size: bool,
    /// The way up instead of the way in: EventMesh and HTTP, beside the genuine Java SDK, see `tests/bench/uplink_perf.py --help`
    #[arg(long)]
    uplinks: bool,
}

pub(crate) fn run_all(options: &Options) -> Outcome {
    if options.uplinks {
        let work = root().join(&options.work);
        std::fs::create_dir_all(&work).map_err(|e| format!("create {}: {e}", work.display()))?;
        return crate::bench_uplinks::measure(&work, options.repeats);
    }
    run(&mut cargo(&["build", "--release", "-p", "eventmesh-edge", "-p", "eventmesh-edge-load"]))?;
    let bin = target_dir("release");
    let work = root().join(&options.work);
    std::fs::create_dir_all(&work).map_err(|e| format!("create {}: {e}", work.display()))?;
    let results = work.join("results.jsonl");
    // Medians are of one run: ratios to what another hour measured say nothing.
    if results.exists() {
        let earlier = work.join("results-before.jsonl");
        std::fs::rename(&results, &earlier).map_err(|e| format!("rename {}: {e}", results.display()))?;
    }
    let mut path = vec![bin.clone()];
    path.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    let path = std::env::join_paths(path).map_err(|e| format!("PATH: {e}"))?;
    let script = root().join("tests/bench/broker_perf.py");
    let perf = |more: &[&str]| {
        let mut command = Command::new("python3");
        command.arg(&script).args(["--out"]).arg(&results).args(more).env("PATH", &path).current_dir(root());
        command
    };
    let mut measure = perf(&["--scenarios", &options.scenarios]);
    measure.arg("--load").arg(bin.join("mqtt-load"));
    measure.arg("--brokers").arg(root().join("tests/bench/brokers.json")).arg("--work").arg(&work);
    measure.args(["--repeats", &options.repeats.to_string(), "--backlog", &options.backlog.to_string()]);
    if let Some(only) = &options.only {
        measure.args(["--only", only]);
    }
    run(&mut measure)?;
    run(&mut perf(&["--summary", "--base", "mosquitto"]))?;
    if options.size { size() } else { Ok(()) }
}

/// The smallest node, MQTT in and out, as it leaves the linker.
fn size() -> Outcome {
    let lean = ["build", "--release", "-p", "eventmesh-edge", "--no-default-features", "--features", "mqtt"];
    // In a folder of its own: the node that was measured stays where it is.
    let target = target_dir("lean");
    run(cargo(&lean).env("CARGO_TARGET_DIR", &target))?;
    let built = target.join("release/eventmesh-edge");
    let bytes = std::fs::metadata(&built).map_err(|e| format!("{}: {e}", built.display()))?.len();
    println!("\n== size, MQTT in and out\n  {:.2} MB  {}", bytes as f64 / 1e6, built.display());
    Ok(())
}
