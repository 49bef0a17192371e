//! What a path names.

use eventmesh_edge_coap::{Code, Request, Response};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::topic::{TopicFilter, TopicName};

/// First segment of everything that is a topic.
pub(crate) const TOPICS: &str = "ps";

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// `/.well-known/core`, and `/`, which says the same.
    Core,
    /// `/ps/{topic}`
    Topic(TopicName),
    /// `/ps?topic={filter}`
    Filter(TopicFilter),
    /// `/d/{device}/cmd`
    Mailbox(Text),
}

/// Reads path and query.
///
/// # Errors
/// The response that says what is wrong.
pub(crate) fn target(request: &Request) -> Result<Target, Response> {
    let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
    match path.as_slice() {
        [] | [".well-known", "core"] => Ok(Target::Core),
        [TOPICS] => filter(request),
        [TOPICS, levels @ ..] => topic(levels).map(Target::Topic),
        ["d", device, "cmd"] if !device.is_empty() => Ok(Target::Mailbox(Text::from(*device))),
        _ => Err(Response::error(Code::NOT_FOUND, "see /.well-known/core")),
    }
}

fn topic(levels: &[&str]) -> Result<TopicName, Response> {
    // A level with a slash in it would be another topic with more levels.
    if levels.iter().any(|level| level.contains('/')) {
        return Err(Response::error(Code::BAD_REQUEST, "a topic level has no slash in it"));
    }
    TopicName::parse(Text::from(levels.join("/"))).map_err(|error| bad(&error))
}

fn filter(request: &Request) -> Result<Target, Response> {
    let Some(filter) = fetched(request)?.or(request.argument("topic")) else {
        return Err(Response::error(Code::BAD_REQUEST, "say which topics: /ps?topic=FILTER, or /ps/TOPIC"));
    };
    let filter = TopicFilter::parse(Text::from(filter)).map_err(|error| bad(&error))?;
    if filter.share().is_some() {
        return Err(Response::error(Code::BAD_REQUEST, "shared subscriptions are for MQTT"));
    }
    Ok(Target::Filter(filter))
}

/// What FETCH asks for stands in its payload, as text (RFC 8132 section 2): a filter may be longer than an option.
fn fetched(request: &Request) -> Result<Option<&str>, Response> {
    if request.method != Code::FETCH {
        return Ok(None);
    }
    if request.content_format.is_some_and(|format| format != 0) {
        return Err(Response::error(Code::UNSUPPORTED_CONTENT_FORMAT, "the filter is text/plain (0)"));
    }
    let text = std::str::from_utf8(&request.payload);
    text.map(Some).map_err(|_| Response::error(Code::BAD_REQUEST, "the filter is UTF-8"))
}

fn bad(error: &dyn std::fmt::Display) -> Response {
    Response::error(Code::BAD_REQUEST, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn of(path: &[&str], query: &[&str]) -> Result<Target, Code> {
        let request = Request {
            method: Code::GET,
            path: path.iter().map(|s| (*s).to_owned()).collect(),
            query: query.iter().map(|s| (*s).to_owned()).collect(),
            content_format: None,
            accept: None,
            etags: Vec::new(),
            if_match: Vec::new(),
            if_none_match: false,
            observe: None,
            block1: None,
            block2: None,
            size1: None,
            wants_size2: false,
            request_tags: Vec::new(),
            echo: None,
            no_response: 0,
            payload: Bytes::new(),
        };
        target(&request).map_err(|response| response.code)
    }

    #[test]
    fn paths_name_topics() {
        assert_eq!(of(&[], &[]), Ok(Target::Core));
        assert_eq!(of(&[".well-known", "core"], &["rt=x"]), Ok(Target::Core));
        let name = |text: &'static str| Ok(Target::Topic(TopicName::parse(Text::from_static(text)).unwrap()));
        assert_eq!(of(&["ps", "plant", "7"], &[]), name("plant/7"));
        assert_eq!(of(&["ps", "", "x", ""], &[]), name("/x/"), "empty levels are levels");
        assert_eq!(of(&["ps"], &["topic=a/+/b"]), Ok(Target::Filter(TopicFilter::parse("a/+/b").unwrap())));
    }

    #[test]
    fn what_is_no_topic_is_told_so() {
        assert_eq!(of(&["elsewhere"], &[]), Err(Code::NOT_FOUND));
        assert_eq!(of(&["ps", "a/b"], &[]), Err(Code::BAD_REQUEST));
        assert_eq!(of(&["ps", "+"], &[]), Err(Code::BAD_REQUEST));
        assert_eq!(of(&["ps"], &[]), Err(Code::BAD_REQUEST));
        assert_eq!(of(&["ps"], &["topic=a#"]), Err(Code::BAD_REQUEST));
        assert_eq!(of(&["ps"], &["topic=$share/g/a"]), Err(Code::BAD_REQUEST));
    }
}
