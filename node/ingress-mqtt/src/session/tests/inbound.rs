//! What clients publish and subscribe to: P1, the QoS flows, resends.

use super::*;
use crate::testing::{WALL, full};
use eventmesh_edge_core::event::{Qos, Timestamp, Via};
use eventmesh_edge_core::ports::store::Table;

#[test]
fn puback_comes_from_the_commit_and_from_nowhere_else() {
    for connect in [clean(V3, "c"), kept(V3, "c"), clean(V5, "c"), kept(V5, "c")] {
        let node = Node::new();
        let mut peer = node.connect(&connect);
        node.hub.set_auto(false);
        peer.publish("t", 1, 7, "x");
        assert_eq!(peer.received(), [], "P1");
        assert!(!peer.machine.wants_read(), "back-pressure");
        node.hub.complete_all();
        let code = if connect.version.is_v5() { 0x10 } else { 0 };
        assert_eq!(peer.received(), [Sent::PubAck(7, code)]);
        assert!(peer.machine.wants_read());
    }
}

#[test]
fn one_read_is_one_submission_and_its_answers_come_in_order() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    node.hub.set_auto(false);
    let read = [
        wire::publish(V3, "a", 0, 0, false, "0"),
        wire::publish(V3, "b", 1, 1, false, "1"),
        wire::subscribe(V3, 2, &[("x/#", 1)]),
        wire::publish(V3, "c", 2, 3, false, "2"),
        wire::PINGREQ.to_vec(),
        wire::unsubscribe(V3, 4, &["x/#"]),
        wire::ack(0x62, 55),
    ];
    peer.send(&read.concat());
    assert_eq!(node.hub.held(), 1);
    assert_eq!(peer.received(), [Sent::PingResp], "a ping waits for nobody");
    node.hub.complete_all();
    assert_eq!(node.hub.payloads(), ["0", "1", "2"]);
    assert_eq!(
        peer.received(),
        [
            Sent::PubAck(1, 0),
            Sent::SubAck(2, vec![1]),
            Sent::PubRec(3, 0),
            Sent::UnsubAck(4, vec![]),
            Sent::PubComp(55, 0)
        ]
    );
}

#[test]
fn a_batch_is_bounded_in_bytes_whatever_a_topic_alias_stands_for() {
    let node = Node::new();
    let mut peer = node.connect(&clean(V5, "c"));
    let topic = "t".repeat(60_000);
    let alias = [0x23, 0, 1];
    let mut read = wire::publish_with(V5, &topic, 0, 0, false, "x", &alias);
    for _ in 0..100 {
        read.extend(wire::publish_with(V5, "", 0, 0, false, "x", &alias));
    }
    node.hub.set_auto(false);
    peer.send(&read);
    node.hub.complete_all();
    assert_eq!(node.hub.payloads().len(), 5, "the rest is read when these are stored");
}

#[test]
fn an_event_carries_what_was_received() {
    let node = Node::new();
    let mut peer = node.connect(&clean(V5, "c"));
    let expiry = [0x02, 0, 0, 0, 60];
    peer.send(&wire::publish_with(V5, "plänt/🚀", 1, 1, false, "21.5", &expiry));
    let event = node.hub.published().remove(0);
    assert_eq!((&*event.topic, &event.payload[..], event.qos), ("plänt/🚀", &b"21.5"[..], Qos::AtLeastOnce));
    assert_eq!((event.via, event.received, event.time), (Via::Mqtt5, WALL, Some(WALL)));
    assert_eq!(event.expires, Some(Timestamp(WALL.0 + 60_000)));
    // Nothing is dated or expires by a clock that is not set.
    node.clock.set_wall(Timestamp(1000));
    peer.send(&wire::publish_with(V5, "t", 1, 2, false, "x", &expiry));
    let event = node.hub.published().remove(1);
    assert_eq!((event.time, event.expires, event.received), (None, None, Timestamp(1000)));
}

