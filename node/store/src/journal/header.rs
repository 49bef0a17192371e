//! The segment header.

use crate::backing::Lsn;
use crate::codec::Reader;
use eventmesh_edge_core::event::{LogId, Position};

pub(crate) const HEADER_BYTES: u32 = 64;
const MAGIC: &[u8; 8] = b"EMESHJNL";
const VERSION: u8 = 1;

/// What makes a log this log and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) log: LogId,
    pub(crate) secret: u64,
}

/// See the layout in [`super`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) identity: Identity,
    pub(crate) epoch: u32,
    pub(crate) number: u32,
    pub(crate) first_lsn: Lsn,
    pub(crate) first_position: Position,
    pub(crate) previous: u32,
    pub(crate) previous_end: u32,
    pub(crate) size: u32,
}

/// Why 64 bytes are not a header of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAHeader {
    /// Zeros, torn, or damaged.
    Unreadable,
    /// Checks, but a later program wrote it.
    Later(u8),
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut out = Vec::with_capacity(HEADER_BYTES as usize);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[VERSION, 0, 0, 0]);
        out.extend_from_slice(&self.identity.log.0.to_le_bytes());
        out.extend_from_slice(&self.identity.secret.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.first_lsn.0.to_le_bytes());
        out.extend_from_slice(&self.first_position.0.to_le_bytes());
        out.extend_from_slice(&self.previous.to_le_bytes());
        out.extend_from_slice(&self.previous_end.to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes.copy_from_slice(&out);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Header, NotAHeader> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(NotAHeader::Unreadable)?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(NotAHeader::Unreadable);
        }
        let mut reader = Reader::new(body);
        if reader.take(8) != Some(MAGIC) {
            return Err(NotAHeader::Unreadable);
        }
        match reader.byte() {
            Some(VERSION) => Self::fields(&mut reader).ok_or(NotAHeader::Unreadable),
            Some(later) => Err(NotAHeader::Later(later)),
            None => Err(NotAHeader::Unreadable),
        }
    }

    fn fields(reader: &mut Reader<'_>) -> Option<Header> {
        reader.take(3)?;
        Some(Header {
            identity: Identity { log: LogId(reader.u32_le()?), secret: reader.u64_le()? },
            epoch: reader.u32_le()?,
            number: reader.u32_le()?,
            first_lsn: Lsn(reader.u64_le()?),
            first_position: Position(reader.u64_le()?),
            previous: reader.u32_le()?,
            previous_end: reader.u32_le()?,
            size: reader.u32_le()?,
        })
    }

    /// Start value of the checksums of this segment's frames.
    pub(crate) fn seed(&self) -> u32 {
        seed(self.identity, self.number)
    }

    /// Frames lie between the two headers.
    pub(crate) fn frames_end(&self) -> u32 {
        self.size.saturating_sub(HEADER_BYTES)
    }
}

/// CRC32C over a fixed prefix and the number: for 32-bit inputs a CRC is a bijection, so no two numbers share a seed.
pub(crate) fn seed(identity: Identity, number: u32) -> u32 {
    let prefix = crc32c::crc32c(&identity.secret.to_le_bytes());
    let prefix = crc32c::crc32c_append(prefix, &identity.log.0.to_le_bytes());
    crc32c::crc32c_append(prefix, &number.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            identity: Identity { log: LogId(7), secret: 0x1234_5678_9abc_def0 },
            epoch: 3,
            number: 42,
            first_lsn: Lsn(1000),
            first_position: Position::first_of(3),
            previous: 41,
            previous_end: 4_000_000,
            size: 4 << 20,
        }
    }

    #[test]
    fn comes_back_and_any_flipped_bit_is_seen() {
        let bytes = header().encode();
        assert_eq!(Header::decode(&bytes), Ok(header()));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bad), Err(NotAHeader::Unreadable), "bit {bit}");
        }
    }

    #[test]
    fn a_later_version_is_named() {
        let mut bytes = header().encode();
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..60]).to_le_bytes();
        bytes[60..].copy_from_slice(&crc);
        assert_eq!(Header::decode(&bytes), Err(NotAHeader::Later(2)));
    }

    #[test]
    fn no_two_segments_share_a_seed() {
        let seeds: std::collections::BTreeSet<u32> =
            (0..100_000).map(|number| seed(header().identity, number)).collect();
        assert_eq!(seeds.len(), 100_000);
    }
}
