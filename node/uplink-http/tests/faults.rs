//! Scripted and seeded faults under the real forwarder, over real sockets. For each: nothing is lost, what comes twice
//! comes with the same identity, it recovers by itself, and `status` says the cause in words.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod common;

use common::node::start;
use common::options;
use common::proxy::Proxy;
use common::standin::{Act, StandIn};
use eventmesh_edge_core::forward::Order;
use eventmesh_edge_runtime::forward::LinkState;
use eventmesh_edge_uplink_http::{Auth, Mode, Options, Secret, SecretSource};
use eventmesh_edge_uplink_testing::{Authority, Life, Node, Random, complete, in_order};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const EVENTS: u64 = 200;

fn quick(urls: &[String]) -> Options {
    Options {
        mode: Mode::Batch,
        batch_events: 20,
        connect_timeout: Duration::from_millis(500),
        answer_timeout: Duration::from_millis(150),
        ..options(urls)
    }
}

/// What the servers have taken: each arrival's number and identity.
fn arrived(servers: &[&StandIn]) -> Vec<(u64, (String, String))> {
    let all = servers.iter().flat_map(|server| server.taken());
    all.map(|seen| (seen.n, (seen.source, seen.id))).collect()
}

/// Publishes on both sides of a fault, waits until `status` says `words`, mends it, waits for everything.
async fn endure(node: &mut Node, words: &str, mend: impl AsyncFnOnce()) {
    node.publish(EVENTS);
    node.until(words, |status| status.cause.as_ref().is_some_and(|cause| cause.contains(words))).await;
    node.publish(EVENTS);
    mend().await;
    node.publish(EVENTS);
    node.drained().await;
    assert_eq!(node.status().state, LinkState::Up);
}

#[tokio::test]
async fn every_kind_of_answer_that_is_none() {
    let faults: [(&str, Act); 9] = [
        ("no answer within 150ms", Act::Hang),
        ("no answer within 150ms", Act::TakeAndHang),
        ("no answer within 150ms", Act::Loris),
        ("no answer: ", Act::Reset),
        ("no answer: ", Act::TakeAndReset),
        ("no answer: ", Act::Garbage),
        ("503 Service Unavailable", Act::status(503)),
        ("502 Bad Gateway", Act::TakeWith(502, Vec::new(), String::new())),
        ("404 Not Found", Act::status(404)),
    ];
    for (seed, (words, fault)) in (1..).zip(faults) {
        let server = StandIn::start(move |_| fault.clone()).await;
        let mut node = start(quick(&[server.url("/")]), Order::Strict, seed);
        endure(&mut node, words, async || server.handle(|_| Act::Take)).await;
        complete(&node, arrived(&[&server]));
        node.stop().await;
    }
}

#[tokio::test]
async fn a_receiver_that_refuses_connections() {
    let mut server = StandIn::start(|_| Act::Take).await;
    let url = server.url("/");
    server.stop().await;
    let mut node = start(quick(&[url]), Order::Strict, 1);
    endure(&mut node, "connect: ", async || server.resume().await).await;
    complete(&node, arrived(&[&server]));
}

#[tokio::test]
async fn a_receiver_that_goes_away_in_the_middle_of_it() {
    let mut server = StandIn::start(|_| Act::Take).await;
    let mut node = start(quick(&[server.url("/")]), Order::Strict, 1);
    for _ in 0..5 {
        node.publish(EVENTS);
        server.stop().await;
        node.publish(EVENTS);
        server.resume().await;
    }
    node.drained().await;
    complete(&node, arrived(&[&server]));
}

#[tokio::test]
async fn a_wrong_credential_for_a_long_time() {
    let server = StandIn::start(|_| Act::status(403)).await;
    let auth = Auth::Bearer(SecretSource::Inline(Secret::new("t")));
    let options = Options { auth, cleartext_credentials: true, ..quick(&[server.url("/")]) };
    let mut node = start(options, Order::Sequence, 1);
    node.publish(EVENTS);
    let asked = || server.posts().len();
    node.until("asked 30 times", |_| asked() >= 30).await;
    // While the next attempt is under way nothing is said of the last one.
    let told = |cause: &str| cause.contains("the credential is refused");
    node.until("told why", |status| status.cause.as_deref().is_some_and(told)).await;
    endure(&mut node, "403", async || server.handle(|_| Act::Take)).await;
    complete(&node, arrived(&[&server]));
    assert_eq!(node.status().counters.parked, 0);
}

