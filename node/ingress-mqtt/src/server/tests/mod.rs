//! Over real loopback sockets, with a scripted hub behind. Nothing here depends on how long anything takes.

mod idle;
mod tls;

use super::*;
use crate::clients::SessionOptions;
use crate::codec::Version;
use crate::testing::wire::{self, Connect};
use crate::testing::{ScriptedHub, WALL};
use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::hub::{Credentials, Denied, Principal};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const V3: Version = Version::V311;
const V5: Version = Version::V5;

/// Follows the runtime's clock, also where a test has paused it.
struct RuntimeClock(Instant);

impl Clock for RuntimeClock {
    fn now(&self) -> Timestamp {
        WALL.after(self.0.elapsed())
    }
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

struct Server {
    address: SocketAddr,
    hub: Arc<ScriptedHub>,
    sessions: Arc<Sessions>,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    fn new(adjust: impl FnOnce(&mut ListenerOptions)) -> Server {
        Server::with(None, adjust)
    }

    fn with(auth: Option<Arc<dyn Authenticator>>, adjust: impl FnOnce(&mut ListenerOptions)) -> Server {
        let hub = ScriptedHub::automatic();
        let clock = Arc::new(RuntimeClock(Instant::now()));
        let sessions = Arc::new(Sessions::new(hub.clone(), clock, SessionOptions::default()));
        let mut options = ListenerOptions::new(([127, 0, 0, 1], 0).into());
        options.limits.anonymous = auth.is_none();
        adjust(&mut options);
        let listener = bind(options, sessions.clone(), auth).unwrap();
        let (address, shared) = (listener.local_addr(), listener.shared.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(listener.run(async move { stopped.await.unwrap_or(()) }));
        Server { address, hub, sessions, shared, stop: Some(stop), task }
    }

    async fn open(&self) -> Client<TcpStream> {
        Client { stream: TcpStream::connect(self.address).await.unwrap() }
    }

    async fn connect(&self, connect: &Connect<'_>) -> Client<TcpStream> {
        let mut client = self.open().await;
        client.send(&connect.encode()).await;
        let (first, body) = client.packet().await.expect("CONNACK");
        assert_eq!((first, body[1]), (0x20, 0));
        client
    }

    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

struct Client<S> {
    stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// First byte and body; `None` when the connection is closed.
    async fn packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = self.stream.read_u8().await.ok()?;
        let (mut length, mut shift) = (0usize, 0);
        loop {
            let byte = self.stream.read_u8().await.ok()?;
            length |= usize::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.ok()?;
        Some((first, body))
    }

    async fn expect(&mut self, first: u8, body: &[u8]) {
        let got = self.packet().await.map(|(first, body)| (first, without_words(first, body)));
        assert_eq!(got, Some((first, body.to_vec())));
    }

    async fn expect_closed(&mut self) {
        assert_eq!(self.packet().await, None);
    }
}

/// A refusal of MQTT 5 without its properties: `tests/conformance` looks at those.
fn without_words(first: u8, mut body: Vec<u8>) -> Vec<u8> {
    let code = match first {
        0x20 => 1,
        0xE0 => 0,
        _ => return body,
    };
    if body.get(code).is_some_and(|code| *code >= 0x80) {
        body.truncate(code + 1);
        body.push(0);
    }
    body
}

fn clean(version: Version, client_id: &str) -> Connect<'_> {
    Connect { version, client_id, ..Connect::default() }
}

fn kept(client_id: &str) -> Connect<'_> {
    Connect { client_id, clean: false, ..Connect::default() }
}

#[tokio::test]
async fn packets_may_arrive_byte_by_byte() {
    let server = Server::new(|_| {});
    let mut client = server.open().await;
    let bytes = [
        clean(V3, "é").encode(),
        wire::subscribe(V3, 1, &[("a/+", 1)]),
        wire::publish(V3, "a/é", 1, 2, false, "half"),
        wire::PINGREQ.to_vec(),
    ];
    for byte in bytes.concat() {
        client.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    client.expect(0x20, &[0, 0]).await;
    let mut first_bytes = Vec::new();
    for _ in 0..4 {
        first_bytes.push(client.packet().await.unwrap().0);
    }
    first_bytes.sort_unstable();
    assert_eq!(
        first_bytes,
        [0x32, 0x40, 0x90, 0xD0],
        "the message, PUBACK, SUBACK; PINGRESP waits for none of them"
    );
}

#[tokio::test]
async fn a_client_may_send_everything_at_once() {
    let server = Server::new(|_| {});
    server.hub.set_auto(false);
    let mut client = server.open().await;
    let publishes: Vec<u8> =
        (1..=2000u16).flat_map(|pid| wire::publish(V3, "t", 1, pid, false, &"x".repeat(100))).collect();
    let hello = [kept("c").encode(), wire::subscribe(V3, 1, &[("s", 0)])].concat();
    client.send(&hello).await;
    let everything = publishes;
    let (mut read, mut write) = client.stream.into_split();
    let writing = tokio::spawn(async move {
        write.write_all(&everything).await.unwrap();
        write
    });
    server.hub.set_auto(true);
    let mut answers = vec![0; 4 + 5 + 4 * 2000];
    read.read_exact(&mut answers).await.unwrap();
    assert_eq!(answers[..9], [0x20, 2, 0, 0, 0x90, 3, 0, 1, 0]);
    assert_eq!(answers[9..13], [0x40, 2, 0, 1]);
    assert_eq!(answers[answers.len() - 4..], [[0x40, 2], 2000u16.to_be_bytes()].concat());
    assert_eq!(server.hub.published().len(), 2000);
    drop(writing.await.unwrap());
}

#[tokio::test]
async fn a_large_message_comes_whole_and_in_pieces() {
    let server = Server::new(|_| {});
    let mut client = server.connect(&clean(V3, "c")).await;
    let payload = "0123456789abcdef".repeat(16 * 1024);
    let mut bytes = wire::publish(V3, "t", 1, 1, false, &payload);
    bytes.extend(wire::publish(V3, "t", 1, 2, false, "next"));
    for piece in bytes.chunks(10_007) {
        client.send(piece).await;
        tokio::task::yield_now().await;
    }
    client.expect(0x40, &[0, 1]).await;
    client.expect(0x40, &[0, 2]).await;
    let published = server.hub.published();
    assert_eq!(published[0].payload, payload.as_bytes());
    assert_eq!(&published[1].payload[..], b"next");
}

#[tokio::test]
async fn garbage_closes_its_own_connection_only() {
    let server = Server::new(|_| {});
    let mut good = server.connect(&clean(V3, "good")).await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xFF; 40], &[0x10, 4, 0, 4, b'H', b'T'], &[0x10, 0]] {
        let mut client = server.open().await;
        client.send(garbage).await;
        client.expect_closed().await;
    }
    let mut client = server.connect(&clean(V5, "bad")).await;
    client.send(&[0x3E, 4, 0, 1, b't', 0]).await;
    client.expect(0xE0, &[0x81, 0]).await;
    client.expect_closed().await;
    good.send(&wire::publish(V3, "t", 1, 1, false, "x")).await;
    good.expect(0x40, &[0, 1]).await;
    assert!(server.sessions.stats().snapshot().bad_packets >= 4);
}

