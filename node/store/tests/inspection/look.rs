//! Looking at a sound store, a running one, and at what is none.

use crate::world::{
    DOWN, OTHER, RETAINED, UP, WORLD, clock, image, inspect, open, options, spec, verify, waiting,
};
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::Store;
use eventmesh_edge_store::inspect::{InspectError, InspectOptions, Inspection, Severity, verify_running};
use eventmesh_edge_store::{JournalStore, OpenError};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[test]
fn a_sound_store_is_called_sound_and_looking_changes_nothing() {
    let before = image(&WORLD.dir);
    let inspection = inspect(&WORLD.dir);
    let verdict = inspection.verify(&mut |_, _, _| {}).unwrap();
    assert!(verdict.sound, "{:#?}", verdict.findings);
    assert!(verdict.findings.is_empty(), "{:#?}", verdict.findings);
    assert!(verdict.generations >= 2 && verdict.segments >= 2 && verdict.events > 200, "{verdict:?}");
    let report = inspection.report();
    assert_eq!(report.pending_losses, []);
    read_all(&inspection, 1);
    drop(inspection);
    assert!(image(&WORLD.dir) == before, "a byte was changed");
}

/// Positions of everything of a stream, by its number.
fn read_all(inspection: &Inspection, stream: u32) -> Vec<Position> {
    let (mut after, mut all) = (Position::ZERO, Vec::new());
    loop {
        let page = inspection.read_stream(stream, after, 37, 20_000).unwrap();
        assert_eq!(page.lost, []);
        assert!(page.at_end || page.through > after, "progress");
        after = page.through;
        all.extend(page.events.iter().map(|event| event.position));
        if page.at_end {
            return all;
        }
    }
}

#[test]
fn the_report_is_what_the_store_itself_says() {
    let (_root, dir) = WORLD.copy();
    let inspection = inspect(&dir);
    let report = inspection.report();
    let spec_found = inspection.spec();
    let read: Vec<Vec<Position>> = [1, 2].map(|no| read_all(&inspection, no)).to_vec();
    drop(inspection);
    assert_eq!(spec_found.streams.iter().map(|s| &*s.name).collect::<Vec<_>>(), ["kept", "other"]);
    assert_eq!(spec_found.uplinks, spec().uplinks);
    assert_eq!(spec_found.streams[0].uplinks, spec().streams[0].uplinks);
    assert_eq!(spec_found.mailbox_max_events, 100);

    let (store, _) = open(&dir).unwrap();
    let kept = &report.streams[0];
    for (index, consumer) in [(0, UP), (1, DOWN)] {
        let told = store.backlog(consumer);
        let found = &kept.consumers[index];
        assert_eq!((found.events, found.bytes), (told.events, told.bytes), "{found:?}");
        assert_eq!(found.cursor, told.acked.to_string());
    }
    assert_eq!(report.streams[1].consumers[0].events, store.backlog(OTHER).events);
    assert_eq!(report.streams[1].consumers[0].uplink, None);
    let down: BTreeSet<Position> = waiting(&store, DOWN).iter().map(|event| event.position).collect();
    assert!(down.iter().all(|position| read[0].contains(position)), "what waits can be read");
    assert!(read[0].is_sorted() && read[0].iter().all(|p| WORLD.all.contains_key(p)));
    assert_eq!(report.state.retained, u64::from(RETAINED));
    assert_eq!(report.state.mailboxes, 1);
    assert_eq!(report.state.mailbox_events, store.mailbox_len(crate::world::MAIL).0);
    assert_eq!(kept.events, read[0].len() as u64, "held is what can be read");
}

