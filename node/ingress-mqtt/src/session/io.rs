//! What goes into the machine and what comes out of it.

use super::{Limits, PendingWill};
use crate::clients::Sessions;
use crate::codec::{DecodeError, Packet};
use crate::outlet::Event;
use crate::reason::Reason;
use bytes::{Bytes, BytesMut};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Position, Timestamp};
use eventmesh_edge_core::ports::hub::{Hub, Submission, SubscriberId};
use eventmesh_edge_core::ports::store::SessionNo;
use std::time::Duration;

/// What the machine may look at while it handles one input.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Monotonic time.
    pub now: Duration,
    /// Wall clock.
    pub wall: Timestamp,
    /// The client table.
    pub sessions: &'a Sessions,
    /// The listener's limits.
    pub limits: &'a Limits,
}

impl<'a> Context<'a> {
    pub(super) fn hub(&self) -> &'a dyn Hub {
        self.sessions.hub()
    }
}

/// What happened.
pub enum Input {
    /// A packet was decoded. Follow the last one of a read with [`Input::ReadDone`].
    Packet(Packet),
    /// The bytes were not a packet, or not one for us.
    Bad(DecodeError),
    /// Nothing more was decoded from this read.
    ReadDone,
    /// From the link.
    Event(Event),
    /// Deliveries may wait in the link, or there is room in the output again.
    Pump,
    /// Every byte of the output so far was taken by the socket.
    Flushed,
    /// A deadline may have passed.
    Tick,
    /// The socket is closed or broken.
    Gone,
}

/// What to do.
#[derive(Debug, Default)]
pub struct Output {
    /// For the socket, in order, before anything that comes later.
    pub bytes: BytesMut,
    /// In order.
    pub actions: Vec<Action>,
}

/// Something that needs the world.
#[derive(Debug)]
pub enum Action {
    /// Check the login; answer with [`Event::Authenticated`].
    Authenticate(Box<Login>),
    /// Commit; answer with [`Event::Completed`] carrying the token.
    Submit {
        /// To be returned.
        token: u64,
        /// What to commit.
        submission: Submission,
    },
    /// The client is lost: publish its will, after everything that was submitted before. Nobody waits.
    PublishWill {
        /// The will.
        will: Box<PendingWill>,
        /// For No Local.
        publisher: Option<SubscriberId>,
    },
    /// Read the mailbox; answer with [`Event::Mailbox`].
    ReadMailbox {
        /// To be returned.
        generation: u64,
        /// Whose.
        session: SessionNo,
        /// After which position.
        after: Position,
        /// At most how many.
        max_events: usize,
    },
    /// The connection has been waiting for the store for long: has the client given up? Then [`Input::Gone`].
    Probe,
    /// Write what is in the output and close. The machine has ended; nothing is sent after this.
    Close(Reason),
}

/// What a client showed at CONNECT.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Client identifier.
    pub client_id: Text,
    /// User name.
    pub username: Text,
    /// Password.
    pub password: Option<Bytes>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}
