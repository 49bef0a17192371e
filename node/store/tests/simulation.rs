//! The store over a simulated disk: power cuts, failed syncs, full disks, damage. Everything is decided by seeds.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests are not in `#[test]` functions"
)]

use bytes::Bytes;
use eventmesh_edge_core::event::{Event, Position, Qos, StoredEvent, Timestamp, Via};
use eventmesh_edge_core::ports::store::{
    Change, Commit, CommitError, Consumer, CursorChange, LossReason, MailboxEntry, NewEvent, Read, SessionNo,
    Store, StoreSpec, StreamId, StreamSpec, UplinkId, WhenFull,
};
use eventmesh_edge_store::sim_disk::{Fault, Kind};
use eventmesh_edge_store::{Opened, SimSite, SteppedStore, StoreOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const NOW: Timestamp = Timestamp(1_790_000_000_000);
const A: Consumer = Consumer { stream: StreamId(0), uplink: UplinkId(0) };
const B: Consumer = Consumer { stream: StreamId(0), uplink: UplinkId(1) };
const DROPS: Consumer = Consumer { stream: StreamId(1), uplink: UplinkId(0) };

fn spec() -> StoreSpec {
    let stream = |name: &str, uplinks: &[u16], max_bytes, when_full| StreamSpec {
        name: name.to_owned().into(),
        uplinks: uplinks.iter().map(|u| UplinkId(*u)).collect(),
        max_bytes,
        max_age: None,
        when_full,
    };
    StoreSpec {
        streams: vec![
            stream("kept", &[0, 1], 256 << 10, WhenFull::Refuse),
            stream("newest", &[0], 24 << 10, WhenFull::DropOldest),
        ],
        uplinks: vec!["up".into(), "down".into()],
        disk_max: 64 << 20,
        mailbox_max_bytes: 1 << 20,
        mailbox_max_events: 100,
    }
}

fn options() -> StoreOptions {
    StoreOptions {
        segment_bytes: 16 << 10,
        recent_bytes: 4 << 10,
        seal_segments: 4,
        checkpoint_segments: 2,
        checkpoint_bytes: 8 << 10,
        ..StoreOptions::default()
    }
}

fn open(site: &SimSite) -> (SteppedStore, Opened) {
    SteppedStore::open(site, spec(), &options(), true).unwrap()
}

fn event(source: &str, n: u64, bytes: usize) -> Event {
    let mut payload = format!("{source} {n} ").into_bytes();
    payload.resize(payload.len().max(bytes), b'.');
    Event {
        via: Via::Mqtt5,
        qos: Qos::AtLeastOnce,
        retain: false,
        source: source.to_owned().into(),
        id: None,
        time: None,
        received: NOW,
        expires: None,
        topic: "t".into(),
        payload: payload.into(),
        properties: None,
    }
}

fn to_stream(stream: u16, events: impl IntoIterator<Item = Event>) -> Commit {
    let events = events
        .into_iter()
        .map(|event| NewEvent { stream: Some(StreamId(stream)), event, mailboxes: Vec::new() })
        .collect();
    Commit { events, ..Commit::default() }
}

fn commit(store: &dyn Store, commit: Commit) -> Result<Vec<Position>, CommitError> {
    let slot = Arc::new(Mutex::new(None));
    let into = Arc::clone(&slot);
    store.submit(commit, Box::new(move |answer| *into.lock().unwrap() = Some(answer)));
    let answer = slot.lock().unwrap().take().expect("an immediate store answers before it returns");
    answer.map(|committed| committed.positions)
}

fn ack(store: &dyn Store, consumer: Consumer, acked: Position) -> Result<(), CommitError> {
    let cursors = vec![CursorChange { consumer, acked }];
    commit(store, Commit { cursors, ..Commit::default() }).map(drop)
}

fn read_after(store: &dyn Store, consumer: Consumer, after: Position) -> Vec<StoredEvent> {
    let mut all = Vec::new();
    let mut after = after;
    loop {
        let slot = Arc::new(Mutex::new(None));
        let into = Arc::clone(&slot);
        let read = Read { consumer, after, max_events: 7, max_bytes: 4000 };
        store.read(read, Box::new(move |batch| *into.lock().unwrap() = Some(batch)));
        let batch = slot.lock().unwrap().take().unwrap().unwrap();
        assert!(batch.at_end || batch.through > after, "progress");
        after = batch.through;
        all.extend(batch.events);
        if batch.at_end {
            return all;
        }
    }
}

/// What waits; the figures must be what reading finds.
fn waiting(store: &dyn Store, consumer: Consumer) -> Vec<StoredEvent> {
    let told = store.backlog(consumer);
    let found = read_after(store, consumer, told.acked);
    let bytes: u64 = found.iter().map(|e| u64::from(e.stored_bytes)).sum();
    assert_eq!((told.events, told.bytes), (found.len() as u64, bytes), "backlog of {consumer:?}");
    found
}

fn positions(events: &[StoredEvent]) -> Vec<Position> {
    events.iter().map(|e| e.position).collect()
}

fn lost(store: &dyn Store, reason: LossReason) -> u64 {
    store.ledger().iter().filter(|l| l.reason == reason).map(|l| l.events).sum()
}

fn newest_segment(site: &SimSite) -> String {
    let names = segment_files(site);
    names.into_iter().rev().find(|path| site.disk_read(path).starts_with(b"EMESHJNL")).unwrap()
}

fn segment_files(site: &SimSite) -> Vec<String> {
    use eventmesh_edge_store::disk::Disk;
    let entries = site.disk.list("journal").unwrap();
    entries.into_iter().map(|e| format!("journal/{}", e.name)).filter(|p| p.ends_with(".seg")).collect()
}

trait ReadFile {
    fn disk_read(&self, path: &str) -> Vec<u8>;
}

impl ReadFile for SimSite {
    fn disk_read(&self, path: &str) -> Vec<u8> {
        use eventmesh_edge_store::disk::Disk;
        self.disk.read(path).unwrap()
    }
}

fn fork(site: &SimSite) -> SimSite {
    // The views had no checkpoint: everything comes from the journal.
    SimSite { disk: site.disk.fork(), ..SimSite::new() }
}

/// Where the frames of a segment start and end, by their lengths.
fn frames(segment: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = 64;
    while let Some(len) = segment.get(at..at + 4).map(|b| u32::from_le_bytes(b.try_into().unwrap()) as usize)
    {
        if len == 0 {
            break;
        }
        found.push((at, at + 8 + len));
        at += 8 + len;
    }
    found
}

// --- P1, P3, P6: power

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

// --- damage

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

// --- space

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
    let room = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&room);
    store.watch(Arc::new(move |change| {
        seen.fetch_add(u64::from(change == Change::Room), Ordering::SeqCst);
    }));
    site.disk.set_capacity(site.disk.used() + 2 * (16 << 10));
    let mut accepted = Vec::new();
    let mut refused = 0;
    for n in 0..1000 {
        match commit(&store, to_stream(0, [event("s", n, 60)])) {
            Ok(at) => accepted.extend(at),
            Err(CommitError::Io(error)) => {
                assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
                refused += 1;
            }
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

// --- everything at once

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What must be there: accepted and not acknowledged, in order, for one consumer.
#[derive(Default)]
struct Queue {
    waiting: Vec<(Position, Bytes)>,
    /// Highest acknowledgement asked for, and highest one that was answered.
    asked: Position,
    answered: Position,
    dropped: u64,
}

struct World {
    site: SimSite,
    rng: Rng,
    store: SteppedStore,
    queues: BTreeMap<Consumer, Queue>,
    /// Payloads of commits that were not answered, or answered with an I/O error.
    uncertain: BTreeSet<Bytes>,
    sequences: BTreeMap<String, BTreeMap<Position, u64>>,
    given: Position,
    made: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let site = SimSite::new();
        let (store, _) = open(&site);
        let queues = [A, B, DROPS].into_iter().map(|c| (c, Queue::default())).collect();
        World {
            site,
            rng: Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            store,
            queues,
            uncertain: BTreeSet::new(),
            sequences: BTreeMap::new(),
            given: Position::ZERO,
            made: 0,
        }
    }

    fn events(&mut self) -> (u16, Vec<Event>) {
        let stream = u16::try_from(self.rng.below(2)).unwrap();
        let count = 1 + self.rng.below(4);
        let events = (0..count).map(|_| {
            self.made += 1;
            let source = ["x", "y", "z"][usize::try_from(self.rng.below(3)).unwrap()];
            event(source, self.made, usize::try_from(self.rng.below(600)).unwrap())
        });
        let events = events.collect();
        (stream, events)
    }

    fn publish(&mut self) {
        let (stream, events) = self.events();
        let payloads: Vec<Bytes> = events.iter().map(|e| e.payload.clone()).collect();
        match commit(&self.store, to_stream(stream, events)) {
            Ok(at) => {
                assert!(at[0] > self.given, "P3: {} after {}", at[0], self.given);
                self.given = *at.last().unwrap();
                for (consumer, queue) in &mut self.queues {
                    if consumer.stream == StreamId(stream) {
                        queue.waiting.extend(at.iter().copied().zip(payloads.iter().cloned()));
                    }
                }
            }
            Err(CommitError::Io(_)) => self.uncertain.extend(payloads),
            Err(CommitError::Full { .. }) => assert_eq!(stream, 0),
            Err(other) => panic!("{other}"),
        }
        self.adopt_drops();
    }

    fn adopt_drops(&mut self) {
        let dropped = lost(&self.store, LossReason::QueueFull);
        let queue = self.queues.get_mut(&DROPS).unwrap();
        let now = usize::try_from(dropped - queue.dropped).unwrap();
        assert!(now <= queue.waiting.len(), "more dropped than there was");
        queue.waiting.drain(..now);
        queue.dropped = dropped;
    }

    fn acknowledge(&mut self) {
        let consumer = [A, B, DROPS][usize::try_from(self.rng.below(3)).unwrap()];
        let queue = self.queues.get_mut(&consumer).unwrap();
        let Some(nth) = (!queue.waiting.is_empty()).then(|| self.rng.below(queue.waiting.len() as u64))
        else {
            return;
        };
        let (position, _) = queue.waiting[usize::try_from(nth).unwrap()];
        queue.asked = queue.asked.max(position);
        if ack(&self.store, consumer, position).is_ok() {
            queue.answered = queue.answered.max(position);
            queue.waiting.retain(|(p, _)| *p > position);
        }
    }

    fn cut_in_the_middle(&mut self) {
        let skip = self.rng.below(14);
        self.site.disk.fail(Kind::Any, skip, u64::MAX, Fault::Io);
        for _ in 0..1 + self.rng.below(3) {
            if self.rng.below(3) == 0 { self.acknowledge() } else { self.publish() }
        }
        self.reopen_after_cut();
    }

    fn reopen_after_cut(&mut self) {
        let seed = self.rng.next();
        self.site.power_cut(seed);
        // The start itself may meet a cut as well.
        if self.rng.below(3) == 0 {
            let skip = self.rng.below(20);
            self.site.disk.fail(Kind::Any, skip, u64::MAX, Fault::Io);
            drop(SteppedStore::open(&self.site, spec(), &options(), true));
            let seed = self.rng.next();
            self.site.power_cut(seed);
        }
        self.store = open(&self.site).0;
        self.adopt_survivors();
    }

    /// After a cut: nothing answered is missing, nothing is invented, cursors are between what was answered and asked.
    fn adopt_survivors(&mut self) {
        for (consumer, queue) in &mut self.queues {
            let told = self.store.backlog(*consumer);
            assert!(told.acked >= queue.answered, "a cursor went back");
            let found = read_after(&self.store, *consumer, told.acked);
            if consumer.stream == StreamId(0) {
                assert!(
                    told.acked <= queue.asked.max(queue.answered),
                    "a cursor ahead of what was acknowledged (P2)"
                );
                queue.waiting.retain(|(p, _)| *p > told.acked);
                queue.answered = told.acked;
            } else {
                // Drops that were not answered may have happened; they are counted, and acknowledgements are below them.
                let dropped = lost(&self.store, LossReason::QueueFull);
                let before = queue.waiting.len();
                queue.waiting.retain(|(p, _)| *p > told.acked);
                let gone = (before - queue.waiting.len()) as u64;
                assert!(
                    dropped - queue.dropped <= gone + self.uncertain.len() as u64,
                    "more counted than lost"
                );
                if told.acked > queue.asked {
                    assert!(dropped > queue.dropped || gone == 0, "given up without being counted (P2)");
                }
                queue.dropped = dropped;
                queue.answered = told.acked;
            }
            let found: Vec<(Position, Bytes)> =
                found.into_iter().map(|e| (e.position, e.event.payload)).collect();
            for waits in &queue.waiting {
                assert!(found.contains(waits), "an answered event is gone (P1): {waits:?}");
            }
            for survivor in &found {
                let known = queue.waiting.contains(survivor);
                assert!(known || self.uncertain.contains(&survivor.1), "invented: {survivor:?}");
            }
            queue.waiting = found;
        }
    }

    fn check(&mut self) {
        for (consumer, queue) in &self.queues {
            let found = waiting(&self.store, *consumer);
            for event in &found {
                let of_source = self.sequences.entry(event.event.source.to_string()).or_default();
                let before = of_source.insert(event.position, event.sequence.source);
                assert!(before.is_none_or(|b| b == event.sequence.source), "a number changed (P3)");
            }
            self.given = self.given.max(found.last().map_or(Position::ZERO, |e| e.position));
            let found: Vec<(Position, Bytes)> =
                found.into_iter().map(|e| (e.position, e.event.payload)).collect();
            assert_eq!(found, queue.waiting, "{consumer:?}");
        }
    }

    fn check_sequences(&self) {
        for (source, numbers) in &self.sequences {
            let mut last = 0;
            for (position, number) in numbers {
                assert!(*number > last, "{source}: {number} at {position} after {last}");
                last = *number;
            }
        }
    }

    fn step(&mut self) {
        match self.rng.below(24) {
            0..=11 => self.publish(),
            12..=16 => self.acknowledge(),
            17 => {
                self.store.close();
                self.store = open(&self.site).0;
            }
            18 => self.reopen_after_cut(),
            19 => self.cut_in_the_middle(),
            20 => {
                let (kind, skip) = (
                    [Kind::Sync, Kind::Write][usize::try_from(self.rng.below(2)).unwrap()],
                    self.rng.below(3),
                );
                let fault =
                    [Fault::Io, Fault::Short, Fault::NoSpace][usize::try_from(self.rng.below(3)).unwrap()];
                self.site.disk.fail(kind, skip, 1 + self.rng.below(2), fault);
                self.publish();
                self.acknowledge();
                self.site.disk.heal();
            }
            21 => {
                self.site.disk.set_capacity(self.site.disk.used());
                for _ in 0..6 {
                    self.publish();
                }
                self.site.disk.heal();
            }
            22 => self.store.tick(NOW),
            _ => self.site.backing.fail_seals(1),
        }
        self.check();
    }
}

#[test]
fn nothing_answered_is_lost_and_nothing_is_invented_whatever_happens() {
    // `SIM_SEED=n` replays one, `SIM_SEEDS=n` runs the first n.
    let number = |name| std::env::var(name).ok().map(|seed| seed.parse::<u64>().unwrap());
    let many = 0..number("SIM_SEEDS").unwrap_or(150);
    let seeds = number("SIM_SEED").map_or(many, |seed| seed..seed + 1);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(seed + 1);
            for _ in 0..120 {
                world.step();
            }
            world.check_sequences();
        });
        assert!(outcome.is_ok(), "replay with SIM_SEED={seed}");
    }
}
