//! Message layer and request-response (RFC 7252 sections 4 and 5.2).

use super::*;

#[test]
fn a_request_answered_in_time_gets_its_response_in_the_acknowledgement() {
    let mut rig = Rig::new();
    rig.receive(PEER, &request(Kind::Con, Code::POST, 1));
    let (exchange, asked) = rig.asked_one();
    assert_eq!((asked.method, asked.path.len()), (Code::POST, 2));
    rig.respond(exchange, Response::new(Code::CHANGED));
    assert_eq!(rig.sent_one(), message(Kind::Ack, Code::CHANGED, 1, b"tk"));
    assert_eq!(rig.endpoint.gauges().exchanges, 0);
    // Nothing is left to be done for it.
    rig.pass(Duration::from_secs(100));
    assert!(rig.sent().is_empty());
}

#[test]
fn a_slow_answer_is_acknowledged_first_and_sent_until_it_is_acknowledged() {
    let mut rig = Rig::new();
    rig.receive(PEER, &request(Kind::Con, Code::POST, 1));
    let (exchange, _) = rig.asked_one();
    rig.pass(Duration::from_millis(800));
    assert_eq!(rig.sent_one(), Message::empty(Kind::Ack, 1));
    rig.respond(exchange, Response::new(Code::CHANGED));
    let response = rig.sent_one();
    assert_eq!(
        (response.kind, response.code, response.token.as_bytes()),
        (Kind::Con, Code::CHANGED, &b"tk"[..])
    );
    // A copy of the request gets the empty acknowledgement again (section 4.5).
    rig.receive(PEER, &request(Kind::Con, Code::POST, 1));
    assert_eq!(rig.sent_one(), Message::empty(Kind::Ack, 1));
    rig.pass(Duration::from_secs(4));
    assert_eq!(rig.sent_one(), response, "the very same message");
    rig.receive(PEER, &Message::empty(Kind::Ack, response.id));
    rig.pass(Duration::from_secs(100));
    assert!(rig.sent().is_empty());
}

/// Section 4.2 and 4.8: 2 to 3 s, then doubled, four times.
#[test]
fn retransmission_keeps_the_standard_s_times() {
    let mut rig = Rig::new();
    rig.verify(PEER);
    rig.receive(PEER, &request(Kind::Con, Code::POST, 1));
    let (exchange, _) = rig.asked_one();
    rig.pass(Duration::from_secs(1)).sent();
    rig.respond(exchange, Response::new(Code::CHANGED));
    let mut times = Vec::new();
    let start = rig.now;
    while rig.now < start + Duration::from_secs(120) {
        times.extend(rig.sent().iter().map(|_| rig.now - start));
        rig.pass(Duration::from_millis(10));
    }
    assert_eq!(times.len(), 5, "{times:?}");
    let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    assert!((2.0..=3.02).contains(&gaps[0]), "{gaps:?}");
    for pair in gaps.windows(2) {
        assert!((pair[1] / pair[0] - 2.0).abs() < 0.02, "{gaps:?}");
    }
    assert!(*times.last().unwrap() <= Params::default().max_transmit_span());
    assert_eq!(rig.endpoint.gauges().flights, 0, "given up");
}

#[test]
fn a_copy_never_reaches_the_service_and_gets_the_same_bytes() {
    let mut rig = Rig::new();
    let post = request(Kind::Con, Code::POST, 7);
    rig.receive(PEER, &post).receive(PEER, &post);
    let (exchange, _) = rig.asked_one();
    assert!(rig.sent().is_empty(), "the answer will come");
    rig.respond(exchange, Response::error(Code::FORBIDDEN, "no"));
    let answer = rig.sent_one();
    for _ in 0..3 {
        rig.pass(Duration::from_secs(20)).receive(PEER, &post);
        assert!(rig.asked().is_empty());
        assert_eq!(rig.sent_one(), answer);
    }
    assert_eq!(rig.endpoint.counters().duplicates, 4);
    // EXCHANGE_LIFETIME later the id means another message.
    rig.pass(Duration::from_secs(248)).receive(PEER, &post);
    assert_eq!(rig.asked().len(), 1);
}

