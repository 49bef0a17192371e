//! The client table: what a start finds, numbers, expiry over downtime.

use super::*;
use crate::session::records::SessionRecord;
use crate::testing::{ManualClock, ScriptedHub, WALL, sessions};
use eventmesh_edge_core::event::{Position, Timestamp};

fn record(number: u64, expiry_secs: u32, connected: bool, left: Timestamp) -> Bytes {
    let principal = Principal { name: Text::from_static("p"), anonymous: true };
    let number = SessionNo(number);
    let sent_through = (!connected).then_some(Position::ZERO);
    SessionRecord { principal, number, expiry_secs, connected, left, will: None, sent_through }.encode()
}

struct Start {
    hub: Arc<ScriptedHub>,
    clock: Arc<ManualClock>,
    sessions: Arc<Sessions>,
}

impl Start {
    fn new() -> Start {
        let (hub, clock) = (ScriptedHub::automatic(), ManualClock::new());
        let sessions = sessions(&hub, &clock);
        Start { hub, clock, sessions }
    }

    fn put(&self, table: Stored, key: &[u8], value: &[u8]) {
        self.hub.put_raw(table, key, value);
    }

    fn restore(&self) -> Restored {
        self.sessions.restore(&*self.hub).unwrap()
    }

    fn away_after(&self, by: Duration) -> usize {
        self.clock.advance(by);
        self.sessions.tick();
        self.sessions.counts().1
    }
}

#[test]
fn expiry_counts_over_downtime_if_both_clocks_are_believable() {
    let hour = Duration::from_secs(3600);
    let half_an_hour_ago = Timestamp(WALL.0 - 1_800_000);
    for (connected, left, wall, expected_secs) in [
        (false, half_an_hour_ago, WALL, 1800),
        (true, half_an_hour_ago, WALL, 3600),
        (false, Timestamp(5), WALL, 3600),
        (false, half_an_hour_ago, Timestamp(5), 3600),
        (false, Timestamp(WALL.0 + 9_999_999), WALL, 3600),
    ] {
        let start = Start::new();
        start.clock.set_wall(wall);
        start.put(Stored::Session, b"c", &record(3, 3600, connected, left));
        assert_eq!(start.restore(), Restored { sessions: 1, ..Restored::default() });
        assert_eq!(
            start.away_after(Duration::from_secs(expected_secs - 1)),
            1,
            "{connected} {left:?} {wall:?}"
        );
        assert_eq!(start.away_after(Duration::from_secs(1)), 0, "{connected} {left:?} {wall:?}");
        assert!(start.hub.rows(Stored::Session).is_empty());
    }
    let start = Start::new();
    start.put(Stored::Session, b"c", &record(3, 3600, false, Timestamp(WALL.0 - 7_200_000)));
    start.restore();
    assert_eq!(start.away_after(Duration::ZERO), 0, "it expired while the node was down");
    let start = Start::new();
    start.put(Stored::Session, b"c", &record(3, u32::MAX, false, Timestamp(WALL.0 - 7_200_000)));
    start.restore();
    assert_eq!(start.away_after(hour * 24 * 365 * 100), 1, "never");
}

#[test]
fn damaged_records_are_skipped_and_counted() {
    let start = Start::new();
    start.put(Stored::Session, b"good", &record(3, 60, true, WALL));
    start.put(Stored::Session, b"later", b"\x03 a version that is not known");
    start.put(Stored::Session, b"empty", b"");
    start.put(Stored::Session, b"\xC3\x28", &record(4, 60, true, WALL));
    let options = SubscribeOptionsBytes::valid();
    start.put(Stored::Subscription, &records::subscription_key(SessionNo(3), "a/#"), &options);
    start.put(Stored::Subscription, &records::subscription_key(SessionNo(3), "a/#/b"), &options);
    start.put(Stored::Subscription, &records::subscription_key(SessionNo(3), "x"), b"\x09");
    start.put(Stored::Subscription, b"short", &options);
    start.put(Stored::Inbound, &records::pid_key(SessionNo(3), 1), b"short");
    start.put(Stored::Outbound, &records::pid_key(SessionNo(3), 1), b"\x01\x07");
    let found = start.restore();
    assert_eq!(found, Restored { sessions: 1, subscriptions: 1, wills: 0, skipped: 8, orphans: 0 });
    assert_eq!(start.hub.subscription_count(), 1);
}

/// A valid value of the Subscription table.
struct SubscribeOptionsBytes;

impl SubscribeOptionsBytes {
    fn valid() -> Bytes {
        records::encode_subscription(
            eventmesh_edge_core::ports::hub::SubscribeOptions {
                qos: eventmesh_edge_core::event::Qos::AtLeastOnce,
                no_local: false,
                retain_as_published: false,
                retain_handling: 0,
                identifier: 0,
            },
            None,
        )
    }
}

#[test]
fn rows_of_sessions_that_are_gone_are_removed() {
    let start = Start::new();
    start.put(Stored::Session, b"c", &record(3, 60, true, WALL));
    let options = SubscribeOptionsBytes::valid();
    start.put(Stored::Subscription, &records::subscription_key(SessionNo(2), "a"), &options);
    start.put(Stored::Inbound, &records::pid_key(SessionNo(2), 1), b"");
    start.put(Stored::Outbound, &records::pid_key(SessionNo(9), 1), b"");
    assert_eq!(start.restore().orphans, 3);
    for table in [Stored::Subscription, Stored::Inbound, Stored::Outbound] {
        assert!(start.hub.rows(table).is_empty(), "{table:?}");
    }
}

#[test]
fn more_sessions_than_one_piece_of_a_scan_are_found() {
    let start = Start::new();
    for n in 0..1300u64 {
        start.put(Stored::Session, format!("client-{n}").as_bytes(), &record(n + 1, 60, true, WALL));
    }
    assert_eq!(start.restore().sessions, 1300);
    assert_eq!(start.sessions.counts(), (0, 1300));
}

#[test]
fn numbers_are_never_used_twice() {
    let start = Start::new();
    let mut last = SessionNo(0);
    let mut mark = Vec::new();
    for _ in 0..3000 {
        let (number, change) = start.sessions.allocate_number().unwrap();
        assert!(number > last);
        last = number;
        let StateChange::Put { value: StateValue::Bytes(value), .. } = change else { panic!() };
        mark.push(value);
    }
    // Any mark of the last thousand is enough, in whichever order the commits came, and without any session left.
    for value in &mark[2000..] {
        let start = Start::new();
        start.put(Stored::Session, records::NUMBER_MARK, value);
        start.restore();
        let (number, _) = start.sessions.allocate_number().unwrap();
        assert!(number > last, "{number:?} after {last:?}");
    }
    // And a session is evidence enough without a mark.
    let start = Start::new();
    start.put(Stored::Session, b"c", &record(70_000, 60, true, WALL));
    start.restore();
    assert_eq!(start.sessions.allocate_number().unwrap().0, SessionNo(70_001));
}

#[test]
fn assigned_ids_are_unlike_each_other_and_unlike_those_of_another_process() {
    let (a, b) = (Start::new(), Start::new());
    let ids: BTreeSet<_> =
        (0..100).flat_map(|_| [a.sessions.assign_client_id(), b.sessions.assign_client_id()]).collect();
    assert_eq!(ids.len(), 200);
}
