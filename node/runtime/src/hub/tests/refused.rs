//! What the store does not take, and nobody sends again (P2).

use super::*;
use eventmesh_edge_core::event::Qos;
use eventmesh_edge_core::ports::store::LossReason;
use eventmesh_edge_core::telemetry::SysFigures;

fn with_qos0(event: Event) -> Event {
    Event { qos: Qos::AtMostOnce, ..event }
}

/// Events and bytes in the ledger as refused.
async fn refused(bench: &mut Bench) -> (u64, u64) {
    bench.hub.commit_losses();
    bench.store.complete_next(usize::MAX);
    bench.turn().await;
    let lines = bench.store.ledger();
    let lines = lines.iter().filter(|line| line.reason == LossReason::Refused);
    lines.fold((0, 0), |sum, line| (sum.0 + line.events, sum.1 + line.bytes))
}

/// A stream with room for 4 KiB, of which some are taken.
async fn nearly_full() -> Bench {
    let mut bench = Bench::new();
    bench.submit("fits", from(None, [event("t/1", &"x".repeat(1200))]));
    bench.store.complete_next(1);
    bench.turn().await;
    bench
}

#[tokio::test(start_paused = true)]
async fn a_refused_message_without_an_answer_is_counted_and_one_with_an_answer_is_not() {
    let mut bench = nearly_full().await;
    let long = "x".repeat(1200);
    let events = [with_qos0(event("t/1", &long)), event("t/2", &long), with_qos0(event("t/3", "y"))];
    let submission = Submission { refuse_when_full: true, ..from(None, events) };
    bench.submit("refused", submission.clone());
    bench.store.complete_next(1);
    bench.turn().await;
    assert!(matches!(bench.answer("refused"), Err(CommitError::Full { .. })));
    assert_eq!(refused(&mut bench).await, (2, 1203 + 4), "payloads and topics");
    // Its stream is known to be full by now: not even tried.
    bench.submit("again", submission);
    bench.turn().await;
    assert!(bench.answer("again").is_err());
    assert_eq!(refused(&mut bench).await, (4, 2 * 1207));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_room_is_not_lost() {
    let mut bench = nearly_full().await;
    bench.submit("waits", from(None, [with_qos0(event("t/1", &"x".repeat(1200)))]));
    bench.store.complete_next(1);
    bench.turn().await;
    assert_eq!(bench.hub.stats().parked, 1);
    assert_eq!(refused(&mut bench).await, (0, 0));
}

/// Figures of an hour, of which nothing but the uptime changes.
struct Figures(AtomicU64);

impl crate::sys::SysSource for Figures {
    fn figures(&self) -> SysFigures {
        SysFigures { uptime_s: self.0.fetch_add(1, Ordering::Relaxed), ..SysFigures::default() }
    }
}

/// A route takes the node's figures upstream, and its stream is full.
#[tokio::test(start_paused = true)]
async fn figures_that_were_refused_are_said_again_and_are_no_loss() {
    let mut bench = nearly_full().await;
    let route = Route { topics: vec![filter("$SYS/#"), filter("t/#")], stream: TELEMETRY, kind: None };
    bench.hub.reroute(Router::new(vec![route], None).unwrap());
    let connection = Connection::new(99);
    bench.subscriber(&connection, "$SYS/broker/uptime");
    let every = Duration::from_secs(10);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(crate::sys::publish(
        Text::from_static("n"),
        every,
        bench.hub.clone(),
        bench.clock.clone(),
        Arc::new(Figures(AtomicU64::new(0))),
        async { stopped.await.unwrap_or_default() },
    ));
    for _ in 0..2 {
        tokio::time::sleep(every).await;
        bench.turn().await;
    }
    assert_eq!(connection.texts(), [""; 0], "all figures together are more than the stream takes");
    assert_eq!(refused(&mut bench).await, (0, 0));
    bench.hub.reroute(router());
    tokio::time::sleep(every).await;
    bench.turn().await;
    let version = filter("$SYS/broker/version");
    assert_eq!(bench.hub.retained(&version, OPTIONS).len(), 1, "what has not changed since is said as well");
    stop.send(()).unwrap();
    task.await.unwrap();
}

/// A subscriber that is too slow for the node's figures has lost nothing that was anybody's.
#[tokio::test(start_paused = true)]
async fn figures_that_a_slow_subscriber_loses_are_not_in_the_ledger() {
    let mut bench = Bench::new();
    let slow = bench.subscriber(&Connection::new(0), "#");
    bench.hub.subscribe(slow, &filter("$SYS/#"), OPTIONS);
    let figure = Event { via: Via::Node, ..with_qos0(event("$SYS/broker/uptime", "1")) };
    bench.submit("figure", from(None, [figure]));
    bench.turn().await;
    assert_eq!(bench.hub.dropped(slow), Some(1));
    bench.hub.commit_losses();
    bench.turn().await;
    assert_eq!(bench.store.ledger(), []);
    bench.publish("local", "a device's");
    bench.turn().await;
    bench.hub.commit_losses();
    bench.turn().await;
    assert_eq!(bench.store.ledger().len(), 1);
}
