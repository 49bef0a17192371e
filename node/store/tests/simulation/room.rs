//! A file system that is really full, by somebody else's doing: what is kept for it (P5, P6).

use super::support::*;
use bytes::Bytes;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::{
    Commit, CommitError, Loss, LossReason, StateChange, StateValue, Store, StoreSpec, Table,
};
use eventmesh_edge_store::disk::Disk;
use eventmesh_edge_store::{SimSite, SteppedStore};
use std::sync::atomic::Ordering;

/// Nobody can have a byte more than is taken now.
fn fill_up(site: &SimSite) {
    site.disk.set_capacity(site.disk.used());
}

fn reserve_files(site: &SimSite) -> usize {
    let names = site.disk.list("journal").unwrap();
    names.iter().filter(|entry| entry.name == "reserve" || entry.name == "ballast").count()
}

/// Publishes until it is refused; the positions of what was taken.
fn publish_until_full(store: &SteppedStore, stream: u16) -> Vec<Position> {
    let mut accepted = Vec::new();
    for n in 0..2000 {
        match commit(store, to_stream(stream, [event("s", n, 60)])) {
            Ok(at) => accepted.extend(at),
            Err(CommitError::Full { .. }) => return accepted,
            Err(other) => panic!("to wait is the word, not {other}"),
        }
    }
    panic!("never full");
}

fn session(store: &SteppedStore, n: u64) -> Result<(), CommitError> {
    let key = Bytes::from(format!("client-{n}"));
    let value = StateValue::Bytes(Bytes::from_static(b"subscribed"));
    let state = vec![StateChange::Put { table: Table::Session, key, value }];
    commit(store, Commit { state, ..Commit::default() }).map(drop)
}

fn loss(store: &SteppedStore, at: Position) -> Result<(), CommitError> {
    let losses =
        vec![Loss { consumer: Some(A), reason: LossReason::Rejected, events: 1, bytes: 9, range: (at, at) }];
    commit(store, Commit { losses, ..Commit::default() }).map(drop)
}

#[test]
fn cursors_sessions_and_the_ledger_go_on_when_no_event_can() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    assert_eq!(reserve_files(&site), 2, "kept before anything is taken");
    fill_up(&site);
    let accepted = publish_until_full(&store, 0);
    assert!(!accepted.is_empty(), "what is prepared is used");
    assert_eq!(reserve_files(&site), 1);
    for n in 0..100 {
        session(&store, n).unwrap();
        loss(&store, accepted[0]).unwrap();
        assert!(matches!(
            commit(&store, to_stream(0, [event("s", 5000 + n, 60)])),
            Err(CommitError::Full { .. })
        ));
    }
    let half = accepted[accepted.len() / 2];
    ack(&store, A, half).unwrap();
    drop(store);
    // Killed there: a start needs a segment of its own, and has one.
    site.power_cut(1);
    let (store, _) = open(&site);
    assert_eq!(store.backlog(A).acked, half);
    assert_eq!(positions(&waiting(&store, B)), accepted);
    assert_eq!(store.get(Table::Session, b"client-99").unwrap().unwrap(), "subscribed");
    assert_eq!(lost(&store, LossReason::Rejected), 100);
    session(&store, 1000).unwrap();
    assert!(matches!(commit(&store, to_stream(0, [event("s", 1, 60)])), Err(CommitError::Full { .. })));
    drop(store);
    site.power_cut(2);
    let (store, _) = open(&site);
    assert_eq!(positions(&waiting(&store, B)), accepted, "with nothing left it still starts");
    assert_eq!(store.get(Table::Session, b"client-1000").unwrap().unwrap(), "subscribed");
    site.disk.heal();
    let more = commit(&store, to_stream(0, [event("s", 1, 60)])).expect("no restart, no tick");
    assert_eq!(positions(&waiting(&store, B)), [accepted, more].concat());
    assert_eq!(reserve_files(&site), 2, "made before events are taken again");
}

