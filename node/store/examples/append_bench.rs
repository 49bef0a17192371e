//! Throughput and CPU of commits of 1, 16, 64 and 256 events of 200 bytes, beside a plain preallocated log that does the
//! same writes and fdatasyncs and nothing else, in turns in one run; then a backlog of a million events, a restart on top of it and its
//! drain. `cargo run --release -p eventmesh-edge-store --example append_bench [directory] [seconds per case]`
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a measuring tool: what fails ends it"
)]

use bytes::Bytes;
use eventmesh_edge_core::event::{Event, Position, Qos, Timestamp, Via};
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::{
    Commit, Consumer, CursorChange, NewEvent, Read, Store, StoreSpec, StreamId, StreamSpec, UplinkId,
    WhenFull,
};
use eventmesh_edge_store::{JournalStore, StoreOptions};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

const PAYLOAD_BYTES: usize = 200;
const ONLY: Consumer = Consumer { stream: StreamId(0), uplink: UplinkId(0) };

struct WallClock(Instant);

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        Timestamp(1_790_000_000_000 + u64::try_from(self.0.elapsed().as_millis()).unwrap_or(0))
    }
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// CPU time of this process, all threads.
fn cpu() -> Duration {
    // `/proc/self/schedstat` is of the main thread alone: the sum over the tasks.
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let ns: u64 = tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum();
    Duration::from_nanos(ns)
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
        uplinks: vec![UplinkId(0)],
        max_bytes: 8 << 30,
        max_age: None,
        when_full: WhenFull::Refuse,
    };
    StoreSpec {
        streams: vec![stream],
        uplinks: vec!["cloud".into()],
        disk_max: 16 << 30,
        mailbox_max_bytes: 1 << 20,
        mailbox_max_events: 1000,
        mailboxes_max_bytes: 1 << 30,
    }
}

fn open(dir: &Path) -> JournalStore {
    let clock = Arc::new(WallClock(Instant::now()));
    let (store, opened) = JournalStore::open(dir, spec(), &StoreOptions::default(), clock).expect("open");
    if !opened.log.is_new {
        println!("  {opened:?}");
    }
    store
}

fn commit(store: &JournalStore, events: Vec<Event>, cursor: Option<Position>) -> Vec<Position> {
    let events =
        events.into_iter().map(|event| NewEvent { stream: Some(StreamId(0)), event, mailboxes: Vec::new() });
    let cursors = cursor.map(|acked| CursorChange { consumer: ONLY, acked }).into_iter().collect();
    let made = Commit { events: events.collect(), cursors, ..Commit::default() };
    let (tx, rx) = mpsc::channel();
    store.submit(made, Box::new(move |answer| tx.send(answer).expect("the caller waits")));
    rx.recv().expect("answered").expect("committed").positions
}

struct Figures {
    messages: u64,
    wall: Duration,
    cpu: Duration,
}

impl Figures {
    fn print(&self, what: &str, batch: u64) {
        let per_second = self.messages as f64 / self.wall.as_secs_f64();
        let cpu_us = self.cpu.as_secs_f64() * 1e6 / self.messages as f64;
        println!("{what:<8} commits of {batch:>3}: {per_second:>9.0} msg/s  {cpu_us:>7.2} us CPU/msg");
    }
}

/// Events are made beforehand, so that only the store is measured; the uplink keeps up.
fn measure(per_case: Duration, batch: u64, mut step: impl FnMut(Vec<Event>)) -> Figures {
    let mut figures = Figures { messages: 0, wall: Duration::ZERO, cpu: Duration::ZERO };
    let mut n = 0;
    while figures.wall < per_case {
        let made: Vec<Vec<Event>> = (0..64)
            .map(|_| {
                (0..batch)
                    .map(|_| {
                        n += 1;
                        event(n)
                    })
                    .collect()
            })
            .collect();
        let (wall, used) = (Instant::now(), cpu());
        for events in made {
            step(events);
        }
        figures.wall += wall.elapsed();
        figures.cpu += cpu().saturating_sub(used);
        figures.messages += batch * 64;
    }
    figures
}

