//! The client table: who is connected under which client id, which sessions are kept while their clients are away, and
//! what becomes of them.
//!
//! A client id is claimed by a connection and released when the connection ends. If it is in use, the connection that
//! has it is told [`Event::TakenOver`] and the claimant gets the session when that one
//! has let go: a session is never in two hands. One table serves all listeners, so that a device may come back on
//! another port.

mod ended;
mod restore;
mod wills;

pub use restore::{Restored, SessionStore};

use crate::outlet::{Event, Link, QueueBounds};
use crate::session::will::WillNo;
use crate::session::{PendingWill, Session, records};
use crate::stats::Stats;
use bytes::Bytes;
use ended::Ended;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::mapping::{LoopGuard, anonymous_mqtt_source, mqtt_source};
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::hub::{Hub, Principal, Submission, SubscriberId};
use eventmesh_edge_core::ports::store::{CommitError, SessionNo, StateChange, StateValue, Table as Stored};
use eventmesh_edge_core::telemetry::node_source;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Limits of the table (P5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Name of the node: the authority of every `source`.
    pub node: Text,
    /// Persistent sessions; one more is refused with 0x97 or return code 3.
    pub sessions_max: usize,
    /// Longest Session Expiry Interval granted, in seconds; a 3.x session with Clean Session = 0 gets it.
    pub expiry_max_secs: u32,
    /// Others on this node prove who they are: anonymous clients get a `source` that no user has.
    pub anonymous_apart: bool,
    /// The hub serves `$share/...`.
    pub shared_subscriptions: bool,
    /// Clients that come, go and subscribe are told of below `$edge/clients`.
    pub client_events: bool,
    /// Delivery queue of a session restored at the start.
    pub queue: QueueBounds,
}

impl Default for SessionOptions {
    fn default() -> SessionOptions {
        SessionOptions {
            node: Text::from_static("edge"),
            sessions_max: 100_000,
            expiry_max_secs: 30 * 24 * 3600,
            anonymous_apart: false,
            shared_subscriptions: true,
            client_events: false,
            queue: QueueBounds { max_events: 1000, max_bytes: 1024 * 1024 },
        }
    }
}

/// What a claim got.
pub enum Claim {
    /// The client id is free, or its session was waiting: here it is.
    Ready(Option<Box<Session>>),
    /// It is in use; [`Event::Claimed`] follows on the link.
    Wait,
    /// The session belongs to somebody else.
    NotYours,
}

/// The table.
pub struct Sessions {
    hub: Arc<dyn Hub>,
    clock: Arc<dyn Clock>,
    options: SessionOptions,
    guard: LoopGuard,
    table: Mutex<Table>,
    stats: Arc<Stats>,
    /// Keyed at random: ids that the node assigns cannot be guessed.
    ids: RandomState,
    assigned: AtomicU64,
    /// Events about clients.
    told: AtomicU64,
    generations: AtomicU64,
    /// The number that the next will gets.
    wills: AtomicU64,
    /// Wills that are due and could not be stored.
    due_wills: Arc<wills::Due>,
}

#[derive(Default)]
struct Table {
    clients: HashMap<Text, Slot>,
    /// When to look at which client that is away.
    due: BTreeSet<(Duration, Text)>,
    next_number: u64,
    persistent: usize,
}

enum Slot {
    Live(Live),
    Away(Away),
}

struct Live {
    link: Arc<Link>,
    generation: u64,
    principal: Principal,
    waiting: Option<Waiting>,
}

struct Waiting {
    link: Arc<Link>,
    generation: u64,
    principal: Principal,
}

struct Away {
    session: Box<Session>,
    ends: Option<Duration>,
    will_due: Option<Duration>,
}

/// What the passing of time has brought to a client that is away.
enum Due {
    Will(Box<PendingWill>, Option<SubscriberId>),
    End(Box<Session>),
    Nothing,
}

/// Numbers are marked as used in blocks, two ahead: the mark on disk is right although commits may overtake each other.
const NUMBER_BLOCK: u64 = 1024;

impl Sessions {
    /// An empty table.
    #[must_use]
    pub fn new(hub: Arc<dyn Hub>, clock: Arc<dyn Clock>, options: SessionOptions) -> Sessions {
        Sessions {
            hub,
            clock,
            guard: LoopGuard::new(&options.node),
            options,
            table: Mutex::new(Table { next_number: 1, ..Table::default() }),
            stats: Arc::default(),
            ids: RandomState::new(),
            assigned: AtomicU64::new(0),
            told: AtomicU64::new(0),
            generations: AtomicU64::new(0),
            wills: AtomicU64::new(1),
            due_wills: Arc::default(),
        }
    }

