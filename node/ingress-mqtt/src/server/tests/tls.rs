//! TLS, and the files that may change while the listener runs.

use super::*;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

struct Files {
    dir: tempfile::TempDir,
    cert: rcgen::Certificate,
}

impl Files {
    fn new() -> Files {
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(dir.path().join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        Files { dir, cert: made.cert }
    }

    fn options(&self) -> TlsOptions {
        TlsOptions {
            cert: self.dir.path().join("cert.pem"),
            key: self.dir.path().join("key.pem"),
            client_ca: None,
        }
    }

    fn connector(&self) -> tokio_rustls::TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.cert.der().clone()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tokio_rustls::TlsConnector::from(Arc::new(config))
    }
}

#[tokio::test]
async fn tls_carries_the_same_protocol() {
    let files = Files::new();
    let server = Server::new(|options| options.tls = Some(files.options()));
    let stream = TcpStream::connect(server.address).await.unwrap();
    let stream = files.connector().connect("localhost".try_into().unwrap(), stream).await.unwrap();
    let mut client = Client { stream };
    client.send(&clean(V5, "c").encode()).await;
    assert_eq!(client.packet().await.unwrap().0, 0x20);
    let payload = "y".repeat(150_000);
    client.send(&wire::publish(V5, "t", 1, 7, false, &payload)).await;
    client.expect(0x40, &[0, 7, 0x10]).await;
    assert_eq!(server.hub.published()[0].payload, payload.as_bytes());
    server.stop().await;
    client.expect(0xE0, &[0x8B, 0]).await;
    client.expect_closed().await;
}

#[tokio::test]
async fn a_failed_handshake_is_counted_and_hurts_nobody() {
    let files = Files::new();
    let server = Server::new(|options| options.tls = Some(files.options()));
    let mut plain = server.open().await;
    plain.send(&clean(V3, "c").encode()).await;
    while plain.stream.read_u8().await.is_ok() {}
    assert_eq!(server.sessions.stats().snapshot().tls_failed, 1);
    let stream = TcpStream::connect(server.address).await.unwrap();
    assert!(files.connector().connect("localhost".try_into().unwrap(), stream).await.is_ok());
}

#[tokio::test]
async fn a_client_certificate_may_be_asked_for() {
    let files = Files::new();
    let options = TlsOptions { client_ca: Some(files.dir.path().join("cert.pem")), ..files.options() };
    let server = Server::new(|o| o.tls = Some(options));
    let stream = TcpStream::connect(server.address).await.unwrap();
    let connected = files.connector().connect("localhost".try_into().unwrap(), stream).await;
    // TLS 1.3 tells the client only with the first read.
    if let Ok(stream) = connected {
        let mut client = Client { stream };
        client.stream.write_all(&clean(V3, "c").encode()).await.unwrap_or(());
        client.expect_closed().await;
    }
    while server.sessions.stats().snapshot().tls_failed == 0 {
        tokio::task::yield_now().await;
    }
}

fn bind_error(options: TlsOptions) -> String {
    let hub = ScriptedHub::new();
    let clock = crate::testing::ManualClock::new();
    let sessions = Arc::new(Sessions::new(hub, clock, SessionOptions::default()));
    let mut listener = ListenerOptions::new(([127, 0, 0, 1], 0).into());
    listener.limits.anonymous = true;
    listener.tls = Some(options);
    bind(listener, sessions, None).err().expect("it does not bind").to_string()
}

