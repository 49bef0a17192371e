//! CoAP request ⇄ event: Content-Format ⇄ `datacontenttype`, `source`, the time in SenML, and the ETag of a value.

use super::admit::{Admission, MAX_AHEAD, admit};
use super::source::{coap_source, encode};
use crate::Text;
use crate::event::{Event, Properties, Qos, Timestamp, Via};
use bytes::Bytes;
use std::time::Duration;

/// Content-Formats (RFC 7252 section 12.3 and its registry) and the media types that they stand for.
const FORMATS: [(u16, &str); 26] = [
    (0, "text/plain;charset=utf-8"),
    (21, "image/gif"),
    (22, "image/jpeg"),
    (23, "image/png"),
    (40, "application/link-format"),
    (41, "application/xml"),
    (42, "application/octet-stream"),
    (47, "application/exi"),
    (50, "application/json"),
    (51, "application/json-patch+json"),
    (52, "application/merge-patch+json"),
    (60, "application/cbor"),
    (61, "application/cwt"),
    (63, "application/cbor-seq"),
    (110, "application/senml+json"),
    (111, "application/sensml+json"),
    (112, "application/senml+cbor"),
    (113, "application/sensml+cbor"),
    (114, "application/senml-exi"),
    (310, "application/senml+xml"),
    (311, "application/sensml+xml"),
    (320, "application/senml-etch+json"),
    (322, "application/senml-etch+cbor"),
    (432, "application/td+json"),
    (11_542, "application/vnd.oma.lwm2m+tlv"),
    (11_543, "application/vnd.oma.lwm2m+json"),
];

/// User Property, and extension attribute, that keeps a Content-Format which stands for no media type known here.
pub const FORMAT_PROPERTY: &str = "coapformat";

/// The media type of a Content-Format.
#[must_use]
pub fn media_type_of(format: u16) -> Option<&'static str> {
    FORMATS.iter().find(|(number, _)| *number == format).map(|(_, name)| *name)
}

/// The Content-Format of a media type. Parameters other than `charset=utf-8` make it another type, which has none.
#[must_use]
pub fn format_of(media_type: &str) -> Option<u16> {
    let (essence, parameters) = media_type.split_once(';').unwrap_or((media_type, ""));
    let charset = parameters.trim().trim_end_matches(';');
    if !charset.is_empty() && !charset.eq_ignore_ascii_case("charset=utf-8") {
        return None;
    }
    let names = |name: &str| name.split(';').next().is_some_and(|n| n.eq_ignore_ascii_case(essence.trim()));
    FORMATS.iter().find(|(_, name)| names(name)).map(|(number, _)| *number)
}

/// `coap://<node>/anonymous/<device>`: a device that proved nothing, on a node where others do.
#[must_use]
pub fn anonymous_coap_source(node: &str, device: &str) -> Text {
    let mut text = String::from(&*coap_source(node, "anonymous"));
    text.push('/');
    encode(&mut text, device, b":@");
    Text::from(text)
}

/// One publishing request at the door.
#[derive(Clone, Debug)]
pub struct CoapPublication<'a> {
    /// Topic name.
    pub topic: Text,
    /// Payload, whole.
    pub payload: Bytes,
    /// It becomes the topic's value (PUT, DELETE).
    pub retain: bool,
    /// Content-Format.
    pub format: Option<u16>,
    /// The sender's own `id` for the event.
    pub id: Option<&'a str>,
    /// The sender's `time`, RFC 3339.
    pub time: Option<&'a str>,
    /// How long it is worth something.
    pub expiry: Option<Duration>,
    /// [`coap_source`] or [`anonymous_coap_source`].
    pub source: &'a Text,
    /// Receipt.
    pub received: Timestamp,
}

/// Makes the event. It has QoS 1 whatever the type of its message: whoever is answered has handed it over (P1).
///
/// `time` is the sender's, else the base time of a SenML pack (RFC 8428 section 4.1), else the receipt, as far as they are
/// plausible.
#[must_use]
pub fn event_from_coap(publication: CoapPublication<'_>) -> Event {
    let CoapPublication { payload, format, received, .. } = publication;
    let measured = publication.time.is_none().then(|| senml_time(format, &payload, received)).flatten();
    let mut event = admit(Admission {
        via: Via::Coap,
        qos: Qos::AtLeastOnce,
        retain: publication.retain,
        topic: publication.topic,
        payload,
        properties: properties(format, publication.id, publication.time),
        expiry: publication.expiry,
        source: publication.source,
        received,
    });
    let set = received.is_plausible();
    let plausible = |time: &Timestamp| time.is_plausible() && (!set || *time <= received.after(MAX_AHEAD));
    event.time = measured.filter(plausible).or(event.time);
    event
}

