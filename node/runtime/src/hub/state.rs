//! What the hub knows, behind its one lock, and what happens to a submission under it.
//!
//! The lock is held while a commit is handed to the store (which only queues it), so that the order of plans is the
//! order of commits: a session that was detached before its mailbox was cleared gets no entry afterwards. It is never
//! held while an outlet, a `done` or anything else of somebody else's is called.

use super::inbox::{Completed, FoundNothing, Inbox};
use super::losses::Losses;
use super::parking::{Ahead, Limits, Parked, Parking, Trial};
use super::plan::{Flight, Planned, Work};
use super::subscribers::Subscribers;
use super::{HubOptions, HubStats};
use eventmesh_edge_core::namespace::{Match, Retained, Subscriptions};
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::hub::{Accepted, Publication, Submission, SubscriberId};
use eventmesh_edge_core::ports::store::{Commit, CommitError, Committed, Loss, Store, StreamId};
use eventmesh_edge_core::route::Router;
use std::collections::{HashMap, VecDeque};
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
    /// Publishers with a submission at the store or parked, and what they submitted since.
    outstanding: HashMap<SubscriberId, VecDeque<Work>>,
    next_seq: u64,
    /// [`State::next_seq`] when a subscription was last added.
    subscribed_seq: u64,
    at_store: usize,
    closed: bool,
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
            parking: Parking::new(Limits { count: options.parked_max, bytes: options.parked_max_bytes }),
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
        let work = Work { seq: self.next_seq, submission, done };
        let publisher = work.publisher();
        if let Some(publisher) = publisher
            && let Some(waiting) = self.outstanding.get_mut(&publisher)
        {
            waiting.push_back(work);
        } else if self.launch(work, None)
            && let Some(publisher) = publisher
        {
            self.outstanding.insert(publisher, VecDeque::new());
        }
    }

    /// True if it is now at the store or parked: what the same publisher submits next has to wait.
    fn launch(&mut self, work: Work, trial: Option<Trial>) -> bool {
        if trial.is_none()
            && let Some(ahead) = self.ahead(&work)
        {
            return self.line_up(work, ahead);
        }
        match self.plan(&work) {
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
        let flight = Box::new(Flight { work, planned, at_store: true, rooms, trial, loss: None });
        let inbox = self.inbox.clone();
        self.store.submit(commit, Box::new(move |result| inbox.push(Completed { flight, result })));
        true
    }

    /// A commit of the hub's own: nobody waits for it, and it is not repeated when it is refused.
    pub(super) fn send_own(&mut self, commit: Commit, loss: Option<Loss>) {
        self.next_seq += 1;
        let submission = Submission { refuse_when_full: true, ..Submission::default() };
        let work = Work { seq: self.next_seq, submission, done: Box::new(drop) };
        let mut flight = Flight::direct(work, Vec::new());
        (flight.at_store, flight.loss) = (true, loss);
        self.at_store += 1;
        let inbox = self.inbox.clone();
        self.store.submit(commit, Box::new(move |result| inbox.push(Completed { flight, result })));
    }

    /// The outcome is known already; the hub's task passes it on.
    fn resolve(
        &mut self,
        work: Work,
        trial: Option<Trial>,
        planned: Vec<Planned>,
        result: Result<Committed, CommitError>,
    ) -> bool {
        let was_on_trial = trial.is_some();
        let mut flight = Flight::direct(work, planned);
        flight.trial = trial;
        self.inbox.push(Completed { flight, result });
        // One that was parked has an entry among the outstanding, which goes when it is settled.
        was_on_trial
    }

    fn ahead(&self, work: &Work) -> Option<Ahead> {
        if self.parking.is_idle() {
            return None;
        }
        self.parking.ahead(work.streams(&self.router), work.keys().iter())
    }

    /// Its stream is known to be full.
    fn line_up(&mut self, work: Work, ahead: Ahead) -> bool {
        let Ahead { stream, follows, error } = ahead;
        if work.submission.refuse_when_full {
            return self.resolve(work, None, Vec::new(), Err(error));
        }
        match self.park(work, stream, error.clone(), follows) {
            Ok(()) => true,
            Err(work) => self.resolve(work, None, Vec::new(), Err(error)),
        }
    }

    fn park(&mut self, work: Work, stream: StreamId, error: CommitError, follows: bool) -> Result<(), Work> {
        if self.closed {
            return Err(work);
        }
        let (seq, bytes, keys) = (work.seq, work.bytes(), work.keys());
        let parked = Parked { seq, item: work, bytes, keys, follows };
        self.parking.park(stream, error, parked).map_err(|parked| parked.item)
    }

    /// What a flight leaves behind in the hub once its outcome is here. Gives it back if it is to be answered, and keeps
    /// it if it is parked.
    pub(super) fn settle(&mut self, completed: Completed) -> Option<Completed> {
        let Completed { mut flight, result } = completed;
        self.at_store -= usize::from(flight.at_store);
        self.settle_retained(&flight, result.is_ok());
        if let (Some(loss), Err(_)) = (flight.loss, &result) {
            self.losses.put_back(loss);
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
            let follows = self.parking.ahead(std::iter::empty(), flight.work.keys().iter()).is_some();
            match self.park(flight.work, stream, error, follows) {
                Ok(()) => {
                    if rooms != self.inbox.rooms() {
                        self.parking.room();
                    }
                    return None;
                }
                Err(work) => flight.work = work,
            }
        }
        if result.is_ok() {
            self.match_late(&mut flight);
        }
        self.release(&flight);
        Some(Completed { flight, result })
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

    /// The publisher's next submissions, up to one that has to wait itself.
    fn release(&mut self, flight: &Flight) {
        let Some(publisher) = flight.work.publisher() else { return };
        if !flight.at_store && flight.trial.is_none() {
            return;
        }
        while let Some(waiting) = self.outstanding.get_mut(&publisher) {
            match waiting.pop_front() {
                None => drop(self.outstanding.remove(&publisher)),
                Some(work) => {
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
        unheard.extend(self.outstanding.values_mut().flat_map(std::mem::take));
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
            behind: self.outstanding.values().map(VecDeque::len).sum(),
            retained: self.retained.stats(),
            slow_subscriber_losses: self.losses.total(),
            repeated: 0,
        }
    }
}
