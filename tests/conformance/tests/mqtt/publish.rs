//! PUBLISH and the exchanges of QoS 0, 1 and 2, both ways (sections 3.3 to 3.7, 4.3, 4.5, 4.6).

use eventmesh_edge_conformance::wire::{
    self, BOTH, PUBACK, PUBCOMP, PUBREC, PUBREL, Version::*, property, props,
};
use eventmesh_edge_conformance::{Connect, Node, Publish};

#[tokio::test]
async fn a_message_arrives_with_the_lower_of_the_two_qos() {
    let node = Node::start().await;
    for version in BOTH {
        let mut publisher = node.client(version, "publisher").await;
        for granted in 0..3 {
            let mut subscriber = node.client(version, "subscriber").await;
            assert_eq!(subscriber.subscribe("q/+", granted).await, granted);
            for published in 0..3 {
                let text = format!("{published} on {granted}");
                publisher.publish(Publish::new("q/1", &text).qos(published, 0)).await;
                let got = subscriber.take().await;
                assert_eq!(got.content(), ("q/1", &*text));
                assert_eq!((got.qos, got.dup, got.retain), (published.min(granted), false, false));
            }
            subscriber.disconnect().await;
        }
    }
}

#[tokio::test]
async fn each_qos_is_answered_as_the_table_says() {
    let node = Node::start().await;
    for version in BOTH {
        let mut client = node.client(version, "a").await;
        client.send(&Publish::new("t", "0").encode(version)).await;
        client.expect_nothing().await;
        client.send(&Publish::new("t", "1").qos(1, 65_535).encode(version)).await;
        client.expect_ack(PUBACK, 65_535, 0).await;
        client.send(&Publish::new("t", "2").qos(2, 1).encode(version)).await;
        client.expect_ack(PUBREC, 1, 0).await;
        client.send(&wire::ack(PUBREL, 1)).await;
        client.expect_ack(PUBCOMP, 1, 0).await;
    }
}

#[tokio::test]
async fn answers_come_in_the_order_of_what_they_answer() {
    let node = Node::start().await;
    for version in BOTH {
        let mut client = node.client(version, "a").await;
        let burst =
            (1..=100u16).flat_map(|n| Publish::new("t", "m").qos(1 + (n % 2) as u8, n).encode(version));
        client.send(&burst.collect::<Vec<u8>>()).await;
        for n in 1..=100 {
            client.expect_ack(if n % 2 == 0 { PUBACK } else { PUBREC }, n, 0).await;
        }
    }
}

#[tokio::test]
async fn after_puback_the_packet_identifier_is_new() {
    let node = Node::start().await;
    for version in BOTH {
        let mut subscriber = node.client(version, "subscriber").await;
        subscriber.subscribe("t", 1).await;
        let mut publisher = node.connect(&Connect::kept(version, "publisher")).await;
        for publish in [
            Publish::new("t", "same").qos(1, 7),
            Publish::new("t", "same").qos(1, 7).dup(),
            Publish::new("t", "same").qos(1, 7),
        ] {
            publisher.publish(publish).await;
            let got = subscriber.take().await;
            // The incoming DUP is not passed on [MQTT-3.3.1-3].
            assert_eq!((got.content(), got.dup), (("t", "same"), false));
        }
        publisher.disconnect().await;
        node.connect(&Connect::new(version, "publisher")).await.disconnect().await;
    }
}

#[tokio::test]
async fn until_pubrel_a_qos_2_message_is_delivered_once() {
    let node = Node::start().await;
    for version in BOTH {
        for kept in [false, true] {
            let mut subscriber = node.client(version, "subscriber").await;
            subscriber.subscribe("t", 2).await;
            let connect = Connect::kept(version, "publisher");
            let connect = if kept { connect } else { Connect::new(version, "publisher") };
            let mut publisher = node.connect(&connect).await;
            let first = Publish::new("t", "once").qos(2, 9);
            publisher.send(&first.encode(version)).await;
            publisher.expect_ack(PUBREC, 9, 0).await;
            publisher.send(&first.clone().dup().encode(version)).await;
            publisher.expect_ack(PUBREC, 9, 0).await;
            if kept {
                publisher.cut().await;
                publisher = node.connect(&connect).await;
                assert!(publisher.session_present);
                publisher.send(&first.clone().dup().encode(version)).await;
                publisher.expect_ack(PUBREC, 9, 0).await;
            }
            publisher.send(&wire::ack(PUBREL, 9)).await;
            publisher.expect_ack(PUBCOMP, 9, 0).await;
            assert_eq!(subscriber.take().await.content(), ("t", "once"));
            subscriber.expect_nothing().await;
            // After PUBCOMP it is a new message.
            publisher.publish(first.dup()).await;
            assert_eq!(subscriber.take().await.content(), ("t", "once"));
            publisher.disconnect().await;
            node.connect(&Connect::new(version, "publisher")).await.disconnect().await;
        }
    }
}

