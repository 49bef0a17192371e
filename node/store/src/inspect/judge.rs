//! What the facts mean. No I/O: the same facts give the same findings.

use super::facts::{
    Copy, Facts, GenerationFact, JournalFacts, MetaFact, ReadFact, SegmentFact, SideFact, WholeFacts,
};
use super::finding::{FileKind, Finding, Lost, Severity};
use crate::backing::Extent;
use crate::journal::header::HEADER_BYTES;
use crate::journal::reader::Gap;
use crate::spill::sums::{BadBlocks, Checked};
use crate::views::inspect::SideState;
use eventmesh_edge_core::event::Position;

/// Everything that is to be said, the worst first.
pub(crate) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    format(facts.format, &mut findings);
    meta(&facts.meta, &mut findings);
    journal(&facts.journal, &mut findings);
    end(&facts.journal, &facts.sides, &mut findings);
    for generation in &facts.generations {
        self::generation(generation, &mut findings);
    }
    sides(&facts.sides, &mut findings);
    if let Some(whole) = &facts.whole {
        self::whole(whole, &facts.generations, &mut findings);
    }
    for name in &facts.leftovers {
        let note = Finding::new(Severity::Note, FileKind::Generation, name.as_str());
        let what = "left by a seal or a removal that was under way: nothing of it counts";
        findings.push(note.what(what).effect("the next start removes it"));
    }
    for name in &facts.strange {
        let note = Finding::new(Severity::Note, FileKind::Other, name.as_str());
        findings.push(note.what("not a file of the store").effect("it is left alone"));
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

fn format(state: Copy, findings: &mut Vec<Finding>) {
    let effect = "the next start writes it again; `meta-*` and the journal say the version too";
    match state {
        Copy::Whole => {}
        Copy::Missing => {
            let note = Finding::new(Severity::Note, FileKind::Format, "format");
            findings.push(note.what("missing").effect(effect));
        }
        Copy::Unreadable => {
            let damage = Finding::new(Severity::Damage, FileKind::Format, "format");
            findings.push(damage.at(0, 0).what("does not say a version").effect(effect));
        }
    }
}

fn meta(copies: &[MetaFact], findings: &mut Vec<Finding>) {
    let whole = copies.iter().filter(|copy| copy.state == Copy::Whole).count();
    let effect = if whole > 0 {
        "the other copy serves; the next start writes both again"
    } else {
        "identity and epoch come from the journal; the next start writes both again"
    };
    for copy in copies {
        let found = |severity| Finding::new(severity, FileKind::Meta, copy.file);
        match copy.state {
            Copy::Whole => {}
            Copy::Missing => findings.push(found(Severity::Damage).what("missing").effect(effect)),
            Copy::Unreadable => {
                findings.push(found(Severity::Damage).at(0, 64).what("its checksum is wrong").effect(effect));
            }
        }
    }
    if let [Some(a), Some(b)] = copies.iter().map(|copy| copy.epoch).collect::<Vec<_>>().as_slice()
        && a != b
    {
        let torn = Finding::new(Severity::Torn, FileKind::Meta, "meta-b");
        let what = format!("epoch {b}, in `meta-a` epoch {a}: a start was cut short between the two");
        findings.push(torn.what(what).effect("the larger one counts"));
    }
}

fn journal(facts: &JournalFacts, findings: &mut Vec<Finding>) {
    for segment in &facts.segments {
        headers(segment, findings);
        frames(segment, findings);
    }
    for pair in facts.segments.windows(2) {
        if let [before, after] = pair {
            continuity(before, after, facts, findings);
        }
    }
    for (number, file, there) in &facts.unreadable {
        unreadable(*number, file, *there, facts, findings);
    }
    for file in &facts.foreign {
        let note = Finding::new(Severity::Damage, FileKind::JournalHeader, file.as_str());
        let what = "a segment of another log lies here: files of two data directories were mixed";
        findings.push(note.what(what).effect("the next start renames it to `.foreign` and leaves it"));
    }
}

fn headers(segment: &SegmentFact, findings: &mut Vec<Finding>) {
    let header = u64::from(HEADER_BYTES);
    let places = [0, segment.bytes.saturating_sub(header)];
    for (state, at) in segment.headers.iter().zip(places) {
        if *state == Copy::Whole {
            continue;
        }
        // Both copies are written before the first frame, and synced together.
        let cut_short = segment.newest && segment.commits == 0;
        let severity = if cut_short { Severity::Torn } else { Severity::Damage };
        let what = if at == 0 { "the header at the front is gone" } else { "the header at the end is gone" };
        let found = Finding::new(severity, FileKind::JournalHeader, segment.file.as_str()).at(at, header);
        findings.push(found.what(what).effect("the other copy serves"));
    }
}

fn frames(segment: &SegmentFact, findings: &mut Vec<Finding>) {
    for gap in &segment.gaps {
        findings.push(self::gap(segment, gap));
    }
    for (offset, position) in &segment.senseless {
        let found = Finding::new(Severity::Damage, FileKind::JournalFrame, segment.file.as_str());
        let found = found.at(u64::from(*offset), 0);
        let what = "a frame whose checksum holds makes no sense: a later version, or a bug of the writer";
        let found = found.what(what).effect("what makes no sense is left out and counted when it is read");
        findings.push(match position {
            Some(position) => found.lost(Lost::range(*position, Some(*position), Some(1))),
            None => found,
        });
    }
    if segment.torn_bytes > 0 {
        let torn = Finding::new(Severity::Torn, FileKind::JournalFrame, segment.file.as_str());
        let what = "a group that was being written when the node went down: nobody was answered for it";
        let torn = torn.at(u64::from(segment.end), segment.torn_bytes).what(what);
        findings.push(torn.effect("the next start cuts it off"));
    }
}

fn gap(segment: &SegmentFact, gap: &Gap) -> Finding {
    let bytes = u64::from(gap.to.saturating_sub(gap.from));
    let damage = Finding::new(Severity::Damage, FileKind::JournalFrame, segment.file.as_str());
    let damage =
        damage.at(u64::from(gap.from), bytes).what(format!("no frame checks here ({})", commits(gap)));
    if segment.sealed {
        return damage.effect("the events lie in a sealed generation too; state that the views lack is lost");
    }
    let first = gap.before.1;
    let (last, events) = match gap.after {
        Some((_, next)) => {
            (Some(Position(next.0.saturating_sub(1)).max(first)), Some(next.0.saturating_sub(first.0)))
        }
        None => (None, None),
    };
    let damage = damage.effect(
        "the next start copies the segment to `quarantine`, steps over this, and counts it in the ledger as damaged",
    );
    if events == Some(0) { damage } else { damage.lost(Lost::range(first, last, events)) }
}

fn commits(gap: &Gap) -> String {
    let first = gap.before.0.0 + 1;
    match gap.after {
        Some((next, _)) => format!("commits {first} to {}", next.0.saturating_sub(1).max(first)),
        None => format!("commits from {first}"),
    }
}

/// Commits are numbered without a hole; a number may come twice (a failed group that its segment kept).
fn continuity(before: &SegmentFact, after: &SegmentFact, facts: &JournalFacts, findings: &mut Vec<Finding>) {
    let explained = facts.unreadable.iter().any(|(n, ..)| (before.number..after.number).contains(n))
        || before.gaps.iter().any(|gap| gap.after.is_none());
    if after.first_lsn.0 > before.last_lsn.0 + 1 && !explained {
        let found = Finding::new(Severity::Damage, FileKind::JournalFrame, after.file.as_str());
        let what = format!(
            "begins with commit {}, the segment before it ends with {}",
            after.first_lsn.0, before.last_lsn.0
        );
        findings.push(found.at(0, u64::from(HEADER_BYTES)).what(what).effect("what is between is gone"));
    }
}

/// Nothing stands behind the end of the journal: only the views can tell that something is missing there.
fn end(facts: &JournalFacts, sides: &[SideFact], findings: &mut Vec<Finding>) {
    let Some(newest) = facts.segments.last() else { return };
    let proven = sides.iter().filter_map(|side| side_lsn(&side.state)).max().unwrap_or(0);
    let found = |severity| {
        Finding::new(severity, FileKind::JournalFrame, newest.file.as_str()).at(u64::from(newest.end), 0)
    };
    if proven > newest.last_lsn.0 {
        let what = format!("the journal ends with commit {}, the views have {proven}", newest.last_lsn.0);
        let effect = "the next start counts the events between in the ledger as damaged";
        findings.push(found(Severity::Damage).what(what).effect(effect));
    } else if newest.commits > 0 && !newest.clean_end && newest.torn_bytes == 0 {
        let what = "no mark of an orderly end: the node was killed, or lost its power";
        let effect =
            "this is taken for the end: whoever was answered stands before it, unless the disk lost it";
        findings.push(found(Severity::Note).what(what).effect(effect));
    }
}

fn unreadable(number: u32, file: &str, there: bool, facts: &JournalFacts, findings: &mut Vec<Finding>) {
    let found = Finding::new(Severity::Damage, FileKind::JournalHeader, file);
    let (what, found) = if there {
        ("both headers are gone: nothing in it can be understood", found.at(0, u64::from(HEADER_BYTES)))
    } else {
        ("the file is missing, a later segment continues it", found)
    };
    let next = facts.segments.iter().find(|segment| segment.number > number);
    let effect = if next.is_some() {
        "the next start counts what lies between its neighbours in the ledger as damaged"
    } else {
        "the next start counts it in the ledger as damaged"
    };
    findings.push(found.what(what).effect(effect));
}

fn generation(fact: &GenerationFact, findings: &mut Vec<Finding>) {
    let inside = |name: &str| format!("{}/{name}", fact.dir);
    match &fact.sums {
        Checked::Whole => {}
        Checked::Bad(blocks) => findings.extend(blocks.iter().map(|bad| bad_blocks(fact, bad))),
        Checked::Unknown => {
            let note = Finding::new(Severity::Note, FileKind::GenerationSums, inside("sums"));
            let what = "missing: sealed by an earlier version; each entry was checked instead";
            findings.push(note.what(what));
        }
        Checked::Unreadable => {
            let damage = Finding::new(Severity::Damage, FileKind::GenerationSums, inside("sums"));
            let what = "its checksum is wrong; each entry of the database was checked instead";
            findings.push(damage.at(0, 0).what(what).effect("nothing is lost by it"));
        }
    }
    if fact.extents_whole != Some(true) && !is_bad(fact, "extents") {
        let what = if fact.extents_whole.is_none() { "missing" } else { "its checksum is wrong" };
        let damage = Finding::new(Severity::Damage, FileKind::GenerationExtents, inside("extents"));
        findings.push(damage.what(what).effect("the database has the same; the next start writes it again"));
    }
    match &fact.read {
        None => {}
        Some(Err(why)) => findings.push(cannot_be_opened(fact, why)),
        Some(Ok(read)) => lost_records(fact, read, findings),
    }
}

fn is_bad(fact: &GenerationFact, name: &str) -> bool {
    matches!(&fact.sums, Checked::Bad(blocks) if blocks.iter().any(|bad| bad.name == name))
}

fn bad_blocks(fact: &GenerationFact, bad: &BadBlocks) -> Finding {
    let (kind, effect) = match (bad.name.as_str(), &fact.read) {
        ("extents", _) => {
            (FileKind::GenerationExtents, "the database has the same; the next start writes it again")
        }
        (_, Some(Ok(read))) if read.lost.is_empty() => {
            (FileKind::Generation, "no record is in there: every event can be read all the same")
        }
        _ => (FileKind::Generation, "see below for what of it can be read"),
    };
    let found = Finding::new(Severity::Damage, kind, format!("{}/{}", fact.dir, bad.name));
    let found = found.at(bad.from, bad.to.saturating_sub(bad.from));
    found.what("not what was sealed").effect(effect)
}

fn cannot_be_opened(fact: &GenerationFact, why: &str) -> Finding {
    let found = Finding::new(Severity::Damage, FileKind::Generation, fact.dir.as_str());
    let effect =
        "whoever reads it first moves it to `quarantine` and counts its events in the ledger as damaged";
    found.what(format!("cannot be opened: {why}")).effect(effect)
}

fn lost_records(fact: &GenerationFact, read: &ReadFact, findings: &mut Vec<Finding>) {
    for lost in &read.lost {
        let found = Finding::new(Severity::Damage, FileKind::Generation, fact.dir.as_str());
        let what = format!("records of stream number {} cannot be read", lost.stream.0);
        let effect = "whoever reads past them counts them in the ledger as damaged; the rest is served";
        let range = Lost::range(lost.first, Some(lost.last), Some(lost.events));
        findings.push(found.what(what).effect(effect).lost(range));
    }
}

fn sides(sides: &[SideFact], findings: &mut Vec<Finding>) {
    let newest = sides.iter().filter_map(|side| side_lsn(&side.state)).max();
    let stands_in = if newest.is_some() {
        "the other side takes over, and the journal makes it whole; the next start moves this one to `quarantine`"
    } else {
        "the next start moves it to `quarantine` and rebuilds what the journal still holds; older state is lost"
    };
    for side in sides {
        let proof = format!("{}.proof", side.label);
        let (kind, file, what) = match &side.state {
            SideState::Empty | SideState::Sound { .. } => continue,
            SideState::ProofDamaged => (FileKind::ViewsProof, proof, "its checksum is wrong".to_owned()),
            SideState::Missing => {
                (FileKind::Views, side.label.to_owned(), "proven, and the directory is missing".to_owned())
            }
            SideState::Damaged(why) => (FileKind::Views, side.label.to_owned(), why.clone()),
        };
        let found = Finding::new(Severity::Damage, kind, file);
        let found = if kind == FileKind::ViewsProof { found.at(0, 41) } else { found };
        findings.push(found.what(what).effect(stands_in));
    }
}

fn side_lsn(state: &SideState) -> Option<u64> {
    match state {
        SideState::Sound { lsn, .. } => Some(lsn.0),
        _ => None,
    }
}

fn whole(whole: &WholeFacts, generations: &[GenerationFact], findings: &mut Vec<Finding>) {
    for (stream, uplink, acked) in &whole.cursors {
        if *acked > whole.last_position {
            let found = Finding::new(Severity::Damage, FileKind::Whole, "cursors");
            let uplink = uplink.as_deref().unwrap_or("none yet");
            let what = format!(
                "stream {stream:?}, uplink {uplink:?}: acknowledged up to {acked}, and the last event is {}",
                whole.last_position
            );
            findings
                .push(found.what(what).effect("positions only grow: new events come after it all the same"));
        }
    }
    for (session, noted, found) in &whole.mailboxes {
        let finding = Finding::new(Severity::Damage, FileKind::Whole, "mailboxes");
        let what = format!(
            "session {session}: said to hold {} messages of {} bytes, holds {} of {}",
            noted.0, noted.1, found.0, found.1
        );
        findings.push(finding.what(what).effect("its budget is off by the difference until it is empty"));
    }
    for line in &whole.ledger {
        let finding = Finding::new(Severity::Damage, FileKind::Whole, "ledger");
        findings.push(finding.what(format!("a line cannot be: {line}")));
    }
    for (number, extents) in &whole.missing_generations {
        if generations.iter().any(|fact| fact.number == *number) {
            continue;
        }
        let found = Finding::new(Severity::Damage, FileKind::Generation, format!("generations/{number:020}"));
        let effect = "the next start counts what cursors have not passed in the ledger as damaged";
        let found = found.what("the views know it, the disk has it not").effect(effect);
        findings.push(match sum(extents) {
            Some((first, last, events)) => found.lost(Lost::range(first, Some(last), Some(events))),
            None => found,
        });
    }
}

fn sum(extents: &[Extent]) -> Option<(Position, Position, u64)> {
    let first = extents.iter().map(|e| e.first).min()?;
    let last = extents.iter().map(|e| e.last).max()?;
    Some((first, last, extents.iter().map(|e| e.events).sum()))
}

#[cfg(test)]
mod tests {
    use super::super::facts::JournalFacts;
    use super::*;
    use crate::backing::Lsn;

    fn facts() -> Facts {
        let copy = |file| MetaFact { file, state: Copy::Whole, epoch: Some(3) };
        Facts {
            format: Copy::Whole,
            meta: vec![copy("meta-a"), copy("meta-b")],
            journal: JournalFacts {
                segments: vec![segment(1, 1, 9), segment(2, 10, 19)],
                ..JournalFacts::default()
            },
            generations: Vec::new(),
            leftovers: Vec::new(),
            sides: Vec::new(),
            whole: Some(WholeFacts { last_position: Position::first_of(3), ..WholeFacts::default() }),
            strange: Vec::new(),
        }
    }

    fn segment(number: u32, first: u64, last: u64) -> SegmentFact {
        SegmentFact {
            number,
            file: format!("journal/{number:08x}.seg"),
            bytes: 4 << 20,
            headers: [Copy::Whole; 2],
            newest: number == 2,
            sealed: false,
            first_lsn: Lsn(first),
            last_lsn: Lsn(last),
            commits: last + 1 - first,
            events: 40,
            end: 5000,
            torn_bytes: 0,
            clean_end: number == 2,
            gaps: Vec::new(),
            senseless: Vec::new(),
        }
    }

    fn only(facts: &Facts) -> Finding {
        let findings = judge(facts);
        assert_eq!(findings.len(), 1, "{findings:#?}");
        findings.into_iter().next().unwrap()
    }

    #[test]
    fn nothing_wrong_is_nothing_said() {
        assert_eq!(judge(&facts()), []);
    }

    #[test]
    fn a_header_is_torn_only_where_nothing_was_written_behind_it() {
        let mut facts = facts();
        facts.journal.segments[1].headers[0] = Copy::Unreadable;
        assert_eq!(only(&facts).severity, Severity::Damage);
        facts.journal.segments[1].commits = 0;
        assert_eq!(only(&facts).severity, Severity::Torn);
        facts.journal.segments[1].headers = [Copy::Whole, Copy::Unreadable];
        assert_eq!(only(&facts).offset, Some((4 << 20) - 64));
    }

    #[test]
    fn a_gap_names_its_bytes_commits_and_positions_and_costs_nothing_where_a_generation_has_it() {
        let mut facts = facts();
        let at = |counter: u64| Position(Position::first_of(3).0 + counter - 1);
        let gap = Gap { from: 200, to: 300, before: (Lsn(4), at(20)), after: Some((Lsn(7), at(25))) };
        facts.journal.segments[0].gaps.push(gap);
        let finding = only(&facts);
        assert_eq!((finding.offset, finding.bytes), (Some(200), Some(100)));
        assert_eq!(
            finding.lost,
            Some(Lost { events: Some(5), first: "3.20".into(), last: Some("3.24".into()) })
        );
        let text = finding.to_string();
        assert!(
            text.starts_with("DAMAGE: journal/00000001.seg at 200, 100 bytes: ")
                && text.contains("commits 5 to 6")
        );
        facts.journal.segments[0].sealed = true;
        assert_eq!(only(&facts).lost, None);
    }

    #[test]
    fn commits_that_are_missing_between_segments_are_seen_and_repeated_ones_are_not_damage() {
        let mut facts = facts();
        facts.journal.segments[1].first_lsn = Lsn(9);
        assert_eq!(judge(&facts), []);
        facts.journal.segments[1].first_lsn = Lsn(12);
        assert!(only(&facts).what.contains("begins with commit 12"));
        // Two findings would say the same thing twice.
        facts.journal.segments[1].number = 3;
        facts.journal.unreadable.push((2, "journal/00000002.seg".to_owned(), false));
        assert!(only(&facts).what.contains("missing"));
    }

    #[test]
    fn an_end_is_damage_only_where_the_views_know_of_more() {
        let mut facts = facts();
        let sound = |lsn| SideFact {
            label: "views-a",
            state: SideState::Sound { lsn: Lsn(lsn), parts: 4, bytes: 90 },
        };
        facts.sides = vec![sound(19)];
        assert_eq!(judge(&facts), []);
        facts.journal.segments[1].clean_end = false;
        assert_eq!(only(&facts).severity, Severity::Note);
        facts.journal.segments[1].torn_bytes = 9;
        assert_eq!(only(&facts).severity, Severity::Torn);
        facts.journal.segments[1].torn_bytes = 0;
        facts.sides = vec![sound(22)];
        let finding = only(&facts);
        assert_eq!((finding.severity, finding.offset), (Severity::Damage, Some(5000)));
        assert!(finding.what.contains("ends with commit 19, the views have 22"), "{finding}");
    }

    #[test]
    fn figures_that_cannot_be_are_damage() {
        let mut facts = facts();
        let whole = facts.whole.as_mut().unwrap();
        let beyond = Position(Position::first_of(3).0 + 1);
        whole.cursors.push(("telemetry".to_owned(), None, beyond));
        whole.mailboxes.push((7, (3, 300), (2, 200)));
        let findings = judge(&facts);
        assert!(findings.iter().all(|finding| finding.severity == Severity::Damage), "{findings:#?}");
        assert!(findings[0].what.contains("acknowledged up to 3.2"), "{findings:#?}");
        assert!(findings[1].what.contains("said to hold 3 messages"), "{findings:#?}");
    }

    #[test]
    fn epochs_that_differ_tell_of_a_start_that_was_cut_short() {
        let mut facts = facts();
        facts.meta[0].epoch = Some(4);
        assert_eq!(only(&facts).severity, Severity::Torn);
        facts.meta[1].state = Copy::Unreadable;
        facts.meta[1].epoch = None;
        assert_eq!(only(&facts).severity, Severity::Damage);
    }
}
