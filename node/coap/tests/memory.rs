//! What a known peer takes, measured: alone in its process, so that nothing else is counted.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use eventmesh_edge_coap::{Code, Endpoint, Kind, Message, Output, Params, Response, option};
use std::time::Duration;

const PEERS: u64 = 1_000;

/// P5: in the worst case, with more requests than are remembered one by one, at most 1 KiB, map and queue included; and what
/// all of them share has its own bound.
#[test]
fn a_known_peer_takes_at_most_a_kibibyte() {
    let params = Params { history_max: 500, ..Params::default() };
    let mut endpoint = Endpoint::new(params, [0; 32]);
    let before = resident_bytes();
    for peer in 0..PEERS {
        post(&mut endpoint, peer, 64);
    }
    let each = (resident_bytes() - before) / PEERS;
    assert_eq!(endpoint.gauges().peers as u64, PEERS);
    assert!(each <= 1_024, "{each} bytes");

    let mut endpoint = Endpoint::new(Params::default(), [0; 32]);
    let before = resident_bytes();
    post(&mut endpoint, 1, 65_000);
    let shared = resident_bytes() - before;
    assert!(shared <= 2 << 20, "{shared} bytes");
}

/// So many requests of a peer, each answered.
fn post(endpoint: &mut Endpoint<u64>, peer: u64, requests: u16) {
    let mut said = Vec::new();
    let now = Duration::from_secs(1);
    for id in 0..requests {
        let mut post = Message { code: Code::POST, ..Message::empty(Kind::Con, id) };
        post.options.add(option::URI_PATH, "ps");
        endpoint.receive(now, peer, &post.encode(), false, &mut said);
        for output in std::mem::take(&mut said) {
            if let Output::Request { exchange, .. } = output {
                endpoint.respond(now, exchange, Response::new(Code::CHANGED), &mut said);
            }
        }
        said.clear();
    }
}

/// Resident memory of this process: pages of 4 KiB, as /proc has them.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}
