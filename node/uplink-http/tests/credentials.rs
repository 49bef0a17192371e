//! Credentials and certificates: what is shown to whom, when it is renewed, and that a refusal never costs an event.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod common;

use common::standin::{Act, Request, StandIn};
use common::{Driver, End, options, url};
use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_uplink_http::{Auth, ClientAuth, Mode, OAuth2, Options, Secret, SecretSource, TlsOptions};
use eventmesh_edge_uplink_testing::{Authority, Life};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn inline(secret: &str) -> SecretSource {
    SecretSource::Inline(Secret::new(secret))
}

fn with(server: &StandIn, auth: Auth) -> Options {
    Options { auth, cleartext_credentials: true, mode: Mode::Batch, ..options(&[server.url("/")]) }
}

/// Takes requests that show exactly this.
fn guard(expected: &'static str) -> impl Fn(&Request) -> Act + Send + Sync {
    move |r| if r.header("authorization") == expected { Act::Take } else { Act::status(401) }
}

#[tokio::test]
async fn bearer_and_basic_are_shown() {
    let server = StandIn::start(guard("Bearer t0ken")).await;
    let mut driver = Driver::new(with(&server, Auth::Bearer(inline("t0ken"))));
    driver.connect(0).await.unwrap();
    assert_eq!(driver.send(1..=3).await.acked, [1, 2, 3]);
    // RFC 7617 section 2.
    server.handle(guard("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
    let auth = Auth::Basic { username: "Aladdin".to_owned(), password: inline("open sesame") };
    let mut driver = Driver::new(with(&server, auth));
    driver.connect(0).await.unwrap();
    assert_eq!(driver.send([4]).await.acked, [4]);
}

#[tokio::test]
async fn a_refused_credential_stops_the_uplink_and_no_event_pays_for_it() {
    let server = StandIn::start(guard("Bearer right")).await;
    let mut driver = Driver::new(with(&server, Auth::Bearer(inline("wrong"))));
    for _ in 0..3 {
        driver.connect(0).await.unwrap();
        let outcome = driver.send(1..=3).await;
        assert_eq!((outcome.acked.len(), outcome.failed.len()), (0, 0));
        let end = outcome.end.unwrap();
        assert!(matches!(end, End::Unavailable(..)), "{end:?}");
        assert!(end.cause().contains("401 Unauthorized: the credential is refused"), "{end:?}");
        assert!(!end.cause().contains("wrong"), "P7");
    }
}

#[tokio::test]
async fn a_token_file_is_read_again_when_its_token_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "old\n").unwrap();
    let server = StandIn::start(guard("Bearer old")).await;
    let mut driver = Driver::new(with(&server, Auth::Bearer(SecretSource::File(path.clone()))));
    driver.connect(0).await.unwrap();
    assert_eq!(driver.send([1]).await.acked, [1]);
    server.handle(guard("Bearer new"));
    std::fs::write(&path, "new\n").unwrap();
    assert_eq!(driver.send(2..=3).await.acked, [2, 3], "without a word");

    // The file still says what is refused: stand down, say so, and read it at the next attempt.
    server.handle(guard("Bearer newest"));
    let end = driver.send([4]).await.end.unwrap();
    assert!(end.cause().contains("there is no other where it came from"), "{end:?}");
    std::fs::write(&path, "newest").unwrap();
    driver.connect(0).await.unwrap();
    assert_eq!(driver.send([4]).await.acked, [4]);

    std::fs::remove_file(&path).unwrap();
    server.handle(guard("Bearer gone"));
    let end = driver.send([5]).await.end.unwrap();
    assert!(end.cause().contains("read ") && end.cause().contains("token"), "{end:?}");
    let Err(End::Unavailable(cause, None)) = driver.connect(0).await else { panic!("let in") };
    assert!(cause.contains("No such file"), "{cause}");
}

