//! One request and its answer, on a connection that is there or on a new one.

use crate::counters::{Counters, count};
use crate::dial::{Conn, DialError, Dialer, Peer};
use crate::encode::Content;
use crate::options::Options;
use crate::retry_after::retry_after;
use crate::url::Url;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Method, Request, Response};
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Longest body of an answer that is read (P5); a 207 for the largest batch has room.
const BODY_MAX_BYTES: usize = 1 << 20;
/// A body that nobody needs is read to keep the connection, but not for longer than this.
const DRAIN: Duration = Duration::from_secs(2);
/// How often in a probe interval it is looked whether bytes leave.
const LOOKS: u32 = 4;
/// Longest part of a receiver's own words that is kept.
const WORDS_MAX: usize = 120;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("eventmesh-edge/", env!("CARGO_PKG_VERSION")));

/// What every exchange of an uplink shares.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) counters: Arc<Counters>,
    /// Bytes that have left, on all connections.
    pub(crate) written: Arc<AtomicU64>,
}

/// A request with events in it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) url: Url,
    pub(crate) content: Content,
    pub(crate) authorization: Option<HeaderValue>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Bytes,
    /// `title` of a problem document (RFC 9457 section 3.1.3): what kind of problem, never what was sent.
    pub(crate) title: Option<String>,
    /// Where a redirect leads that was not followed, without its query.
    pub(crate) moved_to: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("{0}")]
    Dial(#[from] DialError),
    #[error("no answer: {0}")]
    Broken(String),
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
    #[error("no answer, and nobody answers a second connection either: {0}")]
    Dead(String),
}

/// Sends a request and follows redirects as far as they are allowed. Gives the connection back if it may be used again.
pub(crate) async fn exchange(
    shared: &Shared,
    dialer: &Dialer,
    conn: Option<Conn>,
    call: Call,
) -> (Option<Conn>, Result<Answer, ExchangeError>) {
    let url = call.url.clone();
    tokio::select! {
        biased;
        done = follow(shared, dialer, conn, call) => done,
        cause = watch(shared, dialer, &url) => (None, Err(ExchangeError::Dead(cause))),
    }
}

async fn follow(
    shared: &Shared,
    dialer: &Dialer,
    mut conn: Option<Conn>,
    call: Call,
) -> (Option<Conn>, Result<Answer, ExchangeError>) {
    let mut url = call.url.clone();
    for followed in 0..=shared.options.redirects_max {
        let (back, answer) = match once(shared, dialer, conn, &url, &call).await {
            Ok(done) => done,
            Err(error) => return (None, Err(error)),
        };
        match redirect(&answer, &url) {
            Some(next) if followed < shared.options.redirects_max => {
                count(&shared.counters.redirects_followed);
                (conn, url) = (back, next);
            }
            Some(next) => {
                let moved_to = Some(next.to_string());
                return (back, Ok(Answer { moved_to, ..answer }));
            }
            None => return (back, Ok(answer)),
        }
    }
    // The loop returns in its last round.
    (None, Err(ExchangeError::Broken("too many redirects".to_owned())))
}

/// Where the same request is to be sent again. 303 asks for a GET, which is no delivery (RFC 9110 section 15.4.4); another
/// scheme is another security (`https` to `http` would give the event away, `http` to `https` is for the configuration).
fn redirect(answer: &Answer, from: &Url) -> Option<Url> {
    let location = answer.moved_to.as_deref()?;
    let followable = matches!(answer.status, 301 | 302 | 307 | 308);
    let next = from.join(location).ok()?;
    (followable && next.is_secure() == from.is_secure()).then_some(next)
}

/// One request. A connection that was idle may have been closed by the server at the same moment: that is no
/// failure yet, and the request goes out once more on a new one.
async fn once(
    shared: &Shared,
    dialer: &Dialer,
    conn: Option<Conn>,
    url: &Url,
    call: &Call,
) -> Result<(Option<Conn>, Answer), ExchangeError> {
    let wait = shared.options.answer_timeout;
    let no_answer = || ExchangeError::NoAnswer(wait);
    if let Some(mut conn) = conn.filter(|c| c.is_open() && c.url.same_origin(url)) {
        let response = conn.request_within(request(url, call), wait).await.ok_or_else(no_answer)?;
        match response {
            Ok(response) => return Ok(finish(conn, response, wait).await),
            Err(error) => tracing::debug!(%error, "an idle connection is gone, once more on a new one"),
        }
    }
    let peer = if url.same_origin(&call.url) { Peer::Receiver } else { Peer::Stranger };
    count(&shared.counters.connections);
    let mut conn = dialer.dial(url, peer, shared.options.connect_timeout).await?;
    let response = conn.request_within(request(url, call), wait).await.ok_or_else(no_answer)?;
    let response = response.map_err(|error| broken(&error))?;
    Ok(finish(conn, response, wait).await)
}

fn request(url: &Url, call: &Call) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(call.content.body.clone()));
    *request.method_mut() = Method::POST;
    head(&mut request, url);
    request.headers_mut().extend(call.content.headers.clone());
    // Another host is not who the credential is for.
    if let Some(authorization) = call.authorization.clone().filter(|_| url.same_origin(&call.url)) {
        request.headers_mut().insert(AUTHORIZATION, authorization);
    }
    request
}

/// Request target, Host and User-Agent.
pub(crate) fn head(request: &mut Request<Full<Bytes>>, url: &Url) {
    // Both were checked when the URL was parsed: visible ASCII.
    *request.uri_mut() = url.target().parse().unwrap_or_default();
    if let Ok(host) = HeaderValue::try_from(url.authority()) {
        request.headers_mut().insert(HOST, host);
    }
    request.headers_mut().insert(USER_AGENT, AGENT);
}

