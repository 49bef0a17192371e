//! A stand-in for a receiver: raw sockets, so that it can do everything a real one should not. It proves how the uplink
//! behaves, not that real receivers understand it; those are in `tests/e2e/tests/receivers.rs`.

use bytes::{Buf as _, BytesMut};
use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: HashMap<String, String>,
    /// Decompressed.
    pub(crate) body: Vec<u8>,
    /// Number of its connection, from 0.
    pub(crate) connection: usize,
    pub(crate) client_certificate: bool,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The events in it.
    pub(crate) fn events(&self) -> Vec<Seen> {
        let kind = self.header("content-type");
        let json = |value: &serde_json::Value| Seen {
            source: value["source"].as_str().unwrap_or_default().to_owned(),
            id: value["id"].as_str().unwrap_or_default().to_owned(),
            n: value["data"]["n"].as_u64().unwrap_or(u64::MAX),
        };
        if kind.starts_with("application/cloudevents-batch+json") {
            serde_json::from_slice::<Vec<serde_json::Value>>(&self.body).unwrap().iter().map(json).collect()
        } else if kind.starts_with("application/cloudevents+json") {
            vec![json(&serde_json::from_slice(&self.body).unwrap())]
        } else if self.headers.contains_key("ce-id") {
            let data: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
            vec![Seen {
                source: self.header("ce-source").to_owned(),
                id: self.header("ce-id").to_owned(),
                n: data["n"].as_u64().unwrap_or(u64::MAX),
            }]
        } else {
            Vec::new()
        }
    }
}

/// An event that was taken over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    pub(crate) source: String,
    pub(crate) id: String,
    /// The `n` of its data.
    pub(crate) n: u64,
}

