//! What can be asked of the disk.

use super::{Disk, Named, Tally, add};
use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::LogId;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::{
    Backlog, Batch, Consumer, LEDGER_ENTRIES_MAX, LedgerEntry, LedgerLine, LossReason, MailboxItem, Read,
    SessionNo, StreamId, Table, UplinkId,
};
use std::collections::BTreeMap;

impl Disk {
    pub(in crate::memory) fn read(&self, read: Read) -> Batch {
        let Some((stream, cursor)) = self.cursor(read.consumer) else {
            return Batch { events: Vec::new(), through: read.after, at_end: true };
        };
        // What this consumer has passed or given up is not shown to it again.
        let mut batch = Batch { events: Vec::new(), through: read.after.max(cursor.acked), at_end: true };
        let mut bytes = 0;
        for position in stream.retained.range(batch.through.next()..) {
            if !cursor.waits_for(*position) {
                break;
            }
            let Some(held) = self.events.get(position) else { continue };
            bytes += held.event.stored_bytes as usize;
            let full = batch.events.len() >= read.max_events || bytes > read.max_bytes;
            if full && !batch.events.is_empty() {
                batch.at_end = false;
                break;
            }
            batch.through = *position;
            batch.events.push(held.event.clone());
        }
        batch
    }

    pub(in crate::memory) fn read_mailbox(
        &self,
        session: SessionNo,
        after: Position,
        max_events: usize,
        max_bytes: usize,
    ) -> Vec<MailboxItem> {
        let Some(mailbox) = self.mailboxes.get(&session) else { return Vec::new() };
        let mut items: Vec<MailboxItem> = Vec::new();
        let mut bytes = 0;
        for (position, options) in mailbox.entries.range(after.next()..).take(max_events.max(1)) {
            let Some(held) = self.events.get(position) else { continue };
            bytes += held.event.stored_bytes as usize;
            if bytes > max_bytes && !items.is_empty() {
                break;
            }
            items.push(MailboxItem { event: held.event.clone(), options: options.clone() });
        }
        items
    }

    pub(in crate::memory) fn get(&self, table: Table, key: &[u8]) -> Option<Bytes> {
        self.tables.get(&(table, Bytes::copy_from_slice(key))).cloned()
    }

    pub(in crate::memory) fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        max: usize,
    ) -> Vec<(Bytes, Bytes)> {
        self.tables
            .iter()
            .filter(|((t, key), _)| {
                *t == table && key.starts_with(prefix) && after.is_none_or(|a| &key[..] > a)
            })
            .take(max)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect()
    }

    pub(in crate::memory) fn mailbox_len(&self, session: SessionNo) -> (u64, u64) {
        self.mailboxes.get(&session).map_or((0, 0), |m| (m.entries.len() as u64, m.bytes))
    }

    pub(in crate::memory) fn backlog(&self, consumer: Consumer) -> Backlog {
        let Some((stream, cursor)) = self.cursor(consumer) else { return Backlog::default() };
        let oldest = stream.retained.range(cursor.acked.next()..).next().filter(|p| cursor.waits_for(**p));
        let oldest = oldest.and_then(|p| self.events.get(p));
        Backlog {
            events: cursor.events,
            bytes: cursor.bytes,
            oldest: oldest.map(|held| held.event.event.received),
            acked: cursor.acked,
            newest: cursor.until.map_or(stream.newest, |until| until.min(stream.newest)),
        }
    }

    /// Lines of pairs that this configuration no longer names are folded into lines of nobody's.
    pub(in crate::memory) fn ledger(&self) -> Vec<LedgerLine> {
        let mut lines: BTreeMap<(Option<Consumer>, LossReason), Tally> = BTreeMap::new();
        for ((named, reason), tally) in &self.ledger {
            let consumer = named.as_ref().and_then(|named| self.consumer(named));
            lines.entry((consumer, *reason)).and_modify(|sum| add(sum, tally)).or_insert(*tally);
        }
        let line = |((consumer, reason), t): (_, Tally)| LedgerLine {
            consumer,
            reason,
            events: t.events,
            bytes: t.bytes,
            first: t.first,
            last: t.last,
        };
        lines.into_iter().map(line).collect()
    }

    /// Cuts what is gathered into entries, as many as there is room for, and gives out those after a number.
    pub(in crate::memory) fn ledger_after(&mut self, after: u64, max: usize) -> Vec<LedgerEntry> {
        while self.entries.len() < LEDGER_ENTRIES_MAX
            && let Some(((named, reason), tally)) = self.gathered.pop_first()
        {
            self.last_entry += 1;
            let (stream, uplink) = named.map_or((None, None), |(stream, uplink)| (Some(stream), uplink));
            let Tally { events, bytes, first, last } = tally;
            let no = self.last_entry;
            self.entries.push(LedgerEntry { no, stream, uplink, reason, events, bytes, first, last });
        }
        self.entries.iter().filter(|entry| entry.no > after).take(max).cloned().collect()
    }

    pub(super) fn consumer(&self, (stream, uplink): &Named) -> Option<Consumer> {
        let stream = index_of(self.spec.streams.iter().map(|s| &s.name), stream).map(StreamId)?;
        let uplink = match uplink {
            None => UplinkId::NONE,
            Some(name) => UplinkId(index_of(self.spec.uplinks.iter(), name)?),
        };
        Some(Consumer { stream, uplink })
    }

    pub(in crate::memory) fn log_id(&self) -> LogId {
        self.log
    }

    pub(in crate::memory) fn epoch(&self) -> u32 {
        self.epoch
    }

    pub(in crate::memory) fn disk_bytes(&self) -> u64 {
        self.bytes
    }
}

fn index_of<'a>(names: impl Iterator<Item = &'a Text>, name: &Text) -> Option<u16> {
    names.into_iter().position(|n| n == name).and_then(|i| u16::try_from(i).ok())
}
