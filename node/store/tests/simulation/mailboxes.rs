//! Many sessions that are away: what waits for all is stored once, claims stay small, and nobody fills the disk.

use crate::support::{commit, event, options, spec};
use bytes::Bytes;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::{
    Commit, CommitError, MAILBOX_CLAIM_BYTES, MailboxEntry, MailboxItem, NewEvent, SessionNo, StateChange,
    StateValue, Store, StoreSpec, StreamId, Table,
};
use eventmesh_edge_store::{SimSite, SteppedStore};
use std::ops::Range;
use std::sync::{Arc, Mutex};

fn roomy() -> StoreSpec {
    StoreSpec { disk_max: 1 << 30, mailbox_max_events: 100_000, mailbox_max_bytes: 1 << 30, ..spec() }
}

fn open(site: &SimSite, spec: StoreSpec) -> SteppedStore {
    SteppedStore::open(site, spec, &options(), true).unwrap().0
}

fn mail(n: u64, bytes: usize, sessions: Range<u64>) -> Commit {
    let entry =
        |session| MailboxEntry { session: SessionNo(session), options: Bytes::from_static(&[0x11, 0]) };
    let new =
        NewEvent { stream: None, event: event("s", n, bytes), mailboxes: sessions.map(entry).collect() };
    Commit { events: vec![new], ..Commit::default() }
}

fn mailbox(store: &dyn Store, session: u64, after: Position) -> Vec<MailboxItem> {
    let slot = Arc::new(Mutex::new(None));
    let into = Arc::clone(&slot);
    let done = Box::new(move |items| *into.lock().unwrap() = Some(items));
    store.read_mailbox(SessionNo(session), after, 70, 1 << 20, done);
    slot.lock().unwrap().take().unwrap().unwrap()
}

fn all_of(store: &dyn Store, session: u64) -> Vec<MailboxItem> {
    let mut all = mailbox(store, session, Position::ZERO);
    while let Some(last) = all.last().map(|item| item.event.position) {
        let page = mailbox(store, session, last);
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    all
}

/// By the bytes: in the journal, and in what the mailboxes take of their budget.
#[test]
fn a_message_for_a_thousand_sessions_is_stored_once() {
    let store = open(&SimSite::new(), roomy());
    let (before, payload) = (store.stats().bytes_written, 4000);
    commit(&store, mail(1, payload, 0..1000)).unwrap();
    let written = store.stats().bytes_written - before;
    let stored = u64::from(mailbox(&store, 7, Position::ZERO)[0].event.stored_bytes);
    assert_eq!(store.stats().mailbox_bytes, stored + 1000 * MAILBOX_CLAIM_BYTES);
    assert!(written < payload as u64 + 1000 * 10, "{written} bytes for one message and a thousand claims");
    for session in 0..999 {
        let position = mailbox(&store, session, Position::ZERO)[0].event.position;
        let state = vec![StateChange::MailboxRemove { session: SessionNo(session), position }];
        commit(&store, Commit { state, ..Commit::default() }).unwrap();
    }
    assert_eq!(store.stats().mailbox_bytes, stored + MAILBOX_CLAIM_BYTES, "until the last one has it");
    commit(
        &store,
        Commit { state: vec![StateChange::MailboxClear { session: SessionNo(999) }], ..Commit::default() },
    )
    .unwrap();
    assert_eq!(store.stats().mailbox_bytes, 0);
}

/// A scaled `examples/mailbox_bench`: blocks are cut, joined and written many times over; each session has its messages,
/// whole and in order, before and after a start, and takes them out in any order.
#[test]
fn hundreds_of_sessions_keep_their_queues_over_starts() {
    let (sessions, messages) = (300, 200);
    let site = SimSite::new();
    let mut store = open(&site, roomy());
    for n in 0..messages {
        commit(&store, mail(n, 20, 0..sessions)).unwrap();
        if n % 67 == 66 {
            drop(store);
            site.power_cut(n);
            store = open(&site, roomy());
        }
    }
    assert_eq!(store.mailbox_len(SessionNo(11)).0, messages);
    for session in [0, 31, 32, sessions - 1] {
        let all = all_of(&store, session);
        let is_nth = |(item, n): (&MailboxItem, u64)| item.event.event == event("s", n, 20);
        assert!(all.len() as u64 == messages && all.iter().zip(0..).all(is_nth), "session {session}");
        for nth in (0..all.len()).rev().step_by(3) {
            let position = all[nth].event.position;
            let state = vec![StateChange::MailboxRemove { session: SessionNo(session), position }];
            commit(&store, Commit { state, ..Commit::default() }).unwrap();
        }
        let left: Vec<_> = all_of(&store, session).iter().map(|item| item.event.position).collect();
        let kept = all.iter().rev().enumerate().filter(|(nth, _)| nth % 3 != 0);
        let mut kept: Vec<_> = kept.map(|(_, item)| item.event.position).collect();
        kept.reverse();
        assert_eq!(left, kept, "session {session}");
        assert_eq!(store.mailbox_len(SessionNo(session)).0, kept.len() as u64);
    }
    let figures = store.stats().mailbox_bytes;
    drop(store);
    let store = open(&site, roomy());
    assert_eq!(store.stats().mailbox_bytes, figures);
}

/// P5: what only mailboxes wait for does not go past the limit of the disk; what makes room again goes through.
#[test]
fn a_full_disk_refuses_what_only_mailboxes_wait_for() {
    let store = open(&SimSite::new(), StoreSpec { disk_max: 16 << 10, ..roomy() });
    let refusal = commit(&store, mail(1, 100, 0..1)).unwrap_err();
    assert!(matches!(refusal, CommitError::Full { stream: StreamId::NONE, .. }), "{refusal}");
    let (key, value) = (Bytes::from_static(b"k"), StateValue::Bytes(Bytes::from_static(b"v")));
    let put = StateChange::Put { table: Table::Session, key, value };
    commit(&store, Commit { state: vec![put], ..Commit::default() }).unwrap();
    commit(
        &store,
        Commit { state: vec![StateChange::MailboxClear { session: SessionNo(0) }], ..Commit::default() },
    )
    .unwrap();
}
