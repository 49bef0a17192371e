//! What clients get: the window, acknowledgements, reconnects, restarts.

use super::*;
use eventmesh_edge_core::ports::store::Table;

fn publish(node: &Node, topic: &str, qos: u8, payload: &str) {
    let mut publisher = node.connect(&clean(V3, "publisher"));
    publisher.publish(topic, qos, 1, payload);
    publisher.send(&wire::DISCONNECT);
}

#[test]
fn each_qos_is_delivered_with_the_lower_of_both() {
    let node = Node::new();
    let mut peer = node.connect(&clean(V3, "c"));
    peer.subscribe("two", 2);
    peer.subscribe("one", 1);
    publish(&node, "two", 0, "a");
    publish(&node, "two", 1, "b");
    publish(&node, "two", 2, "c");
    publish(&node, "one", 2, "d");
    assert_eq!(
        peer.received(),
        [
            message("two", "a", 0, 0),
            message("two", "b", 1, 1),
            message("two", "c", 2, 2),
            message("one", "d", 1, 3)
        ]
    );
    peer.send(&wire::ack(0x40, 1));
    peer.send(&wire::ack(0x50, 2));
    assert_eq!(peer.received(), [Sent::PubRel(2, 0)]);
    peer.send(&wire::ack(0x70, 2));
    peer.send(&wire::ack(0x40, 3));
    assert_eq!(peer.received(), []);
}

#[test]
fn the_clients_receive_maximum_is_the_window() {
    for connect in [clean(V5, "c"), kept(V5, "c")] {
        let node = Node::new();
        let mut peer = node.connect(&Connect {
            properties: [connect.properties.clone(), vec![0x21, 0, 2]].concat(),
            ..connect
        });
        peer.subscribe("t", 1);
        for n in 0..5 {
            publish(&node, "t", 1, &n.to_string());
        }
        assert_eq!(peer.received(), [message("t", "0", 1, 1), message("t", "1", 1, 2)]);
        peer.send(&wire::ack(0x40, 2));
        assert_eq!(peer.received(), [message("t", "2", 1, 3)]);
        peer.send(&[wire::ack(0x40, 1), wire::ack(0x40, 3)].concat());
        assert_eq!(peer.received(), [message("t", "3", 1, 4), message("t", "4", 1, 5)]);
    }
}

#[test]
fn qos_0_passes_a_full_window_only_in_its_turn() {
    let node = Node::new();
    let mut peer = node.connect(&Connect { properties: vec![0x21, 0, 1], ..clean(V5, "c") });
    peer.subscribe("t", 1);
    publish(&node, "t", 1, "a");
    publish(&node, "t", 1, "b");
    publish(&node, "t", 0, "c");
    assert_eq!(peer.received(), [message("t", "a", 1, 1)]);
    peer.send(&wire::ack(0x40, 1));
    assert_eq!(peer.received(), [message("t", "b", 1, 2), message("t", "c", 0, 0)]);
}

#[test]
fn deliveries_go_on_while_a_publish_waits_for_the_store() {
    let node = Node::new();
    let mut peer = node.connect(&clean(V3, "c"));
    peer.subscribe("t", 0);
    let mut other = node.connect(&clean(V3, "d"));
    node.hub.set_auto(false);
    other.publish("t", 0, 0, "x");
    peer.publish("elsewhere", 1, 1, "y");
    assert!(node.hub.complete_one());
    assert!(!peer.machine.wants_read());
    assert_eq!(peer.received(), [message("t", "x", 0, 0)]);
}

#[test]
fn puback_empties_the_mailbox_in_company() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.subscribe("t", 1);
    for n in 0..3 {
        publish(&node, "t", 1, &n.to_string());
    }
    assert_eq!(peer.received().len(), 3);
    assert_eq!(node.hub.mailbox_len(), 3);
    peer.send(&[wire::ack(0x40, 1), wire::ack(0x40, 2), wire::ack(0x40, 3)].concat());
    assert_eq!(node.hub.mailbox_len(), 3, "nobody waits for it");
    node.advance(1);
    peer.tick();
    assert_eq!(node.hub.mailbox_len(), 0);
}

