//! Keyed tables and mailboxes.

use super::Disk;
use bytes::Bytes;
use eventmesh_edge_core::event::{Position, StoredEvent, record};
use eventmesh_edge_core::ports::store::{
    Loss, LossReason, MAILBOX_CLAIM_BYTES, SessionNo, StateChange, StateValue,
};
use std::collections::BTreeSet;

impl Disk {
    pub(super) fn change_state(&mut self, change: StateChange, value: Option<Bytes>) {
        match change {
            StateChange::Put { table, key, .. } => {
                self.tables.insert((table, key), value.unwrap_or_default());
            }
            StateChange::Delete { table, key } => {
                self.tables.remove(&(table, key));
            }
            StateChange::MailboxRemove { session, position } => self.remove_from_mailbox(session, position),
            StateChange::LedgerForget { through } => self.entries.retain(|entry| entry.no > through),
            StateChange::MailboxClear { session } => {
                let mailbox = self.mailboxes.remove(&session).unwrap_or_default();
                for position in mailbox.entries.into_keys() {
                    self.release(position);
                }
            }
        }
    }

    pub(super) fn push_mailbox(
        &mut self,
        session: SessionNo,
        position: Position,
        options: Bytes,
        bytes: u64,
    ) {
        let mailbox = self.mailboxes.entry(session).or_default();
        if mailbox.entries.insert(position, options).is_none() {
            mailbox.bytes += bytes;
            self.claim(position);
        }
        self.enforce_mailbox_bounds(session);
    }

    fn enforce_mailbox_bounds(&mut self, session: SessionNo) {
        let (max_events, max_bytes) = (self.spec.mailbox_max_events, self.spec.mailbox_max_bytes);
        while let Some(mailbox) = self.mailboxes.get(&session)
            && (mailbox.entries.len() as u64 > max_events || mailbox.bytes > max_bytes)
            && let Some(oldest) = mailbox.entries.keys().next().copied()
        {
            self.evict(session, oldest);
        }
    }

    /// The fullest mailbox gives up its oldest entry until all together are within their budget.
    pub(super) fn enforce_mailboxes_bound(&mut self) {
        while self.mailboxes_bytes() > self.spec.mailboxes_max_bytes
            && let Some((_, session)) = self.mailboxes.iter().map(|(no, m)| (m.bytes, *no)).max()
            && let Some(oldest) = self.mailboxes.get(&session).and_then(|m| m.entries.keys().next().copied())
        {
            self.evict(session, oldest);
        }
    }

    /// Each event once, and something for each claim.
    fn mailboxes_bytes(&self) -> u64 {
        let claims: u64 = self.mailboxes.values().map(|m| m.entries.len() as u64).sum();
        let at_most: u64 = self.mailboxes.values().map(|m| m.bytes).sum();
        let claims = claims * MAILBOX_CLAIM_BYTES;
        if at_most + claims <= self.spec.mailboxes_max_bytes {
            return at_most + claims;
        }
        let positions: BTreeSet<Position> =
            self.mailboxes.values().flat_map(|m| m.entries.keys().copied()).collect();
        claims + positions.into_iter().map(|position| self.stored_bytes(position)).sum::<u64>()
    }

    fn evict(&mut self, session: SessionNo, position: Position) {
        let (reason, bytes) = (LossReason::SessionQueueFull, self.stored_bytes(position));
        self.count_loss(None, Loss { consumer: None, reason, events: 1, bytes, range: (position, position) });
        self.remove_from_mailbox(session, position);
    }

    fn remove_from_mailbox(&mut self, session: SessionNo, position: Position) {
        let bytes = self.stored_bytes(position);
        let Some(mailbox) = self.mailboxes.get_mut(&session) else { return };
        if mailbox.entries.remove(&position).is_some() {
            mailbox.bytes -= bytes;
            if mailbox.entries.is_empty() {
                self.mailboxes.remove(&session);
            }
            self.release(position);
        }
    }
}

/// The bytes of a `Put`, with the event that it refers to filled in.
pub(super) fn resolve(change: &StateChange, events: &[StoredEvent]) -> Option<Bytes> {
    let StateChange::Put { value, .. } = change else { return None };
    match value {
        StateValue::Bytes(bytes) => Some(bytes.clone()),
        StateValue::Position { event, suffix } => {
            let mut value = events.get(*event)?.position.0.to_be_bytes().to_vec();
            value.extend_from_slice(suffix);
            Some(value.into())
        }
        StateValue::Record { event } => {
            let stored = events.get(*event)?;
            let mut body = Vec::new();
            record::encode(&stored.event, stored.sequence, &mut body);
            Some(body.into())
        }
    }
}
