//! A stream that refuses: who waits, who does not, and in which order it goes on.

use super::*;
use eventmesh_edge_contract::suite::support::{consumer, read_all, texts};
use eventmesh_edge_core::ports::store::{CursorChange, Loss, LossReason, StateValue};

/// Fills the telemetry stream with messages of 600 bytes, until one has to wait; returns that one's name.
async fn fill(bench: &mut Bench) -> String {
    for n in 0..99 {
        let name = format!("fill {n}");
        bench.submit(&name, from(None, [event("t/fill", &format!("{name} {}", "x".repeat(600)))]));
        bench.store.complete_next(1);
        bench.turn().await;
        if bench.hub.stats().parked > 0 {
            return name;
        }
    }
    panic!("the stream takes everything");
}

/// The uplink acknowledges everything, and the hub does what it can do then.
async fn drain(bench: &mut Bench) {
    let all = read_all(&*bench.store, consumer(0, 0), Position::ZERO);
    acknowledge(bench, all.last().unwrap().position);
    bench.store.complete_next(usize::MAX);
    bench.turn().await;
    bench.store.complete_next(usize::MAX);
    bench.turn().await;
}

/// The uplink's acknowledgement is on its way to the store.
fn acknowledge(bench: &Bench, acked: Position) {
    let cursors = vec![CursorChange { consumer: consumer(0, 0), acked }];
    bench.store.submit(Commit { cursors, ..Commit::default() }, Box::new(drop));
}

