//! The runtime's gRPC port speaks no TLS: a proxy in front of it does. Here it is rustls with throw-away certificates.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod common;

use common::{Driver, PATIENCE, acked, options, outgoing};
use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_standin::StandIn;
use eventmesh_edge_uplink_eventmesh::{Options, TlsOptions};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { dir, issuer: Issuer::new(params, key) }
    }

    /// A proxy that shows a certificate for `name`, good from the beginning of one year to that of another.
    async fn proxy(&self, name: &str, years: (i32, i32), to: SocketAddr) -> SocketAddr {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(certificate.pem().as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        // As a proxy that serves other things too: who does not say HTTP/2 gets none.
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut client) = acceptor.accept(client).await else { return };
                    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                    let mut server = TcpStream::connect(to).await.unwrap();
                    drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                });
            }
        });
        addr
    }

    fn options(&self, addr: SocketAddr) -> Options {
        let tls = TlsOptions {
            ca_file: Some(self.dir.path().join("ca.pem")),
            identity: None,
            server_name: Some("em.example.com".to_owned()),
        };
        Options { tls: Some(tls), ..options(&[addr]) }
    }
}

#[tokio::test]
async fn events_go_through_a_proxy_that_terminates_tls() {
    let (standin, authority) = (StandIn::start(), Authority::new());
    let proxy = authority.proxy("em.example.com", (2020, 2090), standin.addr()).await;
    let mut driver = Driver::new(authority.options(proxy));
    driver.up().await;
    assert_eq!(acked(&driver.deliver((1..=100).map(outgoing)).await).len(), 100);
    assert_eq!(standin.count(), 100);
}

#[tokio::test]
async fn certificates_that_are_no_good_are_told_in_words() {
    let (standin, authority) = (StandIn::start(), Authority::new());
    for (name, years, words) in [
        ("other.example.com", (2020, 2090), "not valid for name"),
        ("em.example.com", (2020, 2021), "expired"),
        ("em.example.com", (2089, 2090), "not valid yet"),
    ] {
        let proxy = authority.proxy(name, years, standin.addr()).await;
        let refused = Driver::new(authority.options(proxy)).connect(0, PATIENCE).await.unwrap_err();
        assert!(refused.contains("TLS handshake") && refused.contains(words), "{words}: {refused}");
    }
    // A gateway whose clock stands at 1970 checks against the time that it is told.
    let proxy = authority.proxy("em.example.com", (2020, 2021), standin.addr()).await;
    let mut at_that_time = authority.options(proxy);
    at_that_time.certificate_time = Some(Arc::new(|| Timestamp(1_590_000_000_000)));
    Driver::new(at_that_time).up().await;
    // And who speaks no TLS is told so.
    let plain = Driver::new(options(&[proxy])).connect(0, PATIENCE).await.unwrap_err();
    assert!(plain.contains("does it want TLS"), "{plain}");
    let wanted = Driver::new(authority.options(standin.addr())).connect(0, PATIENCE).await.unwrap_err();
    assert!(wanted.contains("TLS handshake"), "{wanted}");
}
