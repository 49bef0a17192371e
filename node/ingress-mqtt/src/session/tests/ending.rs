//! The end of connections and sessions: wills, take-over, keep alive, expiry, restart.

use super::*;
use crate::testing::WALL;
use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_core::ports::store::Table;

fn with_will<'a>(connect: Connect<'a>) -> Connect<'a> {
    Connect { will: Some(("last/é", "gone", 1, true)), ..connect }
}

#[test]
fn the_will_is_published_unless_the_client_says_goodbye() {
    for version in [V3, V5] {
        let node = Node::new();
        let mut peer = node.connect(&with_will(clean(version, "c")));
        peer.send(&wire::DISCONNECT);
        assert!(node.hub.payloads().is_empty(), "[MQTT-3.1.2-10]");
        let mut peer = node.connect(&with_will(clean(version, "c")));
        peer.cut();
        assert_eq!(node.hub.payloads(), ["gone"]);
        let mut peer = node.connect(&with_will(kept(version, "c")));
        node.advance(91);
        peer.tick();
        assert_eq!(node.hub.payloads(), ["gone", "gone"], "keep alive");
        let mut peer = node.connect(&with_will(clean(version, "c")));
        peer.send(&[0xD0, 0]);
        assert_eq!(node.hub.payloads().len(), 3, "protocol error");
        let event = node.hub.published().remove(0);
        assert_eq!((&*event.topic, event.retain), ("last/é", true));
    }
    let node = Node::new();
    let mut peer = node.connect(&with_will(clean(V5, "c")));
    peer.send(&[0xE0, 1, 4]);
    assert_eq!(node.hub.payloads(), ["gone"], "0x04 asks for it");
}

/// A will for a full stream waits; what the client changes when it comes back must not wait behind it, nor be undone by it.
#[test]
fn a_will_is_stored_apart_from_its_session() {
    let ended = Connect { properties: vec![], ..kept(V5, "c") };
    for connect in [kept(V5, "c"), kept(V3, "c"), ended] {
        let node = Node::new();
        let mut peer = node.connect(&with_will(connect.clone()));
        let states = usize::from(!connect.properties.is_empty() || !connect.version.is_v5());
        node.hub.set_auto(false);
        peer.cut();
        assert_eq!(node.hub.held(), states + 1);
        for _ in 0..states {
            node.hub.complete_one();
        }
        assert!(node.hub.payloads().is_empty());
        node.hub.complete_one();
        assert_eq!(node.hub.payloads(), ["gone"]);
    }
}

#[test]
fn a_delayed_will_waits_and_a_return_cancels_it() {
    let delayed = |id| Connect { will_properties: vec![0x18, 0, 0, 0, 30], ..with_will(kept(V5, id)) };
    let node = Node::new();
    node.connect(&delayed("c")).cut();
    node.advance(29);
    node.sessions.tick();
    assert!(node.hub.payloads().is_empty());
    node.advance(1);
    node.sessions.tick();
    assert_eq!(node.hub.payloads(), ["gone"]);
    assert_eq!(node.hub.published()[0].received, Timestamp(WALL.0 + 30_000));
    // Back in time [MQTT-3.1.3-9].
    node.connect(&delayed("c")).cut();
    node.advance(29);
    node.connect(&kept(V5, "c")).send(&wire::DISCONNECT);
    node.advance(100);
    node.sessions.tick();
    assert_eq!(node.hub.payloads().len(), 1);
    // Back, but for another session: this one has ended, and its will is due.
    node.connect(&delayed("c")).cut();
    node.connect(&clean(V5, "c"));
    assert_eq!(node.hub.payloads().len(), 2);
    // The session ends before the delay.
    let short = Connect { properties: wire::session_expiry(5), ..delayed("d") };
    node.connect(&short).cut();
    node.advance(5);
    node.sessions.tick();
    assert_eq!(node.hub.payloads().len(), 3);
    // No session to wait for.
    node.connect(&Connect { properties: vec![], ..delayed("e") }).cut();
    assert_eq!(node.hub.payloads().len(), 4);
}

