//! Beside a running node: only what never changes is looked at, and what looks bad is asked about once more, for the node
//! may have been done with it meanwhile.

use super::disk::ReadOnlyDisk;
use super::facts::{Copy, Facts, JournalFacts, SegmentFact};
use super::finding::{Severity, Verdict};
use super::judge::judge;
use super::report::StoreReport;
use super::{InspectError, Progress, Tell, walk};
use crate::assemble::recover_failed;
use crate::directory::OpenError;
use crate::journal::reader::End;
use crate::journal::recover::recover;
use crate::spill::inspect::list;
use crate::spill::sums::Checked;
use std::collections::HashSet;
use std::path::Path;

/// Checks closed segments, sealed generations and the meta files of a node that runs. `ask` asks the node what it has; called
/// again when something looks bad.
///
/// # Errors
/// [`InspectError`] if something cannot be read, or what `ask` says; never for damage.
pub fn verify_running<E: From<InspectError>>(
    dir: &Path,
    ask: &mut dyn FnMut() -> Result<StoreReport, E>,
    tell: Tell<'_>,
) -> Result<Verdict, E> {
    let report = ask()?;
    let mut progress = Progress::new(walk::size_of(dir), tell);
    let mut facts = gather(dir, &report, &mut progress)?;
    if !judge(&facts).iter().all(|finding| finding.severity < Severity::Damage) {
        keep_those_in(&ask()?, &mut facts);
    }
    let unsummed = facts.generations.iter().filter(|g| !is_judged(&g.sums));
    let mut unchecked: Vec<String> = unsummed
        .map(|g| format!("{}: has no whole `sums`, and its database is the node's while it runs", g.dir))
        .collect();
    facts.generations.retain(|generation| is_judged(&generation.sums));
    if let Some(active) = report.active_segment {
        unchecked.push(format!("{}: is being written", crate::journal::path_of(active)));
    }
    unchecked.push("views-a, views-b: change while the node runs".to_owned());
    let findings = judge(&facts);
    Ok(Verdict {
        sound: findings.iter().all(|finding| finding.severity < Severity::Damage),
        running: true,
        segments: facts.journal.segments.len() as u64,
        commits: facts.journal.segments.iter().map(|segment| segment.commits).sum(),
        events: facts.journal.segments.iter().map(|segment| segment.events).sum(),
        generations: facts.generations.len() as u64,
        bytes: progress.done(),
        findings,
        unchecked,
    })
}

fn is_judged(sums: &Checked) -> bool {
    matches!(sums, Checked::Whole | Checked::Bad(_))
}

fn gather(dir: &Path, report: &StoreReport, progress: &mut Progress<'_>) -> Result<Facts, InspectError> {
    let disk = ReadOnlyDisk::new(dir);
    let later = |version: u8| OpenError::Later { path: dir.to_owned(), found: version.to_string() };
    let identity = walk::identity_of(&disk).map_err(later)?.map(|(identity, _)| identity);
    let recovered = recover(&disk, identity).map_err(|error| recover_failed(dir, error))?;
    let mut segments = Vec::new();
    for found in &recovered.segments {
        let closed =
            matches!(found.source.end, End::At(_)) && report.active_segment != Some(found.source.number);
        if closed && report.segments.contains(&found.source.number) {
            let fact = walk::segment(found);
            progress.add(u64::from(fact.end), &fact.file);
            segments.push(fact);
        }
    }
    let mut generations = Vec::new();
    for (number, path) in list(dir)?.sealed {
        if report.generations.iter().any(|generation| generation.number == number) {
            generations.extend(walk::generation(dir, number, &path, None, progress)?);
        }
    }
    Ok(Facts {
        format: walk::format(dir),
        meta: walk::meta(&disk),
        journal: JournalFacts { segments, ..JournalFacts::default() },
        generations,
        leftovers: Vec::new(),
        sides: Vec::new(),
        whole: None,
        strange: walk::strange(dir),
    })
}

/// A segment that was used again, or a generation that was removed while it was read, is not damaged.
fn keep_those_in(report: &StoreReport, facts: &mut Facts) {
    let segments: HashSet<u32> = report.segments.iter().copied().collect();
    let generations: HashSet<u64> = report.generations.iter().map(|g| g.number).collect();
    let sound = |segment: &SegmentFact| segment.gaps.is_empty() && segment.headers == [Copy::Whole; 2];
    facts.journal.segments.retain(|segment| sound(segment) || segments.contains(&segment.number));
    facts.generations.retain(|g| g.sums == Checked::Whole || generations.contains(&g.number));
}
