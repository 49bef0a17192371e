//! What the hub knows, behind its one lock, and what happens to a submission under it.
//!
//! The lock is held while a commit is handed to the store (which only queues it), so that the order of plans is the
//! order of commits: a session that was detached before its mailbox was cleared gets no entry afterwards. It is never
//! held while an outlet, a `done` or anything else of somebody else's is called.

use super::inbox::{Completed, FoundNothing, Inbox};
use super::losses::Losses;
use super::parking::{Ahead, Key, Limits, Parked, Parking, Room, Trial};
use super::parts;
use super::plan::{Flight, Planned, Work};
use super::subscribers::Subscribers;
use super::{HubOptions, HubStats};
use eventmesh_edge_core::event::{Qos, Via};
use eventmesh_edge_core::namespace::{Match, Retained, Subscriptions};
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::hub::{Accepted, Publication, Submission, SubscriberId};
use eventmesh_edge_core::ports::store::{Commit, CommitError, Committed, Store, StreamId};
use eventmesh_edge_core::route::Router;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

pub(super) struct State {
    pub(super) store: Arc<dyn Store>,
    pub(super) router: Router,
    pub(super) inbox: Arc<Inbox>,
    pub(super) subscribers: Subscribers,
    pub(super) index: Subscriptions<SubscriberId>,
    pub(super) retained: Retained,
    pub(super) losses: Losses,
    parking: Parking<Work>,
    /// Submitters with a submission at the store or parked.
    outstanding: HashMap<SubscriberId, Line>,
    next_seq: u64,
    /// [`State::next_seq`] when a subscription was last added.
    subscribed_seq: u64,
    at_store: usize,
    closed: bool,
}

/// What one submitter has under way.
#[derive(Default)]
struct Line {
    /// What the submission at the store, or parked, writes.
    keys: Vec<Key>,
    /// What was submitted since and has to wait for it.
    waiting: VecDeque<Work>,
}

impl Line {
    /// Publications always wait. State alone does only where it would overtake an earlier write of the same key: the
    /// answers to deliveries do not wait for a stream that is full.
    fn holds_up(&self, work: &Work) -> bool {
        if !work.submission.publications.is_empty() {
            return true;
        }
        let waiting = self.waiting.iter().flat_map(Work::keys);
        let earlier: HashSet<Key> = self.keys.iter().cloned().chain(waiting).collect();
        !earlier.is_empty() && work.keys().any(|key| earlier.contains(&key))
    }
}

