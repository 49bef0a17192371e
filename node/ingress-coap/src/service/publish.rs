//! POST, PUT, PATCH, iPATCH and DELETE: one submission each, answered when it is durable (P1).

use super::{Action, Asked, Context, Output, Service};
use bytes::Bytes;
use eventmesh_edge_coap::{Code, ExchangeNo, Request, Response, option};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::mapping::{CoapPublication, MergeError, etag_of, event_from_coap, merge_patch};
use eventmesh_edge_core::ports::hub::{Accepted, Publication, Submission};
use eventmesh_edge_core::ports::store::{CommitError, SessionNo, StateChange};
use eventmesh_edge_core::topic::is_nodes_own;
use std::time::Duration;

/// A request that waits for the store.
#[derive(Debug)]
pub(super) struct Pending {
    /// Who waits, and the answer if it is stored.
    answer: Option<(ExchangeNo, Code)>,
    /// What else hangs on it.
    then: Then,
}

/// What follows when a submission has its outcome.
#[derive(Debug)]
pub(super) enum Then {
    /// Nothing.
    Nothing,
    /// The value of this topic is not being written any more.
    Wrote(Text),
    /// A device has a mailbox with this number, if it succeeded.
    Opened(Text, u64),
    /// A command is out of a mailbox, if it succeeded.
    Removed(SessionNo, Position),
}

/// Max-Age of a refusal: when to ask again.
const FULL_FOR_SECS: u32 = 30;
const BROKEN_FOR_SECS: u32 = 10;
/// application/json
const JSON: u16 = 50;
/// application/merge-patch+json
const MERGE_PATCH: u16 = 52;

impl Service {
    pub(super) fn publish(
        &mut self,
        cx: &Context<'_>,
        asked: &Asked,
        topic: Text,
        out: &mut Output,
    ) -> Option<Response> {
        let request = &asked.request;
        if is_nodes_own(&topic) {
            return Some(Response::error(Code::FORBIDDEN, "only the node publishes to this topic"));
        }
        let success = match self.preconditions(cx, request, &topic) {
            Ok(success) => success,
            Err(refusal) => return Some(refusal),
        };
        let writes = (request.method != Code::POST).then(|| topic.clone());
        let source = self.source(asked.peer, request);
        let expiry = match expiry(request) {
            Ok(expiry) => expiry,
            Err(refusal) => return Some(refusal),
        };
        let (payload, format) = match self.content(cx, request, &topic) {
            Ok(content) => content,
            Err(refusal) => return Some(refusal),
        };
        let event = event_from_coap(CoapPublication {
            topic,
            payload,
            retain: writes.is_some(),
            format,
            id: request.argument("id"),
            time: request.argument("time"),
            expiry,
            source: &source,
            received: cx.wall,
        });
        if let Some(topic) = &writes {
            *self.writing.entry(topic.clone()).or_default() += 1;
        }
        self.stats.add(|s| &s.published, 1);
        let submission = Submission {
            publications: vec![Publication { event, publisher: None }],
            state: self.note(cx, asked.identity, success).into_iter().collect(),
            refuse_when_full: true,
            ..Submission::default()
        };
        let then = writes.map_or(Then::Nothing, Then::Wrote);
        self.submit_for(Some((asked.exchange, success)), then, submission, out);
        None
    }

    /// What is published: payload and Content-Format.
    fn content(
        &self,
        cx: &Context<'_>,
        request: &Request,
        topic: &Text,
    ) -> Result<(Bytes, Option<u16>), Response> {
        match request.method {
            // An empty value is none: that is how a topic is cleared in the namespace that MQTT shares [MQTT-3.3.1-6].
            Code::DELETE => Ok((Bytes::new(), None)),
            Code::PATCH | Code::IPATCH => Ok((self.patched(cx, request, topic)?, Some(JSON))),
            _ => Ok((request.payload.clone(), request.content_format)),
        }
    }

    /// The value after a JSON Merge Patch (RFC 7396), which is idempotent, so iPATCH is the same. The codes are those of RFC
    /// 8132 section 4.
    fn patched(&self, cx: &Context<'_>, request: &Request, topic: &Text) -> Result<Bytes, Response> {
        if request.content_format != Some(MERGE_PATCH) {
            let why = "a patch is application/merge-patch+json (52)";
            return Err(Response::error(Code::UNSUPPORTED_CONTENT_FORMAT, why));
        }
        let Some(value) = self.value(cx, topic) else {
            return Err(Response::error(Code::NOT_FOUND, "this topic has no value: PUT one first"));
        };
        let merged = merge_patch(&value.payload, &request.payload).map_err(|error| match error {
            MergeError::Patch => Response::error(Code::BAD_REQUEST, "the patch is no JSON"),
            MergeError::Value => Response::error(Code::UNPROCESSABLE_ENTITY, "the value is no JSON"),
        })?;
        if merged.len() > self.options.params.body_max_bytes {
            return Err(Response::error(Code::REQUEST_ENTITY_TOO_LARGE, "the value would be too large"));
        }
        Ok(merged.into())
    }

