//! The Store port in memory: the reference implementation. Nothing of it outlives the process, hence the name.

mod disk;

use bytes::Bytes;
use disk::{Disk, Effects};
use eventmesh_edge_core::event::{LogId, Position, Timestamp};
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::store::{
    Backlog, Batch, Change, Commit, CommitError, Committed, Consumer, LedgerEntry, LedgerLine, MailboxItem,
    Read, ReadError, Reshape, ReshapeError, SessionNo, Store, StoreSpec, StoreStats, Table, Watcher,
};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Done = Completion<Result<Committed, CommitError>>;

/// What a crash leaves behind: hand it to [`MemoryDisk::open`] again and the next epoch starts.
#[derive(Clone)]
pub struct MemoryDisk(Arc<Mutex<Disk>>);

impl Default for MemoryDisk {
    fn default() -> Self {
        MemoryDisk::new(LogId(0x00c0_ffee))
    }
}

impl MemoryDisk {
    /// An empty one. Two disks of one test want two ids.
    #[must_use]
    pub fn new(log: LogId) -> MemoryDisk {
        MemoryDisk(Arc::new(Mutex::new(Disk::new(log))))
    }

    /// Opens a store that completes every commit at once, on the caller. A store opened before on this disk is closed
    /// by it, as if its process had died.
    #[must_use]
    pub fn open(&self, spec: StoreSpec) -> Arc<MemoryStore> {
        self.open_as(spec, false)
    }

    /// The same in manual mode: see [`MemoryStore::manual`].
    #[must_use]
    pub fn open_manual(&self, spec: StoreSpec) -> Arc<MemoryStore> {
        self.open_as(spec, true)
    }

    /// A copy of what is durable now: what a disk that lies about its syncs may fall back to.
    #[must_use]
    pub fn snapshot(&self) -> MemoryDisk {
        MemoryDisk(Arc::new(Mutex::new(lock(&self.0).clone())))
    }

    fn open_as(&self, spec: StoreSpec, manual: bool) -> Arc<MemoryStore> {
        let epoch = lock(&self.0).open(spec);
        Arc::new(MemoryStore { disk: self.clone(), epoch, manual, live: Mutex::default() })
    }
}

/// What is lost in a crash.
#[derive(Default)]
struct Live {
    submitted: VecDeque<(Commit, Done)>,
    /// Somebody is completing: whoever submits meanwhile, from a completion or another thread, leaves it to them.
    completing: bool,
    closed: bool,
    /// A commit was refused since the last [`Change::Room`].
    refused: bool,
    watchers: Vec<Watcher>,
    stats: StoreStats,
}

/// The Store port in memory, in plain maps.
///
/// Automatic mode ([`MemoryDisk::open`], [`MemoryStore::new`]) completes each commit before `submit` returns. Manual mode
/// ([`MemoryStore::manual`]) keeps commits until [`MemoryStore::complete_next`], so that a test decides what was durable
/// when the power went.
pub struct MemoryStore {
    disk: MemoryDisk,
    epoch: u32,
    manual: bool,
    live: Mutex<Live>,
}

impl MemoryStore {
    /// Automatic mode, on a disk of its own.
    #[must_use]
    pub fn new(spec: StoreSpec) -> Arc<MemoryStore> {
        MemoryDisk::default().open(spec)
    }

    /// Manual mode, on a disk of its own.
    #[must_use]
    pub fn manual(spec: StoreSpec) -> Arc<MemoryStore> {
        MemoryDisk::default().open_manual(spec)
    }

    /// Makes up to `n` submitted commits durable, in order, each followed by its completion. Returns how many.
    pub fn complete_next(&self, n: usize) -> usize {
        let mut completed = 0;
        while completed < n
            && let Some((commit, done)) = self.take_next()
        {
            self.complete(commit, done);
            self.state().completing = false;
            completed += 1;
        }
        completed
    }