    /// Nothing in here panics while it holds the lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hub(&self) -> &dyn Hub {
        &*self.hub
    }

    pub(crate) fn shared_hub(&self) -> &Arc<dyn Hub> {
        &self.hub
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Tells whether a message has passed through this node before.
    pub(crate) fn guard(&self) -> &LoopGuard {
        &self.guard
    }

    /// CloudEvents `source` of what a client publishes.
    pub(crate) fn source(&self, principal: &Principal) -> Text {
        if principal.anonymous && self.options.anonymous_apart {
            anonymous_mqtt_source(&self.options.node, &principal.name)
        } else {
            mqtt_source(&self.options.node, &principal.name)
        }
    }

    pub(crate) fn expiry_max_secs(&self) -> u32 {
        self.options.expiry_max_secs
    }

    pub(crate) fn shared_subscriptions(&self) -> bool {
        self.options.shared_subscriptions
    }

    pub(crate) fn tells_client_events(&self) -> bool {
        self.options.client_events
    }

    /// `source` and a new `id` for an event about a client.
    pub(crate) fn client_event_identity(&self) -> (Text, Text) {
        let count = self.told.fetch_add(1, Ordering::Relaxed);
        let process = self.ids.hash_one("client events");
        (node_source(&self.options.node), Text::from(format!("{process:016x}-client-{count}")))
    }

    /// Figures.
    #[must_use]
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Clients connected and sessions whose clients are away.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize) {
        let table = self.lock();
        let away = table.clients.values().filter(|slot| matches!(slot, Slot::Away(_))).count();
        (table.clients.len() - away, away)
    }

    pub(crate) fn next_generation(&self) -> u64 {
        self.generations.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn next_will(&self) -> WillNo {
        WillNo(self.wills.fetch_add(1, Ordering::Relaxed))
    }

    /// A client id that nobody has and nobody can guess [MQTT-3.1.3-7].
    pub(crate) fn assign_client_id(&self) -> Text {
        let count = self.assigned.fetch_add(1, Ordering::Relaxed);
        let (high, low) = (self.ids.hash_one((count, 1u8)), self.ids.hash_one((count, 2u8)));
        Text::from(format!("auto-{high:016x}{low:016x}"))
    }

    /// A number for a new persistent session, and the mark that makes sure no other session ever gets it. `None` if
    /// there are too many.
    pub(crate) fn allocate_number(&self) -> Option<(SessionNo, StateChange)> {
        let mut table = self.lock();
        if table.persistent >= self.options.sessions_max {
            return None;
        }
        table.persistent += 1;
        let number = table.next_number;
        table.next_number += 1;
        let mark = (number / NUMBER_BLOCK + 2) * NUMBER_BLOCK;
        let change = StateChange::Put {
            table: Stored::Session,
            key: Bytes::from_static(records::NUMBER_MARK),
            value: StateValue::Bytes(records::encode_number_mark(mark)),
        };
        Some((SessionNo(number), change))
    }

    /// A connection wants the client id.
    pub(crate) fn claim(
        &self,
        client_id: &Text,
        principal: &Principal,
        link: &Arc<Link>,
        generation: u64,
    ) -> Claim {
        self.tick(); // its session may have ended, and its will be due, since the clock was last looked at
        let mut table = self.lock();
        let owner = match table.clients.get(client_id) {
            None => None,
            Some(Slot::Away(away)) => Some(&away.session.principal),
            Some(Slot::Live(live)) => Some(&live.principal),
        };
        if owner.is_some_and(|owner| !may_take(owner, principal)) {
            return Claim::NotYours;
        }
        if let Some(Slot::Live(live)) = table.clients.get_mut(client_id) {
            live.link.push(Event::TakenOver { generation: live.generation });
            let waiting = Waiting { link: link.clone(), generation, principal: principal.clone() };
            if let Some(overtaken) = live.waiting.replace(waiting) {
                overtaken.link.push(Event::TakenOver { generation: overtaken.generation });
            }
            return Claim::Wait;
        }
        let away = match table.clients.remove(client_id) {
            Some(Slot::Away(away)) => Some(away),
            _ => None,
        };
        if let Some(away) = &away {
            for due in [away.ends, away.will_due].into_iter().flatten() {
                table.due.remove(&(due, client_id.clone()));
            }
        }
        let session = away.map(|away| away.session);
        let link = session.as_ref().map_or(link, |session| &session.link).clone();
        let live = Live { link, generation, principal: principal.clone(), waiting: None };
        table.clients.insert(client_id.clone(), Slot::Live(live));
        Claim::Ready(session)
    }

    /// The connection that has the client id lets go, with the session to keep, if there is one.
    pub(crate) fn release(
        &self,
        client_id: &Text,
        generation: u64,
        session: Option<Box<Session>>,
        now: Duration,
    ) {
        let mut table = self.lock();
        let Some(Slot::Live(live)) = table.clients.get_mut(client_id) else { return };
        if live.generation != generation {
            return;
        }
        if let Some(waiting) = live.waiting.take() {
            live.generation = waiting.generation;
            live.principal = waiting.principal;
            live.link = session.as_ref().map_or(&waiting.link, |session| &session.link).clone();
            // Under the lock, so that `abandon` finds it or prevents it.
            waiting.link.push(Event::Claimed(session));
            return;
        }
        let Some(session) = session else {
            table.clients.remove(client_id);
            return;
        };
        let ends =
            (session.expiry_secs != u32::MAX).then(|| now + Duration::from_secs(session.expiry_secs.into()));
        let will_due = session.will.as_ref().map(|will| now + will.delay);
        table.put_away(client_id.clone(), Away { session, ends, will_due });
    }

    /// A connection that waited for the client id ends.
    pub(crate) fn abandon(&self, client_id: &Text, generation: u64, link: &Link) {
        let mut session = None;
        {
            let mut table = self.lock();
            let Some(Slot::Live(live)) = table.clients.get_mut(client_id) else { return };
            if live.waiting.as_ref().is_some_and(|waiting| waiting.generation == generation) {
                live.waiting = None;
                return;
            }
            if live.generation != generation {
                return;
            }
        }
        // It is ours already; the session waits in the link.
        while let Some(event) = link.next_event() {
            if let Event::Claimed(claimed) = event {
                session = claimed;
            }
        }
        if let Some(session) = &session {
            session.link.close();
        }
        self.release(client_id, generation, session, self.clock.monotonic());
    }

    /// Ends a session: the hub forgets it, its will is due, and everything kept of it goes.
    pub(crate) fn end_session(&self, mut session: Session, state: &mut Vec<StateChange>) {
        if let Some(subscriber) = session.subscriber {
            self.hub.detach(subscriber);
        }
        session.link.close();
        if let Some(will) = session.will.take() {
            self.publish_will(will, session.subscriber);
        }
        let Some(number) = session.number else { return };
        let delete = |table, key| state.push(records::delete(table, key));
        forget(&session, number, delete);
        if session.has_shared() {
            Ended::begin(self.hub.clone(), &session, number);
        } else {
            state.push(StateChange::MailboxClear { session: number });
        }
        let mut table = self.lock();
        table.persistent = table.persistent.saturating_sub(1);
    }

    /// What is due: wills whose delay has passed, sessions that have expired. Cheap when nothing is.
    pub fn tick(&self) {
        let now = self.clock.monotonic();
        self.look_after_wills(now);
        let mut state = Vec::new();
        while let Some(due) = self.next_due(now) {
            match due {
                Due::Will(will, publisher) => self.publish_will(will, publisher),
                Due::End(session) => {
                    self.stats.session_expired();
                    self.end_session(*session, &mut state);
                }
                Due::Nothing => {}
            }
        }
        if !state.is_empty() {
            let submission = Submission { state, ..Submission::default() };
            self.hub.submit(submission, Box::new(|result| warn_if_failed("end of a session", result.err())));
        }
    }

    fn next_due(&self, now: Duration) -> Option<Due> {
        let mut table = self.lock();
        let (due, _) = table.due.first()?;
        if *due > now {
            return None;
        }
        let (_, client_id) = table.due.pop_first()?;
        let Some(Slot::Away(away)) = table.clients.get_mut(&client_id) else { return Some(Due::Nothing) };
        if away.ends.is_some_and(|ends| ends <= now) {
            if let Some(will_due) = away.will_due {
                table.due.remove(&(will_due, client_id.clone()));
            }
            return Some(match table.clients.remove(&client_id) {
                Some(Slot::Away(away)) => Due::End(away.session),
                _ => Due::Nothing,
            });
        }
        away.will_due = None;
        let publisher = away.session.subscriber;
        Some(away.session.will.take().map_or(Due::Nothing, |will| Due::Will(will, publisher)))
    }
}

