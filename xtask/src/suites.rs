//! The test suites, in the order in which a mistake is cheapest to find.

use crate::process::{Outcome, cargo, run, target_dir};
use crate::tools;
use clap::Args;
use std::process::Command;
use std::time::Instant;

#[derive(Args)]
pub(crate) struct Options {
    /// Only the suites with these names
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Go on after a failed suite
    #[arg(long)]
    keep_going: bool,
}

/// A suite: its name and the commands that make it up.
struct Suite {
    name: &'static str,
    steps: Vec<Command>,
}

/// Runs all suites, prints their minutes, fails if one failed.
pub(crate) fn run_all(options: &Options) -> Outcome {
    let skipped = tools::provide();
    let mut report = Vec::new();
    let mut failed = Vec::new();
    for suite in
        all().into_iter().filter(|s| options.only.is_empty() || options.only.iter().any(|o| o == s.name))
    {
        println!("\n== {}", suite.name);
        let start = Instant::now();
        let outcome = suite.steps.into_iter().try_for_each(|mut step| self::step(&mut step));
        let minutes = start.elapsed().as_secs_f64() / 60.0;
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        report.push(format!("{:<10} {minutes:5.1} min  {word}", suite.name));
        if let Err(error) = outcome {
            println!("{error}");
            failed.push(suite.name);
            if !options.keep_going {
                break;
            }
        }
    }
    println!("\n== suites\n{}", report.join("\n"));
    for tool in &skipped {
        println!(
            "SKIPPED: the tests that need `{tool}`, which is not on this machine and could not be installed"
        );
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
}

/// The simulation with more seeds than the test has.
pub(crate) fn sim(seeds: u64, from: u64) -> Outcome {
    let (seeds, from) = (seeds.to_string(), from.to_string());
    step(&mut cargo(&[
        "run",
        "--release",
        "-p",
        "eventmesh-edge-sim",
        "--bin",
        "sim",
        "--",
        "--seeds",
        &seeds,
        "--from",
        &from,
    ]))
}

/// The kill test with more kills than the test has.
pub(crate) fn crash(kills: u32) -> Outcome {
    run(&mut programs())?;
    let mut command = cargo(&["test", "-p", "eventmesh-edge-e2e", "--test", "kill", "--", "--nocapture"]);
    command.env("EDGE_KILLS", kills.to_string());
    step(&mut command)
}

fn all() -> Vec<Suite> {
    let warnings_denied = |args: &[&str], variable: &str| {
        let mut command = cargo(args);
        // Links to private items help whoever reads the source; rustdoc shows them as plain text.
        command.env(variable, "-D warnings -A rustdoc::private_intra_doc_links");
        command
    };
    vec![
        Suite { name: "format", steps: vec![cargo(&["fmt", "--all", "--check"])] },
        Suite {
            name: "lints",
            steps: vec![cargo(&[
                "clippy",
                "--quiet",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ])],
        },
        Suite { name: "policy", steps: policy() },
        Suite {
            name: "units",
            steps: vec![cargo(&[
                "test",
                "--workspace",
                "--exclude",
                "eventmesh-edge-e2e",
                "--exclude",
                "eventmesh-edge-sim",
                "--exclude",
                // The power-cut sweep is a command of its own until its images are all green.
                "eventmesh-edge-crash",
            ])],
        },
        Suite { name: "sim", steps: vec![cargo(&["test", "-p", "eventmesh-edge-sim"])] },
        Suite {
            name: "e2e",
            steps: vec![
                programs(),
                cargo(&["test", "-p", "eventmesh-edge-e2e", "--", "--nocapture", "--test-threads", "2"]),
            ],
        },
        Suite {
            name: "docs",
            steps: vec![warnings_denied(
                &[
                    "doc",
                    "--quiet",
                    "--no-deps",
                    "-p",
                    "eventmesh-edge-core",
                    "-p",
                    "eventmesh-edge-store",
                    "-p",
                    "eventmesh-edge-runtime",
                    "-p",
                    "eventmesh-edge-ingress-mqtt",
                    "-p",
                    "eventmesh-edge-uplink-mqtt",
                    "-p",
                    "eventmesh-edge-config",
                    "-p",
                    "eventmesh-edge-admin",
                    "-p",
                    "eventmesh-edge-wire",
                ],
                "RUSTDOCFLAGS",
            )],
        },
    ]
}

/// What the end-to-end tests start as processes.
fn programs() -> Command {
    let mut build = cargo(&["build"]);
    build.args(crate::quickstart::PROGRAMS);
    build
}

/// `deny.toml` where cargo-deny is installed; always the one rule that must hold without it: one crypto provider.
fn policy() -> Vec<Command> {
    let mut steps = Vec::new();
    for banned in ["aws-lc-rs", "aws-lc-sys", "openssl-sys", "native-tls"] {
        let mut absent = Command::new("sh");
        let script = format!(
            "! \"$CARGO\" tree --quiet --workspace --edges normal,build --invert {banned} 2>/dev/null | grep -q . \
             || {{ echo '{banned} is in the tree: deny.toml allows one crypto provider, ring'; exit 1; }}"
        );
        absent.args(["-c", &script]).current_dir(crate::process::root());
        absent.env("CARGO", std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        steps.push(absent);
    }
    if crate::process::on_path("cargo-deny") {
        // Advisories come from a database that is not to be had everywhere: `cargo deny check` alone does them.
        steps.push(cargo(&["deny", "--offline", "check", "bans", "licenses", "sources"]));
    } else {
        println!("note: cargo-deny is not installed, only the crypto-provider rule of deny.toml is checked");
    }
    steps
}

fn step(command: &mut Command) -> Outcome {
    // The tests look for programs here instead of guessing.
    command.env("EDGE_BIN_DIR", target_dir("debug"));
    run(command)
}
