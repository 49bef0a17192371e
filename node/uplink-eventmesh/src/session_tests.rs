//! Events in, calls out, verdicts back.

use super::*;
use eventmesh_edge_core::event::{Event, LogId, Qos, Sequence, StoredEvent, Timestamp, Via};
use eventmesh_edge_core::mapping::mqtt_source;

const NOW: Duration = Duration::from_secs(1);

fn session(change: impl FnOnce(&mut Options)) -> (Session, Arc<Counters>) {
    let mut options = Options::new("plant-7", "cloud", Vec::new());
    change(&mut options);
    let counters = Arc::new(Counters::default());
    let shared = Shared { mapper: Mapper::new(&options).unwrap(), counters: counters.clone(), options };
    (Session::new(Arc::new(shared), 1), counters)
}

fn outgoing(position: u64, topic: &str, payload: usize) -> Outgoing {
    let event = Event {
        via: Via::Mqtt3,
        qos: Qos::AtLeastOnce,
        retain: false,
        source: mqtt_source("plant-7", "s"),
        id: None,
        time: None,
        received: Timestamp(0),
        expires: None,
        topic: Text::from(topic.to_owned()),
        payload: Bytes::from(vec![b'x'; payload]),
        properties: None,
    };
    let stored = StoredEvent {
        position: Position(position),
        log: LogId(7),
        sequence: Sequence { source: position, stream: position },
        event,
        stored_bytes: 0,
    };
    Outgoing { stream: StreamId(0), event: Arc::new(stored), kind: Text::from_static("k"), again: false }
}

fn answer(verdict: Verdict) -> Answer {
    Answer { verdict, words: "words".to_owned() }
}

/// Positions acknowledged, and positions failed with their class; `None`: held.
fn said(events: &[UplinkEvent]) -> (Vec<u64>, Vec<(u64, Option<Class>)>) {
    let mut said = (Vec::new(), Vec::new());
    for event in events {
        match event {
            UplinkEvent::Acked { position, .. } => said.0.push(position.0),
            UplinkEvent::Failed { position, class, .. } => said.1.push((position.0, Some(*class))),
            UplinkEvent::Held { position, .. } => said.1.push((position.0, None)),
            other => panic!("{other:?}"),
        }
    }
    said
}

fn calls(session: &mut Session, now: Duration, events: &mut Vec<UplinkEvent>) -> Vec<What> {
    std::iter::from_fn(|| session.next_call(now, events).map(|(what, _)| what)).collect()
}

#[test]
fn an_answer_is_about_exactly_its_event() {
    let (mut session, _) = session(|_| {});
    let mut events = Vec::new();
    (1..=5).for_each(|n| session.send(outgoing(n, "t", 1)));
    let mut calls = calls(&mut session, NOW, &mut events);
    assert_eq!((calls.len(), session.unanswered()), (5, 5));
    calls.reverse();
    for what in calls {
        assert_eq!(session.answered(what, answer(Verdict::Taken), NOW, &mut events), None);
    }
    assert_eq!(said(&events), (vec![5, 4, 3, 2, 1], vec![]));
    let again = session.answered(What::Publish(0), answer(Verdict::Taken), NOW, &mut events);
    assert_eq!((again, events.len(), session.unanswered()), (None, 5, 0), "a second answer is nobody's");
}

#[test]
fn verdicts_become_classes_and_some_end_the_connection() {
    let table = [
        (Verdict::Never, Some(Class::Reject), false),
        (Verdict::Later, Some(Class::Retry), false),
        (Verdict::Slower, Some(Class::Retry), false),
        (Verdict::Hold, None, false),
        (Verdict::Elsewhere, Some(Class::Retry), true),
        (Verdict::Denied, Some(Class::Retry), true),
    ];
    for (verdict, class, leaves) in table {
        let (mut session, _) = session(|_| {});
        let mut events = Vec::new();
        session.send(outgoing(1, "t", 1));
        let call = calls(&mut session, NOW, &mut events).pop().unwrap();
        let leave = session.answered(call, answer(verdict), NOW, &mut events);
        assert_eq!((said(&events), leave.is_some()), ((vec![], vec![(1, class)]), leaves), "{verdict:?}");
    }
}

