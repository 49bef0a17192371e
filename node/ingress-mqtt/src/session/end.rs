//! How a connection ends, what becomes of its will, and what is kept of its session.

use super::{Action, Context, End, Flight, Machine, Output, Phase, Purpose, Session, Step};
use crate::codec::encode::Words;
use crate::codec::{Disconnect, encode};
use crate::reason::{Place, Reason};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Qos;
use eventmesh_edge_core::ports::hub::{Audience, Delivery, Publication, Submission};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

impl Machine {
    pub(super) fn disconnect(&mut self, cx: &Context<'_>, disconnect: Disconnect, out: &mut Output) {
        if let (Some(secs), Some(session)) = (disconnect.session_expiry_secs, self.session.as_mut()) {
            // A session that was to end with the connection cannot be kept after all [MQTT-3.14.2-2].
            if secs > 0 && session.expiry_secs == 0 {
                return self.fail(cx, Reason::Protocol, out);
            }
            session.expiry_secs = secs.min(cx.sessions.expiry_max_secs());
        }
        // [MQTT-3.14.4-3]; any other code asks for the will [MQTT-3.1.2-8].
        let end = if disconnect.reason == 0 { End::Normal } else { End::WithWill };
        self.end(cx, end, out);
    }

    /// The node ends the connection: DISCONNECT where the protocol has one, after CONNACK only.
    pub(super) fn fail(&mut self, cx: &Context<'_>, reason: Reason, out: &mut Output) {
        if self.phase == Phase::Open {
            self.close_batch(cx, out);
            if let Some(code) = reason.code(self.version, Place::Disconnect) {
                encode::disconnect(&mut out.bytes, code, self.words(cx, reason));
            }
        }
        self.end(cx, End::Failed(reason), out);
    }

    /// What there is to say beside the code of CONNACK or DISCONNECT; Request Problem Information does not forbid it there
    /// [MQTT-3.1.2-29].
    pub(super) fn words<'a>(&self, cx: &Context<'a>, reason: Reason) -> Words<'a> {
        let elsewhere = matches!(reason, Reason::UseAnotherServer | Reason::ServerMoved);
        Words {
            reason: Some(reason.as_str()),
            server: cx.limits.redirect_to.as_deref().filter(|_| elsewhere),
            max_bytes: self.client_packet_max as usize,
        }
    }

    pub(super) fn end(&mut self, cx: &Context<'_>, how: End, out: &mut Output) {
        if self.phase == Phase::Ended {
            return;
        }
        // What arrived whole before the end was received.
        self.close_batch(cx, out);
        let phase = std::mem::replace(&mut self.phase, Phase::Ended);
        match phase {
            Phase::AwaitConnect | Phase::Authenticating | Phase::Ended => {}
            Phase::Claiming => {
                if let Some(connecting) = self.connecting.take() {
                    cx.sessions.abandon(&connecting.connect.client_id, self.generation, &self.link);
                }
            }
            Phase::Opening => self.leave(cx, how, out),
            Phase::Open => {
                self.tell_disconnected(cx, how, out);
                self.leave(cx, how, out);
            }
        }
        self.connecting = None;
        let reason = match how {
            End::Normal | End::WithWill | End::Lost => Reason::Success,
            End::Failed(reason) => reason,
        };
        out.actions.push(Action::Close(reason));
    }

    /// Keeps or ends the session, and gives the client id back.
    fn leave(&mut self, cx: &Context<'_>, how: End, out: &mut Output) {
        let Some(session) = self.session.as_mut() else { return };
        let stays = session.number.is_some() && session.expiry_secs > 0;
        if let Some(subscriber) = session.subscriber.filter(|_| !stays) {
            // First: what is offered from here on goes to somebody else.
            cx.hub().detach(subscriber);
        }
        let queued = session.link.close();
        let mut left = Left::default();
        if !stays {
            left.flights(&session.flights);
            left.deliveries(self.pending.drain(..).map(|pending| pending.delivery));
            left.deliveries(queued);
        }
        session.ground(&std::mem::take(&mut self.to_prepare));
        session.inbound_is_unsure();
        self.pending.clear();
        self.retained.clear();
        let mut will = self.will.take();
        if let Some(withdrawn) = will.take_if(|_| how == End::Normal) {
            session.lazy.push(withdrawn.forget()); // [MQTT-3.14.4-3]
        }
        if let Some(later) = will.take_if(|will| stays && will.delay > Duration::ZERO) {
            session.will = Some(later);
        }
        let publisher = session.subscriber;
        if stays {
            self.keep(cx, out);
        } else if let Some(session) = self.session.take() {
            let client_id = session.client_id.clone();
            let mut state = session.lazy.clone();
            cx.sessions.end_session(*session, &mut state);
            if !state.is_empty() {
                unattended(Submission { state, ..Submission::default() }, out);
            }
            cx.sessions.release(&client_id, self.generation, None, cx.now);
        }
        left.hand_on(out);
        if let Some(will) = will {
            // By itself: its stream may be full, and the session must not wait for that; nor must the client, which
            // changes the same records when it comes back.
            out.actions.push(Action::PublishWill { will, publisher });
        }
    }

    fn keep(&mut self, cx: &Context<'_>, out: &mut Output) {
        let Some(session) = self.session.as_mut() else { return };
        let will = session.will.as_ref().map(|will| will.number);
        session.lazy.extend(session.record(will, false, cx.wall));
        if let Some(subscriber) = session.subscriber {
            cx.hub().reattach(subscriber, None);
        }
        self.link = session.link.clone();
        self.submit(Purpose::Lazy, Submission::default(), out);
        if let Some(session) = self.session.take() {
            let client_id = session.client_id.clone();
            cx.sessions.release(&client_id, self.generation, Some(session), cx.now);
        }
    }

    /// A session that came to a connection which did not want it any more.
    pub(super) fn hand_back(&mut self, cx: &Context<'_>, session: Option<Box<Session>>) {
        if let Some(session) = session {
            let client_id: Text = session.client_id.clone();
            cx.sessions.release(&client_id, self.generation, Some(session), cx.now);
        }
    }
}

/// What a client without a session leaves unanswered of shared subscriptions, for their other members.
#[derive(Default)]
struct Left {
    publications: Vec<Publication>,
    shares: Vec<Vec<Text>>,
}

impl Left {
    /// QoS 1 that was sent. QoS 2 that was sent is the client's or nobody's [MQTT-4.8.2-5].
    fn flights(&mut self, flights: &VecDeque<Flight>) {
        let sent = flights.iter().filter(|f| f.qos == Qos::AtLeastOnce && f.step == Step::Sent);
        self.deliveries(sent.filter_map(|f| f.delivery.as_deref().cloned()));
    }

    /// Whatever was not sent.
    fn deliveries(&mut self, deliveries: impl IntoIterator<Item = Delivery>) {
        let shared = |d: &Delivery| d.qos > Qos::AtMostOnce && !d.shares.is_empty();
        for Delivery { event, shares, .. } in deliveries.into_iter().filter(shared) {
            self.publications.push(Publication { event: Arc::unwrap_or_clone(event), publisher: None });
            self.shares.push(shares);
        }
    }

    fn hand_on(self, out: &mut Output) {
        if !self.publications.is_empty() {
            let audience = Audience::Shares(self.shares);
            let publications = self.publications;
            unattended(Submission { publications, audience, ..Submission::default() }, out);
        }
    }
}

/// Nobody is left to wait for it.
pub(super) fn unattended(submission: Submission, out: &mut Output) {
    out.actions.push(Action::Submit { token: 0, submission });
}
