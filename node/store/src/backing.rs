//! What stands behind the journal, as two internal seams: keyed views and sealed generations.
//!
//! Both are implemented with sled ([`crate::views`], [`crate::spill`]) and, for the simulation, in memory. The journal is
//! the only commit point: whatever is written through these traits can be written again from the journal until the
//! trait's own word ([`Views::durable`], a generation returned by [`Generations::seal`]) says that it no longer need be.

use bytes::Bytes;
use eventmesh_edge_core::event::Position;
use std::ops::RangeInclusive;

/// Number of a commit in the journal, from 1, contiguous over the life of the data directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// Durable number of a stream (its name is in the views); not the index of the current configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamNo(pub u32);

/// Why a backing store failed. The caller counts it, quarantines, and goes on (P6).
#[derive(Debug, Clone, thiserror::Error)]
pub enum BackingError {
    /// The file system said no.
    #[error("{what}: {source}")]
    Io {
        /// Verb first: `create generation 12`.
        what: String,
        /// Why.
        source: std::sync::Arc<std::io::Error>,
    },
    /// A checksum, a count or a marker is wrong, or sled could not open the directory.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// Which directory.
        path: String,
        /// What was found.
        why: String,
    },
}

/// One change of the keyed map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViewOp {
    /// `map[key] = value`. Keys and values of any length; the implementation splits what its database cannot hold.
    Put(Bytes, Bytes),
    /// `map[key]` is gone.
    Delete(Bytes),
}

/// The heavy part of one checkpoint, cut off from the views: it owns all it needs, so it runs without any lock while
/// `apply`, `get` and `scan` go on.
pub type CheckpointWork = Box<dyn FnOnce() -> CheckpointDone + Send>;

/// What came of a [`CheckpointWork`]: opaque to the caller, handed back to [`Views::checkpoint_end`].
pub struct CheckpointDone(pub Result<Box<dyn std::any::Any + Send>, BackingError>);

/// An ordered map of bytes whose recent changes are in memory and whose older ones are in checkpoints on disk.
///
/// `apply` is cheap and in memory. `checkpoint` writes what was applied to the older of two databases, syncs it, opens it
/// anew and proves it, and only then lets it count; so one whole, proven checkpoint exists at every moment. A start takes
/// the newest one that opens and replays the journal behind it.
pub trait Views: Send {
    /// Applies the changes of one commit. Commits come in order; one at or below [`Views::applied`] is ignored.
    fn apply(&mut self, lsn: Lsn, ops: Vec<ViewOp>);

    /// The newest commit applied, in memory or on disk.
    fn applied(&self) -> Lsn;

    /// The newest commit that *both* databases hold: the journal behind it is not needed for the views any more.
    fn durable(&self) -> Lsn;

    /// Bytes of memory taken by changes that no checkpoint holds yet.
    fn pending_bytes(&self) -> usize;

    /// Writes one checkpoint (into the older database). Two calls with nothing applied between them make
    /// [`Views::durable`] reach [`Views::applied`]. May take long: runs on the store's blocking thread.
    ///
    /// # Errors
    /// [`BackingError`]; the previous checkpoint and the changes in memory are untouched and the next call tries again.
    fn checkpoint(&mut self) -> Result<(), BackingError>;

    /// The same in two steps, so that the store's lock is held only for moments: freezes what is in memory and gives the
    /// work that writes, syncs, reopens and proves it. Commits applied meanwhile belong to the next checkpoint. One at a
    /// time. `None`: there is no such split, call [`Views::checkpoint`] (which then holds up commits as long as it takes).
    fn checkpoint_begin(&mut self) -> Option<CheckpointWork> {
        None
    }

    /// Takes the outcome of the work over: the proven checkpoint counts from here on.
    ///
    /// # Errors
    /// The [`BackingError`] of the work; as with [`Views::checkpoint`] nothing is lost and the next one tries again.
    fn checkpoint_end(&mut self, done: CheckpointDone) -> Result<(), BackingError> {
        done.0.map(drop)
    }

    /// `map[key]`.
    ///
    /// # Errors
    /// [`BackingError`] if the database cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BackingError>;

    /// Entries with `prefix`, after the key `after` (exclusive), at most `max`, in key order.
    ///
    /// # Errors
    /// [`BackingError`] if the database cannot be read.
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, BackingError>;

    /// Bytes on disk of both databases.
    fn disk_bytes(&self) -> u64;

    /// Bytes written since the start, as accounted by the implementation.
    fn bytes_written(&self) -> u64;
}

/// What a sealed generation says about one stream in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Which stream.
    pub stream: StreamNo,
    /// First position.
    pub first: Position,
    /// Last position.
    pub last: Position,
    /// How many events.
    pub events: u64,
    /// Their stored bytes (the journal's accounting, not the compressed size).
    pub bytes: u64,
    /// Earliest receipt time, ms since 1970.
    pub oldest_ms: u64,
    /// Latest receipt time.
    pub newest_ms: u64,
}

