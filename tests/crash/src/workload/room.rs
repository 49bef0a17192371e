//! A file system that is full for some time, for the files that are our own: sled's are let through, since a recording is to
//! show what the store does with its own room.

use eventmesh_edge_store::disk::{Disk, DiskEntry, DiskFile, Mode, RealDisk};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Stands for: no limit.
const UNLIMITED: u64 = u64::MAX;

/// Bytes that can still be taken.
pub(super) struct Capacity(AtomicU64);

impl Default for Capacity {
    fn default() -> Self {
        Capacity(AtomicU64::new(UNLIMITED))
    }
}

impl Capacity {
    /// Nobody can have a byte more than is given back.
    pub(super) fn fill_up(&self) {
        self.0.store(0, Ordering::SeqCst);
    }

    /// There is room for everything.
    pub(super) fn give(&self) {
        self.0.store(UNLIMITED, Ordering::SeqCst);
    }

    pub(super) fn is_limited(&self) -> bool {
        self.0.load(Ordering::SeqCst) != UNLIMITED
    }

    fn take(&self, bytes: u64) -> io::Result<()> {
        let less = |left: u64| if left == UNLIMITED { Some(left) } else { left.checked_sub(bytes) };
        let taken = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        taken.map(drop).map_err(|_| io::ErrorKind::StorageFull.into())
    }

    fn give_back(&self, bytes: u64) {
        let more = |left: u64| Some(left.saturating_add(bytes));
        // Always some: the closure never says no.
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok();
    }
}

/// The real disk, as long as there is room.
pub(super) struct CappedDisk {
    disk: RealDisk,
    room: Arc<Capacity>,
}

impl CappedDisk {
    pub(super) fn new(dir: &Path, room: Arc<Capacity>) -> CappedDisk {
        CappedDisk { disk: RealDisk::new(dir), room }
    }
}

struct CappedFile {
    file: Arc<dyn DiskFile>,
    room: Arc<Capacity>,
    /// One write finds its room at a time.
    growing: Mutex<()>,
}

impl CappedFile {
    fn grow(&self, to: u64, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        self.room.take(to.saturating_sub(self.file.len()?))?;
        work()
    }
}

impl DiskFile for CappedFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.grow(offset + bytes.len() as u64, || self.file.write_at(offset, bytes))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buf)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.grow(len, || self.file.set_len(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.grow(len, || self.file.allocate(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl Disk for CappedDisk {
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.create_dir(dir)
    }

    fn open(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, mode)?;
        Ok(Arc::new(CappedFile { file, room: Arc::clone(&self.room), growing: Mutex::default() }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DiskEntry>> {
        self.disk.list(dir)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let len = self.disk.list(dir)?.into_iter().find(|entry| entry.name == name).map_or(0, |e| e.len);
        self.disk.remove(path)?;
        self.room.give_back(len);
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        self.disk.read(path)
    }
}
