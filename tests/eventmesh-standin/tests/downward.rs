//! The uplink against the stand-in, downward: commands, receipts, and a subscription that stays itself.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod common;

use common::{Driver, command, outgoing, subscribing, until};
use eventmesh_edge_core::event::Qos;
use eventmesh_edge_core::ports::uplink::{Uplink, UplinkEvent};
use eventmesh_edge_standin::proto::cloud_event::Data;
use eventmesh_edge_standin::{StandIn, attribute, text};
use eventmesh_edge_uplink_eventmesh::Options;
use std::time::Duration;

async fn subscribed(standin: &StandIn, options: Options) -> Driver {
    let mut driver = Driver::new(options);
    driver.up().await;
    driver.while_waiting(until(standin, |s| !s.clients().is_empty())).await;
    driver
}

#[tokio::test]
async fn a_command_comes_down_and_its_receipt_goes_up_when_it_is_durable() {
    let standin = StandIn::start();
    let mut driver = subscribed(&standin, subscribing(&[standin.addr()])).await;
    assert!(standin.publish(command("c1")));
    let message = driver.downward().await;
    assert_eq!(
        (&*message.topic, &message.payload[..], message.qos),
        ("valve/1/set", &b"open"[..], Qos::AtLeastOnce)
    );
    assert_eq!(message.identity.as_ref().map(|(s, i)| (&**s, &**i)), Some(("/cloud/app", "c1")));
    driver.deliver([outgoing(1)]).await;
    assert_eq!(standin.count(), 2, "not durable yet, so nothing but the event has gone up");
    driver.uplink.confirm(message.token);
    driver.while_waiting(until(&standin, |s| s.count() == 3)).await;
    let receipt = standin.stored().pop().unwrap();
    assert_eq!(
        (receipt.id.as_str(), receipt.r#type.as_str()),
        ("c1.stored", "io.eventmesh.edge.command.stored")
    );
    assert_eq!(text(&receipt, "subject"), Some("eventmesh-edge-receipts"));
    assert_eq!(
        (text(&receipt, "commandsource"), text(&receipt, "commandid")),
        (Some("/cloud/app"), Some("c1"))
    );
    assert!(matches!(receipt.data, Some(Data::TextData(_))));
    // The cloud saw no receipt and sends it again: the same identity, so the store knows it; the receipt goes again, with the same id.
    assert!(standin.publish(command("c1")));
    let again = driver.downward().await;
    assert_eq!(again.identity, message.identity);
    driver.uplink.confirm(again.token);
    driver.while_waiting(until(&standin, |s| s.count() == 5)).await;
    assert_eq!(standin.stored().pop().unwrap().id, "c1.stored");
}

#[tokio::test]
async fn what_the_runtime_has_forgotten_is_subscribed_again_as_the_same_client() {
    let standin = StandIn::start();
    let mut options = subscribing(&[standin.addr()]);
    options.down.heartbeat = Duration::from_millis(50);
    let group = options.down.group.clone();
    let mut driver = subscribed(&standin, options).await;
    let first = standin.clients().remove(0);
    // Code 30.
    standin.forget(&group);
    driver.while_waiting(until(&standin, |s| !s.clients().is_empty() && s.counts().1 == 2)).await;
    let second = standin.clients().remove(0);
    assert_eq!((&first.group, &first.ip, &first.pid), (&second.group, &second.ip, &second.pid));
    assert!(first.pid.bytes().all(|b| b.is_ascii_digit()));
    // A stream that the runtime ends.
    standin.end_streams(&group);
    driver.while_waiting(until(&standin, |s| !s.clients().is_empty() && s.counts().1 == 3)).await;
    assert!(standin.publish(command("c2")));
    assert_eq!(driver.downward().await.identity.unwrap().1, "c2");
    assert!(driver.uplink.counters().read().resubscribed >= 2);
    // A new connection, as after an outage: the same identity replaces the dead stream, and commands reach the live one.
    driver.up().await;
    driver.while_waiting(until(&standin, |s| s.counts().1 == 4)).await;
    assert_eq!(standin.clients().len(), 1);
    assert!(standin.publish(command("c3")));
    assert_eq!(driver.downward().await.identity.unwrap().1, "c3");
}

#[tokio::test]
async fn heartbeats_go_on_as_long_as_the_subscription() {
    let standin = StandIn::start();
    let mut options = subscribing(&[standin.addr()]);
    options.down.heartbeat = Duration::from_millis(30);
    let mut driver = subscribed(&standin, options).await;
    driver.while_waiting(until(&standin, |s| s.counts().0 >= 10)).await;
    assert_eq!(standin.counts().1, 1, "known all the time, so it subscribes once");
}

#[tokio::test]
async fn what_has_passed_through_this_node_does_not_come_down() {
    let standin = StandIn::start();
    let mut options = subscribing(&[standin.addr()]);
    options.down.topics = vec!["commands".to_owned(), "eventmesh-edge".to_owned()];
    let mut driver = subscribed(&standin, options).await;
    // Its own event comes back on a topic that it subscribes.
    driver.deliver([outgoing(1)]).await;
    let mut foreign = command("c1");
    foreign.attributes.insert("edgevia".to_owned(), attribute("other plant-7"));
    standin.publish(foreign);
    standin.publish(command("c2"));
    assert_eq!(driver.downward().await.identity.unwrap().1, "c2");
    assert_eq!(driver.uplink.counters().read().loops_dropped, 2);
}

#[tokio::test]
async fn a_stream_is_not_read_faster_than_its_messages_become_durable() {
    let standin = StandIn::start();
    let mut options = subscribing(&[standin.addr()]);
    options.down.unconfirmed_max = 3;
    options.down.receipts = None;
    let mut driver = subscribed(&standin, options).await;
    for n in 0..50 {
        standin.publish(command(&n.to_string()));
    }
    let mut seen = Vec::new();
    let mut open = std::collections::VecDeque::new();
    while seen.len() < 50 {
        let message = driver.downward().await;
        open.push_back(message.token);
        seen.push(message.identity.unwrap().1.to_string());
        let is_message = |e: &&UplinkEvent| matches!(e, UplinkEvent::Downward(_));
        let waiting = driver.events.iter().filter(is_message).count() + open.len();
        assert!(waiting <= 3, "{waiting}");
        if open.len() == 3 || seen.len() > 47 {
            // Answers to events pass by what stands unread.
            driver.uplink.send(outgoing(1));
            let confirm = open.pop_front().unwrap();
            driver.uplink.confirm(confirm);
        }
    }
    assert_eq!(seen, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_command_that_comes_twice_at_once_is_stored_once() {
    let standin = StandIn::start();
    let mut driver = subscribed(&standin, subscribing(&[standin.addr()])).await;
    for id in ["c1", "c1", "c2"] {
        standin.publish(command(id));
    }
    let (first, second) = (driver.downward().await, driver.downward().await);
    assert_eq!((&*first.identity.unwrap().1, &*second.identity.unwrap().1), ("c1", "c2"));
    assert_eq!(driver.uplink.counters().read().duplicates_dropped, 1);
}
