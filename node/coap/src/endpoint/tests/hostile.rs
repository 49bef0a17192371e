//! Mutated datagrams: nothing panics, nothing grows, and honest peers are served.

use super::*;
use crate::rng::Rng;

/// Datagrams that look like what the endpoint understands, with some bytes turned.
fn datagram(rng: &mut Rng) -> Vec<u8> {
    let pick = |rng: &mut Rng, bound: u64| u16::try_from(rng.next() % bound).unwrap();
    let kinds = [Kind::Con, Kind::Non, Kind::Ack, Kind::Rst];
    let codes = [0u8, 1, 2, 3, 4, 5, 6, 7, 0x44, 0x45, 0x84, 0xe1];
    let kind = kinds[usize::from(pick(rng, 4))];
    let code = Code(codes[usize::from(pick(rng, 12))]);
    let token = rng.next().to_be_bytes();
    let id = pick(rng, 64);
    let mut message = message(kind, code, id, &token[..usize::from(pick(rng, 9))]);
    for _ in 0..pick(rng, 6) {
        let numbers = [1, 3, 4, 5, 6, 7, 11, 12, 14, 15, 17, 23, 27, 28, 35, 39, 60, 252, 258, 292];
        let number = option::Number(numbers[usize::from(pick(rng, 20))]);
        let length = usize::from(pick(rng, 10)).min(8);
        message.options.add(number, &rng.next().to_be_bytes()[..length]);
    }
    message.payload = Bytes::from(vec![7; usize::from(pick(rng, 80))]);
    let mut bytes = message.encode().to_vec();
    for _ in 0..pick(rng, 4) {
        let at = usize::from(pick(rng, bytes.len() as u64));
        bytes[at] ^= 1 << pick(rng, 8);
    }
    if pick(rng, 8) == 0 {
        bytes.truncate(usize::from(pick(rng, bytes.len() as u64 + 1)));
    }
    bytes
}

/// One seed of the storm: every reply is a message, three times what came in is never exceeded for an address that
/// proved nothing, an honest peer is answered throughout.
fn storm(seed: u64, datagrams: usize) {
    let params = Params {
        peers_max: 200,
        uploads_max_bytes: 20_000,
        observations_max: 50,
        exchanges_max: 64,
        ..Params::default()
    };
    let mut rig = Rig::with(params);
    let mut rng = Rng::new([u8::try_from(seed).unwrap(); 32]);
    let mut balance: HashMap<u64, i64> = HashMap::new();
    for round in 0..datagrams {
        let peer = 10 + rng.next() % 400;
        let bytes = datagram(&mut rng);
        *balance.entry(peer).or_default() += 3 * i64::try_from(bytes.len()).unwrap();
        rig.receive_bytes(peer, &bytes);
        for (exchange, request) in rig.asked() {
            if request.observe == Some(0) {
                rig.endpoint.observe(rig.now, exchange, false);
            }
            if !rng.next().is_multiple_of(8) {
                rig.respond(exchange, Response::new(Code::CONTENT).with_payload(vec![1; 300]));
            }
        }
        if round % 64 == 0 {
            honest(&mut rig, u16::try_from(round / 64 % 60_000).unwrap());
            rig.pass(Duration::from_millis(rng.next() % 400));
            let observers: Vec<_> = rig.endpoint.observers_for_tests();
            for (peer, token) in observers {
                rig.endpoint.notify(rig.now, peer, token, Response::new(Code::CONTENT), 0, &mut rig.said);
            }
        }
        for (peer, message) in rig.sent() {
            let verified = rig.endpoint.peers.get_mut(peer).is_some_and(|known| known.verified);
            let left = balance.entry(peer).or_default();
            *left -= i64::try_from(message.encode().len()).unwrap();
            assert!(verified || *left >= 0, "seed {seed}: {left} for peer {peer}");
        }
        rig.said.clear();
        let gauges = rig.endpoint.gauges();
        assert!(gauges.peers <= 200 && gauges.exchanges <= 64 && gauges.upload_bytes <= 20_000, "{gauges:?}");
        assert!(gauges.observations <= 50);
    }
}

/// Its request is answered, whatever else is going on.
fn honest(rig: &mut Rig, id: u16) {
    rig.said.clear();
    rig.receive(PEER, &request(Kind::Con, Code::POST, id));
    if let Some((exchange, _)) = rig.asked().pop() {
        rig.respond(exchange, Response::new(Code::CHANGED));
    }
    let answer = rig.sent_one();
    assert!(answer.code == Code::CHANGED || answer.code == Code::SERVICE_UNAVAILABLE, "{answer:?}");
    rig.said.clear();
}

#[test]
fn a_storm_of_mutated_datagrams() {
    for seed in 0..4 {
        storm(seed, 5_000);
    }
}

/// The long run: `cargo test -p eventmesh-edge-coap --release -- --ignored million`.
#[test]
#[ignore = "minutes; the million of the acceptance run"]
fn a_million_mutated_datagrams() {
    for seed in 0..20 {
        storm(seed, 50_000);
    }
}
