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
    let mut skipped = tools::provide();
    skipped.extend(crate::receivers::provide());
    skipped.extend(crate::clients::provide());
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
            "SKIPPED: the tests that need `{tool}`, which is not on this machine, or not allowed, and could not be installed"
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

/// The power-cut sweep and the kill test, each longer than the tests are. Failing images become fixtures, which the tests
/// judge from then on (`docs/crash-testing.md`).
#[derive(Args)]
pub(crate) struct CrashOptions {
    /// How many images of power cuts; 0 leaves the sweep out
    #[arg(long, default_value_t = 100_000)]
    images: u64,
    /// Where the sweep's choices begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many kills of a loaded node; 0 leaves them out
    #[arg(long, default_value_t = 500)]
    kills: u32,
}

pub(crate) fn crash(options: &CrashOptions) -> Outcome {
    tools::provide();
    if options.images > 0 {
        let (images, seed) = (options.images.to_string(), options.seed.to_string());
        let mut sweep =
            cargo(&["run", "--release", "-p", "eventmesh-edge-crash", "--bin", "crash-sweep", "--"]);
        sweep.args(["sweep", "--images", &images, "--seed", &seed, "--keep", "tests/crash/fixtures"]);
        step(pages_on_demand(&mut sweep))?;
    }
    if options.kills > 0 { kills(options.kills) } else { Ok(()) }
}

/// sled asks for 6 MiB of zeros at each open and touches little of it. glibc stops mapping such pieces once one was freed, and
/// zeroes them by hand from then on: a fixed threshold saves the sweeps a sixth of their time.
fn pages_on_demand(command: &mut Command) -> &mut Command {
    command.env("MALLOC_MMAP_THRESHOLD_", (1 << 20).to_string())
}

fn kills(kills: u32) -> Outcome {
    run(&mut programs())?;
    let mut command = cargo(&["test", "-p", "eventmesh-edge-e2e", "--test", "kill", "--", "--nocapture"]);
    command.env("EDGE_KILLS", kills.to_string());
    step(&mut command)
}

/// The storms that the uplinks' tests have, with as many faults as are asked for.
pub(crate) fn faults(faults: u64, seed: u64) -> Outcome {
    let uplinks = [
        ("eventmesh-edge-uplink-mqtt", "MQTT"),
        ("eventmesh-edge-uplink-http", "HTTP"),
        ("eventmesh-edge-standin", "MESH"),
    ];
    for (package, name) in uplinks {
        let storm = "a_thousand_seeded_faults_lose_nothing";
        let mut command = cargo(&["test", "-p", package, "--test", "faults", "--", storm, "--nocapture"]);
        command.env(format!("{name}_FAULTS"), faults.to_string());
        command.env(format!("{name}_SEED"), seed.to_string());
        step(&mut command)?;
    }
    Ok(())
}

/// One test after the other: each sweep takes all cores itself.
fn crash_tests() -> Command {
    let mut tests =
        cargo(&["test", "-p", "eventmesh-edge-crash", "--", "--nocapture", "--test-threads", "1"]);
    pages_on_demand(&mut tests);
    tests
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
                "eventmesh-edge-model",
                "--exclude",
                "eventmesh-edge-crash",
            ])],
        },
        Suite {
            name: "sim",
            steps: vec![cargo(&["test", "-p", "eventmesh-edge-sim", "-p", "eventmesh-edge-model"])],
        },
        Suite { name: "crash", steps: vec![crash_tests()] },
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
                    "eventmesh-edge-uplink-net",
                    "-p",
                    "eventmesh-edge-uplink-mqtt",
                    "-p",
                    "eventmesh-edge-uplink-http",
                    "-p",
                    "eventmesh-edge-uplink-eventmesh",
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
