//! What issue 4 promises of the store, measured on the real one in one process: figure and goal side by side.
//!
//!     cargo run --release -p eventmesh-edge-store --example queue_bench -- <what> [options]
//!
//! `commit`: commits of 1, 16, 64 and 256 events beside a plain preallocated log, in short turns, so that both see the same
//! disk; `amplification`: bytes written per payload byte, uplink connected and everything spilled; `backlog`: spill and
//! drain; `trickle`: single messages with the uplink down, by a simulated clock on the real disk; `all`: each of them in a
//! process of its own. Options: `--dir D` (on the disk to be measured), `--secs S`, `--events N`, `--content telemetry|random`,
//! `--only GROUP` (one group size of `commit`).
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a measuring tool: what fails ends it"
)]

mod backlog;
mod commit;
mod load;
mod machine;

use load::Content;
use std::path::PathBuf;
use std::time::Duration;

/// What the command line says.
pub(crate) struct Args {
    what: String,
    pub(crate) dir: PathBuf,
    pub(crate) turn: Duration,
    pub(crate) events: Option<u64>,
    pub(crate) content: Content,
    pub(crate) only: Option<u64>,
}

fn args() -> Args {
    let mut words = std::env::args().skip(1);
    let mut args = Args {
        what: words.next().unwrap_or_else(|| "all".to_owned()),
        dir: std::env::temp_dir().join("queue_bench"),
        turn: Duration::from_secs(3),
        events: None,
        content: Content::Telemetry,
        only: None,
    };
    while let (Some(option), Some(value)) = (words.next(), words.next()) {
        match option.as_str() {
            "--dir" => args.dir = value.into(),
            "--secs" => args.turn = Duration::from_secs_f64(value.parse().expect("--secs: a number")),
            "--events" => args.events = Some(value.parse().expect("--events: a number")),
            "--only" => args.only = Some(value.parse().expect("--only: a number")),
            "--content" => args.content = Content::named(&value).expect("--content: telemetry or random"),
            other => panic!("{other}: not an option, see the top of queue_bench/main.rs"),
        }
    }
    args
}

/// One line of the result.
pub(crate) fn report(what: &str, figure: f64, unit: &str, goal: Option<f64>, at_least: bool) {
    let verdict = match goal {
        None => String::new(),
        Some(goal) => {
            let met = if at_least { figure >= goal } else { figure <= goal };
            let sign = if at_least { ">=" } else { "<=" };
            format!("goal {sign} {goal}{unit}: {}", if met { "met" } else { "MISSED" })
        }
    };
    println!("{what:<64} {figure:>10.2}{unit:<8} {verdict}");
}

fn each_in_its_own_process(args: &Args) {
    let program = std::env::current_exe().expect("own path");
    let runs = [
        ("commit", "telemetry"),
        ("amplification", "telemetry"),
        ("backlog", "telemetry"),
        ("backlog", "random"),
        ("trickle", "telemetry"),
    ];
    for (what, content) in runs {
        println!("== {what}, {content}");
        let mut command = std::process::Command::new(&program);
        command.args([what, "--content", content, "--secs", &args.turn.as_secs_f64().to_string(), "--dir"]);
        let status = command.arg(&args.dir).status().expect("run it");
        assert!(status.success(), "{what} failed");
    }
}

fn main() {
    machine::keep_little();
    let args = args();
    std::fs::create_dir_all(&args.dir).expect("make the directory");
    match args.what.as_str() {
        "commit" => commit::throughput(&args),
        "amplification" => commit::amplification(&args),
        "backlog" => backlog::spill_and_drain(&args),
        "trickle" => backlog::trickle(&args),
        "all" => each_in_its_own_process(&args),
        other => panic!("{other}: commit, amplification, backlog, trickle or all"),
    }
}
