//! When a group is written: at once, or a little later because more is coming. A pure function of times and counts.
//!
//! What arrives while a sync is under way forms the next group by itself. Beyond that a group waits only while it pays:
//! several senders are active and several commits are expected within the delay. Several senders: events of several
//! sources, and commits that came while others were under way (one connection may carry many sources and still wait for
//! each answer). It waits no longer than until as many commits are there as there are senders, or as waiting brought
//! lately, or until nothing came for a few of their usual intervals. A lone sender is never delayed.
//!
//! Many senders of whom each comes rarely lose nothing by waiting: their pace is their own, not that of the answers. As long
//! as only such commits are queued, a group waits for enough of them, up to twice the delay; a commit of anybody else ends
//! that ([`Pace`]), and so does the experience that waiting brings nobody. Each sync costs a page of flash beside the data
//! and some wake-ups, so that a trickle of two hundred a second costs a third.
//!
//! While a group is expected to fill, nothing is gained by taking in what comes one by one: see [`crate::Rest`].
//!
//! Commits that nobody waits for (cursors, mailbox entries that were delivered) do not make a group of their own at
//! once: they ride with the next one, or go alone after [`GatherOptions::lazy_delay`]. Each sync costs a page on flash.

use crate::rest::Rest;
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
    /// So many make a group that is worth its sync: nobody waits patiently for more.
    pub enough: usize,
}

impl Default for GatherOptions {
    fn default() -> Self {
        GatherOptions {
            max_delay: Duration::from_millis(5),
            min_expected: 4,
            min_senders: 2,
            lazy_delay: Duration::from_millis(20),
            enough: 12,
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

/// Patience waits for so many delays.
const PATIENCE: u32 = 2;
/// Fewer expected in that time: no patience.
const PATIENT_EXPECTED: f64 = 1.0;
/// Senders for each commit that is expected: so each of them comes rarely.
const PATIENT_SENDERS: f64 = 3.0;
/// Hope that is enough to judge by, the part of it that has to come true, and how much of it counts in the next group.
const HOPE: (f64, f64, f64) = (4.0, 0.25, 0.8);
/// How long patience that brought nobody is not tried again.
const IMPATIENT: Duration = Duration::from_secs(1);
/// Of the time in which a group is expected to fill.
const REST_PART: f64 = 0.9;
/// Commits that one rest brings, at least: fewer are cheaper taken in as they come.
const REST_BRINGS: f64 = 2.0;

/// What stands in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queued {
    /// Commits whose sender waits.
    pub(crate) prompt: usize,
    /// When the first of them came.
    pub(crate) first_prompt: Option<Duration>,
    /// One of their senders may send its next as soon as it is answered.
    pub(crate) hurried: bool,
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
    /// The same, or as soon as a hurried one comes; meanwhile whoever takes commits in may rest.
    Patience { time: Option<Duration>, wake_at: usize, rest: Option<Duration> },
}

/// How the wait for a group ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Waited {
    /// There was enough, or no reason to wait.
    #[default]
    No,
    /// Nothing came any more.
    InVain,
    /// With patience, for so long.
    Patiently(Duration),
}

/// When each sender was last heard: known while a group waits, because a commit of somebody in a hurry ends its patience.
pub(crate) struct Pace {
    seen: Box<[Duration; SLOTS]>,
    hurry: Duration,
}

impl Pace {
    pub(crate) fn new(options: GatherOptions) -> Self {
        Pace { seen: Box::new([Duration::ZERO; SLOTS]), hurry: options.max_delay * 2 * PATIENCE }
    }

    /// A prompt commit comes in. True if its sender has been heard so recently that it may wait for each answer, or is
    /// unknown.
    pub(crate) fn came(&mut self, now: Duration, commit: &Commit) -> bool {
        let Some(event) = commit.events.first() else { return true };
        let slot = crc32c::crc32c(event.event.source.as_bytes()) as usize % SLOTS;
        let Some(seen) = self.seen.get_mut(slot) else { return true };
        // Never zero, which is never.
        let before = std::mem::replace(seen, now.max(Duration::from_nanos(1)));
        before.is_zero() || now.saturating_sub(before) < self.hurry
    }

    /// Senders that have been heard lately.
    pub(crate) fn senders(&self, now: Duration) -> usize {
        let since = now.saturating_sub(MEMORY);
        self.seen.iter().filter(|seen| **seen > since && !seen.is_zero()).count()
    }
}

/// What is known of the recent past.
pub(crate) struct Gather {
    options: GatherOptions,
    cap: usize,
    /// Decaying count of prompt commits.
    count: f64,
    counted_at: Duration,
    senders: usize,
    /// When commits of several senders were last seen at the same time.
    overlapped_at: Option<Duration>,
    /// Commits that waiting brings, as far as tried.
    reach: usize,
    filled: u32,
    /// Groups that have to fill up before `reach` grows.
    patience: u32,
    /// What patience was to bring lately, and what it brought.
    hoped: f64,
    brought: f64,
    impatient_until: Duration,
    /// The last group was waited for with patience.
    was_patient: bool,
}

impl Gather {
    pub(crate) fn new(options: GatherOptions, cap: usize) -> Self {
        Gather {
            options,
            cap,
            count: 0.0,
            counted_at: Duration::ZERO,
            senders: 0,
            overlapped_at: None,
            reach: 2,
            filled: 0,
            patience: FILLED_GROUPS.0,
            hoped: 0.0,
            brought: 0.0,
            impatient_until: Duration::ZERO,
            was_patient: false,
        }
    }

