//! Events to requests: the three content modes of the HTTP binding (CloudEvents 1.0.2, `bindings/http-protocol-binding.md`).

use bytes::Bytes;
use eventmesh_edge_core::mapping::{CloudEvent, to_cloudevent, to_structured_json};
use eventmesh_edge_core::ports::uplink::Outgoing;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::HeaderMap;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use std::io::Write as _;

/// Content Type of one event in the JSON format.
const STRUCTURED: HeaderValue = HeaderValue::from_static("application/cloudevents+json; charset=utf-8");
/// Content Type of a batch of them.
const BATCH: HeaderValue = HeaderValue::from_static("application/cloudevents-batch+json; charset=utf-8");
/// Bodies shorter than this gain nothing.
const GZIP_MIN_BYTES: usize = 512;
/// More attributes in headers than this are left to the JSON format: servers take 8 KiB of head, some less.
const HEAD_MAX_BYTES: usize = 6 * 1_024;

/// How the events of a request are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Attributes in headers, data in the body.
    Binary,
    /// One JSON document.
    Structured,
    /// An array of them.
    Batch,
}

/// Headers that describe the body, and the body.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) compressed: bool,
}

/// The JSON format of one event.
pub(crate) fn json(outgoing: &Outgoing) -> Vec<u8> {
    to_structured_json(&to_cloudevent(&outgoing.event, &outgoing.kind, None))
}

/// Binary mode; `None` if the attributes do not fit into headers, and the event travels as JSON instead.
pub(crate) fn binary(outgoing: &Outgoing) -> Option<Content> {
    let event = to_cloudevent(&outgoing.event, &outgoing.kind, None);
    let headers = attributes(&event)?;
    Some(Content { headers, body: event.data, compressed: false })
}

fn attributes(event: &CloudEvent<'_>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(event.attributes.len() + 6);
    let mut bytes = 0;
    for (name, value) in &event.attributes {
        let header = HeaderName::from_bytes(format!("ce-{name}").as_bytes()).ok()?;
        let value = percent_encoded(value)?;
        bytes += header.as_str().len() + value.len();
        headers.insert(header, value);
    }
    if let Some(content_type) = &event.content_type {
        // Section 3.1.1: as it is, not encoded.
        headers.insert(CONTENT_TYPE, HeaderValue::from_bytes(content_type.as_bytes()).ok()?);
    }
    (bytes <= HEAD_MAX_BYTES).then_some(headers)
}

/// Section 3.1.3.2: space, double quote, percent, and all that is not printable ASCII.
fn percent_encoded(value: &str) -> Option<HeaderValue> {
    let plain = |b: u8| matches!(b, 0x21..=0x7e) && b != b'"' && b != b'%';
    if value.bytes().all(plain) {
        return HeaderValue::from_str(value).ok();
    }
    let mut encoded = String::with_capacity(value.len() + 16);
    for b in value.bytes() {
        if plain(b) {
            encoded.push(char::from(b));
        } else {
            use std::fmt::Write as _;
            write!(encoded, "%{b:02X}").ok()?;
        }
    }
    HeaderValue::try_from(encoded).ok()
}

/// One JSON document as it is.
pub(crate) fn structured(json: Vec<u8>) -> Content {
    content(STRUCTURED, json)
}

/// `[a,b,c]` from its documents (JSON format section 4). `bytes` is the sum of their lengths.
pub(crate) fn batch<'a>(documents: impl Iterator<Item = &'a [u8]>, bytes: usize, count: usize) -> Content {
    let mut body = Vec::with_capacity(bytes + count + 1);
    for document in documents {
        body.push(if body.is_empty() { b'[' } else { b',' });
        body.extend_from_slice(document);
    }
    body.push(b']');
    content(BATCH, body)
}

fn content(content_type: HeaderValue, body: Vec<u8>) -> Content {
    let mut headers = HeaderMap::with_capacity(6);
    headers.insert(CONTENT_TYPE, content_type);
    Content { headers, body: Bytes::from(body), compressed: false }
}

