//! The endpoint against messages written by hand, in time turned by hand.

#![allow(clippy::cast_possible_truncation, reason = "message ids of the tests are small numbers")]

mod blocks;
mod credit;
mod exchange;
mod hostile;
mod observing;

use super::*;
use crate::gate;

pub(super) const PEER: u64 = 1;

/// An endpoint, the time, and what the endpoint said.
pub(super) struct Rig {
    pub(super) endpoint: Endpoint<u64>,
    pub(super) now: Duration,
    pub(super) said: Vec<Output<u64>>,
}

impl Rig {
    pub(super) fn new() -> Rig {
        Rig::with(Params::default())
    }

    pub(super) fn with(params: Params) -> Rig {
        Rig { endpoint: Endpoint::new(params, [3; 32]), now: Duration::from_secs(1_000), said: Vec::new() }
    }

    pub(super) fn receive(&mut self, peer: u64, message: &Message) -> &mut Rig {
        self.receive_bytes(peer, &message.encode())
    }

    pub(super) fn receive_bytes(&mut self, peer: u64, bytes: &[u8]) -> &mut Rig {
        self.endpoint.receive(self.now, peer, bytes, false, &mut self.said);
        self
    }

    /// Time passes, and everything due meanwhile happens at its moment.
    pub(super) fn pass(&mut self, by: Duration) -> &mut Rig {
        let end = self.now + by;
        while self.endpoint.deadline() <= end {
            self.now = self.now.max(self.endpoint.deadline());
            self.endpoint.tick(self.now, &mut self.said);
        }
        self.now = end;
        self
    }

    /// The messages sent since the last look.
    pub(super) fn sent(&mut self) -> Vec<(u64, Message)> {
        let mut sent = Vec::new();
        self.said.retain(|said| match said {
            Output::Send { peer, datagram } => {
                let head = gate::check(datagram).expect("what is sent is a message");
                sent.push((*peer, Message::decode(head, datagram).unwrap()));
                false
            }
            _ => true,
        });
        sent
    }

    /// The one message sent since the last look.
    pub(super) fn sent_one(&mut self) -> Message {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0).1
    }

    /// The requests given to the service since the last look.
    pub(super) fn asked(&mut self) -> Vec<(ExchangeNo, Request)> {
        let mut asked = Vec::new();
        self.said.retain(|said| match said {
            Output::Request { exchange, request, .. } => {
                asked.push((*exchange, (**request).clone()));
                false
            }
            _ => true,
        });
        asked
    }

    pub(super) fn asked_one(&mut self) -> (ExchangeNo, Request) {
        let mut asked = self.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked.remove(0)
    }

    pub(super) fn respond(&mut self, exchange: ExchangeNo, response: Response) -> &mut Rig {
        self.endpoint.respond(self.now, exchange, response, &mut self.said);
        self
    }

    /// Makes the peer's address a verified one, as a ping that it answers does.
    pub(super) fn verify(&mut self, peer: u64) {
        let value = self.endpoint.echo.value(peer, secs(self.now));
        let mut probe = message(Kind::Non, Code::GET, 0xfffe, b"");
        probe.options.add(option::ECHO, value);
        self.receive(peer, &probe);
        let (exchange, _) = self.asked_one();
        self.respond(exchange, Response::new(Code::CONTENT));
        self.sent();
    }
}

pub(super) fn message(kind: Kind, code: Code, id: u16, token: &[u8]) -> Message {
    Message { kind, code, token: Token::new(token).unwrap(), ..Message::empty(kind, id) }
}

/// A request with a path, and padding for credit.
pub(super) fn request(kind: Kind, code: Code, id: u16) -> Message {
    let mut message = message(kind, code, id, b"tk");
    message.options.add(option::URI_PATH, *b"ps");
    message.options.add(option::URI_PATH, *b"temperature");
    message
}