impl State {
    pub(super) fn new(
        options: &HubOptions,
        store: Arc<dyn Store>,
        router: Router,
        inbox: Arc<Inbox>,
    ) -> State {
        State {
            store,
            router,
            inbox,
            subscribers: Subscribers::default(),
            index: Subscriptions::new(),
            retained: Retained::new(options.retained_max_bytes),
            losses: Losses::default(),
            parking: Parking::new(Limits {
                devices: Room { count: options.parked_max, bytes: options.parked_max_bytes },
                kept: Room { count: options.kept_max, bytes: options.kept_max_bytes },
            }),
            outstanding: HashMap::new(),
            next_seq: 0,
            subscribed_seq: 0,
            at_store: 0,
            closed: false,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// True if no commit is under way.
    pub(super) fn is_settled(&self) -> bool {
        self.at_store == 0
    }

    /// Publishers that have something at the store or parked.
    #[cfg(test)]
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    pub(super) fn has_parked(&self) -> bool {
        !self.parking.is_idle()
    }

    /// Takes a submission: to the store, to the inbox if nothing of it has to be durable, or behind what is before it.
    pub(super) fn submit(&mut self, submission: Submission, done: Completion<Result<Accepted, CommitError>>) {
        self.next_seq += 1;
        let mut work = Work::new(self.next_seq, submission, done);
        let origin = work.origin();
        if let Some(line) = origin.and_then(|origin| self.outstanding.get_mut(&origin))
            && line.holds_up(&work)
        {
            return line.waiting.push_back(work);
        }
        // A line is held by publications: they may be refused and have to wait, state alone is not.
        let origin = origin.filter(|_| !work.submission.publications.is_empty());
        work.holds_line = origin.is_some();
        let keys = if work.holds_line { work.keys().collect() } else { Vec::new() };
        if self.launch(work, None)
            && let Some(origin) = origin
        {
            self.outstanding.insert(origin, Line { keys, waiting: VecDeque::new() });
        }
    }

    /// True if it is now at the store or parked: what the same publisher submits next has to wait.
    fn launch(&mut self, mut work: Work, trial: Option<Trial>) -> bool {
        if trial.is_none()
            && let Some(ahead) = self.ahead(&work)
        {
            return self.line_up(work, ahead);
        }
        match self.plan(&mut work) {
            Err(error) => self.resolve(work, trial, Vec::new(), Err(error)),
            Ok((commit, planned)) if commit.is_empty() => {
                let nothing = Committed { positions: Vec::new() };
                self.resolve(work, trial, planned, Ok(nothing))
            }
            Ok((commit, planned)) => self.send(work, trial, planned, commit),
        }
    }

    fn send(&mut self, work: Work, trial: Option<Trial>, planned: Vec<Planned>, commit: Commit) -> bool {
        self.at_store += 1;
        let rooms = self.inbox.rooms();
        let flight = Box::new(Flight { work, planned, at_store: true, rooms, trial, losses: Vec::new() });
        let inbox = self.inbox.clone();
        self.store.submit(commit, Box::new(move |result| inbox.push(Completed { flight, result })));
        true
    }

    /// A commit of the hub's own: nobody waits for it, and it is not repeated when it is refused.
    pub(super) fn send_own(&mut self, commit: Commit) {
        self.next_seq += 1;
        let submission = Submission { refuse_when_full: true, ..Submission::default() };
        let mut flight = Flight::direct(Work::new(self.next_seq, submission, Box::new(drop)), Vec::new());
        (flight.at_store, flight.losses) = (true, commit.losses.clone());
        self.at_store += 1;
        let inbox = self.inbox.clone();
        self.store.submit(commit, Box::new(move |result| inbox.push(Completed { flight, result })));
    }

    /// The outcome is known already; the hub's task passes it on.
    fn resolve(
        &mut self,
        mut work: Work,
        trial: Option<Trial>,
        planned: Vec<Planned>,
        result: Result<Committed, CommitError>,
    ) -> bool {
        // One that was parked, or goes on after a part, has a line already, which goes on when it is settled.
        let has_line = trial.is_some() || work.parts.is_some();
        work.holds_line &= has_line;
        let mut flight = Flight::direct(work, planned);
        flight.trial = trial;
        self.inbox.push(Completed { flight, result });
        has_line
    }

    fn ahead(&self, work: &Work) -> Option<Ahead> {
        if self.parking.is_idle() {
            return None;
        }
        let keys: Vec<Key> = work.keys().collect();
        self.parking.ahead(work.streams(&self.router), keys.iter(), work.origin())
    }

    /// Its stream is known to be full.
    fn line_up(&mut self, mut work: Work, ahead: Ahead) -> bool {
        let Ahead { stream, follows, error } = ahead;
        if work.submission.refuse_when_full {
            return self.resolve(work, None, Vec::new(), Err(error));
        }
        // What is kept is in the queue of its stream: nothing else has to wait for it.
        let kept = work.submission.kept;
        work.holds_line &= !kept;
        match self.park(work, stream, error.clone(), follows) {
            Ok(()) => !kept,
            Err(work) => self.resolve(*work, None, Vec::new(), Err(error)),
        }
    }

    fn park(
        &mut self,
        work: Work,
        stream: StreamId,
        error: CommitError,
        follows: bool,
    ) -> Result<(), Box<Work>> {
        if self.closed {
            return Err(Box::new(work));
        }
        let (seq, bytes, keys) = (work.seq, work.bytes(), work.keys().collect());
        let (kept, origin) = (work.submission.kept, work.origin());
        let parked = Parked { seq, item: work, bytes, kept, origin, keys, follows };
        self.parking.park(stream, error, parked).map_err(|parked| Box::new(parked.item))
    }

    /// What a flight leaves behind in the hub once its outcome is here. Gives it back if it is to be answered, and keeps
    /// it if it is parked.
    pub(super) fn settle(&mut self, completed: Completed) -> Option<Completed> {
        let Completed { mut flight, result } = completed;
        self.at_store -= usize::from(flight.at_store);
        self.settle_retained(&flight, result.is_ok());
        if result.is_err() {
            flight.losses.drain(..).for_each(|loss| self.losses.put_back(loss));
        }
        let refusal = match &result {
            Err(error @ CommitError::Full { stream, .. }) if flight.at_store => {
                Some((*stream, error.clone()))
            }
            _ => None,
        };
        if let Some(trial) = &flight.trial {
            self.parking.tried(trial, refusal.is_some());
        }
        if let Some((stream, error)) = refusal
            && !flight.work.submission.refuse_when_full
        {
            let rooms = flight.rooms;
            let passed = flight.work.line().filter(|_| flight.work.submission.kept);
            flight.work.holds_line &= passed.is_none();
            let keys: Vec<Key> = flight.work.keys().collect();
            let origin = flight.work.origin();
            let follows = self.parking.ahead(std::iter::empty(), keys.iter(), None).is_some()
                || self.parking.has_kept(stream, origin);
            match self.park(flight.work, stream, error, follows) {
                Ok(()) => {
                    self.release(passed);
                    if rooms != self.inbox.rooms() {
                        self.parking.room();
                    }
                    return None;
                }
                Err(work) => {
                    flight.work = *work;
                    flight.work.holds_line |= passed.is_some();
                }
            }
        }
        match &result {
            Ok(committed) => {
                self.match_late(&mut flight);
                self.count_shed(&flight, committed);
            }
            Err(error) if flight.at_store => {
                let claims = flight.planned.iter().map(|planned| planned.claims).sum();
                if parts::reduce(&mut flight.work, error, claims) {
                    self.launch_part(flight.work);
                    return None;
                }
            }
            Err(_) => {}
        }
        if result.is_err() || flight.work.is_last_part() {
            self.release(flight.work.line());
        }
        if result.is_err() && !flight.work.submission.kept {
            self.count_refused(&flight.work);
        }
        Some(Completed { flight, result })
    }

    /// A part of a submission whose line is open.
    pub(super) fn launch_part(&mut self, work: Work) {
        if self.closed {
            self.resolve(work, None, Vec::new(), Err(CommitError::Closed));
        } else {
            self.launch(work, None);
        }
    }

    fn count_shed(&mut self, flight: &Flight, committed: &Committed) {
        for (publication, planned) in flight.work.submission.publications.iter().zip(&flight.planned) {
            if planned.shed > 0 {
                self.losses.add_shed(planned.shed, &publication.event, planned.position(committed));
            }
        }
    }

    /// Nothing of it was stored, nor will what was to follow: whoever sent with QoS 1 or 2 has no answer, or one that says
    /// so, and keeps the message. What came down is its uplink's to count: it may be tried again, whatever its QoS.
    fn count_refused(&mut self, work: &Work) {
        let own = &work.submission.publications;
        let later = work.parts.iter().flat_map(|parts| &parts.later).flat_map(|part| &part.publications);
        for Publication { event, .. } in own.iter().chain(later) {
            if event.qos == Qos::AtMostOnce && event.via != Via::Uplink {
                self.losses.add_refused(event);
            }
        }
    }

    fn settle_retained(&mut self, flight: &Flight, durable: bool) {
        let publications = &flight.work.submission.publications;
        for (Publication { event, .. }, planned) in publications.iter().zip(&flight.planned) {
            if let Some(retain) = planned.retain {
                self.retained.settle(event, retain, durable);
            }
        }
    }

    /// Who subscribed while a retained message was being committed was given the value before it, and was not there when
    /// it was matched: it gets the message now.
    fn match_late(&mut self, flight: &mut Flight) {
        if self.subscribed_seq < flight.work.seq || flight.planned.iter().all(|p| p.retain.is_none()) {
            return;
        }
        for (publication, planned) in flight.work.submission.publications.iter().zip(&mut flight.planned) {
            if planned.retain.is_some() {
                let mut now = Vec::new();
                self.index.matches(&publication.event.topic, publication.publisher, |_| false, &mut now);
                let known = |m: &Match<_>| planned.matches.iter().any(|k| k.subscriber == m.subscriber);
                now.retain(|m| !m.shared && !known(m));
                planned.late = now;
            }
        }
    }

    /// The next submissions of a line, up to one that the others have to wait for.
    fn release(&mut self, line: Option<SubscriberId>) {
        let Some(origin) = line else { return };
        while let Some(line) = self.outstanding.get_mut(&origin) {
            match line.waiting.pop_front() {
                None => drop(self.outstanding.remove(&origin)),
                Some(mut work) => {
                    line.keys = work.keys().collect();
                    work.holds_line = true;
                    if self.launch(work, None) {
                        return;
                    }
                }
            }
        }
    }

    /// Room returned: tries what is parked, in its order.
    pub(super) fn try_parked(&mut self, room: bool) {
        if room {
            self.parking.room();
        }
        while let Some((work, trial)) = self.parking.next() {
            self.launch(work, Some(trial));
        }
    }

    /// No more submissions: everything that has not reached the store is to be answered with
    /// [`CommitError::Closed`].
    pub(super) fn close(&mut self) {
        self.closed = true;
        let mut unheard = self.parking.drain();
        unheard.extend(self.outstanding.values_mut().flat_map(|line| std::mem::take(&mut line.waiting)));
        unheard.sort_by_key(|work| work.seq);
        for work in unheard {
            self.inbox.push(Completed {
                flight: Flight::direct(work, Vec::new()),
                result: Err(CommitError::Closed),
            });
        }
    }

    /// Notes that a subscription was added.
    pub(super) fn subscribed(&mut self) {
        self.subscribed_seq = self.next_seq;
    }

    /// Applies what reads of mailboxes have shown.
    pub(super) fn take_evidence(&mut self) {
        for FoundNothing { subscriber, mark, after } in self.inbox.take_evidence() {
            if let Some(subscriber) = self.subscribers.get_mut(subscriber) {
                subscriber.handover.found_nothing(mark, after);
            }
        }
    }

    /// Figures, but for what is counted elsewhere.
    pub(super) fn stats(&self) -> HubStats {
        let (parked, parked_bytes) = self.parking.len();
        HubStats {
            subscribers: self.subscribers.len(),
            connected: self.subscribers.connected(),
            sessions: self.subscribers.sessions(),
            subscriptions: self.index.len(),
            committing: self.at_store,
            parked,
            parked_bytes,
            behind: self.outstanding.values().map(|line| line.waiting.len()).sum(),
            retained: self.retained.stats(),
            slow_subscriber_losses: self.losses.slow(),
            repeated: 0,
        }
    }
}
