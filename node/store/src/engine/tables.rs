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
use crate::backing::{BackingError, Lsn, StreamNo, ViewOp, Views};
use crate::codec::{Reader, put_varint};
use crate::journal::frame::{Base, Change, CursorEntry, EventEntry, Frame, Item, LossEntry, UplinkNo};
use bytes::{BufMut, Bytes, BytesMut};
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::LossReason;
use std::collections::{BTreeMap, VecDeque};

/// Bytes of commits that may wait for the views; more state is refused then (P5).
const WAITING_MAX: usize = 4 << 20;

/// Entries read at once when a mailbox is cleared.
const PAGE: usize = 256;

/// Budget of each mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) bytes: u64,
    pub(crate) events: u64,
}

impl Bounds {
    pub(crate) fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(16);
        out.put_u64(self.bytes);
        out.put_u64(self.events);
        out.freeze()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Bounds> {
        let mut reader = Reader::new(bytes);
        Some(Bounds { bytes: reader.u64_be()?, events: reader.u64_be()? })
    }
}

/// Figures of one mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MailboxFigures {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    /// No entry is below it: where a scan for the oldest starts, past the entries that are gone.
    lowest: Position,
}

impl MailboxFigures {
    pub(crate) fn decode(bytes: &[u8]) -> Option<MailboxFigures> {
        let mut r = Reader::new(bytes);
        Some(MailboxFigures { events: r.varint()?, bytes: r.varint()?, lowest: Position(r.varint()?) })
    }

    fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(16);
        put_varint(&mut out, self.events);
        put_varint(&mut out, self.bytes);
        put_varint(&mut out, self.lowest.0);
        Bytes::from(out)
    }
}

/// Value of a claim: stored bytes of the event, then the options.
pub(crate) fn split_claim(value: &Bytes) -> Option<(u32, Bytes)> {
    let mut reader = Reader::new(value);
    Some((reader.u32_be()?, value.slice(4..)))
}

fn claim_value(stored_bytes: u32, options: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + options.len());
    out.put_u32(stored_bytes);
    out.put_slice(options);
    out.freeze()
}

