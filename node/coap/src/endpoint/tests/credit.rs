//! An address that is not verified is sent at most three times what came from it (RFC 9175 section 2.4).

use super::*;

fn long() -> Response {
    Response::new(Code::CONTENT).with_payload(vec![b'x'; 900])
}

fn ask(rig: &mut Rig, id: u16) -> (usize, Message) {
    let get = request(Kind::Con, Code::GET, id);
    let length = get.encode().len();
    rig.receive(PEER, &get);
    let (exchange, _) = rig.asked_one();
    rig.respond(exchange, long());
    (length, rig.sent_one())
}

#[test]
fn a_long_answer_to_an_unknown_address_comes_in_small_blocks() {
    let mut rig = Rig::new();
    let (asked, answer) = ask(&mut rig, 1);
    assert!(answer.encode().len() <= 3 * asked, "{}", answer.encode().len());
    assert_eq!(answer.code, Code::CONTENT);
    let block = Block::decode(answer.options.first(option::BLOCK2).unwrap()).unwrap();
    assert!(block.more && block.szx < 6);
    assert_eq!(rig.endpoint.counters().curbed, 1);
}

#[test]
fn an_echo_value_that_comes_back_opens_the_door() {
    let mut rig = Rig::new();
    // A block from the middle cannot be made smaller.
    let mut get = message(Kind::Con, Code::GET, 1, b"");
    get.options.add(option::BLOCK2, Block { num: 1, more: false, szx: 5 }.encode());
    let length = get.encode().len();
    rig.receive(PEER, &get);
    let (exchange, _) = rig.asked_one();
    rig.respond(exchange, long());
    let answer = rig.sent_one();
    assert_eq!(answer.code, Code::UNAUTHORIZED);
    assert!(answer.encode().len() <= 3 * length);
    let echo = answer.options.first(option::ECHO).unwrap().to_vec();
    get.id = 2;
    get.options.add(option::ECHO, echo.clone());
    rig.receive(PEER, &get);
    let (exchange, _) = rig.asked_one();
    rig.respond(exchange, long());
    assert_eq!(rig.sent_one().payload.len(), 900 - 512);
    // It is no use from elsewhere.
    rig.receive(2, &get);
    let (exchange, _) = rig.asked_one();
    rig.respond(exchange, long());
    assert_ne!(rig.sent_one().code, Code::CONTENT);
}

#[test]
fn a_done_deed_is_told_as_such_however_little_may_be_said() {
    let mut rig = Rig::new();
    rig.receive(PEER, &message(Kind::Con, Code::POST, 1, b""));
    let (exchange, _) = rig.asked_one();
    rig.respond(exchange, Response::new(Code::CHANGED).with_payload(vec![0; 100]));
    assert_eq!(rig.sent_one(), message(Kind::Ack, Code::CHANGED, 1, b""));
    rig.receive(PEER, &message(Kind::Con, Code::POST, 2, b""));
    let (exchange, _) = rig.asked_one();
    rig.respond(exchange, Response::error(Code::FORBIDDEN, "a".repeat(100)));
    assert_eq!(rig.sent_one(), message(Kind::Ack, Code::FORBIDDEN, 2, b""));
}

#[test]
fn guessing_message_ids_proves_nothing() {
    let mut rig = Rig::new();
    rig.receive(PEER, &request(Kind::Con, Code::POST, 1));
    let (exchange, _) = rig.asked_one();
    rig.pass(Duration::from_secs(1)).sent();
    for id in 0..100 {
        rig.receive(PEER, &Message::empty(Kind::Ack, id));
    }
    rig.respond(exchange, Response::new(Code::CHANGED));
    let response = rig.sent_one();
    rig.receive(PEER, &Message::empty(Kind::Ack, response.id));
    assert_eq!(rig.endpoint.gauges().flights, 0);
    assert!(!rig.endpoint.peers.get_mut(PEER).unwrap().verified);
}

#[test]
fn an_honest_acknowledgement_proves_the_address() {
    let mut rig = Rig::new();
    rig.receive(PEER, &request(Kind::Con, Code::POST, 1));
    let (exchange, _) = rig.asked_one();
    rig.pass(Duration::from_secs(1)).respond(exchange, Response::new(Code::CHANGED));
    let response = rig.sent().pop().unwrap().1;
    rig.receive(PEER, &Message::empty(Kind::Ack, response.id));
    assert!(rig.endpoint.peers.get_mut(PEER).unwrap().verified);
    assert_eq!(ask(&mut rig, 2).1.payload.len(), 900);
}

/// What a challenge brings: an Echo value for those who know it, a ping for all others.
#[test]
fn a_challenge_is_met_by_echo_or_by_the_answer_to_a_ping() {
    let mut rig = Rig::new();
    rig.receive(PEER, &request(Kind::Con, Code::GET, 1));
    let (exchange, _) = rig.asked_one();
    assert!(!rig.endpoint.is_verified(PEER));
    let refusal = rig.endpoint.challenge(rig.now, PEER, &mut rig.said);
    rig.respond(exchange, refusal);
    let sent = rig.sent();
    let (ping, refusal) = (&sent[0].1, &sent[1].1);
    assert_eq!((ping.kind, ping.code), (Kind::Con, Code::EMPTY));
    assert_eq!((refusal.kind, refusal.code), (Kind::Ack, Code::UNAUTHORIZED));
    assert!(refusal.options.first(option::ECHO).is_some());
    rig.receive(PEER, &Message::empty(Kind::Rst, ping.id));
    assert!(rig.endpoint.is_verified(PEER));
}
