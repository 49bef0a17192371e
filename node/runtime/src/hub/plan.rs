//! From a submission to one commit: routes, mailboxes, retained values, the ingress's own state.

use super::state::State;
use super::subscribers::Subscribers;
use eventmesh_edge_core::event::{Event, Position, Qos, Timestamp, Via};
use eventmesh_edge_core::namespace::{Match, Retain};
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::hub::{
    Accepted, Audience, MailboxOptions, Publication, RetainedFor, Submission, SubscriberId,
};
use eventmesh_edge_core::ports::store::{
    Commit, CommitError, Committed, Loss, MailboxEntry, NewEvent, StateChange, StateValue, StreamId, Table,
};
use eventmesh_edge_core::route::Router;
use eventmesh_edge_core::topic::{TopicFilter, is_nodes_own};

use super::parking::{Key, Trial};
use super::parts;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// A submission on its way, as the ingress gave it.
pub(super) struct Work {
    /// Order of submission.
    pub(super) seq: u64,
    pub(super) submission: Submission,
    pub(super) done: Completion<Result<Accepted, CommitError>>,
    /// Its submitter's next submissions wait for it.
    pub(super) holds_line: bool,
    /// Set if it is in parts; `submission` is then the part that is next.
    pub(super) parts: Option<Box<Parts>>,
    /// Bytes of mailbox entries to leave out, because the event alone with all of them fits no commit.
    pub(super) shed_bytes: u64,
}

/// What surrounds one part of a submission.
#[derive(Default)]
pub(super) struct Parts {
    /// Those that follow.
    pub(super) later: VecDeque<Submission>,
    /// What those before it got.
    pub(super) stored: Accepted,
}

/// A submission that has been planned, and waits for its commit or only for its turn.
pub(super) struct Flight {
    pub(super) work: Work,
    /// One per publication.
    pub(super) planned: Vec<Planned>,
    /// Counted as outstanding at the store.
    pub(super) at_store: bool,
    /// [`super::inbox::Inbox::rooms`] when it went to the store.
    pub(super) rooms: u64,
    /// It was parked before.
    pub(super) trial: Option<Trial>,
    /// It commits these losses.
    pub(super) losses: Vec<Loss>,
}

/// What was decided about one publication.
#[derive(Default)]
pub(super) struct Planned {
    /// Its index in the commit, if it is in it.
    pub(super) event: Option<usize>,
    /// A stream takes it.
    pub(super) routed: bool,
    /// Who gets it here.
    pub(super) matches: Vec<Match<SubscriberId>>,
    /// Who subscribed while it was being committed, and is in no mailbox for it.
    pub(super) late: Vec<Match<SubscriberId>>,
    pub(super) retain: Option<Retain>,
    /// Claims of mailboxes.
    pub(super) claims: usize,
    /// Mailboxes that were left out, see [`Work::shed_bytes`].
    pub(super) shed: u64,
}

/// Where one publication goes, beside the stream that takes it.
struct To {
    everyone: bool,
    matches: Vec<Match<SubscriberId>>,
    /// State refers to it, so that it is in the commit whatever else needs it.
    named: bool,
}

/// Claims of mailboxes in one commit, unless one event alone has more: what planning takes in memory (P5), and at some
/// eight bytes each well within a journal segment.
const CLAIMS_MAX: usize = 32_768;

/// Beside payload and topic, for the limit of what may be parked.
const EVENT_OVERHEAD_BYTES: usize = 256;

impl Work {
    pub(super) fn new(
        seq: u64,
        submission: Submission,
        done: Completion<Result<Accepted, CommitError>>,
    ) -> Work {
        Work { seq, submission, done, holds_line: false, parts: None, shed_bytes: 0 }
    }

    /// Whose order has to be kept. A submission comes from one connection.
    pub(super) fn origin(&self) -> Option<SubscriberId> {
        let first = || self.submission.publications.first().and_then(|publication| publication.publisher);
        self.submission.origin.or_else(first)
    }

    /// The line that waits for it.
    pub(super) fn line(&self) -> Option<SubscriberId> {
        self.origin().filter(|_| self.holds_line)
    }

    /// Nothing follows.
    pub(super) fn is_last_part(&self) -> bool {
        self.parts.as_ref().is_none_or(|parts| parts.later.is_empty())
    }

    /// Its part and all that follow.
    fn submissions(&self) -> impl Iterator<Item = &Submission> {
        let later = self.parts.iter().flat_map(|parts| &parts.later);
        std::iter::once(&self.submission).chain(later)
    }

    /// What it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        let publications = self.submissions().flat_map(|submission| &submission.publications);
        let events = publications
            .map(|Publication { event, .. }| event.payload.len() + event.topic.len() + EVENT_OVERHEAD_BYTES);
        events.sum::<usize>() + EVENT_OVERHEAD_BYTES
    }

    /// The keys that the ingress writes. Mailbox changes are not among them: they name entries that exist already.
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        let state = self.submissions().flat_map(|submission| &submission.state);
        state.filter_map(|change| match change {
            StateChange::Put { table, key, .. } | StateChange::Delete { table, key } => {
                Some((*table, key.clone()))
            }
            StateChange::MailboxRemove { .. }
            | StateChange::MailboxClear { .. }
            | StateChange::LedgerForget { .. } => None,
        })
    }

    /// The streams that take its publications.
    pub(super) fn streams(&self, router: &Router) -> impl Iterator<Item = StreamId> {
        let everyone = self.submission.audience == Audience::Everyone;
        let publications = self.submission.publications.iter().filter(move |_| everyone);
        publications.filter_map(|publication| stream_of(router, &publication.event))
    }
}

