//! One situation each.

use super::super::Volume;
use super::*;
use crate::ports::store::LossReason;

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