fn properties(format: Option<u16>, id: Option<&str>, time: Option<&str>) -> Option<Box<Properties>> {
    let known = format.and_then(media_type_of);
    let unknown = format.filter(|_| known.is_none()).map(|number| number.to_string());
    let user: Vec<(Text, Text)> = [("id", id), ("time", time), (FORMAT_PROPERTY, unknown.as_deref())]
        .into_iter()
        .filter_map(|(name, value)| Some((Text::from_static(name), Text::from(value?))))
        .collect();
    let content_type = known.or(unknown.is_some().then_some("application/octet-stream"));
    (content_type.is_some() || !user.is_empty()).then(|| {
        Box::new(Properties {
            content_type: content_type.map(Text::from_static),
            user,
            ..Properties::default()
        })
    })
}

/// What a GET of a value shows beside its bytes.
#[must_use]
pub fn format_of_event(event: &Event) -> Option<u16> {
    let properties = event.properties.as_deref()?;
    let kept = properties.user.iter().find(|(name, _)| *name == FORMAT_PROPERTY);
    kept.and_then(|(_, number)| number.parse().ok())
        .or_else(|| format_of(properties.content_type.as_deref()?))
}

/// ETag of a value: two values that differ in bytes or Content-Format differ in it (but for one pair in 2^32).
#[must_use]
pub fn etag_of(event: &Event) -> [u8; 8] {
    let format = format_of_event(event).map_or([0xff; 3], |f| {
        let [high, low] = f.to_be_bytes();
        [0, high, low]
    });
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let hash = event.payload.iter().chain(&format).fold(0xcbf2_9ce4_8422_2325, step);
    // FNV leaves neighbours near each other: spread them.
    let spread = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (spread ^ (spread >> 29)).to_be_bytes()
}

/// Why a patch was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// The value is no JSON, so there is nothing to merge into.
    #[error("the value is no JSON")]
    Value,
    /// The patch is no JSON.
    #[error("the patch is no JSON")]
    Patch,
}

/// JSON Merge Patch (RFC 7396 section 2). Members come out in the order of their names; numbers as JSON libraries read
/// them: integers of 64 bits and doubles.
///
/// # Errors
/// [`MergeError`]
pub fn merge_patch(value: &[u8], patch: &[u8]) -> Result<Vec<u8>, MergeError> {
    let patch = serde_json::from_slice(patch).map_err(|_| MergeError::Patch)?;
    let value = serde_json::from_slice(value).map_err(|_| MergeError::Value)?;
    serde_json::to_vec(&merged(value, patch)).map_err(|_| MergeError::Value)
}

/// Reading has bounded the depth.
fn merged(value: serde_json::Value, patch: serde_json::Value) -> serde_json::Value {
    use serde_json::{Map, Value};
    let Value::Object(patch) = patch else { return patch };
    let mut members = match value {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    for (name, change) in patch {
        if change.is_null() {
            members.remove(&name);
        } else {
            let before = members.remove(&name).unwrap_or(Value::Null);
            members.insert(name, merged(before, change));
        }
    }
    Value::Object(members)
}

/// Time of the first record of a SenML pack: base time plus time. Values below 2^28 are relative to now (RFC 8428
/// section 4.5.3).
#[must_use]
pub fn senml_time(format: Option<u16>, payload: &[u8], received: Timestamp) -> Option<Timestamp> {
    let seconds = match format? {
        110 | 111 => json_time(payload)?,
        112 | 113 => cbor_time(payload)?,
        _ => return None,
    };
    const ABSOLUTE_FROM: f64 = 268_435_456.0;
    if !seconds.is_finite() {
        return None;
    }
    let since_1970 = Duration::from_millis(received.0);
    let moment = if seconds.abs() >= ABSOLUTE_FROM {
        Duration::try_from_secs_f64(seconds).ok()?
    } else if !received.is_plausible() {
        return None;
    } else if seconds < 0.0 {
        since_1970.checked_sub(Duration::try_from_secs_f64(-seconds).ok()?)?
    } else {
        since_1970.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?
    };
    u64::try_from(moment.as_millis()).ok().map(Timestamp)
}

fn json_time(payload: &[u8]) -> Option<f64> {
    #[derive(serde::Deserialize)]
    struct First {
        #[serde(default)]
        bt: Option<f64>,
        #[serde(default)]
        t: Option<f64>,
    }
    let records: Vec<First> = serde_json::from_slice(payload).ok()?;
    let First { bt, t } = records.first()?;
    (bt.is_some() || t.is_some()).then(|| bt.unwrap_or(0.0) + t.unwrap_or(0.0))
}

/// Labels of base time and time in a CBOR record (RFC 8428 section 6).
const CBOR_BASE_TIME: i64 = -3;
const CBOR_TIME: i64 = 6;

fn cbor_time(payload: &[u8]) -> Option<f64> {
    let mut cbor = Cbor(payload);
    let (4, _) = cbor.head()? else { return None };
    let (5, pairs) = cbor.head()? else { return None };
    let mut sum = None;
    for _ in 0..pairs?.min(64) {
        let key = cbor.integer();
        match key {
            Some(CBOR_BASE_TIME | CBOR_TIME) => *sum.get_or_insert(0.0) += cbor.number()?,
            Some(_) => cbor.skip(0)?,
            None => return sum,
        }
    }
    sum
}

/// As much of CBOR (RFC 8949) as it takes to find a number in a map.
struct Cbor<'a>(&'a [u8]);