#[test]
fn a_second_connection_takes_over() {
    for (first, second) in [(V5, V5), (V3, V5), (V5, V3)] {
        let node = Node::new();
        let mut old = node.connect(&kept(first, "c"));
        old.subscribe("t", 1);
        let mut new = node.accept();
        new.send(&kept(second, "c").encode());
        assert_eq!(new.received(), [], "the old one has the session still");
        let goodbye = if first.is_v5() { vec![Sent::Disconnect(0x8E)] } else { vec![] };
        assert_eq!(old.received(), goodbye, "[MQTT-3.1.4-3]");
        assert_eq!(old.closed, Some(Reason::SessionTakenOver));
        assert_eq!(new.received(), [Sent::ConnAck { present: true, code: 0 }]);
        let mut publisher = node.connect(&clean(V3, "p"));
        publisher.publish("t", 1, 1, "x");
        assert_eq!(new.received(), [message("t", "x", 1, 1)]);
    }
}

#[test]
fn three_connections_and_the_last_one_wins() {
    let node = Node::new();
    let mut first = node.connect(&kept(V5, "c"));
    let mut second = node.accept();
    second.send(&kept(V5, "c").encode());
    let mut third = node.accept();
    third.send(&kept(V5, "c").encode());
    assert_eq!(second.received(), [], "it never got as far as a CONNACK");
    assert_eq!(second.closed, Some(Reason::SessionTakenOver));
    assert_eq!(first.received(), [Sent::Disconnect(0x8E)]);
    assert_eq!(third.received(), [Sent::ConnAck { present: true, code: 0 }]);
}

#[test]
fn a_claimant_that_gives_up_loses_no_session() {
    for handed_over_first in [false, true] {
        let node = Node::new();
        let mut old = node.connect(&kept(V3, "c"));
        let mut claimant = node.accept();
        claimant.send(&kept(V3, "c").encode());
        if handed_over_first {
            old.settle(); // the session is in the claimant's link now
            claimant.handle(Input::Gone);
        } else {
            claimant.handle(Input::Gone);
            old.settle();
        }
        let mut last = node.accept();
        last.send(&kept(V3, "c").encode());
        assert_eq!(last.received(), [Sent::ConnAck { present: true, code: 0 }], "{handed_over_first}");
    }
}

#[test]
fn a_commit_outlives_its_connection() {
    let node = Node::new();
    let mut old = node.connect(&kept(V3, "c"));
    node.hub.set_auto(false);
    old.publish("t", 1, 1, "x");
    old.publish("t", 2, 2, "never read");
    let mut new = node.accept();
    new.send(&kept(V3, "c").encode());
    old.settle();
    new.settle();
    assert_eq!(new.received(), []);
    node.hub.complete_all();
    assert_eq!(
        new.received(),
        [Sent::ConnAck { present: true, code: 0 }],
        "no answers of the old connection"
    );
    assert!(new.machine.wants_read());
    node.hub.set_auto(true);
    new.resend("t", 1, 1, "x");
    assert_eq!(new.received(), [Sent::PubAck(1, 0)]);
    assert_eq!(node.hub.payloads(), ["x"]);
}

#[test]
fn nobody_takes_the_session_of_an_authenticated_client() {
    let mut node = Node::new();
    node.limits.has_authenticator = true;
    let login = |user| Connect { username: Some(user), ..kept(V5, "c") };
    let mut owner = node.accept();
    owner.send(&login("owner").encode());
    owner.authenticated(Ok("owner"));
    assert_eq!(owner.received(), [Sent::ConnAck { present: false, code: 0 }]);
    let mut thief = node.accept();
    thief.send(&login("thief").encode());
    thief.authenticated(Ok("thief"));
    assert_eq!(thief.received(), [Sent::ConnAck { present: false, code: 0x85 }]);
    let mut nobody = node.accept();
    nobody.send(&kept(V5, "c").encode());
    assert_eq!(nobody.received(), [Sent::ConnAck { present: false, code: 0x85 }]);
    assert_eq!(owner.received(), [], "it was not disturbed");
    owner.cut();
    let mut thief = node.accept();
    thief.send(&login("thief").encode());
    thief.authenticated(Ok("thief"));
    assert_eq!(thief.received(), [Sent::ConnAck { present: false, code: 0x85 }], "nor while it is away");
    let node = node.restart();
    let mut nobody = node.accept();
    nobody.send(&kept(V5, "c").encode());
    assert_eq!(nobody.received(), [Sent::ConnAck { present: false, code: 0x85 }], "nor after a restart");
}

