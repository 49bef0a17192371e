//! The threads: one commits, one reads what is not in memory, one keeps house. Nothing here decides anything.

mod inspection;

use crate::assemble::{Assembled, Opened, Site, StoreOptions, assemble};
use crate::core::Core;
use crate::directory::{self, DirectoryLock, OpenError};
use crate::disk::{Disk, RealDisk};
use crate::engine::{Finished, Request};
use crate::gather::{Decision, Gather, GatherOptions, Pace, Queued, Waited, is_lazy};
use crate::journal::writer::Writer;
use crate::machine::Machine;
use crate::meta;
use crate::rest::Rest;
use crate::spill::SledGenerations;
use crate::views::SledViews;
use bytes::Bytes;
use eventmesh_edge_core::event::{LogId, Position, Timestamp};
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::{
    Backlog, Batch, Change, Commit, CommitError, Committed, Consumer, LedgerEntry, LedgerLine, MailboxItem,
    Read, ReadError, Reshape, ReshapeError, SessionNo, Store, StoreSpec, StoreStats, Table, Watcher,
};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the committer sleeps for.
#[derive(Clone, Copy)]
struct Wake {
    /// So many prompt commits.
    at: usize,
    /// Or a hurried one.
    hurried: bool,
}

/// Commits that wait for the committer.
struct Queue {
    requests: VecDeque<Request>,
    queued: Queued,
    pace: Pace,
    /// `None`: it is at work and looks by itself.
    wake: Option<Wake>,
    /// The store has something to commit itself.
    internal: bool,
    /// Made between two groups, before what waits.
    reshapes: VecDeque<AskedReshape>,
    closing: bool,
}

impl Queue {
    fn new(gather: GatherOptions, internal: bool) -> Queue {
        Queue {
            requests: VecDeque::new(),
            queued: Queued::default(),
            pace: Pace::new(gather),
            wake: None,
            internal,
            reshapes: VecDeque::new(),
            closing: false,
        }
    }

    /// Counts a commit in. Says whether the committer sleeps for it, and whether nobody may rest any longer: the first of a
    /// group does not complete it.
    fn count(&mut self, now: Duration, commit: &Commit) -> (bool, bool) {
        let mut hurried = false;
        if is_lazy(commit) {
            self.queued.lazy += 1;
            self.queued.first_lazy.get_or_insert(now);
        } else {
            hurried = self.pace.came(now, commit);
            self.queued.prompt += 1;
            self.queued.first_prompt.get_or_insert(now);
            self.queued.hurried |= hurried;
        }
        let wake = self.wake.take_if(|wake| self.queued.prompt >= wake.at || hurried && wake.hurried);
        (wake.is_some(), wake.is_some_and(|wake| wake.at > 1 || hurried))
    }
}

type AskedReshape = (Reshape, Completion<Result<(), ReshapeError>>);

enum Job {
    Read(Read, Completion<Result<Batch, ReadError>>),
    Mailbox {
        session: SessionNo,
        after: Position,
        max_events: usize,
        max_bytes: usize,
        done: Completion<Result<Vec<MailboxItem>, ReadError>>,
    },
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    closing: bool,
}

#[derive(Default)]
struct House {
    due: bool,
    closing: bool,
}

struct Shared {
    core: Core,
    clock: Arc<dyn Clock>,
    queue: Mutex<Queue>,
    committer: Condvar,
    jobs: Mutex<Jobs>,
    reader: Condvar,
    house: Mutex<House>,
    keeper: Condvar,
    watchers: Mutex<Arc<[Watcher]>>,
    closed: AtomicBool,
    rest: Arc<Rest>,
}

/// The durable store. Ends with [`Store::close`], or when it is dropped.
pub struct JournalStore {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    _lock: DirectoryLock,
}

