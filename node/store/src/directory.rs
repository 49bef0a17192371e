//! The data directory as the operating system sees it: whose it is, whether it can be written, who else has it open.

use crate::meta::VERSION;
use rustix::fs::FlockOperation;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why a data directory cannot be used. Each message names the path and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "data directory {path} is already in use by pid {pid}: stop that process, or give this one another data_dir"
    )]
    InUse {
        /// Which directory.
        path: PathBuf,
        /// Who; `?` if it did not say.
        pid: String,
    },
    /// A later version of the program wrote it.
    #[error(
        "data directory {path} has format version {found}, this program reads up to {VERSION}: \
         start the version that wrote it, or a later one"
    )]
    Later {
        /// Which directory.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// It belongs to another user.
    #[error(
        "data directory {path} belongs to user id {owner}, this program runs as user id {user}: \
         run it as that user, or `chown -R {user} {path}`"
    )]
    Owner {
        /// Which directory.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who asks.
        user: u32,
    },
    /// Mounted or marked read-only.
    #[error("data directory {path} is read-only: remount it writable, or give another data_dir")]
    ReadOnly {
        /// Which directory.
        path: PathBuf,
    },
    /// No permission.
    #[error("data directory {path} cannot be written by user id {user}: `chmod u+rwx {path}` as its owner")]
    Permission {
        /// Which path.
        path: PathBuf,
        /// Who asks.
        user: u32,
    },
    /// The path is something else.
    #[error("data directory {path} is not a directory: give another data_dir")]
    NotADirectory {
        /// Which path.
        path: PathBuf,
    },
    /// A directory with other things in it.
    #[error(
        "data directory {path} is not empty and holds no store (it has {example}): give another data_dir"
    )]
    Foreign {
        /// Which directory.
        path: PathBuf,
        /// One of the names in it.
        example: String,
    },
    /// A directory without a store in it, or none at all.
    #[error(
        "{path} holds no store: say where it is with --data-dir or --config, or start a node there first"
    )]
    NoStore {
        /// Which path.
        path: PathBuf,
    },
    /// Not for this user's eyes.
    #[error(
        "data directory {path} cannot be read by user id {user}: run this as the user who runs the node, or as root"
    )]
    Unreadable {
        /// Which path.
        path: PathBuf,
        /// Who asks.
        user: u32,
    },
    /// Any other refusal of the file system.
    #[error("{what} in data directory {path}: {source}")]
    Io {
        /// Which directory.
        path: PathBuf,
        /// Verb first.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The configuration names more than the format can number, or names something twice.
    #[error("store configuration: {0}")]
    Spec(String),
    /// The system gave no random numbers.
    #[error("draw the log id: {0}")]
    Random(String),
}

/// What the names begin with that a store makes, and a file system of its own has.
const OURS: [&str; 8] =
    ["lock", "format", "meta-", "journal", "quarantine", "views", "generations", "lost+found"];

/// The lock on a data directory; held until dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    file: File,
}

/// Makes the directory if it is not there, checks it, locks it.
///
/// # Errors
/// [`OpenError`], the first thing that is wrong.
pub fn claim(path: &Path) -> Result<DirectoryLock, OpenError> {
    if !path.exists() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|e| refused(path, "create it", e))?;
    }
    let metadata = fs::metadata(path).map_err(|e| refused(path, "look at it", e))?;
    if !metadata.is_dir() {
        return Err(OpenError::NotADirectory { path: path.to_owned() });
    }
    let user = rustix::process::geteuid().as_raw();
    // Root could write here, and would leave files behind that the owner cannot open again.
    if metadata.uid() != user {
        return Err(OpenError::Owner { path: path.to_owned(), owner: metadata.uid(), user });
    }
    check_contents(path)?;
    check_format(path)?;
    lock(path)
}

/// For looking, not for writing: nothing is made, nothing is changed, and permission to read is enough. The lock keeps a
/// node from starting meanwhile; a copy of a directory may have no lock file and needs none.
///
/// # Errors
/// [`OpenError`], the first thing that is wrong.
pub fn claim_to_read(path: &Path) -> Result<Option<DirectoryLock>, OpenError> {
    let failed = |what| move |error| unreadable(path, what, error);
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::NoStore { path: path.to_owned() });
        }
        found => found.map_err(failed("look at it"))?,
    };
    if !metadata.is_dir() {
        return Err(OpenError::NotADirectory { path: path.to_owned() });
    }
    let entries = fs::read_dir(path).map_err(failed("list it"))?;
    let ours = |name: &str| ["meta-", "journal", "format"].iter().any(|ours| name.starts_with(ours));
    if !entries.flatten().any(|entry| ours(&entry.file_name().to_string_lossy())) {
        return Err(OpenError::NoStore { path: path.to_owned() });
    }
    check_format(path)?;
    let file = match File::open(path.join("lock")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed("open `lock`"))?,
    };
    hold(path, file, "lock it").map(Some)
}

fn unreadable(path: &Path, what: &'static str, error: io::Error) -> OpenError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            OpenError::Unreadable { path: path.to_owned(), user: rustix::process::geteuid().as_raw() }
        }
        _ => refused(path, what, error),
    }
}

fn check_contents(path: &Path) -> Result<(), OpenError> {
    let entries = fs::read_dir(path).map_err(|e| refused(path, "list it", e))?;
    let names: Vec<String> =
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    let foreign =
        names.iter().find(|name| !name.starts_with('.') && !OURS.iter().any(|ours| name.starts_with(ours)));
    match foreign {
        Some(example) if !names.iter().any(|name| name == "format" || name == "meta-a") => {
            Err(OpenError::Foreign { path: path.to_owned(), example: example.clone() })
        }
        _ => Ok(()),
    }
}

