//! Topic names and filters, topic aliases (sections 4.7 and 3.3.2.3.4), topics that begin with `$`.

use eventmesh_edge_conformance::packet::number;
use eventmesh_edge_conformance::wire::{BOTH, Version::*, property, props};
use eventmesh_edge_conformance::{Connect, Node, Publish};

#[tokio::test]
async fn filters_match_as_the_standard_says() {
    let node = Node::start().await;
    for version in BOTH {
        for (filter, matching, other) in [
            (
                "sport/tennis/#",
                &["sport/tennis", "sport/tennis/a", "sport/tennis/a/b", "sport/tennis/"][..],
                &["sport", "sport/tennisx"][..],
            ),
            ("sport/+", &["sport/a", "sport/"], &["sport", "sport/a/b", "sport//"]),
            ("+/+", &["/finance", "a/b", "/"], &["a", "a/b/c"]),
            ("/+", &["/finance"], &["finance", "a/finance"]),
            ("+", &["finance", " "], &["/finance", "finance/"]),
            ("+/tennis/#", &["a/tennis", "/tennis/x"], &["tennis", "a/b/tennis"]),
            ("#", &["a", "/", "a/b/c"], &[]),
            ("Accounts payable", &["Accounts payable"], &["accounts payable", "Accountspayable"]),
            ("e\u{301}", &["e\u{301}"], &["\u{e9}"]),
            ("\u{feff}x", &["\u{feff}x"], &["x"]),
            ("a//b", &["a//b"], &["a/b"]),
        ] {
            let mut client = node.client(version, "a").await;
            client.subscribe(filter, 0).await;
            client.subscribe("last", 0).await;
            let mut publisher = node.client(version, "publisher").await;
            for topic in matching.iter().chain(other) {
                publisher.send(&Publish::new(topic, "m").encode(version)).await;
            }
            publisher.publish(Publish::new("last", "")).await;
            let mut got = Vec::new();
            loop {
                let topic = client.take().await.topic;
                if topic == "last" {
                    break;
                }
                got.push(topic);
            }
            assert_eq!(got, matching, "{filter}");
        }
    }
}

#[tokio::test]
async fn wildcards_at_the_start_do_not_match_topics_that_begin_with_a_dollar() {
    let node = Node::start().await;
    for version in BOTH {
        let mut client = node.client(version, "a").await;
        for filter in ["#", "+/x", "+/#", "+"] {
            client.subscribe(filter, 0).await;
        }
        let mut publisher = node.client(version, "publisher").await;
        publisher.publish(Publish::new("$own/x", "m").qos(1, 0).retain()).await;
        client.expect_nothing().await;
        client.subscribe("#", 0).await;
        client.expect_nothing().await;
        client.subscribe("$own/+", 0).await;
        assert_eq!(client.take().await.content(), ("$own/x", "m"));
        publisher.publish(Publish::new("$own/x", "").retain()).await;
    }
}

#[tokio::test]
async fn topics_may_be_as_long_as_a_text_can_be() {
    let node = Node::start().await;
    let longest = "x/".repeat(32_767) + "y";
    for version in BOTH {
        let mut client = node.client(version, "a").await;
        assert_eq!(client.subscribe(&longest, 1).await, 1);
        client.send(&Publish::new(&longest, "m").encode(version)).await;
        assert_eq!(client.take().await.topic, longest);
    }
}

#[tokio::test]
async fn an_alias_stands_for_the_topic_it_was_given_with() {
    let node = Node::with(|setup| setup.listener.limits.topic_alias_maximum = 3).await;
    let alias = |n| props::two(property::TOPIC_ALIAS, n);
    let mut client = node.client(V5, "a").await;
    client.subscribe("#", 1).await;
    let mut publisher = node.connect(&Connect::kept(V5, "publisher")).await;
    assert_eq!(number(&publisher.connack, property::TOPIC_ALIAS_MAXIMUM), Some(3));
    for (topic, n, expected) in [
        ("one", 1, "one"),
        ("three", 3, "three"),
        ("", 1, "one"),
        ("other", 1, "other"),
        ("", 1, "other"),
        ("", 3, "three"),
    ] {
        publisher.publish(Publish::new(topic, "m").qos(1, 0).with(alias(n))).await;
        assert_eq!(client.take().await.topic, expected);
    }
    publisher.cut().await;
    // Aliases belong to a connection, not to the session.
    let mut publisher = node.connect(&Connect::kept(V5, "publisher")).await;
    publisher.send(&Publish::new("", "m").qos(1, 1).with(alias(1)).encode(V5)).await;
    publisher.expect_end(0x82).await;
    for (topic, n) in [("t", 0), ("t", 4), ("", 4), ("", 0)] {
        let mut publisher = node.client(V5, "publisher").await;
        publisher.send(&Publish::new(topic, "m").with(alias(n)).encode(V5)).await;
        let end = publisher.next().await;
        let told = matches!(
            end,
            Some(eventmesh_edge_conformance::Packet::Disconnect { reason: 0x94 | 0x82 | 0x81, .. })
        );
        assert!(told, "{topic} {n}: {end:?}");
        publisher.expect_closed().await;
    }
    client.expect_nothing().await;
}

#[tokio::test]
async fn a_node_without_aliases_takes_none() {
    let node = Node::with(|setup| setup.listener.limits.topic_alias_maximum = 0).await;
    let mut publisher = node.client(V5, "publisher").await;
    assert_eq!(number(&publisher.connack, property::TOPIC_ALIAS_MAXIMUM).unwrap_or(0), 0);
    publisher.send(&Publish::new("t", "m").with(props::two(property::TOPIC_ALIAS, 1)).encode(V5)).await;
    publisher.expect_end(0x94).await;
}
/// The client's view: an alias comes first with its topic, is in the range that it allowed, and always means the same.
#[tokio::test]
async fn the_node_uses_the_aliases_that_a_client_allows() {
    let node = Node::start().await;
    let maximum = |n| props::two(property::TOPIC_ALIAS_MAXIMUM, n);
    let mut client = node.connect(&Connect::kept(V5, "a").with(maximum(2))).await;
    client.subscribe("topic/#", 1).await;
    let mut publisher = node.client(V5, "publisher").await;
    let mut known = std::collections::HashMap::new();
    let mut without_topic = 0;
    let topics = ["topic/1", "topic/2", "topic/3", "topic/1", "topic/1", "topic/2", "topic/3", "topic/1"];
    for topic in topics {
        publisher.publish(Publish::new(topic, "m").qos(1, 0)).await;
        let got = client.take().await;
        let alias = got.number(property::TOPIC_ALIAS);
        assert!(alias.is_none_or(|n| (1..=2).contains(&n)), "[MQTT-3.3.2-11]");
        if got.topic.is_empty() {
            without_topic += 1;
            assert_eq!(known[&alias.unwrap()], topic);
        } else {
            assert_eq!(got.topic, topic);
            known.extend(alias.map(|n| (n, topic)));
        }
    }
    assert!(without_topic >= 3, "an alias that is never used saves nothing");
    client.cut().await;
    // The next connection knows no alias, and this one allows none.
    let mut back = node.connect(&Connect::kept(V5, "a")).await;
    for topic in topics {
        publisher.publish(Publish::new(topic, "m").qos(1, 0)).await;
        let got = back.take().await;
        assert_eq!((&*got.topic, got.number(property::TOPIC_ALIAS)), (topic, None), "[MQTT-3.1.2-27]");
    }
}
