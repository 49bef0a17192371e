//! What a client gets: deliveries from the hub, the mailbox and the retained store, through the send window.
//!
//! A persistent session's messages of QoS 1 and 2 stay in its mailbox until the client has answered: PUBACK removes a
//! QoS 1 message (in company, later), PUBREC a QoS 2 message together with the note that only PUBREL is due. So the
//! machine keeps no payload of what is in flight; after a reconnect it reads the mailbox again from the oldest unanswered
//! position.
//!
//! **Packet identifiers.** A resend has the identifier of the first PUBLISH [MQTT-4.4.0-1], after a kill too. So that this
//! takes no write per message, the identifier of a message in a mailbox is made from its position ([`identifier`],
//! docs/adr/0012), which is on disk and never changes (P3). Two messages in flight may come to the same one; then the later
//! one waits until the first is answered. What is in flight and in no mailbox (a retained message that came while its
//! subscription was made) has identifiers from a range of its own and ends with the process.

use super::answers::Answer;
use super::records::{self, OutboundRecord};
use super::{
    Action, Context, FAILURE, Feed, Flight, LAZY_MAX, MAILBOX_PIECE, Machine, OUTPUT_HIGH_WATER_BYTES,
    Output, Pending, Phase, Purpose, Session, Step,
};
use crate::codec::Ack;
use crate::codec::encode::{self, AckKind, Alias, EncodeError, Outgoing};
use crate::reason::Reason;
use eventmesh_edge_core::event::{Event as CoreEvent, Position, Qos, Timestamp};
use eventmesh_edge_core::ports::hub::{Delivery, Submission};
use eventmesh_edge_core::ports::store::{MailboxItem, ReadError, SessionNo, StateChange, Table};
use std::collections::VecDeque;
use std::sync::Arc;

impl Machine {
    pub(super) fn puback(&mut self, ack: Ack) {
        let Some(session) = self.session.as_mut() else { return };
        let sent = |f: &Flight| f.pid == ack.pid && f.qos == Qos::AtLeastOnce && f.step == Step::Sent;
        // A failure code ends the exchange just as success does [MQTT-4.4.0-2].
        if let Some(flight) = take(&mut session.flights, sent) {
            session.remove_from_mailbox(flight.position);
            self.window_used = self.window_used.saturating_sub(u16::from(flight.on_wire));
        }
    }

    pub(super) fn pubrec(&mut self, ack: Ack) {
        let Some(session) = self.session.as_mut() else { return };
        let ours = |f: &&Flight| f.pid == ack.pid && f.qos == Qos::ExactlyOnce && f.step != Step::Preparing;
        let Some(flight) = session.flights.iter().find(ours) else {
            self.batch().answers.push(Answer::PubRel { pid: ack.pid, known: false });
            return;
        };
        let (step, position) = (flight.step, flight.position);
        if step == Step::Sent && ack.reason >= FAILURE {
            return self.refused_by_client(ack.pid);
        }
        let durable = session.number.filter(|_| step == Step::Sent);
        let batch = self.batch();
        if let Some(session) = durable {
            batch.state.push(OutboundRecord { released: true, position }.put(session, ack.pid));
            let remove = |position| StateChange::MailboxRemove { session, position };
            batch.state.extend(position.map(remove));
        }
        batch.answers.push(Answer::PubRel { pid: ack.pid, known: true });
    }

    /// PUBREC with a failure code: no PUBREL, the identifier is free [MQTT-4.3.3-3].
    fn refused_by_client(&mut self, pid: u16) {
        let Some(session) = self.session.as_mut() else { return };
        let Some(flight) = take(&mut session.flights, |f| f.pid == pid) else { return };
        session.remove_from_mailbox(flight.position);
        session.forget_outbound(&flight);
        self.window_used = self.window_used.saturating_sub(u16::from(flight.on_wire));
    }

    pub(super) fn pubcomp(&mut self, ack: Ack) {
        let Some(session) = self.session.as_mut() else { return };
        let released = |f: &Flight| f.pid == ack.pid && f.step == Step::Released;
        if let Some(flight) = take(&mut session.flights, released) {
            session.forget_outbound(&flight);
            self.window_used = self.window_used.saturating_sub(u16::from(flight.on_wire));
        }
    }

    /// Sends what waits, as far as the window and the output allow.
    pub(super) fn pump(&mut self, cx: &Context<'_>, out: &mut Output) {
        while self.phase == Phase::Open && self.has_room(out) {
            if self.pending.is_empty() && !self.refill_retained(cx, out) && !self.refill(out) {
                break;
            }
            if !self.may_send_next() {
                break;
            }
            if let Some(next) = self.pending.pop_front() {
                self.send(cx, next, out);
            }
        }
        if self.pending.is_empty() && self.pending.capacity() > 0 {
            self.pending = VecDeque::new();
        }
        self.prepare(out);
    }