fn plain_log(dir: &Path, per_case: Duration, batch: u64) -> Figures {
    let path = dir.join("plain.log");
    let size: u64 = 4 << 20;
    let mut file = File::create(&path).expect("create");
    file.write_all(&vec![0; usize::try_from(size).expect("small")]).expect("preallocate");
    file.sync_all().expect("sync");
    let mut offset = 0;
    let mut buffer = Vec::new();
    let figures = measure(per_case, batch, |events| {
        buffer.clear();
        for event in &events {
            let start = buffer.len();
            buffer.extend_from_slice(&[0; 8]);
            buffer.extend_from_slice(event.topic.as_bytes());
            buffer.extend_from_slice(event.source.as_bytes());
            buffer.extend_from_slice(&event.payload);
            let crc = crc32c::crc32c(&buffer[start + 8..]);
            buffer[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        }
        if offset + buffer.len() as u64 > size {
            offset = 0;
        }
        file.write_all_at(&buffer, offset).expect("write");
        file.sync_data().expect("sync");
        offset += buffer.len() as u64;
    });
    std::fs::remove_file(path).expect("remove");
    figures
}

fn backlog(dir: &Path) {
    const EVENTS: u64 = 1_000_000;
    let store = open(dir);
    let (start, used) = (Instant::now(), cpu());
    for first in (0..EVENTS).step_by(256) {
        commit(&store, (first..(first + 256).min(EVENTS)).map(event).collect(), None);
    }
    let wall = start.elapsed();
    let us = (cpu() - used).as_secs_f64() * 1e6 / EVENTS as f64;
    println!(
        "queued {EVENTS}: {:.0} msg/s, {us:.2} us CPU/msg (making the events included), RSS {} KiB",
        EVENTS as f64 / wall.as_secs_f64(),
        rss_kib()
    );
    println!("  {:?}", store.stats());
    store.close();
    drop(store);
    let start = Instant::now();
    let store = open(dir);
    println!(
        "opened with {} queued in {:?}, RSS {} KiB",
        store.backlog(ONLY).events,
        start.elapsed(),
        rss_kib()
    );
    let (start, used) = (Instant::now(), cpu());
    let (mut after, mut seen) = (Position::ZERO, 0);
    loop {
        let (tx, rx) = mpsc::channel();
        let read = Read { consumer: ONLY, after, max_events: 1024, max_bytes: 1 << 20 };
        store.read(read, Box::new(move |batch| tx.send(batch).expect("the caller waits")));
        let batch = rx.recv().expect("answered").expect("read");
        seen += batch.events.len() as u64;
        after = batch.through;
        let cursors = vec![CursorChange { consumer: ONLY, acked: after }];
        store.submit(
            Commit { cursors, ..Commit::default() },
            Box::new(|answer| drop(answer.expect("committed"))),
        );
        if batch.at_end {
            break;
        }
    }
    let us = (cpu() - used).as_secs_f64() * 1e6 / seen as f64;
    println!(
        "drained {seen}: {:.0} msg/s, {us:.2} us CPU/msg, RSS {} KiB",
        seen as f64 / start.elapsed().as_secs_f64(),
        rss_kib()
    );
    let start = Instant::now();
    while store.stats().disk_bytes > 64 << 20 && start.elapsed() < Duration::from_secs(20) {
        store.tick(Timestamp(1_790_000_000_000));
        std::thread::sleep(Duration::from_millis(50));
    }
    println!(
        "disk back to {} MiB after {:?}: {:?}",
        store.stats().disk_bytes >> 20,
        start.elapsed(),
        store.stats()
    );
}

fn main() {
    let mut args = std::env::args().skip(1);
    let root = args.next().unwrap_or_else(|| "/tmp/append_bench".to_owned());
    let per_case = Duration::from_secs_f64(args.next().and_then(|s| s.parse().ok()).unwrap_or(3.0));
    std::fs::create_dir_all(&root).expect("make the directory");
    for batch in [1, 16, 64, 256] {
        let dir = tempfile::tempdir_in(&root).expect("make a directory");
        plain_log(dir.path(), per_case, batch).print("plain", batch);
        let store = open(&dir.path().join("data"));
        let before = store.stats();
        let mut last = None;
        let figures = measure(per_case, batch, |events| last = commit(&store, events, last).last().copied());
        figures.print("store", batch);
        let stats = store.stats();
        let written = stats.bytes_written - before.bytes_written;
        println!(
            "         {:.2} bytes written per payload byte, RSS {} KiB",
            written as f64 / (figures.messages * PAYLOAD_BYTES as u64) as f64,
            rss_kib()
        );
    }
    let dir = tempfile::tempdir_in(&root).expect("make a directory");
    backlog(&dir.path().join("data"));
}
