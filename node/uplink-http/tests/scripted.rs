//! The adapter by itself, against a stand-in for a receiver: what each kind of answer does.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod common;

use common::standin::{Act, Request, StandIn};
use common::{Driver, End, options, url};
use eventmesh_edge_uplink_http::{Mode, Options};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn batches(server: &StandIn) -> Options {
    Options { mode: Mode::Batch, ..options(&[server.url("/in")]) }
}

fn holds(request: &Request, n: u64) -> bool {
    request.events().iter().any(|event| event.n == n)
}

fn range(n: u64) -> Vec<u64> {
    (1..=n).collect()
}

#[tokio::test]
async fn all_three_modes_arrive_and_one_connection_serves_all_requests() {
    for (mode, requests) in [(Mode::Binary, 20), (Mode::Structured, 20), (Mode::Batch, 1)] {
        let server = StandIn::start(|_| Act::Take).await;
        let mut driver = Driver::new(Options { mode, ..options(&[server.url("/in?key=1")]) });
        driver.connect(0).await.unwrap();
        let outcome = driver.send(1..=20).await;
        assert_eq!(outcome.acked, range(20), "{mode:?}");
        let posts = server.posts();
        assert_eq!(posts.len(), requests, "{mode:?}");
        assert!(posts.iter().all(|post| post.target == "/in?key=1" && post.connection == 0));
        assert!(posts[0].header("user-agent").starts_with("eventmesh-edge/"));
        assert_eq!(posts[0].header("host"), format!("localhost:{}", server.port()));
        let taken = server.taken();
        assert_eq!(taken.iter().map(|seen| seen.n).collect::<Vec<_>>(), range(20), "{mode:?}");
        assert_eq!(taken[6].id, outgoing_id(7));
    }
}

fn outgoing_id(n: u64) -> String {
    common::outgoing(n).event.id().to_string()
}

#[tokio::test]
async fn batches_are_bounded_and_collect_what_waits() {
    let server = StandIn::start(|_| Act::Take).await;
    let mut driver = Driver::new(Options { batch_events: 30, ..batches(&server) });
    assert_eq!(driver.connect(0).await, Ok(60));
    assert_eq!(driver.send(1..=60).await.acked, range(60));
    let sizes: Vec<_> = server.posts().iter().map(|post| post.events().len()).collect();
    assert_eq!(sizes, [30, 30]);
    let mut driver = Driver::new(Options { batch_bytes: 2_000, ..batches(&server) });
    driver.connect(0).await.unwrap();
    driver.send(1..=60).await;
    assert!(server.posts().iter().skip(2).all(|post| post.body.len() <= 2_001));
}

