//! Room that is kept for what has to be written when the file system has none left (P5, P6).
//!
//! ```text
//! journal/reserve    becomes the next segment when none can be made; then no more events are taken
//! journal/ballast    is removed, so that a checkpoint of the views has room; a second segment if `reserve` is used up
//! ```
//! Each is as long as a segment, with all its blocks. They hold nothing, and whatever is wrong with one is put right by
//! making it again. A start keeps those that are there: it needs a segment of its own before anything can be committed.

use super::DIR;
use crate::disk::{Disk, DiskFile, Mode};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const RESERVE: &str = "journal/reserve";
const BALLAST: &str = "journal/ballast";

/// The two files.
pub(super) struct Reserve {
    disk: Arc<dyn Disk>,
    bytes: u32,
    is_there: Mutex<IsThere>,
}

#[derive(Clone, Copy)]
struct IsThere {
    reserve: bool,
    ballast: bool,
}

impl IsThere {
    fn each(&mut self) -> [(&'static str, &mut bool); 2] {
        [(RESERVE, &mut self.reserve), (BALLAST, &mut self.ballast)]
    }
}

impl Reserve {
    /// What an earlier process left, if it is of the right size.
    pub(super) fn adopt(disk: Arc<dyn Disk>, bytes: u32) -> Reserve {
        let is_whole = |path| {
            let len = disk.open(path, Mode::Existing).and_then(|file| file.len());
            len.is_ok_and(|len| len == u64::from(bytes))
        };
        let is_there = IsThere { reserve: is_whole(RESERVE), ballast: is_whole(BALLAST) };
        Reserve { disk, bytes, is_there: Mutex::new(is_there) }
    }

    fn lock(&self) -> MutexGuard<'_, IsThere> {
        self.is_there.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of the two are there.
    pub(super) fn held(&self) -> usize {
        let IsThere { reserve, ballast } = *self.lock();
        usize::from(reserve) + usize::from(ballast)
    }

    /// Makes what is missing. `spare` gives up a prepared segment, which takes the place of what there is no room for.
    pub(super) fn fill(&self, mut spare: impl FnMut() -> Option<String>) -> io::Result<()> {
        let mut held = self.lock();
        for (path, is_there) in held.each().into_iter().filter(|(_, is_there)| !**is_there) {
            self.make(path).or_else(|error| match spare() {
                Some(from) => self.rename(&from, path),
                None => Err(error),
            })?;
            *is_there = true;
        }
        Ok(())
    }

    fn make(&self, path: &str) -> io::Result<()> {
        // Of another size, or half made.
        match self.disk.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let made = self.disk.open(path, Mode::New).and_then(|file| {
            file.allocate(u64::from(self.bytes))?;
            file.sync_data()?;
            self.disk.sync_dir(DIR)
        });
        if made.is_err()
            && let Err(error) = self.disk.remove(path)
        {
            tracing::debug!(%error, path, "half of a reserve stays for now");
        }
        made
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)?;
        self.disk.sync_dir(DIR)
    }

    /// One of the two as a segment's file: `ballast` only when there is nothing else.
    pub(super) fn take(&self, to: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut held = self.lock();
        let first = held.each().into_iter().find(|(_, is_there)| **is_there);
        let (path, is_there) = first.ok_or(io::ErrorKind::NotFound)?;
        let file = self.disk.open(path, Mode::Existing)?;
        self.disk.rename(path, to)?;
        *is_there = false;
        self.disk.sync_dir(DIR)?;
        Ok(file)
    }

    /// Removes `ballast`; false if there is none.
    pub(super) fn give_up(&self) -> bool {
        let mut held = self.lock();
        if !held.ballast || self.disk.remove(BALLAST).is_err() {
            return false;
        }
        held.ballast = false;
        // Blocks of a removed file are free at once, at most after a sync.
        self.disk.sync_dir(DIR).is_ok()
    }
}