/// Reads what follows the head. The status stands, whatever becomes of the body.
pub(crate) async fn finish(
    mut conn: Conn,
    response: Response<Incoming>,
    wait: Duration,
) -> (Option<Conn>, Answer) {
    let (parts, incoming) = response.into_parts();
    let status = parts.status.as_u16();
    let text = |name| parts.headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let is_problem = text(CONTENT_TYPE).is_some_and(|t| t.starts_with("application/problem+json"));
    // Only these say something in their body.
    let limit = if status == 207 || is_problem { wait } else { wait.min(DRAIN) };
    let (body, whole) = body(&mut conn, incoming, limit).await;
    let answer = Answer {
        status,
        retry_after: retry_after(&parts.headers),
        title: is_problem.then(|| title(&body)).flatten(),
        moved_to: text(LOCATION).filter(|_| (300..400).contains(&status)).map(str::to_owned),
        body,
    };
    (Some(conn).filter(|conn| whole && conn.is_open()), answer)
}

/// The body as far as it comes within the limits, and whether that is all of it.
async fn body(conn: &mut Conn, mut incoming: Incoming, limit: Duration) -> (Bytes, bool) {
    let deadline = Instant::now() + limit;
    let mut read = Vec::new();
    while let Ok(frame) = timeout_at(deadline, conn.drive(incoming.frame())).await {
        match frame {
            None => return (read.into(), true),
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap_or_default();
                if read.len() + data.len() > BODY_MAX_BYTES {
                    break;
                }
                read.extend_from_slice(&data);
            }
            Some(Err(_)) => break,
        }
    }
    (read.into(), false)
}

fn title(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Problem {
        title: String,
    }
    let problem: Problem = serde_json::from_slice(body).ok()?;
    Some(problem.title.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect())
}

/// hyper's words, and what the system said below them.
fn broken(error: &hyper::Error) -> ExchangeError {
    use std::error::Error as _;
    let mut words = error.to_string();
    if let Some(source) = error.source() {
        words = format!("{words}: {source}");
    }
    ExchangeError::Broken(words)
}

/// Asks every interval whether the receiver is still there; returns when it is not. HTTP/1.1 has no ping: OPTIONS on a
/// second connection is as near as it gets, and any answer will do (RFC 9110 section 9.3.7). While bytes of a request leave
/// nobody has to be asked, and on the slow way that takes them so long a second connection would not get through in time.
async fn watch(shared: &Shared, dialer: &Dialer, url: &Url) -> String {
    let interval = shared.options.probe_interval;
    if interval.is_zero() {
        return std::future::pending().await;
    }
    let mut written = 0;
    let mut quiet = 0;
    loop {
        sleep(interval / LOOKS).await;
        quiet = if shared.written.load(Relaxed) > written { 0 } else { quiet + 1 };
        written = shared.written.load(Relaxed);
        // What leaves at the beginning of a request is seen at the first look: then this is an interval after it.
        if quiet < LOOKS - 1 {
            continue;
        }
        count(&shared.counters.probes);
        shared.counters.connections.fetch_add(1, Relaxed);
        match timeout(interval, probe(dialer, url, interval)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return format!("nothing for {interval:?}"),
        }
    }
}

async fn probe(dialer: &Dialer, url: &Url, limit: Duration) -> Result<(), ExchangeError> {
    let mut conn = dialer.dial(url, Peer::Receiver, limit).await?;
    let mut options = Request::new(Full::default());
    *options.method_mut() = Method::OPTIONS;
    head(&mut options, url);
    conn.request(options).await.map(drop).map_err(|error| broken(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, location: &str) -> Answer {
        let moved_to = Some(location.to_owned());
        Answer { status, retry_after: None, body: Bytes::new(), title: None, moved_to }
    }

    #[test]
    fn redirects_keep_method_and_scheme() {
        let from = Url::parse("https://a.example/in").unwrap();
        let to = |status, location| redirect(&answer(status, location), &from).map(|u| u.to_string());
        for status in [301, 302, 307, 308] {
            assert_eq!(to(status, "https://b.example/x").as_deref(), Some("https://b.example/x"));
        }
        assert_eq!(to(307, "/y").as_deref(), Some("https://a.example/y"));
        assert_eq!(to(303, "/y"), None, "asks for a GET");
        assert_eq!(to(304, "/y"), None);
        assert_eq!(to(307, "http://a.example/in"), None, "in clear");
        assert_eq!(to(307, "mailto:a@b"), None);
    }

    #[test]
    fn a_credential_is_for_one_origin() {
        let url = Url::parse("https://a.example/in").unwrap();
        let content = Content { headers: hyper::HeaderMap::new(), body: Bytes::new(), compressed: false };
        let call =
            Call { url: url.clone(), content, authorization: Some(HeaderValue::from_static("Bearer t")) };
        let shown = |to: &str| request(&Url::parse(to).unwrap(), &call).headers().contains_key(AUTHORIZATION);
        assert!(shown("https://a.example/elsewhere"));
        for other in ["https://b.example/in", "https://a.example:8443/in", "http://a.example/in"] {
            assert!(!shown(other), "{other}");
        }
    }

    #[test]
    fn a_problem_says_its_title_and_no_more() {
        let body = br#"{"type":"about:blank","title":"Too\u0007 hot","detail":"21.5 degrees"}"#;
        assert_eq!(title(body).as_deref(), Some("Too hot"));
        assert_eq!(title(b"nope"), None);
    }
}
