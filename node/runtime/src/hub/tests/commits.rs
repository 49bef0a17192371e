//! What is answered when, and in which order.

use super::*;
use eventmesh_edge_contract::Fault;
use eventmesh_edge_contract::suite::support::{consumer, read_all, texts};
use eventmesh_edge_core::ports::store::StateValue;

#[tokio::test(start_paused = true)]
async fn an_answer_comes_only_after_the_commit() {
    let mut bench = Bench::manual();
    let connection = Connection::new(9);
    bench.subscriber(&connection, "t/+");
    bench.publish("t/1", "x");
    bench.turn().await;
    assert_eq!((bench.answered().len(), connection.texts().len()), (0, 0), "nothing is durable yet");
    bench.commit(1).await;
    let accepted = bench.answer("x").unwrap();
    assert!(accepted.positions[0].is_some());
    assert_eq!(accepted.matched, [2], "one subscriber and one stream");
    assert_eq!(connection.texts(), ["x"]);
    assert_eq!(lock(&connection.got)[0].position, accepted.positions[0]);
}

#[tokio::test(start_paused = true)]
async fn local_subscribers_are_served_before_the_publisher_is_answered() {
    let mut bench = Bench::new();
    let connection = Connection::new(9);
    bench.subscriber(&connection, "t/+");
    let (seen, at_answer) = (connection.clone(), Arc::new(Mutex::new(Vec::new())));
    let record = at_answer.clone();
    let done = Box::new(move |_| *lock(&record) = seen.texts());
    bench.hub.submit(from(None, [event("t/1", "x")]), done);
    bench.turn().await;
    assert_eq!(*lock(&at_answer), ["x"]);
}

#[tokio::test(start_paused = true)]
async fn a_submission_is_one_commit_and_is_answered_in_order() {
    let mut bench = Bench::manual();
    bench.submit("first", from(None, [event("t/1", "1"), event("a/1", "2"), event("nowhere", "3")]));
    bench.submit("second", from(None, [event("t/1", "4")]));
    assert_eq!(bench.store.pending(), 2);
    bench.commit(2).await;
    assert_eq!(bench.answered(), ["first", "second"]);
    let positions = bench.answer("first").unwrap().positions;
    assert!(positions[0] < positions[1] && positions[2].is_none(), "{positions:?}");
    let telemetry = read_all(&*bench.store, consumer(0, 0), Position::ZERO);
    assert_eq!(texts(&telemetry), ["1", "4"]);
}

