//! A private directory for copies of databases: sled locks, and may repair, what it opens, and looking must change nothing.

use crate::backing::BackingError;
use crate::spill::files::{self, io_error};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Tries at a name that nobody has.
const NAME_TRIES: u64 = 100;

/// Removed, with all in it, when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    next: AtomicU64,
}

impl Scratch {
    /// A new directory below `parent`, for this user's eyes only: payloads are copied into it (P7).
    pub(crate) fn new(parent: &Path) -> Result<Scratch, BackingError> {
        let mut failed = io::Error::from(io::ErrorKind::AlreadyExists);
        for attempt in 0..NAME_TRIES {
            let path = parent.join(format!("eventmesh-edge-{}-{attempt}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Scratch { path, next: AtomicU64::new(0) }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => failed = error,
                Err(error) => {
                    failed = error;
                    break;
                }
            }
        }
        Err(io_error(format!("make a scratch directory in {}", parent.display()))(failed))
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Copies a directory of files (two levels) under a name of its own.
    pub(crate) fn copy_dir(&self, from: &Path) -> Result<PathBuf, BackingError> {
        let to = self.path.join(format!("copy.{}", self.next.fetch_add(1, Ordering::Relaxed)));
        match self.copy_dir_to(from, &to) {
            Ok(()) => Ok(to),
            Err(error) => {
                self.remove(&to);
                Err(error)
            }
        }
    }

    /// Copies a directory of files (two levels); nothing if there is none.
    pub(crate) fn copy_dir_to(&self, from: &Path, to: &Path) -> Result<(), BackingError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(to);
        made.map_err(io_error(format!("make {}", to.display())))?;
        for (path, kind) in files::entries(from)? {
            let target = to.join(files::name(&path));
            if kind.is_dir() {
                self.copy_dir_to(&path, &target)?;
            } else if kind.is_file() {
                copy_file(&path, &target)?;
            }
        }
        Ok(())
    }

    /// Gives the room of one copy back. Best effort: the whole directory goes in the end.
    pub(crate) fn remove(&self, path: &Path) {
        if let Err(error) = files::remove_dir(path) {
            tracing::debug!(%error, "a scratch copy stays for now");
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = files::remove_dir(&self.path) {
            tracing::warn!(%error, "scratch directory not removed");
        }
    }
}

/// Shares the blocks where the file system can, copies them where not. What the device does not give back becomes zeros, so
/// that a copy of a damaged file is as long as the file.
pub(crate) fn copy_file(from: &Path, to: &Path) -> Result<(), BackingError> {
    let failed = || io_error(format!("copy {} to {}", from.display(), to.display()));
    let source = File::open(from).map_err(failed())?;
    let target = File::create_new(to).map_err(failed())?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() || io::copy(&mut &source, &mut &target).is_ok() {
        return Ok(());
    }
    let len = source.metadata().map_err(failed())?.len();
    copy_around_holes(&source, &target, len).map_err(failed())
}

fn copy_around_holes(source: &File, target: &File, len: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut at = 0;
    let mut block = vec![0; crate::spill::sums::BLOCK_BYTES];
    while at < len {
        let want = usize::try_from(len - at).unwrap_or(block.len()).min(block.len());
        let Some(piece) = block.get_mut(..want) else { break };
        if source.read_exact_at(piece, at).is_err() {
            piece.fill(0);
        }
        target.write_all_at(piece, at)?;
        at += want as u64;
    }
    fs::File::sync_data(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_whole_private_and_gone_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("db");
        fs::create_dir_all(from.join("blobs")).unwrap();
        fs::write(from.join("conf"), b"one").unwrap();
        fs::write(from.join("blobs/7"), b"two").unwrap();
        let scratch = Scratch::new(dir.path()).unwrap();
        let path = scratch.path().to_owned();
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o700);
        let copy = scratch.copy_dir(&from).unwrap();
        assert_eq!(fs::read(copy.join("conf")).unwrap(), b"one");
        assert_eq!(fs::read(copy.join("blobs/7")).unwrap(), b"two");
        assert_ne!(scratch.copy_dir(&from).unwrap(), copy);
        drop(scratch);
        assert!(!path.exists());
    }
}
