//! Keyed state: ordered maps whose latest durable put wins.

use super::Factory;
use super::support::{commit, event, event_of, into_mailboxes, into_stream, reopen, spec_of_one, state_of};
use bytes::Bytes;
use eventmesh_edge_core::event::{Position, record};
use eventmesh_edge_core::ports::store::{
    Commit, SessionNo, StateChange, StateValue, Store, StreamId, Table, WhenFull,
};

fn put(table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) -> StateChange {
    StateChange::Put { table, key: key.into(), value: StateValue::Bytes(value.into()) }
}

fn delete(table: Table, key: &'static [u8]) -> StateChange {
    StateChange::Delete { table, key: Bytes::from_static(key) }
}

fn get(store: &dyn Store, table: Table, key: &[u8]) -> Option<Bytes> {
    store.get(table, key).unwrap()
}

/// Put, replace, delete; a delete of nothing is nothing; an empty value is a value.
pub fn the_latest_put_wins<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of_one(1 << 20, WhenFull::Refuse));
    assert_eq!(get(&*store, Table::Session, b"k"), None);
    commit(&*store, state_of([put(Table::Session, "k", "one")]));
    commit(&*store, state_of([put(Table::Session, "k", "")]));
    assert_eq!(get(&*store, Table::Session, b"k"), Some(Bytes::new()));
    commit(&*store, state_of([put(Table::Session, "k", "three"), delete(Table::Session, b"absent")]));
    assert_eq!(get(&*store, Table::Session, b"k"), Some(Bytes::from_static(b"three")));
    commit(&*store, state_of([delete(Table::Session, b"k")]));
    assert_eq!(get(&*store, Table::Session, b"k"), None);
}

/// Changes of one commit apply in their order.
pub fn changes_apply_in_their_order<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of_one(1 << 20, WhenFull::Refuse));
    commit(
        &*store,
        state_of([
            put(Table::Node, "a", "1"),
            delete(Table::Node, b"a"),
            put(Table::Node, "b", "1"),
            delete(Table::Node, b"b"),
            put(Table::Node, "b", "2"),
            put(Table::Node, "b", "3"),
        ]),
    );
    assert_eq!(get(&*store, Table::Node, b"a"), None);
    assert_eq!(get(&*store, Table::Node, b"b"), Some(Bytes::from_static(b"3")));
}

/// The same key in another table is another entry.
pub fn tables_do_not_see_each_other<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of_one(1 << 20, WhenFull::Refuse));
    commit(&*store, state_of(Table::ALL.map(|t| put(t, "k", format!("{t:?}")))));
    commit(&*store, state_of([delete(Table::Inbound, b"k")]));
    for table in Table::ALL {
        let expected = (table != Table::Inbound).then(|| Bytes::from(format!("{table:?}")));
        assert_eq!(get(&*store, table, b"k"), expected);
        assert_eq!(store.scan(table, b"", None, 9).unwrap().len(), usize::from(expected.is_some()));
    }
}

/// Key order by bytes; `prefix` bounds, `after` is exclusive, `max` limits; pages add up to the whole.
pub fn a_scan_goes_by_prefix_in_pages<F: Factory>(make: impl Fn() -> F) {
    let store = make().open(spec_of_one(1 << 20, WhenFull::Refuse));
    let table = Table::Subscription;
    let key = |session: u64, n: u8| [&session.to_be_bytes()[..], &[n]].concat();
    // The last session's prefix has no successor of its length.
    for session in [0, 1, 255, u64::MAX] {
        commit(&*store, state_of((0..30).map(|n| put(table, key(session, n * 8), vec![n]))));
    }
    let all = store.scan(table, b"", None, 1000).unwrap();
    assert_eq!(all.len(), 120);
    assert!(all.is_sorted_by(|a, b| a.0 < b.0));
    for session in [0, 1, 255, u64::MAX] {
        let prefix = session.to_be_bytes();
        let (mut seen, mut after): (Vec<u8>, Option<Bytes>) = (Vec::new(), None);
        loop {
            let page = store.scan(table, &prefix, after.as_deref(), 7).unwrap();
            let Some((last, _)) = page.last() else { break };
            assert!(page.len() <= 7 && page.iter().all(|(k, _)| k.starts_with(&prefix)));
            assert!(after.as_ref().is_none_or(|a| last > a), "no progress");
            after = Some(last.clone());
            seen.extend(page.iter().map(|(_, v)| v[0]));
        }
        assert_eq!(seen, (0..30).collect::<Vec<_>>());
    }
    assert_eq!(store.scan(table, &7u64.to_be_bytes(), None, 9).unwrap(), []);
    assert_eq!(store.scan(table, &1u64.to_be_bytes(), Some(&key(1, 8)), 1).unwrap()[0].0, key(1, 16));
    assert_eq!(store.scan(table, &1u64.to_be_bytes(), Some(b""), 1).unwrap()[0].0, key(1, 0));
}

