//! What an uplink is told about its network.

use eventmesh_edge_core::event::Timestamp;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where an upstream listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Name or IP address, IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A password, token or client secret; `Debug` does not show it (P7).
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps it.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Secret {
        Secret(secret.into())
    }

    /// The secret itself, for the wire and for nothing else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// User name and password that are shown to the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: Option<Secret>,
}

/// TLS; files are read anew at each connect, so a renewed certificate needs no restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Trust anchors, PEM; the machine's own if `None`.
    pub ca_file: Option<PathBuf>,
    /// Client certificate.
    pub identity: Option<TlsIdentity>,
    /// Name that the upstream's certificate must have; the host that is connected to if `None`.
    pub server_name: Option<String>,
}

/// Files of a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsIdentity {
    /// Certificate chain, PEM, own first.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

/// The time that certificates are checked against; a gateway's own clock may stand at 1970.
pub type CertificateTime = Arc<dyn Fn() -> Timestamp + Send + Sync>;
