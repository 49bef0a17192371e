//! What the store does not take, and nobody sends again (P2).

use super::*;
use eventmesh_edge_core::event::Qos;
use eventmesh_edge_core::ports::store::LossReason;

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
