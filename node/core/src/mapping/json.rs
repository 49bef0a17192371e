//! JSON event format (CloudEvents 1.0.2, `formats/json-format.md`), both ways.
//!
//! Out, the official SDK writes the attributes. The event's data does not pass through it: a JSON tree would round integers
//! beyond 64 bits and lose the order of members, so a JSON payload is placed into the text as the bytes that were received,
//! after a strict check. In, the same bytes are taken out again.

use super::attribute::{is_media_type, is_name, is_text, is_uri, is_uri_reference};
use super::cloudevent::{CloudEvent, MAX_ATTRIBUTES};
use super::time::parse_rfc3339;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Content Type of an event in the JSON format (MQTT binding section 3.2.1).
pub const JSON_FORMAT: &str = "application/cloudevents+json; charset=utf-8";

/// Whether these bytes are one JSON text that every parser takes: UTF-8, numbers within `f64`, no lone surrogates, at most 127
/// levels deep. Builds nothing.
pub(super) fn is_json(bytes: &[u8]) -> bool {
    let starts_like_one = bytes
        .iter()
        .find(|b| !b.is_ascii_whitespace())
        .is_some_and(|b| matches!(b, b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n'));
    starts_like_one && serde_json::from_slice::<Checked>(bytes).is_ok()
}

/// Any JSON value, looked at and forgotten. Unlike `IgnoredAny` it makes the parser read numbers and string escapes.
struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Checked, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Checked;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_bool<E>(self, _: bool) -> Result<Checked, E> {
                Ok(Checked)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Checked, E> {
                Ok(Checked)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Checked, E> {
                Ok(Checked)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Checked, E> {
                Ok(Checked)
            }
            fn visit_str<E>(self, _: &str) -> Result<Checked, E> {
                Ok(Checked)
            }
            fn visit_unit<E>(self) -> Result<Checked, E> {
                Ok(Checked)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Checked, A::Error> {
                while seq.next_element::<Checked>()?.is_some() {}
                Ok(Checked)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Checked, A::Error> {
                while map.next_entry::<Checked, Checked>()?.is_some() {}
                Ok(Checked)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// `application/json`, `text/json` and everything `+json`, whatever its parameters (JSON format section 3.1).
pub(super) fn is_json_type(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.ends_with("/json") || essence.ends_with("+json")
}

/// A media type whose data is text as it stands.
fn is_text_type(content_type: &str) -> bool {
    let lower = content_type.trim_start().to_ascii_lowercase();
    lower.starts_with("text/") || lower.ends_with("+xml") || lower.starts_with("application/xml")
}

/// An event in the JSON format, taken apart. Text without escapes is borrowed.
#[derive(Debug)]
pub(super) struct Structured<'a> {
    /// Attributes in the order found, as canonical strings; without those that are `null` and those that are none.
    pub(super) attributes: Vec<(&'a str, Cow<'a, str>)>,
    /// Names of the attributes that are `null`: as good as absent, but their member stands in the text.
    pub(super) nulls: Vec<&'a str>,
    /// `data`, as text.
    pub(super) data: Option<&'a RawValue>,
    /// `data_base64`, decoded.
    pub(super) data_base64: Option<Vec<u8>>,
}

impl<'a> Structured<'a> {
    /// Takes a payload apart. `None` if it is no valid CloudEvent in the JSON format.
    pub(super) fn parse(payload: &'a [u8]) -> Option<Structured<'a>> {
        let event: Structured<'a> = serde_json::from_slice(payload).ok()?;
        let data_ok = event.data.is_none_or(|d| is_json(d.get().as_bytes()));
        (event.is_valid() && data_ok).then_some(event)
    }

    /// An attribute's value.
    pub(super) fn get(&self, name: &str) -> Option<&Cow<'a, str>> {
        self.attributes.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    fn is_valid(&self) -> bool {
        // Every attribute, or one that is left out for its value would be added again by the node beside the text it is in.
        self.attributes.iter().all(|(_, value)| is_text(value))
            && is_valid_event(|name: &str| self.get(name).map(|v| &**v))
            && !(self.data.is_some() && self.data_base64.is_some())
    }

    /// The data as bytes, as a binding in binary mode carries it: a slice of `payload` where it stands there.
    pub(super) fn into_data(self, payload: &Bytes, content_type: Option<&str>) -> Bytes {
        if let Some(bytes) = self.data_base64 {
            return Bytes::from(bytes);
        }
        let Some(data) = self.data else { return Bytes::new() };
        if !content_type.is_none_or(is_json_type)
            && let Ok(text) = serde_json::from_str::<String>(data.get())
        {
            return Bytes::from(text);
        }
        payload.slice_ref(data.get().as_bytes())
    }
}

/// The rules of CloudEvents 1.0.2 section 3 for the attributes that have one.
pub(super) fn is_valid_event<'v>(get: impl Fn(&str) -> Option<&'v str>) -> bool {
    let text = |name, max: usize| get(name).is_some_and(|v| !v.is_empty() && v.len() <= max && is_text(v));
    get("specversion") == Some("1.0")
        && text("id", super::native::MAX_ID_BYTES)
        && text("type", super::native::MAX_SOURCE_BYTES)
        && text("source", super::native::MAX_SOURCE_BYTES)
        && get("source").is_some_and(is_uri_reference)
        && get("time").is_none_or(|t| parse_rfc3339(t).is_some())
        && get("dataschema").is_none_or(is_uri)
        && get("datacontenttype").is_none_or(is_media_type)
        && get("subject").is_none_or(|s| !s.is_empty() && is_text(s))
}

impl<'de: 'a, 'a> Deserialize<'de> for Structured<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Structured<'a>, D::Error> {
        deserializer.deserialize_map(Members(std::marker::PhantomData))
    }
}

struct Members<'a>(std::marker::PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for Members<'a> {
    type Value = Structured<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a CloudEvent in the JSON format")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Structured<'a>, A::Error> {
        let mut event = Structured {
            attributes: Vec::with_capacity(12),
            nulls: Vec::new(),
            data: None,
            data_base64: None,
        };
        // A name with escapes does not borrow and is refused: no sender writes one, and it could hide a second `id`.
        while let Some(name) = map.next_key::<&'de str>()? {
            match name {
                "data" => {
                    let value = map.next_value::<Option<&'de RawValue>>()?;
                    set_once(&mut event.data, value).map_err(A::Error::custom)?;
                }
                "data_base64" => {
                    let text = map.next_value::<Option<Cow<'de, str>>>()?;
                    let bytes = text.map(|t| STANDARD.decode(&*t)).transpose().map_err(A::Error::custom)?;
                    set_once(&mut event.data_base64, bytes).map_err(A::Error::custom)?;
                }
                _ => {
                    let Scalar(value) = map.next_value()?;
                    event.add(name, value).map_err(A::Error::custom)?;
                }
            }
        }
        Ok(event)
    }
}

fn set_once<T>(slot: &mut Option<T>, value: Option<T>) -> Result<(), &'static str> {
    if value.is_some() && slot.is_some() {
        return Err("data appears twice");
    }
    if value.is_some() {
        *slot = value;
    }
    Ok(())
}

impl<'a> Structured<'a> {
    fn add(&mut self, name: &'a str, value: Option<Cow<'a, str>>) -> Result<(), &'static str> {
        if !is_name(name) {
            // No attribute; the member stays in the text.
            return Ok(());
        }
        if self.get(name).is_some() || self.nulls.contains(&name) {
            return Err("an attribute appears twice");
        }
        if self.attributes.len() + self.nulls.len() >= MAX_ATTRIBUTES {
            return Err("too many attributes");
        }
        match value {
            Some(value) => self.attributes.push((name, value)),
            None => self.nulls.push(name),
        }
        Ok(())
    }
}

/// Value of an attribute: String, Integer and Boolean in their canonical form, `null` as `None` (JSON format section 2.2).
struct Scalar<'a>(Option<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar<'a>, D::Error> {
        struct Any<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Any<'a> {
            type Value = Scalar<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, an integer, a boolean or null")
            }
            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Scalar<'a>, E> {
                Ok(Scalar(Some(Cow::Borrowed(v))))
            }
            fn visit_str<E>(self, v: &str) -> Result<Scalar<'a>, E> {
                Ok(Scalar(Some(Cow::Owned(v.to_owned()))))
            }
            fn visit_bool<E>(self, v: bool) -> Result<Scalar<'a>, E> {
                Ok(Scalar(Some(Cow::Borrowed(if v { "true" } else { "false" }))))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Scalar<'a>, E> {
                Ok(Scalar(Some(Cow::Owned(v.to_string()))))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Scalar<'a>, E> {
                Ok(Scalar(Some(Cow::Owned(v.to_string()))))
            }
            fn visit_unit<E>(self) -> Result<Scalar<'a>, E> {
                Ok(Scalar(None))
            }
        }
        deserializer.deserialize_any(Any(std::marker::PhantomData))
    }
}

