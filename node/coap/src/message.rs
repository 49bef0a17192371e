//! Messages, over `coap-lite`'s codec.

use crate::code::Code;
use crate::gate::Head;
use crate::option::{Number, decode_uint, encode_uint};
use bytes::Bytes;
use coap_lite::{CoapOption, MessageClass, MessageType, Packet};
use std::fmt;

/// Type of a message (RFC 7252 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Confirmable.
    Con,
    /// Non-confirmable.
    Non,
    /// Acknowledgement.
    Ack,
    /// Reset.
    Rst,
}

impl Kind {
    /// Of the two low bits.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Kind {
        match bits & 3 {
            0 => Kind::Con,
            1 => Kind::Non,
            2 => Kind::Ack,
            _ => Kind::Rst,
        }
    }

    const fn to_lite(self) -> MessageType {
        match self {
            Kind::Con => MessageType::Confirmable,
            Kind::Non => MessageType::NonConfirmable,
            Kind::Ack => MessageType::Acknowledgement,
            Kind::Rst => MessageType::Reset,
        }
    }
}

/// What ties a response to its request (RFC 7252 section 5.3.1): 0 to 8 bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    length: u8,
    bytes: [u8; 8],
}

impl Token {
    /// `None` if it has more than eight bytes; the codec would write an illegal message.
    #[must_use]
    pub fn new(token: &[u8]) -> Option<Token> {
        let mut bytes = [0; 8];
        bytes.get_mut(..token.len())?.copy_from_slice(token);
        Some(Token { length: u8::try_from(token.len()).ok()?, bytes })
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:02x?})", self.as_bytes())
    }
}

/// Options of a message, in order of their numbers; those of one number in the order sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(Vec<(Number, Vec<u8>)>);

impl Options {
    /// Adds a value behind those of the same number.
    pub fn add(&mut self, number: Number, value: impl Into<Vec<u8>>) {
        let at = self.0.partition_point(|(n, _)| *n <= number);
        self.0.insert(at, (number, value.into()));
    }

    /// Adds a `uint` value.
    pub fn add_uint(&mut self, number: Number, value: u32) {
        self.add(number, encode_uint(value));
    }

    /// Removes all values of a number.
    pub fn remove(&mut self, number: Number) {
        self.0.retain(|(n, _)| *n != number);
    }

    /// The first value.
    #[must_use]
    pub fn first(&self, number: Number) -> Option<&[u8]> {
        self.all(number).next()
    }

    /// The first value as a `uint`.
    #[must_use]
    pub fn uint(&self, number: Number) -> Option<u32> {
        self.first(number).map(decode_uint)
    }

    /// All values of a number.
    pub fn all(&self, number: Number) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter(move |(n, _)| *n == number).map(|(_, value)| value.as_slice())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Number, &[u8])> {
        self.0.iter().map(|(number, value)| (*number, value.as_slice()))
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Type.
    pub kind: Kind,
    /// Code.
    pub code: Code,
    /// Message id.
    pub id: u16,
    /// Token.
    pub token: Token,
    /// Options.
    pub options: Options,
    /// Payload; empty for none.
    pub payload: Bytes,
}

impl Message {
    /// An empty message: acknowledgement, reset or ping.
    #[must_use]
    pub fn empty(kind: Kind, id: u16) -> Message {
        Message {
            kind,
            code: Code::EMPTY,
            id,
            token: Token::default(),
            options: Options::default(),
            payload: Bytes::new(),
        }
    }

    /// Reads a datagram that passed [`crate::gate::check`]. `None` should the codec see it differently, which the tests
    /// of the gate rule out.
    #[must_use]
    pub fn decode(head: Head, datagram: &[u8]) -> Option<Message> {
        let mut packet = Packet::from_bytes(datagram).ok()?;
        let mut options = Vec::new();
        for (number, values) in packet.options() {
            options.extend(values.iter().map(|value| (Number(*number), value.clone())));
        }
        let payload = Bytes::from(std::mem::take(&mut packet.payload));
        let Head { kind, code, id, token } = head;
        Some(Message { kind, code, id, token, options: Options(options), payload })
    }

    /// The datagram. Empty messages have no token, options or payload (RFC 7252 section 4.1).
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut packet = Packet::new();
        packet.header.set_version(1);
        packet.header.set_type(self.kind.to_lite());
        packet.header.code = MessageClass::from(self.code.0);
        packet.header.message_id = self.id;
        packet.set_token(self.token.as_bytes().to_vec());
        for (number, value) in self.options.iter() {
            packet.add_option(CoapOption::from(number.0), value.to_vec());
        }
        packet.payload = self.payload.to_vec();
        // Without a limit the codec has nothing to refuse; an empty datagram would be dropped by the other side.
        packet.to_bytes_unlimited().map(Bytes::from).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate;
    use crate::option;

    #[test]
    fn a_message_from_the_standard() {
        // RFC 7252 appendix A, figure 16: GET coap://server/temperature, then 2.05 "22.3 C".
        let get =
            [0x40, 0x01, 0x7d, 0x34, 0xbb, b't', b'e', b'm', b'p', b'e', b'r', b'a', b't', b'u', b'r', b'e'];
        let message = Message::decode(gate::check(&get).unwrap(), &get).unwrap();
        assert_eq!(message.options.first(option::URI_PATH), Some(&b"temperature"[..]));
        assert_eq!(message.encode(), get[..]);
        let answer = Message {
            kind: Kind::Ack,
            code: Code::CONTENT,
            id: 0x7d34,
            token: Token::default(),
            options: Options::default(),
            payload: Bytes::from_static(b"22.3 C"),
        };
        assert_eq!(answer.encode()[..], *b"\x60\x45\x7d\x34\xff22.3 C");
    }

    #[test]
    fn empty_messages_have_four_bytes() {
        assert_eq!(Message::empty(Kind::Rst, 0x1234).encode()[..], [0x70, 0, 0x12, 0x34]);
    }

    #[test]
    fn tokens_have_at_most_eight_bytes() {
        for length in 0..=8 {
            assert_eq!(Token::new(&[7; 8][..length]).unwrap().as_bytes(), &[7; 8][..length]);
        }
        assert!(Token::new(&[0; 9]).is_none());
    }

    #[test]
    fn options_keep_their_order() {
        let mut options = Options::default();
        options.add(option::URI_PATH, *b"a");
        options.add(option::URI_QUERY, *b"q");
        options.add(option::URI_PATH, *b"b");
        options.add(option::URI_HOST, *b"h");
        let numbers: Vec<_> = options.iter().map(|(number, value)| (number.0, value[0])).collect();
        assert_eq!(numbers, [(3, b'h'), (11, b'a'), (11, b'b'), (15, b'q')]);
    }
}