#[tokio::test]
async fn pubrel_is_answered_whatever_its_identifier() {
    let node = Node::start().await;
    let mut old = node.client(V311, "old").await;
    old.send(&wire::ack(PUBREL, 77)).await;
    old.expect_ack(PUBCOMP, 77, 0).await;
    let mut new = node.client(V5, "new").await;
    new.send(&wire::ack(PUBREL, 77)).await;
    new.expect_ack(PUBCOMP, 77, 0x92).await;
    new.send(&wire::ack(PUBREC, 78)).await;
    new.expect_ack(PUBREL, 78, 0x92).await;
}

#[tokio::test]
async fn the_node_sends_qos_2_by_the_protocol() {
    let node = Node::start().await;
    for version in BOTH {
        for kept in [false, true] {
            let connect = Connect::kept(version, "subscriber");
            let connect = if kept { connect } else { Connect::new(version, "subscriber") };
            let mut subscriber = node.connect(&connect).await;
            subscriber.subscribe("t", 2).await;
            let mut publisher = node.client(version, "publisher").await;
            publisher.publish(Publish::new("t", "2").qos(2, 0)).await;
            let got = subscriber.message().await;
            assert_eq!((got.qos, got.dup), (2, false));
            // Not resent while the connection is there, however long it takes [MQTT-4.4.0-1].
            node.advance(3000).await;
            subscriber.expect_nothing().await;
            subscriber.send(&wire::ack(PUBREC, got.pid)).await;
            subscriber.expect_ack(PUBREL, got.pid, 0).await;
            subscriber.send(&wire::ack(PUBREC, got.pid)).await;
            subscriber.expect_ack(PUBREL, got.pid, 0).await;
            subscriber.send(&wire::ack(PUBCOMP, got.pid)).await;
            subscriber.expect_nothing().await;
            subscriber.disconnect().await;
            node.connect(&Connect::new(version, "subscriber")).await.disconnect().await;
        }
    }
}

#[tokio::test]
async fn packet_identifiers_in_use_are_not_given_twice() {
    let node = Node::start().await;
    let mut subscriber = node.client(V5, "subscriber").await;
    subscriber.subscribe("t", 2).await;
    let mut publisher = node.client(V5, "publisher").await;
    let mut seen = Vec::new();
    for n in 0..90u8 {
        publisher.publish(Publish::new("t", "m").qos(1 + n % 2, 0)).await;
        seen.push(subscriber.message().await.pid);
    }
    assert!(!seen.contains(&0));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 90, "all are unanswered, so all have to be different");
    // Answered, they may come again; those that are not, may not.
    for pid in &seen[..45] {
        subscriber.send(&wire::ack_with(PUBACK, *pid, 0)).await;
    }
}

#[tokio::test]
async fn a_failure_code_ends_the_exchange_for_good() {
    let node = Node::start().await;
    for qos in [1, 2] {
        let connect = Connect::kept(V5, "subscriber");
        let mut subscriber = node.connect(&connect).await;
        subscriber.subscribe("t", qos).await;
        let mut publisher = node.client(V5, "publisher").await;
        publisher.publish(Publish::new("t", "unwanted").qos(qos, 0)).await;
        let got = subscriber.message().await;
        let kind = if qos == 1 { PUBACK } else { PUBREC };
        subscriber.send(&wire::ack_with(kind, got.pid, 0x83)).await;
        subscriber.expect_nothing().await; // no PUBREL
        subscriber.disconnect().await;
        let mut again = node.connect(&connect).await;
        assert!(again.session_present);
        again.expect_nothing().await;
        again.disconnect().await;
        node.client(V5, "subscriber").await.disconnect().await;
    }
}

