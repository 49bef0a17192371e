//! When a group is written: at once, or a little later because more is coming. A pure function of times and counts.
//!
//! What arrives while a sync is under way forms the next group by itself. Beyond that a group waits only while it pays:
//! several senders are active and several commits are expected within the delay. Several senders: events of several
//! sources, and commits that came while others were under way (one connection may carry many sources and still wait for
//! each answer). It waits no longer than until as many commits are there as there are senders, or as waiting brought
//! lately, or until nothing came for a few of their usual intervals. A lone sender, and a slow trickle, are never delayed.
//!
//! Commits that nobody waits for (cursors, mailbox entries that were delivered) do not make a group of their own at
//! once: they ride with the next one, or go alone after [`GatherOptions::lazy_delay`]. Each sync costs a page on flash.

use eventmesh_edge_core::ports::store::{Commit, StateChange};
use std::time::Duration;

/// The gathering rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatherOptions {
    /// Longest that a commit with an answer waits for others. Zero: never.
    pub max_delay: Duration,
    /// Fewer expected within the delay: no waiting.
    pub min_expected: u32,
    /// Fewer active: no waiting.
    pub min_senders: u32,
    /// Longest that a commit without an answer waits for others.
    pub lazy_delay: Duration,
}

impl Default for GatherOptions {
    fn default() -> Self {
        GatherOptions {
            max_delay: Duration::from_millis(5),
            min_expected: 4,
            min_senders: 2,
            lazy_delay: Duration::from_millis(20),
        }
    }
}

/// How long the past counts.
const MEMORY: Duration = Duration::from_millis(50);
/// How long a commit that came while another was under way speaks for several senders.
const OVERLAP_MEMORY: Duration = Duration::from_millis(100);
/// Groups that have to fill up before one commit more is waited for, at least; twice as many after each vain try, up to
/// the other.
const FILLED_GROUPS: (u32, u32) = (4, 256);
const SLOTS: usize = 256;
/// Shorter waits cost more in wake-ups than they gather.
const QUIET_MIN: Duration = Duration::from_micros(200);

/// What stands in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queued {
    /// Commits whose sender waits.
    pub(crate) prompt: usize,
    /// When the first of them came.
    pub(crate) first_prompt: Option<Duration>,
    /// Commits that can wait.
    pub(crate) lazy: usize,
    pub(crate) first_lazy: Option<Duration>,
}

/// What to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Write it.
    Take,
    /// Look again then (`None`: when something comes), or as soon as there are so many prompt commits.
    Wait { time: Option<Duration>, wake_at: usize },
}

/// What is known of the recent past.
pub(crate) struct Gather {
    options: GatherOptions,
    cap: usize,
    /// Decaying count of prompt commits.
    count: f64,
    counted_at: Duration,
    seen: Box<[Duration; SLOTS]>,
    senders: usize,
    /// When commits of several senders were last seen at the same time.
    overlapped_at: Option<Duration>,
    /// Commits that waiting brings, as far as tried.
    reach: usize,
    filled: u32,
    /// Groups that have to fill up before `reach` grows.
    patience: u32,
}

impl Gather {
    pub(crate) fn new(options: GatherOptions, cap: usize) -> Self {
        let seen = Box::new([Duration::ZERO; SLOTS]);
        Gather {
            options,
            cap,
            count: 0.0,
            counted_at: Duration::ZERO,
            seen,
            senders: 0,
            overlapped_at: None,
            reach: 2,
            filled: 0,
            patience: FILLED_GROUPS.0,
        }
    }

    /// Prompt commits per second.
    fn rate(&self, now: Duration) -> f64 {
        let idle = now.saturating_sub(self.counted_at).as_secs_f64();
        let memory = MEMORY.as_secs_f64();
        self.count * memory / (memory + idle) / memory
    }

    /// A commit was taken from the queue.
    pub(crate) fn took(&mut self, now: Duration, commit: &Commit) {
        if is_lazy(commit) {
            return;
        }
        self.count += 1.0;
        if let Some(event) = commit.events.first() {
            let slot = crc32c::crc32c(event.event.source.as_bytes()) as usize % SLOTS;
            if let Some(seen) = self.seen.get_mut(slot) {
                // Never zero, which is never.
                *seen = now.max(Duration::from_nanos(1));
            }
        }
    }

