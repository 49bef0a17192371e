//! From an address to a connection that the server has accepted.

use crate::codec::{DecodeError, decode, encode};
use crate::session::{Limits, Lost, Shared, connect_packet, limits};
use bytes::BytesMut;
use eventmesh_edge_uplink_net::{Address, ConnectError, Stream, connect, secure};
use rumqttc::v5::mqttbytes::v5::{ConnAck, Packet};
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
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

/// An accepted connection.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) stream: Stream,
    pub(crate) limits: Limits,
    pub(crate) session_present: bool,
    /// What came behind the CONNACK.
    pub(crate) rest: BytesMut,
}

impl DialError {
    /// True if nobody took the connection.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, DialError::Connect(error) if error.is_unreachable())
    }
}

/// Connects, greets, and waits for the answer. The caller sets the time limit, `deadline` too: TCP alone must not take longer.
pub(crate) async fn dial(shared: &Shared, address: &Address, deadline: Instant) -> Result<Dialed, DialError> {
    let options = &shared.options;
    let tcp = connect(address, deadline).await?;
    let mut stream = match &options.tls {
        None => Stream::Tcp(tcp),
        Some(tls) => {
            let time = options.certificate_time.as_ref();
            Stream::Tls(Box::new(secure(tcp, &address.host, tls, time, &[]).await?))
        }
    };
    let mut buf = BytesMut::with_capacity(1_024);
    let will = shared.wills.next(options, &shared.template, &shared.guard);
    let has_will = will.is_some();
    let credentials = match &options.credentials {
        Some(credentials) => Some(credentials.current().await),
        None => None,
    };
    encode(&connect_packet(options, credentials.as_ref(), will), &mut buf);
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
