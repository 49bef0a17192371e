//! CONNECT to CONNACK.

use super::*;
use crate::testing::{full, sessions_with};
use eventmesh_edge_core::ports::store::Table;

fn refused(node: &Node, connect: &Connect<'_>) -> Vec<Sent> {
    let mut peer = node.accept();
    peer.send(&connect.encode());
    assert_eq!(peer.machine.phase(), Phase::Ended);
    peer.version = connect.version;
    peer.received()
}

#[test]
fn an_anonymous_client_gets_in_only_where_the_listener_says_so() {
    let mut node = Node::new();
    node.connect(&clean(V3, "a"));
    node.limits.anonymous = false;
    assert_eq!(refused(&node, &clean(V3, "b")), [Sent::ConnAck { present: false, code: 5 }]);
    assert_eq!(refused(&node, &clean(V5, "b")), [Sent::ConnAck { present: false, code: 0x87 }]);
}

#[test]
fn a_login_is_awaited_and_nothing_is_read_meanwhile() {
    let mut node = Node::new();
    node.limits.has_authenticator = true;
    for (version, code) in [(V3, 4), (V5, 0x86)] {
        let connect = Connect { username: Some("ü"), password: Some(b"x"), ..clean(version, "c") };
        let mut peer = node.accept();
        peer.send(&connect.encode());
        assert!(!peer.machine.wants_read());
        assert_eq!(peer.received(), []);
        peer.authenticated(Err(Denied::BadCredentials));
        assert_eq!(peer.received(), [Sent::ConnAck { present: false, code }]);
        assert!(peer.closed.is_some());
    }
}

#[test]
fn the_source_names_the_authenticated_user_else_the_client_id() {
    let mut node = Node::new();
    let mut peer = node.connect(&clean(V3, "c/é#"));
    peer.publish("t", 0, 0, "anonymous");
    node.limits.has_authenticator = true;
    let mut peer = node.accept();
    peer.send(&Connect { username: Some("sensor 7"), ..clean(V3, "whatever") }.encode());
    peer.authenticated(Ok("sensor 7"));
    peer.received();
    peer.publish("t", 0, 0, "named");
    let sources: Vec<_> = node.hub.published().iter().map(|e| e.source.to_string()).collect();
    assert_eq!(sources[0], eventmesh_edge_core::mapping::mqtt_source("plant-7", "c/é#").to_string());
    assert_eq!(sources[1], eventmesh_edge_core::mapping::mqtt_source("plant-7", "sensor 7").to_string());
}

#[test]
fn connack_of_a_kept_session_waits_for_its_record() {
    let node = Node::on(ScriptedHub::new());
    let mut peer = node.accept();
    peer.send(&kept(V3, "c").encode());
    assert_eq!(peer.received(), [], "P1");
    assert!(!peer.machine.wants_read());
    node.hub.complete_all();
    assert_eq!(peer.received(), [Sent::ConnAck { present: false, code: 0 }]);
    assert!(node.hub.rows(Table::Session).contains(&b"c".to_vec()));
    // A session that ends with its connection has nothing to wait for.
    let mut other = node.accept();
    other.send(&clean(V3, "d").encode());
    assert_eq!(other.received(), [Sent::ConnAck { present: false, code: 0 }]);
}

#[test]
fn a_session_that_cannot_be_stored_is_not_promised() {
    for (version, code) in [(V3, 3), (V5, 0x88)] {
        let node = Node::on(ScriptedHub::new());
        node.hub.fail_next(full());
        let mut peer = node.accept();
        peer.send(&kept(version, "c").encode());
        node.hub.complete_all();
        assert_eq!(peer.received(), [Sent::ConnAck { present: false, code }]);
    }
}

#[test]
fn session_present_says_whether_there_was_one() {
    let node = Node::new();
    for version in [V3, V5] {
        let id = if version == V3 { "three" } else { "five" };
        let mut peer = node.connect(&kept(version, id));
        peer.cut();
        let mut peer = node.accept();
        peer.send(&kept(version, id).encode());
        assert_eq!(peer.received(), [Sent::ConnAck { present: true, code: 0 }]);
        peer.cut();
        // Clean Start ends it [MQTT-3.1.2-4].
        let mut peer = node.accept();
        peer.send(&Connect { clean: true, ..kept(version, id) }.encode());
        assert_eq!(peer.received(), [Sent::ConnAck { present: false, code: 0 }]);
        peer.cut();
    }
}

#[test]
fn an_id_is_assigned_to_who_has_none() {
    let node = Node::new();
    let mut peer = node.accept();
    peer.send(&Connect { clean: false, ..clean(V5, "") }.encode());
    peer.settle();
    let bytes = peer.out.bytes.clone();
    let id = peer.machine.client_id().unwrap().to_string();
    assert!(bytes.windows(id.len()).any(|w| w == id.as_bytes()), "CONNACK carries the id");
    let mut other = node.accept();
    other.send(&clean(V3, "").encode());
    assert_ne!(other.machine.client_id().unwrap().to_string(), id);
    assert_eq!(refused(&node, &kept(V3, "")), [Sent::ConnAck { present: false, code: 2 }]);
}

