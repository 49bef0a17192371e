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
    /// On a file system that is mounted read-only.
    #[error(
        "data directory {path} is on a read-only file system: remount it writable (`mount -o remount,rw`), or give \
         another data_dir"
    )]
    ReadOnly {
        /// Which directory.
        path: PathBuf,
    },
    /// A mode forbids it to the owner.
    #[error(
        "data directory {path} cannot be written by user id {user}, because of the mode of {denied}: \
         `chmod -R u+rwX {path}` as its owner"
    )]
    Permission {
        /// Which directory.
        path: PathBuf,
        /// It, or what in it is the obstacle.
        denied: PathBuf,
        /// Who asks.
        user: u32,
    },
    /// It is not there, and this user may not make it where it is to be.
    #[error(
        "data directory {path} does not exist, and user id {user} may not make it in {parent}: \
         `install -d -m 700 -o {user} {path}` as root, or give another data_dir"
    )]
    CannotMake {
        /// Which directory.
        path: PathBuf,
        /// The part of the path that is there.
        parent: PathBuf,
        /// Who asks.
        user: u32,
    },
    /// A directory above it may not be searched.
    #[error(
        "data directory {path} cannot be reached by user id {user}: `chmod a+x {above}` as its owner, or give another \
         data_dir"
    )]
    CannotReach {
        /// Which directory.
        path: PathBuf,
        /// The directory above it that is closed.
        above: PathBuf,
        /// Who asks.
        user: u32,
    },
    /// Something in it belongs to another user: a program was run as root once, or files were copied.
    #[error(
        "data directory {path} has {entry} in it, which belongs to user id {owner}; this program runs as user id {user}: \
         `chown -R {user} {path}` as root"
    )]
    OwnerWithin {
        /// Which directory.
        path: PathBuf,
        /// What is in it.
        entry: PathBuf,
        /// Whose that is.
        owner: u32,
        /// Who asks.
        user: u32,
    },
    /// Owner and mode are right, and the system refuses all the same.
    #[error(
        "data directory {path} is protected by the system, the mode allows user id {user} to write there: `lsattr -d {path}` \
         (`chattr -i` if it is immutable), or what confines this program (ReadWritePaths= of its systemd unit, AppArmor)"
    )]
    Protected {
        /// Which directory.
        path: PathBuf,
        /// Who asks.
        user: u32,
    },
    /// The path is something else.
    #[error("data directory {path} cannot be: {file} is not a directory; give another data_dir")]
    NotADirectory {
        /// Which path.
        path: PathBuf,
        /// It, or the part of it that is the obstacle.
        file: PathBuf,
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
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path)?,
        found => found.map_err(|e| refused(path, "look at it", e))?,
    };
    if !metadata.is_dir() {
        return Err(not_a_directory(path));
    }
    let user = rustix::process::geteuid().as_raw();
    // Root could write here, and would leave files behind that the owner cannot open again.
    if metadata.uid() != user {
        return Err(OpenError::Owner { path: path.to_owned(), owner: metadata.uid(), user });
    }
    check_contents(path)?;
    check_format(path)?;
    check_writable(path)?;
    lock(path)
}

/// All of it, at the start: a node whose journal finds no room for its next segment would refuse everything hours later.
fn check_writable(path: &Path) -> Result<(), OpenError> {
    use rustix::fs::{Access, AtFlags, CWD};
    let within = ["journal", "views", "generations", "quarantine"].map(|name| path.join(name));
    for dir in [path.to_owned()].iter().chain(&within).filter(|dir| dir.is_dir()) {
        let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
        match rustix::fs::accessat(CWD, dir, all, AtFlags::EACCESS) {
            Ok(()) => {}
            Err(error) => return Err(refused(path, "write", error.into())),
        }
    }
    Ok(())
}

fn make(path: &Path) -> Result<fs::Metadata, OpenError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.and_then(|()| fs::metadata(path)).map_err(|e| refused(path, "make it", e))
}

