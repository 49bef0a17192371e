//! One sled 0.34.7 database directory, opened with care.
//!
//! What this module knows of sled, so that nobody else has to:
//! - A kill can leave `snap.*.generating`, which sled takes for a snapshot, and a torn `conf`, over which it stumbles.
//!   Both are removed before every open; sled rebuilds them. `conf` is text, followed by its CRC-32, little-endian.
//! - sled panics on some damage, at open and later. [`contain`] turns a panic into [`BackingError::Damaged`] and keeps
//!   its message off the log: sled prints whole nodes, which hold payloads (P7).
//! - It sets its histograms and page tables up per open: about 0.3 MiB touched. It spawns its seven I/O threads at the
//!   first open of the process. So a database that holds nothing is never opened.
//! - `cache_capacity` does not bound memory: a page is only evicted after its shard of the cache saw 64 accesses. What
//!   does is to close and reopen the database after some MiB ([`SledDir::reopen`]): 1 to 3 ms.
//! - An open rewrites the unused tail of the last segment and freed segments with zeroes, and writes a snapshot if the
//!   log has grown since the last one. Reading may grow it: whoever comes by a leaf that is too full, or nearly empty,
//!   splits or merges it. After an open in which everything is read, and another one, the next open changes no byte.
//! - Pages over a quarter of a segment (128 KiB) go to files in `blobs/` that are never synced. A leaf holds up to 17
//!   entries, an index node up to 257 keys: so values here stay below 4.2 KiB and keys below 440 bytes.

use super::files::{self, damaged, io_error};
use crate::backing::BackingError;
use std::cell::Cell;
use std::fs;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::thread;
use std::time::Duration;

/// sled's segment, and a quarter of it the largest page that stays out of `blobs/`. Fixed at creation.
const SEGMENT_BYTES: usize = 512 * 1024;

/// Split over 256 shards; anything larger only keeps more.
const CACHE_BYTES: u64 = 64 * 1024;

/// A writer thread of sled may hold the lock a moment longer than its `Db`: how often and how long an open waits.
const LOCK_TRIES: u32 = 200;
const LOCK_WAIT: Duration = Duration::from_millis(5);

/// An open database. Dropping closes it.
pub(crate) struct SledDir {
    path: PathBuf,
    /// `None` only between a failed reopen and the drop.
    db: Option<sled::Db>,
}

impl SledDir {
    /// Opens or creates the database after removing what a kill may have left.
    pub(crate) fn open(path: &Path) -> Result<SledDir, BackingError> {
        files::create_dir_durable(path)?;
        remove_leftovers(path)?;
        let db = open_patiently(path)?;
        Ok(SledDir { path: path.to_owned(), db: Some(db) })
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the memory of its cache back. Iterators of before must be gone.
    pub(crate) fn reopen(&mut self) -> Result<(), BackingError> {
        self.shut()?;
        self.db = Some(open_patiently(&self.path)?);
        Ok(())
    }

    /// Closes, reporting what a drop could not.
    pub(crate) fn close(mut self) -> Result<(), BackingError> {
        self.shut()
    }

    /// Sets one entry; returns the one before.
    pub(crate) fn insert(&self, key: &[u8], value: &[u8]) -> Result<Option<sled::IVec>, BackingError> {
        self.with("insert", |db| db.insert(key, value))
    }

    /// Removes one entry; returns it.
    pub(crate) fn remove(&self, key: &[u8]) -> Result<Option<sled::IVec>, BackingError> {
        self.with("remove", |db| db.remove(key))
    }

    /// Reads one entry.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>, BackingError> {
        self.with("get", |db| db.get(key))
    }

    /// Entries from `from` on, in order.
    pub(crate) fn range_from(&self, from: &[u8]) -> Result<Entries, BackingError> {
        let inner = self.with("seek", |db| Ok(db.range::<&[u8], _>(from..)))?;
        Ok(Entries { path: self.path.clone(), inner: Some(inner) })
    }

    /// Hands everything to the operating system. Not durable: that is [`files::sync_tree`] after the close.
    pub(crate) fn flush(&self) -> Result<(), BackingError> {
        self.with("flush", |db| db.flush().map(|_| ()))
    }

    fn with<T>(
        &self,
        what: &str,
        work: impl FnOnce(&sled::Db) -> Result<T, sled::Error>,
    ) -> Result<T, BackingError> {
        let db = self.db.as_ref().ok_or_else(|| damaged(&self.path, "it could not be opened again"))?;
        contain(&self.path, what, || work(db))
    }

    fn shut(&mut self) -> Result<(), BackingError> {
        let Some(db) = self.db.take() else { return Ok(()) };
        contain(&self.path, "close", move || {
            let flushed = db.flush().map(|_| ());
            drop(db);
            flushed
        })
    }
}