/// [`StateValue::Position`]: eight bytes big-endian of the event that the same commit stores, then the suffix.
pub fn a_value_can_hold_a_position_of_the_same_commit<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let spec = spec_of_one(1 << 20, WhenFull::Refuse);
    let store = factory.open(spec.clone());
    let events = vec![
        into_stream(StreamId(0), event("s", 0)),
        into_mailboxes(event("s", 1), &[SessionNo(1)], ""),
        into_stream(StreamId(0), event("s", 2)),
    ];
    let value = |event, suffix: &'static str| StateValue::Position {
        event,
        suffix: Bytes::from_static(suffix.as_bytes()),
    };
    let state =
        [(0, "", "zero"), (1, "hash", "one"), (2, "", "two")].map(|(n, suffix, key)| StateChange::Put {
            table: Table::Inbound,
            key: Bytes::from_static(key.as_bytes()),
            value: value(n, suffix),
        });
    let at = commit(&*store, Commit { events, state: state.to_vec(), ..Commit::default() });
    let check = |store: &dyn Store| {
        let expected =
            |p: Position, suffix: &[u8]| Some(Bytes::from([&p.0.to_be_bytes()[..], suffix].concat()));
        assert_eq!(get(store, Table::Inbound, b"zero"), expected(at[0], b""));
        assert_eq!(get(store, Table::Inbound, b"one"), expected(at[1], b"hash"));
        assert_eq!(get(store, Table::Inbound, b"two"), expected(at[2], b""));
    };
    check(&*store);
    check(&*reopen(&factory, store, spec));
}

/// [`StateValue::Record`]: the event as a record body, its own after the stream has let go of it.
pub fn a_value_can_hold_the_record_of_an_event<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let spec = spec_of_one(1 << 22, WhenFull::Refuse);
    let store = factory.open(spec.clone());
    let large = event_of("s", 1, 262_144);
    let retain = |event, key: &'static str| StateChange::Put {
        table: Table::Retained,
        key: Bytes::from_static(key.as_bytes()),
        value: StateValue::Record { event },
    };
    let at = commit(
        &*store,
        Commit {
            events: vec![into_stream(StreamId(0), event("s", 0)), into_stream(StreamId(0), large.clone())],
            state: vec![retain(0, "small"), retain(1, "large")],
            ..Commit::default()
        },
    );
    super::support::ack(&*store, super::support::ONLY, at[1]);
    let check = |store: &dyn Store| {
        for (key, expected, number) in [("small", event("s", 0), 1), ("large", large.clone(), 2)] {
            let body = get(store, Table::Retained, key.as_bytes()).unwrap();
            let (found, sequence) = record::decode(&body).unwrap();
            assert_eq!((found, sequence.source), (expected, number));
        }
    };
    check(&*store);
    check(&*reopen(&factory, store, spec));
}

/// Keys of 65,535 bytes, keys with every byte, values of 300 KiB.
pub fn long_keys_and_values_are_kept<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let spec = spec_of_one(1 << 22, WhenFull::Refuse);
    let store = factory.open(spec.clone());
    let long = Bytes::from("é/".repeat(21_845));
    assert_eq!(long.len(), 65_535);
    let bytes = Bytes::from((0..=255u8).collect::<Vec<_>>());
    let value = Bytes::from(vec![0xa5; 300 * 1024]);
    commit(
        &*store,
        state_of([
            put(Table::Retained, long.clone(), "v"),
            put(Table::Retained, bytes.clone(), value.clone()),
        ]),
    );
    let check = |store: &dyn Store| {
        assert_eq!(get(store, Table::Retained, &long), Some(Bytes::from_static(b"v")));
        assert_eq!(get(store, Table::Retained, &bytes), Some(value.clone()));
        assert_eq!(
            store.scan(Table::Retained, b"", None, 9).unwrap(),
            [(bytes.clone(), value.clone()), (long.clone(), Bytes::from_static(b"v"))]
        );
    };
    check(&*store);
    check(&*reopen(&factory, store, spec));
}

/// What was put is there after a restart, what was deleted is not.
pub fn tables_survive_a_restart<F: Factory>(make: impl Fn() -> F) {
    let factory = make();
    let spec = spec_of_one(1 << 20, WhenFull::Refuse);
    let store = factory.open(spec.clone());
    for table in Table::ALL {
        commit(&*store, state_of((0..100).map(|n| put(table, format!("k{n:03}"), format!("{table:?}{n}")))));
    }
    commit(&*store, state_of([delete(Table::Node, b"k050"), put(Table::Node, "k051", "new")]));
    let store = reopen(&factory, store, spec.clone());
    commit(&*store, state_of([put(Table::Node, "k050", "back"), delete(Table::Session, b"k000")]));
    let store = reopen(&factory, store, spec);
    for table in Table::ALL {
        let entries = store.scan(table, b"k", None, 1000).unwrap();
        assert_eq!(entries.len(), 100 - usize::from(table == Table::Session), "{table:?}");
    }
    assert_eq!(get(&*store, Table::Node, b"k050"), Some(Bytes::from_static(b"back")));
    assert_eq!(get(&*store, Table::Node, b"k051"), Some(Bytes::from_static(b"new")));
    assert_eq!(get(&*store, Table::Session, b"k000"), None);
    assert_eq!(get(&*store, Table::Outbound, b"k099"), Some(Bytes::from_static(b"Outbound99")));
}
