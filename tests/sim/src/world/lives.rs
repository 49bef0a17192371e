//! The node starts, is cut from its power, stops, and starts again.

use super::{Item, Outcome, STOP_LIMIT, Side, Submitted, World, disk::step};
use crate::checks::{self, Check, Meter, Step};
use crate::plan::{Blow, Weather};
use crate::upstream::Upstream;
use eventmesh_edge_contract::suite::support::read_all;
use eventmesh_edge_contract::{FaultyStore, Script};
use eventmesh_edge_core::event::StoredEvent;
use eventmesh_edge_core::forward::{Input, StreamOptions};
use eventmesh_edge_core::ports::store::{Change, Consumer, NewEvent, Store, StreamId};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl World<'_> {
    pub(super) fn begin_life(&mut self) -> Check {
        if self.life > 0 {
            self.bare = self.backend.open(self.plan.spec.clone());
            self.check_after_restart()?;
            self.take_last_answers()?;
        }
        self.life += 1;
        self.running = true;
        self.stopping = false;
        self.disk_busy = false;
        self.flags = Arc::default();
        let flags = Arc::clone(&self.flags);
        self.bare.watch(Arc::new(move |change| match change {
            Change::Appended => flags.appended.store(true, Ordering::Relaxed),
            Change::Room => flags.room.store(true, Ordering::Relaxed),
        }));
        let faults = if self.quiet { 0 } else { self.plan.store_faults };
        let script = Script::seeded(self.rng.next_u64(), faults);
        self.store = Arc::new(FaultyStore::new(Arc::clone(&self.bare), script));
        for consumer in self.consumers() {
            let backlog = self.bare.backlog(consumer);
            self.history.restart(consumer, backlog.acked);
        }
        self.begin_sides()?;
        // A device whose batch was under way when the node died was not answered: it sends it again.
        for client in 0..self.clients.len() {
            if std::mem::take(&mut self.clients[client].waits_for_answer) {
                self.schedule(Duration::from_millis(50), Item::Publish(client));
            }
        }
        Ok(())
    }

    pub(super) fn begin_sides(&mut self) -> Check {
        let old = std::mem::take(&mut self.sides);
        for (idx, plan) in self.plan.uplinks.clone().into_iter().enumerate() {
            let uplink = plan.options.uplink;
            let streams: Vec<StreamId> =
                self.consumers().filter(|c| c.uplink == uplink).map(|c| c.stream).collect();
            let options = |stream: &StreamId| {
                let acked = self.bare.backlog(Consumer { stream: *stream, uplink }).acked;
                let max_age = self.plan.spec.streams[usize::from(stream.0)].max_age;
                StreamOptions { max_age, ..StreamOptions::new(*stream, acked) }
            };
            let options: Vec<StreamOptions> = streams.iter().map(options).collect();
            let first = plan.weather.first().map_or(Weather::FAIR, |(_, w)| *w);
            let earlier = old.get(idx);
            self.sides.push(Side {
                delivery: (self.make)(plan.options, &options),
                upstream: Upstream::after(earlier.map(|s| &s.upstream)),
                weather: earlier.map_or(first, |s| s.weather),
                wake: None,
                meter: Meter::default(),
                fetching: Vec::new(),
                committing: false,
                drained: false,
                streams,
            });
        }
        for idx in 0..self.sides.len() {
            self.feed(idx, Input::Start)?;
        }
        Ok(())
    }

    pub(super) fn blow(&mut self, blow: Blow) -> Check {
        self.trace(|| format!("{blow:?}"));
        match blow {
            Blow::Clock(clock) => self.clock = clock,
            _ if !self.running || self.stopping => {}
            Blow::PowerCut => {
                self.summary.cuts += 1;
                self.backend.power_cut(&mut self.rng);
                self.end_life(3000);
            }
            Blow::Restart => {
                self.stopping = true;
                self.schedule(STOP_LIMIT + Duration::from_millis(10), Item::StopsNow(self.life));
                for idx in 0..self.sides.len() {
                    self.feed(idx, Input::Drain { limit: STOP_LIMIT })?;
                }
            }
        }
        Ok(())
    }

    /// Every forwarder has stopped: the store is closed, which finishes what was submitted.
    pub(super) fn stopped(&mut self) -> Check {
        self.store.close();
        self.end_life(500);
        Ok(())
    }

    pub(super) fn end_life(&mut self, down_ms: u64) {
        self.running = false;
        self.stopping = false;
        for side in &mut self.sides {
            side.upstream.alive = false;
        }
        let down = self.within(down_ms) + Duration::from_millis(10);
        self.schedule(down, Item::Start);
    }

    /// What is there after a restart: everything durable, and perhaps some of what was under way.
    pub(super) fn check_after_restart(&mut self) -> Check {
        let under_way: Vec<Submitted> = self.submitted.drain(..).collect();
        let failed = std::mem::take(&mut self.failed);
        let pending: Vec<&NewEvent> = under_way
            .iter()
            .flat_map(|s| match s {
                Submitted::Publish(events) => events.as_slice(),
                Submitted::Cursors(..) => &[],
            })
            // A failed write may be on the disk all the same. Once a later commit is durable it must not be believed; if
            // the power goes before, nobody could prevent it, and its publisher sends it again anyway.
            .chain(&failed)
            .collect();
        let mut new: Vec<(StreamId, StoredEvent)> = Vec::new();
        for consumer in self.consumers() {
            let cursor = self.bare.backlog(consumer).acked;
            let found = read_all(&*self.bare, consumer, cursor);
            let submitted = |e: &StoredEvent| {
                pending.iter().any(|p| p.stream == Some(consumer.stream) && p.event == e.event)
            };
            checks::p1_nothing_is_missing(&self.history, consumer.stream, cursor, &found, submitted)?;
            let known = self.history.stream(consumer.stream);
            new.extend(
                found.into_iter().filter(|e| !known.contains_key(&e.position)).map(|e| (consumer.stream, e)),
            );
        }
        for (stream, event) in new {
            self.accept(stream, event);
        }
        let unknown = pending.len() as u64;
        let steps = |c: Consumer| Step { unknown, gives_up: true, exact: false, ..step(&under_way, c, true) };
        self.observe_consumers(steps)
    }

    /// What a graceful stop answered while it closed the store counts as answered (P1).
    pub(super) fn take_last_answers(&mut self) -> Check {
        while let Ok((_, outcome)) = self.answered.try_recv() {
            if let Outcome::Published(client, result @ Ok(_)) = outcome {
                self.published(client, result)?;
            }
        }
        Ok(())
    }
}