    fn has_room(&self, out: &Output) -> bool {
        // Removals pile up only while the store does not take them (P5).
        let removals = self.session.as_ref().map_or(0, |session| session.lazy.len());
        out.bytes.len() < OUTPUT_HIGH_WATER_BYTES && removals < 4 * LAZY_MAX
    }

    /// Gets the next delivery from where this session gets them. False if there is none now.
    fn refill(&mut self, out: &mut Output) -> bool {
        let Some(session) = self.session.as_ref() else { return false };
        if self.feed == Feed::Live {
            if let Some(delivery) = session.link.next_delivery() {
                let mailbox = session.number.is_some()
                    && delivery.position.is_some()
                    && delivery.qos != Qos::AtMostOnce;
                self.pending.push_back(Pending { delivery, mailbox });
                return true;
            }
            if !session.link.take_overflow() || session.number.is_none() {
                return false;
            }
            // The queue was full: the rest is in the mailbox.
            self.feed = Feed::Behind { after: session.sent_through };
        }
        if let (Feed::Behind { after }, Some(number)) = (self.feed, session.number) {
            self.feed = Feed::Reading;
            out.actions.push(Action::ReadMailbox {
                generation: self.generation,
                session: number,
                after,
                max_events: MAILBOX_PIECE,
            });
        }
        false
    }

    fn may_send_next(&self) -> bool {
        let (Some(next), Some(session)) = (self.pending.front(), self.session.as_ref()) else { return false };
        let qos = next.delivery.qos;
        if !session.has_identifier_for(next) {
            return false;
        }
        // Behind a QoS 2 message whose identifier is not durable yet only its like may queue: order (P4).
        let preparing = session.flights.iter().any(|f| f.step == Step::Preparing);
        if preparing && qos != Qos::ExactlyOnce {
            return false;
        }
        qos == Qos::AtMostOnce || self.window_used < self.window // [MQTT-3.3.4-7]
    }

    fn send(&mut self, cx: &Context<'_>, next: Pending, out: &mut Output) {
        let Pending { delivery, mailbox } = next;
        let position = delivery.position.filter(|_| mailbox);
        let Some(session) = self.session.as_mut() else { return };
        if let Some(position) = position {
            if session.flights.iter().any(|f| f.position == Some(position)) {
                return self.send_again(cx, position, &delivery, out);
            }
            if position <= session.sent_through {
                return; // answered; its removal from the mailbox is on the way
            }
            session.sent_through = position;
        }
        if expired(&delivery.event, cx.wall) {
            cx.sessions.stats().expired();
            session.remove_from_mailbox(position);
            return;
        }
        match delivery.qos {
            Qos::AtMostOnce => self.send_qos0(cx, &delivery, out),
            Qos::ExactlyOnce if session.number.is_some() => self.start_preparing(position, delivery),
            _ => self.send_new(cx, position, delivery, out),
        }
    }

    fn send_qos0(&mut self, cx: &Context<'_>, delivery: &Delivery, out: &mut Output) {
        if let Err(error) = self.write_publish(cx, delivery, 0, false, out) {
            self.too_large(cx, delivery, error);
        }
    }

    fn send_new(
        &mut self,
        cx: &Context<'_>,
        position: Option<Position>,
        delivery: Delivery,
        out: &mut Output,
    ) {
        let Some(session) = self.session.as_mut() else { return };
        let pid = session.identifier_of(position);
        let dup = session.was_sent_before(position);
        if let Err(error) = self.write_publish(cx, &delivery, pid, dup, out) {
            self.too_large(cx, &delivery, error);
            if let Some(session) = self.session.as_mut() {
                session.remove_from_mailbox(position);
            }
            return;
        }
        let Some(session) = self.session.as_mut() else { return };
        let qos = delivery.qos;
        // What cannot be read again is kept, if the session can come back and ask for it, or another member of a shared
        // subscription is to have it.
        let to_hand_on = !delivery.shares.is_empty() && qos == Qos::AtLeastOnce;
        let keep = position.is_none() && (session.number.is_some() || to_hand_on);
        let delivery = keep.then(|| Box::new(delivery));
        session.flights.push_back(Flight { pid, qos, step: Step::Sent, position, on_wire: true, delivery });
        self.window_used += 1;
    }

