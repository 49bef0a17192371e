//! The answering side.

use crate::reload::{self, ReloadSource};
use crate::socket::{self, BindError, SocketFile};
use crate::status::Status;
use crate::store::{self, StoreSource};
use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at a time; more wait in the system's queue (P5).
const CONNECTIONS_MAX: usize = 16;

/// Whoever knows the figures.
pub trait StatusSource: Send + Sync + 'static {
    /// A snapshot. Called on the runtime's thread: must not block.
    fn status(&self) -> Status;

    /// `None` when devices can connect and be answered, else why not.
    fn not_ready(&self) -> Option<String>;
}

/// A bound admin API.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    file: SocketFile,
}

impl Server {
    /// Binds the socket. Within a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`] names the path and what to do.
    pub fn bind(path: &Path) -> Result<Server, BindError> {
        let (listener, file) = socket::bind(path)?;
        let failed = |source| BindError::Io { path: path.to_owned(), source };
        Ok(Server { listener: UnixListener::from_std(listener).map_err(failed)?, file })
    }

    /// Answers until dropped. Never returns an error: what goes wrong with one connection ends that connection.
    pub async fn run(self, source: Arc<dyn StatusSource>) {
        self.serve(router(source)).await;
    }

    /// [`Server::run`], and the store can be looked at too.
    pub async fn run_with_store(self, source: Arc<dyn StatusSource>, store: Arc<dyn StoreSource>) {
        self.serve(router(source).merge(store::routes(store))).await;
    }

    /// [`Server::run_with_store`], and the node can be changed.
    pub async fn run_with_all(
        self,
        source: Arc<dyn StatusSource>,
        store: Arc<dyn StoreSource>,
        changes: Arc<dyn ReloadSource>,
    ) {
        self.serve(router(source).merge(store::routes(store)).merge(reload::routes(changes))).await;
    }

    async fn serve(self, router: Router) {
        let Server { listener, file } = self;
        let bounded = Bounded { listener, free: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
        if let Err(error) = axum::serve(bounded, router).await {
            tracing::error!(%error, "admin API ended");
        }
        drop(file);
    }
}

fn router(source: Arc<dyn StatusSource>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(source)
}

async fn status(State(source): State<Arc<dyn StatusSource>>) -> Json<Status> {
    Json(source.status())
}

async fn ready(State(source): State<Arc<dyn StatusSource>>) -> (StatusCode, String) {
    match source.not_ready() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

/// A listener that accepts only while a place is free.
struct Bounded {
    listener: UnixListener,
    free: Arc<Semaphore>,
}

impl axum::serve::Listener for Bounded {
    type Io = Connection;
    type Addr = ();

    async fn accept(&mut self) -> (Connection, ()) {
        // The semaphore is never closed; if it were, there would be nothing to wait for.
        let permit = Arc::clone(&self.free).acquire_owned().await.ok();
        let (stream, _) = axum::serve::Listener::accept(&mut self.listener).await;
        (Connection { stream, _permit: permit }, ())
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection that gives its place back when it ends.
struct Connection {
    stream: UnixStream,
    _permit: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
