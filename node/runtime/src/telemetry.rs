//! The node's own events as a task: [`core::telemetry`](eventmesh_edge_core::telemetry) decides, this looks around and
//! commits.
//!
//! Once a second it looks at the links and asks the rules what is due. What they make is committed to the node's stream
//! like any event, together with the ledger entries that it tells of, and the forwarders take it from there.

use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::{
    Commit, CommitError, Committed, Consumer, NewEvent, StateChange, Store, StreamId, UplinkId,
};
use eventmesh_edge_core::telemetry::{Batch, Link, Options, Telemetry, Vitals};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::debug;

/// Links are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The last word gets this long to reach the uplinks that are up.
const LAST_WORD: Duration = Duration::from_secs(2);
/// How often it is looked whether it has.
const LAST_WORD_LOOK: Duration = Duration::from_millis(20);

/// The node as it is seen from outside. Called once a second, from the runtime's thread: figures that are in memory.
pub trait VitalSigns: Send + Sync {
    /// The uplinks that read the node's own stream, as they are now. They may be others the next time.
    fn readers(&self) -> Vec<Reader>;
    /// All figures.
    fn vitals(&self) -> Vitals;
}

/// One uplink that reads the node's own stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Its number at the ports.
    pub id: UplinkId,
    /// Its name.
    pub uplink: Text,
    /// Whether it is connected.
    pub link: Link,
}

/// What stops the node, for its last event. The first word counts.
#[derive(Clone, Debug, Default)]
pub struct StopCause(Arc<OnceLock<Text>>);

impl StopCause {
    /// Says it.
    pub fn set(&self, cause: &str) {
        self.0.get_or_init(|| Text::from(cause));
    }

    fn get(&self) -> Text {
        self.0.get().cloned().unwrap_or_else(|| Text::from_static("asked to stop"))
    }
}

/// The service: made, then run.
pub struct Reporter {
    rules: Telemetry,
    stream: StreamId,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    signs: Arc<dyn VitalSigns>,
    cause: StopCause,
}

impl Reporter {
    /// - `stream`: takes the events
    #[must_use]
    pub fn new(
        options: Options,
        stream: StreamId,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        signs: Arc<dyn VitalSigns>,
    ) -> Reporter {
        let rules = Telemetry::new(options);
        Reporter { rules, stream, store, clock, signs, cause: StopCause::default() }
    }

    /// Where to say what stops the node.
    #[must_use]
    pub fn stop_cause(&self) -> StopCause {
        self.cause.clone()
    }

