//! `cargo xtask quickstart`: builds the three programs, then hands over to the one that plays the scene.

use crate::process::{Outcome, cargo, run, target_dir};
use clap::Args;
use std::process::Command;

/// The node, the hub, and what plays the devices.
pub(crate) const PROGRAMS: [&str; 6] =
    ["-p", "eventmesh-edge", "-p", "eventmesh-edge-hub", "-p", "eventmesh-edge-quickstart"];

#[derive(Args)]
pub(crate) struct Options {
    /// Takes the upstream hub away for so many seconds, then brings it back
    #[arg(long, value_name = "SECONDS")]
    outage: Option<u64>,
    /// Kills the node with SIGKILL in the middle, starts it again, and counts what is missing
    #[arg(long)]
    kill: bool,
    /// Ends by itself after so many seconds and prints the balance (otherwise: Ctrl-C)
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
}

pub(crate) fn run_scene(options: &Options) -> Outcome {
    println!(
        "building the node, the hub and the devices (the first time this takes two to four minutes) ..."
    );
    run(cargo(&["build", "--quiet"]).args(PROGRAMS))?;
    let bin = target_dir("debug");
    let mut scene = Command::new(bin.join("eventmesh-edge-quickstart"));
    scene.env("EDGE_BIN_DIR", &bin);
    for (flag, value) in [("--outage", options.outage), ("--seconds", options.seconds)] {
        if let Some(value) = value {
            scene.args([flag, &value.to_string()]);
        }
    }
    if options.kill {
        scene.arg("--kill");
    }
    run(&mut scene)
}
