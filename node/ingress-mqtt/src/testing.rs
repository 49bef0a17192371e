//! What the tests share: a hub that is scripted, two clocks turned by hand, packets as bytes.

pub(crate) mod wire;

use crate::clients::{SessionOptions, SessionStore, Sessions};
use bytes::{Bytes, BytesMut};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, LogId, Position, Qos, Sequence, StoredEvent, Timestamp};
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::hub::{
    Accepted, Audience, Delivery, Hub, MailboxOptions, Offer, Outlet, RetainedFor, Submission,
    SubscribeOptions, SubscriberId,
};
use eventmesh_edge_core::ports::store::{
    CommitError, Loss, MailboxItem, ReadError, SessionNo, StateChange, StateValue, StreamId, Table,
};
use eventmesh_edge_core::topic::TopicFilter;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// 2023-11-14T22:13:20Z.
pub(crate) const WALL: Timestamp = Timestamp(1_700_000_000_000);

pub(crate) struct ManualClock(Mutex<(Timestamp, Duration)>);

impl ManualClock {
    pub(crate) fn new() -> Arc<ManualClock> {
        Arc::new(ManualClock(Mutex::new((WALL, Duration::ZERO))))
    }

    pub(crate) fn advance(&self, by: Duration) {
        let mut now = self.0.lock().unwrap();
        now.0 = now.0.after(by);
        now.1 += by;
    }

    pub(crate) fn set_wall(&self, wall: Timestamp) {
        self.0.lock().unwrap().0 = wall;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.0.lock().unwrap().0
    }
    fn monotonic(&self) -> Duration {
        self.0.lock().unwrap().1
    }
}

/// Follows the documented behaviour of the port, and completes submissions when the test says so. It is a script, not a
/// store: nothing of it is durable.
pub(crate) struct ScriptedHub(Mutex<Script>);

#[derive(Default)]
struct Script {
    auto: bool,
    fail_next: Option<CommitError>,
    /// So many publications of the next submission are stored, the others fail.
    cut_next: Option<usize>,
    held: VecDeque<(Submission, Completion<Result<Accepted, CommitError>>)>,
    last_position: u64,
    tables: BTreeMap<(u8, Vec<u8>), Bytes>,
    mailboxes: BTreeMap<(u64, u64), MailboxItem>,
    subscribers: HashMap<u64, Subscriber>,
    next_subscriber: u64,
    subscriptions: Vec<(u64, TopicFilter, SubscribeOptions)>,
    retained: BTreeMap<Text, Arc<Event>>,
    published: Vec<Event>,
    losses: Vec<Loss>,
    /// The last publications were [`Submission::kept`].
    kept: bool,
    lost: usize,
    /// Most entries that one read of a mailbox returns, whatever was asked for.
    piece_max: Option<usize>,
}

struct Subscriber {
    session: Option<SessionNo>,
    outlet: Option<Arc<dyn Outlet>>,
    live: bool,
}

type Done = (Completion<Result<Accepted, CommitError>>, Result<Accepted, CommitError>);

impl ScriptedHub {
    pub(crate) fn new() -> Arc<ScriptedHub> {
        Arc::new(ScriptedHub(Mutex::default()))
    }

    /// Completes every submission at once.
    pub(crate) fn automatic() -> Arc<ScriptedHub> {
        let hub = ScriptedHub::new();
        hub.lock().auto = true;
        hub
    }

    fn lock(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }

    pub(crate) fn set_auto(&self, auto: bool) {
        self.lock().auto = auto;
        if auto {
            self.complete_all();
        }
    }

    pub(crate) fn fail_next(&self, error: CommitError) {
        self.lock().fail_next = Some(error);
    }

    pub(crate) fn cut_next(&self, stored: usize) {
        self.lock().cut_next = Some(stored);
    }

    pub(crate) fn held(&self) -> usize {
        self.lock().held.len()
    }

    pub(crate) fn complete_all(&self) {
        while self.complete_one() {}
    }

    pub(crate) fn complete_one(&self) -> bool {
        let step = self.lock().complete();
        let Some(((done, result), offers)) = step else { return false };
        for (subscriber, outlet, delivery) in &offers {
            if outlet.offer(delivery.clone()) == Offer::Full {
                let mut script = self.lock();
                script.lost += 1;
                if let Some(s) = script.subscribers.get_mut(subscriber) {
                    s.live = false;
                }
            }
        }
        for (_, outlet, _) in &offers {
            outlet.flush();
        }
        done(result);
        true
    }

    /// Everything committed so far, in order.
    pub(crate) fn published(&self) -> Vec<Event> {
        self.lock().published.clone()
    }

