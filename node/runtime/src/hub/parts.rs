//! Submissions that are too large for one commit.
//!
//! One message for a hundred thousand sessions is a hundred thousand claims in one record; a read of a socket may hold a
//! thousand such messages. What one commit takes is bounded by the journal's segment, so a submission is stored in
//! parts where it must be:
//!
//! - Each event is in one part, with its claims and with the state that refers to it: atomic, whatever happens between two
//!   parts. State is applied in the order in which it was submitted.
//! - The next part goes to the store when the one before it is durable, and the submitter's later submissions wait for
//!   the last one: order holds (P4).
//! - The submitter is answered once, after the last part. If a part fails, the answer says how far it came
//!   ([`Accepted::cut`]): what is stored must not be forgotten, or a QoS 2 message would be taken twice.
//! - A part that follows a stored one waits for room in a full stream, also where the submission asked to be refused.
//!
//! An event that fits no commit with all its claims loses the largest of them, those with the most Subscription
//! Identifiers, counted in the ledger as
//! [`LossReason::SessionQueueFull`](eventmesh_edge_core::ports::store::LossReason::SessionQueueFull): otherwise some
//! subscribers could keep everybody's messages out for ever. The configuration bounds the number of sessions so that it
//! takes more than 12 bytes of identifiers on average to come to that.

use super::plan::{Parts, Work, named_event};
use eventmesh_edge_core::ports::hub::{Accepted, Audience, Submission};
use eventmesh_edge_core::ports::store::{CommitError, MailboxEntry, SessionNo, StateChange, StateValue};
use std::collections::HashSet;

/// Whether state refers to publications in their order, so that `at` can be a border.
pub(super) fn can_split(submission: &Submission, at: usize) -> bool {
    if matches!(submission.audience, Audience::Retained(_)) {
        return false; // whoever asks for them bounds their number and size
    }
    let border = state_border(submission, at);
    submission.state.iter().take(border).filter_map(named_event).all(|event| event < at)
}

/// Makes the publications from `at` on, and the state that belongs to them, the next part.
pub(super) fn split(work: &mut Work, at: usize) {
    let border = state_border(&work.submission, at);
    let audience = rest_of(&mut work.submission.audience, at);
    let Submission { publications, state, origin, .. } = &mut work.submission;
    let origin = origin.or_else(|| publications.first().and_then(|publication| publication.publisher));
    let rest = Submission {
        publications: publications.split_off(at),
        state: state.split_off(border).into_iter().map(|change| moved(change, at)).collect(),
        origin,
        kept: work.submission.kept,
        audience,
        ..Submission::default()
    };
    work.submission.origin = origin;
    work.parts.get_or_insert_default().later.push_front(rest);
}

/// A commit was too large for the store: makes it smaller. False if that is not possible.
pub(super) fn reduce(work: &mut Work, error: &CommitError, claims: usize) -> bool {
    let CommitError::TooLarge { bytes, max } = error else { return false };
    let half = work.submission.publications.len() / 2;
    if half > 0 && can_split(&work.submission, half) {
        split(work, half);
        return true;
    }
    if claims == 0 || work.submission.publications.len() > 1 {
        return false;
    }
    // As a part, so that it keeps its line.
    work.parts.get_or_insert_default();
    work.shed_bytes += bytes.saturating_sub(*max).max(1);
    true
}

/// Takes the largest claims out, at least so many bytes of them if there are.
pub(super) fn shed(mailboxes: &mut Vec<MailboxEntry>, bytes: u64) -> HashSet<SessionNo> {
    let mut shed = HashSet::new();
    if bytes == 0 {
        return shed;
    }
    mailboxes.sort_by_key(|entry| entry.options.len());
    let mut left = bytes;
    while left > 0
        && let Some(entry) = mailboxes.pop()
    {
        left = left.saturating_sub(entry.options.len() as u64);
        shed.insert(entry.session);
    }
    shed
}

