//! Messages from above.

use super::*;
use crate::forward::{DownwardSink, Kept};
use eventmesh_edge_core::ports::uplink::Downward;

fn command(topic: &str, identity: Option<&str>) -> Downward {
    Downward {
        topic: Text::from(topic.to_owned()),
        payload: Bytes::from_static(b"open"),
        properties: None,
        qos: Qos::AtLeastOnce,
        retain: false,
        identity: identity.map(|id| (Text::from_static("cloud"), Text::from(id.to_owned()))),
        token: 1,
    }
}

/// Hands a message over; the answers appear in the list.
fn accept(bench: &Bench, message: Downward, answers: &Arc<Mutex<Vec<bool>>>) {
    let answers = answers.clone();
    bench
        .hub
        .downward("cloud")
        .accept(message, Box::new(move |kept| lock(&answers).push(kept != Kept::Again)));
}

#[tokio::test(start_paused = true)]
async fn a_command_is_confirmed_when_the_mailbox_that_waits_for_it_is_durable() {
    let mut bench = Bench::manual();
    let answers = Arc::default();
    bench.session(7, "t/cmd");
    accept(&bench, command("t/cmd", None), &answers);
    bench.turn().await;
    assert!(lock(&answers).is_empty());
    bench.commit(1).await;
    assert_eq!(*lock(&answers), [true]);
    let items = bench.mailbox(7, Position::ZERO);
    assert_eq!(items[0].event.event.via, Via::Uplink);
    assert_eq!(items[0].event.event.source, "mqtt://plant-7/cloud");
}

#[tokio::test(start_paused = true)]
async fn what_comes_down_goes_to_subscribers_and_to_no_stream() {
    let mut bench = Bench::manual();
    let answers = Arc::default();
    let connection = Connection::new(9);
    bench.subscriber(&connection, "t/#");
    accept(&bench, command("t/cmd", None), &answers);
    assert_eq!(bench.store.pending(), 0, "the route of t/# would take it up again");
    bench.turn().await;
    assert_eq!((connection.texts(), lock(&answers).clone()), (vec!["open".to_owned()], vec![true]));
}

/// Who watches the node, or its clients, is told by the node alone; whoever sent it is told why.
#[tokio::test(start_paused = true)]
async fn a_command_to_the_nodes_own_topics_is_refused_and_the_receipt_says_so() {
    for topic in ["$SYS/broker/uptime", "$edge/clients/x/connected", "$SYS", "$edge"] {
        let mut bench = Bench::new();
        let connection = Connection::new(9);
        let watcher = bench.subscriber(&connection, "$SYS/#");
        bench.hub.subscribe(watcher, &filter("$edge/#"), OPTIONS);
        let (answer, given) = (Arc::new(Mutex::new(None)), command(topic, Some("1")));
        let into = answer.clone();
        bench
            .hub
            .downward("cloud")
            .accept(Downward { retain: true, ..given }, Box::new(move |kept| *lock(&into) = Some(kept)));
        bench.turn().await;
        let Some(Kept::Dropped(reason)) = lock(&answer).take() else { panic!("{topic}: not refused") };
        assert!(reason.contains("node's own"), "{reason:?}");
        assert_eq!((connection.texts(), bench.hub.stats().retained.topics), (vec![], 0), "{topic}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_that_comes_again_is_confirmed_and_not_repeated() {
    let mut bench = Bench::manual();
    let answers = Arc::default();
    let connection = Connection::new(9);
    bench.session(7, "cmd");
    bench.subscriber(&connection, "cmd");
    accept(&bench, command("cmd", Some("1")), &answers);
    bench.commit(1).await;
    accept(&bench, command("cmd", Some("1")), &answers);
    accept(&bench, command("cmd", Some("2")), &answers);
    bench.commit(1).await;
    assert_eq!(*lock(&answers), [true, true, true]);
    assert_eq!(connection.texts().len(), 2);
    assert_eq!(bench.hub.stats().repeated, 1);
    assert_eq!(lock(&connection.got)[0].event.id.as_deref(), Some("1"));
    assert_eq!(lock(&connection.got)[0].event.source, "cloud");
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_kept_is_not_confirmed_and_not_remembered() {
    let mut bench = Bench::manual();
    let answers = Arc::default();
    bench.session(7, "cmd");
    bench.store.close();
    accept(&bench, command("cmd", Some("1")), &answers);
    bench.turn().await;
    assert_eq!(*lock(&answers), [false]);
    accept(&bench, command("cmd", Some("1")), &answers);
    bench.turn().await;
    assert_eq!(*lock(&answers), [false, false]);
    accept(&bench, command("cmd/+", None), &answers);
    assert_eq!(*lock(&answers), [false, false, true], "no topic: it would fail the next time too");
}
