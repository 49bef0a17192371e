//! Block-wise transfers (RFC 7959) and Request-Tag (RFC 9175 section 3).

use super::*;

fn block1(id: u16, num: u32, more: bool, payload: &[u8]) -> Message {
    let mut put = request(Kind::Con, Code::PUT, id);
    put.options.add(option::BLOCK1, Block { num, more, szx: 2 }.encode());
    put.payload = Bytes::copy_from_slice(payload);
    put
}

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

#[test]
fn a_body_in_blocks_arrives_whole_and_once() {
    let mut rig = Rig::new();
    let body = body(64 * 3 + 10);
    let blocks: Vec<&[u8]> = body.chunks(64).collect();
    for (num, payload) in blocks.iter().enumerate() {
        let more = num + 1 < blocks.len();
        let put = block1(num as u16, num as u32, more, payload);
        rig.receive(PEER, &put);
        if more {
            let answer = rig.sent_one();
            assert_eq!(answer.code, Code::CONTINUE);
            let echoed = Block::decode(answer.options.first(option::BLOCK1).unwrap()).unwrap();
            assert_eq!(echoed, Block { num: num as u32, more: true, szx: 2 });
            // A copy of a block changes nothing.
            rig.receive(PEER, &put);
            assert_eq!(rig.sent_one(), answer);
        }
    }
    let (exchange, asked) = rig.asked_one();
    assert_eq!(asked.payload, body);
    rig.respond(exchange, Response::new(Code::CREATED));
    let answer = rig.sent_one();
    let echoed = Block::decode(answer.options.first(option::BLOCK1).unwrap()).unwrap();
    assert_eq!((answer.code, echoed), (Code::CREATED, Block { num: 3, more: false, szx: 2 }));
    assert_eq!(rig.endpoint.gauges().upload_bytes, 0);
}

/// What `coap-lite`'s helper gets wrong: docs/adr/0014.
#[test]
fn a_gap_is_never_filled_up() {
    let mut rig = Rig::new();
    rig.receive(PEER, &block1(1, 0, true, &[1; 64])).receive(PEER, &block1(2, 2, true, &[3; 64]));
    let codes: Vec<Code> = rig.sent().iter().map(|(_, answer)| answer.code).collect();
    assert_eq!(codes, [Code::CONTINUE, Code::REQUEST_ENTITY_INCOMPLETE]);
    // The transfer is over; it starts again with block 0, and nothing of the first one is in it.
    rig.receive(PEER, &block1(3, 1, false, &[2; 10]));
    assert_eq!(rig.sent_one().code, Code::REQUEST_ENTITY_INCOMPLETE);
    rig.receive(PEER, &block1(4, 0, true, &[7; 64])).receive(PEER, &block1(5, 1, false, &[8; 1]));
    rig.sent();
    assert_eq!(rig.asked_one().1.payload.len(), 65);
}

#[test]
fn a_transfer_that_starts_in_the_middle_or_far_out_is_incomplete() {
    let mut rig = Rig::new();
    for (id, num) in [(1, 3), (2, 4096), (3, 0xf_ffff)] {
        rig.receive(PEER, &block1(id, num, false, &[1; 8]));
        assert_eq!(rig.sent_one().code, Code::REQUEST_ENTITY_INCOMPLETE, "{num}");
    }
    assert!(rig.asked().is_empty());
}

#[test]
fn an_abandoned_body_leaves_nothing_in_the_next() {
    let mut rig = Rig::new();
    for num in 0..4 {
        rig.receive(PEER, &block1(num as u16, num, true, &[1; 64]));
    }
    rig.receive(PEER, &block1(10, 0, true, &[2; 64])).receive(PEER, &block1(11, 1, false, &[2; 64]));
    assert_eq!(rig.asked_one().1.payload, vec![2; 128]);
}

#[test]
fn request_tags_keep_two_bodies_apart() {
    let mut rig = Rig::new();
    let tagged = |id, num, more, byte: u8| {
        let mut put = block1(id, num, more, &[byte; 64]);
        put.options.add(option::REQUEST_TAG, [byte]);
        put
    };
    rig.receive(PEER, &tagged(1, 0, true, 1)).receive(PEER, &tagged(2, 0, true, 2));
    rig.receive(PEER, &tagged(3, 1, false, 1)).receive(PEER, &tagged(4, 1, false, 2));
    let bodies: Vec<Bytes> = rig.asked().into_iter().map(|(_, request)| request.payload).collect();
    assert_eq!(bodies, [vec![1; 128], vec![2; 128]]);
}