    /// Reports until `stop` is ready, then says so and waits a moment for the uplinks to take it: before they stop.
    pub async fn run(mut self, stop: impl Future<Output = ()> + Send) {
        let mut stop = pin!(stop);
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                _ = looks.tick() => drop(self.turn().await),
            }
        }
        self.rules.stop(self.cause.get());
        if let Some(last) = self.turn().await
            && timeout(LAST_WORD, self.sent(last)).await.is_err()
        {
            debug!("the node's last event is not acknowledged yet, it goes out after the next start");
        }
    }

    /// One look, and what comes of it; the position of the last event that became durable.
    async fn turn(&mut self) -> Option<Position> {
        let now = self.clock.monotonic();
        let links = self.links();
        if links.is_empty() {
            // Nobody would hear it.
            return None;
        }
        let due = self.rules.look(now, &links);
        let vitals = due.vitals.then(|| self.signs.vitals());
        let entries = due.ledger.map(|(after, max)| self.store.ledger_after(after, max));
        let batch = self.rules.gather(now, self.clock.now(), vitals, entries.unwrap_or_default())?;
        let outcome = self.commit(batch).await;
        if let Err(error) = &outcome {
            // Not a warning: whoever filled the disk has been warned, and nothing is lost by it.
            debug!(%error, "the node's own events are not committed, trying again later");
        }
        let settled = outcome.as_ref().map(drop).map_err(CommitError::class);
        self.rules.settled(self.clock.monotonic(), settled);
        outcome.ok()?.positions.last().copied()
    }

    /// The links of whoever reads the stream by now.
    fn links(&mut self) -> Vec<Link> {
        let readers = self.signs.readers();
        if !readers.iter().map(|reader| &reader.uplink).eq(self.rules.uplinks()) {
            self.rules.set_uplinks(readers.iter().map(|reader| reader.uplink.clone()).collect());
        }
        readers.into_iter().map(|reader| reader.link).collect()
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let stream = Some(self.stream);
        let event = |event| NewEvent { stream, event, mailboxes: Vec::new() };
        let commit = Commit {
            events: batch.events.into_iter().map(event).collect(),
            state: batch.forget.map(|through| StateChange::LedgerForget { through }).into_iter().collect(),
            ..Commit::default()
        };
        let (done, answer) = oneshot::channel();
        // Nobody listens any more: then this task was dropped at the end of a stop.
        self.store.submit(commit, Box::new(move |outcome| drop(done.send(outcome))));
        answer.await.unwrap_or(Err(CommitError::Closed))
    }

    async fn sent(&self, last: Position) {
        for reader in self.signs.readers().into_iter().filter(|reader| reader.link.up) {
            let consumer = Consumer { stream: self.stream, uplink: reader.id };
            while self.store.backlog(consumer).acked < last {
                sleep(LAST_WORD_LOOK).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eventmesh_edge_contract::MemoryStore;
    use eventmesh_edge_contract::suite::support::{consumer, read_all, spec_of, stream};
    use eventmesh_edge_core::event::{LogId, StoredEvent, Timestamp};
    use eventmesh_edge_core::ports::store::{CursorChange, Loss, LossReason, WhenFull};
    use eventmesh_edge_core::telemetry::PreviousStop;

    /// Stands still: tokio's paused time is what moves here.
    struct TokioClock(tokio::time::Instant);

    impl Clock for TokioClock {
        fn now(&self) -> Timestamp {
            Timestamp(1_790_000_000_000)
        }

        fn monotonic(&self) -> Duration {
            self.0.elapsed()
        }
    }

    /// Stands in for the node: one uplink, up.
    struct OneLink;

    impl VitalSigns for OneLink {
        fn readers(&self) -> Vec<Reader> {
            let link = Link { up: true, connections: 1, ..Link::default() };
            vec![Reader { id: UplinkId(0), uplink: Text::from_static("up-0"), link }]
        }

        fn vitals(&self) -> Vitals {
            Vitals::default()
        }
    }

    fn reporter() -> (Reporter, Arc<MemoryStore>) {
        let data = stream("data", &[0], 1 << 20, WhenFull::DropOldest);
        let store = MemoryStore::new(spec_of([data, stream("own", &[0], 1 << 20, WhenFull::DropOldest)]));
        let options = Options {
            node: Text::from_static("n"),
            log: LogId(1),
            epoch: 1,
            version: Text::from_static("0"),
            heartbeat: Duration::from_secs(60),
            stream: Text::from_static("own"),
            uplinks: vec![Text::from_static("up-0")],
            previous_stop: PreviousStop::First,
            cut_bytes: 0,
            quarantined_files: 0,
        };
        let clock = Arc::new(TokioClock(tokio::time::Instant::now()));
        let reporter = Reporter::new(
            options,
            StreamId(1),
            Arc::clone(&store) as Arc<dyn Store>,
            clock,
            Arc::new(OneLink),
        );
        (reporter, store)
    }

    fn own_events(store: &MemoryStore) -> Vec<StoredEvent> {
        read_all(store, consumer(1, 0), Position::ZERO)
    }

    fn kinds(store: &MemoryStore) -> Vec<String> {
        let kind = |event: &StoredEvent| {
            let user = &event.event.properties.as_ref().unwrap().user;
            user.iter().find(|(name, _)| *name == "type").map(|(_, kind)| kind.to_string()).unwrap()
        };
        let short = |kind: String| kind.trim_start_matches("io.eventmesh.edge.node.").to_owned();
        own_events(store).iter().map(kind).map(short).collect()
    }

    fn lose(store: &MemoryStore) {
        let loss = Loss {
            consumer: Some(consumer(0, 0)),
            reason: LossReason::Rejected,
            events: 3,
            bytes: 300,
            range: (Position(1), Position(9)),
        };
        store
            .submit(Commit { losses: vec![loss], ..Commit::default() }, Box::new(|done| drop(done.unwrap())));
    }

    #[tokio::test(start_paused = true)]
    async fn birth_heartbeats_losses_and_the_last_word_are_stored() {
        let (reporter, store) = reporter();
        let cause = reporter.stop_cause();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(reporter.run(async { stopped.await.unwrap_or_default() }));
        sleep(Duration::from_millis(500)).await;
        assert_eq!(kinds(&store), ["birth", "uplink.up", "heartbeat"]);
        lose(&store);
        // Asking makes an entry, the next question gets it.
        sleep(Duration::from_secs(12)).await;
        assert_eq!(kinds(&store).last().unwrap(), "ledger");
        assert_eq!(store.ledger_after(0, 10), [], "told is forgotten");
        sleep(Duration::from_secs(60)).await;
        assert_eq!(kinds(&store).last().unwrap(), "heartbeat");
        cause.set("SIGTERM");
        stop.send(()).unwrap();
        sleep(Duration::from_millis(500)).await;
        assert!(!task.is_finished(), "waits for the uplink to have it");
        let last = own_events(&store).pop().unwrap();
        assert!(String::from_utf8_lossy(&last.event.payload).contains("SIGTERM"));
        let cursors = vec![CursorChange { consumer: consumer(1, 0), acked: last.position }];
        store.submit(Commit { cursors, ..Commit::default() }, Box::new(|done| drop(done.unwrap())));
        tokio::time::timeout(Duration::from_millis(100), task).await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_does_not_wait_for_ever() {
        let (reporter, store) = reporter();
        let before = tokio::time::Instant::now();
        reporter.run(std::future::ready(())).await;
        assert_eq!(before.elapsed(), LAST_WORD);
        assert_eq!(kinds(&store).last().unwrap(), "stopped");
    }
}
