//! What the upstream holds: a topic that is not there yet.

use super::super::Volume;
use super::*;

fn in_turn(n: usize) -> String {
    format!("t{}", n % 2)
}

/// A world whose upstream does not take `t0`.
fn closed(options: Options) -> World {
    let mut world = World::new(options, 1);
    world.closed.insert("t0".into());
    world
}

fn acked(world: &World) -> usize {
    world.logs[0].acked.len()
}

/// Half of far more events than the gap holds are held: the others all arrive, nothing is parked, and when the topic opens its own
/// arrive too, in order, nothing twice.
#[test]
fn held_events_keep_nothing_waiting_and_are_never_given_up() {
    for order in [Order::Sequence, Order::Strict] {
        let mut world = closed(Options { order, gap_max: 300, ..options() });
        world.backlog(0, 4_000, in_turn);
        world.connect(usize::MAX);
        world.ack_all();
        assert_eq!(acked(&world), 2_000);
        // Tried again and again, far longer than any other event would be.
        for _ in 0..200 {
            world.sleep();
            world.ack_all();
        }
        assert_eq!(world.forwarder.counters().parked, 0);
        assert_eq!(world.cursor(0).map(|p| p.0), world.logs[0].events.first().map(|e| e.position.0 - 1));
        let waiting = world.forwarder.waiting();
        assert!(waiting.events <= 1, "{waiting:?}");
        world.closed.clear();
        world.sleep();
        world.ack_all();
        assert_eq!((acked(&world), world.cursor(0)), (4_000, Some(world.last(0))));
        let held_once = |(key, times): (&(usize, Position), &usize)| {
            let even = world.logs[0].get(key.1).event.topic == *"t0";
            even || *times == 1
        };
        assert!(receipts(&world).iter().all(held_once), "what was taken is not sent again");
    }
}

/// One call at a time tries a topic that is held, however many events wait.
#[test]
fn one_event_tries_for_all_of_its_group() {
    let mut world = closed(options());
    world.backlog(0, 1_000, |_| "t0".into());
    world.connect(usize::MAX);
    world.ack_all();
    let sent = world.received.len();
    for tries in 1..=10 {
        world.pass(ms(1_000));
        assert_eq!(world.received.len(), sent + tries);
        world.ack(0);
        world.read_all();
        assert!(world.flying.is_empty());
    }
}

#[test]
fn a_new_connection_tries_at_once() {
    let mut world = closed(options());
    world.backlog(0, 1_000, in_turn);
    world.connect(usize::MAX);
    world.ack_all();
    world.closed.clear();
    world.down();
    world.reconnect(usize::MAX);
    world.ack_all();
    assert_eq!((acked(&world), world.cursor(0)), (1_000, Some(world.last(0))));
}

/// What is rejected behind a held event is counted once, with the cursor that passes it, and is not tried again: later events of
/// its key have gone on.
#[test]
fn a_loss_behind_a_held_event_is_counted_when_the_cursor_passes_it() {
    for order in [Order::Sequence, Order::Strict] {
        let mut world = closed(Options { order, ..options() });
        for topic in ["t0", "bad", "t1", "bad"] {
            world.append(0, topic);
        }
        world.connect(usize::MAX);
        world.hold(0);
        world.fail(0, Class::Reject);
        while !world.flying.is_empty() {
            world.ack(0);
        }
        world.pass(ms(500));
        world.commit_ok();
        assert_eq!((world.logs[0].counted, acked(&world)), (0, 2));
        world.closed.clear();
        world.pass(ms(1_000));
        world.ack_all();
        world.settle();
        assert_eq!((world.logs[0].counted, world.logs[0].cursor), (1, world.last(0)));
        assert_eq!(world.forwarder.counters().again, 1, "the held one");
    }
}

