//! The end of the journal, and the ends of earlier runs in it: what stood there is counted as soon as anything proves that it
//! was there (P2), and is taken for a group that was being written where nothing does.

use super::support::*;
use bytes::Bytes;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::{Commit, LossReason, StateChange, StateValue, Store, Table};
use eventmesh_edge_store::sim_disk::{Fault, Kind};
use eventmesh_edge_store::{SimSite, SteppedStore};

fn put(n: u64, bytes: usize) -> Commit {
    let value = StateValue::Bytes(Bytes::from(vec![b'v'; bytes]));
    let key = Bytes::from(format!("key-{n}"));
    Commit { state: vec![StateChange::Put { table: Table::Retained, key, value }], ..Commit::default() }
}

fn commits(store: &SteppedStore, numbers: std::ops::Range<u64>) -> Vec<Position> {
    numbers.flat_map(|n| commit(store, to_stream(0, [event("s", n, 40)])).unwrap()).collect()
}

fn used(site: &SimSite) -> Vec<String> {
    segment_files(site).into_iter().filter(|p| site.disk_read(p).starts_with(b"EMESHJNL")).collect()
}

fn zero(site: &SimSite, path: &str, from: usize, to: usize) {
    site.disk.corrupt(path, from, |bytes| bytes[..to - from].fill(0));
}

/// What a consumer finds, and what is counted as damaged; the same after each of two more starts.
fn started(site: &SimSite) -> (Vec<Position>, u64) {
    let (store, _) = open(site);
    let found = positions(&read_after(&store, A, Position::ZERO));
    let counted = lost(&store, LossReason::Damaged);
    for _ in 0..2 {
        store.close();
        let (store, _) = open(site);
        assert_eq!(lost(&store, LossReason::Damaged), counted, "counted once");
        store.close();
    }
    (found, counted)
}

/// A block over the end of a run, its mark of an orderly end included: the next run's first frame says what stood there.
#[test]
fn the_damaged_end_of_an_earlier_run_is_counted_by_what_the_next_one_noted() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    let mut all = commits(&store, 0..12);
    store.close();
    let (store, _) = open(&site);
    all.extend(commits(&store, 12..14));
    store.close();
    let path = used(&site)[0].clone();
    let frames = frames(&site.disk_read(&path));
    let end = frames.last().unwrap().1;
    // Behind the commits stands the mark of an orderly end.
    let events: Vec<(usize, usize)> = frames.iter().rev().skip(1).take(12).rev().copied().collect();
    for (n, (start, _)) in events.iter().enumerate() {
        let damaged = fork(&site);
        zero(&damaged, &path, *start, end);
        let (found, counted) = started(&damaged);
        assert_eq!(counted, 12 - n as u64, "from commit {n} on");
        assert_eq!(found, [&all[..n], &all[12..]].concat());
    }
    // The mark alone holds no event.
    let damaged = fork(&site);
    zero(&damaged, &path, frames.last().unwrap().0, end);
    assert_eq!(started(&damaged), (all, 0));
}

/// With the first frame of the next run gone too, commits are counted by their numbers: the header has them.
#[test]
fn an_end_that_nothing_notes_is_counted_by_commits() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    commits(&store, 0..12);
    store.close();
    let (store, _) = open(&site);
    commit(&store, put(0, 10)).unwrap();
    store.close();
    let [first, second] = [0, 1].map(|n| used(&site)[n].clone());
    let of_first = frames(&site.disk_read(&first));
    let of_second = frames(&site.disk_read(&second));
    zero(&site, &first, of_first[of_first.len() - 4].0, of_first.last().unwrap().1);
    zero(&site, &second, of_second[0].0, of_second[0].1);
    let (found, counted) = started(&site);
    assert_eq!(found.len(), 9);
    assert!((3..=4).contains(&counted), "three events and the mark of the end: {counted}");
}

