//! The hub's task: what has been decided is passed on, in rounds.
//!
//! A round takes everything that the store has completed meanwhile, offers each event to the outlets of its
//! subscribers, calls each submitter back, and then wakes every connection that was offered something, once. After
//! [`ROUND_BUDGET`] offers it lets the connections run, however much is left: one message for ten thousand subscribers
//! must not stand in everybody's way.

use super::NodeHub;
use super::inbox::Completed;
use super::plan::{Flight, Planned, qos_for, retain_for};
use super::state::State;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, Position, Qos};
use eventmesh_edge_core::namespace::Match;
use eventmesh_edge_core::ports::hub::{
    Accepted, Audience, Delivery, Offer, Outlet, Publication, Submission, SubscriberId,
};
use eventmesh_edge_core::ports::store::Committed;
use std::sync::Arc;

/// Offers and answers made before the connections get their turn.
const ROUND_BUDGET: usize = 512;
/// Offers prepared under one hold of the lock.
const CHUNK: usize = 128;

/// What the hub's task carries along.
#[derive(Default)]
pub(super) struct Round {
    /// Changes with each flush: what was touched under an earlier number is touched anew.
    number: u64,
    touched: Vec<Arc<dyn Outlet>>,
    spent: usize,
    offers: Vec<Offered>,
    /// News of room that has been acted on.
    rooms: u64,
}

/// A delivery that is about to be offered, or was refused.
struct Offered {
    subscriber: SubscriberId,
    outlet_no: u32,
    /// Index into [`Round::touched`].
    outlet: u32,
    /// It is in the subscriber's mailbox, at its position.
    in_mailbox: bool,
    delivery: Delivery,
}

/// An event on its way to its subscribers.
#[derive(Clone, Copy)]
struct Outgoing<'a> {
    event: &'a Arc<Event>,
    position: Option<Position>,
    /// The mailboxes of persistent sessions have it.
    mailboxes: bool,
}

impl Round {
    /// Wakes every connection that was offered something.
    fn flush(&mut self) {
        self.number += 1;
        self.spent = 0;
        for outlet in self.touched.drain(..) {
            outlet.flush();
        }
    }

    async fn spend(&mut self, steps: usize) {
        self.spent += steps;
        if self.spent >= ROUND_BUDGET {
            self.flush();
            tokio::task::yield_now().await;
        }
    }
}

impl NodeHub {
    /// Does everything there is to do now.
    pub(super) async fn work_off(&self, round: &mut Round) {
        if round.number == 0 {
            // Subscribers that were never touched have number 0.
            round.number = 1;
        }
        loop {
            let rooms = self.inbox.rooms();
            let batch = self.inbox.take();
            if batch.is_empty() && rooms == round.rooms {
                return;
            }
            for completed in batch {
                self.conclude(completed, round).await;
            }
            round.flush();
            self.state().try_parked(rooms != round.rooms);
            round.rooms = rooms;
        }
    }

    async fn conclude(&self, completed: Completed, round: &mut Round) {
        let settled = self.state().settle(completed);
        let Some(Completed { flight, result }) = settled else { return };
        let Flight { mut work, planned, .. } = *flight;
        let outcome = match result {
            Err(error) => Err(error),
            Ok(committed) => {
                let accepted = accepted(&planned, &committed);
                let publications = std::mem::take(&mut work.submission.publications);
                for (publication, planned) in publications.into_iter().zip(planned) {
                    if !planned.matches.is_empty() || !planned.late.is_empty() {
                        let position = planned.position(&committed);
                        self.deliver(Arc::new(publication.event), position, planned, round).await;
                    }
                }
                if let Some(parts) = &mut work.parts
                    && let Some(next) = parts.later.pop_front()
                {
                    parts.add(accepted);
                    work.submission = next;
                    work.shed_bytes = 0;
                    return self.state().launch_part(work);
                }
                Ok(accepted)
            }
        };
        let outcome = match work.parts {
            Some(parts) => parts.answer(outcome),
            None => outcome,
        };
        (work.done)(outcome);
        round.spend(1).await;
    }

    async fn deliver(
        &self,
        event: Arc<Event>,
        position: Option<Position>,
        planned: Planned,
        round: &mut Round,
    ) {
        for (mut matches, mailboxes) in [(planned.matches, true), (planned.late, false)] {
            let outgoing = Outgoing { event: &event, position, mailboxes };
            while !matches.is_empty() {
                let chunk = matches.drain(..matches.len().min(CHUNK));
                let steps = chunk.len();
                self.offer_chunk(outgoing, chunk, round);
                round.spend(steps).await;
            }
        }
    }