/// Writes an event in the JSON format.
///
/// `data` is a JSON value if the content type is JSON and the bytes are strict JSON, a string if they are text of a text type, else
/// `data_base64` (JSON format section 3.1). An event that came in this format leaves as the text it came as, with the attributes
/// that the node adds in front.
#[must_use]
pub fn to_structured_json(event: &CloudEvent<'_>) -> Vec<u8> {
    if let Some(text) = event.received_json() {
        return splice(text, event.added());
    }
    let mut sdk = sdk_event(event);
    let raw = set_data(&mut sdk, event);
    let mut out = Vec::with_capacity(512 + event.data.len() * 4 / 3);
    serde_json::to_writer(&mut out, &sdk).expect("text and maps of text always serialise into a Vec");
    if let Some(raw) = raw {
        insert_data(&mut out, raw);
    }
    out
}

/// All attributes. By the builder: the SDK's `Event::default` draws a random id and reads the clock.
fn sdk_event(event: &CloudEvent<'_>) -> cloudevents::Event {
    use cloudevents::{AttributesWriter as _, EventBuilder as _};
    let required = |name| event.get(name).filter(|v| !v.is_empty()).unwrap_or("/");
    let mut sdk = cloudevents::EventBuilderV10::new()
        .id(required("id"))
        .source(required("source"))
        .ty(required("type"))
        .build()
        .expect("the required attributes are set and not empty");
    sdk.set_datacontenttype(event.content_type.as_deref());
    for (name, value) in &event.attributes {
        if !matches!(*name, "id" | "source" | "type" | "specversion") {
            // `time` and `dataschema` too: as attributes the SDK would parse and normalise them, and they pass as they came.
            sdk.set_extension(name, value.as_ref());
        }
    }
    sdk
}

