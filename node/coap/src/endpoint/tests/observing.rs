//! Observation (RFC 7641).

use super::*;

fn token() -> Token {
    Token::new(b"tk").unwrap()
}

fn content(text: &str) -> Response {
    Response::new(Code::CONTENT).with_payload(text.to_owned())
}

/// A verified peer that observes; by a request of this type.
fn observing(kind: Kind) -> Rig {
    let mut rig = Rig::new();
    rig.verify(PEER);
    register(&mut rig, kind, 1);
    rig
}

fn register(rig: &mut Rig, kind: Kind, id: u16) -> Message {
    let mut get = request(kind, Code::GET, id);
    get.options.add_uint(option::OBSERVE, 0);
    rig.receive(PEER, &get);
    let (exchange, asked) = rig.asked_one();
    assert_eq!(asked.observe, Some(0));
    assert!(rig.endpoint.observe(rig.now, exchange, false));
    rig.respond(exchange, content("now"));
    rig.sent_one()
}

fn notify(rig: &mut Rig, text: &str) {
    assert!(rig.endpoint.notify(rig.now, PEER, token(), content(text), 5, &mut rig.said));
}

fn number(message: &Message) -> u32 {
    message.options.uint(option::OBSERVE).unwrap()
}

#[test]
fn notifications_carry_the_token_and_numbers_that_grow() {
    let mut rig = Rig::new();
    rig.verify(PEER);
    let mut last = number(&register(&mut rig, Kind::Con, 1));
    for round in 0..100 {
        notify(&mut rig, &format!("{round}"));
        let notification = rig.sent_one();
        assert_eq!((notification.kind, notification.code), (Kind::Con, Code::CONTENT));
        assert_eq!(notification.token, token());
        let number = number(&notification);
        // RFC 7641 section 3.4: newer.
        assert!((number.wrapping_sub(last) & 0xff_ffff) < 0x80_0000 && number != last);
        last = number;
        rig.receive(PEER, &Message::empty(Kind::Ack, notification.id));
        assert!(rig.said.contains(&Output::Notified { peer: PEER, token: token(), tag: 5 }));
        rig.said.clear();
        rig.pass(Duration::from_millis(round * 7));
    }
}

/// Section 4.5.2.
#[test]
fn while_one_is_on_its_way_the_newest_waits_and_takes_its_place() {
    let mut rig = observing(Kind::Con);
    notify(&mut rig, "1");
    let first = rig.sent_one();
    notify(&mut rig, "2");
    notify(&mut rig, "3");
    assert!(rig.sent().is_empty());
    rig.pass(Duration::from_secs(4));
    let again = rig.sent_one();
    assert_eq!(again.payload, "3");
    assert!(again.id != first.id && number(&again) > number(&first));
    // The acknowledgement of the one before says nothing any more.
    rig.receive(PEER, &Message::empty(Kind::Ack, first.id));
    rig.receive(PEER, &Message::empty(Kind::Ack, again.id));
    rig.pass(Duration::from_secs(200));
    assert!(rig.sent().is_empty());
    assert_eq!(rig.endpoint.gauges().observations, 1);
}

/// Section 4.5: somebody who is not there any more is noticed.
#[test]
fn a_non_confirmable_observation_is_probed() {
    let mut rig = observing(Kind::Non);
    let mut kinds = Vec::new();
    for _ in 0..10 {
        notify(&mut rig, "x");
        kinds.push(rig.sent_one().kind);
    }
    assert_eq!(kinds.iter().filter(|kind| **kind == Kind::Con).count(), 1, "{kinds:?}");
    rig.pass(Duration::from_secs(100));
    assert_eq!(rig.endpoint.gauges().observations, 0, "nobody answered the probe");
    assert!(rig.said.contains(&Output::ObserverGone { peer: PEER, token: token() }));
}

#[test]
fn after_a_long_silence_the_next_one_is_confirmable() {
    let mut rig = observing(Kind::Non);
    notify(&mut rig, "x");
    assert_eq!(rig.sent_one().kind, Kind::Non);
    rig.pass(Duration::from_secs(3_600));
    notify(&mut rig, "y");
    assert_eq!(rig.sent_one().kind, Kind::Con);
}

