//! The forwarding half of a node with an EventMesh uplink.

use crate::common::PATIENCE;
use eventmesh_edge_core::forward::{self, Order, Pipeline, Volume};
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::uplink::Downward;
use eventmesh_edge_runtime::forward::{DownwardSink, Kept};
use eventmesh_edge_uplink_eventmesh::{EventMeshUplink, Options};
use eventmesh_edge_uplink_testing::{Node, quick};
use std::sync::Arc;
use std::time::Duration;

struct Nobody;

impl DownwardSink for Nobody {
    fn accept(&self, _message: Downward, done: Completion<Kept>) {
        done(Kept::Durable);
    }
}

/// Starts forwarding, set up as the daemon would.
pub(crate) fn start(uplink: Options, order: Order, seed: u64) -> Node {
    let rules = forward::Options {
        pipeline: Pipeline::Unordered,
        window: Volume { events: 4_096, bytes: 2 << 20 },
        connect_timeout: Duration::from_secs(1),
        answer_timeout: uplink.answer_timeout * 3,
        addresses: uplink.addresses.len(),
        ..quick(order, seed)
    };
    Node::start(Box::new(EventMeshUplink::new(uplink).unwrap()), rules, Arc::new(Nobody), 2 * PATIENCE)
}
