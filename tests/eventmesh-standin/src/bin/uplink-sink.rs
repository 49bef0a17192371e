//! An upstream for measurements, no stand-in: it checks nothing, answers success at once, and keeps account of what came. It must cost
//! less than what is measured, so it is `h2` with a scanner instead of a gRPC server, and a few lines of HTTP/1.1.
//!
//! `uplink-sink grpc|http PORT EVENTS DELAY_MS QUIET_S` listens on a port of the loopback (0: a free one, printed), ends after so many
//! distinct events, or when none has come for so long, and prints one JSON object. With a delay every byte travels for half of it each
//! way; pipes in between hold as much as comes, so what limits is HTTP/2's flow control and the sender.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a measuring tool: it may stop on a surprise, and it measures the machine's time"
)]

use bytes::{Buf as _, Bytes, BytesMut};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [port, events, delay, quiet] = [1, 2, 3, 4].map(|n| words[n].parse::<u64>().unwrap());
    let grpc = words[0] == "grpc";
    let outer = listen(port as u16).await;
    println!("{{\"port\":{}}}", outer.local_addr().unwrap().port());
    let books = Rc::new(RefCell::new(Books::new()));
    let local = tokio::task::LocalSet::new();
    let inner = if delay == 0 { outer } else { delayed(outer, Duration::from_millis(delay) / 2).await };
    local.spawn_local(serve(inner, grpc, Rc::clone(&books)));
    let quiet = Duration::from_secs(quiet);
    let done = local.run_until(async {
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let books = books.borrow();
            if books.distinct >= events || books.last.elapsed() > quiet {
                return;
            }
        }
    });
    done.await;
    // The last answers go out before the sockets close.
    local.run_until(tokio::time::sleep(Duration::from_millis(delay + 500))).await;
    println!("{}", books.borrow().say(events));
}

async fn listen(port: u16) -> TcpListener {
    TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await.unwrap()
}

async fn serve(listener: TcpListener, grpc: bool, books: Rc<RefCell<Books>>) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let books = Rc::clone(&books);
        tokio::task::spawn_local(async move {
            if grpc { http2(stream, books).await } else { http1(stream, books).await.unwrap_or_default() }
        });
    }
}

/// Sequence numbers seen, by source.
struct Books {
    seen: HashMap<Vec<u8>, Seen>,
    started: Instant,
    first: Option<Instant>,
    last: Instant,
    received: u64,
    distinct: u64,
    late: u64,
}

/// Beyond it a number is none that counts events: the Java SDK's `seqnum` is thirty random digits.
const COUNTED_MAX: u64 = 1 << 28;

#[derive(Default)]
struct Seen {
    bits: Vec<u64>,
    highest: u64,
    random: HashSet<u64>,
}

impl Seen {
    /// False if it came before.
    fn add(&mut self, number: u64) -> bool {
        if number >= COUNTED_MAX {
            return self.random.insert(number);
        }
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        let new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        new
    }
}

impl Books {
    fn new() -> Books {
        let now = Instant::now();
        Books {
            seen: HashMap::new(),
            started: now,
            first: None,
            last: now,
            received: 0,
            distinct: 0,
            late: 0,
        }
    }

    fn note(&mut self, source: &[u8], number: u64) {
        self.last = Instant::now();
        self.first.get_or_insert(self.last);
        self.received += 1;
        if !self.seen.contains_key(source) {
            self.seen.insert(source.to_vec(), Seen::default());
        }
        let seen = self.seen.get_mut(source).unwrap();
        if seen.add(number) {
            self.distinct += 1;
            self.late += u64::from(number < seen.highest);
            seen.highest = seen.highest.max(number);
        }
    }

    fn say(&self, expected: u64) -> String {
        let first = self.first.unwrap_or(self.last);
        let secs = (self.last - first).as_secs_f64().max(1e-6);
        let first_after = (first - self.started).as_secs_f64();
        format!(
            "{{\"received\":{},\"distinct\":{},\"missing\":{},\"out_of_order\":{},\"sources\":{},\"first_after_s\":{first_after:.4},\"secs\":{secs:.3},\
             \"events_per_s\":{:.0}}}",
            self.received,
            self.distinct,
            expected.saturating_sub(self.distinct),
            self.late,
            self.seen.len(),
            self.received as f64 / secs
        )
    }
}

// --- gRPC

async fn http2(stream: TcpStream, books: Rc<RefCell<Books>>) {
    let answer = Bytes::from(answer());
    let mut connection = h2::server::Builder::new()
        .initial_connection_window_size(64 << 20)
        .initial_window_size(1 << 20)
        .max_concurrent_streams(100_000)
        .max_send_buffer_size(64 << 20)
        .handshake::<_, Bytes>(stream)
        .await
        .unwrap();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let counted = request.uri().path().ends_with("/publish");
        tokio::task::spawn_local(call(
            request.into_body(),
            respond,
            Rc::clone(&books),
            answer.clone(),
            counted,
        ));
    }
}

