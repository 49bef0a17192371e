//! Offline sessions with full queues: what they take in memory and on disk, how long a start on top of them takes, and
//! what a session that comes back costs. `cargo run --release -p eventmesh-edge-store --example mailbox_bench
//! [directory] [sessions] [messages each] [shared|own]`; `shared`: each message waits for all sessions, `own`: for one.
#![allow(clippy::expect_used, clippy::cast_precision_loss, reason = "a measuring tool: what fails ends it")]

use bytes::Bytes;
use eventmesh_edge_core::event::{Event, Position, Qos, Timestamp, Via};
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::{
    Change, Commit, CommitError, MailboxEntry, MailboxItem, NewEvent, SessionNo, StateChange, Store,
    StoreSpec, StreamSpec, WhenFull,
};
use eventmesh_edge_store::{JournalStore, StoreOptions};
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

const PAYLOAD_BYTES: usize = 200;
/// Messages of one commit in `own`.
const BATCH: u64 = 64;

struct WallClock(Instant);

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        Timestamp(1_790_000_000_000 + u64::try_from(self.0.elapsed().as_millis()).unwrap_or(0))
    }
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

fn rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|l| l.starts_with("VmRSS")).expect("Linux");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn event(n: u64) -> Event {
    let mut payload = format!("{{\"seq\":{n},\"temperature\":{}.{}", n % 40, n % 10).into_bytes();
    payload.resize(PAYLOAD_BYTES, b' ');
    Event {
        via: Via::Mqtt3,
        qos: Qos::AtLeastOnce,
        retain: false,
        source: format!("mqtt://plant-7/sensor-{}", n % 50).into(),
        id: None,
        time: Some(Timestamp(1_790_000_000_000 + n)),
        received: Timestamp(1_790_000_000_000 + n),
        expires: None,
        topic: "plant/7/temperature".into(),
        payload: Bytes::from(payload),
        properties: None,
    }
}

fn spec() -> StoreSpec {
    let stream = StreamSpec {
        name: "telemetry".into(),
        uplinks: Vec::new(),
        max_bytes: 1 << 30,
        max_age: None,
        when_full: WhenFull::DropOldest,
    };
    StoreSpec {
        streams: vec![stream],
        uplinks: Vec::new(),
        disk_max: 64 << 30,
        mailbox_max_bytes: 1 << 30,
        mailbox_max_events: 1 << 30,
        mailboxes_max_bytes: 16 << 30,
    }
}

fn open(dir: &Path) -> JournalStore {
    let clock = Arc::new(WallClock(Instant::now()));
    JournalStore::open(dir, spec(), &StoreOptions::default(), clock).expect("open").0
}

/// Commits, as often as there is no room yet.
fn commit(store: &JournalStore, room: &mpsc::Receiver<()>, made: &Commit) {
    loop {
        while room.try_recv().is_ok() {}
        let (tx, rx) = mpsc::channel();
        store.submit(made.clone(), Box::new(move |answer| tx.send(answer).expect("the caller waits")));
        match rx.recv().expect("answered") {
            Ok(_) => return,
            Err(CommitError::Full { .. }) => room.recv().expect("the store lives"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Told when refused commits may be tried again.
fn room(store: &JournalStore) -> mpsc::Receiver<()> {
    let (tx, rx) = mpsc::channel();
    let tx = Mutex::new(tx);
    store.watch(Arc::new(move |change| {
        if change == Change::Room {
            tx.lock().expect("nobody panics here").send(()).unwrap_or(());
        }
    }));
    rx
}

fn mail(n: u64, sessions: impl Iterator<Item = u64>) -> NewEvent {
    let entry =
        |session| MailboxEntry { session: SessionNo(session), options: Bytes::from_static(&[0x11, 0]) };
    NewEvent { stream: None, event: event(n), mailboxes: sessions.map(entry).collect() }
}

fn mailbox(store: &JournalStore, session: u64, after: Position) -> Vec<MailboxItem> {
    let (tx, rx) = mpsc::channel();
    store.read_mailbox(SessionNo(session), after, 100, 1 << 20, Box::new(move |items| drop(tx.send(items))));
    rx.recv().expect("answered").expect("read")
}

fn fill(store: &JournalStore, sessions: u64, messages: u64, shared: bool) -> u64 {
    let (room, mut peak) = (room(store), 0);
    let steps = if shared { messages } else { sessions * messages / BATCH };
    for step in 0..steps {
        let events = if shared {
            vec![mail(step, 0..sessions)]
        } else {
            (step * BATCH..(step + 1) * BATCH).map(|n| mail(n, std::iter::once(n % sessions))).collect()
        };
        commit(store, &room, &Commit { events, ..Commit::default() });
        peak = peak.max(rss_kib());
        if step % (steps / 10).max(1) == 0 {
            println!("    {step:>8} of {steps}: {}", figures(store));
        }
    }
    peak
}

fn figures(store: &JournalStore) -> String {
    let stats = store.stats();
    format!(
        "RSS {} KiB, disk {} MiB, written {} MiB, {} segments",
        rss_kib(),
        stats.disk_bytes >> 20,
        stats.bytes_written >> 20,
        stats.journal_segments
    )
}

/// Sessions come back one after the other, read everything and take it out.
fn drain(store: &JournalStore, sessions: u64) -> u64 {
    let (room, mut items) = (room(store), 0);
    for session in 0..sessions {
        let mut after = Position::ZERO;
        loop {
            let page = mailbox(store, session, after);
            let Some(last) = page.last() else { break };
            after = last.event.position;
            items += page.len() as u64;
            let remove = |item: &MailboxItem| StateChange::MailboxRemove {
                session: SessionNo(session),
                position: item.event.position,
            };
            let state = page.iter().map(remove).collect();
            commit(store, &room, &Commit { state, ..Commit::default() });
        }
    }
    items
}

fn timed<T>(what: &str, count: u64, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let out = work();
    let wall = started.elapsed();
    println!("{what:<8} {:>9.2} s {:>11.0}/s", wall.as_secs_f64(), count as f64 / wall.as_secs_f64());
    out
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |at: usize, default| args.get(at).and_then(|n| n.parse().ok()).unwrap_or(default);
    let dir = args.get(1).map_or_else(|| std::env::temp_dir().join("mailbox-bench"), Into::into);
    let (sessions, messages) = (number(2, 10_000), number(3, 1_000));
    let shared = args.get(4).is_none_or(|mode| mode == "shared");
    drop(std::fs::remove_dir_all(&dir));
    println!("{sessions} sessions, {messages} messages each, {}", if shared { "shared" } else { "own" });
    let store = open(&dir);
    let claims = sessions * messages;
    let peak = timed("fill", claims, || fill(&store, sessions, messages, shared));
    println!("         peak RSS {peak} KiB; {}", figures(&store));
    timed("close", 1, || store.close());
    drop(store);
    let store = timed("open", 1, || open(&dir));
    println!("         {}", figures(&store));
    let back = sessions.min(100);
    let items = timed("drain", back * messages, || drain(&store, back));
    println!("         {items} messages of {back} sessions; {}", figures(&store));
    store.close();
    drop(store);
    std::fs::remove_dir_all(&dir).expect("removed");
}