impl Drop for SledDir {
    fn drop(&mut self) {
        if let Err(error) = self.shut() {
            tracing::warn!(%error, "closing a database failed");
        }
    }
}

/// A running iteration. After an error it is over.
pub(crate) struct Entries {
    path: PathBuf,
    inner: Option<sled::Iter>,
}

impl Entries {
    /// The next entry; `None` at the end.
    pub(crate) fn next_entry(&mut self) -> Result<Option<(sled::IVec, sled::IVec)>, BackingError> {
        let Some(inner) = self.inner.as_mut() else { return Ok(None) };
        let next = contain(&self.path, "read", || inner.next().transpose());
        if next.is_err() {
            self.inner = None;
        }
        next
    }
}

/// Log bytes that sled has written over the life of the database, read off its newest snapshot's name.
pub(crate) fn log_bytes(path: &Path) -> u64 {
    let stable = |path: &Path| u64::from_str_radix(files::name(path).strip_prefix("snap.")?, 16).ok();
    files::entries(path).unwrap_or_default().iter().filter_map(|(path, _)| stable(path)).max().unwrap_or(0)
}

fn open_patiently(path: &Path) -> Result<sled::Db, BackingError> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(None)
        .use_compression(false);
    let mut tries = 1;
    loop {
        match contain_raw(|| config.open()) {
            Err(Failure::Sled(sled::Error::Io(error))) if tries < LOCK_TRIES && is_lock(&error) => {
                tries += 1;
                thread::sleep(LOCK_WAIT);
            }
            outcome => return outcome.map_err(|failure| failure.into_error(path, "open")),
        }
    }
}

/// sled wraps the refusal of its lock into an `Other` with this text.
fn is_lock(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Other && error.to_string().contains("could not acquire lock")
}

/// Removes what sled would mistake for a snapshot, and a `conf` that was never fully written.
fn remove_leftovers(path: &Path) -> Result<(), BackingError> {
    for (entry, _) in files::entries(path)? {
        let name = files::name(&entry);
        let torn_snapshot = name.starts_with("snap.") && name.ends_with(".generating");
        if torn_snapshot || (name == "conf" && !conf_is_whole(&entry)?) {
            files::remove_file_durable(&entry)?;
        }
    }
    Ok(())
}

/// Whether a file of this name is a snapshot that sled has finished.
pub(super) fn is_snapshot(name: &str) -> bool {
    name.strip_prefix("snap.").is_some_and(|rest| u64::from_str_radix(rest, 16).is_ok())
}

/// Whether the newest snapshot is there and has the checksum that it should: `bytes | length u64 | CRC-32 u32`.
pub(super) fn has_whole_snapshot(path: &Path) -> Result<bool, BackingError> {
    let entries = files::entries(path)?.into_iter().map(|(entry, _)| entry);
    let newest = entries.filter(|entry| is_snapshot(files::name(entry))).max();
    let Some(newest) = newest else { return Ok(false) };
    // What cannot be read is not whole; whether it may have gone meanwhile is the caller's to ask the node.
    let Ok(bytes) = fs::read(&newest) else { return Ok(false) };
    let Some((rest, checksum)) = bytes.split_last_chunk::<4>() else { return Ok(false) };
    let Some((body, _)) = rest.split_last_chunk::<8>() else { return Ok(false) };
    Ok(!body.is_empty() && crc32(body) == u32::from_le_bytes(*checksum))
}

fn conf_is_whole(path: &Path) -> Result<bool, BackingError> {
    let bytes = fs::read(path).map_err(io_error(format!("read {}", path.display())))?;
    let Some((text, checksum)) = bytes.split_last_chunk::<4>() else { return Ok(false) };
    Ok(!text.is_empty() && crc32(text) == u32::from_le_bytes(*checksum))
}

/// CRC-32 (IEEE 802.3) bit by bit: 60 bytes per open, and a snapshot now and then, are not worth a table or a crate.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    let byte = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(!0, byte)
}

enum Failure {
    Sled(sled::Error),
    /// Where sled panicked.
    Panic(String),
}

impl Failure {
    fn into_error(self, path: &Path, what: &str) -> BackingError {
        match self {
            Failure::Sled(sled::Error::Io(error)) if is_environment(&error) => {
                io_error(format!("{what} {}", path.display()))(error)
            }
            Failure::Sled(sled::Error::Io(error)) => damaged(path, format!("{what}: {error}")),
            Failure::Sled(sled::Error::Corruption { .. }) => {
                damaged(path, format!("{what}: checksum mismatch"))
            }
            // The other variants carry keys or free text; their kind says enough.
            Failure::Sled(sled::Error::Unsupported(_)) => {
                damaged(path, format!("{what}: not the layout we write"))
            }
            Failure::Sled(_) => damaged(path, format!("{what}: sled found its own state inconsistent")),
            Failure::Panic(place) => damaged(path, format!("{what}: sled panicked at {place}")),
        }
    }
}