#[tokio::test]
async fn bodies_travel_compressed_and_a_receiver_that_cannot_read_them_gets_them_plain() {
    let server = StandIn::start(|_| Act::Take).await;
    let mut driver = Driver::new(Options { gzip: true, ..batches(&server) });
    driver.connect(0).await.unwrap();
    assert_eq!(driver.send(1..=50).await.acked, range(50));
    assert_eq!(server.posts()[0].header("content-encoding"), "gzip");
    let length: usize = server.posts()[0].header("content-length").parse().unwrap();
    assert!(length * 4 < server.posts()[0].body.len());

    server.handle(|r| if r.header("content-encoding") == "gzip" { Act::status(415) } else { Act::Take });
    assert_eq!(driver.send(51..=100).await.acked, (51..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_poison_event_is_isolated_and_alone_refused() {
    for status in [400, 422] {
        let server =
            StandIn::start(move |r| if holds(r, 37) { Act::status(status) } else { Act::Take }).await;
        let mut driver = Driver::new(batches(&server));
        driver.connect(0).await.unwrap();
        let outcome = driver.send(1..=100).await;
        assert_eq!(outcome.failed.len(), 1, "{outcome:?}");
        assert_eq!((outcome.failed[0].0, outcome.failed[0].1.as_str()), (37, "Reject"));
        assert!(outcome.failed[0].2.starts_with(&status.to_string()));
        let expected: Vec<_> = range(100).into_iter().filter(|n| *n != 37).collect();
        assert_eq!(outcome.acked, expected, "in order");
        assert_eq!(server.taken().len(), 99, "nothing twice");
        assert!(server.posts().len() < 25);
    }
}

#[tokio::test]
async fn too_large_batches_shrink_and_a_too_large_event_is_refused() {
    let limit = |r: &Request| if r.body.len() > 3_000 { Act::status(413) } else { Act::Take };
    let server = StandIn::start(limit).await;
    let mut driver = Driver::new(batches(&server));
    driver.connect(0).await.unwrap();
    assert_eq!(driver.send(1..=100).await.acked, range(100));
    let refused = server.posts().iter().filter(|r| r.body.len() > 3_000).count();
    assert!(refused <= 5, "{refused}: the limit is learned");
    server.handle(|_| Act::status(413));
    let outcome = driver.send([101]).await;
    assert_eq!(outcome.failed[0].1, "Reject");
}

#[tokio::test]
async fn a_receiver_without_batches_gets_single_events() {
    for refusal in [400, 415] {
        let server = StandIn::start(move |r| {
            if r.header("content-type").contains("batch") { Act::status(refusal) } else { Act::Take }
        })
        .await;
        let mut driver = Driver::new(batches(&server));
        driver.connect(0).await.unwrap();
        let outcome = driver.send(1..=100).await;
        assert_eq!(outcome.acked, range(100), "{refusal}: {outcome:?}");
        let batches = server.posts().iter().filter(|r| r.header("content-type").contains("batch")).count();
        assert!(batches <= 8, "{batches}: it is remembered");
    }
}

#[tokio::test]
async fn a_receiver_that_takes_no_form_at_all_condemns_no_event() {
    let server = StandIn::start(|_| Act::status(415)).await;
    for mode in [Mode::Binary, Mode::Structured, Mode::Batch] {
        let mut driver = Driver::new(Options { mode, ..options(&[server.url("/")]) });
        driver.connect(0).await.unwrap();
        let outcome = driver.send(1..=3).await;
        assert_eq!((outcome.acked.len(), outcome.failed.len()), (0, 0));
        assert!(outcome.end.unwrap().cause().contains("is it a CloudEvents receiver?"));
    }
    // One that has taken others refuses this one for good.
    server.handle(|r| if holds(r, 9) { Act::status(415) } else { Act::Take });
    let mut driver = Driver::new(options(&[server.url("/")]));
    driver.connect(0).await.unwrap();
    let outcome = driver.send(8..=9).await;
    assert_eq!((outcome.acked, outcome.failed[0].1.as_str()), (vec![8], "Reject"));
}

#[tokio::test]
async fn partial_acceptance_is_read_where_it_can_be() {
    let each = |r: &Request| {
        let status = |n| if n == 3 { 400 } else { 202 };
        let entries: Vec<_> =
            r.events().iter().map(|e| format!(r#"{{"id":"{}","status":{}}}"#, e.id, status(e.n))).collect();
        Act::Status(207, Vec::new(), format!("[{}]", entries.join(",")))
    };
    let server = StandIn::start(each).await;
    let mut driver = Driver::new(batches(&server));
    driver.connect(0).await.unwrap();
    let outcome = driver.send(1..=5).await;
    assert_eq!(outcome.acked, [1, 2, 4, 5]);
    assert_eq!(outcome.failed, [(3, "Reject".to_owned(), "400 Bad Request".to_owned())]);
    assert_eq!(server.posts().len(), 1);

    // Not understood: smaller ones, until each event has an answer of its own.
    server.handle(|r| match r.events().len() {
        1 => Act::Take,
        _ => Act::Status(207, Vec::new(), "some of them".to_owned()),
    });
    assert_eq!(driver.send(6..=12).await.acked, (6..=12).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_event_that_is_to_be_tried_again_holds_the_later_ones_back_where_order_counts() {
    let later = |r: &Request| {
        let entries: Vec<_> = r
            .events()
            .iter()
            .map(|e| format!(r#"{{"status":{}}}"#, if e.n == 2 { 503 } else { 202 }))
            .collect();
        Act::Status(207, Vec::new(), format!(r#"{{"results":[{}]}}"#, entries.join(",")))
    };
    let server = StandIn::start(later).await;
    let mut driver = Driver::new(batches(&server));
    driver.connect(0).await.unwrap();
    let outcome = driver.send(1..=3).await;
    assert_eq!(outcome.end, Some(End::Fatal(2, "503 Service Unavailable".to_owned())));
    let mut driver = Driver::new(Options { connections: 2, ..batches(&server) });
    driver.connect(0).await.unwrap();
    let outcome = driver.send(1..=3).await;
    assert_eq!(outcome.acked, [1, 3]);
    assert_eq!(outcome.failed, [(2, "Retry".to_owned(), "503 Service Unavailable".to_owned())]);
}

#[tokio::test]
async fn what_is_about_the_receiver_condemns_no_event() {
    let server = StandIn::start(|_| Act::Take).await;
    for status in [408, 425, 429, 502, 503, 504, 501, 404, 405, 410, 401, 403, 407, 303] {
        server.handle(move |_| Act::status(status));
        let mut driver = Driver::new(batches(&server));
        driver.connect(0).await.unwrap();
        let outcome = driver.send(1..=4).await;
        assert_eq!((outcome.acked.len(), outcome.failed.len()), (0, 0), "{status}");
        let end = outcome.end.unwrap();
        assert!(matches!(end, End::Unavailable(_, None)), "{end:?}");
        assert!(end.cause().contains(&status.to_string()) && end.cause().contains("/in"), "{end:?}");
    }
}

#[tokio::test]
async fn retry_after_is_kept_to_in_both_forms_and_the_connection_survives() {
    let server = StandIn::start(|_| Act::with(503, "Retry-After", "120")).await;
    let mut driver = Driver::new(batches(&server));
    driver.connect(0).await.unwrap();
    let end = driver.send(1..=3).await.end.unwrap();
    let End::Unavailable(_, Some(asked)) = &end else { panic!("{end:?}") };
    assert_eq!(*asked, Duration::from_secs(120));
    // Too early, whoever asks: no request is made.
    let Err(End::Unavailable(cause, Some(left))) = driver.connect(0).await else { panic!("let in") };
    assert!(cause.contains("503") && left > Duration::from_secs(60) && left <= *asked);
    assert_eq!((server.posts().len(), server.connections()), (1, 1));

    let date = |_: &Request| {
        let headers = vec![
            ("Date", "Tue, 24 Nov 2026 12:00:00 GMT".to_owned()),
            ("Retry-After", "Tue, 24 Nov 2026 12:00:01 GMT".to_owned()),
        ];
        Act::Status(429, headers, String::new())
    };
    let server = StandIn::start(date).await;
    let mut driver = Driver::new(batches(&server));
    driver.connect(0).await.unwrap();
    let end = driver.send(1..=3).await.end.unwrap();
    assert!(matches!(end, End::Unavailable(_, Some(wait)) if wait == Duration::from_secs(1)));
    server.handle(|_| Act::Take);
    // A wait that fits into the attempt is waited for, on the connection that is there.
    driver.connect(0).await.unwrap();
    assert_eq!(driver.send(1..=3).await.acked, range(3));
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn five_hundred_makes_batches_smaller_and_blames_an_event_only_when_it_is_alone() {
    let server = StandIn::start(|r| if holds(r, 1) { Act::status(500) } else { Act::Take }).await;
    let mut driver = Driver::new(batches(&server));
    for expected in [8, 4, 2] {
        driver.connect(0).await.unwrap();
        let end = driver.send(1..=8).await.end.unwrap();
        assert!(matches!(end, End::Unavailable(..)), "{end:?}");
        assert_eq!(server.posts().last().unwrap().events().len(), expected);
    }
    driver.connect(0).await.unwrap();
    let end = driver.send(1..=8).await.end;
    assert_eq!(end, Some(End::Fatal(1, "500 Internal Server Error".to_owned())));
    // From now on it travels alone, so the others get through whatever it does.
    driver.connect(0).await.unwrap();
    let outcome = driver.send([2, 3, 4, 1]).await;
    assert_eq!(outcome.acked, [2, 3, 4]);
    assert_eq!(outcome.end, Some(End::Fatal(1, "500 Internal Server Error".to_owned())));
}

#[tokio::test]
async fn redirects_are_refused_unless_they_are_allowed() {
    let target = StandIn::start(|_| Act::Take).await;
    let to = target.url("/there?secret=1");
    let server = StandIn::start(move |_| Act::with(307, "Location", to.clone())).await;
    let mut driver = Driver::new(batches(&server));
    driver.connect(0).await.unwrap();
    let end = driver.send(1..=2).await.end.unwrap();
    assert!(end.cause().contains("307") && end.cause().contains("/there, which is not followed"), "{end:?}");
    assert!(!end.cause().contains("secret") && target.requests().is_empty());

    let mut driver = Driver::new(Options { redirects_max: 1, ..batches(&server) });
    driver.connect(0).await.unwrap();
    assert_eq!(driver.send(1..=2).await.acked, [1, 2]);
    assert_eq!(target.posts()[0].target, "/there?secret=1");

    // In a circle: bounded.
    let count = AtomicUsize::new(0);
    server.handle(move |_| Act::with(308, "Location", format!("/{}", count.fetch_add(1, Ordering::Relaxed))));
    let before = server.posts().len();
    let mut driver = Driver::new(Options { redirects_max: 3, ..batches(&server) });
    driver.connect(0).await.unwrap();
    assert!(driver.send([1]).await.end.unwrap().cause().contains("308"));
    assert_eq!(server.posts().len() - before, 4);
}

#[tokio::test]
async fn broken_connections_say_why() {
    let server = StandIn::start(|_| Act::Reset).await;
    let short = Options { answer_timeout: Duration::from_millis(150), ..batches(&server) };
    for (act, words) in [
        (Act::Reset, "no answer: "),
        (Act::TakeAndReset, "no answer: "),
        (Act::Garbage, "no answer: "),
        (Act::Hang, "no answer within 150ms"),
        (Act::Loris, "no answer within 150ms"),
    ] {
        let shown = act.clone();
        server.handle(move |_| act.clone());
        let mut driver = Driver::new(short.clone());
        driver.connect(0).await.unwrap();
        let outcome = driver.send(1..=2).await;
        let Some(End::Down(cause)) = outcome.end else { panic!("{shown:?}: {outcome:?}") };
        assert!(cause.contains(words) && cause.contains("localhost"), "{shown:?}: {cause}");
        assert_eq!((outcome.acked.len(), outcome.failed.len()), (0, 0));
    }
}

#[tokio::test]
async fn addresses_that_do_not_answer_say_why() {
    let mut server = StandIn::start(|_| Act::Take).await;
    let options = options(&[server.url("/"), "http://no.such.host.invalid/".to_owned()]);
    server.stop().await;
    let mut driver = Driver::new(options);
    let Err(End::Down(cause)) = driver.connect(0).await else { panic!("connected") };
    assert!(cause.contains("connect: ") && cause.contains("refused"), "{cause}");
    let Err(End::Down(cause)) = driver.connect(1).await else { panic!("connected") };
    assert!(cause.contains("resolve no.such.host.invalid"), "{cause}");
}

#[tokio::test]
async fn a_connection_that_the_receiver_closed_while_idle_costs_nothing() {
    let server =
        StandIn::start(|_| Act::TakeWith(202, vec![("Connection", "close".to_owned())], String::new())).await;
    let mut driver = Driver::new(batches(&server));
    driver.connect(0).await.unwrap();
    for n in 1..=5 {
        assert_eq!(driver.send([n]).await.acked, [n]);
    }
    assert_eq!(server.taken().len(), 5, "nothing twice");
}

#[tokio::test]
async fn a_black_hole_is_noticed_within_twice_the_probe_interval_and_a_slow_receiver_is_none() {
    // Requests vanish, and so do the questions on a second connection.
    let server = StandIn::start(|_| Act::Hang).await;
    let interval = Duration::from_millis(100);
    let mut driver = Driver::new(Options { probe_interval: interval, ..batches(&server) });
    driver.connect(0).await.unwrap();
    let end = driver.send([1]).await.end.unwrap();
    assert!(end.cause().contains("nobody answers a second connection"), "{end:?}");
    assert_eq!(driver.uplink.counters().read().probes, 1, "one question, one interval for its answer");

    // Slow with the answer, alive all the same.
    let server = StandIn::start(|r| if r.method == "OPTIONS" { Act::Take } else { Act::TakeAndHang }).await;
    let patient = Options {
        probe_interval: Duration::from_millis(30),
        answer_timeout: Duration::from_millis(400),
        ..batches(&server)
    };
    let mut driver = Driver::new(patient);
    driver.connect(0).await.unwrap();
    let end = driver.send([1]).await.end.unwrap();
    assert!(end.cause().contains("no answer within 400ms"), "{end:?}");
    assert!(driver.uplink.counters().read().probes >= 2);
}

#[tokio::test]
async fn the_first_address_is_gone_back_to_when_it_answers_again() {
    let mut first = StandIn::start(|_| Act::Take).await;
    let second = StandIn::start(|_| Act::Take).await;
    let urls = [first.url("/"), second.url("/")];
    let mut driver = Driver::new(Options { return_interval: Duration::from_millis(50), ..options(&urls) });
    first.stop().await;
    assert!(matches!(driver.connect(0).await, Err(End::Down(_))));
    driver.connect(1).await.unwrap();
    assert_eq!(driver.send([1]).await.acked, [1]);
    first.resume().await;
    let end = driver.end().await;
    assert!(end.cause().contains("going back to"), "{end:?}");
    driver.connect(0).await.unwrap();
    assert_eq!(driver.send([2]).await.acked, [2]);
    assert_eq!((first.taken().len(), second.taken().len()), (1, 1));
}

#[tokio::test]
async fn several_connections_carry_requests_at_once() {
    let server = StandIn::start(|_| Act::TakeAndHang).await;
    let four =
        Options { connections: 4, answer_timeout: Duration::from_millis(300), ..options(&[server.url("/")]) };
    let mut driver = Driver::new(four);
    driver.connect(0).await.unwrap();
    driver.send(1..=8).await;
    assert_eq!(server.posts().len(), 4, "one request per connection");
}

#[test]
fn credentials_do_not_travel_in_clear_unless_told_so() {
    use eventmesh_edge_uplink_http::{Auth, HttpUplink, Secret, SecretSource};
    let auth = Auth::Bearer(SecretSource::Inline(Secret::new("t")));
    let clear = Options { auth, ..Options::new(vec![url("https://a/"), url("http://b/")]) };
    let error = HttpUplink::new(clear.clone()).unwrap_err();
    assert!(error.to_string().starts_with("http://b/ is not https"), "{error}");
    HttpUplink::new(Options { cleartext_credentials: true, ..clear }).unwrap();
}