    /// Commits came while a group was being written, before its senders were answered.
    pub(crate) fn overlapped(&mut self, now: Duration) {
        self.overlapped_at = Some(now);
    }

    /// A group of so many prompt commits was taken; `silent`: a wait for more ended because nothing came.
    pub(crate) fn took_all(&mut self, now: Duration, prompt: usize, silent: bool) {
        if prompt >= 2 {
            self.overlapped(now);
        }
        if silent {
            self.fell_short(prompt);
        } else if prompt >= self.reach {
            self.filled += 1;
            if self.filled >= self.patience {
                self.filled = 0;
                self.reach = (self.reach + 1).max(prompt).min(self.cap);
            }
        }
        let elapsed = now.saturating_sub(self.counted_at).as_secs_f64();
        let memory = MEMORY.as_secs_f64();
        self.count *= memory / (memory + elapsed);
        self.counted_at = now;
        let since = now.saturating_sub(MEMORY);
        self.senders = self.seen.iter().filter(|seen| **seen > since && !seen.is_zero()).count();
    }

    fn fell_short(&mut self, prompt: usize) {
        // One commit more was tried and did not come: perhaps there is nobody else.
        let tried_in_vain = self.filled == 0 && prompt + 1 >= self.reach;
        self.patience =
            if tried_in_vain { (self.patience * 2).min(FILLED_GROUPS.1) } else { FILLED_GROUPS.0 };
        self.reach = ((3 * self.reach + prompt) / 4).max(2);
        self.filled = 0;
    }