#[test]
fn a_block_that_is_not_as_long_as_it_says_is_a_bad_request() {
    let mut rig = Rig::new();
    rig.receive(PEER, &block1(1, 0, true, &[1; 63]));
    assert_eq!(rig.sent_one().code, Code::BAD_REQUEST);
    rig.receive(PEER, &block1(2, 0, true, &[1; 64])).sent();
    let mut other = block1(3, 1, false, &[1; 5]);
    other.options.add_uint(option::CONTENT_FORMAT, 50);
    rig.receive(PEER, &other);
    assert_eq!(rig.sent_one().code, Code::REQUEST_ENTITY_INCOMPLETE, "another Content-Format");
}

#[test]
fn what_is_too_large_is_told_how_much_there_may_be() {
    let mut rig = Rig::with(Params { body_max_bytes: 100, ..Params::default() });
    let too_large = |rig: &mut Rig| {
        let answer = rig.sent_one();
        assert_eq!(answer.code, Code::REQUEST_ENTITY_TOO_LARGE);
        assert_eq!(answer.options.uint(option::SIZE1), Some(100));
    };
    let mut announced = block1(1, 0, true, &[1; 64]);
    announced.options.add_uint(option::SIZE1, 101);
    rig.receive(PEER, &announced);
    too_large(&mut rig);
    rig.receive(PEER, &block1(2, 0, true, &[1; 64])).sent();
    rig.receive(PEER, &block1(3, 1, true, &[1; 64]));
    too_large(&mut rig);
    let mut whole = request(Kind::Con, Code::PUT, 4);
    whole.payload = Bytes::from(vec![0; 101]);
    rig.receive(PEER, &whole);
    too_large(&mut rig);
    assert_eq!(rig.endpoint.gauges().upload_bytes, 0);
}

/// P5: whoever has got further is not pushed out by somebody's first blocks.
#[test]
fn a_flood_of_first_blocks_pushes_out_its_own() {
    let params = Params { uploads_max_bytes: 10_000, exchanges_max: 100_000, ..Params::default() };
    let mut rig = Rig::with(params);
    rig.receive(PEER, &block1(1, 0, true, &[1; 64])).receive(PEER, &block1(2, 1, true, &[1; 64])).sent();
    for peer in 100..2_000 {
        rig.receive(peer, &block1(1, 0, true, &[2; 64]));
        assert!(rig.endpoint.gauges().upload_bytes <= 10_000);
    }
    rig.sent();
    rig.receive(PEER, &block1(3, 2, false, &[1; 64]));
    assert_eq!(rig.asked_one().1.payload, vec![1; 192]);
    assert!(rig.endpoint.counters().uploads_evicted > 1_000);
}

#[test]
fn an_unfinished_body_is_given_up_in_time() {
    let mut rig = Rig::new();
    rig.receive(PEER, &block1(1, 0, true, &[1; 64])).sent();
    assert!(rig.endpoint.gauges().upload_bytes > 0);
    rig.pass(Duration::from_secs(250));
    assert_eq!(rig.endpoint.gauges().upload_bytes, 0);
}

/// Block2, RFC 7959 section 2.4.
#[test]
fn a_long_answer_is_fetched_in_blocks_of_the_asked_size() {
    let mut rig = Rig::new();
    rig.verify(PEER);
    let body = Bytes::from(body(300));
    let (mut got, mut tags) = (Vec::new(), Vec::new());
    for num in 0.. {
        let mut get = request(Kind::Con, Code::GET, num as u16);
        get.options.add(option::BLOCK2, Block { num, more: false, szx: 2 }.encode());
        rig.receive(PEER, &get);
        let (exchange, _) = rig.asked_one();
        rig.respond(exchange, Response::new(Code::CONTENT).with_payload(body.clone()));
        let answer = rig.sent_one();
        let block = Block::decode(answer.options.first(option::BLOCK2).unwrap()).unwrap();
        assert_eq!((block.num, block.szx), (num, 2));
        assert_eq!(answer.options.uint(option::SIZE2), (num == 0).then_some(300));
        tags.push(answer.options.first(option::ETAG).unwrap().to_vec());
        got.extend(answer.payload);
        if !block.more {
            break;
        }
    }
    assert_eq!(got, body);
    // By it the client knows that all blocks are of one body.
    tags.dedup();
    assert_eq!(tags.len(), 1);
}

