//! Mailboxes: queues of claims on events, one per persistent session, each bounded.

use super::Factory;
use super::support::{
    ONLY, ack, answer, assert_backlog_is_exact, commit, commit_of, event, event_of, into_mailboxes,
    into_stream, lost, mailbox, reopen, spec_of_one, state_of,
};
use bytes::Bytes;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::{
    Commit, LossReason, MailboxItem, SessionNo, StateChange, Store, StoreSpec, StreamId, WhenFull,
};
use std::sync::{Arc, mpsc};

const A: SessionNo = SessionNo(1);
const B: SessionNo = SessionNo(u64::MAX);

fn spec() -> StoreSpec {
    spec_of_one(1 << 20, WhenFull::Refuse)
}

fn mail(events: usize, sessions: &[SessionNo], options: &'static str) -> Commit {
    let events = (0..events).map(|n| into_mailboxes(event("s", n), sessions, options)).collect();
    Commit { events, ..Commit::default() }
}

fn at(items: &[MailboxItem]) -> Vec<Position> {
    items.iter().map(|i| i.event.position).collect()
}

/// What is put in comes out, in order, with its options; sessions do not see each other's.
pub fn a_mailbox_gives_its_events_in_order<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec());
    assert_eq!((store.mailbox_len(A), mailbox(&*store, A, Position::ZERO, 9)), ((0, 0), vec![]));
    let first = commit(&*store, mail(2, &[A], "one"));
    let other = commit(&*store, mail(1, &[B], "two"));
    let last = commit(&*store, mail(1, &[A], ""));
    let items = mailbox(&*store, A, Position::ZERO, 9);
    assert_eq!(at(&items), [first, last].concat());
    assert_eq!(items.iter().map(|i| &i.options[..]).collect::<Vec<_>>(), [&b"one"[..], b"one", b""]);
    assert_eq!(items[1].event.event, event("s", 1));
    assert_eq!(at(&mailbox(&*store, B, Position::ZERO, 9)), other);
    let bytes = items.iter().map(|i| u64::from(i.event.stored_bytes)).sum();
    assert_eq!(store.mailbox_len(A), (3, bytes));
}

/// All mailboxes together have a budget: the fullest gives up its oldest first, so that one that is away for long does
/// not take the room of the others; what waits for many counts once.
pub fn the_fullest_mailbox_gives_way_first<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let spec = StoreSpec { mailboxes_max_bytes: 64 << 10, ..spec() };
    let store = factory.open(spec.clone());
    let shared: Vec<SessionNo> = (10..110).map(SessionNo).collect();
    let note = into_mailboxes(event("note", 0), &shared, "q");
    let note = commit(&*store, Commit { events: vec![note], ..Commit::default() });
    let of = |n, session| Commit {
        events: vec![into_mailboxes(event_of("s", n, 1000), &[session], "q")],
        ..Commit::default()
    };
    let kept: Vec<Position> = (0..5).flat_map(|n| commit(&*store, of(n, B))).collect();
    let laggard: Vec<Position> = (0..200).flat_map(|n| commit(&*store, of(n, A))).collect();
    let check = |store: &dyn Store| {
        assert_eq!(at(&mailbox(store, B, Position::ZERO, 99)), kept, "not the fullest");
        assert!(shared.iter().all(|s| at(&mailbox(store, *s, Position::ZERO, 9)) == note));
        let left = at(&mailbox(store, A, Position::ZERO, 999));
        let sizes = "of about 1,110 bytes with the claim, beside the others' 9 KiB";
        assert!((45..60).contains(&left.len()), "{} {sizes}", left.len());
        let gone = laggard.len() - left.len();
        assert_eq!(left, laggard[gone..]);
        let line = lost(store, None, LossReason::SessionQueueFull);
        assert_eq!((line.events, line.first, line.last), (gone as u64, laggard[0], laggard[gone - 1]));
    };
    check(&*store);
    let store = reopen(&factory, store, spec);
    check(&*store);
    commit(&*store, state_of([StateChange::MailboxClear { session: A }]));
    let refilled: Vec<Position> = (0..40).flat_map(|n| commit(&*store, of(n, B))).collect();
    assert_eq!(at(&mailbox(&*store, B, Position::ZERO, 99)), [kept, refilled].concat(), "room returned");
}

