//! The admin socket as a file: made private before anybody can see it, stale ones replaced, removed at the end.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Longest path of a Unix socket: `sun_path` has 108 bytes and ends with a zero (unix(7)).
const PATH_MAX_BYTES: usize = 107;

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process answers there.
    #[error("{path}: another node listens here, stop it first or set another [admin] socket")]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// Something else has this name.
    #[error("{path}: is no socket, remove it or set another [admin] socket")]
    NotASocket {
        /// Where.
        path: PathBuf,
    },
    /// The system cannot hold this path.
    #[error("{path}: too long for a Unix socket ({PATH_MAX_BYTES} bytes), set a shorter [admin] socket")]
    TooLong {
        /// Where.
        path: PathBuf,
    },
    /// The file system said no.
    #[error("{path} cannot be made there, set another [admin] socket if that is no mistake")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A bound socket; its file goes when this goes, unless another node has replaced it by then.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

/// Binds under a name of its own, makes it private, and only then renames it into place: at no moment is there a
/// socket that others may use, or none where there was one.
pub(crate) fn bind(path: &Path) -> Result<(UnixListener, SocketFile), BindError> {
    let failed = |source| BindError::Io { path: path.to_owned(), source };
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    if fresh.len() > PATH_MAX_BYTES {
        return Err(BindError::TooLong { path: path.to_owned() });
    }
    let fresh = PathBuf::from(fresh);
    refuse_if_taken(path)?;
    remove_if_there(&fresh).map_err(failed)?;
    let listener = UnixListener::bind(&fresh).map_err(failed)?;
    let placed = place(&fresh, path);
    let identity = placed.inspect_err(|_| drop(std::fs::remove_file(&fresh))).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok((listener, SocketFile { path: path.to_owned(), identity }))
}

fn place(fresh: &Path, path: &Path) -> io::Result<(u64, u64)> {
    std::fs::set_permissions(fresh, PermissionsExt::from_mode(0o600))?;
    std::fs::rename(fresh, path)?;
    identity(path)
}

/// A socket file without a process behind it (kill -9, power cut) refuses connections and may go.
fn refuse_if_taken(path: &Path) -> Result<(), BindError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(BindError::Io { path: path.to_owned(), source }),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Alive, or so busy that it cannot even say so.
        _ => Err(BindError::InUse { path: path.to_owned() }),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "admin socket not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_private_and_gone_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let bound = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!dir.path().join("admin.sock.new").exists());
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        // What kill -9 leaves behind: the file without the process.
        drop(UnixListener::bind(&path).unwrap());
        let live = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(BindError::InUse { .. })));
        drop(live);
    }

    #[test]
    fn anything_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path), Err(BindError::NotASocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        let long = dir.path().join("x".repeat(120));
        assert!(matches!(bind(&long), Err(BindError::TooLong { .. })));
    }

    #[test]
    fn a_successor_keeps_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let (listener, file) = bind(&path).unwrap();
        drop(listener);
        let successor = bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
        drop(successor);
    }
}
