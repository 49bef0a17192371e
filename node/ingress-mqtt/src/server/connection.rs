//! The task of one connection: it carries bytes and events between socket, link and machine, and decides nothing.

use super::Entry;
use crate::codec::{Decoder, Frame};
use crate::outlet::{Event, Link};
use crate::reason::Reason;
use crate::session::{Action, Context, Input, Login, Machine, OUTPUT_HIGH_WATER_BYTES, Output, Phase};
use bytes::{Buf, BufMut, BytesMut};
use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_core::ports::hub::{Credentials, Denied, Submission};
use eventmesh_edge_core::ports::store::ReadError;
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tokio_util::io::poll_read_buf;

/// The read buffer of a worker thread.
const READ_BYTES: usize = 64 * 1024;
/// A packet of more than this is assembled in memory of its own, instead of passing through the read buffer again and
/// again.
const DIRECT_BYTES: usize = READ_BYTES / 2;
/// First allocation for such a packet; it doubles, so that a client which announces much and sends little costs little.
const DIRECT_START_BYTES: usize = 32 * 1024;
/// An output buffer larger than this is not kept for the next round.
const SPARE_MAX_BYTES: usize = 256 * 1024;
/// Rounds before other tasks get their turn.
const ROUNDS: usize = 16;
/// How long the last bytes may take to leave.
const LINGER: Duration = Duration::from_secs(2);

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
    /// Output buffers of this thread that are not in use: one, unless a connection's poll is nested in another's.
    static SPARE: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// The socket.
pub(super) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// See the module's description.
pub(super) struct Connection {
    io: Io,
    machine: Machine,
    /// The link that wakes this task.
    link: Arc<Link>,
    decoder: Decoder,
    /// The start of a packet whose rest has not come, or packets behind a CONNECT that is not answered yet.
    tail: BytesMut,
    out: Output,
    timer: Option<Pin<Box<Sleep>>>,
    armed: Duration,
    login: Option<AbortHandle>,
    entry: Entry,
    closing: Closing,
    /// Both clocks, read once per round and not per packet.
    now: Duration,
    wall: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    /// Write what is left until then, and close.
    Until(Duration),
    Done,
}

impl Connection {
    pub(super) fn new(io: Io, machine: Machine, entry: Entry) -> Connection {
        let decoder = Decoder::new(entry.shared().limits.packet_max_bytes());
        let link = machine.link().clone();
        Connection {
            io,
            machine,
            link,
            decoder,
            tail: BytesMut::new(),
            out: Output::default(),
            timer: None,
            armed: Duration::ZERO,
            login: None,
            entry,
            closing: Closing::No,
            now: Duration::ZERO,
            wall: Timestamp(0),
        }
    }

    fn look_at_clocks(&mut self) {
        let clock = self.entry.shared().sessions.clock();
        (self.now, self.wall) = (clock.monotonic(), clock.now());
    }

    fn handle(&mut self, input: Input) {
        let shared = self.entry.shared();
        let cx =
            Context { now: self.now, wall: self.wall, sessions: &shared.sessions, limits: &shared.limits };
        self.machine.handle(&cx, input, &mut self.out);
    }

    /// One turn over everything that may have happened. True if something did.
    fn round(&mut self, task: &mut TaskContext<'_>) -> bool {
        let mut progress = self.take_events(task);
        progress |= self.read(task);
        self.handle(Input::Pump);
        self.act();
        progress |= self.write(task);
        progress
    }

    fn take_events(&mut self, task: &TaskContext<'_>) -> bool {
        let mut any = false;
        // After the end the session's link is somebody else's.
        while self.machine.phase() != Phase::Ended {
            if !Arc::ptr_eq(&self.link, self.machine.link()) {
                // A session was resumed and brought its own. What came before it is registered is read right below.
                self.link = self.machine.link().clone();
                self.link.register(task.waker());
                self.entry.relink(&self.link);
            }
            let Some(event) = self.link.next_event() else { break };
            any = true;
            self.handle(Input::Event(event));
            self.act();
        }
        any
    }

