//! The hub over the store in memory, in virtual time. The store is in manual mode where the moment of the commit
//! matters; the hub's task is turned by hand where the order of things does.

mod commits;
mod downward;
mod full;
mod refused;
mod sessions;
mod subscribers;

use super::deliver::Round;
use super::*;
use eventmesh_edge_contract::suite::support::{spec_of, stream};
use eventmesh_edge_contract::{FaultyStore, MemoryStore, Script};
use eventmesh_edge_core::event::{Timestamp, Via};
use eventmesh_edge_core::ports::hub::{Audience, Offer, Publication, RetainedFor};
use eventmesh_edge_core::ports::store::{Committed, StoreSpec, StreamId, WhenFull};
use eventmesh_edge_core::route::Route;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

const NOW: Timestamp = Timestamp(1_790_000_000_000);
const TELEMETRY: StreamId = StreamId(0);
const ALARMS: StreamId = StreamId(1);

const OPTIONS: SubscribeOptions = SubscribeOptions {
    qos: Qos::AtLeastOnce,
    no_local: false,
    retain_as_published: false,
    retain_handling: 0,
    identifier: 0,
};

struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// A connection that takes up to `room` deliveries.
struct Connection {
    room: AtomicUsize,
    got: Mutex<Vec<Delivery>>,
    flushes: AtomicUsize,
    /// It had no room since it was last asked.
    overflow: AtomicBool,
}

impl Connection {
    fn new(room: usize) -> Arc<Connection> {
        Arc::new(Connection {
            room: AtomicUsize::new(room),
            got: Mutex::default(),
            flushes: AtomicUsize::new(0),
            overflow: AtomicBool::new(false),
        })
    }

    fn texts(&self) -> Vec<String> {
        lock(&self.got).iter().map(|d| String::from_utf8_lossy(&d.event.payload).into_owned()).collect()
    }

    fn flushes(&self) -> usize {
        self.flushes.load(Ordering::Relaxed)
    }

    fn set_room(&self, room: usize) {
        self.room.store(room, Ordering::Relaxed);
    }
}

impl Outlet for Connection {
    fn offer(&self, delivery: Delivery) -> Offer {
        let room = self.room.load(Ordering::Relaxed);
        if room == 0 {
            self.overflow.store(true, Ordering::Relaxed);
            return Offer::Full;
        }
        self.room.store(room - 1, Ordering::Relaxed);
        lock(&self.got).push(delivery);
        Offer::Taken
    }

    fn flush(&self) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
    }
}

/// Answers in the order in which they came, each with the name of its submission.
type Answers = Arc<Mutex<Vec<(String, Result<Accepted, CommitError>)>>>;

struct Bench {
    hub: Arc<NodeHub>,
    store: Arc<MemoryStore>,
    clock: Arc<TestClock>,
    round: Round,
    answers: Answers,
}

fn spec() -> StoreSpec {
    spec_of([
        stream("telemetry", &[0], 2_000, WhenFull::Refuse),
        stream("alarms", &[0], 1 << 20, WhenFull::Refuse),
    ])
}

fn router() -> Router {
    let route = |topic: &str, stream| Route { topics: vec![filter(topic)], stream, kind: None };
    Router::new(vec![route("t/#", TELEMETRY), route("a/#", ALARMS)], None).unwrap()
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::parse(text.to_owned()).unwrap()
}

pub(super) fn event(topic: &str, payload: &str) -> Event {
    Event {
        via: Via::Mqtt5,
        qos: Qos::AtLeastOnce,
        retain: false,
        source: Text::from_static("mqtt://plant-7/sensor"),
        id: None,
        time: Some(NOW),
        received: NOW,
        expires: None,
        topic: Text::from(topic.to_owned()),
        payload: Bytes::from(payload.to_owned()),
        properties: None,
    }
}

pub(super) fn from(publisher: Option<SubscriberId>, events: impl IntoIterator<Item = Event>) -> Submission {
    let publications = events.into_iter().map(|event| Publication { event, publisher }).collect();
    Submission { publications, ..Submission::default() }
}

impl Bench {
    /// Every commit is durable at once.
    fn new() -> Bench {
        Bench::over(MemoryStore::new(spec()), |_| {})
    }

