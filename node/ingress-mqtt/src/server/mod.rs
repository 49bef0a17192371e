//! Sockets: the accept loop, TLS, and one small task per connection.
//!
//! The task is a hand-written future (`connection`) and not an `async fn`: it holds the machine, the socket and the
//! link, and no buffer. Reads go into one buffer per worker thread; what outlives the read is a packet that has not come
//! in whole. Writes go out of one buffer per worker thread too, and only what the socket does not take stays with the
//! connection. So an idle client costs its socket, its session and a task of a few hundred bytes.

mod connection;
#[cfg(test)]
mod tests;
mod tls;

pub use tls::{TlsError, TlsOptions};

use crate::clients::Sessions;
use crate::live::Live;
use crate::outlet::{Event, Link};
use crate::reason::Reason;
use crate::session::{Limits, Machine};
use connection::{Connection, Io};
use eventmesh_edge_core::ports::hub::Authenticator;
use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// One listener.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    /// Address and port; port 0 takes any free one.
    pub bind: SocketAddr,
    /// TLS, if the listener speaks it.
    pub tls: Option<TlsOptions>,
    /// Connections at once; more are refused (CONNACK 0x89 or return code 3) and counted.
    pub connections_max: usize,
    /// Logins checked at once: each may take a core and 19 MiB for a while.
    pub logins_at_once: usize,
    /// How long a graceful stop may take.
    pub stop_timeout: Duration,
    /// What its clients may do. `has_authenticator` is set by [`bind`].
    pub limits: Limits,
}

impl ListenerOptions {
    /// A plain listener with the usual limits, which lets nobody in yet.
    #[must_use]
    pub fn new(bind: SocketAddr) -> ListenerOptions {
        ListenerOptions {
            bind,
            tls: None,
            connections_max: 10_000,
            logins_at_once: 2,
            stop_timeout: Duration::from_secs(5),
            limits: Limits::default(),
        }
    }
}

/// Why a listener was not opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken, not ours, or not allowed.
    #[error("listen on {address}")]
    Bind {
        /// Which address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Certificate or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A listener that nobody can use.
    #[error("listener {address} lets nobody in: give it a password file, or allow anonymous clients")]
    NobodyCanConnect {
        /// Which listener.
        address: SocketAddr,
    },
}

/// A bound listener; clients are accepted once it [runs](Listener::run).
pub struct Listener {
    socket: std::net::TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What the connections of one listener share.
pub(crate) struct Shared {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) limits: Limits,
    pub(crate) auth: Option<Arc<dyn Authenticator>>,
    pub(crate) logins: Arc<Semaphore>,
    connections_max: usize,
    stop_timeout: Duration,
    tls: Option<Live<TlsAcceptor>>,
    open: AtomicUsize,
    /// By generation: whom to tell of a stop.
    links: Mutex<HashMap<u64, Arc<Link>>>,
    emptied: Notify,
}

/// Connections that are only there to be told that there are too many; beyond that they are closed without a word.
const REFUSING_MAX: usize = 64;
/// Between two looks whether certificate or password file has changed; a change is taken up at the second.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Connections that wait to be accepted: a whole site comes back after a power cut.
const BACKLOG: i32 = 1024;

/// Opens a listener. Needs no runtime.
///
/// # Errors
/// [`BindError`] if the address cannot be had, certificate or key are not good, or nobody could ever get in.
pub fn bind(
    options: ListenerOptions,
    sessions: Arc<Sessions>,
    auth: Option<Arc<dyn Authenticator>>,
) -> Result<Listener, BindError> {
    let address = options.bind;
    let mut limits = options.limits;
    limits.has_authenticator = auth.is_some();
    if auth.is_none() && !limits.anonymous {
        return Err(BindError::NobodyCanConnect { address });
    }
    let tls = options.tls.as_ref().map(tls::live).transpose()?;
    let failed = |source| BindError::Bind { address, source };
    let socket = std::net::TcpListener::bind(address).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    rustix::net::listen(&socket, BACKLOG).map_err(|errno| failed(errno.into()))?;
    let address = socket.local_addr().map_err(failed)?;
    let shared = Shared {
        sessions,
        limits,
        auth,
        logins: Arc::new(Semaphore::new(options.logins_at_once.max(1))),
        connections_max: options.connections_max,
        stop_timeout: options.stop_timeout,
        tls,
        open: AtomicUsize::new(0),
        links: Mutex::default(),
        emptied: Notify::new(),
    };
    Ok(Listener { socket, address, shared: Arc::new(shared) })
}

impl Listener {
    /// Where it listens, the port resolved.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Tells how many connections are open, for `status`; stays valid while the listener runs.
    pub fn connections(&self) -> impl Fn() -> usize + Send + Sync + use<> {
        let shared = Arc::clone(&self.shared);
        move || shared.open.load(Ordering::Relaxed)
    }

    /// Reads certificate and password file again now, whether they have changed or not; stays valid while the listener
    /// runs. Touches the disk.
    pub fn reload(&self) -> impl Fn() + Send + Sync + use<> {
        let shared = Arc::clone(&self.shared);
        move || shared.refresh(true)
    }

