//! What is due, decided from the present state: one batch at a time, nothing queued.

use super::message::{NodeEvent, PreviousStop, Who, node_source};
use super::vitals::Vitals;
use crate::Text;
use crate::event::{Event, LogId, Timestamp};
use crate::ports::store::{Class, LedgerEntry};
use std::time::Duration;

/// Ledger entries handed on in one batch.
const PAGE: usize = 64;
/// The ledger is asked this often; what is lost meanwhile it gathers into one entry per stream, uplink and reason.
const LEDGER_EVERY: Duration = Duration::from_secs(5);
/// One event per uplink within this time, however often it comes and goes.
const LINK_EVERY: Duration = Duration::from_secs(10);
/// After a commit that failed; doubles.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What the node's events are made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The node's name.
    pub node: Text,
    /// Its log and this start: with a counter they make the ids (P3).
    pub log: LogId,
    /// Number of this start.
    pub epoch: u32,
    /// Of the program.
    pub version: Text,
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// Name of the stream that takes the events: losses of its own are not told as events.
    pub stream: Text,
    /// Names of the uplinks, in the order of the links that are passed in.
    pub uplinks: Vec<Text>,
    /// How the last life ended.
    pub previous_stop: PreviousStop,
    /// Bytes of an unanswered commit that this start cut off.
    pub cut_bytes: u64,
    /// Damaged files that this start put aside.
    pub quarantined_files: u64,
}

/// One uplink at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Connected.
    pub up: bool,
    /// Connections made since the start: tells a short absence that nobody looked at.
    pub connections: u64,
    /// Where it is connected.
    pub address: Option<Text>,
    /// Why it is not.
    pub cause: Option<Text>,
}

/// What [`Telemetry::gather`] wants to be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// The vital figures.
    pub vitals: bool,
    /// Ledger entries after this number, at most so many.
    pub ledger: Option<(u64, usize)>,
}

/// What is to become durable together: the events, and that the entries they tell of are forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// For the node's stream, in this order.
    pub events: Vec<Event>,
    /// Number of the last ledger entry that needs not be told again.
    pub forget: Option<u64>,
}

/// An uplink as it is, and as it was told.
#[derive(Clone, Debug, Default)]
struct Watch {
    link: Link,
    since: Duration,
    /// How long the state before this one lasted.
    lasted: Duration,
    told_up: bool,
    told_connections: u64,
    told_at: Option<Duration>,
}

/// What the commit under way settles.
#[derive(Clone, Debug, Default)]
struct Pending {
    birth: bool,
    links: Vec<(usize, bool, u64)>,
    beat: Option<u64>,
    through: Option<u64>,
    stopped: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Telemetry {
    options: Options,
    source: Text,
    ids: u64,
    born: bool,
    watches: Vec<Watch>,
    beat_at: Duration,
    last_beat: Option<(Duration, u64)>,
    ledger_at: Duration,
    /// Entries up to here are told, or need not be.
    told: u64,
    /// Entries up to here are forgotten.
    forgotten: u64,
    pending: Option<Pending>,
    failures: u32,
    not_before: Duration,
    stop: Option<Text>,
    done: bool,
}

impl Telemetry {
    /// Nothing said yet.
    #[must_use]
    pub fn new(options: Options) -> Telemetry {
        Telemetry {
            source: node_source(&options.node),
            watches: vec![Watch::default(); options.uplinks.len()],
            options,
            ids: 0,
            born: false,
            beat_at: Duration::ZERO,
            last_beat: None,
            ledger_at: Duration::ZERO,
            told: 0,
            forgotten: 0,
            pending: None,
            failures: 0,
            not_before: Duration::ZERO,
            stop: None,
            done: false,
        }
    }