#[tokio::test]
async fn an_oversized_packet_is_refused_by_its_header() {
    let server = Server::new(|options| options.limits.payload_max_bytes = 1000);
    for (version, goodbye) in [(V5, true), (V3, false)] {
        let mut client = server.connect(&clean(version, "c")).await;
        client.send(&[0x30, 0xFF, 0xFF, 0x7F]).await; // 2 MB to come
        if goodbye {
            client.expect(0xE0, &[0x95, 0]).await;
        }
        client.expect_closed().await;
    }
    let mut client = server.open().await;
    client.send(&[0x10, 0xFF, 0xFF, 0x7F]).await;
    client.expect_closed().await;
}

/// The clock stands still but for what the runtime waits for, so the timeouts come at once.
#[tokio::test(start_paused = true)]
async fn a_slow_loris_is_closed() {
    let server = Server::new(|_| {});
    let mut silent = server.open().await;
    let mut slow = server.open().await;
    slow.send(&clean(V3, "c").encode()[..5]).await;
    silent.expect_closed().await;
    slow.expect_closed().await;
    assert_eq!(server.sessions.stats().snapshot().connections_open, 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_disconnected() {
    let server = Server::new(|_| {});
    let mut client = server.connect(&Connect { keep_alive: 5, ..clean(V5, "c") }).await;
    client.expect(0xE0, &[0x8D, 0]).await;
    client.expect_closed().await;
    assert_eq!(server.sessions.stats().snapshot().keep_alive_timeouts, 1);
}

#[tokio::test]
async fn a_full_listener_refuses_politely() {
    let server = Server::new(|options| options.connections_max = 1);
    let mut first = server.connect(&clean(V3, "a")).await;
    for (version, answer) in [(V3, vec![0, 3]), (V5, vec![0, 0x89, 0])] {
        let mut client = server.open().await;
        client.send(&clean(version, "b").encode()).await;
        client.expect(0x20, &answer).await;
        client.expect_closed().await;
    }
    assert_eq!(server.sessions.stats().snapshot().connections_over_limit, 2);
    first.send(&wire::PINGREQ).await;
    first.expect(0xD0, &[]).await;
}

struct OneUser;

impl Authenticator for OneUser {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Principal, Denied> {
        match (credentials.username, credentials.password) {
            (Some("ü/#"), Some(b"right")) => Ok(Principal { name: "ü/#".into(), anonymous: false }),
            _ => Err(Denied::BadCredentials),
        }
    }
}

#[tokio::test]
async fn logins_are_checked() {
    let server = Server::with(Some(Arc::new(OneUser)), |_| {});
    let login = |password| Connect { username: Some("ü/#"), password: Some(password), ..clean(V5, "c") };
    let mut client = server.connect(&login(b"right")).await;
    client.send(&wire::publish(V5, "t", 1, 1, false, "x")).await;
    client.packet().await.unwrap();
    assert!(server.hub.published()[0].source.ends_with("%23"), "{}", server.hub.published()[0].source);
    for (connect, code) in [(login(b"wrong"), 0x86), (clean(V5, "c"), 0x87)] {
        let mut client = server.open().await;
        client.send(&connect.encode()).await;
        client.expect(0x20, &[0, code, 0]).await;
        client.expect_closed().await;
    }
    assert_eq!(server.sessions.stats().snapshot().logins_failed, 2);
}

/// Says that a check has begun, and ends it when it is told to.
struct Laborious {
    begun: Notify,
    go_on: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Authenticator for Laborious {
    fn authenticate(&self, _: &Credentials<'_>) -> Result<Principal, Denied> {
        self.begun.notify_one();
        self.go_on.lock().unwrap().recv().unwrap();
        Err(Denied::BadCredentials)
    }
}

/// Or whoever connects and hangs up again and again fills the blocking threads, which the uplinks need too.
#[tokio::test(start_paused = true)]
async fn a_check_whose_client_is_gone_still_counts_as_one_at_work() {
    let (go_on, wait) = std::sync::mpsc::channel();
    let auth = Arc::new(Laborious { begun: Notify::new(), go_on: Mutex::new(wait) });
    let server = Server::with(Some(auth.clone()), |options| options.logins_at_once = 1);
    let mut client = server.open().await;
    client.send(&Connect { username: Some("u"), password: Some(b"p"), ..clean(V5, "c") }.encode()).await;
    auth.begun.notified().await;
    drop(client);
    tokio::time::advance(Limits::default().connect_timeout).await;
    while server.sessions.stats().snapshot().connections_open > 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.shared.logins.available_permits(), 0);
    go_on.send(()).unwrap();
    drop(server.shared.logins.acquire().await.unwrap());
}

#[tokio::test]
async fn a_take_over_hands_the_session_on() {
    let server = Server::new(|_| {});
    let five = Connect { properties: wire::session_expiry(60), clean: false, ..clean(V5, "c") };
    let mut old = server.connect(&five).await;
    let mut new = server.open().await;
    new.send(&five.encode()).await;
    old.expect(0xE0, &[0x8E, 0]).await;
    old.expect_closed().await;
    let (_, body) = new.packet().await.unwrap();
    assert_eq!(body[..2], [1, 0]);
}

/// Many connections fight for one client id on two threads; whoever asks last gets it, and no session is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_take_overs_ends_with_one_session() {
    let server = Server::new(|_| {});
    let address = server.address;
    drop(server.connect(&kept("c")).await);
    let fighters: Vec<_> = (0..40)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Client { stream: TcpStream::connect(address).await.unwrap() };
                client.stream.write_all(&kept("c").encode()).await.unwrap();
                while client.packet().await.is_some() {}
            })
        })
        .collect();
    // All but one are thrown out by the next one; the last is thrown out by this.
    let mut last = server.open().await;
    loop {
        last.send(&kept("c").encode()).await;
        if last.packet().await == Some((0x20, vec![1, 0])) {
            last.send(&wire::PINGREQ).await;
            if last.packet().await == Some((0xD0, vec![])) && fighters.iter().all(JoinHandle::is_finished) {
                break;
            }
        }
        last = server.open().await;
    }
    assert_eq!(server.sessions.counts(), (1, 0));
    for fighter in fighters {
        fighter.await.unwrap();
    }
}

