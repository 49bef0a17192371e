//! Sealed generations looked at without changing a byte: a [`Generations`] that cannot write.
//!
//! sled locks, and may repair, what it opens. So a database is opened where it lies only if its [`sums`] say that every byte
//! is as it was sealed (then an open changes none) and nobody else has it; else a copy in a scratch directory is.

use super::files;
use super::manifest::Summary;
use super::reader::Reader;
use super::sled_dir::SledDir;
use super::sums::{self, Checked};
use super::{GENERATIONS, read_front, seal};
use crate::backing::{BackingError, Extent, Generations, Lsn, SpillRecord, StreamNo};
use crate::inspect::scratch::Scratch;
use bytes::Bytes;
use eventmesh_edge_core::event::Position;
use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Directories below `generations/`, by what they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listed {
    /// Sealed, by number.
    pub(crate) sealed: BTreeMap<u64, PathBuf>,
    /// Unfinished or half removed: no loss, a start deletes them.
    pub(crate) leftovers: Vec<PathBuf>,
}

/// What lies below a data directory.
pub(crate) fn list(data_dir: &Path) -> Result<Listed, BackingError> {
    let mut listed = Listed::default();
    for (path, kind) in files::entries(&data_dir.join(GENERATIONS))? {
        match files::name(&path).parse() {
            Ok(number) if kind.is_dir() => drop(listed.sealed.insert(number, path)),
            _ => listed.leftovers.push(path),
        }
    }
    Ok(listed)
}

/// Whether the file `extents` is whole; `None` if it is not there.
pub(crate) fn extents_file_is_whole(dir: &Path) -> Option<bool> {
    let bytes = std::fs::read(dir.join(seal::EXTENTS_FILE)).ok()?;
    Some(super::manifest::Manifest::decode(&bytes).is_some())
}

/// What a whole generation came to when every record of it was read.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadThrough {
    pub(crate) events: u64,
    /// What could not be read, as it would be counted.
    pub(crate) lost: Vec<Extent>,
}

/// Reads every record of a generation in a copy of it, to tell what its damage costs.
pub(crate) fn read_through(copy: &Path) -> Result<ReadThrough, BackingError> {
    let mut reader = Reader::open(copy)?;
    let mut sum = ReadThrough::default();
    for extent in reader.extents() {
        let mut after = Position(extent.first.0.saturating_sub(1));
        while after < extent.last {
            let mut out = Vec::new();
            let lost = reader.read(extent.stream, after, 4096, 1 << 20, &mut out)?;
            sum.events += out.len() as u64;
            let seen = out.last().map(|(position, ..)| *position);
            let passed = lost.iter().map(|lost| lost.last).max();
            sum.lost.extend(lost);
            match seen.max(passed) {
                Some(next) if next > after => after = next,
                _ => break,
            }
        }
    }
    Ok(sum)
}

struct Known {
    path: PathBuf,
    summary: Summary,
}

/// See the module.
pub(crate) struct ReadOnlyGenerations {
    sealed: BTreeMap<u64, Known>,
    scratch: Arc<Scratch>,
    /// Whether a sound one may be opened where it lies.
    in_place: bool,
    /// The one open for reading, and its copy if it is one.
    open: Option<(u64, Reader, Option<PathBuf>)>,
    disk_bytes: u64,
}

impl ReadOnlyGenerations {
    /// Finds them and reads their descriptions.
    pub(crate) fn open(
        data_dir: &Path,
        scratch: &Arc<Scratch>,
        in_place: bool,
    ) -> Result<ReadOnlyGenerations, BackingError> {
        let mut generations = Self::none(scratch);
        generations.in_place = in_place;
        for (number, path) in list(data_dir)?.sealed {
            generations.disk_bytes += files::disk_bytes(&path);
            match generations.describe(&path) {
                Ok(summary) => drop(generations.sealed.insert(number, Known { path, summary })),
                Err(error @ BackingError::Io { .. }) => return Err(error),
                // A start moves it aside, and counts it because the views know of it.
                Err(BackingError::Damaged { .. }) => {}
            }
        }
        Ok(generations)
    }