#[test]
fn room_that_returns_is_told_without_a_commit() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    let room = count_room(&store);
    fill_up(&site);
    publish_until_full(&store, 0);
    store.tick(NOW);
    assert_eq!(room.load(Ordering::SeqCst), 0);
    site.disk.heal();
    store.tick(NOW);
    assert_eq!(room.load(Ordering::SeqCst), 1, "and once");
    store.tick(NOW);
    assert_eq!(room.load(Ordering::SeqCst), 1);
    assert_eq!(reserve_files(&site), 2);
}

#[test]
fn what_the_uplinks_take_makes_room_on_a_disk_that_stays_full() {
    let site = SimSite::new();
    let (store, _) = open(&site);
    for n in 0..300 {
        commit(&store, to_stream(0, [event("s", n, 60)])).unwrap();
    }
    fill_up(&site);
    publish_until_full(&store, 0);
    let last = waiting(&store, A).last().unwrap().position;
    ack(&store, A, last).unwrap();
    ack(&store, B, last).unwrap();
    store.tick(NOW);
    assert_eq!(reserve_files(&site), 2, "first what is kept");
    let again = publish_until_full(&store, 0);
    assert!(again.len() > 50, "{}", again.len());
    assert_eq!(positions(&waiting(&store, A)), again);
}

#[test]
fn a_stream_that_prefers_the_newest_gives_up_its_oldest_and_no_more() {
    let site = SimSite::new();
    let mut large = spec();
    large.streams[1].max_bytes = 1 << 30;
    let (store, _) = SteppedStore::open(&site, large, &options(), true).unwrap();
    let mut accepted = Vec::new();
    for n in 0..6000 {
        accepted.extend(commit(&store, to_stream(1, [event("d", n, 60)])).unwrap());
    }
    assert!(store.stats().generations > 0);
    // The uplink of the other stream is away too, and its policy is to wait.
    let kept = commit(&store, to_stream(0, [event("s", 1, 60)])).unwrap();
    fill_up(&site);
    accepted.extend(publish_until_full(&store, 1));
    for _ in 0..9 {
        store.tick(NOW);
    }
    // Simulated generations take no room of this disk, as if somebody else had taken what they gave back.
    let given_up = lost(&store, LossReason::QueueFull);
    assert!(given_up > 0 && given_up < 1500, "{given_up} of {}", accepted.len());
    site.disk.heal();
    accepted.extend(commit(&store, to_stream(1, [event("d", 9999, 60)])).unwrap());
    let waits = positions(&waiting(&store, DROPS));
    assert_eq!(waits.len() as u64 + given_up, accepted.len() as u64);
    assert!(accepted.ends_with(&waits));
    assert_eq!(positions(&waiting(&store, A)), kept);
}

#[test]
fn a_reserve_of_another_size_is_made_anew() {
    let site = SimSite::new();
    drop(open(&site));
    let mut larger = options();
    larger.segment_bytes = 32 << 10;
    let (store, _) = SteppedStore::open(&site, spec(), &larger, true).unwrap();
    for name in ["journal/reserve", "journal/ballast"] {
        assert_eq!(site.disk_read(name).len(), 32 << 10);
    }
    fill_up(&site);
    publish_until_full(&store, 0);
    session(&store, 1).unwrap();
}

/// With `disk_max` used up the reserve cannot be made again, so nothing but time can tell that there is room for a checkpoint.
#[test]
fn a_checkpoint_that_had_no_room_is_tried_again_though_nothing_can_be_reserved() {
    let site = SimSite::new();
    let small = StoreSpec { disk_max: 12 * (16 << 10), ..spec() };
    let (store, _) = SteppedStore::open(&site, small, &options(), true).unwrap();
    site.backing.fill_up_for_checkpoints(u64::MAX);
    let mut n = 0;
    let mut publish = || {
        n += 1;
        let at = commit(&store, to_stream(0, [event("s", n, 600)]))?;
        ack(&store, A, at[0])?;
        ack(&store, B, at[0])
    };
    while publish().is_ok() {}
    for _ in 0..100 {
        store.tick(NOW);
        assert!(matches!(publish(), Err(CommitError::Full { .. })));
    }
    site.backing.fill_up_for_checkpoints(0);
    for _ in 0..65 {
        store.tick(NOW);
    }
    for _ in 0..200 {
        publish().expect("there is room again, and nobody had to come");
    }
}
