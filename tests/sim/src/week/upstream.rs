//! The upstream of the week: it answers at once, or not at all.

use super::plan::Climate;
use super::receiver::{Arrived, Receiver};
use super::world::{Item, Outcome, Week, uplink_id};
use crate::checks::Check;
use crate::delivery::Delivery;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Position, StoredEvent};
use eventmesh_edge_core::forward::{Action, Backoff, Input, Options, StreamOptions, Volume};
use eventmesh_edge_core::ports::store::{
    Class, Commit, Consumer, CursorChange, Loss, Read, ReadError, StreamId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// One uplink.
pub(super) struct Side {
    pub(super) delivery: Option<Box<dyn Delivery>>,
    pub(super) climate: Climate,
    pub(super) up: bool,
    pub(super) connection: u64,
    pub(super) made: u64,
    wake: Option<Duration>,
    /// Knows what arrived and nothing else.
    pub(super) receiver: Receiver,
    /// The truth beside it: positions that arrived.
    pub(super) received: BTreeMap<StreamId, BTreeSet<Position>>,
}

impl Side {
    pub(super) fn new() -> Side {
        Side {
            delivery: None,
            climate: Climate::default(),
            up: false,
            connection: 0,
            made: 0,
            wake: None,
            receiver: Receiver::default(),
            received: BTreeMap::new(),
        }
    }
}

/// Bounds so small that a week of few events meets all of them.
pub(super) fn options(uplink: usize, seed: u64) -> Options {
    let seconds = Duration::from_secs;
    Options {
        window: Volume { events: 8, bytes: 4000 },
        read_ahead: Volume { events: 16, bytes: 8000 },
        fetch: Volume { events: 16, bytes: 8000 },
        gap_max: 24,
        attempts_max: 3,
        retry: Backoff { base: seconds(60), cap: seconds(1800) },
        connect: Backoff { base: seconds(60), cap: seconds(3600) },
        answer_timeout: seconds(300),
        commit_events: 8,
        commit_every: seconds(2),
        seed,
        ..Options::new(uplink_id(uplink))
    }
}

impl Week<'_> {
    pub(super) fn begin_sides(&mut self) -> Check {
        for idx in 0..self.sides.len() {
            let stream = |stream: usize| {
                let id = StreamId(u16::try_from(stream).unwrap_or(0));
                let acked = self.store.backlog(Consumer { stream: id, uplink: uplink_id(idx) }).acked;
                StreamOptions {
                    max_age: self.plan.spec.streams[stream].max_age,
                    ..StreamOptions::new(id, acked)
                }
            };
            let streams: Vec<StreamOptions> = (0..self.plan.spec.streams.len()).map(stream).collect();
            let options = options(idx, self.rng.next_u64());
            self.sides[idx].delivery = Some(crate::delivery::real_forwarder(options, &streams));
            self.sides[idx].up = false;
            self.sides[idx].made = 0;
            self.sides[idx].wake = None;
            self.inbox.push_back((idx, Input::Start));
        }
        Ok(())
    }

    pub(super) fn feed(&mut self, idx: usize, input: Input) -> Check {
        let (now, wall) = (self.now, self.wall());
        let Some(delivery) = self.sides[idx].delivery.as_mut().filter(|_| self.running) else {
            return Ok(());
        };
        let mut actions = Vec::new();
        delivery.step(now, wall, input, &mut actions);
        actions.into_iter().try_for_each(|action| self.carry_out(idx, action))
    }

    fn carry_out(&mut self, idx: usize, action: Action) -> Check {
        match action {
            Action::Connect { timeout, .. } => self.connect(idx, timeout),
            Action::Fetch(read) => self.fetch(idx, read),
            Action::Send { stream, event, .. } => return self.send(idx, stream, &event),
            Action::CommitCursor { cursors, losses } => self.commit_cursor(idx, cursors, losses),
            Action::WakeAt(at) => {
                self.sides[idx].wake = Some(at);
                self.schedule_at(at, Item::Timer(idx, self.life, at));
            }
            Action::Flush | Action::Report(_) | Action::Drained => {}
        }
        Ok(())
    }

    pub(super) fn timer(&mut self, idx: usize, at: Duration) {
        if self.sides[idx].wake == Some(at) {
            self.sides[idx].wake = None;
            self.inbox.push_back((idx, Input::Timer));
        }
    }

    fn connect(&mut self, idx: usize, timeout: Duration) {
        let side = &mut self.sides[idx];
        side.connection += 1;
        side.up = false;
        if side.climate.closed {
            let connection = side.connection;
            self.schedule(timeout, Item::Down(idx, connection));
        } else {
            side.up = true;
            side.made += 1;
            self.look_at_store();
            self.inbox.push_back((idx, Input::Up { window: 100, address: Text::from_static("week") }));
        }
    }

    pub(super) fn down(&mut self, idx: usize, connection: u64) {
        if self.sides[idx].connection == connection {
            self.sides[idx].up = false;
            self.inbox.push_back((idx, Input::Down { cause: Text::from_static("no way up") }));
        }
    }

    /// An outage ends connections, too.
    pub(super) fn change_climate(&mut self, idx: usize, climate: Climate) {
        self.sides[idx].climate = climate;
        if climate.closed && self.sides[idx].up {
            self.down(idx, self.sides[idx].connection);
        }
    }

    fn fetch(&mut self, idx: usize, read: Read) {
        let (life, answers, stream) = (self.life, self.answers.clone(), read.consumer.stream);
        let done = move |result: Result<_, ReadError>| {
            let input = match result {
                Ok(batch) => Input::Fetched { stream, batch },
                Err(_) => Input::FetchFailed { stream, class: Class::Retry },
            };
            drop(answers.send((life, Outcome::Input(idx, input))));
        };
        self.store.read(read, Box::new(done));
    }

    fn commit_cursor(&mut self, idx: usize, cursors: Vec<CursorChange>, losses: Vec<Loss>) {
        self.submit(Commit { cursors, losses, ..Commit::default() }, move |result| {
            Outcome::Input(
                idx,
                match result {
                    Ok(_) => Input::CursorCommitted,
                    Err(error) => Input::CommitFailed { class: error.class() },
                },
            )
        });
    }

    fn send(&mut self, idx: usize, stream: StreamId, event: &Arc<StoredEvent>) -> Check {
        if !self.sides[idx].up {
            return Ok(());
        }
        let climate = self.sides[idx].climate;
        let position = event.position;
        let failed =
            |class| Input::Failed { stream, position, class, reason: Text::from_static("the week says no") };
        let stubborn = climate.stubborn && event.event.payload.ends_with(b"!");
        let input = if stubborn || self.rng.chance(climate.retry) {
            failed(Class::Retry)
        } else if self.rng.chance(climate.reject) {
            failed(Class::Reject)
        } else if self.rng.chance(climate.reset) {
            if self.rng.chance(500) {
                self.arrive(idx, stream, event)?;
            }
            self.down(idx, self.sides[idx].connection);
            return Ok(());
        } else {
            self.arrive(idx, stream, event)?;
            if self.rng.chance(climate.lose) {
                return Ok(());
            }
            Input::Acked { stream, position }
        };
        self.inbox.push_back((idx, input));
        Ok(())
    }

    fn arrive(&mut self, idx: usize, stream: StreamId, event: &StoredEvent) -> Check {
        let acked = self.store.backlog(Consumer { stream, uplink: uplink_id(idx) }).acked;
        let side = &mut self.sides[idx];
        let first = side.received.entry(stream).or_default().insert(event.position);
        self.summary.received += u64::from(first);
        self.summary.duplicates += u64::from(!first);
        if first && event.position <= acked {
            // It was given up in the store, and counted, while it was on its way.
            *self.truth.both.entry((stream, idx)).or_default() += 1;
        }
        let mut arrived = Arrived::of(event);
        if (self.tamper.arrival)(&mut arrived) { side.receiver.take(&arrived) } else { Ok(()) }
    }
}
