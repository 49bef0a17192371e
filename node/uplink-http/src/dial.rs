//! From a URL to a connection that HTTP/1.1 can be spoken on.

use crate::tls::Tls;
use crate::url::Url;
use eventmesh_edge_uplink_net::{ConnectError, Stream, handshake};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

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
}

/// An open connection with one request on it at a time.
pub(crate) struct Conn {
    pub(crate) url: Url,
    pub(crate) sender: http1::SendRequest<Full<Bytes>>,
    driver: Pin<Box<http1::Connection<TokioIo<Stream>, Full<Bytes>>>>,
    ended: bool,
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
        let tcp = tcp(url, deadline).await?;
        tune(&tcp, self.probe_interval).map_err(ConnectError::Tcp)?;
        let stream = match (&self.tls, url.is_secure()) {
            (Some(tls), true) => self.handshake(tls, url, peer, tcp).await?,
            _ => Stream::Tcp(tcp),
        };
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_MAX_BYTES).max_headers(100);
        let (sender, driver) = builder.handshake(TokioIo::new(stream)).await.map_err(DialError::Http)?;
        Ok(Conn { url: url.clone(), sender, driver: Box::pin(driver), ended: false })
    }

    async fn handshake(&self, tls: &Tls, url: &Url, peer: Peer, tcp: TcpStream) -> Result<Stream, DialError> {
        let name = self.server_name.as_deref().filter(|_| peer == Peer::Receiver).unwrap_or(url.host());
        let config = if peer == Peer::Stranger { &tls.stranger } else { &tls.known };
        Ok(Stream::Tls(Box::new(handshake(tcp, name, Arc::clone(config)).await?)))
    }
}

/// Each address of the host in turn; one that does not answer leaves time for the others.
async fn tcp(url: &Url, deadline: Instant) -> Result<TcpStream, DialError> {
    let host = || url.host().to_owned();
    let resolved: Vec<SocketAddr> = tokio::net::lookup_host((url.host(), url.port()))
        .await
        .map_err(|source| ConnectError::Resolve { host: host(), source })?
        .collect();
    let mut last = DialError::from(ConnectError::NoAddress { host: host() });
    for (index, address) in resolved.iter().enumerate() {
        let left = u32::try_from(resolved.len() - index).unwrap_or(1);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => last = ConnectError::Tcp(error).into(),
            Err(_) => last = DialError::Timeout(share),
        }
    }
    Err(last)
}

/// Requests are written in one piece, so Nagle's algorithm would only hold back the last part of one. The rest is for
/// peers that vanish without a FIN: the kernel asks while nothing is under way, and gives up on unacknowledged bytes.
fn tune(tcp: &TcpStream, probe_interval: Duration) -> io::Result<()> {
    use rustix::net::sockopt;
    tcp.set_nodelay(true)?;
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
