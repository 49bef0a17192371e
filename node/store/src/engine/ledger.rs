//! The loss ledger: totals for ever, and entries that are handed on once.
//!
//! A loss is added to its total and to what is *gathered* for its stream, uplink and reason, in the commit that causes it.
//! Whoever hands the ledger on asks for entries; that cuts what is gathered into numbered entries, by a commit of the
//! store itself, and an entry is final from there on. While [`LEDGER_ENTRIES_MAX`] of them wait nothing is cut, so memory
//! and disk are bounded by the configuration, however long nobody asks (P5).

use super::keys;
use crate::backing::{BackingError, StreamNo, Views};
use crate::codec::Reader;
use crate::journal::frame::{LossEntry, UplinkNo, loss_reason};
use bytes::{BufMut, Bytes, BytesMut};
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::{LEDGER_ENTRIES_MAX, LedgerEntry, LedgerLine, LossReason};
use std::collections::BTreeMap;

use super::tables::scan_all;

/// Stream, uplink, reason.
pub(crate) type LedgerKey = (StreamNo, UplinkNo, u8);

/// What was lost for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LedgerSum {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) first: Position,
    pub(crate) last: Position,
}

impl LedgerSum {
    fn of(loss: &LossEntry) -> LedgerSum {
        LedgerSum { events: loss.events, bytes: loss.bytes, first: loss.first, last: loss.last }
    }

    fn add(&mut self, more: &LedgerSum) {
        self.events = self.events.saturating_add(more.events);
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.first = first_known(self.first, more.first);
        self.last = self.last.max(more.last);
    }

    fn put(&self, out: &mut BytesMut) {
        for number in [self.events, self.bytes, self.first.0, self.last.0] {
            out.put_u64(number);
        }
    }

    fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(32);
        self.put(&mut out);
        out.freeze()
    }

    fn read(r: &mut Reader<'_>) -> Option<LedgerSum> {
        let (events, bytes) = (r.u64_be()?, r.u64_be()?);
        Some(LedgerSum { events, bytes, first: Position(r.u64_be()?), last: Position(r.u64_be()?) })
    }
}

/// The lower of two positions that are known: a loss that never had one has zero.
fn first_known(a: Position, b: Position) -> Position {
    if a == Position::ZERO || b == Position::ZERO { a.max(b) } else { a.min(b) }
}

fn read_key(r: &mut Reader<'_>) -> Option<LedgerKey> {
    Some((StreamNo(r.u32_be()?), UplinkNo(r.u32_be()?), r.byte()?))
}

fn encode_entry(key: LedgerKey, sum: &LedgerSum) -> Bytes {
    let mut out = BytesMut::with_capacity(41);
    out.put_u32(key.0.0);
    out.put_u32(key.1.0);
    out.put_u8(key.2);
    sum.put(&mut out);
    out.freeze()
}

/// A change of the views, `None` for a deletion.
pub(super) type ViewChange = (Bytes, Option<Bytes>);

/// The ledger in memory, as the views have it: small, because its keys are.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    totals: BTreeMap<LedgerKey, LedgerSum>,
    gathered: BTreeMap<LedgerKey, LedgerSum>,
    entries: BTreeMap<u64, (LedgerKey, LedgerSum)>,
    /// Number of the newest entry ever made.
    last_no: u64,
}

impl Ledger {
    pub(super) fn load(views: &dyn Views) -> Result<Ledger, BackingError> {
        let mut ledger = Ledger { totals: sums(views, keys::LEDGER)?, ..Ledger::default() };
        ledger.gathered = sums(views, keys::GATHERED)?;
        for (key, value) in scan_all(views, &[keys::ENTRY])? {
            let mut r = Reader::new(&value);
            let no = key.get(1..).and_then(|no| Reader::new(no).u64_be());
            if let (Some(no), Some(of), Some(sum)) = (no, read_key(&mut r), LedgerSum::read(&mut r)) {
                ledger.entries.insert(no, (of, sum));
                ledger.last_no = no;
            }
        }
        if let Some(no) = views.get(keys::LEDGER_NO)?.and_then(|b| Reader::new(&b).u64_be()) {
            ledger.last_no = ledger.last_no.max(no);
        }
        Ok(ledger)
    }

