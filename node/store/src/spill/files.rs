//! Files and directories: syncing through our own handles, sizes, and moving damage aside (P6).
//!
//! sled 0.34.7 calls `sync_file_range` where it says flush, never syncs its `conf` and never a directory; so before
//! anything is relied on, [`sync_tree`] syncs every file of a database and every directory up to its parent.

use crate::backing::BackingError;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Directory below the data directory that holds what was moved aside.
pub(crate) const QUARANTINE: &str = "quarantine";

/// Names the operation in a [`BackingError::Io`].
pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> BackingError {
    let what = what.into();
    |source| BackingError::Io { what, source: Arc::new(source) }
}

/// A [`BackingError::Damaged`] of `path`.
pub(crate) fn damaged(path: &Path, why: impl Into<String>) -> BackingError {
    BackingError::Damaged { path: path.display().to_string(), why: why.into() }
}

/// Makes a directory and its parents, durable up to the directory that was already there.
pub(crate) fn create_dir_durable(path: &Path) -> Result<(), BackingError> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(io_error(format!("create directory {}", path.display())))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Syncs the entries of one directory.
pub(crate) fn sync_dir(path: &Path) -> Result<(), BackingError> {
    // An empty parent is the working directory.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error(format!("sync directory {}", path.display())))
}

/// Syncs every file below `path`, then the directories, then the parent's entry of `path` itself.
pub(crate) fn sync_tree(path: &Path) -> Result<(), BackingError> {
    for (entry, kind) in entries(path)? {
        if kind.is_dir() {
            for (inner, kind) in entries(&entry)? {
                if kind.is_file() {
                    sync_file(&inner)?;
                }
            }
            sync_dir(&entry)?;
        } else if kind.is_file() {
            sync_file(&entry)?;
        }
    }
    sync_dir(path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

fn sync_file(path: &Path) -> Result<(), BackingError> {
    File::open(path).and_then(|file| file.sync_data()).map_err(io_error(format!("sync {}", path.display())))
}

/// Writes a small file so that it is there whole and durable, or not at all.
pub(crate) fn write_durable(path: &Path, bytes: &[u8]) -> Result<(), BackingError> {
    let new = path.with_extension("new");
    let write = |new: &Path| {
        let mut file = File::create(new)?;
        io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        fs::rename(new, path)
    };
    write(&new).map_err(io_error(format!("write {}", path.display())))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Removes a file and makes that durable; a missing one is fine.
pub(crate) fn remove_file_durable(path: &Path) -> Result<(), BackingError> {
    match fs::remove_file(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync_dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error(format!("remove {}", path.display()))(error)),
    }
}

/// Removes a directory with all it holds; a missing one is fine.
pub(crate) fn remove_dir(path: &Path) -> Result<(), BackingError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error(format!("remove {}", path.display()))(error)),
    }
}

/// The entries of a directory with their kinds, in name order; none if it is missing.
pub(crate) fn entries(path: &Path) -> Result<Vec<(PathBuf, fs::FileType)>, BackingError> {
    let list = |path: &Path| -> io::Result<Vec<(PathBuf, fs::FileType)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            found.push((entry.path(), entry.file_type()?));
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    };
    match list(path) {
        Ok(found) => Ok(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io_error(format!("list {}", path.display()))(error)),
    }
}

/// File name as text; empty where it is not UTF-8 (nothing of ours is).
pub(crate) fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Bytes that the files below `path` take on disk (blocks, not lengths: sled leaves holes), two levels deep.
pub(crate) fn disk_bytes(path: &Path) -> u64 {
    let below = entries(path).unwrap_or_default();
    below
        .iter()
        .map(|(path, kind)| {
            if kind.is_dir() {
                entries(path).unwrap_or_default().iter().map(|(path, _)| file_bytes(path)).sum()
            } else {
                file_bytes(path)
            }
        })
        .sum()
}

fn file_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map_or(0, |meta| meta.blocks() * 512)
}

/// Moves `path` to `quarantine/<label>.<number>`, keeping the newest `keep` of that label. Returns the new place.
pub(crate) fn quarantine(
    data_dir: &Path,
    path: &Path,
    label: &str,
    keep: usize,
) -> Result<PathBuf, BackingError> {
    let dir = data_dir.join(QUARANTINE);
    create_dir_durable(&dir)?;
    let mut held = quarantined(&dir, label)?;
    let next = held.last().map_or(1, |(number, _)| number + 1);
    let aside = dir.join(format!("{label}.{next}"));
    fs::rename(path, &aside).map_err(io_error(format!("move {} to {}", path.display(), aside.display())))?;
    path.parent().map_or(Ok(()), sync_dir)?;
    held.push((next, aside.clone()));
    let surplus = held.len().saturating_sub(keep);
    for (_, old) in held.iter().take(surplus) {
        remove_dir(old)?;
    }
    sync_dir(&dir)?;
    Ok(aside)
}

/// What lies in quarantine under `label`, oldest first.
fn quarantined(dir: &Path, label: &str) -> Result<Vec<(u64, PathBuf)>, BackingError> {
    let numbered = |path: PathBuf| {
        let number = name(&path).strip_prefix(label)?.strip_prefix('.')?.parse().ok()?;
        Some((number, path))
    };
    let mut held: Vec<_> = entries(dir)?.into_iter().filter_map(|(path, _)| numbered(path)).collect();
    held.sort();
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarantine_keeps_the_newest_few_of_each_label() {
        let dir = tempfile::tempdir().unwrap();
        for label in ["generation", "views-a"] {
            for n in 0..5u8 {
                let path = dir.path().join("victim");
                fs::create_dir(&path).unwrap();
                fs::write(path.join("db"), [n]).unwrap();
                quarantine(dir.path(), &path, label, 2).unwrap();
                assert!(!path.exists());
            }
        }
        let names: Vec<_> = entries(&dir.path().join(QUARANTINE)).unwrap();
        let names: Vec<_> = names.iter().map(|(path, _)| name(path).to_owned()).collect();
        assert_eq!(names, ["generation.4", "generation.5", "views-a.4", "views-a.5"]);
    }

    #[test]
    fn a_durable_write_replaces_the_whole_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proof");
        write_durable(&path, b"long first content").unwrap();
        write_durable(&path, b"short").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(entries(dir.path()).unwrap().len(), 1);
        remove_file_durable(&path).unwrap();
        remove_file_durable(&path).unwrap();
    }
}
