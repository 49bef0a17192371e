//! What the tests stand on: a service, a hub and a store wired as the listener wires them, and time turned by hand.

use bytes::Bytes;
use eventmesh_edge_coap::gate;
use eventmesh_edge_coap::{Code, Kind, Message, Token, option};
use eventmesh_edge_contract::suite::support::{ONLY, spec_of_one};
use eventmesh_edge_contract::{MemoryDisk, MemoryStore};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event as CoreEvent, Position, Qos, StoredEvent, Timestamp, Via};
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::hub::{Hub, Outlet, Publication, Submission};
use eventmesh_edge_core::ports::store::{CommitError, Read, Store, StoreSpec, StreamId, Table, WhenFull};
use eventmesh_edge_core::route::Router;
use eventmesh_edge_ingress_coap::link::{Event, Link};
use eventmesh_edge_ingress_coap::service::{Action, Bell, Bells, Context, Input, Output, Parts};
use eventmesh_edge_ingress_coap::{Params, Service, ServiceOptions};
use eventmesh_edge_runtime::hub::{HubOptions, NodeHub};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;

/// When the tests take place: 2026-09-21T14:13:20Z.
pub(crate) const START: Timestamp = Timestamp(1_790_000_000_000);

pub(crate) struct HandClock(Mutex<Duration>);

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        START.after(*self.0.lock().unwrap())
    }

    fn monotonic(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

/// See the module's description.
pub(crate) struct Site {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) hub: Arc<NodeHub>,
    pub(crate) service: Service,
    pub(crate) clock: Arc<HandClock>,
    link: Arc<Link>,
    out: Output,
    /// So many submissions fail from now on, as if the disk had said no.
    pub(crate) failing: usize,
    task: JoinHandle<()>,
}

fn spec() -> StoreSpec {
    spec_of_one(1 << 24, WhenFull::Refuse)
}

impl Site {
    /// Everything is stored at once.
    pub(crate) fn new() -> Site {
        Site::on(MemoryDisk::default().open(spec()), Params::default())
    }

    /// Nothing is stored before the test says so.
    pub(crate) fn manual(params: Params) -> Site {
        Site::on(MemoryDisk::default().open_manual(spec()), params)
    }

    pub(crate) fn small(max_bytes: u64) -> Site {
        Site::on(MemoryDisk::default().open(spec_of_one(max_bytes, WhenFull::Refuse)), Params::default())
    }

    fn on(store: Arc<MemoryStore>, params: Params) -> Site {
        Site::at(Arc::new(HandClock(Mutex::new(Duration::from_secs(100)))), store, params)
    }

    fn at(clock: Arc<HandClock>, store: Arc<MemoryStore>, params: Params) -> Site {
        let port: Arc<dyn Store> = store.clone();
        let router = Router::new(Vec::new(), Some(StreamId(0))).unwrap();
        let hub = NodeHub::new(HubOptions::new(Text::from_static("edge")), port, router, clock.clone());
        hub.restore().unwrap();
        let link = Arc::new(Link::new(1_000));
        let options = ServiceOptions {
            node: Text::from_static("edge"),
            anonymous_apart: false,
            mailboxes_max: 100,
            mailbox_expiry: Duration::from_secs(7 * 86_400),
            params,
        };
        let observer = hub.attach(None, Some(link.clone() as Arc<dyn Outlet>));
        let ring = link.clone();
        let bells: Bells = Arc::new(move |session| {
            let ring = ring.clone();
            Arc::new(Bell(move || ring.push(Event::Rung(session))))
        });
        let mut service = Service::new(options, Parts { observer, bells, secret: [5; 32] });
        let rows = store.scan(Table::Node, b"coap/", None, 10_000).unwrap();
        let cx = Context { now: clock.monotonic(), wall: clock.now(), hub: &*hub };
        assert_eq!(service.restore(&cx, &rows), 0, "rows that were not understood");
        let task = tokio::spawn(hub.clone().run(std::future::pending()));
        Site { store, hub, service, clock, link, out: Output::default(), failing: 0, task }
    }

    /// The same store in another process.
    pub(crate) async fn restart(self) -> Site {
        self.task.abort();
        tokio::task::yield_now().await;
        Site::on(self.store.reopen(spec()), Params::default())
    }

    /// The same, and the clock goes on.
    pub(crate) async fn restart_at_the_same_time(self) -> Site {
        self.task.abort();
        tokio::task::yield_now().await;
        Site::at(self.clock.clone(), self.store.reopen(spec()), Params::default())
    }

    /// Time passes in one step: what was due meanwhile happens at its end.
    pub(crate) async fn pass_in_one(&mut self, by: Duration) {
        let end = self.clock.monotonic() + by;
        self.set_time(end);
        self.settle().await;
    }

