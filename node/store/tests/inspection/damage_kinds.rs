//! Bit flips and zeroed blocks in every kind of file (P2, P6): found where they are, never a reason not to start, what is
//! missing is counted, the rest is served, and nothing is invented.

use crate::world::{
    DOWN, MAIL, OTHER, RETAINED, UP, WORLD, counted, damage, event, image, inspect, open, verify, waiting,
};
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::{Consumer, Store, Table};
use eventmesh_edge_store::inspect::{FileKind, Finding, InspectOptions, Severity, Verdict, repair};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const BLOCK: usize = 4096;

/// One wound.
#[derive(Clone, Copy, Debug)]
enum Wound {
    Bit(usize),
    Zeros(usize),
}

impl Wound {
    /// The bytes that it changes, or `None` if there is nothing to change.
    fn inflict(self, bytes: &mut [u8]) -> Option<std::ops::Range<usize>> {
        match self {
            Wound::Bit(at) => {
                *bytes.get_mut(at)? ^= 0x10;
                Some(at..at + 1)
            }
            Wound::Zeros(at) => {
                let end = (at + BLOCK).min(bytes.len());
                let block = bytes.get_mut(at..end)?;
                let first = block.iter().position(|b| *b != 0)?;
                let last = block.iter().rposition(|b| *b != 0)?;
                block.fill(0);
                Some(at + first..at + last + 1)
            }
        }
    }
}

/// What a start made of a directory.
struct Started {
    found: Vec<(Consumer, BTreeSet<Position>)>,
    counted: Vec<u64>,
    retained: u64,
    mail: u64,
    torn: bool,
}

/// Starts, reads everything, stops, and looks at the ledger after another start: what a read meets is counted then.
fn start(dir: &Path) -> Started {
    let (store, opened) = open(dir).unwrap_or_else(|error| panic!("does not start: {error}"));
    let consumers = [UP, DOWN, OTHER];
    let mut found = Vec::new();
    for consumer in consumers {
        let events = waiting(&store, consumer);
        for stored in &events {
            let wanted = WORLD.all.get(&stored.position).map(|n| event(*n));
            assert!(wanted.as_ref() == Some(&stored.event), "invented: {}", stored.position);
        }
        found.push((consumer, events.iter().map(|event| event.position).collect()));
    }
    let retained = (0..RETAINED)
        .filter(|n| store.get(Table::Retained, format!("plant/{n}").as_bytes()).is_ok_and(|v| v.is_some()))
        .count() as u64;
    let mail = store.mailbox_len(MAIL).0;
    store.close();
    drop(store);
    let (store, _) = open(dir).unwrap_or_else(|error| panic!("does not start again: {error}"));
    let counted = consumers.map(|consumer| counted(&store, consumer)).to_vec();
    store.close();
    Started { found, counted, retained, mail, torn: opened.torn_bytes > 0 || !opened.clean }
}

/// Wounds spread over a file: its first and last bytes, and places between.
fn wounds(len: usize, many: usize) -> Vec<Wound> {
    let mut wounds = vec![Wound::Bit(0), Wound::Bit(len - 1), Wound::Zeros(0)];
    for step in 1..=many {
        let at = len * step / (many + 1);
        wounds.push(Wound::Bit(at));
        if at >= BLOCK {
            wounds.push(Wound::Zeros(at / BLOCK * BLOCK));
        }
    }
    wounds
}

struct Case {
    name: String,
    range: std::ops::Range<usize>,
    wound: Wound,
    verdict: Verdict,
    started: Started,
}

impl Case {
    fn missing(&self, whole: &Started) -> Vec<u64> {
        let pairs = whole.found.iter().zip(&self.started.found);
        pairs
            .map(|((_, wanted), (_, found))| {
                assert!(found.is_subset(wanted), "more than there was: {} {:?}", self.name, self.wound);
                wanted.difference(found).count() as u64
            })
            .collect()
    }

    fn names_it(&self, finding: &Finding) -> bool {
        let at = |range: std::ops::Range<u64>| {
            range.start < self.range.end as u64 && (self.range.start as u64) < range.end
        };
        finding.severity == Severity::Damage
            && finding.file == self.name
            && finding
                .offset
                .zip(finding.bytes)
                .is_none_or(|(from, bytes)| bytes == 0 || at(from..from + bytes))
    }
}