#[test]
fn a_running_store_answers_for_itself_and_its_sealed_files_are_checked_beside_it() {
    let (_root, dir) = WORLD.copy();
    let stopped = inspect(&dir).report();
    let (store, _) = open(&dir).unwrap();
    let refused = Inspection::open(&dir, &InspectOptions::default()).err().unwrap();
    assert!(matches!(refused, InspectError::Open(OpenError::InUse { .. })), "{refused}");
    let report = store.report(&dir);
    assert!(report.running);
    assert_eq!(report.streams, stopped.streams);
    assert_eq!(report.state, stopped.state);
    let mut after = Position::ZERO;
    let mut events = 0;
    loop {
        let page = store.read_stream(1, after, 100, 1 << 20).unwrap();
        (after, events) = (page.through, events + page.events.len() as u64);
        if page.at_end {
            break;
        }
    }
    assert_eq!(events, report.streams[0].events);
    let mut ask = || Ok::<_, InspectError>(store.report(&dir));
    let verdict = verify_running(&dir, &mut ask, &mut |_, _, _| {}).unwrap();
    assert!(verdict.sound && verdict.running && verdict.generations >= 2, "{verdict:#?}");
    // A flipped bit in a generation that the node has.
    let number = report.generations[0].number;
    let db = dir.join(format!("generations/{number:020}/db"));
    flip(&db, 5000);
    let mut ask = || Ok::<_, InspectError>(store.report(&dir));
    let verdict = verify_running(&dir, &mut ask, &mut |_, _, _| {}).unwrap();
    assert!(!verdict.sound && verdict.findings[0].offset == Some(4096), "{verdict:#?}");
    // Once the node is done with it, it is nobody's damage any more.
    let mut asked = 0;
    let mut ask = || {
        asked += 1;
        let mut report = store.report(&dir);
        report.generations.retain(|g| asked == 1 || g.number != number);
        Ok::<_, InspectError>(report)
    };
    let verdict = verify_running(&dir, &mut ask, &mut |_, _, _| {}).unwrap();
    assert!(verdict.sound && asked == 2, "{verdict:#?}");
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_torn_tail_is_told_from_damage() {
    let (_root, dir) = WORLD.copy();
    // What a kill leaves: no orderly end, and half a group behind the last good one.
    let report = inspect(&dir).report();
    let newest = dir.join(format!("journal/{:08x}.seg", report.segments.last().unwrap()));
    let mut bytes = fs::read(&newest).unwrap();
    let mut end = 64;
    loop {
        let len = u32::from_le_bytes(bytes[end..end + 4].try_into().unwrap()) as usize;
        if len == 0 {
            break;
        }
        end += 8 + len;
    }
    bytes[end..end + 30].copy_from_slice(&[
        0x40, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24,
        25, 26,
    ]);
    fs::write(&newest, bytes).unwrap();
    let verdict = verify(&dir);
    assert!(verdict.sound, "{:#?}", verdict.findings);
    let torn: Vec<_> = verdict.findings.iter().filter(|f| f.severity == Severity::Torn).collect();
    assert_eq!(torn.len(), 1);
    assert_eq!(torn[0].offset, Some(end as u64));
}

#[test]
fn what_is_no_store_or_cannot_be_read_says_so() {
    let root = tempfile::tempdir().unwrap();
    let refused = |path: &Path| match Inspection::open(path, &InspectOptions::default()) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error.to_string(),
    };
    let text = refused(&root.path().join("nowhere"));
    assert!(text.contains("holds no store") && text.contains("--data-dir"), "{text}");
    assert!(!root.path().join("nowhere").exists(), "nothing is made by looking");
    fs::write(root.path().join("thesis.tex"), "x").unwrap();
    assert!(refused(root.path()).contains("holds no store"));
    assert!(refused(&root.path().join("thesis.tex")).contains("is not a directory"));
    let (_root, dir) = WORLD.copy();
    fs::write(dir.join("format"), "eventmesh-edge store 9\n").unwrap();
    assert!(refused(&dir).contains("format version 9"));
}

/// A copy that somebody made with the lock file left out, read-only: a backup is looked at where it lies.
#[test]
fn a_backup_without_a_lock_file_can_be_looked_at() {
    let (_root, dir) = WORLD.copy();
    fs::remove_file(dir.join("lock")).unwrap();
    assert!(verify(&dir).sound);
    assert!(!dir.join("lock").exists());
}

#[test]
fn opening_with_what_the_directory_remembers_gives_nothing_up() {
    let (_root, dir) = WORLD.copy();
    let inspection = inspect(&dir);
    let (remembered, before) = (inspection.spec(), inspection.report());
    drop(inspection);
    let (store, _) = JournalStore::open(&dir, remembered, &options(), clock()).unwrap();
    store.close();
    drop(store);
    let after = inspect(&dir).report();
    assert_eq!(after.streams, before.streams);
    assert_eq!(after.ledger, before.ledger);
    assert_eq!(after.state, before.state);
}