    /// QoS 2 of a persistent session: the packet identifier is durable before the first PUBLISH, because the same one
    /// must be used after a restart.
    fn start_preparing(&mut self, position: Option<Position>, delivery: Delivery) {
        let Some(session) = self.session.as_mut() else { return };
        let pid = session.identifier_of(position);
        session.flights.push_back(Flight {
            pid,
            qos: Qos::ExactlyOnce,
            step: Step::Preparing,
            position,
            on_wire: true,
            delivery: Some(Box::new(delivery)),
        });
        self.window_used += 1;
        self.to_prepare.push(pid);
    }

    fn prepare(&mut self, out: &mut Output) {
        let Some(session) = self.session.as_ref() else { return };
        let busy = session.outstanding.iter().any(|o| matches!(o.purpose, Purpose::Prepare(_)));
        let Some(number) = session.number.filter(|_| !busy && !self.to_prepare.is_empty()) else { return };
        let pids = std::mem::take(&mut self.to_prepare);
        let record = |pid: &u16| {
            let position = session.flights.iter().find(|f| f.pid == *pid)?.position;
            Some(OutboundRecord { released: false, position }.put(number, *pid))
        };
        let state = pids.iter().filter_map(record).collect();
        self.submit(Purpose::Prepare(pids), Submission { state, ..Submission::default() }, out);
    }

    /// Their packet identifiers are durable: out they go.
    pub(super) fn prepared(&mut self, cx: &Context<'_>, pids: &[u16], out: &mut Output) {
        for pid in pids {
            let Some(session) = self.session.as_mut() else { return };
            let preparing = |f: &&mut Flight| f.pid == *pid && f.step == Step::Preparing;
            let Some(flight) = session.flights.iter_mut().find(preparing) else { continue };
            flight.step = Step::Sent;
            let position = flight.position;
            let Some(delivery) = flight.delivery.take() else { continue };
            if position.is_none() {
                flight.delivery = Some(delivery.clone()); // it cannot be read again
            }
            let dup = session.was_sent_before(position);
            if let Err(error) = self.write_publish(cx, &delivery, *pid, dup, out) {
                self.too_large(cx, &delivery, error);
                self.refused_by_client(*pid);
            }
        }
        self.pump(cx, out);
    }

    /// They were not made durable, so they were not sent: as if they had not been read.
    pub(super) fn unprepared(&mut self, pids: &[u16]) {
        let Some(session) = self.session.as_mut() else { return };
        session.take_back(pids);
    }

    fn send_again(&mut self, cx: &Context<'_>, position: Position, delivery: &Delivery, out: &mut Output) {
        let Some(session) = self.session.as_mut() else { return };
        let again = |f: &&mut Flight| f.position == Some(position) && f.step == Step::Sent && !f.on_wire;
        let Some(flight) = session.flights.iter_mut().find(again) else { return };
        flight.on_wire = true;
        let pid = flight.pid;
        self.window_used += 1;
        // DUP=1 and the same packet identifier [MQTT-3.3.1-1], [MQTT-4.4.0-1].
        if let Err(error) = self.write_publish(cx, delivery, pid, true, out) {
            self.too_large(cx, delivery, error);
            self.refused_by_client(pid);
        }
    }

    /// Messages in flight that are in no mailbox, after a reconnect.
    pub(super) fn resend_from_memory(&mut self, cx: &Context<'_>, out: &mut Output) {
        let Some(session) = self.session.as_mut() else { return };
        let mut kept = Vec::new();
        for flight in session.flights.iter_mut().filter(|f| f.step == Step::Sent && !f.on_wire) {
            if let Some(delivery) = &flight.delivery {
                flight.on_wire = true;
                kept.push((flight.pid, delivery.clone()));
            }
        }
        for (pid, delivery) in kept {
            self.window_used += 1;
            if let Err(error) = self.write_publish(cx, &delivery, pid, true, out) {
                self.too_large(cx, &delivery, error);
                self.refused_by_client(pid);
            }
        }
    }

    fn write_publish(
        &mut self,
        cx: &Context<'_>,
        delivery: &Delivery,
        pid: u16,
        dup: bool,
        out: &mut Output,
    ) -> Result<(), EncodeError> {
        let topic = &delivery.event.topic;
        let alias = self.sent_aliases.find(topic);
        let mut message = Outgoing {
            event: &delivery.event,
            qos: delivery.qos,
            retain: delivery.retain,
            dup,
            pid,
            expiry_secs: expiry_left(&delivery.event, cx.wall),
            identifiers: &delivery.identifiers,
            alias,
        };
        let max_bytes = self.client_packet_max as usize;
        let with_alias = encode::publish(&mut out.bytes, self.version, &message, max_bytes);
        if with_alias.is_ok() {
            self.sent_aliases.sent(topic, alias);
        } else {
            // A new alias is three bytes that may just be too many.
            message.alias = Alias::None;
            encode::publish(&mut out.bytes, self.version, &message, max_bytes)?;
        }
        cx.sessions.stats().delivered();
        Ok(())
    }

