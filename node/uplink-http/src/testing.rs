//! Events for the tests of this crate.

use eventmesh_edge_core::event::Event;
use eventmesh_edge_core::ports::uplink::Outgoing;
use eventmesh_edge_uplink_testing::events::{event, outgoing_of};

pub(crate) use eventmesh_edge_uplink_testing::events::outgoing;

pub(crate) fn with(position: u64, change: impl FnOnce(&mut Event)) -> Outgoing {
    let mut event = event(position);
    change(&mut event);
    outgoing_of(position, event)
}