#[test]
fn tls_files_are_named_with_their_problem() {
    let files = Files::new();
    let path = |name: &str| files.dir.path().join(name);
    std::fs::write(path("empty.pem"), "").unwrap();
    std::fs::write(
        path("encrypted.pem"),
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )
    .unwrap();
    let other = Files::new();
    let good = files.options();
    for (options, parts) in [
        (TlsOptions { cert: path("no.pem"), ..good.clone() }, ["read certificate", "no.pem"]),
        (TlsOptions { cert: path("empty.pem"), ..good.clone() }, ["empty.pem", "BEGIN CERTIFICATE"]),
        (TlsOptions { cert: path("key.pem"), ..good.clone() }, ["key.pem", "BEGIN CERTIFICATE"]),
        (TlsOptions { key: path("no.pem"), ..good.clone() }, ["read private key", "no.pem"]),
        (TlsOptions { key: path("cert.pem"), ..good.clone() }, ["cert.pem", "BEGIN PRIVATE KEY"]),
        (TlsOptions { key: path("encrypted.pem"), ..good.clone() }, ["encrypted.pem", "decrypt"]),
        (TlsOptions { key: other.options().key, ..good.clone() }, ["cert.pem", "key.pem"]),
        (TlsOptions { client_ca: Some(path("empty.pem")), ..good.clone() }, ["client CA", "empty.pem"]),
    ] {
        let error = bind_error(options);
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?}: {error}");
    }
}

impl Files {
    /// Renewed in place: the files, and so what clients trust, are others now.
    fn renew(&mut self) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(self.dir.path().join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(self.dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        self.cert = made.cert;
    }

    async fn connect(&self, server: &Server) -> Option<Client<impl AsyncRead + AsyncWrite + Unpin + use<>>> {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let stream = self.connector().connect("localhost".try_into().unwrap(), stream).await.ok()?;
        Some(Client { stream })
    }
}

/// A renewed certificate needs no restart; one that cannot be used changes nothing; who is connected stays connected.
#[tokio::test]
async fn a_renewed_certificate_is_taken_up_and_a_bad_one_is_not() {
    let mut files = Files::new();
    let server = Server::new(|options| options.tls = Some(files.options()));
    let mut early = files.connect(&server).await.unwrap();
    early.send(&clean(V5, "early").encode()).await;
    assert_eq!(early.packet().await.unwrap().0, 0x20);

    std::fs::write(files.options().cert, "not a certificate").unwrap();
    server.shared.refresh(true);
    assert!(files.connect(&server).await.is_some(), "the earlier one stays in use");

    let old = files.connector();
    files.renew();
    server.shared.refresh(true);
    assert!(files.connect(&server).await.is_some());
    let stream = TcpStream::connect(server.address).await.unwrap();
    assert!(
        old.connect("localhost".try_into().unwrap(), stream).await.is_err(),
        "nobody gets the earlier one"
    );
    early.send(&[0xC0, 0]).await;
    early.expect(0xD0, &[]).await;
}

/// Without anybody asking for it: the listener looks by itself.
#[tokio::test(start_paused = true)]
async fn a_renewed_certificate_is_noticed() {
    let mut files = Files::new();
    let server = Server::new(|options| options.tls = Some(files.options()));
    files.renew();
    while files.connect(&server).await.is_none() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[tokio::test]
async fn a_changed_password_file_is_taken_up_and_a_bad_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("passwords");
    let write = |lines: &[(&str, &str)]| {
        let line = |(user, word): &(&str, &str)| crate::password_line(user, word.as_bytes()).unwrap();
        std::fs::write(&path, lines.iter().map(line).collect::<Vec<_>>().join("\n")).unwrap();
    };
    write(&[("anna", "first")]);
    let passwords = crate::LivePasswords::load(&path).unwrap();
    let server = Server::with(Some(Arc::new(passwords)), |_| {});
    let code = async |user: &str, word: &str| {
        let mut client = server.open().await;
        let login = Connect { username: Some(user), password: Some(word.as_bytes()), ..clean(V5, user) };
        client.send(&login.encode()).await;
        client.packet().await.unwrap().1[1]
    };
    assert_eq!((code("anna", "first").await, code("otto", "x").await), (0, 0x86));
    std::fs::write(&path, "anna without a hash").unwrap();
    server.shared.refresh(true);
    assert_eq!(code("anna", "first").await, 0, "the earlier one stays in force");
    write(&[("anna", "second"), ("otto", "x")]);
    server.shared.refresh(true);
    assert_eq!(code("anna", "first").await, 0x86, "P7: what was remembered is forgotten");
    assert_eq!((code("anna", "second").await, code("otto", "x").await), (0, 0));
}
