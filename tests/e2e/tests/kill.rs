//! P1, P2, P3, P4 under SIGKILL: eight clients publish without pause, the way up refuses, hangs, resets and works in turn,
//! and the node is killed at random moments, again and again. Nothing that was acknowledged may be missing at the upstream
//! afterwards, ids are stable, and order holds per client and topic.
//!
//! `EDGE_KILLS` sets the number of kills (50), `EDGE_SEED` the seed of the moments, `EDGE_PACE_MS` a pause of each client
//! between two messages (none). The hub is an unoptimised rumqttd that hands on some thousand events a second, and every kill
//! makes some of them come twice: the test waits for as long as anything arrives.

#![allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop on a surprise"
)]

use eventmesh_edge_e2e::audit::{Auditor, Received};
use eventmesh_edge_e2e::node::{Hub, Node};
use eventmesh_edge_e2e::proxy::{Link, Proxy};
use eventmesh_edge_e2e::raw::RawClient;
use eventmesh_edge_e2e::tools::{Random, number_from_env};
use eventmesh_edge_e2e::{Result, eventually};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const CLIENTS: usize = 8;
const TOPICS_PER_CLIENT: u64 = 2;
const WINDOW: usize = 8;

/// What every client is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Publish,
    Settle,
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_under_sigkill_and_a_failing_link() -> Result {
    let kills = number_from_env("EDGE_KILLS", 50);
    let seed = number_from_env("EDGE_SEED", 1);
    let mut random = Random::new(seed);
    let hub = Hub::start().await?;
    let auditor = Auditor::start(hub.addr(), "load/#").await?;
    let proxy = Arc::new(Proxy::start(hub.addr()).await?);
    let mut node = Node::start(&config(proxy.addr())).await?;

    let (address, addresses) = watch::channel(node.mqtt());
    let (phase, phases) = watch::channel(Phase::Publish);
    let clients: Vec<_> =
        (0..CLIENTS).map(|n| tokio::spawn(client(n, addresses.clone(), phases.clone()))).collect();
    let faults = tokio::spawn(faults(Arc::clone(&proxy), Random::new(seed ^ 0xfa17)));

    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(random.between(20, 250))).await;
        node.kill().await?;
        node.start_again().await?;
        address.send_replace(node.mqtt());
    }
    faults.abort();
    proxy.set(Link::Works);
    phase.send_replace(Phase::Settle);

    let mut books = Vec::new();
    for client in clients {
        books.push(client.await??);
    }
    let acknowledged: usize = books.iter().map(|b| b.acknowledged.len()).sum();
    assert!(acknowledged > kills as usize * 10, "only {acknowledged} messages: this was no load");
    let mut missing = Missing::new(&books);
    if !missing.arrive(&auditor).await {
        return missing.complain(&auditor, &node);
    }

    let seen = auditor.seen().clone();
    println!(
        "kill: seed {seed}, {kills} kills, {acknowledged} acknowledged, {} received, {} distinct, 0 lost",
        seen.len(),
        seen.iter().map(Received::identity).collect::<BTreeSet<_>>().len()
    );
    ids_are_stable(&seen, &books);
    order_holds(&seen);
    sequences_have_no_gap(&seen);
    node.stop().await?;
    Ok(())
}

fn config(hub: SocketAddr) -> String {
    format!(
        r#"
        [[stream]]
        name = "load"
        when_full = "refuse"
        [[route]]
        topics = ["load/#"]
        stream = "load"
        uplinks = ["hub"]
        [[uplink]]
        name = "hub"
        kind = "mqtt"
        addresses = ["{hub}"]
        order = "strict"
        keep_alive = "2 s"
        connect_timeout = "1 s"
        "#
    )
}

/// What a client knows at the end.
struct Books {
    name: String,
    acknowledged: Vec<u64>,
    /// How often each message was sent on a new connection.
    resent: HashMap<u64, usize>,
}

