//! MQTT PUBLISH, CoAP request, SDK frame and CloudEvent: how one becomes the other, as pure functions.
//!
//! ```text
//! in    admit            PUBLISH → Event: identity and time are fixed, the bytes stay as received (P3)
//!       event_from_coap  CoAP request → Event, likewise
//! up    to_cloudevent    StoredEvent → CloudEvent: everything else is decided here, so a bad rule loses nothing
//!       to_mqtt5_binary, to_mqtt5_structured, to_structured_json
//! down  from_mqtt5       PUBLISH → payload and properties for devices, identity for deduplication
//! ```
//!
//! # What counts as a CloudEvent on the way in
//! (CloudEvents MQTT binding 1.0, section 3)
//!
//! - *structured*, MQTT 5: Content Type starts with `application/cloudevents` and names the JSON format
//! - *structured*, MQTT 3: the payload starts with `{`, has at most [`SNIFF_MAX_BYTES`], names `"specversion"` within its first
//!   [`SNIFF_HEAD_BYTES`], and is a valid event; most telemetry is refused by the first two or three of these
//! - *binary*, MQTT 5: `specversion` = `1.0`, `id`, `source` and `type` are all among the User Properties
//! - an *SDK frame* ([`eventmesh_edge_wire::CONTENT_TYPE`]): not a CloudEvent, but its boot id and counter become the `id`
//!
//! What claims to be a CloudEvent and breaks the specification (an empty `id`, a `source` that is no URI reference, a `time` that
//! is no RFC 3339) is a plain message: it is kept and forwarded all the same, under the node's `source`.
//!
//! # What becomes of the User Properties of a plain message
//! `id` is taken as the event's id, `time` as its time if it is plausible, `traceparent` and `tracestate` are carried if they are
//! valid (W3C Trace Context). Any other is carried as an extension of the same name if the name is one (1 to 20 characters of `a-z0-9`),
//! is neither an attribute of CloudEvents nor one that the node sets itself, appears for the first time, and its value is
//! CloudEvents text that is not empty. The rest stays on disk as received and does not leave.

mod admit;
mod attribute;
mod cloudevent;
mod coap;
mod json;
mod mqtt;
mod native;
mod source;
mod time;

pub use admit::{Admission, admit};
pub use cloudevent::{CloudEvent, default_kind, to_cloudevent};
pub use coap::{
    CoapPublication, FORMAT_PROPERTY, MergeError, anonymous_coap_source, etag_of, event_from_coap, format_of,
    format_of_event, media_type_of, merge_patch, senml_time,
};
pub use json::{JSON_FORMAT, to_structured_json};
pub use mqtt::{Mqtt5Message, Unwrapped, from_mqtt5, to_mqtt5_binary, to_mqtt5_structured};
pub use native::{SNIFF_HEAD_BYTES, SNIFF_MAX_BYTES};
pub use source::{
    LoopGuard, VIA_PROPERTY, anonymous_mqtt_source, coap_source, mqtt_source, node_authority, path_segment,
};
pub use time::{format_rfc3339, parse_rfc3339};

#[cfg(test)]
mod tests;