#[tokio::test]
async fn a_second_address_takes_over_and_the_first_one_gets_its_work_back() {
    let mut first = StandIn::start(|_| Act::Take).await;
    let second = StandIn::start(|_| Act::Take).await;
    let urls = [first.url("/"), second.url("/")];
    first.stop().await;
    let options = Options { return_interval: Duration::from_millis(30), ..quick(&urls) };
    let mut node = start(options, Order::Strict, 1);
    node.publish(EVENTS);
    node.drained().await;
    assert_eq!(second.taken().len() as u64, EVENTS);
    first.resume().await;
    node.until("back", |status| status.address.as_deref() == Some(first.url("/").as_str())).await;
    node.publish(EVENTS);
    node.drained().await;
    assert_eq!(first.taken().len() as u64, EVENTS);
    // One that is there and takes nothing is left for the other one, too.
    first.handle(|_| Act::with(503, "Retry-After", "600"));
    node.publish(EVENTS);
    node.drained().await;
    complete(&node, arrived(&[&first, &second]));
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_from_now_on() {
    // `localhost` has two addresses: what listened at one of them is reached through the other one from now on.
    let mut server = StandIn::start(|_| Act::Take).await;
    let port = server.port();
    let known: Vec<_> = tokio::net::lookup_host(("localhost", port)).await.unwrap().collect();
    let listener = tokio::net::TcpListener::bind(("::1", port)).await;
    let Some(listener) = listener.ok().filter(|_| known.iter().any(std::net::SocketAddr::is_ipv6)) else {
        println!(
            "SKIPPED a_name_that_leads_elsewhere_from_now_on: localhost has no IPv6 address on this machine"
        );
        return;
    };
    let mut node = start(quick(&[server.url("/")]), Order::Strict, 1);
    node.publish(EVENTS);
    node.drained().await;
    server.move_away().await;
    node.publish(EVENTS);
    let elsewhere = Proxy::at(listener, server.port());
    node.drained().await;
    complete(&node, arrived(&[&server]));
    drop(elsewhere);
}

#[tokio::test]
async fn a_name_that_nobody_knows() {
    let server = StandIn::start(|_| Act::Take).await;
    let urls = ["http://no.such.host.invalid/".to_owned(), server.url("/")];
    let mut node = start(quick(&urls), Order::Strict, 1);
    node.publish(EVENTS);
    node.drained().await;
    complete(&node, arrived(&[&server]));
    let mut alone = start(quick(&urls[..1]), Order::Strict, 1);
    alone.publish(1);
    alone
        .until("cause", |s| s.cause.as_ref().is_some_and(|c| c.contains("resolve no.such.host.invalid")))
        .await;
}

#[tokio::test]
async fn certificates_that_have_ended_or_have_not_begun() {
    let authority = Authority::new();
    for (life, words) in [(Life::Ended, "expired"), (Life::NotYet, "not valid yet")] {
        let mut server =
            StandIn::start_with(Some(authority.acceptor("localhost", life, false, &[])), |_| Act::Take).await;
        let options = Options { tls: authority.trusting(), ..quick(&[server.url("/")]) };
        let mut node = start(options, Order::Strict, 1);
        endure(&mut node, words, async || {
            server.show(authority.acceptor("localhost", Life::Now, false, &[])).await
        })
        .await;
        complete(&node, arrived(&[&server]));
    }
}

#[tokio::test]
async fn a_black_hole_in_between() {
    let server = StandIn::start(|_| Act::Take).await;
    let proxy = Proxy::before(server.port()).await;
    let patient = Options {
        answer_timeout: Duration::from_secs(600),
        probe_interval: Duration::from_millis(100),
        ..quick(&[proxy.url()])
    };
    let mut node = start(patient, Order::Strict, 1);
    node.publish(EVENTS);
    node.drained().await;
    proxy.swallow();
    // The answer's own limit is ten minutes: only the probe can tell.
    endure(&mut node, "nobody answers a second connection", async || proxy.pass()).await;
    complete(&node, arrived(&[&server]));
}

fn any_fault(random: &mut Random) -> Act {
    match random.below(13) {
        0 => Act::Reset,
        1 => Act::TakeAndReset,
        2 => Act::Hang,
        3 => Act::TakeAndHang,
        4 => Act::Loris,
        5 => Act::Garbage,
        6 => Act::status(500),
        7 => Act::TakeWith(500, Vec::new(), String::new()),
        8 => Act::with(503, "Retry-After", "0"),
        9 => Act::status(429),
        10 => Act::status(401),
        11 => Act::TakeWith(504, Vec::new(), String::new()),
        _ => Act::Status(207, Vec::new(), "some".to_owned()),
    }
}

/// One storm: every third request meets a fault until there were enough of them. Returns how many there were.
async fn storm(seed: u64, faults: u64) -> u64 {
    let order = if seed.is_multiple_of(2) { Order::Strict } else { Order::Sequence };
    let mode = [Mode::Batch, Mode::Binary, Mode::Structured][usize::try_from(seed % 3).unwrap()];
    let connections = [1, 1, 4][usize::try_from(seed / 2 % 3).unwrap()];
    let script = Arc::new(Mutex::new((Random(seed), 0_u64)));
    let met = Arc::clone(&script);
    let handler = move |request: &common::standin::Request| {
        let mut script = script.lock().unwrap();
        let (random, met) = &mut *script;
        let fault = *met < faults && request.method == "POST" && random.below(3) == 0;
        *met += u64::from(fault);
        if fault { any_fault(random) } else { Act::Take }
    };
    let server = StandIn::start(handler).await;
    let options =
        Options { mode, connections, answer_timeout: Duration::from_millis(60), ..quick(&[server.url("/")]) };
    let mut node = start(options, order, seed);
    let met = || met.lock().unwrap().1;
    while met() < faults {
        node.publish(50);
        node.drained().await;
    }
    complete(&node, arrived(&[&server]));
    if order == Order::Strict {
        in_order(server.taken().into_iter().map(|seen| seen.n), seed);
    }
    node.stop().await;
    met()
}

/// Twenty storms at once; `HTTP_FAULTS` asks for more faults, `HTTP_SEED` for other storms.
#[tokio::test]
async fn a_thousand_seeded_faults_lose_nothing() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |v| v.parse().unwrap());
    let (all, first): (u64, u64) = (number("HTTP_FAULTS", 1_000), number("HTTP_SEED", 1));
    let storms: Vec<_> = (first..first + 20).map(|seed| tokio::spawn(storm(seed, all / 20))).collect();
    let mut met = 0;
    for storm in storms {
        met += storm.await.unwrap();
    }
    assert_eq!(met, all / 20 * 20);
}
