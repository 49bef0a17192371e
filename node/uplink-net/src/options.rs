//! What an uplink is told about its network.

use eventmesh_edge_core::event::Timestamp;
use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where an upstream listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Name or IP address, IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Longest first line of a file with a secret.
const SECRET_MAX_BYTES: u64 = 64 * 1_024;

/// A password, token or client secret; `Debug` does not show it (P7).
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps it.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Secret {
        Secret(secret.into())
    }

    /// The first line of a file: editors add a newline that is not meant. Read off the runtime's thread.
    ///
    /// # Errors
    /// If the file cannot be read, or has nothing in its first line.
    pub async fn read(path: &Path) -> io::Result<Secret> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || first_line(&path)).await?
    }

    /// The secret itself, for the wire and for nothing else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

fn first_line(path: &Path) -> io::Result<Secret> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(SECRET_MAX_BYTES).read_to_string(&mut text)?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Secret::new(line)),
        _ => Err(io::Error::other("its first line is empty")),
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// User name and password that are shown to the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: Option<Secret>,
    /// Where the password comes from: read anew at each connect, so a changed one needs no restart.
    pub password_file: Option<PathBuf>,
}

impl Credentials {
    /// With the password that its file has now. If the file cannot be read, which is logged, the last password stays: a file that is
    /// being replaced must not keep the uplink down.
    pub async fn current(&self) -> Credentials {
        let mut current = self.clone();
        if let Some(path) = &self.password_file {
            match Secret::read(path).await {
                Ok(secret) => current.password = Some(secret),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "password file is not readable, the password read last is used");
                }
            }
        }
        current
    }
}

/// TLS; files are read anew at each connect, so a renewed certificate needs no restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Trust anchors, PEM; the machine's own if `None`.
    pub ca_file: Option<PathBuf>,
    /// Client certificate.
    pub identity: Option<TlsIdentity>,
    /// Name that the upstream's certificate must have; the host that is connected to if `None`.
    pub server_name: Option<String>,
}

/// Files of a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsIdentity {
    /// Certificate chain, PEM, own first.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

/// The time that certificates are checked against; a gateway's own clock may stand at 1970.
pub type CertificateTime = Arc<dyn Fn() -> Timestamp + Send + Sync>;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_what_its_file_says_now_and_the_last_one_if_it_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        let credentials = Credentials {
            username: "node".to_owned(),
            password: Some(Secret::new("first")),
            password_file: Some(file.clone()),
        };
        let shown = async || credentials.current().await.password.map(|p| p.reveal().to_owned());
        assert_eq!(shown().await.as_deref(), Some("first"), "no file");
        std::fs::write(&file, "second\nnot this\n").unwrap();
        assert_eq!(shown().await.as_deref(), Some("second"));
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(shown().await.as_deref(), Some("first"), "an empty line is no password");
    }
}
