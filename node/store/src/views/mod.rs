//! The keyed map behind the store (sessions, retained values, cursors, mailboxes, ledger): changes in memory over two
//! sled databases that take turns.
//!
//! ```text
//! <data>/views-a/         a sled database          <data>/views-a.proof    its proof, written last ([`proof`])
//! <data>/views-b/         the other                <data>/views-b.proof
//! <data>/quarantine/views-a.<n>/                   damaged; the newest few are kept
//! ```
//! A checkpoint goes into the *older* side: its proof is removed, the missing changes and a marker are written, the
//! database is opened anew and compared with the marker, every file of it synced through our own handles, and then the
//! proof is written. Until that moment the other side is the whole truth; so one proven checkpoint exists always, whatever a
//! power cut leaves of the one being written (P6). A side without a proof is removed at open. One that is missing, behind
//! the changes in memory (after a start), or bloated is filled anew, in `views-a.filling/`, by copying the other.
//!
//! Changes stay in memory until both sides have them. So reads survive the loss of the newer side at run time, too: the
//! older one and the changes in memory are the same map.
//!
//! A damaged side at run time that nothing can stand in for (soon after a start, before its second checkpoint) makes reads
//! return [`BackingError::Damaged`]: its proof is then gone, and opening the views again falls back to the older side,
//! behind which the journal still has everything ([`Views::durable`] was never above it).

mod entry;
pub(crate) mod inspect;
mod memtable;
mod proof;
mod side;

#[cfg(test)]
mod tests;

use self::memtable::Memtable;
use self::side::{Found, Side, StoredPart, Writing};
use crate::backing::{BackingError, CheckpointDone, CheckpointWork, Lsn, ViewOp, Views};
use crate::spill::sled_dir::SledDir;
use bytes::Bytes;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const LABELS: [&str; 2] = ["views-a", "views-b"];

/// Damaged databases kept for inspection, per side.
const QUARANTINE_KEPT: usize = 2;

/// Entries fetched from a side at a time, at least, when a scan meets deletions.
const SCAN_STEP: usize = 16;

/// Stored bytes copied from one side to the other at a time.
const PAGE_BYTES: usize = 64 * 1024;

/// What a read costs of the cache window at least: a page comes in for it.
const LEAST_READ: usize = 4096;

/// What [`SledViews::open`] found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Sides moved to quarantine, with what was wrong.
    pub quarantined: Vec<String>,
    /// Checkpoints that had been begun and not finished; removed. No loss.
    pub unfinished: usize,
    /// The newest checkpoint was damaged and an older one stands in: the journal behind [`Views::durable`] makes it whole.
    pub fell_back: bool,
    /// There was a checkpoint and none is readable: the map starts empty and has only what the journal still holds.
    pub lost: bool,
}

/// The map. See the [module](self).
pub struct SledViews {
    memtable: Memtable,
    applied: Lsn,
    // Reads close, reopen and replace databases, and a checkpoint under way copies through the same handle as they.
    disk: SharedDisk,
}

/// The two sides, shared with a checkpoint that is being written. Locked for one read, or one page of a copy.
#[derive(Clone)]
struct SharedDisk(Arc<Mutex<Disk>>);

impl SharedDisk {
    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A checkpoint being written into the older side, while the newer one is read and the memory takes more changes.
struct Checkpoint {
    disk: SharedDisk,
    /// The older side: it counts for nothing in [`Disk`] until it comes back.
    target: Side,
    index: usize,
    /// Changes that the target lacks.
    changes: Vec<(Box<[u8]>, Option<Bytes>)>,
    lsn: Lsn,
}

/// What comes back.
struct Written {
    target: Side,
    index: usize,
    lsn: Lsn,
    /// Bytes written.
    outcome: Result<u64, BackingError>,
}

impl Checkpoint {
    /// Takes the older side out, and a copy of the changes that it lacks.
    fn begin(disk: &mut Disk, shared: SharedDisk, memtable: &Memtable, lsn: Lsn) -> Checkpoint {
        let index = disk.older_index();
        let newest = disk.newest().map(Side::lsn).unwrap_or_default();
        let blank = Side::new(&disk.data_dir, LABELS.get(index).copied().unwrap_or_default());
        let target = match disk.sides.get_mut(index) {
            Some(side) => std::mem::replace(side, blank),
            None => blank,
        };
        let behind = if target.takes_changes() { target.lsn() } else { newest };
        let changes = memtable.after(behind).map(|(key, value)| (key.into(), value.cloned())).collect();
        Checkpoint { disk: shared, target, index, changes, lsn }
    }