#[test]
fn keep_alive_is_one_and_a_half_and_zero_is_never() {
    let node = Node::new();
    let mut peer = node.connect(&Connect { keep_alive: 10, ..clean(V5, "c") });
    let mut forever = node.connect(&Connect { keep_alive: 0, ..clean(V5, "d") });
    assert_eq!(forever.machine.deadline(&node.limits), None);
    node.advance(14);
    peer.tick();
    assert_eq!(peer.closed, None);
    peer.send(&wire::PINGREQ);
    assert_eq!(peer.received(), [Sent::PingResp]);
    node.advance(14);
    peer.tick();
    assert_eq!(peer.closed, None);
    node.advance(1);
    peer.tick();
    assert_eq!(peer.received(), [Sent::Disconnect(0x8D)], "[MQTT-3.1.2-22]");
    node.advance(1_000_000);
    forever.tick();
    assert_eq!(forever.closed, None);
}

#[test]
fn a_session_expires_and_leaves_nothing() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V5, "c"));
    peer.subscribe("t", 2);
    peer.publish("x", 2, 1, "x");
    let mut publisher = node.connect(&clean(V3, "p"));
    publisher.publish("t", 2, 1, "x");
    peer.received();
    peer.cut();
    node.advance(3599);
    node.sessions.tick();
    assert_eq!(node.sessions.counts(), (1, 1));
    node.advance(1);
    node.sessions.tick();
    assert_eq!(node.sessions.counts(), (1, 0));
    for table in [Table::Subscription, Table::Inbound, Table::Outbound] {
        assert!(node.hub.rows(table).is_empty(), "{table:?}");
    }
    assert_eq!(node.hub.rows(Table::Session), [vec![0xFF]], "the mark of numbers stays");
    assert_eq!((node.hub.mailbox_len(), node.hub.subscriber_count()), (0, 0));
}

#[test]
fn disconnect_may_change_the_expiry_but_not_from_nothing() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V5, "c"));
    peer.send(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 0]);
    assert_eq!(node.sessions.counts(), (0, 0), "ended at once");
    let mut peer = node.connect(&clean(V5, "c"));
    peer.send(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 9]);
    assert_eq!(peer.received(), [Sent::Disconnect(0x82)], "[MQTT-3.14.2-2]");
}

#[test]
fn a_session_survives_a_restart_with_its_subscriptions() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "é/#"));
    peer.subscribe("t/+", 1);
    let node = node.restart();
    assert_eq!(node.hub.subscription_count(), 1);
    let mut publisher = node.connect(&clean(V3, "p"));
    publisher.publish("t/1", 1, 1, "while away");
    let mut peer = node.accept();
    peer.send(&kept(V3, "é/#").encode());
    assert_eq!(
        peer.received(),
        [Sent::ConnAck { present: true, code: 0 }, message("t/1", "while away", 1, 1)]
    );
}

#[test]
fn a_qos_1_message_not_answered_comes_again_after_a_restart() {
    let node = Node::new();
    let mut peer = node.connect(&kept(V3, "c"));
    peer.subscribe("t", 1);
    let mut publisher = node.connect(&clean(V3, "p"));
    publisher.publish("t", 1, 1, "x");
    assert_eq!(peer.received(), [message("t", "x", 1, 1)]);
    let node = node.restart();
    let mut peer = node.accept();
    peer.send(&kept(V3, "c").encode());
    assert_eq!(peer.received()[1..], [again("t", "x", 1, 1)]);
}

#[test]
fn a_graceful_stop_says_goodbye() {
    let node = Node::new();
    let mut peer = node.connect(&with_will(kept(V5, "c")));
    let mut old = node.connect(&clean(V3, "d"));
    for link in [peer.machine.link(), old.machine.link()] {
        link.push(Event::Stop);
    }
    assert_eq!(peer.received(), [Sent::Disconnect(0x8B)]);
    assert_eq!(old.received(), []);
    assert!(peer.closed.is_some() && old.closed.is_some());
    assert_eq!(node.hub.payloads(), ["gone"]);
}