#[test]
fn what_was_missed_is_delivered_on_return_in_order() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.subscribe("t/#", 1);
    peer.cut();
    for n in 0..100 {
        publish(&node, "t/é", 1, &n.to_string());
    }
    let mut peer = node.accept();
    peer.send(&kept(V3, "c").encode());
    let received = peer.received();
    assert_eq!(received[0], Sent::ConnAck { present: true, code: 0 });
    let expected: Vec<_> = (0..100u16).map(|n| message("t/é", &n.to_string(), 1, n + 1)).collect();
    assert_eq!(received[1..], expected);
    for pid in 1..=100 {
        peer.send(&wire::ack(0x40, pid));
    }
    // Caught up: live again.
    publish(&node, "t/x", 1, "live");
    assert_eq!(peer.received(), [message("t/x", "live", 1, 101)]);
}

#[test]
fn what_was_not_answered_is_sent_again_with_the_same_identifier() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.subscribe("t", 2);
    for (qos, payload) in [(1, "a"), (2, "b"), (1, "c"), (2, "d"), (1, "e")] {
        publish(&node, "t", qos, payload);
    }
    assert_eq!(peer.received().len(), 5);
    peer.send(&wire::ack(0x40, 1)); // a is done
    peer.send(&wire::ack(0x50, 2)); // b is received
    peer.send(&wire::ack(0x40, 5)); // e is done, out of order
    peer.cut();
    publish(&node, "t", 1, "f");
    let mut peer = node.accept();
    peer.send(&kept(V3, "c").encode());
    assert_eq!(
        peer.received(),
        [
            Sent::ConnAck { present: true, code: 0 },
            Sent::PubRel(2, 0),
            again("t", "c", 1, 3),
            again("t", "d", 2, 4),
            message("t", "f", 1, 6)
        ],
        "[MQTT-4.4.0-1]"
    );
}

#[test]
fn a_qos_2_identifier_is_durable_before_the_publish() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.subscribe("t", 2);
    publish(&node, "t", 2, "x");
    node.hub.set_auto(false);
    assert_eq!(peer.received(), [], "P1 holds downwards too");
    node.hub.complete_all();
    assert_eq!(peer.received(), [message("t", "x", 2, 1)]);
    assert_eq!(node.hub.rows(Table::Outbound).len(), 1);
    peer.send(&wire::ack(0x50, 1));
    assert_eq!(peer.received(), [], "PUBREL waits for the note that PUBREC came");
    node.hub.complete_all();
    assert_eq!(peer.received(), [Sent::PubRel(1, 0)]);
    assert_eq!(node.hub.mailbox_len(), 0);
    peer.send(&wire::ack(0x70, 1));
    node.advance(1);
    peer.tick();
    node.hub.complete_all();
    assert!(node.hub.rows(Table::Outbound).is_empty());
}

#[test]
fn a_restart_changes_no_qos_1_identifier() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.subscribe("t", 1);
    for payload in ["a", "b", "c"] {
        publish(&node, "t", 1, payload);
    }
    publish(&node, "elsewhere", 1, "x");
    publish(&node, "t", 1, "d");
    assert_eq!(peer.received().len(), 4);
    peer.send(&wire::ack(0x40, 1));
    node.advance(1);
    peer.tick(); // a's removal is durable
    let node = node.restart();
    publish(&node, "t", 1, "e");
    let mut peer = node.accept();
    peer.send(&kept(V3, "c").encode());
    assert_eq!(
        peer.received()[1..],
        [again("t", "b", 1, 2), again("t", "c", 1, 3), again("t", "d", 1, 5), message("t", "e", 1, 6)],
        "[MQTT-4.4.0-1], [MQTT-3.3.1-1]"
    );
}

#[test]
fn only_what_may_have_been_sent_comes_with_dup_after_a_restart() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.subscribe("t", 2);
    publish(&node, "t", 1, "sent");
    assert_eq!(peer.received(), [message("t", "sent", 1, 1)]);
    peer.cut();
    publish(&node, "t", 1, "while it was away");
    publish(&node, "t", 2, "and once");
    let node = node.restart().restart(); // a process in which the client does not come changes nothing
    let mut peer = node.accept();
    peer.send(&kept(V3, "c").encode());
    let away = [message("t", "while it was away", 1, 2), message("t", "and once", 2, 3)];
    assert_eq!(peer.received()[1..], [&[again("t", "sent", 1, 1)][..], &away].concat());
}

