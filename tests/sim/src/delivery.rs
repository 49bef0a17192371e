//! The forwarder as the simulation drives it, so that a deliberately wrong one can take its place.

use eventmesh_edge_core::event::{Position, Timestamp};
use eventmesh_edge_core::forward::{Action, Forwarder, Input, Options, StreamOptions, Volume};
use eventmesh_edge_core::ports::store::StreamId;
use std::time::Duration;

/// What the simulation needs of a forwarder.
pub trait Delivery {
    /// See [`Forwarder::step`].
    fn step(&mut self, now: Duration, wall: Timestamp, input: Input, out: &mut Vec<Action>);
    /// See [`Forwarder::in_flight`].
    fn in_flight(&self) -> Volume;
    /// See [`Forwarder::waiting`].
    fn waiting(&self) -> Volume;
    /// See [`Forwarder::cursor`].
    fn cursor(&self, stream: StreamId) -> Option<Position>;
}

impl Delivery for Forwarder {
    fn step(&mut self, now: Duration, wall: Timestamp, input: Input, out: &mut Vec<Action>) {
        Forwarder::step(self, now, wall, input, out);
    }

    fn in_flight(&self) -> Volume {
        Forwarder::in_flight(self)
    }

    fn waiting(&self) -> Volume {
        Forwarder::waiting(self)
    }

    fn cursor(&self, stream: StreamId) -> Option<Position> {
        Forwarder::cursor(self, stream)
    }
}

/// Makes the forwarder of one uplink; called again after each restart of the node.
pub type MakeDelivery<'a> = &'a dyn Fn(Options, &[StreamOptions]) -> Box<dyn Delivery>;

/// The one that the node runs.
///
/// # Panics
/// If a plan asks for options that the forwarder refuses: a mistake of the plan.
#[must_use]
pub fn real_forwarder(options: Options, streams: &[StreamOptions]) -> Box<dyn Delivery> {
    Box::new(Forwarder::new(options, streams).expect("plans make valid options"))
}
