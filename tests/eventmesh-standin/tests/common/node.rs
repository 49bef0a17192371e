//! The forwarding half of a node: the real forwarder and its task over a store in memory, with an EventMesh uplink.

use crate::common::{PATIENCE, outgoing};
use eventmesh_edge_contract::MemoryDisk;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, LogId};
use eventmesh_edge_core::forward::{self, Backoff, Order, Pipeline, Volume};
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::{
    Commit, Consumer, NewEvent, Store, StoreSpec, StreamId, StreamSpec, UplinkId, WhenFull,
};
use eventmesh_edge_core::ports::uplink::Downward;
use eventmesh_edge_runtime::clock::SystemClock;
use eventmesh_edge_runtime::forward::{DownwardSink, Forward, Handle, Options, Stream, UplinkStatus};
use eventmesh_edge_uplink_eventmesh::EventMeshUplink;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Nobody;

impl DownwardSink for Nobody {
    fn accept(&self, _message: Downward, done: Completion<bool>) {
        done(true);
    }
}

pub(crate) struct Node {
    store: Arc<dyn Store>,
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    published: u64,
}

const CONSUMER: Consumer = Consumer { stream: StreamId(0), uplink: UplinkId(0) };

impl Node {
    /// Starts forwarding, set up as the daemon would, only less patient.
    pub(crate) fn start(uplink: eventmesh_edge_uplink_eventmesh::Options, order: Order, seed: u64) -> Node {
        let spec = StoreSpec {
            streams: vec![StreamSpec {
                name: Text::from_static("default"),
                uplinks: vec![UplinkId(0)],
                max_bytes: 1 << 30,
                max_age: None,
                when_full: WhenFull::Refuse,
            }],
            uplinks: vec![Text::from_static("cloud")],
            disk_max: 1 << 32,
            mailbox_max_bytes: 1 << 20,
            mailbox_max_events: 1_000,
            mailboxes_max_bytes: 1 << 30,
        };
        let store: Arc<dyn Store> = MemoryDisk::new(LogId(0x00ab_cdef)).open(spec);
        let quick = Backoff { base: Duration::from_millis(5), cap: Duration::from_millis(40) };
        let rules = forward::Options {
            order,
            pipeline: Pipeline::Unordered,
            window: Volume { events: 4_096, bytes: 2 << 20 },
            retry: quick,
            connect: quick,
            connect_timeout: Duration::from_secs(1),
            answer_timeout: uplink.answer_timeout * 3,
            commit_every: Duration::from_millis(10),
            addresses: uplink.addresses.len(),
            seed,
            ..forward::Options::new(UplinkId(0))
        };
        let kind = Arc::new(|_, _: &_| Text::from_static("com.example.t.v1"));
        let name = Text::from_static("default");
        let options = Options {
            rules,
            streams: vec![Stream { id: StreamId(0), name, max_age: None, weight: 1 }],
            stop_limit: Duration::from_secs(2),
            ..Options::new(Text::from_static("cloud"), UplinkId(0), kind)
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let uplink = Box::new(EventMeshUplink::new(uplink).unwrap());
        let forward = Forward::new(options, Arc::clone(&store), uplink, clock, Arc::new(Nobody)).unwrap();
        let handle = forward.handle();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(forward.run(async { stopped.await.unwrap_or_default() }));
        Node { store, handle, stop: Some(stop), task, published: 0 }
    }

    /// Commits events whose data count on, over seven topics.
    pub(crate) fn publish(&mut self, events: u64) {
        let from = self.published;
        self.published += events;
        let new = |n: u64| NewEvent {
            stream: Some(StreamId(0)),
            event: Event { topic: Text::from(format!("t/{}", n % 7)), ..outgoing(n).event.event.clone() },
            mailboxes: Vec::new(),
        };
        let events = (from..self.published).map(new).collect();
        self.store.submit(Commit { events, ..Commit::default() }, Box::new(|done| assert!(done.is_ok())));
    }

    pub(crate) fn published(&self) -> u64 {
        self.published
    }

    pub(crate) fn status(&self) -> UplinkStatus {
        self.handle.status()
    }

    /// What was given up, for whatever reason.
    pub(crate) fn losses(&self) -> u64 {
        self.store.ledger().iter().map(|line| line.events).sum()
    }

    /// Waits until `probe` says that it is so.
    pub(crate) async fn until(&self, what: &str, mut probe: impl FnMut(&UplinkStatus) -> bool) {
        let poll = async {
            while !probe(&self.status()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = tokio::time::timeout(2 * PATIENCE, poll).await;
        let waiting = self.store.backlog(CONSUMER).events;
        assert!(waited.is_ok(), "never: {what}; {waiting} wait; {:#?}", self.status());
    }

    /// Waits until everything published is acknowledged.
    pub(crate) async fn drained(&self) {
        let store = &self.store;
        self.until("drained", |_| store.backlog(CONSUMER).events == 0).await;
    }

    pub(crate) async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap();
    }
}
