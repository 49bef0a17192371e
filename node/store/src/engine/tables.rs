//! What a commit does to the views: a function of the frame and of the views before it, nothing else, so that a replay
//! at a start repeats what was done live, decision for decision. (The bounds of mailboxes are a view entry for that
//! reason.)
//!
//! It is applied as a whole or not at all. If the views cannot be read for it (their database is opened again now and then,
//! and sled writes at an open: a full disk refuses that), the commit waits here, and all later ones behind it, until they
//! can. Meanwhile the views count as they were: their next checkpoint claims nothing that is missing, so the journal keeps
//! what waits here, and nothing is lost with the process (P1).

use super::keys;
use super::ledger::Ledger;
use super::mailboxes::{Evicted, Mailboxes};
use super::rows::Rows;
use crate::backing::{BackingError, Lsn, StreamNo, ViewOp, Views};
use crate::codec::Reader;
use crate::journal::frame::{Base, Change, CursorEntry, EventEntry, Frame, Item, LossEntry, UplinkNo};
use bytes::{BufMut, Bytes, BytesMut};
use eventmesh_edge_core::ports::store::LossReason;
use std::collections::VecDeque;

/// Bytes of commits that may wait for the views; more state is refused then (P5).
const WAITING_MAX: usize = 4 << 20;

/// Entries read at once when a mailbox is cleared.
const PAGE: usize = 256;

/// Budget of each mailbox, and of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) bytes: u64,
    pub(crate) events: u64,
    pub(crate) all_bytes: u64,
}

impl Bounds {
    pub(crate) fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(24);
        out.put_u64(self.bytes);
        out.put_u64(self.events);
        out.put_u64(self.all_bytes);
        out.freeze()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Bounds> {
        let mut reader = Reader::new(bytes);
        let (bytes, events) = (reader.u64_be()?, reader.u64_be()?);
        // Format version 1 had no bound of all.
        Some(Bounds { bytes, events, all_bytes: reader.u64_be().unwrap_or(u64::MAX) })
    }
}

/// The views and what of them is mirrored in memory.
pub(crate) struct Tables {
    pub(crate) views: Box<dyn Views>,
    pub(crate) ledger: Ledger,
    pub(crate) mailboxes: Mailboxes,
    pub(crate) bounds: Bounds,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
}

/// A commit that the views could not take yet.
struct Waiting {
    lsn: Lsn,
    /// Its frame; `None` if there is only `more`.
    frame: Option<(Bytes, Base)>,
    more: Vec<ViewOp>,
}

impl Waiting {
    fn bytes(&self) -> usize {
        let ops = self.more.iter().map(|op| match op {
            ViewOp::Put(key, value) => key.len() + value.len(),
            ViewOp::Delete(key) => key.len(),
        });
        64 + self.frame.as_ref().map_or(0, |(body, _)| body.len()) + ops.sum::<usize>()
    }
}

impl Tables {
    /// Reads the mirrored part.
    pub(crate) fn new(views: Box<dyn Views>) -> Result<Tables, BackingError> {
        let unlimited = Bounds { bytes: u64::MAX, events: u64::MAX, all_bytes: u64::MAX };
        let ledger = Ledger::load(&*views)?;
        let mailboxes = Mailboxes::load(&*views)?;
        let mut tables = Tables {
            views,
            ledger,
            mailboxes,
            bounds: unlimited,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        };
        if let Some(bounds) = tables.views.get(keys::BOUNDS)?.and_then(|b| Bounds::decode(&b)) {
            tables.bounds = bounds;
        }
        Ok(tables)
    }

    /// Applies one frame, whose bytes are `body`, and `more` beside it. `flush`: with all that is kept out of the views
    /// between checkpoints; not if it has to wait, and then there must be no checkpoint either.
    pub(crate) fn apply(
        &mut self,
        frame: &Frame<'_>,
        body: &[u8],
        base: &Base,
        (more, flush): (Vec<ViewOp>, bool),
    ) {
        if self.catch_up().is_ok() {
            match self.changes(frame) {
                Ok(changes) => return self.take(frame.lsn, changes, more, flush),
                Err(error) => {
                    tracing::error!(%error, lsn = frame.lsn.0, "views cannot be read, what changes them waits");
                }
            }
        }
        // A copy: the frame may be a small part of a large group.
        self.wait(Waiting { lsn: frame.lsn, frame: Some((Bytes::copy_from_slice(body), *base)), more });
    }