    /// Accepts clients until `stop` completes; then tells them (DISCONNECT 0x8B) and waits for them within the bound.
    ///
    /// # Errors
    /// The socket cannot be handed to the runtime.
    pub async fn run(self, stop: impl Future<Output = ()>) -> std::io::Result<()> {
        let listener = TcpListener::from_std(self.socket)?;
        let shared = self.shared;
        let mut stop = pin!(stop);
        let mut housekeeping = interval(Duration::from_secs(1));
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looking = None;
        loop {
            tokio::select! {
                () = &mut stop => break,
                _ = housekeeping.tick() => shared.sessions.tick(),
                _ = looks.tick(), if shared.has_files() => look(&shared, &mut looking),
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => welcome(&shared, stream, peer),
                    Err(error) => cannot_accept(&error).await,
                },
            }
        }
        drop(listener);
        shared.stop().await;
        Ok(())
    }
}

/// Looks after the files on another thread, unless the last look is not over: a disk that hangs holds one thread, not all.
fn look(shared: &Arc<Shared>, looking: &mut Option<JoinHandle<()>>) {
    if looking.as_ref().is_none_or(JoinHandle::is_finished) {
        let shared = Arc::clone(shared);
        *looking = Some(tokio::task::spawn_blocking(move || shared.refresh(false)));
    }
}

/// Out of descriptors, or a client that was gone before it was accepted. Waiting keeps the loop from spinning.
async fn cannot_accept(error: &std::io::Error) {
    if error.kind() != std::io::ErrorKind::ConnectionAborted {
        tracing::warn!(%error, "cannot accept a connection, trying again");
        sleep(Duration::from_millis(100)).await;
    }
}

fn welcome(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    let open = shared.open.load(Ordering::Relaxed);
    let refusing = open >= shared.connections_max;
    if refusing {
        shared.sessions.stats().over_limit();
        if open >= shared.connections_max + REFUSING_MAX {
            return;
        }
    }
    if let Err(error) = prepare(&stream) {
        tracing::debug!(%error, %peer, "connection was gone before it began");
        return;
    }
    let generation = shared.sessions.next_generation();
    let link = Arc::new(Link::new(shared.limits.queue));
    let entry = Entry::new(shared, generation, &link);
    let reason = shared.limits.refuses(refusing);
    let machine = Machine::new(generation, link, shared.sessions.clock().monotonic(), reason);
    match &shared.tls {
        None => drop(tokio::spawn(Connection::new(Io::Plain(stream), machine, entry))),
        Some(tls) => {
            let acceptor = TlsAcceptor::clone(&tls.current());
            let handshake = Box::pin(handshake(acceptor, stream, peer, machine, entry));
            drop(tokio::spawn(handshake));
        }
    }
}

/// Answers go out at once; a client that is gone without a word is noticed also with Keep Alive 0.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl};
    stream.set_nodelay(true)?;
    set_socket_keepalive(stream, true)?;
    set_tcp_keepidle(stream, Duration::from_secs(120))?;
    set_tcp_keepintvl(stream, Duration::from_secs(30))?;
    set_tcp_keepcnt(stream, 4)?;
    Ok(())
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    machine: Machine,
    entry: Entry,
) {
    let limit = entry.shared().limits.connect_timeout;
    let outcome = timeout(limit, acceptor.accept(stream)).await;
    let error = match outcome {
        Ok(Ok(stream)) => return Connection::new(Io::Tls(Box::new(stream)), machine, entry).await,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no handshake within the connect timeout".to_owned(),
    };
    entry.shared().sessions.stats().tls_failed();
    tracing::info!(%peer, error, "TLS handshake failed");
}

/// A connection's place in the listener's books, given back when it is dropped.
pub(crate) struct Entry {
    shared: Arc<Shared>,
    generation: u64,
    reason: Reason,
}

impl Entry {
    fn new(shared: &Arc<Shared>, generation: u64, link: &Arc<Link>) -> Entry {
        shared.open.fetch_add(1, Ordering::Relaxed);
        shared.sessions.stats().opened();
        shared.lock_links().insert(generation, link.clone());
        Entry { shared: shared.clone(), generation, reason: Reason::Success }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The connection resumed a session, which brought its own link.
    pub(crate) fn relink(&self, link: &Arc<Link>) {
        self.shared.lock_links().insert(self.generation, link.clone());
    }

    pub(crate) fn ended(&mut self, reason: Reason) {
        self.reason = reason;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.sessions.stats().closed(self.reason);
        self.shared.lock_links().remove(&self.generation);
        if self.shared.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.shared.emptied.notify_waiters();
        }
    }
}

impl Shared {
    fn has_files(&self) -> bool {
        self.tls.is_some() || self.auth.is_some()
    }

    fn refresh(&self, now: bool) {
        if let Some(tls) = &self.tls {
            tls.refresh(now);
        }
        if let Some(auth) = &self.auth {
            auth.refresh(now);
        }
    }

    fn lock_links(&self) -> MutexGuard<'_, HashMap<u64, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn stop(&self) {
        self.tell(|| Event::Stop);
        if timeout(self.stop_timeout, self.empty()).await.is_err() {
            let left = self.open.load(Ordering::Relaxed);
            tracing::warn!(left, "clients did not take their goodbye in time, closing their connections");
            self.tell(|| Event::Abort);
            if timeout(Duration::from_secs(1), self.empty()).await.is_err() {
                tracing::warn!("connections are left in their TLS handshake");
            }
        }
    }

    fn tell(&self, event: impl Fn() -> Event) {
        let links: Vec<_> = self.lock_links().values().cloned().collect();
        for link in links {
            link.push(event());
        }
    }

    async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            let mut emptied = pin!(emptied);
            emptied.as_mut().enable();
            if self.open.load(Ordering::Relaxed) == 0 {
                return;
            }
            emptied.await;
        }
    }
}