/// A token endpoint that gives `token-<n>`, and a receiver beside it that takes only the newest.
async fn token_endpoint(life: &'static str) -> (StandIn, Arc<AtomicUsize>) {
    let given = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&given);
    let server = StandIn::start(move |r| {
        let form = String::from_utf8_lossy(&r.body).into_owned();
        // id:secret
        let known =
            r.header("authorization") == "Basic aWQ6c2VjcmV0" || form.contains("client_secret=secret");
        if !known || !form.contains("grant_type=client_credentials") {
            let body = r#"{"error":"invalid_client","error_description":"who?"}"#.to_owned();
            return Act::Status(401, Vec::new(), body);
        }
        let n = count.fetch_add(1, Ordering::SeqCst) + 1;
        Act::Status(200, Vec::new(), format!(r#"{{"access_token":"token-{n}","token_type":"Bearer"{life}}}"#))
    })
    .await;
    (server, given)
}

fn oauth(endpoint: &StandIn, secret: &str, style: ClientAuth) -> Auth {
    Auth::OAuth2(OAuth2 {
        token_url: url(&endpoint.url("/token")),
        client_id: "id".to_owned(),
        client_secret: inline(secret),
        scope: Some("events.write".to_owned()),
        audience: Some("https://in.example/".to_owned()),
        style,
    })
}

#[tokio::test]
async fn a_token_is_fetched_and_fetched_again_once_when_it_is_refused() {
    for style in [ClientAuth::Basic, ClientAuth::Form] {
        let (endpoint, given) = token_endpoint(r#","expires_in":3600"#).await;
        let server = StandIn::start(guard("Bearer token-1")).await;
        let mut driver = Driver::new(with(&server, oauth(&endpoint, "secret", style)));
        driver.connect(0).await.unwrap();
        assert_eq!(driver.send(1..=2).await.acked, [1, 2]);
        let form = String::from_utf8(endpoint.requests()[0].body.clone()).unwrap();
        assert!(form.contains("scope=events.write&audience=https%3A%2F%2Fin.example%2F"), "{form}");
        // A good token lasts over reconnects.
        driver.connect(0).await.unwrap();
        assert_eq!(driver.send([3]).await.acked, [3]);
        assert_eq!(given.load(Ordering::SeqCst), 1);

        server.handle(guard("Bearer token-2"));
        assert_eq!(driver.send([4]).await.acked, [4], "revoked and replaced without a word");
        server.handle(guard("Bearer never"));
        let end = driver.send([5]).await.end.unwrap();
        assert!(end.cause().contains("401"), "{end:?}");
        assert_eq!(given.load(Ordering::SeqCst), 3, "once for the refusal, not again and again");
        server.handle(guard("Bearer token-4"));
        driver.connect(0).await.unwrap();
        assert_eq!(driver.send([5]).await.acked, [5]);
    }
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    let (endpoint, given) = token_endpoint(r#","expires_in":1"#).await;
    let server = StandIn::start(|_| Act::Take).await;
    let mut driver = Driver::new(with(&server, oauth(&endpoint, "secret", ClientAuth::Basic)));
    driver.connect(0).await.unwrap();
    let mut n = 0;
    while given.load(Ordering::SeqCst) < 3 {
        n += 1;
        let outcome = driver.send([n]).await;
        assert_eq!(outcome.acked, [n], "{outcome:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_token_endpoint_that_refuses_or_is_gone_says_so() {
    let (mut endpoint, _) = token_endpoint("").await;
    let server = StandIn::start(|_| Act::Take).await;
    let mut driver = Driver::new(with(&server, oauth(&endpoint, "wrong", ClientAuth::Basic)));
    let Err(End::Unavailable(cause, None)) = driver.connect(0).await else { panic!("let in") };
    assert!(
        cause.contains("token endpoint") && cause.contains("401 Unauthorized: invalid_client"),
        "{cause}"
    );
    assert!(!cause.contains("who?") && !cause.contains("wrong"), "{cause}");
    endpoint.stop().await;
    let Err(End::Down(cause)) = driver.connect(0).await else { panic!("let in") };
    assert!(cause.contains("token endpoint"), "{cause}");
    assert!(server.requests().is_empty(), "nothing is sent without a credential");
}

#[tokio::test]
async fn another_host_sees_neither_the_credential_nor_the_client_certificate() {
    let authority = Authority::new();
    // Asks for a certificate, would take none.
    let target =
        StandIn::start_with(Some(authority.acceptor("localhost", Life::Now, false, &[])), |_| Act::Take)
            .await;
    let to = target.url("/there");
    let server =
        StandIn::start_with(Some(authority.acceptor("localhost", Life::Now, true, &[])), move |_| {
            Act::with(308, "Location", to.clone())
        })
        .await;
    let tls = TlsOptions { identity: Some(authority.files("plant-7", &["plant-7"])), ..authority.trusting() };
    let auth = Auth::Bearer(inline("t"));
    let follow = Options { tls, auth, redirects_max: 1, ..options(&[server.url("/")]) };
    let mut driver = Driver::new(follow.clone());
    driver.connect(0).await.unwrap();
    assert_eq!(driver.send([1]).await.acked, [1]);
    let (first, second) = (&server.posts()[0], &target.posts()[0]);
    assert!(first.client_certificate && first.header("authorization") == "Bearer t");
    assert_eq!((second.client_certificate, second.header("authorization")), (false, ""));
    // A server that wants the certificate does not get it by redirecting to itself under another name.
    let strict =
        StandIn::start_with(Some(authority.acceptor("localhost", Life::Now, true, &[])), |_| Act::Take).await;
    let to = strict.url("/there");
    server.handle(move |_| Act::with(308, "Location", to.clone()));
    let end = driver.send([2]).await.end.unwrap();
    assert!(matches!(end, End::Down(_)) && strict.requests().is_empty(), "{end:?}");
}

#[tokio::test]
async fn certificates_are_checked_both_ways_and_the_reason_is_said() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let mut server =
        StandIn::start_with(Some(ours.acceptor("localhost", Life::Now, true, &[])), |_| Act::Take).await;
    let with = |tls: TlsOptions| Options { tls, ..options(&[server.url("/")]) };
    let identity = Some(ours.files("plant-7", &["plant-7"]));
    let good = with(TlsOptions { identity: identity.clone(), ..ours.trusting() });
    let mut driver = Driver::new(good.clone());
    driver.connect(0).await.unwrap();
    assert_eq!(driver.send([1]).await.acked, [1]);

    let cases = [
        (with(TlsOptions { identity: identity.clone(), ..theirs.trusting() }), "invalid peer certificate"),
        (
            with(TlsOptions {
                identity: identity.clone(),
                server_name: Some("other.example".to_owned()),
                ..ours.trusting()
            }),
            "not valid for name",
        ),
        (with(TlsOptions { ca_file: Some(ours.path("ca.none")), ..TlsOptions::default() }), "read "),
    ];
    for (options, words) in cases {
        let mut driver = Driver::new(options);
        let Err(End::Down(cause)) = driver.connect(0).await else { panic!("{words}: let in") };
        assert!(cause.contains(words), "{words}: {cause}");
    }
    // TLS 1.3: that no certificate was shown is found out with the first request.
    for identity in [None, Some(theirs.files("plant-7", &["plant-7"]))] {
        let mut driver = Driver::new(with(TlsOptions { identity, ..ours.trusting() }));
        let end = match driver.connect(0).await {
            Ok(_) => driver.send([2]).await.end.unwrap(),
            Err(end) => end,
        };
        assert!(matches!(end, End::Down(_)), "{end:?}");
    }
    for (life, words) in [(Life::Ended, "expired"), (Life::NotYet, "not valid yet")] {
        server.show(ours.acceptor("localhost", life, false, &[])).await;
        let mut driver = Driver::new(good.clone());
        let Err(End::Down(cause)) = driver.connect(0).await else { panic!("{life:?}: let in") };
        assert!(cause.contains(words), "{life:?}: {cause}");
    }
    assert_eq!(server.taken().len(), 1);
}

#[tokio::test]
async fn certificates_are_checked_against_the_time_that_the_node_believes_in() {
    let authority = Authority::new();
    let server =
        StandIn::start_with(Some(authority.acceptor("localhost", Life::Now, false, &[])), |_| Act::Take)
            .await;
    let at = |ms: u64| {
        let time: eventmesh_edge_uplink_http::CertificateTime = Arc::new(move || Timestamp(ms));
        Options { tls: authority.trusting(), certificate_time: Some(time), ..options(&[server.url("/")]) }
    };
    let mut driver = Driver::new(at(1_000));
    let Err(End::Down(cause)) = driver.connect(0).await else { panic!("1970 is before 2020") };
    assert!(cause.contains("not valid yet"), "{cause}");
    let mut driver = Driver::new(at(1_790_000_000_000));
    driver.connect(0).await.unwrap();
}
