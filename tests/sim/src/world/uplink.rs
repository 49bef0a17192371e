//! Between the forwarder and its upstream.

use super::{Item, Outcome, Submitted, Verdict, World, broken, uplink_id};
use crate::checks::{self, Check, Meter};
use crate::history::{Reception, Refusal};
use crate::plan::{Door, Weather};
use crate::upstream::{EventKey, Fate, Sending, fate};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, StoredEvent};
use eventmesh_edge_core::forward::{Action, Input, Pipeline, Report, Volume};
use eventmesh_edge_core::ports::store::{Class, Commit, Consumer, CursorChange, Loss, Read, Store, StreamId};
use std::sync::Arc;
use std::time::Duration;

impl World<'_> {
    pub(super) fn feed(&mut self, idx: usize, input: Input) -> Check {
        if !self.running {
            return Ok(());
        }
        let (now, wall) = (self.now, self.wall());
        let side = &mut self.sides[idx];
        if side.meter.second != now.as_secs() {
            side.meter =
                Meter { second: now.as_secs(), reasons: side.meter.reasons.min(20), ..Meter::default() };
        }
        self.trace(|| format!("uplink {idx} <- {}", short_input(&input)));
        let side = &mut self.sides[idx];
        let is_timer = matches!(input, Input::Timer);
        side.meter.timers += u64::from(is_timer);
        side.meter.inputs += u64::from(!is_timer && !matches!(input, Input::RetentionMoved { .. }));
        let mut actions = Vec::new();
        side.delivery.step(now, wall, input, &mut actions);
        for action in actions {
            self.carry_out(idx, action)?;
        }
        self.check_bounds(idx)
    }

    pub(super) fn carry_out(&mut self, idx: usize, action: Action) -> Check {
        if self.sides[idx].drained {
            return broken("P5", format!("uplink {idx}: {action:?} after it had stopped"));
        }
        self.trace(|| format!("uplink {idx} -> {}", short_action(&action)));
        match action {
            Action::Connect { timeout, .. } => self.connect(idx, timeout),
            Action::Fetch(read) => return self.fetch(idx, read),
            Action::Send { stream, event, again } => return self.send(idx, stream, event, again),
            Action::Flush => {}
            Action::CommitCursor { cursors, losses } => return self.commit(idx, cursors, losses),
            Action::WakeAt(at) => {
                self.sides[idx].wake = Some(at);
                // Timers of a busy machine come late.
                let late = if self.rng.chance(100) { self.within(30) } else { Duration::ZERO };
                self.schedule_at(at + late, Item::Timer(idx, self.life, at));
            }
            Action::Report(Report::Up { .. }) => self.sides[idx].upstream.told_up = true,
            Action::Report(Report::Down { .. }) => self.connection_ended(idx),
            Action::Report(_) => {}
            Action::Drained => self.sides[idx].drained = true,
        }
        Ok(())
    }

    pub(super) fn check_bounds(&mut self, idx: usize) -> Check {
        let side = &self.sides[idx];
        let options = &self.plan.uplinks[idx].options;
        checks::p5_no_busy_loop(options, &side.meter)?;
        let unanswered =
            Volume { events: side.upstream.unanswered.len(), bytes: side.upstream.unanswered_bytes };
        if side.upstream.told_up {
            checks::p5_window(options, side.upstream.window, unanswered)?;
            let counted = side.delivery.in_flight();
            if counted != unanswered {
                return broken(
                    "P5",
                    format!("uplink {idx}: counts {counted:?} in flight, true are {unanswered:?}"),
                );
            }
        }
        let event_max = usize::try_from(self.plan.payload_bytes).unwrap_or(0) + 200;
        checks::p5_memory(options, side.streams.len(), side.delivery.waiting(), event_max)
    }

    pub(super) fn fetch(&mut self, idx: usize, read: Read) -> Check {
        let stream = read.consumer.stream;
        if self.sides[idx].fetching.contains(&stream) {
            return broken("P5", format!("uplink {idx}: two reads of {stream:?} at a time"));
        }
        self.sides[idx].fetching.push(stream);
        let done = self.outcome(move |result| Outcome::Read(idx, stream, result));
        self.store.read(read, done);
        Ok(())
    }

    pub(super) fn commit(&mut self, idx: usize, cursors: Vec<CursorChange>, losses: Vec<Loss>) -> Check {
        if self.sides[idx].committing {
            return broken("P5", format!("uplink {idx}: two cursor commits at a time"));
        }
        for stream in &self.sides[idx].streams {
            let consumer = Consumer { stream: *stream, uplink: uplink_id(idx) };
            checks::p2_cursor_is_covered(&self.history, consumer, &cursors, &losses)?;
        }
        self.sides[idx].committing = true;
        self.submitted.push_back(Submitted::Cursors(cursors.clone(), losses.clone()));
        let moved = cursors.clone();
        let done = self.outcome(move |result| Outcome::Committed(idx, moved, result));
        self.store.submit(Commit { cursors, losses, ..Commit::default() }, done);
        Ok(())
    }

    pub(super) fn connect(&mut self, idx: usize, timeout: Duration) {
        self.sides[idx].meter.connects += 1;
        let connection = self.sides[idx].upstream.attempt();
        let Weather { door, latency_ms, .. } = self.sides[idx].weather;
        let takes = Duration::from_micros(100) + self.within(latency_ms);
        match door {
            Door::Open => self.schedule(takes, Item::Connected(idx, connection)),
            Door::Refused => self.schedule(takes, Item::Down(idx, connection, "refused")),
            Door::Silent if self.rng.chance(500) => {
                self.schedule(timeout, Item::Down(idx, connection, "no answer"));
            }
            Door::Silent => {}
        }
    }

    pub(super) fn connected(&mut self, idx: usize, connection: u64) -> Check {
        if self.sides[idx].upstream.connection != connection || !self.running {
            return Ok(());
        }
        let window = self.sides[idx].weather.window;
        self.sides[idx].upstream.alive = true;
        self.sides[idx].upstream.window = window;
        // What the store gave up during the outage is not sent after it.
        self.look_at_store()?;
        self.feed(idx, Input::Up { window, address: Text::from_static("sim") })
    }

    pub(super) fn went_down(&mut self, idx: usize, connection: u64, cause: &'static str) -> Check {
        if self.sides[idx].upstream.connection != connection {
            return Ok(());
        }
        self.sides[idx].upstream.alive = false;
        self.feed(idx, Input::Down { cause: Text::from_static(cause) })
    }

    /// The forwarder counts nothing as unanswered any more.
    pub(super) fn connection_ended(&mut self, idx: usize) {
        for (stream, position) in self.sides[idx].upstream.forget() {
            let reader = self.history.reader(Consumer { stream, uplink: uplink_id(idx) });
            reader.died.insert((position, self.life));
        }
    }

    pub(super) fn send(
        &mut self,
        idx: usize,
        stream: StreamId,
        event: Arc<StoredEvent>,
        again: bool,
    ) -> Check {
        if !self.sides[idx].upstream.told_up {
            return broken("P5", format!("uplink {idx}: sent while not connected"));
        }
        checks::p3_copy_is_the_same(&self.history, stream, &event)?;
        let position = event.position;
        let reader = self.history.reader(Consumer { stream, uplink: uplink_id(idx) });
        if reader.sent.insert(position) == again {
            return broken("P3", format!("uplink {idx}: {position} sent with again = {again}"));
        }
        let sending = self.sides[idx].upstream.send(self.life, stream, event);
        let mut at = self.now + self.latency(idx);
        if self.is_ordered(idx) {
            at = at.max(self.sides[idx].upstream.arrives_after);
            self.sides[idx].upstream.arrives_after = at;
        }
        self.schedule_at(at, Item::Arrive(idx, sending));
        Ok(())
    }

    pub(super) fn is_ordered(&self, idx: usize) -> bool {
        self.plan.uplinks[idx].options.pipeline == Pipeline::Ordered
    }

    pub(super) fn latency(&mut self, idx: usize) -> Duration {
        let ms = self.sides[idx].weather.latency_ms;
        self.within(ms)
    }

    pub(super) fn arrive(&mut self, idx: usize, sending: &Sending) -> Check {
        let upstream = &self.sides[idx].upstream;
        if !upstream.alive || upstream.connection != sending.connection {
            // A request that its sender has given up may be served all the same; not so a byte of a dead connection.
            if !self.is_ordered(idx) && self.rng.chance(300) {
                return self.receive(idx, sending);
            }
            return Ok(());
        }
        if upstream.ends {
            return Ok(());
        }
        let key = (sending.stream, sending.event.position);
        let rejects = self.is_ordered(idx) && upstream.rejected.contains(&key);
        let fate = fate(&self.sides[idx].weather, sending.event.position.counter(), &mut self.rng);
        match if rejects { Fate::Refused(Class::Reject) } else { fate } {
            Fate::Taken { twice } => {
                self.receive(idx, sending)?;
                self.answers(idx, key, Verdict::Acked);
                if twice {
                    self.answers(idx, key, Verdict::Acked);
                }
            }
            Fate::TakenInSilence => self.receive(idx, sending)?,
            Fate::Refused(class) => {
                let ends = self.is_ordered(idx) && class != Class::Reject;
                self.sides[idx].upstream.ends = ends;
                if class == Class::Reject {
                    self.sides[idx].upstream.rejected.insert(key);
                }
                let class = if ends { Class::Fatal } else { class };
                let refusal = Refusal { position: key.1, life: sending.life };
                self.history
                    .reader(Consumer { stream: key.0, uplink: uplink_id(idx) })
                    .refusals
                    .push(refusal);
                self.answers(idx, key, Verdict::Failed(class));
            }
            Fate::Reset { taken } => {
                if taken {
                    self.receive(idx, sending)?;
                }
                self.sides[idx].upstream.alive = false;
                let heard = self.latency(idx);
                self.schedule(heard, Item::Down(idx, sending.connection, "reset"));
            }
        }
        Ok(())
    }

    pub(super) fn receive(&mut self, idx: usize, sending: &Sending) -> Check {
        checks::p3_copy_is_the_same(&self.history, sending.stream, &sending.event)?;
        let consumer = Consumer { stream: sending.stream, uplink: uplink_id(idx) };
        let reception = Reception { position: sending.event.position, life: sending.life };
        let first = self.history.receive(consumer, reception);
        self.trace(|| format!("upstream {idx} has {} (first: {first})", reception.position));
        self.summary.received += u64::from(first);
        self.summary.duplicates += u64::from(!first);
        Ok(())
    }

    pub(super) fn answers(&mut self, idx: usize, key: EventKey, verdict: Verdict) {
        let mut at = self.now + self.latency(idx);
        if self.is_ordered(idx) {
            at = at.max(self.sides[idx].upstream.answers_after);
            self.sides[idx].upstream.answers_after = at;
        }
        let connection = self.sides[idx].upstream.connection;
        self.schedule_at(at, Item::Answer(idx, connection, key, verdict));
    }

    pub(super) fn answer(&mut self, idx: usize, connection: u64, key: EventKey, verdict: Verdict) -> Check {
        if !self.sides[idx].upstream.alive
            || self.sides[idx].upstream.connection != connection
            || !self.running
        {
            return Ok(());
        }
        let (stream, position) = key;
        let bytes = self.history.stream(stream).get(&position).map_or(0, |s| s.event.stored_bytes);
        self.sides[idx].upstream.answered(key, bytes);
        let reader = self.history.reader(Consumer { stream, uplink: uplink_id(idx) });
        match verdict {
            Verdict::Acked => {
                reader.acked.insert(position);
                self.feed(idx, Input::Acked { stream, position })
            }
            Verdict::Failed(class) => {
                let reason = Text::from_static("refused by the simulation");
                self.feed(idx, Input::Failed { stream, position, class, reason })
            }
        }
    }
}

/// Batches by their positions: nobody reads payloads.
fn short_input(input: &Input) -> String {
    match input {
        Input::Fetched { stream, batch } => {
            let positions: Vec<String> = batch.events.iter().map(|e| e.position.to_string()).collect();
            format!(
                "Fetched {stream:?} {} through {} end {}",
                positions.join(" "),
                batch.through,
                batch.at_end
            )
        }
        other => format!("{other:?}"),
    }
}

fn short_action(action: &Action) -> String {
    match action {
        Action::Send { stream, event, again } => {
            let Event { source, topic, .. } = &event.event;
            format!("Send {stream:?} {} {source} {topic} again {again}", event.position)
        }
        other => format!("{other:?}"),
    }
}
