//! Sealed generations in sled: what outlives the journal's window, sorted by stream.
//!
//! ```text
//! <data>/generations/<number, 20 digits>/           a sled database and the files `extents` and `sums`; sealed, never
//!                                                   written again
//! <data>/generations/<number>.building/             unfinished: removed at the next open, the journal still has it all
//! <data>/generations/<number>.removing/             consumed: removed at once or at the next open
//! <data>/quarantine/generation.<n>/                 damaged; the newest few are kept for whoever wants to look
//! ```
//! A generation counts once its directory has its final name, and it gets that after every byte in it was synced and read
//! back ([`seal`]). So a power cut leaves it whole or not at all (P6), and start-up reads one small file of each.
//! Layouts: [`chunk`] (entries), [`manifest`] (what a generation says about itself). sled's traps: [`sled_dir`].

mod chunk;
pub(crate) mod files;
pub(crate) mod inspect;
mod manifest;
mod reader;
mod seal;
pub(crate) mod sled_dir;
pub(crate) mod sums;
pub(crate) mod varint;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use self::tests::noise as noise_for_tests;

use self::files::{damaged, io_error};
use self::manifest::{Manifest, Summary};
use self::reader::Reader;
use self::seal::EXTENTS_FILE;
use self::sled_dir::SledDir;
use crate::backing::{BackingError, Extent, Generations, Lsn, SpillRecord, SpillSource, StreamNo};
use bytes::Bytes;
use eventmesh_edge_core::event::Position;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

const GENERATIONS: &str = "generations";
const BUILDING: &str = "building";
const REMOVING: &str = "removing";

/// Damaged generations kept for inspection. Each may take the size of a generation.
const QUARANTINE_KEPT: usize = 2;

/// Generations open for reading at a time: the one being drained, and the next or another uplink's.
const OPEN_MAX: usize = 2;

/// What [`SledGenerations::open`] found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GenerationsReport {
    /// Directories of unfinished or half-removed generations that were deleted. No loss: the journal has the first, the
    /// second were consumed.
    pub unfinished: usize,
    /// Generations whose description could not be read at all, moved aside. What was in them is lost and to be counted.
    pub quarantined: Vec<u64>,
}

/// The sealed generations of a data directory. See the [module](self).
pub struct SledGenerations {
    data_dir: PathBuf,
    dir: PathBuf,
    sealed: BTreeMap<u64, Sealed>,
    /// Most recently used last.
    open: Vec<(u64, Reader)>,
    bytes_written: u64,
}

struct Sealed {
    summary: Summary,
    disk_bytes: u64,
}

impl SledGenerations {
    /// Finds the sealed generations below `data_dir`, removes unfinished ones, and moves unreadable ones aside (P6).
    ///
    /// # Errors
    /// [`BackingError::Io`] if the directory cannot be read or written; never for damage.
    pub fn open(data_dir: &Path) -> Result<(SledGenerations, GenerationsReport), BackingError> {
        let dir = data_dir.join(GENERATIONS);
        let mut report = GenerationsReport::default();
        let mut sealed = BTreeMap::new();
        for (path, _) in files::entries(&dir)? {
            let name = files::name(&path);
            if [BUILDING, REMOVING].into_iter().any(|suffix| name.ends_with(suffix)) {
                files::remove_dir(&path)?;
                report.unfinished += 1;
            } else if let Ok(number) = name.parse() {
                match read_summary(&path) {
                    Ok(summary) => {
                        let disk_bytes = files::disk_bytes(&path);
                        sealed.insert(number, Sealed { summary, disk_bytes });
                    }
                    Err(error @ BackingError::Io { .. }) => return Err(error),
                    Err(BackingError::Damaged { .. }) => {
                        files::quarantine(data_dir, &path, "generation", QUARANTINE_KEPT)?;
                        report.quarantined.push(number);
                    }
                }
            }
        }
        // A process killed between the rename and its sync leaves a name that can be seen and is not durable. From here
        // on the journal lets go of what lies in it.
        if !sealed.is_empty()
            && let Err(error) = files::sync_dir(&dir)
        {
            // No reason not to start (P6).
            tracing::warn!(%error, "names of generations cannot be synced");
        }
        let data_dir = data_dir.to_owned();
        Ok((SledGenerations { data_dir, dir, sealed, open: Vec::new(), bytes_written: 0 }, report))
    }

    fn path(&self, generation: u64) -> PathBuf {
        self.dir.join(format!("{generation:020}"))
    }

    /// Numbers only grow: commits do, and a generation takes the number of its first one.
    fn next_number(&self, lsns: &RangeInclusive<Lsn>) -> u64 {
        let after_last = self.sealed.last_key_value().map_or(1, |(last, _)| last + 1);
        after_last.max(lsns.start().0)
    }

    fn reader(&mut self, generation: u64) -> Result<&mut Reader, BackingError> {
        let known = self.open.iter().position(|(number, _)| *number == generation);
        let entry = match known {
            Some(index) => self.open.remove(index),
            None => {
                if self.open.len() >= OPEN_MAX {
                    self.open.remove(0);
                }
                (generation, Reader::open(&self.path(generation))?)
            }
        };
        Ok(&mut self.open.push_mut(entry).1)
    }

    fn close(&mut self, generation: u64) {
        self.open.retain(|(number, _)| *number != generation);
    }

