//! Protobuf bytes of an event, written straight from borrowed parts, framed for gRPC.
//!
//! The generated types want an owned map of owned strings: some fifty allocations for an event that is gone a moment later. The few
//! field numbers below are all that is needed; tests read everything back through the generated types.

use bytes::{BufMut as _, Bytes, BytesMut};

/// Keys of `CloudEvent`: field number and wire type 2 (length-delimited).
const ID: u8 = 1 << 3 | 2;
const SOURCE: u8 = 2 << 3 | 2;
const SPEC_VERSION: u8 = 3 << 3 | 2;
const TYPE: u8 = 4 << 3 | 2;
const ATTRIBUTES: u8 = 5 << 3 | 2;
const BINARY_DATA: u8 = 6 << 3 | 2;
const TEXT_DATA: u8 = 7 << 3 | 2;
/// Keys of a map entry.
const ENTRY_KEY: u8 = 1 << 3 | 2;
const ENTRY_VALUE: u8 = 2 << 3 | 2;
/// Keys of `CloudEventAttributeValue`.
const CE_INTEGER: u8 = 2 << 3;
const CE_STRING: u8 = 3 << 3 | 2;

/// Length-Prefixed-Message of gRPC over HTTP/2: one byte "compressed", four bytes of length.
pub(crate) const PREFIX_BYTES: usize = 5;

/// One message being written at the end of a buffer.
#[derive(Debug)]
pub(crate) struct Message<'b> {
    out: &'b mut BytesMut,
    start: usize,
}

impl<'b> Message<'b> {
    /// Begins behind what is in the buffer already.
    pub(crate) fn begin(out: &'b mut BytesMut) -> Message<'b> {
        let start = out.len();
        out.put_bytes(0, PREFIX_BYTES);
        Message { out, start }
    }

    pub(crate) fn id(&mut self, text: &str) {
        self.field(ID, text.as_bytes());
    }

    pub(crate) fn source(&mut self, text: &str) {
        self.field(SOURCE, text.as_bytes());
    }

    pub(crate) fn spec_version(&mut self, text: &str) {
        self.field(SPEC_VERSION, text.as_bytes());
    }

    pub(crate) fn kind(&mut self, text: &str) {
        self.field(TYPE, text.as_bytes());
    }

    /// Attributes that were written before, see [`attributes`].
    pub(crate) fn prepared(&mut self, attributes: &[u8]) {
        self.out.put_slice(attributes);
    }

    /// An attribute as `ce_string`.
    pub(crate) fn attribute(&mut self, name: &str, value: &str) {
        put_attribute(self.out, name, value);
    }

    pub(crate) fn integer(&mut self, name: &str, value: u8) {
        // Both keys, both lengths and the value are below 128: one byte each.
        let inner = 2;
        self.out.put_u8(ATTRIBUTES);
        put_varint(self.out, 1 + varint_len(name.len()) + name.len() + 2 + inner);
        put_field(self.out, ENTRY_KEY, name.as_bytes());
        self.out.put_slice(&[ENTRY_VALUE, 2, CE_INTEGER, value & 0x7f]);
    }

    pub(crate) fn text_data(&mut self, text: &str) {
        self.field(TEXT_DATA, text.as_bytes());
    }

    pub(crate) fn binary_data(&mut self, bytes: &[u8]) {
        self.field(BINARY_DATA, bytes);
    }

    fn field(&mut self, key: u8, bytes: &[u8]) {
        put_field(self.out, key, bytes);
    }

    /// Bytes of the protobuf message so far, without the prefix.
    pub(crate) fn len(&self) -> usize {
        self.out.len() - self.start - PREFIX_BYTES
    }

    /// Takes it back.
    pub(crate) fn discard(self) {
        self.out.truncate(self.start);
    }

    /// Writes the prefix and takes the whole frame out of the buffer.
    pub(crate) fn finish(self) -> Bytes {
        let len = u32::try_from(self.len()).unwrap_or(u32::MAX);
        // `split` leaves the rest of the buffer to the next message, `split_off` would not.
        let mut frame = if self.start == 0 { self.out.split() } else { self.out.split_off(self.start) };
        if let Some(prefix) = frame.get_mut(1..PREFIX_BYTES) {
            prefix.copy_from_slice(&len.to_be_bytes());
        }
        frame.freeze()
    }
}

/// Attributes that are the same in every message, written once.
pub(crate) fn attributes<'a>(all: impl IntoIterator<Item = (&'a str, &'a str)>) -> Bytes {
    let mut out = BytesMut::new();
    for (name, value) in all {
        put_attribute(&mut out, name, value);
    }
    out.freeze()
}

fn put_attribute(out: &mut BytesMut, name: &str, value: &str) {
    let inner = 1 + varint_len(value.len()) + value.len();
    let entry = 1 + varint_len(name.len()) + name.len() + 1 + varint_len(inner) + inner;
    out.put_u8(ATTRIBUTES);
    put_varint(out, entry);
    put_field(out, ENTRY_KEY, name.as_bytes());
    out.put_u8(ENTRY_VALUE);
    put_varint(out, inner);
    put_field(out, CE_STRING, value.as_bytes());
}

