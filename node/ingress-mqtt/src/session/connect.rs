//! From CONNECT to CONNACK: who is it, whose session is it, is it durable; then what is resumed.

use super::alias::SentAliases;
use super::{
    Action, Connecting, Context, Feed, Login, Machine, Output, PendingWill, Phase, Purpose, Session, Step,
};
use crate::clients::Claim;
use crate::codec::encode::{self, AckKind, ConnAck};
use crate::codec::{Connect, Version, Will};
use crate::outlet::Link;
use crate::reason::{Place, Reason};
use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::hub::{Denied, Outlet, Principal, Submission};
use eventmesh_edge_core::ports::store::StateChange;
use eventmesh_edge_core::topic;
use std::sync::Arc;
use std::time::Duration;

impl Machine {
    pub(super) fn connect(&mut self, cx: &Context<'_>, mut connect: Connect, out: &mut Output) {
        self.version = connect.version;
        self.client_packet_max = connect.maximum_packet_bytes.unwrap_or(u32::MAX);
        self.wants_problem_info = connect.wants_problem_info;
        if let Some(reason) = self.refusing {
            return self.refuse(cx, reason, out);
        }
        if connect.will.as_ref().is_some_and(|will| topic::is_nodes_own(&will.topic)) {
            return self.refuse(cx, Reason::NotAuthorized, out);
        }
        if connect.wants_enhanced_auth {
            return self.refuse(cx, Reason::BadAuthenticationMethod, out); // [MQTT-4.12.0-1]
        }
        let assigned = connect.client_id.is_empty();
        connect.client_id = if assigned {
            cx.sessions.assign_client_id()
        } else {
            // A copy: a slice would keep the whole CONNECT, password included, for as long as the session lives.
            Text::from(&*connect.client_id)
        };
        let will = connect.will.take().map(unshared);
        let password = connect.password.take();
        let username = connect.username.take();
        let client_id = connect.client_id.clone();
        self.connecting = Some(Box::new(Connecting {
            connect,
            assigned,
            principal: None,
            will,
            owed: None,
            session_present: false,
        }));
        self.phase = Phase::Authenticating;
        match username {
            Some(username) if cx.limits.has_authenticator => {
                out.actions.push(Action::Authenticate(Box::new(Login { client_id, username, password })));
            }
            // Where nobody checks, a user name proves nothing and names nobody.
            _ if cx.limits.anonymous => {
                self.authenticated(cx, Ok(Principal { name: client_id, anonymous: true }), out);
            }
            _ => self.authenticated(cx, Err(Denied::NoCredentials), out),
        }
    }

    pub(super) fn authenticated(
        &mut self,
        cx: &Context<'_>,
        outcome: Result<Principal, Denied>,
        out: &mut Output,
    ) {
        if self.phase != Phase::Authenticating {
            return;
        }
        let principal = match outcome {
            Ok(principal) => principal,
            Err(Denied::NoCredentials) => return self.refuse(cx, Reason::NotAuthorized, out),
            Err(Denied::BadCredentials) => return self.refuse(cx, Reason::BadCredentials, out),
        };
        let Some(connecting) = self.connecting.as_mut() else { return };
        connecting.principal = Some(principal.clone());
        let client_id = connecting.connect.client_id.clone();
        self.phase = Phase::Claiming;
        match cx.sessions.claim(&client_id, &principal, &self.link, self.generation) {
            Claim::Ready(session) => self.claimed(cx, session, out),
            Claim::Wait => {}
            // Somebody else's session: P7. The same code as for an id that is not valid tells nothing.
            Claim::NotYours => self.refuse(cx, Reason::ClientIdNotValid, out),
        }
    }