#[tokio::test(start_paused = true)]
async fn a_submission_waits_for_room_and_is_answered_when_it_returns() {
    let mut bench = Bench::new();
    let name = fill(&mut bench).await;
    assert!(!bench.answered().contains(&name), "the answer is withheld");
    let stats = bench.hub.stats();
    assert_eq!(stats.parked, 1);
    assert!(stats.parked_bytes > 600, "{stats:?}");
    drain(&mut bench).await;
    assert!(bench.answer(&name).is_ok());
    assert_eq!((bench.hub.stats().parked, bench.hub.stats().parked_bytes), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn whoever_wants_to_be_refused_is_refused_at_once() {
    let mut bench = Bench::new();
    fill(&mut bench).await;
    let mut submission = from(None, [event("t/1", "x")]);
    submission.refuse_when_full = true;
    bench.submit("refused", submission.clone());
    bench.turn().await;
    assert!(matches!(bench.answer("refused"), Err(CommitError::Full { stream: TELEMETRY, .. })));
    // The first to find the stream full, as well.
    let mut bench = Bench::new();
    bench.submit("fits", from(None, [event("t/1", &"x".repeat(1200))]));
    bench.store.complete_next(1);
    bench.turn().await;
    submission.publications = vec![Publication { event: event("t/1", &"x".repeat(1200)), publisher: None }];
    bench.submit("refused", submission);
    bench.store.complete_next(1);
    bench.turn().await;
    assert!(matches!(bench.answer("refused"), Err(CommitError::Full { .. })));
    assert_eq!(bench.hub.stats().parked, 0);
}

#[tokio::test(start_paused = true)]
async fn other_streams_and_local_messages_are_not_held_up() {
    let mut bench = Bench::new();
    fill(&mut bench).await;
    bench.publish("a/1", "alarm");
    bench.publish("local", "local");
    bench.turn().await;
    assert!(bench.answer("alarm").is_ok() && bench.answer("local").is_ok());
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_go_on_in_their_order_and_nobody_slips_in_before_them() {
    let mut bench = Bench::new();
    let name = fill(&mut bench).await;
    let connection = Connection::new(9);
    let publisher = bench.subscriber(&connection, "t/#");
    bench.submit("large", from(Some(publisher), [event("t/1", &format!("large {}", "x".repeat(500)))]));
    bench.submit("same publisher", from(Some(publisher), [event("local", "same publisher")]));
    // Small enough for the room that is left.
    bench.publish("t/1", "small");
    bench.turn().await;
    assert_eq!(bench.hub.stats().parked, 3);
    drain(&mut bench).await;
    let answered = bench.answered();
    let tail: Vec<_> = answered.iter().skip_while(|n| **n != name).map(String::as_str).collect();
    assert_eq!(tail, [name.as_str(), "large", "small", "same publisher"]);
    let stored = read_all(&*bench.store, consumer(0, 0), Position::ZERO);
    let first_words: Vec<_> =
        texts(&stored).iter().map(|t| t.split(' ').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(first_words.last_chunk::<3>().unwrap(), &["fill", "large", "small"]);
}

#[tokio::test(start_paused = true)]
async fn news_of_room_that_overtakes_the_refusal_is_not_missed() {
    let mut bench = Bench::manual();
    let large = "x".repeat(1500);
    bench.submit("fits", from(None, [event("t/1", &large)]));
    bench.commit(1).await;
    bench.submit("refused", from(None, [event("t/1", &large)]));
    // The store has decided, and says that there is room before it says what it decided.
    bench.hub.inbox.room();
    bench.turn().await;
    bench.commit(1).await;
    assert_eq!(bench.store.pending(), 1, "it is tried again, nobody will say it a second time");
    bench.commit(1).await;
    assert_eq!((bench.store.pending(), bench.hub.stats().parked), (0, 1), "but only once");
    drain(&mut bench).await;
    assert!(bench.answer("refused").is_ok());
}

#[tokio::test(start_paused = true)]
async fn news_of_room_that_comes_with_the_refusal_is_not_missed() {
    let mut bench = Bench::manual();
    let large = "x".repeat(1500);
    bench.submit("fits", from(None, [event("t/1", &large)]));
    bench.commit(1).await;
    bench.submit("refused", from(None, [event("t/1", &large)]));
    drain(&mut bench).await;
    assert!(bench.answer("refused").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_later_write_of_the_same_key_does_not_overtake_a_parked_one() {
    let mut bench = Bench::new();
    fill(&mut bench).await;
    let put = |value: &'static str| StateChange::Put {
        table: Table::Session,
        key: Bytes::from_static(b"client"),
        value: StateValue::Bytes(Bytes::from_static(value.as_bytes())),
    };
    let will = Submission { state: vec![put("away")], ..from(None, [event("t/will", "gone")]) };
    bench.submit("will", will);
    bench.submit("back", Submission { state: vec![put("connected")], ..Submission::default() });
    bench.turn().await;
    assert_eq!(bench.hub.stats().parked, 3);
    drain(&mut bench).await;
    assert!(bench.answer("will").is_ok() && bench.answer("back").is_ok());
    assert_eq!(bench.store.get(Table::Session, b"client").unwrap().unwrap(), "connected");
}

#[tokio::test(start_paused = true)]
async fn a_parked_submission_gives_no_mailbox_an_entry_after_its_session_has_ended() {
    let mut bench = Bench::new();
    let session = bench.session(7, "t/#");
    fill(&mut bench).await;
    bench.publish("t/1", "late");
    bench.turn().await;
    bench.hub.detach(session);
    let cleared = StateChange::MailboxClear { session: SessionNo(7) };
    bench.submit("ended", Submission { state: vec![cleared], ..Submission::default() });
    bench.turn().await;
    drain(&mut bench).await;
    assert!(bench.answer("late").is_ok() && bench.answer("ended").is_ok());
    assert_eq!(bench.store.mailbox_len(SessionNo(7)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn more_than_may_wait_is_refused() {
    let mut bench = Bench::over(MemoryStore::new(spec()), |options| options.parked_max = 2);
    fill(&mut bench).await;
    bench.publish("t/1", "waits");
    bench.publish("t/1", "does not");
    bench.turn().await;
    assert_eq!(bench.hub.stats().parked, 2);
    assert!(matches!(bench.answer("does not"), Err(CommitError::Full { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_room() {
    let mut bench = Bench::new();
    let name = fill(&mut bench).await;
    tokio::time::timeout(Duration::from_secs(9), bench.hub.clone().run(async {})).await.unwrap();
    assert!(matches!(bench.answer(&name), Err(CommitError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn many_that_wait_cost_one_refusal_for_each_piece_of_news() {
    let mut bench = Bench::manual();
    fill(&mut bench).await;
    for n in 0..50 {
        bench.publish("t/1", &format!("{n} {}", "x".repeat(600)));
    }
    bench.turn().await;
    assert_eq!((bench.hub.stats().parked, bench.store.pending()), (51, 0));
    let oldest = read_all(&*bench.store, consumer(0, 0), Position::ZERO)[0].position;
    acknowledge(&bench, oldest);
    bench.commit(1).await;
    assert_eq!(bench.store.pending(), 1, "one is tried");
    bench.commit(1).await;
    assert_eq!(bench.store.pending(), 2, "it fitted: two are tried");
    bench.commit(2).await;
    assert_eq!((bench.hub.stats().parked, bench.store.pending()), (50, 0), "they did not");
}

fn put(value: &'static str) -> StateChange {
    let (key, value) =
        (Bytes::from_static(b"client"), StateValue::Bytes(Bytes::from_static(value.as_bytes())));
    StateChange::Put { table: Table::Session, key, value }
}

/// State alone overtakes nothing that the same client submitted before and that writes the same key: not what waits
/// behind a parked submission, and not what is at the store and will be refused there.
#[tokio::test(start_paused = true)]
async fn state_alone_does_not_overtake_what_waits_in_the_hub() {
    for behind in [false, true] {
        let mut bench = Bench::new();
        let publisher = bench.subscriber(&Connection::new(99), "nowhere");
        fill(&mut bench).await;
        if behind {
            bench.submit("parked", from(Some(publisher), [event("t/1", "x")]));
        }
        bench.submit(
            "first",
            Submission { state: vec![put("first")], ..from(Some(publisher), [event("t/1", "y")]) },
        );
        let origin = Some(publisher);
        bench.submit("second", Submission { state: vec![put("second")], origin, ..Submission::default() });
        let other = StateChange::Delete { table: Table::Session, key: Bytes::from_static(b"other") };
        bench.submit("other", Submission { state: vec![other], origin, ..Submission::default() });
        bench.turn().await;
        assert_eq!(bench.answered().last().unwrap(), "other", "another key is not held up");
        drain(&mut bench).await;
        assert_eq!(
            bench.store.get(Table::Session, b"client").unwrap().unwrap(),
            "second",
            "behind: {behind}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn state_alone_does_not_overtake_what_the_store_is_about_to_refuse() {
    let mut bench = Bench::manual();
    let publisher = bench.subscriber(&Connection::new(99), "nowhere");
    let large = "x".repeat(1500);
    bench.submit("fits", from(None, [event("t/1", &large)]));
    bench.commit(1).await;
    bench.submit(
        "first",
        Submission { state: vec![put("first")], ..from(Some(publisher), [event("t/1", &large)]) },
    );
    let origin = Some(publisher);
    bench.submit("second", Submission { state: vec![put("second")], origin, ..Submission::default() });
    bench.commit(1).await;
    assert_eq!(bench.hub.stats().parked, 1);
    drain(&mut bench).await;
    bench.store.complete_next(usize::MAX);
    bench.turn().await;
    assert!(bench.answer("first").is_ok() && bench.answer("second").is_ok());
    assert_eq!(bench.store.get(Table::Session, b"client").unwrap().unwrap(), "second");
}

#[tokio::test(start_paused = true)]
async fn another_router_takes_what_waits_and_what_comes_and_nothing_that_is_committed() {
    let mut bench = Bench::new();
    let name = fill(&mut bench).await;
    let before = read_all(&*bench.store, consumer(0, 0), Position::ZERO).len();
    let everything = Route { topics: vec![filter("t/#")], stream: ALARMS, kind: None };
    bench.hub.reroute(Router::new(vec![everything], None).unwrap());
    bench.turn().await;
    assert!(bench.answer(&name).is_ok());
    bench.publish("t/1", "later");
    bench.turn().await;
    let alarms = texts(&read_all(&*bench.store, consumer(1, 0), Position::ZERO));
    assert_eq!(alarms.len(), 2, "{alarms:?}");
    assert!(alarms[0].starts_with(&name) && alarms[1] == "later", "{alarms:?}");
    assert_eq!(read_all(&*bench.store, consumer(0, 0), Position::ZERO).len(), before);
}

fn will(publisher: SubscriberId, topic: &str, payload: &str) -> Submission {
    Submission { kept: true, ..from(Some(publisher), [event(topic, payload)]) }
}

/// A client is back while its will still waits for room: it may publish. Only what goes to the same stream stays behind
/// the will, or "online" would be followed by "offline".
#[tokio::test(start_paused = true)]
async fn a_will_that_waits_holds_up_its_own_stream_alone() {
    for is_known_to_be_full in [true, false] {
        let mut bench = Bench::manual();
        let publisher = bench.subscriber(&Connection::new(99), "nowhere");
        let large = "x".repeat(1500);
        bench.submit("fits", from(None, [event("t/1", &large)]));
        bench.commit(1).await;
        if is_known_to_be_full {
            bench.submit("waits", from(None, [event("t/1", &large)]));
            bench.commit(1).await;
        }
        bench.submit("will", will(publisher, "t/state", &format!("offline {large}")));
        if is_known_to_be_full {
            bench.turn().await;
        } else {
            // At the store, and what the client submits next waits for the outcome.
            bench.submit("early", from(Some(publisher), [event("a/0", "early")]));
            assert_eq!(bench.store.pending(), 1);
            bench.commit(1).await;
        }
        bench.submit("alarm", from(Some(publisher), [event("a/1", "alarm")]));
        for _ in 0..2 {
            bench.store.complete_next(usize::MAX);
            bench.turn().await;
        }
        assert!(bench.answer("alarm").is_ok(), "full: {is_known_to_be_full}");
        bench.submit("online", from(Some(publisher), [event("t/state", "online")]));
        bench.turn().await;
        assert!(!bench.answered().contains(&"online".to_owned()));
        while bench.hub.stats().parked > 0 {
            drain(&mut bench).await;
        }
        let answered = bench.answered();
        let place = |name: &str| answered.iter().position(|n| n == name).expect("it was answered");
        assert!(place("will") < place("online"), "{answered:?}");
        assert!(is_known_to_be_full || place("early") < place("alarm"), "{answered:?}");
        assert_eq!((bench.hub.stats().parked, bench.hub.stats().behind), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn wills_that_wait_are_bounded_and_take_no_room_of_the_devices() {
    let mut bench = Bench::over(MemoryStore::new(spec()), |options| {
        (options.parked_max, options.kept_max, options.kept_max_bytes) = (2, 2, 4096);
    });
    let publisher = bench.subscriber(&Connection::new(99), "nowhere");
    fill(&mut bench).await;
    for name in ["first", "second", "third"] {
        bench.submit(name, will(publisher, "t/1", name));
    }
    bench.turn().await;
    assert!(matches!(bench.answer("third"), Err(CommitError::Full { .. })), "in number");
    bench.publish("t/1", "device");
    bench.turn().await;
    assert_eq!((bench.hub.stats().parked, bench.answered().contains(&"device".to_owned())), (4, false));
    drain(&mut bench).await;
    fill(&mut bench).await;
    bench.submit("large", will(publisher, "t/1", &"x".repeat(4096)));
    bench.turn().await;
    assert!(matches!(bench.answer("large"), Err(CommitError::Full { .. })), "in bytes");
}

#[tokio::test(start_paused = true)]
async fn what_a_submitter_gives_up_is_in_the_ledger_with_its_state() {
    let mut bench = Bench::new();
    let loss = Loss {
        consumer: None,
        reason: LossReason::Refused,
        events: 1,
        bytes: 9,
        range: (Position::ZERO, Position::ZERO),
    };
    let given_up = Submission { state: vec![put("gone")], losses: vec![loss], ..Submission::default() };
    bench.submit("given up", given_up);
    bench.turn().await;
    assert!(bench.answer("given up").is_ok());
    let ledger = bench.store.ledger();
    assert_eq!((ledger[0].reason, ledger[0].events, ledger[0].bytes), (LossReason::Refused, 1, 9));
    // Refused, it is no loss: its submitter still has it.
    let quiet = Event { qos: Qos::AtMostOnce, ..event("t/1", &"x".repeat(3000)) };
    let refuse_when_full = true;
    bench.submit("kept", Submission { kept: true, refuse_when_full, ..from(None, [quiet]) });
    bench.turn().await;
    assert!(bench.answer("kept").is_err());
    bench.hub.commit_losses();
    bench.turn().await;
    assert_eq!(bench.store.ledger().len(), 1);
    assert_eq!(bench.store.ledger()[0].events, 1);
}
