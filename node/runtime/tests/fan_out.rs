//! One read of a socket, one message even, for more persistent sessions than a commit of the real store has room for.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

use bytes::Bytes;
use eventmesh_edge_contract::suite::support::{spec_of, stream};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, Position, Qos, Timestamp, Via};
use eventmesh_edge_core::ports::hub::{Accepted, Hub, Publication, Submission, SubscribeOptions};
use eventmesh_edge_core::ports::store::{
    CommitError, LossReason, SessionNo, StateChange, StateValue, Store, StoreSpec, StreamId, Table, WhenFull,
};
use eventmesh_edge_core::route::{Route, Router};
use eventmesh_edge_core::topic::TopicFilter;
use eventmesh_edge_runtime::clock::SystemClock;
use eventmesh_edge_runtime::hub::{HubOptions, NodeHub};
use eventmesh_edge_store::{JournalStore, StoreOptions};
use std::sync::Arc;
use tokio::sync::oneshot;

const NOW: Timestamp = Timestamp(1_790_000_000_000);

/// A hub over a store whose commits take 64 KiB at most.
struct Bench {
    hub: Arc<NodeHub>,
    store: Arc<JournalStore>,
    running: tokio::task::JoinHandle<()>,
    stop: oneshot::Sender<()>,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn start() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let spec = StoreSpec {
            disk_max: 64 << 20,
            mailbox_max_events: 100,
            mailboxes_max_bytes: 1 << 30,
            mailbox_max_bytes: 1 << 20,
            ..spec_of([stream("telemetry", &[0], 8 << 20, WhenFull::Refuse)])
        };
        let options = StoreOptions { segment_bytes: 64 << 10, ..StoreOptions::default() };
        let (store, _) =
            JournalStore::open(dir.path(), spec, &options, Arc::new(SystemClock::new())).unwrap();
        let store = Arc::new(store);
        let route = Route { topics: vec![filter("t/#")], stream: StreamId(0), kind: None };
        let router = Router::new(vec![route], None).unwrap();
        let hub = NodeHub::new(
            HubOptions::new(Text::from_static("plant-7")),
            store.clone(),
            router,
            Arc::new(SystemClock::new()),
        );
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(hub.clone().run(async { drop(stopped.await) }));
        Bench { hub, store, running, stop, _dir: dir }
    }

    /// Persistent sessions that are away; the n-th filter has the Subscription Identifier `identifiers + n`, if any.
    fn sessions(&self, numbers: std::ops::RangeInclusive<u64>, filters: &[&str], identifiers: u32) {
        for number in numbers {
            let subscriber = self.hub.attach(Some(SessionNo(number)), None);
            for (text, n) in filters.iter().zip(0..) {
                let options = SubscribeOptions {
                    qos: Qos::AtLeastOnce,
                    no_local: false,
                    retain_as_published: false,
                    retain_handling: 0,
                    identifier: if identifiers == 0 { 0 } else { identifiers + n },
                };
                assert!(self.hub.subscribe(subscriber, &filter(text), options));
            }
        }
    }

    async fn submit(&self, submission: Submission) -> Result<Accepted, CommitError> {
        let (done, answer) = oneshot::channel();
        let done = Box::new(move |result| drop(done.send(result)));
        self.hub.submit(submission, done);
        answer.await.unwrap()
    }

    async fn mailbox(&self, session: u64) -> Vec<String> {
        let (done, answer) = oneshot::channel();
        let done = Box::new(move |result| drop(done.send(result)));
        self.hub.read_mailbox(SessionNo(session), Position::ZERO, 100, done);
        let items: Vec<_> = answer.await.unwrap().unwrap();
        items.iter().map(|i| String::from_utf8_lossy(&i.event.event.payload).into_owned()).collect()
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap();
        self.store.close();
    }
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::parse(text.to_owned()).unwrap()
}

fn publication(payload: &str) -> Publication {
    let event = Event {
        via: Via::Mqtt5,
        qos: Qos::AtLeastOnce,
        retain: false,
        source: Text::from_static("mqtt://plant-7/sensor"),
        id: None,
        time: Some(NOW),
        received: NOW,
        expires: None,
        topic: Text::from_static("t/x"),
        payload: Bytes::from(payload.to_owned()),
        properties: None,
    };
    Publication { event, publisher: None }
}

