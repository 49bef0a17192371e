//! What cannot be handed over does not block its stream for ever, and nothing else is given up for it.

use super::*;

/// Everything is taken, and this one refused for the moment whenever it comes, until the cursor has passed all or so much has
/// happened.
fn take_all_but(world: &mut World, poison: Position, steps: usize) {
    for _ in 0..steps {
        world.read_all();
        world.commit_ok();
        match world.flying.iter().position(|f| f.1 == poison) {
            Some(idx) => {
                world.fail(idx, Class::Retry);
            }
            None if !world.flying.is_empty() => {
                world.ack(0);
            }
            None if world.cursor(0) == Some(world.last(0)) => return,
            None => world.sleep(),
        }
    }
}

#[test]
fn a_poisoned_event_is_parked_when_the_gap_is_full_and_its_attempts_are_used_up() {
    let mut world = World::new(Options { gap_max: 50, attempts_max: 4, ..options() }, 1);
    world.backlog(0, 500, same);
    let poison = world.logs[0].events[0].position;
    world.connect(10);
    take_all_but(&mut world, poison, 5_000);
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
    take_all_but(&mut world, poison, 20_000);
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
