//! Subscribers without a session, retained messages, shared subscriptions.

use super::*;
use eventmesh_edge_core::ports::store::LossReason;

#[tokio::test(start_paused = true)]
async fn fan_out_shares_the_event_and_wakes_each_connection_once() {
    let mut bench = Bench::new();
    let connections: Vec<_> = (0..3).map(|_| Connection::new(9)).collect();
    for connection in &connections {
        bench.subscriber(connection, "t/#");
    }
    bench.submit("x", from(None, [event("t/1", "1"), event("t/1", "2")]));
    bench.publish("t/1", "3");
    bench.turn().await;
    for connection in &connections {
        assert_eq!(connection.texts(), ["1", "2", "3"]);
        assert_eq!(connection.flushes(), 1);
    }
    let first = |c: &Connection| lock(&c.got)[0].event.clone();
    assert!(Arc::ptr_eq(&first(&connections[0]), &first(&connections[2])));
}

#[tokio::test(start_paused = true)]
async fn a_large_fan_out_lets_others_run_and_still_reaches_everybody_in_order() {
    let mut bench = Bench::new();
    let connections: Vec<_> = (0..700).map(|_| Connection::new(9)).collect();
    for connection in &connections {
        bench.subscriber(connection, "t/#");
    }
    bench.publish("t/1", "1");
    bench.publish("t/1", "2");
    let turn = tokio::spawn(async move {
        bench.turn().await;
        bench
    });
    tokio::task::yield_now().await;
    assert!(!turn.is_finished(), "1,400 offers are more than one round");
    let served = connections.iter().filter(|c| c.flushes() > 0).count();
    assert!((1..700).contains(&served), "{served}");
    turn.await.unwrap();
    for connection in &connections {
        assert_eq!(connection.texts(), ["1", "2"]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_lower_qos_is_delivered_and_retain_is_kept_only_on_request() {
    let mut bench = Bench::new();
    let (plain, kept) = (Connection::new(9), Connection::new(9));
    let low = bench.hub.attach(None, Some(plain.clone()));
    let options = SubscribeOptions { qos: Qos::AtMostOnce, identifier: 5, ..OPTIONS };
    bench.hub.subscribe(low, &filter("t/#"), options);
    let high = bench.hub.attach(None, Some(kept.clone()));
    let options = SubscribeOptions { qos: Qos::ExactlyOnce, retain_as_published: true, ..OPTIONS };
    bench.hub.subscribe(high, &filter("t/#"), options);
    bench.submit("x", from(None, [Event { retain: true, ..event("t/1", "x") }]));
    bench.turn().await;
    let (plain, kept) = (lock(&plain.got)[0].clone(), lock(&kept.got)[0].clone());
    assert_eq!((plain.qos, plain.retain, plain.identifiers), (Qos::AtMostOnce, false, vec![5]));
    assert_eq!((kept.qos, kept.retain, kept.identifiers), (Qos::AtLeastOnce, true, vec![]));
}

#[tokio::test(start_paused = true)]
async fn no_local_and_detached_subscribers_get_nothing() {
    let mut bench = Bench::manual();
    let (own, gone) = (Connection::new(9), Connection::new(9));
    let publisher = bench.hub.attach(None, Some(own.clone()));
    bench.hub.subscribe(publisher, &filter("#"), SubscribeOptions { no_local: true, ..OPTIONS });
    let left = bench.subscriber(&gone, "#");
    bench.submit("x", from(Some(publisher), [event("t/1", "x")]));
    bench.hub.detach(left);
    bench.commit(1).await;
    assert_eq!((own.texts().len(), gone.texts().len()), (0, 0));
    assert!(!bench.hub.subscribe(left, &filter("#"), OPTIONS), "it is not known any more");
    assert_eq!(bench.hub.stats().subscriptions, 1);
}

#[tokio::test(start_paused = true)]
async fn shared_subscriptions_take_turns_and_prefer_who_is_connected() {
    let mut bench = Bench::new();
    let connections = [Connection::new(99), Connection::new(99)];
    for connection in &connections {
        bench.subscriber(connection, "$share/g/t/#");
    }
    bench.session(1, "$share/g/t/#");
    for n in 0..6 {
        bench.publish("t/1", &n.to_string());
    }
    bench.turn().await;
    assert_eq!(connections[0].texts(), ["0", "2", "4"]);
    assert_eq!(connections[1].texts(), ["1", "3", "5"]);
    assert_eq!(bench.store.mailbox_len(SessionNo(1)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_slow_subscriber_loses_is_counted_and_reaches_the_ledger_in_one_commit() {
    let bench = Bench::new();
    let slow = Connection::new(2);
    let id = bench.subscriber(&slow, "t/#");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(bench.hub.clone().run(async move { drop(stopped.await) }));
    for n in 0..5 {
        bench.publish("t/1", &n.to_string());
    }
    while bench.answered().len() < 5 {
        tokio::task::yield_now().await;
    }
    assert_eq!(slow.texts(), ["0", "1"]);
    assert_eq!((bench.hub.dropped(id), bench.hub.stats().slow_subscriber_losses), (Some(3), 3));
    let commits = bench.store.stats().commits;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.store.stats().commits, commits + 1);
    bench.publish("t/1", "5");
    while bench.answered().len() < 6 {
        tokio::task::yield_now().await;
    }
    drop(stop);
    task.await.unwrap();
    let lines = bench.store.ledger();
    let line = lines.iter().find(|line| line.reason == LossReason::SlowSubscriber).unwrap();
    assert_eq!((line.events, line.consumer), (4, None));
}

#[tokio::test(start_paused = true)]
async fn retained_messages_are_durable_replaced_and_removed() {
    let mut bench = Bench::new();
    let retained = |payload| Event { retain: true, ..event("local/state", payload) };
    bench.submit("on", from(None, [retained("on")]));
    bench.submit("off", from(None, [Event { qos: Qos::AtMostOnce, ..retained("off") }]));
    bench.turn().await;
    let found = bench.hub.retained(&filter("local/#"), SubscribeOptions { identifier: 3, ..OPTIONS });
    assert_eq!(found.len(), 1);
    assert_eq!(
        (&found[0].event.payload[..], found[0].retain, found[0].qos),
        (&b"off"[..], true, Qos::AtMostOnce)
    );
    assert_eq!(found[0].identifiers, [3]);
    assert!(bench.hub.retained(&filter("$share/g/#"), OPTIONS).is_empty());
    assert!(bench.hub.retained(&filter("#"), SubscribeOptions { retain_handling: 2, ..OPTIONS }).is_empty());

    let again = Bench::over(bench.store.reopen(spec()), |_| {});
    assert_eq!(again.hub.restore().unwrap(), Restored { retained: 1, without_room: 0, damaged: 0 });
    assert_eq!(&again.hub.retained(&filter("#"), OPTIONS)[0].event.payload[..], b"off");

    let mut again = again;
    again.submit("none", from(None, [retained("")]));
    again.turn().await;
    assert!(again.hub.retained(&filter("#"), OPTIONS).is_empty());
    assert_eq!(again.store.get(Table::Retained, b"local/state").unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_retained_message_is_not_missed_by_who_subscribes_during_its_commit() {
    let mut bench = Bench::manual();
    bench.submit("x", from(None, [Event { retain: true, ..event("local/state", "x") }]));
    let connection = Connection::new(9);
    bench.subscriber(&connection, "local/#");
    assert!(bench.hub.retained(&filter("local/#"), OPTIONS).is_empty(), "it is not durable yet");
    bench.commit(1).await;
    assert_eq!(connection.texts(), ["x"]);
    // Who was there before gets it once.
    bench.submit("y", from(None, [Event { retain: true, ..event("local/state", "y") }]));
    bench.hub.subscribe(bench.hub.attach(None, None), &filter("other"), OPTIONS);
    bench.commit(1).await;
    assert_eq!(connection.texts(), ["x", "y"]);
}

#[tokio::test(start_paused = true)]
async fn retained_messages_beyond_the_budget_are_delivered_but_not_kept() {
    let mut bench = Bench::over(MemoryStore::new(spec()), |options| options.retained_max_bytes = 400);
    let connection = Connection::new(9);
    bench.subscriber(&connection, "#");
    for topic in ["local/1", "local/2"] {
        bench.submit(topic, from(None, [Event { retain: true, ..event(topic, topic) }]));
    }
    bench.turn().await;
    assert_eq!(connection.texts(), ["local/1", "local/2"]);
    assert_eq!(bench.hub.retained(&filter("#"), OPTIONS).len(), 1);
    assert_eq!(bench.hub.stats().retained.refused, 1);
    assert_eq!(bench.store.get(Table::Retained, b"local/2").unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn expired_retained_messages_leave_the_disk_too() {
    let bench = Bench::new();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(bench.hub.clone().run(async move { drop(stopped.await) }));
    let expires = Some(NOW.after(Duration::from_secs(10)));
    bench.submit("x", from(None, [Event { retain: true, expires, ..event("local/state", "x") }]));
    while bench.answered().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.hub.retained(&filter("#"), OPTIONS).len(), 1);
    bench.clock.0.store(NOW.0 + 10_000, Ordering::Relaxed);
    assert!(bench.hub.retained(&filter("#"), OPTIONS).is_empty());
    assert!(bench.store.get(Table::Retained, b"local/state").unwrap().is_some());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.store.get(Table::Retained, b"local/state").unwrap(), None);
    drop(stop);
    task.await.unwrap();
}

/// A connection whose end calls the hub.
struct Farewell(Arc<NodeHub>);

impl Outlet for Farewell {
    fn offer(&self, _: Delivery) -> Offer {
        Offer::Taken
    }

    fn flush(&self) {}
}

impl Drop for Farewell {
    fn drop(&mut self) {
        assert!(self.0.stats().connected < 9);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outlet_may_call_the_hub_when_it_is_let_go() {
    let bench = Bench::new();
    let farewell = || -> Option<Arc<dyn Outlet>> { Some(Arc::new(Farewell(bench.hub.clone()))) };
    let id = bench.hub.attach(Some(SessionNo(7)), farewell());
    bench.hub.reattach(id, farewell());
    // The same session again: the earlier subscriber goes.
    let again = bench.hub.attach(Some(SessionNo(7)), farewell());
    assert_eq!((bench.hub.stats().subscribers, bench.hub.stats().sessions), (1, 1));
    bench.hub.detach(again);
    bench.hub.detach(again);
    assert_eq!(bench.hub.stats(), HubStats::default());
}

fn share(text: &str) -> Text {
    Text::from(text.to_owned())
}

/// MQTT 5.0 section 4.8.2: the member that was chosen is gone when the message is durable.
#[tokio::test(start_paused = true)]
async fn a_message_whose_member_has_gone_goes_to_another() {
    for with_session in [false, true] {
        let mut bench = Bench::manual();
        let (one, two) = (Connection::new(9), Connection::new(9));
        let first = bench.subscriber(&one, "$share/g/t/1");
        bench.publish("t/1", "m");
        if with_session {
            bench.session(7, "$share/g/t/1");
        } else {
            bench.subscriber(&two, "$share/g/t/1");
        }
        bench.hub.detach(first);
        bench.commit(1).await;
        if with_session {
            bench.commit(1).await;
            let item = bench.mailbox(7, Position::ZERO).remove(0);
            assert_eq!(bench.hub.mailbox_options(&item).shares, [share("$share/g/t/1")]);
        } else {
            assert_eq!(two.texts(), ["m"]);
        }
        assert_eq!((one.texts(), bench.hub.stats().slow_subscriber_losses), (vec![], 0));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_handed_on_goes_to_one_member_of_each_share_and_to_nobody_else() {
    let mut bench = Bench::new();
    let connections: Vec<_> = (0..4).map(|_| Connection::new(9)).collect();
    let filters = ["$share/g/t/+", "$share/g/t/+", "$share/h/t/+", "t/1"];
    for (connection, filter) in connections.iter().zip(filters) {
        bench.subscriber(connection, filter);
    }
    let retained = Event { retain: true, ..event("t/1", "m") };
    let audience = Audience::Shares(vec![vec![share("$share/g/t/+")], vec![share("$share/x/t/+")]]);
    bench.submit("m", Submission { audience, ..from(None, [retained, event("t/1", "nobody")]) });
    bench.turn().await;
    let accepted = bench.answer("m").unwrap();
    assert_eq!((accepted.matched, accepted.positions), (vec![1, 0], vec![None, None]));
    let got: Vec<_> = connections.iter().map(|c| c.texts().len()).collect();
    assert_eq!(got, [1, 0, 0, 0]);
    assert_eq!((bench.hub.stats().retained.topics, bench.store.stats().events), (0, 0));
}
