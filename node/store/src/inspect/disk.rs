//! A [`Disk`] that only reads: what a stopped store is looked at through. Permission to read is all it needs.

use crate::disk::{Disk, DiskEntry, DiskFile, Mode, RealDisk};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Below a directory.
#[derive(Debug)]
pub(crate) struct ReadOnlyDisk {
    root: PathBuf,
    real: RealDisk,
}

impl ReadOnlyDisk {
    pub(crate) fn new(root: &Path) -> ReadOnlyDisk {
        ReadOnlyDisk { root: root.to_owned(), real: RealDisk::new(root) }
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem))
}

impl Disk for ReadOnlyDisk {
    fn create_dir(&self, _: &str) -> io::Result<()> {
        refused()
    }

    fn open(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        match mode {
            Mode::Existing => Ok(Arc::new(ReadOnlyFile(File::open(self.root.join(path))?))),
            Mode::Create | Mode::New => refused(),
        }
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DiskEntry>> {
        match self.real.list(dir) {
            // A directory that a start would make is as good as an empty one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed,
        }
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        refused()
    }

    fn sync_dir(&self, _: &str) -> io::Result<()> {
        refused()
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        self.real.read(path)
    }
}

struct ReadOnlyFile(File);

impl DiskFile for ReadOnlyFile {
    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        crate::disk::read_at(&self.0, offset, buf)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        refused()
    }

    fn sync_data(&self) -> io::Result<()> {
        refused()
    }
}
