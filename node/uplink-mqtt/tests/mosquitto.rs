//! The uplink against mosquitto, a broker that others wrote. Without `mosquitto` on the PATH each test says so and passes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod common;

use common::{Certificates, Driver, PATIENCE, acked, options};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{LogId, Qos};
use eventmesh_edge_core::ports::store::Class;
use eventmesh_edge_core::ports::uplink::{Uplink, UplinkEvent};
use eventmesh_edge_core::telemetry::Testament;
use eventmesh_edge_core::topic::TopicFilter;
use eventmesh_edge_uplink_mqtt::{Credentials, Options, Secret, Subscription};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use std::process::{Child, Command, Stdio};
use tokio::net::TcpStream;

/// A mosquitto of this test, on a port of its own; killed at the end.
struct Mosquitto {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Mosquitto {
    /// `None`, loudly, if there is no mosquitto on this machine.
    async fn start(extra: &str) -> Option<Mosquitto> {
        let dir = tempfile::tempdir().unwrap();
        // mosquitto cannot report a port that it chose: take a free one and let go of it.
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let config = dir.path().join("mosquitto.conf");
        std::fs::write(&config, format!("listener {port} 127.0.0.1\n{extra}\nmax_inflight_messages 100\n"))
            .unwrap();
        let spawned = Command::new("mosquitto")
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = spawned else {
            eprintln!("SKIPPED: mosquitto is not installed (Debian package: mosquitto)");
            return None;
        };
        let mut broker = Mosquitto { child, port, dir };
        broker.wait_until_it_listens().await;
        Some(broker)
    }

    async fn open() -> Option<Mosquitto> {
        Mosquitto::start("allow_anonymous true").await
    }

    async fn wait_until_it_listens(&mut self) {
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "mosquitto ended: {}",
                self.dir.path().display()
            );
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Another client of the broker, subscribed to a filter.
async fn subscriber(port: u16, filter: &str) -> (AsyncClient, EventLoop) {
    subscriber_named("subscriber", port, filter).await
}

async fn subscriber_named(name: &str, port: u16, filter: &str) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(name, "127.0.0.1", port);
    options.set_max_packet_size(Some(1_000_000));
    let (client, mut events) = AsyncClient::new(options, 100);
    client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
    while !matches!(events.poll().await.unwrap(), Event::Incoming(Packet::SubAck(_))) {}
    (client, events)
}

async fn received(events: &mut EventLoop, n: usize) -> Vec<Publish> {
    let mut all = Vec::new();
    while all.len() < n {
        let event = tokio::time::timeout(PATIENCE, events.poll()).await.unwrap().unwrap();
        if let Event::Incoming(Packet::Publish(p)) = event {
            all.push(p);
        }
    }
    all
}

fn attribute<'a>(publish: &'a Publish, name: &str) -> &'a str {
    let user = &publish.properties.as_ref().unwrap().user_properties;
    user.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).unwrap()
}

#[tokio::test]
async fn events_arrive_as_cloudevents_and_are_acknowledged() {
    let Some(broker) = Mosquitto::open().await else { return };
    let (_client, mut events) = subscriber(broker.port, "edge/#").await;
    let mut driver = Driver::new(Options { topic: "edge/{topic}".to_owned(), ..options(broker.port) });
    let window = driver.up().await;
    assert_eq!(window, 100, "mosquitto's receive maximum is its max_inflight_messages");
    let (got, all) = tokio::join!(driver.deliver(window, 1..=2_000), received(&mut events, 1_000));
    assert_eq!(got, (1..=2_000).collect::<Vec<_>>());
    // mosquitto may drop at its own queue limit what a slow subscriber does not take (max_queued_messages 1000): order, no more.
    let first = &all[0];
    assert_eq!((&first.topic[..], &first.payload[..]), (&b"edge/plant/7/temp"[..], &b"{\"n\":1}"[..]));
    for (name, value) in [
        ("specversion", "1.0"),
        ("id", "00000007.0-1"),
        ("source", "mqtt://plant-7/sensor-12"),
        ("type", "com.example.t.v1"),
        ("subject", "plant/7/temp"),
        ("sequence", "00000000000000000001"),
    ] {
        assert_eq!(attribute(first, name), value);
    }
    assert_eq!(first.properties.as_ref().unwrap().content_type.as_deref(), Some("application/json"));
    assert!(all.windows(2).all(|w| attribute(&w[0], "sequence") < attribute(&w[1], "sequence")));
}