impl JournalStore {
    /// Opens the data directory, or makes it; starts the threads.
    ///
    /// # Errors
    /// [`OpenError`], which names the directory and says what to do. Damage is not among the reasons (P6).
    pub fn open(
        dir: &Path,
        spec: StoreSpec,
        options: &StoreOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(JournalStore, Opened), OpenError> {
        Self::open_on(dir, Arc::new(RealDisk::new(dir)), spec, options, clock)
    }

    /// The same, with our own file operations (the journal's, not sled's) going through `disk`, which is that directory: for
    /// tests that let some of them fail.
    ///
    /// # Errors
    /// As [`JournalStore::open`].
    pub fn open_on(
        dir: &Path,
        disk: Arc<dyn Disk>,
        spec: StoreSpec,
        options: &StoreOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(JournalStore, Opened), OpenError> {
        let held = directory::claim(dir)?;
        let backing_failed = |what| move |error| crate::core::open_failed(dir, what, &error);
        let (views, found_views) = SledViews::open(dir).map_err(backing_failed("open `views`"))?;
        let (generations, found) =
            SledGenerations::open(dir).map_err(backing_failed("open `generations`"))?;
        let mut quarantined: Vec<String> = found_views.quarantined.iter().map(ToString::to_string).collect();
        quarantined.extend(found.quarantined.iter().map(|number| format!("generation {number}")));
        let site = Site {
            disk,
            views: Box::new(views),
            generations: Box::new(generations),
            path: dir.to_owned(),
            identity: meta::draw_identity().map_err(|error| OpenError::Random(error.to_string()))?,
            machine: options.machine.unwrap_or_else(Machine::this),
            quarantined,
        };
        let Assembled { core, writer, opened } = assemble(site, spec, options)?;
        if let Err(error) = directory::write_format(dir) {
            tracing::warn!(%error, "`format` cannot be written; `meta-*` carry the version too");
        }
        let store = Self::start(core, writer, options, clock, held, dir)?;
        Ok((store, opened))
    }

    fn start(
        core: Core,
        writer: Writer,
        options: &StoreOptions,
        clock: Arc<dyn Clock>,
        held: DirectoryLock,
        dir: &Path,
    ) -> Result<JournalStore, OpenError> {
        let internal = core.engine().has_internal();
        let gather = Gather::new(options.gather, options.group_commits);
        let shared = Arc::new(Shared {
            core,
            clock,
            queue: Mutex::new(Queue::new(options.gather, internal)),
            committer: Condvar::new(),
            jobs: Mutex::default(),
            reader: Condvar::new(),
            house: Mutex::new(House { due: true, closing: false }),
            keeper: Condvar::new(),
            watchers: Mutex::new(Arc::from(Vec::new())),
            closed: AtomicBool::new(false),
            rest: Arc::default(),
        });
        let store =
            JournalStore { shared: Arc::clone(&shared), threads: Mutex::new(Vec::new()), _lock: held };
        let failed = |error| directory::refused(dir, "start a thread", error);
        let for_commits = Arc::clone(&shared);
        store.spawn("store-commit", move || commit_loop(&for_commits, writer, gather)).map_err(failed)?;
        let for_reads = Arc::clone(&shared);
        store.spawn("store-read", move || read_loop(&for_reads)).map_err(failed)?;
        store.spawn("store-keep", move || keep_loop(&shared)).map_err(failed)?;
        Ok(store)
    }

    /// When whoever takes events in may rest.
    #[must_use]
    pub fn rest(&self) -> Arc<Rest> {
        Arc::clone(&self.shared.rest)
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    fn queue_job(&self, job: Job) {
        let mut jobs = lock(&self.shared.jobs);
        if jobs.closing {
            drop(jobs);
            return refuse(job);
        }
        jobs.waiting.push_back(job);
        drop(jobs);
        self.shared.reader.notify_one();
    }
}

fn refuse(job: Job) {
    match job {
        Job::Read(_, done) => done(Err(ReadError::Closed)),
        Job::Mailbox { done, .. } => done(Err(ReadError::Closed)),
    }
}

impl Drop for JournalStore {
    fn drop(&mut self) {
        self.close();
    }
}

// --- the committer

fn commit_loop(shared: &Shared, mut writer: Writer, mut gather: Gather) {
    loop {
        let Taken { mut requests, reshapes, prompt, waited, senders, closing } =
            next_requests(shared, &gather);
        for (change, done) in reshapes {
            done(shared.core.reshape(&mut writer, &change, &mut |finished| deliver(shared, finished)));
        }
        gather.took(shared.clock.monotonic(), prompt, waited, senders);
        commit_all(shared, &mut writer, &mut gather, &mut requests);
        if closing {
            shared.core.end_cleanly(&mut writer);
            return;
        }
    }
}

/// Groups until nothing is left of what was taken, and of what the store itself has to commit.
fn commit_all(shared: &Shared, writer: &mut Writer, gather: &mut Gather, requests: &mut VecDeque<Request>) {
    loop {
        let round = shared.core.commit_group(writer, requests);
        let failed = round.failed;
        // Before anybody is answered: who sends now is somebody else.
        if lock(&shared.queue).queued.prompt > 0 {
            gather.overlapped(shared.clock.monotonic());
        }
        deliver(shared, round.finished);
        if requests.is_empty() && (failed || !shared.core.engine().has_internal()) {
            return;
        }
    }
}

/// What the committer takes from the queue.
struct Taken {
    requests: VecDeque<Request>,
    reshapes: VecDeque<AskedReshape>,
    prompt: usize,
    waited: Waited,
    senders: usize,
    /// There will be no other.
    closing: bool,
}

/// Sleeps until the gathering rule says that there is a group.
fn next_requests(shared: &Shared, gather: &Gather) -> Taken {
    let mut queue = lock(&shared.queue);
    let mut grew = true;
    let mut patient_since = None;
    let now = loop {
        let now = shared.clock.monotonic();
        if queue.closing || queue.internal || !queue.reshapes.is_empty() {
            break now;
        }
        let (time, wake) = match gather.decide(now, &queue.queued, grew) {
            Decision::Take => break now,
            Decision::Wait { time, wake_at } => (time, Wake { at: wake_at, hurried: false }),
            Decision::Patience { time, wake_at, rest } => {
                if queue.queued.prompt > 0 {
                    patient_since.get_or_insert(now);
                }
                if let Some(rest) = rest {
                    shared.rest.advise(rest);
                }
                (time, Wake { at: wake_at, hurried: true })
            }
        };
        let before = queue.queued.prompt;
        queue.wake = Some(wake);
        queue = match time {
            None => shared.committer.wait(queue).unwrap_or_else(PoisonError::into_inner),
            Some(time) => {
                shared.committer.wait_timeout(queue, time).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        queue.wake = None;
        grew = before == 0 || queue.queued.prompt > before;
    };
    shared.rest.end();
    let queued = std::mem::take(&mut queue.queued);
    queue.internal = false;
    Taken {
        requests: std::mem::take(&mut queue.requests),
        reshapes: std::mem::take(&mut queue.reshapes),
        prompt: queued.prompt,
        waited: match patient_since {
            Some(since) => Waited::Patiently(now.saturating_sub(since)),
            None if !grew => Waited::InVain,
            None => Waited::No,
        },
        senders: queue.pace.senders(now),
        closing: queue.closing,
    }
}

fn deliver(shared: &Shared, finished: Finished) {
    for (done, answer) in finished.answers {
        done(answer);
    }
    if finished.appended || finished.room {
        let watchers = Arc::clone(&lock(&shared.watchers));
        for watcher in watchers.iter() {
            if finished.appended {
                watcher(Change::Appended);
            }
            if finished.room {
                watcher(Change::Room);
            }
        }
    }
    if finished.maintain {
        wake_keeper(shared);
    }
}

// --- the reader

fn read_loop(shared: &Shared) {
    loop {
        let job = {
            let mut jobs = lock(&shared.jobs);
            loop {
                if let Some(job) = jobs.waiting.pop_front() {
                    break job;
                }
                if jobs.closing {
                    return;
                }
                jobs = shared.reader.wait(jobs).unwrap_or_else(PoisonError::into_inner);
            }
        };
        if shared.closed.load(Ordering::SeqCst) {
            refuse(job);
            continue;
        }
        match job {
            Job::Read(read, done) => done(shared.core.read_blocking(&read)),
            Job::Mailbox { session, after, max_events, max_bytes, done } => {
                done(shared.core.read_mailbox(session, after, max_events, max_bytes));
            }
        }
    }
}

// --- the keeper

fn keep_loop(shared: &Shared) {
    loop {
        {
            let mut house = lock(&shared.house);
            while !house.due && !house.closing {
                house = shared.keeper.wait(house).unwrap_or_else(PoisonError::into_inner);
            }
            if house.closing {
                return;
            }
            house.due = false;
        }
        if shared.core.maintain() {
            wake_committer(shared);
        }
    }
}

fn wake_keeper(shared: &Shared) {
    let mut house = lock(&shared.house);
    if !house.due {
        house.due = true;
        drop(house);
        shared.keeper.notify_one();
    }
}

fn wake_committer(shared: &Shared) {
    lock(&shared.queue).internal = true;
    shared.committer.notify_one();
}

impl Store for JournalStore {
    fn submit(&self, commit: Commit, done: Completion<Result<Committed, CommitError>>) {
        let now = self.shared.clock.monotonic();
        let mut queue = lock(&self.shared.queue);
        if queue.closing {
            drop(queue);
            return done(Err(CommitError::Closed));
        }
        let (wake, ends_rest) = queue.count(now, &commit);
        queue.requests.push_back(Request { commit, done });
        drop(queue);
        if ends_rest {
            self.shared.rest.end();
        }
        if wake {
            self.shared.committer.notify_one();
        }
    }

    fn reshape(&self, change: Reshape, done: Completion<Result<(), ReshapeError>>) {
        let mut queue = lock(&self.shared.queue);
        if queue.closing {
            drop(queue);
            return done(Err(ReshapeError::Closed));
        }
        queue.reshapes.push_back((change, done));
        drop(queue);
        self.shared.committer.notify_one();
    }

    fn read(&self, read: Read, done: Completion<Result<Batch, ReadError>>) {
        if self.shared.closed.load(Ordering::SeqCst) {
            return done(Err(ReadError::Closed));
        }
        match self.shared.core.read_now(&read) {
            Some(batch) => done(Ok(batch)),
            None => self.queue_job(Job::Read(read, done)),
        }
    }

    fn read_mailbox(
        &self,
        session: SessionNo,
        after: Position,
        max_events: usize,
        max_bytes: usize,
        done: Completion<Result<Vec<MailboxItem>, ReadError>>,
    ) {
        self.queue_job(Job::Mailbox { session, after, max_events, max_bytes, done });
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.shared.core.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        self.shared.core.scan(table, prefix, after, max)
    }

    fn mailbox_len(&self, session: SessionNo) -> (u64, u64) {
        self.shared.core.mailbox_len(session)
    }

    fn backlog(&self, consumer: Consumer) -> Backlog {
        self.shared.core.backlog(consumer)
    }

    fn ledger(&self) -> Vec<LedgerLine> {
        self.shared.core.ledger()
    }

    fn ledger_after(&self, after: u64, max: usize) -> Vec<LedgerEntry> {
        let (entries, cut) = self.shared.core.ledger_after(after, max);
        if cut {
            wake_committer(&self.shared);
        }
        entries
    }

    fn stats(&self) -> StoreStats {
        self.shared.core.stats()
    }

    fn log_id(&self) -> LogId {
        self.shared.core.log_id()
    }

    fn watch(&self, watcher: Watcher) {
        let mut watchers = lock(&self.shared.watchers);
        *watchers = watchers.iter().cloned().chain([watcher]).collect();
    }

    fn tick(&self, now: Timestamp) {
        self.shared.core.tick(now);
        wake_keeper(&self.shared);
    }

    fn close(&self) {
        lock(&self.shared.queue).closing = true;
        self.shared.committer.notify_one();
        let threads = std::mem::take(&mut *lock(&self.threads));
        let me = std::thread::current().id();
        // From a completion the caller's own thread cannot be waited for; it ends when the completion returns.
        let (own, others): (Vec<_>, Vec<_>) = threads.into_iter().partition(|t| t.thread().id() == me);
        drop(own);
        let mut others = others.into_iter();
        join(others.next());
        self.shared.closed.store(true, Ordering::SeqCst);
        lock(&self.shared.jobs).closing = true;
        lock(&self.shared.house).closing = true;
        self.shared.reader.notify_one();
        self.shared.keeper.notify_one();
        others.for_each(|thread| join(Some(thread)));
    }
}

fn join(thread: Option<JoinHandle<()>>) {
    if thread.is_some_and(|thread| thread.join().is_err()) {
        tracing::error!("a thread of the store had panicked");
    }
}