impl Table {
    fn put_away(&mut self, client_id: Text, away: Away) {
        for due in [away.ends, away.will_due].into_iter().flatten() {
            self.due.insert((due, client_id.clone()));
        }
        self.clients.insert(client_id, Slot::Away(away));
    }
}

/// A session that was made by an authenticated client is for that client alone (P7); an anonymous one proved nothing,
/// so it is anybody's who knows the client id.
fn may_take(owner: &Principal, claimant: &Principal) -> bool {
    owner.anonymous || (!claimant.anonymous && owner.name == claimant.name)
}

/// The keys of everything that is kept of a session beside its mailbox.
fn forget(session: &Session, number: SessionNo, mut delete: impl FnMut(Stored, Bytes)) {
    delete(Stored::Session, session.client_id.as_bytes().clone());
    for filter in session.filters.keys() {
        delete(Stored::Subscription, records::subscription_key(number, filter));
    }
    for pid in session.inbound.keys() {
        delete(Stored::Inbound, records::pid_key(number, *pid));
    }
    for key in session.outbound_keys(number) {
        delete(Stored::Outbound, key);
    }
}

fn warn_if_failed(what: &str, error: Option<CommitError>) {
    if let Some(error) = error {
        tracing::warn!(%error, "{what} was not stored");
    }
}

#[cfg(test)]
mod tests;