async fn call(
    mut body: h2::RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
    books: Rc<RefCell<Books>>,
    answer: Bytes,
    counted: bool,
) {
    let mut message = BytesMut::new();
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap_or_default();
        message.extend_from_slice(&data);
        // A subscription's requests never end.
        if !counted {
            break;
        }
    }
    if counted {
        let (source, number) = identity(&message[5..]);
        books.borrow_mut().note(source, number);
    }
    let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let Ok(mut stream) = respond.send_response(head, false) else { return };
    if stream.send_data(answer, false).is_ok() {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        stream.send_trailers(trailers).unwrap_or_default();
    }
}

/// One message: an event with `statuscode` "0".
fn answer() -> Vec<u8> {
    use eventmesh_edge_standin::attribute;
    use eventmesh_edge_standin::proto::CloudEvent;
    use prost::Message as _;
    let attributes = [
        ("statuscode", "0"),
        ("responsemessage", "success SendResult[topic=eventmesh-edge, messageId=123456]"),
    ];
    let event = CloudEvent {
        id: "00000000-0000-0000-0000-000000000001".to_owned(),
        spec_version: "1.0".to_owned(),
        attributes: attributes.iter().map(|(n, v)| ((*n).to_owned(), attribute(*v))).collect(),
        ..CloudEvent::default()
    };
    let mut framed = vec![0];
    framed.extend_from_slice(&(event.encoded_len() as u32).to_be_bytes());
    event.encode(&mut framed).unwrap();
    framed
}

/// `source` and the attribute `seqnum` of a message, without decoding the rest.
fn identity(message: &[u8]) -> (&[u8], u64) {
    let (mut source, mut number) = (&b""[..], 0);
    for (field, value) in Fields(message) {
        match field {
            2 => source = value,
            5 => {
                let (mut key, mut inner) = (&b""[..], &b""[..]);
                for (field, value) in Fields(value) {
                    if field == 1 { key = value } else { inner = value }
                }
                if key == b"seqnum" {
                    number = Fields(inner).next().map_or(0, |(_, digits)| decimal(digits));
                }
            }
            _ => {}
        }
    }
    (source, number)
}

/// Of more than 19 digits what is left is as good as random.
fn decimal(digits: &[u8]) -> u64 {
    digits.iter().fold(0_u64, |n, digit| n.wrapping_mul(10).wrapping_add(digit.wrapping_sub(b'0').into()))
}

/// The length-delimited fields of a protobuf message; numbers are passed over.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<(u64, &'a [u8])> {
        while !self.0.is_empty() {
            let key = self.varint();
            let value = self.varint() as usize;
            if key & 7 == 2 {
                let (field, rest) = self.0.split_at(value);
                self.0 = rest;
                return Some((key >> 3, field));
            }
        }
        None
    }
}

impl Fields<'_> {
    fn varint(&mut self) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = self.0.get_u8();
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }
}

// --- HTTP

#[derive(serde::Deserialize)]
struct Identity<'a> {
    #[serde(borrow)]
    source: std::borrow::Cow<'a, str>,
    sequence: &'a str,
}

async fn http1(mut stream: TcpStream, books: Rc<RefCell<Books>>) -> std::io::Result<()> {
    let mut buffer = BytesMut::with_capacity(1 << 20);
    loop {
        while let Some((head, length)) = request(&buffer) {
            if buffer.len() < head + length {
                break;
            }
            buffer.advance(head);
            let body = buffer.split_to(length);
            let events: Vec<Identity<'_>> = serde_json::from_slice(&body).unwrap_or_default();
            for event in &events {
                books.borrow_mut().note(event.source.as_bytes(), decimal(event.sequence.as_bytes()));
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
        }
        buffer.reserve(256 << 10);
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// Bytes of a request's head, and of its body.
fn request(buffer: &[u8]) -> Option<(usize, usize)> {
    let end = buffer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|l| l.strip_prefix("content-length:"));
    Some((end, length.map_or(0, |l| l.trim().parse().unwrap())))
}

// --- a long way

/// Takes connections of `outer` to a listener of its own; on another thread, so that the account is not kept waiting.
async fn delayed(outer: TcpListener, each_way: Duration) -> TcpListener {
    let inner = listen(0).await;
    let to = inner.local_addr().unwrap();
    let outer = outer.into_std().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let outer = TcpListener::from_std(outer).unwrap();
            while let Ok((client, _)) = outer.accept().await {
                let server = TcpStream::connect(to).await.unwrap();
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(carry(from_client, to_server, each_way));
                tokio::spawn(carry(from_server, to_client, each_way));
            }
        });
    });
    inner
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    each_way: Duration,
) {
    let (sender, mut pieces) = mpsc::unbounded_channel::<(Instant, Bytes)>();
    tokio::spawn(async move {
        while let Some((due, piece)) = pieces.recv().await {
            tokio::time::sleep_until(due.into()).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(64 << 10);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => sender.send((Instant::now() + each_way, buffer.split().freeze())).unwrap_or_default(),
        }
    }
}
