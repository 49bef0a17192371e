//! The uplink against the stand-in, upward: what is acknowledged is stored, what is not is told.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod common;

use bytes::Bytes;
use common::{Driver, PATIENCE, acked, failed, options, outgoing, outgoing_with, until};
use eventmesh_edge_core::ports::store::Class;
use eventmesh_edge_core::ports::uplink::{Uplink, UplinkEvent};
use eventmesh_edge_e2e::proxy::{Link, Proxy};
use eventmesh_edge_standin::{Reply, StandIn, text};
use eventmesh_edge_uplink_eventmesh::{Credentials, Secret};
use std::collections::BTreeSet;
use std::time::Duration;

fn code(code: u16, message: &str) -> Reply {
    Reply::Code(code, message.to_owned())
}

#[tokio::test]
async fn what_is_acknowledged_is_stored_under_its_own_id_once() {
    let standin = StandIn::start();
    let mut driver = Driver::new(options(&[standin.addr()]));
    let window = driver.up().await;
    assert_eq!(window, 16_384);
    let events = driver.deliver((1..=2_000).map(outgoing)).await;
    let all: BTreeSet<u64> = acked(&events).into_iter().collect();
    assert_eq!(all.len(), 2_000);
    let stored: Vec<String> = standin.stored().into_iter().map(|e| e.id).collect();
    let ids: BTreeSet<&String> = stored.iter().collect();
    assert_eq!((stored.len(), ids.len()), (2_000, 2_000));
    let expected: BTreeSet<String> = (1..=2_000).map(|n| outgoing(n).event.id().to_string()).collect();
    assert_eq!(ids, expected.iter().collect());
}

#[tokio::test]
async fn without_credentials_nothing_secret_leaves_and_with_them_only_if_told_so() {
    let standin = StandIn::start();
    let mut driver = Driver::new(options(&[standin.addr()]));
    driver.up().await;
    driver.deliver([outgoing(1)]).await;
    let event = standin.stored().remove(0);
    assert_eq!((text(&event, "username"), text(&event, "passwd")), (Some("edge"), Some("none")));
    let login =
        Credentials { username: "u".to_owned(), password: Some(Secret::new("p")), password_file: None };
    let mut with = options(&[standin.addr()]);
    with.credentials = Some(login);
    let error = eventmesh_edge_uplink_eventmesh::EventMeshUplink::new(with.clone()).unwrap_err();
    assert!(error.to_string().contains("allow_plaintext_credentials"), "{error}");
    with.allow_plaintext_credentials = true;
    let mut driver = Driver::new(with);
    driver.up().await;
    driver.deliver([outgoing(1)]).await;
    assert_eq!(text(standin.stored().last().unwrap(), "passwd"), Some("p"));
}

#[tokio::test]
async fn answers_out_of_order_are_about_their_own_events() {
    let standin = StandIn::start();
    let mut driver = Driver::new(options(&[standin.addr()]));
    driver.up().await;
    let late = |n: u64| Reply::Late(Duration::from_millis(40 * (4 - n)));
    standin.script([late(1), code(7, "body"), late(3), code(16, "runtime")]);
    let events = driver.deliver((1..=5).map(outgoing)).await;
    let refused: Vec<_> = failed(&events).into_iter().map(|(p, class, _)| (p, class)).collect();
    let taken: BTreeSet<u64> = acked(&events).into_iter().collect();
    // Which publish the server looks at first is its business; what it stored and what it refused must match what we were told.
    let stored: BTreeSet<String> = standin.stored().into_iter().map(|e| e.id).collect();
    let expected: BTreeSet<String> = taken.iter().map(|n| outgoing(*n).event.id().to_string()).collect();
    assert_eq!((taken.len(), refused.len(), stored), (3, 2, expected));
    assert!(refused.iter().any(|(_, class)| *class == Class::Reject), "{refused:?}");
    assert!(refused.iter().any(|(_, class)| *class == Class::Retry), "{refused:?}");
}