    pub(crate) fn handle(&mut self, input: Input<'_>) {
        let cx = Context { now: self.clock.monotonic(), wall: self.clock.now(), hub: &*self.hub };
        self.service.handle(&cx, input, &mut self.out);
        for action in std::mem::take(&mut self.out.actions) {
            let link = self.link.clone();
            match action {
                Action::Submit { token, .. } if self.failing > 0 => {
                    self.failing -= 1;
                    let error = CommitError::Io(Arc::new(std::io::ErrorKind::Other.into()));
                    link.push(Event::Completed { token, result: Err(error) });
                }
                Action::Submit { token, submission } => {
                    let done = move |result| link.push(Event::Completed { token, result });
                    self.hub.submit(submission, Box::new(done));
                }
                Action::ReadMailbox { session, after } => {
                    let done = move |result| link.push(Event::Mailbox { session, result });
                    self.hub.read_mailbox(session, after, 8, Box::new(done));
                }
            }
        }
    }

    /// Lets the hub do what there is to do, and the service hear of it.
    pub(crate) async fn settle(&mut self) {
        for _ in 0..6 {
            tokio::task::yield_now().await;
            for event in self.link.take() {
                self.handle(Input::Event(event));
            }
        }
    }

    pub(crate) fn receive(&mut self, peer: SocketAddr, bytes: &[u8]) {
        self.handle(Input::Datagram { peer, bytes, multicast: false });
    }

    pub(crate) fn set_time(&mut self, to: Duration) {
        *self.clock.0.lock().unwrap() = to;
        if self.service.deadline() <= to {
            self.handle(Input::Tick);
        }
    }

    pub(crate) async fn pass(&mut self, by: Duration) {
        let end = self.clock.monotonic() + by;
        while self.service.deadline() <= end {
            let at = self.service.deadline().max(self.clock.monotonic());
            self.set_time(at);
            self.settle().await;
        }
        self.set_time(end);
    }

    pub(crate) fn datagrams(&mut self) -> Vec<(SocketAddr, Bytes)> {
        std::mem::take(&mut self.out.datagrams)
    }

    /// What was sent to a peer since the last look.
    pub(crate) fn sent_to(&mut self, peer: SocketAddr) -> Vec<Message> {
        let mine = |(to, bytes): (SocketAddr, Bytes)| {
            let head = gate::check(&bytes).expect("what is sent is a message");
            (to == peer).then(|| Message::decode(head, &bytes).unwrap())
        };
        self.datagrams().into_iter().filter_map(mine).collect()
    }

    /// A confirmable request and its answer.
    pub(crate) async fn ask(&mut self, request: &Message) -> Message {
        self.receive(peer(1), &request.encode());
        self.settle().await;
        let mut sent = self.sent_to(peer(1));
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    /// Asks for the mailbox of `pump-3` until its owner's address is proved. The answer.
    pub(crate) async fn open_mailbox(&mut self, id: u16) -> Message {
        let mut get = request(Code::GET, id, "d/pump-3/cmd");
        self.receive(peer(1), &get.encode());
        self.settle().await;
        let sent = self.sent_to(peer(1));
        let challenge = sent.iter().find(|sent| sent.code == Code::UNAUTHORIZED);
        let challenge = challenge.expect("a stranger has to prove its address");
        for ping in sent.iter().filter(|sent| sent.code == Code::EMPTY) {
            self.receive(peer(1), &Message::empty(Kind::Rst, ping.id).encode());
        }
        get.options.add(option::ECHO, challenge.options.first(option::ECHO).unwrap());
        get.id = id + 1;
        self.ask(&get).await
    }

    /// An MQTT device publishes.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &str, retain: bool) {
        let event = CoreEvent {
            via: Via::Mqtt3,
            qos: Qos::AtLeastOnce,
            retain,
            source: Text::from_static("mqtt://edge/other"),
            id: None,
            time: None,
            received: self.clock.now(),
            expires: None,
            topic: Text::from(topic),
            payload: Bytes::from(payload.to_owned()),
            properties: None,
        };
        self.publish_event(event).await;
    }

    pub(crate) async fn publish_event(&mut self, event: CoreEvent) {
        let publications = vec![Publication { event, publisher: None }];
        self.hub.submit(
            Submission { publications, ..Submission::default() },
            Box::new(|outcome| drop(outcome.unwrap())),
        );
        self.settle().await;
    }

    /// Everything stored, in order.
    pub(crate) fn stored(&self) -> Vec<StoredEvent> {
        let found = Arc::new(Mutex::new(Vec::new()));
        let into = found.clone();
        let read = Read { consumer: ONLY, after: Position::ZERO, max_events: 100_000, max_bytes: 1 << 30 };
        self.store.read(read, Box::new(move |batch| *into.lock().unwrap() = batch.unwrap().events));
        std::mem::take(&mut found.lock().unwrap())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn peer(number: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], number))
}

/// A confirmable request; the path is split at slashes.
pub(crate) fn request(code: Code, id: u16, path: &str) -> Message {
    let token = Token::new(&id.to_be_bytes()).unwrap();
    let mut message = Message { code, token, ..Message::empty(Kind::Con, id) };
    for segment in path.split('/') {
        message.options.add(option::URI_PATH, segment);
    }
    message
}

pub(crate) fn with_payload(mut message: Message, payload: &'static str) -> Message {
    message.payload = Bytes::from_static(payload.as_bytes());
    message
}
