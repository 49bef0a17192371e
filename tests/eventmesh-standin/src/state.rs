//! What the stand-in remembers, and how a test steers it.

use crate::check::{Refusal, no_topic};
use crate::message::{attribute, now_ms, text};
use crate::proto::CloudEvent;
use crate::service;
use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

/// What is done to one publish, instead of the usual.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// As usual.
    Usual,
    /// This code and text; nothing is stored.
    Code(u16, String),
    /// This gRPC status; nothing is stored.
    Grpc(i32, String),
    /// This event as the answer, whatever it is; nothing is stored.
    Event(Box<CloudEvent>),
    /// Never answered, not stored.
    Hang,
    /// Stored, never answered: the answer is lost.
    StoredAndSilent,
    /// As usual, later.
    Late(Duration),
}

/// A subscriber's stream.
#[derive(Clone, Debug)]
pub struct Client {
    /// Consumer group, topic and mode.
    pub group: String,
    /// EventMesh topic.
    pub topic: String,
    /// `CLUSTERING` or `BROADCASTING`.
    pub mode: String,
    /// Claimed identity.
    pub ip: String,
    /// Claimed identity.
    pub pid: String,
    stream: u64,
    sender: mpsc::UnboundedSender<Result<CloudEvent, Status>>,
}

#[derive(Debug, Default)]
struct Inner {
    script: VecDeque<Reply>,
    stored: Vec<CloudEvent>,
    clients: Vec<Client>,
    heartbeats: u64,
    subscriptions: u64,
    /// Every topic exists; else only those that somebody subscribes, as on standalone storage.
    any_topic: bool,
    /// `statuscode` of every answer to a heartbeat, if it is not the usual.
    heartbeat_code: Option<u16>,
    forgotten: HashSet<String>,
}

/// Shared between the services and the test.
#[derive(Debug, Default)]
pub(crate) struct State {
    inner: Mutex<Inner>,
    numbers: AtomicU64,
    changed: watch::Sender<u64>,
    keep_stored: std::sync::atomic::AtomicBool,
    count: AtomicU64,
}

impl State {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Relaxed)
    }

    pub(crate) fn next_reply(&self) -> Reply {
        self.inner().script.pop_front().unwrap_or(Reply::Usual)
    }

    fn notify(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// Stores an event and delivers it; the message number of its topic.
    pub(crate) fn store(&self, event: CloudEvent) -> Result<u64, Refusal> {
        let topic = text(&event, "subject").unwrap_or_default().to_owned();
        let mut inner = self.inner();
        if !inner.any_topic && !inner.clients.iter().any(|c| c.topic == topic) {
            return Err(no_topic(&topic));
        }
        // The publisher's dialect decides how it is encoded for consumers: another one is acknowledged and never arrives.
        if text(&event, "protocoldesc") == Some("grpc-cloud-event") {
            deliver(&mut inner, &topic, &event);
        }
        let number = self.count.fetch_add(1, Relaxed);
        if self.keep_stored.load(Relaxed) {
            inner.stored.push(event);
        }
        drop(inner);
        self.notify();
        Ok(number)
    }

    /// A heartbeat: the code of its answer.
    pub(crate) fn heartbeat(&self, event: &CloudEvent, topics: &[String]) -> u16 {
        let mut inner = self.inner();
        inner.heartbeats += 1;
        let group = text(event, "consumergroup").unwrap_or_default();
        let known = topics.iter().all(|topic| {
            inner.clients.iter().any(|c| {
                c.group == group
                    && c.topic == *topic
                    && Some(c.pid.as_str()) == text(event, "pid")
                    && Some(c.ip.as_str()) == text(event, "ip")
            })
        });
        let known = known && !inner.forgotten.contains(group);
        let code = inner.heartbeat_code.unwrap_or(if known { 0 } else { 30 });
        drop(inner);
        self.notify();
        code
    }

    /// A subscription on a stream: the same identity replaces what it had.
    pub(crate) fn subscribe(
        &self,
        event: &CloudEvent,
        items: &[(String, String)],
        stream: u64,
        sender: &mpsc::UnboundedSender<Result<CloudEvent, Status>>,
    ) {
        let get = |name| text(event, name).unwrap_or_default().to_owned();
        let (group, ip, pid) = (get("consumergroup"), get("ip"), get("pid"));
        let mut inner = self.inner();
        inner.forgotten.remove(&group);
        inner.subscriptions += 1;
        for (topic, mode) in items {
            inner.clients.retain(|c| {
                !(c.group == group && c.topic == *topic && c.mode == *mode && c.ip == ip && c.pid == pid)
            });
            inner.clients.push(Client {
                group: group.clone(),
                topic: topic.clone(),
                mode: mode.clone(),
                ip: ip.clone(),
                pid: pid.clone(),
                stream,
                sender: sender.clone(),
            });
        }
        drop(inner);
        self.notify();
    }

    /// The way out of a stream that is still registered.
    pub(crate) fn sender_of(&self, stream: u64) -> Option<mpsc::UnboundedSender<Result<CloudEvent, Status>>> {
        self.inner().clients.iter().find(|c| c.stream == stream).map(|c| c.sender.clone())
    }

    /// Half-closing a stream ends it at once; one that broke off stays registered until its heartbeat expires.
    pub(crate) fn request_side_closed(&self, stream: u64) {
        self.inner().clients.retain(|c| c.stream != stream);
        self.notify();
    }

    /// Removes every client of the group, topic and mode, not only the caller: their streams end.
    pub(crate) fn unsubscribe(&self, group: &str, items: &[(String, String)]) {
        let gone = |c: &Client| {
            c.group == group && items.iter().any(|(topic, mode)| c.topic == *topic && c.mode == *mode)
        };
        self.inner().clients.retain(|c| !gone(c));
        self.notify();
    }
}

