//! The uplink against rumqttd, in both content modes: everything is acknowledged and everything arrives.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, LogId, Position, Qos, Sequence, StoredEvent, Timestamp, Via};
use eventmesh_edge_core::mapping::mqtt_source;
use eventmesh_edge_core::ports::store::StreamId;
use eventmesh_edge_core::ports::uplink::{Outgoing, Uplink, UplinkEvent};
use eventmesh_edge_core::topic::TopicFilter;
use eventmesh_edge_hub::{Hub, Message, Options};
use eventmesh_edge_uplink_mqtt::{Address, Mode, MqttUplink, Options as UplinkOptions, Subscription};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);
const EVENTS: u64 = 5_000;

fn outgoing(position: u64) -> Outgoing {
    let event = Event {
        via: Via::Mqtt3,
        qos: Qos::AtLeastOnce,
        retain: false,
        source: mqtt_source("plant-7", "sensor-12"),
        id: None,
        time: None,
        received: Timestamp(1_790_000_000_000),
        expires: None,
        topic: Text::from_static("plant/7/temp"),
        payload: Bytes::from(format!("{{\"n\":{position}}}")),
        properties: None,
    };
    let sequence = Sequence { source: position, stream: position };
    let stored =
        StoredEvent { position: Position(position), log: LogId(7), sequence, event, stored_bytes: 0 };
    Outgoing { stream: StreamId(0), event: Arc::new(stored), kind: Text::from_static("t"), again: false }
}

/// Sends all, as the window allows; the positions in the order they were acknowledged.
async fn deliver(uplink: &mut MqttUplink) -> Vec<u64> {
    let mut events = Vec::new();
    uplink.connect(0, PATIENCE);
    uplink.next(&mut events).await;
    let Some(UplinkEvent::Up { window, .. }) = events.first() else { panic!("{events:?}") };
    let window = *window as u64;
    let (mut sent, mut acked) = (0, Vec::new());
    while (acked.len() as u64) < EVENTS {
        while sent < EVENTS && sent - (acked.len() as u64) < window {
            sent += 1;
            uplink.send(outgoing(sent));
        }
        uplink.flush();
        events.clear();
        tokio::time::timeout(PATIENCE, uplink.next(&mut events)).await.unwrap();
        acked.extend(events.drain(..).map(|event| match event {
            UplinkEvent::Acked { position, .. } => position.0,
            other => panic!("{other:?}"),
        }));
    }
    acked
}

fn arrived(hub: &mut Hub) -> Vec<Message> {
    let until = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    while (all.len() as u64) < EVENTS {
        all.push(hub.next(until).unwrap().unwrap_or_else(|| panic!("{} of {EVENTS}", all.len())));
    }
    all
}

#[tokio::test]
async fn everything_is_acknowledged_and_arrives_in_order_in_both_modes() {
    for mode in [Mode::Binary, Mode::Structured] {
        let mut hub = Hub::start(&Options::default()).unwrap();
        let address = Address { host: "127.0.0.1".to_owned(), port: hub.address().port() };
        let mut uplink =
            MqttUplink::new(UplinkOptions { mode, ..UplinkOptions::new("plant-7", vec![address]) }).unwrap();
        let acked = deliver(&mut uplink).await;
        assert_eq!(acked, (1..=EVENTS).collect::<Vec<_>>());
        let messages = arrived(&mut hub);
        for (message, n) in messages.iter().zip(1..) {
            let expected = format!("mqtt://plant-7/sensor-12 00000007.0-{n} {n:020} {n} plant/7/temp");
            assert_eq!(message.audit_line(), expected);
        }
        uplink.close(PATIENCE).await;
    }
}

#[tokio::test]
async fn a_command_of_the_hub_comes_down() {
    let mut hub = Hub::start(&Options::default()).unwrap();
    let address = Address { host: "127.0.0.1".to_owned(), port: hub.address().port() };
    let subscriptions = vec![Subscription::new(TopicFilter::parse("commands/#").unwrap())];
    let options = UplinkOptions { subscriptions, ..UplinkOptions::new("plant-7", vec![address]) };
    let mut uplink = MqttUplink::new(options).unwrap();
    let mut events = Vec::new();
    uplink.connect(0, PATIENCE);
    uplink.next(&mut events).await;
    // Answered behind the SUBSCRIBE in front of it, so the subscription is there.
    uplink.send(outgoing(1));
    uplink.next(&mut events).await;
    assert!(matches!(&events[..], [UplinkEvent::Up { .. }, UplinkEvent::Acked { .. }]), "{events:?}");
    hub.publish("commands/valve", Bytes::from_static(b"open")).unwrap();
    events.clear();
    tokio::time::timeout(PATIENCE, uplink.next(&mut events)).await.unwrap();
    assert!(
        matches!(&events[..], [UplinkEvent::Downward(m)] if &*m.topic == "commands/valve" && &m.payload[..] == b"open"),
        "{events:?}"
    );
}