fn row(event: usize) -> StateChange {
    let key = Bytes::from(format!("row {event}"));
    let value = StateValue::Position { event, suffix: Bytes::new() };
    StateChange::Put { table: Table::Inbound, key, value }
}

#[tokio::test]
async fn a_read_for_more_sessions_than_a_commit_takes_is_stored_in_parts() {
    const SESSIONS: u64 = 4_000;
    let bench = Bench::start();
    bench.sessions(1..=SESSIONS, &["t/#"], 0);
    // 48,000 pairs of event and session: twice what is planned at once, four times what a commit takes.
    let names: Vec<String> = (0..12).map(|n| n.to_string()).collect();
    let submission = Submission {
        publications: names.iter().map(|name| publication(name)).collect(),
        state: (0..names.len()).map(row).collect(),
        ..Submission::default()
    };
    let accepted = bench.submit(submission).await.unwrap();
    assert!(accepted.cut.is_none());
    let positions: Vec<Position> = accepted.positions.into_iter().flatten().collect();
    assert_eq!(positions.len(), names.len());
    assert!(positions.is_sorted(), "P4: {positions:?}");
    for session in [1, SESSIONS / 2, SESSIONS] {
        assert_eq!(bench.mailbox(session).await, names, "session {session}");
    }
    assert!((1..=SESSIONS).all(|n| bench.store.mailbox_len(SessionNo(n)).0 == 12));
    for (event, position) in positions.iter().enumerate() {
        let value = bench.store.get(Table::Inbound, format!("row {event}").as_bytes()).unwrap().unwrap();
        assert_eq!(&value[..], position.0.to_be_bytes(), "state went with its own event");
    }
    bench.stop().await;
}

/// P4: the parts of one submission are not interleaved with the next of the same submitter.
#[tokio::test]
async fn what_is_submitted_behind_a_large_read_stays_behind_it() {
    let bench = Bench::start();
    bench.sessions(1..=4_000, &["t/#"], 0);
    let publisher = Some(bench.hub.attach(None, None));
    let submission = |names: &[&str]| Submission {
        publications: names.iter().map(|n| Publication { publisher, ..publication(n) }).collect(),
        ..Submission::default()
    };
    let first = bench.submit(submission(&["1", "2", "3", "4", "5", "6"]));
    let second = bench.submit(submission(&["7"]));
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.unwrap().positions.len(), second.unwrap().positions.len()), (6, 1));
    assert_eq!(bench.mailbox(4_000).await, ["1", "2", "3", "4", "5", "6", "7"]);
    bench.stop().await;
}

/// One event that no commit takes with all its claims: those with the most identifiers lose it, and it is counted (P2).
#[tokio::test]
async fn an_event_too_large_by_its_claims_alone_gives_the_largest_up() {
    let bench = Bench::start();
    let all = ["t/x", "t/+", "+/x", "+/+", "#", "t/#", "+/#"];
    bench.sessions(1..=100, &["t/#"], 0);
    bench.sessions(101..=3_100, &all, 260_000_000);
    let accepted = bench.submit(Submission { publications: vec![publication("x")], ..Submission::default() });
    let accepted = accepted.await.unwrap();
    assert!(accepted.positions[0].is_some() && accepted.cut.is_none());
    let has = |n: &u64| bench.store.mailbox_len(SessionNo(*n)).0 == 1;
    assert_eq!((1..=100).filter(has).count(), 100, "nobody with a modest claim loses anything");
    let served = (101..=3_100).filter(has).count() as u64;
    assert!(served > 1_000, "{served}: no more than necessary are left out");
    let (hub, store) = (bench.hub.clone(), bench.store.clone());
    bench.stop().await;
    drop(hub);
    let ledger = store.ledger();
    let lost: u64 =
        ledger.iter().filter(|l| l.reason == LossReason::SessionQueueFull).map(|l| l.events).sum();
    assert_eq!(served + lost, 3_000, "delivered or counted");
}