#[test]
fn an_older_copy_gets_code_token_and_block_of_its_answer() {
    let mut rig = Rig::new();
    for id in 1..=100 {
        rig.receive(PEER, &request(Kind::Con, Code::POST, id));
        let (exchange, _) = rig.asked_one();
        rig.respond(exchange, Response::new(Code::CHANGED));
    }
    rig.sent();
    for id in 1..=100 {
        rig.receive(PEER, &request(Kind::Con, Code::POST, id));
        assert_eq!(rig.sent_one(), message(Kind::Ack, Code::CHANGED, id, b"tk"), "{id}");
    }
    assert!(rig.asked().is_empty());
}

#[test]
fn one_peer_s_ids_are_not_another_s() {
    let mut rig = Rig::new();
    let post = request(Kind::Con, Code::POST, 7);
    rig.receive(1, &post).receive(2, &post);
    assert_eq!(rig.asked().len(), 2);
}

#[test]
fn a_device_that_starts_its_ids_anew_is_not_taken_for_its_own_copy() {
    let mut rig = Rig::new();
    let mut post = request(Kind::Con, Code::POST, 1);
    for value in ["20.5", "20.6"] {
        post.payload = Bytes::from(value);
        rig.receive(PEER, &post);
        let (exchange, asked) = rig.asked_one();
        assert_eq!(asked.payload, value);
        rig.respond(exchange, Response::new(Code::CHANGED));
    }
}

/// An id that comes again within the lifetime, whatever became of the request that had it first: with other bytes it is
/// another request, and never gets the first one's answer.
#[test]
fn an_id_that_is_used_again_gets_its_own_answer() {
    let mut rig = Rig::new();
    let post = |id: u16, value: &'static str| {
        let mut post = request(Kind::Con, Code::POST, id);
        post.payload = Bytes::from(value);
        post
    };
    // While the first one is at the store.
    rig.receive(PEER, &post(1, "20.5")).receive(PEER, &post(1, "20.6"));
    let asked = rig.asked();
    assert_eq!(asked.len(), 2);
    rig.respond(asked[1].0, Response::new(Code::FORBIDDEN)).sent();
    rig.receive(PEER, &post(1, "20.5"));
    assert!(rig.sent().is_empty() && rig.asked().is_empty(), "it is still being worked on");
    rig.respond(asked[0].0, Response::new(Code::CHANGED)).sent();
    for (value, code) in [("20.5", Code::CHANGED), ("20.6", Code::FORBIDDEN)] {
        rig.receive(PEER, &post(1, value));
        assert_eq!(rig.sent_one().code, code, "{value}");
    }
    // When it is one of a long row of ids.
    for id in 2..200 {
        rig.receive(PEER, &post(id, "x"));
        let (exchange, _) = rig.asked_one();
        rig.respond(exchange, Response::new(Code::CHANGED)).sent();
    }
    rig.receive(PEER, &post(50, "y"));
    assert_eq!(rig.asked_one().1.payload, "y");
    rig.receive(PEER, &post(51, "x"));
    assert!(rig.asked().is_empty(), "a copy");
}

#[test]
fn a_non_confirmable_request_is_answered_in_kind_and_its_copies_are_ignored() {
    let mut rig = Rig::new();
    let post = request(Kind::Non, Code::POST, 1);
    rig.receive(PEER, &post);
    let (exchange, _) = rig.asked_one();
    rig.pass(Duration::from_secs(5));
    assert!(rig.sent().is_empty(), "nothing to acknowledge");
    rig.respond(exchange, Response::new(Code::CHANGED));
    let answer = rig.sent_one();
    assert_eq!((answer.kind, answer.code), (Kind::Non, Code::CHANGED));
    rig.receive(PEER, &post);
    assert!(rig.sent().is_empty() && rig.asked().is_empty());
}

