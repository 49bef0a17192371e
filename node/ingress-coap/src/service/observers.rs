//! Who observes what. All observations share one subscriber of the hub: each filter is one subscription, told apart by its
//! Subscription Identifier.

use super::read::{READ, content};
use super::{Asked, Context, Output, Service};
use crate::records::{self, Kept};
use eventmesh_edge_coap::{Code, Response, Token, option};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Event;
use eventmesh_edge_core::ports::hub::{Delivery, Hub, SubscribeOptions, SubscriberId};
use eventmesh_edge_core::topic::TopicFilter;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Observers {
    subscriber: SubscriberId,
    by_observer: HashMap<(SocketAddr, Token), u32>,
    by_identifier: HashMap<u32, Watched>,
    identifiers: HashMap<Text, u32>,
    last_identifier: u32,
}

#[derive(Debug)]
struct Watched {
    filter: TopicFilter,
    /// In a fixed order, so that a run can be repeated. With what was asked for.
    observers: BTreeMap<(SocketAddr, Token), Watching>,
}

/// What an observer asked for.
#[derive(Clone, Copy, Debug)]
struct Watching {
    accept: Option<u16>,
    /// It observes a filter: it has to be told which topic a notification is about.
    is_filter: bool,
    /// It is on disk.
    kept: bool,
}

/// Longest Location-Path (RFC 7252 section 5.10.7).
const LEVEL_MAX_BYTES: usize = 255;
/// Largest Subscription Identifier (MQTT 5.0 section 3.8.2.1.2).
const IDENTIFIER_MAX: u32 = 268_435_455;

impl Observers {
    pub(super) fn new(subscriber: SubscriberId) -> Observers {
        Observers {
            subscriber,
            by_observer: HashMap::new(),
            by_identifier: HashMap::new(),
            identifiers: HashMap::new(),
            last_identifier: 0,
        }
    }

    fn add(
        &mut self,
        hub: &dyn Hub,
        observer: (SocketAddr, Token),
        filter: &TopicFilter,
        watching: Watching,
    ) {
        self.remove(hub, observer.0, observer.1);
        let identifier = self.identifier(hub, filter);
        let watched = self
            .by_identifier
            .entry(identifier)
            .or_insert_with(|| Watched { filter: filter.clone(), observers: BTreeMap::new() });
        watched.observers.insert(observer, watching);
        self.by_observer.insert(observer, identifier);
    }

    fn identifier(&mut self, hub: &dyn Hub, filter: &TopicFilter) -> u32 {
        if let Some(known) = self.identifiers.get(filter.as_text()) {
            return *known;
        }
        loop {
            self.last_identifier = self.last_identifier % IDENTIFIER_MAX + 1;
            if !self.by_identifier.contains_key(&self.last_identifier) {
                break;
            }
        }
        let identifier = self.last_identifier;
        self.identifiers.insert(filter.as_text().clone(), identifier);
        hub.subscribe(self.subscriber, filter, SubscribeOptions { identifier, ..READ });
        identifier
    }

    /// True if it is on disk.
    fn remove(&mut self, hub: &dyn Hub, peer: SocketAddr, token: Token) -> bool {
        let Some(identifier) = self.by_observer.remove(&(peer, token)) else { return false };
        let Some(watched) = self.by_identifier.get_mut(&identifier) else { return false };
        let gone = watched.observers.remove(&(peer, token));
        if watched.observers.is_empty() {
            hub.unsubscribe(self.subscriber, &watched.filter);
            self.identifiers.remove(watched.filter.as_text());
            self.by_identifier.remove(&identifier);
        }
        gone.is_some_and(|watching| watching.kept)
    }
}

impl Service {
    /// Makes or ends an observation, if the request asks for it and its answer is a success (RFC 7641 section 4.1).
    pub(super) fn observe(
        &mut self,
        cx: &Context<'_>,
        asked: &Asked,
        filter: &TopicFilter,
        response: Response,
        out: &mut Output,
    ) -> Response {
        let Asked { peer, token, request, .. } = asked;
        match request.observe {
            Some(0) if response.code.is_success() => {
                self.observer_gone(cx, *peer, *token, out);
                if self.endpoint.observe(cx.now, asked.exchange, false) {
                    let is_filter = request.path.len() == 1;
                    let watching = Watching { accept: request.accept, is_filter, kept: false };
                    self.observers.add(cx.hub, (*peer, *token), filter, watching);
                }
            }
            Some(1) => {
                self.endpoint.forget_observer(*peer, *token);
                self.observer_gone(cx, *peer, *token, out);
            }
            _ => {}
        }
        response
    }

    /// An observation is over.
    pub(super) fn observer_gone(
        &mut self,
        cx: &Context<'_>,
        peer: SocketAddr,
        token: Token,
        out: &mut Output,
    ) {
        if self.observers.remove(cx.hub, peer, token) {
            self.submit_state(vec![records::delete_observer(peer, token)], out);
        }
    }

    /// It acknowledged a notification: from now on it is worth keeping over a restart.
    pub(super) fn observer_is_there(&mut self, peer: SocketAddr, token: Token, out: &mut Output) {
        let Some(identifier) = self.observers.by_observer.get(&(peer, token)) else { return };
        let Some(watched) = self.observers.by_identifier.get_mut(identifier) else { return };
        let target = watched.filter.as_text().clone();
        let Some(watching) = watched.observers.get_mut(&(peer, token)).filter(|w| !w.kept) else { return };
        watching.kept = true;
        let Watching { accept, is_filter, .. } = *watching;
        self.submit_state(vec![Kept { peer, token, accept, target, is_filter }.put()], out);
    }

    /// Puts an observer back, and tells it what the value is now. False if there is no room.
    pub(super) fn restore_observer(&mut self, cx: &Context<'_>, kept: Kept) -> bool {
        let Kept { peer, token, accept, target, is_filter } = kept;
        let Ok(filter) = TopicFilter::parse(target.clone()) else { return false };
        if !self.endpoint.restore_observer(cx.now, peer, token) {
            return false;
        }
        let watching = Watching { accept, is_filter, kept: true };
        self.observers.add(cx.hub, (peer, token), &filter, watching);
        if let Some(event) = self.value(cx, &target).filter(|_| !is_filter) {
            let response = notification(&event, watching, cx);
            self.endpoint.notify(cx.now, peer, token, response, 0, &mut self.said);
        }
        true
    }

    /// What was published, to those who observe it.
    pub(super) fn delivery(&mut self, cx: &Context<'_>, delivery: &Delivery) {
        for identifier in &delivery.identifiers {
            let Some(watched) = self.observers.by_identifier.get(identifier) else { continue };
            for ((peer, token), watching) in &watched.observers {
                let response = notification(&delivery.event, *watching, cx);
                self.stats.add(|s| &s.notified, 1);
                self.endpoint.notify(cx.now, *peer, *token, response, 0, &mut self.said);
            }
        }
    }
}

/// A value that was cleared is an empty representation: the topic is still there, and may get another one. Who observes
/// several topics is told which one it is about by Location-Path.
fn notification(event: &Event, watching: Watching, cx: &Context<'_>) -> Response {
    let mut response = if event.payload.is_empty() {
        Response::new(Code::CONTENT)
    } else {
        content(event, watching.accept, &[], cx.wall)
    };
    let fits = event.topic.split('/').all(|level| level.len() <= LEVEL_MAX_BYTES);
    if watching.is_filter && fits {
        response.options.add(option::LOCATION_PATH, crate::path::TOPICS);
        for level in event.topic.split('/') {
            response.options.add(option::LOCATION_PATH, level);
        }
    }
    response
}
