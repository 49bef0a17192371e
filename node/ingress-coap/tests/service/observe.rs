//! Observe.

use crate::site::{Site, peer, request, with_payload};
use eventmesh_edge_coap::{Code, Kind, Message, option};

fn observe(id: u16, path: &str, value: u32) -> Message {
    let mut get = request(Code::GET, id, path);
    get.options.add_uint(option::OBSERVE, value);
    // Long enough for what it will be told before its address is verified.
    get.options.add(option::URI_QUERY, format!("ep={}", "x".repeat(60)));
    get
}

/// The one notification sent, acknowledged.
async fn notified(site: &mut Site) -> Message {
    let mut sent = site.sent_to(peer(1));
    assert_eq!(sent.len(), 1, "{sent:?}");
    let notification = sent.remove(0);
    site.receive(peer(1), &Message::empty(Kind::Ack, notification.id).encode());
    site.settle().await;
    notification
}

#[tokio::test(start_paused = true)]
async fn observers_see_what_mqtt_and_coap_devices_publish() {
    let mut site = Site::new();
    site.publish("plant/temp", "20", true).await;
    let first = site.ask(&observe(1, "ps/plant/temp", 0)).await;
    assert_eq!((first.code, &first.payload[..]), (Code::CONTENT, &b"20"[..]));
    let start = first.options.uint(option::OBSERVE).unwrap();
    site.publish("plant/temp", "21", false).await;
    let notification = notified(&mut site).await;
    assert_eq!(notification.payload, "21");
    assert!(notification.options.uint(option::OBSERVE).unwrap() > start);
    site.receive(peer(2), &with_payload(request(Code::POST, 9, "ps/plant/temp"), "22").encode());
    site.settle().await;
    assert_eq!(notified(&mut site).await.payload, "22");
    site.publish("plant/other", "1", false).await;
    assert!(site.sent_to(peer(1)).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_filter_is_observed_by_query_and_each_notification_names_its_topic() {
    let mut site = Site::new();
    let mut get = observe(1, "ps", 0);
    get.options.add(option::URI_QUERY, "topic=plant/+/temp");
    assert!(site.ask(&get).await.options.first(option::OBSERVE).is_some());
    site.publish("plant/7/temp", "21", false).await;
    let notification = notified(&mut site).await;
    let path: Vec<_> = notification.options.all(option::LOCATION_PATH).collect();
    assert_eq!(path, [&b"ps"[..], b"plant", b"7", b"temp"]);
}

#[tokio::test(start_paused = true)]
async fn a_topic_without_a_value_can_be_observed_and_a_cleared_one_stays_so() {
    let mut site = Site::new();
    let first = site.ask(&observe(1, "ps/t", 0)).await;
    assert_eq!((first.code, first.payload.len()), (Code::CONTENT, 0));
    site.publish("t", "1", true).await;
    assert_eq!(notified(&mut site).await.payload, "1");
    site.receive(peer(2), &request(Code::DELETE, 9, "ps/t").encode());
    site.settle().await;
    let cleared = notified(&mut site).await;
    assert_eq!((cleared.code, cleared.payload.len()), (Code::CONTENT, 0));
    site.publish("t", "2", true).await;
    assert_eq!(notified(&mut site).await.payload, "2");
}

#[tokio::test(start_paused = true)]
async fn observe_1_cancels() {
    let mut site = Site::new();
    site.ask(&observe(1, "ps/t", 0)).await;
    // RFC 7641 section 3.6: the same token.
    let mut cancel = observe(2, "ps/t", 1);
    cancel.token = observe(1, "ps/t", 0).token;
    let answer = site.ask(&cancel).await;
    assert!(answer.options.first(option::OBSERVE).is_none());
    site.publish("t", "1", false).await;
    assert!(site.sent_to(peer(1)).is_empty());
    assert_eq!(site.hub.stats().subscriptions, 0);
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_was_heard_is_told_again_after_a_restart() {
    let mut site = Site::new();
    site.ask(&observe(1, "ps/t", 0)).await;
    site.publish("t", "1", true).await;
    let before = notified(&mut site).await;
    let mut site = site.restart().await;
    site.handle(eventmesh_edge_ingress_coap::service::Input::Tick);
    site.settle().await;
    let again = notified(&mut site).await;
    assert_eq!((&again.payload[..], again.token), (&b"1"[..], before.token));
    site.publish("t", "2", true).await;
    assert_eq!(notified(&mut site).await.payload, "2");
    // And once it says no, it is forgotten for good.
    site.publish("t", "3", true).await;
    let last = site.sent_to(peer(1)).remove(0);
    site.receive(peer(1), &Message::empty(Kind::Rst, last.id).encode());
    site.settle().await;
    let mut site = site.restart().await;
    site.handle(eventmesh_edge_ingress_coap::service::Input::Tick);
    site.settle().await;
    assert!(site.sent_to(peer(1)).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_never_answered_is_not_kept() {
    let mut site = Site::new();
    site.ask(&observe(1, "ps/t", 0)).await;
    let site = site.restart().await;
    assert_eq!(site.hub.stats().subscriptions, 0);
}