#[test]
fn ping_is_answered_with_a_reset_and_nonsense_rejected() {
    let mut rig = Rig::new();
    rig.receive(PEER, &Message::empty(Kind::Con, 0x77));
    assert_eq!(rig.sent_one(), Message::empty(Kind::Rst, 0x77));
    // A response that nobody asked for (section 4.2).
    rig.receive(PEER, &message(Kind::Con, Code::CONTENT, 5, b"x"));
    assert_eq!(rig.sent_one(), Message::empty(Kind::Rst, 5));
    rig.receive(PEER, &message(Kind::Non, Code::CONTENT, 5, b"x"));
    rig.receive(PEER, &Message::empty(Kind::Ack, 5));
    rig.receive(PEER, &Message::empty(Kind::Rst, 5));
    // A format error: CON is rejected, NON ignored (sections 4.2, 4.3).
    rig.receive_bytes(PEER, &[0x40, 1, 0, 9, 0xff]);
    assert_eq!(rig.sent_one(), Message::empty(Kind::Rst, 9));
    rig.receive_bytes(PEER, &[0x50, 1, 0, 9, 0xff]).receive_bytes(PEER, &[0x80, 1, 0, 9]);
    assert!(rig.sent().is_empty());
    assert_eq!(rig.endpoint.gauges().peers, 0, "none of them costs memory");
}

#[test]
fn a_critical_option_that_is_unknown_is_told_so() {
    let mut rig = Rig::new();
    let mut get = request(Kind::Con, Code::GET, 1);
    get.options.add(option::Number(9), *b"x");
    rig.receive(PEER, &get);
    let answer = rig.sent_one();
    assert_eq!((answer.kind, answer.code), (Kind::Ack, Code::BAD_OPTION));
    assert!(!answer.payload.is_empty(), "with a sentence (section 5.5.2)");
}

/// RFC 7967 section 2.
#[test]
fn no_response_suppresses_the_response_and_not_the_acknowledgement() {
    let mut rig = Rig::new();
    for (kind, value, code, expected) in [
        (Kind::Con, 2, Code::CHANGED, Some(Message::empty(Kind::Ack, 1))),
        (Kind::Non, 2, Code::CHANGED, None),
        (Kind::Con, 2, Code::NOT_FOUND, Some(message(Kind::Ack, Code::NOT_FOUND, 3, b"tk"))),
        (Kind::Con, 26, Code::NOT_FOUND, Some(Message::empty(Kind::Ack, 4))),
    ] {
        let id = rig.endpoint.next_exchange as u16 + 1;
        let mut post = request(kind, Code::POST, id);
        post.options.add_uint(option::NO_RESPONSE, value);
        rig.receive(PEER, &post);
        let (exchange, _) = rig.asked_one();
        rig.respond(exchange, Response::new(code));
        assert_eq!(rig.sent().into_iter().map(|(_, message)| message).next(), expected, "{kind:?} {value}");
    }
}

/// P5, RFC 8516.
#[test]
fn a_peer_that_asks_for_too_much_at_once_is_told_so_and_may_ask_again() {
    let mut rig = Rig::new();
    for id in 0..33 {
        rig.receive(PEER, &request(Kind::Con, Code::POST, id));
    }
    let asked = rig.asked();
    assert_eq!(asked.len(), 32);
    let refusal = rig.sent_one();
    assert_eq!((refusal.code, refusal.options.uint(option::MAX_AGE)), (Code::TOO_MANY_REQUESTS, Some(2)));
    rig.respond(asked[0].0, Response::new(Code::CHANGED)).sent();
    rig.receive(PEER, &request(Kind::Con, Code::POST, 32));
    assert_eq!(rig.asked().len(), 1, "the same message, taken now");
}

