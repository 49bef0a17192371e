//! One uplink as a task: [`core::forward`](eventmesh_edge_core::forward) decides, this carries out.
//!
//! [`Forward`] owns one [`Uplink`] and the [`Forwarder`] that drives it. Each
//! wake-up takes everything that has happened (store completions, uplink events, time), steps the state machine through
//! all of it, carries the actions out and flushes the uplink once; no event has a task or a timer of its own. A dead
//! uplink is a task that sleeps until its next attempt, so it cannot slow a healthy one down (P2).
//!
//! Messages that come down go to a [`DownwardSink`] and are confirmed to the upstream only when it says that they are
//! durable (P1, towards the upstream).
//!
//! ```no_run
//! # use eventmesh_edge_runtime::forward::{DownwardSink, Forward, Options};
//! # use eventmesh_edge_core::ports::{clock::Clock, store::Store, uplink::Uplink};
//! # use std::sync::Arc;
//! # async fn example(options: Options, store: Arc<dyn Store>, uplink: Box<dyn Uplink>, clock: Arc<dyn Clock>,
//! #     sink: Arc<dyn DownwardSink>, stop: tokio::sync::oneshot::Receiver<()>) {
//! let forward = Forward::new(options, store, uplink, clock, sink).expect("checked options");
//! let handle = forward.handle();
//! tokio::spawn(forward.run(async { stop.await.unwrap_or_default() }));
//! println!("{} events wait", handle.status().backlog_events());
//! # }
//! ```

mod downward;
mod inbox;
mod service;
mod status;

#[cfg(test)]
mod tests;

pub use downward::{DownwardSink, Kept};
pub use status::{LinkState, StreamStatus, UplinkStatus};

use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::StoredEvent;
use eventmesh_edge_core::forward::{self as rules, Forwarder, OptionsError};
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::{Consumer, Store, StreamId, UplinkId};
use eventmesh_edge_core::ports::uplink::Uplink;
use inbox::Inbox;
use status::Board;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Tells the CloudEvents `type` of an event on its way out: from its route, else the default.
pub type KindOf = Arc<dyn Fn(StreamId, &StoredEvent) -> Text + Send + Sync>;

/// What a [`Forward`] is made with.
#[derive(Clone)]
pub struct Options {
    /// Name of the uplink, for `status` and the log.
    pub name: Text,
    /// Bounds and habits; `addresses` is taken from the uplink itself.
    pub rules: rules::Options,
    /// What it reads.
    pub streams: Vec<Stream>,
    /// The `type` of outgoing events.
    pub kind: KindOf,
    /// Messages from the upstream that may be under way to the sink; as many again wait, what comes beyond is not
    /// confirmed and counted (P5). An upstream that keeps to a receive window of this size never gets there.
    pub downward_max: usize,
    /// How long a graceful stop may take in all.
    pub stop_limit: Duration,
}

impl Options {
    /// Defaults, and nothing to read yet.
    #[must_use]
    pub fn new(name: Text, uplink: UplinkId, kind: KindOf) -> Self {
        Self {
            name,
            rules: rules::Options::new(uplink),
            streams: Vec::new(),
            kind,
            downward_max: 32,
            stop_limit: Duration::from_secs(5),
        }
    }
}

/// A stream that the uplink reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Which.
    pub id: StreamId,
    /// Its name, for `status` and the log.
    pub name: Text,
    /// Older events are given up instead of sent.
    pub max_age: Option<Duration>,
    /// Guaranteed part of the window, relative to the other streams'.
    pub weight: u32,
}

/// The service: made, then run.
pub struct Forward {
    options: Options,
    forwarder: Forwarder,
    store: Arc<dyn Store>,
    uplink: Box<dyn Uplink>,
    clock: Arc<dyn Clock>,
    sink: Arc<dyn DownwardSink>,
    inbox: Arc<Inbox>,
    board: Arc<Board>,
}

impl Forward {
    /// Takes the durable cursors from the store and watches it; nothing else happens before [`Forward::run`].
    ///
    /// # Errors
    /// [`OptionsError`] if the options make forwarding impossible.
    pub fn new(
        options: Options,
        store: Arc<dyn Store>,
        uplink: Box<dyn Uplink>,
        clock: Arc<dyn Clock>,
        downward: Arc<dyn DownwardSink>,
    ) -> Result<Self, OptionsError> {
        let id = options.rules.uplink;
        let streams: Vec<_> = options
            .streams
            .iter()
            .map(|stream| rules::StreamOptions {
                stream: stream.id,
                acked: store.backlog(Consumer { stream: stream.id, uplink: id }).acked,
                max_age: stream.max_age,
                weight: stream.weight,
            })
            .collect();
        let rules = rules::Options { addresses: uplink.addresses().max(1), ..options.rules.clone() };
        let forwarder = Forwarder::new(rules, &streams)?;
        let inbox = Arc::new(Inbox::default());
        let watching = Arc::clone(&inbox);
        store.watch(Arc::new(move |change| watching.changed(change)));
        let board = Arc::new(Board::new(&options, Arc::clone(&store), Arc::clone(&clock)));
        Ok(Self { options, forwarder, store, uplink, clock, sink: downward, inbox, board })
    }

    /// A handle for status; stays valid after the service has ended.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { board: Arc::clone(&self.board), inbox: Arc::clone(&self.inbox) }
    }

    /// Forwards until `stop` is ready, then stops gracefully: nothing new is sent, answers are awaited, cursors made
    /// durable, the connection closed; all within [`Options::stop_limit`].
    pub async fn run(self, stop: impl Future<Output = ()> + Send) {
        service::run(self, stop).await;
    }
}

/// What others hold of a running [`Forward`].
#[derive(Clone)]
pub struct Handle {
    board: Arc<Board>,
    inbox: Arc<Inbox>,
}

impl Handle {
    /// How it stands. Cheap: figures that are in memory anyway.
    #[must_use]
    pub fn status(&self) -> UplinkStatus {
        self.board.status()
    }
    /// Puts another uplink, which must not be connected yet, in the place of the one that there is: new addresses or
    /// credentials while everything runs. The cursor stays where it is; what is under way is sent again by the new one.
    /// Without effect once a graceful stop has begun.
    pub fn replace(&self, uplink: Box<dyn Uplink>) {
        self.inbox.replace(uplink);
    }
}
