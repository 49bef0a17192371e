//! The recording of the real runtime, replayed both ways: its client's requests against the stand-in, its answers against our client.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{Driver, PATIENCE, acked, failed, options, outgoing, subscribing, until};
use eventmesh_edge_core::ports::store::Class;
use eventmesh_edge_core::ports::uplink::Uplink;
use eventmesh_edge_standin::observed::{Record, records};
use eventmesh_edge_standin::proto::cloud_event::Data;
use eventmesh_edge_standin::proto::consumer_service_client::ConsumerServiceClient;
use eventmesh_edge_standin::proto::heartbeat_service_client::HeartbeatServiceClient;
use eventmesh_edge_standin::proto::publisher_service_client::PublisherServiceClient;
use eventmesh_edge_standin::proto::{CloudEvent, CloudEventBatch};
use eventmesh_edge_standin::{Reply, StandIn, text};
use prost::Message;
use std::collections::BTreeMap;
use tonic::transport::Channel;

fn bytes(record: &Record) -> Vec<u8> {
    STANDARD.decode(record.line["pb"].as_str().unwrap()).unwrap()
}

fn event(record: &Record) -> CloudEvent {
    CloudEvent::decode(&bytes(record)[..]).unwrap()
}

fn find(case: &str, method: &str, to_server: bool) -> Record {
    let is_it = |r: &Record| r.case == case && r.method == method && r.to_server == to_server;
    records().into_iter().find(is_it).unwrap_or_else(|| panic!("{case} {method} is not in the recording"))
}

/// What of an answer must be the same; its id, its time, message numbers and stack traces are its own.
fn essence(answer: &CloudEvent) -> (Option<String>, Option<String>, bool, BTreeMap<String, String>) {
    let first_line = text(answer, "responsemessage").and_then(|m| m.lines().next()).map(str::to_owned);
    let message = first_line.map(|m| m.split("messageId=").next().unwrap_or_default().to_owned());
    let own =
        ["statuscode", "responsemessage", "time", "reqmq2eventmeshtimestamp", "reqeventmesh2ctimestamp"];
    let rest = answer.attributes.iter().filter(|(name, _)| !own.contains(&name.as_str()));
    let rest = rest.map(|(name, value)| (name.clone(), format!("{value:?}"))).collect();
    (text(answer, "statuscode").map(str::to_owned), message, answer.id.is_empty(), rest)
}

async fn channel(standin: &StandIn) -> Channel {
    Channel::from_shared(format!("http://{}", standin.addr())).unwrap().connect().await.unwrap()
}

/// Keeps a stream subscribed with the recorded subscription; what arrives on it.
async fn subscribe(
    standin: &StandIn,
) -> (tokio::sync::mpsc::Sender<CloudEvent>, tonic::Streaming<CloudEvent>) {
    let (requests, receiver) = tokio::sync::mpsc::channel(4);
    requests.send(event(&find("subscribe stream", "subscribeStream", true))).await.unwrap();
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let answers = ConsumerServiceClient::new(channel(standin).await).subscribe_stream(stream).await.unwrap();
    (requests, answers.into_inner())
}

async fn next(stream: &mut tonic::Streaming<CloudEvent>) -> Option<CloudEvent> {
    tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap()
}

#[tokio::test]
async fn the_stand_in_answers_the_recorded_requests_as_the_runtime_did() {
    let standin = StandIn::start();
    standin.only_subscribed_topics();
    let (_requests, mut stream) = subscribe(&standin).await;
    let accepted = next(&mut stream).await.unwrap();
    assert_eq!(essence(&accepted), essence(&event(&find("subscribe stream", "subscribeStream", false))));
    let channel = channel(&standin).await;
    let mut publisher = PublisherServiceClient::new(channel.clone());
    let mut heart = HeartbeatServiceClient::new(channel.clone());
    let mut consumer = ConsumerServiceClient::new(channel);
    let mut asked = 0;
    for request in records().into_iter().filter(|r| r.to_server && r.method != "subscribeStream") {
        let case = &request.case;
        let answered = match request.method.as_str() {
            "publish" => publisher.publish(event(&request)).await,
            "requestReply" => publisher.request_reply(event(&request)).await,
            "batchPublish" => {
                publisher.batch_publish(CloudEventBatch::decode(&bytes(&request)[..]).unwrap()).await
            }
            "publishOneWay" => publisher.publish_one_way(event(&request)).await.map(|_| panic!("{case}")),
            "heartbeat" => heart.heartbeat(event(&request)).await,
            "unsubscribe" => consumer.unsubscribe(event(&request)).await,
            other => panic!("{case}: {other} is not replayed"),
        };
        let recorded = find(case, &request.method, false);
        match answered {
            Ok(answer) => assert_eq!(essence(answer.get_ref()), essence(&event(&recorded)), "{case}"),
            Err(status) => {
                assert_eq!(
                    recorded.line["grpc_status"],
                    format!("{:?}", status.code()).to_uppercase(),
                    "{case}"
                );
                assert_eq!(recorded.line["grpc_message"], status.message(), "{case}");
            }
        }
        // What the runtime delivered for it, if it did, and nothing where it delivered nothing.
        let is_it =
            |r: &Record| r.case == *case && r.method == "subscribeStream" && r.line.get("pb").is_some();
        if let Some(delivery) = records().into_iter().find(is_it) {
            let (got, recorded) = (next(&mut stream).await.unwrap(), event(&delivery));
            assert_eq!(
                (essence(&got), &got.id, &got.data),
                (essence(&recorded), &recorded.id, &recorded.data),
                "{case}"
            );
        }
        asked += 1;
    }
    assert_eq!(asked, 21, "every recorded request was replayed");
    assert_eq!(next(&mut stream).await, None, "unsubscribe has ended the stream, and nothing else had come");
}

