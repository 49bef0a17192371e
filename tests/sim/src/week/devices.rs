//! Devices of the week: publish, wait, try again; the careless ones do not.

use super::plan::STREAMS;
use super::world::{Item, Outcome, Week};
use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, Position, Qos, Via};
use eventmesh_edge_core::ports::store::{
    Commit, CommitError, Committed, Loss, LossReason, NewEvent, StreamId,
};
use std::time::Duration;

/// One of them.
#[derive(Default)]
pub(super) struct Device {
    next: u64,
    batch: Vec<NewEvent>,
    waits: bool,
}

impl Device {
    /// The node died: nobody will answer.
    pub(super) fn unanswered(&mut self, careless: bool) {
        if std::mem::take(&mut self.waits) && careless {
            self.batch.clear();
        }
    }
}

impl Week<'_> {
    pub(super) fn publish(&mut self, device: usize) {
        let pause = Duration::from_secs(self.rng.below(self.plan.think.as_secs()));
        self.schedule(pause, Item::Publish(device));
        if !self.running || self.devices[device].waits || self.now >= self.plan.quiet_from {
            return;
        }
        if self.devices[device].batch.is_empty() {
            self.devices[device].batch = self.new_batch(device);
        }
        self.devices[device].waits = true;
        let events = self.devices[device].batch.clone();
        self.submit(Commit { events, ..Commit::default() }, move |answer| Outcome::Published(device, answer));
    }

    fn new_batch(&mut self, device: usize) -> Vec<NewEvent> {
        (0..self.rng.between(1, 4)).map(|_| self.new_event(device)).collect()
    }

    fn new_event(&mut self, device: usize) -> NewEvent {
        let number = self.devices[device].next;
        self.devices[device].next += 1;
        let stream = self.rng.index(STREAMS.len());
        let received = self.wall();
        let mut payload = format!("{device} {number} ").into_bytes();
        let bytes = usize::try_from(self.rng.between(40, 400)).unwrap_or(40);
        payload.resize(bytes, if number.is_multiple_of(31) { b'!' } else { b'.' });
        let event = Event {
            via: Via::Mqtt5,
            qos: if self.is_careless(device) { Qos::AtMostOnce } else { Qos::AtLeastOnce },
            retain: false,
            source: Text::from(format!("mqtt://week/{device}")),
            id: None,
            time: Some(received),
            received,
            // Some are of no use after a while: the forwarder gives them up.
            expires: self.rng.chance(100).then(|| received.after(Duration::from_secs(3600))),
            topic: Text::from(format!("{}/{device}", STREAMS[stream])),
            payload: Bytes::from(payload),
            properties: None,
        };
        let stream = StreamId(u16::try_from(stream).unwrap_or(0));
        NewEvent { stream: Some(stream), event, mailboxes: Vec::new() }
    }

    pub(super) fn is_careless(&self, device: usize) -> bool {
        device < self.plan.careless
    }

    pub(super) fn published(&mut self, device: usize, answer: Result<Committed, CommitError>) {
        self.devices[device].waits = false;
        let batch = std::mem::take(&mut self.devices[device].batch);
        let Err(error) = answer else { return };
        self.summary.refused += 1;
        debug_assert!(matches!(error, CommitError::Full { .. }), "{error}");
        if self.is_careless(device) {
            // What nobody will send again is counted, as the hub does it.
            self.refuse(batch.len() as u64);
        } else {
            // Tried again at its next turn.
            self.devices[device].batch = batch;
        }
    }

    fn refuse(&mut self, events: u64) {
        let range = (Position::ZERO, Position::ZERO);
        let loss = Loss { consumer: None, reason: LossReason::Refused, events, bytes: 0, range };
        self.truth.refused_at_most += events;
        let commit = Commit { losses: vec![loss], ..Commit::default() };
        self.submit(commit, move |answer| Outcome::Counted(events, answer.is_ok()));
    }

    /// To the store, by way of whoever tampers with it.
    pub(super) fn submit(
        &mut self,
        mut commit: Commit,
        outcome: impl FnOnce(Result<Committed, CommitError>) -> Outcome + Send + 'static,
    ) {
        (self.tamper.commit)(&mut commit);
        let (life, answers) = (self.life, self.answers.clone());
        let done = move |result| drop(answers.send((life, outcome(result))));
        self.store.submit(commit, Box::new(done));
    }
}
