//! Throw-away certificates.

use eventmesh_edge_uplink_http::{TlsIdentity, TlsOptions};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// When a certificate is good.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Life {
    Now,
    Ended,
    NotYet,
}

pub(crate) struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let certificate = params.self_signed(&key).unwrap();
        let pem = certificate.pem();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), &pem).unwrap();
        Authority { dir, issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    pub(crate) fn options(&self) -> TlsOptions {
        TlsOptions { ca_file: Some(self.ca_file()), identity: None, server_name: None }
    }

    pub(crate) fn issue(&self, name: &str, life: Life) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let (from, to) = match life {
            Life::Now => (2020, 2090),
            Life::Ended => (2020, 2021),
            Life::NotYet => (2089, 2090),
        };
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// As files, for the client.
    pub(crate) fn identity(&self, name: &str) -> TlsIdentity {
        let (cert, key) = self.issue(name, Life::Now);
        let at = |kind: &str| self.dir.path().join(format!("{name}.{kind}"));
        std::fs::write(at("pem"), cert).unwrap();
        std::fs::write(at("key"), key).unwrap();
        TlsIdentity { cert: at("pem"), key: at("key") }
    }

    /// A server for `localhost`; with `clients`, only those who show a certificate of this authority get in.
    pub(crate) fn acceptor(&self, life: Life, clients: bool) -> TlsAcceptor {
        let (cert, key) = self.issue("localhost", life);
        let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if clients {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![cert], key).unwrap()))
    }
}
