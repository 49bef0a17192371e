//! The real server and the real client over a real socket.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use eventmesh_edge_admin::{NodeStatus, Server, Status, StatusSource, fetch_status};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

struct Source(Option<&'static str>);

impl StatusSource for Source {
    fn status(&self) -> Status {
        Status { node: NodeStatus { name: "plant-7".into(), ..NodeStatus::default() }, ..Status::default() }
    }

    fn not_ready(&self) -> Option<String> {
        self.0.map(str::to_owned)
    }
}

/// Runs `client` on a thread of its own against a server with this source.
fn against<T: Send + 'static>(source: Source, client: impl FnOnce(&Path) -> T + Send + 'static) -> T {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::bind(&socket).unwrap();
        let path = socket.clone();
        let asked = tokio::task::spawn_blocking(move || client(&path));
        tokio::select! {
            () = server.run(Arc::new(source)) => panic!("the server ended"),
            answer = asked => answer.unwrap(),
        }
    })
}

fn get(socket: &Path, target: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_client_reads_what_the_server_says() {
    let status = against(Source(None), |socket| fetch_status(socket).unwrap());
    assert_eq!(status, Source(None).status());
}

#[test]
fn health_and_readiness() {
    let (health, ready) = against(Source(None), |s| (get(s, "/healthz"), get(s, "/readyz")));
    assert!(health.starts_with("HTTP/1.1 200 "), "{health}");
    assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");
    let waiting = against(Source(Some("stopping")), |s| get(s, "/readyz"));
    assert!(waiting.starts_with("HTTP/1.1 503 ") && waiting.ends_with("stopping\n"), "{waiting}");
}

#[test]
fn more_connections_than_places_are_served_in_turn() {
    let answers = against(Source(None), |socket| {
        // Sixteen take all places and say nothing; the seventeenth is served as soon as one of them goes.
        let mut idle: Vec<UnixStream> = (0..16).map(|_| UnixStream::connect(socket).unwrap()).collect();
        let path = socket.to_owned();
        let waiting = std::thread::spawn(move || get(&path, "/healthz"));
        idle.truncate(15);
        waiting.join().unwrap()
    });
    assert!(answers.starts_with("HTTP/1.1 200 "), "{answers}");
}
