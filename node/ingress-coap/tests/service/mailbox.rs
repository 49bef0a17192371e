//! Commands for a device that sleeps.

use crate::site::{Site, peer, request};
use eventmesh_edge_coap::{Code, Kind, Message, option};
use std::time::Duration;

async fn poll(site: &mut Site, id: u16) -> Message {
    site.ask(&request(Code::GET, id, "d/pump-3/cmd")).await
}

#[tokio::test(start_paused = true)]
async fn commands_wait_in_order_until_they_are_done() {
    let mut site = Site::new();
    let empty = poll(&mut site, 1).await;
    assert_eq!((empty.code, empty.payload.len()), (Code::CONTENT, 0));
    site.publish("d/pump-3/cmd", "open", false).await;
    site.publish("d/pump-3/cmd", "close", false).await;
    let mut site = site.restart().await;
    for (round, expected) in ["open", "close"].into_iter().enumerate() {
        let id = 10 + round as u16 * 10;
        let command = poll(&mut site, id).await;
        assert_eq!(command.payload, expected);
        assert_eq!(poll(&mut site, id + 1).await.payload, expected, "it stays until it is done");
        let mut done = request(Code::DELETE, id + 2, "d/pump-3/cmd");
        done.options.add(option::IF_MATCH, command.options.first(option::ETAG).unwrap());
        assert_eq!(site.ask(&done).await.code, Code::DELETED);
    }
    assert_eq!(poll(&mut site, 40).await.payload.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn awake_it_gets_them_one_by_one_and_acknowledges_them() {
    let mut site = Site::new();
    poll(&mut site, 1).await;
    site.publish("d/pump-3/cmd", "1", false).await;
    site.publish("d/pump-3/cmd", "2", false).await;
    let mut get = request(Code::GET, 2, "d/pump-3/cmd");
    get.options.add_uint(option::OBSERVE, 0);
    get.options.add(option::URI_QUERY, "x".repeat(60));
    site.receive(peer(1), &get.encode());
    site.settle().await;
    let sent = site.sent_to(peer(1));
    assert_eq!((sent.len(), sent[0].payload.len()), (2, 0), "{sent:?}");
    assert_eq!((sent[1].kind, &sent[1].payload[..]), (Kind::Con, &b"1"[..]));
    site.receive(peer(1), &Message::empty(Kind::Ack, sent[1].id).encode());
    site.settle().await;
    let second = site.sent_to(peer(1)).remove(0);
    assert_eq!(second.payload, "2");
    site.receive(peer(1), &Message::empty(Kind::Ack, second.id).encode());
    site.settle().await;
    // One that comes while it listens.
    site.publish("d/pump-3/cmd", "3", false).await;
    let third = site.sent_to(peer(1)).remove(0);
    assert_eq!(third.payload, "3");
    // It falls asleep before it says that it has it: it comes again.
    site.pass(Duration::from_secs(100)).await;
    site.sent_to(peer(1));
    let mut site = site.restart().await;
    assert_eq!(poll(&mut site, 50).await.payload, "3");
}

#[tokio::test(start_paused = true)]
async fn a_command_whose_deadline_has_passed_is_not_given_out() {
    let mut site = Site::new();
    poll(&mut site, 1).await;
    let mut post = request(Code::POST, 2, "ps/d/pump-3/cmd");
    post.options.add(option::URI_QUERY, "expiry=60");
    post.payload = "late".into();
    assert_eq!(site.ask(&post).await.code, Code::CHANGED);
    site.publish("d/pump-3/cmd", "good", false).await;
    let command = poll(&mut site, 3).await;
    assert_eq!((&command.payload[..], command.options.uint(option::MAX_AGE)), (&b"late"[..], Some(60)));
    site.pass(Duration::from_secs(61)).await;
    assert_eq!(poll(&mut site, 4).await.payload, "good");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_say_which_command_is_done_is_refused() {
    let mut site = Site::new();
    let delete = |id| request(Code::DELETE, id, "d/pump-3/cmd");
    assert_eq!(site.ask(&delete(1)).await.code, Code::NOT_FOUND);
    poll(&mut site, 2).await;
    assert_eq!(site.ask(&delete(3)).await.code, Code::BAD_REQUEST);
    assert_eq!(site.ask(&request(Code::PUT, 4, "d/pump-3/cmd")).await.code, Code::METHOD_NOT_ALLOWED);
    assert_eq!(site.ask(&request(Code::GET, 5, "d/+/cmd")).await.code, Code::BAD_REQUEST);
}
