//! The runtime's gRPC port speaks no TLS: a proxy in front of it does. Here it is rustls with throw-away certificates.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod common;
#[path = "common/node.rs"]
mod node;

use common::{Driver, PATIENCE, acked, options, outgoing};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_core::forward::Order;
use eventmesh_edge_standin::StandIn;
use eventmesh_edge_uplink_eventmesh::{Options, TlsOptions};
use eventmesh_edge_uplink_testing::{Authority, Life};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A proxy that shows a certificate for `name`. As one that serves other things too: who does not say HTTP/2 gets none.
async fn terminating(authority: &Authority, name: &str, life: Life, to: SocketAddr) -> SocketAddr {
    terminating_with(Arc::new(Mutex::new(authority.acceptor(name, life, false, &[b"h2"]))), to).await
}

/// The same, with a certificate that can be exchanged.
async fn terminating_with(shown: Arc<Mutex<TlsAcceptor>>, to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = shown.lock().unwrap().clone();
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

/// The same under the real forwarder: nothing is lost, `status` says why, and a renewed certificate mends it without a word.
#[tokio::test]
async fn an_uplink_recovers_by_itself_when_the_certificate_is_renewed() {
    for (seed, (life, words)) in (1..).zip([(Life::Ended, "expired"), (Life::NotYet, "not valid yet")]) {
        let (standin, authority) = (StandIn::start(), Authority::new());
        let shown = Arc::new(Mutex::new(authority.acceptor("em.example.com", life, false, &[b"h2"])));
        let proxy = terminating_with(shown.clone(), standin.addr()).await;
        let mut node = node::start(trusting(&authority, proxy), Order::Strict, seed);
        node.publish(100);
        let says = |cause: &Option<Text>| cause.as_ref().is_some_and(|c| c.contains(words));
        node.until(words, |status| says(&status.cause)).await;
        *shown.lock().unwrap() = authority.acceptor("em.example.com", Life::Now, false, &[b"h2"]);
        node.publish(100);
        node.drained().await;
        assert_eq!((standin.count(), node.losses()), (200, 0));
        node.stop().await;
    }
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