/// A message for a thousand sessions is one event, and each session's claim is its own.
pub fn one_event_waits_for_many_sessions<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec());
    let sessions: Vec<SessionNo> = (0..1000).map(SessionNo).collect();
    let mut new = into_mailboxes(event("s", 0), &sessions, "q1");
    new.mailboxes[5].options = Bytes::from_static(b"q2");
    let position = commit(&*store, Commit { events: vec![new], ..Commit::default() })[0];
    commit(
        &*store,
        state_of((0..999).map(|n| StateChange::MailboxRemove { session: SessionNo(n), position })),
    );
    assert_eq!(store.mailbox_len(SessionNo(5)), (0, 0));
    let left = mailbox(&*store, SessionNo(999), Position::ZERO, 9);
    assert_eq!((at(&left), &left[0].options[..]), (vec![position], &b"q1"[..]));
    assert_eq!(left[0].event.event, event("s", 0));
}

/// A removal ends one claim.
pub fn entries_are_removed<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec());
    let p = commit(&*store, mail(3, &[A, B], "new"));
    commit(&*store, state_of([StateChange::MailboxRemove { session: A, position: p[1] }]));
    assert_eq!(at(&mailbox(&*store, A, Position::ZERO, 9)), [p[0], p[2]]);
    assert!(mailbox(&*store, B, Position::ZERO, 9).iter().all(|i| &i.options[..] == b"new"));
    assert_eq!((store.mailbox_len(A).0, store.mailbox_len(B).0), (2, 3));
}

/// The session has ended: all its claims end, and only its.
pub fn a_cleared_mailbox_is_empty<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let store = factory.open(spec());
    commit(&*store, mail(5, &[A, B], ""));
    commit(&*store, state_of([StateChange::MailboxClear { session: A }]));
    let check = |store: &dyn Store| {
        assert_eq!((store.mailbox_len(A), mailbox(store, A, Position::ZERO, 9).len()), ((0, 0), 0));
        assert_eq!((store.mailbox_len(B).0, mailbox(store, B, Position::ZERO, 9).len()), (5, 5));
        assert_eq!(store.ledger(), [], "a session that ends has lost nothing");
    };
    check(&*store);
    let store = reopen(&factory, store, spec());
    check(&*store);
    let new = commit(&*store, mail(1, &[A], "again"));
    assert_eq!(at(&mailbox(&*store, A, Position::ZERO, 9)), new);
}

/// A removal that comes twice or too late does nothing.
pub fn removals_of_entries_that_are_not_there_are_nothing<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec());
    let p = commit(&*store, mail(2, &[A], "x"));
    let nowhere = Position(p[1].0 + 100);
    for session in [A, B] {
        for position in [p[0], p[0], nowhere] {
            commit(&*store, state_of([StateChange::MailboxRemove { session, position }]));
        }
    }
    let items = mailbox(&*store, A, Position::ZERO, 9);
    assert_eq!((at(&items), &items[0].options[..]), (vec![p[1]], &b"x"[..]));
    assert_eq!((store.mailbox_len(A).0, store.mailbox_len(B)), (1, (0, 0)));
}

/// `after`, `max_events` and about `max_bytes`.
pub fn a_mailbox_is_read_in_pages<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec());
    let events = (0..25).map(|n| into_mailboxes(event_of("s", n, 1000), &[A], "")).collect();
    let all = commit(&*store, Commit { events, ..Commit::default() });
    let (mut seen, mut after) = (Vec::new(), Position::ZERO);
    loop {
        let page = mailbox(&*store, A, after, 10);
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 10);
        assert!(last.event.position > after, "no progress");
        after = last.event.position;
        seen.extend(at(&page));
    }
    assert_eq!(seen, all);
    let (tx, rx) = mpsc::channel();
    store.read_mailbox(A, all[3], 100, 3000, answer(tx));
    let page = rx.recv().unwrap().unwrap();
    assert!((1..=4).contains(&page.len()), "{} events of 1 KB for 3,000 bytes", page.len());
    assert_eq!(at(&page), all[4..4 + page.len()]);
}

