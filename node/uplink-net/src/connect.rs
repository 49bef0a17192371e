//! TCP, and TLS over it. Whoever calls sets the time limit.

use crate::options::{Address, CertificateTime, TlsOptions};
use crate::tls::{TlsError, client_config};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name is not known, or nobody could be asked.
    #[error("resolve {host}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// The name is known and has no address.
    #[error("{host} has no address")]
    NoAddress {
        /// The name.
        host: String,
    },
    /// Nobody took the connection.
    #[error("connect: {0}")]
    Tcp(#[source] io::Error),
    /// The files for TLS are not in order.
    #[error("{0}")]
    TlsSetup(#[from] TlsError),
    /// Neither a DNS name nor an IP address.
    #[error("{0:?} is no name that a certificate can have, set the server name")]
    ServerName(String),
    /// The two sides did not agree, or a certificate was refused.
    #[error("TLS handshake: {0}")]
    Tls(#[source] io::Error),
}

/// Connects to the first address of the host that takes the connection.
///
/// # Errors
/// [`ConnectError`]; the last one, if there were several addresses.
pub async fn connect(address: &Address) -> Result<TcpStream, ConnectError> {
    let host = || address.host.clone();
    let resolved = tokio::net::lookup_host((address.host.as_str(), address.port))
        .await
        .map_err(|source| ConnectError::Resolve { host: host(), source })?;
    let mut last = ConnectError::NoAddress { host: host() };
    for socket_address in resolved {
        match TcpStream::connect(socket_address).await {
            Ok(tcp) => {
                // Uplinks write batches in one piece; Nagle's algorithm would only hold back the last of them.
                tcp.set_nodelay(true).map_err(ConnectError::Tcp)?;
                return Ok(tcp);
            }
            Err(error) => last = ConnectError::Tcp(error),
        }
    }
    Err(last)
}

/// TLS with `host`, over a connection to it, by files that are read now, off the runtime's thread. `alpn`: the protocols
/// offered (RFC 7301).
///
/// # Errors
/// [`ConnectError`].
pub async fn secure(
    tcp: TcpStream,
    host: &str,
    tls: &TlsOptions,
    time: Option<&CertificateTime>,
    alpn: &[&[u8]],
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let name = server_name(tls.server_name.as_deref().unwrap_or(host))?;
    let (tls, time) = (tls.clone(), time.cloned());
    let read = move || client_config(tls.trust_anchors()?, tls.identity.as_ref(), time.as_ref());
    let read = tokio::task::spawn_blocking(read).await;
    let mut config = read.map_err(|error| ConnectError::Tls(io::Error::other(error)))??;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    greet(Arc::new(config), name, tcp).await
}

/// TLS by a configuration that is there; `name` is what the other side's certificate must have.
///
/// # Errors
/// [`ConnectError::ServerName`] or [`ConnectError::Tls`].
pub async fn handshake(
    tcp: TcpStream,
    name: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    greet(config, server_name(name)?, tcp).await
}

fn server_name(name: &str) -> Result<ServerName<'static>, ConnectError> {
    ServerName::try_from(name.to_owned()).map_err(|_| ConnectError::ServerName(name.to_owned()))
}

async fn greet(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    tcp: TcpStream,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    TlsConnector::from(config).connect(name, tcp).await.map_err(ConnectError::Tls)
}