#[test]
fn a_message_waits_while_its_identifier_is_in_use() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.subscribe("t", 1);
    publish(&node, "t", 1, "a");
    node.hub.skip_positions(61_440);
    for payload in ["b", "c"] {
        publish(&node, "t", 1, payload);
    }
    assert_eq!(peer.received(), [message("t", "a", 1, 1)], "b would be 1 again [MQTT-2.2.1-4]");
    peer.cut();
    let node = node.restart();
    let mut peer = node.accept();
    peer.send(&kept(V3, "c").encode());
    assert_eq!(peer.received()[1..], [again("t", "a", 1, 1)]);
    peer.send(&wire::ack(0x40, 1));
    assert_eq!(peer.received(), [message("t", "b", 1, 1), message("t", "c", 1, 2)]);
}

/// The retained message comes while the subscription is made: it is found in memory and in no mailbox, and comes as a new
/// message, too.
fn subscribe_while_a_retained_message_comes<'n>(node: &'n Node, qos: u8) -> Peer<'n> {
    let mut publisher = node.connect(&clean(V3, "p"));
    let mut peer = node.connect(&kept(V3, "c"));
    node.hub.set_auto(false);
    peer.send(&wire::subscribe(V3, 1, &[("r", qos)]));
    let retained = wire::publish(V3, "r", qos, 1, false, "r");
    publisher.send(&[&[retained[0] | 1], &retained[1..]].concat());
    node.hub.set_auto(true);
    peer
}

#[test]
fn what_is_in_no_mailbox_takes_no_identifier_of_one() {
    let node = Node::new();
    let mut peer = subscribe_while_a_retained_message_comes(&node, 1);
    let pids: Vec<_> = peer.received().iter().filter_map(pid_of).collect();
    assert_eq!(pids, [61_442, 1]);
}

#[test]
fn a_message_of_qos_2_in_flight_and_in_no_mailbox_is_released_after_a_restart() {
    let node = Node::new();
    let mut peer = subscribe_while_a_retained_message_comes(&node, 2);
    let pids: Vec<_> = peer.received().iter().filter_map(pid_of).collect();
    assert_eq!(pids, [61_442, 1]);
    let restarted = node.restart();
    let mut peer = restarted.accept();
    peer.send(&kept(V3, "c").encode());
    // Otherwise the client would take the next message under this identifier for this one, and drop it.
    assert_eq!(peer.received()[1..], [Sent::PubRel(61_442, 0), again("r", "r", 2, 1)]);
    peer.send(&wire::ack(0x70, 61_442));
    restarted.advance(1);
    peer.tick();
    assert_eq!(restarted.hub.rows(Table::Outbound).len(), 1);
}

#[test]
fn a_restart_changes_no_qos_2_identifier() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.subscribe("t", 2);
    for payload in ["a", "b", "c"] {
        publish(&node, "t", 2, payload);
    }
    assert_eq!(peer.received().len(), 3);
    peer.send(&wire::ack(0x50, 1));
    assert_eq!(peer.received(), [Sent::PubRel(1, 0)]);
    let node = node.restart();
    let mut peer = node.accept();
    peer.send(&kept(V3, "c").encode());
    assert_eq!(
        peer.received(),
        [
            Sent::ConnAck { present: true, code: 0 },
            Sent::PubRel(1, 0),
            again("t", "b", 2, 2),
            again("t", "c", 2, 3)
        ]
    );
    // The PUBCOMP of before the restart was lost: the client answers again, and all is well.
    peer.send(&wire::ack(0x70, 1));
    publish(&node, "t", 2, "d");
    assert_eq!(peer.received(), [message("t", "d", 2, 4)], "no identifier is used twice");
}

#[test]
fn a_lost_pubcomp_costs_one_pubrel() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V5, "c"));
    peer.subscribe("t", 2);
    publish(&node, "t", 2, "x");
    peer.received();
    peer.send(&wire::ack(0x50, 1));
    assert_eq!(peer.received(), [Sent::PubRel(1, 0)]);
    peer.cut();
    let mut peer = node.accept();
    peer.send(&kept(V5, "c").encode());
    assert_eq!(peer.received(), [Sent::ConnAck { present: true, code: 0 }, Sent::PubRel(1, 0)]);
    peer.send(&[0x70, 3, 0, 1, 0x92]); // the client had completed already
    peer.cut();
    assert!(node.hub.rows(Table::Outbound).is_empty());
    let mut peer = node.accept();
    peer.send(&kept(V5, "c").encode());
    assert_eq!(peer.received(), [Sent::ConnAck { present: true, code: 0 }]);
}

