//! What goes to the store in one piece, and what waits for it (P1): the batch of one read, its completion, and changes
//! that nobody waits for.

use super::answers::Answer;
use super::retained::Piece;
use super::{Action, Context, LAZY_DELAY, LAZY_MAX, Machine, Output, Phase, WhenFull};
use crate::reason::Reason;
use eventmesh_edge_core::ports::hub::{Accepted, Publication, Submission};
use eventmesh_edge_core::ports::store::{CommitError, StateChange, StateValue};
use std::collections::HashSet;

#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) token: u64,
    /// Which connection of the session made it; the answers are for that one alone.
    pub(super) generation: u64,
    pub(super) purpose: Purpose,
}

#[derive(Debug)]
pub(super) enum Purpose {
    /// The batch of one read. `plain`: its changes that refer to no publication, kept only where a full stream may
    /// refuse the publications alone.
    Answers { answers: Vec<Answer>, plain: Vec<StateChange> },
    /// The same after a full stream refused its publications: state changes alone.
    AnswersAfterRefusal(Vec<Answer>),
    /// CONNACK.
    Open,
    /// Packet identifiers of QoS 2 messages.
    Prepare(Vec<u16>),
    /// Retained messages on their way into the mailbox.
    Retained(Piece),
    /// Nobody waits.
    Lazy,
}

/// What one read amounts to.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) publications: Vec<Publication>,
    /// What those take.
    pub(super) bytes: usize,
    pub(super) state: Vec<StateChange>,
    pub(super) answers: Vec<Answer>,
}

impl Batch {
    pub(super) fn push(&mut self, publication: Publication) {
        let event = &publication.event;
        self.bytes += event.payload.len() + event.topic.len() + event.source.len();
        self.publications.push(publication);
    }
}

impl Machine {
    pub(super) fn batch(&mut self) -> &mut Batch {
        self.batch.get_or_insert_default()
    }

    /// Everything of one read is here: one submission, or the answers at once where nothing has to be durable.
    pub(super) fn read_done(&mut self, cx: &Context<'_>, out: &mut Output) {
        self.close_batch(cx, out);
        self.pump(cx, out);
    }

    pub(super) fn close_batch(&mut self, cx: &Context<'_>, out: &mut Output) {
        if let Some(batch) = self.batch.take() {
            self.finish_batch(cx, *batch, out);
        }
    }

    fn finish_batch(&mut self, cx: &Context<'_>, batch: Batch, out: &mut Output) {
        let Batch { publications, mut state, answers, .. } = batch;
        if publications.is_empty() && state.is_empty() {
            return self.answer(cx, answers, None, out);
        }
        cx.sessions.stats().published(publications.len());
        let refuse_when_full = cx.limits.when_full == WhenFull::Reject;
        let mut plain = Vec::new();
        if refuse_when_full {
            if let Some(session) = self.session.as_mut() {
                state.splice(0..0, session.lazy.drain(..));
            }
            plain.extend(state.iter().filter(|change| !refers_to_publication(change)).cloned());
        }
        let submission = Submission { publications, state, refuse_when_full, ..Submission::default() };
        self.submit(Purpose::Answers { answers, plain }, submission, out);
    }

    pub(super) fn completed(
        &mut self,
        cx: &Context<'_>,
        token: u64,
        result: Result<Accepted, CommitError>,
        out: &mut Output,
    ) {
        let Some(session) = self.session.as_mut() else { return };
        let Some(index) = session.outstanding.iter().position(|o| o.token == token) else { return };
        let Some(outstanding) = session.outstanding.remove(index) else { return };
        let ours = outstanding.generation == self.generation;
        match (outstanding.purpose, result) {
            (Purpose::Answers { answers, .. } | Purpose::AnswersAfterRefusal(answers), Ok(accepted)) => {
                self.accepted(cx, ours, answers, accepted, out);
            }
            (Purpose::Answers { answers, plain }, Err(error)) => {
                let refuse = ours && self.version.is_v5() && matches!(error, CommitError::Full { .. });
                if refuse && cx.limits.when_full == WhenFull::Reject {
                    self.refuse_publications(cx, answers, plain, out);
                } else {
                    self.roll_back(cx, &answers);
                    self.store_failed(cx, ours, &error, out);
                }
            }
            (Purpose::Open, Ok(_)) if ours && self.phase == Phase::Opening => self.open(cx, out),
            (Purpose::Open, Err(error)) if ours && self.phase == Phase::Opening => {
                tracing::warn!(%error, "session could not be made durable, connection refused");
                self.not_opened();
                self.refuse(cx, Reason::ServerUnavailable, out);
            }
            (Purpose::Open, _) => {}
            (Purpose::Prepare(pids), Ok(_)) => self.prepared(cx, &pids, out),
            (Purpose::Prepare(pids), Err(error)) => {
                self.unprepared(&pids);
                self.store_failed(cx, ours, &error, out);
            }
            (Purpose::Retained(piece), Ok(_)) => {
                self.stored_retained(piece);
                self.pump(cx, out);
            }
            // They are owed still.
            (Purpose::Retained(_), Err(error)) => self.store_failed(cx, ours, &error, out),
            (Purpose::AnswersAfterRefusal(answers), Err(error)) => {
                self.roll_back(cx, &answers);
                self.store_failed(cx, ours, &error, out);
            }
            // At worst something is sent again that was answered.
            (Purpose::Lazy, Ok(_)) => self.pump(cx, out),
            (Purpose::Lazy, Err(error)) => {
                tracing::debug!(%error, "session changes that nobody waits for were not stored");
            }
        }
    }

