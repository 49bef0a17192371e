//! Backlogs, bounds and full disks (P2, P5).

use super::support::*;
use bytes::Bytes;
use eventmesh_edge_core::event::{Event, Position};
use eventmesh_edge_core::ports::store::{
    Commit, CommitError, LossReason, MailboxEntry, NewEvent, SessionNo, Store,
};
use eventmesh_edge_store::{SimSite, SteppedStore};
use std::sync::atomic::Ordering;
use std::time::Duration;

#[test]
fn an_uplink_that_is_away_fills_generations_and_gets_everything_in_order_later() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    let mut all = Vec::new();
    for n in 0..1200 {
        let at = commit(&store, to_stream(0, [event("s", n, 60)])).unwrap();
        ack(&store, A, at[0]).unwrap();
        all.extend(at);
    }
    let stats = store.stats();
    assert!(stats.generations >= 2 && stats.journal_segments <= 8, "{stats:?}");
    assert_eq!(positions(&waiting(&store, B)), all);
    assert_eq!(waiting(&store, A), []);
    site.power_cut(7);
    let (store, opened) = open(&site);
    assert_eq!(opened.generations as u64, stats.generations);
    assert_eq!(positions(&waiting(&store, B)), all, "exact after a cut");
    for (n, position) in all.iter().enumerate().filter(|(n, _)| n % 50 == 49) {
        ack(&store, B, *position).unwrap();
        assert_eq!(store.backlog(B).events, (all.len() - n - 1) as u64);
    }
    store.step();
    let stats = store.stats();
    assert_eq!(stats.generations, 0, "{stats:?}");
    assert!(stats.journal_segments <= 4, "{stats:?}");
    assert!(segment_files(&site).len() <= 6, "{:?}", segment_files(&site));
}

#[test]
fn a_seal_that_fails_is_made_again() {
    let site = SimSite::new();
    site.backing.fail_seals(2);
    let (store, _) = open(&site);
    let mut all = Vec::new();
    for n in 0..1400 {
        all.extend(commit(&store, to_stream(0, [event("s", n, 60)])).unwrap());
        if n % 100 == 0 {
            store.tick(NOW);
        }
    }
    assert!(store.stats().generations > 0);
    assert_eq!(positions(&waiting(&store, A)), all);
}

#[test]
fn checkpoints_that_fail_keep_the_journal() {
    let site = SimSite::new();
    site.backing.fail_checkpoints(3);
    let (store, _) = open(&site);
    for n in 0..600 {
        let at = commit(&store, to_stream(0, [event("s", n, 60)])).unwrap();
        ack(&store, A, at[0]).unwrap();
        ack(&store, B, at[0]).unwrap();
    }
    store.tick(NOW);
    for _ in 0..4 {
        store.step();
    }
    assert!(store.stats().journal_segments <= 6, "{:?}", store.stats());
}

#[test]
fn a_lost_generation_is_counted_to_the_event() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    for n in 0..1400 {
        commit(&store, to_stream(0, [event("s", n, 60)])).unwrap();
    }
    let before = store.stats().generations;
    assert!(before >= 2);
    // At run time: found when it is read.
    site.backing.lose_generation(1);
    let found = read_after(&store, A, Position::ZERO);
    store.step();
    let line = |store: &dyn Store, consumer| {
        let ledger = store.ledger();
        ledger.into_iter().filter(|l| l.consumer == Some(consumer)).map(|l| l.events).sum::<u64>()
    };
    assert_eq!(found.len() as u64 + line(&store, A), 1400);
    assert_eq!(line(&store, A), line(&store, B), "each consumer loses it");
    assert_eq!(positions(&waiting(&store, B)), positions(&found));
    drop(store);
    // At a start: the views know what should be there.
    site.backing.lose_generation(2);
    let (store, _) = open(&site);
    let found = waiting(&store, A);
    assert_eq!(found.len() as u64 + line(&store, A), 1400);
    drop(store);
    let (store, _) = open(&site);
    assert_eq!(waiting(&store, A).len() as u64 + line(&store, A), 1400, "once");
}