    /// The client id is ours, with the session that was kept under it.
    pub(super) fn claimed(&mut self, cx: &Context<'_>, old: Option<Box<Session>>, out: &mut Output) {
        let Some(mut connecting) = self.connecting.take() else { return };
        let mut state = Vec::new();
        let session = match old {
            Some(old) if connecting.connect.clean_start => {
                cx.sessions.end_session(*old, &mut state); // [MQTT-3.1.2-4]
                None
            }
            old => old,
        };
        connecting.session_present = session.is_some();
        let expiry_secs = connecting.connect.session_expiry_secs.min(cx.sessions.expiry_max_secs());
        let client_id = connecting.connect.client_id.clone();
        let principal = connecting.principal.take();
        let principal = principal.unwrap_or_else(|| Principal { name: client_id.clone(), anonymous: true });
        let mut session = match session {
            Some(mut session) => {
                session.now_of(principal, cx.sessions);
                session
            }
            None => {
                let source = cx.sessions.source(&principal);
                Box::new(Session::new(client_id, principal, source, self.link.clone()))
            }
        };
        session.expiry_secs = expiry_secs;
        // It came back within the Will Delay [MQTT-3.1.3-9].
        connecting.owed = session.will.take();
        state.extend(connecting.owed.as_ref().map(|will| will.forget()));
        session.link.open();
        let has_room =
            session.number.is_some() || expiry_secs == 0 || self.number(cx, &mut session, &mut state);
        let attached = attach(cx, &mut session);
        if has_room {
            self.will = self.take_will(cx, connecting.will.take(), &session.source);
            state.extend(self.will.as_ref().map(|will| will.put()));
        }
        self.session = Some(session);
        self.connecting = Some(connecting);
        self.phase = Phase::Opening;
        if !has_room {
            self.leave_for_later(state);
            return self.refuse(cx, Reason::QuotaExceeded, out);
        }
        if attached {
            self.note_connected(cx, &mut state);
        }
        if state.is_empty() {
            self.open(cx, out);
        } else {
            let submission = Submission { state, ..Submission::default() };
            self.submit(Purpose::Open, submission, out);
        }
    }

    fn take_will(
        &self,
        cx: &Context<'_>,
        will: Option<Box<Will>>,
        source: &Text,
    ) -> Option<Box<PendingWill>> {
        let number = cx.sessions.next_will();
        let admit =
            |will: Box<Will>| PendingWill::admit(number, *will, self.version.is_v5(), source, cx.wall);
        will.map(|will| Box::new(admit(will)))
    }

    /// Makes the session persistent. False if there are too many.
    fn number(&self, cx: &Context<'_>, session: &mut Session, state: &mut Vec<StateChange>) -> bool {
        let Some((number, mark)) = cx.sessions.allocate_number() else { return false };
        session.number = Some(number);
        state.push(mark);
        true
    }

    fn note_connected(&self, cx: &Context<'_>, state: &mut Vec<StateChange>) {
        let will = self.will.as_ref().map(|will| will.number);
        state.extend(self.session.as_ref().and_then(|session| session.record(will, true, cx.wall)));
    }

    /// Everything CONNACK stands for is durable.
    pub(super) fn open(&mut self, cx: &Context<'_>, out: &mut Output) {
        let Some(connecting) = self.connecting.take() else { return };
        let connect = &connecting.connect;
        self.phase = Phase::Open;
        self.last_heard = cx.now;
        self.window = connect.receive_maximum.min(cx.limits.send_window).max(1);
        // One more than allowed, so that a client which sends more is found out.
        self.batch_max = cx.limits.receive_maximum.saturating_add(1);
        self.sent_aliases = SentAliases::new(connect.topic_alias_maximum);
        let server_keep_alive = server_keep_alive(connect, cx.limits.keep_alive_max_secs);
        let keep_alive = server_keep_alive.unwrap_or(connect.keep_alive_secs);
        self.keep_alive = (keep_alive > 0).then(|| Duration::from_secs(keep_alive.into()));
        tracing::debug!(
            client_id = ?connect.client_id,
            version = ?self.version,
            session_present = connecting.session_present,
            "client connected"
        );
        self.connack(cx, &connecting, server_keep_alive, out);
        self.tell_connected(cx, &connecting, out);
        self.resume(cx, out);
    }

    fn connack(
        &self,
        cx: &Context<'_>,
        connecting: &Connecting,
        server_keep_alive_secs: Option<u16>,
        out: &mut Output,
    ) {
        let connect = &connecting.connect;
        if self.version != Version::V5 {
            return encode::connack_bare(&mut out.bytes, self.version, connecting.session_present, 0);
        }
        let granted = self.session.as_ref().map_or(0, |session| session.expiry_secs);
        let ack = ConnAck {
            session_present: connecting.session_present,
            code: 0,
            session_expiry_secs: (granted != connect.session_expiry_secs).then_some(granted),
            receive_maximum: cx.limits.receive_maximum,
            maximum_packet_bytes: cx.limits.packet_max_bytes(),
            topic_alias_maximum: cx.limits.topic_alias_maximum,
            assigned_client_id: connecting.assigned.then(|| connect.client_id.clone()),
            server_keep_alive_secs,
            shared_available: cx.sessions.shared_subscriptions(),
        };
        encode::connack_v5(&mut out.bytes, &ack);
    }

