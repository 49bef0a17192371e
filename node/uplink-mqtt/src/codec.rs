//! Reading packets: rumqttc's decoder, with what it leaves open closed.

use bytes::{Buf, BytesMut};
use rumqttc::v5::mqttbytes::Error;
use rumqttc::v5::mqttbytes::v5::{Disconnect, DisconnectReasonCode, Packet};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Why bytes from the server are no packet. The connection is of no use any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("server sent a packet of {size} bytes, more than the {max} it was told")]
    TooLarge { size: usize, max: u32 },
    #[error("server sent a malformed packet: {0}")]
    Malformed(String),
    #[error("server sent a packet that the decoder cannot take")]
    Panicked,
}

/// Takes the next packet from the front of `buf`; `None` until it is whole.
pub(crate) fn decode(buf: &mut BytesMut, max: u32) -> Result<Option<Packet>, DecodeError> {
    // A DISCONNECT without reason and properties means 0x00 (MQTT 5.0 section 3.14.2.1); rumqttc refuses it.
    if buf.starts_with(&[0xe0, 0x00]) {
        buf.advance(2);
        return Ok(Some(Packet::Disconnect(Disconnect::new(DisconnectReasonCode::NormalDisconnection))));
    }
    // A server's bytes must not end the node. The buffer is dropped with the connection after an error.
    match catch_unwind(AssertUnwindSafe(|| Packet::read(buf, Some(max)))) {
        Ok(Ok(packet)) => Ok(Some(packet)),
        Ok(Err(Error::InsufficientBytes(_))) => Ok(None),
        Ok(Err(Error::PayloadSizeLimitExceeded { pkt_size, .. })) => {
            Err(DecodeError::TooLarge { size: pkt_size, max })
        }
        Ok(Err(error)) => Err(DecodeError::Malformed(error.to_string())),
        Err(_) => Err(DecodeError::Panicked),
    }
}

/// Appends a packet of our own. They are small and well formed; an error is a bug, and the packet is then left out.
pub(crate) fn encode(packet: &Packet, out: &mut BytesMut) {
    if let Err(error) = packet.write(out, None) {
        tracing::error!(%error, "mqtt uplink could not write a packet of its own");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_packet_is_taken_when_it_is_whole() {
        let mut buf = BytesMut::from(&[0x40, 0x02, 0x00][..]);
        assert_eq!(decode(&mut buf, 1_000), Ok(None));
        buf.extend_from_slice(&[0x09, 0xd0]);
        assert!(matches!(decode(&mut buf, 1_000), Ok(Some(Packet::PubAck(ack))) if ack.pkid == 9));
        assert_eq!(decode(&mut buf, 1_000), Ok(None));
        buf.extend_from_slice(&[0x00, 0xe0, 0x00]);
        assert!(matches!(decode(&mut buf, 1_000), Ok(Some(Packet::PingResp(_)))));
        assert!(matches!(decode(&mut buf, 1_000), Ok(Some(Packet::Disconnect(_)))));
    }

    #[test]
    fn a_packet_over_the_limit_is_refused_by_its_header() {
        let mut buf = BytesMut::from(&[0x30, 0xff, 0xff, 0xff, 0x7f][..]);
        assert!(matches!(decode(&mut buf, 1_000), Err(DecodeError::TooLarge { max: 1_000, .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_end_the_node(kind in 0_u8..=15, flags in 0_u8..=15, body in proptest::collection::vec(any::<u8>(), 0..120)) {
            let mut buf = BytesMut::from(&[kind << 4 | flags, u8::try_from(body.len()).unwrap()][..]);
            buf.extend_from_slice(&body);
            while let Ok(Some(_)) = decode(&mut buf, 10_000) {}
        }
    }
}