/// The views and what of them is mirrored in memory.
pub(crate) struct Tables {
    pub(crate) views: Box<dyn Views>,
    pub(crate) ledger: Ledger,
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
        let unlimited = Bounds { bytes: u64::MAX, events: u64::MAX };
        let ledger = Ledger::load(&*views)?;
        let mut tables =
            Tables { views, ledger, bounds: unlimited, waiting: VecDeque::new(), waiting_bytes: 0 };
        if let Some(bounds) = tables.views.get(keys::BOUNDS)?.and_then(|b| Bounds::decode(&b)) {
            tables.bounds = bounds;
        }
        Ok(tables)
    }

    /// Applies one frame, whose bytes are `body`, and `more` beside it.
    pub(crate) fn apply(&mut self, frame: &Frame<'_>, body: &[u8], base: &Base, more: Vec<ViewOp>) {
        if self.catch_up().is_ok() {
            match self.changes(frame) {
                Ok(changes) => return self.take(frame.lsn, changes, more),
                Err(error) => {
                    tracing::error!(%error, lsn = frame.lsn.0, "views cannot be read, what changes them waits");
                }
            }
        }
        // A copy: the frame may be a small part of a large group.
        self.wait(Waiting { lsn: frame.lsn, frame: Some((Bytes::copy_from_slice(body), *base)), more });
    }

    /// Applies changes that belong to a commit without being in its frame.
    pub(crate) fn apply_ops(&mut self, lsn: Lsn, ops: Vec<ViewOp>) {
        match self.catch_up() {
            Ok(()) => self.views.apply(lsn, ops),
            Err(_) => self.wait(Waiting { lsn, frame: None, more: ops }),
        }
    }

    /// Applies what waits, as far as the views can be read. An error says that something still waits: the views are not
    /// what the answered commits say.
    pub(crate) fn catch_up(&mut self) -> Result<(), BackingError> {
        while let Some(first) = self.waiting.front() {
            let frame = first.frame.clone();
            let parsed = frame.as_ref().and_then(|(body, base)| Frame::parse(body, base).ok());
            let changes =
                parsed.as_ref().map_or_else(|| Ok(Changes::default()), |frame| self.changes(frame))?;
            if let Some(first) = self.waiting.pop_front() {
                self.waiting_bytes -= first.bytes();
                self.take(first.lsn, changes, first.more);
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

    /// What a frame changes, with nothing changed yet.
    fn changes(&self, frame: &Frame<'_>) -> Result<Changes, BackingError> {
        let changes = Changes { bounds: self.bounds, ..Changes::default() };
        let mut step = Step { tables: self, changes, events: Vec::new() };
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
        Ok(step.changes)
    }

    fn take(&mut self, lsn: Lsn, changes: Changes, more: Vec<ViewOp>) {
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
        ops.extend(of_ledger);
        let ops = ops.into_iter().map(|(key, value)| match value {
            Some(value) => ViewOp::Put(key, value),
            None => ViewOp::Delete(key),
        });
        self.views.apply(lsn, ops.chain(more).collect());
    }

    pub(crate) fn mailbox(&self, session: u64) -> Result<MailboxFigures, BackingError> {
        let entry = self.views.get(&keys::mailbox(session))?;
        Ok(entry.and_then(|bytes| MailboxFigures::decode(&bytes)).unwrap_or_default())
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

/// What one commit changes.
#[derive(Default)]
struct Changes {
    ops: BTreeMap<Bytes, Option<Bytes>>,
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
    tables: &'t Tables,
    changes: Changes,
    /// Record bodies of the commit's events, for values that refer to them.
    events: Vec<&'f [u8]>,
}

impl<'f> Step<'_, 'f> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BackingError> {
        match self.changes.ops.get(key) {
            Some(changed) => Ok(changed.clone()),
            None => self.tables.views.get(key),
        }
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.changes.ops.insert(key, Some(value));
    }

    fn delete(&mut self, key: Bytes) {
        self.changes.ops.insert(key, None);
    }

    /// As [`Views::scan`], with this commit's changes.
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, BackingError> {
        let mine = self
            .changes
            .ops
            .range(Bytes::copy_from_slice(prefix)..)
            .take_while(|(key, _)| key.starts_with(prefix));
        let mine: Vec<_> = mine.filter(|(key, _)| after.is_none_or(|after| &key[..] > after)).collect();
        let below = self.tables.views.scan(prefix, after, max + mine.len())?;
        let mut merged: BTreeMap<Bytes, Option<Bytes>> =
            below.into_iter().map(|(k, v)| (k, Some(v))).collect();
        merged.extend(mine.into_iter().map(|(k, v)| (k.clone(), v.clone())));
        Ok(merged.into_iter().filter_map(|(k, v)| Some((k, v?))).take(max).collect())
    }

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
        self.put(keys::mail(entry.position), Bytes::copy_from_slice(entry.body));
        if claims > 1 {
            self.put(keys::mail_claims(entry.position), Bytes::copy_from_slice(&claims.to_be_bytes()));
        }
        for (session, options) in entry.mailboxes {
            self.claim(session, entry.position, entry.stored_bytes(), options)?;
        }
        Ok(())
    }

    fn claim(
        &mut self,
        session: u64,
        position: Position,
        stored: u32,
        options: &[u8],
    ) -> Result<(), BackingError> {
        let key = keys::claim(session, position);
        if self.get(&key)?.is_some() {
            // Two claims of one session on one event are one.
            return self.drop_claim(position);
        }
        let mut figures = self.figures(session)?;
        if figures.events == 0 {
            figures.lowest = position;
        }
        figures.events += 1;
        figures.bytes += u64::from(stored);
        self.put(key, claim_value(stored, options));
        self.evict(session, &mut figures)?;
        self.put(keys::mailbox(session), figures.encode());
        Ok(())
    }

    /// Gives the oldest entries up until the mailbox is within its bounds; the newest stays whatever its size.
    fn evict(&mut self, session: u64, figures: &mut MailboxFigures) -> Result<(), BackingError> {
        let bounds = self.changes.bounds;
        while figures.events > 1 && (figures.events > bounds.events || figures.bytes > bounds.bytes) {
            let before = keys::claim(session, Position(figures.lowest.0.saturating_sub(1)));
            let oldest = self.scan(&keys::claims(session), Some(&before), 1)?;
            let Some((key, value)) = oldest.into_iter().next() else { return Ok(()) };
            let position = keys::claim_position(&key).unwrap_or_default();
            let stored = split_claim(&value).map_or(0, |(stored, _)| stored);
            self.delete(key);
            self.drop_claim(position)?;
            figures.events -= 1;
            figures.bytes = figures.bytes.saturating_sub(u64::from(stored));
            figures.lowest = position.next();
            self.loss(&LossEntry {
                stream: StreamNo(0),
                uplink: UplinkNo(0),
                reason: LossReason::SessionQueueFull,
                events: 1,
                bytes: u64::from(stored),
                first: position,
                last: position,
            });
        }
        Ok(())
    }

    fn figures(&self, session: u64) -> Result<MailboxFigures, BackingError> {
        let entry = self.get(&keys::mailbox(session))?;
        Ok(entry.and_then(|bytes| MailboxFigures::decode(&bytes)).unwrap_or_default())
    }

    /// One claim less on an event: with the last one, the event goes.
    fn drop_claim(&mut self, position: Position) -> Result<(), BackingError> {
        let key = keys::mail_claims(position);
        let left =
            self.get(&key)?.and_then(|bytes| Reader::new(&bytes).u32_be()).unwrap_or(1).saturating_sub(1);
        match left {
            0 => {
                self.delete(keys::mail(position));
                self.delete(key);
            }
            1 => self.delete(key),
            _ => self.put(key, Bytes::copy_from_slice(&left.to_be_bytes())),
        }
        Ok(())
    }

    fn change(&mut self, change: &Change<'_>) -> Result<(), BackingError> {
        match *change {
            Change::Put { table, key, value } => {
                self.put(keys::table(table, key), Bytes::copy_from_slice(value));
            }
            Change::PutRecord { table, key, event } => {
                let body = self.events.get(event).copied().unwrap_or_default();
                self.put(keys::table(table, key), Bytes::copy_from_slice(body));
            }
            Change::Delete { table, key } => self.delete(keys::table(table, key)),
            Change::MailboxRemove { session, position } => self.remove(session, position)?,
            Change::MailboxUpdate { session, position, options } => {
                self.update(session, position, options)?
            }
            Change::MailboxClear { session } => self.clear(session)?,
            Change::View { key, value } => self.view(key, value),
            Change::ViewDelete { key } => self.delete(Bytes::copy_from_slice(key)),
        }
        Ok(())
    }

    fn view(&mut self, key: &[u8], value: &[u8]) {
        match key {
            keys::BOUNDS => self.changes.bounds = Bounds::decode(value).unwrap_or(self.changes.bounds),
            keys::LEDGER_CUT => return self.changes.ledger.push(LedgerStep::Cut),
            keys::LEDGER_FORGET => {
                let through = Reader::new(value).u64_be().unwrap_or(0);
                return self.changes.ledger.push(LedgerStep::Forget(through));
            }
            _ => {}
        }
        self.put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
    }

    fn remove(&mut self, session: u64, position: Position) -> Result<(), BackingError> {
        let key = keys::claim(session, position);
        let Some(value) = self.get(&key)? else { return Ok(()) };
        self.delete(key);
        self.drop_claim(position)?;
        let mut figures = self.figures(session)?;
        figures.events = figures.events.saturating_sub(1);
        figures.bytes =
            figures.bytes.saturating_sub(split_claim(&value).map_or(0, |(stored, _)| u64::from(stored)));
        if figures.lowest == position {
            figures.lowest = position.next();
        }
        if figures.events == 0 {
            self.delete(keys::mailbox(session));
        } else {
            self.put(keys::mailbox(session), figures.encode());
        }
        Ok(())
    }

    fn update(&mut self, session: u64, position: Position, options: &[u8]) -> Result<(), BackingError> {
        let key = keys::claim(session, position);
        if let Some((stored, _)) = self.get(&key)?.and_then(|value| split_claim(&value)) {
            self.put(key, claim_value(stored, options));
        }
        Ok(())
    }

    fn clear(&mut self, session: u64) -> Result<(), BackingError> {
        let prefix = keys::claims(session);
        let mut after: Option<Bytes> = None;
        loop {
            let page = self.scan(&prefix, after.as_deref(), PAGE)?;
            for (key, _) in &page {
                if let Some(position) = keys::claim_position(key) {
                    self.drop_claim(position)?;
                }
                self.delete(key.clone());
            }
            after = page.last().map(|(key, _)| key.clone());
            if page.len() < PAGE {
                break;
            }
        }
        self.delete(keys::mailbox(session));
        Ok(())
    }

    fn cursor(&mut self, cursor: &CursorEntry) -> Result<(), BackingError> {
        let key = keys::cursor(cursor.stream, cursor.uplink);
        let now = self.get(&key)?.and_then(|bytes| Reader::new(&bytes).u64_be()).unwrap_or(0);
        if cursor.acked.0 > now {
            self.put(key, Bytes::copy_from_slice(&cursor.acked.0.to_be_bytes()));
        }
        Ok(())
    }

    fn loss(&mut self, loss: &LossEntry) {
        self.changes.ledger.push(LedgerStep::Add(*loss));
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
