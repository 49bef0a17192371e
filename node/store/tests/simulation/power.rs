//! Power that goes at any moment, and syncs that fail (P1, P3, P6).

use super::support::*;
use eventmesh_edge_core::ports::store::{CommitError, LossReason, Store};
use eventmesh_edge_store::sim_disk::{Fault, Kind};
use eventmesh_edge_store::{SimSite, SteppedStore};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_nothing_before_it_is_lost() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    let mut kept = Vec::new();
    for n in 0..5 {
        kept.extend(commit(&store, to_stream(0, [event("s", n, 40)])).unwrap());
    }
    let last = commit(&store, to_stream(0, [event("s", 5, 40), event("s", 6, 40)])).unwrap();
    let path = newest_segment(&site);
    let segment = site.disk_read(&path);
    let (start, end) = *frames(&segment).last().unwrap();
    for cut in start..=end {
        let torn = fork(&site);
        torn.disk.corrupt(&path, cut, |rest| {
            let upto = end - cut;
            rest[..upto].fill(0);
        });
        let (store, opened) = open(&torn);
        let found = positions(&waiting(&store, A));
        if cut == end {
            assert_eq!(found, [kept.clone(), last.clone()].concat());
        } else {
            assert_eq!(found, kept, "cut at {cut} of {start}..{end}");
            assert_eq!(opened.torn_bytes > 0, cut > start, "cut at {cut}: {opened:?}");
            assert_eq!(opened.damaged, []);
        }
        let again = commit(&store, to_stream(0, [event("s", 9, 1)])).unwrap();
        assert!(again[0] > last[1], "P3: positions of the torn commit are not given again");
        let sequences: Vec<u64> = waiting(&store, A).iter().map(|e| e.sequence.source).collect();
        assert!(sequences.iter().enumerate().all(|(i, s)| *s == i as u64 + 1), "{sequences:?}");
    }
}

#[test]
fn a_completion_comes_after_the_sync_of_its_bytes() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    for n in 0..50 {
        let before = site.disk.syncs();
        let disk = site.disk.clone();
        let synced = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&synced);
        let done = Box::new(move |answer: Result<_, _>| {
            assert!(answer.is_ok());
            seen.store(disk.syncs(), Ordering::SeqCst);
        });
        store.submit(to_stream(0, [event("s", n, 10)]), done);
        assert!(synced.load(Ordering::SeqCst) > before, "P1");
    }
}

#[test]
fn what_a_failed_sync_left_is_never_believed() {
    for seed in 0..200 {
        let site = SimSite::new();
        let (store, _) = open(&site);
        let first = commit(&store, to_stream(0, [event("s", 0, 30)])).unwrap();
        site.disk.fail(Kind::Sync, 0, 1, Fault::Io);
        let failed = commit(&store, to_stream(0, [event("s", 1, 30)]));
        assert!(matches!(failed, Err(CommitError::Io(_))), "{failed:?}");
        if seed % 2 == 0 {
            let next = commit(&store, to_stream(0, [event("s", 2, 30)])).unwrap();
            assert!(next[0].0 > first[0].0 + 1, "the failed commit's position is not given again");
        }
        site.power_cut(seed);
        let (store, _) = open(&site);
        let found = waiting(&store, A);
        let payloads: Vec<u8> = found.iter().map(|e| e.event.payload[2]).collect();
        let expected: &[u8] = if seed % 2 == 0 { b"02" } else { b"0" };
        assert_eq!(payloads, expected, "seed {seed}");
        assert!(found.iter().enumerate().all(|(i, e)| e.sequence.source == i as u64 + 1), "contiguous");
    }
}

