//! Bytes to packets and back.
//!
//! [`decode`] is the only module that names `rmqtt-codec`, which parses; it never saw a mutated packet that made it panic
//! (docs/adr/0001). Beside it stand the checks that `rmqtt-codec` leaves to its user: reserved bits, packets that only
//! servers send, topics and text, versions that want a CONNACK. Framing is here, so that a packet is measured before a
//! byte of it is kept. Encoding is in [`encode`]: what a server sends is a handful of layouts, written straight into the
//! connection's output, while the library's encoder wants every packet boxed and owned.

pub mod decode;
pub mod encode;
mod packet;
mod raw;

pub use packet::{Ack, Connect, Disconnect, Packet, Publish, Subscribe, Unsubscribe, Version, Will};

use crate::reason::Reason;
use bytes::BytesMut;

/// Largest CONNECT a listener reads, whatever its packet limit: nobody has shown a password yet (P5, P7). Client id,
/// user name, password and a will of the usual kind need a tenth of it.
pub const CONNECT_MAX_BYTES: u32 = 128 * 1024;

/// Longest fixed header: type and four bytes of Remaining Length.
pub const FIXED_HEADER_MAX_BYTES: usize = 5;

/// Why bytes are not a packet, or not one a client may send.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not MQTT (Malformed Packet).
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// MQTT, but not allowed (Protocol Error).
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// Larger than the listener's limit.
    #[error("packet of {bytes} bytes is larger than this listener's limit of {max}")]
    TooLarge {
        /// Whole packet.
        bytes: u64,
        /// The limit.
        max: u32,
    },
    /// A CONNECT of another protocol; `wants_v5` says in which form the refusal is understood.
    #[error("protocol version {level} is not spoken here")]
    UnsupportedVersion {
        /// Protocol Level as sent.
        level: u8,
        /// Answer as MQTT 5 does.
        wants_v5: bool,
    },
    /// A 3.x client without client id that wants to keep a session [MQTT-3.1.3-8].
    #[error("an empty client id needs Clean Session = 1")]
    ClientIdEmpty,
    /// A topic name with wildcards, or empty [MQTT-3.3.2-2].
    #[error("topic name is not valid: {0}")]
    TopicName(#[from] eventmesh_edge_core::topic::TopicError),
}

impl DecodeError {
    /// What to tell the client.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            DecodeError::Malformed(_) => Reason::Malformed,
            DecodeError::Protocol(_) => Reason::Protocol,
            DecodeError::TooLarge { .. } => Reason::PacketTooLarge,
            DecodeError::UnsupportedVersion { .. } => Reason::UnsupportedVersion,
            DecodeError::ClientIdEmpty => Reason::ClientIdNotValid,
            DecodeError::TopicName(_) => Reason::TopicNameInvalid,
        }
    }
}

/// What the front of a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A whole packet of that many bytes.
    Whole(usize),
    /// The start of one; its whole length, once the fixed header is complete.
    Partial(Option<usize>),
}

/// The decoder of one connection: which version it speaks and how large a packet may be. It holds no bytes.
#[derive(Clone, Debug)]
pub struct Decoder {
    version: Option<Version>,
    max_bytes: u32,
}

impl Decoder {
    /// A decoder that expects CONNECT first. `max_bytes` bounds whole packets.
    #[must_use]
    pub fn new(max_bytes: u32) -> Decoder {
        Decoder { version: None, max_bytes }
    }

    /// What the client speaks, once its CONNECT was read.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// Measures the packet at the front of `bytes`, before anything of it is kept.
    ///
    /// # Errors
    /// [`DecodeError`] if it is too large, its length is not a length, or the first packet is not CONNECT.
    pub fn frame(&self, bytes: &[u8]) -> Result<Frame, DecodeError> {
        let Some((&first, rest)) = bytes.split_first() else { return Ok(Frame::Partial(None)) };
        // The first packet must be CONNECT [MQTT-3.1.0-1]; told from its first byte, so that an HTTP client or a port
        // scanner is gone at once.
        if self.version.is_none() && first != 0x10 {
            return Err(DecodeError::Protocol("the first packet must be CONNECT"));
        }
        let Some((remaining, length_bytes)) = raw::variable_length(rest)? else {
            return Ok(Frame::Partial(None));
        };
        let whole = 1 + length_bytes + remaining as usize;
        let max = if self.version.is_none() { self.max_bytes.min(CONNECT_MAX_BYTES) } else { self.max_bytes };
        if whole > max as usize {
            return Err(DecodeError::TooLarge { bytes: whole as u64, max });
        }
        Ok(if bytes.len() >= whole { Frame::Whole(whole) } else { Frame::Partial(Some(whole)) })
    }

    /// Decodes one whole packet. Texts and payload of the result are slices of `packet`.
    ///
    /// # Errors
    /// [`DecodeError`]: the connection has to end.
    pub fn decode(&mut self, packet: BytesMut) -> Result<Packet, DecodeError> {
        let packet = decode::decode(packet, self.version)?;
        if let Packet::Connect(connect) = &packet {
            self.version = Some(connect.version);
        }
        Ok(packet)
    }
}

#[cfg(test)]
mod tests;
