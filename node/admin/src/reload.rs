//! `POST /v1/reload`: the node reads its configuration again and changes what can be changed while it runs.

use crate::client::{FetchError, answered, connect};
use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// What an operator says about uplinks that leave, and whether it is only a question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReloadAsk {
    /// Uplinks that get what waits for them, and nothing more.
    pub drain: Vec<String>,
    /// Uplinks whose backlog is given up and counted.
    pub drop: Vec<String>,
    /// Tell what would be changed, and change nothing.
    pub dry_run: bool,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReloadAnswer {
    /// The changes are in force, and durable.
    pub applied: bool,
    /// What was changed, or would be, in words.
    pub changes: Vec<String>,
    /// Why nothing was changed: everything that stands against it.
    pub refused: Vec<String>,
    /// What works and may not be meant.
    pub warnings: Vec<String>,
}

/// An answer that is on its way.
pub type ReloadFuture = Pin<Box<dyn Future<Output = ReloadAnswer> + Send>>;

/// Whoever can change the node.
pub trait ReloadSource: Send + Sync + 'static {
    /// Reads the configuration again. One at a time; others wait.
    fn reload(&self, ask: ReloadAsk) -> ReloadFuture;
}

pub(crate) fn routes(source: Arc<dyn ReloadSource>) -> Router {
    Router::new().route("/v1/reload", post(reload)).with_state(source)
}

async fn reload(
    State(source): State<Arc<dyn ReloadSource>>,
    Json(ask): Json<ReloadAsk>,
) -> Json<ReloadAnswer> {
    Json(source.reload(ask).await)
}

/// A change waits for the disk, and for one that is under way.
const TIMEOUT: Duration = Duration::from_secs(60);
const ANSWER_MAX_BYTES: u64 = 8 << 20;

/// Asks a node to read its configuration again.
///
/// # Errors
/// [`FetchError`] names the socket and what to do.
pub fn ask_reload(socket: &Path, ask: &ReloadAsk) -> Result<ReloadAnswer, FetchError> {
    let stream = connect(socket)?;
    let failed = |source| FetchError::Io { path: socket.to_owned(), source };
    let exchange = || -> io::Result<Vec<u8>> {
        let mut stream = stream;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let body = serde_json::to_vec(ask)?;
        write!(
            stream,
            "POST /v1/reload HTTP/1.0\r\nHost: node\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )?;
        stream.write_all(&body)?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX_BYTES).read_to_end(&mut answer)?;
        Ok(answer)
    };
    answered(socket, &exchange().map_err(failed)?)
}
