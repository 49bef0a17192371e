//! From a response to a datagram: blocks, credit, acknowledgement or a message of its own.

use super::dedup::How;
use super::{Endpoint, LEISURELY_MAX, Open, Output, PeerKey, secs};
use crate::code::Code;
use crate::endpoint::flights::Purpose;
use crate::message::{Kind, Message, Token};
use crate::option::{self, Block};
use crate::request::Request;
use crate::response::Response;
use bytes::Bytes;
use std::time::Duration;

/// A ping and its retransmissions.
const PING_BYTES: usize = 4 * 5;

impl<P: PeerKey> Endpoint<P> {
    pub(super) fn answer(
        &mut self,
        now: Duration,
        open: Open<P>,
        mut response: Response,
        out: &mut Vec<Output<P>>,
    ) {
        if open.multicast {
            return self.answer_group(now, open, response);
        }
        if Request::suppresses(open.no_response, response.code) {
            return self.answer_nothing(&open, response.code, out);
        }
        if let Some(block) = open.block1 {
            let more = response.code == Code::CONTINUE;
            response.options.add(option::BLOCK1, Block { more, ..block }.encode());
        }
        if let Some(sequence) = open.observe {
            response.options.add_uint(option::OBSERVE, sequence);
        }
        let apart = open.confirmable && open.acknowledged;
        let (kind, id) = match (open.confirmable, apart) {
            (true, false) => (Kind::Ack, open.id),
            (true, true) | (false, _)
                if (apart || open.deliver.is_some()) && self.flights.len() < self.params.flights_max =>
            {
                (Kind::Con, self.next_id(open.peer))
            }
            _ => (Kind::Non, self.next_id(open.peer)),
        };
        let message = self.fit(now, &open, Shell { kind, id, token: open.token }, response);
        let datagram = message.encode();
        self.note_answer(&open, message.code, if apart { How::Apart } else { How::Direct });
        if let (Some(known), Some(fingerprint), Kind::Ack) =
            (self.peers.get_mut(open.peer), open.remembered, kind)
        {
            known.remember(fingerprint, &datagram);
        }
        if open.observe.is_some() && !message.code.is_success() {
            // It has to prove its address first: whoever is told an error does not observe.
            self.unreachable(open.peer, open.token, out);
        }
        if kind == Kind::Con {
            let tag = open.deliver.filter(|_| message.code.is_success());
            let purpose = tag.map_or(Purpose::Response, Purpose::Delivery);
            return self.launch(now, open.peer, id, datagram, purpose, out);
        }
        self.send_bytes(open.peer, datagram, out);
    }

    /// No-Response (RFC 7967 section 2): the message layer is served all the same.
    fn answer_nothing(&mut self, open: &Open<P>, code: Code, out: &mut Vec<Output<P>>) {
        if open.confirmable && !open.acknowledged {
            self.send(open.peer, &Message::empty(Kind::Ack, open.id), out);
        }
        self.note_answer(open, code, How::Apart);
    }

    /// What a copy of the request is to be told.
    fn note_answer(&mut self, open: &Open<P>, code: Code, how: How) {
        let Some(known) = self.peers.get_mut(open.peer) else { return };
        if let Some(fingerprint) = open.remembered {
            known.dedup.answered(fingerprint, code, how);
        }
        match open.body {
            Some(body) if code.is_success() => known.dedup.answered(body, code, how),
            // Under the same tag it may be tried again.
            Some(body) => known.dedup.forget(body),
            None => {}
        }
    }

    /// RFC 7252 section 8.2: after a time drawn at random, and only if there is something to say.
    fn answer_group(&mut self, now: Duration, open: Open<P>, response: Response) {
        let silent = !response.code.is_success()
            || response.payload.is_empty()
            || Request::suppresses(open.no_response, response.code);
        if silent || self.leisurely.len() >= LEISURELY_MAX {
            return;
        }
        let id = self.next_id(open.peer);
        let shell = Shell { kind: Kind::Non, id, token: open.token };
        let datagram = self.fit(now, &open, shell, response).encode();
        let due = now + self.params.leisure.mul_f64(self.rng.fraction());
        self.next_exchange += 1;
        self.leisurely.insert((due, self.next_exchange), (open.peer, datagram));
    }

    /// Cuts the body into blocks where it is asked for or has to be, and down to what the peer may be sent.
    fn fit(&mut self, now: Duration, open: &Open<P>, shell: Shell, response: Response) -> Message {
        let credit = self.credit(open.peer);
        let wanted = open.block2;
        let szx = wanted.map_or(self.params.block_szx, |block| block.szx.min(self.params.block_szx));
        let whole = cut(&response, shell, wanted, szx, open.wants_size2);
        if whole.encode().len() <= credit {
            return whole;
        }
        self.counters.curbed += 1;
        let first = wanted.is_none_or(|block| block.num == 0);
        if first && response.code.is_success() && !response.payload.is_empty() {
            let smaller = (0..szx).rev().map(|szx| cut(&response, shell, wanted, szx, open.wants_size2));
            if let Some(message) = smaller.into_iter().find(|message| message.encode().len() <= credit) {
                return message;
            }
        }
        self.prove_first(now, open, shell, &response, credit)
    }

