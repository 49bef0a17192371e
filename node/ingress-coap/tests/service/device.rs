//! A client as RFC 7252 describes one: one exchange at a time, retransmission, deduplication of what it is sent.

use bytes::Bytes;
use eventmesh_edge_coap::gate;
use eventmesh_edge_coap::option::{self, Block};
use eventmesh_edge_coap::{Code, Kind, Message, Token};
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

/// One POST: in one piece or in blocks.
pub(crate) struct Device {
    next_id: u16,
    plan: VecDeque<Message>,
    exchange: Option<Exchange>,
    /// Confirmable messages that were acknowledged: copies are acknowledged again and else ignored.
    seen: HashSet<u16>,
    pub(crate) answered: Vec<(u64, Code)>,
    pub(crate) given_up: usize,
    /// Responses that were news: the network may lose again.
    pub(crate) progress: u64,
    job: u64,
}

struct Exchange {
    bytes: Bytes,
    id: u16,
    token: Token,
    attempts: u8,
    timeout: Duration,
    due: Duration,
    acknowledged: bool,
    last: bool,
    job: u64,
}

const BLOCK_SZX: u8 = 1;

impl Device {
    pub(crate) fn new(first_id: u16) -> Device {
        Device {
            next_id: first_id,
            plan: VecDeque::new(),
            exchange: None,
            seen: HashSet::new(),
            answered: Vec::new(),
            given_up: 0,
            progress: 0,
            job: 0,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.exchange.is_none() && self.plan.is_empty()
    }

    /// Starts to send a payload under a number.
    pub(crate) fn post(&mut self, job: u64, payload: &[u8], in_blocks: bool) {
        self.job = job;
        let size = 16usize << BLOCK_SZX;
        let blocks: Vec<&[u8]> = if in_blocks { payload.chunks(size).collect() } else { vec![payload] };
        for (num, part) in blocks.iter().enumerate() {
            let id = self.next_id;
            self.next_id = self.next_id.wrapping_add(1);
            let token = Token::new(&[id.to_be_bytes().as_slice(), &[7]].concat()).unwrap();
            let mut message = Message { code: Code::POST, token, ..Message::empty(Kind::Con, id) };
            message.options.add(option::URI_PATH, "ps");
            message.options.add(option::URI_PATH, "sim");
            if in_blocks {
                let block = Block { num: num as u32, more: num + 1 < blocks.len(), szx: BLOCK_SZX };
                message.options.add(option::BLOCK1, block.encode());
            }
            message.payload = Bytes::copy_from_slice(part);
            self.plan.push_back(message);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.exchange.as_ref().map(|exchange| exchange.due)
    }

    /// What it sends now.
    pub(crate) fn tick(&mut self, now: Duration, spread: f64) -> Option<Bytes> {
        if self.exchange.is_none() {
            let message = self.plan.pop_front()?;
            let timeout = Duration::from_secs(2).mul_f64(1.0 + spread / 2.0);
            self.exchange = Some(Exchange {
                bytes: message.encode(),
                id: message.id,
                token: message.token,
                attempts: 0,
                timeout,
                due: now + timeout,
                acknowledged: false,
                last: self.plan.is_empty(),
                job: self.job,
            });
            return self.exchange.as_ref().map(|exchange| exchange.bytes.clone());
        }
        let exchange = self.exchange.as_mut().filter(|exchange| exchange.due <= now)?;
        if exchange.acknowledged || exchange.attempts >= 4 {
            self.given_up += 1;
            self.exchange = None;
            self.plan.clear();
            return None;
        }
        exchange.attempts += 1;
        exchange.timeout *= 2;
        exchange.due = now + exchange.timeout;
        Some(exchange.bytes.clone())
    }

    /// What it answers.
    pub(crate) fn receive(&mut self, now: Duration, bytes: &[u8]) -> Option<Bytes> {
        let message = Message::decode(gate::check(bytes).unwrap(), bytes).unwrap();
        let acknowledgement =
            (message.kind == Kind::Con).then(|| Message::empty(Kind::Ack, message.id).encode());
        if message.kind == Kind::Con && !self.seen.insert(message.id) {
            return acknowledgement;
        }
        let Some(exchange) = self.exchange.as_mut() else { return acknowledgement };
        if message.kind == Kind::Ack && message.id == exchange.id && !exchange.acknowledged {
            exchange.acknowledged = true;
            // A response may take its time once the request is known to have arrived.
            exchange.due = now + Duration::from_secs(300);
            // No progress yet: the copies of the response that were lost by now are not sent again.
        }
        if message.code.is_response() && message.token == exchange.token {
            let (last, job) = (exchange.last, exchange.job);
            self.exchange = None;
            self.progress += 1;
            let ended = last || message.code != Code::CONTINUE;
            if ended {
                self.answered.push((job, message.code));
                self.plan.clear();
            }
        }
        acknowledgement
    }
}
