//! What a start finds: sessions with their subscriptions and packet identifiers, the wills that are owed, and sessions
//! that had ended and whose mailboxes were not empty yet.

use super::ended::Ended;
use super::{Away, Sessions, warn_if_failed};
use crate::outlet::Link;
use crate::session::records::{self, Inbound, OutboundRecord, SessionRecord};
use crate::session::will::WillNo;
use crate::session::{PendingWill, Session};
use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Position, Timestamp};
use eventmesh_edge_core::ports::hub::Submission;
use eventmesh_edge_core::ports::store::{ReadError, SessionNo, StateChange, Store, Table};
use eventmesh_edge_core::topic::TopicFilter;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What the client table reads at the start: a store, by reference.
pub trait SessionStore {
    /// Up to `max` entries of `table` after the key `after`, in key order.
    ///
    /// # Errors
    /// [`ReadError`] if the store cannot be read.
    fn scan(&self, table: Table, after: Option<&[u8]>, max: usize) -> Result<Vec<(Bytes, Bytes)>, ReadError>;

    /// Messages of before this start have positions up to here, those of this start later ones.
    fn before(&self) -> Position;
}

impl<S: Store + ?Sized> SessionStore for &S {
    fn scan(&self, table: Table, after: Option<&[u8]>, max: usize) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        Store::scan(*self, table, &[], after, max)
    }

    fn before(&self) -> Position {
        Position(Position::first_of(self.stats().epoch).0 - 1)
    }
}

/// What a start found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Sessions.
    pub sessions: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Wills of clients that the node has lost, by its own end or earlier.
    pub wills: u64,
    /// Records that did not decode, or are of a later version: skipped.
    pub skipped: u64,
    /// Records of sessions that no longer exist: removed.
    pub orphans: u64,
}

/// A session found at the start.
struct Kept {
    session: Box<Session>,
    record: SessionRecord,
}

type Found = HashMap<SessionNo, Kept>;

impl Sessions {
    /// Loads what was kept: sessions and subscriptions are attached to the hub, their clients are away. What is due by
    /// now is done: sessions that expired while the node was down end, wills are published. Call once, before the first
    /// listener runs. Records that cannot be read are skipped and counted (P6).
    ///
    /// # Errors
    /// [`ReadError`] if the store itself cannot be read.
    pub fn restore(&self, store: &dyn SessionStore) -> Result<Restored, ReadError> {
        let mut found = Restored::default();
        let mut orphans = Vec::new();
        let (mut sessions, ended) = self.restore_sessions(store, &mut found, &mut orphans)?;
        each(store, Table::Subscription, |key, value| {
            let Some((number, filter)) = records::split_key(key) else { return found.skipped += 1 };
            let Some(kept) = sessions.get_mut(&number) else {
                return orphans.push((Table::Subscription, key.clone()));
            };
            match self.restore_subscription(&mut kept.session, filter, value) {
                Some(()) => found.subscriptions += 1,
                None => found.skipped += 1,
            }
        })?;
        for table in [Table::Inbound, Table::Outbound] {
            each(store, table, |key, value| {
                let Some((number, rest)) = records::split_key(key) else { return found.skipped += 1 };
                let Some(kept) = sessions.get_mut(&number) else {
                    return orphans.push((table, key.clone()));
                };
                if restore_pid(&mut kept.session, table, rest, value).is_none() {
                    found.skipped += 1;
                }
            })?;
        }
        let due = self.restore_wills(store, &mut sessions, &mut found)?;
        found.orphans = orphans.len() as u64;
        self.remove_orphans(orphans);
        found.sessions = sessions.len() as u64;
        self.put_away(sessions);
        ended.into_iter().for_each(Ended::go_on);
        for will in due {
            self.publish_will(Box::new(will), None);
        }
        self.tick();
        Ok(found)
    }

    /// Those that are kept, and those that had ended. One that is both had ended: its rows were to go with the next commit.
    fn restore_sessions(
        &self,
        store: &dyn SessionStore,
        found: &mut Restored,
        orphans: &mut Vec<(Table, Bytes)>,
    ) -> Result<(Found, Vec<Ended>), ReadError> {
        let (mut sessions, mut ended) = (HashMap::new(), Vec::new());
        let mut next = 1;
        each(store, Table::Session, |key, value| {
            if &key[..] == records::NUMBER_MARK {
                next = next.max(records::decode_number_mark(value).unwrap_or(0));
                return;
            }
            if let Some((number, begun)) = records::decode_ended(key, value) {
                next = next.max(number.0.saturating_add(1));
                return ended.push(Ended { hub: self.hub.clone(), number, begun });
            }
            let client_id = std::str::from_utf8(key).ok().map(Text::from);
            let Some((client_id, record)) = client_id.zip(SessionRecord::decode(value)) else {
                return found.skipped += 1;
            };
            next = next.max(record.number.0.saturating_add(1));
            let link = Arc::new(Link::new(self.options.queue));
            link.close();
            let source = self.source(&record.principal);
            let mut session = Session::new(client_id, record.principal.clone(), source, link);
            session.number = Some(record.number);
            session.expiry_secs = record.expiry_secs;
            session.subscriber = Some(self.hub.attach(Some(record.number), None));
            session.sent_before = record.sent_through.unwrap_or_else(|| store.before());
            sessions.insert(record.number, Kept { session: Box::new(session), record });
        })?;
        for Ended { number, .. } in &ended {
            let Some(Kept { session, .. }) = sessions.remove(number) else { continue };
            orphans.push((Table::Session, session.client_id.as_bytes().clone()));
            if let Some(subscriber) = session.subscriber {
                self.hub.detach(subscriber);
            }
        }
        let mut table = self.lock();
        table.next_number = table.next_number.max(next);
        Ok((sessions, ended))
    }