#[test]
fn a_client_may_refuse_a_message() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V5, "c"));
    peer.subscribe("t", 2);
    publish(&node, "t", 2, "a");
    publish(&node, "t", 1, "b");
    assert_eq!(peer.received().len(), 2);
    peer.send(&[0x50, 3, 0, 1, 0x87]);
    peer.send(&[0x40, 3, 0, 2, 0x80]);
    assert_eq!(peer.received(), [], "no PUBREL [MQTT-4.3.3-3]");
    peer.cut();
    assert_eq!((node.hub.mailbox_len(), node.hub.rows(Table::Outbound).len()), (0, 0));
}

#[test]
fn pubrec_for_an_unknown_identifier_is_answered() {
    let node = Node::new();
    let mut peer = node.connect(&clean(V5, "c"));
    peer.send(&wire::ack(0x50, 9));
    assert_eq!(peer.received(), [Sent::PubRel(9, 0x92)]);
    peer.send(&[wire::ack(0x40, 9), wire::ack(0x70, 9)].concat());
    assert_eq!(peer.received(), []);
}

#[test]
fn an_evicted_message_frees_its_identifier() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.subscribe("t", 2);
    publish(&node, "t", 1, "a");
    publish(&node, "t", 2, "b");
    assert_eq!(peer.received().len(), 2);
    peer.cut();
    node.hub.evict_mailboxes();
    publish(&node, "t", 1, "c");
    let mut peer = node.accept();
    peer.send(&kept(V3, "c").encode());
    assert_eq!(
        peer.received(),
        [Sent::ConnAck { present: true, code: 0 }, Sent::PubRel(2, 0), message("t", "c", 1, 3)]
    );
}

#[test]
fn a_short_piece_of_large_messages_is_not_the_end_of_the_mailbox() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.subscribe("t", 2);
    for (qos, payload) in [(1, "a"), (2, "b"), (1, "c"), (2, "d"), (1, "e")] {
        publish(&node, "t", qos, payload);
    }
    assert_eq!(peer.received().len(), 5);
    peer.cut();
    node.hub.limit_pieces(2);
    publish(&node, "t", 1, "f");
    let mut peer = node.accept();
    peer.send(&kept(V3, "c").encode());
    assert_eq!(
        peer.received(),
        [
            Sent::ConnAck { present: true, code: 0 },
            again("t", "a", 1, 1),
            again("t", "b", 2, 2),
            again("t", "c", 1, 3),
            again("t", "d", 2, 4),
            again("t", "e", 1, 5),
            message("t", "f", 1, 6)
        ],
        "what lies behind a short piece is not given up"
    );
    publish(&node, "t", 1, "live");
    assert_eq!(peer.received(), [message("t", "live", 1, 7)]);
}

#[test]
fn a_slow_client_reads_on_from_its_mailbox() {
    let mut node = Node::new();
    node.limits.queue.max_events = 3;
    let mut peer = node.connect(&Connect {
        properties: [wire::session_expiry(60), vec![0x21, 0, 1]].concat(),
        ..kept(V5, "c")
    });
    peer.subscribe("t", 1);
    for n in 0..20 {
        publish(&node, "t", 1, &n.to_string());
    }
    for n in 0..20u16 {
        assert_eq!(peer.received(), [message("t", &n.to_string(), 1, n + 1)]);
        peer.send(&wire::ack(0x40, n + 1));
    }
    assert_eq!(peer.received(), []);
    publish(&node, "t", 1, "live");
    assert_eq!(peer.received(), [message("t", "live", 1, 21)]);
}

#[test]
fn expired_and_oversized_messages_are_not_sent() {
    let node = Node::new();
    let mut peer = node.connect(&Connect {
        properties: [wire::session_expiry(9999), vec![0x27, 0, 0, 0, 40]].concat(),
        ..kept(V5, "c")
    });
    peer.subscribe("t", 1);
    publish(&node, "t", 1, &"x".repeat(50));
    publish(&node, "t", 1, "small");
    assert_eq!(peer.received(), [message("t", "small", 1, 2)], "[MQTT-3.1.2-24]");
    peer.send(&wire::ack(0x40, 2));
    peer.cut();
    assert_eq!(node.hub.mailbox_len(), 0);
    let mut publisher = node.connect(&clean(V5, "p"));
    publisher.send(&wire::publish_with(V5, "t", 1, 1, false, "short-lived", &[0x02, 0, 0, 0, 10]));
    publisher.send(&wire::publish_with(V5, "t", 1, 1, false, "longer", &[0x02, 0, 0, 0, 100]));
    node.advance(50);
    let mut peer = node.accept();
    peer.send(&kept(V5, "c").encode());
    peer.settle();
    assert!(peer.out.bytes.windows(5).any(|w| w == [0x02, 0, 0, 0, 50]), "[MQTT-3.3.2-6]");
    assert_eq!(peer.received()[1..], [message("t", "longer", 1, 4)]);
    let figures = node.sessions.stats().snapshot();
    assert_eq!((figures.expired, figures.too_large_for_client), (1, 1));
}