#[test]
fn what_was_read_before_the_end_is_stored() {
    let node = Node::new();
    let mut peer = node.connect(&clean(V3, "c"));
    let read = [wire::publish(V3, "t", 0, 0, false, "x"), wire::DISCONNECT.to_vec()].concat();
    peer.send(&read);
    assert_eq!(node.hub.payloads(), ["x"], "mosquitto_pub does exactly this");
    assert_eq!(peer.closed, Some(Reason::Success));
    let mut peer = node.connect(&clean(V5, "c"));
    peer.send(&[wire::publish(V5, "t", 0, 0, false, "y"), vec![0xD0, 0]].concat());
    assert_eq!(node.hub.payloads(), ["x", "y"]);
}

/// The messages of a shared subscription that are here for a member, without an answer.
fn jobs(peer: &mut Peer<'_>) -> Vec<String> {
    let payload = |sent| match sent {
        Sent::Publish { payload, dup: false, .. } => Some(payload),
        _ => None,
    };
    peer.received().into_iter().filter_map(payload).collect()
}

fn publish_jobs(node: &Node, qos: u8) {
    let mut publisher = node.connect(&clean(V5, "publisher"));
    for (pid, payload) in [(1, "a"), (2, "b"), (3, "c")] {
        publisher.send(&wire::publish(V5, "jobs", qos, pid, false, payload));
    }
}

/// MQTT 5.0 section 4.8.2: what a member that goes has not answered is for another one.
#[test]
fn what_a_member_leaves_goes_to_another_member() {
    for (connect, qos) in [(clean(V5, "one"), 1), (kept(V5, "one"), 1), (kept(V3, "one"), 1)] {
        let node = Node::new();
        let mut one = node.connect(&connect);
        one.send(&wire::subscribe(connect.version, 1, &[("$share/g/jobs", 2)]));
        one.received();
        publish_jobs(&node, qos);
        assert_eq!(jobs(&mut one), ["a", "b", "c"]);
        let mut two = node.connect(&clean(V5, "two"));
        two.send(&wire::subscribe(V5, 1, &[("$share/g/jobs", 2)]));
        two.received();
        let first = node.hub.published().len();
        one.send(&wire::ack(0x40, 1));
        one.cut();
        if !connect.clean {
            assert_eq!(jobs(&mut two), [""; 0], "it may come back");
            node.connect(&clean(V5, "one"));
        }
        let left = jobs(&mut two);
        assert_eq!((left.len(), left.last().unwrap().as_str()), (2, "c"), "{left:?}");
        assert_eq!(node.hub.published().len(), first + 2);
        assert_eq!((node.hub.mailbox_len(), rows_of_ended(&node)), (0, 0));
    }
}

fn rows_of_ended(node: &Node) -> usize {
    node.hub.rows(Table::Session).iter().filter(|key| key[0] == 0xFE).count()
}

/// The kill comes when the session has ended and nothing is handed on yet: the next start does it.
#[test]
fn what_an_ended_session_leaves_survives_a_kill() {
    let node = Node::new();
    let mut one = node.connect(&kept(V5, "one"));
    one.send(&wire::subscribe(V5, 1, &[("$share/g/jobs", 2)]));
    let mut two = node.connect(&kept(V5, "two"));
    publish_jobs(&node, 1);
    two.send(&wire::subscribe(V5, 1, &[("$share/g/jobs", 2)]));
    one.cut();
    two.cut();
    node.hub.set_auto(false);
    let mut again = node.accept();
    again.send(&clean(V5, "one").encode());
    node.hub.complete_one();
    assert_eq!((rows_of_ended(&node), node.hub.mailbox_len()), (1, 3));
    let node = node.restart();
    assert_eq!(rows_of_ended(&node), 0);
    let mut two = node.accept();
    two.send(&kept(V5, "two").encode());
    assert_eq!(jobs(&mut two), ["a", "b", "c"]);
    let mut one = node.accept();
    one.send(&kept(V5, "one").encode());
    assert_eq!(one.received(), [Sent::ConnAck { present: false, code: 0 }]);
}
