//! Random interleavings of everything that can happen, then a healthy world: whatever went before, every event ends up
//! acknowledged or counted, exactly once, and nothing ever stalls or spins. The world checks each single step.

use super::super::Volume;
use super::*;
use proptest::prelude::*;

/// What happens next; numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Op {
    Append {
        log: u8,
        topic: u8,
        expires_ms: Option<u16>,
    },
    Burst {
        log: u8,
        events: u8,
    },
    Read {
        log: u8,
        max: u8,
    },
    ReadFails {
        log: u8,
    },
    Ack {
        idx: u8,
    },
    AckFirst {
        count: u8,
    },
    Fail {
        idx: u8,
        class: u8,
    },
    Hold {
        idx: u8,
    },
    /// A topic is closed from now on, or opened: its events are held instead of acknowledged.
    Turn {
        topic: u8,
    },
    /// An answer to something that was never asked.
    Stray {
        log: u8,
    },
    Connected {
        window: u8,
    },
    Down,
    /// A second Up without a word of the first one's end.
    UpAgain,
    CommitOk,
    CommitFails,
    Retain {
        log: u8,
        events: u8,
    },
    Wait {
        ms: u16,
    },
    Sleep,
    /// A timer that nobody asked for, or that comes too early.
    Timer,
    Clock {
        plausible: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (any::<u8>(), any::<u8>(), proptest::option::weighted(0.1, any::<u16>()))
            .prop_map(|(log, topic, expires_ms)| Op::Append { log, topic, expires_ms }),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(log, events)| Op::Burst { log, events }),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(log, max)| Op::Read { log, max }),
        1 => any::<u8>().prop_map(|log| Op::ReadFails { log }),
        8 => any::<u8>().prop_map(|idx| Op::Ack { idx }),
        3 => any::<u8>().prop_map(|count| Op::AckFirst { count }),
        4 => (any::<u8>(), any::<u8>()).prop_map(|(idx, class)| Op::Fail { idx, class }),
        2 => any::<u8>().prop_map(|idx| Op::Hold { idx }),
        1 => any::<u8>().prop_map(|topic| Op::Turn { topic }),
        1 => any::<u8>().prop_map(|log| Op::Stray { log }),
        4 => any::<u8>().prop_map(|window| Op::Connected { window }),
        1 => Just(Op::Down),
        1 => Just(Op::UpAgain),
        3 => Just(Op::CommitOk),
        1 => Just(Op::CommitFails),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(log, events)| Op::Retain { log, events }),
        3 => any::<u16>().prop_map(|ms| Op::Wait { ms }),
        4 => Just(Op::Sleep),
        1 => Just(Op::Timer),
        1 => any::<bool>().prop_map(|plausible| Op::Clock { plausible }),
    ]
}

fn orders() -> impl Strategy<Value = (Order, Pipeline)> {
    prop_oneof![
        Just((Order::Sequence, Pipeline::Unordered)),
        Just((Order::Strict, Pipeline::Unordered)),
        Just((Order::Strict, Pipeline::Ordered)),
    ]
}

fn rules() -> impl Strategy<Value = Options> {
    let window = (1_usize..40, 100_usize..4_000);
    let bounds = (1_usize..60, 1_usize..60, 1_usize..20, 1_usize..50);
    (orders(), window, bounds, any::<u64>(), 1_usize..4).prop_map(
        |((order, pipeline), window, (gap_max, ahead, fetch, commit), seed, addresses)| Options {
            order,
            pipeline,
            window: Volume { events: window.0, bytes: window.1 },
            read_ahead: Volume { events: ahead, bytes: 2_000 },
            fetch: Volume { events: fetch, bytes: 1_000 },
            gap_max,
            attempts_max: 6,
            commit_events: u32::try_from(commit).unwrap(),
            seed,
            addresses,
            ..options()
        },
    )
}