async fn client(
    n: usize,
    mut address: watch::Receiver<SocketAddr>,
    mut phase: watch::Receiver<Phase>,
) -> Result<Books> {
    let name = format!("client-{n}");
    let mut client = RawClient::new(&name, *address.borrow());
    let mut connected = false;
    loop {
        if *phase.borrow_and_update() == Phase::Settle && client.in_flight() == 0 {
            break;
        }
        if !connected {
            client.set_addr(*address.borrow_and_update());
            connected = client.connect().await.is_ok();
            if !connected {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        }
        let publishing = *phase.borrow() == Phase::Publish;
        connected = step(&mut client, &name, publishing).await.is_ok();
    }
    Ok(Books { name, resent: client.resent.clone(), acknowledged: client.acknowledged })
}

async fn step(client: &mut RawClient, name: &str, publishing: bool) -> Result {
    if !publishing {
        return client.settle_all().await;
    }
    let number = client.next_number();
    let topic = format!("load/{name}/{}", number % TOPICS_PER_CLIENT);
    client.publish(&topic, format!(r#"{{"client":"{name}","n":{number}}}"#).into_bytes()).await?;
    match number_from_env("EDGE_PACE_MS", 0) {
        0 => {}
        pace => tokio::time::sleep(Duration::from_millis(pace)).await,
    }
    client.settle(WINDOW).await
}

async fn faults(proxy: Arc<Proxy>, mut random: Random) {
    loop {
        let link = match random.between(0, 6) {
            0 => Link::Refuses,
            1 => Link::Hangs,
            2 => Link::Resets,
            _ => Link::Works,
        };
        proxy.set(link);
        tokio::time::sleep(Duration::from_millis(random.between(30, 400))).await;
    }
}

/// Which client's message, and its number.
fn message(received: &Received) -> (String, u64) {
    let value: serde_json::Value = serde_json::from_slice(&received.payload).unwrap_or_default();
    (value["client"].as_str().unwrap_or_default().to_owned(), value["n"].as_u64().unwrap_or(u64::MAX))
}

/// What was acknowledged and has not arrived.
struct Missing {
    of_client: HashMap<String, HashSet<u64>>,
    /// How many of those that came were looked at: each once, however many there are. The link runs on the thread that counts,
    /// and one that stands still for seconds while it counts is a dead one to the node.
    looked_at: usize,
}

/// Looked at in one go.
const LOOK_AT: usize = 1_000;

impl Missing {
    fn new(books: &[Books]) -> Missing {
        let of = |b: &Books| (b.name.clone(), b.acknowledged.iter().copied().collect());
        Missing { of_client: books.iter().map(of).collect(), looked_at: 0 }
    }

    /// Waits while events arrive; false if nothing new came for a minute and something is still missing.
    async fn arrive(&mut self, auditor: &Auditor) -> bool {
        while !self.of_client.values().all(HashSet::is_empty) {
            let news = eventually("something new arrives", async || {
                let seen = auditor.seen();
                let news: Vec<_> = seen.iter().skip(self.looked_at).take(LOOK_AT).cloned().collect();
                (!news.is_empty()).then_some(news)
            });
            let Ok(news) = news.await else { return false };
            self.looked_at += news.len();
            for (client, number) in news.iter().map(message) {
                self.of_client.get_mut(&client).map(|of_one| of_one.remove(&number));
            }
        }
        true
    }

    /// Says what is missing, and who stands still: the node's own word, the end of its log, and whether the auditor listens.
    fn complain(&self, auditor: &Auditor, node: &Node) -> Result {
        let log = node.log();
        let tail: Vec<_> = log.lines().rev().take(20).collect();
        println!(
            "kill: auditor {}; status {:?}; log, newest first: {tail:#?}",
            auditor.state(),
            node.status()
        );
        let lost: usize = self.of_client.values().map(HashSet::len).sum();
        let first = self.of_client.iter().find_map(|(client, of_one)| Some((client, of_one.iter().min()?)));
        Err(format!("P1/P2: {lost} acknowledged messages never arrived, among them {first:?}").into())
    }
}

/// P3: an id names one message for ever; a message has a second id only where its client had to send it again although
/// it was acknowledged on a connection that died with the PUBACK in it [MQTT-4.3.2-5].
fn ids_are_stable(seen: &[Received], books: &[Books]) {
    let mut of_id: HashMap<(String, String), (String, u64)> = HashMap::new();
    let mut of_message: BTreeMap<(String, u64), BTreeSet<String>> = BTreeMap::new();
    for received in seen {
        let (identity, message) = (received.identity(), message(received));
        assert!(!identity.1.is_empty(), "no id: {received:?}");
        let before = of_id.entry(identity.clone()).or_insert_with(|| message.clone());
        assert_eq!(*before, message, "P3: id {identity:?} names two messages");
        of_message.entry(message).or_default().insert(identity.1);
    }
    let mut doubled = 0;
    for ((name, n), ids) in &of_message {
        let resent =
            books.iter().find(|b| b.name == *name).and_then(|b| b.resent.get(n)).copied().unwrap_or(0);
        assert!(ids.len() <= 1 + resent, "P3: {name} {n} was sent again {resent} times and has ids {ids:?}");
        doubled += usize::from(ids.len() > 1);
    }
    println!("kill: {doubled} of {} messages have a second id", of_message.len());
}

/// P4: first receptions are in the order of sending, per client and topic.
fn order_holds(seen: &[Received]) {
    let mut first = BTreeSet::new();
    let mut last: HashMap<String, u64> = HashMap::new();
    for received in seen {
        let (client, n) = message(received);
        if first.insert((client, n)) {
            let last = last.entry(received.topic.clone()).or_insert(0);
            assert!(n >= *last, "P4: {} came after {last} on {}", n, received.topic);
            *last = n;
        }
    }
}

/// P2: `sequence` is contiguous per source, so everything that was stored has arrived.
fn sequences_have_no_gap(seen: &[Received]) {
    let mut of_source: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for received in seen {
        let sequence = received.attribute("sequence").parse().expect("sequence is a number");
        of_source.entry(received.attribute("source")).or_default().insert(sequence);
    }
    assert_eq!(of_source.len(), CLIENTS, "{:?}", of_source.keys());
    for (source, sequences) in of_source {
        let expected = 1..=sequences.len() as u64;
        assert!(sequences.iter().copied().eq(expected), "P2: {source} has a gap in its sequence");
    }
}