/// Section 3.6.
#[test]
fn a_reset_ends_it_whatever_the_type() {
    for kind in [Kind::Con, Kind::Non] {
        let mut rig = observing(kind);
        notify(&mut rig, "x");
        let notification = rig.sent_one();
        rig.receive(PEER, &Message::empty(Kind::Rst, notification.id));
        assert!(rig.said.contains(&Output::ObserverGone { peer: PEER, token: token() }));
        assert!(!rig.endpoint.notify(rig.now, PEER, token(), content("y"), 0, &mut rig.said));
    }
}

#[test]
fn registering_again_replaces_and_forgetting_ends() {
    let mut rig = observing(Kind::Con);
    register(&mut rig, Kind::Con, 2);
    assert_eq!(rig.endpoint.gauges().observations, 1);
    assert!(rig.endpoint.forget_observer(PEER, token()));
    assert!(!rig.endpoint.forget_observer(PEER, token()));
    rig.pass(Duration::from_secs(300));
    assert_eq!((rig.endpoint.gauges().observations, rig.endpoint.gauges().peers), (0, 0));
}

/// Section 4.2.
#[test]
fn an_error_is_the_last_notification() {
    let mut rig = observing(Kind::Non);
    let gone = Response::error(Code::NOT_FOUND, "gone");
    rig.endpoint.notify(rig.now, PEER, token(), gone, 0, &mut rig.said);
    let last = rig.sent_one();
    assert_eq!((last.code, last.options.uint(option::OBSERVE)), (Code::NOT_FOUND, None));
    assert_eq!(rig.endpoint.gauges().observations, 0);
}

/// P5
#[test]
fn observations_of_one_peer_are_bounded() {
    let mut rig = Rig::new();
    rig.verify(PEER);
    let mut made = 0;
    for id in 0..30u16 {
        let mut get = message(Kind::Con, Code::GET, id, &id.to_be_bytes());
        get.options.add_uint(option::OBSERVE, 0);
        rig.receive(PEER, &get);
        let (exchange, _) = rig.asked_one();
        made += usize::from(rig.endpoint.observe(rig.now, exchange, false));
        rig.respond(exchange, content("x"));
        assert_eq!(rig.sent_one().options.first(option::OBSERVE).is_some(), id < 16);
    }
    assert_eq!(made, 16);
}

/// An observer whose address nobody has proved is asked first (RFC 7641 section 7).
#[test]
fn an_unknown_address_is_pinged_before_it_is_told_much() {
    let mut rig = Rig::new();
    register(&mut rig, Kind::Con, 1);
    notify(&mut rig, &"x".repeat(500));
    let ping = rig.sent_one();
    assert_eq!((ping.kind, ping.code), (Kind::Con, Code::EMPTY));
    notify(&mut rig, &"y".repeat(500));
    assert!(rig.sent().is_empty(), "one ping at a time");
    rig.receive(PEER, &Message::empty(Kind::Rst, ping.id));
    assert_eq!(rig.sent_one().payload, "y".repeat(500));
}

#[test]
fn an_observer_from_before_a_restart_is_told_again() {
    let mut rig = Rig::new();
    assert!(rig.endpoint.restore_observer(rig.now, PEER, token()));
    notify(&mut rig, "x");
    assert_eq!(rig.sent_one().kind, Kind::Con);
}

/// An address that proves nothing does not stay: it is asked once, and over with the retransmissions of that.
#[test]
fn an_observer_that_never_answers_is_forgotten_without_a_notification() {
    let mut rig = Rig::new();
    register(&mut rig, Kind::Non, 1);
    rig.pass(Duration::from_secs(6));
    let ping = rig.sent_one();
    assert_eq!((ping.kind, ping.code), (Kind::Con, Code::EMPTY));
    rig.pass(Duration::from_secs(100));
    assert!(rig.said.contains(&Output::ObserverGone { peer: PEER, token: token() }));
    rig.pass(Duration::from_secs(300));
    assert_eq!((rig.endpoint.gauges().observations, rig.endpoint.gauges().peers), (0, 0));
}

