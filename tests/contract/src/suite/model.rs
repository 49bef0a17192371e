//! Random operations against a model that is a `VecDeque` and some `BTreeMap`s.

use super::Factory;
use super::support::{
    NOW, ack, assert_backlog_is_exact, commit, commit_blocking, consumer, event_of, into_stream, lost,
    mailbox, read_all, reopen, spec_of, state_of, stream,
};
use bytes::Bytes;
use eventmesh_edge_core::event::{Event, Position, Timestamp};
use eventmesh_edge_core::ports::store::{
    Commit, CommitError, Consumer, LossReason, MailboxEntry, SessionNo, StateChange, StateValue, Store,
    StoreSpec, Table, WhenFull,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// One step. Numbers are taken modulo what is there, so that every step means something.
#[derive(Clone, Debug)]
enum Op {
    Submit(Vec<Publish>),
    Ack { pair: usize, share: u8 },
    Put { key: u8, value: u8 },
    Delete { key: u8 },
    MailboxRemove { session: u64, nth: usize },
    MailboxClear { session: u64 },
    Expire { minutes: u64 },
    Reopen,
}

#[derive(Clone, Debug)]
struct Publish {
    stream: u16,
    payload_bytes: usize,
    sessions: Vec<u64>,
    retain: Option<u8>,
}

fn publish() -> impl Strategy<Value = Publish> {
    let sessions = proptest::collection::vec(0u64..3, 0..3);
    (
        0u16..3,
        prop_oneof![9 => 0usize..800, 1 => 0usize..6000],
        sessions,
        proptest::option::weighted(0.2, 0u8..4),
    )
        .prop_map(|(stream, payload_bytes, sessions, retain)| Publish {
            stream,
            payload_bytes,
            sessions,
            retain,
        })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => proptest::collection::vec(publish(), 1..5).prop_map(Op::Submit),
        6 => (0usize..4, any::<u8>()).prop_map(|(pair, share)| Op::Ack { pair, share }),
        2 => (0u8..8, any::<u8>()).prop_map(|(key, value)| Op::Put { key, value }),
        1 => (0u8..8).prop_map(|key| Op::Delete { key }),
        2 => (0u64..3, 0usize..20).prop_map(|(session, nth)| Op::MailboxRemove { session, nth }),
        1 => (0u64..3).prop_map(|session| Op::MailboxClear { session }),
        1 => (0u64..90).prop_map(|minutes| Op::Expire { minutes }),
        2 => Just(Op::Reopen),
    ]
}

const REFUSE_BYTES: u64 = 8 * 1024;
const DROP_BYTES: u64 = 12 * 1024;
const MAX_AGE: Duration = Duration::from_secs(3600);
const MAILBOX_EVENTS: u64 = 12;

fn spec() -> StoreSpec {
    let mut aging = stream("aging", &[1], DROP_BYTES, WhenFull::DropOldest);
    aging.max_age = Some(MAX_AGE);
    StoreSpec {
        mailbox_max_events: MAILBOX_EVENTS,
        ..spec_of([
            stream("refuses", &[0, 1], REFUSE_BYTES, WhenFull::Refuse),
            aging,
            stream("unread", &[], DROP_BYTES, WhenFull::DropOldest),
        ])
    }
}

/// What a consumer should see: every event it has neither acknowledged nor lost.
struct Queue {
    pair: Consumer,
    max_bytes: u64,
    drops: bool,
    waiting: VecDeque<(Position, Event)>,
    lost: BTreeMap<LossReason, u64>,
}

struct Model {
    queues: Vec<Queue>,
    mailboxes: BTreeMap<u64, VecDeque<(Position, Event, Bytes)>>,
    mail_lost: u64,
    table: BTreeMap<Bytes, Bytes>,
    retained: BTreeMap<Bytes, Event>,
    newest: Position,
    published: usize,
    now: Timestamp,
}

impl Model {
    fn new() -> Model {
        let queue = |(stream, uplink, max_bytes, drops)| Queue {
            pair: consumer(stream, uplink),
            max_bytes,
            drops,
            waiting: VecDeque::new(),
            lost: BTreeMap::new(),
        };
        let pairs = [
            (0, 0, REFUSE_BYTES, false),
            (0, 1, REFUSE_BYTES, false),
            (1, 1, DROP_BYTES, true),
            (2, u16::MAX, DROP_BYTES, true),
        ];
        Model {
            queues: pairs.map(queue).into(),
            mailboxes: BTreeMap::new(),
            mail_lost: 0,
            table: BTreeMap::new(),
            retained: BTreeMap::new(),
            newest: Position::ZERO,
            published: 0,
            now: NOW,
        }
    }

