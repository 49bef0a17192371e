//! Certificate files to a TLS acceptor: rustls with `ring` (docs/adr/0005).

use crate::live::Live;
use rustls_pki_types::pem::{Error as PemError, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

/// Files of a TLS listener, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// Certificate chain, the listener's own first.
    pub cert: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PathBuf,
    /// Let in only clients with a certificate that these authorities have signed. Who a client is still comes from its
    /// user name.
    pub client_ca: Option<PathBuf>,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("read {what} {path}: {source}")]
    Read {
        /// Certificate, private key, client CA.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{what} {path}: {problem}")]
    Content {
        /// Certificate, private key, client CA.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Certificate and key are fine, but not together, or not for this.
    #[error("certificate {cert} with key {key}: {source}")]
    Pair {
        /// Certificate file.
        cert: PathBuf,
        /// Key file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// The listener's acceptor; another one after its files have changed. Connections that are open keep theirs.
pub(super) fn live(options: &TlsOptions) -> Result<Live<TlsAcceptor>, TlsError> {
    let options = options.clone();
    let files = [&options.cert, &options.key].into_iter().chain(&options.client_ca).cloned().collect();
    Live::open("certificate", files, move || acceptor(&options))
}

fn acceptor(options: &TlsOptions) -> Result<TlsAcceptor, TlsError> {
    let pair = |source| TlsError::Pair { cert: options.cert.clone(), key: options.key.clone(), source };
    let chain = certificates("certificate", &options.cert)?;
    let key = private_key(&options.key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(pair)?;
    let builder = match &options.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(roots(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| content("client CA", path, error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let config = builder.with_single_cert(chain, key).map_err(pair)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(what, path)?;
    let chain: Result<Vec<_>, PemError> = CertificateDer::pem_slice_iter(&bytes).collect();
    let chain = chain.map_err(|error| content(what, path, format!("is no valid PEM: {error}")))?;
    if chain.is_empty() {
        return Err(content(what, path, "holds no `BEGIN CERTIFICATE` section".to_owned()));
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    const WHAT: &str = "private key";
    let bytes = read(WHAT, path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        // Never the bytes, whatever they are.
        let problem = match error {
            PemError::NoItemsFound if contains(&bytes, b"ENCRYPTED") => {
                "is encrypted; decrypt it first (`openssl pkey`)".to_owned()
            }
            PemError::NoItemsFound => "holds no `BEGIN PRIVATE KEY` section".to_owned(),
            error => format!("is no valid PEM: {error}"),
        };
        content(WHAT, path, problem)
    })
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("client CA", path)? {
        roots.add(certificate).map_err(|error| content("client CA", path, error.to_string()))?;
    }
    Ok(roots)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { what, path: path.to_owned(), source })
}

fn content(what: &'static str, path: &Path, problem: String) -> TlsError {
    TlsError::Content { what, path: path.to_owned(), problem }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