/// What is done with a request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// 202, and the events count as taken.
    Take,
    /// They are taken, and the answer never comes: the connection is reset instead.
    TakeAndReset,
    /// They are taken, and nothing is answered at all.
    TakeAndHang,
    /// Nothing is taken, nothing is answered.
    Hang,
    /// The connection is reset.
    Reset,
    /// An answer that never ends, a byte at a time.
    Loris,
    /// Bytes that are no HTTP.
    Garbage,
    /// This status, these headers, this body; nothing is taken.
    Status(u16, Vec<(&'static str, String)>, String),
    /// The same, but events count as taken.
    TakeWith(u16, Vec<(&'static str, String)>, String),
}

impl Act {
    pub(crate) fn status(status: u16) -> Act {
        Act::Status(status, Vec::new(), String::new())
    }

    pub(crate) fn with(status: u16, header: &'static str, value: impl Into<String>) -> Act {
        Act::Status(status, vec![(header, value.into())], String::new())
    }
}

type Handler = Arc<dyn Fn(&Request) -> Act + Send + Sync>;

#[derive(Default)]
struct Books {
    requests: Vec<Request>,
    taken: Vec<Seen>,
    connections: usize,
    handler: Option<Handler>,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Books>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stand-in; stops when dropped. Books are kept over stops.
pub(crate) struct StandIn {
    books: Shared,
    addr: SocketAddr,
    tls: Option<TlsAcceptor>,
    task: Option<JoinHandle<()>>,
}

impl StandIn {
    pub(crate) async fn start(handler: impl Fn(&Request) -> Act + Send + Sync + 'static) -> StandIn {
        StandIn::start_with(None, handler).await
    }

    pub(crate) async fn start_with(
        tls: Option<TlsAcceptor>,
        handler: impl Fn(&Request) -> Act + Send + Sync + 'static,
    ) -> StandIn {
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = StandIn { books: Shared::default(), addr, tls, task: None };
        server.handle(handler);
        server.resume().await;
        server
    }

    /// Answers differently from now on.
    pub(crate) fn handle(&self, handler: impl Fn(&Request) -> Act + Send + Sync + 'static) {
        self.books.lock().handler = Some(Arc::new(handler));
    }

    pub(crate) fn url(&self, path: &str) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://localhost:{}{path}", self.addr.port())
    }

    pub(crate) fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Shows another certificate from the next connection on.
    pub(crate) async fn show(&mut self, tls: TlsAcceptor) {
        self.tls = Some(tls);
        self.stop().await;
        self.resume().await;
    }

    /// Refuses connections and cuts those that there are.
    pub(crate) async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            drop(task.await);
        }
    }

    /// Listens on the same port again.
    pub(crate) async fn resume(&mut self) {
        let listener = TcpListener::bind(self.addr).await.unwrap();
        self.addr = listener.local_addr().unwrap();
        let (books, tls) = (self.books.clone(), self.tls.clone());
        self.task = Some(tokio::spawn(async move {
            // Aborted with the listener, all at once.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                connections.spawn(serve(tcp, tls.clone(), books.clone()));
                while connections.try_join_next().is_some() {}
            }
        }));
    }

    /// Listens somewhere else.
    pub(crate) async fn move_away(&mut self) {
        self.stop().await;
        self.addr.set_port(0);
        self.resume().await;
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.books.lock().requests.clone()
    }

    pub(crate) fn posts(&self) -> Vec<Request> {
        self.requests().into_iter().filter(|r| r.method == "POST").collect()
    }

    pub(crate) fn connections(&self) -> usize {
        self.books.lock().connections
    }

    /// Everything taken over, in order, repetitions included.
    pub(crate) fn taken(&self) -> Vec<Seen> {
        self.books.lock().taken.clone()
    }

    /// By data: under how many identities it was taken, and how often.
    pub(crate) fn by_n(&self) -> BTreeMap<u64, Vec<Seen>> {
        let mut map: BTreeMap<u64, Vec<Seen>> = BTreeMap::new();
        for seen in self.taken() {
            map.entry(seen.n).or_default().push(seen);
        }
        map
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn serve(tcp: TcpStream, tls: Option<TlsAcceptor>, books: Shared) {
    let connection = {
        let mut books = books.lock();
        books.connections += 1;
        books.connections - 1
    };
    tcp.set_nodelay(true).unwrap();
    match tls {
        None => speak(tcp, connection, false, books).await,
        Some(tls) => {
            let Ok(stream) = tls.accept(tcp).await else { return };
            let shown = stream.get_ref().1.peer_certificates().is_some();
            speak(stream, connection, shown, books).await;
        }
    }
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    connection: usize,
    shown: bool,
    books: Shared,
) {
    let mut buf = BytesMut::new();
    while let Some(request) = read(&mut stream, &mut buf, connection, shown).await {
        let handler = books.lock().handler.clone().unwrap();
        let act = if request.method == "OPTIONS" { options(&handler, &request) } else { handler(&request) };
        {
            let mut books = books.lock();
            if matches!(act, Act::Take | Act::TakeAndReset | Act::TakeAndHang | Act::TakeWith(..)) {
                books.taken.extend(request.events());
            }
            books.requests.push(request);
        }
        match act {
            Act::Take => answer(&mut stream, 202, &[], "").await,
            Act::Status(status, headers, body) | Act::TakeWith(status, headers, body) => {
                answer(&mut stream, status, &headers, &body).await;
            }
            Act::Reset | Act::TakeAndReset => return,
            Act::Hang | Act::TakeAndHang => std::future::pending().await,
            Act::Loris => loris(&mut stream).await,
            Act::Garbage => {
                drop(stream.write_all(b"220 mail.example ESMTP\r\n").await);
                return;
            }
        }
    }
}

/// A probe is answered while the receiver is alive, and never when it plays dead.
fn options(handler: &Handler, request: &Request) -> Act {
    match handler(request) {
        dead @ (Act::Hang | Act::Reset) => dead,
        _ => Act::status(204),
    }
}

async fn answer<S: AsyncWrite + Unpin>(stream: &mut S, status: u16, headers: &[(&str, String)], body: &str) {
    let mut text = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(body);
    drop(stream.write_all(text.as_bytes()).await);
}

async fn loris<S: AsyncWrite + Unpin>(stream: &mut S) {
    drop(stream.write_all(b"HTTP/1.1 202 Accepted\r\nX-Padding: ").await);
    while stream.write_all(b"a").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    buf: &mut BytesMut,
    connection: usize,
    shown: bool,
) -> Option<Request> {
    let end = loop {
        if let Some(at) = buf.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(buf).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buf[..end].to_vec()).unwrap();
    buf.advance(end + 4);
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let pair = |line: &str| line.split_once(':').map(|(n, v)| (n.to_lowercase(), v.trim().to_owned()));
    let headers: HashMap<String, String> = lines.filter_map(pair).collect();
    let length: usize = headers.get("content-length").map_or(0, |l| l.parse().unwrap());
    while buf.len() < length {
        if stream.read_buf(buf).await.ok()? == 0 {
            return None;
        }
    }
    let mut body = buf.split_to(length).to_vec();
    if headers.get("content-encoding").is_some_and(|e| e == "gzip") {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain).unwrap();
        body = plain;
    }
    Some(Request { method, target, headers, body, connection, client_certificate: shown })
}
