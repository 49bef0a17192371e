//! The rule alone, and runs of senders in virtual time.

use super::*;
use bytes::Bytes;
use eventmesh_edge_core::event::{Event, Qos, Timestamp, Via};
use eventmesh_edge_core::ports::store::{Consumer, StreamId, UplinkId};
use eventmesh_edge_core::ports::store::{CursorChange, NewEvent};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn us(us: u64) -> Duration {
    Duration::from_micros(us)
}

fn commit(sender: u64) -> Commit {
    let event = Event {
        via: Via::Mqtt5,
        qos: Qos::AtLeastOnce,
        retain: false,
        source: format!("mqtt://n/{sender}").into(),
        id: None,
        time: None,
        received: Timestamp(0),
        expires: None,
        topic: "t".into(),
        payload: Bytes::new(),
        properties: None,
    };
    Commit { events: vec![NewEvent { stream: None, event, mailboxes: Vec::new() }], ..Commit::default() }
}

/// Feeds `per_second` commits of `sources` sources for a second, taken every millisecond; returns it and the time.
fn fed(sources: u64, per_second: u64) -> (Gather, Duration) {
    let mut gather = Gather::new(GatherOptions::default(), 1024);
    let mut pace = Pace::new(GatherOptions::default());
    let mut sent = 0;
    for tick in 1..=1000u64 {
        let now = ms(1000 + tick);
        let mut prompt = 0;
        while sent * 1000 < tick * per_second {
            pace.came(now, &commit(sent % sources));
            (sent, prompt) = (sent + 1, prompt + 1);
        }
        gather.took(now, prompt, Waited::No, pace.senders(now));
    }
    (gather, ms(2000))
}

/// What a run in virtual time came to.
struct Ran {
    commits: u64,
    groups: u64,
    /// Longest that a commit waited for its group.
    longest: Duration,
    /// Times that whoever takes commits in woke up.
    wakes: u64,
}

/// Two seconds of `senders` that wait for their answer and `think` before the next commit, each of `sources` sources,
/// with a sync of `sync`. Commits are taken in as they come, or after a rest.
fn run(senders: usize, sources: u64, think: Duration, sync: Duration) -> Ran {
    let mut gather = Gather::new(GatherOptions::default(), 1024);
    let mut pace = Pace::new(GatherOptions::default());
    let mut sends_at: Vec<Duration> =
        (0..senders).map(|n| ms(1) + think.mul_f64(n as f64 / senders as f64)).collect();
    let mut dice = 1u64;
    let mut spread = || {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        0.5 + (dice >> 40) as f64 / (1u64 << 24) as f64
    };
    let mut ran = Ran { commits: 0, groups: 0, longest: Duration::ZERO, wakes: 0 };
    let mut now = ms(1);
    let mut sent = 0u64;
    while now < ms(2000) {
        let (mut queue, mut queued, mut seen) = (Vec::new(), Queued::default(), 0);
        let (mut patient_since, mut deaf_until) = (None, Duration::ZERO);
        let silent = loop {
            // What came while nobody rested, in its order; nothing is taken in before a rest is over.
            let mut coming: Vec<usize> =
                (0..senders).filter(|n| !queue.contains(n) && sends_at[*n] <= now).collect();
            coming.sort_by_key(|n| sends_at[*n]);
            if now >= deaf_until {
                ran.wakes += u64::from(!coming.is_empty());
                for n in coming {
                    queued.hurried |= pace.came(sends_at[n], &commit(sent % sources));
                    (sent, queued.prompt) = (sent + 1, queued.prompt + 1);
                    queued.first_prompt.get_or_insert(sends_at[n]);
                    queue.push(n);
                }
            }
            let silent = seen > 0 && queue.len() == seen;
            let next = (0..senders).filter(|n| !queue.contains(n)).map(|n| sends_at[n]).min();
            match gather.decide(now, &queued, !silent) {
                Decision::Take => break silent,
                Decision::Wait { time: None, .. } => now = next.unwrap().max(now),
                Decision::Patience { time: None, rest, .. } => {
                    deaf_until = now + rest.unwrap_or_default().min(Rest::LONGEST);
                    now = next.unwrap().max(deaf_until);
                }
                Decision::Wait { time: Some(time), wake_at } => {
                    let mut others: Vec<Duration> =
                        (0..senders).filter(|n| !queue.contains(n)).map(|n| sends_at[n]).collect();
                    others.sort();
                    let woken = others.get(wake_at - queue.len() - 1).copied().unwrap_or(now + time);
                    seen = queue.len();
                    now = woken.clamp(now, now + time);
                }
                Decision::Patience { time: Some(time), rest, .. } => {
                    patient_since.get_or_insert(now);
                    let rest =
                        rest.filter(|rest| *rest >= Rest::SHORTEST).map(|rest| rest.min(Rest::LONGEST));
                    deaf_until = now + rest.unwrap_or_default();
                    let next = next.unwrap_or(now + time).max(now + us(1)).max(deaf_until);
                    (seen, now) = (0, next.min(now + time));
                }
            }
        };
        for n in &queue {
            ran.longest = ran.longest.max(now - sends_at[*n]);
        }
        let waited = match patient_since {
            Some(since) => Waited::Patiently(now - since),
            None if silent => Waited::InVain,
            None => Waited::No,
        };
        gather.took(now, queue.len(), waited, pace.senders(now));
        ran.commits += queue.len() as u64;
        ran.groups += 1;
        now += sync;
        if sends_at.iter().enumerate().any(|(n, at)| !queue.contains(&n) && *at <= now) {
            gather.overlapped(now);
        }
        for n in queue {
            sends_at[n] = now + think.mul_f64(spread());
        }
    }
    ran
}