    fn restore_subscription(&self, session: &mut Session, filter: &[u8], value: &[u8]) -> Option<()> {
        let filter = TopicFilter::parse(Text::from(std::str::from_utf8(filter).ok()?)).ok()?;
        let (options, owed) = records::decode_subscription(value)?;
        self.hub.subscribe(session.subscriber?, &filter, options);
        if let Some(owed) = owed {
            session.owed.insert(filter.as_text().clone(), (0, owed));
        }
        session.filters.insert(filter.as_text().clone(), options);
        Some(())
    }

    /// Each goes to the session that names it; what no session names is due.
    fn restore_wills(
        &self,
        store: &dyn SessionStore,
        sessions: &mut Found,
        found: &mut Restored,
    ) -> Result<Vec<PendingWill>, ReadError> {
        let named = |kept: &Kept| Some((kept.record.will?, kept.record.number));
        let owners: HashMap<WillNo, SessionNo> = sessions.values().filter_map(named).collect();
        // A record may still name a will that was published: its number must not become another will's.
        let (mut due, mut last) = (Vec::new(), owners.keys().map(|will| will.0).max().unwrap_or(0));
        each(store, Table::Will, |key, value| {
            let Some(will) = PendingWill::decode(key, value) else { return found.skipped += 1 };
            found.wills += 1;
            last = last.max(will.number.0);
            match owners.get(&will.number).and_then(|number| sessions.get_mut(number)) {
                Some(kept) => kept.session.will = Some(Box::new(will)),
                None => due.push(will),
            }
        })?;
        self.wills.fetch_max(last.saturating_add(1), Ordering::Relaxed);
        Ok(due)
    }

    fn remove_orphans(&self, orphans: Vec<(Table, Bytes)>) {
        if orphans.is_empty() {
            return;
        }
        let state: Vec<StateChange> =
            orphans.into_iter().map(|(table, key)| records::delete(table, key)).collect();
        let submission = Submission { state, ..Submission::default() };
        self.hub.submit(submission, Box::new(|result| warn_if_failed("removal of orphans", result.err())));
    }

    fn put_away(&self, sessions: Found) {
        let (now, wall) = (self.clock.monotonic(), self.clock.now());
        let mut table = self.lock();
        table.persistent += sessions.len();
        for (_, Kept { mut session, record }) in sessions {
            session.sort_flights();
            let passed = passed(&record, wall);
            let due = |after: Duration| now + after.saturating_sub(passed);
            let expires = record.expiry_secs != u32::MAX;
            let ends = expires.then(|| due(Duration::from_secs(record.expiry_secs.into())));
            let will_due = session.will.as_ref().map(|will| due(will.delay));
            table.put_away(session.client_id.clone(), Away { session, ends, will_due });
        }
    }
}

/// For how long the client of a session found at the start has been away. The time the node was down counts, as far as
/// both clocks can be believed; a client that was connected when the node stopped has been lost now.
fn passed(record: &SessionRecord, wall: Timestamp) -> Duration {
    let believable = !record.connected && record.left.is_plausible() && wall.is_plausible();
    if believable { record.left.until(wall) } else { Duration::ZERO }
}

fn restore_pid(session: &mut Session, table: Table, rest: &[u8], value: &[u8]) -> Option<()> {
    let pid = records::decode_pid(rest)?;
    if table == Table::Inbound {
        session.inbound.insert(pid, Inbound::decode(value)?);
    } else {
        session.restore_flight(pid, OutboundRecord::decode(value)?);
    }
    Some(())
}

/// All entries of a table, in pieces.
fn each(
    store: &dyn SessionStore,
    table: Table,
    mut found: impl FnMut(&Bytes, &Bytes),
) -> Result<(), ReadError> {
    const PIECE: usize = 512;
    let mut after: Option<Bytes> = None;
    loop {
        let entries = store.scan(table, after.as_deref(), PIECE)?;
        for (key, value) in &entries {
            found(key, value);
        }
        match entries.last() {
            Some((last, _)) if entries.len() == PIECE => after = Some(last.clone()),
            _ => return Ok(()),
        }
    }
}