#[tokio::test]
async fn commands_wait_at_the_broker_while_we_are_away_and_come_until_they_are_confirmed() {
    let Some(broker) = Mosquitto::open().await else { return };
    let with = Options {
        subscriptions: vec![Subscription {
            qos: Qos::ExactlyOnce,
            strip_prefix: "down/".to_owned(),
            ..Subscription::new(TopicFilter::parse("down/#").unwrap())
        }],
        ..options(broker.port)
    };
    let mut driver = Driver::new(with);
    driver.up().await;
    // The subscription is granted before anything else is: an acknowledged event proves it.
    driver.send([1]);
    driver.until(|e| acked(e) == [1]).await;
    driver.uplink.close(PATIENCE).await;

    let (client, mut events) = subscriber(broker.port, "none").await;
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        client.publish("down/valve/1", qos, false, "open").await.unwrap();
        let taken = |e: &Event| matches!(e, Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_)));
        while !taken(&events.poll().await.unwrap()) {}
    }

    let two = |e: &[UplinkEvent]| e.iter().filter(|e| matches!(e, UplinkEvent::Downward(_))).count() == 2;
    // Twice: the first time nothing is confirmed, so both come again.
    for confirmed in [false, true] {
        driver.up().await;
        for event in driver.until(two).await {
            let UplinkEvent::Downward(message) = event else { continue };
            assert_eq!((&*message.topic, &message.payload[..]), ("valve/1", &b"open"[..]));
            if confirmed {
                driver.uplink.confirm(message.token);
            }
        }
        // What is confirmed is written before this event is, and answered before it.
        driver.send([2]);
        driver.until(|e| acked(e) == [2]).await;
        driver.uplink.close(PATIENCE).await;
    }
    driver.up().await;
    driver.send([3]);
    let events = driver.until(|e| acked(e) == [3]).await;
    assert_eq!(events.len(), 1, "confirmed commands do not come again: {events:?}");
}

#[tokio::test]
async fn our_own_events_do_not_come_back_down() {
    let Some(broker) = Mosquitto::open().await else { return };
    let all = Subscription::new(TopicFilter::parse("#").unwrap());
    let mut driver = Driver::new(Options { subscriptions: vec![all.clone()], ..options(broker.port) });
    // A second way to the same broker, with the same node behind it: No Local does not help there, the mark does.
    let other =
        Options { client_id: "second-way".to_owned(), subscriptions: vec![all], ..options(broker.port) };
    let mut second = Driver::new(other);
    for (uplink, position) in [(&mut driver, 1), (&mut second, 2)] {
        uplink.up().await;
        // Answered after the SUBSCRIBE in front of it.
        uplink.send([position]);
        uplink.until(|e| acked(e) == [position]).await;
    }
    // Each answer comes behind what the broker passed on before it, so what was to come back has come.
    for position in 3..=6 {
        let uplink = if position % 2 == 1 { &mut driver } else { &mut second };
        uplink.send([position]);
        let events = uplink.until(|e| !acked(e).is_empty()).await;
        assert_eq!((acked(&events), events.len()), (vec![position], 1), "{events:?}");
    }
    assert_eq!(driver.uplink.counters().read().loops_dropped, 2, "2 and 4");
    assert_eq!(second.uplink.counters().read().loops_dropped, 2, "3 and 5");
}

#[tokio::test]
async fn passwords_and_rights_are_respected() {
    let dir = tempfile::tempdir().unwrap();
    let (passwords, rights) = (dir.path().join("passwords"), dir.path().join("rights"));
    let made =
        Command::new("mosquitto_passwd").arg("-b").arg("-c").arg(&passwords).args(["node", "right"]).output();
    if !made.is_ok_and(|m| m.status.success()) {
        eprintln!("SKIPPED: mosquitto_passwd is not installed (Debian package: mosquitto)");
        return;
    }
    std::fs::write(&rights, "user node\ntopic write allowed/#\n").unwrap();
    make_readable(dir.path());
    let config = format!(
        "allow_anonymous false\npassword_file {}\nacl_file {}",
        passwords.display(),
        rights.display()
    );
    let Some(broker) = Mosquitto::start(&config).await else { return };
    let with = |password: &str, topic: &str| Options {
        credentials: Some(Credentials {
            username: "node".to_owned(),
            password: Some(Secret::new(password)),
            password_file: None,
        }),
        topic: topic.to_owned(),
        ..options(broker.port)
    };
    let cause = Driver::new(with("wrong", "{topic}")).connect(0, PATIENCE).await.unwrap_err();
    assert!(cause.contains("refused the connection: not authorized") && !cause.contains("wrong"), "{cause}");

    let mut driver = Driver::new(with("right", "allowed/{topic}"));
    driver.up().await;
    driver.send([1]);
    driver.until(|e| acked(e) == [1]).await;

    let mut driver = Driver::new(with("right", "forbidden/{topic}"));
    driver.up().await;
    driver.send([1]);
    let events = driver.until(|e| !e.is_empty()).await;
    assert!(
        matches!(&events[..], [UplinkEvent::Failed { class: Class::Retry, reason, .. }] if reason.starts_with("0x87")),
        "{events:?}"
    );
}