    /// One read, all its packets, one [`Input::ReadDone`].
    fn read(&mut self, task: &mut TaskContext<'_>) -> bool {
        if !self.may_read() {
            return false;
        }
        if self.take_tail() {
            return true;
        }
        let outcome = match self.missing() {
            Some(missing) => self.read_direct(task, missing),
            None => self.read_shared(task),
        };
        match outcome {
            Poll::Pending => false,
            Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => {
                self.handle(Input::Gone);
                true
            }
            Poll::Ready(Ok(_)) => true,
        }
    }

    fn may_read(&self) -> bool {
        self.closing == Closing::No
            && self.machine.wants_read()
            // A client that does not take its answers is not asked for more (P5).
            && self.out.bytes.len() < OUTPUT_HIGH_WATER_BYTES
    }

    /// Whole packets may wait in the tail: behind a CONNECT that is answered now, or one just assembled.
    fn take_tail(&mut self) -> bool {
        if self.tail.is_empty() {
            return false;
        }
        match self.decoder.frame(&self.tail) {
            Ok(Frame::Partial(_)) => false,
            Ok(Frame::Whole(whole)) if whole == self.tail.len() && whole > DIRECT_BYTES => {
                let packet = std::mem::take(&mut self.tail);
                self.decode_one(packet);
                self.read_done(whole, 1);
                true
            }
            _ => {
                let tail = std::mem::take(&mut self.tail);
                self.decode(&tail, 0);
                true
            }
        }
    }

    /// How much of a large packet is still to come.
    fn missing(&self) -> Option<usize> {
        match self.decoder.frame(&self.tail) {
            Ok(Frame::Partial(Some(whole))) if whole > DIRECT_BYTES => Some(whole - self.tail.len()),
            _ => None,
        }
    }

    fn read_direct(&mut self, task: &mut TaskContext<'_>, missing: usize) -> Poll<io::Result<usize>> {
        // Room for the parser's look-ahead at the end, so that it does not move the packet.
        let grow = missing.min(self.tail.len().max(DIRECT_START_BYTES)) + 8;
        self.tail.reserve(grow);
        let mut limited = (&mut self.tail).limit(missing);
        let read = ready!(poll_read_buf(Pin::new(&mut self.io), task, &mut limited))?;
        self.entry.shared().sessions.stats().read(read, 0);
        Poll::Ready(Ok(read))
    }

    fn read_shared(&mut self, task: &mut TaskContext<'_>) -> Poll<io::Result<usize>> {
        READ.with_borrow_mut(|buffer| {
            let kept = self.tail.len();
            let Some((front, rest)) = buffer.split_at_mut_checked(kept) else {
                // Cannot be: a tail of more than half the buffer is read directly.
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            };
            front.copy_from_slice(&self.tail);
            let mut into = ReadBuf::new(rest);
            ready!(Pin::new(&mut self.io).poll_read(task, &mut into))?;
            let read = into.filled().len();
            if read > 0 {
                self.tail = BytesMut::new();
                let whole = buffer.get(..kept + read).unwrap_or_default();
                self.decode(whole, read);
            }
            Poll::Ready(Ok(read))
        })
    }

    /// Decodes what is whole, as far as the machine wants it; the rest becomes the tail.
    fn decode(&mut self, mut bytes: &[u8], read: usize) {
        let mut packets = 0;
        while self.machine.wants_read() {
            match self.decoder.frame(bytes) {
                Err(error) => {
                    self.handle(Input::Bad(error));
                    bytes = &[];
                }
                Ok(Frame::Partial(_)) => break,
                Ok(Frame::Whole(whole)) => {
                    let (packet, rest) = bytes.split_at_checked(whole).unwrap_or((bytes, &[]));
                    bytes = rest;
                    packets += 1;
                    // A copy of exact size, which everything in the packet shares: the read buffer is used again at
                    // once, and a message that is kept for long keeps nothing but itself.
                    let mut copy = BytesMut::with_capacity(whole + 8);
                    copy.extend_from_slice(packet);
                    self.decode_one(copy);
                }
            }
        }
        if !bytes.is_empty() && self.machine.phase() != Phase::Ended {
            self.tail = BytesMut::with_capacity(bytes.len());
            self.tail.extend_from_slice(bytes);
        }
        self.read_done(read, packets);
    }