impl Flight {
    /// One whose outcome is known without the store.
    pub(super) fn direct(work: Work, planned: Vec<Planned>) -> Box<Flight> {
        Box::new(Flight { work, planned, at_store: false, rooms: 0, trial: None, losses: Vec::new() })
    }
}

impl Planned {
    /// Its position, if it was stored.
    pub(super) fn position(&self, committed: &Committed) -> Option<Position> {
        committed.positions.get(self.event?).copied()
    }

    /// How many take it; a stream counts as one.
    pub(super) fn matched(&self) -> u32 {
        u32::try_from(self.matches.len() + usize::from(self.routed)).unwrap_or(u32::MAX)
    }
}

/// The stream of an event. What came down from an uplink is not routed: it must not go back up, and which uplink it
/// came from is not part of a stored event.
fn stream_of(router: &Router, event: &Event) -> Option<StreamId> {
    if event.via == Via::Uplink {
        return None;
    }
    router.route(&event.topic).map(|routed| routed.stream)
}

impl State {
    /// Plans a submission, or as much of it as one commit takes: the rest becomes a later part. The commit is empty if
    /// nothing of it has to be durable.
    pub(super) fn plan(&mut self, work: &mut Work) -> Result<(Commit, Vec<Planned>), CommitError> {
        if let Audience::Retained(wanted) = &work.submission.audience {
            // Anew at each try: what waits for room does not grow old.
            work.submission.publications = self.retained_for(wanted);
        }
        let Submission { publications, state, audience, .. } = &work.submission;
        if publications.iter().any(|publication| is_foreign(&publication.event)) {
            return Err(CommitError::Reserved);
        }
        let named = named_events(state, publications.len())?;
        let mut commit = Commit { losses: work.submission.losses.clone(), ..Commit::default() };
        let mut planned = Vec::with_capacity(publications.len());
        let mut claims = 0;
        for (index, publication) in publications.iter().enumerate() {
            let named = named.get(index).copied().unwrap_or(false);
            let everyone = *audience == Audience::Everyone;
            let matches = self.find(audience, index, publication);
            let to = To { everyone, matches, named };
            planned.push(self.plan_publication(&publication.event, to, work.shed_bytes, &mut commit));
            claims += planned.last().map_or(0, |planned: &Planned| planned.claims);
            let next = index + 1;
            if claims >= CLAIMS_MAX && next < publications.len() && parts::can_split(&work.submission, next) {
                parts::split(work, next);
                break;
            }
        }
        let retained = std::mem::take(&mut commit.state);
        commit.state = work.submission.state.iter().map(|change| renumber(change, &planned)).collect();
        commit.state.extend(retained);
        Ok((commit, planned))
    }

    /// The retained messages that a session is to get. What has expired its connection finds out.
    fn retained_for(&self, wanted: &RetainedFor) -> Vec<Publication> {
        let mut events = Vec::new();
        self.retained.find(&wanted.filter, Timestamp(0), &mut events);
        let behind = |event: &Event| wanted.after.as_ref().is_none_or(|after| event.topic > *after);
        let within = |event: &Event| wanted.through.as_ref().is_none_or(|through| event.topic <= *through);
        let due = events.iter().filter(|e| e.qos > Qos::AtMostOnce && behind(e) && within(e));
        due.map(|event| Publication { event: (**event).clone(), publisher: None }).collect()
    }

    /// Who gets the publication.
    fn find(
        &mut self,
        audience: &Audience,
        index: usize,
        publication: &Publication,
    ) -> Vec<Match<SubscriberId>> {
        let subscribers = &self.subscribers;
        let ready = |id| subscribers.get(id).is_some_and(super::subscribers::Subscriber::is_ready);
        let mut matches = Vec::new();
        let Publication { event, publisher } = publication;
        match audience {
            Audience::Everyone => self.index.matches(&event.topic, *publisher, ready, &mut matches),
            Audience::Shares(shares) => {
                let shares = shares.get(index).map_or(&[][..], Vec::as_slice);
                let filters: Vec<_> =
                    shares.iter().filter_map(|text| TopicFilter::parse(text.clone()).ok()).collect();
                self.index.pick(&filters, ready, &mut matches);
            }
            Audience::Retained(wanted) => matches.push(Match {
                subscriber: wanted.subscriber,
                granted: wanted.options.qos,
                retain_as_published: true,
                shared: false,
                identifiers: Some(wanted.options.identifier).filter(|id| *id > 0).into_iter().collect(),
                shares: Vec::new(),
            }),
        }
        matches
    }

