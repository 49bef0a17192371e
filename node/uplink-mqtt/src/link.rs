//! One connection's I/O: everything that waits leaves in one write, one read brings many packets.

use crate::codec::{DecodeError, decode};
use crate::dial::Dialed;
use crate::keepalive::{Due, KeepAlive};
use crate::session::{Kept, Lost, Session, Shared};
use crate::suspicion::End;
use bytes::{Buf as _, BytesMut};
use eventmesh_edge_core::ports::uplink::{Outgoing, UplinkEvent};
use eventmesh_edge_uplink_net::Stream;
use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::time::Instant;

/// Room made for one read: some 4,000 PUBACKs.
const READ_BYTES: usize = 16 * 1_024;

/// An out buffer larger than this is given back when it is empty: a burst must not stay in memory.
const KEEP_OUT_BYTES: usize = 256 * 1_024;

/// That a burst is still leaving is said at most this often.
const SAY_LEAVING_EVERY: Duration = Duration::from_millis(500);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("write: {0}")]
    Write(#[source] io::Error),
    #[error("read: {0}")]
    Read(#[source] io::Error),
    #[error("server closed the connection")]
    Closed,
    #[error("{0}")]
    Decode(#[from] DecodeError),
    #[error("{0}")]
    Lost(#[from] Lost),
}

impl LinkError {
    /// Who ended it.
    pub(crate) fn end(&self) -> End {
        match self {
            LinkError::Write(_) | LinkError::Read(_) | LinkError::Closed => End::Closed,
            LinkError::Lost(Lost::Disconnected(_)) => End::Closed,
            LinkError::Lost(_) | LinkError::Decode(_) => End::Lost,
        }
    }
}

/// A connection that is up.
#[derive(Debug)]
pub(crate) struct Link {
    stream: Stream,
    session: Session,
    read: BytesMut,
    packet_max: u32,
    needs_flush: bool,
    alive: KeepAlive,
    /// Bytes of a burst have left and more wait: when that was said last.
    leaving: Option<Instant>,
}

impl Link {
    pub(crate) fn new(shared: Arc<Shared>, generation: u64, dialed: Dialed, kept: Kept) -> Link {
        let Dialed { stream, limits, session_present, rest } = dialed;
        let packet_max = shared.options.packet_max_bytes;
        let session = Session::new(shared, generation, limits, session_present, kept);
        Link {
            alive: KeepAlive::new(limits.keep_alive),
            stream,
            session,
            read: rest,
            packet_max,
            needs_flush: false,
            leaving: None,
        }
    }

    pub(crate) fn window(&self) -> usize {
        usize::from(self.session.limits().window)
    }

    pub(crate) fn send(&mut self, outgoing: &Outgoing, events: &mut Vec<UplinkEvent>) {
        self.session.send(outgoing, events);
    }

    pub(crate) fn confirm(&mut self, token: u64) {
        self.session.confirm(token);
    }

    /// What the next connection has to know.
    pub(crate) fn end(self, end: End) -> Kept {
        self.session.end(end)
    }

    /// Does what can be done without waiting; ready when something happened.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        events: &mut Vec<UplinkEvent>,
    ) -> Poll<Result<(), LinkError>> {
        let before = events.len();
        loop {
            self.take_packets(events)?;
            self.poll_keep_alive(cx)?;
            if let Poll::Ready(Err(error)) = self.poll_write(cx) {
                self.take_last_answers(cx, events)?;
                return Poll::Ready(Err(LinkError::Write(error)));
            }
            self.say_leaving(events);
            if events.len() > before {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) => return Poll::Ready(Err(LinkError::Closed)),
                Ok(_) => self.alive.heard(),
                Err(error) => return Poll::Ready(Err(LinkError::Read(error))),
            }
        }
    }

    /// What came with the CONNACK or the last read; it may leave answers to write.
    fn take_packets(&mut self, events: &mut Vec<UplinkEvent>) -> Result<(), LinkError> {
        while let Some(packet) = decode(&mut self.read, self.packet_max)? {
            self.session.handle(packet, events)?;
        }
        Ok(())
    }

    /// A server that closes may have said something before, and why: what it has answered need not be sent again.
    fn take_last_answers(
        &mut self,
        cx: &mut Context<'_>,
        events: &mut Vec<UplinkEvent>,
    ) -> Result<(), LinkError> {
        while let Poll::Ready(Ok(1..)) = self.poll_read(cx) {
            self.take_packets(events)?;
        }
        Ok(())
    }

    fn poll_keep_alive(&mut self, cx: &mut Context<'_>) -> Result<(), Lost> {
        loop {
            match self.alive.poll(cx) {
                Due::Nothing => return Ok(()),
                Due::Ping => self.session.ping(),
                Due::Lost(after) => return Err(Lost::NoPingResponse(after)),
                Due::Stuck(after) => return Err(Lost::TakesNothing(after)),
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.session.out.is_empty() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.session.out))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.session.out.advance(n);
            self.alive.spoke();
            self.needs_flush = true;
        }
        if self.needs_flush {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.needs_flush = false;
            if self.session.out.capacity() > KEEP_OUT_BYTES {
                self.session.out = BytesMut::new();
            }
        }
        self.alive.said_all();
        Poll::Ready(Ok(()))
    }

    /// While a burst leaves, and does: on a slow way one event may take longer than an answer may.
    fn say_leaving(&mut self, events: &mut Vec<UplinkEvent>) {
        if self.session.out.is_empty() {
            self.leaving = None;
            return;
        }
        let spoke = self.alive.last_spoke();
        let said = self.leaving.get_or_insert(spoke);
        if spoke >= *said + SAY_LEAVING_EVERY {
            *said = spoke;
            events.push(UplinkEvent::Leaving);
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.read.reserve(READ_BYTES);
        pin!(self.stream.read_buf(&mut self.read)).poll(cx)
    }

    /// DISCONNECT, and what waits in front of it; the caller sets the time limit.
    pub(crate) async fn close(mut self) -> io::Result<()> {
        self.session.disconnect();
        self.stream.write_all(&self.session.out).await?;
        self.stream.shutdown().await
    }
}
