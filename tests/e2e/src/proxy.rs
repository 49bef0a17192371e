//! A TCP proxy whose faults are real: connections are refused, hang without an answer, or are reset in the middle.

use crate::Result;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Bytes go through.
    Works,
    /// Nobody listens: connections are refused; those there are end.
    Refuses,
    /// Connections are accepted and bytes swallowed: a black hole without FIN.
    Hangs,
    /// Every connection is reset, at once and again.
    Resets,
    /// What the server says comes a byte at a time (slow loris).
    Drips,
}

/// Twenty bytes a second: a sign of life, and no answer in any useful time.
const DRIP_EVERY: std::time::Duration = std::time::Duration::from_millis(50);

/// The proxy; ends when dropped.
pub struct Proxy {
    addr: SocketAddr,
    link: watch::Sender<Link>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts on a free port of the loopback, in front of `target`.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(target: SocketAddr) -> Result<Proxy> {
        Proxy::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), target).await
    }

    /// The same at another address of this machine.
    ///
    /// # Errors
    /// If it cannot be had.
    pub async fn start_at(addr: SocketAddr, target: SocketAddr) -> Result<Proxy> {
        let listener = bind(addr)?;
        let addr = listener.local_addr()?;
        let (link, state) = watch::channel(Link::Works);
        let task = tokio::spawn(accept(listener, addr, target, state));
        Ok(Proxy { addr, link, task })
    }

    /// Where clients connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes what the link does, for connections there are and those to come.
    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// With SO_REUSEADDR, so that the same port listens again after [`Link::Refuses`].
fn bind(addr: SocketAddr) -> Result<TcpListener> {
    Ok(reserve(addr)?.listen(64)?)
}

/// A port where nobody listens, and which nobody else is given as a free one as long as this is kept. Who asks for this very
/// port gets it.
///
/// # Errors
/// If it cannot be had.
pub fn reserve(addr: SocketAddr) -> Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

async fn accept(first: TcpListener, addr: SocketAddr, target: SocketAddr, mut state: watch::Receiver<Link>) {
    let mut listener = Some(first);
    loop {
        if *state.borrow_and_update() == Link::Refuses {
            listener = None;
            // Or another test's broker gets the port, and what should be refused arrives there.
            let _reserved = reserve(addr).ok();
            if state.changed().await.is_err() {
                return;
            }
            continue;
        }
        let here = match listener.take().map_or_else(|| bind(addr), Ok) {
            Ok(here) => listener.insert(here),
            Err(_) => {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                continue;
            }
        };
        tokio::select! {
            accepted = here.accept() => if let Ok((client, _)) = accepted {
                tokio::spawn(carry(client, target, state.clone()));
            },
            changed = state.changed() => if changed.is_err() { return },
        }
    }
}

async fn carry(client: TcpStream, target: SocketAddr, state: watch::Receiver<Link>) {
    let client = Arc::new(client);
    if *state.borrow() == Link::Resets {
        return reset(&client);
    }
    let Ok(server) = TcpStream::connect(target).await else { return reset(&client) };
    let (mut from_client, mut to_client) = match Arc::try_unwrap(client) {
        Ok(client) => client.into_split(),
        Err(_) => return,
    };
    let (mut from_server, mut to_server) = server.into_split();
    let up = pump(&mut from_client, &mut to_server, state.clone(), false);
    let down = pump(&mut from_server, &mut to_client, state, true);
    let end = tokio::select! { end = up => end, end = down => end };
    if end == End::Reset
        && let Ok(client) = from_client.reunite(to_client)
    {
        reset(&client);
    }
}

#[derive(PartialEq, Eq)]
enum End {
    Closed,
    Reset,
}

async fn pump(
    from: &mut tokio::net::tcp::OwnedReadHalf,
    to: &mut tokio::net::tcp::OwnedWriteHalf,
    mut state: watch::Receiver<Link>,
    from_server: bool,
) -> End {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let link = *state.borrow_and_update();
        match link {
            Link::Refuses | Link::Resets => return End::Reset,
            Link::Works | Link::Hangs | Link::Drips => {}
        }
        let most = if link == Link::Drips && from_server { 1 } else { buffer.len() };
        tokio::select! {
            read = from.read(buffer.get_mut(..most).unwrap_or_default()) => match read {
                Ok(n) if n > 0 => {
                    // Swallowed while the link hangs: as a black hole does it.
                    if *state.borrow() != Link::Hangs && to.write_all(buffer.get(..n).unwrap_or_default()).await.is_err() {
                        return End::Closed;
                    }
                }
                _ => return End::Closed,
            },
            changed = state.changed() => if changed.is_err() { return End::Closed },
        }
        if most == 1 {
            tokio::time::sleep(DRIP_EVERY).await;
        }
        // Bytes are missing after a black hole: such a connection can only end.
        if link == Link::Hangs && *state.borrow() == Link::Works {
            return End::Reset;
        }
    }
}

/// RST instead of FIN.
fn reset(stream: &TcpStream) {
    if let Err(error) = rustix::net::sockopt::set_socket_linger(stream, Some(std::time::Duration::ZERO)) {
        eprintln!("proxy: no reset: {error}");
    }
}
