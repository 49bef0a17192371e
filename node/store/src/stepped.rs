//! The store without threads: every commit, read and piece of maintenance happens in the call that asks for it, or when
//! it is told to. The same core as [`crate::JournalStore`], over a simulated disk, for deterministic tests.

use crate::assemble::{Opened, Site, StoreOptions, assemble};
use crate::core::Core;
use crate::directory::OpenError;
use crate::engine::{Finished, Request};
use crate::journal::header::Identity;
use crate::journal::writer::Writer;
use crate::machine::Machine;
use crate::memory_backing::MemoryBacking;
use crate::sim_disk::SimDisk;
use bytes::Bytes;
use eventmesh_edge_core::event::{LogId, Position, Timestamp};
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::store::{
    Backlog, Batch, Change, Commit, CommitError, Committed, Consumer, LedgerEntry, LedgerLine, MailboxItem,
    Read, ReadError, Reshape, ReshapeError, SessionNo, Store, StoreSpec, StoreStats, Table, Watcher,
};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a simulated node keeps when it is switched off.
#[derive(Clone, Default)]
pub struct SimSite {
    /// Journal and meta files.
    pub disk: SimDisk,
    /// Views and generations.
    pub backing: MemoryBacking,
}

impl SimSite {
    /// A new one.
    #[must_use]
    pub fn new() -> Self {
        SimSite::default()
    }

    /// Switches it off hard: what was not synced is kept, lost or torn, as the seed has it.
    pub fn power_cut(&self, seed: u64) {
        self.disk.power_cut(seed);
    }
}

/// A store that works only when it is called.
pub struct SteppedStore {
    core: Core,
    writer: Mutex<Writer>,
    queue: Mutex<VecDeque<Request>>,
    watchers: Mutex<Vec<Watcher>>,
    /// Commits at once, without [`SteppedStore::step`].
    immediate: bool,
    stepping: AtomicBool,
    closed: AtomicBool,
}

/// Not drawn, so that a run can be repeated; another one on another machine.
fn simulated_log(machine: &Machine) -> u32 {
    machine.hashes().into_iter().fold(0x5100_0001, |log, hash| log.rotate_left(7) ^ hash)
}

impl SteppedStore {
    /// Opens the store of a site. `immediate`: each [`Store::submit`] commits before it returns; otherwise commits wait
    /// for [`SteppedStore::step`].
    ///
    /// # Errors
    /// [`OpenError`] for a wrong spec or a simulated disk that fails.
    pub fn open(
        site: &SimSite,
        spec: StoreSpec,
        options: &StoreOptions,
        immediate: bool,
    ) -> Result<(SteppedStore, Opened), OpenError> {
        let machine = options.machine.unwrap_or_default();
        let site = Site {
            disk: std::sync::Arc::new(site.disk.clone()),
            views: Box::new(site.backing.views()),
            generations: Box::new(site.backing.generations()),
            path: PathBuf::from("simulated"),
            identity: Identity { log: LogId(simulated_log(&machine)), secret: 0x0dd5_eed5 },
            machine,
            quarantined: Vec::new(),
        };
        let assembled = assemble(site, spec, options)?;
        let store = SteppedStore {
            core: assembled.core,
            writer: Mutex::new(assembled.writer),
            queue: Mutex::new(VecDeque::new()),
            watchers: Mutex::new(Vec::new()),
            immediate,
            stepping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        };
        store.step();
        Ok((store, assembled.opened))
    }

    /// Commits all that waits and does the maintenance that is due.
    pub fn step(&self) {
        if self.stepping.swap(true, Ordering::SeqCst) {
            // Called from a completion: the step that called it goes on with what was queued.
            return;
        }
        while self.commit_one_group() {}
        for _ in 0..64 {
            let again = self.core.maintain();
            while self.commit_one_group() {}
            if !again {
                break;
            }
        }
        self.stepping.store(false, Ordering::SeqCst);
    }

    /// Makes one group durable; false if there was nothing to do, or the disk failed.
    pub fn commit_one_group(&self) -> bool {
        let mut waiting: VecDeque<Request> = lock(&self.queue).drain(..).collect();
        if waiting.is_empty() && !self.core.engine().has_internal() {
            return false;
        }
        let round = self.core.commit_group(&mut lock(&self.writer), &mut waiting);
        let mut queue = lock(&self.queue);
        while let Some(request) = waiting.pop_back() {
            queue.push_front(request);
        }
        drop(queue);
        self.deliver(round.finished);
        !round.failed
    }

    fn deliver(&self, finished: Finished) {
        for (done, answer) in finished.answers {
            done(answer);
        }
        let watchers = lock(&self.watchers).clone();
        for watcher in watchers {
            if finished.appended {
                watcher(Change::Appended);
            }
            if finished.room {
                watcher(Change::Room);
            }
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store for SteppedStore {
    fn submit(&self, commit: Commit, done: Completion<Result<Committed, CommitError>>) {
        if self.is_closed() {
            return done(Err(CommitError::Closed));
        }
        lock(&self.queue).push_back(Request { commit, done });
        if self.immediate {
            self.step();
        }
    }

    /// At once, before what waits for [`SteppedStore::step`]. Not from a completion.
    fn reshape(&self, change: Reshape, done: Completion<Result<(), ReshapeError>>) {
        if self.is_closed() {
            return done(Err(ReshapeError::Closed));
        }
        let outcome =
            self.core.reshape(&mut lock(&self.writer), &change, &mut |finished| self.deliver(finished));
        if self.immediate {
            self.step();
        }
        done(outcome);
    }

    fn read(&self, read: Read, done: Completion<Result<Batch, ReadError>>) {
        if self.is_closed() {
            return done(Err(ReadError::Closed));
        }
        let batch = self.core.read_now(&read).map_or_else(|| self.core.read_blocking(&read), Ok);
        done(batch);
    }

    fn read_mailbox(
        &self,
        session: SessionNo,
        after: Position,
        max_events: usize,
        max_bytes: usize,
        done: Completion<Result<Vec<MailboxItem>, ReadError>>,
    ) {
        if self.is_closed() {
            return done(Err(ReadError::Closed));
        }
        done(self.core.read_mailbox(session, after, max_events, max_bytes));
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.core.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        self.core.scan(table, prefix, after, max)
    }

    fn mailbox_len(&self, session: SessionNo) -> (u64, u64) {
        self.core.mailbox_len(session)
    }

    fn backlog(&self, consumer: Consumer) -> Backlog {
        self.core.backlog(consumer)
    }

    fn ledger(&self) -> Vec<LedgerLine> {
        self.core.ledger()
    }

    fn ledger_after(&self, after: u64, max: usize) -> Vec<LedgerEntry> {
        let (entries, cut) = self.core.ledger_after(after, max);
        if cut && self.immediate {
            self.step();
        }
        entries
    }

    fn stats(&self) -> StoreStats {
        self.core.stats()
    }

    fn log_id(&self) -> LogId {
        self.core.log_id()
    }

    fn watch(&self, watcher: Watcher) {
        lock(&self.watchers).push(watcher);
    }

    fn tick(&self, now: Timestamp) {
        self.core.tick(now);
        self.step();
    }

    fn close(&self) {
        self.step();
        if !self.closed.swap(true, Ordering::SeqCst) {
            self.core.end_cleanly(&mut lock(&self.writer));
        }
    }
}