    fn write(mut self) -> Written {
        let in_place = self.target.takes_changes();
        let mut outcome = if in_place { self.write_changes() } else { self.fill() };
        if let Err(error @ BackingError::Damaged { .. }) = &outcome
            && in_place
        {
            // Damage in that side showed itself only now. It counts for nothing any more, so this fills it anew; the
            // changes that it lacked contain those that the other side lacks.
            tracing::warn!(%error, "a checkpoint did not prove, it is written anew");
            outcome = self.fill();
        }
        Written { target: self.target, index: self.index, lsn: self.lsn, outcome }
    }

    fn write_changes(&mut self) -> Result<u64, BackingError> {
        let writing = self.target.begin_changes()?;
        self.conclude(writing)
    }

    /// Copies the other side, page by page, so that its readers wait for a page at most.
    fn fill(&mut self) -> Result<u64, BackingError> {
        let mut writing = self.target.begin_filling()?;
        let mut from = side::first_key();
        loop {
            let page = self.disk.lock().copy_page(&from)?;
            let Some((last, _)) = page.last() else { break };
            from.clear();
            from.extend_from_slice(last);
            from.push(0);
            for (key, stored) in &page {
                writing.copy(key, stored)?;
            }
        }
        self.conclude(writing)
    }

    fn conclude(&mut self, mut writing: Writing) -> Result<u64, BackingError> {
        for (key, value) in &self.changes {
            match value {
                Some(value) => writing.put(key, value)?,
                None => writing.delete(key)?,
            }
        }
        self.target.conclude(writing, self.lsn)
    }
}

/// The two sides.
struct Disk {
    data_dir: PathBuf,
    sides: [Side; 2],
    /// The current side, once something was read from it.
    reader: Option<Reader>,
    /// The current side is damaged and nothing can stand in: what reads said, and checkpoints say from then on.
    damage: Option<BackingError>,
    disk_bytes: u64,
    bytes_written: u64,
}

struct Reader {
    sled: SledDir,
    in_window: usize,
}

impl SledViews {
    /// Finds the newest side that is proven and reads back as such. Damage moves a side aside and falls back on the other,
    /// or on nothing: see the report (P6).
    ///
    /// # Errors
    /// [`BackingError::Io`] if the directory cannot be read or written; never for damage.
    pub fn open(data_dir: &Path) -> Result<(SledViews, OpenReport), BackingError> {
        let sides = LABELS.map(|label| Side::new(data_dir, label));
        let mut disk = Disk {
            data_dir: data_dir.to_owned(),
            sides,
            reader: None,
            damage: None,
            disk_bytes: 0,
            bytes_written: 0,
        };
        let mut report = OpenReport::default();
        disk.find_sides(&mut report)?;
        disk.check_newest(&mut report)?;
        let applied = disk.newest().map_or(Lsn(0), Side::lsn);
        report.lost = !report.quarantined.is_empty() && disk.newest().is_none();
        for side in &mut disk.sides {
            side.caught_up = side.proof.is_some() && side.lsn() == applied;
        }
        disk.measure();
        Ok((
            SledViews {
                memtable: Memtable::new(applied),
                applied,
                disk: SharedDisk(Arc::new(Mutex::new(disk))),
            },
            report,
        ))
    }
}

impl Views for SledViews {
    fn apply(&mut self, lsn: Lsn, ops: Vec<ViewOp>) {
        if lsn <= self.applied {
            return;
        }
        self.applied = lsn;
        for op in ops {
            self.memtable.apply(lsn, op);
        }
    }

    fn applied(&self) -> Lsn {
        self.applied
    }

    fn durable(&self) -> Lsn {
        let disk = self.disk.lock();
        disk.sides.iter().map(Side::lsn).min().unwrap_or_default()
    }

    fn pending_bytes(&self) -> usize {
        self.memtable.pending_bytes()
    }

    fn checkpoint(&mut self) -> Result<(), BackingError> {
        let work = self.checkpoint_begin();
        work.map_or(Ok(()), |work| self.checkpoint_end(work()))
    }