#[test]
fn one_connection_that_carries_many_sources_and_waits_for_each_answer_is_not_delayed() {
    for sources in [1, 50, 1000, 100_000] {
        let Ran { commits, groups, .. } = run(1, sources, us(20), us(100));
        assert_eq!(commits, groups);
        assert!(commits > 15_000, "{commits} of {sources}");
    }
}

#[test]
fn two_connections_that_carry_many_sources_lose_little() {
    let Ran { commits, .. } = run(2, 50, us(20), us(100));
    assert!(commits > 15_000, "{commits}");
}

#[test]
fn fifty_senders_that_wait_for_their_answers_form_large_groups_without_losing_pace() {
    let Ran { commits, groups, .. } = run(50, 50, us(200), us(300));
    assert!(commits / groups >= 20, "{commits} in {groups}");
    assert!(commits > 100_000, "{commits}");
}

#[test]
fn two_thousand_per_second_of_fifty_senders_fill_groups_and_wake_up_for_several_at_once() {
    let Ran { commits, groups, longest, wakes } = run(50, 50, ms(25), us(200));
    assert!((2800..4200).contains(&commits), "{commits}");
    assert!(commits / groups >= 8, "{commits} in {groups}");
    assert!(longest <= ms(10), "{longest:?}");
    assert!(wakes * 2 <= commits, "{wakes} for {commits}");
}

#[test]
fn two_hundred_per_second_of_fifty_senders_share_syncs_and_wait_twice_the_delay_at_most() {
    let Ran { commits, groups, longest, .. } = run(50, 50, ms(250), us(200));
    assert!(commits > 300, "{commits}");
    assert!(commits >= groups * 2, "{commits} in {groups}");
    assert!(longest <= ms(10) + us(400), "{longest:?}");
}

fn one(now: Duration) -> Queued {
    Queued { prompt: 1, first_prompt: Some(now), ..Queued::default() }
}

#[test]
fn a_lone_sender_is_never_delayed() {
    for per_second in [1, 200, 2000, 50_000] {
        let (gather, now) = fed(1, per_second);
        assert_eq!(gather.decide(now, &one(now), true), Decision::Take, "{per_second}/s");
    }
}

#[test]
fn a_trickle_of_few_and_one_in_a_hurry_are_never_delayed() {
    let (gather, now) = fed(50, 50);
    assert_eq!(gather.decide(now, &one(now), true), Decision::Take, "hardly one more is expected");
    let (gather, now) = fed(4, 200);
    assert_eq!(
        gather.decide(now, &one(now), true),
        Decision::Take,
        "each of them waits for its answer, perhaps"
    );
    let (gather, now) = fed(50, 200);
    assert!(matches!(gather.decide(now, &one(now), true), Decision::Patience { rest: None, .. }));
    let hurried = Queued { hurried: true, ..one(now) };
    assert_eq!(gather.decide(now, &hurried, true), Decision::Take);
    let never = GatherOptions { max_delay: Duration::ZERO, ..GatherOptions::default() };
    let gather = Gather { options: never, ..gather };
    assert_eq!(gather.decide(now, &one(now), true), Decision::Take);
}

#[test]
fn who_is_heard_again_soon_is_in_a_hurry() {
    let mut pace = Pace::new(GatherOptions::default());
    let came: Vec<bool> = [10, 12, 40, 55, 75].map(|at| pace.came(ms(at), &commit(1))).into();
    assert_eq!(came, [true, true, false, true, false], "unknown, or within twenty milliseconds");
    assert!(pace.came(ms(80), &Commit::default()), "nobody knows who that is");
    assert_eq!((pace.senders(ms(100)), pace.senders(ms(130))), (1, 0));
}

#[test]
fn patience_that_brings_nobody_ends_for_a_second() {
    let (mut gather, mut now) = fed(50, 2000);
    gather.took(now, 1, Waited::Patiently(ms(10)), 50);
    for _ in 0..90 {
        now += ms(10);
        gather.took(now, 6, Waited::No, 50);
        assert!(!matches!(gather.decide(now, &one(now), true), Decision::Patience { .. }));
    }
    for _ in 0..20 {
        now += ms(10);
        gather.took(now, 6, Waited::No, 50);
    }
    assert!(matches!(gather.decide(now, &one(now), true), Decision::Patience { .. }));
}

#[test]
fn many_sources_whose_commits_never_meet_are_one_sender() {
    let mut gather = Gather::new(GatherOptions::default(), 1024);
    let hurried = |now| Queued { hurried: true, ..one(now) };
    for n in 0..5000u64 {
        let now = ms(1000) + us(200 * n);
        gather.took(now, 1, Waited::No, 50);
        assert_eq!(gather.decide(now, &hurried(now), true), Decision::Take);
    }
}