    /// Resends what was not answered, in the original order and with the same packet identifiers [MQTT-4.4.0-1].
    /// Payloads are not kept: they are read from the mailbox again, from the oldest unanswered one.
    fn resume(&mut self, cx: &Context<'_>, out: &mut Output) {
        let Some(session) = self.session.as_mut() else { return };
        session.expect_resends();
        let session_owes = !session.owed.is_empty();
        for flight in &session.flights {
            if flight.step == Step::Released {
                encode::ack(&mut out.bytes, AckKind::PubRel, self.version, flight.pid, 0);
            }
        }
        let Some(subscriber) = session.subscriber.filter(|_| session.number.is_some()) else { return };
        let unanswered = session.flights.iter().filter(|f| f.step != Step::Released);
        let oldest = unanswered.filter_map(|f| f.position).min();
        // After a start only QoS 2 is in flight: QoS 1 messages in front of it wait in the mailbox.
        let before = oldest.map(|p| Position(p.0.saturating_sub(1)));
        let after = before.map_or(session.sent_through, |p| p.min(session.sent_through));
        if oldest.is_none() && cx.hub().resume(subscriber, after) {
            self.feed = Feed::Live;
        } else {
            self.feed = Feed::Behind { after };
        }
        if session_owes {
            self.want_owed();
        }
        self.resend_from_memory(cx, out);
        self.pump(cx, out);
    }

    /// Nothing of what CONNACK would stand for was stored.
    pub(super) fn not_opened(&mut self) {
        self.will = None;
        if let (Some(session), Some(connecting)) = (self.session.as_mut(), self.connecting.as_mut()) {
            session.will = connecting.owed.take();
        }
    }

    /// Refuses the connection: CONNACK where the protocol has a code for the reason, and the end.
    pub(super) fn refuse(&mut self, cx: &Context<'_>, reason: Reason, out: &mut Output) {
        if let Some(code) = reason.code(self.version, Place::ConnAck) {
            match self.version {
                Version::V5 => encode::connack_refused(&mut out.bytes, code, self.words(cx, reason)),
                version => encode::connack_bare(&mut out.bytes, version, false, code),
            }
        }
        cx.sessions.stats().refused_connect(reason);
        self.fail(cx, reason, out);
    }
}

/// Makes a persistent session known to the hub, or gives it this connection's outlet. False for any other.
fn attach(cx: &Context<'_>, session: &mut Session) -> bool {
    let Some(number) = session.number else { return false };
    let outlet: Arc<dyn Outlet> = outlet(&session.link);
    match session.subscriber {
        Some(subscriber) => cx.hub().reattach(subscriber, Some(outlet)),
        None => session.subscriber = Some(cx.hub().attach(Some(number), Some(outlet))),
    }
    true
}

fn outlet(link: &Arc<Link>) -> Arc<dyn Outlet> {
    link.clone()
}

/// A copy of the will that keeps nothing else of the CONNECT it came in.
fn unshared(mut will: Box<Will>) -> Box<Will> {
    let copy = |text: &Text| Text::from(&**text);
    will.topic = copy(&will.topic);
    will.payload = Bytes::copy_from_slice(&will.payload);
    if let Some(p) = will.properties.as_mut() {
        p.content_type = p.content_type.as_ref().map(copy);
        p.response_topic = p.response_topic.as_ref().map(copy);
        p.correlation_data = p.correlation_data.as_deref().map(Bytes::copy_from_slice);
        p.user = p.user.iter().map(|(name, value)| (copy(name), copy(value))).collect();
    }
    will
}

/// What an MQTT 5 client is told to use instead of its own Keep Alive [MQTT-3.1.2-21].
fn server_keep_alive(connect: &Connect, max_secs: Option<u16>) -> Option<u16> {
    let max = max_secs.filter(|_| connect.version.is_v5())?;
    (connect.keep_alive_secs == 0 || connect.keep_alive_secs > max).then_some(max)
}
