//! Scripted and seeded faults under the real forwarder, over real sockets. For each: nothing is lost, what comes twice comes with the
//! same identity, it recovers by itself, and `status` says the cause in words.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod common;
#[path = "common/node.rs"]
mod node;

use common::{options, subscribing};
use eventmesh_edge_core::forward::Order;
use eventmesh_edge_e2e::proxy::{Link, Proxy};
use eventmesh_edge_runtime::forward::LinkState;
use eventmesh_edge_standin::proto::cloud_event::Data;
use eventmesh_edge_standin::{Reply, StandIn};
use eventmesh_edge_uplink_eventmesh::Options;
use eventmesh_edge_uplink_testing::{Node, Random, complete, in_order};
use node::start;
use std::net::SocketAddr;
use std::time::Duration;

const EVENTS: u64 = 100;
/// What may lie between the cursor and the newest event read, [`eventmesh_edge_core::forward::Options::gap_max`].
const GAP: u64 = 4_096;

fn quick(addresses: &[SocketAddr]) -> Options {
    let mut quick = options(addresses);
    quick.answer_timeout = Duration::from_millis(300);
    quick.keep_alive = Duration::from_millis(800);
    quick.return_after = Duration::from_millis(40);
    quick
}

/// The numbers that arrived, in order, each with its identity.
fn arrived(standins: &[&StandIn]) -> Vec<(u64, String)> {
    let number = |event: &eventmesh_edge_standin::proto::CloudEvent| {
        let Some(Data::TextData(text)) = &event.data else { panic!("{event:?}") };
        text.trim_start_matches("{\"n\":").trim_end_matches('}').parse::<u64>().unwrap()
    };
    let all = standins.iter().flat_map(|s| s.stored());
    all.map(|event| (number(&event), format!("{} {}", event.source, event.id))).collect()
}

/// Publishes on both sides of a fault, waits until `status` says `words`, mends it, waits for everything.
async fn endure(node: &mut Node, words: &str, mend: impl FnOnce()) {
    node.publish(EVENTS);
    node.until(words, |status| {
        let says =
            |text: &Option<eventmesh_edge_core::Text>| text.as_ref().is_some_and(|t| t.contains(words));
        says(&status.cause) || says(&status.last_refusal)
    })
    .await;
    node.publish(EVENTS);
    mend();
    node.publish(EVENTS);
    node.drained().await;
    // Answers that were under way may have ended a connection once more.
    node.until("up", |status| status.state == LinkState::Up).await;
}

#[tokio::test]
async fn links_that_refuse_swallow_reset_and_drip() {
    for (seed, (link, words)) in (1..).zip([
        (Link::Refuses, "connect: "),
        (Link::Hangs, "no answer within"),
        (Link::Resets, "127.0.0.1"),
        (Link::Drips, "no answer to publish within"),
    ]) {
        let standin = StandIn::start();
        let proxy = Proxy::start(standin.addr()).await.unwrap();
        let mut node = start(quick(&[proxy.addr()]), Order::Strict, seed);
        node.publish(EVENTS);
        node.drained().await;
        proxy.set(link);
        endure(&mut node, words, || proxy.set(Link::Works)).await;
        complete(&node, arrived(&[&standin]));
        node.stop().await;
    }
}

#[tokio::test]
async fn answers_that_are_none_or_no_good() {
    let refused = |code: u16| Reply::Code(code, "scripted".to_owned());
    let faults = [
        ("no answer to publish within", Reply::Hang),
        ("no answer to publish within", Reply::StoredAndSilent),
        ("code 21", refused(21)),
        ("code 1 ", refused(1)),
        ("code 13", refused(13)),
        ("code 16", refused(16)),
        ("code 9 ", refused(9)),
        ("unavailable", Reply::Grpc(14, "gone".to_owned())),
        ("internal", Reply::Grpc(13, "broken".to_owned())),
    ];
    for (seed, (words, fault)) in (1..).zip(faults) {
        let standin = StandIn::start();
        standin.script((0..100_000).map(|_| fault.clone()));
        let mut node = start(quick(&[standin.addr()]), Order::Sequence, seed);
        endure(&mut node, words, || standin.behave()).await;
        complete(&node, arrived(&[&standin]));
        node.stop().await;
    }
}

