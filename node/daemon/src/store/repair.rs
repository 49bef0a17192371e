//! `store repair`: what a start makes of damage, as a step of its own.

use super::args::Repair;
use super::progress::Progress;
use super::{place, print_json};
use crate::exit::Failure;
use eventmesh_edge_runtime::clock::SystemClock;
use eventmesh_edge_store::inspect::{Inspection, PendingLoss, Severity, Verdict, repair as repair_store};
use serde::Serialize;
use std::sync::Arc;

/// What was, or would be, done.
#[derive(Serialize)]
struct Summary {
    dry_run: bool,
    repaired: bool,
    /// What was found.
    verdict: Verdict,
    /// What was counted in the ledger, or would be.
    counted: Vec<PendingLoss>,
    /// What is left: it is counted when it is read.
    left: Vec<String>,
}

/// Verifies, says what it is about to do, does it, and verifies again.
pub(super) fn repair(args: &Repair) -> Result<(), Failure> {
    let config = place::config(&args.place)?;
    let dir = &config.node.data_dir;
    let options = place::options(&args.place);
    let refused = |error| place::needs_a_stopped_node("repair", error);
    let mut progress = Progress::new("verify", args.place.quiet);
    let inspection = Inspection::open(dir, &options).map_err(refused)?;
    let verdict = inspection.verify(&mut |done, total, what| progress.tell(done, total, what));
    let verdict = verdict.map_err(place::failed)?;
    progress.finish();
    let counted = inspection.report().pending_losses;
    drop(inspection);
    let needed = verdict.findings.iter().any(|finding| finding.severity >= Severity::Torn);
    let mut summary = Summary { dry_run: args.dry_run, repaired: false, verdict, counted, left: Vec::new() };
    if needed && !args.dry_run {
        let done = repair_store(dir, &options, Arc::new(SystemClock::new())).map_err(refused)?;
        summary.counted = done.counted;
        summary.repaired = true;
        let after = Inspection::open(dir, &options).map_err(refused)?;
        let after = after.verify(&mut |_, _, _| {}).map_err(place::failed)?;
        let left = after.findings.iter().filter(|finding| finding.severity == Severity::Damage);
        summary.left = left.map(ToString::to_string).collect();
    }
    if args.json {
        return print_json(&summary);
    }
    print!("{}", render(&summary));
    Ok(())
}

fn render(summary: &Summary) -> String {
    let mut lines: Vec<String> = summary.verdict.findings.iter().map(ToString::to_string).collect();
    let verb = if summary.dry_run { "would be counted" } else { "counted" };
    for loss in &summary.counted {
        let events = loss.lost.events.map_or("some".to_owned(), |events| events.to_string());
        let of = match (&loss.stream, &loss.uplink) {
            (Some(stream), Some(uplink)) => format!("stream {stream:?}, uplink {uplink:?}"),
            (Some(stream), None) => format!("stream {stream:?}"),
            _ => "all streams".to_owned(),
        };
        let last = loss.lost.last.as_deref().unwrap_or("?");
        let first = &loss.lost.first;
        lines.push(format!(
            "{verb} in the ledger: {events} events of {of}, {}, positions {first} to {last}",
            loss.reason
        ));
    }
    lines.extend(summary.left.iter().map(|left| format!("left as it is: {left}")));
    lines.push(
        match (summary.dry_run, summary.repaired) {
            (_, true) => {
                "repaired: what was damaged lies in `quarantine`, what is gone stands in the loss ledger"
            }
            (true, _) => "nothing was changed",
            (false, false) => "nothing to repair, nothing was changed",
        }
        .to_owned(),
    );
    lines.join("\n") + "\n"
}
