//! Retained messages for persistent sessions: from SUBSCRIBE to the client's answer, over a kill.

use super::*;

/// So many topics with a retained message of this QoS.
fn retain_some(node: &Node, count: u16, qos: u8) {
    let mut publisher = node.connect(&clean(V3, "publisher"));
    for n in 0..count {
        let mut packet = wire::publish(V3, &format!("r/{n:03}"), qos, n + 1, false, &n.to_string());
        packet[0] |= 1;
        publisher.send(&packet);
        if qos == 2 {
            publisher.send(&wire::ack(0x62, n + 1));
        }
    }
}

fn messages(sent: Vec<Sent>) -> Vec<(String, u16, bool)> {
    let message = |sent| match sent {
        Sent::Publish { payload, pid, dup, retain: true, .. } => Some((payload, pid, dup)),
        _ => None,
    };
    sent.into_iter().filter_map(message).collect()
}

/// A client that has SUBACK for three retained messages, of which none is in its mailbox yet: what it submits from now on waits.
fn promised(node: &Node) -> Peer<'_> {
    retain_some(node, 3, 1);
    let mut peer = node.connect(&kept(V5, "c"));
    node.hub.set_auto(false);
    peer.send(&wire::subscribe(V5, 1, &[("r/+", 1)]));
    node.hub.complete_one();
    assert_eq!(peer.received(), [Sent::SubAck(1, vec![1])]);
    peer
}

/// SUBACK of a persistent session stands for its retained messages, too (P1): killed before it has answered, it gets them
/// after the restart, under the same identifiers.
#[test]
fn retained_messages_survive_a_kill_before_their_answer() {
    for qos in [1, 2] {
        let node = Node::new();
        retain_some(&node, 3, qos);
        let mut peer = node.connect(&kept(V5, "c"));
        peer.send(&wire::subscribe(V5, 1, &[("r/+", 2)]));
        let first = messages(peer.received());
        let payloads: Vec<_> = first.iter().map(|(payload, ..)| payload.as_str()).collect();
        assert_eq!(payloads, ["0", "1", "2"], "QoS {qos}");
        drop(peer);
        let node = node.restart();
        let mut peer = node.accept();
        peer.send(&kept(V5, "c").encode());
        let again: Vec<_> = first.iter().map(|(payload, pid, _)| (payload.clone(), *pid, true)).collect();
        assert_eq!(messages(peer.received()), again, "QoS {qos}");
    }
}

/// The kill comes right after SUBACK: nothing is in the mailbox yet.
#[test]
fn retained_messages_that_were_only_promised_survive_a_kill() {
    let node = Node::new();
    let peer = promised(&node);
    assert_eq!(node.hub.mailbox_len(), 0);
    drop(peer);
    let node = node.restart();
    let mut peer = node.accept();
    peer.send(&kept(V5, "c").encode());
    assert_eq!(messages(peer.received()).len(), 3);
    drop(peer);
    let node = node.restart();
    assert_eq!(node.hub.mailbox_len(), 3, "they are not put there again");
}

/// Many of them do not fill the mailbox: the next ones follow what the client has taken (P5).
#[test]
fn many_retained_messages_go_through_the_mailbox_in_pieces() {
    let node = Node::new();
    retain_some(&node, 200, 1);
    let mut peer = node.connect(&kept(V5, "c"));
    peer.send(&wire::subscribe(V5, 1, &[("r/#", 1)]));
    let (mut got, mut most) = (Vec::new(), 0);
    for _ in 0..500 {
        let sent = messages(peer.received());
        most = most.max(node.hub.mailbox_len());
        if sent.is_empty() {
            break;
        }
        for (payload, pid, _) in sent {
            got.push(payload.parse::<u16>().unwrap());
            peer.send(&wire::ack(0x40, pid));
        }
        node.clock.advance(Duration::from_secs(1));
        peer.tick();
    }
    assert_eq!(got, (0..200).collect::<Vec<_>>());
    assert!(most <= 164, "window and one piece, two at most: {most}");
}

/// The connection is lost while they are on their way into the mailbox: the next one gets them from there, and once.
#[test]
fn another_connection_gets_them_once() {
    let node = Node::new();
    let mut peer = promised(&node);
    peer.cut();
    let mut back = node.accept();
    back.send(&kept(V5, "c").encode());
    // Of what the first one has submitted the mailbox is not the last.
    while node.hub.complete_one() {
        back.tick();
    }
    node.hub.set_auto(true);
    let payloads: Vec<_> = messages(back.received()).into_iter().map(|(payload, ..)| payload).collect();
    assert_eq!(payloads, ["0", "1", "2"]);
    assert_eq!(node.hub.mailbox_len(), 3);
    // Subscribed twice before the first round is stored: twice it is.
    node.hub.set_auto(false);
    for pid in [2, 3] {
        back.send(&wire::subscribe(V5, pid, &[("r/+", 1)]));
        node.hub.complete_one();
        back.tick();
    }
    node.hub.set_auto(true);
    let again = messages(back.received()).len();
    assert_eq!((again, node.hub.mailbox_len()), (6, 9));
}