impl Cbor<'_> {
    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    /// Major type and argument; no argument for an indefinite length.
    fn head(&mut self) -> Option<(u8, Option<u64>)> {
        let first = *self.take(1)?.first()?;
        let extra = match first & 31 {
            small @ 0..=23 => return Some((first >> 5, Some(u64::from(small)))),
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            31 => return Some((first >> 5, None)),
            _ => return None,
        };
        let value = self.take(extra)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        Some((first >> 5, Some(value)))
    }

    fn integer(&mut self) -> Option<i64> {
        match self.head()? {
            (0, Some(value)) => i64::try_from(value).ok(),
            (1, Some(value)) => i64::try_from(value).ok().map(|value| -1 - value),
            _ => None,
        }
    }

    /// An integer or a float of any width.
    fn number(&mut self) -> Option<f64> {
        let first = *self.0.first()?;
        match (first, self.head()?) {
            (_, (0, Some(value))) => Some(value as f64),
            (_, (1, Some(value))) => Some(-1.0 - value as f64),
            (0xf9, (7, Some(bits))) => Some(half(u16::try_from(bits).ok()?)),
            (0xfa, (7, Some(bits))) => Some(f64::from(f32::from_bits(u32::try_from(bits).ok()?))),
            (0xfb, (7, Some(bits))) => Some(f64::from_bits(bits)),
            _ => None,
        }
    }

    /// Passes over one item; nothing in SenML is nested deeper than this.
    fn skip(&mut self, depth: u8) -> Option<()> {
        if depth > 4 {
            return None;
        }
        match self.head()? {
            (0 | 1 | 7, Some(_)) => Some(()),
            (2 | 3, Some(length)) => self.take(usize::try_from(length).ok()?).map(|_| ()),
            (4, Some(count)) => (0..count.min(64)).try_for_each(|_| self.skip(depth + 1)),
            (5, Some(count)) => (0..count.min(64) * 2).try_for_each(|_| self.skip(depth + 1)),
            (6, Some(_)) => self.skip(depth + 1),
            _ => None,
        }
    }
}

