//! The asking side: one GET at a time over the Unix socket, blocking, for the command line.
//!
//! Written out instead of hyper's client, which would bring a connection pool, a second body type and some 150 KB for
//! one request. HTTP/1.0 is asked for: such an answer is never chunked and ends with the connection (RFC 9112 section
//! 6.3), so what is left to read is a status line, headers, and the rest.

use crate::status::Status;
use crate::store::EventsPage;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A node that answers at all answers within this.
const TIMEOUT: Duration = Duration::from_secs(5);

/// More than any status has: thousands of uplinks (P5).
const ANSWER_MAX_BYTES: u64 = 8 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody listens there.
    #[error(
        "no node answers at {path} ({source}): start one with `eventmesh-edge run`, or say where it is with --data-dir, \
         --socket or --config"
    )]
    NotRunning {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not ours to ask.
    #[error("{path}: permission denied, ask as the user who runs the node or as root")]
    Denied {
        /// Where.
        path: PathBuf,
    },
    /// It listens, but the exchange failed.
    #[error("{path}: the node does not answer: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It answered something else.
    #[error("{path}: not the answer of a node: {why}")]
    Answer {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// A page of events has a bound in events; one event may be as large as a listener lets in (P5).
const PAGE_MAX_BYTES: u64 = 1 << 30;

/// The report walks the views, and a page comes from the disk: nothing that five seconds bound.
const STORE_TIMEOUT: Duration = Duration::from_secs(120);

/// Asks a node for its status. Blocks for some seconds at most.
///
/// # Errors
/// [`FetchError`] names the socket and what to do.
pub fn fetch_status(socket: &Path) -> Result<Status, FetchError> {
    fetch(socket, "/v1/status", TIMEOUT, ANSWER_MAX_BYTES)
}

/// Asks a node what its store holds, in the type of whoever knows it.
///
/// # Errors
/// [`FetchError`] names the socket and what to do.
pub fn fetch_store_report<T: DeserializeOwned>(socket: &Path) -> Result<T, FetchError> {
    fetch(socket, "/v1/store/report", STORE_TIMEOUT, ANSWER_MAX_BYTES)
}

/// Asks a node for events of a stream after a position.
///
/// # Errors
/// [`FetchError`] names the socket and what to do.
pub fn fetch_events(socket: &Path, stream: u32, after: u64, max: usize) -> Result<EventsPage, FetchError> {
    let target = format!("/v1/store/events?stream={stream}&after={after}&max={max}");
    fetch(socket, &target, STORE_TIMEOUT, PAGE_MAX_BYTES)
}

fn fetch<T: DeserializeOwned>(
    socket: &Path,
    target: &str,
    timeout: Duration,
    max_bytes: u64,
) -> Result<T, FetchError> {
    let answer = exchange(connect(socket)?, target, timeout, max_bytes);
    let answer = answer.map_err(|source| FetchError::Io { path: socket.to_owned(), source })?;
    answered(socket, &answer)
}

pub(crate) fn connect(socket: &Path) -> Result<UnixStream, FetchError> {
    let path = || socket.to_owned();
    UnixStream::connect(socket).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => FetchError::Denied { path: path() },
        _ => FetchError::NotRunning { path: path(), source },
    })
}

/// What a whole answer says.
pub(crate) fn answered<T: DeserializeOwned>(socket: &Path, answer: &[u8]) -> Result<T, FetchError> {
    let refused = |why| FetchError::Answer { path: socket.to_owned(), why };
    let body = body(answer).map_err(refused)?;
    serde_json::from_slice(body).map_err(|error| refused(error.to_string()))
}

fn exchange(mut stream: UnixStream, target: &str, timeout: Duration, max_bytes: u64) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    write!(stream, "GET {target} HTTP/1.0\r\nHost: node\r\nAccept: application/json\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(max_bytes).read_to_end(&mut answer)?;
    Ok(answer)
}

/// The body of a complete 200.
fn body(answer: &[u8]) -> Result<&[u8], String> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or("no end of headers")?;
    let (head, rest) = answer.split_at(end);
    let body = rest.get(4..).unwrap_or_default();
    let head = std::str::from_utf8(head).map_err(|_| "headers are not text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).ok_or("no status line")?;
    if status != "200" {
        let said = String::from_utf8_lossy(body.get(..200).unwrap_or(body)).trim().to_owned();
        return Err(if said.is_empty() {
            format!("HTTP status {status}")
        } else {
            format!("{status}: {said}")
        });
    }
    let fields = lines.filter_map(|line| line.split_once(':'));
    let length =
        fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length")).map(|(_, value)| value.trim());
    match length.last().map(str::parse::<usize>) {
        Some(Ok(length)) if length != body.len() => {
            Err(format!("cut off after {} of {length} bytes", body.len()))
        }
        Some(Err(_)) => Err("bad Content-Length".to_owned()),
        _ => Ok(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_answers_are_read() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"), Ok(&b"{}"[..]));
        assert_eq!(body(b"HTTP/1.0 200 OK\r\n\r\n{}"), Ok(&b"{}"[..]));
    }

    #[test]
    fn others_are_not_believed() {
        for answer in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 503 Service Unavailable\r\n\r\nno",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}",
            b"\xff\r\n\r\n",
        ] {
            assert!(body(answer).is_err(), "{:?}", String::from_utf8_lossy(answer));
        }
    }

    #[test]
    fn a_missing_node_is_told_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = fetch_status(&dir.path().join("admin.sock")).unwrap_err().to_string();
        assert!(error.contains("eventmesh-edge run"), "{error}");
    }
}