fn check_format(path: &Path) -> Result<(), OpenError> {
    let text = match fs::read_to_string(path.join("format")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(()),
        Err(error) => return Err(unreadable(path, "read `format`", error)),
    };
    match version_in(&text) {
        Some(found) if found > u64::from(VERSION) => {
            Err(OpenError::Later { path: path.to_owned(), found: found.to_string() })
        }
        // Damage is never a reason to stop (P6): `meta-*` and the segment headers carry the version too.
        _ => Ok(()),
    }
}

/// The version that `format` says. A second line has the checksum of the first: one flipped bit makes a 3 of a 1, and must
/// not pass for a later version (P6). Without that line (an earlier program) the first is believed as it is.
pub(crate) fn version_in(text: &str) -> Option<u64> {
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    let version = line.trim().strip_prefix("eventmesh-edge store ")?.parse().ok()?;
    (rest.is_empty() || rest == checksum_line(line)).then_some(version)
}

fn checksum_line(line: &str) -> String {
    format!("checksum {:08x}\n", crc32c::crc32c(line.as_bytes()))
}

/// Writes `format` unless it already stands there, to the byte.
///
/// # Errors
/// From the file system.
pub fn write_format(path: &Path) -> io::Result<()> {
    let file = path.join("format");
    let line = format!("eventmesh-edge store {VERSION}");
    let text = format!("{line}\n{}", checksum_line(&line));
    if fs::read(&file).is_ok_and(|found| found == text.as_bytes()) {
        return Ok(());
    }
    let temporary = path.join(".format.new");
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs::rename(&temporary, &file)?;
    File::open(path)?.sync_all()
}

fn lock(path: &Path) -> Result<DirectoryLock, OpenError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.join("lock"))
        .map_err(|e| refused(path, "open `lock`", e))?;
    let mut held = hold(path, file, "lock it")?;
    // Only for the message of the next one who comes: a full disk may refuse it.
    let told = held.file.set_len(0).and_then(|()| write!(held.file, "{}", std::process::id()));
    if let Err(error) = told {
        tracing::debug!(%error, "lock file does not name this process");
    }
    Ok(held)
}

/// Takes the lock, or says who has it.
fn hold(path: &Path, mut file: File, what: &'static str) -> Result<DirectoryLock, OpenError> {
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(DirectoryLock { file }),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let read = file.read_to_string(&mut pid);
            let pid = pid.trim().to_owned();
            let known = read.is_ok() && !pid.is_empty();
            let pid = if known { pid } else { "?".to_owned() };
            Err(OpenError::InUse { path: path.to_owned(), pid })
        }
        Err(error) => Err(refused(path, what, error.into())),
    }
}

/// The error that says what to do about `error`.
pub(crate) fn refused(path: &Path, what: &'static str, error: io::Error) -> OpenError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            OpenError::Permission { path, user: rustix::process::geteuid().as_raw() }
        }
        io::ErrorKind::ReadOnlyFilesystem => OpenError::ReadOnly { path },
        io::ErrorKind::NotADirectory => OpenError::NotADirectory { path },
        _ => OpenError::Io { path, what, source: error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_opener_is_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let held = claim(&path).unwrap();
        let error = claim(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("in use by pid {}", std::process::id())), "{error}");
        drop(held);
        claim(&path).unwrap();
    }

    #[test]
    fn a_later_format_is_refused_and_a_damaged_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        write_format(dir.path()).unwrap();
        claim(dir.path()).unwrap();
        fs::write(dir.path().join("format"), "eventmesh-edge store 3\n").unwrap();
        let error = claim(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("format version 3") && error.contains("start the version that wrote it"),
            "{error}"
        );
        fs::write(dir.path().join("format"), [0u8; 30]).unwrap();
        claim(dir.path()).unwrap();
    }

    /// Without its checksum, one flipped bit of `format` would keep a node from starting.
    #[test]
    fn no_flipped_bit_passes_for_another_version() {
        let dir = tempfile::tempdir().unwrap();
        write_format(dir.path()).unwrap();
        let path = dir.path().join("format");
        let whole = fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bytes).unwrap();
            claim(dir.path()).unwrap_or_else(|error| panic!("bit {bit}: {error}"));
        }
        write_format(dir.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn somebody_elses_directory_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let error = claim(dir.path()).unwrap_err().to_string();
        assert!(error.contains("holds no store") && error.contains("thesis.tex"), "{error}");
        assert!(!dir.path().join("lock").exists());
        let file = dir.path().join("thesis.tex");
        assert!(matches!(claim(&file), Err(OpenError::NotADirectory { .. })));
    }

    #[test]
    fn another_owner_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let user = rustix::process::geteuid().as_raw();
        // Only root can give a directory away; everybody else runs the other tests.
        if user == 0 {
            std::os::unix::fs::chown(dir.path(), Some(12_345), None).unwrap();
            let error = claim(dir.path()).unwrap_err().to_string();
            assert!(error.contains("belongs to user id 12345") && error.contains("chown -R 0"), "{error}");
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        let path = Path::new("/data");
        let text = |kind: io::ErrorKind| refused(path, "open `lock`", kind.into()).to_string();
        assert!(text(io::ErrorKind::ReadOnlyFilesystem).contains("read-only: remount it writable"));
        assert!(text(io::ErrorKind::PermissionDenied).contains("chmod u+rwx /data"));
        assert!(text(io::ErrorKind::StorageFull).contains("open `lock` in data directory /data"));
    }
}
