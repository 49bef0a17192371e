//! The service against a store in memory and a scripted upstream, in virtual time.

mod scripted;

use super::*;
use bytes::Bytes;
use eventmesh_edge_contract::{FaultyStore, MemoryStore, Script};
use eventmesh_edge_core::event::{Event, Position, Qos, Timestamp, Via};
use eventmesh_edge_core::forward::Order;
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::store::{
    Commit, LossReason, NewEvent, StoreSpec, StreamSpec, UplinkId, WhenFull,
};
use eventmesh_edge_core::ports::uplink::Downward;
use scripted::{Mode, Upstream};
use std::collections::BTreeSet;
use std::sync::Mutex;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Virtual time for both clocks.
struct TokioClock(Instant);

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp(1_800_000_000_000).after(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Keeps what came down until the test answers.
#[derive(Default)]
struct Shelf(Mutex<Vec<(Downward, Completion<Kept>)>>);

impl Shelf {
    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn answer(&self, idx: usize, durable: bool) {
        let (_, done) = self.0.lock().unwrap().remove(idx);
        done(if durable { Kept::Durable } else { Kept::Again });
    }
}

impl Shelf {
    /// It can never be kept.
    fn refuse(&self, idx: usize) {
        let (_, done) = self.0.lock().unwrap().remove(idx);
        done(Kept::Dropped(Text::from_static("too large")));
    }
}

impl DownwardSink for Shelf {
    fn accept(&self, message: Downward, done: Completion<Kept>) {
        self.0.lock().unwrap().push((message, done));
    }
}

fn spec(when_full: WhenFull, max_bytes: u64) -> StoreSpec {
    let stream = |name: &'static str| StreamSpec {
        name: Text::from_static(name),
        uplinks: vec![UplinkId(0), UplinkId(1)],
        max_bytes,
        max_age: None,
        when_full,
    };
    StoreSpec {
        streams: vec![stream("telemetry"), stream("alarms")],
        uplinks: vec![Text::from_static("cloud"), Text::from_static("site")],
        disk_max: 1 << 30,
        mailbox_max_bytes: 1 << 20,
        mailbox_max_events: 1_000,
        mailboxes_max_bytes: 1 << 30,
    }
}

fn roomy() -> StoreSpec {
    spec(WhenFull::Refuse, 1 << 26)
}

fn publish(store: &dyn Store, stream: u16, events: usize) {
    let event = |n: usize| NewEvent {
        stream: Some(StreamId(stream)),
        event: Event {
            via: Via::Mqtt5,
            qos: Qos::AtLeastOnce,
            retain: false,
            source: Text::from_static("mqtt://n/d"),
            id: None,
            time: None,
            received: Timestamp(1_800_000_000_000),
            expires: None,
            topic: Text::from(format!("t/{}", n % 7)),
            payload: Bytes::from_static(b"21.5"),
            properties: None,
        },
        mailboxes: Vec::new(),
    };
    let events = (0..events).map(event).collect();
    store.submit(Commit { events, ..Commit::default() }, Box::new(|done| assert!(done.is_ok())));
}

struct Node {
    store: Arc<dyn Store>,
    clock: Arc<TokioClock>,
}