impl Content {
    /// Compresses the body, where that makes it smaller (RFC 9110 section 8.4.1.3).
    pub(crate) fn gzip(&mut self) {
        if self.body.len() < GZIP_MIN_BYTES {
            return;
        }
        // Fast: a gateway has a weak processor, and JSON of telemetry shrinks to a fifth at any level.
        let mut encoder = GzEncoder::new(Vec::with_capacity(self.body.len() / 4), Compression::fast());
        let written = encoder.write_all(&self.body).and_then(|()| encoder.finish());
        if let Ok(small) = written
            && small.len() < self.body.len()
        {
            self.body = Bytes::from(small);
            self.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            self.compressed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{outgoing, with};
    use eventmesh_edge_core::Text;
    use proptest::prelude::*;
    use std::io::Read as _;

    fn header<'a>(content: &'a Content, name: &str) -> &'a str {
        content.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    #[test]
    fn binary_mode_is_the_data_with_the_attributes_beside_it() {
        let content = binary(&outgoing(7)).unwrap();
        assert_eq!(&content.body[..], br#"{"n":7}"#);
        assert_eq!(header(&content, "content-type"), "application/json");
        assert_eq!(header(&content, "ce-specversion"), "1.0");
        assert_eq!(header(&content, "ce-source"), "mqtt://plant-7/sensor-12");
        assert_eq!(header(&content, "ce-type"), "com.example.t.v1");
        assert_eq!(header(&content, "ce-subject"), "plant/7/temp");
        assert_eq!(header(&content, "ce-sequence"), "00000000000000000007");
        assert!(!header(&content, "ce-id").is_empty());
        assert!(content.headers.get("ce-datacontenttype").is_none());
    }

    #[test]
    fn what_headers_cannot_hold_is_percent_encoded() {
        let content = binary(&with(1, |event| event.topic = Text::from_static("a \"100%\" €"))).unwrap();
        assert_eq!(header(&content, "ce-subject"), "a%20%22100%25%22%20%E2%82%AC");
    }

    #[test]
    fn attributes_beyond_a_servers_head_are_left_to_json() {
        assert!(binary(&with(1, |event| event.topic = Text::from("t".repeat(7_000)))).is_none());
        assert!(
            binary(&with(1, |event| event.topic = Text::from("é".repeat(1_200)))).is_none(),
            "as encoded"
        );
    }

    #[test]
    fn a_batch_is_an_array_of_the_structured_form() {
        let documents: Vec<_> = (1..=3).map(|n| json(&outgoing(n))).collect();
        let bytes = documents.iter().map(Vec::len).sum();
        let content = batch(documents.iter().map(Vec::as_slice), bytes, 3);
        let array: Vec<serde_json::Value> = serde_json::from_slice(&content.body).unwrap();
        let one = |n: usize| {
            serde_json::from_slice::<serde_json::Value>(&structured(documents[n].clone()).body).unwrap()
        };
        assert_eq!(array, [one(0), one(1), one(2)]);
        assert_eq!(header(&content, "content-type"), "application/cloudevents-batch+json; charset=utf-8");
        assert_eq!(content.body.len(), bytes + 4, "no byte beside commas and brackets");
    }

    #[test]
    fn gzip_comes_back_whole_and_small_bodies_stay() {
        let mut small = structured(json(&outgoing(1)));
        let before = small.body.clone();
        small.gzip();
        assert_eq!((&small.body, header(&small, "content-encoding")), (&before, ""));
        let documents: Vec<_> = (1..=100).map(|n| json(&outgoing(n))).collect();
        let mut content = batch(documents.iter().map(Vec::as_slice), 0, 100);
        let plain = content.body.clone();
        content.gzip();
        assert_eq!(header(&content, "content-encoding"), "gzip");
        assert!(content.body.len() < plain.len() / 5, "{} of {}", content.body.len(), plain.len());
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&content.body[..]).read_to_end(&mut back).unwrap();
        assert_eq!(back, plain);
    }

    proptest! {
        /// Percent-decoding gives the attribute back, whatever it is (section 3.1.3.2).
        #[test]
        fn headers_come_back(value in "\\PC{0,40}") {
            let header = percent_encoded(&value).unwrap();
            let mut bytes = header.as_bytes().iter();
            let mut back = Vec::new();
            while let Some(b) = bytes.next() {
                prop_assert!(matches!(b, 0x21..=0x7e));
                if *b == b'%' {
                    let hex = [*bytes.next().unwrap(), *bytes.next().unwrap()];
                    back.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
                } else {
                    back.push(*b);
                }
            }
            prop_assert_eq!(String::from_utf8(back).unwrap(), value);
        }
    }
}
