//! `source` of events that the node makes, and how an event that comes back is recognised.

use super::attribute::{is_sub_delim, is_unreserved};
use crate::Text;
use crate::event::Properties;
use std::borrow::Cow;

/// User Property, and extension attribute of the binary mode, that names the nodes an event has passed through.
pub const VIA_PROPERTY: &str = "edgevia";

/// No path is longer; a longer list is not extended any more, the names already in it still stop a loop.
const MAX_HOPS: usize = 32;

/// `mqtt://<node>/<device>`: the device is the authenticated identity where there is one.
///
/// Both are percent-encoded where RFC 3986 asks for it, so any two pairs have two sources.
#[must_use]
pub fn mqtt_source(node: &str, device: &str) -> Text {
    source("mqtt", node, device)
}

/// `mqtt://<node>/anonymous/<client id>`: a client that proved nothing, on a node where others do. No device of
/// [`mqtt_source`] has a slash that is not encoded, so nobody's client id makes him a user.
#[must_use]
pub fn anonymous_mqtt_source(node: &str, client_id: &str) -> Text {
    let mut text = String::from(&*source("mqtt", node, "anonymous"));
    text.push('/');
    encode(&mut text, client_id, b":@");
    Text::from(text)
}

/// `coap://<node>/<device>`.
#[must_use]
pub fn coap_source(node: &str, device: &str) -> Text {
    source("coap", node, device)
}

/// The node's name as it stands in sources: percent-encoded where RFC 3986 asks for it.
#[must_use]
pub fn node_authority(node: &str) -> String {
    let mut text = String::with_capacity(node.len());
    encode(&mut text, node, b"");
    text
}

/// A text as one segment of a path, or one level of a topic: percent-encoded where RFC 3986 asks for it, and `+` too, which is
/// a wildcard in MQTT.
#[must_use]
pub fn path_segment(text: &str) -> String {
    let mut segment = String::with_capacity(text.len());
    encode(&mut segment, text, b":@");
    segment.replace('+', "%2B")
}

fn source(scheme: &str, node: &str, device: &str) -> Text {
    let mut text = String::with_capacity(scheme.len() + 4 + node.len() + device.len());
    text.push_str(scheme);
    text.push_str("://");
    encode(&mut text, node, b"");
    text.push('/');
    encode(&mut text, device, b":@");
    Text::from(text)
}

/// Percent-encodes what may not stand in a registered name or, with `also`, in one path segment.
pub(super) fn encode(text: &mut String, part: &str, also: &[u8]) {
    use std::fmt::Write as _;
    for b in part.bytes() {
        if is_unreserved(b) || is_sub_delim(b) || also.contains(&b) {
            text.push(char::from(b));
        } else {
            write!(text, "%{b:02X}").expect("a String takes any text");
        }
    }
}

/// Device part of a source made by [`mqtt_source`] or [`coap_source`], still percent-encoded; the whole source if it is another's.
pub(super) fn device_of(source: &str) -> &str {
    let path = source.strip_prefix("mqtt://").or_else(|| source.strip_prefix("coap://"));
    path.and_then(|p| p.split_once('/')).map_or(source, |(_, device)| device)
}

/// Recognises events that this node has sent, when another way brings them back.
#[derive(Clone, Debug)]
pub struct LoopGuard {
    /// The node's name as it stands in sources and in [`VIA_PROPERTY`].
    name: String,
}

impl LoopGuard {
    /// For the node of that name.
    #[must_use]
    pub fn new(node: &str) -> LoopGuard {
        LoopGuard { name: node_authority(node) }
    }