    /// Prompt commits per second.
    fn rate(&self, now: Duration) -> f64 {
        let idle = now.saturating_sub(self.counted_at).as_secs_f64();
        let memory = MEMORY.as_secs_f64();
        self.count * memory / (memory + idle) / memory
    }

    /// Commits came while a group was being written, before its senders were answered.
    pub(crate) fn overlapped(&mut self, now: Duration) {
        self.overlapped_at = Some(now);
    }

    /// A group of so many prompt commits was taken, while so many senders are about.
    pub(crate) fn took(&mut self, now: Duration, prompt: usize, waited: Waited, senders: usize) {
        if prompt >= 2 {
            self.overlapped(now);
        }
        self.was_patient = matches!(waited, Waited::Patiently(_));
        match waited {
            Waited::Patiently(time) => self.judge_patience(now, prompt, time),
            Waited::InVain => self.fell_short(prompt),
            Waited::No if prompt >= self.reach => {
                self.filled += 1;
                if self.filled >= self.patience {
                    self.filled = 0;
                    self.reach = (self.reach + 1).max(prompt).min(self.cap);
                }
            }
            Waited::No => {}
        }
        let elapsed = now.saturating_sub(self.counted_at).as_secs_f64();
        let memory = MEMORY.as_secs_f64();
        self.count = (self.count + count(prompt)) * memory / (memory + elapsed);
        self.counted_at = now;
        self.senders = senders;
    }

    fn judge_patience(&mut self, now: Duration, prompt: usize, time: Duration) {
        let (enough, part, keep) = HOPE;
        let most = count(self.options.enough.saturating_sub(1));
        self.hoped = self.hoped * keep + (self.rate(now) * time.as_secs_f64()).min(most);
        self.brought = self.brought * keep + count(prompt.saturating_sub(1));
        if self.hoped >= enough && self.brought < self.hoped * part {
            (self.hoped, self.brought, self.impatient_until) = (0.0, 0.0, now + IMPATIENT);
        }
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
        let Some(first) = queued.first_prompt else { return self.without_prompt(now, queued) };
        if let Some(decision) = self.patiently(now, queued, first) {
            return decision;
        }
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

    /// Nobody waits for an answer. After a group that was waited for with patience the next is expected to be such a one.
    fn without_prompt(&self, now: Duration, queued: &Queued) -> Decision {
        let (time, wake_at) = match queued.first_lazy {
            None => (None, 0),
            Some(first) => {
                let left = (first + self.options.lazy_delay).saturating_sub(now);
                if left.is_zero() || queued.lazy >= self.cap {
                    return Decision::Take;
                }
                (Some(left), 1)
            }
        };
        let patience = self.was_patient.then(|| self.patience(now, queued)).flatten();
        match patience.and_then(|rate| self.rest(rate, self.enough())) {
            None => Decision::Wait { time, wake_at },
            rest => Decision::Patience { time, wake_at, rest },
        }
    }

    fn enough(&self) -> usize {
        self.options.enough.min(self.cap)
    }

    /// The rate of commits, if their senders come rarely, and are many.
    fn patience(&self, now: Duration, queued: &Queued) -> Option<f64> {
        let rate = self.rate(now);
        let expected = (rate * (self.options.max_delay * PATIENCE).as_secs_f64()).min(count(self.enough()));
        let patient = !queued.hurried
            && now >= self.impatient_until
            && expected >= PATIENT_EXPECTED
            && count(self.senders) >= PATIENT_SENDERS * expected;
        patient.then_some(rate)
    }

    /// While so many come; it pays if it brings several.
    fn rest(&self, rate: f64, missing: usize) -> Option<Duration> {
        let pays = rate * Rest::LONGEST.as_secs_f64() >= REST_BRINGS;
        pays.then(|| Duration::from_secs_f64(REST_PART * count(missing) / rate))
    }

    fn patiently(&self, now: Duration, queued: &Queued, first: Duration) -> Option<Decision> {
        let rate = self.patience(now, queued)?;
        let left = (first + self.options.max_delay * PATIENCE).saturating_sub(now);
        let missing = self.enough().saturating_sub(queued.prompt);
        if missing == 0 || left.is_zero() {
            return Some(Decision::Take);
        }
        let rest = self.rest(rate, missing).map(|rest| rest.min(left));
        Some(Decision::Patience { time: Some(left), wake_at: self.enough(), rest })
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of commits in one group")]
fn count(commits: usize) -> f64 {
    commits as f64
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
mod tests;
