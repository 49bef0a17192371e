//! Wills on disk: when they get there, what takes them away, what a start makes of them.

use super::*;
use crate::testing::full;
use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_core::ports::store::{CommitError, LossReason, Table};

fn with_will<'a>(connect: Connect<'a>) -> Connect<'a> {
    Connect { will: Some(("last", "gone", 1, false)), ..connect }
}

/// Its session is kept for an hour.
fn delayed(secs: u8) -> Connect<'static> {
    Connect { will_properties: vec![0x18, 0, 0, 0, secs], ..with_will(kept(V5, "c")) }
}

fn rows(node: &Node) -> usize {
    node.hub.rows(Table::Will).len()
}

/// kill -9, and a start so many seconds later.
fn restart_after(node: &Node, secs: u64) -> Node {
    let again = Node::on(node.hub.restart());
    again.clock.set_wall(node.clock.now().after(Duration::from_secs(secs)));
    again.sessions.restore(&*again.hub).unwrap();
    again
}

#[test]
fn a_will_is_on_disk_before_connack() {
    for connect in [clean(V3, "c"), clean(V5, "c"), kept(V5, "c")] {
        let node = Node::on(ScriptedHub::new());
        let mut peer = node.accept();
        peer.send(&with_will(connect).encode());
        assert_eq!((peer.received(), rows(&node)), (vec![], 0), "P1");
        node.hub.complete_all();
        assert_eq!(peer.received(), [Sent::ConnAck { present: false, code: 0 }]);
        assert_eq!(rows(&node), 1);
    }
    let node = Node::on(ScriptedHub::new());
    let mut peer = node.accept();
    peer.send(&clean(V5, "c").encode());
    assert_eq!(peer.received(), [Sent::ConnAck { present: false, code: 0 }], "nothing to wait for");
}

#[test]
fn what_ends_a_will_takes_its_row_along() {
    for connect in [clean(V5, "c"), kept(V5, "c")] {
        let node = Node::new();
        node.connect(&with_will(connect.clone())).send(&wire::DISCONNECT);
        assert_eq!(rows(&node), 0, "goodbye");
        let mut peer = node.connect(&with_will(connect));
        peer.cut();
        assert_eq!((rows(&node), node.hub.payloads().len()), (0, 1), "published");
    }
    let node = Node::new();
    node.connect(&delayed(30)).cut();
    assert_eq!(rows(&node), 1, "owed");
    let mut back = node.connect(&kept(V5, "c"));
    assert_eq!(rows(&node), 0, "back in time [MQTT-3.1.3-9]");
    back.send(&wire::DISCONNECT);
    node.connect(&delayed(30)).cut();
    node.advance(30);
    node.sessions.tick();
    assert_eq!((rows(&node), node.hub.payloads().len()), (0, 1));
}

#[test]
fn the_event_and_the_end_of_the_row_are_one_commit() {
    let node = Node::new();
    let mut peer = node.connect(&with_will(clean(V5, "c")));
    node.hub.set_auto(false);
    peer.cut();
    assert_eq!(node.hub.held(), 1);
    assert_eq!((rows(&node), node.hub.payloads().len()), (1, 0));
    node.hub.complete_one();
    assert_eq!((rows(&node), node.hub.payloads().len()), (0, 1));
}

#[test]
fn a_node_that_was_killed_publishes_the_wills_of_the_clients_it_lost() {
    for connect in [clean(V3, "c"), clean(V5, "c"), kept(V3, "c"), kept(V5, "c")] {
        let node = Node::new();
        let peer = node.connect(&with_will(connect));
        let again = restart_after(&node, 60);
        drop(peer);
        assert_eq!((rows(&again), again.hub.payloads()), (0, vec!["gone".to_owned()]));
        let later = again.clock.now();
        assert_eq!(again.hub.published()[0].received, later);
        assert!(restart_after(&again, 1).hub.payloads().len() == 1, "once");
    }
    // A Will Delay is over when the session is [MQTT-3.1.3-9]: this one ended with its connection.
    let node = Node::new();
    let ends = Connect { properties: vec![], ..delayed(30) };
    let peer = node.connect(&ends);
    assert_eq!(restart_after(&node, 0).hub.payloads(), ["gone"]);
    drop(peer);
}

#[test]
fn a_delay_counts_from_the_start_for_who_was_connected() {
    let node = Node::new();
    let peer = node.connect(&delayed(30));
    let again = restart_after(&node, 500);
    drop(peer);
    again.advance(29);
    again.sessions.tick();
    assert_eq!((rows(&again), again.hub.payloads().len()), (1, 0));
    again.advance(1);
    again.sessions.tick();
    assert_eq!((rows(&again), again.hub.payloads().len()), (0, 1));
    // Back within the delay.
    let node = Node::new();
    let peer = node.connect(&delayed(30));
    let again = restart_after(&node, 500);
    drop(peer);
    again.connect(&kept(V5, "c")).send(&wire::DISCONNECT);
    again.advance(1000);
    again.sessions.tick();
    assert_eq!((rows(&again), again.hub.payloads().len()), (0, 0));
}