    pub(crate) fn payloads(&self) -> Vec<String> {
        self.published().iter().map(|e| String::from_utf8_lossy(&e.payload).into_owned()).collect()
    }

    /// What was given up.
    pub(crate) fn losses(&self) -> Vec<Loss> {
        self.lock().losses.clone()
    }

    /// Whether the last publications were the submitter's to keep.
    pub(crate) fn kept_alone(&self) -> bool {
        self.lock().kept
    }

    pub(crate) fn rows(&self, table: Table) -> Vec<Vec<u8>> {
        self.lock().tables.keys().filter(|(t, _)| *t == table as u8).map(|(_, key)| key.clone()).collect()
    }

    pub(crate) fn mailbox_len(&self) -> usize {
        self.lock().mailboxes.len()
    }

    /// So many positions go to messages that are of no interest here.
    pub(crate) fn skip_positions(&self, count: u64) {
        self.lock().last_position += count;
    }

    /// The mailbox's budget was used up.
    pub(crate) fn evict_mailboxes(&self) {
        self.lock().mailboxes.clear();
    }

    /// Entries are so large that a read of a mailbox returns no more than these.
    pub(crate) fn limit_pieces(&self, max: usize) {
        self.lock().piece_max = Some(max);
    }

    pub(crate) fn subscription_count(&self) -> usize {
        self.lock().subscriptions.len()
    }

    pub(crate) fn subscriber_count(&self) -> usize {
        self.lock().subscribers.len()
    }

    /// The process ends and starts: tables and mailboxes stay, whatever was not committed is gone.
    pub(crate) fn restart(&self) -> Arc<ScriptedHub> {
        let mut old = self.lock();
        let script = Script {
            auto: true,
            tables: std::mem::take(&mut old.tables),
            mailboxes: std::mem::take(&mut old.mailboxes),
            last_position: old.last_position,
            published: std::mem::take(&mut old.published),
            retained: std::mem::take(&mut old.retained),
            ..Script::default()
        };
        Arc::new(ScriptedHub(Mutex::new(script)))
    }

    pub(crate) fn put_raw(&self, table: Table, key: &[u8], value: &[u8]) {
        self.lock().tables.insert((table as u8, key.to_vec()), Bytes::copy_from_slice(value));
    }
}

impl Script {
    #[allow(clippy::type_complexity, reason = "one caller")]
    fn complete(&mut self) -> Option<(Done, Vec<(u64, Arc<dyn Outlet>, Delivery)>)> {
        let (mut submission, done) = self.held.pop_front()?;
        if !submission.publications.is_empty() {
            self.kept = submission.kept;
        }
        if let Some(error) = self.fail_next.take() {
            return Some(((done, Err(error)), Vec::new()));
        }
        let mut accepted = Accepted::default();
        if let Some(stored) = self.cut_next.take() {
            accepted.cut = Some(full());
            submission.publications.truncate(stored);
            submission.state.retain(|change| match change {
                StateChange::Put { value: StateValue::Position { event, .. }, .. } => *event < stored,
                _ => false,
            });
        }
        self.losses.append(&mut submission.losses);
        let mut offers = Vec::new();
        if let Audience::Retained(wanted) = &submission.audience {
            self.keep_retained(wanted, &mut offers);
        }
        let only = match &submission.audience {
            Audience::Shares(shares) => shares,
            Audience::Everyone | Audience::Retained(_) => &[][..],
        };
        for (index, publication) in submission.publications.iter().enumerate() {
            self.last_position += 1;
            let position = Position(self.last_position);
            accepted.positions.push(Some(position));
            let event = Arc::new(publication.event.clone());
            if event.retain && only.is_empty() {
                self.retained.insert(event.topic.clone(), event.clone());
            }
            self.published.push(publication.event.clone());
            let only = only.get(index).map(Vec::as_slice);
            let matched = self.route(&event, position, (publication.publisher, only), &mut offers);
            accepted.matched.push(matched);
        }
        for change in submission.state {
            self.apply(change, &accepted);
        }
        Some(((done, Ok(accepted)), offers))
    }

