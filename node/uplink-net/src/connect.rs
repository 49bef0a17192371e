//! TCP, and TLS over it. Whoever calls sets the time limit.

use crate::options::{Address, CertificateTime, TlsOptions};
use crate::tls::{TlsError, client_config};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// While nobody answers, another attempt begins beside the earlier ones this often: the kernel repeats its own only after 1, 3
/// and 7 s, and a way that is open again is to be noticed within a second.
const KNOCK_EVERY: Duration = Duration::from_secs(1);
/// Attempts beside each other. With what the kernel repeats of these, a first packet leaves every second for ten seconds.
const KNOCKS_MAX: usize = 4;
/// Bytes that the kernel takes and has not sent yet. It would take a megabyte on a way of a few kilobytes a second, and whoever
/// asks "are you there?" behind that waits minutes for the answer; with this, what was written has nearly left.
const UNSENT_MAX_BYTES: u32 = 16 * 1_024;

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
    /// Nobody said anything.
    #[error("connect: no answer within {0:?}")]
    NoAnswer(Duration),
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

impl ConnectError {
    /// True if nobody took the connection: whoever is up there has had no work from it.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        use ConnectError as E;
        matches!(self, E::Resolve { .. } | E::NoAddress { .. } | E::Tcp(_) | E::NoAnswer(_))
    }
}

/// Connects to the first address of the host that takes the connection; one that does not answer leaves time for the others.
///
/// # Errors
/// [`ConnectError`]; the last one, if there were several addresses.
pub async fn connect(address: &Address, deadline: Instant) -> Result<TcpStream, ConnectError> {
    let host = || address.host.clone();
    let begun = Instant::now();
    let resolving = tokio::net::lookup_host((address.host.as_str(), address.port));
    let resolved: Vec<SocketAddr> = timeout_at(deadline, resolving)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| ConnectError::Resolve { host: host(), source })?
        .collect();
    let mut last = ConnectError::NoAddress { host: host() };
    for (index, to) in resolved.iter().enumerate() {
        let left = u32::try_from(resolved.len() - index).unwrap_or(1);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        match timeout_at(Instant::now() + share, knock(*to)).await {
            Ok(Ok(tcp)) => return tune(tcp).map_err(ConnectError::Tcp),
            Ok(Err(error)) => last = ConnectError::Tcp(error),
            Err(_) => last = ConnectError::NoAnswer(begun.elapsed()),
        }
    }
    Err(last)
}

/// Tries again beside what is under way; the first answer counts, and the others are let go of.
async fn knock(to: SocketAddr) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    let mut next = Instant::now();
    loop {
        if attempts.len() < KNOCKS_MAX && next <= Instant::now() {
            attempts.spawn(TcpStream::connect(to));
            next += KNOCK_EVERY;
        }
        tokio::select! {
            Some(done) = attempts.join_next() => return done.unwrap_or_else(|error| Err(io::Error::other(error))),
            () = sleep_until(next), if attempts.len() < KNOCKS_MAX => {}
        }
    }
}

/// Uplinks write batches in one piece; Nagle's algorithm would only hold back the last of them.
fn tune(tcp: TcpStream) -> io::Result<TcpStream> {
    tcp.set_nodelay(true)?;
    SockRef::from(&tcp).set_tcp_notsent_lowat(UNSENT_MAX_BYTES)?;
    Ok(tcp)
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