    /// Applies changes that belong to a commit without being in its frame.
    pub(crate) fn apply_ops(&mut self, lsn: Lsn, more: Vec<ViewOp>, flush: bool) {
        match self.catch_up() {
            Ok(()) => self.take(lsn, Changes { bounds: self.bounds, ..Changes::default() }, more, flush),
            Err(_) => self.wait(Waiting { lsn, frame: None, more }),
        }
    }

    /// Applies what waits, as far as the views can be read. An error says that something still waits: the views are not
    /// what the answered commits say.
    pub(crate) fn catch_up(&mut self) -> Result<(), BackingError> {
        while let Some(first) = self.waiting.front() {
            let frame = first.frame.clone();
            let parsed = frame.as_ref().and_then(|(body, base)| Frame::parse(body, base).ok());
            let changes = match &parsed {
                Some(frame) => self.changes(frame)?,
                None => Changes { bounds: self.bounds, ..Changes::default() },
            };
            if let Some(first) = self.waiting.pop_front() {
                self.waiting_bytes -= first.bytes();
                self.take(first.lsn, changes, first.more, false);
            }
        }
        Ok(())
    }

    /// True if commits wait for the views.
    pub(crate) fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// True if so many wait that no more state is taken.
    pub(crate) fn is_far_behind(&self) -> bool {
        self.waiting_bytes > WAITING_MAX
    }

    fn wait(&mut self, commit: Waiting) {
        self.waiting_bytes += commit.bytes();
        self.waiting.push_back(commit);
    }

    /// What a frame changes; the mailboxes have it already, or nothing of it if the views cannot be read.
    fn changes(&mut self, frame: &Frame<'_>) -> Result<Changes, BackingError> {
        self.mailboxes.begin();
        let outcome = self.step(frame);
        self.mailboxes.end(outcome.is_ok());
        outcome
    }

    fn step(&mut self, frame: &Frame<'_>) -> Result<Changes, BackingError> {
        let rows = Rows::over(&*self.views);
        let (bounds, mailboxes) = (self.bounds, &mut self.mailboxes);
        let mut step = Step { rows, bounds, ledger: Vec::new(), mailboxes, events: Vec::new() };
        for item in frame.items() {
            let Ok(item) = item else {
                tracing::error!(
                    lsn = frame.lsn.0,
                    "journal frame does not decode to its end; the rest of it is left out"
                );
                break;
            };
            step.item(&item)?;
        }
        step.keep_total()?;
        let Step { rows, bounds, ledger, .. } = step;
        Ok(Changes { ops: rows.into_ops(), bounds, ledger })
    }

    fn take(&mut self, lsn: Lsn, changes: Changes, more: Vec<ViewOp>, flush: bool) {
        let Changes { mut ops, bounds, ledger } = changes;
        self.bounds = bounds;
        let mut of_ledger = Vec::new();
        for step in ledger {
            match step {
                LedgerStep::Add(loss) => self.ledger.add(&loss, &mut of_ledger),
                LedgerStep::Cut => self.ledger.cut(&mut of_ledger),
                LedgerStep::Forget(through) => self.ledger.forget(through, &mut of_ledger),
            }
        }
        // No other change has a key of the ledger.
        ops.extend(of_ledger.into_iter().map(|(key, value)| match value {
            Some(value) => ViewOp::Put(key, value),
            None => ViewOp::Delete(key),
        }));
        ops.extend(more);
        if flush {
            let mut rows = Rows::with(&*self.views, &ops);
            self.mailboxes.flush(&mut rows);
            ops = rows.into_ops();
        }
        self.views.apply(lsn, ops);
    }
}