#[tokio::test]
async fn a_topic_that_is_not_there_yet_holds_its_events_and_takes_them_later() {
    let standin = StandIn::start();
    standin.only_subscribed_topics();
    let mut driver = Driver::new(options(&[standin.addr()]));
    driver.up().await;
    for position in 1..=3 {
        let events = driver.deliver([outgoing(position)]).await;
        assert!(
            matches!(&failed(&events)[..], [(p, Class::Retry, reason)] if *p == position && reason.contains("held")),
            "{events:?}"
        );
    }
    let counts = driver.uplink.counters().read();
    assert_eq!((counts.events_held, counts.events_refused, standin.count()), (3, 0, 0));
    // A consumer comes; the forwarder offers the events again and again, and when the circuit lets one try, they pass.
    let mut consumer = common::subscribing(&[standin.addr()]);
    consumer.down.topics = vec!["eventmesh-edge".to_owned()];
    let mut consumer = Driver::new(consumer);
    consumer.up().await;
    consumer.while_waiting(until(&standin, |s| !s.clients().is_empty())).await;
    let offered = async {
        while acked(&driver.deliver([outgoing(1)]).await).is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        driver.deliver([outgoing(2), outgoing(3)]).await
    };
    let events = tokio::time::timeout(PATIENCE, offered).await.unwrap();
    assert_eq!((acked(&events), standin.count()), (vec![2, 3], 3));
}

#[tokio::test]
async fn a_lost_answer_is_a_second_event_with_the_same_id() {
    let standin = StandIn::start();
    let mut short = options(&[standin.addr()]);
    short.answer_timeout = Duration::from_millis(200);
    let mut driver = Driver::new(short);
    driver.up().await;
    standin.script([Reply::StoredAndSilent]);
    let events = driver.deliver([outgoing(1)]).await;
    assert!(
        matches!(&failed(&events)[..], [(1, Class::Retry, reason)] if reason.contains("no answer")),
        "{events:?}"
    );
    let events = driver.deliver([outgoing(1)]).await;
    assert_eq!(acked(&events), [1]);
    let ids: Vec<String> = standin.stored().into_iter().map(|e| e.id).collect();
    let id = outgoing(1).event.id().to_string();
    assert_eq!(ids, [id.clone(), id]);
}

#[tokio::test]
async fn a_runtime_that_stops_is_left_for_another_one_and_one_that_denies_is_left_alone() {
    let standin = StandIn::start();
    for (reply, words) in [
        (code(13, "producer stopped"), "code 13"),
        (code(8, "stopping"), "code 8"),
        (Reply::Grpc(14, "going away".to_owned()), "going away"),
        (code(20, "acl"), "code 20"),
    ] {
        let mut driver = Driver::new(options(&[standin.addr()]));
        driver.up().await;
        standin.script([reply.clone()]);
        driver.uplink.send(outgoing(1));
        let (end, taken) = driver.down().await;
        let UplinkEvent::Unavailable { cause, retry_after } = end else { panic!("{end:?}") };
        assert!(cause.contains(words), "{cause}");
        assert_eq!((taken, retry_after.is_some()), (vec![], reply == code(20, "acl")));
    }
    // It says so already when it is asked.
    standin.heartbeat_code(Some(8));
    let refused = Driver::new(options(&[standin.addr()])).connect(0, PATIENCE).await.unwrap_err();
    assert!(refused.contains("code 8 (stopping)"), "{refused}");
}

#[tokio::test]
async fn what_is_under_way_is_answered_before_a_connection_is_left() {
    let standin = StandIn::start();
    let mut driver = Driver::new(options(&[standin.addr()]));
    driver.up().await;
    standin.script([code(13, "stopped"), Reply::Late(Duration::from_millis(150))]);
    driver.uplink.send(outgoing(1));
    driver.uplink.send(outgoing(2));
    let (_, taken) = driver.down().await;
    assert_eq!((taken.len(), standin.count()), (1, 1), "it was stored, so we know that it was");
}

#[tokio::test]
async fn the_preferred_address_is_returned_to_when_it_answers_again() {
    let (first, second) = (StandIn::start(), StandIn::start());
    let at = first.addr();
    drop(first);
    let mut both = options(&[at, second.addr()]);
    both.return_after = Duration::from_millis(100);
    let mut driver = Driver::new(both);
    let refused = driver.connect(0, PATIENCE).await.unwrap_err();
    assert!(refused.contains(&at.to_string()), "{refused}");
    driver.connect(1, PATIENCE).await.unwrap();
    assert_eq!(acked(&driver.deliver([outgoing(1)]).await), [1]);
    let _back = StandIn::start_at(at);
    let (end, _) = driver.down().await;
    assert!(matches!(&end, UplinkEvent::Unavailable { cause, .. } if cause.contains("preferred")), "{end:?}");
    driver.up().await;
}

