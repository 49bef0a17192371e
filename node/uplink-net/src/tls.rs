//! TLS configurations from files.

use crate::options::{CertificateTime, TlsIdentity, TlsOptions};
use eventmesh_edge_core::event::Timestamp;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Why TLS could not be set up. Says which file, never what is in it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is no PEM.
    #[error("read {}: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls_pki_types::pem::Error,
    },
    /// Nothing in it.
    #[error("{} holds no certificate", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// It is a certificate, but of no authority.
    #[error("{} holds a certificate that is no trust anchor: {source}", path.display())]
    BadAnchor {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// Neither a file nor the machine says whom to trust.
    #[error("this machine has no trust anchors, name a CA file")]
    NoNativeRoots,
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error("client certificate {}: {source}", path.display())]
    Identity {
        /// The file of the certificate.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The library refuses.
    #[error("set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

impl TlsOptions {
    /// Whom to trust. Blocks on the disk: not for the runtime's thread.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn trust_anchors(&self) -> Result<Arc<RootCertStore>, TlsError> {
        match &self.ca_file {
            Some(path) => roots_of(path),
            None => native_roots(),
        }
    }
}

/// A configuration that trusts `roots`, shows `identity`, and checks certificates against `time`, or the machine's clock.
/// Blocks on the disk for the identity's files: not for the runtime's thread.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn client_config(
    roots: Arc<RootCertStore>,
    identity: Option<&TlsIdentity>,
    time: Option<&CertificateTime>,
) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clock: Arc<dyn TimeProvider> = match time {
        Some(time) => Arc::new(Clock(Arc::clone(time))),
        None => Arc::new(DefaultTimeProvider),
    };
    let builder = ClientConfig::builder_with_details(provider, clock)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let Some(identity) = identity else { return Ok(builder.with_no_client_auth()) };
    let (chain, key) = read_identity(identity)?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|source| TlsError::Identity { path: identity.cert.clone(), source })
}

/// The node's idea of the time, for certificates.
struct Clock(CertificateTime);

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let Timestamp(ms) = (self.0)();
        Some(UnixTime::since_unix_epoch(Duration::from_millis(ms)))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem { path: path.to_owned(), source };
    let all: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(pem)?.collect::<Result<_, _>>().map_err(pem)?;
    if all.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(all)
}

fn roots_of(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|source| TlsError::BadAnchor { path: path.to_owned(), source })?;
    }
    Ok(Arc::new(roots))
}

/// Parsing the machine's bundle takes tens of milliseconds; it changes with system updates only, so once per process will do.
fn native_roots() -> Result<Arc<RootCertStore>, TlsError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let (added, ignored) =
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        tracing::debug!(added, ignored, "loaded the machine's trust anchors");
        Arc::new(roots)
    });
    if roots.is_empty() { Err(TlsError::NoNativeRoots) } else { Ok(roots.clone()) }
}

fn read_identity(
    identity: &TlsIdentity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let key = PrivateKeyDer::from_pem_file(&identity.key)
        .map_err(|source| TlsError::Pem { path: identity.key.clone(), source })?;
    Ok((certificates(&identity.cert)?, key))
}