fn run(select: impl Fn(&str) -> bool, many: usize, check: impl Fn(&Case, &Started)) -> usize {
    let whole = {
        let (_root, dir) = WORLD.copy();
        start(&dir)
    };
    let mut cases = 0;
    for (name, bytes) in image(&WORLD.dir) {
        if bytes.is_empty() || !select(&name) {
            continue;
        }
        for wound in wounds(bytes.len(), many) {
            let mut bytes = bytes.clone();
            let Some(range) = wound.inflict(&mut bytes) else { continue };
            let (_root, dir) = WORLD.copy();
            fs::write(dir.join(&name), bytes).unwrap();
            let before = image(&dir);
            let verdict = verify(&dir);
            assert!(before == image(&dir), "verify changed a byte: {name} {wound:?}");
            let started = start(&dir);
            let case = Case { name: name.clone(), range, wound, verdict, started };
            for (missing, counted) in case.missing(&whole).iter().zip(&case.started.counted) {
                let said = case.started.torn || counted >= missing;
                assert!(said, "{missing} missing, {counted} counted: {name} {wound:?}");
            }
            check(&case, &whole);
            cases += 1;
        }
    }
    cases
}

#[test]
fn identity_and_format() {
    let select = |name: &str| name.starts_with("meta-") || name == "format";
    let cases = run(select, 4, |case, whole| {
        assert!(case.verdict.findings.iter().any(|finding| case.names_it(finding)), "{:?}", case.verdict);
        assert_eq!(case.missing(whole), [0, 0, 0], "{}", case.name);
        assert_eq!(case.started.retained, u64::from(RETAINED));
    });
    assert!(cases >= 20, "{cases}");
}

#[test]
fn journal_segments() {
    let report = inspect(&WORLD.dir).report();
    let used: Vec<String> = report.segments.iter().map(|n| format!("journal/{n:08x}.seg")).collect();
    let newest = used.last().cloned().unwrap();
    let picked: Vec<String> =
        [&used[0], &used[used.len() / 2], &used[used.len() - 2], &newest].map(Clone::clone).to_vec();
    let seen = std::cell::RefCell::new([0u32; 2]);
    let cases = run(
        |name| picked.iter().any(|picked| picked == name),
        4,
        |case, _| {
            let named = case.verdict.findings.iter().find(|finding| case.names_it(finding));
            // Behind the last frame there is nothing to damage, and the last groups of the newest segment are a torn tail, or
            // the end of a node that was killed: nothing tells of more.
            if let Some(finding) = named {
                let of_headers = finding.kind == FileKind::JournalHeader;
                seen.borrow_mut()[usize::from(of_headers)] += 1;
            } else {
                let torn = case.verdict.findings.iter().any(|f| f.file == case.name);
                let end = frames_end(&case.name);
                assert!(
                    torn || case.range.start >= end,
                    "not seen: {} {:?} {:#?}",
                    case.name,
                    case.wound,
                    damage(&case.verdict)
                );
            }
        },
    );
    let [frames, headers] = *seen.borrow();
    assert!(
        cases >= 20 && frames >= 8 && headers >= 5,
        "{cases} cases, {frames} in frames, {headers} in headers"
    );
}

/// Where the frames of a segment of the whole world end.
fn frames_end(name: &str) -> usize {
    let bytes = fs::read(WORLD.dir.join(name)).unwrap();
    let mut at = 64;
    while let Some(len) = bytes.get(at..at + 4).map(|b| u32::from_le_bytes(b.try_into().unwrap()) as usize) {
        if len == 0 || at + 8 + len > bytes.len() - 64 {
            break;
        }
        at += 8 + len;
    }
    at
}

#[test]
fn sealed_generations() {
    let first = inspect(&WORLD.dir).report().generations[0].number;
    let dir = format!("generations/{first:020}/");
    let kinds = std::cell::RefCell::new(BTreeSet::new());
    let cases = run(
        |name| name.starts_with(&dir),
        3,
        |case, whole| {
            let named: Vec<_> =
                case.verdict.findings.iter().filter(|finding| case.names_it(finding)).collect();
            assert!(
                !named.is_empty(),
                "not seen: {} {:?} {:#?}",
                case.name,
                case.wound,
                damage(&case.verdict)
            );
            kinds.borrow_mut().extend(named.iter().map(|finding| finding.kind));
            let cost = case.missing(whole);
            if case.name.ends_with("/extents") || case.name.ends_with("/sums") || case.name.ends_with("/conf")
            {
                assert_eq!(cost, [0, 0, 0], "the database has everything: {} {:?}", case.name, case.wound);
            }
            assert_eq!(cost[0], 0, "who has acknowledged everything misses nothing");
            assert_eq!(case.started.retained, u64::from(RETAINED));
        },
    );
    let kinds = kinds.into_inner();
    let wanted = [FileKind::Generation, FileKind::GenerationExtents, FileKind::GenerationSums];
    assert!(cases >= 18 && wanted.iter().all(|kind| kinds.contains(kind)), "{cases} {kinds:?}");
}