    fn step(&mut self, store: &dyn Store, op: &Op) {
        match op {
            Op::Submit(publishes) => self.submit(store, publishes),
            Op::Ack { pair, share } => self.acknowledge(store, *pair, *share),
            Op::Put { key, value } => {
                let (key, value) = (Bytes::from(vec![*key]), Bytes::from(vec![*value]));
                let value_of = StateValue::Bytes(value.clone());
                commit(
                    store,
                    state_of([StateChange::Put { table: Table::Node, key: key.clone(), value: value_of }]),
                );
                self.table.insert(key, value);
            }
            Op::Delete { key } => {
                let key = Bytes::from(vec![*key]);
                commit(store, state_of([StateChange::Delete { table: Table::Node, key: key.clone() }]));
                self.table.remove(&key);
            }
            Op::MailboxClear { session } => {
                commit(store, state_of([StateChange::MailboxClear { session: SessionNo(*session) }]));
                self.mailboxes.remove(session);
            }
            Op::MailboxRemove { session, nth } => self.remove_entry(store, *session, *nth),
            Op::Expire { minutes } => self.expire(store, *minutes),
            Op::Reopen => {}
        }
    }

    fn submit(&mut self, store: &dyn Store, publishes: &[Publish]) {
        let mut made = Commit::default();
        for (n, publish) in publishes.iter().enumerate() {
            let source = ["x", "y"][(self.published + n) % 2];
            let event = event_of(source, self.published + n, publish.payload_bytes);
            let mut new = into_stream(
                eventmesh_edge_core::ports::store::StreamId(publish.stream),
                Event { received: self.now, ..event },
            );
            let options = Bytes::from(vec![publish.stream.to_le_bytes()[0]]);
            let mut sessions = publish.sessions.clone();
            sessions.sort_unstable();
            sessions.dedup();
            let entry = |s| MailboxEntry { session: SessionNo(s), options: options.clone() };
            new.mailboxes = sessions.into_iter().map(entry).collect();
            if let Some(topic) = publish.retain {
                let (key, value) = (Bytes::from(vec![topic]), StateValue::Record { event: n });
                made.state.push(StateChange::Put { table: Table::Retained, key, value });
            }
            made.events.push(new);
        }
        match commit_blocking(store, made.clone()) {
            Ok(committed) => self.accepted(store, made, &committed.positions),
            Err(CommitError::Full { used, max, need, .. }) => {
                assert!(publishes.iter().any(|p| p.stream == 0), "only stream 0 refuses");
                assert!(used + need > max, "{used} + {need} would have fitted into {max}");
                assert!(need <= max, "{need} never fit into {max}: too large");
            }
            Err(CommitError::TooLarge { bytes, max }) => {
                assert!(publishes.iter().any(|p| p.stream == 0), "no event is larger than what drops");
                assert!(bytes > max && max == REFUSE_BYTES, "{bytes} would have fitted into {max}");
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn accepted(&mut self, store: &dyn Store, made: Commit, positions: &[Position]) {
        assert_eq!(positions.len(), made.events.len());
        for (new, position) in made.events.iter().zip(positions) {
            assert!(*position > self.newest, "P3: positions grow");
            self.newest = *position;
            let stored = (*position, new.event.clone());
            for queue in self.queues.iter_mut().filter(|q| Some(q.pair.stream) == new.stream) {
                queue.waiting.push_back(stored.clone());
            }
            for entry in &new.mailboxes {
                let mailbox = self.mailboxes.entry(entry.session.0).or_default();
                mailbox.push_back((*position, new.event.clone(), entry.options.clone()));
                if mailbox.len() as u64 > MAILBOX_EVENTS {
                    mailbox.pop_front();
                    self.mail_lost += 1;
                }
            }
        }
        for change in made.state {
            if let StateChange::Put { key, value: StateValue::Record { event }, .. } = change {
                self.retained.insert(key, made.events[event].event.clone());
            }
        }
        self.published += made.events.len();
        for queue in self.queues.iter_mut().filter(|q| q.drops) {
            queue.adopt_losses(store, LossReason::QueueFull);
        }
    }

    fn acknowledge(&mut self, store: &dyn Store, pair: usize, share: u8) {
        let queue = &mut self.queues[pair];
        if queue.pair.uplink == eventmesh_edge_core::ports::store::UplinkId::NONE {
            return;
        }
        let n = queue.waiting.len() * usize::from(share) / 255;
        let Some((acked, _)) = n.checked_sub(1).and_then(|last| queue.waiting.get(last)) else { return };
        ack(store, queue.pair, *acked);
        queue.waiting.drain(..n);
    }

    fn remove_entry(&mut self, store: &dyn Store, session: u64, nth: usize) {
        let Some(entries) = self.mailboxes.get_mut(&session).filter(|m| !m.is_empty()) else { return };
        let nth = nth % entries.len();
        let (session, position) = (SessionNo(session), entries[nth].0);
        commit(store, state_of([StateChange::MailboxRemove { session, position }]));
        entries.remove(nth);
    }

    /// Expiry may take the store's thread; what it did is taken from the ledger, what it must have done is checked.
    fn expire(&mut self, store: &dyn Store, minutes: u64) {
        self.now = self.now.after(Duration::from_secs(60 * minutes));
        let now = self.now;
        let queue = &mut self.queues[2];
        let due = queue.waiting.iter().take_while(|(_, e)| e.received.after(MAX_AGE) < now).count() as u64;
        let before = lost(store, Some(queue.pair), LossReason::Expired).events;
        super::support::tick_until(store, now, "what is due expires", || {
            lost(store, Some(queue.pair), LossReason::Expired).events >= before + due
        });
        queue.adopt_losses(store, LossReason::Expired);
        assert_eq!(
            lost(store, Some(queue.pair), LossReason::Expired).events,
            before + due,
            "nothing else expires"
        );
    }

    fn check(&self, store: &dyn Store) {
        for queue in &self.queues {
            let seen = assert_backlog_is_exact(store, queue.pair);
            let seen: Vec<_> = seen.into_iter().map(|e| (e.position, e.event)).collect();
            assert!(
                queue.waiting.iter().eq(&seen),
                "{:?}: {} seen, {} expected",
                queue.pair,
                seen.len(),
                queue.waiting.len()
            );
            assert!(store.backlog(queue.pair).bytes <= queue.max_bytes, "P5: budget of {:?}", queue.pair);
        }
        for session in 0..3 {
            let expected: Vec<_> = self.mailboxes.get(&session).into_iter().flatten().cloned().collect();
            let seen = mailbox(store, SessionNo(session), Position::ZERO, 1000);
            assert_eq!(store.mailbox_len(SessionNo(session)).0, expected.len() as u64);
            assert!(
                seen.iter()
                    .map(|i| (i.event.position, i.event.event.clone(), i.options.clone()))
                    .eq(expected)
            );
        }
        assert_eq!(lost(store, None, LossReason::SessionQueueFull).events, self.mail_lost);
        let table: Vec<_> = self.table.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_eq!(store.scan(Table::Node, b"", None, 100).unwrap(), table);
        let retained = store.scan(Table::Retained, b"", None, 100).unwrap();
        let decoded = |body| eventmesh_edge_core::event::record::decode(body).unwrap().0;
        assert!(retained.iter().map(|(k, v)| (k.clone(), decoded(v))).eq(self.retained.clone()));
    }
}

impl Queue {
    /// How much is given up is the store's choice within its bounds; that it is the oldest part, counted exactly, is not.
    fn adopt_losses(&mut self, store: &dyn Store, reason: LossReason) {
        let total = lost(store, Some(self.pair), reason).events;
        let known = self.lost.insert(reason, total).unwrap_or(0);
        let dropped = usize::try_from(total - known).unwrap();
        assert!(dropped <= self.waiting.len(), "more counted as lost than there was");
        self.waiting.drain(..dropped);
    }
}

fn run<F: Factory>(factory: &F, ops: &[Op]) {
    let mut store: Arc<dyn Store> = factory.open(spec());
    let mut model = Model::new();
    for op in ops {
        if matches!(op, Op::Reopen) {
            store = reopen(factory, store, spec());
        }
        model.step(&*store, op);
        model.check(&*store);
    }
    let store = reopen(factory, store, spec());
    model.check(&*store);
    // And the way out is open: everything that waits can be acknowledged.
    for queue in &model.queues {
        let waiting = read_all(&*store, queue.pair, store.backlog(queue.pair).acked);
        if let Some(last) = waiting.last() {
            ack(&*store, queue.pair, last.position);
        }
    }
}

/// Any sequence of commits, acknowledgements, state changes, expiries and restarts gives what the model gives, and
/// accepted = acknowledged + waiting + lost to the event.
///
/// # Panics
/// With the smallest failing sequence of operations.
pub fn random_operations_agree_with_the_model<F: Factory>(make: impl Fn() -> F) {
    let config = Config { cases: make().cases(), failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&proptest::collection::vec(op(), 1..40), |ops| {
        let factory = make();
        // A panic inside is a failing case for proptest, which then makes it smaller.
        run(&factory, &ops);
        Ok::<(), TestCaseError>(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
