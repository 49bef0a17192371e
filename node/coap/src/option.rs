//! Option numbers and what their values may be (RFC 7252 section 5.10, RFC 7641, 7959, 7967, 9175).

/// An option number. The low bits say what an endpoint that does not know it has to do (RFC 7252 section 5.4.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(pub u16);

/// If-Match
pub const IF_MATCH: Number = Number(1);
/// Uri-Host
pub const URI_HOST: Number = Number(3);
/// ETag
pub const ETAG: Number = Number(4);
/// If-None-Match
pub const IF_NONE_MATCH: Number = Number(5);
/// Observe (RFC 7641)
pub const OBSERVE: Number = Number(6);
/// Uri-Port
pub const URI_PORT: Number = Number(7);
/// Location-Path
pub const LOCATION_PATH: Number = Number(8);
/// Uri-Path
pub const URI_PATH: Number = Number(11);
/// Content-Format
pub const CONTENT_FORMAT: Number = Number(12);
/// Max-Age
pub const MAX_AGE: Number = Number(14);
/// Uri-Query
pub const URI_QUERY: Number = Number(15);
/// Accept
pub const ACCEPT: Number = Number(17);
/// Location-Query
pub const LOCATION_QUERY: Number = Number(20);
/// Block2 (RFC 7959)
pub const BLOCK2: Number = Number(23);
/// Block1 (RFC 7959)
pub const BLOCK1: Number = Number(27);
/// Size2 (RFC 7959)
pub const SIZE2: Number = Number(28);
/// Proxy-Uri
pub const PROXY_URI: Number = Number(35);
/// Proxy-Scheme
pub const PROXY_SCHEME: Number = Number(39);
/// Size1 (RFC 7252 section 5.10.9)
pub const SIZE1: Number = Number(60);
/// Echo (RFC 9175 section 2)
pub const ECHO: Number = Number(252);
/// No-Response (RFC 7967)
pub const NO_RESPONSE: Number = Number(258);
/// Request-Tag (RFC 9175 section 3)
pub const REQUEST_TAG: Number = Number(292);

impl Number {
    /// An endpoint that does not know it must not act as if it were not there (section 5.4.1).
    #[must_use]
    pub const fn is_critical(self) -> bool {
        self.0 & 1 == 1
    }

    /// What is known of it in a request; `None` for an option that this endpoint does not know.
    #[must_use]
    pub const fn shape(self) -> Option<Shape> {
        let shape = match self {
            IF_MATCH => Shape { repeatable: true, min: 0, max: 8 },
            URI_HOST => Shape { repeatable: false, min: 1, max: 255 },
            ETAG => Shape { repeatable: true, min: 1, max: 8 },
            IF_NONE_MATCH => Shape { repeatable: false, min: 0, max: 0 },
            OBSERVE | BLOCK1 | BLOCK2 => Shape { repeatable: false, min: 0, max: 3 },
            URI_PORT | CONTENT_FORMAT | ACCEPT => Shape { repeatable: false, min: 0, max: 2 },
            URI_PATH | URI_QUERY => Shape { repeatable: true, min: 0, max: 255 },
            PROXY_URI => Shape { repeatable: false, min: 1, max: 1034 },
            PROXY_SCHEME => Shape { repeatable: false, min: 1, max: 255 },
            SIZE1 | SIZE2 => Shape { repeatable: false, min: 0, max: 4 },
            ECHO => Shape { repeatable: false, min: 1, max: 40 },
            NO_RESPONSE => Shape { repeatable: false, min: 0, max: 1 },
            REQUEST_TAG => Shape { repeatable: true, min: 0, max: 8 },
            _ => return None,
        };
        Some(shape)
    }
}

/// How often an option may stand in a message, and how long its value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// More than once.
    pub repeatable: bool,
    /// Shortest value, bytes.
    pub min: usize,
    /// Longest value, bytes.
    pub max: usize,
}

/// A `uint` value (RFC 7252 section 3.2): big-endian, leading zeros allowed on the way in.
#[must_use]
pub fn decode_uint(value: &[u8]) -> u32 {
    value.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// A `uint` value in as few bytes as it takes; none for zero.
#[must_use]
pub fn encode_uint(number: u32) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    let zeros = number.leading_zeros() as usize / 8;
    bytes.get(zeros..).unwrap_or_default().to_vec()
}

/// Value of a Block1 or Block2 option (RFC 7959 section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Number of the block, from 0.
    pub num: u32,
    /// More blocks follow.
    pub more: bool,
    /// Size exponent: a block has `16 << szx` bytes, 0..=6.
    pub szx: u8,
}

/// Largest size exponent: 1024 bytes.
pub const SZX_MAX: u8 = 6;

impl Block {
    /// Reads a value; `None` for the reserved size exponent 7.
    #[must_use]
    pub fn decode(value: &[u8]) -> Option<Block> {
        let number = decode_uint(value);
        let szx = (number & 7) as u8;
        (szx <= SZX_MAX).then_some(Block { num: number >> 4, more: number & 8 != 0, szx })
    }

    /// The value.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        encode_uint(self.num << 4 | u32::from(self.more) << 3 | u32::from(self.szx))
    }

    /// Bytes of a full block.
    #[must_use]
    pub const fn size(self) -> usize {
        16 << self.szx
    }

    /// Where it starts in the body.
    #[must_use]
    pub const fn offset(self) -> usize {
        self.num as usize * self.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uints_take_as_few_bytes_as_possible() {
        for (number, bytes) in [(0, &[][..]), (1, &[1]), (255, &[255]), (256, &[1, 0]), (u32::MAX, &[255; 4])]
        {
            assert_eq!(encode_uint(number), bytes);
            assert_eq!(decode_uint(bytes), number);
        }
        assert_eq!(decode_uint(&[0, 0, 7]), 7, "leading zeros are allowed");
    }

    #[test]
    fn blocks_as_in_the_standard() {
        let block = Block { num: 3, more: true, szx: 2 };
        assert_eq!(block.encode(), [0x3a]);
        assert_eq!(Block::decode(&[0x3a]), Some(block));
        assert_eq!((block.size(), block.offset()), (64, 192));
        assert_eq!(Block::decode(&[0x07]), None, "size exponent 7 is reserved");
        assert_eq!(Block::decode(&[]), Some(Block { num: 0, more: false, szx: 0 }));
        let last = Block { num: 0xf_ffff, more: false, szx: 6 };
        assert_eq!(Block::decode(&last.encode()), Some(last));
    }

    #[test]
    fn criticality_is_in_the_number() {
        assert!(URI_PATH.is_critical() && IF_MATCH.is_critical() && PROXY_URI.is_critical());
        assert!(!OBSERVE.is_critical() && !NO_RESPONSE.is_critical() && !ECHO.is_critical());
    }
}