struct Running {
    handle: Handle,
    sink: Arc<Shelf>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Node {
    fn new(store: Arc<dyn Store>) -> Self {
        Self { store, clock: Arc::new(TokioClock(Instant::now())) }
    }

    fn options(uplink: u16) -> Options {
        let kind: KindOf = Arc::new(|stream, _| Text::from(format!("kind.{}", stream.0)));
        let stream = |(id, name): (u16, &'static str)| Stream {
            id: StreamId(id),
            name: Text::from_static(name),
            max_age: None,
            weight: 1,
        };
        let mut options = Options::new(Text::from_static("cloud"), UplinkId(uplink), kind);
        options.streams = [(0, "telemetry"), (1, "alarms")].map(stream).to_vec();
        options.rules.order = Order::Sequence;
        options.rules.seed = 7;
        options
    }

    fn start(&self, upstream: &Upstream, options: Options) -> Running {
        let sink = Arc::new(Shelf::default());
        let clock: Arc<dyn Clock> = self.clock.clone();
        let forward =
            Forward::new(options, Arc::clone(&self.store), upstream.uplink(), clock, sink.clone()).unwrap();
        let handle = forward.handle();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(forward.run(async {
            stopped.await.unwrap_or_default();
        }));
        Running { handle, sink, stop: Some(stop), task }
    }

    fn acked(&self, uplink: u16) -> Position {
        self.store.backlog(Consumer { stream: StreamId(0), uplink: UplinkId(uplink) }).acked
    }

    fn waiting(&self, uplink: u16) -> u64 {
        self.store.backlog(Consumer { stream: StreamId(0), uplink: UplinkId(uplink) }).events
    }

    fn lost(&self, reason: LossReason) -> u64 {
        self.store.ledger().iter().filter(|line| line.reason == reason).map(|line| line.events).sum()
    }
}

impl Running {
    async fn stop(mut self) -> Duration {
        let begin = Instant::now();
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap();
        begin.elapsed()
    }
}

/// Lets virtual time pass until something is true. Time stands still while anything can run, so this waits for no
/// longer than what is waited for takes.
async fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    for _ in 0..200_000 {
        if is_true() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(start_paused = true)]
async fn a_backlog_drains_from_the_connection_alone() {
    let node = Node::new(MemoryStore::new(roomy()));
    publish(&*node.store, 0, 3_000);
    publish(&*node.store, 1, 10);
    let upstream = Upstream::new(Mode::Works);
    let running = node.start(&upstream, Node::options(0));
    until("drained", || node.waiting(0) == 0).await;
    assert_eq!(upstream.received(), 3_010);
    let positions: Vec<_> =
        upstream.state().received.iter().filter(|r| r.stream.0 == 0).map(|r| r.position).collect();
    assert!(positions.is_sorted(), "in order");
    let kinds: BTreeSet<_> = upstream.state().received.iter().map(|r| r.kind.clone()).collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["kind.0", "kind.1"]);
    assert!(upstream.state().flushes < 100, "one flush per round, not per event");
    publish(&*node.store, 1, 1);
    until("the new one", || upstream.received() == 3_011).await;
    running.stop().await;
    assert!(upstream.state().closed);
    assert_eq!(node.waiting(1), 3_000, "the other uplink has its own cursor");
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_for_the_next_look_at_the_clock() {
    let node = Node::new(MemoryStore::new(roomy()));
    let upstream = Upstream::new(Mode::Refuses);
    let running = node.start(&upstream, Node::options(0));
    until("refused", || upstream.state().connects.len() == 1).await;
    upstream.set(Mode::Works);
    // The first delay is a quarter of a second at most, although nothing but the timer wakes the service.
    tokio::time::sleep(Duration::from_millis(260)).await;
    assert_eq!(running.handle.status().state, LinkState::Up);
    for n in 1..=5 {
        publish(&*node.store, 0, 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(upstream.received(), n, "sent when it is durable, not at the next tick");
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_was_away_gets_everything_without_a_new_publish() {
    let node = Node::new(MemoryStore::new(roomy()));
    publish(&*node.store, 0, 500);
    let upstream = Upstream::new(Mode::Refuses);
    let running = node.start(&upstream, Node::options(0));
    tokio::time::sleep(Duration::from_secs(600)).await;
    let connects = upstream.state().connects.clone();
    assert!(connects.len() < 60, "{} attempts in ten minutes", connects.len());
    assert_eq!(connects[..4], [0, 1, 0, 1], "addresses take turns");
    let status = running.handle.status();
    assert_eq!((status.state, status.backlog_events()), (LinkState::Down, 500));
    assert_eq!(status.cause.as_deref(), Some("connection refused"));
    assert!(status.retry_in.is_some_and(|time| time <= Duration::from_secs(30)));
    upstream.set(Mode::Works);
    until("drained", || node.waiting(0) == 0).await;
    let status = running.handle.status();
    assert_eq!((status.state, status.cause), (LinkState::Up, None));
    assert_eq!(status.address.as_deref(), Some("hub:1883"));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_hanging_upstream_is_left_and_nothing_is_lost() {
    let node = Node::new(MemoryStore::new(roomy()));
    publish(&*node.store, 0, 200);
    let upstream = Upstream::new(Mode::Hangs);
    let running = node.start(&upstream, Node::options(0));
    until("sent", || upstream.received() == 200).await;
    let status = running.handle.status();
    assert_eq!(status.in_flight.events, 200);
    upstream.set(Mode::Works);
    until("drained", || node.waiting(0) == 0).await;
    assert_eq!(upstream.state().connects.len(), 2);
    let again = upstream.state().received.iter().filter(|receipt| receipt.again).count();
    assert_eq!(again, 200);
    assert_eq!(running.handle.status().counters.again, 200);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn resets_cost_duplicates_with_the_same_id_and_nothing_else() {
    let node = Node::new(MemoryStore::new(roomy()));
    publish(&*node.store, 0, 2_000);
    let upstream = Upstream::new(Mode::ResetsAt(150));
    let running = node.start(&upstream, Node::options(0));
    until("drained", || node.waiting(0) == 0).await;
    let ids: BTreeSet<_> = upstream.state().received.iter().map(|r| (r.position, r.id.clone())).collect();
    assert_eq!(ids.len(), 2_000, "one id per position (P3)");
    assert!(upstream.received() > 2_000 && upstream.state().connects.len() > 10);
    assert_eq!(node.lost(LossReason::Parked), 0);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cursor_waits_for_the_first_of_answers_out_of_order() {
    let node = Node::new(MemoryStore::new(roomy()));
    publish(&*node.store, 0, 10);
    let upstream = Upstream::new(Mode::Hangs);
    let running = node.start(&upstream, Node::options(0));
    until("sent", || upstream.received() == 10).await;
    for _ in 0..9 {
        upstream.ack(1);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(node.acked(0), Position::ZERO);
    upstream.ack(0);
    until("all", || node.waiting(0) == 0).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rejected_events_are_counted_and_block_nobody() {
    let node = Node::new(MemoryStore::new(roomy()));
    publish(&*node.store, 0, 1_000);
    let upstream = Upstream::new(Mode::RejectsEvery(10));
    let running = node.start(&upstream, Node::options(0));
    until("drained", || node.waiting(0) == 0).await;
    assert_eq!(node.lost(LossReason::Rejected), 100);
    let status = running.handle.status();
    assert_eq!((status.counters.acked, status.counters.rejected), (900, 100));
    assert_eq!(status.last_refusal.as_deref(), Some("payload format invalid"));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_uplink_leaves_its_neighbour_its_pace() {
    let pace = |dead: Option<Mode>| async move {
        let node = Node::new(MemoryStore::new(roomy()));
        let (good, bad) = (Upstream::new(Mode::Works), Upstream::new(dead.unwrap_or(Mode::Works)));
        let healthy = node.start(&good, Node::options(0));
        let other = dead.map(|_| node.start(&bad, Node::options(1)));
        let begin = Instant::now();
        for _ in 0..100 {
            publish(&*node.store, 0, 20);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        until("drained", || node.waiting(0) == 0).await;
        assert_eq!(good.received(), 2_000);
        if let Some(other) = other {
            assert_eq!(node.waiting(1), 2_000);
            let held = other.handle.status();
            assert!(held.in_flight.events + held.waiting.events <= 4_000, "P5: {held:?}");
            other.stop().await;
        }
        healthy.stop().await;
        begin.elapsed()
    };
    let alone = pace(None).await;
    for dead in [Mode::Refuses, Mode::Dead, Mode::Hangs] {
        let beside = pace(Some(dead)).await;
        // A stop may wait for answers; the traffic itself took as long as without the neighbour.
        assert!(beside <= alone + Duration::from_secs(5), "{dead:?}: {beside:?} instead of {alone:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_answers_and_makes_cursors_durable() {
    let node = Node::new(MemoryStore::new(roomy()));
    publish(&*node.store, 0, 20);
    let upstream = Upstream::new(Mode::Hangs);
    let running = node.start(&upstream, Node::options(0));
    until("sent", || upstream.received() == 20).await;
    let answers = upstream.clone();
    let late = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        (0..20).fold(Position::ZERO, |_, _| answers.ack(0))
    });
    let handle = running.handle.clone();
    let took = running.stop().await;
    assert_eq!(node.acked(0), late.await.unwrap());
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(upstream.state().closed);
    assert_eq!(handle.status().state, LinkState::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_stop_keeps_its_limit_beside_an_upstream_that_does_nothing() {
    let node = Node::new(MemoryStore::new(roomy()));
    publish(&*node.store, 0, 20);
    let upstream = Upstream::new(Mode::Hangs);
    upstream.state().close_hangs = true;
    let running = node.start(&upstream, Node::options(0));
    until("sent", || upstream.received() == 20).await;
    let first = upstream.ack(0);
    let took = running.stop().await;
    assert!(took <= Duration::from_secs(5) + Duration::from_millis(20), "{took:?}");
    assert_eq!(node.acked(0), first, "what was acknowledged is durable");
}

#[tokio::test(start_paused = true)]
async fn what_the_store_gave_up_during_an_outage_is_not_sent_after_it() {
    let node = Node::new(MemoryStore::new(spec(WhenFull::DropOldest, 100_000)));
    let upstream = Upstream::new(Mode::Hangs);
    let running = node.start(&upstream, Node::options(0));
    publish(&*node.store, 0, 50);
    until("sent", || upstream.received() == 50).await;
    upstream.set(Mode::Refuses);
    upstream.reset();
    for _ in 0..400 {
        publish(&*node.store, 0, 10);
    }
    let given_up = node.lost(LossReason::QueueFull);
    assert!(given_up > 0);
    let acked = node.acked(0);
    assert!(upstream.positions().iter().all(|position| *position <= acked), "the first are gone");
    upstream.set(Mode::Works);
    until("drained", || node.waiting(0) == 0).await;
    let after: Vec<_> = upstream.positions().split_off(50);
    assert!(after.iter().all(|position| *position > acked), "nothing that was given up is sent");
    assert!(after.is_sorted());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_now_and_then_is_asked_again() {
    let inner = MemoryStore::new(roomy());
    publish(&*inner, 0, 1_000);
    let script = (0..20).fold(Script::none(), |script, n| {
        script.submit(n, eventmesh_edge_contract::Fault::Io).read(n * 2, eventmesh_edge_contract::Fault::Io)
    });
    let node = Node::new(Arc::new(FaultyStore::new(inner, script)));
    let upstream = Upstream::new(Mode::RejectsEvery(100));
    let running = node.start(&upstream, Node::options(0));
    until("drained", || node.waiting(0) == 0).await;
    assert_eq!(upstream.received(), 1_000);
    assert_eq!(node.lost(LossReason::Rejected), 10);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_down_is_confirmed_when_it_is_durable() {
    let node = Node::new(MemoryStore::new(roomy()));
    let upstream = Upstream::new(Mode::Works);
    let running = node.start(&upstream, Node::options(0));
    until("up", || running.handle.status().state == LinkState::Up).await;
    for token in 1..=3 {
        upstream.send_down(token);
    }
    upstream.send_down(0);
    until("handed over", || running.sink.len() == 4).await;
    assert!(upstream.state().confirmed.is_empty(), "P1, towards the upstream");
    running.sink.answer(3, true);
    running.sink.answer(1, false);
    running.sink.answer(0, true);
    until("confirmed", || !upstream.state().confirmed.is_empty()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(upstream.state().confirmed, [1], "not what was not kept, not what wants no answer");
    upstream.reset();
    until("up again", || upstream.state().connects.len() == 2).await;
    running.sink.answer(0, true);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(upstream.state().confirmed, [1], "token 3 was the old connection's");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_kept_is_handed_over_again_on_the_same_connection() {
    let node = Node::new(MemoryStore::new(roomy()));
    let upstream = Upstream::new(Mode::Works);
    let running = node.start(&upstream, Options { downward_max: 2, ..Node::options(0) });
    until("up", || running.handle.status().state == LinkState::Up).await;
    upstream.send_down(1);
    upstream.send_down(2);
    until("handed over", || running.sink.len() == 2).await;
    running.sink.answer(0, false);
    running.sink.answer(0, false);
    until("handed over again", || running.sink.len() == 2).await;
    running.sink.answer(0, true);
    running.sink.answer(0, true);
    until("confirmed", || upstream.state().confirmed == [1, 2]).await;
    assert_eq!(upstream.state().connects.len(), 1);
    running.stop().await;
}

/// However often it is tried; before, the hub counted each try of one with QoS 0.
#[tokio::test(start_paused = true)]
async fn a_command_that_is_never_kept_is_counted_once() {
    let node = Node::new(MemoryStore::new(roomy()));
    let upstream = Upstream::new(Mode::Works);
    let running = node.start(&upstream, Node::options(0));
    until("up", || running.handle.status().state == LinkState::Up).await;
    upstream.send_down(1);
    for _ in 0..3 {
        until("handed over", || running.sink.len() == 1).await;
        assert_eq!(running.handle.status().downward_dropped, 0);
        running.sink.answer(0, false);
    }
    until("handed over", || running.sink.len() == 1).await;
    running.sink.refuse(0);
    until("counted", || running.handle.status().downward_dropped == 1).await;
    assert_eq!(upstream.state().confirmed, [1]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_that_wants_no_answer_leaves_room_for_what_does() {
    let node = Node::new(MemoryStore::new(roomy()));
    let upstream = Upstream::new(Mode::Works);
    let running = node.start(&upstream, Options { downward_max: 2, ..Node::options(0) });
    until("up", || running.handle.status().state == LinkState::Up).await;
    for token in [0, 0, 0, 0, 0, 7, 0, 8] {
        upstream.send_down(token);
    }
    until("received", || running.handle.status().downward_received == 8).await;
    assert_eq!(running.handle.status().downward_dropped, 4);
    for _ in 0..4 {
        until("handed over", || running.sink.len() > 0).await;
        running.sink.answer(0, true);
    }
    until("confirmed", || upstream.state().confirmed == [7, 8]).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn messages_from_above_are_bounded() {
    let node = Node::new(MemoryStore::new(roomy()));
    let upstream = Upstream::new(Mode::Works);
    let running = node.start(&upstream, Options { downward_max: 4, ..Node::options(0) });
    until("up", || running.handle.status().state == LinkState::Up).await;
    for token in 1..=20 {
        upstream.send_down(token);
    }
    until("received", || running.handle.status().downward_received == 20).await;
    assert_eq!(running.sink.len(), 4);
    assert_eq!(running.handle.status().downward_dropped, 12);
    for _ in 0..8 {
        until("handed over", || running.sink.len() > 0).await;
        running.sink.answer(0, true);
    }
    until("confirmed", || upstream.state().confirmed.len() == 8).await;
    assert_eq!(upstream.state().confirmed, (1..=8).collect::<Vec<_>>(), "in order");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn status_tells_pace_and_end() {
    let node = Node::new(MemoryStore::new(roomy()));
    publish(&*node.store, 0, 20_000);
    let upstream = Upstream::new(Mode::Hangs);
    upstream.state().window = 100;
    let running = node.start(&upstream, Node::options(0));
    until("sent", || upstream.received() == 100).await;
    for _ in 0..100 {
        for _ in 0..10 {
            upstream.ack(0);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let status = running.handle.status();
    assert!((90.0..110.0).contains(&status.rate_per_s), "{}", status.rate_per_s);
    let end = status.time_to_drain.unwrap().as_secs();
    assert!((150..250).contains(&end), "{end} s for {}", status.backlog_events());
    assert!(status.last_acked.unwrap() <= Duration::from_millis(200));
    assert_eq!(status.streams[0].name, "telemetry");
    assert!(status.oldest.is_some());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_uplink_gets_new_settings_while_it_runs_and_while_it_waits() {
    let node = Node::new(MemoryStore::new(roomy()));
    publish(&*node.store, 0, 100);
    let old = Upstream::new(Mode::Hangs);
    let running = node.start(&old, Node::options(0));
    until("under way", || old.received() == 100).await;
    old.ack(0);
    // Answered and replaced in one round: the answer counts.
    let dead = Upstream::new(Mode::Refuses);
    running.handle.replace(dead.uplink());
    until("the new one is tried", || dead.state().connects.len() == 8).await;
    let new = Upstream::new(Mode::Works);
    running.handle.replace(new.uplink());
    // At once, not when the pause between two attempts has passed.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(running.handle.status().state, LinkState::Up);
    until("drained", || node.waiting(0) == 0).await;
    assert_eq!((old.received(), new.received()), (100, 99), "what was under way goes out again");
    assert!(new.state().received.iter().all(|receipt| receipt.again));
    running.stop().await;
}