/// Gives the SDK the data it can carry exactly; returns what is to be put into the text as it is.
fn set_data<'e>(sdk: &mut cloudevents::Event, event: &'e CloudEvent<'_>) -> Option<&'e [u8]> {
    use cloudevents::Data;
    if event.data.is_empty() {
        return None;
    }
    let kind = event.content_type.as_deref().unwrap_or("application/octet-stream");
    if is_json_type(kind) {
        if is_json(&event.data) {
            return Some(&event.data);
        }
    } else if is_text_type(kind)
        && let Ok(text) = std::str::from_utf8(&event.data)
    {
        sdk.set_data_unchecked(Data::String(text.to_owned()));
        return None;
    }
    sdk.set_data_unchecked(Data::Binary(event.data.to_vec()));
    None
}

/// `{...}` → `{...,"data":raw}`.
fn insert_data(out: &mut Vec<u8>, raw: &[u8]) {
    let closing = out.pop();
    debug_assert_eq!(closing, Some(b'}'));
    out.extend_from_slice(b",\"data\":");
    out.extend_from_slice(raw);
    out.push(b'}');
}

/// `{rest` → `{"name":"value",rest`: nothing of the rest is read or changed.
fn splice(text: &[u8], added: &[(&str, Cow<'_, str>)]) -> Vec<u8> {
    let at = text.iter().position(|b| *b == b'{').map_or(0, |p| p + 1);
    let (head, rest) = text.split_at(at);
    let mut out = Vec::with_capacity(text.len() + added.len() * 48);
    out.extend_from_slice(head);
    for (name, value) in added {
        // Names and values are the node's own: letters, digits, `-`, `:`, `.`; nothing to escape.
        for part in ["\"", name, "\":\"", value, "\","] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    out.extend_from_slice(rest);
    out
}