fn overfill(store: &Arc<dyn Store>, events: usize, bytes: usize) -> Vec<Position> {
    let mut all = Vec::new();
    for n in 0..events {
        let new = into_mailboxes(event_of("s", n, bytes), &[A, B], "");
        all.extend(commit(&**store, Commit { events: vec![new], ..Commit::default() }));
        // B keeps up, A does not.
        let position = all[n];
        commit(&**store, state_of([StateChange::MailboxRemove { session: B, position }]));
    }
    all
}

fn assert_oldest_given_up(store: &dyn Store, all: &[Position], kept: usize) {
    let dropped = all.len() - kept;
    assert_eq!(at(&mailbox(store, A, Position::ZERO, 10_000)), all[dropped..]);
    let line = lost(store, None, LossReason::SessionQueueFull);
    assert_eq!((line.events, line.first, line.last), (dropped as u64, all[0], all[dropped - 1]));
    assert_eq!(store.mailbox_len(A).0, kept as u64);
}

/// Beyond `mailbox_max_events` the oldest entry is given up and counted, for that session only.
pub fn a_mailbox_keeps_to_its_number_of_events<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let spec = StoreSpec { mailbox_max_events: 5, ..spec() };
    let store = factory.open(spec.clone());
    let all = overfill(&store, 12, 10);
    assert_oldest_given_up(&*store, &all, 5);
    assert_oldest_given_up(&*reopen(&factory, store, spec), &all, 5);
}

/// The same for `mailbox_max_bytes`.
pub fn a_mailbox_keeps_to_its_bytes<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(StoreSpec { mailbox_max_bytes: 5000, ..spec() });
    let all = overfill(&store, 12, 1000);
    let (kept, bytes) = store.mailbox_len(A);
    assert!(bytes <= 5000 && (3..=4).contains(&kept), "{kept} entries, {bytes} bytes");
    assert_oldest_given_up(&*store, &all, kept.try_into().unwrap());
}

/// An event that a stream and a mailbox hold stays until both have let go, whoever is first.
pub fn stream_and_mailbox_hold_an_event_independently<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let store = factory.open(spec());
    let both = |n| {
        let mut new = into_stream(StreamId(0), event("s", n));
        new.mailboxes = into_mailboxes(event("s", n), &[A], "m").mailboxes;
        new
    };
    let p = commit(&*store, Commit { events: (0..4).map(both).collect(), ..Commit::default() });
    ack(&*store, ONLY, p[1]);
    commit(&*store, state_of([StateChange::MailboxRemove { session: A, position: p[3] }]));
    let check = |store: &dyn Store| {
        assert_eq!(at(&mailbox(store, A, Position::ZERO, 9)), p[..3]);
        let waiting = assert_backlog_is_exact(store, ONLY);
        assert_eq!(waiting.iter().map(|e| e.position).collect::<Vec<_>>(), p[2..]);
        assert_eq!(mailbox(store, A, p[1], 9)[0].event, waiting[0], "the same event either way");
    };
    check(&*store);
    let store = reopen(&factory, store, spec());
    check(&*store);
    ack(&*store, ONLY, p[3]);
    commit(&*store, state_of([StateChange::MailboxClear { session: A }]));
    assert_eq!((store.backlog(ONLY).events, store.mailbox_len(A)), (0, (0, 0)));
}

/// Entries, their options and the figures are there after a restart, removed ones are not.
pub fn mailboxes_survive_a_restart<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let store = factory.open(spec());
    let p = commit(&*store, mail(6, &[A, B], "first"));
    commit(&*store, commit_of([event("noise", 0)]));
    commit(&*store, state_of([StateChange::MailboxRemove { session: A, position: p[0] }]));
    let figures = |store: &dyn Store| {
        let all = |session| mailbox(store, session, Position::ZERO, 100);
        (all(A), all(B), store.mailbox_len(A), store.mailbox_len(B))
    };
    let before = figures(&*store);
    assert_eq!((before.2.0, before.3.0), (5, 6));
    let store = reopen(&factory, store, spec());
    assert_eq!(figures(&*store), before);
    let store = reopen(&factory, store, spec());
    assert_eq!(figures(&*store), before);
}