    /// Retained messages into a mailbox.
    fn keep_retained(&mut self, wanted: &RetainedFor, offers: &mut Vec<(u64, Arc<dyn Outlet>, Delivery)>) {
        let within = |topic: &Text| {
            wanted.filter.matches(topic)
                && wanted.after.as_ref().is_none_or(|after| topic > after)
                && wanted.through.as_ref().is_none_or(|through| topic <= through)
        };
        let events: Vec<_> = self.retained.values().filter(|event| within(&event.topic)).cloned().collect();
        for event in events.into_iter().filter(|event| event.qos > Qos::AtMostOnce) {
            self.last_position += 1;
            let position = Position(self.last_position);
            let subscriber = &self.subscribers[&wanted.subscriber.0];
            let session = subscriber.session.unwrap();
            let (qos, retain) = (event.qos.min(wanted.options.qos), true);
            let (identifiers, shares) = (Vec::new(), Vec::new());
            let options = MailboxOptions { qos, retain, identifiers, shares }.encode();
            let stored = StoredEvent {
                position,
                log: LogId(1),
                sequence: Sequence::default(),
                event: (*event).clone(),
                stored_bytes: 0,
            };
            self.mailboxes.insert((session.0, position.0), MailboxItem { event: stored, options });
            if let Some(outlet) = subscriber.outlet.clone().filter(|_| subscriber.live) {
                let (identifiers, shares) = (Vec::new(), Vec::new());
                let position = Some(position);
                let delivery = Delivery { event, position, qos, retain, identifiers, shares };
                offers.push((wanted.subscriber.0, outlet, delivery));
            }
        }
    }

    fn route(
        &mut self,
        event: &Arc<Event>,
        position: Position,
        (publisher, only): (Option<SubscriberId>, Option<&[Text]>),
        offers: &mut Vec<(u64, Arc<dyn Outlet>, Delivery)>,
    ) -> u32 {
        let mut matched = 0;
        for (subscriber, filter, options) in &self.subscriptions {
            let own = publisher.is_some_and(|p| p.0 == *subscriber);
            if !filter.matches(&event.topic) || (options.no_local && own) {
                continue;
            }
            if only.is_some_and(|only| matched > 0 || !only.contains(filter.as_text())) {
                continue;
            }
            let shares: Vec<_> = filter.share().map(|_| filter.as_text().clone()).into_iter().collect();
            matched += 1;
            let qos = event.qos.min(options.qos);
            let identifiers = if options.identifier > 0 { vec![options.identifier] } else { Vec::new() };
            let Some(s) = self.subscribers.get(subscriber) else { continue };
            if let Some(session) = s.session.filter(|_| qos > Qos::AtMostOnce) {
                let stored = StoredEvent {
                    position,
                    log: LogId(1),
                    sequence: Sequence::default(),
                    event: (**event).clone(),
                    stored_bytes: 0,
                };
                let options = MailboxOptions {
                    qos,
                    retain: false,
                    identifiers: identifiers.clone(),
                    shares: shares.clone(),
                };
                let item = MailboxItem { event: stored, options: options.encode() };
                self.mailboxes.insert((session.0, position.0), item);
            }
            if let Some(outlet) = s.outlet.clone().filter(|_| s.live) {
                let delivery = Delivery {
                    event: event.clone(),
                    position: Some(position),
                    qos,
                    retain: options.retain_as_published && event.retain,
                    identifiers,
                    shares,
                };
                offers.push((*subscriber, outlet, delivery));
            }
        }
        matched
    }

    fn apply(&mut self, change: StateChange, accepted: &Accepted) {
        match change {
            StateChange::Put { table, key, value } => {
                let value = match value {
                    StateValue::Bytes(bytes) => bytes,
                    StateValue::Position { event, suffix } => {
                        let mut out = BytesMut::new();
                        out.extend_from_slice(&accepted.positions[event].unwrap().0.to_be_bytes());
                        out.extend_from_slice(&suffix);
                        out.freeze()
                    }
                    StateValue::Record { .. } => panic!("an ingress keeps no records"),
                };
                self.tables.insert((table as u8, key.to_vec()), value);
            }
            StateChange::Delete { table, key } => {
                self.tables.remove(&(table as u8, key.to_vec()));
            }
            StateChange::MailboxRemove { session, position } => {
                self.mailboxes.remove(&(session.0, position.0));
            }
            StateChange::LedgerForget { .. } => panic!("the ingress does not hand on the ledger"),
            StateChange::MailboxClear { session } => self.mailboxes.retain(|(s, _), _| *s != session.0),
        }
    }
}

impl Hub for ScriptedHub {
    fn submit(&self, submission: Submission, done: Completion<Result<Accepted, CommitError>>) {
        let auto = {
            let mut script = self.lock();
            script.held.push_back((submission, done));
            script.auto
        };
        if auto {
            self.complete_all();
        }
    }

