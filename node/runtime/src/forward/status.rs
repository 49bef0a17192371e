//! What an operator asks about an uplink: is it up, is it moving, how old is the oldest event, when will it be gone.

use super::Options;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_core::forward::{Counters, Progress, Volume};
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::{Backlog, Consumer, Store, StreamId, UplinkId};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Where the connection stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkState {
    /// Not begun.
    #[default]
    Idle,
    /// An attempt is under way.
    Connecting,
    /// Connected.
    Up,
    /// Not connected, waiting for the next attempt.
    Down,
    /// The service has ended.
    Stopped,
}

/// One stream of an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamStatus {
    /// Which.
    pub stream: StreamId,
    /// Its name.
    pub name: Text,
    /// What waits.
    pub backlog: Backlog,
}

/// One uplink at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct UplinkStatus {
    /// Its name.
    pub name: Text,
    /// Is it up?
    pub state: LinkState,
    /// How long it has been in this state.
    pub since: Duration,
    /// Why the last connection ended or was not made; kept while the next attempt is under way.
    pub cause: Option<Text>,
    /// Where it is connected.
    pub address: Option<Text>,
    /// Number of the address that is tried or used.
    pub address_index: usize,
    /// When the next attempt is made.
    pub retry_in: Option<Duration>,
    /// What waits, by stream.
    pub streams: Vec<StreamStatus>,
    /// Age of the oldest waiting event, if it is known and the clock is set.
    pub oldest: Option<Duration>,
    /// Acknowledged events per second, over some ten seconds.
    pub rate_per_s: f64,
    /// Until the backlog is gone at this pace; `None` if it does not shrink.
    pub time_to_drain: Option<Duration>,
    /// Sent and unanswered.
    pub in_flight: Volume,
    /// In memory beside them.
    pub waiting: Volume,
    /// How long ago something was acknowledged last.
    pub last_acked: Option<Duration>,
    /// Since the start.
    pub counters: Counters,
    /// The upstream's words when it refused an event last.
    pub last_refusal: Option<Text>,
    /// Messages that came down.
    pub downward_received: u64,
    /// Messages that came down faster than they could be taken over, and were not.
    pub downward_dropped: u64,
}

impl UplinkStatus {
    /// Events waiting over all streams.
    #[must_use]
    pub fn backlog_events(&self) -> u64 {
        self.streams.iter().map(|stream| stream.backlog.events).sum()
    }

    /// Their stored bytes.
    #[must_use]
    pub fn backlog_bytes(&self) -> u64 {
        self.streams.iter().map(|stream| stream.backlog.bytes).sum()
    }
}

/// What the service notes down each round.
#[derive(Clone, Debug, Default)]
pub(super) struct Live {
    pub(super) state: LinkState,
    pub(super) since: Duration,
    pub(super) cause: Option<Text>,
    pub(super) address: Option<Text>,
    pub(super) address_index: usize,
    pub(super) retry_at: Option<Duration>,
    pub(super) in_flight: Volume,
    pub(super) waiting: Volume,
    pub(super) last_acked: Option<Duration>,
    pub(super) counters: Counters,
    pub(super) last_refusal: Option<Text>,
    pub(super) downward: (u64, u64),
    pub(super) progress: Progress,
}

/// Shared between the service, which writes, and the handles, which read.
pub(super) struct Board {
    name: Text,
    uplink: UplinkId,
    streams: Vec<(StreamId, Text)>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    live: Mutex<Live>,
}

impl Board {
    pub(super) fn new(options: &Options, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self {
            name: options.name.clone(),
            uplink: options.rules.uplink,
            streams: options.streams.iter().map(|stream| (stream.id, stream.name.clone())).collect(),
            live: Mutex::new(Live { since: clock.monotonic(), ..Live::default() }),
            store,
            clock,
        }
    }

    pub(super) fn live(&self) -> MutexGuard<'_, Live> {
        // Plain figures: whole whatever happened to who held it.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn backlog(&self, stream: StreamId) -> Backlog {
        self.store.backlog(Consumer { stream, uplink: self.uplink })
    }

    pub(super) fn status(&self) -> UplinkStatus {
        let live = self.live().clone();
        let (now, wall) = (self.clock.monotonic(), self.clock.now());
        let streams: Vec<_> = self
            .streams
            .iter()
            .map(|(stream, name)| StreamStatus {
                stream: *stream,
                name: name.clone(),
                backlog: self.backlog(*stream),
            })
            .collect();
        UplinkStatus {
            name: self.name.clone(),
            state: live.state,
            since: now.saturating_sub(live.since),
            cause: live.cause,
            address: live.address,
            address_index: live.address_index,
            retry_in: live.retry_at.map(|at| at.saturating_sub(now)),
            oldest: oldest(&streams, wall),
            streams,
            rate_per_s: live.progress.rate(),
            time_to_drain: live.progress.time_to_drain(),
            in_flight: live.in_flight,
            waiting: live.waiting,
            last_acked: live.last_acked.map(|at| now.saturating_sub(at)),
            counters: live.counters,
            last_refusal: live.last_refusal,
            downward_received: live.downward.0,
            downward_dropped: live.downward.1,
        }
    }
}

fn oldest(streams: &[StreamStatus], wall: Timestamp) -> Option<Duration> {
    let received = streams.iter().filter_map(|stream| stream.backlog.oldest);
    let oldest = received.filter(|at| at.is_plausible()).min()?;
    wall.is_plausible().then(|| oldest.until(wall))
}
