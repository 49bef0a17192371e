//! A long outage: what it costs to keep the events, to start on top of them, and to hand them on.

use crate::load::{Events, ONLY, PAYLOAD_BYTES, START_MS, commit, in_stream, open};
use crate::machine::{cpu, disk_counter, du, forget_peak, rss_mib};
use crate::{Args, report};
use eventmesh_edge_core::event::{Position, Timestamp};
use eventmesh_edge_core::ports::store::{Batch, Commit, CursorChange, Read, Store};
use eventmesh_edge_store::JournalStore;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

fn read(store: &JournalStore, after: Position) -> Batch {
    let (tx, rx) = mpsc::channel();
    let read = Read { consumer: ONLY, after, max_events: 1024, max_bytes: 1 << 20 };
    store.read(read, Box::new(move |batch| tx.send(batch).expect("the caller waits")));
    rx.recv().expect("answered").expect("read")
}

/// Reads everything in order and moves the cursor behind each batch; returns how much there was.
fn drain(store: &JournalStore) -> u64 {
    let (mut after, mut seen) = (store.backlog(ONLY).acked, 0);
    loop {
        let batch = read(store, after);
        assert!(batch.events.is_sorted_by_key(|e| e.position), "out of order");
        seen += batch.events.len() as u64;
        after = batch.through;
        let cursors = vec![CursorChange { consumer: ONLY, acked: after }];
        let done = Box::new(|answer: Result<_, _>| drop(answer.expect("committed")));
        store.submit(Commit { cursors, ..Commit::default() }, done);
        if batch.at_end {
            return seen;
        }
    }
}

/// Waits until the cursors of a drain are durable and what they free is given back.
fn shrink(store: &JournalStore, data: &Path) -> (f64, Duration) {
    let start = Instant::now();
    while du(data) > 64 << 20 && start.elapsed() < Duration::from_secs(10) {
        store.tick(Timestamp(START_MS));
        std::thread::sleep(Duration::from_millis(50));
    }
    (du(data) as f64 / f64::from(1 << 20), start.elapsed())
}

pub(crate) fn spill_and_drain(args: &Args) {
    let count = args.events.unwrap_or(10_000_000);
    let dir = tempfile::tempdir_in(&args.dir).expect("make a directory");
    let data = dir.path().join("data");
    let payload = count as f64 * PAYLOAD_BYTES as f64;
    let mut events = Events::new(args.content);
    forget_peak();
    let (cpu_before, counter) = (cpu(), disk_counter(dir.path()));
    let store = open(&data);
    let start = Instant::now();
    for _ in 0..count / 256 {
        commit(&store, events.group(256), None);
    }
    let count = count / 256 * 256;
    let filled = start.elapsed();
    let disk = du(&data) as f64;
    let written = store.stats().bytes_written as f64;
    let spill_cpu = cpu().saturating_sub(cpu_before);
    println!(
        "spilled {count} at {:.0}/s, {:.2} us CPU each, {:.2}x written, {:.2}x by the disk's counter, RSS {:.1} MiB, {:?}",
        count as f64 / filled.as_secs_f64(),
        spill_cpu.as_secs_f64() * 1e6 / count as f64,
        written / payload,
        (disk_counter(dir.path()) - counter) as f64 / payload,
        rss_mib().0,
        store.stats(),
    );
    report("spill: RSS, at most", rss_mib().1, " MiB", Some(32.0), false);
    let compressible = matches!(args.content, crate::load::Content::Telemetry);
    report("spill: disk per payload", disk / payload, "x", Some(if compressible { 0.8 } else { 1.2 }), false);
    drop(store);
    forget_peak();
    let start = Instant::now();
    let store = open(&data);
    report("open on top of it", start.elapsed().as_secs_f64() * 1e3, " ms", Some(1000.0), false);
    assert_eq!(store.backlog(ONLY).events, count, "all of it is there");
    let (start, cpu_before) = (Instant::now(), cpu());
    assert_eq!(drain(&store), count, "all of it is read");
    let drained = start.elapsed();
    let drain_cpu = cpu().saturating_sub(cpu_before);
    report("drain", count as f64 / drained.as_secs_f64(), "/s", Some(60_000.0), true);
    report("drain: RSS, at most", rss_mib().1, " MiB", Some(32.0), false);
    let all = (spill_cpu + drain_cpu).as_secs_f64() * 1e6 / count as f64;
    println!("  drain CPU {:.2} us each", drain_cpu.as_secs_f64() * 1e6 / count as f64);
    report("spill and drain: CPU per event", all, " us", Some(4.0), false);
    let (left, after) = shrink(&store, &data);
    report(&format!("disk {after:.1?} after the drain"), left, " MiB", Some(64.0), false);
}

/// Ten messages a second, each a commit of its own, for a day.
pub(crate) fn trickle(args: &Args) {
    let count = args.events.unwrap_or(864_000);
    let dir = tempfile::tempdir_in(&args.dir).expect("make a directory");
    let data = dir.path().join("data");
    let payload = count as f64 * PAYLOAD_BYTES as f64;
    let mut events = Events::new(args.content);
    let store = open(&data);
    let (start, cpu_before, counter) = (Instant::now(), cpu(), disk_counter(dir.path()));
    for n in 0..count {
        let now = Timestamp(START_MS + n * 100);
        commit(&store, vec![in_stream(events.event(now))], None);
        if n % 10 == 0 {
            store.tick(now);
        }
    }
    println!(
        "{count} single messages in {:.0?}, {:.0} us CPU each, {:.1}x by the disk's counter, {:?}",
        start.elapsed(),
        cpu().saturating_sub(cpu_before).as_secs_f64() * 1e6 / count as f64,
        (disk_counter(dir.path()) - counter) as f64 / payload,
        store.stats(),
    );
    report("trickle: disk per payload", du(&data) as f64 / payload, "x", Some(1.3), false);
    drop(store);
    let start = Instant::now();
    let store = open(&data);
    report("trickle: start", start.elapsed().as_secs_f64() * 1e3, " ms", Some(250.0), false);
    assert_eq!(store.backlog(ONLY).events, count, "all of it is there");
    let start = Instant::now();
    assert_eq!(drain(&store), count, "all of it is read");
    let rate = count as f64 / start.elapsed().as_secs_f64();
    report("trickle: drain", rate, "/s", Some(60_000.0), true);
    let (left, after) = shrink(&store, &data);
    report(&format!("trickle: disk {after:.1?} after the drain"), left, " MiB", Some(64.0), false);
}