fn apply(world: &mut World, op: Op) {
    let logs = world.logs.len();
    let log = |n: u8| usize::from(n) % logs;
    match op {
        Op::Append { log: l, topic, expires_ms } => {
            let wall = world.wall;
            world.put(log(l), &format!("t{}", topic % 4), |e| {
                e.event.expires = expires_ms.map(|ms| wall.after(Duration::from_millis(ms.into())));
                e.stored_bytes = 60 + u32::from(topic) * 5;
            });
            world.step(Input::Appended);
        }
        Op::Burst { log: l, events } => {
            world.backlog(log(l), usize::from(events % 64), |n| format!("t{}", n % 3));
            world.step(Input::Appended);
        }
        Op::Read { log: l, max } => world.read(log(l), usize::from(max % 16).max(1)),
        Op::ReadFails { log: l } => {
            let owed = world.logs[log(l)].read.take();
            if owed.is_some() {
                world.step(Input::FetchFailed { stream: stream(log(l)), class: Class::Retry });
            }
        }
        Op::Ack { idx } if !world.flying.is_empty() => {
            world.ack(usize::from(idx) % world.flying.len());
        }
        Op::AckFirst { count } => {
            for _ in 0..usize::from(count).min(world.flying.len()) {
                world.ack(0);
            }
        }
        Op::Fail { idx, class } if !world.flying.is_empty() => {
            let class = [Class::Retry, Class::Retry, Class::Retry, Class::Reject, Class::Fatal]
                [usize::from(class) % 5];
            world.fail(usize::from(idx) % world.flying.len(), class);
        }
        // What is held is the upstream's to say, and over a pipelined one nothing is.
        Op::Hold { idx } if !world.flying.is_empty() && world.options.pipeline == Pipeline::Unordered => {
            world.hold(usize::from(idx) % world.flying.len());
        }
        Op::Turn { topic } if world.options.pipeline == Pipeline::Unordered => {
            let topic = format!("t{}", topic % 4);
            if !world.closed.remove(&topic) {
                world.closed.insert(topic);
            }
        }
        Op::Stray { log: l } => {
            let position = Position(world.next_position + 7);
            world.step(Input::Acked { stream: stream(log(l)), position });
            world.step(Input::Acked { stream: StreamId(999), position });
        }
        Op::Connected { window } if world.connecting.is_some() => world.up(usize::from(window % 32).max(1)),
        Op::Down if world.up || world.connecting.is_some() => world.down(),
        Op::UpAgain if world.up => {
            world.flying.clear();
            let window = world.window;
            world.step(Input::Up { window, address: Text::from_static("a:2") });
        }
        Op::CommitOk => world.commit_ok(),
        Op::CommitFails => world.commit_fails(),
        Op::Retain { log: l, events } => {
            let cursor = world.logs[log(l)].cursor;
            let later = world.logs[log(l)].events.iter().filter(|e| e.position > cursor);
            if let Some(acked) = later.take(usize::from(events % 16) + 1).last().map(|e| e.position) {
                world.retain(log(l), acked);
            }
        }
        Op::Wait { ms } => {
            let time = Duration::from_millis(ms.into());
            world.wall = Timestamp(world.wall.0 + u64::from(ms));
            world.pass(time);
        }
        Op::Sleep if world.wake.is_some() => world.sleep(),
        Op::Timer => world.step(Input::Timer),
        Op::Clock { plausible } => world.wall = if plausible { WALL } else { Timestamp(1_000) },
        _ => {}
    }
}

fn is_done(world: &World) -> bool {
    world.logs.iter().enumerate().all(|(idx, log)| {
        let last = log.events.last().map_or(Position::ZERO, |e| e.position);
        world.cursor(idx) >= Some(last) && log.cursor >= last
    })
}

