//! From an address to a TCP or TLS connection: what every uplink needs of the network, whatever it speaks on top.
//!
//! [`Address`] and [`connect`] for TCP, [`TlsOptions`] and [`secure`] for TLS over it, [`Stream`] for either; [`Secret`]
//! and [`Credentials`] for what is shown to the upstream. TLS is rustls with `ring`, the one provider (docs/adr/0005).
//! Adapters do not know each other; this crate knows none of them.

mod connect;
mod options;
mod stream;
mod tls;

pub use connect::{ConnectError, connect, handshake, secure};
pub use options::{Address, CertificateTime, Credentials, Secret, TlsIdentity, TlsOptions};
pub use stream::Stream;
pub use tls::{TlsError, client_config};