/// The moment at which a failure is reported is the last at which the failed group may still come back.
#[test]
fn power_that_goes_with_the_report_of_a_failure_does_not_bring_the_commit_back() {
    for seed in 0..100 {
        let site = SimSite::new();
        let (store, _) = open(&site);
        commit(&store, to_stream(0, [event("s", 0, 30)])).unwrap();
        site.disk.fail(Kind::Sync, 0, 1, Fault::Io);
        let disk = site.disk.clone();
        let done = Box::new(move |answer: Result<_, _>| {
            assert!(matches!(answer, Err(CommitError::Io(_))));
            disk.power_cut(seed);
        });
        store.submit(to_stream(0, [event("s", 1, 30)]), done);
        drop(store);
        let (store, _) = open(&site);
        assert_eq!(waiting(&store, A).len(), 1, "seed {seed}");
    }
}

/// The disk syncs nothing any more, so no next segment cuts the failed group off; then the process ends, and the power
/// stays: what can be read is not what was refused.
#[test]
fn what_was_refused_is_not_there_after_a_restart_without_a_power_cut() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    let kept = commit(&store, to_stream(0, [event("s", 0, 30)])).unwrap();
    site.disk.fail(Kind::Sync, 0, u64::MAX, Fault::Io);
    assert!(commit(&store, to_stream(0, [event("s", 1, 30), event("s", 2, 30)])).is_err());
    assert!(commit(&store, to_stream(0, [event("s", 3, 30)])).is_err());
    drop(store);
    site.disk.heal();
    let (store, opened) = open(&site);
    assert_eq!(positions(&waiting(&store, A)), kept);
    assert_eq!(opened.damaged, []);
}

/// Of a group that was being written some frames may be whole behind one that is not: nobody was answered for any of
/// them, so nothing is damaged, and order is kept by taking none of the later ones.
#[test]
fn a_group_that_is_torn_in_its_middle_is_cut_there() {
    let site = SimSite::new();
    let (store, _) = SteppedStore::open(&site, spec(), &options(), false).unwrap();
    for n in 0..6 {
        store.submit(to_stream(0, [event("s", n, 40)]), Box::new(|answer| drop(answer.unwrap())));
        if n == 0 {
            store.step();
        }
    }
    let before = site.disk.syncs();
    store.step();
    assert_eq!(site.disk.syncs(), before + 1, "five commits, one group, one sync");
    let path = newest_segment(&site);
    let frames = frames(&site.disk_read(&path));
    for (kept, (start, end)) in frames.iter().rev().take(5).rev().enumerate() {
        let torn = fork(&site);
        torn.disk.corrupt(&path, *start, |bytes| bytes[..end - start].fill(0x77));
        let (store, opened) = open(&torn);
        assert_eq!(waiting(&store, A).len(), 1 + kept);
        assert!(opened.torn_bytes > 0 && opened.damaged.is_empty(), "{opened:?}");
        assert_eq!(lost(&store, LossReason::Damaged), 0);
    }
}

#[test]
fn positions_are_not_reused_when_both_meta_files_are_lost() {
    let site = SimSite::new();
    let (store, opened) = open(&site);
    let first = commit(&store, to_stream(0, [event("s", 0, 9)])).unwrap();
    assert_eq!((opened.epoch, opened.log.is_new), (1, true));
    store.close();
    let log = opened.log.id;
    let (store, opened) = open(&site);
    assert_eq!((opened.epoch, opened.clean), (2, true));
    let second = commit(&store, to_stream(0, [event("s", 1, 9)])).unwrap();
    drop(store);
    site.disk.lose("meta-a");
    site.disk.corrupt("meta-b", 0, |bytes| bytes.fill(0));
    let (store, opened) = open(&site);
    assert_eq!((opened.epoch, opened.log.id, opened.clean), (3, log, false));
    let third = commit(&store, to_stream(0, [event("s", 2, 9)])).unwrap();
    assert!(first[0] < second[0] && second[0] < third[0]);
    assert_eq!(positions(&waiting(&store, A)), [first, second, third].concat());
}

#[test]
fn starts_without_a_commit_take_new_epochs_all_the_same() {
    let site = SimSite::new();
    for epoch in 1..6 {
        let (store, opened) = open(&site);
        assert_eq!(opened.epoch, epoch);
        drop(store);
        site.power_cut(u64::from(epoch));
    }
}