    /// As if there were none.
    pub(crate) fn none(scratch: &Arc<Scratch>) -> ReadOnlyGenerations {
        ReadOnlyGenerations {
            sealed: BTreeMap::new(),
            scratch: Arc::clone(scratch),
            in_place: false,
            open: None,
            disk_bytes: 0,
        }
    }

    /// As a start does it: the front of `extents`, else the manifest in the database, here of a copy.
    fn describe(&self, path: &Path) -> Result<Summary, BackingError> {
        if let Some(summary) = read_front(path)? {
            return Ok(summary);
        }
        let copy = self.scratch.copy_dir(path)?;
        let manifest = SledDir::open(&copy).and_then(|sled| seal::read_manifest(&sled));
        self.scratch.remove(&copy);
        let manifest = manifest?.ok_or_else(|| files::damaged(path, "its manifest is lost"))?;
        Ok(manifest.summary)
    }

    fn reader(&mut self, generation: u64) -> Result<&mut Reader, BackingError> {
        if self.open.as_ref().is_none_or(|(number, ..)| *number != generation) {
            self.release();
            let Some(known) = self.sealed.get(&generation) else {
                return Err(files::damaged(Path::new(GENERATIONS), "that generation was moved aside"));
            };
            let in_place = self.in_place && sums::check(&known.path, &mut |_| {})? == Checked::Whole;
            let copy = if in_place { None } else { Some(self.scratch.copy_dir(&known.path)?) };
            match Reader::open(copy.as_deref().unwrap_or(&known.path)) {
                Ok(reader) => self.open = Some((generation, reader, copy)),
                Err(error) => {
                    copy.iter().for_each(|copy| self.scratch.remove(copy));
                    return Err(error);
                }
            }
        }
        match &mut self.open {
            Some((_, reader, _)) => Ok(reader),
            None => Err(files::damaged(Path::new(GENERATIONS), "it could not be opened")),
        }
    }
}

/// What every attempt to change something gets.
fn refused() -> BackingError {
    let source = Arc::new(io::Error::from(io::ErrorKind::ReadOnlyFilesystem));
    BackingError::Io { what: "change a store that is only looked at".to_owned(), source }
}

impl Generations for ReadOnlyGenerations {
    fn sealed(&self) -> Vec<(u64, RangeInclusive<Lsn>, Vec<Extent>)> {
        let describe = |(number, known): (&u64, &Known)| {
            (*number, known.summary.lsns.clone(), known.summary.extents.clone())
        };
        self.sealed.iter().map(describe).collect()
    }

    fn seal(
        &mut self,
        _: RangeInclusive<Lsn>,
        _: &mut dyn Iterator<Item = SpillRecord<'_>>,
    ) -> Result<(u64, Vec<Extent>), BackingError> {
        Err(refused())
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
        self.reader(generation)?.read(stream, after, max_events, max_bytes, out)
    }

    fn count_after(
        &mut self,
        generation: u64,
        stream: StreamNo,
        after: Position,
    ) -> Result<(u64, u64, Option<u64>), BackingError> {
        let Some(known) = self.sealed.get(&generation) else { return Ok((0, 0, None)) };
        match known.summary.count_after(stream, after) {
            Some(counted) => Ok(counted),
            None => self.reader(generation)?.count_after(stream, after),
        }
    }

    fn remove(&mut self, _: u64) -> Result<(), BackingError> {
        Err(refused())
    }

    /// In memory only: the figures are those that a start would come to.
    fn quarantine(&mut self, generation: u64) -> Result<(), BackingError> {
        self.release();
        self.sealed.remove(&generation);
        Ok(())
    }

    fn release(&mut self) {
        if let Some((_, reader, copy)) = self.open.take() {
            drop(reader);
            copy.iter().for_each(|copy| self.scratch.remove(copy));
        }
    }

    fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    fn bytes_written(&self) -> u64 {
        0
    }
}

impl Drop for ReadOnlyGenerations {
    fn drop(&mut self) {
        self.release();
    }
}