#[tokio::test]
async fn a_topic_without_a_consumer_keeps_its_events_until_there_is_one() {
    // Where order is strict, one event per key is offered, and then one for all of them; else each is offered once.
    for (order, offered) in [(Order::Strict, 7), (Order::Sequence, 2 * GAP)] {
        let standin = StandIn::start();
        standin.only_subscribed_topics();
        let mut node = start(quick(&[standin.addr()]), order, 1);
        node.publish(EVENTS);
        node.until("held", |s| s.last_refusal.as_ref().is_some_and(|r| r.contains("is held for"))).await;
        // Far more than the gap behind it: nothing is given up for it.
        node.publish(2 * GAP);
        node.until("tried again", |s| s.counters.held > offered + 1).await;
        assert_eq!((standin.count(), node.losses()), (0, 0));
        let mut consumer = subscribing(&[standin.addr()]);
        consumer.down.topics = vec!["eventmesh-edge".to_owned()];
        let consumer = start(consumer, Order::Strict, 2);
        node.drained().await;
        complete(&node, arrived(&[&standin]));
        if order == Order::Strict {
            in_order(arrived(&[&standin]).into_iter().map(|(n, _)| n), 1);
        }
        consumer.stop().await;
        node.stop().await;
    }
}

#[tokio::test]
async fn a_runtime_goes_away_and_comes_back_at_its_address() {
    let (first, second) = (StandIn::start(), StandIn::start());
    let at = first.addr();
    let mut node = start(quick(&[at, second.addr()]), Order::Sequence, 1);
    node.publish(EVENTS);
    node.drained().await;
    let mut gone = vec![first];
    for _ in 0..3 {
        node.publish(EVENTS);
        // Its connections end with it.
        gone.last().unwrap().shut();
        node.publish(EVENTS);
        node.drained().await;
        gone.push(StandIn::start_at(at));
        node.until("back", |s| s.address.as_deref() == Some(at.to_string().as_str())).await;
        node.publish(EVENTS);
        node.drained().await;
    }
    let all: Vec<&StandIn> = gone.iter().chain([&second]).collect();
    complete(&node, arrived(&all));
    assert!(second.count() > 0 && gone.last().unwrap().count() > 0);
}

fn any_fault(random: &mut Random) -> Reply {
    let code = |code: u16| Reply::Code(code, "scripted".to_owned());
    match random.below(12) {
        0 => Reply::Hang,
        1 | 2 => Reply::StoredAndSilent,
        3 => code(1),
        4 => code(21),
        5 => code(8),
        6 => code(13),
        7 => code(16),
        8 => code(99),
        9 => Reply::Grpc(14, "gone".to_owned()),
        10 => Reply::Grpc(2, "broken".to_owned()),
        _ => Reply::Late(Duration::from_millis(random.below(200))),
    }
}

/// One storm: scripted answers and a link that fails, until there were enough faults. Returns how many there were.
async fn storm(seed: u64, faults: u64) -> u64 {
    let mut random = Random(seed);
    let order = if seed.is_multiple_of(2) { Order::Strict } else { Order::Sequence };
    let standin = StandIn::start();
    let proxy = Proxy::start(standin.addr()).await.unwrap();
    let mut node = start(quick(&[proxy.addr()]), order, seed);
    let mut met = 0;
    while met < faults {
        let script: Vec<Reply> = (0..12)
            .map(|_| if random.below(3) == 0 { any_fault(&mut random) } else { Reply::Usual })
            .collect();
        met += script.iter().filter(|reply| **reply != Reply::Usual).count() as u64;
        standin.script(script);
        node.publish(14);
        if random.below(4) == 0 {
            proxy.set([Link::Refuses, Link::Hangs, Link::Resets][usize::try_from(random.below(3)).unwrap()]);
            node.publish(5);
            tokio::time::sleep(Duration::from_millis(random.below(60))).await;
            proxy.set(Link::Works);
            met += 1;
        }
        node.publish(5);
        node.drained().await;
    }
    complete(&node, arrived(&[&standin]));
    if order == Order::Strict {
        in_order(arrived(&[&standin]).into_iter().map(|(n, _)| n), seed);
    }
    node.stop().await;
    met
}

/// Eight storms at once; `MESH_FAULTS` asks for more faults, `MESH_SEED` for other storms.
#[tokio::test]
async fn a_thousand_seeded_faults_lose_nothing() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |v| v.parse().unwrap());
    let (all, first): (u64, u64) = (number("MESH_FAULTS", 1_000), number("MESH_SEED", 1));
    let storms: Vec<_> = (first..first + 8).map(|seed| tokio::spawn(storm(seed, all / 8))).collect();
    let mut met = 0;
    for storm in storms {
        met += storm.await.unwrap();
    }
    assert!(met >= all / 8 * 8);
}
