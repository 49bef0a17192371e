//! Which event of a key goes when.

use super::super::Volume;
use super::*;

#[test]
fn after_a_reset_everything_unanswered_goes_again_in_order() {
    for (order, pipeline) in [
        (Order::Sequence, Pipeline::Unordered),
        (Order::Strict, Pipeline::Unordered),
        (Order::Strict, Pipeline::Ordered),
    ] {
        let mut world = World::new(Options { order, pipeline, ..options() }, 1);
        world.backlog(0, 6, own);
        world.connect(10);
        world.ack(1);
        world.down();
        world.reconnect(10);
        let positions: Vec<_> = world.flying_positions();
        assert_eq!(positions.len(), 5);
        assert!(positions.is_sorted());
        assert_eq!(world.forwarder.counters().again, 5);
        world.ack_all();
        assert_eq!(world.cursor(0), Some(world.last(0)));
    }
}

#[test]
fn strict_keeps_one_per_key_in_flight_and_lets_other_keys_pass() {
    let mut world = World::new(Options { order: Order::Strict, ..options() }, 1);
    world.backlog(0, 9, |n| format!("t{}", n % 3));
    world.connect(100);
    assert_eq!(world.flying.len(), 3);
    world.ack(1);
    assert_eq!(world.flying.len(), 3, "the next of that key");
    world.fail(0, Class::Retry);
    assert_eq!(world.flying.len(), 2, "its key waits");
    while !world.flying.is_empty() {
        world.ack(0);
    }
    assert_eq!(world.received.iter().filter(|r| r.1 == "t0").count(), 1);
    world.sleep();
    world.ack_all();
    assert_eq!(world.cursor(0), Some(world.last(0)));
}

#[test]
fn strict_over_an_ordered_pipeline_fills_the_window_with_one_key() {
    let options = Options { order: Order::Strict, pipeline: Pipeline::Ordered, ..options() };
    let mut world = World::new(options, 1);
    world.backlog(0, 100, same);
    world.connect(50);
    assert_eq!(world.flying.len(), 50);
    world.fail(0, Class::Retry);
    assert_eq!(world.flying.len(), 49, "the key waits for its first");
    while !world.flying.is_empty() {
        world.fail(0, Class::Retry);
    }
    world.pass(ms(260));
    assert_eq!(
        world.flying_positions(),
        [world.logs[0].events[0].position],
        "the others wait until it is settled"
    );
    world.fail(0, Class::Retry);
    world.pass(ms(520));
    world.ack(0);
    for n in 1..50 {
        let next = world.logs[0].events[n].position;
        assert_eq!(world.flying_positions(), [next], "so do those behind another one that was refused");
        world.ack(0);
    }
    assert_eq!(world.flying.len(), 50, "the window is full again");
    assert!(world.flying_positions().is_sorted());
    world.ack_all();
    assert_eq!(world.cursor(0), Some(world.last(0)));
}

/// Found by a property test: the later event had been taken off the queue and put back because the window was closed.
#[test]
fn a_retried_event_goes_before_a_later_one_that_waits_for_the_window() {
    let window = Volume { events: 100, bytes: 300 };
    let options = Options { order: Order::Strict, pipeline: Pipeline::Ordered, window, ..options() };
    for first in [1, 2] {
        let mut world = World::new(options.clone(), 3);
        world.backlog(0, 4, same);
        world.backlog(1, 50, same);
        world.backlog(2, 50, same);
        world.connect(100);
        while world.flying.iter().filter(|f| f.0 == 0).count() > first {
            world.fail(first, Class::Retry);
        }
        world.pass(ms(300));
        world.ack_all();
        assert_eq!(world.cursor(0), Some(world.last(0)));
    }
}

/// Found by a property test: the one that had led its key was on its way again when an earlier one took the lead.
#[test]
fn a_refused_event_on_its_way_again_keeps_its_key_when_an_earlier_one_is_refused() {
    let options = Options { order: Order::Strict, pipeline: Pipeline::Ordered, ..options() };
    let mut world = World::new(options, 1);
    world.backlog(0, 4, same);
    world.connect(3);
    world.fail(1, Class::Retry);
    world.pass(ms(260));
    // The second flies again, the first and the third still do.
    world.fail(0, Class::Retry);
    world.pass(ms(260));
    let first = world.logs[0].events[0].position;
    let idx = world.flying.iter().position(|f| f.1 == first).expect("the first again");
    world.ack(idx);
    assert!(!world.flying_positions().contains(&world.last(0)), "the fourth waits for the second");
    world.ack_all();
    assert_eq!(world.cursor(0), Some(world.last(0)));
}

/// Found by a property test: the refusal came after the connection had been given up, so that nothing was in flight.
#[test]
fn a_late_refusal_does_not_send_a_later_event_first() {
    let options = Options { order: Order::Strict, pipeline: Pipeline::Ordered, ..options() };
    let mut world = World::new(options, 1);
    world.backlog(0, 4, same);
    world.connect(10);
    world.pass(ms(60_000));
    assert!(!world.forwarder.is_up(), "silence");
    world.fail(2, Class::Retry);
    world.fail(2, Class::Retry);
    world.pass(ms(1_000));
    world.up(10);
    assert_eq!(world.flying.len(), 3, "the last waits for the one before it, which was refused");
    assert!(world.flying_positions().is_sorted());
    world.ack_all();
    assert_eq!(world.cursor(0), Some(world.last(0)));
}

#[test]
fn a_refused_event_backs_off_and_others_overtake_it_in_sequence_order() {
    let mut world = World::new(options(), 1);
    world.backlog(0, 3, same);
    world.connect(10);
    let (_, refused) = world.fail(0, Class::Retry);
    world.ack(0);
    world.ack(0);
    let mut delays = Vec::new();
    for _ in 0..8 {
        let before = world.now;
        while world.flying.is_empty() {
            world.commit_ok();
            world.sleep();
        }
        delays.push(world.now - before);
        assert_eq!(world.flying, [(0, refused)]);
        world.fail(0, Class::Retry);
    }
    assert!(delays[7] >= ms(15_000), "the backoff grows: {delays:?}");
    assert!(world.wakes < 60, "no busy loop: {} wake-ups", world.wakes);
    assert_eq!(world.cursor(0), Some(Position::ZERO), "never given up while there is room behind it");
}
