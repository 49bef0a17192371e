//! Listener, session engine, hub and a store in memory, wired as the daemon wires them.

use crate::client::Client;
use crate::packet::Packet;
use crate::wire::{Connect, Version};
use eventmesh_edge_contract::MemoryDisk;
use eventmesh_edge_contract::suite::support::{ONLY, read_all, spec_of, stream};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Position, Timestamp};
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::hub::{Authenticator, Credentials, Denied, Hub, Principal};
use eventmesh_edge_core::ports::store::{Store, StreamId, WhenFull};
use eventmesh_edge_core::route::{Route, Router};
use eventmesh_edge_core::telemetry::SysFigures;
use eventmesh_edge_core::topic::TopicFilter;
use eventmesh_edge_ingress_mqtt::{ListenerOptions, SessionOptions, Sessions, bind};
use eventmesh_edge_runtime::hub::{HubOptions, NodeHub};
use eventmesh_edge_runtime::sys::{self, SysSource};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// When the tests take place: 2026-09-21T14:13:20Z.
const START: Timestamp = Timestamp(1_790_000_000_000);

/// Follows the runtime's clock, which the tests move.
struct RuntimeClock(Instant);

impl Clock for RuntimeClock {
    fn now(&self) -> Timestamp {
        START.after(self.0.elapsed())
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Lets in who shows the password `open sesame`.
struct OnePassword;

impl Authenticator for OnePassword {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Principal, Denied> {
        let name = credentials.username.ok_or(Denied::NoCredentials)?;
        if credentials.password != Some(b"open sesame") {
            return Err(Denied::BadCredentials);
        }
        Ok(Principal { name: Text::from(name.to_owned()), anonymous: false })
    }
}

struct Figures(Arc<NodeHub>, Arc<Sessions>);

impl SysSource for Figures {
    fn figures(&self) -> SysFigures {
        let stats = self.1.stats().snapshot();
        SysFigures {
            version: "9.9.9".into(),
            clients_connected: stats.connections_open,
            publish_received: stats.published,
            retained: self.0.stats().retained.topics as u64,
            subscriptions: self.0.stats().subscriptions as u64,
            ..SysFigures::default()
        }
    }
}

/// What a node is made of.
#[derive(Clone)]
pub struct Setup {
    /// The listener; anonymous clients are let in.
    pub listener: ListenerOptions,
    /// The client table.
    pub sessions: SessionOptions,
    /// Only who knows the password gets in.
    pub password: bool,
    /// Everything goes to a stream, as with the daemon's defaults. Without it a message that nobody subscribes to has
    /// nobody who takes it.
    pub stream: bool,
    /// Topics that go to the stream by name.
    pub routes: Vec<String>,
    disk: MemoryDisk,
}

impl Setup {
    fn new() -> Setup {
        let mut listener = ListenerOptions::new(([127, 0, 0, 1], 0).into());
        listener.limits.anonymous = true;
        Setup {
            listener,
            sessions: SessionOptions::default(),
            password: false,
            stream: true,
            routes: Vec::new(),
            disk: MemoryDisk::default(),
        }
    }
}

/// A node that runs.
pub struct Node {
    setup: Setup,
    clock: Arc<dyn Clock>,
    /// Where it listens.
    pub address: SocketAddr,
    /// The client table.
    pub sessions: Arc<Sessions>,
    hub: Arc<NodeHub>,
    store: Arc<dyn Store>,
    stop: [oneshot::Sender<()>; 2],
    tasks: [JoinHandle<()>; 2],
}

impl Node {
    /// With the usual limits.
    pub async fn start() -> Node {
        Node::with(|_| {}).await
    }

    /// With others.
    pub async fn with(adjust: impl FnOnce(&mut Setup)) -> Node {
        let mut setup = Setup::new();
        adjust(&mut setup);
        Node::run(setup, Arc::new(RuntimeClock(Instant::now()))).await
    }

    async fn run(setup: Setup, clock: Arc<dyn Clock>) -> Node {
        let streams = [stream("default", &[0], 1 << 24, WhenFull::DropOldest)];
        let store: Arc<dyn Store> = setup.disk.open(spec_of(streams));
        let route = |topic: &String| Route {
            topics: vec![TopicFilter::parse(topic.clone()).unwrap()],
            stream: StreamId(0),
            kind: None,
        };
        let routes = setup.routes.iter().map(route).collect();
        let router = Router::new(routes, setup.stream.then_some(StreamId(0))).unwrap();
        let options = HubOptions::new(setup.sessions.node.clone());
        let hub = NodeHub::new(options, store.clone(), router, clock.clone());
        hub.restore().unwrap();
        let port: Arc<dyn Hub> = hub.clone();
        let sessions = Arc::new(Sessions::new(port, clock.clone(), setup.sessions.clone()));
        sessions.restore(&&*store).unwrap();
        let mut options = setup.listener.clone();
        options.limits.anonymous = !setup.password;
        let auth = setup.password.then(|| Arc::new(OnePassword) as Arc<dyn Authenticator>);
        let listener = bind(options, sessions.clone(), auth).unwrap();
        let address = listener.local_addr();
        let (stop_hub, hub_stopped) = oneshot::channel::<()>();
        let (stop_listener, listener_stopped) = oneshot::channel::<()>();
        let hubbing = tokio::spawn(hub.clone().run(async { drop(hub_stopped.await) }));
        let listening = tokio::spawn(async {
            listener.run(async { drop(listener_stopped.await) }).await.unwrap();
        });
        let stop = [stop_listener, stop_hub];
        Node { setup, clock, address, sessions, hub, store, stop, tasks: [listening, hubbing] }
    }

    /// A socket that has said nothing yet; `version` says how its answers are read.
    pub async fn open(&self, version: Version) -> Client {
        Client::new(TcpStream::connect(self.address).await.unwrap(), version)
    }

    /// A client that was let in.
    pub async fn connect(&self, connect: &Connect) -> Client {
        let mut client = self.open(connect.version).await;
        match client.connect(connect).await {
            Some(Packet::ConnAck { present, code: 0, properties }) => {
                client.session_present = present;
                client.connack = properties;
                client
            }
            other => panic!("the connection was to be accepted, {other:?} came"),
        }
    }

    /// A client without a session.
    pub async fn client(&self, version: Version, client_id: &str) -> Client {
        self.connect(&Connect::new(version, client_id)).await
    }

    /// Lets time pass at once. Everything that is due has happened when a later packet is answered.
    pub async fn advance(&self, secs: u64) {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(secs)).await;
        tokio::time::resume();
    }

    /// Publishes the figures below `$SYS` every ten seconds, from now on: as the daemon does, of what can be counted here.
    pub fn publish_sys(&self) {
        let figures: Arc<dyn SysSource> = Arc::new(Figures(self.hub.clone(), self.sessions.clone()));
        let hub: Arc<dyn Hub> = self.hub.clone();
        let every = Duration::from_secs(10);
        let name = self.setup.sessions.node.clone();
        let publishing = sys::publish(name, every, hub, self.clock.clone(), figures, std::future::pending());
        tokio::spawn(publishing);
    }

    /// Topics of what the stream took, in order.
    #[must_use]
    pub fn streamed(&self) -> Vec<String> {
        let events = read_all(&*self.store, ONLY, Position::ZERO);
        events.iter().map(|stored| stored.event.topic.to_string()).collect()
    }

    /// Stops in order: clients get their goodbye, what is in is committed.
    pub async fn stop(self) {
        self.down().await;
    }

    async fn down(self) -> (Setup, Arc<dyn Clock>) {
        for (stop, task) in self.stop.into_iter().zip(self.tasks) {
            stop.send(()).ok();
            task.await.unwrap();
        }
        (self.setup, self.clock)
    }

    /// Stops and starts again on the same store.
    pub async fn restart(self) -> Node {
        let (setup, clock) = self.down().await;
        Node::run(setup, clock).await
    }

    /// kill -9 and a new start on the same store: nobody is told, nothing is finished.
    pub async fn kill(self) -> Node {
        for task in &self.tasks {
            task.abort();
        }
        for task in self.tasks {
            drop(task.await);
        }
        Node::run(self.setup, self.clock).await
    }
}
