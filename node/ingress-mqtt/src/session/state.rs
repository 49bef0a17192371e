//! A session: what outlives a connection if it is persistent.

use super::commit::Outstanding;
use super::records::{Inbound, Owed, SessionRecord};
use super::will::{PendingWill, WillNo};
use crate::clients::Sessions;
use crate::outlet::Link;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Position, Qos, Timestamp};
use eventmesh_edge_core::ports::hub::{Delivery, Principal, SubscribeOptions, SubscriberId};
use eventmesh_edge_core::ports::store::{SessionNo, StateChange};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// A session: what outlives a connection if it is persistent, and ends with it if not.
pub struct Session {
    pub(crate) client_id: Text,
    pub(crate) principal: Principal,
    /// CloudEvents `source` of everything this client publishes.
    pub(super) source: Text,
    /// Set for a persistent session.
    pub(crate) number: Option<SessionNo>,
    pub(crate) expiry_secs: u32,
    pub(crate) subscriber: Option<SubscriberId>,
    pub(crate) link: Arc<Link>,
    /// What it subscribes to.
    pub(crate) filters: HashMap<Text, SubscribeOptions>,
    /// Subscriptions whose retained messages are not all in the mailbox yet; and which SUBSCRIBE that was, by the tokens that
    /// there were before it.
    pub(crate) owed: BTreeMap<Text, (u64, Owed)>,
    /// Publishes received whose packet identifier is not free: QoS 2 until PUBREL; QoS 1 of a persistent session until
    /// the PUBACK was written.
    pub(crate) inbound: HashMap<u16, Inbound>,
    /// The client's packet identifiers go further than two batches reach, so none comes again right after its PUBACK.
    pub(super) counts_up: bool,
    /// Some of `inbound` may be unsure.
    pub(super) resends_due: bool,
    /// Messages sent and not answered, in the order sent.
    pub(crate) flights: VecDeque<Flight>,
    pub(super) last_pid: u16,
    /// Everything in the mailbox up to here was given a packet identifier, or given up.
    pub(super) sent_through: Position,
    pub(super) outstanding: VecDeque<Outstanding>,
    /// Changes that nobody waits for; they go with the next submission.
    pub(super) lazy: Vec<StateChange>,
    pub(super) next_token: u64,
    /// Of a connection that was lost and whose Will Delay has not passed.
    pub(crate) will: Option<Box<PendingWill>>,
    /// See [`Session::has_shared`]: it has unsubscribed.
    pub(super) shared: bool,
    /// Messages up to here may have been sent by an earlier process of the node: what comes of them comes with DUP.
    pub(crate) sent_before: Position,
}

fn is_shared(filter: &str) -> bool {
    filter.starts_with("$share/")
}

/// A message of QoS 1 or 2 on its way to the client.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) pid: u16,
    pub(crate) qos: Qos,
    pub(crate) step: Step,
    /// Its place in the mailbox; `None` if it lives in memory only.
    pub(crate) position: Option<Position>,
    /// Sent on the present connection: it takes a place in the client's Receive Maximum.
    pub(super) on_wire: bool,
    /// Kept where it could not be read again: not yet sent, or not in a mailbox.
    pub(super) delivery: Option<Box<Delivery>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// QoS 2 of a persistent session: the packet identifier is being made durable.
    Preparing,
    /// PUBLISH is out, or may be.
    Sent,
    /// PUBREC was received, PUBREL is out.
    Released,
}

impl Session {
    /// The same session, resumed by a client that showed who it is (or another name for it).
    pub(super) fn now_of(&mut self, principal: Principal, sessions: &Sessions) {
        if self.principal != principal {
            self.source = sessions.source(&principal);
            self.principal = principal;
        }
    }

    /// Its row: where it stands now. `None` if it is not persistent.
    pub(super) fn record(
        &self,
        will: Option<WillNo>,
        connected: bool,
        now: Timestamp,
    ) -> Option<StateChange> {
        let record = SessionRecord {
            principal: self.principal.clone(),
            number: self.number?,
            expiry_secs: self.expiry_secs,
            connected,
            left: now,
            will,
            sent_through: (!connected).then_some(self.sent_through.max(self.sent_before)),
        };
        Some(record.put(&self.client_id))
    }

    /// It is, or was, a member of a shared subscription: its mailbox may hold what others are to have when it ends.
    pub(crate) fn has_shared(&self) -> bool {
        self.shared || self.filters.keys().any(|filter| is_shared(filter))
    }

    /// Changes that were to go with the next submission.
    pub(crate) fn unstored(&self) -> Vec<StateChange> {
        self.lazy.clone()
    }

    /// Messages of QoS 2 that the client may have begun to receive.
    pub(crate) fn begun(&self) -> Vec<Position> {
        let begun = self.flights.iter().filter(|f| f.qos == Qos::ExactlyOnce);
        begun.filter_map(|f| f.position).collect()
    }

    pub(crate) fn new(client_id: Text, principal: Principal, source: Text, link: Arc<Link>) -> Session {
        Session {
            client_id,
            principal,
            source,
            number: None,
            expiry_secs: 0,
            subscriber: None,
            link,
            filters: HashMap::new(),
            owed: BTreeMap::new(),
            inbound: HashMap::new(),
            counts_up: false,
            resends_due: false,
            flights: VecDeque::new(),
            last_pid: 0,
            sent_through: Position::ZERO,
            outstanding: VecDeque::new(),
            lazy: Vec::new(),
            next_token: 0,
            will: None,
            shared: false,
            sent_before: Position::ZERO,
        }
    }
}