    fn decode_one(&mut self, packet: BytesMut) {
        let input = match self.decoder.decode(packet) {
            Ok(packet) => Input::Packet(packet),
            Err(error) => Input::Bad(error),
        };
        self.handle(input);
    }

    fn read_done(&mut self, read: usize, packets: u64) {
        self.entry.shared().sessions.stats().read(read, packets);
        self.handle(Input::ReadDone);
        self.act();
    }

    fn act(&mut self) {
        if self.out.actions.is_empty() {
            return;
        }
        for action in std::mem::take(&mut self.out.actions) {
            match action {
                Action::Authenticate(login) => self.authenticate(*login),
                Action::Submit { token, submission } => self.submit(token, submission),
                Action::PublishWill { will, publisher } => {
                    self.entry.shared().sessions.publish_will(will, publisher);
                }
                Action::ReadMailbox { generation, session, after, max_events } => {
                    let link = self.machine.link().clone();
                    let done = move |result: Result<_, ReadError>| {
                        link.push(Event::Mailbox { generation, after, result });
                    };
                    let hub = self.entry.shared().sessions.shared_hub().clone();
                    hub.read_mailbox(session, after, max_events, Box::new(done));
                }
                Action::Probe => {
                    if self.peer_has_closed() {
                        self.handle(Input::Gone);
                        self.act();
                    }
                }
                Action::Close(reason) => self.close(reason),
            }
        }
    }

    fn submit(&mut self, token: u64, submission: Submission) {
        let hub = self.entry.shared().sessions.shared_hub().clone();
        if token == 0 {
            let done = |result: Result<_, eventmesh_edge_core::ports::store::CommitError>| {
                if let Err(error) = result {
                    tracing::warn!(%error, "the end of a session, or its will, was not stored");
                }
            };
            return hub.submit(submission, Box::new(done));
        }
        let link = self.machine.link().clone();
        hub.submit(submission, Box::new(move |result| link.push(Event::Completed { token, result })));
    }

    fn authenticate(&mut self, login: Login) {
        let shared = self.entry.shared();
        let Some(auth) = shared.auth.clone() else {
            return self.handle(Input::Event(Event::Authenticated(Err(Denied::NoCredentials))));
        };
        if let Some(principal) = auth.recall(&credentials(&login)) {
            self.handle(Input::Event(Event::Authenticated(Ok(principal))));
            return self.act();
        }
        let (link, logins) = (self.machine.link().clone(), shared.logins.clone());
        let check = async move {
            let permit = logins.acquire_owned().await;
            // A check that has begun cannot be stopped: it holds its permit to the end, also if the client is gone.
            let check = move || {
                let checked = auth.authenticate(&credentials(&login));
                drop(permit);
                checked
            };
            let checked = tokio::task::spawn_blocking(check).await;
            // A check that panicked has proven nothing.
            link.push(Event::Authenticated(checked.unwrap_or(Err(Denied::BadCredentials))));
        };
        self.login = Some(tokio::spawn(check).abort_handle());
    }