impl Parts {
    /// The submitter's answer after the last part, or after one that failed.
    pub(super) fn answer(self, last: Result<Accepted, CommitError>) -> Result<Accepted, CommitError> {
        match last {
            Ok(accepted) => Ok(self.and(accepted)),
            Err(error) if self.stored.positions.is_empty() => Err(error),
            Err(error) => Ok(Accepted { cut: Some(error), ..self.stored }),
        }
    }

    fn and(mut self, accepted: Accepted) -> Accepted {
        self.add(accepted);
        self.stored
    }

    pub(super) fn add(&mut self, accepted: Accepted) {
        self.stored.positions.extend(accepted.positions);
        self.stored.matched.extend(accepted.matched);
    }
}

/// Whom the publications from `at` on are for.
fn rest_of(audience: &mut Audience, at: usize) -> Audience {
    match audience {
        Audience::Everyone => Audience::Everyone,
        // Not split: see `can_split`.
        Audience::Retained(wanted) => Audience::Retained(wanted.clone()),
        Audience::Shares(shares) => Audience::Shares(shares.split_off(at.min(shares.len()))),
    }
}

/// The state before this index goes with the publications before `at`: everything up to the last change that refers to
/// one of them.
fn state_border(submission: &Submission, at: usize) -> usize {
    let refers = |change: &StateChange| named_event(change).is_some_and(|event| event < at);
    submission.state.iter().rposition(refers).map_or(0, |last| last + 1)
}

/// The same change in a submission that begins at publication `at`.
fn moved(mut change: StateChange, at: usize) -> StateChange {
    if let StateChange::Put { value, .. } = &mut change
        && let StateValue::Position { event, .. } | StateValue::Record { event } = value
    {
        *event = event.saturating_sub(at);
    }
    change
}

#[cfg(test)]
mod tests {
    use super::super::tests::{event, from};
    use super::*;
    use bytes::Bytes;
    use eventmesh_edge_core::ports::store::Table;

    fn refers(event: usize) -> StateChange {
        let value = StateValue::Position { event, suffix: Bytes::new() };
        StateChange::Put { table: Table::Inbound, key: Bytes::from(event.to_string()), value }
    }

    fn plain(key: &'static str) -> StateChange {
        StateChange::Delete { table: Table::Inbound, key: Bytes::from_static(key.as_bytes()) }
    }

    fn work(state: Vec<StateChange>) -> Work {
        let events = (0..4).map(|n| event("t", &n.to_string()));
        Work::new(1, Submission { state, ..from(None, events) }, Box::new(drop))
    }

    #[test]
    fn state_keeps_its_order_and_goes_with_the_publication_that_it_refers_to() {
        let mut work = work(vec![plain("first"), refers(0), plain("between"), refers(2), plain("last")]);
        assert!(can_split(&work.submission, 2));
        split(&mut work, 2);
        assert_eq!(work.submission.state, [plain("first"), refers(0)]);
        let rest = &work.parts.as_ref().unwrap().later[0];
        assert_eq!(rest.publications.len(), 2);
        let StateChange::Put { value: StateValue::Position { event, .. }, .. } = &rest.state[1] else {
            panic!()
        };
        assert_eq!((rest.state.len(), *event), (3, 0));
    }

    #[test]
    fn state_that_refers_backwards_is_not_torn() {
        let work = work(vec![refers(3), refers(0)]);
        assert!(!can_split(&work.submission, 2) && can_split(&work.submission, 4));
    }

    #[test]
    fn the_largest_claims_are_shed_first() {
        let entry = |session, len| MailboxEntry { session: SessionNo(session), options: vec![0; len].into() };
        let mut mailboxes = vec![entry(1, 2), entry(2, 90), entry(3, 30), entry(4, 2)];
        assert_eq!(shed(&mut mailboxes, 0).len(), 0);
        assert_eq!(shed(&mut mailboxes, 100), HashSet::from([SessionNo(2), SessionNo(3)]));
        assert_eq!(mailboxes.len(), 2);
    }
}
