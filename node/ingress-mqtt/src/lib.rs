//! MQTT 3.1, 3.1.1 and 5 termination for EventMesh Edge.
//!
//! - [`codec`]: bytes and packets; the only place that knows the parser
//! - [`session`]: the protocol as a state machine without I/O, and what of it is durable
//! - [`clients`]: the client table: take-over, sessions whose clients are away, the restart
//! - [`outlet`]: bounded queues from the hub to a connection
//! - [`server`]: sockets, TLS, tasks
//! - [`auth`]: the password file
//! - `live`: certificates and password file, read again when they have changed
//!
//! It knows the core's ports and nothing of the store, the uplinks or the runtime behind them.

pub mod auth;
pub mod clients;
pub mod codec;
mod live;
pub mod outlet;
pub mod reason;
pub mod server;
pub mod session;
pub mod stats;

#[cfg(test)]
mod testing;

pub use auth::{LivePasswords, PasswordFile, hash_password, password_line};
pub use clients::{Restored, SessionOptions, SessionStore, Sessions};
pub use server::{BindError, Listener, ListenerOptions, TlsError, TlsOptions, bind};
pub use session::{Limits, WhenFull};
pub use stats::{Stats, StatsSnapshot};
