//! Bytes that change behind the store's back (P6).

use super::support::*;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::{LossReason, Store};
use eventmesh_edge_store::SimSite;

#[test]
fn damage_in_the_middle_is_skipped_counted_and_put_aside() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    let mut all = Vec::new();
    for n in 0..12 {
        all.extend(commit(&store, to_stream(0, [event("s", n, 40)])).unwrap());
    }
    let path = newest_segment(&site);
    let segment = site.disk_read(&path);
    let frames = frames(&segment);
    // The last twelve frames are the commits; the last one cannot be told from a torn one.
    for (n, (start, end)) in frames.iter().rev().take(12).rev().enumerate().take(11) {
        for at in [*start, *start + 5, (*start + *end) / 2, *end - 1] {
            let damaged = fork(&site);
            damaged.disk.corrupt(&path, at, |bytes| bytes[0] ^= 0x10);
            let (store, opened) = open(&damaged);
            let expected: Vec<_> = all.iter().enumerate().filter(|(i, _)| *i != n).map(|(_, p)| *p).collect();
            assert_eq!(positions(&read_after(&store, A, Position::ZERO)), expected, "frame {n} at {at}");
            assert_eq!(opened.damaged.len(), 1);
            assert_eq!(lost(&store, LossReason::Damaged), 1, "one commit of one event");
            let line = store.ledger().into_iter().find(|l| l.reason == LossReason::Damaged).unwrap();
            assert_eq!((line.first, line.last), (all[n], all[n]));
            use eventmesh_edge_store::disk::Disk;
            assert_eq!(damaged.disk.list("quarantine").unwrap().len(), 1);
            assert_eq!(store.stats().quarantined, 1);
        }
    }
}

#[test]
fn damage_under_a_running_store_is_counted_when_it_is_met() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    for n in 0..100 {
        commit(&store, to_stream(0, [event("s", n, 100)])).unwrap();
    }
    let path = segment_files(&site)[0].clone();
    site.disk.corrupt(&path, 2048, |bytes| bytes[..512].fill(0x5a));
    let found = read_after(&store, A, Position::ZERO);
    store.step();
    let counted = lost(&store, LossReason::Damaged);
    assert!(counted > 2 && found.len() as u64 + counted == 100, "{counted} {}", found.len());
    assert_eq!(positions(&waiting(&store, A)), positions(&found), "the figures follow");
    assert_eq!(positions(&waiting(&store, B)), positions(&found));
    assert_eq!(lost(&store, LossReason::Damaged), counted, "once");
}

#[test]
fn a_zeroed_block_costs_what_was_in_it_and_no_more() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    let mut all = Vec::new();
    for n in 0..200 {
        all.extend(commit(&store, to_stream(0, [event("s", n, 100)])).unwrap());
    }
    let path = segment_files(&site)[0].clone();
    drop(store);
    let damaged = fork(&site);
    damaged.disk.corrupt(&path, 4096, |bytes| bytes[..4096].fill(0));
    let (store, _) = open(&damaged);
    let found = positions(&read_after(&store, A, Position::ZERO));
    let counted = lost(&store, LossReason::Damaged);
    assert!((20..40).contains(&counted), "{counted}");
    assert_eq!(found.len() as u64 + counted, 200);
    assert!(found.iter().all(|p| all.contains(p)));
}

#[test]
fn a_segment_without_its_headers_is_counted_and_the_others_are_read() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    for n in 0..400 {
        commit(&store, to_stream(0, [event("s", n, 100)])).unwrap();
    }
    assert!(store.stats().journal_segments + store.stats().generations > 2);
    drop(store);
    let files = segment_files(&site);
    let used: Vec<_> = files.iter().filter(|p| site.disk_read(p).starts_with(b"EMESHJNL")).cloned().collect();
    let damaged = SimSite { disk: site.disk.fork(), backing: site.backing.clone() };
    let victim = &used[used.len() - 2];
    let len = damaged.disk_read(victim).len();
    damaged.disk.corrupt(victim, 0, |bytes| {
        bytes[..64].fill(0);
        bytes[len - 64..].fill(0xff);
    });
    let (store, _) = open(&damaged);
    let found = read_after(&store, A, Position::ZERO);
    let counted = lost(&store, LossReason::Damaged);
    assert!(counted > 50, "{counted}");
    assert_eq!(found.len() as u64 + counted, 400);
    let one_copy = SimSite { disk: site.disk.fork(), backing: site.backing.clone() };
    one_copy.disk.corrupt(victim, 0, |bytes| bytes[..64].fill(0));
    let (store, _) = open(&one_copy);
    assert_eq!(
        (waiting(&store, A).len(), lost(&store, LossReason::Damaged)),
        (400, 0),
        "the other copy stands in"
    );
}

#[test]
fn stale_frames_of_a_recycled_segment_are_never_believed() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    // Everything is acknowledged at once, so the same few files are used over and over.
    for n in 0..2000 {
        let at = commit(&store, to_stream(0, [event("s", n, 60)])).unwrap();
        ack(&store, A, at[0]).unwrap();
        ack(&store, B, at[0]).unwrap();
    }
    assert!(segment_files(&site).len() < 10, "{:?}", segment_files(&site));
    let last = commit(&store, to_stream(0, [event("s", 2000, 60)])).unwrap();
    for seed in 0..20 {
        let cut = SimSite { disk: site.disk.fork(), backing: site.backing.clone() };
        cut.power_cut(seed);
        let (store, opened) = open(&cut);
        assert_eq!(positions(&waiting(&store, A)), last);
        assert_eq!((opened.damaged.len(), opened.torn_bytes), (0, 0), "{opened:?}");
    }
}

#[test]
fn lost_views_cost_state_but_not_what_the_journal_holds_nor_whose_it_is() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    let mut kept = Vec::new();
    for n in 0..300 {
        let at = commit(&store, to_stream(0, [event("s", n, 60)])).unwrap();
        kept.extend(at.clone());
        let drop_at = commit(&store, to_stream(1, [event("d", n, 60)])).unwrap();
        ack(&store, DROPS, drop_at[0]).unwrap();
        if n < 290 {
            ack(&store, A, at[0]).unwrap();
            ack(&store, B, at[0]).unwrap();
        }
    }
    drop(store);
    site.backing.lose_views();
    let (store, _) = open(&site);
    assert_eq!(positions(&waiting(&store, A)), &kept[290..]);
    assert_eq!(waiting(&store, DROPS), []);
    let next = commit(&store, to_stream(0, [event("s", 300, 1)])).unwrap();
    let all = waiting(&store, A);
    assert_eq!(all.last().map(|e| (e.position, e.sequence.source)), Some((next[0], 301)), "numbers go on");
}
