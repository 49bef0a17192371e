//! `store verify`: every checksum, and what it means.

use super::args::Verify;
use super::progress::Progress;
use super::source::ask_report;
use super::{place, print_json};
use crate::exit::Failure;
use eventmesh_edge_store::inspect::{InspectError, Inspection, Severity, Verdict, verify_running};

/// Prints what was found; fails if any of it is damage.
pub(super) fn verify(args: &Verify) -> Result<(), Failure> {
    let config = place::config(&args.place)?;
    let dir = &config.node.data_dir;
    let mut progress = Progress::new("verify", args.place.quiet);
    let mut tell = |done: u64, total: u64, what: &str| progress.tell(done, total, what);
    let verdict = match Inspection::open(dir, &place::options(&args.place)) {
        Ok(inspection) => inspection.verify(&mut tell).map_err(place::failed)?,
        Err(error) if place::holder(&error).is_some() => {
            let mut ask = || ask_report(&config.admin.socket).map_err(NoAnswer::Remote);
            verify_running::<NoAnswer>(dir, &mut ask, &mut tell).map_err(NoAnswer::into_failure)?
        }
        Err(error) => return Err(place::failed(error)),
    };
    progress.finish();
    if args.json {
        print_json(&verdict)?;
    } else {
        print!("{}", render(&verdict));
    }
    if verdict.sound { Ok(()) } else { Err(Failure::Told) }
}

enum NoAnswer {
    Remote(anyhow::Error),
    Inspect(InspectError),
}

impl From<InspectError> for NoAnswer {
    fn from(error: InspectError) -> NoAnswer {
        NoAnswer::Inspect(error)
    }
}

impl NoAnswer {
    fn into_failure(self) -> Failure {
        match self {
            NoAnswer::Remote(error) => Failure::CannotStart(error),
            NoAnswer::Inspect(error) => place::failed(error),
        }
    }
}

fn render(verdict: &Verdict) -> String {
    let mut lines: Vec<String> = verdict.findings.iter().map(ToString::to_string).collect();
    lines.extend(verdict.unchecked.iter().map(|what| format!("not checked: {what}")));
    lines.push(format!(
        "checked {} journal segments ({} commits, {} events), {} generations{}: {} bytes",
        verdict.segments,
        verdict.commits,
        verdict.events,
        verdict.generations,
        if verdict.running { "" } else { ", views, identity" },
        verdict.bytes,
    ));
    let damaged = verdict.findings.iter().filter(|f| f.severity == Severity::Damage).count();
    lines.push(match damaged {
        0 => "sound".to_owned(),
        n => format!(
            "{n} damaged places: `eventmesh-edge store repair --dry-run` says what a start makes of them"
        ),
    });
    lines.join("\n") + "\n"
}