    /// Dropped as if it had been sent [MQTT-3.1.2-25], and counted.
    fn too_large(&self, cx: &Context<'_>, delivery: &Delivery, error: EncodeError) {
        cx.sessions.stats().too_large_for_client();
        let topic = &delivery.event.topic;
        tracing::warn!(%error, client_id = ?self.client_id(), ?topic, "message not delivered");
    }

    pub(super) fn mailbox(
        &mut self,
        cx: &Context<'_>,
        after: Position,
        result: Result<Vec<MailboxItem>, ReadError>,
        out: &mut Output,
    ) {
        let items = match result {
            Ok(items) => items,
            Err(error) => {
                tracing::warn!(%error, "mailbox cannot be read, connection ended");
                return self.fail(cx, Reason::Unspecified, out);
            }
        };
        let last = items.last().map_or(after, |item| item.event.position);
        // Only the hub knows the end: a piece of large messages is shorter than what was asked for.
        let subscriber = self.session.as_ref().and_then(|session| session.subscriber);
        let caught_up = subscriber.is_some_and(|subscriber| cx.hub().resume(subscriber, last));
        let at_end = caught_up || items.is_empty();
        self.drop_missing(&items, after, if at_end { Position(u64::MAX) } else { last }, out);
        for item in items {
            let options = cx.hub().mailbox_options(&item);
            let delivery = Delivery {
                position: Some(item.event.position),
                event: Arc::new(item.event.event),
                qos: options.qos,
                retain: options.retain,
                identifiers: options.identifiers,
                shares: Vec::new(),
            };
            self.pending.push_back(Pending { delivery, mailbox: true });
        }
        self.feed = if caught_up { Feed::Live } else { Feed::Behind { after: last } };
        self.pump(cx, out);
    }

    /// Messages in flight that the mailbox no longer has (it has a budget): a QoS 1 identifier is free at once. A QoS 2
    /// identifier may be taken at the client: PUBREL frees it there, whether or not it ever saw the message.
    fn drop_missing(&mut self, items: &[MailboxItem], after: Position, through: Position, out: &mut Output) {
        let Some(session) = self.session.as_mut() else { return };
        let missing = |f: &Flight| {
            f.step == Step::Sent
                && !f.on_wire
                && f.position.is_some_and(|p| {
                    p > after && p <= through && !items.iter().any(|item| item.event.position == p)
                })
        };
        session.flights.retain(|f| f.qos == Qos::ExactlyOnce || !missing(f));
        let (number, lazy) = (session.number, &mut session.lazy);
        for flight in session.flights.iter_mut() {
            if !missing(flight) {
                continue;
            }
            flight.step = Step::Released;
            if let Some(number) = number {
                let position = flight.position;
                lazy.push(OutboundRecord { released: true, position }.put(number, flight.pid));
            }
            encode::ack(&mut out.bytes, AckKind::PubRel, self.version, flight.pid, 0);
        }
    }
}

impl Session {
    /// Whether the next message can be sent under an identifier that is not in use [MQTT-2.2.1-4].
    fn has_identifier_for(&self, next: &Pending) -> bool {
        if next.delivery.qos == Qos::AtMostOnce {
            return true;
        }
        match next.delivery.position.filter(|_| next.mailbox) {
            Some(position) => {
                let pid = identifier(position);
                !self.flights.iter().any(|f| f.pid == pid && f.position != Some(position))
            }
            None if self.number.is_none() => true,
            // Of the range there is always one left, and finding it is no search.
            None => self.flights.iter().filter(|f| f.position.is_none()).count() < usize::from(UNSTORED_MAX),
        }
    }

    /// The identifier for a new message; [`Session::has_identifier_for`] said that there is one.
    fn identifier_of(&mut self, position: Option<Position>) -> u16 {
        if let Some(position) = position {
            return identifier(position);
        }
        // The identifiers of mailboxes are not for others, in a session that has one.
        let taken = if self.number.is_some() { IDENTIFIERS } else { 0 };
        loop {
            self.last_pid = self.last_pid.max(taken).checked_add(1).unwrap_or(taken + 1);
            let pid = self.last_pid;
            if !self.flights.iter().any(|f| f.pid == pid) {
                return pid;
            }
        }
    }

