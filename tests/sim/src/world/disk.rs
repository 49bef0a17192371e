//! Between the node and its store: what is durable, what the figures say, what is answered.

use super::{Item, Outcome, Submitted, World, uplink_id};
use crate::checks::{self, Check, Step};
use crate::history::Stored;
use eventmesh_edge_contract::suite::support::{answer, read_all};
use eventmesh_edge_core::event::{Position, StoredEvent};
use eventmesh_edge_core::forward::Input;
use eventmesh_edge_core::ports::store::{Class, Consumer, ReadError, Store, StreamId};
use std::collections::btree_map::Entry;
use std::time::Duration;

impl World<'_> {
    /// A completion that puts its outcome where [`World::settle`] finds it.
    pub(super) fn outcome<T: Send + 'static>(
        &self,
        outcome: impl FnOnce(T) -> Outcome + Send + 'static,
    ) -> Box<dyn FnOnce(T) + Send> {
        let (life, send) = (self.life, answer(self.answers.clone()));
        Box::new(move |result| send((life, outcome(result))))
    }

    pub(super) fn disk_turn(&mut self) -> Check {
        self.disk_busy = false;
        if !self.running {
            return Ok(());
        }
        let group = if self.rng.chance(700) { 1 } else { self.rng.index(3) + 2 };
        let done = self.backend.complete(group).min(self.submitted.len());
        self.trace(|| format!("disk: {done} commits"));
        let finished: Vec<Submitted> = self.submitted.drain(..done).collect();
        self.learn()?;
        self.observe(&finished, false)?;
        if self.quiet || self.rng.chance(500) {
            self.store.release(1);
        }
        Ok(())
    }

    pub(super) fn tick(&mut self) -> Check {
        self.schedule(Duration::from_secs(1), Item::Tick);
        if !self.running {
            return Ok(());
        }
        self.store.tick(self.wall());
        self.observe(&[], true)?;
        self.look_at_store()
    }

    /// Events that became readable.
    pub(super) fn learn(&mut self) -> Check {
        let mut new: Vec<(StreamId, StoredEvent)> = Vec::new();
        for (idx, stream) in self.plan.spec.streams.iter().enumerate() {
            let id = StreamId(u16::try_from(idx).unwrap_or(u16::MAX));
            let newest = self.history.streams[idx].keys().next_back().copied().unwrap_or_default();
            let consumer = Consumer { stream: id, uplink: stream.uplinks[0] };
            if self.bare.backlog(consumer).newest > newest {
                new.extend(read_all(&*self.bare, consumer, newest).into_iter().map(|event| (id, event)));
            }
        }
        new.sort_by_key(|(_, event)| event.position);
        for (stream, event) in new {
            checks::p3_position_is_new(&self.history, stream, &event)?;
            self.accept(stream, event);
        }
        Ok(())
    }

    pub(super) fn accept(&mut self, stream: StreamId, event: StoredEvent) {
        self.history.newest = self.history.newest.max(event.position);
        if let Entry::Vacant(place) = self.history.stream_mut(stream).entry(event.position) {
            place.insert(Stored { event, answered: false });
            self.summary.accepted += 1;
        }
    }

    /// Compares the store's figures with what was just done to it.
    pub(super) fn observe(&mut self, finished: &[Submitted], tick: bool) -> Check {
        self.observe_consumers(|consumer| step(finished, consumer, tick))
    }

    pub(super) fn observe_consumers(&mut self, step_of: impl Fn(Consumer) -> Step) -> Check {
        let lines = self.bare.ledger();
        for consumer in self.consumers() {
            let backlog = self.bare.backlog(consumer);
            let ledger = lines.iter().filter(|l| l.consumer == Some(consumer)).map(|l| l.events).sum();
            checks::p2_ledger_is_exact(&self.history, consumer, backlog, ledger, step_of(consumer))?;
            let spec = &self.plan.spec.streams[usize::from(consumer.stream.0)];
            checks::p5_budget(spec, backlog)?;
            // Counting takes time; not after every commit.
            if self.summary.steps.is_multiple_of(16) {
                checks::p5_figures_are_true(&self.history, consumer.stream, backlog)?;
            }
            let before = self.history.readers[&consumer].cursor;
            if before != backlog.acked {
                self.trace(|| {
                    format!("cursor of {consumer:?} {before} -> {}, ledger {ledger}", backlog.acked)
                });
            }
            let passed: Vec<Position> =
                self.history.between(consumer.stream, before, backlog.acked).collect();
            let reader = self.history.reader(consumer);
            reader.lost.extend(passed.into_iter().filter(|p| !reader.acked.contains(p)));
            reader.cursor = backlog.acked;
            reader.ledger = ledger;
        }
        Ok(())
    }

    /// The forwarders hear where the store has put their cursors.
    pub(super) fn look_at_store(&mut self) -> Check {
        for idx in 0..self.sides.len() {
            for stream in self.sides[idx].streams.clone() {
                let consumer = Consumer { stream, uplink: uplink_id(idx) };
                let acked = self.bare.backlog(consumer).acked;
                let reader = self.history.reader(consumer);
                if acked > reader.told.max(reader.committed) {
                    self.sides[idx].meter.reasons += 1;
                }
                reader.told = reader.told.max(acked);
                self.feed(idx, Input::RetentionMoved { stream, acked })?;
            }
        }
        Ok(())
    }

    pub(super) fn take_outcome(&mut self, outcome: Outcome) -> Check {
        match outcome {
            Outcome::Published(client, result) => self.published(client, result),
            Outcome::Read(idx, stream, result) => {
                let input = match result {
                    Ok(batch) => Input::Fetched { stream, batch },
                    Err(ReadError::Closed) => Input::FetchFailed { stream, class: Class::Fatal },
                    Err(ReadError::Io(_)) => Input::FetchFailed { stream, class: Class::Retry },
                };
                let delay = self.some_delay();
                self.schedule(delay, Item::Deliver(idx, self.life, input));
                Ok(())
            }
            Outcome::Committed(idx, cursors, result) => {
                let input = match result {
                    Ok(_) => {
                        self.failed.clear();
                        for change in cursors {
                            let reader = self.history.reader(change.consumer);
                            reader.committed = reader.committed.max(change.acked);
                        }
                        Input::CursorCommitted
                    }
                    Err(error) => Input::CommitFailed { class: error.class() },
                };
                let delay = self.some_delay();
                self.schedule(delay, Item::Deliver(idx, self.life, input));
                Ok(())
            }
        }
    }

    pub(super) fn some_delay(&mut self) -> Duration {
        if self.rng.chance(500) { Duration::ZERO } else { self.within(3) }
    }

    pub(super) fn deliver(&mut self, idx: usize, input: Input) -> Check {
        let side = &mut self.sides[idx];
        match &input {
            Input::Fetched { stream, batch } => {
                side.fetching.retain(|s| s != stream);
                side.meter.empty_reads += u64::from(batch.events.is_empty());
            }
            Input::FetchFailed { stream, .. } => {
                side.fetching.retain(|s| s != stream);
                side.meter.reasons += 1;
            }
            Input::CursorCommitted | Input::CommitFailed { .. } => side.committing = false,
            _ => {}
        }
        let read = match &input {
            Input::Fetched { stream, batch } => batch.events.last().map(|e| (*stream, e.position)),
            _ => None,
        };
        self.feed(idx, input)?;
        let Some((stream, last)) = read else { return Ok(()) };
        let cursor = self.sides[idx].delivery.cursor(stream).unwrap_or(last);
        let consumer = Consumer { stream, uplink: uplink_id(idx) };
        checks::p5_gap(&self.history, consumer, &self.plan.uplinks[idx].options, cursor, last)
    }
}

/// What these commits, done together, may have done to one consumer.
pub(super) fn step(finished: &[Submitted], consumer: Consumer, tick: bool) -> Step {
    let mut step = Step {
        asked: Position::ZERO,
        told: 0,
        gives_up: tick,
        exact: finished.len() + usize::from(tick) == 1,
        unknown: 0,
    };
    for submitted in finished {
        match submitted {
            Submitted::Publish(_) => step.gives_up = true,
            Submitted::Cursors(cursors, losses) => {
                let asked = cursors.iter().filter(|c| c.consumer == consumer).map(|c| c.acked);
                step.asked = asked.fold(step.asked, Position::max);
                step.told +=
                    losses.iter().filter(|l| l.consumer == Some(consumer)).map(|l| l.events).sum::<u64>();
            }
        }
    }
    step
}
