//! A receiver of CloudEvents over HTTP in structured mode, at any address, that takes everything.

use crate::Result;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

type Book = Arc<Mutex<Vec<serde_json::Value>>>;

/// The receiver; ends when dropped.
pub struct Bodies {
    addr: SocketAddr,
    book: Book,
    task: JoinHandle<()>,
}

impl Bodies {
    /// Listens.
    ///
    /// # Errors
    /// If the address is taken, or none of this machine.
    pub async fn start(addr: SocketAddr) -> Result<Bodies> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let book = Book::default();
        let taken = Arc::clone(&book);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&taken)));
            }
        });
        Ok(Bodies { addr, book, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Data, `source` and `id` of what came.
    #[must_use]
    pub fn events(&self) -> Vec<(Vec<u8>, String, String)> {
        let text = |event: &serde_json::Value, name| {
            event.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
        };
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let data = |event: &serde_json::Value| event.get("data").map(ToString::to_string).unwrap_or_default();
        book.iter().map(|e| (data(e).into_bytes(), text(e, "source"), text(e, "id"))).collect()
    }
}

impl Drop for Bodies {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, book: Book) {
    let mut buffer = Vec::new();
    while stream.read_buf(&mut buffer).await.is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&buffer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok());
        if body.len() < length.unwrap_or(0) {
            continue;
        }
        if let Ok(event) = serde_json::from_str(body) {
            book.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        }
        buffer.clear();
        if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_err() {
            return;
        }
    }
}
