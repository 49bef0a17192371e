//! Reading a stream for nobody in particular: no cursor bounds it, none moves.

use super::Core;
use crate::backing::{BackingError, StreamNo};
use crate::engine::read::{Damage, Fetched, Plan, fetch};
use crate::engine::recent::{Harvest, Want};
use eventmesh_edge_core::event::{Position, StoredEvent};
use eventmesh_edge_core::ports::store::ReadError;
use std::io;
use std::sync::Arc;

/// One bounded step along a stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub(crate) events: Vec<StoredEvent>,
    /// Everything up to here was looked at.
    pub(crate) through: Position,
    pub(crate) at_end: bool,
    /// Stretches that could not be read: first and last position that may be missing.
    pub(crate) lost: Vec<(Position, Position)>,
}

impl Core {
    /// Reads what lies on disk of a stream after a position. Blocks on the disk, without the engine's lock.
    pub(crate) fn read_stream(
        &self,
        stream: StreamNo,
        after: Position,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<Page, ReadError> {
        let mut page = Page { through: after, ..Page::default() };
        let mut harvest = Harvest::new(Want { events: max_events, bytes: max_bytes });
        while harvest.events.is_empty() && !page.at_end {
            self.step(stream, &mut page, &mut harvest)?;
        }
        page.events = self.decode(harvest.events);
        Ok(page)
    }

    fn step(&self, stream: StreamNo, page: &mut Page, harvest: &mut Harvest) -> Result<(), ReadError> {
        let after = page.through;
        let plan = {
            let engine = self.engine();
            let plan = engine.plan_stream(stream, after);
            if matches!(plan, Plan::Memory) {
                page.at_end = engine.read_recent(stream, after, harvest) && !harvest.is_full();
                page.through = harvest.events.last().map_or(after, |event| event.position);
                return Ok(());
            }
            plan
        };
        match (&plan, fetch(&plan, stream, after, harvest, &self.generations)) {
            (Plan::End, _) => page.at_end = true,
            (_, Ok(Fetched { through, damage, .. })) => {
                page.lost.extend(lost(&damage));
                page.through = if through > after { through } else { after.next() };
            }
            (Plan::Generation { number, last }, Err(error @ BackingError::Damaged { .. })) => {
                page.lost.push((after.next(), *last));
                self.lose_generation(*number, &error);
            }
            (_, Err(error)) => return Err(ReadError::Io(Arc::new(io::Error::other(error.to_string())))),
        }
        Ok(())
    }
}

fn lost(damage: &Damage) -> Vec<(Position, Position)> {
    match damage {
        Damage::None => Vec::new(),
        Damage::Generation(extents) => extents.iter().map(|e| (e.first, e.last)).collect(),
        Damage::Segment { gaps, .. } => gaps
            .iter()
            .map(|gap| {
                let first = gap.before.1;
                let last = gap.after.map_or(first, |(_, next)| Position(next.0.saturating_sub(1)));
                (first, last.max(first))
            })
            .collect(),
    }
}

impl Core {
    /// Mailboxes that hold something, entries in them, and their stored bytes.
    pub(crate) fn mailbox_totals(&self) -> (u64, u64, u64) {
        self.engine().mailboxes().totals()
    }
}
