//! One situation each.

use super::super::Volume;
use super::*;
use crate::ports::store::LossReason;

fn same(_: usize) -> String {
    "t".into()
}

fn own(n: usize) -> String {
    format!("t{n}")
}

#[test]
fn a_backlog_drains_from_the_connection_alone() {
    let mut world = World::new(options(), 1);
    world.backlog(0, 5_000, same);
    world.connect(usize::MAX);
    world.ack_all();
    assert_eq!(world.cursor(0), Some(world.last(0)));
    assert_eq!(world.received.len(), 5_000);
    assert!(world.received.windows(2).all(|w| w[0].2 < w[1].2), "in order");
    world.settle();
    assert_eq!(world.logs[0].cursor, world.last(0));
}

#[test]
fn new_events_follow_a_drained_backlog() {
    let mut world = World::new(options(), 2);
    world.connect(10);
    let first = world.append(1, "t");
    world.read_all();
    assert_eq!(world.flying, [(1, first)]);
    world.ack(0);
    let second = world.append(0, "t");
    world.read_all();
    assert_eq!(world.flying, [(0, second)]);
}

#[test]
fn an_append_during_a_read_is_not_missed() {
    let mut world = World::new(options(), 1);
    world.step(Input::Start);
    world.up(10);
    assert!(world.logs[0].read.is_some());
    let empty = Batch { events: Vec::new(), through: Position::ZERO, at_end: true };
    world.logs[0].read = None;
    // The store answered before the append, the answer arrives after it.
    world.put(0, "t", |_| {});
    world.logs[0].read = Some(Read {
        consumer: Consumer { stream: stream(0), uplink: UPLINK },
        after: Position::ZERO,
        max_events: 1,
        max_bytes: 1,
    });
    world.step(Input::Appended);
    world.logs[0].read = None;
    world.step(Input::Fetched { stream: stream(0), batch: empty });
    world.read_all();
    assert_eq!(world.flying.len(), 1);
}

#[test]
fn the_upstreams_window_counts_too() {
    let mut world = World::new(options(), 1);
    world.backlog(0, 100, same);
    world.connect(3);
    assert_eq!(world.flying.len(), 3);
    world.ack(0);
    assert_eq!(world.flying.len(), 3);
}

#[test]
fn a_large_event_passes_alone_and_is_not_starved() {
    let window = Volume { events: 100, bytes: 1_000 };
    let mut world = World::new(Options { window, ..options() }, 2);
    world.backlog(1, 500, same);
    world.connect(usize::MAX);
    assert_eq!(world.flying.len(), 10);
    let large = world.put(0, "large", |e| e.stored_bytes = 5_000);
    world.step(Input::Appended);
    world.read_all();
    for _ in 0..100 {
        if world.flying.contains(&(0, large)) {
            assert_eq!(world.flying.len(), 1);
            return;
        }
        world.ack(0);
        world.read_all();
    }
    panic!("the large event is never sent");
}

#[test]
fn acknowledgements_out_of_order_move_the_cursor_only_to_the_gap() {
    let mut world = World::new(options(), 1);
    world.backlog(0, 4, same);
    world.connect(10);
    world.ack(3);
    world.ack(1);
    assert_eq!(world.cursor(0), Some(Position::ZERO));
    let (_, first) = world.ack(0);
    assert_eq!(world.cursor(0), Some(first.next()), "first and second");
    world.ack(0);
    assert_eq!(world.cursor(0), Some(world.last(0)));
}

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
fn a_fatal_answer_reconnects_whatever_it_was_about() {
    let mut world = World::new(options(), 1);
    world.backlog(0, 3, same);
    world.connect(10);
    let first = world.logs[0].events[0].position;
    world.retain(0, first);
    world.fail(0, Class::Fatal);
    assert!(!world.forwarder.is_up());
    world.reconnect(10);
    assert_eq!(world.flying.len(), 2);
}