#[test]
fn a_held_topic_does_not_hold_the_others() {
    let (mut session, counters) = session(|o| o.topic = "{topic}".to_owned());
    let mut events = Vec::new();
    session.send(outgoing(1, "none", 1));
    let call = calls(&mut session, NOW, &mut events).pop().unwrap();
    session.answered(call, answer(Verdict::Hold), NOW, &mut events);
    events.clear();
    (2..=4).for_each(|n| session.send(outgoing(n, if n == 3 { "there" } else { "none" }, 1)));
    let mut made = calls(&mut session, NOW, &mut events);
    assert_eq!((made.len(), said(&events).1), (1, vec![(2, None), (4, None)]));
    session.answered(made.pop().unwrap(), answer(Verdict::Taken), NOW, &mut events);
    assert_eq!(said(&events).0, [3]);
    assert_eq!(counters.read().events_held, 3);
    // When the time is up one tries, and its success opens the topic for all.
    let later = NOW + Duration::from_secs(1);
    events.clear();
    (5..=6).for_each(|n| session.send(outgoing(n, "none", 1)));
    let mut made = calls(&mut session, later, &mut events);
    assert_eq!((made.len(), said(&events).1), (1, vec![(6, None)]));
    session.answered(made.pop().unwrap(), answer(Verdict::Taken), later, &mut events);
    (7..=8).for_each(|n| session.send(outgoing(n, "none", 1)));
    assert_eq!(calls(&mut session, later, &mut events).len(), 2);
}

#[test]
fn what_cannot_be_mapped_is_refused_without_a_call() {
    let (mut session, counters) = session(|o| o.message_max_bytes = 2_000);
    let mut events = Vec::new();
    session.send(outgoing(1, "t", 3_000));
    session.send(outgoing(2, "t", 10));
    assert_eq!(calls(&mut session, NOW, &mut events).len(), 1);
    assert_eq!((said(&events).1, counters.read().unmappable_refused), (vec![(1, Some(Class::Reject))], 1));
    let UplinkEvent::Failed { reason, .. } = &events[0] else { panic!() };
    assert!(reason.ends_with("is larger than message_max = 2000"), "{reason}");
}

#[test]
fn the_window_is_kept_and_overload_pauses() {
    let (mut session, counters) = session(|o| o.window_max = 4);
    let mut events = Vec::new();
    (1..=9).for_each(|n| session.send(outgoing(n, "t", 1)));
    let mut made = calls(&mut session, NOW, &mut events);
    assert_eq!((made.len(), session.wakes_at(NOW)), (4, None));
    for what in made.drain(..) {
        session.answered(what, answer(Verdict::Slower), NOW, &mut events);
    }
    assert_eq!((calls(&mut session, NOW, &mut events).len(), counters.read().overloads), (0, 4));
    let resume = session.wakes_at(NOW).unwrap();
    assert_eq!(calls(&mut session, resume, &mut events).len(), 2, "half of it");
}

#[test]
fn what_is_not_answered_in_time_goes_again_and_a_late_answer_counts() {
    let (mut session, counters) = session(|_| {});
    let mut events = Vec::new();
    session.send(outgoing(1, "t", 1));
    session.send(outgoing(2, "t", 1));
    let mut made = calls(&mut session, NOW, &mut events);
    assert_eq!(session.tick(NOW + Duration::from_secs(59), &mut events), None);
    assert!(events.is_empty());
    let late = NOW + Duration::from_secs(60);
    assert_eq!(session.tick(late, &mut events), None);
    assert_eq!(session.tick(late, &mut events), None);
    let mut positions: Vec<_> = said(&events).1.into_iter().map(|(position, _)| position).collect();
    positions.sort_unstable();
    assert_eq!((positions, session.unanswered(), counters.read().unanswered), (vec![1, 2], 0, 2));
    events.clear();
    session.answered(made.pop().unwrap(), answer(Verdict::Later), late, &mut events);
    assert!(events.is_empty(), "it is back with the forwarder already");
    session.answered(made.pop().unwrap(), answer(Verdict::Taken), late, &mut events);
    assert_eq!(said(&events).0, [1]);
}

#[test]
fn a_runtime_that_answers_nothing_any_more_is_left() {
    let (mut session, _) = session(|o| o.window_max = 1_000);
    let mut events = Vec::new();
    let mut now = NOW;
    let mut left = None;
    for n in 0..3 {
        (1..=30).for_each(|i| session.send(outgoing(n * 100 + i, "t", 1)));
        calls(&mut session, now, &mut events);
        now += Duration::from_secs(60);
        left = session.tick(now, &mut events);
        assert_eq!(left.is_some(), n == 2, "{n}");
    }
    assert!(left.unwrap().cause.contains("not answered"));
}
