//! Lists of topics, whole however long they are: clients fetch them block by block (RFC 7959 section 2.4).
//!
//! A list is made once and kept for those who fetch the rest of it, so that blocks are of one list and a long one is not
//! made anew for each of them. What is kept is bounded in bytes and time (P5). A list that is too long to be kept is
//! refused, never cut.

use super::read::{READ, links};
use super::{Context, Service};
use crate::path::TOPICS;
use bytes::Bytes;
use eventmesh_edge_coap::link::{self, Link};
use eventmesh_edge_coap::{Code, Fingerprint, Request, Response, option};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::mapping::format_of_event;
use eventmesh_edge_core::topic::TopicFilter;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

/// Longest list.
const LIST_MAX_BYTES: usize = 1 << 20;
/// All lists that are kept.
const LISTS_MAX_BYTES: usize = 2 << 20;
/// And so many at most.
const LISTS_MAX: usize = 64;
/// How long a list is kept for who fetches the rest of it.
const KEPT_FOR: Duration = Duration::from_secs(120);
/// Whoever asks for the beginning gets a list that is not older than this.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// Lists that somebody may be fetching; the oldest first.
#[derive(Debug, Default)]
pub(super) struct Lists {
    kept: VecDeque<List>,
}

#[derive(Clone, Debug)]
struct List {
    filter: Text,
    text: Bytes,
    etag: [u8; 8],
    made: Duration,
}

impl Lists {
    fn find(&self, filter: &Text, now: Duration, within: Duration) -> Option<&List> {
        let young = |list: &&List| list.filter == *filter && now.saturating_sub(list.made) <= within;
        self.kept.iter().find(young)
    }

    fn keep(&mut self, list: List) {
        self.kept.retain(|other| other.filter != list.filter);
        self.kept.push_back(list);
        while self.kept.len() > LISTS_MAX || self.bytes() > LISTS_MAX_BYTES {
            self.kept.pop_front();
        }
    }

    fn bytes(&self) -> usize {
        self.kept.iter().map(|list| list.text.len() + list.filter.len()).sum()
    }

    pub(super) fn sweep(&mut self, now: Duration) {
        self.kept.retain(|list| now.saturating_sub(list.made) <= KEPT_FOR);
    }
}

impl Service {
    /// The topics with a value that match a filter.
    pub(super) fn topics(&mut self, cx: &Context<'_>, request: &Request, filter: &TopicFilter) -> Response {
        let later = request.block2.is_some_and(|block| block.num > 0);
        let within = if later { KEPT_FOR } else { FRESH_FOR };
        let known = self.lists.find(filter.as_text(), cx.now, within).cloned();
        let Some(list) = known.or_else(|| make(cx, filter)) else {
            let why = format!("more than {LIST_MAX_BYTES} bytes of links: ask for fewer topics");
            return Response::error(Code::BAD_REQUEST, why);
        };
        let response = links(request, list.text.clone());
        let etag = list.etag;
        self.lists.keep(list);
        if !response.code.is_success() {
            return response;
        }
        let response = response.with(option::ETAG, etag);
        if request.etags.iter().any(|known| *known == etag) {
            // RFC 7252 section 5.9.1.3
            return Response::new(Code::VALID).with(option::ETAG, etag);
        }
        response
    }
}

/// `None` if it is too long.
fn make(cx: &Context<'_>, filter: &TopicFilter) -> Option<List> {
    let mut text = String::new();
    for delivery in cx.hub.retained(filter, READ) {
        let event = &delivery.event;
        let target = format!("/{TOPICS}/{}", reference(&event.topic));
        let format = format_of_event(event).map(|format| format.to_string());
        let attributes: Vec<(&str, &str)> =
            format.iter().map(|format| ("ct", format.as_str())).chain([("obs", "")]).collect();
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&link::write(&[Link { target: &target, attributes: &attributes }], &[]));
        if text.len() > LIST_MAX_BYTES {
            return None;
        }
    }
    let etag = Fingerprint::of(0u64, text.as_bytes()).0.to_be_bytes();
    Some(List { filter: filter.as_text().clone(), text: text.into(), etag, made: cx.now })
}

/// A topic as the path of a URI reference (RFC 3986 section 3.3).
fn reference(topic: &str) -> String {
    let mut text = String::with_capacity(topic.len());
    for byte in topic.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => text.push(char::from(byte)),
            byte if b"-._~!$&'()*+,;=:@/".contains(&byte) => text.push(char::from(byte)),
            // Writing to a String cannot fail.
            byte => write!(text, "%{byte:02X}").unwrap_or_default(),
        }
    }
    text
}