#[test]
fn a_full_disk_refuses_and_everything_goes_on_when_it_is_not() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    let room = count_room(&store);
    site.disk.set_capacity(site.disk.used() + 2 * (16 << 10));
    let mut accepted = Vec::new();
    let mut refused = 0;
    for n in 0..1000 {
        match commit(&store, to_stream(0, [event("s", n, 60)])) {
            Ok(at) => accepted.extend(at),
            Err(CommitError::Full { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
        if refused == 5 {
            break;
        }
    }
    assert_eq!(refused, 5);
    assert_eq!(positions(&waiting(&store, A)), accepted);
    site.disk.heal();
    accepted.extend(commit(&store, to_stream(0, [event("s", 9999, 60)])).unwrap());
    assert!(room.load(Ordering::SeqCst) > 0, "those who were refused are told");
    site.power_cut(3);
    let (store, _) = open(&site);
    assert_eq!(positions(&waiting(&store, A)), accepted);
}

#[test]
fn the_disk_limit_refuses_events_and_takes_cursors() {
    let site = SimSite::new();
    let mut small = spec();
    small.disk_max = 1 << 20;
    small.streams[0].max_bytes = 1 << 30;
    small.streams[1].max_bytes = 1 << 30;
    let (store, _) = SteppedStore::open(&site, small, &options(), true).unwrap();
    let mut accepted = Vec::new();
    let full = loop {
        let n = accepted.len() as u64;
        match commit(&store, to_stream(0, [event("s", n, 500)])) {
            Ok(at) => accepted.extend(at),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, CommitError::Full { max, .. } if max == 1 << 20), "{full}");
    assert!(store.stats().disk_bytes <= 1 << 20, "{:?}", store.stats());
    assert!(site.disk.used() < 1 << 20);
    for consumer in [A, B] {
        let half = accepted[accepted.len() / 2];
        ack(&store, consumer, half).unwrap();
    }
    store.step();
    commit(&store, to_stream(0, [event("s", 1, 500)])).expect("room returned");
    // A stream that prefers the newest gives its oldest up instead of refusing for ever.
    for n in 0..3000 {
        if commit(&store, to_stream(1, [event("d", n, 500)])).is_err() {
            store.step();
        }
    }
    assert!(store.stats().disk_bytes <= 1 << 20);
}

#[test]
fn drop_oldest_is_exact_from_memory_segments_and_generations() {
    let site = SimSite::new();
    let mut large = spec();
    large.streams[1].max_bytes = 300 << 10;
    let reopen = || SteppedStore::open(&site, large.clone(), &options(), true).unwrap().0;
    let mut store = reopen();
    let mut all = Vec::new();
    for n in 0..6000u64 {
        all.extend(
            commit(&store, to_stream(1, [event("d", n, 60 + usize::try_from(n % 50).unwrap())])).unwrap(),
        );
        if n % 1500 == 1499 {
            site.power_cut(n);
            store = reopen();
        }
    }
    assert!(store.stats().generations > 0);
    let waits = positions(&waiting(&store, DROPS));
    let dropped = lost(&store, LossReason::QueueFull);
    assert_eq!(waits.len() as u64 + dropped, 6000);
    assert!(all.ends_with(&waits), "the newest are kept");
    assert!(store.backlog(DROPS).bytes <= 300 << 10);
    assert!(store.backlog(DROPS).bytes > 290 << 10, "no more than needed: {:?}", store.backlog(DROPS));
}

#[test]
fn expiry_reaches_into_generations() {
    let site = SimSite::new();
    let mut aging = spec();
    aging.streams[0].max_age = Some(Duration::from_secs(3600));
    let (store, _) = SteppedStore::open(&site, aging, &options(), true).unwrap();
    for n in 0..1000u64 {
        let received = NOW.after(Duration::from_secs(n));
        commit(&store, to_stream(0, [Event { received, ..event("s", n, 60) }])).unwrap();
    }
    assert!(store.stats().generations > 0);
    for _ in 0..5 {
        store.tick(NOW.after(Duration::from_millis((3600 + 699) * 1000 + 1)));
    }
    assert_eq!(waiting(&store, A).len(), 300);
    assert_eq!(lost(&store, LossReason::Expired), 1400, "700 of each consumer");
}

#[test]
fn a_bounded_mailbox_counts_the_same_when_it_is_replayed() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    for n in 0..150 {
        let claim = |session| MailboxEntry { session: SessionNo(session), options: Bytes::from_static(b"q") };
        let new = NewEvent { stream: None, event: event("s", n, 30), mailboxes: vec![claim(1), claim(2)] };
        commit(&store, Commit { events: vec![new], ..Commit::default() }).unwrap();
    }
    let figures = |store: &dyn Store| {
        (
            store.mailbox_len(SessionNo(1)),
            store.mailbox_len(SessionNo(2)),
            lost(store, LossReason::SessionQueueFull),
        )
    };
    let before = figures(&store);
    assert_eq!((before.0.0, before.2), (100, 100));
    site.power_cut(1);
    // A smaller bound of the next start does not rewrite the past.
    let mut smaller = spec();
    smaller.mailbox_max_events = 10;
    let (store, _) = SteppedStore::open(&site, smaller, &options(), true).unwrap();
    assert_eq!(figures(&store), before);
}
