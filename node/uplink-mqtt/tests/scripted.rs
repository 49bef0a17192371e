//! The uplink against a scripted peer: a TCP listener that says exactly what the test wants, right or wrong. What a real broker does is in
//! `mosquitto.rs`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod common;

use bytes::{Buf as _, BytesMut};
use common::{Certificates, Driver, PATIENCE, acked, local, options};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, LogId, Qos, Timestamp};
use eventmesh_edge_core::ports::store::Class;
use eventmesh_edge_core::ports::uplink::{Uplink, UplinkEvent};
use eventmesh_edge_core::telemetry::Testament;
use eventmesh_edge_core::topic::TopicFilter;
use eventmesh_edge_uplink_mqtt::{CertificateTime, Options, Subscription, TlsOptions};
use eventmesh_edge_uplink_testing::events::{event, outgoing_of};
use eventmesh_edge_uplink_testing::{Authority, Life};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Connect, ConnectReturnCode, Disconnect, DisconnectReasonCode, LastWill, Packet, PingResp,
    PubAck, PubAckReason, PubRel, Publish, SubAck, SubscribeReasonCode,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

struct Peer {
    listener: TcpListener,
}

/// One connection, as the peer sees it.
struct Conn {
    stream: TcpStream,
    buf: BytesMut,
}

impl Peer {
    async fn bind() -> Peer {
        Peer { listener: TcpListener::bind(("127.0.0.1", 0)).await.unwrap() }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Takes a connection and reads its CONNECT.
    async fn accept(&self) -> (Conn, Connect) {
        let (conn, connect, _) = self.accept_with_will().await;
        (conn, connect)
    }

    async fn accept_with_will(&self) -> (Conn, Connect, Option<LastWill>) {
        let (stream, _) = self.listener.accept().await.unwrap();
        let mut conn = Conn { stream, buf: BytesMut::new() };
        match conn.read().await {
            Some(Packet::Connect(connect, will, _)) => (conn, connect, will),
            other => panic!("{other:?}"),
        }
    }

    /// Takes a connection and lets it in.
    async fn welcome(&self, session_present: bool) -> Conn {
        let (mut conn, _) = self.accept().await;
        conn.write(&[connack(ConnectReturnCode::Success, session_present)]).await;
        conn
    }
}

impl Conn {
    /// The next packet; `None` at the end of the connection.
    async fn read(&mut self) -> Option<Packet> {
        loop {
            // rumqttc writes a DISCONNECT without a reason, but does not read it.
            if self.buf.starts_with(&[0xe0, 0x00]) {
                self.buf.advance(2);
                return Some(Packet::Disconnect(Disconnect::new(DisconnectReasonCode::NormalDisconnection)));
            }
            if !self.buf.is_empty()
                && let Ok(packet) = Packet::read(&mut self.buf, None)
            {
                return Some(packet);
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.buf)).await;
            if read.expect("the uplink sends nothing").unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn publishes(&mut self, n: usize) -> Vec<Publish> {
        let mut all = Vec::new();
        while all.len() < n {
            match self.read().await {
                Some(Packet::Publish(p)) => all.push(p),
                other => panic!("{other:?}"),
            }
        }
        all
    }

    async fn write(&mut self, packets: &[Packet]) {
        let mut out = BytesMut::new();
        for packet in packets {
            packet.write(&mut out, None).unwrap();
        }
        self.stream.write_all(&out).await.unwrap();
    }

    /// Ends the connection with RST, so that what was not read is an error at the other side.
    fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }
}

fn connack(code: ConnectReturnCode, session_present: bool) -> Packet {
    Packet::ConnAck(ConnAck { session_present, code, properties: None })
}

fn puback(id: u16) -> Packet {
    Packet::PubAck(PubAck::new(id, None))
}

fn commands(port: u16) -> Options {
    Options {
        subscriptions: vec![Subscription::new(TopicFilter::parse("commands/#").unwrap())],
        ..options(port)
    }
}

fn command(id: u16, qos: QoS) -> Publish {
    Publish { pkid: id, ..Publish::new("commands/valve", qos, &b"open"[..], None) }
}

/// A way of half a megabyte a second with little room in it.
async fn slow_reader() -> Peer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1_024).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    Peer { listener: socket.listen(1).unwrap() }
}