/// One record handed over to a generation.
#[derive(Clone, Copy, Debug)]
pub struct SpillRecord<'a> {
    /// Which stream.
    pub stream: StreamNo,
    /// Its position; ascending within a stream.
    pub position: Position,
    /// Receipt time, ms since 1970.
    pub received_ms: u64,
    /// Its stored bytes in the journal's accounting.
    pub stored_bytes: u32,
    /// The record body ([`eventmesh_edge_core::event::record`]).
    pub body: &'a [u8],
}

/// Where the records of a generation come from, one at a time: each may lie in a buffer that the next call overwrites, so
/// that a seal of 64 MiB needs the memory of one read.
pub trait SpillSource {
    /// The next record in journal order, `None` at the end.
    fn next(&mut self) -> Option<SpillRecord<'_>>;
}

/// Sealed generations: appended once, synced, proven, then only read, then removed as a whole.
pub trait Generations: Send {
    /// Numbers of the sealed generations, ascending, each with its extents and the journal commits it covers.
    fn sealed(&self) -> Vec<(u64, RangeInclusive<Lsn>, Vec<Extent>)>;

    /// Writes `records` (in journal order, streams mixed) into a new generation covering the commits `lsns`, syncs every file and
    /// directory of it, opens it anew, proves it, and renames it into place. Anything unfinished is removed, at once or
    /// at the next open. Runs on the store's blocking thread.
    ///
    /// # Errors
    /// [`BackingError`]; nothing of it counts, the journal still has everything.
    fn seal(
        &mut self,
        lsns: RangeInclusive<Lsn>,
        records: &mut dyn Iterator<Item = SpillRecord<'_>>,
    ) -> Result<(u64, Vec<Extent>), BackingError>;

    /// [`Generations::seal`] from a source that lends its records: what the store calls. An implementation that streams
    /// should do its work here; this one collects everything first and is for small generations only.
    ///
    /// # Errors
    /// As [`Generations::seal`].
    fn seal_from(
        &mut self,
        lsns: RangeInclusive<Lsn>,
        source: &mut dyn SpillSource,
    ) -> Result<(u64, Vec<Extent>), BackingError> {
        let mut kept = Vec::new();
        while let Some(record) = source.next() {
            kept.push((
                record.stream,
                record.position,
                record.received_ms,
                record.stored_bytes,
                record.body.to_vec(),
            ));
        }
        let mut records =
            kept.iter().map(|(stream, position, received_ms, stored_bytes, body)| SpillRecord {
                stream: *stream,
                position: *position,
                received_ms: *received_ms,
                stored_bytes: *stored_bytes,
                body,
            });
        self.seal(lsns, &mut records)
    }

    /// Reads a stream's records of one generation after a position: at most `max_events`, and no more once `max_bytes`
    /// stored bytes are reached (the first may exceed it alone). Appends `(position, stored bytes, body)`.
    ///
    /// A damaged chunk is skipped; its extent (count known from its header or neighbours, else the position range) is
    /// returned so that the caller can count it.
    ///
    /// # Errors
    /// [`BackingError`] if the generation cannot be read at all: the caller quarantines it.
    fn read(
        &mut self,
        generation: u64,
        stream: StreamNo,
        after: Position,
        max_events: usize,
        max_bytes: usize,
        out: &mut Vec<(Position, u32, Bytes)>,
    ) -> Result<Vec<Extent>, BackingError>;

    /// Events, stored bytes and earliest receipt of a stream in one generation after a position (for exact backlogs
    /// after a start). Reads chunk headers only.
    ///
    /// # Errors
    /// [`BackingError`] if the generation cannot be read.
    fn count_after(
        &mut self,
        generation: u64,
        stream: StreamNo,
        after: Position,
    ) -> Result<(u64, u64, Option<u64>), BackingError>;

    /// Removes a generation and returns its space.
    ///
    /// # Errors
    /// [`BackingError`]; tried again at the next start.
    fn remove(&mut self, generation: u64) -> Result<(), BackingError>;

    /// Moves a damaged generation aside (bounded in number; the oldest quarantined one is deleted).
    ///
    /// # Errors
    /// [`BackingError`] if it can neither be moved nor removed.
    fn quarantine(&mut self, generation: u64) -> Result<(), BackingError>;

    /// Closes whatever is open for reading: gives memory back.
    fn release(&mut self);

    /// Bytes on disk of all sealed generations.
    fn disk_bytes(&self) -> u64;

    /// Bytes written since the start, as accounted by the implementation.
    fn bytes_written(&self) -> u64;
}