/// From now on everything works: within a bounded number of things that happen, nothing is left.
fn heal(world: &mut World) {
    world.closed.clear();
    for _ in 0..20_000 {
        if world.commit.is_some() {
            world.commit_ok();
        } else if world.connecting.is_some() {
            world.up(16);
        } else if let Some(log) = world.logs.iter().position(|log| log.read.is_some()) {
            world.read(log, usize::MAX);
        } else if !world.flying.is_empty() {
            world.ack(0);
        } else if world.forwarder.is_up() && is_done(world) {
            return;
        } else {
            world.sleep();
        }
    }
    panic!("not done: {:?}", world.forwarder);
}

/// Each event is acknowledged, or rejected, expired, parked (all counted), or given up by the store, and only one of it.
fn check_account(world: &World) {
    for log in &world.logs {
        let acked = log.acked.len() as u64;
        let all = log.events.len() as u64;
        if log.retained == Position::ZERO {
            assert_eq!(acked + log.counted, all, "acknowledged + counted");
        } else {
            let kept = log.events.iter().filter(|e| e.position > log.retained).count() as u64;
            let kept_acked = log.acked.iter().filter(|p| **p > log.retained).count() as u64;
            assert!(log.counted + kept_acked >= kept, "something is missing");
        }
        assert!(log.acked.is_disjoint(&log.rejected));
    }
}

fn run(options: Options, logs: usize, ops: Vec<Op>) {
    let mut world = World::new(options, logs);
    world.step(Input::Start);
    for op in ops {
        apply(&mut world, op);
    }
    heal(&mut world);
    check_account(&world);
    // Wishes for moments that no longer matter have all come true by then.
    world.pass(ms(120_000));
    let wakes = world.wakes;
    world.pass(ms(3_600_000));
    assert_eq!(world.wakes, wakes, "spins at rest: {:?}", world.forwarder);
}

proptest! {
    #[test]
    fn every_event_is_acknowledged_or_counted_once(
        options in rules(),
        logs in 1_usize..4,
        ops in proptest::collection::vec(op(), 0..250),
    ) {
        run(options, logs, ops);
    }

    #[test]
    fn without_failures_nothing_is_lost_or_sent_twice(
        options in rules(),
        logs in 1_usize..4,
        ops in proptest::collection::vec(op(), 0..200),
    ) {
        let harmless = |op: &Op| {
            !matches!(
                op,
                Op::Fail { .. } | Op::Hold { .. } | Op::Turn { .. } | Op::Down | Op::UpAgain | Op::Retain { .. } | Op::Clock { .. } | Op::Sleep
                    | Op::Wait { .. } | Op::Append { expires_ms: Some(_), .. }
            )
        };
        let mut world = World::new(options, logs);
        world.step(Input::Start);
        for op in ops.into_iter().filter(harmless) {
            apply(&mut world, op);
        }
        heal(&mut world);
        for log in &world.logs {
            prop_assert_eq!(log.counted, 0);
            prop_assert_eq!(log.acked.len(), log.events.len());
        }
        prop_assert_eq!(world.forwarder.counters().again, 0);
        prop_assert!(receipts(&world).values().all(|n| *n == 1));
    }

    /// A stop ends within its limit, whatever is under way and whoever does not answer.
    #[test]
    fn a_stop_ends_in_time(
        options in rules(),
        logs in 1_usize..3,
        ops in proptest::collection::vec(op(), 0..100),
        after in proptest::collection::vec(op(), 0..40),
    ) {
        let mut world = World::new(options, logs);
        world.step(Input::Start);
        for op in ops {
            apply(&mut world, op);
        }
        let end = world.now + ms(3_000);
        world.step(Input::Drain { limit: ms(3_000) });
        let sent = world.received.len();
        for op in after.into_iter().filter(|op| !matches!(op, Op::Wait { .. })) {
            if world.drained || world.wake.is_some_and(|at| at > end) {
                break;
            }
            apply(&mut world, op);
        }
        while !world.drained {
            world.sleep();
        }
        prop_assert!(world.now <= end, "{:?} after the limit", world.now - end);
        prop_assert_eq!(world.received.len(), sent, "nothing is sent during a stop");
    }
}