fn deliver(inner: &mut Inner, topic: &str, event: &CloudEvent) {
    let mut event = event.clone();
    event.attributes.insert("reqmq2eventmeshtimestamp".to_owned(), attribute(now_ms()));
    event.attributes.insert("reqeventmesh2ctimestamp".to_owned(), attribute(now_ms()));
    let mut served = HashSet::new();
    // The last one that subscribed first: whichever the runtime picks, only one of a group gets it.
    for client in inner.clients.iter().rev().filter(|c| c.topic == topic) {
        if client.mode == "BROADCASTING" || served.insert(client.group.clone()) {
            // A stream that is gone stays registered, and what is routed to it is lost.
            drop(client.sender.send(Ok(event.clone())));
        }
    }
}

/// A running stand-in; it ends when dropped, and all its connections with it.
#[derive(Debug)]
pub struct StandIn {
    state: Arc<State>,
    addr: SocketAddr,
    running: Mutex<Option<Running>>,
}

/// It has a thread and a runtime of its own: when those end, so does every connection, whatever it was doing.
#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Running {
    fn start(listener: std::net::TcpListener, state: Arc<State>) -> std::io::Result<Running> {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            tokio::select! {
                () = service::serve(listener, state) => {}
                _ = stopped => {}
            }
        };
        Ok(Running { stop, thread: std::thread::spawn(move || runtime.block_on(serve)) })
    }
}

impl StandIn {
    /// Starts one on a free port of the loopback; every topic exists.
    ///
    /// # Panics
    /// If the loopback has no free port.
    #[must_use]
    pub fn start() -> StandIn {
        StandIn::start_at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Starts one at an address, for one that comes back.
    ///
    /// # Panics
    /// If the address cannot be had.
    #[must_use]
    pub fn start_at(addr: SocketAddr) -> StandIn {
        let state = Arc::new(State::default());
        state.keep_stored.store(true, Relaxed);
        state.inner().any_topic = true;
        let listener = std::net::TcpListener::bind(addr).expect("a port of the loopback");
        let addr = listener.local_addr().expect("it is bound");
        let running = Running::start(listener, state.clone()).expect("a thread and a runtime");
        StandIn { state, addr, running: Mutex::new(Some(running)) }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// As standalone storage does it: a topic that nobody subscribes refuses events with code 14.
    pub fn only_subscribed_topics(&self) {
        self.state.inner().any_topic = false;
    }

    /// What to do to the next publishes, in the order they come; after that, the usual.
    pub fn script(&self, replies: impl IntoIterator<Item = Reply>) {
        self.state.inner().script.extend(replies);
    }

    /// Answers every heartbeat with this code; `None`: the usual.
    pub fn heartbeat_code(&self, code: Option<u16>) {
        self.state.inner().heartbeat_code = code;
    }

    /// Forgets the clients of a group, as when their heartbeat has expired: their streams stay open and get nothing.
    pub fn forget(&self, group: &str) {
        let mut inner = self.state.inner();
        inner.forgotten.insert(group.to_owned());
        inner.clients.retain(|c| c.group != group);
    }

    /// Ends the streams of a group.
    pub fn end_streams(&self, group: &str) {
        self.state.inner().clients.retain(|c| c.group != group);
    }

    /// Ends it and all its connections, abruptly; what it stored can still be asked for.
    pub fn shut(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { stop, thread }) = running {
            drop(stop);
            drop(thread.join());
        }
    }

    /// From now on as usual, whatever was scripted.
    pub fn behave(&self) {
        self.state.inner().script.clear();
    }

    /// Publishes an event as a cloud application would; false if its topic refused it.
    pub fn publish(&self, event: CloudEvent) -> bool {
        self.state.store(event).is_ok()
    }

    /// Puts an event on every stream as it is, as the runtime would after adding what it adds.
    pub fn push(&self, event: &CloudEvent) {
        for client in &self.state.inner().clients {
            drop(client.sender.send(Ok(event.clone())));
        }
    }

    /// Events are counted from now on, not kept: for a load.
    pub fn count_only(&self) {
        self.state.keep_stored.store(false, Relaxed);
    }

    /// How many events were stored.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.state.count.load(Relaxed)
    }

    /// What was stored, in that order.
    #[must_use]
    pub fn stored(&self) -> Vec<CloudEvent> {
        self.state.inner().stored.clone()
    }

    /// Who subscribes.
    #[must_use]
    pub fn clients(&self) -> Vec<Client> {
        self.state.inner().clients.clone()
    }

    /// Heartbeats and subscriptions that came.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let inner = self.state.inner();
        (inner.heartbeats, inner.subscriptions)
    }

    /// Waits until it looks as wanted; the caller sets the time limit.
    pub async fn until(&self, wanted: impl Fn(&StandIn) -> bool) {
        let mut changed = self.state.changed.subscribe();
        while !wanted(self) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.shut();
    }
}
