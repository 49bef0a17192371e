//! Views and generations in memory, for simulation and tests: what they would have synced is kept in a
//! [`MemoryBacking`] that survives a simulated power cut, everything else is gone with it.

use crate::backing::{
    BackingError, CheckpointDone, CheckpointWork, Extent, Generations, Lsn, SpillRecord, SpillSource,
    StreamNo, ViewOp, Views,
};
use bytes::Bytes;
use eventmesh_edge_core::event::Position;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Map = BTreeMap<Bytes, Bytes>;
type Sealed = (RangeInclusive<Lsn>, Vec<Extent>, Vec<Record>);

#[derive(Clone, Debug)]
struct Record {
    stream: StreamNo,
    position: Position,
    received_ms: u64,
    stored_bytes: u32,
    body: Bytes,
}

#[derive(Default)]
struct Durable {
    checkpoints: [(Lsn, Map); 2],
    generations: BTreeMap<u64, Sealed>,
    next_generation: u64,
    fail_seals: u64,
    fail_checkpoints: u64,
    /// With what they fail.
    checkpoint_error: Option<std::io::ErrorKind>,
}

/// What both keep over a power cut. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryBacking {
    durable: Arc<Mutex<Durable>>,
}

impl MemoryBacking {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        MemoryBacking::default()
    }

    fn lock(&self) -> MutexGuard<'_, Durable> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The views as a start finds them.
    #[must_use]
    pub fn views(&self) -> MemoryViews {
        let durable = self.lock();
        let [a, b] = &durable.checkpoints;
        let (applied, map) = if a.0 >= b.0 { a } else { b };
        let (applied, map) = (*applied, map.clone());
        drop(durable);
        MemoryViews { backing: self.clone(), map, applied, pending: 0 }
    }

    /// The generations as a start finds them.
    #[must_use]
    pub fn generations(&self) -> MemoryGenerations {
        MemoryGenerations { backing: self.clone() }
    }

    /// The next `times` seals fail.
    pub fn fail_seals(&self, times: u64) {
        self.lock().fail_seals = times;
    }

    /// The next `times` checkpoints fail.
    pub fn fail_checkpoints(&self, times: u64) {
        let mut durable = self.lock();
        (durable.fail_checkpoints, durable.checkpoint_error) = (times, None);
    }

    /// The next `times` checkpoints find no room.
    pub fn fill_up_for_checkpoints(&self, times: u64) {
        let mut durable = self.lock();
        durable.fail_checkpoints = times;
        durable.checkpoint_error = Some(std::io::ErrorKind::StorageFull);
    }

    /// Loses a generation as damage would.
    pub fn lose_generation(&self, number: u64) {
        self.lock().generations.remove(&number);
    }

    /// Loses all views as damage would.
    pub fn lose_views(&self) {
        self.lock().checkpoints = Default::default();
    }
}

/// See [`MemoryBacking::views`].
pub struct MemoryViews {
    backing: MemoryBacking,
    map: Map,
    applied: Lsn,
    pending: usize,
}

impl Views for MemoryViews {
    fn apply(&mut self, lsn: Lsn, ops: Vec<ViewOp>) {
        if lsn <= self.applied {
            return;
        }
        self.applied = lsn;
        for op in ops {
            match op {
                ViewOp::Put(key, value) => {
                    self.pending += key.len() + value.len() + 64;
                    self.map.insert(key, value);
                }
                ViewOp::Delete(key) => {
                    self.pending += key.len() + 64;
                    self.map.remove(&key);
                }
            }
        }
    }

    fn applied(&self) -> Lsn {
        self.applied
    }

    fn durable(&self) -> Lsn {
        let [a, b] = &self.backing.lock().checkpoints;
        a.0.min(b.0)
    }

    fn pending_bytes(&self) -> usize {
        self.pending
    }

    fn checkpoint(&mut self) -> Result<(), BackingError> {
        let work = self.checkpoint_begin().map(|work| work());
        work.map_or(Ok(()), |done| self.checkpoint_end(done))
    }