    /// Prepares under the lock, offers without it, and takes back what was refused.
    fn offer_chunk(
        &self,
        outgoing: Outgoing<'_>,
        matches: impl Iterator<Item = Match<SubscriberId>>,
        round: &mut Round,
    ) {
        let mut offers = std::mem::take(&mut round.offers);
        {
            let mut state = self.state();
            for found in matches {
                offers.extend(state.prepare(outgoing, found, round));
            }
        }
        offers.retain_mut(|offered| {
            let outlet = round.touched.get(offered.outlet as usize);
            let delivery = offered.take_delivery();
            outlet.is_none_or(|outlet| outlet.offer(delivery) == Offer::Full)
        });
        if !offers.is_empty() {
            let mut state = self.state();
            for refused in offers.drain(..) {
                state.refused(outgoing, &refused);
            }
        }
        round.offers = offers;
    }
}

impl Offered {
    /// The delivery, leaving one without identifiers behind.
    fn take_delivery(&mut self) -> Delivery {
        let identifiers = std::mem::take(&mut self.delivery.identifiers);
        Delivery { identifiers, ..self.delivery.clone() }
    }
}

impl State {
    /// The delivery for one subscriber, if it is to be offered one now.
    fn prepare(
        &mut self,
        outgoing: Outgoing<'_>,
        found: Match<SubscriberId>,
        round: &mut Round,
    ) -> Option<Offered> {
        let Outgoing { event, position, mailboxes } = outgoing;
        let qos = qos_for(event, found.granted);
        let Some(subscriber) = self.subscribers.get_mut(found.subscriber) else {
            self.hand_on(event, qos, found.shares);
            return None;
        };
        let mailbox = position.filter(|_| mailboxes && subscriber.session.is_some() && qos > Qos::AtMostOnce);
        if let Some(position) = mailbox {
            if !subscriber.handover.committed(position) {
                return None;
            }
        } else if !subscriber.is_ready() {
            if subscriber.outlet().is_some() {
                self.dropped(found.subscriber, event, position);
            }
            return None;
        }
        if subscriber.touched.0 != round.number {
            let outlet = subscriber.outlet()?.clone();
            subscriber.touched = (round.number, u32::try_from(round.touched.len()).ok()?);
            round.touched.push(outlet);
        }
        let retain = retain_for(event, &found);
        // A position says "acknowledge it in the mailbox"; a session gets none for what is not there.
        let position = if subscriber.session.is_some() { mailbox } else { position };
        Some(Offered {
            subscriber: found.subscriber,
            outlet_no: subscriber.outlet_no,
            outlet: subscriber.touched.1,
            in_mailbox: mailbox.is_some(),
            delivery: Delivery {
                event: event.clone(),
                position,
                qos,
                retain,
                identifiers: found.identifiers,
                shares: found.shares,
            },
        })
    }

    fn refused(&mut self, outgoing: Outgoing<'_>, refused: &Offered) {
        if self.subscribers.get(refused.subscriber).is_none() {
            return self.hand_on(outgoing.event, refused.delivery.qos, refused.delivery.shares.clone());
        }
        if !refused.in_mailbox {
            self.dropped(refused.subscriber, outgoing.event, outgoing.position);
        }
        let Some(subscriber) = self.subscribers.get_mut(refused.subscriber) else { return };
        // With another outlet the session is reading already, beyond what was offered to the earlier one.
        if subscriber.outlet_no != refused.outlet_no {
            return;
        }
        // The outlet knows that it was full and will read its mailbox, whatever it was that found no room.
        match outgoing.position.filter(|_| refused.in_mailbox) {
            Some(position) => subscriber.handover.refused(position),
            None => subscriber.handover.restart(),
        }
    }

    /// The member of these shared subscriptions that was to have it is gone, so another one gets it (MQTT 5.0 section 4.8.2).
    fn hand_on(&mut self, event: &Event, qos: Qos, shares: Vec<Text>) {
        if shares.is_empty() || qos == Qos::AtMostOnce || self.is_closed() {
            return;
        }
        let publications = vec![Publication { event: event.clone(), publisher: None }];
        let audience = Audience::Shares(vec![shares]);
        self.submit(Submission { publications, audience, ..Submission::default() }, Box::new(drop));
    }

    fn dropped(&mut self, subscriber: SubscriberId, event: &Event, position: Option<Position>) {
        self.losses.add(event, position);
        if let Some(subscriber) = self.subscribers.get_mut(subscriber) {
            subscriber.dropped += 1;
        }
    }
}

fn accepted(planned: &[Planned], committed: &Committed) -> Accepted {
    Accepted {
        positions: planned.iter().map(|planned| planned.position(committed)).collect(),
        matched: planned.iter().map(Planned::matched).collect(),
        cut: None,
    }
}