#[test]
fn qos_2_stores_a_message_once() {
    for connect in [clean(V5, "c"), kept(V5, "c"), kept(V3, "c")] {
        let node = Node::new();
        let mut peer = node.connect(&connect);
        peer.publish("t", 2, 5, "x");
        peer.received();
        peer.resend("t", 2, 5, "x");
        assert_eq!(peer.received(), [Sent::PubRec(5, 0)]);
        assert_eq!(node.hub.payloads(), ["x"]);
        node.hub.set_auto(false);
        peer.send(&wire::ack(0x62, 5));
        if connect.clean {
            assert_eq!(peer.received(), [Sent::PubComp(5, 0)], "nothing of it is durable");
        } else {
            assert_eq!(peer.received(), [], "the release of an identifier is state too (P1)");
            node.hub.complete_all();
            assert_eq!(peer.received(), [Sent::PubComp(5, 0)]);
        }
        node.hub.set_auto(true);
        // Released: the identifier is new.
        peer.publish("t", 2, 5, "x");
        assert_eq!(node.hub.payloads(), ["x", "x"]);
        assert!(matches!(peer.received()[..], [Sent::PubRec(5, _)]));
        peer.send(&wire::ack(0x62, 77));
        let unknown = if connect.version.is_v5() { 0x92 } else { 0 };
        assert_eq!(peer.received(), [Sent::PubComp(77, unknown)]);
    }
}

#[test]
fn qos_2_survives_a_reconnect_and_a_restart() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.publish("t", 2, 5, "x");
    // PUBREC is lost with the connection.
    peer.cut();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.resend("t", 2, 5, "x");
    assert_eq!(peer.received(), [Sent::PubRec(5, 0)]);
    // Then the node is killed.
    let node = node.restart();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.resend("t", 2, 5, "x");
    assert_eq!(peer.received(), [Sent::PubRec(5, 0)]);
    assert_eq!(node.hub.payloads(), ["x"], "exactly once");
    peer.send(&wire::ack(0x62, 5));
    assert_eq!(peer.received(), [Sent::PubComp(5, 0)]);
    assert!(node.hub.rows(Table::Inbound).is_empty());
}

#[test]
fn another_message_under_a_qos_2_identifier_is_not_swallowed() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.publish("t", 2, 5, "x");
    peer.publish("t", 2, 5, "y");
    assert_eq!(node.hub.payloads(), ["x", "y"], "the client lost its state: P2 comes first");
}

#[test]
fn a_resend_before_our_puback_maps_to_the_stored_position() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    node.hub.set_auto(false);
    peer.publish("t", 1, 9, "x");
    peer.cut();
    node.hub.set_auto(true);
    assert_eq!(node.hub.payloads(), ["x"]);
    let mut peer = node.connect(&kept(V3, "c"));
    peer.resend("t", 1, 9, "x");
    assert_eq!(peer.received(), [Sent::PubAck(9, 0)]);
    assert_eq!(node.hub.payloads(), ["x"], "P3");
    // Now it was answered. [MQTT-4.3.2-5]
    peer.resend("t", 1, 9, "x");
    assert_eq!(node.hub.payloads(), ["x", "x"]);
}

#[test]
fn a_resend_after_a_restart_maps_to_the_stored_position_for_a_client_that_counts() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.flush = false;
    peer.publish("t", 1, 3009, "x");
    peer.publish("t", 1, 3010, "y");
    let node = node.restart();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.resend("t", 1, 3009, "x");
    peer.resend("t", 1, 3010, "something else");
    peer.publish("t", 1, 3011, "x");
    assert_eq!(node.hub.payloads(), ["x", "y", "something else", "x"]);
}

/// The client got its PUBACK and used the identifier again, for the same content; then the node was killed before it
/// had stored that. Its resend is another message.
#[test]
fn a_resend_after_a_restart_is_never_taken_for_an_answered_message() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.publish("t", 1, 1, "21.5");
    assert_eq!(peer.received(), [Sent::PubAck(1, 0)]);
    node.hub.set_auto(false);
    peer.publish("t", 1, 1, "21.5");
    let node = node.restart();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.resend("t", 1, 1, "21.5");
    assert_eq!(peer.received(), [Sent::PubAck(1, 0)]);
    assert_eq!(node.hub.payloads(), ["21.5", "21.5"], "P2");
}

