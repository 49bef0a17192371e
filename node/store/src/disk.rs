//! Every file operation that our own code makes, as a trait; sled makes its own.
//!
//! Paths are relative to the data directory, with `/` between parts; the directory itself is `""`. The real disk is
//! [`RealDisk`]; [`crate::sim_disk`] is a simulated one that loses power and fails on command.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It must exist.
    Existing,
    /// Made if it is not there.
    Create,
    /// It must not exist.
    New,
}

/// One open file. Offsets are absolute, so several threads can share it.
pub trait DiskFile: Send + Sync {
    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// From the file system; some of the bytes may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Reads until `buf` is full or the file ends; returns how much was read.
    ///
    /// # Errors
    /// From the file system.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Length in bytes.
    ///
    /// # Errors
    /// From the file system.
    fn len(&self) -> io::Result<u64>;

    /// True if the length is zero.
    ///
    /// # Errors
    /// From the file system.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts or extends with zeros.
    ///
    /// # Errors
    /// From the file system.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Gives a new file blocks for its first `len` bytes, which read as zeros: a later write there is not refused for want
    /// of room.
    ///
    /// # Errors
    /// From the file system; some of the blocks may be there.
    fn allocate(&self, len: u64) -> io::Result<()> {
        write_zeros(self, len)
    }

    /// fdatasync: what was written, and the size, survive a power cut once this returned.
    ///
    /// # Errors
    /// From the device. After an error nothing that was written since the last success can be relied on, and a later
    /// success says nothing about it (Linux marks the pages clean).
    fn sync_data(&self) -> io::Result<()>;
}

/// Writes zeros into the first `len` bytes.
pub(crate) fn write_zeros<F: DiskFile + ?Sized>(file: &F, len: u64) -> io::Result<()> {
    let zeros = [0; 64 << 10];
    let mut at = 0;
    while at < len {
        let rest = usize::try_from(len - at).unwrap_or(usize::MAX);
        let piece = zeros.get(..rest).unwrap_or(&zeros);
        file.write_at(at, piece)?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// A directory entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskEntry {
    /// Name within the directory.
    pub name: String,
    /// Length in bytes; of a directory, whatever the system says.
    pub len: u64,
    /// True for a directory.
    pub is_dir: bool,
}

/// The data directory.
pub trait Disk: Send + Sync {
    /// Makes a directory and its parents; fine if it is there.
    ///
    /// # Errors
    /// From the file system.
    fn create_dir(&self, dir: &str) -> io::Result<()>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// From the file system.
    fn open(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn DiskFile>>;

    /// What is in a directory, by name.
    ///
    /// # Errors
    /// From the file system.
    fn list(&self, dir: &str) -> io::Result<Vec<DiskEntry>>;

    /// Renames within one directory, replacing what is there; durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// From the file system.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// From the file system.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes creations, renames and removals in a directory durable.
    ///
    /// # Errors
    /// From the file system.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// A whole (small) file.
    ///
    /// # Errors
    /// From the file system.
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;
}

/// `std::fs` below a directory.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// Of an existing directory.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        RealDisk { root: root.to_owned() }
    }

    fn at(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }
}

impl Disk for RealDisk {
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        // Only the node's own user: payloads and sessions are in there (P7).
        fs::DirBuilder::new().recursive(true).mode(0o700).create(self.at(dir))
    }

    fn open(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(mode == Mode::Create)
            .create_new(mode == Mode::New)
            .mode(0o600)
            .open(self.at(path))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DiskEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.at(dir))? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(DiskEntry { name, len: metadata.len(), is_dir: metadata.is_dir() });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.at(path))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.at(dir))?.sync_all()
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        fs::read(self.at(path))
    }
}

/// Reads until the buffer is full or the file ends. Returns the bytes read.
pub(crate) fn read_at(file: &File, mut offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset) {
            Ok(0) => break,
            Ok(n) => {
                done += n;
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        read_at(&self.0, offset, buf)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        match fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            // What a file system cannot promise it has to be given.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => write_zeros(self, len),
            done => Ok(done?),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
