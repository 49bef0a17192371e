//! The checked configuration in the terms of `core`: what the store, the hub and the forwarders are made with.

use crate::model::{Config, Order, StreamWhenFull, Unrouted, Uplink};
use crate::resolve::reserve;
use crate::units::ByteSize;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::forward::{self, Backoff, Pipeline, Volume};
use eventmesh_edge_core::ports::store::{StoreSpec, StreamId, StreamSpec, UplinkId, WhenFull};
use eventmesh_edge_core::route::{Route, RouteError, Router};

/// Index into the configuration as the number that the ports use. `u16` holds it: a file with 65,535 uplinks or streams
/// is over the budget check long before.
fn index(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}

impl Config {
    /// What the store is opened with.
    #[must_use]
    pub fn store_spec(&self) -> StoreSpec {
        let reserve = reserve(self.node.disk_max).bytes();
        StoreSpec {
            streams: self.streams.iter().map(stream_spec).collect(),
            uplinks: self.uplinks.iter().map(|uplink| Text::from(uplink.name.to_string())).collect(),
            disk_max: self.node.disk_max.bytes(),
            mailbox_max_bytes: self.session.mailbox_max_bytes.bytes(),
            mailbox_max_events: u64::from(self.session.mailbox_max_events),
            mailboxes_max_bytes: self.session.mailboxes_max_bytes.map_or(reserve / 2, ByteSize::bytes),
        }
    }

    /// What decides which stream takes a message.
    ///
    /// # Errors
    /// None that a checked configuration could cause: [`RouteError`] is what the router itself insists on.
    pub fn router(&self) -> Result<Router, RouteError> {
        let route = |route: &crate::model::Route| Route {
            topics: route.topics.clone(),
            stream: StreamId(index(route.stream)),
            kind: route.kind.clone().map(Text::from),
        };
        let default_stream = (self.node.unrouted == Unrouted::Default).then_some(StreamId(0));
        Router::new(self.routes.iter().map(route).collect(), default_stream)
    }
}

pub(crate) fn stream_spec(stream: &crate::model::Stream) -> StreamSpec {
    StreamSpec {
        name: Text::from(stream.name.to_string()),
        uplinks: stream.uplinks.iter().map(|uplink| UplinkId(index(*uplink))).collect(),
        max_bytes: stream.max_bytes.bytes(),
        max_age: stream.max_age,
        when_full: match stream.when_full {
            StreamWhenFull::Refuse => WhenFull::Refuse,
            StreamWhenFull::DropOldest => WhenFull::DropOldest,
        },
    }
}

impl Uplink {
    /// What its forwarder is made with. `seed` is for the jitter: two nodes must not have the same.
    #[must_use]
    pub fn forward_options(&self, id: UplinkId, seed: u64) -> forward::Options {
        let backoff = Backoff { base: self.retry_min, cap: self.retry_max };
        let defaults = forward::Options::new(id);
        // Twice the window: what is answered out of order behind a late one must not empty the pipe.
        let gap_max = defaults.gap_max.max(2 * self.window_events as usize);
        forward::Options {
            order: match self.order {
                Order::Strict => forward::Order::Strict,
                Order::Sequence => forward::Order::Sequence,
            },
            pipeline: self.pipeline(),
            window: Volume { events: self.window_events as usize, bytes: self.window_bytes.as_usize() },
            read_ahead: self.read_ahead(defaults.read_ahead, gap_max),
            gap_max,
            retry: backoff,
            connect: backoff,
            connect_timeout: self.connect_timeout,
            answer_timeout: self.answer_timeout * self.answers_per_event(),
            addresses: self.addresses.len().max(1),
            seed,
            ..defaults
        }
    }

    /// With one event per client and topic under way, those behind it wait in memory: runs of one client's events must not
    /// fill all of that and keep the other clients back (docs/adr/0015).
    fn read_ahead(&self, default: Volume, gap_max: usize) -> Volume {
        if self.order != Order::Strict || self.pipeline() == Pipeline::Ordered {
            return default;
        }
        let bytes = self.window_bytes.as_usize().saturating_mul(2);
        Volume { events: default.events.max(gap_max), bytes: default.bytes.max(bytes) }
    }

    fn pipeline(&self) -> Pipeline {
        match &self.http {
            // One request at a time, and an event that fails ends the connection.
            Some(http) if http.connections == 1 => Pipeline::Ordered,
            // An EventMesh runtime hands calls to a pool of threads; an MQTT 5 upstream may refuse one packet for the moment
            // and take those behind it (docs/adr/0015).
            _ => Pipeline::Unordered,
        }
    }

    /// Over HTTP and to EventMesh the adapter times each request by itself, with better words, and over HTTP an event may
    /// need two: one that is refused for its credential and one with the next credential.
    fn answers_per_event(&self) -> u32 {
        if self.http.is_some() || self.eventmesh.is_some() { 3 } else { 1 }
    }
}