#[tokio::test]
async fn tls_with_and_without_a_client_certificate() {
    let certificates = Certificates::make();
    let path = |name| certificates.path(name).display().to_string();
    let config = format!(
        "allow_anonymous true\ncafile {}\ncertfile {}\nkeyfile {}\n",
        path("ca.pem"),
        path("server.pem"),
        path("server.key")
    );
    make_readable(certificates.dir());
    let Some(broker) = Mosquitto::start(&config).await else { return };
    let Some(strict) = Mosquitto::start(&format!("{config}require_certificate true\n")).await else { return };
    let with = |port, tls| Options { tls: Some(tls), ..options(port) };

    for (port, tls) in [(broker.port, certificates.trusting()), (strict.port, certificates.identified())] {
        let mut driver = Driver::new(with(port, tls));
        let window = driver.up().await;
        assert_eq!(driver.deliver(window, 1..=500).await.len(), 500);
        driver.uplink.close(PATIENCE).await;
    }
    let stranger = Certificates::make();
    let cause = Driver::new(with(broker.port, stranger.trusting())).connect(0, PATIENCE).await.unwrap_err();
    assert!(cause.contains("TLS handshake") && cause.contains("certificate"), "{cause}");
    let mut named = certificates.trusting();
    named.server_name = Some("another.example".to_owned());
    let cause = Driver::new(with(broker.port, named)).connect(0, PATIENCE).await.unwrap_err();
    assert!(cause.contains("TLS handshake") && cause.contains("name"), "{cause}");
    // TLS 1.3: the client's part is done before the server has looked at its certificate, so the refusal comes as a read error.
    let cause =
        Driver::new(with(strict.port, certificates.trusting())).connect(0, PATIENCE).await.unwrap_err();
    assert!(cause.contains("CONNACK") || cause.contains("TLS"), "{cause}");
}

/// mosquitto started by root becomes the user `mosquitto`, who must be able to read its files.
fn make_readable(dir: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn a_killed_broker_is_noticed_and_its_successor_gets_the_rest() {
    let Some(mut broker) = Mosquitto::open().await else { return };
    let mut driver = Driver::new(options(broker.port));
    driver.up().await;
    driver.send(1..=50);
    driver.until(|e| acked(e).len() == 50).await;
    broker.child.kill().unwrap();
    driver.send(51..=60);
    let (_cause, acked_then) = driver.down().await;
    assert!(acked_then.is_empty());
    let Some(next) = Mosquitto::open().await else { return };
    let mut driver = Driver::new(options(next.port));
    driver.up().await;
    driver.send(51..=60);
    driver.until(|e| acked(e) == (51..=60).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn a_node_that_dies_is_told_by_the_broker_and_one_that_says_goodbye_is_not() {
    let Some(broker) = Mosquitto::open().await else { return };
    let (_client, mut events) = subscriber(broker.port, "edge/#").await;
    let of = |node: &'static str| {
        let testament = Testament::new(node, LogId(7), 3, Text::from_static("cloud"), PATIENCE);
        Options { testament: Some(testament), client_id: node.to_owned(), ..options(broker.port) }
    };
    let (mut polite, mut killed) = (Driver::new(of("polite")), Driver::new(of("killed")));
    polite.up().await;
    killed.up().await;
    polite.uplink.close(PATIENCE).await;
    // The socket closes without a DISCONNECT.
    drop(killed);
    let told = received(&mut events, 1).await;
    assert_eq!(&told[0].topic[..], b"edge/killed/state");
    assert_eq!(attribute(&told[0], "type"), "io.eventmesh.edge.node.death");
    let data: serde_json::Value = serde_json::from_slice(&told[0].payload).unwrap();
    assert_eq!((&data["uplink"], &data["epoch"]), (&"cloud".into(), &3.into()));
    // Retained: who comes later hears it, too; of the other there is nothing.
    let (_late, mut late) = subscriber_named("late", broker.port, "edge/#").await;
    let kept = received(&mut late, 1).await;
    assert_eq!((&kept[0].topic[..], kept[0].retain), (&b"edge/killed/state"[..], true));
}
