//! Commands for a device that sleeps.

use crate::site::{Site, peer, request};
use eventmesh_edge_coap::option::Block;
use eventmesh_edge_coap::{Code, Kind, Message, Params, option};
use std::time::Duration;

async fn poll(site: &mut Site, id: u16) -> Message {
    site.ask(&request(Code::GET, id, "d/pump-3/cmd")).await
}

/// A registration.
fn watch(id: u16) -> Message {
    let mut get = request(Code::GET, id, "d/pump-3/cmd");
    get.options.add_uint(option::OBSERVE, 0);
    get
}

/// A request for a block of the command.
fn block(id: u16, num: u32, szx: u8) -> Message {
    let mut get = request(Code::GET, id, "d/pump-3/cmd");
    get.options.add(option::BLOCK2, Block { num, more: false, szx }.encode());
    get
}

async fn send(site: &mut Site, message: &Message) -> Vec<Message> {
    site.receive(peer(1), &message.encode());
    site.settle().await;
    site.sent_to(peer(1))
}

async fn acknowledge(site: &mut Site, message: &Message) -> Vec<Message> {
    assert_eq!(message.kind, Kind::Con);
    send(site, &Message::empty(Kind::Ack, message.id)).await
}

#[tokio::test(start_paused = true)]
async fn commands_wait_in_order_until_they_are_done() {
    let mut site = Site::new();
    let empty = site.open_mailbox(1).await;
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
    site.open_mailbox(1).await;
    site.publish("d/pump-3/cmd", "1", false).await;
    site.publish("d/pump-3/cmd", "2", false).await;
    site.receive(peer(1), &watch(3).encode());
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
    site.open_mailbox(1).await;
    let mut post = request(Code::POST, 3, "ps/d/pump-3/cmd");
    post.options.add(option::URI_QUERY, "expiry=60");
    post.payload = "late".into();
    assert_eq!(site.ask(&post).await.code, Code::CHANGED);
    site.publish("d/pump-3/cmd", "good", false).await;
    let command = poll(&mut site, 4).await;
    assert_eq!((&command.payload[..], command.options.uint(option::MAX_AGE)), (&b"late"[..], Some(60)));
    site.pass(Duration::from_secs(61)).await;
    assert_eq!(poll(&mut site, 5).await.payload, "good");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_say_which_command_is_done_is_refused() {
    let mut site = Site::new();
    let delete = |id| request(Code::DELETE, id, "d/pump-3/cmd");
    assert_eq!(site.ask(&delete(1)).await.code, Code::NOT_FOUND);
    site.open_mailbox(2).await;
    assert_eq!(site.ask(&delete(4)).await.code, Code::BAD_REQUEST);
    assert_eq!(site.ask(&request(Code::PUT, 5, "d/pump-3/cmd")).await.code, Code::METHOD_NOT_ALLOWED);
    assert_eq!(site.ask(&request(Code::GET, 6, "d/+/cmd")).await.code, Code::BAD_REQUEST);
}

/// The acknowledgement of the notification is that of its first block: the command stays until the device has the last.
#[tokio::test(start_paused = true)]
async fn a_long_command_stays_until_the_whole_of_it_was_fetched() {
    let mut site = Site::new();
    site.open_mailbox(1).await;
    let long: String = (0..2_500).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
    site.publish("d/pump-3/cmd", &long, false).await;
    site.publish("d/pump-3/cmd", "next", false).await;
    let first = send(&mut site, &watch(3)).await.pop().unwrap();
    assert_eq!((first.kind, first.payload.len()), (Kind::Con, 1_024));
    assert!(acknowledge(&mut site, &first).await.is_empty(), "nothing follows before the rest is fetched");
    // Not by reading the end alone, and not by what somebody else reads.
    let last = send(&mut site, &block(4, 2, 6)).await.remove(0);
    assert_eq!((last.kind, last.payload.len()), (Kind::Ack, 452));
    site.receive(peer(2), &block(4, 1, 6).encode());
    site.settle().await;
    let mut site = site.restart().await;
    assert!(poll(&mut site, 5).await.payload.starts_with(b"abc"), "it is still there");
    // In order, the last block confirmably.
    let ping = send(&mut site, &watch(6)).await.pop().unwrap();
    let first = send(&mut site, &Message::empty(Kind::Rst, ping.id)).await.pop().unwrap();
    acknowledge(&mut site, &first).await;
    let mut got = first.payload.to_vec();
    got.extend(send(&mut site, &block(7, 1, 6)).await.remove(0).payload);
    let sent = send(&mut site, &block(8, 2, 6)).await;
    assert_eq!(sent[0], Message::empty(Kind::Ack, 8));
    got.extend(&sent[1].payload);
    assert_eq!(got, long.as_bytes());
    assert_eq!(sent[1].options.first(option::ETAG), first.options.first(option::ETAG));
    // Lost, and asked for again: it is the same command.
    let again = send(&mut site, &block(9, 2, 6)).await.remove(1);
    assert_eq!(again.payload, sent[1].payload);
    assert_eq!(acknowledge(&mut site, &again).await.remove(0).payload, "next");
    let mut site = site.restart().await;
    assert_eq!(poll(&mut site, 10).await.payload, "next");
}

#[tokio::test(start_paused = true)]
async fn an_observer_may_say_that_a_long_command_is_done() {
    let mut site = Site::new();
    site.open_mailbox(1).await;
    site.publish("d/pump-3/cmd", &"x".repeat(2_500), false).await;
    site.publish("d/pump-3/cmd", "next", false).await;
    let first = send(&mut site, &watch(3)).await.pop().unwrap();
    acknowledge(&mut site, &first).await;
    let mut done = request(Code::DELETE, 4, "d/pump-3/cmd");
    done.options.add(option::IF_MATCH, first.options.first(option::ETAG).unwrap());
    let sent = send(&mut site, &done).await;
    assert_eq!((sent[0].code, &sent[1].payload[..]), (Code::DELETED, &b"next"[..]));
}

/// P1: whoever is answered has a mailbox, on disk.
#[tokio::test(start_paused = true)]
async fn nobody_is_answered_before_the_mailbox_is_on_disk() {
    let mut site = Site::manual(Params::default());
    let challenge = send(&mut site, &request(Code::GET, 1, "d/pump-3/cmd")).await;
    let ping = challenge.iter().find(|sent| sent.code == Code::EMPTY).unwrap();
    site.receive(peer(1), &Message::empty(Kind::Rst, ping.id).encode());
    for id in [2, 3] {
        assert!(send(&mut site, &request(Code::GET, id, "d/pump-3/cmd")).await.is_empty());
    }
    assert!(send(&mut site, &watch(4)).await.is_empty());
    site.store.complete_next(1);
    site.settle().await;
    let codes: Vec<Code> = site.sent_to(peer(1)).iter().map(|sent| sent.code).collect();
    assert_eq!(codes, [Code::CONTENT; 3]);
}

/// P1: what could not be stored is not there, for nobody.
#[tokio::test(start_paused = true)]
async fn a_mailbox_that_could_not_be_stored_is_refused_and_can_be_asked_for_again() {
    let mut site = Site::manual(Params::default());
    let challenge = send(&mut site, &request(Code::GET, 1, "d/pump-3/cmd")).await;
    let ping = challenge.iter().find(|sent| sent.code == Code::EMPTY).unwrap();
    site.receive(peer(1), &Message::empty(Kind::Rst, ping.id).encode());
    site.failing = 1;
    site.receive(peer(1), &request(Code::GET, 2, "d/pump-3/cmd").encode());
    site.receive(peer(1), &watch(3).encode());
    site.settle().await;
    let codes: Vec<Code> = site.sent_to(peer(1)).iter().map(|sent| sent.code).collect();
    assert_eq!(codes, [Code::SERVICE_UNAVAILABLE; 2]);
    assert_eq!((site.hub.stats().sessions, site.hub.stats().subscriptions), (0, 0));
    assert!(send(&mut site, &request(Code::GET, 4, "d/pump-3/cmd")).await.is_empty(), "a new try");
    site.store.complete_next(1);
    site.settle().await;
    assert_eq!(site.sent_to(peer(1)).remove(0).code, Code::CONTENT);
}

/// P5: one datagram from anywhere makes nothing durable.
#[tokio::test(start_paused = true)]
async fn a_stranger_gets_no_mailbox() {
    let mut site = Site::new();
    for number in 1..200 {
        let name = format!("d/device-{number}/cmd");
        site.receive(peer(number), &request(Code::GET, 1, &name).encode());
    }
    site.settle().await;
    assert_eq!(site.hub.stats().sessions, 0);
    let site = site.restart().await;
    assert_eq!(site.hub.stats().sessions, 0);
}

#[tokio::test(start_paused = true)]
async fn mailboxes_are_bounded_in_number() {
    let mut site = Site::new();
    site.open_mailbox(1).await;
    let mut codes = Vec::new();
    for number in 1..=100 {
        codes.push(site.ask(&request(Code::GET, 10 + number, &format!("d/x{number}/cmd"))).await.code);
    }
    assert_eq!(codes.iter().filter(|code| **code == Code::CONTENT).count(), 99);
    assert_eq!(codes[99], Code::SERVICE_UNAVAILABLE);
}

/// P5: over a restart too.
#[tokio::test(start_paused = true)]
async fn the_mailbox_of_a_device_that_never_comes_again_is_removed() {
    const DAY: Duration = Duration::from_secs(86_400);
    let mut site = Site::new();
    site.open_mailbox(1).await;
    site.publish("d/pump-3/cmd", "open", false).await;
    for id in 0..4 {
        site.pass_in_one(2 * DAY).await;
        assert_eq!(poll(&mut site, 10 + id).await.payload, "open", "its device comes now and then");
    }
    site.pass_in_one(4 * DAY).await;
    let mut site = site.restart_at_the_same_time().await;
    assert_eq!(site.hub.stats().sessions, 1);
    site.pass_in_one(4 * DAY).await;
    assert_eq!(site.hub.stats().sessions, 0);
    let site = site.restart_at_the_same_time().await;
    assert_eq!(site.hub.stats().sessions, 0);
}
