//! Damage of the journal is counted once, however often the node starts while the segment is still there: what was counted is
//! noted in the views, in the commit that counts it.

use super::tables::scan_all;
use super::{Engine, Internal, keys};
use crate::backing::{BackingError, StreamNo};
use crate::codec::Reader;
use crate::journal::frame::{LossEntry, UplinkNo};
use bytes::Bytes;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::LossReason;

impl Engine {
    /// Counts what stood in a segment from an offset on, unless an earlier start has; true if it was counted now.
    pub(super) fn lose_damaged(
        &mut self,
        (segment, from): (u32, u32),
        events: u64,
        bytes: u64,
        range: (Position, Position),
    ) -> bool {
        let key = keys::counted(segment, from);
        // Where the views cannot be read, twice is better than never (P2).
        if self.tables.views.get(&key).is_ok_and(|noted| noted.is_some()) {
            return false;
        }
        let loss = LossEntry {
            stream: StreamNo(0),
            uplink: UplinkNo(0),
            reason: LossReason::Damaged,
            events,
            bytes,
            first: range.0,
            last: range.1,
        };
        let views = vec![(key, Some(Bytes::new()))];
        self.commit_internal(Internal { views, losses: vec![loss], ..Internal::default() });
        true
    }

    /// Notes about segments that are gone go too.
    pub(super) fn forget_counted(&mut self, unreadable: &[u32]) -> Result<(), BackingError> {
        let mut gone = Vec::new();
        for (key, _) in scan_all(&*self.tables.views, &[keys::COUNTED])? {
            let number = Reader::new(key.get(1..).unwrap_or_default()).u32_be();
            let there =
                |number| unreadable.contains(&number) || self.segments.iter().any(|s| s.number() == number);
            if !number.is_some_and(there) {
                gone.push((key, None));
            }
        }
        if !gone.is_empty() {
            self.commit_internal(Internal { views: gone, ..Internal::default() });
        }
        Ok(())
    }
}