#[test]
fn views_and_their_proofs() {
    let cases = run(
        |name| name.starts_with("views-"),
        3,
        |case, whole| {
            // sled's room that no entry uses any more may be changed: then every entry reads back as proven.
            let side = case.name.split(['/', '.']).next().unwrap();
            let seen = case
                .verdict
                .findings
                .iter()
                .any(|f| f.severity == Severity::Damage && f.file.starts_with(side));
            assert!(seen || !case.name.ends_with(".proof"), "not seen: {} {:?}", case.name, case.wound);
            // One side is always whole, and the journal has what it lacks.
            assert_eq!(case.missing(whole), [0, 0, 0], "{} {:?}", case.name, case.wound);
            assert_eq!(case.started.retained, u64::from(RETAINED), "{} {:?}", case.name, case.wound);
            assert_eq!(case.started.mail, whole.mail, "{} {:?}", case.name, case.wound);
        },
    );
    assert!(cases >= 18, "{cases}");
}

/// What `repair` says beforehand is what it counts, and afterwards the journal and the views are sound.
#[test]
fn repair_does_what_was_said() {
    let report = inspect(&WORLD.dir).report();
    let middle = format!("journal/{:08x}.seg", report.segments[report.segments.len() - 2]);
    let (_root, dir) = WORLD.copy();
    let mut bytes = fs::read(dir.join(&middle)).unwrap();
    Wound::Zeros(2 * BLOCK).inflict(&mut bytes).unwrap();
    fs::write(dir.join(&middle), bytes).unwrap();
    flip(&dir.join("views-a.proof"));
    let said = inspect(&dir).report().pending_losses;
    assert_eq!(said.len(), 1, "{said:?}");
    let done = repair(&dir, &InspectOptions::default(), crate::world::clock()).unwrap();
    assert_eq!(done.counted, said);
    assert_eq!(done.opened.damaged.len(), 1);
    let counted = done.report.ledger.iter().find(|line| line.reason == "damaged").unwrap();
    assert_eq!(Some(counted.events), said[0].lost.events);
    assert_eq!(done.report.pending_losses, [], "counted once");
    assert!(dir.join("quarantine").is_dir());
    let after = verify(&dir);
    let views: Vec<_> = after.findings.iter().filter(|f| f.kind == FileKind::ViewsProof).collect();
    assert!(views.is_empty(), "{views:?}");
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[10] ^= 4;
    fs::write(path, bytes).unwrap();
}

/// An uplink that comes by again, and every further start: the ledger says what it said.
#[test]
fn damage_is_counted_once() {
    let report = inspect(&WORLD.dir).report();
    let generation = format!("generations/{:020}/db", report.generations[0].number);
    let segment = format!("journal/{:08x}.seg", report.segments[report.segments.len() - 2]);
    let mut counts = 0;
    for (name, at) in [(&generation, 4), (&generation, 6), (&generation, 9), (&segment, 2), (&segment, 5)] {
        let (_root, dir) = WORLD.copy();
        let mut bytes = fs::read(dir.join(name)).unwrap();
        let place = bytes.len().min(200_000) * at / 12;
        bytes[place..place + 600].fill(0x5a);
        fs::write(dir.join(name), bytes).unwrap();
        let mut told = Vec::new();
        for _ in 0..3 {
            let (store, _) = open(&dir).unwrap();
            let first = waiting(&store, DOWN).len() as u64;
            assert_eq!(waiting(&store, DOWN).len() as u64, first);
            assert_eq!(store.backlog(DOWN).events, first, "{name} at {place}");
            store.close();
            drop(store);
            let (store, _) = open(&dir).unwrap();
            told.push(counted(&store, DOWN));
            store.close();
        }
        assert_eq!(told, [told[0]; 3], "{name} at {place}");
        counts += told[0];
    }
    assert!(counts > 0);
}