/// The end of the newest segment, with nothing behind it.
#[test]
fn the_views_prove_what_the_end_of_the_journal_has_lost() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    let all = commits(&store, 0..20);
    // Enough state for a checkpoint, which has everything before it.
    for n in 0..10 {
        commit(&store, put(n, 1000)).unwrap();
    }
    drop(store);
    let path = newest_segment(&site);
    let frames = frames(&site.disk_read(&path));
    let segment = site.disk_read(&path);
    let sixth = |frame: &&(usize, usize)| segment[frame.0..frame.1].windows(4).any(|w| w == b"s 5 ");
    let (from, end) = (frames.iter().find(sixth).unwrap().0, frames.last().unwrap().1);
    let unproven = fork(&site);
    zero(&unproven, &path, from, end);
    let (store, opened) = open(&unproven);
    assert_eq!(positions(&read_after(&store, A, Position::ZERO)), &all[..5]);
    assert_eq!(lost(&store, LossReason::Damaged), 0, "nothing tells that there was more");
    assert!(!opened.clean && opened.damaged.is_empty(), "{opened:?}");

    let proven = SimSite { disk: site.disk.fork(), backing: site.backing.clone() };
    zero(&proven, &path, from, end);
    let (store, opened) = open(&proven);
    assert!(!opened.clean);
    assert_eq!(opened.damaged.len(), 1, "{opened:?}");
    assert_eq!(opened.damaged[0].first, all[5]);
    let line = store.ledger().into_iter().find(|l| l.reason == LossReason::Damaged).unwrap();
    assert_eq!((line.events, line.first, line.last), (15, all[5], all[19]));
    store.close();
    let next = {
        let (found, counted) = started(&proven);
        assert_eq!((found.as_slice(), counted), (&all[..5], 15));
        let (store, _) = open(&proven);
        commit(&store, to_stream(0, [event("s", 20, 40)])).unwrap()
    };
    assert!(next[0] > all[19], "positions only grow (P3)");
}

/// Both headers of a run's last segment are gone: its first position is in no other header.
#[test]
fn the_last_segment_of_a_run_without_its_headers_is_counted() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    let mut all = commits(&store, 0..300);
    store.close();
    let (store, _) = open(&site);
    all.extend(commits(&store, 300..302));
    store.close();
    let used = used(&site);
    let (first, last) = (&used[0], &used[used.len() - 2]);
    assert!(used.len() >= 3, "{used:?}");
    for victim in [first, last] {
        let damaged = fork(&site);
        let len = damaged.disk_read(victim).len();
        zero(&damaged, victim, 0, 64);
        zero(&damaged, victim, len - 64, len);
        let (found, counted) = started(&damaged);
        let missing = (all.len() - found.len()) as u64;
        assert!(missing > 0 && counted >= missing, "{victim}: {missing} missing, {counted} counted");
        assert!(victim == first || counted == missing, "{missing} missing, {counted} counted");
    }
}

/// A group that failed has used positions. Its senders were told, so they are not lost, whatever becomes of the end of its
/// segment.
#[test]
fn what_a_failed_group_has_used_is_not_counted_with_the_damage_in_front_of_it() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    let mut all = commits(&store, 0..5);
    site.disk.fail(Kind::Sync, 0, 1, Fault::Io);
    assert!(commit(&store, to_stream(0, (100..103).map(|n| event("f", n, 40)))).is_err());
    all.extend(commits(&store, 5..8));
    store.close();
    let path = used(&site)[0].clone();
    let segment = site.disk_read(&path);
    let frames = frames(&segment);
    let of = |words: &[u8]| {
        let has = |(from, to): &&(usize, usize)| segment[*from..*to].windows(4).any(|w| w == words);
        *frames.iter().find(has).unwrap()
    };
    zero(&site, &path, of(b"s 3 ").0, of(b"s 4 ").1);
    assert_eq!(started(&site), ([&all[..3], &all[5..]].concat(), 2));
}
