//! One unary gRPC call over HTTP/2 (the gRPC over HTTP/2 protocol): request headers, one frame, one frame back, trailers.

use crate::wire::{FrameError, Frames};
use bytes::Bytes;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Uri, Version};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Largest answer that is taken; the runtime's own limit for a message is the same.
pub(crate) const ANSWER_MAX_BYTES: usize = 4_194_304;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The gRPC layer refused it.
    #[error("gRPC status {status} ({}): {}", grpc_name(*status), crate::answer::clean(message))]
    Grpc { status: u16, message: String },
    /// No gRPC server answered: a proxy, or something else.
    #[error("HTTP status {0} instead of a gRPC answer")]
    Http(u16),
    /// This call alone was cut off.
    #[error("call cut off: {0}")]
    Reset(h2::Reason),
    #[error("malformed answer: {0}")]
    Malformed(&'static str),
    #[error("malformed answer: {0}")]
    Frame(#[from] FrameError),
    /// The connection is gone.
    #[error("{0}")]
    Lost(#[source] h2::Error),
}

impl From<h2::Error> for CallError {
    fn from(error: h2::Error) -> CallError {
        match error.reason() {
            // Of this stream; one for the whole connection ends everything and is reported by the connection itself.
            Some(reason) if error.is_reset() => CallError::Reset(reason),
            _ => CallError::Lost(error),
        }
    }
}

fn grpc_name(status: u16) -> &'static str {
    match status {
        1 => "cancelled",
        3 => "invalid argument",
        4 => "deadline exceeded",
        5 => "not found",
        7 => "permission denied",
        8 => "resource exhausted",
        12 => "unimplemented",
        13 => "internal",
        14 => "unavailable",
        16 => "unauthenticated",
        _ => "unknown",
    }
}

/// Where the methods of one server are.
#[derive(Debug)]
pub(crate) struct Methods {
    pub(crate) publish: Uri,
    pub(crate) subscribe_stream: Uri,
    pub(crate) heartbeat: Uri,
}

impl Methods {
    /// `authority`: host and port; it has no user part, so nothing secret is in it.
    pub(crate) fn at(authority: &str, tls: bool) -> Result<Methods, http::Error> {
        let uri = |path: &'static str| {
            Uri::builder()
                .scheme(if tls { "https" } else { "http" })
                .authority(authority)
                .path_and_query(PathAndQuery::from_static(path))
                .build()
        };
        Ok(Methods {
            publish: uri("/org.apache.eventmesh.cloudevents.v1.PublisherService/publish")?,
            subscribe_stream: uri("/org.apache.eventmesh.cloudevents.v1.ConsumerService/subscribeStream")?,
            heartbeat: uri("/org.apache.eventmesh.cloudevents.v1.HeartbeatService/heartbeat")?,
        })
    }
}

/// The request of a gRPC call.
pub(crate) fn request(method: &Uri) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = method.clone();
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    request
}

/// Begins a unary call; the requests of `sender` must be ready.
pub(crate) fn begin<W>(
    sender: &mut SendRequest<Bytes>,
    method: &Uri,
    frame: Bytes,
    what: W,
) -> Result<Call<W>, h2::Error> {
    let (response, mut body) = sender.send_request(request(method), false)?;
    body.send_data(frame, true)?;
    Ok(Call { what: Some(what), state: State::Head(response), frames: Frames::default() })
}

/// A call under way; its output is what it was about, and the one message of the answer. Dropping it cancels the call.
#[derive(Debug)]
pub(crate) struct Call<W> {
    what: Option<W>,
    state: State,
    frames: Frames,
}

#[derive(Debug)]
enum State {
    Head(ResponseFuture),
    Body(RecvStream),
}

impl<W: Unpin> Future for Call<W> {
    type Output = (Option<W>, Result<Bytes, CallError>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.poll_answer(cx));
        Poll::Ready((self.what.take(), result))
    }
}

