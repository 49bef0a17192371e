//! Persistent sessions: mailbox, live delivery, and the way between them.

use super::*;
use proptest::prelude::*;

#[tokio::test(start_paused = true)]
async fn what_a_session_missed_waits_in_its_mailbox_with_its_options() {
    let mut bench = Bench::new();
    let session = bench.hub.attach(Some(SessionNo(7)), None);
    let options = SubscribeOptions { identifier: 9, qos: Qos::AtLeastOnce, ..OPTIONS };
    bench.hub.subscribe(session, &filter("local/#"), options);
    bench.submit("x", from(None, [Event { qos: Qos::ExactlyOnce, ..event("local/1", "x") }]));
    bench.submit("y", from(None, [Event { qos: Qos::AtMostOnce, ..event("local/1", "y") }]));
    bench.turn().await;
    let accepted = bench.answer("y").unwrap();
    assert_eq!((accepted.positions, accepted.matched), (vec![None], vec![1]));
    let items = bench.mailbox(7, Position::ZERO);
    assert_eq!(items.len(), 1);
    assert_eq!(Some(items[0].event.position), bench.answer("x").unwrap().positions[0]);
    let expected =
        MailboxOptions { qos: Qos::AtLeastOnce, retain: false, identifiers: vec![9], shares: vec![] };
    assert_eq!(bench.hub.mailbox_options(&items[0]), expected);
    assert_eq!(bench.hub.stats().slow_subscriber_losses, 0, "QoS 0 is promised to nobody who is away");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_offered_before_the_mailbox_has_been_read_and_everything_after_it() {
    let mut bench = Bench::new();
    let session = bench.session(7, "t/#");
    bench.publish("t/1", "1");
    bench.turn().await;
    let connection = Connection::new(9);
    bench.hub.reattach(session, Some(connection.clone()));
    bench.publish("t/1", "2");
    bench.turn().await;
    assert!(connection.texts().is_empty());
    assert!(!bench.hub.resume(session, Position::ZERO));
    assert_eq!(bench.catch_up(7, session).0, ["1", "2"]);
    bench.publish("t/1", "3");
    bench.turn().await;
    assert_eq!(connection.texts(), ["3"]);
    let delivery = lock(&connection.got)[0].clone();
    assert_eq!(delivery.position, bench.answer("3").unwrap().positions[0]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_runs_full_reads_on_from_its_mailbox() {
    let mut bench = Bench::new();
    let session = bench.session(7, "t/#");
    let connection = Connection::new(2);
    bench.hub.reattach(session, Some(connection.clone()));
    bench.catch_up(7, session);
    for n in 0..5 {
        bench.publish("t/1", &n.to_string());
    }
    bench.turn().await;
    assert_eq!(connection.texts(), ["0", "1"]);
    connection.set_room(9);
    bench.publish("t/1", "5");
    bench.turn().await;
    assert_eq!(connection.texts(), ["0", "1"], "not before it has resumed");
    assert_eq!(bench.hub.stats().slow_subscriber_losses, 0, "the mailbox has them");
    let last = lock(&connection.got)[1].position.unwrap();
    let rest = bench.mailbox(7, last);
    assert_eq!(rest.len(), 4);
    assert!(!bench.hub.resume(session, rest[2].event.position));
    assert!(bench.hub.resume(session, rest[3].event.position));
    bench.publish("t/1", "6");
    bench.turn().await;
    assert_eq!(connection.texts(), ["0", "1", "6"]);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_was_faster_than_the_hub_gives_no_message_twice() {
    let mut bench = Bench::manual();
    let session = bench.session(7, "t/#");
    let connection = Connection::new(9);
    bench.hub.reattach(session, Some(connection.clone()));
    bench.publish("t/1", "1");
    // Durable and readable; the hub's task has not heard of it.
    assert_eq!(bench.store.complete_next(1), 1);
    assert_eq!(bench.catch_up(7, session).0, ["1"]);
    bench.turn().await;
    assert!(connection.texts().is_empty());
    bench.publish("t/1", "2");
    bench.commit(1).await;
    assert_eq!(connection.texts(), ["2"]);
}

#[tokio::test(start_paused = true)]
async fn after_a_start_the_old_entries_have_to_be_read_to_their_end() {
    let mut bench = Bench::new();
    bench.session(7, "t/#");
    bench.publish("t/1", "1");
    bench.publish("t/1", "2");
    bench.turn().await;
    let again = Bench::over(bench.store.reopen(spec()), |_| {});
    let session = again.session(7, "t/#");
    again.hub.reattach(session, Some(Connection::new(9)));
    assert!(!again.hub.resume(session, Position::ZERO));
    assert_eq!(again.catch_up(7, session).0, ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn another_connection_reads_what_the_earlier_one_did_not_acknowledge() {
    let mut bench = Bench::new();
    let session = bench.session(7, "t/#");
    bench.hub.reattach(session, Some(Connection::new(9)));
    bench.catch_up(7, session);
    bench.publish("t/1", "1");
    bench.publish("t/1", "2");
    bench.turn().await;
    let first = bench.answer("1").unwrap().positions[0].unwrap();
    let removed = StateChange::MailboxRemove { session: SessionNo(7), position: first };
    bench.submit("ack", Submission { state: vec![removed], ..Submission::default() });
    bench.turn().await;
    let connection = Connection::new(9);
    bench.hub.reattach(session, Some(connection.clone()));
    assert_eq!(bench.catch_up(7, session).0, ["2"]);
    assert_eq!(bench.hub.stats().connected, 1);
    // Without a connection there is nobody to offer to.
    bench.hub.reattach(session, None);
    assert!(!bench.hub.resume(session, Position(u64::MAX)));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_no_mailbox_is_offered_to_a_live_session_and_counted_otherwise() {
    let mut bench = Bench::new();
    let session = bench.session(7, "local/#");
    let connection = Connection::new(9);
    bench.hub.reattach(session, Some(connection.clone()));
    let at_most_once = |payload| Event { qos: Qos::AtMostOnce, ..event("local/1", payload) };
    bench.submit("1", from(None, [at_most_once("1")]));
    bench.turn().await;
    assert_eq!((connection.texts().len(), bench.hub.dropped(session)), (0, Some(1)));
    bench.catch_up(7, session);
    bench.submit("2", from(None, [at_most_once("2")]));
    bench.turn().await;
    assert_eq!(connection.texts(), ["2"]);
    assert_eq!(lock(&connection.got)[0].position, None);
}

/// The client comes back on another connection, reads everything and resumes.
fn come_back(hub: &NodeHub, session: SubscriberId, connection: &Arc<Connection>) {
    hub.reattach(session, Some(connection.clone()));
    let last = Arc::new(Mutex::new(Position::ZERO));
    loop {
        let (through, into) = (*lock(&last), last.clone());
        let done = move |items: Result<Vec<MailboxItem>, ReadError>| {
            if let Some(item) = items.unwrap().last() {
                *lock(&into) = item.event.position;
            }
        };
        hub.read_mailbox(SessionNo(7), through, 100, Box::new(done));
        if hub.resume(session, through) {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_replaced_within_a_round_gets_what_follows_in_it() {
    let mut bench = Bench::new();
    let session = bench.session(7, "local/#");
    let (before, after) = (Connection::new(9), Connection::new(9));
    come_back(&bench.hub, session, &before);
    let (hub, next) = (bench.hub.clone(), after.clone());
    let replace = Box::new(move |_| come_back(&hub, session, &next));
    bench.hub.submit(from(None, [event("local/1", "1")]), replace);
    bench.submit("2", from(None, [Event { qos: Qos::AtMostOnce, ..event("local/1", "2") }]));
    bench.turn().await;
    assert_eq!((before.texts(), after.texts()), (vec!["1".to_owned()], vec!["2".to_owned()]));
    assert_eq!((before.flushes(), after.flushes()), (1, 1));
}

/// A connection whose client comes back elsewhere just when it is offered something.
struct Leaving {
    hub: Arc<NodeHub>,
    session: SubscriberId,
    next: Arc<Connection>,
}

impl Outlet for Leaving {
    fn offer(&self, _: Delivery) -> Offer {
        come_back(&self.hub, self.session, &self.next);
        Offer::Full
    }

    fn flush(&self) {}
}

#[tokio::test(start_paused = true)]
async fn a_refusal_by_an_earlier_connection_does_not_stop_the_present_one() {
    let mut bench = Bench::new();
    let session = bench.session(7, "local/#");
    let next = Connection::new(9);
    let leaving = Leaving { hub: bench.hub.clone(), session, next: next.clone() };
    bench.hub.reattach(session, Some(Arc::new(leaving)));
    bench.catch_up(7, session);
    bench.publish("local/1", "read from the mailbox");
    bench.publish("local/1", "this too");
    bench.turn().await;
    bench.publish("local/1", "offered");
    bench.turn().await;
    assert_eq!(next.texts(), ["offered"]);
}

#[tokio::test(start_paused = true)]
async fn fewer_entries_than_asked_for_are_the_end_of_the_mailbox() {
    let mut bench = Bench::over(MemoryStore::new(spec()), |_| {});
    let session = bench.session(7, "local/#");
    // More than one piece of what the store reads at once.
    for n in 0..6 {
        bench.publish("local/1", &format!("{n} {}", "x".repeat(60_000)));
    }
    bench.turn().await;
    bench.hub.reattach(session, Some(Connection::new(9)));
    let items = bench.mailbox_of(7, Position::ZERO, 32);
    assert_eq!(items.len(), 6);
    assert!(bench.hub.resume(session, items[5].event.position));
    // But an answer has a bound.
    for n in 0..6 {
        bench.publish("local/1", &format!("{n} {}", "x".repeat(60_000)));
    }
    bench.turn().await;
    assert!((8..12).contains(&bench.mailbox_of(7, Position::ZERO, 32).len()));
    assert_eq!(bench.mailbox_of(7, Position::ZERO, 4).len(), 4);
}

#[test]
fn a_thousand_sessions_share_one_stored_event() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut bench = Bench::new();
        for number in 0..1000 {
            bench.session(number, "local/#");
        }
        bench.publish("local/1", "x");
        bench.turn().await;
        assert_eq!(bench.answer("x").unwrap().matched, [1000]);
        assert_eq!(bench.store.stats().events, 1);
        assert!((0..1000).all(|number| bench.store.mailbox_len(SessionNo(number)).0 == 1));
    });
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Publish(Qos),
    Complete(usize),
    Turn,
    Read,
    Room(usize),
    Acknowledge,
    Reconnect,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::Publish(Qos::AtLeastOnce)),
        2 => Just(Op::Publish(Qos::AtMostOnce)),
        3 => (1usize..4).prop_map(Op::Complete),
        3 => Just(Op::Turn),
        4 => Just(Op::Read),
        2 => (0usize..4).prop_map(Op::Room),
        2 => Just(Op::Acknowledge),
        1 => Just(Op::Reconnect),
    ]
}

/// A connection of a persistent session that behaves as the port's documentation asks it to.
struct Client {
    connection: Arc<Connection>,
    live: bool,
    taken: usize,
    received: Vec<Position>,
}

impl Client {
    fn connect(bench: &Bench, session: SubscriberId) -> Client {
        let connection = Connection::new(2);
        bench.hub.reattach(session, Some(connection.clone()));
        Client { connection, live: false, taken: 0, received: Vec::new() }
    }

    /// Takes what was offered. Reads if it is not live, or was full: then it missed something.
    fn step(&mut self, bench: &Bench, session: SubscriberId) {
        let offered: Vec<_> = lock(&self.connection.got)[self.taken..].to_vec();
        self.taken += offered.len();
        self.received.extend(offered.iter().filter_map(|d| d.position));
        if self.connection.overflow.swap(false, Ordering::Relaxed) {
            self.live = false;
        }
        if !self.live {
            let after = self.received.last().copied().unwrap_or_default();
            let items = bench.mailbox_of(7, after, 2);
            self.received.extend(items.iter().map(|item| item.event.position));
            let through = self.received.last().copied().unwrap_or_default();
            self.live = items.len() < 2 && bench.hub.resume(session, through);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_session_gets_everything_once_and_in_order(ops in prop::collection::vec(op(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::over(MemoryStore::manual(spec()), |_| {});
            let session = bench.session(7, "local/#");
            let mut client = Client::connect(&bench, session);
            let mut published = 0;
            for op in ops {
                match op {
                    Op::Publish(qos) => {
                        published += 1;
                        let event = Event { qos, ..event("local/1", &published.to_string()) };
                        bench.submit("x", from(None, [event]));
                    }
                    Op::Complete(n) => drop(bench.store.complete_next(n)),
                    Op::Turn => bench.turn().await,
                    Op::Read => client.step(&bench, session),
                    Op::Room(n) => client.connection.set_room(n),
                    Op::Acknowledge => {
                        if let Some(position) = client.received.first() {
                            let removed = StateChange::MailboxRemove { session: SessionNo(7), position: *position };
                            bench.submit("ack", Submission { state: vec![removed], ..Submission::default() });
                        }
                    }
                    Op::Reconnect => client = Client::connect(&bench, session),
                }
            }
            client.connection.set_room(usize::MAX);
            for _ in 0..published + 4 {
                bench.store.complete_next(usize::MAX);
                bench.turn().await;
                client.step(&bench, session);
            }
            prop_assert!(client.received.is_sorted_by(|a, b| a < b), "{:?}", client.received);
            let waiting = bench.mailbox(7, Position::ZERO);
            for item in waiting {
                prop_assert!(client.received.contains(&item.event.position), "{} is missing", item.event.position);
            }
            Ok(())
        })?;
    }
}

/// Retained messages into a mailbox, up to date: what is being committed when they are asked for is not followed by what it
/// takes the place of.
#[tokio::test(start_paused = true)]
async fn retained_messages_go_into_a_mailbox_by_topic() {
    let mut bench = Bench::new();
    for (topic, payload) in [("r/1", "a"), ("r/2", "b"), ("r/3", "c"), ("s/1", "d")] {
        bench.submit(payload, from(None, [Event { retain: true, ..event(topic, payload) }]));
    }
    bench.submit("q", from(None, [Event { retain: true, qos: Qos::AtMostOnce, ..event("r/2/q", "q") }]));
    bench.turn().await;
    let subscriber = bench.session(7, "r/#");
    let wanted = RetainedFor {
        subscriber,
        filter: filter("r/#"),
        options: SubscribeOptions { identifier: 5, ..OPTIONS },
        after: Some(Text::from_static("r/1")),
        through: None,
    };
    let audience = Audience::Retained(Box::new(wanted.clone()));
    bench.submit("retained", Submission { audience, ..Submission::default() });
    bench.turn().await;
    let items = bench.mailbox(7, Position::ZERO);
    let got: Vec<_> = items.iter().map(|item| item.event.event.topic.to_string()).collect();
    assert_eq!(got, ["r/2", "r/3"]);
    let options = bench.hub.mailbox_options(&items[0]);
    assert_eq!((options.retain, options.identifiers), (true, vec![5]));
    let through = Some(Text::from_static("r/1"));
    let audience = Audience::Retained(Box::new(RetainedFor { after: None, through, ..wanted }));
    bench.submit("rest", Submission { audience, ..Submission::default() });
    bench.turn().await;
    assert_eq!(bench.mailbox(7, items[1].event.position).len(), 1);
    assert_eq!(bench.hub.stats().retained.topics, 5, "nothing was published");
}
