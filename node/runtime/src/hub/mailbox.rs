//! Reading a mailbox for an ingress.
//!
//! The store answers in pieces of a bounded size. They are put together here until there are as many entries as were asked
//! for, or [`READ_MAX_BYTES`] of them, or a read finds nothing: so fewer entries than asked for mean the end of the mailbox,
//! unless they are large, and the hub has the evidence of the end that [`Handover`] wants.
//!
//! [`Handover`]: eventmesh_edge_core::namespace::Handover

use super::inbox::{FoundNothing, Inbox};
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::namespace::ReadMark;
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::hub::SubscriberId;
use eventmesh_edge_core::ports::store::{MailboxItem, ReadError, SessionNo, Store};
use std::sync::Arc;

/// One piece.
const PIECE_BYTES: usize = 128 << 10;
/// The whole answer: ten thousand clients may come back at once.
const READ_MAX_BYTES: usize = 512 << 10;

/// A read under way.
pub(super) struct MailboxRead {
    pub(super) store: Arc<dyn Store>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) session: SessionNo,
    /// Who reads, and what was known when it began.
    pub(super) reader: Option<(SubscriberId, ReadMark)>,
    pub(super) after: Position,
    pub(super) max_events: usize,
    pub(super) items: Vec<MailboxItem>,
    pub(super) bytes: usize,
    pub(super) done: Completion<Result<Vec<MailboxItem>, ReadError>>,
}

impl MailboxRead {
    /// Reads the next piece, and whatever is then still wanted.
    pub(super) fn go_on(self) {
        let (store, session, after) = (self.store.clone(), self.session, self.after);
        let wanted = self.max_events.saturating_sub(self.items.len());
        store.read_mailbox(
            session,
            after,
            wanted,
            PIECE_BYTES,
            Box::new(move |piece| match piece {
                Ok(piece) => self.take(piece),
                Err(error) => (self.done)(Err(error)),
            }),
        );
    }

    fn take(mut self, piece: Vec<MailboxItem>) {
        let Some(last) = piece.last() else {
            if let Some((subscriber, mark)) = self.reader {
                self.inbox.found_nothing(FoundNothing { subscriber, mark, after: self.after });
            }
            return (self.done)(Ok(self.items));
        };
        self.after = last.event.position;
        self.bytes += piece.iter().map(|item| item.event.stored_bytes as usize).sum::<usize>();
        self.items.extend(piece);
        if self.items.len() >= self.max_events || self.bytes >= READ_MAX_BYTES {
            (self.done)(Ok(self.items));
        } else {
            self.go_on();
        }
    }
}
