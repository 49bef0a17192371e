//! The sockets: one task per listener, which reads, decides and sends.

use crate::link::{Event, Link};
use crate::multicast;
use crate::service::{Action, Bell, Bells, Context, Input, Output, Parts, Service, ServiceOptions};
use crate::stats::Stats;
use bytes::Bytes;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::hub::{Hub, Outlet};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

/// One listener.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    /// Address and port; port 0 takes any free one.
    pub bind: SocketAddr,
    /// Interfaces over which the groups of all CoAP nodes are joined; none of them unless named.
    pub multicast: Vec<String>,
    /// The service behind it.
    pub service: ServiceOptions,
    /// Deliveries that wait for the task.
    pub queue_events: usize,
    /// How long a graceful stop may take.
    pub stop_timeout: Duration,
}

/// Why a listener was not opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken, not ours, or not allowed.
    #[error("listen on {address} (UDP)")]
    Bind {
        /// Which address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An interface is not there, or has no address.
    #[error("join the groups of all CoAP nodes over {interfaces:?}")]
    Join {
        /// Which interfaces.
        interfaces: Vec<String>,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The system gives no random numbers.
    #[error("draw a secret for message ids and Echo values: {0}")]
    Random(getrandom::Error),
}

/// A bound listener; devices are served once it [runs](Listener::run).
pub struct Listener {
    socket: std::net::UdpSocket,
    groups: Vec<std::net::UdpSocket>,
    address: SocketAddr,
    stop_timeout: Duration,
    hub: Arc<dyn Hub>,
    clock: Arc<dyn Clock>,
    link: Arc<Link>,
    service: Service,
}

/// Entries of a mailbox read at a time.
const MAILBOX_PIECE: usize = 8;
/// Largest datagram.
const DATAGRAM_MAX_BYTES: usize = 65_535;
/// Datagrams read before others get their turn.
const READS_AT_ONCE: usize = 64;
/// Wanted of the system: a site of sensors sends at the full second.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;

/// Opens a listener. Needs no runtime. `kept`: the rows of the table Node with [`crate::records::PREFIX`].
///
/// # Errors
/// [`BindError`] if the address cannot be had.
pub fn bind(
    options: ListenerOptions,
    hub: Arc<dyn Hub>,
    clock: Arc<dyn Clock>,
    kept: &[(Bytes, Bytes)],
) -> Result<Listener, BindError> {
    let address = options.bind;
    let failed = |source| BindError::Bind { address, source };
    let interfaces = options.multicast;
    let socket = multicast::unicast(address, !interfaces.is_empty()).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    if let Err(errno) = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES) {
        tracing::debug!(%errno, "the receive buffer stays as it is");
    }
    let address = socket.local_addr().map_err(failed)?;
    let groups = multicast::join(address, &interfaces)
        .and_then(|groups| groups.iter().try_for_each(|group| group.set_nonblocking(true)).map(|()| groups))
        .map_err(|source| BindError::Join { interfaces, source })?;
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(BindError::Random)?;
    let link = Arc::new(Link::new(options.queue_events));
    let observer = hub.attach(None, Some(Arc::clone(&link) as Arc<dyn Outlet>));
    let parts = Parts { observer, bells: bells(&link), secret };
    let mut service = Service::new(options.service, parts);
    let cx = Context { now: clock.monotonic(), wall: clock.now(), hub: &*hub };
    let skipped = service.restore(&cx, kept);
    tracing::debug!(rows = kept.len(), skipped, "devices and observers loaded");
    Ok(Listener { socket, groups, address, stop_timeout: options.stop_timeout, hub, clock, link, service })
}

/// An event of a mailbox wakes the task; many in a row wake it once.
fn bells(link: &Arc<Link>) -> Bells {
    let link = Arc::clone(link);
    Arc::new(move |session| {
        let link = Arc::clone(&link);
        Arc::new(Bell(move || link.push(Event::Rung(session))))
    })
}