    /// Commits submitted and not completed.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.state().submitted.len()
    }

    /// The power goes: everything submitted and not completed is gone, and so are its completions.
    pub fn crash(&self) {
        self.crash_keeping(0);
    }

    /// The power goes between a sync and its answer: the first `n` commits are durable although nobody was told.
    pub fn crash_keeping(&self, n: usize) {
        let submitted = {
            let mut live = self.state();
            live.closed = true;
            live.watchers.clear();
            std::mem::take(&mut live.submitted)
        };
        for (commit, _untold) in submitted.into_iter().take(n) {
            drop(self.with_disk(|disk| disk.apply(commit)));
        }
    }

    /// Opens what is durable again, in the same mode and the next epoch. This store is dead from here on.
    #[must_use]
    pub fn reopen(&self, spec: StoreSpec) -> Arc<MemoryStore> {
        self.crash();
        self.disk.open_as(spec, self.manual)
    }

    /// What is durable, for a later [`MemoryDisk::open`].
    #[must_use]
    pub fn disk(&self) -> MemoryDisk {
        self.disk.clone()
    }

    fn state(&self) -> MutexGuard<'_, Live> {
        lock(&self.live)
    }

    fn is_open(&self) -> bool {
        !self.state().closed && lock(&self.disk.0).epoch() == self.epoch
    }

    /// The disk, unless a later store has taken it over.
    fn with_disk<T>(&self, f: impl FnOnce(&mut Disk) -> T) -> Option<T> {
        let mut disk = lock(&self.disk.0);
        (disk.epoch() == self.epoch).then(|| f(&mut disk))
    }

    fn query<T>(&self, f: impl FnOnce(&mut Disk) -> T) -> Result<T, ReadError> {
        if self.state().closed {
            return Err(ReadError::Closed);
        }
        self.with_disk(f).ok_or(ReadError::Closed)
    }

    fn take_next(&self) -> Option<(Commit, Done)> {
        let mut live = self.state();
        if live.completing {
            return None;
        }
        let next = live.submitted.pop_front()?;
        live.completing = true;
        Some(next)
    }

    fn complete(&self, commit: Commit, done: Done) {
        let events = commit.events.len() as u64;
        let outcome = self.with_disk(|disk| disk.apply(commit)).unwrap_or(Err(CommitError::Closed));
        let mut effects = Effects::default();
        let outcome = outcome.map(|(committed, e)| {
            effects = e;
            committed
        });
        {
            let mut live = self.state();
            live.refused |= matches!(outcome, Err(CommitError::Full { .. }));
            if outcome.is_ok() {
                live.stats.commits += 1;
                live.stats.syncs += 1;
                live.stats.events += events;
            }
        }
        // No lock is held: a completion may submit, read or close.
        done(outcome);
        self.tell(effects);
    }

    fn tell(&self, effects: Effects) {
        let (watchers, room) = {
            let mut live = self.state();
            let room = effects.freed && std::mem::take(&mut live.refused);
            live.refused &= !room;
            (live.watchers.clone(), room)
        };
        for watcher in watchers {
            if effects.appended {
                watcher(Change::Appended);
            }
            if room {
                watcher(Change::Room);
            }
        }
    }
}

impl Store for MemoryStore {
    fn submit(&self, commit: Commit, done: Done) {
        {
            let mut live = self.state();
            if live.closed {
                drop(live);
                return done(Err(CommitError::Closed));
            }
            live.submitted.push_back((commit, done));
        }
        if !self.manual {
            self.complete_next(usize::MAX);
        }
    }

    /// At once and durable, in manual mode too.
    fn reshape(&self, change: Reshape, done: Completion<Result<(), ReshapeError>>) {
        if self.state().closed {
            return done(Err(ReshapeError::Closed));
        }
        let outcome = self.with_disk(|disk| disk.reshape(&change)).unwrap_or(Err(ReshapeError::Closed));
        done(outcome.as_ref().map(drop).map_err(Clone::clone));
        if let Ok(effects) = outcome {
            self.tell(effects);
        }
    }

    fn read(&self, read: Read, done: Completion<Result<Batch, ReadError>>) {
        done(self.query(|disk| disk.read(read)));
    }

    fn read_mailbox(
        &self,
        session: SessionNo,
        after: Position,
        max_events: usize,
        max_bytes: usize,
        done: Completion<Result<Vec<MailboxItem>, ReadError>>,
    ) {
        done(self.query(|disk| disk.read_mailbox(session, after, max_events, max_bytes)));
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.query(|disk| disk.get(table, key))
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        self.query(|disk| disk.scan(table, prefix, after, max))
    }

    fn mailbox_len(&self, session: SessionNo) -> (u64, u64) {
        lock(&self.disk.0).mailbox_len(session)
    }

    fn backlog(&self, consumer: Consumer) -> Backlog {
        lock(&self.disk.0).backlog(consumer)
    }

    fn ledger(&self) -> Vec<LedgerLine> {
        lock(&self.disk.0).ledger()
    }

    fn ledger_after(&self, after: u64, max: usize) -> Vec<LedgerEntry> {
        self.with_disk(|disk| disk.ledger_after(after, max)).unwrap_or_default()
    }

    fn stats(&self) -> StoreStats {
        let disk_bytes = lock(&self.disk.0).disk_bytes();
        StoreStats { epoch: self.epoch, disk_bytes, ..self.state().stats.clone() }
    }

    fn log_id(&self) -> LogId {
        lock(&self.disk.0).log_id()
    }

    fn watch(&self, watcher: Watcher) {
        self.state().watchers.push(watcher);
    }

    fn tick(&self, now: Timestamp) {
        if self.is_open()
            && let Some(effects) = self.with_disk(|disk| disk.expire(now))
        {
            self.tell(effects);
        }
    }

    fn close(&self) {
        self.state().closed = true;
        self.complete_next(usize::MAX);
    }
}

/// A panic in one test thread must not hide the failure behind a poisoned lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