fn not_a_directory(path: &Path) -> OpenError {
    let is_file = |part: &&Path| fs::metadata(part).is_ok_and(|metadata| !metadata.is_dir());
    let file = path.ancestors().find(is_file).unwrap_or(path);
    OpenError::NotADirectory { path: path.to_owned(), file: file.to_owned() }
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
        return Err(not_a_directory(path));
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
    match error.kind() {
        io::ErrorKind::PermissionDenied => denied(path, rustix::process::geteuid().as_raw()),
        io::ErrorKind::ReadOnlyFilesystem => OpenError::ReadOnly { path: path.to_owned() },
        io::ErrorKind::NotADirectory => not_a_directory(path),
        _ => OpenError::Io { path: path.to_owned(), what, source: error },
    }
}

/// Why `user` is not let in: the system says only that it is so, and the advice differs.
fn denied(path: &Path, user: u32) -> OpenError {
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let path = path.to_owned();
    // The last part of the path that can be looked at: what is below it is not there, or behind a closed door.
    let seen = full.ancestors().find(|part| fs::metadata(part).is_ok()).unwrap_or(&full).to_owned();
    match fs::metadata(&path) {
        Ok(metadata) => denied_within(path, &metadata, user),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            OpenError::CannotReach { path, above: seen, user }
        }
        Err(_) => OpenError::CannotMake { path, parent: seen, user },
    }
}

/// What in an existing data directory stands in its owner's way.
fn denied_within(path: PathBuf, metadata: &fs::Metadata, user: u32) -> OpenError {
    if is_closed(metadata) {
        return OpenError::Permission { denied: path.clone(), path, user };
    }
    let first = entries(&path);
    let second = first.iter().flat_map(|(entry, _)| entries(entry));
    let within: Vec<_> = first.iter().cloned().chain(second).collect();
    if let Some((entry, metadata)) = within.iter().find(|(_, metadata)| metadata.uid() != user) {
        return OpenError::OwnerWithin { path, entry: entry.clone(), owner: metadata.uid(), user };
    }
    match within.into_iter().find(|(_, metadata)| is_closed(metadata)) {
        Some((denied, _)) => OpenError::Permission { path, denied, user },
        None => OpenError::Protected { path, user },
    }
}

/// Its mode does not let the owner do what a node does with it.
fn is_closed(metadata: &fs::Metadata) -> bool {
    let needed = if metadata.is_dir() { 0o700 } else { 0o600 };
    !metadata.is_symlink() && metadata.mode() & needed != needed
}

/// What is in a directory, as far as it can be told: this is about a message.
fn entries(dir: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let found = fs::read_dir(dir).into_iter().flatten().flatten();
    found.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?))).collect()
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
        let path = Path::new("/data-of-nobody");
        let text = |kind: io::ErrorKind| refused(path, "open `lock`", kind.into()).to_string();
        assert!(
            text(io::ErrorKind::ReadOnlyFilesystem).contains("read-only file system: remount it writable")
        );
        assert!(text(io::ErrorKind::PermissionDenied).contains("does not exist"));
        assert!(text(io::ErrorKind::StorageFull).contains("open `lock` in data directory /data"));
    }

    /// The advice is about what is in the way. (Root is never in anybody's way: the end-to-end tests are somebody else.)
    #[test]
    fn permission_denied_has_many_reasons() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let user = rustix::process::geteuid().as_raw();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        let text = |user| denied(&data, user).to_string();
        let missing = text(user);
        assert!(missing.contains("does not exist") && missing.contains("install -d"), "{missing}");
        assert!(missing.contains(&format!("in {}:", dir.path().display())), "{missing}");
        fs::create_dir_all(data.join("journal")).unwrap();
        mode(&data, 0o555);
        assert!(text(user).contains(&format!("the mode of {}: `chmod -R u+rwX", data.display())));
        mode(&data, 0o755);
        assert!(text(user).contains("protected by the system"));
        fs::write(data.join("journal/a.seg"), "").unwrap();
        mode(&data.join("journal/a.seg"), 0o400);
        assert!(text(user).contains("the mode of ") && text(user).contains("journal/a.seg"));
        let other = text(user + 1);
        assert!(
            other.contains("/journal in it, which belongs to user id") && other.contains("chown -R"),
            "{other}"
        );
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = claim(&file.join("data")).unwrap_err().to_string();
        assert!(error.contains(&format!("{} is not a directory", file.display())), "{error}");
    }
}