fn put_field(out: &mut BytesMut, key: u8, bytes: &[u8]) {
    out.put_u8(key);
    put_varint(out, bytes.len());
    out.put_slice(bytes);
}

fn varint_len(value: usize) -> usize {
    value.checked_ilog2().map_or(1, |log| log as usize / 7 + 1)
}

fn put_varint(out: &mut BytesMut, mut value: usize) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or(0);
        value >>= 7;
        if value == 0 {
            return out.put_u8(low);
        }
        out.put_u8(low | 0x80);
    }
}

/// Cuts gRPC frames out of a stream of bytes.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    buffer: BytesMut,
}

/// Bytes that are no gRPC frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("compressed message although we offered no compression")]
    Compressed,
    #[error("message of {bytes} bytes, at most {max} are taken")]
    TooLarge { bytes: usize, max: usize },
}

impl Frames {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message.
    pub(crate) fn next(&mut self, max: usize) -> Result<Option<Bytes>, FrameError> {
        let Some([flag, a, b, c, d]) = self.buffer.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        if *flag != 0 {
            return Err(FrameError::Compressed);
        }
        let bytes = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
        if bytes > max {
            return Err(FrameError::TooLarge { bytes, max });
        }
        if self.buffer.len() < PREFIX_BYTES + bytes {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(PREFIX_BYTES + bytes);
        Ok(Some(frame.split_off(PREFIX_BYTES).freeze()))
    }

    /// Bytes of an unfinished message.
    pub(crate) fn rest(&self) -> usize {
        self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::CloudEvent;
    use crate::proto::cloud_event::cloud_event_attribute_value::Attr;
    use crate::proto::cloud_event::{CloudEventAttributeValue, Data};
    use proptest::prelude::*;
    use prost::Message as _;
    use std::collections::HashMap;

    fn value(attr: Attr) -> CloudEventAttributeValue {
        CloudEventAttributeValue { attr: Some(attr) }
    }

    proptest! {
        #[test]
        fn the_generated_types_read_what_is_written(
            head in ["\\PC{0,9}", "\\PC{0,200}", "\\PC{0,3}", "\\PC{0,9}"],
            attributes in proptest::collection::hash_map("[a-z0-9]{1,200}", "\\PC{0,200}", 0..6),
            text in proptest::option::of("\\PC{1,300}"), binary in proptest::collection::vec(any::<u8>(), 0..300),
            before in proptest::collection::vec(any::<u8>(), 0..9),
        ) {
            let mut out = BytesMut::from(&before[..]);
            let mut message = Message::begin(&mut out);
            message.id(&head[0]);
            message.source(&head[1]);
            message.spec_version(&head[2]);
            message.kind(&head[3]);
            message.prepared(&super::attributes(attributes.iter().map(|(n, v)| (n.as_str(), v.as_str()))));
            message.integer("clienttype", 2);
            match &text {
                Some(text) => message.text_data(text),
                None => message.binary_data(&binary),
            }
            let len = message.len();
            let frame = message.finish();
            prop_assert_eq!((&out[..], frame.len()), (&before[..], len + PREFIX_BYTES));
            let mut frames = Frames::default();
            frames.push(&frame);
            let body = frames.next(len).unwrap().unwrap();
            let mut expected: HashMap<_, _> =
                attributes.into_iter().map(|(n, v)| (n, value(Attr::CeString(v)))).collect();
            expected.insert("clienttype".to_owned(), value(Attr::CeInteger(2)));
            let [id, source, spec_version, kind] = head;
            prop_assert_eq!(CloudEvent::decode(body).unwrap(), CloudEvent {
                id, source, spec_version, r#type: kind, attributes: expected,
                data: Some(text.map_or(Data::BinaryData(Bytes::from(binary)), Data::TextData)),
            });
        }

        #[test]
        fn frames_are_found_wherever_the_bytes_are_cut(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..6),
            cut in 1_usize..17,
        ) {
            let mut bytes = Vec::new();
            for body in &bodies {
                bytes.push(0);
                bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
                bytes.extend_from_slice(body);
            }
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for piece in bytes.chunks(cut) {
                frames.push(piece);
                while let Some(body) = frames.next(100).unwrap() {
                    found.push(body.to_vec());
                }
            }
            prop_assert_eq!((found, frames.rest()), (bodies, 0));
        }
    }

    #[test]
    fn what_is_discarded_leaves_nothing() {
        let mut out = BytesMut::from(&b"x"[..]);
        let mut message = Message::begin(&mut out);
        message.id("1");
        message.discard();
        assert_eq!(&out[..], b"x");
    }

    #[test]
    fn bad_frames() {
        let mut frames = Frames::default();
        frames.push(&[1, 0, 0, 0, 0]);
        assert_eq!(frames.next(9), Err(FrameError::Compressed));
        let mut frames = Frames::default();
        frames.push(&[0, 0, 0, 0, 10]);
        assert_eq!(frames.next(9), Err(FrameError::TooLarge { bytes: 10, max: 9 }));
    }
}
