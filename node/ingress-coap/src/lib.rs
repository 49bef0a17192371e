//! CoAP termination for EventMesh Edge: constrained devices on the namespace that MQTT devices use.
//!
//! ```text
//! POST, PUT /ps/{topic}     publish; PUT also sets the topic's value. 2.01 or 2.04 after the commit, never before (P1)
//! GET       /ps/{topic}     the value, with ETag, Content-Format and Max-Age; with Observe, what is published from now on
//! DELETE    /ps/{topic}     clears the value
//! GET       /ps?topic=...   the topics with a value that match a filter; with Observe, what is published to them
//! GET       /d/{device}/cmd   the device's oldest command; with Observe, each as a confirmable notification
//! DELETE    /d/{device}/cmd   with If-Match: that command is done
//! GET       /.well-known/core
//! ```
//!
//! - [`service`]: requests to publications and back, as a state machine without I/O over `eventmesh-edge-coap`
//! - [`records`]: what of it is durable
//! - [`link`]: the queue from the hub to the listener's task
//! - [`server`]: the sockets, those of multicast groups among them
//!
//! It knows the core's ports and nothing of the store, the uplinks or the runtime behind them.

pub mod link;
mod multicast;
mod path;
pub mod records;
pub mod server;
pub mod service;
pub mod stats;

pub use eventmesh_edge_coap::Params;
pub use server::{BindError, Listener, ListenerOptions, bind};
pub use service::{Service, ServiceOptions};
pub use stats::{Stats, StatsSnapshot};
