//! The runtime's gRPC port speaks no TLS: a proxy in front of it does. Here it is rustls with throw-away certificates.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod common;

use common::{Driver, PATIENCE, acked, options, outgoing};
use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_standin::StandIn;
use eventmesh_edge_uplink_eventmesh::{Options, TlsOptions};
use eventmesh_edge_uplink_testing::{Authority, Life};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};

/// A proxy that shows a certificate for `name`. As one that serves other things too: who does not say HTTP/2 gets none.
async fn terminating(authority: &Authority, name: &str, life: Life, to: SocketAddr) -> SocketAddr {
    let acceptor = authority.acceptor(name, life, false, &[b"h2"]);
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

fn trusting(authority: &Authority, addr: SocketAddr) -> Options {
    let tls = TlsOptions { server_name: Some("em.example.com".to_owned()), ..authority.trusting() };
    Options { tls: Some(tls), ..options(&[addr]) }
}

#[tokio::test]
async fn events_go_through_a_proxy_that_terminates_tls() {
    let (standin, authority) = (StandIn::start(), Authority::new());
    let proxy = terminating(&authority, "em.example.com", Life::Now, standin.addr()).await;
    let mut driver = Driver::new(trusting(&authority, proxy));
    driver.up().await;
    assert_eq!(acked(&driver.deliver((1..=100).map(outgoing)).await).len(), 100);
    assert_eq!(standin.count(), 100);
}

#[tokio::test]
async fn certificates_that_are_no_good_are_told_in_words() {
    let (standin, authority) = (StandIn::start(), Authority::new());
    for (name, life, words) in [
        ("other.example.com", Life::Now, "not valid for name"),
        ("em.example.com", Life::Ended, "expired"),
        ("em.example.com", Life::NotYet, "not valid yet"),
    ] {
        let proxy = terminating(&authority, name, life, standin.addr()).await;
        let refused = Driver::new(trusting(&authority, proxy)).connect(0, PATIENCE).await.unwrap_err();
        assert!(refused.contains("TLS handshake") && refused.contains(words), "{words}: {refused}");
    }
    // A gateway whose clock stands at 1970 checks against the time that it is told.
    let proxy = terminating(&authority, "em.example.com", Life::Ended, standin.addr()).await;
    let mut at_that_time = trusting(&authority, proxy);
    at_that_time.certificate_time = Some(Arc::new(|| Timestamp(1_590_000_000_000)));
    Driver::new(at_that_time).up().await;
    // And who speaks no TLS is told so.
    let plain = Driver::new(options(&[proxy])).connect(0, PATIENCE).await.unwrap_err();
    assert!(plain.contains("does it want TLS"), "{plain}");
    let wanted = Driver::new(trusting(&authority, standin.addr())).connect(0, PATIENCE).await.unwrap_err();
    assert!(wanted.contains("TLS handshake"), "{wanted}");
}
