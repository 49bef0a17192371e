//! Files that may be replaced while the node runs: certificates, the password file.
//!
//! A gateway is not restarted because a certificate was renewed. Whoever uses such a file asks for
//! [`Live::current`]; [`Live::refresh`], called every few seconds off the runtime's thread, looks whether the files are
//! others now (time of change, size, inode) and reads them again. What is half written is not read: a change counts once it
//! has stood still from one look to the next. If what is there cannot be used, the earlier one stays and the log says so,
//! once per change.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// What tells one state of a file from another; `None` while it is not there.
type Stamp = Vec<Option<(u64, u64, i64, i64)>>;

/// Something that was made from files.
pub(crate) struct Live<T> {
    /// For the log.
    what: &'static str,
    files: Vec<PathBuf>,
    load: Load<T>,
    current: RwLock<Arc<T>>,
    seen: Mutex<Seen>,
}

type Load<T> = Box<dyn Fn() -> Result<T, String> + Send + Sync>;

struct Seen {
    /// The state that was read last, whether it could be used or not.
    read: Stamp,
    /// Another one, seen at the last look.
    moving: Option<Stamp>,
}

/// What a look has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// The files are as they were, or still changing.
    Unchanged,
    /// They were read again and are in use.
    Replaced,
    /// They cannot be used; the earlier ones are.
    Refused,
}

impl<T> Live<T> {
    /// Reads the files for the first time.
    pub(crate) fn open<E: std::error::Error>(
        what: &'static str,
        files: Vec<PathBuf>,
        load: impl Fn() -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Live<T>, E> {
        // Before they are read: what changes meanwhile is seen at the first look.
        let read = stamp(&files);
        let first = load()?;
        let load: Load<T> = Box::new(move || load().map_err(|error| chain(&error)));
        let seen = Mutex::new(Seen { read, moving: None });
        Ok(Live { what, files, load, current: RwLock::new(Arc::new(first)), seen })
    }

    pub(crate) fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the files and reads them if they are others and stand still; with `now`, reads them in any case.
    /// Touches the disk.
    pub(crate) fn refresh(&self, now: bool) -> Look {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.files);
        if !now {
            if stamp == seen.read {
                seen.moving = None;
                return Look::Unchanged;
            }
            if seen.moving.as_ref() != Some(&stamp) {
                seen.moving = Some(stamp);
                return Look::Unchanged;
            }
        }
        *seen = Seen { read: stamp, moving: None };
        let files = Shown(&self.files);
        match (self.load)() {
            Ok(value) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                tracing::info!(what = self.what, %files, "read again, in use from now on");
                Look::Replaced
            }
            Err(error) => {
                tracing::error!(what = self.what, %files, error, "cannot be used, the earlier one stays in use");
                Look::Refused
            }
        }
    }
}

fn stamp(files: &[PathBuf]) -> Stamp {
    let one = |path: &PathBuf| {
        // Through links: a renewed certificate is often a link that points elsewhere now.
        let file = std::fs::metadata(path).ok()?;
        Some((file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
    };
    files.iter().map(one).collect()
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

struct Shown<'a>(&'a [PathBuf]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, path) in self.0.iter().enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            write!(f, "{separator}{}", Path::display(path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(path: &Path) -> Live<u32> {
        let file = path.to_owned();
        Live::open("number", vec![path.to_owned()], move || {
            std::fs::read_to_string(&file).unwrap_or_default().trim().parse::<u32>()
        })
        .unwrap()
    }

    #[test]
    fn a_change_counts_once_it_stands_still() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        std::fs::write(&path, "1").unwrap();
        let live = number(&path);
        assert_eq!(live.refresh(false), Look::Unchanged);
        std::fs::write(&path, "").unwrap();
        assert_eq!(live.refresh(false), Look::Unchanged, "it may be half written");
        std::fs::write(&path, "22").unwrap();
        assert_eq!(live.refresh(false), Look::Unchanged, "it was");
        assert_eq!(*live.current(), 1);
        assert_eq!(live.refresh(false), Look::Replaced);
        assert_eq!(*live.current(), 22);
    }

    #[test]
    fn what_cannot_be_used_changes_nothing_and_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        std::fs::write(&path, "1").unwrap();
        let live = number(&path);
        std::fs::remove_file(&path).unwrap();
        let looks: Vec<Look> = (0..4).map(|_| live.refresh(false)).collect();
        assert_eq!(looks, [Look::Unchanged, Look::Refused, Look::Unchanged, Look::Unchanged]);
        assert_eq!(*live.current(), 1);
        assert_eq!(live.refresh(true), Look::Refused, "whoever asks for it is told again");
        std::fs::write(&path, "3").unwrap();
        assert_eq!(live.refresh(true), Look::Replaced, "and does not wait");
        assert_eq!(*live.current(), 3);
    }
}
