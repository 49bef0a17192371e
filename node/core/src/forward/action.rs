//! What goes into and what comes out of a [`Forwarder`](super::Forwarder).

use crate::Text;
use crate::event::{Position, StoredEvent};
use crate::ports::store::{Batch, Class, CursorChange, Loss, Read, StreamId};
use std::sync::Arc;
use std::time::Duration;

/// Something happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Begin: connect. Everything else before it is remembered or ignored.
    Start,
    /// Something new is durable in some stream.
    Appended,
    /// Answer to [`Action::Fetch`].
    Fetched {
        /// Of which stream.
        stream: StreamId,
        /// What was read.
        batch: Batch,
    },
    /// Answer to [`Action::Fetch`].
    FetchFailed {
        /// Of which stream.
        stream: StreamId,
        /// Retry: later. Anything else: the store is closed, this stream is not read any more.
        class: Class,
    },
    /// The uplink is connected.
    Up {
        /// How many events the upstream lets be unanswered.
        window: usize,
        /// Which address, for the report.
        address: Text,
    },
    /// The connection ended or could not be made.
    Down {
        /// In words.
        cause: Text,
    },
    /// Nobody took the connection: as [`Input::Down`], but the next attempt costs nobody anything and is made soon
    /// ([`Options::unreachable_max`](super::Options::unreachable_max)).
    Unreachable {
        /// In words.
        cause: Text,
    },
    /// Bytes of what is in flight are still leaving: the time that an answer may take begins anew.
    Leaving,
    /// The upstream takes nothing at present, whatever it is given: as [`Input::Down`], but no event is suspected.
    Unavailable {
        /// In words.
        cause: Text,
        /// Not to be asked again before this has passed, if there is no other address.
        retry_after: Option<Duration>,
    },
    /// Another uplink has taken the old one's place, not connected yet: new addresses, new credentials. Whatever was under
    /// way is unanswered for good; the first address is tried at once.
    Replaced {
        /// How many addresses it has, at least 1.
        addresses: usize,
    },
    /// The upstream has taken an event over.
    Acked {
        /// Which stream.
        stream: StreamId,
        /// Which event.
        position: Position,
    },
    /// The upstream has refused an event.
    Failed {
        /// Which stream.
        stream: StreamId,
        /// Which event.
        position: Position,
        /// Retry: later. Reject: never. Fatal: the connection is of no use.
        class: Class,
        /// The upstream's words or code.
        reason: Text,
    },
    /// The upstream takes no event of this one's group yet. No fault of the event: it is set aside, without limit, and the
    /// group's first one tries again. Later events of the group are still offered.
    Held {
        /// Which stream.
        stream: StreamId,
        /// Which event.
        position: Position,
        /// What is held: whatever the uplink calls it, the same for all of its events.
        group: Text,
        /// When it may be tried again.
        retry_after: Duration,
        /// In words.
        reason: Text,
    },
    /// Answer to [`Action::CommitCursor`]: durable.
    CursorCommitted,
    /// Answer to [`Action::CommitCursor`]: not durable.
    CommitFailed {
        /// Retry: later. Anything else: the store is closed, no cursor is committed any more.
        class: Class,
    },
    /// The store says that a cursor stands here, because it gave events up itself (drop-oldest, expiry) and counted
    /// them. A value at or below the cursor is no news and ignored, so the store's figure may be passed in at any time.
    RetentionMoved {
        /// Which stream.
        stream: StreamId,
        /// Its durable cursor.
        acked: Position,
    },
    /// The moment of [`Action::WakeAt`] has come. Early, late or needless ones do no harm.
    Timer,
    /// Stop gracefully: read and send nothing more, wait for answers, make the cursors durable, then
    /// [`Action::Drained`], at the latest after `limit`.
    Drain {
        /// How long it may take.
        limit: Duration,
    },
}

/// Something is to be done. To be carried out in the order given.
#[derive(Clone, Debug)]
pub enum Action {
    /// Connect to address `index`, ending any connection there is. [`Input::Up`] or [`Input::Down`] follows.
    Connect {
        /// 0 is the preferred one.
        index: usize,
        /// For how long at most.
        timeout: Duration,
    },
    /// Read from the store; one of [`Input::Fetched`] and [`Input::FetchFailed`] follows. At most one per stream is
    /// unanswered.
    Fetch(Read),
    /// Hand an event to the uplink.
    Send {
        /// Of which stream.
        stream: StreamId,
        /// The event.
        event: Arc<StoredEvent>,
        /// It was sent before without an answer, or was refused for the moment.
        again: bool,
    },
    /// What was sent in this step goes out now; several of a round may be folded into one.
    Flush,
    /// Make cursors and losses durable, in one commit. [`Input::CursorCommitted`] or [`Input::CommitFailed`] follows.
    /// At most one is unanswered.
    CommitCursor {
        /// One per stream that moved.
        cursors: Vec<CursorChange>,
        /// What these cursors pass without an acknowledgement.
        losses: Vec<Loss>,
    },
    /// [`Input::Timer`] is wanted at this moment (monotonic); replaces any earlier wish.
    WakeAt(Duration),
    /// For `status` and the log.
    Report(Report),
    /// The graceful stop is complete: nothing more will come.
    Drained,
}

/// A change that an operator may want to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// An attempt to connect begins.
    Connecting {
        /// Which address.
        index: usize,
    },
    /// Connected.
    Up {
        /// Which address.
        address: Text,
    },
    /// Not connected.
    Down {
        /// In words.
        cause: Text,
        /// When the next attempt is made (monotonic).
        retry_at: Duration,
    },
    /// The upstream refused an event.
    Refused {
        /// Of which stream.
        stream: StreamId,
        /// Which event.
        position: Position,
        /// What follows from it.
        class: Class,
        /// The upstream's words or code.
        reason: Text,
    },
}