    /// Other uplinks from now on; what is known of those that stay is kept.
    pub fn set_uplinks(&mut self, uplinks: Vec<Text>) {
        let before = std::mem::take(&mut self.watches);
        let of = |name: &Text| self.options.uplinks.iter().position(|known| known == name);
        let watch = |name| of(name).and_then(|idx| before.get(idx)).cloned().unwrap_or_default();
        self.watches = uplinks.iter().map(watch).collect();
        self.options.uplinks = uplinks;
        // The commit under way tells of links by their old places: they are told again.
        if let Some(pending) = &mut self.pending {
            pending.links.clear();
        }
    }

    /// The uplinks whose links are looked at.
    #[must_use]
    pub fn uplinks(&self) -> &[Text] {
        &self.options.uplinks
    }

    /// Takes the links as they are and says what is wanted for the next batch.
    pub fn look(&mut self, now: Duration, links: &[Link]) -> Due {
        let was_up = self.is_up();
        for (watch, link) in self.watches.iter_mut().zip(links) {
            watch.see(now, link);
        }
        if self.is_up() && !was_up {
            // Whoever watches has waited for this.
            (self.beat_at, self.ledger_at) = (now, now);
        }
        if !self.may_speak(now) || !self.is_up() {
            return Due::default();
        }
        Due {
            vitals: now >= self.beat_at && self.stop.is_none(),
            // The last word before a stop holds what is known by then.
            ledger: (now >= self.ledger_at || self.stop.is_some()).then_some((self.told, PAGE)),
        }
    }

    /// The next batch, if anything is to be said; its outcome goes to [`Telemetry::settled`] before there is another.
    pub fn gather(
        &mut self,
        now: Duration,
        wall: Timestamp,
        vitals: Option<Vitals>,
        entries: Vec<LedgerEntry>,
    ) -> Option<Batch> {
        if !self.may_speak(now) {
            return None;
        }
        let mut pending = Pending::default();
        let mut said = Vec::new();
        if !self.born {
            pending.birth = true;
            said.push(self.birth());
        }
        self.say_links(now, &mut pending, &mut said);
        self.say_losses(now, entries, &mut pending, &mut said);
        if let Some(vitals) = vitals {
            pending.beat = Some(vitals.accepted_events);
            said.push(self.heartbeat(now, vitals));
        }
        if let Some(cause) = self.stop.clone() {
            pending.stopped = true;
            said.push(NodeEvent::Stopped { uptime_s: now.as_secs(), cause });
        }
        if said.is_empty() {
            return None;
        }
        let events = said.into_iter().map(|event| self.event(event, wall)).collect();
        let forget = Some(self.told.max(pending.through.unwrap_or(0))).filter(|no| *no > self.forgotten);
        pending.through = forget;
        self.pending = Some(pending);
        Some(Batch { events, forget })
    }

    /// The batch is durable, or not: then it is made anew.
    pub fn settled(&mut self, now: Duration, outcome: Result<(), Class>) {
        let Some(pending) = self.pending.take() else { return };
        match outcome {
            Ok(()) => {
                self.failures = 0;
                self.committed(now, pending);
            }
            Err(Class::Fatal) => self.done = true,
            Err(Class::Retry | Class::Reject) => {
                self.not_before = now + RETRY.1.min(RETRY.0 * (1 << self.failures.min(6)));
                self.failures = self.failures.saturating_add(1);
                self.ledger_at = self.not_before;
            }
        }
    }

    /// The node stops: one batch more, with the last word.
    pub fn stop(&mut self, cause: Text) {
        self.stop.get_or_insert(cause);
        self.not_before = Duration::ZERO;
    }

    /// True if nothing will be said any more.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    fn may_speak(&self, now: Duration) -> bool {
        self.pending.is_none() && !self.done && now >= self.not_before
    }

    fn is_up(&self) -> bool {
        self.watches.iter().any(|watch| watch.link.up)
    }

    fn committed(&mut self, now: Duration, pending: Pending) {
        self.born |= pending.birth;
        for (idx, up, connections) in pending.links {
            if let Some(watch) = self.watches.get_mut(idx) {
                (watch.told_up, watch.told_connections, watch.told_at) = (up, connections, Some(now));
            }
        }
        if let Some(accepted) = pending.beat {
            self.last_beat = Some((now, accepted));
            self.beat_at = now + self.options.heartbeat;
        }
        if let Some(through) = pending.through {
            (self.told, self.forgotten) = (through, through);
        }
        self.done |= pending.stopped;
    }