    fn checkpoint_begin(&mut self) -> Option<CheckpointWork> {
        let nothing: CheckpointWork = Box::new(|| CheckpointDone(Ok(Box::new(()))));
        if self.durable() == self.applied {
            return Some(nothing);
        }
        let mut disk = self.disk.lock();
        if let Some(damage) = disk.damage.clone() {
            return Some(Box::new(move || CheckpointDone(Err(damage))));
        }
        let checkpoint = Checkpoint::begin(&mut disk, self.disk.clone(), &self.memtable, self.applied);
        Some(Box::new(move || CheckpointDone(Ok(Box::new(checkpoint.write())))))
    }

    fn checkpoint_end(&mut self, done: CheckpointDone) -> Result<(), BackingError> {
        let Ok(written) = done.0?.downcast::<Written>() else { return Ok(()) };
        let Written { target, index, lsn, outcome } = *written;
        let mut disk = self.disk.lock();
        if let Some(side) = disk.sides.get_mut(index) {
            *side = target;
        }
        disk.bytes_written += outcome?;
        // Whatever is open for reading is the older side now.
        disk.reader = None;
        // What the other side lacks stays in memory, unless it is to be filled anew anyway.
        let other = disk.sides.get(disk.older_index()).filter(|side| side.caught_up);
        self.memtable.settle(lsn, other.map_or(lsn, Side::lsn));
        disk.measure();
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BackingError> {
        if let Some(change) = self.memtable.get(key) {
            return Ok(change.cloned());
        }
        let found = self.disk.lock().read(|sled| {
            let value = side::get(sled, key)?;
            let bytes = value.as_ref().map_or(0, Bytes::len);
            Ok((value, bytes))
        })?;
        Ok(found.flatten())
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, BackingError> {
        let mut out = Vec::new();
        let mut after = after.map(Bytes::copy_from_slice);
        while out.len() < max {
            let step = (max - out.len()).max(SCAN_STEP.min(max.saturating_mul(4)));
            let stored = self.scan_disk(prefix, after.as_deref(), step)?;
            // Beyond the last stored entry of a full step there may be more stored ones: changes wait for the next step.
            let until = if stored.len() < step { None } else { stored.last().map(|(key, _)| key.clone()) };
            let range = (after.as_deref(), until.as_deref());
            self.merge(prefix, range, stored, max, &mut out);
            if until.is_none() {
                break;
            }
            after = until;
        }
        out.truncate(max);
        Ok(out)
    }

    fn disk_bytes(&self) -> u64 {
        self.disk.lock().disk_bytes
    }

    fn bytes_written(&self) -> u64 {
        self.disk.lock().bytes_written
    }
}

impl SledViews {
    fn scan_disk(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, BackingError> {
        let found = self.disk.lock().read(|sled| {
            let found = side::scan(sled, prefix, after, max)?;
            let bytes = found.iter().map(|(key, value)| key.len() + value.len()).sum();
            Ok((found, bytes))
        })?;
        Ok(found.unwrap_or_default())
    }

    /// Appends stored entries overlaid with the changes in the range (after, until], up to `max` in all or a few more.
    fn merge(
        &self,
        prefix: &[u8],
        (after, until): (Option<&[u8]>, Option<&[u8]>),
        stored: Vec<(Bytes, Bytes)>,
        max: usize,
        out: &mut Vec<(Bytes, Bytes)>,
    ) {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let changes = self.memtable.range(from);
        let mut changes = changes
            .take_while(|(key, _)| key.starts_with(prefix) && until.is_none_or(|until| *key <= until))
            .peekable();
        let put = |(key, change): (&[u8], Option<&Bytes>)| {
            change.map(|value| (Bytes::copy_from_slice(key), value.clone()))
        };
        for (key, value) in stored {
            while let Some(change) = changes.next_if(|(newer, _)| *newer < key.as_ref()) {
                out.extend(put(change));
            }
            match changes.next_if(|(newer, _)| *newer == key.as_ref()) {
                Some(change) => out.extend(put(change)),
                None => out.push((key, value)),
            }
            if out.len() >= max {
                return;
            }
        }
        let room = max.saturating_sub(out.len());
        out.extend(changes.filter_map(put).take(room));
    }
}

impl Disk {
    /// Looks at both sides' proofs.
    fn find_sides(&mut self, report: &mut OpenReport) -> Result<(), BackingError> {
        for side in &mut self.sides {
            match side.find()? {
                Found::Nothing | Found::Proven => {}
                Found::Unfinished => report.unfinished += 1,
                Found::Damaged(error) => {
                    side.set_aside(&self.data_dir, QUARANTINE_KEPT)?;
                    report.quarantined.push(error.to_string());
                }
            }
        }
        Ok(())
    }

    /// Checks the newest side, and where it is damaged, the other.
    fn check_newest(&mut self, report: &mut OpenReport) -> Result<(), BackingError> {
        while let Some(newest) = self.newest_index() {
            let Some(side) = self.sides.get_mut(newest) else { break };
            match side.check() {
                Ok(()) => break,
                Err(error @ BackingError::Io { .. }) => return Err(error),
                Err(error @ BackingError::Damaged { .. }) => {
                    side.set_aside(&self.data_dir, QUARANTINE_KEPT)?;
                    report.quarantined.push(error.to_string());
                    report.fell_back = true;
                }
            }
        }
        report.fell_back &= self.newest().is_some();
        Ok(())
    }

    /// The side that holds the newest proven checkpoint.
    fn newest_index(&self) -> Option<usize> {
        let proven = self.sides.iter().enumerate().filter(|(_, side)| side.proof.is_some());
        proven.max_by_key(|(_, side)| side.lsn()).map(|(index, _)| index)
    }

    fn newest(&self) -> Option<&Side> {
        self.sides.get(self.newest_index()?)
    }

    /// The side that the next checkpoint goes to.
    fn older_index(&self) -> usize {
        self.newest_index().map_or(0, |newest| 1 - newest)
    }

    fn measure(&mut self) {
        self.disk_bytes = self.sides.iter().map(Side::disk_bytes).sum();
    }

    /// Entries of the current side from a key on, as they are stored: one page of a copy.
    fn copy_page(&mut self, from: &[u8]) -> Result<Vec<StoredPart>, BackingError> {
        let found = self.read(|sled| side::page(sled, from, PAGE_BYTES))?;
        Ok(found.unwrap_or_default())
    }

    /// Runs a read on the current side; `None` if there is nothing on disk. Damage switches to the other side where that,
    /// with the changes in memory, is the same map. `work` also says how many bytes it read.
    fn read<T>(
        &mut self,
        work: impl Fn(&SledDir) -> Result<(T, usize), BackingError>,
    ) -> Result<Option<T>, BackingError> {
        loop {
            let taken = self.reader.take();
            let Some(side) = self.newest().filter(|side| side.holds_entries()) else { return Ok(None) };
            let reader = match taken {
                Some(reader) => Ok(reader),
                None => side.open().map(|sled| Reader { sled, in_window: 0 }),
            };
            let outcome = reader.and_then(|reader| Ok((work(&reader.sled)?, reader)));
            match outcome {
                Ok(((found, bytes), mut reader)) => {
                    reader.in_window += bytes.max(LEAST_READ);
                    // A full window: closing it gives its cache back, and the next read opens it again.
                    let keep = reader.in_window <= side.window_bytes();
                    self.reader = keep.then_some(reader);
                    return Ok(Some(found));
                }
                Err(error @ BackingError::Io { .. }) => return Err(error),
                Err(error @ BackingError::Damaged { .. }) => self.fail_over(error)?,
            }
        }
    }

    /// Gives the current side up for the other, or returns the damage if that one cannot stand in.
    fn fail_over(&mut self, damage: BackingError) -> Result<(), BackingError> {
        let Some(newest) = self.newest_index() else { return Err(damage) };
        let stands_in =
            self.sides.get(1 - newest).is_some_and(|other| other.proof.is_some() && other.caught_up);
        match self.sides.get_mut(newest) {
            Some(side) if stands_in => {
                tracing::error!(%damage, "a checkpoint of the views is damaged, the other one takes over");
                side.set_aside(&self.data_dir, QUARANTINE_KEPT)
            }
            _ => {
                self.note_damage(&damage);
                Err(damage)
            }
        }
    }

    /// Makes sure that the next open falls back, and that no checkpoint copies or replaces what is left until then.
    fn note_damage(&mut self, damage: &BackingError) {
        self.damage = Some(damage.clone());
        if let Some(Err(error)) = self.newest().map(Side::condemn) {
            tracing::error!(%error, "taking a damaged checkpoint's proof away failed");
        }
    }
}
