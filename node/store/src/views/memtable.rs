//! Recent changes in memory: newer than what both databases hold.

use crate::backing::{Lsn, ViewOp};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Memory of one change besides its bytes: a map slot (56 bytes at 70 % fill), two heap blocks, and the counter a
/// [`Bytes`] makes when it is first shared.
const ENTRY_OVERHEAD: usize = 152;

/// The newest change of a key.
#[derive(Clone, Debug)]
pub(super) struct Change {
    lsn: Lsn,
    /// `None` for a deletion.
    value: Option<Bytes>,
}

/// The newest change of each key. Keys and values are copies of their own: a slice would keep the whole read buffer alive
/// that it points into, and the accounting would not be true (P5).
#[derive(Debug, Default)]
pub(super) struct Memtable {
    changes: BTreeMap<Box<[u8]>, Change>,
    /// Changes after this commit are pending.
    checkpointed: Lsn,
    pending_bytes: usize,
}

impl Memtable {
    /// With the newest checkpoint's commit.
    pub(super) fn new(checkpointed: Lsn) -> Self {
        Memtable { checkpointed, ..Memtable::default() }
    }

    pub(super) fn apply(&mut self, lsn: Lsn, op: ViewOp) {
        let (key, value) = match op {
            ViewOp::Put(key, value) => (key, Some(Bytes::copy_from_slice(&value))),
            ViewOp::Delete(key) => (key, None),
        };
        let change = Change { lsn, value };
        self.pending_bytes += cost(&key, &change);
        // Not `insert`: the key of the change before can stay.
        match self.changes.get_mut(key.as_ref()) {
            Some(before) => {
                if before.lsn > self.checkpointed {
                    self.pending_bytes -= cost(&key, before);
                }
                *before = change;
            }
            None => {
                self.changes.insert(key.as_ref().into(), change);
            }
        }
    }

    /// Bytes of changes that no checkpoint holds.
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// `Some(None)` for a key that was deleted.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&Bytes>> {
        self.changes.get(key).map(|change| change.value.as_ref())
    }

    /// Changes in key order, deletions as `None`.
    pub(super) fn range<'a>(
        &'a self,
        from: Bound<&[u8]>,
    ) -> impl Iterator<Item = (&'a [u8], Option<&'a Bytes>)> + use<'a> {
        let changes = self.changes.range::<[u8], _>((from, Bound::Unbounded));
        changes.map(|(key, change)| (key.as_ref(), change.value.as_ref()))
    }

    /// Changes after `lsn`, in key order.
    pub(super) fn after(&self, lsn: Lsn) -> impl Iterator<Item = (&[u8], Option<&Bytes>)> {
        let newer = self.changes.iter().filter(move |(_, change)| change.lsn > lsn);
        newer.map(|(key, change)| (key.as_ref(), change.value.as_ref()))
    }

    /// The newest checkpoint is now at `checkpointed`; what is no newer than `droppable` is not needed any more.
    pub(super) fn settle(&mut self, checkpointed: Lsn, droppable: Lsn) {
        self.changes.retain(|_, change| change.lsn > droppable);
        self.checkpointed = checkpointed;
        let pending = self.changes.iter().filter(|(_, change)| change.lsn > checkpointed);
        self.pending_bytes = pending.map(|(key, change)| cost(key, change)).sum();
    }
}

fn cost(key: &[u8], change: &Change) -> usize {
    ENTRY_OVERHEAD + key.len() + change.value.as_ref().map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, value: &'static str) -> ViewOp {
        ViewOp::Put(Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes()))
    }

    #[test]
    fn pending_bytes_follow_overwrites_deletions_and_checkpoints() {
        let mut table = Memtable::default();
        table.apply(Lsn(1), put("a", "12345"));
        table.apply(Lsn(1), put("b", "1"));
        assert_eq!(table.pending_bytes(), 2 * ENTRY_OVERHEAD + 8);
        table.apply(Lsn(2), put("a", "1"));
        assert_eq!(table.pending_bytes(), 2 * ENTRY_OVERHEAD + 4);
        table.settle(Lsn(2), Lsn(1));
        assert_eq!(table.pending_bytes(), 0);
        assert!(table.get(b"b").is_none());
        table.apply(Lsn(3), ViewOp::Delete(Bytes::from_static(b"a")));
        assert_eq!(table.pending_bytes(), ENTRY_OVERHEAD + 1);
        assert_eq!(table.get(b"a"), Some(None));
        table.settle(Lsn(3), Lsn(3));
        assert!(table.get(b"a").is_none());
    }

    #[test]
    fn a_value_does_not_keep_the_buffer_alive_that_it_was_cut_from() {
        let buffer = Bytes::from(vec![7; 1 << 16]);
        let mut table = Memtable::default();
        table.apply(Lsn(1), ViewOp::Put(buffer.slice(..4), buffer.slice(4..8)));
        assert!(buffer.is_unique());
    }
}
