//! Who is known to the hub, in a slab: ten thousand of them cost 100 bytes each.

use eventmesh_edge_core::namespace::Handover;
use eventmesh_edge_core::ports::hub::{Outlet, SubscriberId};
use eventmesh_edge_core::ports::store::SessionNo;
use std::collections::HashMap;
use std::sync::Arc;

/// One subscriber.
pub(super) struct Subscriber {
    id: SubscriberId,
    pub(super) session: Option<SessionNo>,
    outlet: Option<Arc<dyn Outlet>>,
    /// Counts the outlets it has had: an answer of an earlier one is not taken for the present one's.
    pub(super) outlet_no: u32,
    pub(super) handover: Handover,
    /// The round in which its outlet was last touched, and where it stands among those touched.
    pub(super) touched: (u64, u32),
    /// Messages lost because it was too slow.
    pub(super) dropped: u64,
}

impl Subscriber {
    pub(super) fn outlet(&self) -> Option<&Arc<dyn Outlet>> {
        self.outlet.as_ref()
    }

    /// True if what is not in a mailbox may be offered to it: connected and, with a session, past its catching up.
    pub(super) fn is_ready(&self) -> bool {
        self.outlet.is_some() && (self.session.is_none() || self.handover.is_live())
    }
}

/// All subscribers.
#[derive(Default)]
pub(super) struct Subscribers {
    slots: Vec<Option<Subscriber>>,
    free: Vec<usize>,
    by_session: HashMap<SessionNo, SubscriberId>,
    added: u64,
    connected: usize,
}

/// Low bits of an id: the slot. Above them a number that is never used again.
const SLOT_BITS: u32 = 24;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;

impl Subscribers {
    pub(super) fn add(
        &mut self,
        session: Option<SessionNo>,
        handover: Handover,
        outlet: Option<Arc<dyn Outlet>>,
    ) -> SubscriberId {
        let slot = self.free.pop().unwrap_or(self.slots.len());
        self.added += 1;
        let id = SubscriberId((self.added << SLOT_BITS) | (slot as u64 & SLOT_MASK));
        self.connected += usize::from(outlet.is_some());
        let subscriber =
            Subscriber { id, session, outlet, outlet_no: 0, handover, touched: (0, 0), dropped: 0 };
        match self.slots.get_mut(slot) {
            Some(free) => *free = Some(subscriber),
            None => self.slots.push(Some(subscriber)),
        }
        if let Some(session) = session {
            self.by_session.insert(session, id);
        }
        id
    }

    /// Forgets it. Given back to be dropped without the hub's lock: an outlet's end may call the hub.
    #[must_use]
    pub(super) fn remove(&mut self, id: SubscriberId) -> Option<Subscriber> {
        let slot = slot_of(id)?;
        self.get(id)?;
        let subscriber = self.slots.get_mut(slot).and_then(Option::take)?;
        self.free.push(slot);
        self.connected -= usize::from(subscriber.outlet.is_some());
        if let Some(session) = subscriber.session
            && self.by_session.get(&session) == Some(&id)
        {
            self.by_session.remove(&session);
        }
        Some(subscriber)
    }

    pub(super) fn get(&self, id: SubscriberId) -> Option<&Subscriber> {
        self.slots.get(slot_of(id)?)?.as_ref().filter(|subscriber| subscriber.id == id)
    }

    pub(super) fn get_mut(&mut self, id: SubscriberId) -> Option<&mut Subscriber> {
        self.slots.get_mut(slot_of(id)?)?.as_mut().filter(|subscriber| subscriber.id == id)
    }

    pub(super) fn of_session(&self, session: SessionNo) -> Option<SubscriberId> {
        self.by_session.get(&session).copied()
    }

    /// Another outlet, or none; whatever the session has to read, it has to read again. Gives back the earlier one, to
    /// be dropped without the hub's lock.
    #[must_use]
    pub(super) fn set_outlet(
        &mut self,
        id: SubscriberId,
        outlet: Option<Arc<dyn Outlet>>,
    ) -> Option<Arc<dyn Outlet>> {
        let connected = usize::from(outlet.is_some());
        let subscriber = self.get_mut(id)?;
        let earlier = std::mem::replace(&mut subscriber.outlet, outlet);
        subscriber.outlet_no = subscriber.outlet_no.wrapping_add(1);
        subscriber.touched = (0, 0);
        subscriber.handover.restart();
        self.connected = self.connected + connected - usize::from(earlier.is_some());
        earlier
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn connected(&self) -> usize {
        self.connected
    }

    pub(super) fn sessions(&self) -> usize {
        self.by_session.len()
    }

    pub(super) fn session_numbers(&self) -> impl Iterator<Item = SessionNo> {
        self.by_session.keys().copied()
    }
}

fn slot_of(id: SubscriberId) -> Option<usize> {
    usize::try_from(id.0 & SLOT_MASK).ok()
}
