//! A store that fails when its script says so.

use crate::layer::{AsStore, Layer, Layered};
use crate::rng::Rng;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::store::{
    Batch, Commit, CommitError, Committed, MailboxItem, Read, ReadError, SessionNo, Store, StreamId,
};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The disk says no: [`CommitError::Io`], [`ReadError::Io`]. Nothing of the commit is kept.
    Io,
    /// [`CommitError::Full`] although there is room. On a read the same as [`Fault::Io`].
    Full,
    /// The work is done, its completion waits for [`FaultyStore::release`]; never released, it is an answer lost. Later
    /// commits wait behind a held one, because completions keep their order.
    Hold,
}

/// Which calls fail and how: by number (from 0), or by chance with a seed.
#[derive(Clone, Debug)]
pub struct Script {
    submits: BTreeMap<u64, Fault>,
    reads: BTreeMap<u64, Fault>,
    per_mille: u64,
    rng: Rng,
}

impl Script {
    /// Nothing fails.
    #[must_use]
    pub fn none() -> Script {
        Script { submits: BTreeMap::new(), reads: BTreeMap::new(), per_mille: 0, rng: Rng::new(0) }
    }

    /// Each submit and each read fails with this chance, in one of the ways of [`Fault`]; the seed fixes which.
    #[must_use]
    pub fn seeded(seed: u64, per_mille: u64) -> Script {
        Script { per_mille, rng: Rng::new(seed), ..Script::none() }
    }

    /// Submit number `nth` fails.
    #[must_use]
    pub fn submit(mut self, nth: u64, fault: Fault) -> Script {
        self.submits.insert(nth, fault);
        self
    }

    /// Read number `nth` (of events or of a mailbox) fails.
    #[must_use]
    pub fn read(mut self, nth: u64, fault: Fault) -> Script {
        self.reads.insert(nth, fault);
        self
    }

    fn by_chance(&mut self) -> Option<Fault> {
        let fault = [Fault::Io, Fault::Full, Fault::Hold].get(self.rng.index(3)).copied();
        fault.filter(|_| self.rng.chance(self.per_mille))
    }
}

struct Plan {
    script: Script,
    submits: u64,
    reads: u64,
}

impl Plan {
    fn next_submit(&mut self) -> Option<Fault> {
        self.submits += 1;
        let by_number = self.script.submits.remove(&(self.submits - 1));
        by_number.or_else(|| self.script.by_chance())
    }

    fn next_read(&mut self) -> Option<Fault> {
        self.reads += 1;
        let by_number = self.script.reads.remove(&(self.reads - 1));
        by_number.or_else(|| self.script.by_chance())
    }
}

/// Completions on their way out, in order.
#[derive(Default)]
struct Outbox {
    waiting: VecDeque<(bool, Box<dyn FnOnce() + Send>)>,
    pumping: bool,
}

/// Cloned into completions, which may run on the inner store's thread.
#[derive(Clone, Default)]
struct Line(Arc<Mutex<Outbox>>);

impl Line {
    fn push(&self, hold: bool, call: impl FnOnce() + Send + 'static) {
        lock(&self.0).waiting.push_back((hold, Box::new(call)));
        self.pump();
    }

    fn release(&self, n: usize) {
        for (hold, _) in lock(&self.0).waiting.iter_mut().filter(|(hold, _)| *hold).take(n) {
            *hold = false;
        }
        self.pump();
    }

    /// One thread at a time calls, so that nobody overtakes; what is pushed meanwhile is called by that thread.
    fn pump(&self) {
        loop {
            let call = {
                let mut outbox = lock(&self.0);
                if outbox.pumping || outbox.waiting.front().is_none_or(|(hold, _)| *hold) {
                    return;
                }
                outbox.pumping = true;
                outbox.waiting.pop_front()
            };
            if let Some((_, call)) = call {
                call();
            }
            lock(&self.0).pumping = false;
        }
    }
}

/// Any store, with faults. With [`Script::none`] it adds nothing and passes the contract.
pub type FaultyStore<S> = Layered<Faulty<S>>;

/// What goes wrong in front of a store.
pub struct Faulty<S> {
    inner: S,
    plan: Mutex<Plan>,
    commits: Line,
    reads: Line,
}

impl<S> Layered<Faulty<S>> {
    /// Wraps a store, usually an `Arc` of one.
    pub fn new(inner: S, script: Script) -> FaultyStore<S> {
        let plan = Mutex::new(Plan { script, submits: 0, reads: 0 });
        Layered(Faulty { inner, plan, commits: Line::default(), reads: Line::default() })
    }
}

impl<S> Faulty<S> {
    /// Replaces what will go wrong from here on; numbers count from the next call.
    pub fn set_script(&self, script: Script) {
        *lock(&self.plan) = Plan { script, submits: 0, reads: 0 };
    }