/// Half precision (RFC 8949 appendix D).
fn half(bits: u16) -> f64 {
    let mantissa = f64::from(bits & 0x3ff);
    let value = match i32::from(bits >> 10 & 31) {
        0 => mantissa * 2f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (mantissa + 1024.0) * 2f64.powi(exponent - 25),
    };
    if bits & 0x8000 == 0 { value } else { -value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_790_000_000_000);

    fn publication<'a>(source: &'a Text, payload: &'static [u8], format: Option<u16>) -> CoapPublication<'a> {
        CoapPublication {
            topic: Text::from_static("plant/7/temp"),
            payload: Bytes::from_static(payload),
            retain: false,
            format,
            id: None,
            time: None,
            expiry: None,
            source,
            received: NOW,
        }
    }

    #[test]
    fn formats_and_media_types() {
        for (number, name) in FORMATS {
            assert_eq!(media_type_of(number), Some(name));
            assert_eq!(format_of(name), Some(number));
        }
        assert_eq!(format_of("text/plain"), Some(0));
        assert_eq!(format_of("application/json; charset=UTF-8"), Some(50));
        assert_eq!(format_of("text/plain;charset=latin1"), None);
        assert_eq!(format_of("application/vnd.nobody"), None);
    }

    #[test]
    fn an_event_from_a_post() {
        let source = coap_source("edge", "sensor-7");
        let event = event_from_coap(publication(&source, b"21.5", Some(0)));
        assert_eq!((event.via, event.qos), (Via::Coap, Qos::AtLeastOnce));
        assert_eq!(&*event.source, "coap://edge/sensor-7");
        assert_eq!(event.time, Some(NOW));
        let properties = event.properties.clone().unwrap();
        assert_eq!(properties.content_type.as_deref(), Some("text/plain;charset=utf-8"));
        assert_eq!(format_of_event(&event), Some(0));
        assert!(event_from_coap(publication(&source, b"x", None)).properties.is_none());
    }

    #[test]
    fn a_format_without_a_media_type_comes_back_as_it_was() {
        let source = coap_source("edge", "s");
        let event = event_from_coap(publication(&source, b"x", Some(65_000)));
        assert_eq!(
            event.properties.as_ref().unwrap().content_type.as_deref(),
            Some("application/octet-stream")
        );
        assert_eq!(format_of_event(&event), Some(65_000));
    }

    #[test]
    fn the_sender_may_name_id_and_time() {
        let source = coap_source("edge", "s");
        let publication = CoapPublication {
            id: Some("m-1"),
            time: Some("2026-09-21T14:13:19Z"),
            ..publication(&source, b"x", None)
        };
        let event = event_from_coap(publication);
        assert_eq!(event.id.as_deref(), Some("m-1"));
        assert_eq!(event.time, Some(Timestamp(1_789_999_999_000)));
    }

    #[test]
    fn senml_says_when_it_was_measured() {
        // RFC 8428 section 5.1.2, its base time moved to the present.
        let pack =
            br#"[{"bn":"urn:dev:ow:10e2073a01080063:","bt":1.789999e9,"bu":"A","n":"voltage","v":120.1}]"#;
        assert_eq!(senml_time(Some(110), pack, NOW), Some(Timestamp(1_789_999_000_000)));
        assert_eq!(senml_time(Some(50), pack, NOW), None, "only what says that it is SenML");
        let relative = br#"[{"n":"t","v":1,"t":-60}]"#;
        assert_eq!(senml_time(Some(110), relative, NOW), Some(Timestamp(NOW.0 - 60_000)));
        let source = coap_source("edge", "s");
        assert_eq!(
            event_from_coap(publication(&source, relative, Some(110))).time,
            Some(Timestamp(NOW.0 - 60_000))
        );
        let absurd = br#"[{"bt":1e300}]"#;
        assert_eq!(event_from_coap(publication(&source, absurd, Some(110))).time, Some(NOW));
    }

    #[test]
    fn senml_in_cbor() {
        // [{-2: "urn", -3: 1789999000, 0: "t", 2: 21.5}]
        let mut pack = vec![0x81, 0xa4, 0x21, 0x63, b'u', b'r', b'n', 0x22, 0x1a];
        pack.extend(1_789_999_000u32.to_be_bytes());
        pack.extend([0x00, 0x61, b't', 0x02, 0xf9, 0x4d, 0x60]);
        assert_eq!(senml_time(Some(112), &pack, NOW), Some(Timestamp(1_789_999_000_000)));
        // [{6: -60, 2: 1}]
        assert_eq!(
            senml_time(Some(112), &[0x81, 0xa2, 6, 0x38, 59, 2, 1], NOW),
            Some(Timestamp(NOW.0 - 60_000))
        );
        assert_eq!(half(0x4d60), 21.5);
    }

    /// RFC 7396 appendix A.
    #[test]
    fn merge_patch_as_in_the_standard() {
        for (value, patch, expected) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, r#"{}"#),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, "null", "null"),
            (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
            (r#"[1,2]"#, r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            (r#"{}"#, r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            let merged = merge_patch(value.as_bytes(), patch.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(merged).unwrap(), expected, "{value} {patch}");
        }
        assert_eq!(merge_patch(b"{}", b"{"), Err(MergeError::Patch));
        assert_eq!(merge_patch(b"21.5 C", b"{}"), Err(MergeError::Value));
    }

    #[test]
    fn etags_follow_value_and_format() {
        let source = coap_source("edge", "s");
        let tag = |payload, format| etag_of(&event_from_coap(publication(&source, payload, format)));
        assert_eq!(tag(b"1", Some(0)), tag(b"1", Some(0)));
        assert_ne!(tag(b"1", Some(0)), tag(b"2", Some(0)));
        assert_ne!(tag(b"1", Some(0)), tag(b"1", Some(50)));
        assert_ne!(tag(b"1", None), tag(b"1", Some(0)));
    }

    #[test]
    fn devices_that_prove_nothing_have_sources_of_their_own() {
        assert_eq!(anonymous_coap_source("edge", "a/b"), "coap://edge/anonymous/a%2Fb");
    }

    proptest! {
        #[test]
        fn no_payload_makes_it_panic(payload in prop::collection::vec(any::<u8>(), 0..64), format in 110u16..114) {
            let told = senml_time(Some(format), &payload, NOW);
            prop_assert!(told.is_none_or(|told| told.0 < u64::MAX));
        }
    }
}