#[test]
fn a_rejected_event_is_counted_with_the_cursor_that_passes_it() {
    let mut world = World::new(options(), 1);
    world.backlog(0, 3, same);
    world.connect(10);
    world.fail(1, Class::Reject);
    assert!(world.commit.is_none(), "not before the cursor passes it");
    world.ack(0);
    let (cursors, losses) = world.commit.as_ref().unwrap();
    assert_eq!(cursors[0].acked, world.logs[0].events[1].position);
    assert_eq!(losses.len(), 1);
    assert_eq!(losses[0].reason, LossReason::Rejected);
    assert_eq!(losses[0].range, (cursors[0].acked, cursors[0].acked));
    world.commit_ok();
    world.ack_all();
    world.settle();
    assert_eq!(world.logs[0].counted, 1);
    assert_eq!(world.forwarder.counters().rejected, 1);
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

#[test]
fn a_poisoned_event_is_parked_when_the_gap_is_full_and_its_attempts_are_used_up() {
    let mut world = World::new(Options { gap_max: 50, attempts_max: 4, ..options() }, 1);
    world.backlog(0, 500, same);
    let poison = world.logs[0].events[0].position;
    world.connect(10);
    for _ in 0..5_000 {
        world.read_all();
        world.commit_ok();
        match world.flying.iter().position(|f| f.1 == poison) {
            Some(idx) => {
                world.fail(idx, Class::Retry);
            }
            None if !world.flying.is_empty() => {
                world.ack(0);
            }
            None if world.cursor(0) == Some(world.last(0)) => break,
            None => world.sleep(),
        }
    }
    world.settle();
    assert_eq!(world.logs[0].acked.len(), 499);
    assert_eq!(world.logs[0].counted, 1);
    assert_eq!(world.forwarder.counters().parked, 1);
    assert!(receipts(&world)[&(0, poison)] >= 4);
}

#[test]
fn an_upstream_that_takes_nothing_parks_nothing() {
    let mut world = World::new(Options { gap_max: 50, attempts_max: 3, ..options() }, 1);
    world.backlog(0, 500, same);
    world.connect(10);
    for _ in 0..4_000 {
        world.read_all();
        match world.flying.len() {
            0 => world.sleep(),
            _ => {
                world.fail(0, Class::Retry);
            }
        }
    }
    assert!(world.now > ms(600_000), "ten minutes of refusals: {:?}", world.now);
    assert_eq!(world.forwarder.counters().parked, 0);
    assert_eq!(world.cursor(0), Some(Position::ZERO));
    let mut rounds = 0;
    while world.cursor(0) != Some(world.last(0)) {
        world.ack_all();
        world.commit_ok();
        if world.flying.is_empty() && world.cursor(0) != Some(world.last(0)) {
            world.sleep();
        }
        rounds += 1;
        assert!(rounds < 1_000);
    }
}

#[test]
fn a_poisoned_event_does_not_block_the_other_keys_of_a_strict_stream_for_ever() {
    let options = Options { order: Order::Strict, gap_max: 60, attempts_max: 4, ..options() };
    let mut world = World::new(options, 1);
    world.backlog(0, 600, |n| format!("t{}", n % 5));
    let poison = world.logs[0].events[0].position;
    world.connect(10);
    for _ in 0..20_000 {
        world.read_all();
        world.commit_ok();
        match world.flying.iter().position(|f| f.1 == poison) {
            Some(idx) => {
                world.fail(idx, Class::Retry);
            }
            None if !world.flying.is_empty() => {
                world.ack(0);
            }
            None if world.cursor(0) == Some(world.last(0)) => break,
            None => world.sleep(),
        }
    }
    assert_eq!(world.cursor(0), Some(world.last(0)));
    assert_eq!(world.forwarder.counters().parked, 1);
}

#[test]
fn an_event_that_kills_its_connection_lets_others_go_first_and_is_parked_in_the_end() {
    let options = Options { gap_max: 40, attempts_max: 5, ..options() };
    let mut world = World::new(options, 1);
    world.backlog(0, 400, same);
    let poison = world.logs[0].events[7].position;
    world.step(Input::Start);
    for _ in 0..20_000 {
        world.read_all();
        world.commit_ok();
        if world.connecting.is_some() {
            world.up(5);
        } else if world.flying.iter().any(|f| f.1 == poison) {
            world.down();
        } else if !world.flying.is_empty() {
            world.ack(0);
        } else if world.cursor(0) == Some(world.last(0)) {
            break;
        } else {
            world.sleep();
        }
    }
    assert_eq!(world.cursor(0), Some(world.last(0)));
    assert_eq!(world.forwarder.counters().parked, 1);
    assert_eq!(world.logs[0].acked.len(), 399);
}

#[test]
fn a_link_that_always_dies_parks_nothing_and_does_not_spin() {
    let mut world = World::new(Options { gap_max: 40, attempts_max: 2, ..options() }, 1);
    world.backlog(0, 400, same);
    world.step(Input::Start);
    for _ in 0..300 {
        while world.connecting.is_none() {
            world.sleep();
        }
        world.up(5);
        world.read_all();
        world.down();
    }
    assert!(world.now > ms(3_600_000), "the backoff holds: {:?}", world.now);
    assert_eq!(world.forwarder.counters().parked, 0);
    world.reconnect(5);
    for _ in 0..100 {
        world.ack_all();
        world.commit_ok();
        if world.cursor(0) == Some(world.last(0)) {
            return;
        }
        world.sleep();
    }
    panic!("does not recover");
}

#[test]
fn a_silent_upstream_is_given_up_and_tried_again() {
    let mut world = World::new(options(), 1);
    world.append(0, "t");
    world.connect(10);
    assert_eq!(world.flying.len(), 1);
    world.pass(ms(59_000));
    assert!(world.connecting.is_none());
    world.pass(ms(2_000));
    assert!(world.connecting.is_some(), "{:?}", world.reports);
    let hung = |r: &Report| matches!(r, Report::Down { cause, .. } if cause.contains("60 s"));
    assert!(world.reports.iter().any(hung), "{:?}", world.reports);
    world.reconnect(10);
    world.ack_all();
    assert_eq!(world.cursor(0), Some(world.last(0)));
}

#[test]
fn one_event_without_an_answer_does_not_block_for_ever() {
    let mut world = World::new(Options { gap_max: 30, attempts_max: 3, ..options() }, 2);
    world.backlog(0, 300, same);
    let mute = world.logs[0].events[0].position;
    world.connect(10);
    for _ in 0..20_000 {
        world.read_all();
        world.commit_ok();
        // The other stream is busy all the time: the connection as a whole is never silent.
        if world.flying.iter().all(|f| f.0 == 0) && world.up {
            world.append(1, "u");
            world.read_all();
        }
        let answer = world.flying.iter().position(|f| f.1 != mute && f.0 == 0);
        let other = world.flying.iter().position(|f| f.0 == 1);
        if world.connecting.is_some() {
            world.up(10);
        } else if let Some(idx) = answer {
            world.ack(idx);
        } else if world.cursor(0) == Some(world.last(0)) {
            break;
        } else {
            world.pass(ms(500));
            if let Some(idx) = other
                && world.flying.get(idx).is_some_and(|f| f.0 == 1)
            {
                world.ack(idx);
            }
        }
    }
    assert_eq!(world.cursor(0), Some(world.last(0)));
    assert_eq!(world.forwarder.counters().parked, 1);
}

#[test]
fn a_fatal_answer_reconnects_after_a_delay() {
    let mut world = World::new(options(), 1);
    world.backlog(0, 3, same);
    world.connect(10);
    world.fail(1, Class::Fatal);
    assert!(world.connecting.is_none(), "not at once");
    world.reconnect(10);
    assert_eq!(world.flying.len(), 3);
}

#[test]
fn old_events_are_given_up_only_by_a_clock_that_is_set() {
    for (wall, received) in [(WALL, 2), (Timestamp(5_000), 3)] {
        let mut world = World::new(options(), 1);
        world.wall = wall;
        let soon = wall.after(ms(500));
        world.put(0, "t", |_| {});
        world.put(0, "t", |e| e.event.expires = Some(soon));
        world.put(0, "t", |_| {});
        world.wall = wall.after(ms(500));
        world.connect(10);
        assert_eq!(world.flying.len(), received);
        world.ack_all();
        world.settle();
        assert_eq!(world.logs[0].counted, 3 - received as u64);
        assert_eq!(world.cursor(0), Some(world.last(0)));
    }
}

#[test]
fn a_streams_age_limit_counts_from_receipt() {
    let spec = StreamOptions { max_age: Some(ms(60_000)), ..StreamOptions::new(stream(0), Position::ZERO) };
    let mut world = World::with(options(), &[spec]);
    world.put(0, "t", |e| e.event.received = Timestamp(3));
    world.put(0, "t", |_| {});
    world.wall = WALL.after(ms(60_000));
    let fresh = world.put(0, "t", |_| {});
    world.connect(10);
    let positions = world.flying_positions();
    assert_eq!(positions.len(), 2, "what came in before the clock was set has no age");
    assert_eq!(positions[1], fresh);
    assert_eq!(world.forwarder.counters().expired, 0, "not before the cursor passes it");
    world.ack_all();
    assert_eq!(world.forwarder.counters().expired, 1);
}

#[test]
fn what_the_store_gave_up_is_neither_sent_nor_counted_again() {
    let mut world = World::new(options(), 1);
    world.backlog(0, 10, same);
    world.connect(3);
    world.fail(1, Class::Reject);
    let eighth = world.logs[0].events[7].position;
    world.retain(0, eighth);
    assert_eq!(world.cursor(0), Some(eighth));
    assert_eq!(world.flying.len(), 3, "unanswered events keep their place in the window");
    while !world.flying.is_empty() {
        world.ack(0);
    }
    assert_eq!(world.cursor(0), Some(world.last(0)));
    world.settle();
    assert_eq!(world.logs[0].counted, 0);
    let again = world.cursor(0).unwrap();
    world.retain(0, again);
    assert_eq!(world.cursor(0), Some(again), "its own cursor is no news");
}

#[test]
fn a_large_backlog_leaves_others_their_share() {
    let window = Volume { events: 40, bytes: 1 << 20 };
    let mut world = World::new(Options { window, ..options() }, 2);
    world.backlog(0, 5_000, same);
    world.connect(usize::MAX);
    assert_eq!(world.flying.len(), 40, "alone it may use the whole window");
    world.backlog(1, 100, same);
    world.step(Input::Appended);
    for _ in 0..20 {
        world.read_all();
        world.ack(0);
    }
    assert_eq!(world.flying.iter().filter(|f| f.0 == 1).count(), 20, "half of the window after 20 answers");
    for _ in 0..40 {
        world.ack(0);
        world.read_all();
    }
    let shares = [0, 1].map(|s| world.flying.iter().filter(|f| f.0 == s).count());
    assert_eq!(shares, [20, 20]);
}

#[test]
fn weights_divide_the_window() {
    let window = Volume { events: 40, bytes: 1 << 20 };
    let specs = [1, 3].map(|weight| StreamOptions {
        weight,
        ..StreamOptions::new(stream(weight as usize / 2), Position::ZERO)
    });
    let mut world = World::with(Options { window, ..options() }, &specs);
    world.backlog(0, 500, same);
    world.backlog(1, 500, same);
    world.connect(usize::MAX);
    for _ in 0..100 {
        world.ack(0);
        world.read_all();
    }
    assert_eq!(world.flying.iter().filter(|f| f.0 == 1).count(), 30);
}

#[test]
fn a_stop_waits_for_answers_and_commits_the_cursor() {
    let mut world = World::new(options(), 1);
    world.backlog(0, 50, same);
    world.connect(5);
    world.step(Input::Drain { limit: ms(4_000) });
    assert!(!world.drained);
    for _ in 0..5 {
        world.ack(0);
    }
    assert_eq!(world.flying.len(), 0, "nothing new is sent");
    assert!(world.commit.is_some(), "at once");
    assert!(!world.drained);
    world.commit_ok();
    assert!(world.drained);
    assert_eq!(world.logs[0].cursor, world.logs[0].events[4].position);
}

#[test]
fn a_stop_has_a_limit_whatever_does_not_answer() {
    let mut world = World::new(options(), 1);
    world.backlog(0, 50, same);
    world.connect(5);
    world.ack(0);
    let begin = world.now;
    world.step(Input::Drain { limit: ms(4_000) });
    while !world.drained {
        world.sleep();
    }
    assert_eq!(world.now - begin, ms(4_000), "the commit was never answered");
    assert!(world.commit.is_some(), "it was tried before the end");
}

#[test]
fn a_stop_while_down_is_immediate() {
    let mut world = World::new(options(), 1);
    world.backlog(0, 5, same);
    world.connect(5);
    world.down();
    world.step(Input::Drain { limit: ms(4_000) });
    assert!(world.drained);
}

#[test]
fn a_lost_commit_is_made_again() {
    let mut world = World::new(options(), 1);
    world.backlog(0, 3, same);
    world.connect(10);
    world.fail(0, Class::Reject);
    world.commit_fails();
    assert!(world.commit.is_none(), "not at once");
    world.ack_all();
    world.settle();
    assert_eq!((world.logs[0].counted, world.logs[0].cursor), (1, world.last(0)));
}

#[test]
fn a_failed_read_is_made_again_after_a_while() {
    let mut world = World::new(options(), 1);
    world.backlog(0, 3, same);
    world.step(Input::Start);
    world.up(10);
    for _ in 0..5 {
        world.logs[0].read.take().expect("a read");
        world.step(Input::FetchFailed { stream: stream(0), class: Class::Retry });
        assert!(world.logs[0].read.is_none(), "not at once");
        world.sleep();
    }
    world.read_all();
    assert_eq!(world.flying.len(), 3);
}

#[test]
fn addresses_take_turns_until_one_answers() {
    let mut world = World::new(Options { addresses: 3, ..options() }, 1);
    world.step(Input::Start);
    for _ in 0..4 {
        world.down();
        while world.connecting.is_none() {
            world.sleep();
        }
    }
    let indices: Vec<_> = world.connects.iter().map(|c| c.1).collect();
    assert_eq!(indices, [0, 1, 2, 0, 1]);
}

#[test]
fn an_attempt_that_is_never_answered_ends() {
    let mut world = World::new(options(), 1);
    world.step(Input::Start);
    world.pass(ms(10_900));
    assert_eq!(world.connects.len(), 1);
    world.pass(ms(500));
    assert_eq!(world.connects.len(), 2);
}

#[test]
fn idle_costs_no_wake_ups() {
    let mut world = World::new(options(), 3);
    world.append(0, "t");
    world.connect(10);
    world.ack_all();
    world.settle();
    let wakes = world.wakes;
    world.pass(ms(3_600_000));
    assert!(world.wakes <= wakes + 1, "an hour of silence");
}

#[test]
fn a_stream_named_twice_is_refused() {
    let spec = StreamOptions::new(stream(4), Position::ZERO);
    let error = Forwarder::new(options(), &[spec.clone(), spec]).unwrap_err();
    assert_eq!(error.to_string(), "stream StreamId(4) is named twice, name it once");
    let error = Forwarder::new(Options { gap_max: 0, ..options() }, &[]).unwrap_err();
    assert!(error.to_string().starts_with("gap_max must be at least 1"));
}

#[test]
fn an_upstream_that_takes_nothing_condemns_no_event_and_is_left_alone_for_as_long_as_it_asks() {
    let options = Options { gap_max: 4, attempts_max: 1, ..options() };
    let mut world = World::new(options, 1);
    world.backlog(0, 4, same);
    world.connect(usize::MAX);
    // All but the first are taken: what is left fills the gap alone, the worst place to be.
    for _ in 0..3 {
        world.ack(1);
    }
    for n in 0..50 {
        let asked = (n % 2 == 0).then_some(ms(90_000));
        let before = world.now;
        world.unavailable(asked);
        world.reconnect(usize::MAX);
        assert!(world.now >= before + asked.unwrap_or_default());
    }
    assert_eq!(world.forwarder.counters().parked, 0);
    world.ack_all();
    assert_eq!(world.cursor(0), Some(world.last(0)));
}

#[test]
fn an_uplink_is_replaced_in_any_state_and_nothing_is_lost() {
    let mut world = World::new(Options { addresses: 1, ..options() }, 1);
    world.backlog(0, 30, same);
    world.connect(5);
    world.ack(0);
    // Up: what is under way goes out again, through the new one.
    world.replace();
    assert!(world.connecting == Some(0) && world.flying.is_empty());
    world.up(5);
    world.read_all();
    world.ack(0);
    // Between two attempts, however long the pause: at once.
    world.unavailable(Some(ms(3_600_000)));
    assert_eq!(world.connecting, None);
    world.replace();
    assert_eq!(world.connecting, Some(0));
    // During an attempt.
    world.replace();
    world.up(5);
    world.ack_all();
    assert_eq!(world.cursor(0), Some(world.last(0)));
    assert_eq!(world.logs[0].acked.len(), 30);
    let counters = world.forwarder.counters();
    assert_eq!((counters.parked, counters.rejected), (0, 0));
}