/// The same when there was something to tell it that had to wait for the proof.
#[test]
fn an_observer_that_never_answers_the_ping_for_a_notification_is_forgotten() {
    let mut rig = Rig::new();
    register(&mut rig, Kind::Con, 1);
    notify(&mut rig, &"x".repeat(500));
    rig.pass(Duration::from_secs(100));
    assert!(rig.said.contains(&Output::ObserverGone { peer: PEER, token: token() }));
    assert_eq!((rig.endpoint.gauges().observations, rig.endpoint.gauges().flights), (0, 0));
}

#[test]
fn a_verified_observer_that_fell_silent_is_asked_after_the_interval() {
    let mut rig = observing(Kind::Con);
    rig.pass(Duration::from_secs(3_590));
    assert!(rig.sent().is_empty());
    rig.pass(Duration::from_secs(12));
    let ping = rig.sent_one();
    rig.receive(PEER, &Message::empty(Kind::Rst, ping.id));
    rig.pass(Duration::from_secs(3_590));
    assert!(rig.sent().is_empty() && rig.endpoint.gauges().observations == 1, "it is there");
    rig.pass(Duration::from_secs(130));
    assert_eq!(rig.endpoint.gauges().observations, 0, "and now it is not");
}

/// P5: nobody is locked out by observers that were invented.
#[test]
fn a_flood_of_invented_observers_leaves_room_for_others() {
    let mut rig = Rig::with(Params { peers_max: 50, ..Params::default() });
    for peer in 1_000..3_000 {
        let mut get = request(Kind::Non, Code::GET, 1);
        get.options.add_uint(option::OBSERVE, 0);
        rig.receive(peer, &get);
        let (exchange, _) = rig.asked_one();
        rig.endpoint.observe(rig.now, exchange, false);
        rig.respond(exchange, content("now"));
        rig.said.clear();
        if peer % 100 == 0 {
            rig.receive(PEER, &request(Kind::Con, Code::POST, peer as u16));
            let (exchange, _) = rig.asked_one();
            rig.respond(exchange, Response::new(Code::CHANGED));
            assert_eq!(rig.sent_one().code, Code::CHANGED, "{peer}");
            rig.pass(Duration::from_millis(10));
        }
    }
    let gauges = rig.endpoint.gauges();
    assert!(gauges.peers <= 50 && gauges.observations <= 50 && gauges.flights <= 50, "{gauges:?}");
    rig.pass(Duration::from_secs(110));
    assert_eq!((rig.endpoint.gauges().observations, rig.endpoint.gauges().flights), (0, 0));
}

/// Whatever proves the address lets go what waited for that: an Echo value, the acknowledgement of another message.
#[test]
fn every_proof_of_the_address_releases_what_waited() {
    for by_echo in [true, false] {
        let mut rig = Rig::new();
        register(&mut rig, Kind::Con, 1);
        rig.receive(PEER, &request(Kind::Con, Code::POST, 2));
        let (slow, _) = rig.asked_one();
        rig.pass(Duration::from_secs(1)).sent();
        rig.respond(slow, Response::new(Code::CHANGED));
        let response = rig.sent_one();
        notify(&mut rig, &"x".repeat(500));
        assert!(rig.sent().is_empty(), "not before the address is proved");
        if by_echo {
            let mut get = request(Kind::Non, Code::GET, 3);
            get.options.add(option::ECHO, rig.endpoint.echo.value(PEER, secs(rig.now)));
            rig.receive(PEER, &get);
        } else {
            rig.receive(PEER, &Message::empty(Kind::Ack, response.id));
        }
        assert_eq!(rig.sent_one().payload, "x".repeat(500), "by echo: {by_echo}");
    }
}

/// Whoever has to prove its address before it is told the value does not observe meanwhile.
#[test]
fn an_observation_whose_answer_is_an_error_is_none() {
    let mut rig = Rig::new();
    let mut get = request(Kind::Con, Code::GET, 1);
    get.options.add_uint(option::OBSERVE, 0);
    get.options.add(option::BLOCK2, Block { num: 1, more: false, szx: 6 }.encode());
    rig.receive(PEER, &get);
    let (exchange, _) = rig.asked_one();
    assert!(rig.endpoint.observe(rig.now, exchange, false));
    rig.respond(exchange, content(&"x".repeat(3_000)));
    assert_eq!(rig.sent_one().code, Code::UNAUTHORIZED);
    assert_eq!(rig.endpoint.gauges().observations, 0);
}