#[tokio::test]
async fn our_client_understands_the_recorded_answers_to_publish() {
    let standin = StandIn::start();
    let mut driver = Driver::new(options(&[standin.addr()]));
    driver.up().await;
    let table = [
        ("publish json text", None),
        ("publish binary", None),
        ("publish typed extensions", None),
        ("publish to a topic nobody subscribes", Some(Class::Retry)),
        ("header error: env missing", Some(Class::Reject)),
        ("body error: ttl missing", Some(Class::Reject)),
        ("body error: empty text", Some(Class::Reject)),
        ("body error: text_data with a non-text content type", Some(Class::Reject)),
        ("bad extension name", Some(Class::Reject)),
        ("unknown protocoltype", Some(Class::Reject)),
    ];
    for (position, (case, class)) in (1..).zip(table) {
        // Each on a connection of its own: code 14 holds the topic.
        driver.up().await;
        standin.script([Reply::Event(Box::new(event(&find(case, "publish", false))))]);
        let events = driver.deliver([outgoing(position)]).await;
        let got =
            (acked(&events), failed(&events).into_iter().map(|(_, class, _)| class).collect::<Vec<_>>());
        let expected = if class.is_some() { vec![] } else { vec![position] };
        assert_eq!(got, (expected, Vec::from_iter(class)), "{case}: {events:?}");
        assert!(!format!("{events:?}").contains(".java:"), "no stack trace in a reason");
    }
}

#[tokio::test]
async fn our_client_understands_the_recorded_deliveries() {
    let standin = StandIn::start();
    let mut driver = Driver::new(subscribing(&[standin.addr()]));
    driver.up().await;
    driver.while_waiting(until(&standin, |s| !s.clients().is_empty())).await;
    // The recorded answer to a subscription is no message.
    standin.push(&event(&find("subscribe stream", "subscribeStream", false)));
    for case in [
        "publish json text",
        "publish binary",
        "publish without datacontenttype, binary",
        "publish typed extensions",
    ] {
        let recorded = event(&find(case, "subscribeStream", false));
        standin.push(&recorded);
        let message = driver.downward().await;
        driver.uplink.confirm(message.token);
        let data = match recorded.data.unwrap() {
            Data::TextData(text) => text.into(),
            Data::BinaryData(data) => data,
            Data::ProtoData(_) => panic!("{case}"),
        };
        assert_eq!((&message.payload, &*message.topic), (&data, "og1"), "{case}");
        let identity = message.identity.unwrap();
        assert_eq!((&*identity.0, &*identity.1), (recorded.source.as_str(), recorded.id.as_str()), "{case}");
        let user = message.properties.unwrap().user;
        let has = |name: &str| user.iter().any(|(n, _)| **n == *name);
        assert!(!has("passwd") && !has("ip") && !has("reqmq2eventmeshtimestamp"), "{case}: {user:?}");
        assert_eq!(
            (has("num"), has("flag"), has("bin")),
            (case.contains("typed"), case.contains("typed"), case.contains("typed"))
        );
    }
}

#[tokio::test]
async fn our_clients_requests_have_the_shape_of_the_recorded_ones() {
    let standin = StandIn::start();
    let mut driver = Driver::new(options(&[standin.addr()]));
    driver.up().await;
    driver.deliver([outgoing(1)]).await;
    let ours = standin.stored().remove(0);
    let recorded = event(&find("publish json text", "publish", true));
    for (name, value) in &recorded.attributes {
        let own = ours.attributes.get(name).unwrap_or_else(|| panic!("{name} is missing"));
        let kind = |v: &eventmesh_edge_standin::proto::cloud_event::CloudEventAttributeValue| {
            v.attr.as_ref().map(std::mem::discriminant)
        };
        assert_eq!(kind(own), kind(value), "{name} has another type");
    }
    for name in ["protocoltype", "protocoldesc", "protocolversion", "datacontenttype", "language"] {
        assert_eq!(text(&ours, name), text(&recorded, name), "{name}");
    }
    assert!(matches!((ours.data, recorded.data), (Some(Data::TextData(_)), Some(Data::TextData(_)))));
}