impl Listener {
    /// Where it listens, the port resolved.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What it counts; stays valid while the listener runs.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(self.service.stats())
    }

    /// Serves devices until `stop` completes; then answers what is at the store, within the bound.
    ///
    /// # Errors
    /// The socket cannot be handed to the runtime.
    pub async fn run(self, stop: impl Future<Output = ()>) -> std::io::Result<()> {
        let socket = UdpSocket::from_std(self.socket)?;
        let groups: Vec<UdpSocket> =
            self.groups.into_iter().map(UdpSocket::from_std).collect::<std::io::Result<_>>()?;
        let address = self.address;
        let Listener { hub, clock, link, service, stop_timeout, .. } = self;
        let mut running = Running {
            socket,
            groups,
            address,
            hub,
            clock,
            link,
            service,
            buffer: vec![0; DATAGRAM_MAX_BYTES],
            out: Output::default(),
        };
        let mut stop = pin!(stop);
        loop {
            let due = running.service.deadline().saturating_sub(running.clock.monotonic());
            tokio::select! {
                () = &mut stop => break,
                () = running.link.woken() => running.take(),
                readable = running.socket.readable() => match readable {
                    Ok(()) => running.read(),
                    Err(error) => running.cannot_read(&error).await,
                },
                group = any_readable(&running.groups) => running.read_group(group),
                () = sleep(due) => running.handle(Input::Tick),
            }
            // Many datagrams in a row must not keep the hub from its work.
            tokio::task::yield_now().await;
        }
        running.finish(stop_timeout).await;
        Ok(())
    }
}

/// The index of a socket that has something to read; never, if there is none.
async fn any_readable(sockets: &[UdpSocket]) -> usize {
    std::future::poll_fn(|cx| {
        let ready = sockets.iter().position(|socket| socket.poll_recv_ready(cx).is_ready());
        ready.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
    })
    .await
}

/// A listener at work.
struct Running {
    socket: UdpSocket,
    groups: Vec<UdpSocket>,
    address: SocketAddr,
    hub: Arc<dyn Hub>,
    clock: Arc<dyn Clock>,
    link: Arc<Link>,
    service: Service,
    buffer: Vec<u8>,
    out: Output,
}

impl Running {
    fn handle(&mut self, input: Input<'_>) {
        let Running { service, hub, clock, out, .. } = self;
        let cx = Context { now: clock.monotonic(), wall: clock.now(), hub: &**hub };
        service.handle(&cx, input, out);
        self.flush();
    }

    fn read(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..READS_AT_ONCE {
            match self.socket.try_recv_from(&mut buffer) {
                Ok((length, peer)) => {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    self.handle(Input::Datagram { peer, bytes, multicast: false });
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                // The network's answer to something that was sent: the peer is gone, which its timers will tell.
                Err(error) => tracing::debug!(%error, "a datagram could not be delivered"),
            }
        }
        self.buffer = buffer;
    }

    /// The same for a group: what came there was sent to it.
    fn read_group(&mut self, group: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..READS_AT_ONCE {
            let read = self.groups.get(group).map(|socket| socket.try_recv_from(&mut buffer));
            let Some(Ok((length, peer))) = read else { break };
            let bytes = buffer.get(..length).unwrap_or_default();
            let peer = multicast::as_seen_by(self.address, peer);
            self.handle(Input::Datagram { peer, bytes, multicast: true });
        }
        self.buffer = buffer;
    }

    /// Waiting keeps the loop from spinning.
    async fn cannot_read(&self, error: &std::io::Error) {
        tracing::warn!(%error, "cannot read from the socket, trying again");
        sleep(Duration::from_millis(100)).await;
    }

    fn take(&mut self) {
        for event in self.link.take() {
            self.handle(Input::Event(event));
        }
    }

    /// What the socket does not take is lost like any datagram: who waits for it asks again, or is told again.
    fn flush(&mut self) {
        for (peer, datagram) in self.out.datagrams.drain(..) {
            let stats = self.service.stats();
            match self.socket.try_send_to(&datagram, peer) {
                Ok(sent) => stats.add(|s| &s.bytes_out, sent),
                Err(error) => {
                    stats.add(|s| &s.unsent, 1);
                    tracing::debug!(%error, %peer, "a datagram was not sent");
                }
            }
        }
        for action in self.out.actions.drain(..) {
            match action {
                Action::Submit { token, submission } => {
                    let link = Arc::clone(&self.link);
                    let done = move |result| link.push(Event::Completed { token, result });
                    self.hub.submit(submission, Box::new(done));
                }
                Action::ReadMailbox { session, after } => {
                    let link = Arc::clone(&self.link);
                    let done = move |result| link.push(Event::Mailbox { session, result });
                    self.hub.read_mailbox(session, after, MAILBOX_PIECE, Box::new(done));
                }
            }
        }
    }

    /// Nothing new is read; what is at the store is answered.
    async fn finish(&mut self, limit: Duration) {
        let settle = async {
            while !self.service.is_settled() {
                self.link.woken().await;
                self.take();
            }
        };
        if timeout(limit, settle).await.is_err() {
            tracing::warn!("the store did not answer in time, devices will ask again");
        }
    }
}
