//! Request and confirmation between the cloud and a device: EventMesh's stream acknowledges nothing, so the device itself says that it has done
//! what it was told, by MQTT 5 Response Topic and Correlation Data, and the cloud repeats a command until it hears that.

use eventmesh_edge_e2e::node::Node;
use eventmesh_edge_e2e::{Result, eventually};
use eventmesh_edge_standin::proto::CloudEvent;
use eventmesh_edge_standin::{StandIn, text, valve_command};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use std::net::SocketAddr;
use std::time::Duration;

/// What the cloud waits for: "abc", as the attribute carries it.
const CORRELATION: &str = "YWJj";

fn command(id: &str) -> CloudEvent {
    let attributes = [
        ("protocoltype", "cloudevents"),
        ("protocoldesc", "grpc-cloud-event"),
        ("subject", "commands"),
        ("datacontenttype", "text/plain"),
        ("edgetopic", "valve/1/set"),
        ("responsetopic", "valve/1/done"),
        ("correlationid", CORRELATION),
    ];
    valve_command(id, &attributes)
}

/// A valve: does what it is told, from its second connection on. The first one takes the command and dies with it.
async fn valve(node: SocketAddr, answers: bool) -> Result<()> {
    let mut options = MqttOptions::new("valve-1", node.ip().to_string(), node.port());
    options.set_keep_alive(Duration::from_secs(30)).set_clean_start(true);
    let (client, mut events) = AsyncClient::new(options, 16);
    client.subscribe("valve/1/set", QoS::AtLeastOnce).await?;
    loop {
        let Event::Incoming(Packet::Publish(told)) = events.poll().await? else { continue };
        if !answers {
            return Ok(());
        }
        let Publish { payload, properties: Some(asked), .. } = told else {
            return Err("no properties".into());
        };
        assert_eq!(&payload[..], b"open");
        assert_eq!(asked.correlation_data.as_deref(), Some(&b"abc"[..]));
        let topic = asked.response_topic.ok_or("no response topic")?;
        let answer =
            PublishProperties { correlation_data: asked.correlation_data, ..PublishProperties::default() };
        client.publish_with_properties(topic, QoS::AtLeastOnce, false, "{\"ok\":true}", answer).await?;
        loop {
            if let Event::Incoming(Packet::PubAck(_)) = events.poll().await? {
                return Ok(());
            }
        }
    }
}

fn stored(standin: &StandIn, is_it: impl Fn(&CloudEvent) -> bool) -> usize {
    standin.stored().iter().filter(|event| is_it(event)).count()
}

#[tokio::test]
async fn a_command_is_repeated_until_the_device_says_that_it_is_done() -> Result {
    let standin = StandIn::start();
    let config = format!(
        "[[uplink]]\nname = \"mesh\"\nkind = \"eventmesh\"\naddresses = [\"{}\"]\nsubscribe = [\"commands\"]\n",
        standin.addr()
    );
    let node = Node::start(&config).await?;
    let receipts = |s: &StandIn| stored(s, |e| text(e, "commandid").is_some_and(|id| id.starts_with("c1")));
    let done = |s: &StandIn| {
        stored(s, |e| {
            text(e, "correlationid") == Some(CORRELATION) && text(e, "edgetopic") == Some("valve/1/done")
        })
    };
    eventually("the node subscribes", async || (!standin.clients().is_empty()).then_some(())).await?;
    // The first attempt: the node has it and says so, the device takes it and dies.
    let first = tokio::spawn(valve(node.mqtt(), false));
    eventually("the device subscribes", async || {
        let status = node.status().ok()?;
        (status["sessions"].as_u64() != Some(0)).then_some(())
    })
    .await?;
    let mut attempts = 0;
    while !first.is_finished() {
        attempts += 1;
        standin.publish(command(&format!("c1.{attempts}")));
        eventually("its receipt", async || (receipts(&standin) >= attempts).then_some(())).await?;
    }
    first.await??;
    assert_eq!(done(&standin), 0, "a receipt is no confirmation");
    // No confirmation in time: the cloud asks again, under an id of its own for each attempt of the work, until the device answers.
    let second = tokio::spawn(valve(node.mqtt(), true));
    while !second.is_finished() {
        attempts += 1;
        standin.publish(command(&format!("c1.{attempts}")));
        eventually("its receipt", async || (receipts(&standin) >= attempts).then_some(())).await?;
    }
    second.await??;
    eventually("the confirmation", async || (done(&standin) >= 1).then_some(())).await?;
    Ok(())
}
