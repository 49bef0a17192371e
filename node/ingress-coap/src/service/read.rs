//! GET: a value, the topics under a filter, what there is.

use super::{Asked, Context, Output, Service};
use bytes::Bytes;
use eventmesh_edge_coap::link::{self, Link};
use eventmesh_edge_coap::{Code, Request, Response, option};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, Qos, Timestamp};
use eventmesh_edge_core::mapping::{etag_of, format_of_event};
use eventmesh_edge_core::ports::hub::SubscribeOptions;
use eventmesh_edge_core::topic::TopicFilter;
use std::sync::Arc;

/// What observers and readers ask the hub for.
pub(super) const READ: SubscribeOptions = SubscribeOptions {
    qos: Qos::AtMostOnce,
    no_local: false,
    retain_as_published: false,
    retain_handling: 0,
    identifier: 0,
};

/// Max-Age of a value that does not say when it expires: the default of the protocol would be 60 (RFC 7252 section
/// 5.10.5), and a value that a device has to ask for is as new as it gets.
const VALUE_MAX_AGE_SECS: u32 = 60;

/// What a node offers (RFC 6690).
const LINKS: [Link<'static>; 3] = [
    Link { target: "/ps", attributes: &[("rt", "core.ps"), ("ct", "40"), ("obs", "")] },
    Link { target: "/d", attributes: &[("rt", "edge.mailbox"), ("obs", "")] },
    Link { target: "/.well-known/core", attributes: &[("ct", "40")] },
];

/// GET of `/.well-known/core` and `/`.
pub(super) fn core(request: &Request) -> Response {
    if request.method != Code::GET {
        return Response::error(Code::METHOD_NOT_ALLOWED, "only GET");
    }
    links(request, link::write(&LINKS, &request.query).into())
}

/// A list of links, if the client takes one.
pub(super) fn links(request: &Request, text: Bytes) -> Response {
    if request.accept.is_some_and(|format| format != link::CONTENT_FORMAT) {
        return Response::error(Code::NOT_ACCEPTABLE, "it is application/link-format (40)");
    }
    Response::new(Code::CONTENT)
        .with_uint(option::CONTENT_FORMAT, link::CONTENT_FORMAT.into())
        .with_payload(text)
}

impl Service {
    /// The value of a topic.
    pub(super) fn value(&self, cx: &Context<'_>, topic: &Text) -> Option<Arc<Event>> {
        let filter = TopicFilter::parse(topic.clone()).ok()?;
        cx.hub.retained(&filter, READ).into_iter().next().map(|delivery| delivery.event)
    }

    /// GET of a value.
    pub(super) fn read(
        &mut self,
        cx: &Context<'_>,
        asked: &Asked,
        topic: &Text,
        out: &mut Output,
    ) -> Response {
        let request = &asked.request;
        let value = self.value(cx, topic);
        let response = match &value {
            Some(event) => content(event, request.accept, &request.etags, cx.wall),
            // Nothing was said yet: who wants to hear what will be is told so by an empty representation.
            None if request.observe == Some(0) => Response::new(Code::CONTENT),
            None => Response::error(Code::NOT_FOUND, "this topic has no value"),
        };
        let Ok(filter) = TopicFilter::parse(topic.clone()) else { return response };
        self.observe(cx, asked, &filter, response, out)
    }

    /// GET of `/ps?topic=FILTER`.
    pub(super) fn filter(
        &mut self,
        cx: &Context<'_>,
        asked: &Asked,
        filter: &TopicFilter,
        out: &mut Output,
    ) -> Response {
        let request = &asked.request;
        if !request.method.is_safe() {
            return Response::error(Code::METHOD_NOT_ALLOWED, "only GET and FETCH");
        }
        let response = self.topics(cx, request, filter);
        self.observe(cx, asked, filter, response, out)
    }
}

/// The representation of an event, or why the client cannot have it.
pub(super) fn content(event: &Event, accept: Option<u16>, known: &[Vec<u8>], wall: Timestamp) -> Response {
    let format = format_of_event(event);
    if accept.is_some_and(|wanted| !acceptable(wanted, format, &event.payload)) {
        let is = format.map_or_else(|| "unknown".to_owned(), |format| format.to_string());
        return Response::error(Code::NOT_ACCEPTABLE, format!("its Content-Format is {is}"));
    }
    let etag = etag_of(event);
    let response = Response::new(Code::CONTENT).with(option::ETAG, etag);
    let response = match max_age_secs(event, wall) {
        VALUE_MAX_AGE_SECS => response,
        secs => response.with_uint(option::MAX_AGE, secs),
    };
    if known.iter().any(|known| *known == etag) {
        return Response { code: Code::VALID, ..response };
    }
    with_content(response, event)
}

/// Content-Format and bytes of an event.
pub(super) fn with_content(response: Response, event: &Event) -> Response {
    let response = match format_of_event(event) {
        Some(format) => response.with_uint(option::CONTENT_FORMAT, format.into()),
        None => response,
    };
    response.with_payload(event.payload.clone())
}

/// A value that does not say what it is may be taken for bytes, and for text if it is UTF-8.
fn acceptable(wanted: u16, format: Option<u16>, payload: &[u8]) -> bool {
    match format {
        Some(format) => format == wanted,
        None => wanted == 42 || (wanted == 0 && std::str::from_utf8(payload).is_ok()),
    }
}

fn max_age_secs(event: &Event, wall: Timestamp) -> u32 {
    match event.expires.filter(|_| wall.is_plausible()) {
        Some(expires) => {
            u32::try_from(wall.until(expires).as_secs()).unwrap_or(u32::MAX).min(VALUE_MAX_AGE_SECS)
        }
        None => VALUE_MAX_AGE_SECS,
    }
}
