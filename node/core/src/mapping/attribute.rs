//! Names and values of CloudEvents attributes (CloudEvents 1.0.2 section 3).

/// Attributes that the specification defines; a plain message does not set them by User Property.
const DEFINED: [&str; 10] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
    "data",
    "database64",
];

/// Attributes that the node sets; a plain message does not set them either.
const OURS: [&str; 12] = [
    "sequence",
    "edgeseq",
    "recordedtime",
    "partitionkey",
    "expirytime",
    "traceparent",
    "tracestate",
    "correlationid",
    "responsetopic",
    "edgeqos",
    "edgeretain",
    super::source::VIA_PROPERTY,
];

/// Lower-case letters and digits (section 3, naming convention). The length is only a SHOULD there.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// Whether a User Property of a plain message may become an extension of that name.
pub(super) fn is_free_extension_name(name: &str) -> bool {
    name.len() <= 20 && is_name(name) && !DEFINED.contains(&name) && !OURS.contains(&name)
}

/// CloudEvents String (section 3.1): no control characters, no noncharacters.
pub(super) fn is_text(value: &str) -> bool {
    value.bytes().all(|b| matches!(b, 0x20..=0x7e)) || value.chars().all(is_text_char)
}

fn is_text_char(c: char) -> bool {
    let noncharacter = matches!(u32::from(c), 0xfdd0..=0xfdef) || u32::from(c) & 0xfffe == 0xfffe;
    !c.is_control() && !noncharacter
}

/// `text` with every character that a CloudEvents String must not have replaced by U+FFFD.
pub(super) fn to_text(text: &str) -> std::borrow::Cow<'_, str> {
    if is_text(text) {
        return text.into();
    }
    text.chars()
        .map(|c| if is_text_char(c) { c } else { char::REPLACEMENT_CHARACTER })
        .collect::<String>()
        .into()
}

/// W3C Trace Context, section 3.2.2: `version-traceid-parentid-flags`, lower-case hexadecimal, ids not all zero. Later versions may
/// append fields.
pub(super) fn is_traceparent(value: &str) -> bool {
    let mut parts = value.split('-');
    let mut hex = |len: usize| {
        parts.next().filter(|p| p.len() == len && p.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
    };
    let (Some(version), Some(trace), Some(parent), Some(_flags)) = (hex(2), hex(32), hex(16), hex(2)) else {
        return false;
    };
    let zero = |id: &str| id.bytes().all(|b| b == b'0');
    version != "ff"
        && !zero(trace)
        && !zero(parent)
        && (version != "00" || parts.next().is_none())
        && is_text(value)
}

/// W3C Trace Context, section 3.3.1: opaque to us but for its alphabet and the length that everybody must carry.
pub(super) fn is_tracestate(value: &str) -> bool {
    (1..=512).contains(&value.len()) && value.bytes().all(|b| matches!(b, 0x20..=0x7e))
}

/// RFC 2046 media type as far as a gateway can tell: `type/subtype`, then anything that is text.
pub(super) fn is_media_type(value: &str) -> bool {
    let token = |t: &str| {
        !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b))
    };
    let essence = value.split(';').next().unwrap_or_default().trim_end();
    essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype)) && is_text(value)
}

/// RFC 3986 URI-reference: what `source` must be.
pub(super) fn is_uri_reference(text: &str) -> bool {
    !text.is_empty() && split_scheme(text).is_some_and(|(_, rest)| is_hierarchical(rest))
}

/// RFC 3986 URI with a scheme: what `dataschema` must be.
pub(super) fn is_uri(text: &str) -> bool {
    split_scheme(text).is_some_and(|(scheme, rest)| scheme.is_some() && is_hierarchical(rest))
}

/// Section 3.1 and 4.2: a colon before the first `/`, `?` or `#` ends a scheme.
fn split_scheme(text: &str) -> Option<(Option<&str>, &str)> {
    match text.find([':', '/', '?', '#']) {
        Some(at) if text.as_bytes().get(at) == Some(&b':') => {
            let (scheme, rest) = (text.get(..at)?, text.get(at + 1..)?);
            let valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
            valid.then_some((Some(scheme), rest))
        }
        _ => Some((None, text)),
    }
}

/// What follows the scheme: `[//authority] path [?query] [#fragment]`.
fn is_hierarchical(rest: &str) -> bool {
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match rest.strip_prefix("//") {
        None => (None, rest),
        Some(rest) => {
            let at = rest.find('/').unwrap_or(rest.len());
            (rest.get(..at), rest.get(at..).unwrap_or_default())
        }
    };
    authority.is_none_or(is_authority)
        && is_encoded(path, b":@/")
        && is_encoded(query, b":@/?")
        && is_encoded(fragment, b":@/?")
}

/// Section 3.2: `[userinfo@] host [:port]`.
fn is_authority(authority: &str) -> bool {
    let (user, host) = authority.split_once('@').unwrap_or(("", authority));
    let (name_ok, port) = match host.strip_prefix('[') {
        Some(host) => match host.split_once(']') {
            Some((address, port)) => (address.parse::<std::net::Ipv6Addr>().is_ok(), port),
            None => return false,
        },
        None => {
            let at = host.find(':').unwrap_or(host.len());
            (is_encoded(host.get(..at).unwrap_or_default(), b""), host.get(at..).unwrap_or_default())
        }
    };
    let port_ok =
        port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    name_ok && port_ok && is_encoded(user, b":")
}

/// Unreserved characters, sub-delims, `also`, and whole percent-encodings (section 2).
fn is_encoded(text: &str, also: &[u8]) -> bool {
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        let ok = match b {
            b'%' => [bytes.next(), bytes.next()].iter().all(|h| h.is_some_and(|h| h.is_ascii_hexdigit())),
            _ => is_unreserved(b) || is_sub_delim(b) || also.contains(&b),
        };
        if !ok {
            return false;
        }
    }
    true
}

pub(super) fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~".contains(&b)
}

pub(super) fn is_sub_delim(b: u8) -> bool {
    b"!$&'()*+,;=".contains(&b)
}
