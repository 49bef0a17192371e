//! The store of a running node, for `eventmesh-edge store`: figures and pages of events.
//!
//! Both block on the disk, so they run on a blocking thread, one at a time: an operator who looks must not slow the node.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, StatusCode, Uri, header};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Events in one page, at most, whatever is asked for.
pub const PAGE_EVENTS_MAX: usize = 1024;

/// Whoever has the store open. Both calls may block on the disk.
pub trait StoreSource: Send + Sync + 'static {
    /// What the store holds, as JSON.
    ///
    /// # Errors
    /// In words, for the operator.
    fn report(&self) -> Result<Vec<u8>, String>;

    /// Up to `max` events of a stream, by its number in the report, after a position.
    ///
    /// # Errors
    /// In words, for the operator.
    fn events(&self, stream: u32, after: u64, max: usize) -> Result<EventsPage, String>;
}

/// One event as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredRecord {
    /// Where it stands.
    pub position: u64,
    /// Bytes that it takes in budgets.
    pub stored_bytes: u32,
    /// CloudEvents `type` by the routes of the node.
    pub kind: String,
    /// The record body, base64.
    pub body: String,
}

/// The answer to `GET /v1/store/events`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventsPage {
    /// In order of position.
    pub events: Vec<StoredRecord>,
    /// Everything up to here was looked at: ask for what comes after it.
    pub through: u64,
    /// Nothing lies behind.
    pub at_end: bool,
    /// Stretches that could not be read: first and last position.
    pub lost: Vec<(u64, u64)>,
}

#[derive(Clone)]
struct Desk {
    source: Arc<dyn StoreSource>,
    turn: Arc<Semaphore>,
}

pub(crate) fn routes(source: Arc<dyn StoreSource>) -> Router {
    let desk = Desk { source, turn: Arc::new(Semaphore::new(1)) };
    Router::new()
        .route("/v1/store/report", get(report))
        .route("/v1/store/events", get(events))
        .with_state(desk)
}

async fn report(State(desk): State<Desk>) -> Response<Body> {
    answer(desk, |source| source.report()).await
}

async fn events(State(desk): State<Desk>, uri: Uri) -> Response<Body> {
    let Some((stream, after, max)) = asked(uri.query().unwrap_or_default()) else {
        let usage = "ask for /v1/store/events?stream=NUMBER&after=POSITION&max=EVENTS\n";
        return plain(StatusCode::BAD_REQUEST, usage.to_owned());
    };
    let max = max.clamp(1, PAGE_EVENTS_MAX);
    answer(desk, move |source| {
        let page = source.events(stream, after, max)?;
        serde_json::to_vec(&page).map_err(|error| error.to_string())
    })
    .await
}

/// Numbers only, so nothing is escaped.
fn asked(query: &str) -> Option<(u32, u64, usize)> {
    let find = |name: &str| {
        query.split('&').find_map(|pair| pair.split_once('=').filter(|(n, _)| *n == name)).map(|(_, v)| v)
    };
    let stream = find("stream")?.parse().ok()?;
    let after = find("after").map_or(Some(0), |after| after.parse().ok())?;
    let max = find("max").map_or(Some(PAGE_EVENTS_MAX), |max| max.parse().ok())?;
    Some((stream, after, max))
}

async fn answer(
    desk: Desk,
    work: impl FnOnce(&dyn StoreSource) -> Result<Vec<u8>, String> + Send + 'static,
) -> Response<Body> {
    // Never closed; if it were, there would be nothing to wait for.
    let turn = desk.turn.acquire_owned().await.ok();
    let source = desk.source;
    let done = tokio::task::spawn_blocking(move || {
        let done = work(&*source);
        drop(turn);
        done
    });
    match done.await {
        Ok(Ok(json)) => {
            let mut response = Response::new(Body::from(json));
            let json = header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            response
        }
        Ok(Err(why)) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "reading the store failed\n".to_owned()),
    }
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_numbers() {
        assert_eq!(asked("stream=3&after=17&max=5"), Some((3, 17, 5)));
        assert_eq!(asked("stream=3"), Some((3, 0, PAGE_EVENTS_MAX)));
        for bad in ["", "stream=", "stream=x", "after=1", "stream=1&after=-1", "stream=1&max=many"] {
            assert_eq!(asked(bad), None, "{bad}");
        }
    }
}
