//! Reason strings (sections 3.1.2.11.7, 4.12 and 4.13), server redirection (4.11).

use eventmesh_edge_conformance::packet::text_of;
use eventmesh_edge_conformance::wire::{self, PUBACK, PUBCOMP, PUBREC, PUBREL, Version::*, property, props};
use eventmesh_edge_conformance::{Connect, Node, Packet, Publish};

fn problem_info(wanted: u8) -> Vec<u8> {
    props::byte(property::REQUEST_PROBLEM_INFO, wanted)
}

#[tokio::test]
async fn reason_strings_come_where_the_client_wants_them() {
    let node = Node::start().await;
    for (connect, in_acks) in [
        (Connect::new(V5, "a"), true),
        (Connect::new(V5, "a").with(problem_info(1)), true),
        (Connect::new(V5, "a").with(problem_info(0)), false),
    ] {
        let mut client = node.connect(&connect).await;
        let forbidden = Publish::new("$SYS/broker/uptime", "0");
        client.send(&forbidden.clone().qos(1, 5).encode(V5)).await;
        let puback = client.expect_ack(PUBACK, 5, 0x87).await;
        client.send(&forbidden.qos(2, 6).encode(V5)).await;
        let pubrec = client.expect_ack(PUBREC, 6, 0x87).await;
        client.send(&wire::ack(PUBREL, 7)).await;
        let pubcomp = client.expect_ack(PUBCOMP, 7, 0x92).await;
        client.send(&wire::ack(PUBREC, 8)).await;
        let pubrel = client.expect_ack(PUBREL, 8, 0x92).await;
        for (properties, words) in [
            (puback, "not authorized"),
            (pubrec, "not authorized"),
            (pubcomp, "packet identifier not found"),
            (pubrel, "packet identifier not found"),
        ] {
            assert_eq!(text_of(&properties, property::REASON_STRING), in_acks.then_some(words));
        }
        // A success has nothing to explain.
        client.send(&Publish::new("t", "m").qos(1, 9).encode(V5)).await;
        assert!(client.expect_ack(PUBACK, 9, 0).await.is_empty());
        // DISCONNECT may always say it.
        client.send(&[0xF0, 0]).await;
        let end = client.expect_end(0x82).await;
        assert_eq!(text_of(&end, property::REASON_STRING), Some("protocol error"));
    }
}

/// One byte less than the packet with its words takes, and the packet comes without them.
#[tokio::test]
async fn a_reason_string_keeps_to_the_clients_maximum_packet_size() {
    let node = Node::with(|setup| setup.password = true).await;
    let connect = |maximum: usize| {
        Connect::new(V5, "a").with(props::four(property::MAXIMUM_PACKET_SIZE, maximum as u32))
    };
    let said = |properties| text_of(&properties, property::REASON_STRING).is_some();
    for fits in [true, false] {
        let room = |head: usize, words: &str| head + 3 + words.len() - usize::from(!fits);
        let mut client = node.open(V5).await;
        let answer = client.connect(&connect(room(5, "bad user name or password")).login("u", "guess")).await;
        let Some(Packet::ConnAck { code: 0x86, properties, .. }) = answer else { panic!("{answer:?}") };
        assert_eq!(said(properties), fits, "CONNACK");
        client.expect_closed().await;
        let words = room(6, "packet identifier not found");
        let mut client = node.connect(&connect(words.max(50)).login("u", "open sesame")).await;
        client.send(&wire::ack(PUBREL, 7)).await;
        assert!(said(client.expect_ack(PUBCOMP, 7, 0x92).await));
        let mut client = node.open(V5).await;
        let answer = client.connect(&connect(words).login("u", "open sesame")).await;
        assert!(
            matches!(answer, Some(Packet::ConnAck { code: 0, .. })),
            "the limits of the node have to be told"
        );
        client.send(&wire::ack(PUBREL, 7)).await;
        assert_eq!(said(client.expect_ack(PUBCOMP, 7, 0x92).await), fits, "PUBCOMP");
        for (qos, kind) in [(1, PUBACK), (2, PUBREC)] {
            let mut client =
                node.connect(&connect(room(6, "not authorized")).login("u", "open sesame")).await;
            client.send(&Publish::new("$SYS/x", "m").qos(qos, 5).encode(V5)).await;
            assert_eq!(said(client.expect_ack(kind, 5, 0x87).await), fits, "{kind:#x}");
        }
    }
}

#[tokio::test]
async fn a_full_listener_sends_clients_to_another_server() {
    let node = Node::with(|setup| {
        setup.listener.connections_max = 1;
        setup.listener.limits.redirect_to = Some("gateway-2.example:8883".into());
    })
    .await;
    let mut only = node.client(V5, "only").await;
    let mut more = node.open(V5).await;
    let answer = more.connect(&Connect::new(V5, "more")).await;
    let Some(Packet::ConnAck { code: 0x9C, properties, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(text_of(&properties, property::SERVER_REFERENCE), Some("gateway-2.example:8883"));
    more.expect_closed().await;
    let mut old = node.open(V311).await;
    let answer = old.connect(&Connect::new(V311, "old")).await;
    assert!(matches!(answer, Some(Packet::ConnAck { code: 3, .. })), "{answer:?}");
    old.expect_closed().await;
    // So does a node that stops.
    let stopping = tokio::spawn(node.stop());
    let end = only.expect_end(0x9C).await;
    assert_eq!(text_of(&end, property::SERVER_REFERENCE), Some("gateway-2.example:8883"));
    stopping.await.unwrap();
}

#[tokio::test]
async fn a_listener_that_has_moved_lets_nobody_in() {
    let node = Node::with(|setup| {
        setup.listener.limits.redirect_to = Some("new.example".into());
        setup.listener.limits.redirect_all = true;
    })
    .await;
    let mut client = node.open(V5).await;
    let answer = client.connect(&Connect::new(V5, "a")).await;
    let Some(Packet::ConnAck { code: 0x9D, properties, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(text_of(&properties, property::SERVER_REFERENCE), Some("new.example"));
    client.expect_closed().await;
}