    fn plan_publication(&mut self, event: &Event, to: To, shed_bytes: u64, commit: &mut Commit) -> Planned {
        let To { everyone, mut matches, named } = to;
        let stream = stream_of(&self.router, event).filter(|_| everyone);
        let subscribers = &self.subscribers;
        let mut mailboxes = mailboxes(subscribers, event, &matches);
        let shed = parts::shed(&mut mailboxes, shed_bytes);
        if !shed.is_empty() {
            let session = |m: &Match<_>| subscribers.get(m.subscriber).and_then(|s| s.session);
            matches.retain(|m| session(m).is_none_or(|session| !shed.contains(&session)));
        }
        if !mailboxes.is_empty() {
            // Their mailboxes say so: whoever ends such a session reads it there.
            let durable = |m: &Match<_>| subscribers.get(m.subscriber).is_some_and(|s| s.session.is_some());
            matches
                .iter_mut()
                .filter(|m| !m.shares.is_empty() && durable(m))
                .for_each(|m| m.shares = Vec::new());
        }
        let claims = mailboxes.len();
        let retain = (event.retain && everyone).then(|| self.retained.admit(event));
        // The node's own figures would be wrong after a start, so they are not kept for one.
        let on_disk = retain.filter(|_| !is_nodes_own(&event.topic));
        let durable = stream.is_some() || !mailboxes.is_empty() || named || on_disk == Some(Retain::Put);
        let index = durable.then(|| {
            commit.events.push(NewEvent { stream, event: event.clone(), mailboxes });
            commit.events.len() - 1
        });
        commit.state.extend(on_disk.map(|retain| retained_change(event, retain, index)));
        let (routed, shed) = (stream.is_some(), shed.len() as u64);
        Planned { event: index, routed, matches, late: Vec::new(), retain, claims, shed }
    }
}

/// To a topic of the node's own, from somebody else: whoever watches the node must not be told what it did not say. Each
/// ingress tells its clients so; what comes down from an uplink has only this check.
fn is_foreign(event: &Event) -> bool {
    event.via != Via::Node && is_nodes_own(&event.topic)
}

/// What the hub delivers with: the lower of published and granted QoS [MQTT-3.8.4-8].
pub(super) fn qos_for(event: &Event, granted: Qos) -> Qos {
    event.qos.min(granted)
}

/// RETAIN is 0 on what goes to an existing subscription, unless that asked to have it kept [MQTT-3.3.1-12],
/// [MQTT-3.3.1-13].
pub(super) fn retain_for(event: &Event, subscription: &Match<SubscriberId>) -> bool {
    event.retain && subscription.retain_as_published
}

fn mailboxes(subscribers: &Subscribers, event: &Event, matches: &[Match<SubscriberId>]) -> Vec<MailboxEntry> {
    if event.qos == Qos::AtMostOnce {
        return Vec::new();
    }
    let entry = |m: &Match<SubscriberId>| {
        let session = subscribers.get(m.subscriber)?.session?;
        let qos = qos_for(event, m.granted);
        let options = || {
            let (identifiers, shares) = (m.identifiers.clone(), m.shares.clone());
            MailboxOptions { qos, retain: retain_for(event, m), identifiers, shares }
        };
        (qos > Qos::AtMostOnce).then(|| MailboxEntry { session, options: options().encode() })
    };
    matches.iter().filter_map(entry).collect()
}

fn retained_change(event: &Event, retain: Retain, index: Option<usize>) -> StateChange {
    // Copied: the key stays in the store's memory for a while, the buffer it came in should not.
    let key = Bytes::copy_from_slice(event.topic.as_bytes());
    match (retain, index) {
        (Retain::Put, Some(event)) => {
            StateChange::Put { table: Table::Retained, key, value: StateValue::Record { event } }
        }
        (Retain::Put | Retain::Delete, _) => StateChange::Delete { table: Table::Retained, key },
    }
}

/// Which publications the ingress's state refers to: they are in the commit whatever else they need.
fn named_events(state: &[StateChange], publications: usize) -> Result<Vec<bool>, CommitError> {
    let mut named = Vec::new();
    for event in state.iter().filter_map(named_event) {
        if event >= publications {
            let why = format!("state refers to publication {event} of {publications}");
            return Err(CommitError::Io(Arc::new(io::Error::new(io::ErrorKind::InvalidInput, why))));
        }
        named.resize(publications, false);
        if let Some(flag) = named.get_mut(event) {
            *flag = true;
        }
    }
    Ok(named)
}

pub(super) fn named_event(change: &StateChange) -> Option<usize> {
    match change {
        StateChange::Put {
            value: StateValue::Position { event, .. } | StateValue::Record { event }, ..
        } => Some(*event),
        _ => None,
    }
}

/// The same change with the event's index in the commit instead of in the submission.
fn renumber(change: &StateChange, planned: &[Planned]) -> StateChange {
    let mut change = change.clone();
    if let StateChange::Put { value, .. } = &mut change
        && let StateValue::Position { event, .. } | StateValue::Record { event } = value
        && let Some(index) = planned.get(*event).and_then(|planned| planned.event)
    {
        *event = index;
    }
    change
}