/// The client got the PUBACK although the node does not know it. 65,535 messages later the identifier comes again, and the
/// connection breaks before the node has read it: its resend is another message, whatever it looks like.
#[test]
fn what_a_returning_client_does_not_send_again_it_will_never_send_again() {
    for restart in [false, true] {
        let node = Node::new();
        let mut peer = node.connect(&kept(V3, "c"));
        peer.flush = false;
        peer.publish("t", 1, 3009, "alive");
        assert_eq!(peer.received(), [Sent::PubAck(3009, 0)]);
        peer.cut();
        let node = if restart { node.restart() } else { node };
        let mut peer = node.connect(&kept(V3, "c"));
        peer.publish("t", 1, 3010, "alive");
        assert_eq!(peer.received(), [Sent::PubAck(3010, 0)]);
        peer.cut();
        assert!(node.hub.rows(Table::Inbound).is_empty(), "{restart}");
        let mut peer = node.connect(&kept(V3, "c"));
        peer.resend("t", 1, 3009, "alive");
        assert_eq!(peer.received(), [Sent::PubAck(3009, 0)]);
        assert_eq!(node.hub.payloads().len(), 3, "P2, {restart}");
    }
}

#[test]
fn what_is_sent_again_is_known_also_behind_new_messages_of_the_same_read() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.flush = false;
    peer.publish("t", 1, 1, "a");
    peer.cut();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.flush = false;
    peer.send(&[wire::publish(V3, "t", 1, 1, true, "a"), wire::publish(V3, "t", 1, 2, false, "b")].concat());
    peer.cut();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.resend("t", 1, 1, "a");
    peer.resend("t", 1, 2, "b");
    assert_eq!(peer.received(), [Sent::PubAck(1, 0), Sent::PubAck(2, 0)]);
    assert_eq!(node.hub.payloads(), ["a", "b"], "P3");
}

#[test]
fn a_batch_is_bounded_in_messages() {
    let mut node = Node::on(ScriptedHub::new());
    node.limits.receive_maximum = 2;
    let mut peer = node.accept();
    peer.send(&clean(V3, "c").encode());
    let read: Vec<u8> = (1..=5).flat_map(|pid| wire::publish(V3, "t", 1, pid, false, "x")).collect();
    peer.send(&read); // the shell keeps the rest
    assert!(!peer.machine.wants_read());
    node.hub.complete_all();
    assert_eq!(node.hub.payloads().len(), 3);
    peer.settle();
    assert!(peer.machine.wants_read());
}

#[test]
fn a_puback_that_the_socket_did_not_take_was_not_sent() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.flush = false;
    peer.publish("t", 1, 9, "x");
    assert_eq!(peer.received(), [Sent::PubAck(9, 0)]);
    peer.cut();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.resend("t", 1, 9, "x");
    assert_eq!(node.hub.payloads(), ["x"]);
}

#[test]
fn answered_identifiers_leave_the_store_in_company() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.publish("t", 1, 3000, "x");
    peer.received();
    assert_eq!(node.hub.rows(Table::Inbound).len(), 1, "not at once");
    peer.publish("t", 1, 3000, "y");
    assert_eq!(node.hub.rows(Table::Inbound).len(), 1, "gone with the next submission, and put again by it");
    peer.received();
    node.advance(1);
    peer.tick();
    assert!(node.hub.rows(Table::Inbound).is_empty(), "or after a moment");
}

#[test]
fn a_session_that_is_not_kept_keeps_nothing_in_the_store() {
    let node = Node::new();
    let mut peer = node.connect(&clean(V3, "c"));
    peer.publish("t", 1, 1, "x");
    peer.publish("t", 2, 2, "x");
    peer.subscribe("a/#", 1);
    for table in [Table::Session, Table::Subscription, Table::Inbound, Table::Outbound] {
        assert!(node.hub.rows(table).is_empty(), "{table:?}");
    }
}