#[test]
fn what_is_not_offered_is_refused_with_its_code() {
    let node = Node::new();
    let auth = Connect { properties: [vec![0x15], wire::text("SCRAM")].concat(), ..clean(V5, "c") };
    assert_eq!(refused(&node, &auth), [Sent::ConnAck { present: false, code: 0x8C }]);
    let mut v6 = clean(V5, "c").encode();
    v6[8] = 6;
    let mut peer = node.accept();
    peer.send(&v6);
    peer.version = V5;
    assert_eq!(peer.received(), [Sent::ConnAck { present: false, code: 0x84 }]);
    let mut v2 = clean(V3, "c").encode();
    v2[8] = 2;
    let mut peer = node.accept();
    peer.send(&v2);
    assert_eq!(peer.received(), [Sent::ConnAck { present: false, code: 1 }]);
}

#[test]
fn a_full_listener_says_so() {
    let node = Node::new();
    for (version, code) in [(V3, 3), (V5, 0x89)] {
        let mut peer = node.accept();
        peer.machine =
            Machine::new(1, Arc::new(Link::new(node.limits.queue)), Duration::ZERO, Some(Reason::ServerBusy));
        peer.send(&clean(version, "c").encode());
        assert_eq!(peer.received(), [Sent::ConnAck { present: false, code }]);
    }
}

#[test]
fn the_number_of_sessions_is_bounded() {
    let hub = ScriptedHub::automatic();
    let clock = ManualClock::new();
    let options = crate::clients::SessionOptions { sessions_max: 1, ..Default::default() };
    let sessions = Arc::new(Sessions::new(hub.clone(), clock.clone(), options));
    let node = Node { hub, clock, sessions, limits: Limits { anonymous: true, ..Limits::default() } };
    let mut first = node.connect(&kept(V5, "a"));
    assert_eq!(refused(&node, &kept(V5, "b")), [Sent::ConnAck { present: false, code: 0x97 }]);
    assert_eq!(refused(&node, &kept(V3, "b")), [Sent::ConnAck { present: false, code: 3 }]);
    // When one ends, there is room again.
    first.send(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 0]);
    node.connect(&kept(V5, "b"));
}

#[test]
fn a_server_keep_alive_is_told_to_whoever_can_hear_it() {
    let mut node = Node::new();
    node.limits.keep_alive_max_secs = Some(30);
    let mut peer = node.accept();
    peer.send(&Connect { keep_alive: 0, ..clean(V5, "c") }.encode());
    assert!(peer.out.bytes.windows(3).any(|w| w == [0x13, 0, 30]));
    node.advance(46);
    peer.tick();
    assert_eq!(peer.closed, Some(Reason::KeepAliveTimeout));
    let mut old = node.connect(&Connect { keep_alive: 0, ..clean(V3, "d") });
    node.advance(10_000);
    old.tick();
    assert_eq!(old.closed, None, "a 3.x client keeps its own");
}

#[test]
fn packets_behind_connect_wait_for_the_session() {
    let node = Node::on(ScriptedHub::new());
    let mut peer = node.accept();
    let bytes = [kept(V3, "c").encode(), wire::publish(V3, "t", 1, 1, false, "x")].concat();
    peer.send(&bytes);
    assert!(!peer.machine.wants_read(), "the shell keeps what comes behind CONNECT");
    node.hub.complete_all();
    assert_eq!(peer.received(), [Sent::ConnAck { present: false, code: 0 }]);
    assert!(peer.machine.wants_read());
}

#[test]
fn anything_before_connect_ends_the_connection_without_a_word() {
    let node = Node::new();
    for bytes in [&wire::PINGREQ[..], &[0x30, 4, 0, 1, b't', b'x'], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut peer = node.accept();
        peer.send(bytes);
        assert_eq!(peer.received(), []);
        assert!(peer.closed.is_some());
    }
}

#[test]
fn a_silent_connection_is_closed_in_time() {
    let node = Node::new();
    let mut peer = node.accept();
    assert_eq!(peer.machine.deadline(&node.limits), Some(Duration::from_secs(10)));
    node.advance(10);
    peer.tick();
    assert!(peer.closed.is_some());
}

/// An anonymous client that calls itself like a user is not that user: not in the events' `source`, and so not in their
/// sequence numbers.
#[test]
fn an_anonymous_client_id_never_names_a_user() {
    for apart in [false, true] {
        let mut node = Node::new();
        node.sessions = sessions_with(&node.hub, &node.clock, apart);
        node.limits.has_authenticator = true;
        let mut anonymous = node.connect(&clean(V5, "anna"));
        anonymous.publish("t", 1, 1, "1");
        let mut user = node.accept();
        user.send(
            &Connect { version: V5, client_id: "c", username: Some("anna"), ..Connect::default() }.encode(),
        );
        user.authenticated(Ok("anna"));
        user.publish("t", 1, 1, "2");
        let sources: Vec<String> = node.hub.published().iter().map(|e| e.source.to_string()).collect();
        let of_anonymous = if apart { "mqtt://plant-7/anonymous/anna" } else { "mqtt://plant-7/anna" };
        assert_eq!(sources, [of_anonymous, "mqtt://plant-7/anna"]);
    }
}