/// Reads a little at a time until the packets are there, and answers nothing meanwhile.
async fn read_slowly(conn: &mut Conn) -> Packet {
    loop {
        if let Ok(packet) = Packet::read(&mut conn.buf, None) {
            return packet;
        }
        let mut some = [0; 16 * 1_024];
        let n = conn.stream.read(&mut some).await.unwrap();
        assert!(n > 0, "the uplink has given up");
        conn.buf.extend_from_slice(&some[..n]);
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

#[tokio::test]
async fn an_event_that_takes_longer_than_the_keep_alive_to_leave_arrives_over_one_connection() {
    let peer = slow_reader().await;
    let mut driver = Driver::new(Options { keep_alive: Duration::from_secs(1), ..options(peer.port()) });
    let (_, mut conn) = tokio::join!(driver.up(), peer.welcome(false));
    let large = Event { payload: vec![b'x'; 1_600_000].into(), ..event(1) };
    driver.uplink.send(outgoing_of(1, large));
    let server = async {
        loop {
            match read_slowly(&mut conn).await {
                Packet::Publish(publish) => conn.write(&[puback(publish.pkid)]).await,
                // Stood behind the event all the time.
                Packet::PingReq(_) => return,
                other => panic!("{other:?}"),
            }
        }
    };
    let client = driver.until(|events| !acked(events).is_empty());
    let (events, ()) = tokio::join!(client, server);
    assert_eq!(acked(&events), [1]);
    let leaving = events.iter().filter(|e| matches!(e, UplinkEvent::Leaving)).count();
    assert!(leaving >= 1 && leaving + 1 == events.len(), "{leaving} of {}", events.len());
}

#[tokio::test]
async fn events_are_acknowledged_in_the_order_of_their_pubacks() {
    let peer = Peer::bind().await;
    let mut driver = Driver::new(options(peer.port()));
    let (_, mut conn) = tokio::join!(driver.up(), peer.welcome(false));
    driver.send(1..=1_000);
    let script = async {
        let ids: Vec<_> = conn.publishes(1_000).await.iter().map(|p| p.pkid).collect();
        // Nobody waits under 60,000; and the answers come in pieces that end within a packet.
        let mut out = BytesMut::new();
        for id in [60_000].into_iter().chain(ids) {
            puback(id).write(&mut out, None).unwrap();
        }
        for piece in out.chunks(7) {
            conn.stream.write_all(piece).await.unwrap();
        }
    };
    let (events, ()) = tokio::join!(driver.until(|e| acked(e).len() == 1_000), script);
    assert_eq!(acked(&events), (1..=1_000).collect::<Vec<_>>());
    assert_eq!(driver.uplink.counters().read().unknown_acks, 1);
}

#[tokio::test]
async fn a_reset_in_mid_window_leaves_the_rest_unanswered_and_nothing_is_replayed() {
    // Whatever the server says about its session: absent, kept, or claimed and not kept.
    for session_present in [false, true] {
        let peer = Peer::bind().await;
        let mut driver = Driver::new(commands(peer.port()));
        let (_, mut conn) = tokio::join!(driver.up(), peer.welcome(false));
        driver.send(1..=100);
        let script = async {
            assert!(matches!(conn.read().await, Some(Packet::Subscribe(_))));
            let ids: Vec<_> = conn.publishes(100).await.iter().map(|p| p.pkid).collect();
            let acks: Vec<_> = ids[..40].iter().copied().map(puback).collect();
            conn.write(&acks).await;
            // Read what is still on its way before the connection goes, or the acknowledgements may go with it.
            conn
        };
        let (events, conn) = tokio::join!(driver.until(|e| acked(e).len() == 40), script);
        assert_eq!(acked(&events), (1..=40).collect::<Vec<_>>());
        conn.reset();
        let (cause, more) = driver.down().await;
        assert!(cause.starts_with(&local(peer.port()).to_string()), "{cause}");
        assert!(more.is_empty());
        driver.send([41]); // handed over while down: as unanswered as the rest

        let (_, mut conn) = tokio::join!(driver.up(), peer.welcome(session_present));
        driver.send([41, 42]);
        let script = async {
            assert!(matches!(conn.read().await, Some(Packet::Subscribe(_))));
            let sent = conn.publishes(2).await;
            assert!(sent.iter().all(|p| !p.dup));
            let payloads: Vec<_> = sent.iter().map(|p| p.payload.clone()).collect();
            assert_eq!(
                payloads,
                ["{\"n\":41}", "{\"n\":42}"],
                "first what the forwarder sends, nothing of the adapter's own"
            );
            // Late answers of the first connection must not meet the events of the second.
            conn.write(&[puback(90), puback(sent[1].pkid), puback(91), puback(sent[0].pkid)]).await;
            conn
        };
        let (events, _conn) = tokio::join!(driver.until(|e| acked(e).len() == 2), script);
        assert_eq!(acked(&events), [42, 41]);
        assert_eq!(driver.uplink.counters().read().unknown_acks, 2);
    }
}

#[tokio::test]
async fn what_the_server_refuses_is_failed_with_its_class() {
    let peer = Peer::bind().await;
    let mut driver = Driver::new(options(peer.port()));
    let (_, mut conn) = tokio::join!(driver.up(), peer.welcome(false));
    driver.send(1..=3);
    let script = async {
        let sent = conn.publishes(3).await;
        let reasons = [
            PubAckReason::QuotaExceeded,
            PubAckReason::PayloadFormatInvalid,
            PubAckReason::NoMatchingSubscribers,
        ];
        let acks: Vec<_> = sent
            .iter()
            .zip(reasons)
            .map(|(p, reason)| Packet::PubAck(PubAck { pkid: p.pkid, reason, properties: None }))
            .collect();
        conn.write(&acks).await;
        conn
    };
    let (events, _conn) = tokio::join!(driver.until(|e| e.len() == 3), script);
    assert!(
        matches!(&events[0], UplinkEvent::Failed { class: Class::Retry, reason, .. } if &**reason == "0x97 quota exceeded")
    );
    assert!(matches!(&events[1], UplinkEvent::Failed { class: Class::Reject, .. }));
    assert!(matches!(&events[2], UplinkEvent::Acked { .. }));
}

#[tokio::test]
async fn why_there_is_no_connection_is_said_in_words() {
    let short = Duration::from_millis(300);

    // Nobody listens.
    let peer = Peer::bind().await;
    let port = peer.port();
    drop(peer);
    let cause = Driver::new(options(port)).connect(0, PATIENCE).await.unwrap_err();
    assert!(cause.contains("connect: ") && cause.contains("refused"), "{cause}");

    // No such name (RFC 6761 section 6.4).
    let mut other = options(port);
    other.addresses[0].host = "no-such-hub.invalid".to_owned();
    let cause = Driver::new(other).connect(0, PATIENCE).await.unwrap_err();
    assert!(cause.contains("resolve no-such-hub.invalid"), "{cause}");

    // Takes the connection and says nothing.
    let peer = Peer::bind().await;
    let cause = Driver::new(options(peer.port())).connect(0, short).await.unwrap_err();
    assert!(cause.contains("no connection within 300ms"), "{cause}");

    // Says no, says goodbye, says nonsense, speaks MQTT 3.
    let cases = [
        (b"\x20\x03\x00\x86\x00".to_vec(), "refused the connection: bad user name or password"),
        (b"\x20\x03\x00\x87\x00".to_vec(), "refused the connection: not authorized"),
        (b"\x20\x02\x00\x01".to_vec(), "does not speak MQTT 5"),
        (Vec::new(), "closed the connection instead of answering"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "is it an MQTT port"),
        (b"\xd0\x00".to_vec(), "something else (byte 0xd0)"),
        (b"\x20\x03\x00\x42\x00".to_vec(), "malformed packet"),
        (b"\x20\xff\xff\xff\x7f".to_vec(), "more than the 524288 it was told"),
    ];
    for (answer, words) in cases {
        let peer = Peer::bind().await;
        let mut driver = Driver::new(options(peer.port()));
        let script = async {
            let (mut conn, connect) = peer.accept().await;
            assert_eq!(connect.client_id, "plant-7-uplink");
            conn.stream.write_all(&answer).await.unwrap();
            // Until the uplink has gone.
            if answer.is_empty() { None } else { conn.read().await }
        };
        let (cause, _) = tokio::join!(driver.connect(0, PATIENCE), script);
        let cause = cause.unwrap_err();
        assert!(cause.contains(words), "{cause}");
    }
}

#[tokio::test]
async fn a_server_that_falls_silent_is_noticed() {
    let peer = Peer::bind().await;
    let mut driver = Driver::new(Options { keep_alive: Duration::from_secs(1), ..options(peer.port()) });
    let (_, mut conn) = tokio::join!(driver.up(), peer.welcome(false));
    driver.send([1]);
    let script = async {
        conn.publishes(1).await;
        assert_eq!(conn.read().await, Some(Packet::PingReq(rumqttc::v5::mqttbytes::v5::PingReq)));
        conn.write(&[Packet::PingResp(PingResp)]).await;
        // Answered once; from the next one on it is silent, with the connection open.
        assert_eq!(conn.read().await, Some(Packet::PingReq(rumqttc::v5::mqttbytes::v5::PingReq)));
        conn
    };
    let ((cause, acked), _conn) = tokio::join!(driver.down(), script);
    assert!(cause.contains("did not answer PINGREQ"), "{cause}");
    assert!(acked.is_empty());
}

#[tokio::test]
async fn a_server_that_does_not_read_is_noticed_too() {
    let peer = Peer::bind().await;
    let mut driver = Driver::new(Options { keep_alive: Duration::from_secs(1), ..options(peer.port()) });
    let (_, conn) = tokio::join!(driver.up(), peer.welcome(false));
    driver.send(1..=4_000);
    let (cause, acked) = driver.down().await;
    assert!(cause.contains("took no byte of what waits"), "{cause}");
    assert!(acked.is_empty());
    drop(conn);
}

#[tokio::test]
async fn the_next_address_is_the_next_server() {
    let (a, b) = (Peer::bind().await, Peer::bind().await);
    let both = Options { addresses: vec![local(a.port()), local(b.port())], ..options(0) };
    let mut driver = Driver::new(both);
    assert_eq!(driver.uplink.addresses(), 2);
    driver.uplink.connect(3, PATIENCE);
    let (events, _conn) = tokio::join!(driver.until(|e| !e.is_empty()), b.welcome(false));
    assert!(
        matches!(&events[0], UplinkEvent::Up { address, window: 4_096 } if **address == local(b.port()).to_string())
    );
}

#[tokio::test]
async fn a_command_is_answered_when_it_is_durable_and_comes_again_if_it_was_not() {
    let peer = Peer::bind().await;
    let mut driver = Driver::new(commands(peer.port()));
    let script = async {
        let (mut conn, connect) = peer.accept().await;
        assert!(!connect.clean_start, "commands wait for us");
        // Right behind the CONNACK, in one piece with it, as a server with a session does.
        conn.write(&[
            connack(ConnectReturnCode::Success, true),
            Packet::Publish(command(5, QoS::AtLeastOnce)),
        ])
        .await;
        conn
    };
    let (window, mut conn) = tokio::join!(driver.up(), script);
    assert_eq!(window, 4_096);
    let message = driver.downward().await;
    assert!(
        matches!(conn.read().await, Some(Packet::Subscribe(s)) if s.filters[0].path == "commands/#" && s.filters[0].nolocal)
    );
    assert_eq!(
        (&*message.topic, &message.payload[..], message.qos),
        ("commands/valve", &b"open"[..], Qos::AtLeastOnce)
    );

    // The connection ends before it is durable: the token answers nothing on the next one.
    conn.reset();
    driver.down().await;
    let (_, mut conn) = tokio::join!(driver.up(), peer.welcome(true));
    driver.uplink.confirm(message.token);
    let script = async {
        assert!(matches!(conn.read().await, Some(Packet::Subscribe(_))));
        conn.write(&[Packet::Publish(Publish { dup: true, ..command(5, QoS::AtLeastOnce) })]).await;
    };
    let (message, ()) = tokio::join!(driver.downward(), script);
    driver.uplink.confirm(message.token);
    let script = async {
        assert!(matches!(conn.read().await, Some(Packet::PubAck(a)) if a.pkid == 5));
        conn.write(&[Packet::Publish(command(6, QoS::ExactlyOnce))]).await;
    };
    let (message, ()) = tokio::join!(driver.downward(), script);
    driver.uplink.confirm(message.token);
    let script = async {
        assert!(matches!(conn.read().await, Some(Packet::PubRec(a)) if a.pkid == 6));
        conn.write(&[Packet::PubRel(PubRel::new(6, None)), Packet::Publish(command(7, QoS::AtMostOnce))])
            .await;
        assert!(matches!(conn.read().await, Some(Packet::PubComp(a)) if a.pkid == 6));
    };
    let drive = async {
        let message = driver.downward().await;
        assert_eq!(message.token, 0);
        // Goodbye in order.
        driver.uplink.close(PATIENCE).await;
    };
    tokio::join!(drive, script);
    assert!(matches!(conn.read().await, Some(Packet::Disconnect(_))));
    assert!(conn.read().await.is_none());
}

#[tokio::test]
async fn a_qos_2_command_taken_over_before_a_reset_is_not_delivered_again() {
    let peer = Peer::bind().await;
    let mut driver = Driver::new(commands(peer.port()));
    let (_, mut conn) = tokio::join!(driver.up(), peer.welcome(false));
    conn.write(&[Packet::Publish(command(6, QoS::ExactlyOnce))]).await;
    let message = driver.downward().await;
    driver.uplink.confirm(message.token);
    let script = async {
        assert!(matches!(conn.read().await, Some(Packet::Subscribe(_))));
        assert!(matches!(conn.read().await, Some(Packet::PubRec(a)) if a.pkid == 6));
        conn.reset();
    };
    tokio::join!(driver.down(), script);

    // The server has not seen the PUBREC: it sends again [MQTT-4.4.0-1], with a new message behind it.
    let (_, mut conn) = tokio::join!(driver.up(), peer.welcome(true));
    let again = Publish { dup: true, ..command(6, QoS::ExactlyOnce) };
    conn.write(&[Packet::Publish(again), Packet::Publish(command(7, QoS::ExactlyOnce))]).await;
    let message = driver.downward().await;
    assert_eq!(message.token & 0xffff, 7);
    assert_eq!(driver.uplink.counters().read().duplicates_dropped, 1);
    let script = async {
        assert!(matches!(conn.read().await, Some(Packet::Subscribe(_))));
        assert!(matches!(conn.read().await, Some(Packet::PubRec(a)) if a.pkid == 6));
        conn.reset();
    };
    tokio::join!(driver.down(), script);
}

#[tokio::test]
async fn a_refused_subscription_is_counted() {
    let peer = Peer::bind().await;
    let mut driver = Driver::new(commands(peer.port()));
    let (_, mut conn) = tokio::join!(driver.up(), peer.welcome(false));
    let script = async {
        let Some(Packet::Subscribe(s)) = conn.read().await else { panic!() };
        let ack =
            SubAck { pkid: s.pkid, return_codes: vec![SubscribeReasonCode::NotAuthorized], properties: None };
        conn.write(&[Packet::SubAck(ack), Packet::Publish(command(1, QoS::AtMostOnce))]).await;
    };
    tokio::join!(driver.downward(), script);
    assert_eq!(driver.uplink.counters().read().subscriptions_refused, 1);
}

#[tokio::test]
async fn tls_files_that_are_missing_or_wrong_are_named() {
    let certificates = Certificates::make();
    let peer = Peer::bind().await;
    for (tls, words) in [
        (
            {
                let mut t = certificates.trusting();
                t.ca_file = Some("/nowhere/ca.pem".into());
                t
            },
            "read /nowhere/ca.pem",
        ),
        (
            {
                let mut t = certificates.trusting();
                t.ca_file = Some(certificates.path("client.key"));
                t
            },
            "holds no certificate",
        ),
        (
            {
                let mut t = certificates.trusting();
                t.server_name = Some("not a name".to_owned());
                t
            },
            "set the server name",
        ),
        (
            {
                let mut t = certificates.identified();
                t.identity.as_mut().unwrap().key = certificates.path("ca.pem");
                t
            },
            "ca.pem",
        ),
    ] {
        let mut driver = Driver::new(Options { tls: Some(tls), ..options(peer.port()) });
        let cause = driver.connect(0, PATIENCE).await.unwrap_err();
        assert!(cause.contains(words), "{cause}");
    }
}

#[tokio::test]
async fn each_connection_leaves_the_death_event_as_its_will() {
    let peer = Peer::bind().await;
    let template = Options { topic: "fleet/{topic}".to_owned(), ..mortal(peer.port()) };
    let mut driver = Driver::new(template);
    for connection in 1..=2 {
        driver.uplink.connect(0, PATIENCE);
        let accepting = async {
            let (mut conn, _, will) = peer.accept_with_will().await;
            conn.write(&[connack(ConnectReturnCode::Success, false)]).await;
            (conn, will.unwrap())
        };
        let ((conn, will), _) =
            tokio::join!(accepting, driver.until(|events| matches!(events, [UplinkEvent::Up { .. }])));
        assert_eq!(
            (&will.topic[..], will.qos, will.retain),
            (&b"fleet/edge/plant-7/state"[..], QoS::AtLeastOnce, true)
        );
        let properties = will.properties.unwrap();
        let user = |name: &str| {
            properties.user_properties.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
        };
        assert_eq!(properties.content_type.as_deref(), Some("application/json"));
        assert_eq!(user("type"), Some("io.eventmesh.edge.node.death"));
        assert_eq!(user("id"), Some(format!("00000007.3-death-cloud-{connection}").as_str()));
        assert_eq!((user("source"), user("edgevia")), (Some("edge://plant-7"), Some("plant-7")));
        conn.reset();
        driver.until(|events| matches!(events, [UplinkEvent::Down { .. }])).await;
    }
}

#[tokio::test]
async fn a_server_that_wants_no_will_gets_a_connection_without() {
    let peer = Peer::bind().await;
    let mut driver = Driver::new(mortal(peer.port()));
    // Refused without a will, too: then it was about something else, and the next connection has one again.
    let script = [
        (true, ConnectReturnCode::RetainNotSupported),
        (false, ConnectReturnCode::NotAuthorized),
        (true, ConnectReturnCode::NotAuthorized),
        (false, ConnectReturnCode::Success),
    ];
    for (with_will, code) in script {
        driver.uplink.connect(0, PATIENCE);
        let accepting = async {
            let (mut conn, _, will) = peer.accept_with_will().await;
            conn.write(&[connack(code, false)]).await;
            (conn, will.is_some())
        };
        let ((_conn, had_will), events) = tokio::join!(accepting, driver.until(|events| !events.is_empty()));
        assert_eq!(had_will, with_will, "{code:?}");
        assert_eq!(matches!(events[0], UplinkEvent::Up { .. }), code == ConnectReturnCode::Success);
    }
}

fn mortal(port: u16) -> Options {
    let testament =
        Testament::new("plant-7", LogId(7), 3, Text::from_static("cloud"), Duration::from_secs(60));
    Options { testament: Some(testament), ..options(port) }
}

/// A gateway without a battery starts in 1970, where no certificate is valid yet: they are checked against what the node has
/// seen before.
#[tokio::test]
async fn certificates_are_checked_against_the_time_that_the_node_believes_in() {
    let authority = Authority::new();
    let acceptor = authority.acceptor("localhost", Life::Now, false, &[]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            // Ends with the handshake: what is asked here is whether there is one.
            drop(acceptor.accept(tcp).await);
        }
    });
    let tls = TlsOptions { server_name: Some("localhost".to_owned()), ..authority.trusting() };
    let at = |ms: u64| {
        let time: CertificateTime = Arc::new(move || Timestamp(ms));
        Options { tls: Some(tls.clone()), certificate_time: Some(time), ..options(port) }
    };
    let cause = Driver::new(at(1_000)).connect(0, PATIENCE).await.unwrap_err();
    assert!(cause.contains("not valid yet"), "{cause}");
    let cause = Driver::new(at(1_790_000_000_000)).connect(0, PATIENCE).await.unwrap_err();
    assert!(!cause.contains("certificate"), "let in, and then the server is gone: {cause}");
}
