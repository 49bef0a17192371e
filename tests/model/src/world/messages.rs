//! What clients publish and subscribe to.

use super::{FILTERS, TOPICS, WATCHER, World};
use crate::client::{Asked, Outgoing};
use crate::facts::{ClientNo, Facts, Msg, MsgNo, Sub};
use eventmesh_edge_conformance::wire::{props, subscribe, unsubscribe};
use eventmesh_edge_conformance::{Publish, property};
use std::time::Duration;

impl World {
    pub(super) fn message(
        &mut self,
        publisher: ClientNo,
        topic: String,
        qos: u8,
        retain: bool,
        empty: bool,
        expires: Option<Duration>,
    ) -> MsgNo {
        let sent = self.facts.tick();
        let msg = Msg {
            publisher,
            topic,
            qos,
            retain,
            empty,
            sent,
            answered: None,
            answered_at: None,
            resent: false,
            expires,
        };
        self.facts.msgs.push(msg);
        self.facts.msgs.len() - 1
    }

    pub(super) fn publish(&mut self, client: ClientNo) {
        if !self.clients[client].is_open() || client == WATCHER || self.clients[client].outgoing.len() >= 8 {
            return;
        }
        let qos = [0, 1, 1, 2, 2][self.rng.index(5)];
        let kind = self.rng.below(10);
        let topic = match kind {
            0..7 => TOPICS[self.rng.index(TOPICS.len())].to_owned(),
            7 => "s/x".to_owned(),
            _ => format!("r/{client}"),
        };
        let (retain, empty) = (kind > 7, kind > 7 && self.rng.chance(300));
        let v5 = self.clients[client].version.is_v5();
        let expiry_secs = (v5 && !retain && self.rng.chance(100)).then(|| self.rng.between(1, 10));
        let expires = expiry_secs.map(Duration::from_secs);
        let no = self.message(client, topic.clone(), qos, retain, empty, expires);
        let mut publish = Publish::new(&topic, &if empty { String::new() } else { format!("m{no}") });
        publish.retain = retain;
        if let Some(secs) = expiry_secs {
            let secs = u32::try_from(secs).unwrap_or(0);
            publish = publish.with(props::four(property::MESSAGE_EXPIRY, secs));
        }
        let state = &mut self.clients[client];
        if qos > 0 {
            let pid = state.next_pid();
            publish = publish.qos(qos, pid);
            state.outgoing.push_back(Outgoing { pid, msg: no, publish: publish.clone(), released: false });
        }
        let bytes = publish.encode(state.version);
        state.send(&bytes);
        self.summary.published += 1;
        self.say(|| format!("client {client} -> {no} to {topic}, QoS {qos}, retain {retain}, empty {empty}"));
    }

    pub(super) fn subscribe(&mut self, client: ClientNo) {
        if !self.clients[client].is_open() || client == WATCHER {
            return;
        }
        let filter = match self.rng.below(10) {
            0..6 => FILTERS[self.rng.index(FILTERS.len())].to_owned(),
            6..8 if self.clients[client].durable => "$share/g/s/+".to_owned(),
            _ => "r/+".to_owned(),
        };
        self.subscribe_to(client, filter);
    }

    pub(super) fn subscribe_to(&mut self, client: ClientNo, filter: String) {
        let sent = self.facts.tick();
        let state = &mut self.clients[client];
        let v5 = state.version.is_v5();
        let shared = filter.starts_with("$share");
        let qos = if client == WATCHER { 2 } else { [0, 1, 1, 2, 2][self.rng.index(5)] };
        let qos = if shared { qos.max(1) } else { qos };
        let no_local = v5 && !shared && self.rng.chance(200);
        let retain_as_published = v5 && self.rng.chance(200);
        let identifier =
            if v5 && self.rng.chance(400) { u32::try_from(self.rng.between(1, 300)).unwrap_or(1) } else { 0 };
        let options = qos | u8::from(no_local) << 2 | u8::from(retain_as_published) << 3;
        let ends = ending(&mut self.facts, client, &filter, sent);
        let pid = state.next_pid();
        let properties = if identifier > 0 {
            props::var(property::SUBSCRIPTION_ID, identifier as usize)
        } else {
            Vec::new()
        };
        let bytes = subscribe(state.version, pid, &properties, &[(&filter, options)]);
        state.send(&bytes);
        self.facts.subs.push(Sub {
            client,
            filter: filter.clone(),
            qos,
            no_local,
            retain_as_published,
            identifier,
            sent,
            answered: None,
            ending: None,
            ended: None,
        });
        state.asked.push(Asked { pid, new: Some(self.facts.subs.len() - 1), ends });
        self.say(|| format!("client {client} -> SUBSCRIBE {filter} {options:#x} {identifier}"));
    }

    pub(super) fn unsubscribe(&mut self, client: ClientNo) {
        if !self.clients[client].is_open() || client == WATCHER {
            return;
        }
        let mine = self.facts.subs.iter().filter(|sub| sub.client == client && sub.ending.is_none());
        let filters: Vec<String> = mine.map(|sub| sub.filter.clone()).collect();
        if filters.is_empty() {
            return;
        }
        let filter = filters[self.rng.index(filters.len())].clone();
        let sent = self.facts.tick();
        let ends = ending(&mut self.facts, client, &filter, sent);
        let state = &mut self.clients[client];
        let pid = state.next_pid();
        state.send(&unsubscribe(state.version, pid, &[&filter]));
        state.asked.push(Asked { pid, new: None, ends });
        self.say(|| format!("client {client} -> UNSUBSCRIBE {filter}"));
    }

    pub(super) fn subscriptions_answered(&mut self, client: ClientNo, pid: u16) {
        let step = self.facts.tick();
        let state = &mut self.clients[client];
        let Some(index) = state.asked.iter().position(|asked| asked.pid == pid) else { return };
        let asked = state.asked.remove(index);
        for sub in asked.ends {
            self.facts.subs[sub].ended.get_or_insert(step);
        }
        if let Some(new) = asked.new {
            self.facts.subs[new].answered = Some(step);
        }
    }

    pub(super) fn answer(&mut self, client: ClientNo) {
        let max = self.rng.index(6);
        self.clients[client].answer(max);
    }
}

/// Marks what a SUBSCRIBE or UNSUBSCRIBE for this filter ends.
fn ending(facts: &mut Facts, client: ClientNo, filter: &str, step: u64) -> Vec<usize> {
    let mut ends = Vec::new();
    for (index, sub) in facts.subs.iter_mut().enumerate() {
        if sub.client == client && sub.filter == filter && sub.ended.is_none() {
            sub.ending.get_or_insert(step);
            ends.push(index);
        }
    }
    ends
}