#[tokio::test]
async fn order_is_kept_for_every_subscriber() {
    let node = Node::start().await;
    for version in BOTH {
        let mut subscriber = node.client(version, "subscriber").await;
        subscriber.subscribe("o/#", 2).await;
        let mut publisher = node.client(version, "publisher").await;
        for qos in 0..3u8 {
            let mut burst = Vec::new();
            for n in 0..50u16 {
                burst.extend(Publish::new("o/1", &n.to_string()).qos(qos, 1 + n).encode(version));
            }
            publisher.send(&burst).await;
            for n in 0..50u16 {
                match qos {
                    0 => {}
                    1 => drop(publisher.expect_ack(PUBACK, 1 + n, 0).await),
                    _ => drop(publisher.expect_ack(PUBREC, 1 + n, 0).await),
                }
            }
            for n in 0..50u16 {
                if qos == 2 {
                    publisher.send(&wire::ack(PUBREL, 1 + n)).await;
                    publisher.expect_ack(PUBCOMP, 1 + n, 0).await;
                }
                assert_eq!(subscriber.take().await.payload, n.to_string());
            }
        }
        subscriber.expect_nothing().await;
    }
}

#[tokio::test]
async fn a_message_for_nobody_says_so_to_a_v5_client() {
    let node = Node::with(|setup| setup.stream = false).await;
    let mut new = node.client(V5, "new").await;
    assert_eq!(new.publish(Publish::new("nobody", "m").qos(1, 0)).await, 0x10);
    assert_eq!(new.publish(Publish::new("nobody", "m").qos(2, 0)).await, 0x10);
    let mut old = node.client(V311, "old").await;
    assert_eq!(old.publish(Publish::new("nobody", "m").qos(2, 0)).await, 0);
}

#[tokio::test]
async fn every_session_that_subscribes_gets_it_connected_or_not() {
    let node = Node::start().await;
    for version in BOTH {
        let away = Connect::kept(version, "away");
        let mut client = node.connect(&away).await;
        client.subscribe("t", 1).await;
        client.disconnect().await;
        let mut here = node.client(version, "here").await;
        here.subscribe("t", 1).await;
        let mut publisher = node.client(version, "publisher").await;
        publisher.publish(Publish::new("t", "for both").qos(1, 0)).await;
        assert_eq!(here.take().await.content(), ("t", "for both"));
        let mut back = node.connect(&away).await;
        assert!(back.session_present);
        assert_eq!(back.take().await.content(), ("t", "for both"));
        back.disconnect().await;
        node.client(version, "away").await.disconnect().await;
    }
}

#[tokio::test]
async fn an_expired_qos_2_message_is_still_acknowledged_to_its_end() {
    let node = Node::start().await;
    let mut client = node.connect(&Connect::kept(V5, "a")).await;
    let publish = Publish::new("t", "short").qos(2, 3).with(props::four(property::MESSAGE_EXPIRY, 1));
    client.send(&publish.encode(V5)).await;
    client.expect_ack(PUBREC, 3, 0).await;
    node.advance(10).await;
    client.send(&wire::ack(PUBREL, 3)).await;
    client.expect_ack(PUBCOMP, 3, 0).await;
}

#[tokio::test]
async fn pubrel_comes_in_the_order_of_pubrec() {
    let node = Node::start().await;
    for version in BOTH {
        for connect in [Connect::new(version, "a"), Connect::kept(version, "a").clean(true)] {
            let mut client = node.connect(&connect).await;
            client.subscribe("t", 2).await;
            let mut publisher = node.client(version, "publisher").await;
            let mut pids = Vec::new();
            for _ in 0..10 {
                publisher.publish(Publish::new("t", "m").qos(2, 0)).await;
                pids.push(client.message().await.pid);
            }
            pids.swap(2, 7);
            let recs: Vec<u8> = pids.iter().flat_map(|pid| wire::ack(PUBREC, *pid)).collect();
            client.send(&recs).await;
            for pid in pids {
                client.expect_ack(PUBREL, pid, 0).await;
            }
            client.disconnect().await;
        }
    }
}
