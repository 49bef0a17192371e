//! The forwarding half of a node with an HTTP uplink.

use super::PATIENCE;
use eventmesh_edge_core::forward::{self, Order, Pipeline, Volume};
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::uplink::Downward;
use eventmesh_edge_runtime::forward::{DownwardSink, Kept};
use eventmesh_edge_uplink_http::{HttpUplink, Options};
use eventmesh_edge_uplink_testing::{Node, quick};
use std::sync::Arc;
use std::time::Duration;

/// Nothing comes down over HTTP.
struct Nobody;

impl DownwardSink for Nobody {
    fn accept(&self, _message: Downward, _done: Completion<Kept>) {
        panic!("a message came down over HTTP");
    }
}

/// Starts forwarding; `order` and `connections` as the daemon would set them up.
pub(crate) fn start(uplink: Options, order: Order, seed: u64) -> Node {
    let rules = forward::Options {
        pipeline: if uplink.connections == 1 { Pipeline::Ordered } else { Pipeline::Unordered },
        window: Volume { events: 1_024, bytes: 1 << 20 },
        connect_timeout: Duration::from_secs(2),
        ..quick(order, seed)
    };
    Node::start(Box::new(HttpUplink::new(uplink).unwrap()), rules, Arc::new(Nobody), PATIENCE)
}
