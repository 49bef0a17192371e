//! Readers that come and go: of the open store (`Store::reshape`), and from one start to the next.
//!
//! Nobody is asked for anything while commits are under way, so that each event is known to have been made under one set of
//! readers; and no reader comes twice, so that all that is counted for one is of one time.

use super::life::{Life, LifeError, mark};
use super::{CHANGING, consumer, readers_of, spec_of};
use crate::marks::{Mark, Shape};
use crate::model::Configured;
use eventmesh_edge_contract::Rng;
use eventmesh_edge_core::ports::store::{Consumer, Reshape, ReshapeError, Store};
use std::io;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

/// The first uplink that is not one of all workloads.
const FIRST: u16 = 2;
/// Readers at a time.
const READERS_MAX: usize = 3;

/// Who reads it now.
#[derive(Clone, Debug, Default)]
pub(super) struct Changing {
    configured: Option<Configured>,
    draining: Vec<u16>,
}

impl Changing {
    /// What a process is started with, after what an earlier one was told: often the same, and now and then a file that was
    /// changed in between.
    pub(super) fn at_start(marker: &Path, rng: &mut Rng) -> io::Result<Changing> {
        let mut last: Option<Configured> = None;
        let said = match std::fs::read_to_string(marker) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            said => said?,
        };
        for line in said.lines() {
            if let Mark::Start(shape) | Mark::Change(shape) = serde_json::from_str(line)? {
                let known = last.as_ref().and_then(|last| last.known);
                let known = shape.readers.iter().copied().max().max(known);
                last = Some(Configured { readers: shape.readers, known });
            }
        }
        let mut this = Changing { configured: last, draining: Vec::new() };
        if rng.chance(500) {
            this.edit(rng);
        }
        Ok(this)
    }

    /// Another file: one reader less, one more, another one in the place of one, or none.
    fn edit(&mut self, rng: &mut Rng) {
        let Some(configured) = &mut self.configured else { return };
        let readers = &mut configured.readers;
        let fresh = configured.known.map_or(FIRST, |known| known + 1);
        let at = rng.index(readers.len().max(1));
        match rng.below(8) {
            0..3 if !readers.is_empty() => {
                readers.remove(at);
                readers.push(fresh);
            }
            3 | 4 if !readers.is_empty() => drop(readers.remove(at)),
            5 => readers.clear(),
            _ if readers.len() < READERS_MAX => readers.push(fresh),
            _ => {}
        }
        configured.known = readers.iter().copied().max().max(configured.known);
    }

    pub(super) fn configured(&self) -> Option<Configured> {
        self.configured.clone()
    }

    pub(super) fn shape(&self) -> Option<Shape> {
        let readers = self.configured.as_ref()?.readers.clone();
        Some(Shape { readers, ..Shape::default() })
    }

    /// Those that new events are for.
    pub(super) fn takers(&self) -> Vec<(u16, u16)> {
        self.configured.as_ref().map(readers_of).unwrap_or_default()
    }

    /// All that something may wait for.
    pub(super) fn consumers(&self) -> Vec<(u16, u16)> {
        let draining = self.draining.iter().map(|uplink| (CHANGING, *uplink));
        self.takers().into_iter().chain(draining).collect()
    }
}

impl Life {
    /// Now and then, something changes.
    pub(super) fn maybe_change(&mut self) -> Result<(), LifeError> {
        let has_drained = self.changing.draining.iter().any(|uplink| self.waits_for(*uplink) == 0);
        if !(has_drained && self.rng.chance(500) || self.rng.chance(100)) {
            return Ok(());
        }
        self.settle(0)?;
        let shape = self.next_shape();
        self.change_to(&shape)
    }

    fn waits_for(&self, uplink: u16) -> u64 {
        self.store.backlog(consumer((CHANGING, uplink))).events
    }

    fn next_shape(&mut self) -> Shape {
        let mut next = self.changing.clone();
        let before = next.configured.get_or_insert_default().readers.clone();
        // One that was to go stays after all, or the file is another.
        match self.changing.draining.first().copied() {
            Some(stays) if before.len() < READERS_MAX && self.rng.chance(300) => {
                next.configured.get_or_insert_default().readers.push(stays);
            }
            _ => next.edit(&mut self.rng),
        }
        let readers = next.configured.unwrap_or_default().readers;
        let mut shape = Shape { readers, ..Shape::default() };
        let leaving = before.iter().chain(&self.changing.draining);
        for uplink in leaving.copied().filter(|uplink| !shape.readers.contains(uplink)).collect::<Vec<_>>() {
            if self.waits_for(uplink) == 0 {
                continue;
            }
            let was_draining = self.changing.draining.contains(&uplink);
            let drains = if was_draining { self.rng.chance(900) } else { self.rng.chance(600) };
            if drains { shape.drain.push(uplink) } else { shape.drop.push(uplink) }
        }
        shape
    }

    fn change_to(&mut self, shape: &Shape) -> Result<(), LifeError> {
        let known = self.changing.configured.as_ref().and_then(|configured| configured.known);
        let known = shape.readers.iter().copied().max().max(known);
        let configured = Configured { readers: shape.readers.clone(), known };
        let named = |uplinks: &[u16]| -> Vec<Consumer> {
            uplinks.iter().map(|uplink| consumer((CHANGING, *uplink))).collect()
        };
        let change = Reshape {
            spec: spec_of(Some(&configured)),
            drain: named(&shape.drain),
            drop: named(&shape.drop),
        };
        mark(&self.marker, &Mark::Change(shape.clone()))?;
        let (told, wait) = channel();
        let marker = std::sync::Arc::clone(&self.marker);
        let done = move |outcome: Result<(), ReshapeError>| {
            if outcome.is_err() || mark(&marker, &Mark::Changed).is_ok() {
                told.send(outcome).ok();
            }
        };
        self.store.reshape(change, Box::new(done));
        let outcome = wait.recv_timeout(Duration::from_secs(30));
        outcome.map_err(|_| LifeError::Unanswered(self.number))??;
        self.changing.configured = Some(configured);
        self.changing.draining = shape.drain.clone();
        self.unacked.retain(|(stream, _), _| *stream != CHANGING);
        for at in self.changing.consumers() {
            self.remember_consumer(at);
        }
        Ok(())
    }

    /// Cursors of the readers that there are.
    pub(super) fn acknowledge_changing(&mut self) -> Vec<(u16, u16, u64)> {
        let mut moved = Vec::new();
        for at in self.changing.consumers().into_iter().filter(|(_, uplink)| *uplink != u16::MAX) {
            let Some(waiting) = self.unacked.get_mut(&at).filter(|waiting| !waiting.is_empty()) else {
                continue;
            };
            if self.rng.chance(250) {
                let upto = 1 + self.rng.index(waiting.len());
                moved.extend(waiting.drain(..upto).next_back().map(|acked| (at.0, at.1, acked)));
            }
        }
        moved
    }
}