    /// `grew`: something came since the last decision.
    pub(crate) fn decide(&self, now: Duration, queued: &Queued, grew: bool) -> Decision {
        let Some(first) = queued.first_prompt else {
            let Some(first) = queued.first_lazy else { return Decision::Wait { time: None, wake_at: 0 } };
            return match (first + self.options.lazy_delay).checked_sub(now).filter(|left| !left.is_zero()) {
                Some(left) if queued.lazy < self.cap => Decision::Wait { time: Some(left), wake_at: 1 },
                _ => Decision::Take,
            };
        };
        let expected = self.rate(now) * self.options.max_delay.as_secs_f64();
        let together = self.overlapped_at.is_some_and(|at| now.saturating_sub(at) < OVERLAP_MEMORY);
        if !together
            || self.senders < self.options.min_senders as usize
            || expected < f64::from(self.options.min_expected)
        {
            return Decision::Take;
        }
        let target = self.senders.min(self.reach).min(self.cap).min(whole(expected));
        let left = (first + self.options.max_delay).saturating_sub(now);
        if queued.prompt >= target || left.is_zero() || !grew {
            return Decision::Take;
        }
        let quiet = (self.options.max_delay.mul_f64(4.0 / expected)).max(QUIET_MIN);
        Decision::Wait { time: Some(left.min(quiet)), wake_at: target }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, positive, saturating")]
fn whole(count: f64) -> usize {
    count as usize
}

/// True if nobody waits for the answer: cursors, losses, delivered mailbox entries.
pub(crate) fn is_lazy(commit: &Commit) -> bool {
    commit.events.is_empty()
        && !commit.is_empty()
        && commit.state.iter().all(|change| matches!(change, StateChange::MailboxRemove { .. }))
}

#[cfg(test)]
mod tests {
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
        let mut sent = 0;
        for tick in 1..=1000u64 {
            let now = ms(1000 + tick);
            let mut prompt = 0;
            while sent * 1000 < tick * per_second {
                gather.took(now, &commit(sent % sources));
                (sent, prompt) = (sent + 1, prompt + 1);
            }
            gather.took_all(now, prompt, false);
        }
        (gather, ms(2000))
    }

    /// A run of groups in virtual time: `senders` that wait for their answer and `think` before the next commit, each of
    /// `sources` sources, with a sync of `sync`. Returns commits, groups, and the longest wait of a commit for its group.
    fn run(senders: usize, sources: u64, think: Duration, sync: Duration) -> (u64, u64, Duration) {
        let mut gather = Gather::new(GatherOptions::default(), 1024);
        let mut arrivals: Vec<Duration> =
            (0..senders).map(|n| ms(1) + think.mul_f64(n as f64 / senders as f64)).collect();
        let mut dice = 1u64;
        let mut spread = || {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            0.5 + (dice >> 40) as f64 / (1u64 << 24) as f64
        };
        let (mut now, mut commits, mut groups, mut longest) = (ms(1), 0, 0, Duration::ZERO);
        while now < ms(2000) {
            let mut seen = 0;
            let (taken, silent) = loop {
                let here: Vec<usize> = (0..senders).filter(|n| arrivals[*n] <= now).collect();
                let first_prompt = here.iter().map(|n| arrivals[*n]).min();
                let queued = Queued { prompt: here.len(), first_prompt, ..Queued::default() };
                let silent = seen > 0 && here.len() == seen;
                let next = arrivals.iter().copied().filter(|at| *at > now).min();
                match gather.decide(now, &queued, !silent) {
                    Decision::Take => break (here, silent),
                    Decision::Wait { time: None, .. } => now = next.unwrap(),
                    Decision::Wait { time: Some(time), wake_at } => {
                        let mut coming: Vec<Duration> = arrivals.clone();
                        coming.sort();
                        let woken = coming.get(wake_at - 1).copied().unwrap_or(now + time);
                        seen = here.len();
                        now = woken.clamp(now, now + time);
                    }
                }
            };
            for n in &taken {
                longest = longest.max(now - arrivals[*n]);
                gather.took(now, &commit((commits + *n as u64) % sources));
            }
            gather.took_all(now, taken.len(), silent);
            commits += taken.len() as u64;
            groups += 1;
            now += sync;
            if arrivals.iter().enumerate().any(|(n, at)| !taken.contains(&n) && *at <= now) {
                gather.overlapped(now);
            }
            for n in taken {
                arrivals[n] = now + think.mul_f64(spread());
            }
        }
        (commits, groups, longest)
    }

    #[test]
    fn one_connection_that_carries_many_sources_and_waits_for_each_answer_is_not_delayed() {
        let (commits, groups, longest) = run(1, 50, us(20), us(100));
        assert_eq!((commits, longest), (groups, Duration::ZERO));
        assert!(commits > 15_000, "{commits}");
    }

    #[test]
    fn two_connections_that_carry_many_sources_lose_little() {
        let (commits, _, _) = run(2, 50, us(20), us(100));
        assert!(commits > 15_000, "{commits}");
    }

    #[test]
    fn fifty_senders_that_wait_for_their_answers_form_large_groups_without_losing_pace() {
        let (commits, groups, _) = run(50, 50, us(200), us(300));
        assert!(commits / groups >= 20, "{commits} in {groups}");
        assert!(commits > 100_000, "{commits}");
    }

    #[test]
    fn two_thousand_per_second_of_fifty_senders_take_at_most_a_quarter_of_the_syncs() {
        let (commits, groups, longest) = run(50, 50, ms(25), us(200));
        assert!((3500..4200).contains(&commits), "{commits}");
        assert!(commits / groups >= 4, "{commits} in {groups}");
        assert!(longest <= ms(6), "{longest:?}");
    }

    #[test]
    fn two_hundred_per_second_of_fifty_senders_are_not_delayed() {
        let (commits, _, longest) = run(50, 50, ms(250), us(200));
        assert!(commits > 300, "{commits}");
        assert!(longest <= us(400), "only by the sync before: {longest:?}");
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
    fn a_trickle_is_never_delayed() {
        let (gather, now) = fed(50, 200);
        assert_eq!(gather.decide(now, &one(now), true), Decision::Take);
    }

    #[test]
    fn many_sources_whose_commits_never_meet_are_one_sender() {
        let mut gather = Gather::new(GatherOptions::default(), 1024);
        for n in 0..5000u64 {
            let now = ms(1000) + us(200 * n);
            gather.took(now, &commit(n % 50));
            gather.took_all(now, 1, false);
            assert_eq!(gather.decide(now, &one(now), true), Decision::Take);
        }
    }

    #[test]
    fn the_first_commit_after_a_pause_is_not_delayed() {
        let (gather, now) = fed(50, 2000);
        let later = now + ms(2000);
        assert_eq!(gather.decide(later, &one(later), true), Decision::Take);
    }

    #[test]
    fn several_senders_gather_up_to_the_delay_the_target_or_a_silence() {
        let (gather, now) = fed(50, 2000);
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
}