impl<W> Call<W> {
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, CallError>> {
        loop {
            match &mut self.state {
                State::Head(response) => {
                    let response = ready!(Pin::new(response).poll(cx))?;
                    let (head, body) = response.into_parts();
                    check_head(head.status, &head.headers)?;
                    self.state = State::Body(body);
                }
                State::Body(body) => match ready!(body.poll_data(cx)) {
                    Some(data) => {
                        let data = data?;
                        body.flow_control().release_capacity(data.len())?;
                        self.frames.push(&data);
                        if self.frames.rest() > ANSWER_MAX_BYTES {
                            return Poll::Ready(Err(CallError::Malformed("longer than any message may be")));
                        }
                    }
                    None => {
                        let trailers = ready!(body.poll_trailers(cx))?;
                        return Poll::Ready(self.finish(trailers.as_ref()));
                    }
                },
            }
        }
    }

    fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<Bytes, CallError> {
        check_trailers(trailers)?;
        self.frames.next(ANSWER_MAX_BYTES)?.ok_or(CallError::Malformed("success without a message"))
    }
}

/// Response headers; where the whole answer is headers, they hold the status ("Trailers-Only").
pub(crate) fn check_head(status: StatusCode, headers: &HeaderMap) -> Result<(), CallError> {
    if status != StatusCode::OK {
        return Err(CallError::Http(status.as_u16()));
    }
    let grpc = headers.get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"));
    if !grpc {
        return Err(CallError::Malformed("content type is not application/grpc"));
    }
    match headers.get(GRPC_STATUS) {
        None => Ok(()),
        Some(_) => check_trailers(Some(headers)),
    }
}

pub(crate) fn check_trailers(trailers: Option<&HeaderMap>) -> Result<(), CallError> {
    let trailers = trailers.ok_or(CallError::Malformed("it has no trailers"))?;
    let status = trailers.get(GRPC_STATUS).and_then(|s| s.to_str().ok()?.parse().ok());
    match status {
        Some(0) => Ok(()),
        Some(status) => Err(CallError::Grpc { status, message: message(trailers) }),
        None => Err(CallError::Malformed("grpc-status is missing or no number")),
    }
}

/// Percent-encoded; what does not decode is shown as it is.
fn message(trailers: &HeaderMap) -> String {
    let Some(text) = trailers.get(GRPC_MESSAGE).and_then(|m| m.to_str().ok()) else { return String::new() };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let decoded =
            after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, decoded) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trailers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        all.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn status_and_message_come_from_the_trailers() {
        assert!(check_trailers(Some(&trailers(&[("grpc-status", "0")]))).is_ok());
        let bad = trailers(&[("grpc-status", "2"), ("grpc-message", "a%20b%0Ac%zz%")]);
        let Err(CallError::Grpc { status: 2, message }) = check_trailers(Some(&bad)) else { panic!() };
        assert_eq!(message, "a b\nc%zz%");
        assert!(matches!(check_trailers(None), Err(CallError::Malformed(_))));
        assert!(matches!(
            check_trailers(Some(&trailers(&[("grpc-status", "x")]))),
            Err(CallError::Malformed(_))
        ));
    }

    #[test]
    fn heads_that_are_no_grpc() {
        let grpc = trailers(&[("content-type", "application/grpc+proto")]);
        assert!(check_head(StatusCode::OK, &grpc).is_ok());
        assert!(matches!(check_head(StatusCode::BAD_GATEWAY, &grpc), Err(CallError::Http(502))));
        let html = trailers(&[("content-type", "text/html")]);
        assert!(matches!(check_head(StatusCode::OK, &html), Err(CallError::Malformed(_))));
        let only = trailers(&[("content-type", "application/grpc"), ("grpc-status", "12")]);
        assert!(matches!(check_head(StatusCode::OK, &only), Err(CallError::Grpc { status: 12, .. })));
    }
}