#[test]
fn the_first_commit_after_a_pause_is_not_delayed() {
    let (gather, now) = fed(50, 2000);
    let later = now + ms(2000);
    assert_eq!(gather.decide(later, &one(later), true), Decision::Take);
}

#[test]
fn many_that_come_rarely_wait_for_enough_and_rest_meanwhile() {
    let (gather, now) = fed(50, 2000);
    let Decision::Patience { time, wake_at, rest } = gather.decide(now, &one(now), true) else {
        panic!("should be patient")
    };
    assert_eq!((time, wake_at), (Some(ms(10)), 12));
    let rest = rest.unwrap();
    assert!(rest >= ms(4) && rest <= ms(6), "eleven come in 5.5 ms: {rest:?}");
    let enough = Queued { prompt: 12, ..one(now) };
    assert_eq!(gather.decide(now, &enough, true), Decision::Take);
    assert_eq!(gather.decide(now + ms(10), &one(now), true), Decision::Take, "10 ms are over");
}

#[test]
fn after_a_group_that_patience_filled_the_next_is_rested_for_before_it_begins() {
    let (mut gather, now) = fed(50, 2000);
    let nothing = Queued::default();
    assert_eq!(gather.decide(now, &nothing, true), Decision::Wait { time: None, wake_at: 0 });
    gather.took(now, 12, Waited::Patiently(ms(5)), 50);
    let Decision::Patience { time: None, wake_at: 0, rest: Some(rest) } = gather.decide(now, &nothing, true)
    else {
        panic!("should rest")
    };
    assert!(rest >= ms(4) && rest <= ms(6), "twelve come in 6 ms: {rest:?}");
    let lazy = Queued { lazy: 1, first_lazy: Some(now), ..nothing };
    let decision = gather.decide(now, &lazy, true);
    assert!(
        matches!(decision, Decision::Patience { time: Some(_), wake_at: 1, rest: Some(_) }),
        "{decision:?}"
    );
    gather.took(now, 1, Waited::No, 50);
    assert_eq!(gather.decide(now, &nothing, true), Decision::Wait { time: None, wake_at: 0 });
}

#[test]
fn several_senders_in_a_hurry_gather_up_to_the_delay_the_target_or_a_silence() {
    let (gather, now) = fed(50, 2000);
    let one = |now| Queued { hurried: true, ..one(now) };
    let Decision::Wait { time, wake_at } = gather.decide(now, &one(now), true) else {
        panic!("should gather")
    };
    assert!((2..=11).contains(&wake_at), "at most the ten that come in 5 ms: {wake_at}");
    assert!(time.unwrap() <= ms(3), "four intervals of half a millisecond: {time:?}");
    let enough = Queued { prompt: wake_at, ..one(now) };
    assert_eq!(gather.decide(now, &enough, true), Decision::Take);
    assert_eq!(gather.decide(now + ms(5), &one(now), true), Decision::Take, "5 ms are over");
    assert_eq!(gather.decide(now + ms(2), &one(now), false), Decision::Take, "silence");
}

#[test]
fn no_more_is_waited_for_than_senders_are_there() {
    let (gather, now) = fed(6, 20_000);
    let Decision::Wait { wake_at, time } = gather.decide(now, &one(now), true) else {
        panic!("should gather")
    };
    assert!((5..=6).contains(&wake_at), "{wake_at}");
    assert!(time.unwrap() <= us(220), "{time:?}");
}

#[test]
fn what_nobody_waits_for_rides_along_or_goes_after_a_while() {
    let (gather, now) = fed(1, 1);
    let lazy = Queued { lazy: 1, first_lazy: Some(now), ..Queued::default() };
    assert_eq!(gather.decide(now, &lazy, true), Decision::Wait { time: Some(ms(20)), wake_at: 1 });
    assert_eq!(gather.decide(now + ms(20), &lazy, false), Decision::Take);
    let with_prompt = Queued { prompt: 1, first_prompt: Some(now), ..lazy };
    assert_eq!(gather.decide(now, &with_prompt, true), Decision::Take);
    assert_eq!(gather.decide(now, &Queued::default(), true), Decision::Wait { time: None, wake_at: 0 });
    let full = Queued { lazy: 1024, ..lazy };
    assert_eq!(gather.decide(now, &full, true), Decision::Take);
}

#[test]
fn cursors_are_lazy_and_state_is_not() {
    let consumer = Consumer { stream: StreamId(0), uplink: UplinkId(0) };
    let acked = eventmesh_edge_core::event::Position(1);
    let cursors = Commit { cursors: vec![CursorChange { consumer, acked }], ..Commit::default() };
    assert!(is_lazy(&cursors));
    let session = eventmesh_edge_core::ports::store::SessionNo(1);
    let state = vec![StateChange::MailboxClear { session }];
    assert!(!is_lazy(&Commit { state, ..cursors }));
    assert!(!is_lazy(&commit(1)) && !is_lazy(&Commit::default()));
}