/// What is damaged on the disk while it waits is the store's to count, and keeps neither the pass nor the cursor waiting.
#[test]
fn a_pass_does_not_wait_for_what_is_not_there_any_more() {
    for lost in [1, 3] {
        let mut world = closed(options());
        world.backlog(0, 4, |_| "t0".into());
        world.connect(usize::MAX);
        world.ack_all();
        let last = world.last(0);
        world.logs[0].events.remove(lost);
        world.closed.clear();
        world.pass(ms(1_000));
        world.ack_all();
        assert_eq!((acked(&world), world.cursor(0)), (3, Some(last)));
    }
}

#[test]
fn more_groups_than_probes_are_tried_too() {
    let mut world = World::new(options(), 1);
    world.backlog(0, 600, |n| format!("t{n}"));
    world.closed = (0..600).map(|n| format!("t{n}")).collect();
    world.connect(usize::MAX);
    world.ack_all();
    // Only one without a probe opens.
    world.closed.remove("t599");
    let mut minutes = 0;
    while acked(&world) == 0 {
        world.pass(ms(60_000));
        world.ack_all();
        minutes += 1;
        assert!(minutes < 3);
    }
    world.closed.clear();
    for _ in 0..300 {
        world.pass(ms(1_000));
        world.ack_all();
    }
    assert_eq!(acked(&world), 600);
}

/// The store gives up what is held when the budget is used up: that is the policy.
#[test]
fn what_the_store_gives_up_is_held_no_longer() {
    let mut world = closed(options());
    world.backlog(0, 100, in_turn);
    world.connect(usize::MAX);
    world.ack_all();
    let half = world.logs[0].events[50].position;
    world.retain(0, half);
    assert_eq!(world.cursor(0).map(|p| p.0), Some(half.0 + 1), "up to the next one that is held");
    world.closed.clear();
    world.pass(ms(61_000));
    world.ack_all();
    assert_eq!(world.cursor(0), Some(world.last(0)));
}

/// Memory does not grow with what is held (P5), whatever is between.
#[test]
fn a_small_memory_is_enough() {
    let read_ahead = Volume { events: 64, bytes: 8_000 };
    let mut world = closed(Options { read_ahead, gap_max: 64, ..options() });
    world.backlog(0, 4_000, in_turn);
    world.connect(16);
    world.ack_all();
    assert_eq!(acked(&world), 2_000);
    world.closed.clear();
    world.pass(ms(2_000));
    world.ack_all();
    assert_eq!((acked(&world), world.cursor(0)), (4_000, Some(world.last(0))));
}

/// Found by a property test: what was taken behind an event that backed off when everything was read again kept the cursor
/// before it until the next event came.
#[test]
fn what_was_taken_before_a_pass_is_passed_after_it() {
    let mut world = closed(options());
    for topic in ["t0", "t1", "t2"] {
        world.append(0, topic);
    }
    world.connect(usize::MAX);
    world.hold(0);
    world.fail(0, Class::Retry);
    world.ack(0);
    world.closed.clear();
    // The first is tried again and taken; the second is read again, the third is not.
    world.pass(ms(1_000));
    world.ack_all();
    assert_eq!((acked(&world), world.cursor(0)), (3, Some(world.last(0))));
    assert_eq!(receipts(&world)[&(0, world.last(0))], 1);
    world.settle();
}

/// A probe that is too old to be tried again is nobody's to answer: the pass begins without an answer.
#[test]
fn a_held_event_that_expires_stalls_nothing() {
    let mut world = closed(options());
    let soon = world.wall.after(ms(500));
    world.put(0, "t0", |e| e.event.expires = Some(soon));
    world.backlog(0, 3, in_turn);
    world.connect(usize::MAX);
    world.ack_all();
    assert_eq!(acked(&world), 1);
    world.wall = soon;
    world.closed.clear();
    world.pass(ms(1_000));
    world.ack_all();
    world.settle();
    assert_eq!((acked(&world), world.logs[0].counted), (3, 1));
    assert_eq!(world.logs[0].cursor, world.last(0));
}