    fn checkpoint_begin(&mut self) -> Option<CheckpointWork> {
        let (backing, frozen) = (self.backing.clone(), (self.applied, self.map.clone()));
        self.pending = 0;
        Some(Box::new(move || {
            let mut durable = backing.lock();
            if durable.fail_checkpoints > 0 {
                durable.fail_checkpoints -= 1;
                let error = failed("write checkpoint");
                let no_room = durable.checkpoint_error.map(|kind| BackingError::Io {
                    what: "write checkpoint".to_owned(),
                    source: Arc::new(kind.into()),
                });
                return CheckpointDone(Err(no_room.unwrap_or(error)));
            }
            let [a, b] = &mut durable.checkpoints;
            *(if a.0 <= b.0 { a } else { b }) = frozen;
            CheckpointDone(Ok(Box::new(())))
        }))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BackingError> {
        Ok(self.map.get(key).cloned())
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, BackingError> {
        let from = Bytes::copy_from_slice(after.filter(|a| *a > prefix).unwrap_or(prefix));
        let rows = self.map.range(from..).skip_while(|(key, _)| after.is_some_and(|a| &key[..] <= a));
        Ok(rows
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(max)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }

    fn bytes_written(&self) -> u64 {
        0
    }
}

/// See [`MemoryBacking::generations`].
pub struct MemoryGenerations {
    backing: MemoryBacking,
}

impl Generations for MemoryGenerations {
    fn sealed(&self) -> Vec<(u64, RangeInclusive<Lsn>, Vec<Extent>)> {
        let durable = self.backing.lock();
        durable
            .generations
            .iter()
            .map(|(n, (lsns, extents, _))| (*n, lsns.clone(), extents.clone()))
            .collect()
    }

    fn seal(
        &mut self,
        lsns: RangeInclusive<Lsn>,
        records: &mut dyn Iterator<Item = SpillRecord<'_>>,
    ) -> Result<(u64, Vec<Extent>), BackingError> {
        let records = records.map(|record| owned(&record)).collect();
        self.keep(lsns, records)
    }

    fn seal_from(
        &mut self,
        lsns: RangeInclusive<Lsn>,
        source: &mut dyn SpillSource,
    ) -> Result<(u64, Vec<Extent>), BackingError> {
        let mut records = Vec::new();
        while let Some(record) = source.next() {
            records.push(owned(&record));
        }
        self.keep(lsns, records)
    }

    fn read(
        &mut self,
        generation: u64,
        stream: StreamNo,
        after: Position,
        max_events: usize,
        max_bytes: usize,
        out: &mut Vec<(Position, u32, Bytes)>,
    ) -> Result<Vec<Extent>, BackingError> {
        let durable = self.backing.lock();
        let (_, _, records) = durable.generations.get(&generation).ok_or_else(|| gone(generation))?;
        let mut bytes = 0;
        for record in records.iter().filter(|r| r.stream == stream && r.position > after).take(max_events) {
            let next = bytes + record.stored_bytes as usize;
            if bytes > 0 && next > max_bytes {
                break;
            }
            bytes = next;
            out.push((record.position, record.stored_bytes, record.body.clone()));
        }
        Ok(Vec::new())
    }

    fn count_after(
        &mut self,
        generation: u64,
        stream: StreamNo,
        after: Position,
    ) -> Result<(u64, u64, Option<u64>), BackingError> {
        let durable = self.backing.lock();
        let (_, _, records) = durable.generations.get(&generation).ok_or_else(|| gone(generation))?;
        let later: Vec<&Record> =
            records.iter().filter(|r| r.stream == stream && r.position > after).collect();
        let bytes = later.iter().map(|r| u64::from(r.stored_bytes)).sum();
        Ok((later.len() as u64, bytes, later.iter().map(|r| r.received_ms).min()))
    }

    fn remove(&mut self, generation: u64) -> Result<(), BackingError> {
        self.backing.lock().generations.remove(&generation);
        Ok(())
    }

    fn quarantine(&mut self, generation: u64) -> Result<(), BackingError> {
        self.remove(generation)
    }

    fn release(&mut self) {}

    fn disk_bytes(&self) -> u64 {
        let durable = self.backing.lock();
        durable.generations.values().flat_map(|(_, _, records)| records).map(|r| r.body.len() as u64).sum()
    }

    fn bytes_written(&self) -> u64 {
        0
    }
}

impl MemoryGenerations {
    fn keep(
        &self,
        lsns: RangeInclusive<Lsn>,
        records: Vec<Record>,
    ) -> Result<(u64, Vec<Extent>), BackingError> {
        let mut durable = self.backing.lock();
        if durable.fail_seals > 0 {
            durable.fail_seals -= 1;
            return Err(failed("seal generation"));
        }
        durable.next_generation += 1;
        let number = durable.next_generation;
        let extents = extents_of(&records);
        durable.generations.insert(number, (lsns, extents.clone(), records));
        Ok((number, extents))
    }
}

fn owned(record: &SpillRecord<'_>) -> Record {
    Record {
        stream: record.stream,
        position: record.position,
        received_ms: record.received_ms,
        stored_bytes: record.stored_bytes,
        body: Bytes::copy_from_slice(record.body),
    }
}

fn extents_of(records: &[Record]) -> Vec<Extent> {
    let mut extents: BTreeMap<StreamNo, Extent> = BTreeMap::new();
    for r in records {
        let extent = extents.entry(r.stream).or_insert(Extent {
            stream: r.stream,
            first: r.position,
            last: r.position,
            events: 0,
            bytes: 0,
            oldest_ms: r.received_ms,
            newest_ms: r.received_ms,
        });
        extent.last = r.position;
        extent.events += 1;
        extent.bytes += u64::from(r.stored_bytes);
        extent.oldest_ms = extent.oldest_ms.min(r.received_ms);
        extent.newest_ms = extent.newest_ms.max(r.received_ms);
    }
    extents.into_values().collect()
}

fn failed(what: &str) -> BackingError {
    BackingError::Io { what: what.to_owned(), source: Arc::new(std::io::Error::other("told to fail")) }
}

fn gone(generation: u64) -> BackingError {
    BackingError::Damaged { path: format!("generation {generation}"), why: "it is gone".to_owned() }
}
