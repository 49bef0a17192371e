//! From an address to a connection that the server has accepted.

use crate::codec::{DecodeError, decode, encode};
use crate::options::{Address, TlsOptions};
use crate::session::{Limits, Lost, Shared, connect_packet, limits};
use crate::tls::{TlsError, client_config};
use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{ConnAck, Packet};
use rustls_pki_types::ServerName;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("resolve {host}: {source}")]
    Resolve { host: String, source: io::Error },
    #[error("{host} has no address")]
    NoAddress { host: String },
    #[error("connect: {0}")]
    Tcp(#[source] io::Error),
    #[error("{0}")]
    TlsSetup(#[from] TlsError),
    #[error("{0:?} is no name that a certificate can have, set the server name")]
    ServerName(String),
    #[error("TLS handshake: {0}")]
    Tls(#[source] io::Error),
    #[error("send CONNECT: {0}")]
    Write(#[source] io::Error),
    #[error("wait for CONNACK: {0}")]
    Read(#[source] io::Error),
    #[error("server closed the connection instead of answering CONNECT")]
    Closed,
    #[error("server does not speak MQTT 5, it answered as one for MQTT 3")]
    Mqtt3,
    #[error(
        "server answered CONNECT with something else (byte 0x{0:02x}): is it an MQTT port, and does it want TLS?"
    )]
    NoConnack(u8),
    #[error("{0}")]
    Decode(#[from] DecodeError),
    #[error("{0}")]
    Lost(#[from] Lost),
}

/// A TCP or TLS connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) stream: Stream,
    pub(crate) limits: Limits,
    pub(crate) session_present: bool,
    /// What came behind the CONNACK.
    pub(crate) rest: BytesMut,
}

/// Connects, greets, and waits for the answer. The caller sets the time limit.
pub(crate) async fn dial(shared: &Shared, address: &Address) -> Result<Dialed, DialError> {
    let options = &shared.options;
    let tcp = tcp(address).await?;
    let mut stream = match &options.tls {
        None => Stream::Tcp(tcp),
        Some(tls) => Stream::Tls(Box::new(handshake(tls, address, tcp).await?)),
    };
    let mut buf = BytesMut::with_capacity(1_024);
    let will = shared.wills.next(options, &shared.template, &shared.guard);
    let has_will = will.is_some();
    encode(&connect_packet(options, will), &mut buf);
    stream.write_all(&buf).await.map_err(DialError::Write)?;
    stream.flush().await.map_err(DialError::Write)?;
    buf.clear();
    let connack = connack(&mut stream, &mut buf, options.packet_max_bytes).await?;
    shared.wills.answered(options, connack.code);
    let limits = limits(options, &connack)?;
    if !has_will && options.testament.is_some() {
        tracing::info!(%address, "mqtt uplink is up without a will, the server refused the connection with it");
    }
    Ok(Dialed { stream, limits, session_present: connack.session_present, rest: buf })
}

async fn tcp(address: &Address) -> Result<TcpStream, DialError> {
    let host = || address.host.clone();
    let resolved = tokio::net::lookup_host((address.host.as_str(), address.port))
        .await
        .map_err(|source| DialError::Resolve { host: host(), source })?;
    let mut last = DialError::NoAddress { host: host() };
    for socket_address in resolved {
        match TcpStream::connect(socket_address).await {
            Ok(tcp) => {
                // Batches are made here, by hand; Nagle's algorithm would only hold back the last of them.
                tcp.set_nodelay(true).map_err(DialError::Tcp)?;
                return Ok(tcp);
            }
            Err(error) => last = DialError::Tcp(error),
        }
    }
    Err(last)
}

async fn handshake(
    options: &TlsOptions,
    address: &Address,
    tcp: TcpStream,
) -> Result<TlsStream<TcpStream>, DialError> {
    let name = options.server_name.as_ref().unwrap_or(&address.host);
    let name = ServerName::try_from(name.clone()).map_err(|_| DialError::ServerName(name.clone()))?;
    let options = options.clone();
    let config = tokio::task::spawn_blocking(move || client_config(&options))
        .await
        .map_err(|error| DialError::Tls(io::Error::other(error)))??;
    TlsConnector::from(config).connect(name, tcp).await.map_err(DialError::Tls)
}

async fn connack(stream: &mut Stream, buf: &mut BytesMut, max: u32) -> Result<ConnAck, DialError> {
    loop {
        if stream.read_buf(buf).await.map_err(DialError::Read)? == 0 {
            return Err(DialError::Closed);
        }
        // MQTT 3.1.1 section 3.2: two bytes and no properties, the second one "unacceptable protocol version".
        if buf.starts_with(&[0x20, 0x02, 0x00, 0x01]) {
            return Err(DialError::Mqtt3);
        }
        // Looked at before the rest is there: what is no MQTT at all may announce any length.
        if let Some(first) = buf.first().filter(|b| **b != 0x20) {
            return Err(DialError::NoConnack(*first));
        }
        if let Some(Packet::ConnAck(connack)) = decode(buf, max)? {
            return Ok(connack);
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Stream::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_flush(cx),
            Stream::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