/// Whether the machine refused, rather than the bytes being wrong: then nothing is quarantined for it.
fn is_environment(error: &io::Error) -> bool {
    use io::ErrorKind::{OutOfMemory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    use rustix::io::Errno;
    let transient = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN].map(Errno::raw_os_error);
    matches!(error.kind(), PermissionDenied | StorageFull | ReadOnlyFilesystem | QuotaExceeded | OutOfMemory)
        || error.raw_os_error().is_some_and(|code| transient.contains(&code))
        || is_lock(error)
}

/// Runs sled code; a panic in it becomes [`BackingError::Damaged`].
fn contain<T>(
    path: &Path,
    what: &str,
    work: impl FnOnce() -> Result<T, sled::Error>,
) -> Result<T, BackingError> {
    contain_raw(work).map_err(|failure| failure.into_error(path, what))
}

fn contain_raw<T>(work: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, Failure> {
    static HOOK: Once = Once::new();
    HOOK.call_once(keep_contained_panics_quiet);
    CONTAINED.set(true);
    // Unwind safety: after a panic the caller drops the database and opens it anew, or quarantines it.
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(false);
    match outcome {
        Ok(result) => result.map_err(Failure::Sled),
        Err(_) => Err(Failure::Panic(PLACE.take())),
    }
}

thread_local! {
    /// This thread is inside sled.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
    /// Where its last contained panic came from.
    static PLACE: Cell<String> = const { Cell::new(String::new()) };
}

/// The panic hook goes on as it was for everything but panics inside [`contain_raw`], whose message may hold payload (P7).
fn keep_contained_panics_quiet() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if CONTAINED.get() {
            PLACE.set(info.location().map(ToString::to_string).unwrap_or_default());
        } else {
            before(info);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_one_entry(path: &Path) {
        let db = SledDir::open(path).unwrap();
        db.insert(b"key", b"value").unwrap();
        db.close().unwrap();
    }

    #[test]
    fn crc32_is_the_one_of_conf() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let dir = tempfile::tempdir().unwrap();
        with_one_entry(dir.path());
        assert!(conf_is_whole(&dir.path().join("conf")).unwrap());
    }

    #[test]
    fn leftovers_of_a_kill_do_not_keep_a_database_shut() {
        let dir = tempfile::tempdir().unwrap();
        with_one_entry(dir.path());
        let conf = fs::read(dir.path().join("conf")).unwrap();
        for torn in [&conf[..9], &conf[..40], &[0; 62], &[]] {
            fs::write(dir.path().join("conf"), torn).unwrap();
            fs::write(dir.path().join("snap.FFFFFFFFFFFFFFF0.generating"), b"torn").unwrap();
            let db = SledDir::open(dir.path()).unwrap();
            assert_eq!(db.get(b"key").unwrap().unwrap(), b"value");
            assert_eq!(fs::read(dir.path().join("conf")).unwrap(), conf);
        }
    }

    #[test]
    fn an_open_after_a_clean_close_changes_no_byte() {
        let dir = tempfile::tempdir().unwrap();
        with_one_entry(dir.path());
        SledDir::open(dir.path()).unwrap().close().unwrap();
        let image = |dir: &Path| -> Vec<(PathBuf, Vec<u8>)> {
            let files = files::entries(dir).unwrap();
            files
                .into_iter()
                .filter(|(_, kind)| kind.is_file())
                .map(|(path, _)| (path.clone(), fs::read(path).unwrap()))
                .collect()
        };
        let before = image(dir.path());
        SledDir::open(dir.path()).unwrap().close().unwrap();
        assert!(before == image(dir.path()));
    }

    #[test]
    fn a_panic_inside_is_an_error_with_its_place() {
        let error = contain::<()>(Path::new("somewhere"), "read", || panic!("a payload")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("sled_dir.rs") && !text.contains("a payload"), "{text}");
    }

    #[test]
    fn a_database_in_use_is_an_io_error_and_not_damage() {
        let dir = tempfile::tempdir().unwrap();
        with_one_entry(dir.path());
        let failure = Failure::Sled(sled::Error::Io(io::Error::other("could not acquire lock on \"db\"")));
        assert!(matches!(failure.into_error(dir.path(), "open"), BackingError::Io { .. }));
    }
}
