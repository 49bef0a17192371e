//! Wire types shared by EventMesh Edge and its device SDK: no_std, no alloc.
//!
//! A device that has no CloudEvents library, no clock and no JSON can still give its messages an identity of their own:
//! it sends one [`Frame`] as the payload of an MQTT 5 PUBLISH or a CoAP request with the content type [`CONTENT_TYPE`].
//! The node makes the CloudEvents `id` from it, `<boot id>-<counter>` ([`Frame::id`]), so a message that is sent again
//! after a reboot of the gateway or over a second path keeps its identity (P3).
//!
//! ```text
//! version u8 = 1 | postcard of: boot u64, counter u64, time_ms Option<u64>, kind str, data bytes
//! ```
//! postcard writes integers as varints and lengths before text and bytes, so small numbers are small. The bytes are an
//! interface: a later layout takes another version byte, and the golden test below keeps this one.
#![no_std]

use core::fmt;
use serde::{Deserialize, Serialize};

/// Content type of a message whose payload is a frame.
pub const CONTENT_TYPE: &str = "application/vnd.eventmesh-edge.frame";

/// Version byte of the layout written today.
pub const VERSION: u8 = 1;

/// Longest [`Frame::kind`] in bytes.
pub const MAX_KIND_BYTES: usize = 128;

/// Longest [`Frame::data`] in bytes.
pub const MAX_DATA_BYTES: usize = 65_535;

/// Most bytes that a frame takes beside its kind and its data: version, three varints with the option's tag, two lengths.
pub const MAX_OVERHEAD_BYTES: usize = 1 + 10 + 10 + 11 + 2 + 3;

/// One message of a device.
///
/// - `boot`: drawn at random, or counted in flash, at each start of the device; with `counter` it names the message
/// - `counter`: grows by one with each message of this boot
/// - `time_ms`: the device's clock, milliseconds since 1970-01-01T00:00:00Z, if it has one
/// - `kind`: CloudEvents `type`; empty leaves it to the node's route. 0..=[`MAX_KIND_BYTES`]
/// - `data`: what the device says, opaque. 0..=[`MAX_DATA_BYTES`]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame<'a> {
    /// Which start of the device.
    pub boot: u64,
    /// Which message of that start.
    pub counter: u64,
    /// When, by the device's clock.
    pub time_ms: Option<u64>,
    /// What it is about.
    #[serde(borrow)]
    pub kind: &'a str,
    /// The message.
    pub data: &'a [u8],
}

/// Identity of a frame; displays as `<boot, hexadecimal>-<counter>`, for example `5f3a9c01-118`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameId {
    /// [`Frame::boot`].
    pub boot: u64,
    /// [`Frame::counter`].
    pub counter: u64,
}

impl fmt::Display for FrameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.boot, self.counter)
    }
}

impl Frame<'_> {
    /// The identity that the node gives the event.
    #[must_use]
    pub fn id(&self) -> FrameId {
        FrameId { boot: self.boot, counter: self.counter }
    }
}

/// Why a frame was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// The buffer is too small; kind + data + [`MAX_OVERHEAD_BYTES`] is always enough.
    BufferTooSmall,
    /// `kind` is longer than [`MAX_KIND_BYTES`].
    KindTooLong,
    /// `data` is longer than [`MAX_DATA_BYTES`].
    DataTooLong,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// No bytes at all.
    Empty,
    /// Another version than this program reads.
    UnknownVersion(u8),
    /// Cut short, or a field that is not what it should be.
    Malformed,
    /// Bytes after the frame.
    TrailingBytes,
    /// `kind` is longer than [`MAX_KIND_BYTES`].
    KindTooLong,
    /// `data` is longer than [`MAX_DATA_BYTES`].
    DataTooLong,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EncodeError::BufferTooSmall => "frame does not fit into the buffer",
            EncodeError::KindTooLong => "kind is longer than 128 bytes",
            EncodeError::DataTooLong => "data is longer than 65,535 bytes, split it",
        })
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Empty => f.write_str("frame is empty"),
            DecodeError::UnknownVersion(v) => {
                write!(f, "frame has version {v}, this program reads {VERSION}")
            }
            DecodeError::Malformed => f.write_str("frame is cut short or malformed"),
            DecodeError::TrailingBytes => f.write_str("bytes follow the frame"),
            DecodeError::KindTooLong => f.write_str("kind is longer than 128 bytes"),
            DecodeError::DataTooLong => f.write_str("data is longer than 65,535 bytes"),
        }
    }
}

impl core::error::Error for EncodeError {}
impl core::error::Error for DecodeError {}

/// Writes a frame into a lent buffer and returns the bytes used.
///
/// # Errors
/// [`EncodeError`] if a field is over its limit or the buffer is too small; the buffer's content is then undefined.
pub fn encode<'b>(frame: &Frame<'_>, buf: &'b mut [u8]) -> Result<&'b [u8], EncodeError> {
    if frame.kind.len() > MAX_KIND_BYTES {
        return Err(EncodeError::KindTooLong);
    }
    if frame.data.len() > MAX_DATA_BYTES {
        return Err(EncodeError::DataTooLong);
    }
    let (version, body) = buf.split_first_mut().ok_or(EncodeError::BufferTooSmall)?;
    *version = VERSION;
    let used = 1 + postcard::to_slice(frame, body).map_err(|_| EncodeError::BufferTooSmall)?.len();
    buf.get(..used).ok_or(EncodeError::BufferTooSmall)
}

