//! Sessions that have ended and were members of shared subscriptions: what waits in their mailboxes goes to other members
//! (MQTT 5.0 section 4.8.2), as durable as it was.
//!
//! A row names such a session from its end until its mailbox is empty, so a kill in between takes nothing away: the next
//! start goes on. The row is in the commit that follows the session's last one; when that is durable, everything that was
//! ever to be in the mailbox is, and it is read from the front. Each piece is handed on and removed in one commit. What the
//! client may have begun to receive of QoS 2 is handed on to nobody [MQTT-4.8.2-5].

use crate::session::{Session, records};
use eventmesh_edge_core::event::{Position, Qos};
use eventmesh_edge_core::ports::hub::{Accepted, Audience, Hub, Publication, Submission};
use eventmesh_edge_core::ports::store::{CommitError, MailboxItem, SessionNo, StateChange, Table};
use std::sync::Arc;

/// Messages read and handed on at once.
const PIECE: usize = 32;

/// The mailbox of one of them.
pub(super) struct Ended {
    pub(super) hub: Arc<dyn Hub>,
    pub(super) number: SessionNo,
    /// QoS 2 messages that the client may have begun to receive.
    pub(super) begun: Vec<Position>,
}

impl Ended {
    /// The session ends now, and the hub has forgotten it.
    pub(super) fn begin(hub: Arc<dyn Hub>, session: &Session, number: SessionNo) {
        let ended = Ended { hub, number, begun: session.begun() };
        // What the client has answered is not in its mailbox any more.
        let mut state = session.unstored();
        state.push(records::put_ended(number, &ended.begun));
        ended.commit(Submission { state, ..Submission::default() }, Ended::go_on);
    }

    /// Reads on: what was read is not there any more.
    pub(super) fn go_on(self) {
        let (hub, number) = (self.hub.clone(), self.number);
        let done = move |piece: Result<Vec<MailboxItem>, _>| match piece {
            Ok(piece) if piece.is_empty() => self.finish(),
            Ok(piece) => self.hand_on(piece),
            Err(error) => {
                tracing::warn!(%error, "mailbox of an ended session cannot be read, left for the next start");
            }
        };
        hub.read_mailbox(number, Position::ZERO, PIECE, Box::new(done));
    }

    fn hand_on(self, piece: Vec<MailboxItem>) {
        let (mut publications, mut shares, mut state) = (Vec::new(), Vec::new(), Vec::new());
        for item in piece {
            let options = self.hub.mailbox_options(&item);
            let position = item.event.position;
            state.push(StateChange::MailboxRemove { session: self.number, position });
            let begun = options.qos == Qos::ExactlyOnce && self.begun.contains(&position);
            if !options.shares.is_empty() && !begun {
                publications.push(Publication { event: item.event.event, publisher: None });
                shares.push(options.shares);
            }
        }
        let audience = Audience::Shares(shares);
        self.commit(Submission { publications, state, audience, ..Submission::default() }, Ended::go_on);
    }

    fn finish(self) {
        let clear = StateChange::MailboxClear { session: self.number };
        let state = vec![clear, records::delete(Table::Session, records::ended_key(self.number))];
        self.commit(Submission { state, ..Submission::default() }, drop);
    }

    fn commit(self, submission: Submission, next: fn(Ended)) {
        let submission = Submission { kept: true, ..submission };
        let hub = self.hub.clone();
        let done = move |result: Result<Accepted, CommitError>| match result.map(|accepted| accepted.cut) {
            Ok(None) => next(self),
            Ok(Some(error)) | Err(error) => {
                tracing::warn!(%error, "mailbox of an ended session is not handed on, left for the next start");
            }
        };
        hub.submit(submission, Box::new(done));
    }
}