    /// Whether a source is one that this node gives.
    #[must_use]
    pub fn is_own(&self, source: &str) -> bool {
        if source.strip_prefix("edge://") == Some(&self.name) {
            return true;
        }
        let host = source.strip_prefix("mqtt://").or_else(|| source.strip_prefix("coap://"));
        host.and_then(|h| h.strip_prefix(self.name.as_str())).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Whether a message has passed through this node before.
    #[must_use]
    pub fn has_passed(&self, properties: Option<&Properties>) -> bool {
        via(properties).is_some_and(|v| v.split(' ').any(|hop| hop == self.name))
    }

    /// Value of [`VIA_PROPERTY`] for a message that leaves this node: what it came with, then this node.
    #[must_use]
    pub fn stamp(&self, properties: Option<&Properties>) -> Cow<'_, str> {
        match via(properties) {
            None | Some("") => Cow::Borrowed(&self.name),
            Some(v) if v.split(' ').count() >= MAX_HOPS => Cow::Owned(v.to_owned()),
            Some(v) => Cow::Owned(format!("{v} {}", self.name)),
        }
    }
}

fn via(properties: Option<&Properties>) -> Option<&str> {
    properties?.user.iter().find(|(name, _)| *name == VIA_PROPERTY).map(|(_, value)| &**value)
}

#[cfg(test)]
mod tests {
    use super::super::attribute::is_uri_reference;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_need_no_encoding_stay_as_they_are() {
        assert_eq!(mqtt_source("plant-7", "sensor-12"), "mqtt://plant-7/sensor-12");
        assert_eq!(coap_source("plant-7", "urn:dev:mac:0024"), "coap://plant-7/urn:dev:mac:0024");
        assert_eq!(mqtt_source("werk süd", "a/b c"), "mqtt://werk%20s%C3%BCd/a%2Fb%20c");
        assert_eq!(device_of("mqtt://plant-7/sensor-12"), "sensor-12");
        assert_eq!(device_of("/other/source"), "/other/source");
    }

    proptest! {
        #[test]
        fn every_source_is_a_uri_reference_and_its_own(node in "\\PC{1,12}", device in "\\PC{0,12}", other in "\\PC{1,12}") {
            let source = mqtt_source(&node, &device);
            prop_assert!(is_uri_reference(&source), "{}", source);
            prop_assert!(LoopGuard::new(&node).is_own(&source));
            prop_assert_eq!(LoopGuard::new(&other).is_own(&source), other == node);
        }

        #[test]
        fn two_devices_have_two_sources(a in "[a-z%/ é]{0,4}", b in "[a-z%/ é]{0,4}") {
            prop_assert_eq!(mqtt_source("n", &a) == mqtt_source("n", &b), a == b);
        }
    }

    #[test]
    fn the_nodes_own_events_are_its_own() {
        let guard = LoopGuard::new("plant-7");
        assert!(guard.is_own("edge://plant-7"));
        assert!(!guard.is_own("edge://plant-70") && !guard.is_own("edge://plant-7/x"));
    }

    #[test]
    fn a_message_that_passed_is_known_whatever_came_after() {
        let (a, b) = (LoopGuard::new("a"), LoopGuard::new("b c"));
        let with = |value: &str| Properties {
            user: vec![(Text::from_static(VIA_PROPERTY), Text::from(value.to_owned()))],
            ..Properties::default()
        };
        assert_eq!(a.stamp(None), "a");
        assert_eq!(b.stamp(Some(&with("a"))), "a b%20c");
        assert!(a.has_passed(Some(&with("a b%20c"))) && b.has_passed(Some(&with("a b%20c"))));
        assert!(!a.has_passed(Some(&with("aa b"))) && !a.has_passed(None));
    }

    #[test]
    fn the_list_of_hops_is_bounded() {
        let mut properties = Properties::default();
        for hop in 0..100 {
            let stamped = LoopGuard::new(&format!("n{hop}")).stamp(Some(&properties)).into_owned();
            properties.user = vec![(Text::from_static(VIA_PROPERTY), Text::from(stamped))];
        }
        assert_eq!(via(Some(&properties)).unwrap().split(' ').count(), MAX_HOPS);
        assert!(LoopGuard::new("n3").has_passed(Some(&properties)));
    }
}
