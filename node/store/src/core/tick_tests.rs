//! Who reads the disk: the maintenance, never who tells the time.

use crate::assemble::{Site, StoreOptions, assemble};
use crate::core::Core;
use crate::disk::{Disk, DiskEntry, DiskFile, Mode};
use crate::engine::Request;
use crate::journal::header::Identity;
use crate::journal::writer::Writer;
use crate::memory_backing::MemoryBacking;
use crate::sim_disk::SimDisk;
use bytes::Bytes;
use eventmesh_edge_core::event::{Event, LogId, Qos, Timestamp, Via};
use eventmesh_edge_core::ports::store::{
    Commit, LossReason, NewEvent, StoreSpec, StreamId, StreamSpec, UplinkId, WhenFull,
};
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const NOW: Timestamp = Timestamp(1_790_000_000_000);
const EVENTS: u64 = 9_000;

/// A simulated disk that counts reads of files.
#[derive(Clone, Default)]
struct Counted {
    inner: SimDisk,
    reads: Arc<AtomicUsize>,
}

struct CountedFile(Arc<dyn DiskFile>, Arc<AtomicUsize>);

impl DiskFile for CountedFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.read_at(offset, buf)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

impl Disk for Counted {
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.inner.create_dir(dir)
    }
    fn open(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(CountedFile(self.inner.open(path, mode)?, Arc::clone(&self.reads))))
    }
    fn list(&self, dir: &str) -> io::Result<Vec<DiskEntry>> {
        self.inner.list(dir)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        self.inner.remove(path)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        self.inner.read(path)
    }
}

fn open(disk: &Counted, backing: &MemoryBacking) -> (Core, Writer) {
    let site = Site {
        disk: Arc::new(disk.clone()),
        views: Box::new(backing.views()),
        generations: Box::new(backing.generations()),
        path: PathBuf::from("counted"),
        identity: Identity { log: LogId(1), secret: 2 },
        machine: crate::Machine::default(),
        quarantined: Vec::new(),
    };
    let stream = StreamSpec {
        name: "aging".into(),
        uplinks: vec![UplinkId(0)],
        max_bytes: 64 << 20,
        max_age: Some(Duration::from_secs(60)),
        when_full: WhenFull::Refuse,
    };
    let spec = StoreSpec {
        streams: vec![stream],
        uplinks: vec!["up".into()],
        disk_max: 256 << 20,
        mailbox_max_bytes: 1 << 20,
        mailbox_max_events: 100,
        mailboxes_max_bytes: 1 << 30,
    };
    let options = StoreOptions { recent_bytes: 1 << 10, ..StoreOptions::default() };
    let assembled = assemble(site, spec, &options).unwrap();
    (assembled.core, assembled.writer)
}

fn events() -> Commit {
    let event = |n| Event {
        via: Via::Mqtt3,
        qos: Qos::AtLeastOnce,
        retain: false,
        source: "s".into(),
        id: None,
        time: None,
        received: NOW,
        expires: None,
        topic: "t".into(),
        payload: Bytes::from(format!("{n}")),
        properties: None,
    };
    let new = |n| NewEvent { stream: Some(StreamId(0)), event: event(n), mailboxes: Vec::new() };
    Commit { events: (0..EVENTS).map(new).collect(), ..Commit::default() }
}

fn expired(core: &Core) -> u64 {
    core.ledger().iter().filter(|line| line.reason == LossReason::Expired).map(|line| line.events).sum()
}

#[test]
fn a_tick_reads_nothing_and_the_maintenance_expires_all_that_is_due() {
    let (disk, backing) = (Counted::default(), MemoryBacking::default());
    let (core, mut writer) = open(&disk, &backing);
    let mut queue =
        VecDeque::from([Request { commit: events(), done: Box::new(|answer| drop(answer.unwrap())) }]);
    core.commit_group(&mut writer, &mut queue);
    drop((core, writer));
    // After a start nothing is marked: how old the oldest is, only the disk knows.
    let (core, mut writer) = open(&disk, &backing);
    let later = NOW.after(Duration::from_secs(3600));
    let before = disk.reads.load(Ordering::SeqCst);
    core.tick(later);
    assert_eq!(disk.reads.load(Ordering::SeqCst), before, "told the time, on the runtime's thread");
    assert!(!core.engine().has_internal());
    let mut rounds = 0;
    while core.maintain() {
        core.commit_group(&mut writer, &mut VecDeque::new());
        rounds += 1;
    }
    assert!(disk.reads.load(Ordering::SeqCst) > before);
    assert_eq!(expired(&core), EVENTS, "one tick is enough, more than there are marks");
    assert!(rounds >= 3, "{rounds}: in bounded steps");
}