#[tokio::test]
async fn too_fast_is_slowed_down_and_nothing_is_lost() {
    let standin = StandIn::start();
    let mut driver = Driver::new(options(&[standin.addr()]));
    driver.up().await;
    standin.script((0..30).map(|_| code(21, "speed over limit")));
    let mut waiting: BTreeSet<u64> = (1..=200).collect();
    while !waiting.is_empty() {
        let events = driver.deliver(waiting.iter().copied().map(outgoing)).await;
        assert!(failed(&events).iter().all(|(_, class, _)| *class == Class::Retry));
        acked(&events).iter().for_each(|n| assert!(waiting.remove(n)));
    }
    assert_eq!((standin.count(), driver.uplink.counters().read().overloads), (200, 30));
}

#[tokio::test]
async fn sizes_are_known_before_sending() {
    let standin = StandIn::start();
    let mut large = options(&[standin.addr()]);
    large.message_max_bytes = 5_000_000;
    let payload = |bytes: usize| Bytes::from(vec![0xff; bytes]);
    let mut driver = Driver::new(large);
    driver.up().await;
    assert_eq!(acked(&driver.deliver([outgoing_with(1, payload(3_900_000), None)]).await), [1]);
    let events = driver.deliver([outgoing_with(2, payload(4_200_000), None)]).await;
    assert!(
        matches!(&failed(&events)[..], [(2, Class::Reject, reason)] if reason.contains("exceeds")),
        "{events:?}"
    );
    let mut driver = Driver::new(options(&[standin.addr()]));
    driver.up().await;
    let events = driver.deliver([outgoing_with(3, payload(4_200_000), None)]).await;
    assert!(
        matches!(&failed(&events)[..], [(3, Class::Reject, reason)] if reason.contains("message_max")),
        "{events:?}"
    );
    assert_eq!(standin.count(), 1);
}

#[tokio::test]
async fn a_black_hole_is_noticed_with_and_without_something_to_send() {
    let standin = StandIn::start();
    let proxy = Proxy::start(standin.addr()).await.unwrap();
    for sends in [false, true] {
        let mut quick = options(&[proxy.addr()]);
        quick.keep_alive = Duration::from_millis(400);
        let mut driver = Driver::new(quick);
        driver.up().await;
        proxy.set(Link::Hangs);
        if sends {
            driver.uplink.send(outgoing(1));
        }
        let (end, taken) = driver.down().await;
        assert!(
            matches!(&end, UplinkEvent::Down { cause } if cause.contains("nothing was heard")),
            "{end:?}"
        );
        assert!(taken.is_empty());
        proxy.set(Link::Works);
    }
}

#[tokio::test]
async fn a_quiet_connection_is_kept_alive() {
    let standin = StandIn::start();
    let mut quick = options(&[standin.addr()]);
    quick.keep_alive = Duration::from_millis(100);
    let mut driver = Driver::new(quick);
    driver.up().await;
    // Each question is a heartbeat, which asks the runtime and not only its socket.
    driver.while_waiting(until(&standin, |s| s.counts().0 >= 6)).await;
    assert!(driver.events.is_empty(), "{:?}", driver.events);
}

#[tokio::test]
async fn refused_hanging_and_reset_connections_have_their_causes() {
    let standin = StandIn::start();
    let proxy = Proxy::start(standin.addr()).await.unwrap();
    let mut driver = Driver::new(options(&[proxy.addr()]));
    driver.up().await;
    proxy.set(Link::Resets);
    let (end, _) = driver.down().await;
    assert!(matches!(end, UplinkEvent::Down { .. }), "{end:?}");
    assert!(driver.connect(0, PATIENCE).await.is_err());
    proxy.set(Link::Hangs);
    let hanging = driver.connect(0, Duration::from_millis(200)).await.unwrap_err();
    assert!(hanging.contains("no answer within 200ms"), "{hanging}");
    proxy.set(Link::Works);
    driver.up().await;
    assert_eq!(acked(&driver.deliver([outgoing(1)]).await), [1]);
    // A port that is no EventMesh.
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = other.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = other.accept().await {
            let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
            drop(tokio::io::AsyncWriteExt::write_all(&mut socket, answer).await);
        }
    });
    let wrong = Driver::new(options(&[at])).connect(0, PATIENCE).await.unwrap_err();
    assert!(wrong.contains("is it an EventMesh gRPC port"), "{wrong}");
}

#[tokio::test]
async fn closing_says_goodbye_within_its_time() {
    let standin = StandIn::start();
    let mut driver = Driver::new(options(&[standin.addr()]));
    driver.up().await;
    driver.deliver([outgoing(1)]).await;
    tokio::time::timeout(PATIENCE, driver.uplink.close(Duration::from_secs(5))).await.unwrap();
}