    /// Lets the first `n` held commits and the first `n` held reads complete.
    pub fn release(&self, n: usize) {
        self.commits.release(n);
        self.reads.release(n);
    }

    /// Completions that wait to be released, or behind one that does.
    pub fn held(&self) -> usize {
        lock(&self.commits.0).waiting.len() + lock(&self.reads.0).waiting.len()
    }

    /// The store inside.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// The completion to give to the inner store for a read, or `None` if the read has failed already.
    fn read_fault<R: Send + 'static>(
        &self,
        done: Completion<Result<R, ReadError>>,
    ) -> Option<Completion<Result<R, ReadError>>> {
        match lock(&self.plan).next_read() {
            None => Some(done),
            Some(Fault::Hold) => {
                let line = self.reads.clone();
                Some(Box::new(move |outcome| line.push(true, move || done(outcome))))
            }
            Some(Fault::Io | Fault::Full) => {
                self.reads.push(false, move || done(Err(ReadError::Io(broken()))));
                None
            }
        }
    }
}

impl<S: AsStore + Send + Sync> Layer for Faulty<S> {
    fn behind(&self) -> &dyn Store {
        self.inner.as_store()
    }

    fn submit(&self, commit: Commit, done: Completion<Result<Committed, CommitError>>) {
        let fault = lock(&self.plan).next_submit();
        let line = self.commits.clone();
        let error = match fault {
            None | Some(Fault::Hold) => {
                let hold = fault.is_some();
                let done = Box::new(move |outcome| line.push(hold, move || done(outcome)));
                return self.behind().submit(commit, done);
            }
            Some(Fault::Io) => CommitError::Io(broken()),
            Some(Fault::Full) => {
                let stream = commit.events.iter().find_map(|e| e.stream).unwrap_or(StreamId(0));
                CommitError::Full { stream, used: 0, max: 0, need: 0 }
            }
        };
        // An empty commit takes the place of the failed one, so that its completion comes in its turn.
        let instead = Box::new(move |outcome: Result<Committed, CommitError>| {
            line.push(false, move || done(Err(outcome.err().unwrap_or(error))));
        });
        self.behind().submit(Commit::default(), instead);
    }

    fn read(&self, read: Read, done: Completion<Result<Batch, ReadError>>) {
        if let Some(done) = self.read_fault(done) {
            self.behind().read(read, done);
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
        if let Some(done) = self.read_fault(done) {
            self.behind().read_mailbox(session, after, max_events, max_bytes, done);
        }
    }

    fn close(&self) {
        self.behind().close();
        self.release(usize::MAX);
    }
}

fn broken() -> Arc<io::Error> {
    Arc::new(io::Error::other("injected fault"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;
    use crate::suite::support::{commit_of, event, spec_of_one};
    use eventmesh_edge_core::ports::store::WhenFull;
    use std::sync::mpsc;

    fn outcomes(
        script: Script,
        submits: usize,
    ) -> (FaultyStore<Arc<MemoryStore>>, mpsc::Receiver<(usize, bool)>) {
        let store = FaultyStore::new(MemoryStore::new(spec_of_one(1 << 20, WhenFull::Refuse)), script);
        let (tx, rx) = mpsc::channel();
        for n in 0..submits {
            let tx = tx.clone();
            let done = Box::new(move |outcome: Result<_, _>| tx.send((n, outcome.is_ok())).unwrap());
            store.submit(commit_of([event("s", n)]), done);
        }
        (store, rx)
    }

    #[test]
    fn the_script_decides_which_commit_fails_and_nothing_of_it_is_kept() {
        let (store, rx) = outcomes(Script::none().submit(1, Fault::Io).submit(3, Fault::Full), 5);
        let seen: Vec<_> = rx.try_iter().collect();
        assert_eq!(seen, [(0, true), (1, false), (2, true), (3, false), (4, true)]);
        assert_eq!(store.inner().stats().events, 3);
    }

    #[test]
    fn a_held_completion_holds_the_later_ones_and_a_release_lets_them_go_in_order() {
        let script = Script::none().submit(1, Fault::Hold).submit(2, Fault::Io).submit(3, Fault::Hold);
        let (store, rx) = outcomes(script, 5);
        assert_eq!(rx.try_iter().collect::<Vec<_>>(), [(0, true)]);
        assert_eq!((store.held(), store.inner().stats().events), (4, 4), "durable, but nobody was told");
        store.release(1);
        assert_eq!(rx.try_iter().collect::<Vec<_>>(), [(1, true), (2, false)]);
        store.close();
        assert_eq!(rx.try_iter().collect::<Vec<_>>(), [(3, true), (4, true)]);
    }

    #[test]
    fn a_seed_fixes_the_faults() {
        let run = |seed| outcomes(Script::seeded(seed, 300), 60).1.try_iter().collect::<Vec<_>>();
        assert_eq!(run(5), run(5));
        assert_ne!(run(5), run(6));
    }
}