    fn birth(&self) -> NodeEvent {
        NodeEvent::Birth {
            version: self.options.version.clone(),
            previous_stop: self.options.previous_stop,
            cut_bytes: self.options.cut_bytes,
            quarantined_files: self.options.quarantined_files,
            heartbeat_s: self.options.heartbeat.as_secs(),
            uplinks: self.options.uplinks.clone(),
        }
    }

    fn say_links(&self, now: Duration, pending: &mut Pending, said: &mut Vec<NodeEvent>) {
        for (idx, (watch, uplink)) in self.watches.iter().zip(&self.options.uplinks).enumerate() {
            if watch.is_news(now) {
                pending.links.push((idx, watch.link.up, watch.link.connections));
                said.push(watch.event(uplink));
            }
        }
    }

    /// Entries about the node's own stream are passed over: see the module.
    fn say_losses(
        &mut self,
        now: Duration,
        entries: Vec<LedgerEntry>,
        pending: &mut Pending,
        said: &mut Vec<NodeEvent>,
    ) {
        let full = entries.len() >= PAGE;
        let own = |entry: &LedgerEntry| entry.stream.as_ref() == Some(&self.options.stream);
        let last = entries.last().map(|entry| entry.no);
        let before = said.len();
        said.extend(entries.into_iter().filter(|entry| !own(entry)).map(NodeEvent::Ledger));
        match last {
            // Nothing of it has to be told, so nothing has to be durable first.
            Some(last) if said.len() == before => self.told = self.told.max(last),
            last => pending.through = last,
        }
        if now >= self.ledger_at {
            self.ledger_at = if full { now } else { now + LEDGER_EVERY };
        }
    }

    fn heartbeat(&self, now: Duration, mut vitals: Vitals) -> NodeEvent {
        if let Some((at, accepted)) = self.last_beat {
            let seconds = now.saturating_sub(at).as_secs_f64();
            let events =
                f64::from(u32::try_from(vitals.accepted_events.saturating_sub(accepted)).unwrap_or(u32::MAX));
            vitals.accepted_per_s =
                if seconds > 0.0 { (events / seconds * 10.0).round() / 10.0 } else { 0.0 };
        }
        NodeEvent::Heartbeat(Box::new(vitals.bounded()))
    }

    fn event(&mut self, event: NodeEvent, wall: Timestamp) -> Event {
        self.ids += 1;
        let Options { node, log, epoch, .. } = &self.options;
        // The epoch is new at each start, so the counter needs not be kept.
        let id = Text::from(format!("{log}.{epoch}-node-{}", self.ids));
        event.into_event(&Who { node, source: &self.source, log: *log, epoch: *epoch }, id, wall)
    }
}

impl Watch {
    fn see(&mut self, now: Duration, link: &Link) {
        if link.up != self.link.up {
            self.lasted = now.saturating_sub(self.since);
            self.since = now;
        } else if link.up && link.connections != self.link.connections {
            // It was away for a moment that nobody looked at.
            (self.lasted, self.since) = (Duration::ZERO, now);
        }
        self.link.clone_from(link);
    }

    fn is_news(&self, now: Duration) -> bool {
        let changed = self.link.up != self.told_up || self.link.connections != self.told_connections;
        changed && self.told_at.is_none_or(|at| now >= at + LINK_EVERY)
    }

    fn event(&self, uplink: &Text) -> NodeEvent {
        let (uplink, lasted_s) = (uplink.clone(), self.lasted.as_secs());
        let connections = self.link.connections.saturating_sub(self.told_connections);
        if self.link.up {
            NodeEvent::UplinkUp { uplink, address: self.link.address.clone(), down_s: lasted_s, connections }
        } else {
            NodeEvent::UplinkDown { uplink, cause: self.link.cause.clone(), up_s: lasted_s, connections }
        }
    }
}