    fn attach(&self, session: Option<SessionNo>, outlet: Option<Arc<dyn Outlet>>) -> SubscriberId {
        let mut script = self.lock();
        script.next_subscriber += 1;
        let id = script.next_subscriber;
        script.subscribers.insert(id, Subscriber { session, outlet, live: session.is_none() });
        SubscriberId(id)
    }

    fn reattach(&self, subscriber: SubscriberId, outlet: Option<Arc<dyn Outlet>>) {
        if let Some(s) = self.lock().subscribers.get_mut(&subscriber.0) {
            s.outlet = outlet;
            s.live = false;
        }
    }

    fn detach(&self, subscriber: SubscriberId) {
        let mut script = self.lock();
        script.subscribers.remove(&subscriber.0);
        script.subscriptions.retain(|(s, _, _)| *s != subscriber.0);
    }

    fn subscribe(&self, subscriber: SubscriberId, filter: &TopicFilter, options: SubscribeOptions) -> bool {
        let mut script = self.lock();
        let before = script.subscriptions.len();
        script.subscriptions.retain(|(s, f, _)| *s != subscriber.0 || f != filter);
        let is_new = script.subscriptions.len() == before;
        script.subscriptions.push((subscriber.0, filter.clone(), options));
        is_new
    }

    fn unsubscribe(&self, subscriber: SubscriberId, filter: &TopicFilter) -> bool {
        let mut script = self.lock();
        let before = script.subscriptions.len();
        script.subscriptions.retain(|(s, f, _)| *s != subscriber.0 || f != filter);
        script.subscriptions.len() < before
    }

    fn retained(&self, filter: &TopicFilter, options: SubscribeOptions) -> Vec<Delivery> {
        let script = self.lock();
        let matching = script.retained.values().filter(|event| filter.matches(&event.topic));
        matching
            .map(|event| Delivery {
                event: event.clone(),
                position: None,
                qos: event.qos.min(options.qos),
                retain: true,
                identifiers: if options.identifier > 0 { vec![options.identifier] } else { Vec::new() },
                shares: Vec::new(),
            })
            .collect()
    }

    fn read_mailbox(
        &self,
        session: SessionNo,
        after: Position,
        max_events: usize,
        done: Completion<Result<Vec<MailboxItem>, ReadError>>,
    ) {
        let items = {
            let script = self.lock();
            let range = script.mailboxes.range((session.0, after.0 + 1)..=(session.0, u64::MAX));
            let max_events = script.piece_max.map_or(max_events, |max| max.min(max_events));
            range.take(max_events).map(|(_, item)| item.clone()).collect()
        };
        done(Ok(items));
    }

    fn resume(&self, subscriber: SubscriberId, through: Position) -> bool {
        let mut script = self.lock();
        let Some(session) = script.subscribers.get(&subscriber.0).and_then(|s| s.session) else {
            return true;
        };
        let later =
            script.mailboxes.range((session.0, through.0 + 1)..=(session.0, u64::MAX)).next().is_some();
        if let Some(s) = script.subscribers.get_mut(&subscriber.0) {
            s.live = !later;
        }
        !later
    }

    fn mailbox_options(&self, item: &MailboxItem) -> MailboxOptions {
        MailboxOptions::decode(&item.options).unwrap()
    }
}

impl SessionStore for ScriptedHub {
    fn scan(&self, table: Table, after: Option<&[u8]>, max: usize) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        let script = self.lock();
        let rows = script
            .tables
            .iter()
            .filter(|((t, key), _)| *t == table as u8 && after.is_none_or(|after| key.as_slice() > after));
        Ok(rows.take(max).map(|((_, key), value)| (Bytes::from(key.clone()), value.clone())).collect())
    }

    fn before(&self) -> Position {
        Position(self.lock().last_position)
    }
}

pub(crate) fn sessions(hub: &Arc<ScriptedHub>, clock: &Arc<ManualClock>) -> Arc<Sessions> {
    let options = SessionOptions { node: Text::from_static("plant-7"), ..SessionOptions::default() };
    Arc::new(Sessions::new(hub.clone(), clock.clone(), options))
}

/// The same on a node where others prove who they are, if `anonymous_apart`.
pub(crate) fn sessions_with(
    hub: &Arc<ScriptedHub>,
    clock: &Arc<ManualClock>,
    anonymous_apart: bool,
) -> Arc<Sessions> {
    let node = Text::from_static("plant-7");
    let options = SessionOptions { node, anonymous_apart, ..SessionOptions::default() };
    Arc::new(Sessions::new(hub.clone(), clock.clone(), options))
}

pub(crate) fn full() -> CommitError {
    CommitError::Full { stream: StreamId(0), used: 9, max: 10, need: 2 }
}
