//! Retained messages for a new subscription.
//!
//! A client without a session gets them from memory. SUBACK of a persistent session stands for its retained messages
//! of QoS 1 and 2, too (P1): they go through its mailbox like everything else, and so have a packet identifier, DUP and their
//! turn after a kill. Its subscription's row says that they are owed, from SUBSCRIBE on; they are put into the mailbox in
//! pieces, in order of topic, each with the row that says how far they are (docs/adr/0016). The next piece follows when the
//! client has been sent the one before it, so that a mailbox is never full of them (P5).

use super::records::{self, Owed};
use super::{Context, Feed, Machine, Output, Pending, Purpose, Session};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Qos;
use eventmesh_edge_core::ports::hub::{Audience, Delivery, RetainedFor, Submission, SubscribeOptions};
use eventmesh_edge_core::ports::store::{StateChange, StateValue, Table};
use eventmesh_edge_core::topic::TopicFilter;
use std::collections::VecDeque;

/// Retained messages put into the mailbox at once.
const PIECE: usize = 32;
/// The same in bytes; one may be larger alone.
const PIECE_BYTES: usize = 64 * 1024;

/// A part of a subscription's retained messages on its way into the mailbox.
#[derive(Debug)]
pub(super) struct Piece {
    filter: Text,
    /// Of which SUBSCRIBE.
    round: u64,
    /// What is owed then; `None`: nothing.
    then: Option<Owed>,
}

impl Machine {
    /// A client may ask for all retained messages again and again, and take none: what is kept is what it asked for (P5).
    pub(super) fn want_retained(&mut self, wanted: Vec<(TopicFilter, SubscribeOptions)>) {
        for (filter, options) in wanted {
            self.retained.retain(|(known, _)| *known != filter);
            self.retained.push_back((filter, options));
        }
    }

    /// What was owed to an earlier connection.
    pub(super) fn want_owed(&mut self) {
        let Some(session) = self.session.as_ref() else { return };
        let owed = session
            .owed
            .keys()
            .filter_map(|text| Some((TopicFilter::parse(text.clone()).ok()?, *session.filters.get(text)?)));
        let owed = owed.collect();
        self.want_retained(owed);
    }

    /// The retained messages of one subscription; false if there are none to send now.
    pub(super) fn refill_retained(&mut self, cx: &Context<'_>, out: &mut Output) -> bool {
        while let Some((filter, options)) = self.retained.pop_front() {
            let Some(session) = self.session.as_ref() else { return false };
            let mut retained = cx.hub().retained(&filter, options);
            if let Some((round, after)) = session.owed.get(filter.as_text()).cloned() {
                if !self.may_store_retained() {
                    self.retained.push_front((filter, options));
                    return false;
                }
                retained.retain(|delivery| after.as_ref().is_none_or(|after| delivery.event.topic > *after));
                self.store_retained(&filter, options, (round, after), &mut retained, out);
            }
            self.pending.extend(retained.into_iter().map(|delivery| Pending { delivery, mailbox: false }));
            if !self.pending.is_empty() {
                return true;
            }
        }
        self.retained = VecDeque::new();
        false
    }

    /// One piece at a time, and only when the one before it has been sent.
    fn may_store_retained(&self) -> bool {
        let storing =
            |session: &Session| session.outstanding.iter().any(|o| matches!(o.purpose, Purpose::Retained(_)));
        self.feed == Feed::Live && self.session.as_ref().is_some_and(|s| !storing(s) && s.link.queued() == 0)
    }

    /// Puts the next piece into the mailbox; leaves the messages of QoS 0 among them in `retained`.
    fn store_retained(
        &mut self,
        filter: &TopicFilter,
        options: SubscribeOptions,
        (round, after): (u64, Owed),
        retained: &mut Vec<Delivery>,
        out: &mut Output,
    ) {
        let Some(session) = self.session.as_ref() else { return };
        let Some((number, subscriber)) = session.number.zip(session.subscriber) else { return };
        let rest = retained.split_off(piece(retained));
        let more = rest.iter().any(|delivery| delivery.qos > Qos::AtMostOnce);
        let through = retained.last().map(|delivery| delivery.event.topic.clone()).filter(|_| more);
        if !more {
            retained.extend(rest); // nothing but QoS 0
        }
        let then = through.clone().map(Some);
        let text = filter.as_text().clone();
        let value = StateValue::Bytes(records::encode_subscription(options, then.as_ref()));
        let key = records::subscription_key(number, &text);
        let state = vec![StateChange::Put { table: Table::Subscription, key, value }];
        let wanted = RetainedFor { subscriber, filter: filter.clone(), options, after, through };
        let audience = Audience::Retained(Box::new(wanted));
        let submission = Submission { state, audience, ..Submission::default() };
        self.submit(Purpose::Retained(Piece { filter: text, round, then }), submission, out);
        retained.retain(|delivery| delivery.qos == Qos::AtMostOnce);
    }

    /// A piece is in the mailbox.
    pub(super) fn stored_retained(&mut self, piece: Piece) {
        let Some(session) = self.session.as_mut() else { return };
        // Subscribed anew meanwhile, it is owed from the start; unsubscribed, not at all.
        if session.owed.get(&piece.filter).is_none_or(|(round, _)| *round != piece.round) {
            return;
        }
        match piece.then {
            None => {
                session.owed.remove(&piece.filter);
                // Asked for by a connection that came while this was on its way.
                self.retained.retain(|(filter, _)| *filter.as_text() != piece.filter);
            }
            Some(owed) => {
                session.owed.insert(piece.filter.clone(), (piece.round, owed));
                let filter = TopicFilter::parse(piece.filter.clone()).ok();
                let next = filter.zip(session.filters.get(&piece.filter).copied());
                self.want_retained(next.into_iter().collect());
            }
        }
    }
}

/// How many of them make a piece.
fn piece(retained: &[Delivery]) -> usize {
    let (mut count, mut bytes) = (0, 0);
    for (index, delivery) in retained.iter().enumerate() {
        if delivery.qos == Qos::AtMostOnce {
            continue;
        }
        let event = &delivery.event;
        bytes += event.payload.len() + event.topic.len();
        if count >= PIECE || (count > 0 && bytes > PIECE_BYTES) {
            return index;
        }
        count += 1;
    }
    retained.len()
}