    /// Whether the client has closed its side, although nothing is read from it at present.
    fn peer_has_closed(&self) -> bool {
        let stream = match &self.io {
            Io::Plain(stream) => stream,
            Io::Tls(stream) => stream.get_ref().0,
        };
        let ready = pin!(stream.ready(Interest::READABLE | Interest::WRITABLE));
        let mut now = TaskContext::from_waker(std::task::Waker::noop());
        match ready.poll(&mut now) {
            Poll::Ready(Ok(ready)) => ready.is_read_closed() || ready.is_write_closed(),
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }

    fn close(&mut self, reason: Reason) {
        if self.closing == Closing::No {
            self.entry.ended(reason);
            self.closing = Closing::Until(self.now + LINGER);
            self.tail = BytesMut::new();
            if reason != Reason::Success {
                tracing::debug!(client_id = ?self.machine.client_id(), reason = reason.as_str(), "connection ended");
            }
        }
    }

    /// Writes as much as the socket takes. True if everything is out now and was not before.
    fn write(&mut self, task: &mut TaskContext<'_>) -> bool {
        let any = !self.out.bytes.is_empty();
        while !self.out.bytes.is_empty() {
            match Pin::new(&mut self.io).poll_write(task, &self.out.bytes) {
                Poll::Ready(Ok(written)) if written > 0 => {
                    self.out.bytes.advance(written);
                    self.entry.shared().sessions.stats().written(written);
                }
                Poll::Ready(_) => return self.broken(),
                Poll::Pending => return false,
            }
        }
        if any {
            if let Poll::Ready(Err(_)) = Pin::new(&mut self.io).poll_flush(task) {
                return self.broken();
            }
            self.handle(Input::Flushed);
            self.act();
        }
        if let Closing::Until(_) = self.closing
            && Pin::new(&mut self.io).poll_shutdown(task).is_ready()
        {
            self.closing = Closing::Done;
        }
        any
    }

    fn broken(&mut self) -> bool {
        self.handle(Input::Gone);
        self.act();
        self.out.bytes.clear();
        self.closing = Closing::Done;
        true
    }

    /// Wakes the task when the machine's next deadline comes. Deadlines mostly move away; the timer is left alone then
    /// and set anew when it fires.
    fn arm(&mut self, task: &mut TaskContext<'_>) {
        let deadline = match self.closing {
            Closing::Until(deadline) => Some(deadline),
            Closing::Done => None,
            Closing::No => self.machine.deadline(&self.entry.shared().limits),
        };
        let Some(deadline) = deadline else {
            self.timer = None;
            return;
        };
        let still_good =
            self.timer.as_ref().is_some_and(|timer| !timer.is_elapsed() && self.armed <= deadline);
        if still_good {
            return;
        }
        let wait = deadline.saturating_sub(self.now).max(Duration::from_millis(1));
        let at = Instant::now() + wait;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        timer.as_mut().reset(at);
        self.armed = deadline;
        if timer.as_mut().poll(task).is_ready() {
            task.waker().wake_by_ref();
        }
    }

    fn tick(&mut self) {
        let Some(timer) = &self.timer else { return };
        let now = self.now;
        if now < self.armed && !timer.is_elapsed() {
            return;
        }
        if let Closing::Until(deadline) = self.closing {
            if now >= deadline {
                self.closing = Closing::Done;
            }
            return;
        }
        self.handle(Input::Tick);
        self.act();
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.machine.phase() != Phase::Ended {
            this.link.register(task.waker());
        }
        this.look_at_clocks();
        this.borrow_output();
        this.tick();
        let mut rounds = 0;
        while this.closing != Closing::Done && this.round(task) {
            rounds += 1;
            this.look_at_clocks();
            if rounds == ROUNDS {
                task.waker().wake_by_ref();
                break;
            }
        }
        this.return_output();
        if this.closing == Closing::Done {
            return Poll::Ready(());
        }
        this.arm(task);
        Poll::Pending
    }
}

impl Connection {
    fn borrow_output(&mut self) {
        if self.out.bytes.is_empty() {
            self.out.bytes = SPARE.take();
        }
    }

    /// Gives the buffer back; what the socket did not take is kept in one of its own size.
    fn return_output(&mut self) {
        let mut bytes = std::mem::take(&mut self.out.bytes);
        if !bytes.is_empty() {
            self.out.bytes = bytes;
            return;
        }
        if bytes.capacity() <= SPARE_MAX_BYTES {
            bytes.clear();
            SPARE.set(bytes);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(login) = &self.login {
            login.abort();
        }
        // The task was dropped from outside (the runtime ends): the session is kept all the same.
        if self.machine.phase() != Phase::Ended {
            self.look_at_clocks();
            self.handle(Input::Gone);
            self.act();
        }
    }
}

fn credentials(login: &Login) -> Credentials<'_> {
    Credentials {
        client_id: &login.client_id,
        username: Some(&login.username),
        password: login.password.as_deref(),
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_read(task, into),
            Io::Tls(stream) => Pin::new(stream).poll_read(task, into),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, task: &mut TaskContext<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_write(task, bytes),
            Io::Tls(stream) => Pin::new(stream).poll_write(task, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_flush(task),
            Io::Tls(stream) => Pin::new(stream).poll_flush(task),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(task),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(task),
        }
    }
}

/// What the size of a connection's task is made of.
#[cfg(test)]
pub(super) const TASK_BYTES: usize = std::mem::size_of::<Connection>();
