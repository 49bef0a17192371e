//! Attribute names with a meaning on the wire (EventMesh's) or by our convention, and how a foreign attribute keeps clear of them.

use std::borrow::Cow;

/// What EventMesh wants to know, adds, or answers with. An event's own attribute of such a name would be overwritten or, as
/// `statuscode`, taken for an answer.
const WIRE: [&str; 25] = [
    "env",
    "idc",
    "ip",
    "pid",
    "sys",
    "username",
    "passwd",
    "language",
    "protocoltype",
    "protocoldesc",
    "protocolversion",
    "subject",
    "producergroup",
    "uniqueid",
    "ttl",
    "seqnum",
    "datacontenttype",
    "consumergroup",
    "url",
    "clienttype",
    "statuscode",
    "responsemessage",
    "submessagetype",
    "reqmq2eventmeshtimestamp",
    "reqeventmesh2ctimestamp",
];

/// The topic that the device published to: EventMesh's `subject` is its own topic.
pub(crate) const TOPIC: &str = "edgetopic";
/// The event's own `subject`, where it is not the device's topic.
pub(crate) const SUBJECT: &str = "edgesubject";
/// The event's own `datacontenttype`, where EventMesh would not carry the data under it.
pub(crate) const CONTENT_TYPE: &str = "edgecontenttype";
/// `true`: the data is empty, the one byte in its place is none of it.
pub(crate) const EMPTY: &str = "edgeempty";

const OURS: [&str; 4] = [TOPIC, SUBJECT, CONTENT_TYPE, EMPTY];

/// Put in front of a name that has a meaning, taken off again on the way down.
const PREFIX: &str = "edge";

fn has_meaning(name: &str) -> bool {
    WIRE.contains(&name) || OURS.contains(&name)
}

/// The name that an event's own attribute has on the wire.
pub(crate) fn outward(name: &str) -> Cow<'_, str> {
    if has_meaning(name) || renamed(name).is_some() { format!("{PREFIX}{name}").into() } else { name.into() }
}

/// What an attribute that came down is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inward<'a> {
    /// An attribute of the event.
    Own(&'a str),
    /// EventMesh's: not for devices.
    Wire,
    /// Part of our convention.
    Convention,
}

pub(crate) fn inward(name: &str) -> Inward<'_> {
    match renamed(name) {
        Some(original) => Inward::Own(original),
        None if WIRE.contains(&name) => Inward::Wire,
        None if OURS.contains(&name) => Inward::Convention,
        None => Inward::Own(name),
    }
}

/// `edge` in front of a name that has a meaning, once or several times: one less.
fn renamed(name: &str) -> Option<&str> {
    let original = name.strip_prefix(PREFIX)?;
    (has_meaning(original) && !OURS.contains(&name) || renamed(original).is_some()).then_some(original)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn examples() {
        assert_eq!(outward("plant"), "plant");
        assert_eq!(outward("ttl"), "edgettl");
        assert_eq!(outward("edgettl"), "edgeedgettl");
        assert_eq!(outward("edgetopic"), "edgeedgetopic");
        assert_eq!(inward("ttl"), Inward::Wire);
        assert_eq!(inward("edgeempty"), Inward::Convention);
        assert_eq!(inward("edgeqos"), Inward::Own("edgeqos"));
    }

    #[test]
    fn a_subject_is_ours_to_carry() {
        // `edgesubject` is the convention itself, so an own attribute of that name moves one further.
        assert_eq!(inward("edgesubject"), Inward::Convention);
        assert_eq!(outward("edgesubject"), "edgeedgesubject");
        assert_eq!(inward("edgeedgesubject"), Inward::Own("edgesubject"));
    }

    proptest! {
        #[test]
        fn what_goes_out_comes_back_and_never_collides(
            stem in proptest::sample::select(WIRE.iter().chain(&OURS).copied().chain(["a", "edge", "edgeqos"]).collect::<Vec<_>>()),
            edges in 0_usize..4, other in proptest::sample::select(WIRE.to_vec()),
        ) {
            // `subject` and `datacontenttype` have ways of their own.
            prop_assume!(!["subject", "datacontenttype"].contains(&stem) || edges > 1);
            let name = format!("{}{stem}", "edge".repeat(edges));
            let out = outward(&name).into_owned();
            prop_assert_eq!(inward(&out), Inward::Own(name.as_str()));
            prop_assert_ne!(out, other);
        }
    }
}