    /// Hands something to the hub: for whom, and what follows.
    pub(super) fn submit_for(
        &mut self,
        answer: Option<(ExchangeNo, Code)>,
        then: Then,
        submission: Submission,
        out: &mut Output,
    ) {
        let token = self.next_token;
        self.next_token += 1;
        self.pending.insert(token, Pending { answer, then });
        out.actions.push(Action::Submit { token, submission });
    }

    /// State that nobody waits for.
    pub(super) fn submit_state(&mut self, state: Vec<StateChange>, out: &mut Output) {
        self.submit_for(None, Then::Nothing, Submission { state, ..Submission::default() }, out);
    }

    /// The code of success; what speaks against it (RFC 7252 section 5.10.8).
    fn preconditions(&self, cx: &Context<'_>, request: &Request, topic: &Text) -> Result<Code, Response> {
        if request.method == Code::PUT && request.payload.is_empty() {
            return Err(Response::error(Code::BAD_REQUEST, "a value is not empty; DELETE clears it"));
        }
        // A patch is made of the value that it finds.
        let is_patch = matches!(request.method, Code::PATCH | Code::IPATCH);
        let conditional = is_patch || !request.if_match.is_empty() || request.if_none_match;
        if request.method == Code::POST && !conditional {
            return Ok(Code::CHANGED);
        }
        if conditional && self.writing.contains_key(topic) {
            // Which of the two comes first is not known yet.
            return Err(Response::error(
                Code::CONFLICT,
                "another write of this value is under way, try again",
            ));
        }
        let value = self.value(cx, topic);
        let etag = value.as_deref().map(etag_of);
        let matches = |wanted: &Vec<u8>| etag.is_some_and(|etag| wanted.is_empty() || *wanted == etag);
        let failed = (!request.if_match.is_empty() && !request.if_match.iter().any(matches))
            || (request.if_none_match && value.is_some());
        if failed {
            return Err(Response::new(Code::PRECONDITION_FAILED));
        }
        Ok(match request.method {
            Code::DELETE => Code::DELETED,
            Code::PUT if value.is_none() => Code::CREATED,
            _ => Code::CHANGED,
        })
    }

    pub(super) fn completed(
        &mut self,
        cx: &Context<'_>,
        token: u64,
        result: Result<Accepted, CommitError>,
        out: &mut Output,
    ) {
        let Some(pending) = self.pending.remove(&token) else { return };
        let refusal = result.err().map(|error| self.refused(&error));
        match (pending.then, &refusal) {
            (Then::Wrote(topic), _) => self.wrote(&topic),
            (Then::Opened(name, number), _) => self.mailbox_opened(cx, &name, number, refusal.as_ref(), out),
            (Then::Removed(session, position), None) => self.command_removed(session, position, out),
            (Then::Removed(..), Some(_)) | (Then::Nothing, _) => {}
        }
        let Some((exchange, success)) = pending.answer else { return };
        self.respond(cx, exchange, refusal.unwrap_or_else(|| Response::new(success)));
    }

    fn wrote(&mut self, topic: &Text) {
        let Some(writers) = self.writing.get_mut(topic) else { return };
        *writers -= 1;
        if *writers == 0 {
            self.writing.remove(topic);
        }
    }

    fn refused(&self, error: &CommitError) -> Response {
        let (code, why, again_secs) = match error {
            CommitError::Full { .. } => {
                self.stats.add(|s| &s.refused_full, 1);
                return Response::error(Code::SERVICE_UNAVAILABLE, "no room on disk")
                    .with_uint(option::MAX_AGE, FULL_FOR_SECS);
            }
            CommitError::TooLarge { .. } => {
                (Code::REQUEST_ENTITY_TOO_LARGE, "larger than the store takes", None)
            }
            CommitError::Reserved => (Code::FORBIDDEN, "the node's own topic", None),
            CommitError::Io(_) => (Code::SERVICE_UNAVAILABLE, "not stored", Some(BROKEN_FOR_SECS)),
            CommitError::Closed => (Code::SERVICE_UNAVAILABLE, "the node stops", Some(BROKEN_FOR_SECS)),
        };
        self.stats.add(|s| &s.failed, 1);
        tracing::warn!(%error, %code, "a request was not stored");
        let response = Response::error(code, why);
        match again_secs {
            Some(secs) => response.with_uint(option::MAX_AGE, secs),
            None => response,
        }
    }
}

/// `?expiry=SECONDS`: how long the message is worth something.
fn expiry(request: &Request) -> Result<Option<Duration>, Response> {
    let Some(text) = request.argument("expiry") else { return Ok(None) };
    match text.parse::<u32>() {
        Ok(secs) if secs > 0 => Ok(Some(Duration::from_secs(secs.into()))),
        _ => Err(Response::error(Code::BAD_REQUEST, "expiry is a number of seconds, at least 1")),
    }
}
