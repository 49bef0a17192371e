//! A store in front of another: what it does not do itself is passed on.

use bytes::Bytes;
use eventmesh_edge_core::event::{LogId, Position, Timestamp};
use eventmesh_edge_core::ports::Completion;
use eventmesh_edge_core::ports::store::{
    Backlog, Batch, Commit, CommitError, Committed, Consumer, LedgerEntry, LedgerLine, MailboxItem, Read,
    ReadError, Reshape, ReshapeError, SessionNo, Store, StoreStats, Table, Watcher,
};
use std::sync::Arc;

/// What a layer may do otherwise than the store behind it. [`Layered`] makes a [`Store`] of it.
pub trait Layer: Send + Sync {
    /// The store behind it.
    fn behind(&self) -> &dyn Store;

    /// [`Store::submit`].
    fn submit(&self, commit: Commit, done: Completion<Result<Committed, CommitError>>) {
        self.behind().submit(commit, done);
    }

    /// [`Store::read`].
    fn read(&self, read: Read, done: Completion<Result<Batch, ReadError>>) {
        self.behind().read(read, done);
    }

    /// [`Store::read_mailbox`].
    fn read_mailbox(
        &self,
        session: SessionNo,
        after: Position,
        max_events: usize,
        max_bytes: usize,
        done: Completion<Result<Vec<MailboxItem>, ReadError>>,
    ) {
        self.behind().read_mailbox(session, after, max_events, max_bytes, done);
    }

    /// [`Store::close`].
    fn close(&self) {
        self.behind().close();
    }
}

/// A handle on a store, whatever kind.
pub trait AsStore {
    /// The store.
    fn as_store(&self) -> &dyn Store;
}

impl<S: Store> AsStore for Arc<S> {
    fn as_store(&self) -> &dyn Store {
        &**self
    }
}

impl AsStore for Arc<dyn Store> {
    fn as_store(&self) -> &dyn Store {
        &**self
    }
}

/// A [`Layer`] as a store; dereferences to the layer.
pub struct Layered<L>(pub L);

impl<L> std::ops::Deref for Layered<L> {
    type Target = L;

    fn deref(&self) -> &L {
        &self.0
    }
}

impl<L: Layer> Store for Layered<L> {
    fn submit(&self, commit: Commit, done: Completion<Result<Committed, CommitError>>) {
        self.0.submit(commit, done);
    }

    fn reshape(&self, change: Reshape, done: Completion<Result<(), ReshapeError>>) {
        self.behind().reshape(change, done);
    }

    fn read(&self, read: Read, done: Completion<Result<Batch, ReadError>>) {
        self.0.read(read, done);
    }

    fn read_mailbox(
        &self,
        session: SessionNo,
        after: Position,
        max_events: usize,
        max_bytes: usize,
        done: Completion<Result<Vec<MailboxItem>, ReadError>>,
    ) {
        self.0.read_mailbox(session, after, max_events, max_bytes, done);
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.behind().get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        self.behind().scan(table, prefix, after, max)
    }

    fn mailbox_len(&self, session: SessionNo) -> (u64, u64) {
        self.behind().mailbox_len(session)
    }

    fn backlog(&self, consumer: Consumer) -> Backlog {
        self.behind().backlog(consumer)
    }

    fn ledger(&self) -> Vec<LedgerLine> {
        self.behind().ledger()
    }

    fn ledger_after(&self, after: u64, max: usize) -> Vec<LedgerEntry> {
        self.behind().ledger_after(after, max)
    }

    fn stats(&self) -> StoreStats {
        self.behind().stats()
    }

    fn log_id(&self) -> LogId {
        self.behind().log_id()
    }

    fn watch(&self, watcher: Watcher) {
        self.behind().watch(watcher);
    }

    fn tick(&self, now: Timestamp) {
        self.behind().tick(now);
    }

    fn close(&self) {
        self.0.close();
    }
}