#[tokio::test]
async fn a_stop_is_graceful_and_keeps_sessions() {
    let server = Server::new(|_| {});
    let mut five = server.connect(&clean(V5, "five")).await;
    let mut three = server.connect(&kept("three")).await;
    let mut nobody = server.open().await;
    let sessions = server.sessions.clone();
    let address = server.address;
    server.stop().await;
    five.expect(0xE0, &[0x8B, 0]).await;
    five.expect_closed().await;
    three.expect_closed().await;
    nobody.expect_closed().await;
    assert_eq!(sessions.counts(), (0, 1));
    assert_eq!(sessions.stats().snapshot().connections_open, 0);
    assert!(TcpStream::connect(address).await.is_err());
}

/// A client that does not read: what it is owed is bounded, and others are served.
#[tokio::test]
async fn a_client_that_does_not_read_costs_a_bounded_queue() {
    let server = Server::new(|options| {
        options.limits.queue.max_events = 50;
        options.limits.send_window = 10;
    });
    let mut deaf = server.connect(&clean(V3, "deaf")).await;
    deaf.send(&wire::subscribe(V3, 1, &[("t", 0)])).await;
    deaf.expect(0x90, &[0, 1, 0]).await;
    let mut publisher = server.connect(&clean(V3, "publisher")).await;
    let payload = "x".repeat(60_000);
    for pid in 1..=400 {
        publisher.send(&wire::publish(V3, "t", 1, pid, false, &payload)).await;
        publisher.expect(0x40, &pid.to_be_bytes()).await;
    }
    let link = server.sessions.stats().snapshot();
    assert!(link.delivered < 400, "the rest was refused at the queue: {link:?}");
    let (first, body) = deaf.packet().await.unwrap();
    assert_eq!((first, body.len()), (0x30, 3 + payload.len()));
}