#[test]
fn a_delay_counts_over_downtime_for_who_was_away() {
    for (downtime, owed_for) in [(10, 10), (20, 0), (500, 0)] {
        let node = Node::new();
        node.connect(&delayed(30)).cut();
        node.advance(10);
        let again = restart_after(&node, downtime);
        if owed_for > 0 {
            again.advance(owed_for - 1);
            again.sessions.tick();
            assert_eq!((rows(&again), again.hub.payloads().len()), (1, 0), "{downtime}");
            again.advance(1);
            again.sessions.tick();
        }
        assert_eq!((rows(&again), again.hub.payloads().len()), (0, 1), "{downtime}");
    }
    // Nobody knows how long it was: the clock is not set.
    let node = Node::new();
    node.connect(&delayed(30)).cut();
    let again = Node::on(node.hub.restart());
    again.clock.set_wall(Timestamp(5));
    again.sessions.restore(&*again.hub).unwrap();
    again.advance(29);
    again.sessions.tick();
    assert_eq!(again.hub.payloads().len(), 0);
    again.advance(1);
    again.sessions.tick();
    assert_eq!(again.hub.payloads().len(), 1);
}

#[test]
fn a_will_that_waited_for_room_is_published_at_the_start() {
    let node = Node::new();
    let mut peer = node.connect(&with_will(kept(V5, "c")));
    node.hub.set_auto(false);
    peer.cut();
    node.hub.complete_one(); // the session; then the kill
    assert_eq!(restart_after(&node, 0).hub.payloads(), ["gone"]);
}

fn disk_error() -> CommitError {
    CommitError::Io(Arc::new(std::io::Error::other("disk")))
}

#[test]
fn a_will_that_a_disk_refused_is_tried_again() {
    let node = Node::new();
    let mut peer = node.connect(&with_will(clean(V5, "c")));
    node.hub.fail_next(disk_error());
    peer.cut();
    assert_eq!((rows(&node), node.hub.payloads().len()), (1, 0));
    node.sessions.tick();
    assert_eq!(node.hub.payloads().len(), 0, "not at once");
    node.advance(1);
    node.sessions.tick();
    assert_eq!((rows(&node), node.hub.payloads().len()), (0, 1));
}

#[test]
fn a_will_that_the_hub_has_no_room_for_is_given_up_and_counted() {
    let node = Node::new();
    let mut peer = node.connect(&with_will(clean(V5, "c")));
    node.hub.fail_next(full());
    peer.cut();
    assert_eq!((rows(&node), node.hub.payloads().len()), (0, 0), "its row does not stay for ever");
    let losses = node.hub.losses();
    assert_eq!((losses[0].reason, losses[0].events, losses[0].bytes), (LossReason::Refused, 1, 8));
    assert_eq!(node.sessions.stats().snapshot().wills_given_up, 1);
    assert!(node.hub.kept_alone(), "the hub knows that it waits by itself");
}

/// Clients that come and go while the disk is broken, for ever: what waits has a bound, in memory and on disk (P5).
#[test]
fn wills_that_a_disk_refuses_are_bounded_in_number_and_bytes() {
    for (payload, at_least, at_most) in [("gone".to_owned(), 1024, 1024), ("x".repeat(60_000), 10, 17)] {
        let node = Node::new();
        for _ in 0..1100 {
            let will = Some(("last", payload.as_str(), 1, false));
            let mut peer = node.connect(&Connect { will, ..clean(V5, "c") });
            node.hub.fail_next(disk_error());
            peer.cut();
        }
        let waiting = rows(&node);
        assert!((at_least..=at_most).contains(&waiting), "{waiting} wills wait");
        let given_up = node.hub.losses().iter().map(|loss| loss.events).sum::<u64>();
        assert_eq!(given_up, 1100 - waiting as u64);
        node.advance(1);
        node.sessions.tick();
        assert_eq!((rows(&node), node.hub.payloads().len()), (0, waiting));
    }
}

#[test]
fn a_connection_that_is_not_accepted_changes_nothing() {
    let node = Node::new();
    let mut peer = node.accept();
    node.hub.fail_next(full());
    peer.send(&with_will(clean(V5, "c")).encode());
    assert_eq!(peer.received(), [Sent::ConnAck { present: false, code: 0x88 }]);
    assert_eq!((rows(&node), node.hub.payloads().len()), (0, 0), "it was never taken");
    // What was owed before is owed still.
    node.connect(&delayed(30)).cut();
    node.hub.fail_next(full());
    let mut peer = node.accept();
    peer.send(&kept(V5, "c").encode());
    assert!(matches!(peer.received()[..], [Sent::ConnAck { code: 0x88, .. }]));
    assert_eq!(rows(&node), 1);
    node.advance(30);
    node.sessions.tick();
    assert_eq!((rows(&node), node.hub.payloads().len()), (0, 1));
}

#[test]
fn numbers_of_wills_are_not_used_again_while_one_is_owed() {
    let node = Node::new();
    for id in ["a", "b", "c"] {
        node.connect(&Connect { client_id: id, ..delayed(200) }).cut();
    }
    let again = restart_after(&node, 0);
    again.connect(&with_will(clean(V5, "d"))).cut();
    assert_eq!((rows(&again), again.hub.payloads().len()), (3, 1));
}

#[test]
fn a_session_that_has_ended_is_not_given_out_again_before_the_clock_was_looked_at() {
    let node = Node::new();
    node.connect(&delayed(200)).cut();
    node.advance(3600);
    let mut peer = node.accept();
    peer.send(&kept(V5, "c").encode());
    assert_eq!(peer.received(), [Sent::ConnAck { present: false, code: 0 }]);
    assert_eq!(node.hub.payloads(), ["gone"]);
}