#[test]
fn a_full_stream_makes_the_answer_late() {
    let node = Node::on(ScriptedHub::new());
    let mut peer = node.accept();
    peer.send(&clean(V5, "c").encode());
    peer.received();
    peer.publish("t", 1, 1, "x");
    // The hub holds the submission; deliveries and the end of the connection go on.
    assert!(!peer.machine.wants_read());
    assert_eq!(peer.received(), []);
    node.advance(61);
    peer.tick();
    assert_eq!(peer.closed, None, "its silence is ours: nobody reads");
    node.hub.complete_all();
    assert_eq!(peer.received(), [Sent::PubAck(1, 0x10)]);
    node.advance(80);
    peer.tick();
    assert_eq!(peer.closed, None, "keep alive counts from then on");
    node.advance(11);
    peer.tick();
    assert_eq!(peer.closed, Some(Reason::KeepAliveTimeout));
}

#[test]
fn a_listener_may_reject_instead() {
    let mut node = Node::new();
    node.limits.when_full = super::super::WhenFull::Reject;
    let mut peer = node.connect(&kept(V5, "c"));
    node.hub.fail_next(full());
    let read = [
        wire::publish(V5, "a", 1, 1, false, "1"),
        wire::subscribe(V5, 2, &[("x", 1)]),
        wire::publish(V5, "b", 2, 3, false, "2"),
    ];
    peer.send(&read.concat());
    assert_eq!(
        peer.received(),
        [Sent::PubAck(1, 0x97), Sent::SubAck(2, vec![1]), Sent::PubRec(3, 0x97)],
        "what is not a publication is stored all the same"
    );
    assert!(node.hub.payloads().is_empty());
    assert_eq!(node.hub.rows(Table::Subscription).len(), 1);
    assert!(node.hub.rows(Table::Inbound).is_empty());
    // The identifiers are free.
    peer.publish("a", 1, 1, "1");
    peer.publish("b", 2, 3, "2");
    assert_eq!(node.hub.payloads(), ["1", "2"]);

    let mut old = node.connect(&clean(V3, "d"));
    node.hub.fail_next(full());
    old.publish("a", 1, 1, "x");
    assert_eq!(old.received(), [], "3.x has no code for it");
    assert_eq!(old.closed, Some(Reason::QuotaExceeded));
}

#[test]
fn a_repetition_of_what_a_full_stream_refuses_is_refused_too() {
    let mut node = Node::new();
    node.limits.when_full = super::super::WhenFull::Reject;
    let mut peer = node.connect(&kept(V5, "c"));
    for qos in [1, 2] {
        node.hub.fail_next(full());
        let repeated =
            [wire::publish(V5, "a", qos, 1, false, "1"), wire::publish(V5, "a", qos, 1, true, "1")];
        peer.send(&repeated.concat());
        let refused = if qos == 1 { Sent::PubAck(1, 0x97) } else { Sent::PubRec(1, 0x97) };
        assert_eq!(peer.received(), [refused.clone(), refused], "P1");
    }
}

#[test]
fn a_failed_commit_is_not_answered() {
    for version in [V3, V5] {
        let node = Node::new();
        let mut peer = node.connect(&kept(version, "c"));
        node.hub.fail_next(eventmesh_edge_core::ports::store::CommitError::Io(Arc::new(
            std::io::ErrorKind::StorageFull.into(),
        )));
        let read = [wire::publish(version, "a", 1, 1, false, "1"), wire::subscribe(version, 2, &[("x", 1)])]
            .concat();
        peer.send(&read);
        let goodbye = if version.is_v5() { vec![Sent::Disconnect(0x80)] } else { vec![] };
        assert_eq!(peer.received(), goodbye);
        assert_eq!(node.hub.subscription_count(), 0, "nor is its subscription kept");
        let mut peer = node.connect(&kept(version, "c"));
        peer.resend("a", 1, 1, "1");
        assert_eq!(node.hub.payloads(), ["1"], "the resend is stored: the first was not");
    }
}

#[test]
fn aliases_stand_for_topics_within_their_bounds() {
    let node = Node::new();
    let mut peer = node.connect(&clean(V5, "c"));
    let with = |topic: &str, alias: u16| {
        let properties = [vec![0x23], alias.to_be_bytes().to_vec()].concat();
        wire::publish_with(V5, topic, 0, 0, false, "x", &properties)
    };
    peer.send(&with("a/é", 16));
    peer.send(&with("", 16));
    peer.send(&with("b", 16));
    peer.send(&with("", 16));
    let topics: Vec<_> = node.hub.published().iter().map(|e| e.topic.to_string()).collect();
    assert_eq!(topics, ["a/é", "a/é", "b", "b"]);
    for (bytes, code) in [(with("a", 17), 0x94), (with("", 3), 0x82)] {
        let mut peer = node.connect(&clean(V5, "d"));
        peer.send(&bytes);
        assert_eq!(peer.received(), [Sent::Disconnect(code)]);
    }
}