#[test]
fn retained_messages_follow_their_suback() {
    let node = Node::new();
    let mut publisher = node.connect(&clean(V3, "p"));
    let mut retained = wire::publish(V3, "r/1", 1, 1, false, "x");
    retained[0] |= 1;
    publisher.send(&retained);
    let with_retain = |qos, pid| Sent::Publish {
        topic: "r/1".into(),
        payload: "x".into(),
        qos,
        pid,
        dup: false,
        retain: true,
    };
    let mut peer = node.connect(&clean(V5, "c"));
    peer.send(&wire::subscribe(V5, 1, &[("r/+", 0)]));
    assert_eq!(peer.received(), [Sent::SubAck(1, vec![0]), with_retain(0, 0)]);
    peer.send(&wire::subscribe(V5, 2, &[("r/+", 0x11)])); // only if new: it is not
    assert_eq!(peer.received(), [Sent::SubAck(2, vec![1])]);
    peer.send(&wire::subscribe(V5, 3, &[("r/#", 0x11)])); // only if new: it is
    assert_eq!(peer.received(), [Sent::SubAck(3, vec![1]), with_retain(1, 1)]);
    peer.send(&wire::subscribe(V5, 4, &[("r/1", 0x21)])); // never
    assert_eq!(peer.received(), [Sent::SubAck(4, vec![1])]);
    peer.send(&wire::subscribe(V5, 5, &[("$share/g/r/1", 1)]));
    assert_eq!(peer.received(), [Sent::SubAck(5, vec![1])], "not for a share");
}

#[test]
fn asking_for_retained_messages_again_and_again_costs_one_lookup_of_memory() {
    let node = Node::new();
    let mut publisher = node.connect(&clean(V3, "p"));
    for n in 0..10 {
        let mut retained = wire::publish(V3, &format!("r/{n}"), 1, 1, false, "x");
        retained[0] |= 1;
        publisher.send(&retained);
    }
    let mut peer = node.connect(&Connect { properties: vec![0x21, 0, 1], ..clean(V5, "c") });
    for pid in 1..=100 {
        peer.send(&wire::subscribe(V5, pid, &[("r/+", 1)]));
    }
    assert!(peer.machine.pending.len() <= 10, "{}", peer.machine.pending.len());
    let mut got = 0;
    loop {
        let publishes: Vec<u16> = peer.received().iter().filter_map(pid_of).collect();
        let [pid] = publishes[..] else { break };
        got += 1;
        peer.send(&wire::ack(0x40, pid));
    }
    assert_eq!(got, 20, "what the first asked for, and once more for those that asked meanwhile");
}

fn pid_of(sent: &Sent) -> Option<u16> {
    match sent {
        Sent::Publish { pid, .. } => Some(*pid),
        _ => None,
    }
}

#[test]
fn a_retained_message_in_flight_is_sent_again() {
    let node = Node::new();
    let mut publisher = node.connect(&clean(V3, "p"));
    let mut retained = wire::publish(V3, "r", 1, 1, false, "x");
    retained[0] |= 1;
    publisher.send(&retained);
    let mut peer = node.connect(&kept(V3, "c"));
    peer.send(&wire::subscribe(V3, 1, &[("r", 1)]));
    assert_eq!(peer.received().len(), 2);
    peer.cut();
    let mut peer = node.accept();
    peer.send(&kept(V3, "c").encode());
    assert!(matches!(&peer.received()[1], Sent::Publish { pid: 2, dup: true, retain: true, .. }));
    peer.send(&wire::ack(0x40, 2));
    peer.cut();
    assert_eq!(node.connect(&kept(V3, "c")).received(), []);
}