    /// An earlier process of the node may have sent it: DUP, which says that this *might* be a resend [MQTT-3.3.1-1].
    fn was_sent_before(&self, position: Option<Position>) -> bool {
        position.is_some_and(|position| position <= self.sent_before)
    }

    fn remove_from_mailbox(&mut self, position: Option<Position>) {
        if let (Some(session), Some(position)) = (self.number, position) {
            self.lazy.push(StateChange::MailboxRemove { session, position });
        }
    }

    fn forget_outbound(&mut self, flight: &Flight) {
        if let Some(number) = self.number.filter(|_| flight.qos == Qos::ExactlyOnce) {
            self.lazy.push(records::delete(Table::Outbound, records::pid_key(number, flight.pid)));
        }
    }

    /// Messages that were given an identifier but not sent go back to the mailbox.
    pub(super) fn take_back(&mut self, pids: &[u16]) {
        for pid in pids {
            let preparing = |f: &Flight| f.pid == *pid && f.step == Step::Preparing;
            if let Some(position) = take(&mut self.flights, preparing).and_then(|f| f.position) {
                self.sent_through = self.sent_through.min(Position(position.0.saturating_sub(1)));
            }
        }
    }

    /// The connection is gone: nothing is on the wire, what was read but not sent is in the mailbox.
    pub(super) fn ground(&mut self, unsubmitted: &[u16]) {
        self.take_back(unsubmitted);
        for flight in &mut self.flights {
            flight.on_wire = false;
            if flight.step == Step::Preparing {
                // Its identifier is on the way to the disk, ahead of whatever the next connection submits.
                flight.step = Step::Sent;
                flight.delivery = flight.delivery.take().filter(|_| flight.position.is_none());
            }
        }
    }

    /// A flight found in the store at the start.
    pub(crate) fn restore_flight(&mut self, pid: u16, record: OutboundRecord) {
        // One that was in no mailbox cannot be sent again, but its identifier may be taken at the client: PUBREL frees it
        // there, whether or not it ever saw the message.
        let released = record.released || record.position.is_none();
        let step = if released { Step::Released } else { Step::Sent };
        self.flights.push_back(Flight {
            pid,
            qos: Qos::ExactlyOnce,
            step,
            position: record.position,
            on_wire: false,
            delivery: None,
        });
    }

    /// After the start: in the order of the messages, which is the order to send them again.
    pub(crate) fn sort_flights(&mut self) {
        self.flights.make_contiguous().sort_by_key(|flight| flight.position);
    }

    /// Flights of one number as table rows, for their removal.
    pub(crate) fn outbound_keys(&self, number: SessionNo) -> impl Iterator<Item = bytes::Bytes> {
        let durable = self.flights.iter().filter(|f| f.qos == Qos::ExactlyOnce);
        durable.map(move |f| records::pid_key(number, f.pid))
    }
}

/// Identifiers 1 to this one are made from positions. A prime: the positions that one session gets are often evenly
/// spaced, and then they come to the same identifier only after all the others.
const IDENTIFIERS: u16 = 61_441;
/// Messages in flight at once that are in no mailbox; fewer than the identifiers that are left for them.
const UNSTORED_MAX: u16 = (u16::MAX - IDENTIFIERS) / 2;

/// The packet identifier of the message at this position of a mailbox. It is on disk by way of the position: a change
/// here breaks resends over an upgrade.
fn identifier(position: Position) -> u16 {
    let index = position.0.saturating_sub(1) % u64::from(IDENTIFIERS);
    u16::try_from(index + 1).unwrap_or(1)
}

/// Removes the first flight that fits; acknowledgements come in order, so it is nearly always the first one.
fn take(flights: &mut VecDeque<Flight>, fits: impl Fn(&Flight) -> bool) -> Option<Flight> {
    let index = flights.iter().position(fits)?;
    let flight = flights.remove(index);
    if flights.is_empty() {
        *flights = VecDeque::new();
    }
    flight
}

fn expired(event: &CoreEvent, wall: Timestamp) -> bool {
    wall.is_plausible() && event.expires.is_some_and(|expires| expires <= wall) // [MQTT-3.3.2-5]
}

/// Seconds left, rounded up: a message is not older for having waited half a second [MQTT-3.3.2-6].
fn expiry_left(event: &CoreEvent, wall: Timestamp) -> Option<u32> {
    let left = wall.until(event.expires.filter(|_| wall.is_plausible())?);
    u32::try_from(left.as_millis().div_ceil(1000)).ok()
}
