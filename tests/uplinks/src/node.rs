//! The forwarding half of a node: the real forwarder and its task over a store in memory, with any uplink.

use crate::events::event;
use eventmesh_edge_contract::MemoryDisk;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, LogId};
use eventmesh_edge_core::forward::{self, Backoff, Order};
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::{
    Commit, Consumer, NewEvent, Store, StoreSpec, StreamId, StreamSpec, UplinkId, WhenFull,
};
use eventmesh_edge_core::ports::uplink::Uplink;
use eventmesh_edge_runtime::clock::SystemClock;
use eventmesh_edge_runtime::forward::{DownwardSink, Forward, Handle, Options, Stream, UplinkStatus};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A forwarder with a store of its own, and how many events were put into it.
pub struct Node {
    store: Arc<dyn Store>,
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    published: u64,
    patience: Duration,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("published", &self.published).field("status", &self.status()).finish()
    }
}

const CONSUMER: Consumer = Consumer { stream: StreamId(0), uplink: UplinkId(0) };

/// Rules for [`Node::start`] as the daemon has them, only less patient with faults.
#[must_use]
pub fn quick(order: Order, seed: u64) -> forward::Options {
    let soon = Backoff { base: Duration::from_millis(5), cap: Duration::from_millis(40) };
    forward::Options {
        order,
        retry: soon,
        connect: soon,
        commit_every: Duration::from_millis(10),
        seed,
        ..forward::Options::new(UplinkId(0))
    }
}

impl Node {
    /// Starts forwarding. A wait that takes longer than `patience` fails the test; nothing else is decided by it.
    #[must_use]
    pub fn start(
        uplink: Box<dyn Uplink>,
        rules: forward::Options,
        down: Arc<dyn DownwardSink>,
        patience: Duration,
    ) -> Node {
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
        let kind = Arc::new(|_, _: &_| Text::from_static("com.example.t.v1"));
        let name = Text::from_static("default");
        let options = Options {
            rules,
            streams: vec![Stream { id: StreamId(0), name, max_age: None, weight: 1 }],
            stop_limit: Duration::from_secs(2),
            ..Options::new(Text::from_static("cloud"), UplinkId(0), kind)
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let forward = Forward::new(options, Arc::clone(&store), uplink, clock, down).unwrap();
        let handle = forward.handle();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(forward.run(async { stopped.await.unwrap_or_default() }));
        Node { store, handle, stop: Some(stop), task, published: 0, patience }
    }

    /// Commits events whose data count on, over seven topics.
    pub fn publish(&mut self, events: u64) {
        let from = self.published;
        self.published += events;
        let new = |n: u64| NewEvent {
            stream: Some(StreamId(0)),
            event: Event { topic: Text::from(format!("t/{}", n % 7)), ..event(n) },
            mailboxes: Vec::new(),
        };
        let events = (from..self.published).map(new).collect();
        self.store.submit(Commit { events, ..Commit::default() }, Box::new(|done| assert!(done.is_ok())));
    }

    /// Events put in so far; their data are the numbers below this.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.published
    }

    /// What the forwarder says of itself.
    #[must_use]
    pub fn status(&self) -> UplinkStatus {
        self.handle.status()
    }

    /// What was given up, for whatever reason.
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.store.ledger().iter().map(|line| line.events).sum()
    }

    /// Waits until `probe` says that it is so.
    pub async fn until(&self, what: &str, mut probe: impl FnMut(&UplinkStatus) -> bool) {
        let poll = async {
            while !probe(&self.status()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = tokio::time::timeout(self.patience, poll).await;
        let waiting = self.store.backlog(CONSUMER).events;
        assert!(waited.is_ok(), "never: {what}; {waiting} wait; {:#?}", self.status());
    }

    /// Waits until everything published is acknowledged.
    pub async fn drained(&self) {
        let store = &self.store;
        self.until("drained", |_| store.backlog(CONSUMER).events == 0).await;
    }

    /// Stops it as the daemon does.
    pub async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap();
    }
}