    /// Commits are durable when the test says so.
    fn manual() -> Bench {
        Bench::over(MemoryStore::manual(spec()), |_| {})
    }

    /// Some commits fail.
    fn faulty(script: Script) -> Bench {
        let store = MemoryStore::new(spec());
        Bench::around(store.clone(), Arc::new(FaultyStore::new(store, script)), |_| {})
    }

    fn over(store: Arc<MemoryStore>, change: impl FnOnce(&mut HubOptions)) -> Bench {
        Bench::around(store.clone(), store, change)
    }

    fn around(store: Arc<MemoryStore>, port: Arc<dyn Store>, change: impl FnOnce(&mut HubOptions)) -> Bench {
        let clock = Arc::new(TestClock(AtomicU64::new(NOW.0)));
        let mut options = HubOptions::new(Text::from_static("plant-7"));
        change(&mut options);
        let hub = NodeHub::new(options, port, router(), clock.clone());
        Bench { hub, store, clock, round: Round::default(), answers: Answers::default() }
    }

    /// Submits; the answer appears under `name`.
    fn submit(&self, name: &str, submission: Submission) {
        let (answers, name) = (self.answers.clone(), name.to_owned());
        self.hub.submit(submission, Box::new(move |result| lock(&answers).push((name, result))));
    }

    /// One publication of nobody in particular, named by its payload.
    fn publish(&self, topic: &str, payload: &str) {
        self.submit(payload, from(None, [event(topic, payload)]));
    }

    /// The hub's task does what there is to do.
    async fn turn(&mut self) {
        self.hub.work_off(&mut self.round).await;
    }

    /// The next `n` commits are durable, and the hub's task has its turn.
    async fn commit(&mut self, n: usize) {
        assert_eq!(self.store.complete_next(n), n, "that many commits were expected at the store");
        self.turn().await;
    }

    fn answered(&self) -> Vec<String> {
        lock(&self.answers).iter().map(|(name, _)| name.clone()).collect()
    }

    fn answer(&self, name: &str) -> Result<Accepted, CommitError> {
        let answers = lock(&self.answers);
        let mut of_name = answers.iter().filter(|(n, _)| n == name).map(|(_, result)| result.clone());
        let answer = of_name.next().expect("it was answered");
        assert!(of_name.next().is_none(), "{name} was answered twice");
        answer
    }

    fn subscriber(&self, connection: &Arc<Connection>, topic: &str) -> SubscriberId {
        let id = self.hub.attach(None, Some(connection.clone()));
        assert!(self.hub.subscribe(id, &filter(topic), OPTIONS));
        id
    }

    /// A persistent session that is away.
    fn session(&self, number: u64, topic: &str) -> SubscriberId {
        let id = self.hub.attach(Some(SessionNo(number)), None);
        assert!(self.hub.subscribe(id, &filter(topic), OPTIONS));
        id
    }

    /// What is in a mailbox, read through the hub.
    fn mailbox(&self, number: u64, after: Position) -> Vec<MailboxItem> {
        self.mailbox_of(number, after, 100)
    }

    fn mailbox_of(&self, number: u64, after: Position, max: usize) -> Vec<MailboxItem> {
        let items = Arc::new(Mutex::new(None));
        let into = items.clone();
        let done = Box::new(move |result: Result<Vec<MailboxItem>, ReadError>| {
            *lock(&into) = Some(result.unwrap());
        });
        self.hub.read_mailbox(SessionNo(number), after, max, done);
        lock(&items).take().expect("the store in memory answers at once")
    }

    /// Reads a mailbox to its end, as a connection does before it resumes.
    fn catch_up(&self, number: u64, subscriber: SubscriberId) -> (Vec<String>, Position) {
        let (mut texts, mut through) = (Vec::new(), Position::ZERO);
        loop {
            let items = self.mailbox(number, through);
            let Some(last) = items.last() else { break };
            through = last.event.position;
            texts.extend(items.iter().map(|i| String::from_utf8_lossy(&i.event.event.payload).into_owned()));
        }
        assert!(self.hub.resume(subscriber, through), "everything has been read");
        (texts, through)
    }
}

/// A commit's positions as they are answered.
fn stored(committed: &Committed) -> Vec<Option<Position>> {
    committed.positions.iter().copied().map(Some).collect()
}