    fn accepted(
        &mut self,
        cx: &Context<'_>,
        ours: bool,
        answers: Vec<Answer>,
        mut accepted: Accepted,
        out: &mut Output,
    ) {
        self.last_heard = cx.now; // it could not be heard while nobody read
        let cut = accepted.cut.take();
        // Of a batch that was stored in parts only the publications say whether they are in a part that is stored.
        let through = accepted.positions.len();
        let (answers, lost) = answers.into_iter().partition::<Vec<_>, _>(|answer| match answer {
            Answer::PubAck { event: Some(event), .. } | Answer::PubRec { event: Some(event), .. } => {
                *event < through
            }
            _ => cut.is_none(),
        });
        if ours {
            self.answer(cx, answers, Some(&accepted), out);
        } else {
            self.effects_only(&answers);
        }
        if let Some(error) = cut {
            self.roll_back(cx, &lost);
            self.store_failed(cx, ours, &error, out);
        }
        self.pump(cx, out);
    }

    /// The publications are refused one by one; what else was in the read still has to be durable.
    fn refuse_publications(
        &mut self,
        cx: &Context<'_>,
        mut answers: Vec<Answer>,
        plain: Vec<StateChange>,
        out: &mut Output,
    ) {
        let Some(session) = self.session.as_mut() else { return };
        let mut gone = HashSet::new();
        for answer in &mut answers {
            if let Answer::PubAck { pid, event, refused } | Answer::PubRec { pid, event, refused } = answer
                // Without an event it repeats one: of this batch, or one that is stored.
                && (event.take().is_some_and(|_| gone.insert(*pid)) || gone.contains(pid))
            {
                *refused = Some(Reason::QuotaExceeded);
                session.inbound.remove(pid);
            }
        }
        cx.sessions.stats().refused_full();
        if plain.is_empty() {
            return self.answer(cx, answers, None, out);
        }
        let submission = Submission { state: plain, ..Submission::default() };
        self.submit(Purpose::AnswersAfterRefusal(answers), submission, out);
    }

    /// Nothing of a submission was stored, so nothing of it is answered; the client sends it again.
    fn store_failed(&mut self, cx: &Context<'_>, ours: bool, error: &CommitError, out: &mut Output) {
        tracing::warn!(%error, client_id = ?self.client_id(), "commit failed, nothing of it was acknowledged");
        let reason = match error {
            CommitError::Full { .. } => Reason::QuotaExceeded,
            CommitError::TooLarge { .. } => Reason::PacketTooLarge,
            CommitError::Reserved => Reason::NotAuthorized,
            CommitError::Io(_) => Reason::Unspecified,
            CommitError::Closed => Reason::ServerShuttingDown,
        };
        if ours {
            self.fail(cx, reason, out);
        }
    }

    /// As if the batch had not been received: its packet identifiers are free, its subscriptions as before.
    fn roll_back(&mut self, cx: &Context<'_>, answers: &[Answer]) {
        let Some(session) = self.session.as_mut() else { return };
        // The last first: a filter may be subscribed, and subscribed again, in one read.
        for answer in answers.iter().rev() {
            match answer {
                Answer::PubAck { pid, event: Some(_), .. } | Answer::PubRec { pid, event: Some(_), .. } => {
                    session.inbound.remove(pid);
                }
                Answer::SubAck { undo, .. } | Answer::UnsubAck { undo, .. } => session.undo(cx, undo),
                _ => {}
            }
        }
    }

    pub(super) fn submit(&mut self, purpose: Purpose, mut submission: Submission, out: &mut Output) {
        let Some(session) = self.session.as_mut() else { return };
        if !session.lazy.is_empty() {
            // They happened before what is submitted now: a packet identifier is freed, then used again.
            let mut state = std::mem::take(&mut session.lazy);
            state.append(&mut submission.state);
            submission.state = state;
        }
        self.lazy_due = None;
        submission.origin = session.subscriber;
        session.next_token += 1;
        let token = session.next_token;
        session.outstanding.push_back(Outstanding { token, generation: self.generation, purpose });
        out.actions.push(Action::Submit { token, submission });
    }

    /// Changes that go with the next submission.
    pub(super) fn leave_for_later(&mut self, state: Vec<StateChange>) {
        if let Some(session) = self.session.as_mut() {
            session.lazy.extend(state);
        }
    }

    pub(super) fn submit_lazy(&mut self, out: &mut Output) {
        if self.session.as_ref().is_some_and(|session| !session.lazy.is_empty()) {
            self.submit(Purpose::Lazy, Submission::default(), out);
        }
        self.lazy_due = None;
    }

    pub(super) fn schedule_lazy(&mut self, cx: &Context<'_>, out: &mut Output) {
        let waiting = self.session.as_ref().map_or(0, |session| session.lazy.len());
        if waiting >= LAZY_MAX && !self.has_outstanding_lazy() {
            self.submit_lazy(out);
        } else if waiting > 0 && self.lazy_due.is_none() && self.phase == Phase::Open {
            self.lazy_due = Some(cx.now + LAZY_DELAY);
        }
    }

    fn has_outstanding_lazy(&self) -> bool {
        let lazy = |o: &Outstanding| matches!(o.purpose, Purpose::Lazy);
        self.session.as_ref().is_some_and(|session| session.outstanding.iter().any(lazy))
    }
}

fn refers_to_publication(change: &StateChange) -> bool {
    let by_index = |value: &StateValue| !matches!(value, StateValue::Bytes(_));
    matches!(change, StateChange::Put { value, .. } if by_index(value))
}
