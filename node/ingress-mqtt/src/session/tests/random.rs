//! Random packets in random order, against a hub that completes, fails and delays as it likes.

use super::*;
use crate::testing::full;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Publish { qos: u8, pid: u16, dup: bool, topic: u8 },
    Subscribe { qos: u8, topic: u8 },
    Unsubscribe { topic: u8 },
    Ack { kind: u8, pid: u16 },
    Ping,
    Disconnect,
    Complete,
    Fail,
    Cut,
    Reconnect,
    Advance(u8),
    Flush,
    Garbage(Vec<u8>),
}

fn op() -> impl Strategy<Value = Op> {
    let pid = 1u16..5;
    prop_oneof![
        4 => (0u8..3, pid.clone(), any::<bool>(), 0u8..3)
            .prop_map(|(qos, pid, dup, topic)| Op::Publish { qos, pid, dup: dup && qos > 0, topic }),
        2 => (0u8..3, 0u8..3).prop_map(|(qos, topic)| Op::Subscribe { qos, topic }),
        1 => (0u8..3).prop_map(|topic| Op::Unsubscribe { topic }),
        4 => (prop_oneof![Just(0x40u8), Just(0x50), Just(0x62), Just(0x70)], pid)
            .prop_map(|(kind, pid)| Op::Ack { kind, pid }),
        1 => Just(Op::Ping),
        1 => Just(Op::Disconnect),
        5 => Just(Op::Complete),
        1 => Just(Op::Fail),
        1 => Just(Op::Cut),
        2 => Just(Op::Reconnect),
        1 => any::<u8>().prop_map(Op::Advance),
        2 => Just(Op::Flush),
        1 => proptest::collection::vec(any::<u8>(), 1..12).prop_map(Op::Garbage),
    ]
}

const TOPICS: [&str; 3] = ["a", "b/c", "é"];

fn bytes(op: &Op, version: Version) -> Option<Vec<u8>> {
    Some(match op {
        Op::Publish { qos, pid, dup, topic } => {
            wire::publish(version, TOPICS[usize::from(*topic)], *qos, *pid, *dup, "x")
        }
        Op::Subscribe { qos, topic } => wire::subscribe(version, 9, &[(TOPICS[usize::from(*topic)], *qos)]),
        Op::Unsubscribe { topic } => wire::unsubscribe(version, 9, &[TOPICS[usize::from(*topic)]]),
        Op::Ack { kind, pid } => wire::ack(*kind, *pid),
        Op::Ping => wire::PINGREQ.to_vec(),
        Op::Disconnect => wire::DISCONNECT.to_vec(),
        _ => return None,
    })
}

/// Answers that stand for something on disk.
fn promises(sent: &[Sent]) -> usize {
    let promise = |s: &&Sent| matches!(s, Sent::PubAck(..) | Sent::PubRec(..));
    sent.iter().filter(promise).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// No sequence makes it panic, and no answer precedes its commit: while the hub holds everything, a read that
    /// publishes with QoS 1 or 2 brings no PUBACK and no PUBREC; and no two reads are ever under way.
    #[test]
    fn nothing_panics_and_nothing_is_promised_early(
        ops in proptest::collection::vec(op(), 1..60), v5: bool, keep: bool,
    ) {
        let version = if v5 { V5 } else { V3 };
        let connect = if keep { kept(version, "c") } else { clean(version, "c") };
        let node = Node::on(ScriptedHub::new());
        let mut peer = node.accept();
        peer.flush = false;
        peer.send(&connect.encode());
        for op in ops {
            let committed = node.hub.published().len();
            match &op {
                Op::Complete => node.hub.complete_all(),
                Op::Fail => { node.hub.fail_next(full()); node.hub.complete_one(); }
                Op::Cut => peer.cut(),
                Op::Reconnect => {
                    let mut next = node.accept();
                    next.flush = false;
                    next.send(&connect.encode());
                    peer.settle();
                    node.hub.complete_all();
                    next.settle();
                    peer = next;
                }
                Op::Advance(secs) => {
                    node.advance(u64::from(*secs));
                    peer.tick();
                    node.sessions.tick();
                }
                Op::Flush => { peer.flush = true; peer.received(); peer.flush = false; }
                Op::Garbage(garbage) => {
                    let body = &garbage[1..];
                    if peer.machine.wants_read() { peer.send(&wire::packet(garbage[0], body)); }
                }
                op => if let Some(bytes) = bytes(op, version) {
                    let wanted = peer.machine.wants_read();
                    peer.received();
                    if wanted {
                        peer.send(&bytes);
                        let sent = peer.received();
                        let fresh = matches!(op, Op::Publish { dup: false, qos: 1, .. });
                        if fresh {
                            prop_assert_eq!(promises(&sent), 0, "{:?}", sent);
                            prop_assert!(peer.closed.is_some() || !peer.machine.wants_read());
                        }
                        prop_assert_eq!(node.hub.published().len(), committed);
                    }
                }
            }
            let waiting = peer.machine.session.as_ref().map_or(0, |s| s.outstanding.len());
            prop_assert!(waiting <= 8, "{} submissions wait", waiting);
        }
    }

    /// Every message published with QoS 1 or 2 and answered is in the store, whatever happens between.
    #[test]
    fn what_was_answered_was_stored(
        plan in proptest::collection::vec((1u8..3, any::<bool>(), any::<bool>()), 1..30), v5: bool, keep: bool,
    ) {
        let version = if v5 { V5 } else { V3 };
        let connect = if keep { kept(version, "c") } else { clean(version, "c") };
        let node = Node::new();
        let mut peer = node.connect(&connect);
        let mut pid = 0;
        for (n, (qos, fails, cut)) in plan.into_iter().enumerate() {
            pid += 1;
            let payload = n.to_string();
            if fails { node.hub.fail_next(full()); }
            peer.publish("t", qos, pid, &payload);
            let answered = promises(&peer.received()) > 0;
            let stored = node.hub.payloads().contains(&payload);
            prop_assert_eq!(answered, stored);
            if cut || peer.closed.is_some() {
                peer.cut();
                peer = node.connect(&connect);
                if !answered {
                    peer.resend("t", qos, pid, &payload);
                    prop_assert!(promises(&peer.received()) > 0);
                }
            }
            prop_assert_eq!(node.hub.payloads().iter().filter(|p| **p == payload).count(), 1);
        }
    }
}