/// Reads a frame; its text and data are slices of `bytes`.
///
/// # Errors
/// [`DecodeError`] for anything that [`encode`] does not write. Never panics, whatever the bytes.
pub fn decode(bytes: &[u8]) -> Result<Frame<'_>, DecodeError> {
    let (version, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if *version != VERSION {
        return Err(DecodeError::UnknownVersion(*version));
    }
    let (frame, rest) = postcard::take_from_bytes::<Frame<'_>>(body).map_err(|_| DecodeError::Malformed)?;
    if !rest.is_empty() {
        return Err(DecodeError::TrailingBytes);
    }
    if frame.kind.len() > MAX_KIND_BYTES {
        return Err(DecodeError::KindTooLong);
    }
    if frame.data.len() > MAX_DATA_BYTES {
        return Err(DecodeError::DataTooLong);
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::string::{String, ToString};
    use std::{vec, vec::Vec};

    const SAMPLE: Frame<'static> = Frame {
        boot: 0x5f3a_9c01,
        counter: 118,
        time_ms: Some(1_790_000_000_000),
        kind: "com.example.temperature.v1",
        data: b"21.5",
    };

    /// Version 1 as it is on the wire since the first release. If this fails, the change needs another version byte.
    #[test]
    fn golden_bytes_of_version_1() {
        let mut buf = [0; 64];
        let expected = [
            &[1u8][..],                               // version
            &[0x81, 0xb8, 0xea, 0xf9, 0x05],          // boot
            &[118],                                   // counter
            &[1, 0x80, 0xd8, 0xc1, 0xa2, 0x8c, 0x34], // time_ms: Some
            &[26],
            b"com.example.temperature.v1",
            &[4],
            b"21.5",
        ]
        .concat();
        assert_eq!(encode(&SAMPLE, &mut buf), Ok(&expected[..]));
        assert_eq!(decode(&expected), Ok(SAMPLE));
        assert_eq!(SAMPLE.id().to_string(), "5f3a9c01-118");
    }

    #[test]
    fn the_smallest_frame_has_six_bytes() {
        let frame = Frame { boot: 0, counter: 0, time_ms: None, kind: "", data: b"" };
        assert_eq!(encode(&frame, &mut [0; 6]), Ok(&[1, 0, 0, 0, 0, 0][..]));
        assert_eq!(encode(&frame, &mut [0; 5]), Err(EncodeError::BufferTooSmall));
        assert_eq!(encode(&frame, &mut []), Err(EncodeError::BufferTooSmall));
    }

    #[test]
    fn limits_hold_both_ways() {
        let kind: String = core::iter::repeat_n('k', MAX_KIND_BYTES + 1).collect();
        let data = vec![0; MAX_DATA_BYTES + 1];
        let mut buf = vec![0; MAX_DATA_BYTES + MAX_KIND_BYTES + MAX_OVERHEAD_BYTES + 1];
        let long_kind = Frame { kind: &kind, ..SAMPLE };
        let long_data = Frame { data: &data, ..SAMPLE };
        assert_eq!(encode(&long_kind, &mut buf), Err(EncodeError::KindTooLong));
        assert_eq!(encode(&long_data, &mut buf), Err(EncodeError::DataTooLong));
        for (frame, error) in [(long_kind, DecodeError::KindTooLong), (long_data, DecodeError::DataTooLong)] {
            buf[0] = VERSION;
            let used = 1 + postcard::to_slice(&frame, &mut buf[1..]).unwrap().len();
            assert_eq!(decode(&buf[..used]), Err(error));
        }
    }

    #[test]
    fn the_largest_frame_fits_into_what_the_constants_say() {
        let kind: String = core::iter::repeat_n('k', MAX_KIND_BYTES).collect();
        let data = vec![0; MAX_DATA_BYTES];
        let frame =
            Frame { boot: u64::MAX, counter: u64::MAX, time_ms: Some(u64::MAX), kind: &kind, data: &data };
        let mut buf = vec![0; MAX_DATA_BYTES + MAX_KIND_BYTES + MAX_OVERHEAD_BYTES];
        let used = encode(&frame, &mut buf).unwrap().len();
        assert_eq!(used, buf.len());
        assert_eq!(decode(&buf), Ok(frame));
    }

    #[test]
    fn what_is_not_a_frame_is_named() {
        let mut buf = [0; 64];
        let good = encode(&SAMPLE, &mut buf).unwrap();
        assert_eq!(decode(&[]), Err(DecodeError::Empty));
        assert_eq!(decode(&[2, 0, 0]), Err(DecodeError::UnknownVersion(2)));
        for cut in 1..good.len() {
            assert_eq!(decode(&good[..cut]), Err(DecodeError::Malformed), "cut at {cut}");
        }
        let longer: Vec<u8> = good.iter().copied().chain([0]).collect();
        assert_eq!(decode(&longer), Err(DecodeError::TrailingBytes));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            boot: u64, counter: u64, time_ms: Option<u64>, kind in "\\PC{0,32}",
            data in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let frame = Frame { boot, counter, time_ms, kind: &kind, data: &data };
            let mut buf = [0; 512];
            let bytes = encode(&frame, &mut buf).unwrap();
            prop_assert!(bytes.len() <= kind.len() + data.len() + MAX_OVERHEAD_BYTES);
            prop_assert_eq!(decode(bytes), Ok(frame));
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 1..200), sane_version: bool) {
            if sane_version { bytes[0] = VERSION; }
            if let Ok(frame) = decode(&bytes) {
                prop_assert!(frame.data.len() <= bytes.len());
            }
        }
    }
}