#[test]
fn all_peers_together_are_bounded() {
    let params = Params { exchanges_max: 3, peers_max: 20, ..Params::default() };
    let mut rig = Rig::with(params);
    for peer in 0..5 {
        rig.receive(peer, &request(Kind::Con, Code::POST, 1));
    }
    assert_eq!(rig.asked().len(), 3);
    let refusals = rig.sent();
    assert!(refusals.iter().all(|(_, refusal)| refusal.code == Code::SERVICE_UNAVAILABLE));
    assert_eq!(refusals.len(), 2);
    for peer in 100..1_000 {
        rig.receive(peer, &request(Kind::Non, Code::GET, 1));
    }
    assert!(rig.endpoint.gauges().peers <= 20);
}

#[test]
fn peers_that_fell_silent_are_forgotten() {
    let mut rig = Rig::new();
    for peer in 0..50 {
        rig.receive(peer, &request(Kind::Con, Code::POST, 1));
    }
    for (exchange, _) in rig.asked() {
        rig.respond(exchange, Response::new(Code::CHANGED));
    }
    assert_eq!(rig.endpoint.gauges().peers, 50);
    rig.pass(Duration::from_secs(260));
    assert_eq!(rig.endpoint.gauges().peers, 0);
}

/// Section 8.2: no errors, no acknowledgement, and not at once.
#[test]
fn a_group_is_answered_at_leisure() {
    let mut rig = Rig::new();
    let get = request(Kind::Non, Code::GET, 1).encode();
    rig.endpoint.receive(rig.now, PEER, &get, true, &mut rig.said);
    let (exchange, _) = rig.asked_one();
    rig.respond(exchange, Response::new(Code::CONTENT).with_payload("<a>"));
    assert!(rig.sent().is_empty());
    rig.pass(Duration::from_secs(6));
    assert_eq!(rig.sent_one().kind, Kind::Non);
    for (kind, response) in
        [(Kind::Non, Response::error(Code::NOT_FOUND, "no")), (Kind::Non, Response::new(Code::CONTENT))]
    {
        let get = request(kind, Code::GET, 2).encode();
        rig.endpoint.receive(rig.now, PEER, &get, true, &mut rig.said);
        let (exchange, _) = rig.asked_one();
        rig.respond(exchange, response).pass(Duration::from_secs(6));
        assert!(rig.sent().is_empty());
    }
    let con = request(Kind::Con, Code::GET, 3).encode();
    rig.endpoint.receive(rig.now, PEER, &con, true, &mut rig.said);
    rig.endpoint.receive(rig.now, PEER, &Message::empty(Kind::Con, 4).encode(), true, &mut rig.said);
    assert!(rig.said.is_empty(), "a group is not asked to confirm (section 8.1)");
}

#[test]
fn a_response_that_has_to_be_acknowledged_goes_apart_and_says_that_it_arrived() {
    let mut rig = Rig::new();
    for kind in [Kind::Con, Kind::Non] {
        rig.receive(PEER, &request(kind, Code::GET, 1));
        let (exchange, _) = rig.asked_one();
        let response = Response::new(Code::CONTENT).with_payload("x");
        rig.endpoint.respond_acknowledged(rig.now, exchange, response, 9, &mut rig.said);
        let mut sent = rig.sent();
        let response = sent.pop().unwrap().1;
        let acknowledged: Vec<Message> = sent.into_iter().map(|(_, message)| message).collect();
        let expected = (kind == Kind::Con).then(|| Message::empty(Kind::Ack, 1));
        assert_eq!(acknowledged, Vec::from_iter(expected));
        assert_eq!((response.kind, &response.payload[..]), (Kind::Con, &b"x"[..]));
        assert!(rig.said.is_empty());
        rig.receive(PEER, &Message::empty(Kind::Ack, response.id));
        assert_eq!(rig.said, [Output::Delivered { peer: PEER, tag: 9 }]);
        rig.said.clear();
    }
}
