//! Devices: publish, wait, try again.

use super::{Item, Outcome, Submitted, World};
use crate::checks::{self, Check};
use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, Qos, Via};
use eventmesh_edge_core::ports::store::{Class, Commit, CommitError, Committed, NewEvent, Store, StreamId};
use std::time::Duration;

impl World<'_> {
    pub(super) fn publish(&mut self, client: usize) {
        let over = self.now >= self.plan.publish_until;
        if over && (self.plan.abandon || self.clients[client].batch.is_empty()) {
            if !self.clients[client].waits_for_answer {
                self.clients[client].batch.clear();
            }
            return;
        }
        if !self.running || self.stopping || self.clients[client].waits_for_answer {
            let again = Duration::from_millis(200);
            if !self.clients[client].waits_for_answer {
                self.schedule(again, Item::Publish(client));
            }
            return;
        }
        if self.clients[client].batch.is_empty() {
            self.clients[client].batch = self.new_batch(client);
        }
        self.clients[client].waits_for_answer = true;
        let events = self.clients[client].batch.clone();
        self.submitted.push_back(Submitted::Publish(events.clone()));
        self.trace(|| {
            let of =
                |e: &NewEvent| String::from_utf8_lossy(&e.event.payload).trim_end_matches('.').to_owned();
            format!("client {client} -> {}", events.iter().map(of).collect::<Vec<_>>().join(", "))
        });
        let done = self.outcome(move |result| Outcome::Published(client, result));
        self.store.submit(Commit { events, ..Commit::default() }, done);
    }

    pub(super) fn new_batch(&mut self, client: usize) -> Vec<NewEvent> {
        (0..self.rng.between(1, 4)).map(|_| self.new_event(client)).collect()
    }

    pub(super) fn new_event(&mut self, client: usize) -> NewEvent {
        let number = self.clients[client].next;
        self.clients[client].next += 1;
        let received = self.wall();
        let expires = self.rng.chance(self.plan.expiring);
        let expires = expires.then(|| received.after(Duration::from_millis(self.rng.between(100, 10_000))));
        let mut payload = format!("{client} {number} ").into_bytes();
        let bytes = usize::try_from(self.rng.below(self.plan.payload_bytes)).unwrap_or(0);
        payload.resize(payload.len().max(bytes), b'.');
        let event = Event {
            via: Via::Mqtt5,
            qos: Qos::AtLeastOnce,
            retain: false,
            source: Text::from(format!("mqtt://sim/{client}")),
            id: self.rng.chance(100).then(|| Text::from(format!("own-{client}-{number}"))),
            time: received.is_plausible().then_some(received),
            received,
            expires,
            topic: Text::from(format!("t/{}", self.rng.below(self.plan.topics))),
            payload: Bytes::from(payload),
            properties: None,
        };
        let stream = u16::try_from(self.rng.index(self.plan.spec.streams.len())).unwrap_or(0);
        NewEvent { stream: Some(StreamId(stream)), event, mailboxes: Vec::new() }
    }

    pub(super) fn published(&mut self, client: usize, result: Result<Committed, CommitError>) -> Check {
        self.trace(|| format!("client {client} <- {result:?}"));
        self.clients[client].waits_for_answer = false;
        let batch = std::mem::take(&mut self.clients[client].batch);
        let again = match result {
            Ok(committed) => {
                self.failed.clear();
                for (new, position) in batch.iter().zip(committed.positions) {
                    let stream = new.stream.unwrap_or(StreamId(0));
                    checks::p1_answered_is_stored(&self.history, stream, position, &new.event.payload)?;
                    if let Some(stored) = self.history.stream_mut(stream).get_mut(&position) {
                        stored.answered = true;
                    }
                }
                Duration::from_millis(1) + self.within(self.plan.think_ms)
            }
            Err(error) => {
                self.summary.refused += 1;
                if matches!(error, CommitError::Io(_)) {
                    self.failed.extend_from_slice(&batch);
                }
                debug_assert!(error.class() == Class::Retry, "{error}");
                self.clients[client].batch = batch;
                Duration::from_millis(300)
            }
        };
        self.schedule(again, Item::Publish(client));
        Ok(())
    }

    pub(super) fn try_refused_again(&mut self) {
        for client in 0..self.clients.len() {
            if !self.clients[client].waits_for_answer && !self.clients[client].batch.is_empty() {
                self.schedule(Duration::ZERO, Item::Publish(client));
            }
        }
    }
}
