//! From an address to a runtime that answers.

use crate::answer::{Status, Verdict};
use crate::call::{CallError, Methods, begin};
use crate::consume::heartbeat;
use crate::proto::CloudEvent;
use crate::session::{Shared, What};
use bytes::Bytes;
use eventmesh_edge_uplink_net::{Address, ConnectError, Stream, connect, secure};
use h2::PingPong;
use h2::client::{Connection, SendRequest};
use prost::Message as _;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// What the runtime may send before we have read it: for one stream, and for all together. The one that commands come down on may stand
/// unread while they are stored; the answers to publishes need room beside it.
const STREAM_WINDOW_BYTES: u32 = 128 * 1_024;
/// 60,000 answers a second of 200 bytes, 100 ms away, are 1.2 MB under way.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1_024 * 1_024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{0} is no authority of a URL")]
    Authority(String),
    #[error("HTTP/2: {0}; is it an EventMesh gRPC port, and does it want TLS?")]
    Http2(#[from] h2::Error),
    #[error(
        "server closed the connection instead of answering; is it an EventMesh gRPC port, and does it want TLS?"
    )]
    Closed,
    #[error("heartbeat: {0}")]
    Greeting(#[from] CallError),
    #[error("heartbeat: answer is no event: {0}")]
    NoEvent(#[from] prost::DecodeError),
    #[error("heartbeat: {0}")]
    Unavailable(String),
}

/// What is known of the bytes that came in.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// Something came since this was last set back.
    heard: AtomicBool,
    /// Bytes that may still be read in this turn.
    budget: AtomicUsize,
}

impl Inbound {
    /// Whether something came since the last call.
    pub(crate) fn take_heard(&self) -> bool {
        self.heard.swap(false, Relaxed)
    }

    /// From now on so much may be read again: `h2` reads whatever has come before it writes, and a window's worth of answers read in
    /// one go leaves the way up empty meanwhile.
    pub(crate) fn allow(&self, bytes: usize) {
        self.budget.store(bytes, Relaxed);
    }
}

/// A connection that notes what came in, and bounds how much of it is read in one turn.
#[derive(Debug)]
pub(crate) struct Heard {
    stream: Stream,
    inbound: Arc<Inbound>,
}

/// A runtime that answers.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) connection: Connection<Heard, Bytes>,
    pub(crate) requests: SendRequest<Bytes>,
    pub(crate) ping: Option<PingPong>,
    pub(crate) inbound: Arc<Inbound>,
    pub(crate) methods: Methods,
}

impl DialError {
    /// True if nobody took the connection.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, DialError::Connect(error) if error.is_unreachable())
    }
}

/// Connects and sends a heartbeat: what answers it is a runtime, and not only a port that accepts. The caller sets the time limit,
/// `deadline` too: TCP alone must not take longer.
pub(crate) async fn dial(shared: &Shared, address: &Address, deadline: Instant) -> Result<Dialed, DialError> {
    let options = &shared.options;
    let methods = Methods::at(&address.to_string(), options.tls.is_some())
        .map_err(|_| DialError::Authority(address.to_string()))?;
    let tcp = connect(address, deadline).await?;
    let stream = match &options.tls {
        None => Stream::Tcp(tcp),
        Some(tls) => {
            let time = options.certificate_time.as_ref();
            // A proxy that serves other things as well must know that it is HTTP/2 (RFC 9113 section 3.2).
            Stream::Tls(Box::new(secure(tcp, &address.host, tls, time, &[b"h2"]).await?))
        }
    };
    let inbound = Arc::new(Inbound::default());
    inbound.allow(usize::MAX);
    let stream = Heard { stream, inbound: inbound.clone() };
    let (requests, mut connection) = h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .handshake(stream)
        .await?;
    let ping = connection.ping_pong();
    let mut dialed = Dialed { connection, requests, ping, inbound, methods };
    greet(shared, &mut dialed).await?;
    Ok(dialed)
}

async fn greet(shared: &Shared, dialed: &mut Dialed) -> Result<(), DialError> {
    let frame = heartbeat(&shared.options, &shared.mapper);
    let Dialed { requests, connection, methods, .. } = dialed;
    let mut call = begin(requests, &methods.heartbeat, frame, What::Heartbeat(Duration::ZERO))?;
    let answer = poll_fn(|cx| {
        if let Poll::Ready((_, answer)) = Pin::new(&mut call).poll(cx) {
            return Poll::Ready(answer.map_err(DialError::Greeting));
        }
        match Pin::new(&mut *connection).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Err(DialError::Closed)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(DialError::Http2(error))),
            // What it has read wakes the call, and with it us.
            Poll::Pending => Poll::Pending,
        }
    })
    .await?;
    let status = Status::of(&CloudEvent::decode(answer)?);
    match status.verdict() {
        Verdict::Elsewhere | Verdict::Denied => Err(DialError::Unavailable(status.words())),
        // Whatever else it says, it is there; most will say that they do not know us yet (code 30).
        _ => Ok(()),
    }
}

impl AsyncRead for Heard {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let budget = this.inbound.budget.load(Relaxed);
        if budget == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let done = Pin::new(&mut this.stream).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if read > 0 {
            this.inbound.heard.store(true, Relaxed);
            this.inbound.budget.store(budget.saturating_sub(read), Relaxed);
        }
        done
    }
}

impl AsyncWrite for Heard {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