/// The one that has a mailbox gets everything in the end.
#[tokio::test]
async fn a_kept_session_that_does_not_read_misses_nothing() {
    let server = Server::new(|options| options.limits.queue.max_events = 5);
    let mut slow = server.connect(&kept("slow")).await;
    slow.send(&wire::subscribe(V3, 1, &[("t", 1)])).await;
    slow.expect(0x90, &[0, 1, 1]).await;
    let mut publisher = server.connect(&clean(V3, "publisher")).await;
    for pid in 1..=300u16 {
        publisher
            .send(&wire::publish(V3, "t", 1, pid, false, &format!("{pid:05}{}", "x".repeat(20_000))))
            .await;
        publisher.expect(0x40, &pid.to_be_bytes()).await;
    }
    for n in 1..=300u16 {
        let (first, body) = slow.packet().await.unwrap();
        assert_eq!((first, &body[5..10]), (0x32, format!("{n:05}").as_bytes()));
        slow.send(&wire::packet(0x40, &body[3..5])).await;
    }
}

#[tokio::test]
async fn a_client_that_is_gone_while_its_publish_waits_is_forgotten_when_it_completes() {
    let server = Server::new(|_| {});
    let mut client = server.connect(&clean(V3, "c")).await;
    server.hub.set_auto(false);
    client.send(&wire::publish(V3, "t", 1, 1, false, "x")).await;
    while server.hub.held() == 0 {
        tokio::task::yield_now().await;
    }
    drop(client);
    server.hub.set_auto(true);
    while server.sessions.stats().snapshot().connections_open > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.hub.payloads(), ["x"]);
}

/// While the store keeps everybody waiting, clients that gave up must not fill the listener.
#[tokio::test(start_paused = true)]
async fn a_client_that_gave_up_waiting_is_noticed() {
    let server = Server::new(|_| {});
    let mut client = server.connect(&clean(V3, "c")).await;
    server.hub.set_auto(false);
    client.send(&wire::publish(V3, "t", 1, 1, false, "x")).await;
    while server.hub.held() == 0 {
        tokio::task::yield_now().await;
    }
    drop(client);
    while server.sessions.stats().snapshot().connections_open > 0 {
        tokio::time::sleep(Duration::from_secs(1)).await; // of the paused clock
    }
    assert_eq!(server.hub.held(), 1, "the hub has its message still");
}

#[test]
fn a_listener_that_cannot_be_is_explained() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hub = ScriptedHub::new();
    let sessions = || {
        Arc::new(Sessions::new(hub.clone(), crate::testing::ManualClock::new(), SessionOptions::default()))
    };
    let mut options = ListenerOptions::new(taken.local_addr().unwrap());
    let error = bind(options.clone(), sessions(), None).err().unwrap();
    assert!(matches!(error, BindError::NobodyCanConnect { .. }), "{error}");
    options.limits.anonymous = true;
    let error = bind(options, sessions(), None).err().unwrap();
    assert!(
        matches!(&error, BindError::Bind { address, .. } if *address == taken.local_addr().unwrap()),
        "{error}"
    );
}