    pub(super) fn add(&mut self, loss: &LossEntry, out: &mut Vec<ViewChange>) {
        let key = (loss.stream, loss.uplink, loss.reason as u8);
        let more = LedgerSum::of(loss);
        for (sums, view) in [
            (&mut self.totals, keys::ledger(keys::LEDGER, key)),
            (&mut self.gathered, keys::ledger(keys::GATHERED, key)),
        ] {
            let sum = sums.entry(key).and_modify(|sum| sum.add(&more)).or_insert(more);
            out.push((view, Some(sum.encode())));
        }
    }

    /// True if [`Ledger::cut`] would make an entry.
    pub(crate) fn can_cut(&self) -> bool {
        !self.gathered.is_empty() && self.entries.len() < LEDGER_ENTRIES_MAX
    }

    /// Makes entries of what is gathered, as many as there is room for.
    pub(super) fn cut(&mut self, out: &mut Vec<ViewChange>) {
        let before = self.last_no;
        while self.entries.len() < LEDGER_ENTRIES_MAX
            && let Some((key, sum)) = self.gathered.pop_first()
        {
            self.last_no += 1;
            self.entries.insert(self.last_no, (key, sum));
            out.push((keys::ledger(keys::GATHERED, key), None));
            out.push((keys::entry(self.last_no), Some(encode_entry(key, &sum))));
        }
        if self.last_no > before {
            let no = Bytes::copy_from_slice(&self.last_no.to_be_bytes());
            out.push((Bytes::from_static(keys::LEDGER_NO), Some(no)));
        }
    }

    /// Entries up to a number were handed on.
    pub(super) fn forget(&mut self, through: u64, out: &mut Vec<ViewChange>) {
        while let Some(first) = self.entries.first_entry().filter(|first| *first.key() <= through) {
            out.push((keys::entry(*first.key()), None));
            first.remove();
        }
    }
}

fn sums(views: &dyn Views, kind: u8) -> Result<BTreeMap<LedgerKey, LedgerSum>, BackingError> {
    let rows = scan_all(views, &[kind])?;
    let parsed = rows.iter().filter_map(|(key, value)| {
        let key = read_key(&mut Reader::new(key.get(1..)?))?;
        Some((key, LedgerSum::read(&mut Reader::new(value))?))
    });
    Ok(parsed.collect())
}

/// The reason in a ledger key.
fn reason_of(key: &LedgerKey) -> Option<LossReason> {
    loss_reason(key.2)
}

impl super::Engine {
    /// Lines whose pair is not in the configuration any more have no consumer, and are folded into one per reason.
    pub(crate) fn ledger(&self) -> Vec<LedgerLine> {
        let mut lines: Vec<LedgerLine> = Vec::new();
        for (key, sum) in &self.tables.ledger.totals {
            let Some(reason) = reason_of(key) else { continue };
            let consumer = self.catalog.id_of(key.0, key.1);
            let LedgerSum { events, bytes, first, last } = *sum;
            match lines.iter_mut().find(|l| l.consumer == consumer && l.reason == reason) {
                Some(line) => {
                    line.events += events;
                    line.bytes += bytes;
                    line.first = first_known(line.first, first);
                    line.last = line.last.max(last);
                }
                None => lines.push(LedgerLine { consumer, reason, events, bytes, first, last }),
            }
        }
        lines
    }

    /// Entries after a number.
    pub(crate) fn ledger_after(&self, after: u64, max: usize) -> Vec<LedgerEntry> {
        let entries = self.tables.ledger.entries.range(after.saturating_add(1)..).take(max);
        entries.filter_map(|(no, (key, sum))| self.ledger_entry(*no, key, sum)).collect()
    }

    fn ledger_entry(&self, no: u64, key: &LedgerKey, sum: &LedgerSum) -> Option<LedgerEntry> {
        let LedgerSum { events, bytes, first, last } = *sum;
        Some(LedgerEntry {
            no,
            stream: self.catalog.stream_by_no(key.0).map(|stream| stream.name.clone()),
            uplink: self.catalog.uplink_names.get(&key.1).cloned(),
            reason: reason_of(key)?,
            events,
            bytes,
            first,
            last,
        })
    }

    /// Makes entries of what is gathered, with the next group; false if there is nothing to make, or it is asked already.
    pub(crate) fn cut_ledger(&mut self) -> bool {
        let is_cut = |i: &super::Internal| i.views.iter().any(|(key, _)| key == keys::LEDGER_CUT);
        if !self.tables.ledger.can_cut() || self.internal.iter().any(is_cut) {
            return false;
        }
        let views = vec![(Bytes::from_static(keys::LEDGER_CUT), Some(Bytes::new()))];
        self.commit_internal(super::Internal { views, ..super::Internal::default() });
        true
    }
}