#[test]
fn the_receive_maximum_is_enforced() {
    let mut node = Node::new();
    node.limits.receive_maximum = 2;
    for (qos, connect) in [(1, clean(V5, "c")), (2, clean(V5, "c")), (1, kept(V5, "k")), (2, kept(V5, "k"))] {
        let mut peer = node.connect(&connect);
        let publish = |pid| wire::publish(V5, "t", qos, pid, false, "x");
        peer.send(&[publish(1), publish(2), publish(3)].concat());
        assert_eq!(peer.received().last(), Some(&Sent::Disconnect(0x93)), "{qos}");
    }
    let mut peer = node.connect(&clean(V5, "d"));
    for pid in 1..10 {
        peer.publish("t", 1, pid, "x");
        assert_eq!(peer.received(), [Sent::PubAck(pid, 0x10)], "answered ones do not count");
    }
}

#[test]
fn an_oversized_payload_ends_the_connection() {
    let mut node = Node::new();
    node.limits.payload_max_bytes = 10;
    let mut peer = node.connect(&clean(V5, "c"));
    peer.publish("t", 1, 1, "0123456789");
    assert_eq!(peer.received(), [Sent::PubAck(1, 0x10)]);
    peer.publish("t", 1, 1, "0123456789a");
    assert_eq!(peer.received(), [Sent::Disconnect(0x95)]);
}

#[test]
fn subscriptions_are_granted_or_refused_one_by_one() {
    for (version, invalid) in [(V5, 0x8F), (V3, 0x80)] {
        let node = Node::new();
        let mut peer = node.connect(&clean(version, "c"));
        let filters = [("a/+/é", 0), ("a/#/b", 1), ("#", 2), ("$share/g/x", 1)];
        peer.send(&wire::subscribe(version, 7, &filters));
        assert_eq!(peer.received(), [Sent::SubAck(7, vec![0, invalid, 2, 1])]);
        peer.send(&wire::unsubscribe(version, 8, &["a/+/é", "never", "a/#/b"]));
        let codes = if version.is_v5() { vec![0, 0x11, 0x8F] } else { vec![] };
        assert_eq!(peer.received(), [Sent::UnsubAck(8, codes)]);
        assert_eq!(node.hub.subscription_count(), 2);
    }
}

#[test]
fn the_number_of_subscriptions_is_bounded() {
    let mut node = Node::new();
    node.limits.subscriptions_max = 1;
    let mut peer = node.connect(&clean(V5, "c"));
    peer.send(&wire::subscribe(V5, 7, &[("a", 0), ("b", 0), ("a", 1)]));
    assert_eq!(peer.received(), [Sent::SubAck(7, vec![0, 0x97, 1])]);
}

#[test]
fn suback_of_a_kept_session_waits_for_the_store() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    node.hub.set_auto(false);
    peer.send(&wire::subscribe(V3, 1, &[("a", 1)]));
    assert_eq!(peer.received(), [], "P1");
    node.hub.complete_all();
    assert_eq!(peer.received(), [Sent::SubAck(1, vec![1])]);
    peer.send(&wire::unsubscribe(V3, 2, &["a"]));
    assert_eq!(peer.received(), []);
    node.hub.complete_all();
    assert_eq!(peer.received(), [Sent::UnsubAck(2, vec![])]);
}

#[test]
fn what_follows_a_subscription_in_one_read_is_matched_by_it() {
    let node = Node::new();
    let mut peer = node.connect(&clean(V3, "c"));
    let read = [wire::subscribe(V3, 1, &[("a", 0)]), wire::publish(V3, "a", 0, 0, false, "x")];
    peer.send(&read.concat());
    let received = peer.received();
    assert!(received.contains(&message("a", "x", 0, 0)), "{received:?}");
}