    /// The peer has to show that its address is its own (RFC 9175 section 2.4, item 3); an error is told without its
    /// sentence.
    fn prove_first(
        &self,
        now: Duration,
        open: &Open<P>,
        shell: Shell,
        response: &Response,
        credit: usize,
    ) -> Message {
        // What was done is not taken back by a 4.01: that would make the client do it again.
        let code = if response.code == Code::CONTENT { Code::UNAUTHORIZED } else { response.code };
        let mut answer = Response::new(code);
        if code == Code::UNAUTHORIZED {
            answer.options.add(option::ECHO, self.echo.value(open.peer, secs(now)));
        }
        let message = shell.message(&answer, Bytes::new());
        if message.encode().len() <= credit {
            message
        } else {
            shell.message(&Response::new(code), Bytes::new())
        }
    }

    /// Bytes that may go to a peer now. An observer that proved nothing will be pinged: what that takes is kept for it.
    pub(super) fn credit(&mut self, peer: P) -> usize {
        match self.peers.get_mut(peer) {
            Some(known) if known.verified => usize::MAX,
            Some(known) if known.observing > 0 => (known.credit as usize).saturating_sub(PING_BYTES),
            Some(known) => known.credit as usize,
            None => 0,
        }
    }

    /// A message id that nothing on its way to the peer has.
    pub(super) fn next_id(&mut self, peer: P) -> u16 {
        loop {
            let id = match self.peers.get_mut(peer) {
                Some(known) => known.next_id(&self.ids),
                None => self.rng.next_u16(),
            };
            // There are fewer messages on their way than ids, so this ends.
            if !self.flights.contains((peer, id)) {
                return id;
            }
        }
    }

    pub(super) fn send(&mut self, peer: P, message: &Message, out: &mut Vec<Output<P>>) {
        self.send_bytes(peer, message.encode(), out);
    }

    /// The one way out for everything but a Reset.
    pub(super) fn send_bytes(&mut self, peer: P, datagram: Bytes, out: &mut Vec<Output<P>>) {
        if self.spend(peer, datagram.len()) {
            out.push(Output::Send { peer, datagram });
        } else {
            self.counters.curbed += 1;
        }
    }

    fn spend(&mut self, peer: P, bytes: usize) -> bool {
        let Some(known) = self.peers.get_mut(peer) else { return false };
        if known.verified {
            return true;
        }
        let left = u32::try_from(bytes).ok().and_then(|bytes| known.credit.checked_sub(bytes));
        known.credit = left.unwrap_or(known.credit);
        left.is_some()
    }
}

/// What a message is apart from what it says.
#[derive(Clone, Copy)]
pub(super) struct Shell {
    pub(super) kind: Kind,
    pub(super) id: u16,
    pub(super) token: Token,
}

impl Shell {
    pub(super) fn message(self, response: &Response, payload: Bytes) -> Message {
        let Shell { kind, id, token } = self;
        Message { kind, code: response.code, id, token, options: response.options.clone(), payload }
    }
}

/// The message with the block that is asked for, or with the whole body if that is one block and nobody asked.
pub(super) fn cut(
    response: &Response,
    shell: Shell,
    wanted: Option<Block>,
    szx: u8,
    wants_size2: bool,
) -> Message {
    let body = &response.payload;
    let size = 16usize << szx;
    let mut message = shell.message(response, Bytes::new());
    let total = u32::try_from(body.len()).unwrap_or(u32::MAX);
    // Errors are short, and a client that asks for a block of one does not exist.
    if !response.code.is_success() || (wanted.is_none() && body.len() <= size) {
        message.payload = body.clone();
        if wants_size2 && response.code.is_success() {
            message.options.add_uint(option::SIZE2, total);
        }
        return message;
    }
    let offset = wanted.map_or(0, Block::offset);
    if offset > 0 && offset >= body.len() {
        let beyond = Response::error(Code::BAD_REQUEST, "there is no such block");
        return shell.message(&beyond, beyond.payload.clone());
    }
    let end = body.len().min(offset + size);
    let num = u32::try_from(offset / size).unwrap_or(u32::MAX);
    let block = Block { num, more: end < body.len(), szx };
    message.options.add(option::BLOCK2, block.encode());
    if wants_size2 || (num == 0 && block.more) {
        message.options.add_uint(option::SIZE2, total);
    }
    // The client tells by it whether all blocks are of one representation (RFC 7959 section 2.4): each of them has it.
    if (block.more || num > 0) && message.options.first(option::ETAG).is_none() {
        message.options.add(option::ETAG, etag(body).to_be_bytes());
    }
    message.payload = body.slice(offset..end);
    message
}

/// Tells bodies apart: FNV-1a.
fn etag(body: &[u8]) -> u64 {
    body.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}