#[tokio::test(start_paused = true)]
async fn what_needs_nothing_durable_does_not_go_to_the_store() {
    let mut bench = Bench::manual();
    let connection = Connection::new(9);
    bench.subscriber(&connection, "local/#");
    bench.publish("local/x", "x");
    assert_eq!((bench.store.pending(), bench.answered().len()), (0, 0), "answered by the hub's task alone");
    bench.turn().await;
    let accepted = bench.answer("x").unwrap();
    assert_eq!((accepted.positions, accepted.matched), (vec![None], vec![1]));
    assert_eq!(connection.texts(), ["x"]);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_never_overtakes_itself() {
    let mut bench = Bench::manual();
    let connection = Connection::new(9);
    let publisher = bench.subscriber(&connection, "#");
    for (topic, payload) in
        [("t/1", "durable"), ("local", "not durable"), ("local", "nor this"), ("a/1", "again")]
    {
        bench.submit(payload, from(Some(publisher), [event(topic, payload)]));
    }
    bench.submit("other", from(None, [event("local", "other")]));
    bench.turn().await;
    assert_eq!(bench.answered(), ["other"], "somebody else is not held up");
    assert_eq!((bench.store.pending(), bench.hub.stats().behind), (1, 3));
    bench.commit(1).await;
    assert_eq!(bench.answered(), ["other", "durable", "not durable", "nor this"]);
    bench.commit(1).await;
    assert_eq!(connection.texts(), ["other", "durable", "not durable", "nor this", "again"]);
    assert_eq!(bench.hub.stats().behind, 0);
    assert_eq!(bench.hub.state().outstanding(), 0);
}

#[tokio::test(start_paused = true)]
async fn state_of_the_ingress_is_committed_with_the_events_it_names() {
    let mut bench = Bench::new();
    let key = Bytes::from_static(b"session|1");
    // The first publication needs nothing durable: the index of the second changes on the way to the store.
    let mut submission = from(None, [event("local", "no"), event("local", "named")]);
    submission.state = vec![StateChange::Put {
        table: Table::Inbound,
        key: key.clone(),
        value: StateValue::Position { event: 1, suffix: Bytes::from_static(b"!") },
    }];
    bench.submit("x", submission);
    bench.turn().await;
    let accepted = bench.answer("x").unwrap();
    assert_eq!(accepted.positions[0], None);
    let mut expected = accepted.positions[1].unwrap().0.to_be_bytes().to_vec();
    expected.push(b'!');
    assert_eq!(bench.store.get(Table::Inbound, &key).unwrap().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn state_that_names_no_publication_is_refused_whole() {
    let mut bench = Bench::new();
    let mut submission = from(None, [event("t/1", "x")]);
    submission.state = vec![StateChange::Put {
        table: Table::Inbound,
        key: Bytes::from_static(b"k"),
        value: StateValue::Record { event: 1 },
    }];
    bench.submit("x", submission);
    bench.turn().await;
    assert!(matches!(bench.answer("x"), Err(CommitError::Io(_))), "{:?}", bench.answer("x"));
    assert_eq!(bench.store.stats().commits, 0);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_has_gone_is_still_answered() {
    let mut bench = Bench::manual();
    let publisher = bench.hub.attach(None, Some(Connection::new(1)));
    bench.submit("1", from(Some(publisher), [event("t/1", "1")]));
    bench.submit("2", from(Some(publisher), [event("t/1", "2")]));
    bench.hub.detach(publisher);
    bench.commit(1).await;
    bench.commit(1).await;
    assert_eq!(bench.answered(), ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_what_is_at_the_store_and_answers_everything_else() {
    let bench = Bench::manual();
    let publisher = bench.hub.attach(None, None);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(bench.hub.clone().run(async move { drop(stopped.await) }));
    bench.submit("at the store", from(Some(publisher), [event("t/1", "x")]));
    bench.submit("behind", from(Some(publisher), [event("t/1", "y")]));
    drop(stop);
    while bench.answered().is_empty() {
        tokio::task::yield_now().await;
    }
    bench.submit("too late", from(None, [event("t/1", "z")]));
    assert!(!task.is_finished());
    assert_eq!(bench.store.complete_next(9), 1);
    task.await.unwrap();
    assert_eq!(bench.answered(), ["behind", "too late", "at the store"]);
    assert!(bench.answer("at the store").is_ok());
    for name in ["behind", "too late"] {
        assert!(matches!(bench.answer(name), Err(CommitError::Closed)), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn positions_are_those_of_the_store() {
    let mut bench = Bench::new();
    bench.submit("x", from(None, [event("t/1", "1"), event("t/1", "2")]));
    bench.turn().await;
    let in_store = read_all(&*bench.store, consumer(0, 0), Position::ZERO);
    let committed = Committed { positions: in_store.iter().map(|e| e.position).collect() };
    assert_eq!(bench.answer("x").unwrap().positions, stored(&committed));
}

#[tokio::test(start_paused = true)]
async fn a_failed_commit_is_answered_delivered_to_nobody_and_frees_the_publisher() {
    let mut bench = Bench::faulty(Script::none().submit(1, Fault::Io));
    let connection = Connection::new(9);
    let publisher = bench.subscriber(&connection, "#");
    let state = |payload| Event { retain: true, ..event("t/state", payload) };
    for payload in ["kept", "failed", "next"] {
        bench.submit(payload, from(Some(publisher), [state(payload)]));
        bench.turn().await;
        if payload == "failed" {
            assert_eq!(&bench.hub.retained(&filter("#"), OPTIONS)[0].event.payload[..], b"kept");
        }
    }
    assert!(matches!(bench.answer("failed"), Err(CommitError::Io(_))));
    assert_eq!(connection.texts(), ["kept", "next"]);
    assert_eq!(bench.hub.state().outstanding(), 0);
}

#[tokio::test(start_paused = true)]
async fn losses_whose_commit_failed_go_with_the_next_one() {
    let mut bench = Bench::faulty(Script::none().submit(1, Fault::Io));
    bench.subscriber(&Connection::new(0), "t/#");
    bench.publish("t/1", "lost");
    bench.turn().await;
    for _ in 0..2 {
        bench.hub.keep_house(false);
        bench.turn().await;
    }
    assert_eq!(bench.store.ledger().iter().map(|line| line.events).sum::<u64>(), 1);
}

/// A part that fails leaves what was stored before it stored, and the answer says so.
#[tokio::test(start_paused = true)]
async fn a_submission_in_parts_tells_how_far_it_came() {
    let mut bench = Bench::faulty(Script::none().submit(1, Fault::Io));
    for number in 1..=4_096 {
        bench.session(number, "a/#");
    }
    let connection = Connection::new(99);
    let publisher = bench.subscriber(&connection, "a/#");
    let names: Vec<String> = (0..12).map(|n| n.to_string()).collect();
    bench.submit("large", from(Some(publisher), names.iter().map(|name| event("a/1", name))));
    bench.submit("next", from(Some(publisher), [event("a/1", "next")]));
    bench.turn().await;
    let large = bench.answer("large").unwrap();
    assert_eq!(large.positions.len(), 8, "so many were planned into the first part");
    assert!(large.cut.is_some_and(|error| matches!(error, CommitError::Io(_))));
    assert!(bench.answer("next").is_ok());
    assert_eq!(connection.texts(), ["0", "1", "2", "3", "4", "5", "6", "7", "next"]);
    assert_eq!(bench.hub.state().outstanding(), 0);
    assert_eq!(bench.hub.stats().committing, 0);
}