#[test]
fn an_auth_packet_is_out_of_place() {
    let node = Node::new();
    let mut peer = node.connect(&clean(V5, "c"));
    peer.send(&[0xF0, 0]);
    assert_eq!(peer.received(), [Sent::Disconnect(0x82)]);
}

/// What the client does not know to be durable is as before: subscribed where it was, with the options it had.
#[test]
fn a_failed_commit_leaves_subscriptions_as_they_were() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V5, "c"));
    peer.subscribe("stays", 1);
    peer.subscribe("changes", 2);
    node.hub.fail_next(full());
    let read = [
        wire::unsubscribe(V5, 1, &["stays", "never"]),
        wire::subscribe(V5, 2, &[("changes", 0), ("new", 1)]),
        wire::unsubscribe(V5, 3, &["new"]),
        wire::subscribe(V5, 4, &[("stays", 0)]),
    ];
    peer.send(&read.concat());
    assert!(peer.closed.is_some() && peer.received().iter().all(|sent| matches!(sent, Sent::Disconnect(_))));
    let mut peer = node.connect(&kept(V5, "c"));
    let mut other = node.connect(&clean(V5, "other"));
    for topic in ["stays", "changes", "new"] {
        other.publish(topic, 2, 7, topic);
        other.send(&wire::ack(0x62, 7));
    }
    let got: Vec<(String, u8)> = peer
        .received()
        .into_iter()
        .filter_map(|sent| match sent {
            Sent::Publish { topic, qos, .. } => Some((topic, qos)),
            _ => None,
        })
        .collect();
    assert_eq!(got, [("stays".to_owned(), 1), ("changes".to_owned(), 2)]);
    assert_eq!(node.hub.rows(Table::Subscription).len(), 2);
}

/// A batch that was stored in part is answered in part: a QoS 2 message that is stored is known when it comes again.
#[test]
fn what_was_stored_of_a_batch_is_answered_although_the_rest_failed() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V5, "c"));
    node.hub.cut_next(2);
    let read = [
        wire::publish(V5, "a", 2, 1, false, "1"),
        wire::publish(V5, "a", 1, 2, false, "2"),
        wire::publish(V5, "a", 2, 3, false, "3"),
        wire::subscribe(V5, 4, &[("x", 1)]),
    ];
    peer.send(&read.concat());
    assert_eq!(peer.received(), [Sent::PubRec(1, 0x10), Sent::PubAck(2, 0x10), Sent::Disconnect(0x97)]);
    assert_eq!(node.hub.subscription_count(), 0);
    let mut peer = node.connect(&kept(V5, "c"));
    peer.resend("a", 2, 1, "1");
    peer.resend("a", 2, 3, "3");
    assert_eq!(peer.received(), [Sent::PubRec(1, 0), Sent::PubRec(3, 0x10)]);
    assert_eq!(node.hub.payloads(), ["1", "2", "3"], "each once");
}

/// A ring of nodes ends where it began: what carries this node's mark is answered, counted and not stored again.
#[test]
fn a_message_that_has_passed_through_this_node_is_answered_and_dropped() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V5, "neighbour"));
    let via = |hops: &str| [vec![0x26], wire::text("edgevia"), wire::text(hops)].concat();
    let publish = |qos, pid, hops: &str| wire::publish_with(V5, "t", qos, pid, false, hops, &via(hops));
    peer.send(&publish(0, 0, "plant-7 other"));
    peer.send(&publish(1, 1, "other plant-7"));
    peer.send(&publish(2, 2, "plant-7"));
    peer.send(&publish(1, 3, "other plant-70"));
    peer.send(&wire::ack(0x62, 2));
    assert_eq!(
        peer.received(),
        [Sent::PubAck(1, 0), Sent::PubRec(2, 0), Sent::PubAck(3, 0x10), Sent::PubComp(2, 0)]
    );
    assert_eq!(node.hub.payloads(), ["other plant-70"]);
    assert_eq!(node.sessions.stats().snapshot().loops_dropped, 3);
    assert_eq!(node.sessions.stats().snapshot().published, 1);
}