    fn build(
        &self,
        number: u64,
        lsns: RangeInclusive<Lsn>,
        records: &mut dyn SpillSource,
    ) -> Result<(Manifest, u64), BackingError> {
        files::create_dir_durable(&self.dir)?;
        let sealed = self.path(number);
        let building = sealed.with_extension(BUILDING);
        files::remove_dir(&building)?;
        let outcome = seal::build(&building, lsns, records).and_then(|built| {
            fs::rename(&building, &sealed)
                .map_err(io_error(format!("rename generation {number} into place")))?;
            files::sync_dir(&self.dir)?;
            Ok(built)
        });
        if outcome.is_err() {
            // Under whichever name it is: nothing of it counts. What cannot be removed now goes at the next open, and a
            // complete one that stays under its final name only repeats what the journal has.
            for path in [&building, &sealed] {
                if let Err(error) = files::remove_dir(path) {
                    tracing::warn!(%error, "removing an unfinished generation failed");
                }
            }
        }
        outcome
    }
}

/// Records that somebody else keeps.
struct Listed<'i, 'r>(&'i mut dyn Iterator<Item = SpillRecord<'r>>);

impl SpillSource for Listed<'_, '_> {
    fn next(&mut self) -> Option<SpillRecord<'_>> {
        self.0.next()
    }
}

impl Generations for SledGenerations {
    fn sealed(&self) -> Vec<(u64, RangeInclusive<Lsn>, Vec<Extent>)> {
        let describe = |(number, sealed): (&u64, &Sealed)| {
            (*number, sealed.summary.lsns.clone(), sealed.summary.extents.clone())
        };
        self.sealed.iter().map(describe).collect()
    }

    fn seal(
        &mut self,
        lsns: RangeInclusive<Lsn>,
        records: &mut dyn Iterator<Item = SpillRecord<'_>>,
    ) -> Result<(u64, Vec<Extent>), BackingError> {
        self.seal_from(lsns, &mut Listed(records))
    }

    fn seal_from(
        &mut self,
        lsns: RangeInclusive<Lsn>,
        records: &mut dyn SpillSource,
    ) -> Result<(u64, Vec<Extent>), BackingError> {
        let number = self.next_number(&lsns);
        let (manifest, written) = self.build(number, lsns, records)?;
        self.bytes_written += written;
        let disk_bytes = files::disk_bytes(&self.path(number));
        let extents = manifest.summary.extents.clone();
        self.sealed.insert(number, Sealed { summary: manifest.summary, disk_bytes });
        Ok((number, extents))
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
        let outcome = self.reader(generation)?.read(stream, after, max_events, max_bytes, out);
        if outcome.is_err() {
            self.close(generation);
        }
        outcome
    }

    fn count_after(
        &mut self,
        generation: u64,
        stream: StreamNo,
        after: Position,
    ) -> Result<(u64, u64, Option<u64>), BackingError> {
        let Some(sealed) = self.sealed.get(&generation) else { return Ok((0, 0, None)) };
        if let Some(known) = sealed.summary.count_after(stream, after) {
            return Ok(known);
        }
        let outcome = self.reader(generation)?.count_after(stream, after);
        if outcome.is_err() {
            self.close(generation);
        }
        outcome
    }

    fn remove(&mut self, generation: u64) -> Result<(), BackingError> {
        self.close(generation);
        if self.sealed.remove(&generation).is_none() {
            return Ok(());
        }
        let path = self.path(generation);
        let removing = path.with_extension(REMOVING);
        fs::rename(&path, &removing).map_err(io_error(format!("remove generation {generation}")))?;
        files::sync_dir(&self.dir)?;
        files::remove_dir(&removing)
    }

    fn quarantine(&mut self, generation: u64) -> Result<(), BackingError> {
        self.close(generation);
        if self.sealed.remove(&generation).is_none() {
            return Ok(());
        }
        let path = self.path(generation);
        match files::quarantine(&self.data_dir, &path, "generation", QUARANTINE_KEPT) {
            Ok(_) => Ok(()),
            // No room even to move it: it must not come back at the next start.
            Err(_) => files::remove_dir(&path),
        }
    }

    fn release(&mut self) {
        self.open.clear();
    }

    fn disk_bytes(&self) -> u64 {
        self.sealed.values().map(|sealed| sealed.disk_bytes).sum()
    }

    fn bytes_written(&self) -> u64 {
        self.bytes_written
    }
}

/// The front of the file `extents`; where that is damaged, the manifest in the database, and the file is written again.
fn read_summary(path: &Path) -> Result<Summary, BackingError> {
    if let Some(summary) = read_front(path)? {
        return Ok(summary);
    }
    let sled = SledDir::open(path)?;
    let manifest = seal::read_manifest(&sled)?.ok_or_else(|| damaged(path, "its manifest is lost"))?;
    sled.close()?;
    files::write_durable(&path.join(EXTENTS_FILE), &manifest.encode())?;
    Ok(manifest.summary)
}

/// `None` if the file is missing or damaged.
fn read_front(path: &Path) -> Result<Option<Summary>, BackingError> {
    let path = path.join(EXTENTS_FILE);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(format!("open {}", path.display()))(error)),
    };
    let mut bytes = Vec::new();
    let mut read = |upto: usize| {
        let missing = upto.saturating_sub(bytes.len()) as u64;
        // A read error here is a bad block: the database has the same bytes.
        Read::by_ref(&mut file).take(missing).read_to_end(&mut bytes).ok()?;
        Some(bytes.clone())
    };
    let len = read(manifest::PREFIX).as_deref().and_then(Summary::front_len);
    Ok(len.and_then(read).as_deref().and_then(Summary::decode))
}
