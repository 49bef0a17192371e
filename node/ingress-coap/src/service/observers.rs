//! Who observes what. All observations share one subscriber of the hub: each filter is one subscription, told apart by its
//! Subscription Identifier.

use super::read::{READ, content};
use super::{Asked, Context, Service};
use eventmesh_edge_coap::{Code, Request, Response, Token, option};
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
    observers: BTreeMap<(SocketAddr, Token), Box<Request>>,
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

    fn add(&mut self, hub: &dyn Hub, observer: (SocketAddr, Token), filter: &TopicFilter, request: &Request) {
        self.remove(hub, observer.0, observer.1);
        let identifier = self.identifier(hub, filter);
        let watched = self
            .by_identifier
            .entry(identifier)
            .or_insert_with(|| Watched { filter: filter.clone(), observers: BTreeMap::new() });
        watched.observers.insert(observer, Box::new(request.clone()));
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

    pub(super) fn remove(&mut self, hub: &dyn Hub, peer: SocketAddr, token: Token) {
        let Some(identifier) = self.by_observer.remove(&(peer, token)) else { return };
        let Some(watched) = self.by_identifier.get_mut(&identifier) else { return };
        watched.observers.remove(&(peer, token));
        if watched.observers.is_empty() {
            hub.unsubscribe(self.subscriber, &watched.filter);
            self.identifiers.remove(watched.filter.as_text());
            self.by_identifier.remove(&identifier);
        }
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
    ) -> Response {
        match asked.request.observe {
            Some(0) if response.code.is_success() => {
                if self.endpoint.observe(cx.now, asked.exchange) {
                    self.observers.add(cx.hub, (asked.peer, asked.token), filter, &asked.request);
                }
            }
            Some(1) => {
                self.endpoint.forget_observer(asked.peer, asked.token);
                self.observers.remove(cx.hub, asked.peer, asked.token);
            }
            _ => {}
        }
        response
    }

    /// What was published, to those who observe it.
    pub(super) fn delivery(&mut self, cx: &Context<'_>, delivery: &Delivery) {
        for identifier in &delivery.identifiers {
            let Some(watched) = self.observers.by_identifier.get(identifier) else { continue };
            for ((peer, token), request) in &watched.observers {
                let response = notification(&delivery.event, request, cx);
                self.stats.add(|s| &s.notified, 1);
                self.endpoint.notify(cx.now, *peer, *token, response, 0, &mut self.said);
            }
        }
    }
}

/// A value that was cleared is an empty representation: the topic is still there, and may get another one. Who observes
/// several topics is told which one it is about by Location-Path.
fn notification(event: &Event, request: &Request, cx: &Context<'_>) -> Response {
    let plain = Request { etags: Vec::new(), ..request.clone() };
    let mut response =
        if event.payload.is_empty() { Response::new(Code::CONTENT) } else { content(event, &plain, cx.wall) };
    let fits = event.topic.split('/').all(|level| level.len() <= LEVEL_MAX_BYTES);
    if request.path.len() == 1 && fits {
        response.options.add(option::LOCATION_PATH, crate::path::TOPICS);
        for level in event.topic.split('/') {
            response.options.add(option::LOCATION_PATH, level);
        }
    }
    response
}