#[test]
fn a_long_answer_is_cut_though_nobody_asked() {
    let mut rig = Rig::new();
    rig.verify(PEER);
    rig.receive(PEER, &request(Kind::Con, Code::GET, 1));
    let (exchange, _) = rig.asked_one();
    rig.respond(exchange, Response::new(Code::CONTENT).with_payload(body(1025)));
    let answer = rig.sent_one();
    let block = Block::decode(answer.options.first(option::BLOCK2).unwrap()).unwrap();
    assert_eq!((block, answer.payload.len()), (Block { num: 0, more: true, szx: 6 }, 1024));
    // Exactly one block needs no option.
    rig.receive(PEER, &request(Kind::Con, Code::GET, 2));
    let (exchange, _) = rig.asked_one();
    rig.respond(exchange, Response::new(Code::CONTENT).with_payload(body(1024)));
    assert!(rig.sent_one().options.first(option::BLOCK2).is_none());
}

#[test]
fn a_block_beyond_the_end_does_not_exist() {
    let mut rig = Rig::new();
    let mut get = request(Kind::Con, Code::GET, 1);
    get.options.add(option::BLOCK2, Block { num: 5, more: false, szx: 6 }.encode());
    rig.receive(PEER, &get);
    let (exchange, _) = rig.asked_one();
    rig.respond(exchange, Response::new(Code::CONTENT).with_payload("short"));
    assert_eq!(rig.sent_one().code, Code::BAD_REQUEST);
}

/// RFC 9175 section 3: a body that comes again under its Request-Tag, with other message ids, is the same body; without a
/// tag nobody can say so.
#[test]
fn a_tagged_body_that_comes_again_is_not_another() {
    let mut rig = Rig::new();
    let mut id = 0;
    let mut send = |rig: &mut Rig, tag: Option<u8>, byte: u8| {
        for (num, more) in [(0, true), (1, false)] {
            id += 1;
            let mut put = block1(id, num, more, &[byte; 64]);
            if let Some(tag) = tag {
                put.options.add(option::REQUEST_TAG, [tag]);
            }
            rig.receive(PEER, &put);
        }
        rig.sent().pop().unwrap().1
    };
    send(&mut rig, Some(1), 7);
    let (exchange, _) = rig.asked_one();
    assert_eq!(send(&mut rig, Some(1), 7).code, Code::SERVICE_UNAVAILABLE, "it is being worked on");
    rig.respond(exchange, Response::new(Code::CREATED)).sent();
    assert_eq!(send(&mut rig, Some(1), 7).code, Code::CREATED);
    assert!(rig.asked().is_empty());
    for (tag, byte) in [(Some(1), 8), (Some(2), 7), (None, 7), (None, 7)] {
        send(&mut rig, tag, byte);
        let (exchange, _) = rig.asked_one();
        rig.respond(exchange, Response::new(Code::FORBIDDEN)).sent();
    }
    send(&mut rig, Some(2), 7);
    assert_eq!(rig.asked().len(), 1, "what was refused may be tried again");
}

#[test]
fn what_is_remembered_from_before_a_restart_is_not_done_again() {
    let mut rig = Rig::new();
    let post = |id| request(Kind::Con, Code::POST, id);
    for (id, age) in [(1, 0), (2, 200), (3, 248)] {
        let fingerprint = Fingerprint::of(PEER, &post(id).encode());
        rig.endpoint.remember(rig.now, fingerprint, Code::CHANGED, Duration::from_secs(age));
    }
    rig.receive(PEER, &post(1)).receive(PEER, &post(2));
    assert!(rig.asked().is_empty());
    assert_eq!(rig.sent().pop().unwrap().1, message(Kind::Ack, Code::CHANGED, 2, b"tk"));
    rig.receive(PEER, &post(3));
    assert_eq!(rig.asked().len(), 1, "too old to be a copy");
    rig.pass(Duration::from_secs(50)).receive(PEER, &post(2));
    assert_eq!(rig.asked().len(), 1, "and so is this one now");
}
