//! From a URL to a connection that HTTP/1.1 can be spoken on.

use crate::tls::Tls;
use crate::url::Url;
use eventmesh_edge_uplink_net::{Address, ConnectError, Stream, connect, handshake};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

/// Largest head of an answer, and most that is read ahead of it (P5).
const HEAD_MAX_BYTES: usize = 32 * 1_024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("begin HTTP: {0}")]
    Http(#[source] hyper::Error),
    #[error("no connection within {0:?}")]
    Timeout(Duration),
}

impl DialError {
    /// True if nobody took the connection.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, DialError::Connect(error) if error.is_unreachable())
    }
}

/// Who is connected to, and so what it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A configured URL.
    Receiver,
    /// Where tokens come from: sees the client certificate (RFC 8705), has a name of its own.
    TokenEndpoint,
    /// Where a redirect leads: sees nothing.
    Stranger,
}

/// How connections are made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dialer {
    pub(crate) tls: Option<Tls>,
    /// Overrides the host of configured URLs in certificates.
    pub(crate) server_name: Option<String>,
    /// Dead peers are noticed by the kernel within twice this time; zero leaves it to the kernel's own hours.
    pub(crate) probe_interval: Duration,
    /// Bytes that have left, on all connections: what still moves is not dead.
    pub(crate) written: Arc<AtomicU64>,
}

/// An open connection with one request on it at a time.
pub(crate) struct Conn {
    pub(crate) url: Url,
    pub(crate) sender: http1::SendRequest<Full<Bytes>>,
    driver: Pin<Box<http1::Connection<TokioIo<Watched>, Full<Bytes>>>>,
    ended: bool,
    /// Bytes that have left on this one.
    written: Arc<AtomicU64>,
}

/// A connection that counts what leaves on it.
struct Watched {
    stream: Stream,
    written: Arc<AtomicU64>,
    all: Arc<AtomicU64>,
}

impl Conn {
    /// Lets the connection work while `work` waits for it.
    pub(crate) async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|cx| {
            self.poll_driver(cx);
            work.as_mut().poll(cx)
        })
        .await
    }

    /// [`Conn::request`], with so much patience. A body that still leaves, on a slow way, has not been answered yet: patience
    /// begins anew with every byte of it. `None`: it is used up.
    pub(crate) async fn request_within(
        &mut self,
        request: hyper::Request<Full<Bytes>>,
        patience: Duration,
    ) -> Option<hyper::Result<hyper::Response<hyper::body::Incoming>>> {
        let written = Arc::clone(&self.written);
        let mut answer = pin!(self.request(request));
        loop {
            let before = written.load(Relaxed);
            match timeout(patience, answer.as_mut()).await {
                Ok(answer) => return Some(answer),
                Err(_) if written.load(Relaxed) > before => {}
                Err(_) => return None,
            }
        }
    }

    /// Sends one request and waits for the head of its answer.
    pub(crate) async fn request(
        &mut self,
        request: hyper::Request<Full<Bytes>>,
    ) -> hyper::Result<hyper::Response<hyper::body::Incoming>> {
        poll_fn(|cx| {
            self.poll_driver(cx);
            self.sender.poll_ready(cx)
        })
        .await?;
        let answer = self.sender.send_request(request);
        self.drive(answer).await
    }

    fn poll_driver(&mut self, cx: &mut Context<'_>) {
        if !self.ended && self.driver.as_mut().poll(cx).is_ready() {
            self.ended = true;
        }
    }

    /// Looks after an idle connection; false once it has ended.
    pub(crate) fn poll_idle(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll_driver(cx);
        !self.ended && !self.sender.is_closed()
    }

    /// Whether another request may go out on it.
    pub(crate) fn is_open(&self) -> bool {
        !self.ended && !self.sender.is_closed()
    }
}

impl Dialer {
    /// Connects within `timeout`.
    pub(crate) async fn dial(&self, url: &Url, peer: Peer, timeout: Duration) -> Result<Conn, DialError> {
        let deadline = Instant::now() + timeout;
        match timeout_at(deadline, self.dial_until(url, peer, deadline)).await {
            Ok(done) => done,
            Err(_) => Err(DialError::Timeout(timeout)),
        }
    }

    async fn dial_until(&self, url: &Url, peer: Peer, deadline: Instant) -> Result<Conn, DialError> {
        let address = Address { host: url.host().to_owned(), port: url.port() };
        let tcp = connect(&address, deadline).await?;
        tune(&tcp, self.probe_interval).map_err(ConnectError::Tcp)?;
        let stream = match (&self.tls, url.is_secure()) {
            (Some(tls), true) => self.handshake(tls, url, peer, tcp).await?,
            _ => Stream::Tcp(tcp),
        };
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_MAX_BYTES).max_headers(100);
        let written = Arc::default();
        let stream = Watched { stream, written: Arc::clone(&written), all: Arc::clone(&self.written) };
        let (sender, driver) = builder.handshake(TokioIo::new(stream)).await.map_err(DialError::Http)?;
        Ok(Conn { url: url.clone(), sender, driver: Box::pin(driver), ended: false, written })
    }

    async fn handshake(&self, tls: &Tls, url: &Url, peer: Peer, tcp: TcpStream) -> Result<Stream, DialError> {
        let name = self.server_name.as_deref().filter(|_| peer == Peer::Receiver).unwrap_or(url.host());
        let config = if peer == Peer::Stranger { &tls.stranger } else { &tls.known };
        Ok(Stream::Tls(Box::new(handshake(tcp, name, Arc::clone(config)).await?)))
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = ready!(Pin::new(&mut this.stream).poll_write(cx, buf));
        this.count(&done);
        Poll::Ready(done)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, bufs));
        this.count(&done);
        Poll::Ready(done)
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

impl Watched {
    fn count(&self, done: &io::Result<usize>) {
        let bytes = u64::try_from(done.as_ref().copied().unwrap_or(0)).unwrap_or(u64::MAX);
        self.written.fetch_add(bytes, Relaxed);
        self.all.fetch_add(bytes, Relaxed);
    }
}

/// For peers that vanish without a FIN: the kernel asks while nothing is under way, and gives up on unacknowledged bytes.
fn tune(tcp: &TcpStream, probe_interval: Duration) -> io::Result<()> {
    use rustix::net::sockopt;
    if probe_interval.is_zero() {
        return Ok(());
    }
    let second = Duration::from_secs(1);
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, probe_interval.max(second))?;
    sockopt::set_tcp_keepintvl(tcp, (probe_interval / 3).max(second))?;
    sockopt::set_tcp_keepcnt(tcp, 3)?;
    let give_up = (probe_interval * 2).max(second).as_millis();
    sockopt::set_tcp_user_timeout(tcp, u32::try_from(give_up).unwrap_or(u32::MAX))?;
    Ok(())
}