/// All entries with a prefix; only for the few kinds that are bounded by the configuration.
pub(crate) fn scan_all(views: &dyn Views, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, BackingError> {
    let mut all: Vec<(Bytes, Bytes)> = Vec::new();
    loop {
        let after = all.last().map(|(key, _)| key.clone());
        let page = views.scan(prefix, after.as_deref(), PAGE)?;
        let last = page.len() < PAGE;
        all.extend(page);
        if last {
            return Ok(all);
        }
    }
}

/// What one commit changes in the views.
#[derive(Default)]
struct Changes {
    ops: Vec<ViewOp>,
    bounds: Bounds,
    /// In their order.
    ledger: Vec<LedgerStep>,
}

enum LedgerStep {
    Add(LossEntry),
    Cut,
    Forget(u64),
}

/// One commit being applied: its changes so far lie over the views.
struct Step<'t, 'f> {
    rows: Rows<'t>,
    bounds: Bounds,
    ledger: Vec<LedgerStep>,
    mailboxes: &'t mut Mailboxes,
    /// Record bodies of the commit's events, for values that refer to them.
    events: Vec<&'f [u8]>,
}

impl<'f> Step<'_, 'f> {
    fn item(&mut self, item: &Item<'f>) -> Result<(), BackingError> {
        match item {
            Item::Event(entry) => self.event(entry),
            Item::Change(change) => self.change(change),
            Item::Cursor(cursor) => self.cursor(cursor),
            Item::Loss(loss) => {
                self.loss(loss);
                Ok(())
            }
        }
    }

    fn event(&mut self, entry: &EventEntry<'f>) -> Result<(), BackingError> {
        self.events.push(entry.body);
        if entry.mailboxes.claims() == 0 {
            return Ok(());
        }
        let claims = u32::try_from(entry.mailboxes.claims()).unwrap_or(u32::MAX);
        let (position, stored) = (entry.position, entry.stored_bytes());
        self.rows.put(keys::mail(position), Bytes::copy_from_slice(entry.body));
        if claims > 1 {
            self.rows.put(keys::mail_claims(position), Bytes::copy_from_slice(&claims.to_be_bytes()));
        }
        self.mailboxes.add_event(stored);
        for (session, options) in entry.mailboxes {
            if self.mailboxes.claim(&mut self.rows, session, position, stored, options) {
                let evicted = self.mailboxes.keep_bounds(&mut self.rows, session, &self.bounds)?;
                self.evicted(&evicted);
            } else {
                self.mailboxes.drop_double(&mut self.rows, position, stored)?;
            }
        }
        Ok(())
    }

    /// The budget of all mailboxes together, at the end of the commit.
    fn keep_total(&mut self) -> Result<(), BackingError> {
        let all = self.mailboxes.keep_total(&mut self.rows, self.bounds.all_bytes)?;
        all.iter().for_each(|evicted| self.evicted(evicted));
        Ok(())
    }

    fn evicted(&mut self, evicted: &Evicted) {
        let Some((first, last)) = evicted.range else { return };
        self.loss(&LossEntry {
            stream: StreamNo(0),
            uplink: UplinkNo(0),
            reason: LossReason::SessionQueueFull,
            events: evicted.events,
            bytes: evicted.bytes,
            first,
            last,
        });
    }

    fn change(&mut self, change: &Change<'_>) -> Result<(), BackingError> {
        match *change {
            Change::Put { table, key, value } => {
                self.rows.put(keys::table(table, key), Bytes::copy_from_slice(value));
            }
            Change::PutRecord { table, key, event } => {
                let body = self.events.get(event).copied().unwrap_or_default();
                self.rows.put(keys::table(table, key), Bytes::copy_from_slice(body));
            }
            Change::Delete { table, key } => self.rows.delete(keys::table(table, key)),
            Change::MailboxRemove { session, position } => {
                self.mailboxes.remove(&mut self.rows, session, position)?;
            }
            Change::MailboxUpdate { session, position, options } => {
                self.mailboxes.update(&mut self.rows, session, position, options)?;
            }
            Change::MailboxClear { session } => self.mailboxes.clear(&mut self.rows, session)?,
            Change::View { key, value } => self.view(key, value),
            Change::ViewDelete { key } => self.rows.delete(Bytes::copy_from_slice(key)),
        }
        Ok(())
    }

    fn view(&mut self, key: &[u8], value: &[u8]) {
        match key {
            keys::BOUNDS => self.bounds = Bounds::decode(value).unwrap_or(self.bounds),
            keys::LEDGER_CUT => return self.ledger.push(LedgerStep::Cut),
            keys::LEDGER_FORGET => {
                let through = Reader::new(value).u64_be().unwrap_or(0);
                return self.ledger.push(LedgerStep::Forget(through));
            }
            _ => {}
        }
        self.rows.put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
    }

    fn cursor(&mut self, cursor: &CursorEntry) -> Result<(), BackingError> {
        let key = keys::cursor(cursor.stream, cursor.uplink);
        let now = self.rows.get(&key)?.and_then(|bytes| Reader::new(&bytes).u64_be()).unwrap_or(0);
        if cursor.acked.0 > now {
            self.rows.put(key, Bytes::copy_from_slice(&cursor.acked.0.to_be_bytes()));
        }
        Ok(())
    }

    fn loss(&mut self, loss: &LossEntry) {
        self.ledger.push(LedgerStep::Add(*loss));
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
