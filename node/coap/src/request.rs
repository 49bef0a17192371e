//! A request with its options checked (RFC 7252 section 5.4).

use crate::code::Code;
use crate::message::{Message, Options};
use crate::option::{self, Block, Number};
use crate::response::Response;
use bytes::Bytes;

/// A request, after the endpoint has dealt with the options that are its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Method.
    pub method: Code,
    /// Uri-Path, segment by segment.
    pub path: Vec<String>,
    /// Uri-Query, argument by argument.
    pub query: Vec<String>,
    /// Content-Format of the payload.
    pub content_format: Option<u16>,
    /// Accept.
    pub accept: Option<u16>,
    /// ETags of what the client has (section 5.10.6.2).
    pub etags: Vec<Vec<u8>>,
    /// If-Match (section 5.10.8.1); an empty value asks for existence only.
    pub if_match: Vec<Vec<u8>>,
    /// If-None-Match (section 5.10.8.2).
    pub if_none_match: bool,
    /// Observe: 0 registers, 1 cancels (RFC 7641 section 2).
    pub observe: Option<u32>,
    /// Block1.
    pub block1: Option<Block>,
    /// Block2.
    pub block2: Option<Block>,
    /// Size1.
    pub size1: Option<u32>,
    /// The client asks for the size of the body (RFC 7959 section 4).
    pub wants_size2: bool,
    /// Request-Tags (RFC 9175 section 3.2), which tell bodies apart.
    pub request_tags: Vec<Vec<u8>>,
    /// Echo (RFC 9175 section 2.2).
    pub echo: Option<Vec<u8>>,
    /// No-Response (RFC 7967 section 2): classes of responses that the client does not want.
    pub no_response: u32,
    /// Payload, whole.
    pub payload: Bytes,
}

impl Request {
    /// Reads the options.
    ///
    /// # Errors
    /// The response to give instead: 4.02 for a critical option that is unknown, repeated or out of its bounds
    /// (sections 5.4.1, 5.4.3, 5.4.5), 5.05 for a proxy's work (section 5.10.2), 4.00 for text that is not UTF-8 and
    /// for a reserved block size.
    pub fn parse(message: Message) -> Result<Request, Response> {
        check(&message.options)?;
        let options = &message.options;
        let u16_of = |number| options.uint(number).and_then(|value| u16::try_from(value).ok());
        Ok(Request {
            method: message.code,
            path: path(options)?,
            query: texts(options, option::URI_QUERY)?,
            content_format: u16_of(option::CONTENT_FORMAT),
            accept: u16_of(option::ACCEPT),
            etags: values(options, option::ETAG),
            if_match: values(options, option::IF_MATCH),
            if_none_match: options.first(option::IF_NONE_MATCH).is_some(),
            observe: options.uint(option::OBSERVE),
            block1: block(options, option::BLOCK1)?,
            block2: block(options, option::BLOCK2)?,
            size1: options.uint(option::SIZE1),
            wants_size2: options.first(option::SIZE2).is_some(),
            request_tags: values(options, option::REQUEST_TAG),
            echo: options.first(option::ECHO).map(<[u8]>::to_vec),
            no_response: options.uint(option::NO_RESPONSE).unwrap_or(0),
            payload: message.payload,
        })
    }

    /// The value of `name=value` in the query, or "" for a bare `name`; the first one counts.
    #[must_use]
    pub fn argument(&self, name: &str) -> Option<&str> {
        self.query.iter().find_map(|argument| match argument.split_once('=') {
            Some((key, value)) => (key == name).then_some(value),
            None => (argument == name).then_some(""),
        })
    }

    /// Whether the client wants no response of this class (RFC 7967 section 2.1).
    #[must_use]
    pub fn suppresses(no_response: u32, code: Code) -> bool {
        let bit = match code.class() {
            class @ (2 | 4 | 5) => 1 << (class - 1),
            _ => 0,
        };
        no_response & bit != 0
    }
}

/// Section 5.4: what an endpoint must know, how often it may be there and how long it is. An elective option that breaks
/// a rule counts as unknown, which is: not there.
fn check(options: &Options) -> Result<(), Response> {
    if options.first(option::PROXY_URI).or(options.first(option::PROXY_SCHEME)).is_some() {
        let why = "this is no proxy: leave Proxy-Uri and Proxy-Scheme out";
        return Err(Response::error(Code::PROXYING_NOT_SUPPORTED, why));
    }
    let mut previous = None;
    for (number, value) in options.iter() {
        let shape = number.shape();
        let fits = shape.is_some_and(|shape| {
            let again = previous == Some(number) && !shape.repeatable;
            !again && (shape.min..=shape.max).contains(&value.len())
        });
        if !fits && number.is_critical() {
            return Err(bad_option(number));
        }
        previous = Some(number);
    }
    Ok(())
}

fn bad_option(number: Number) -> Response {
    Response::error(Code::BAD_OPTION, format!("option {} is unknown, repeated or too long", number.0))
}

fn texts(options: &Options, number: Number) -> Result<Vec<String>, Response> {
    let text = |value: &[u8]| {
        let text = std::str::from_utf8(value).map(str::to_owned);
        text.map_err(|_| Response::error(Code::BAD_REQUEST, "Uri-Path and Uri-Query are UTF-8"))
    };
    options.all(number).map(text).collect()
}

/// `coap://host/` and `coap://host` are the same: no segment or one empty segment (section 6.4).
fn path(options: &Options) -> Result<Vec<String>, Response> {
    let mut path = texts(options, option::URI_PATH)?;
    if path.len() == 1 && path.first().is_some_and(String::is_empty) {
        path.clear();
    }
    Ok(path)
}

/// Values of an elective option count if they are as long as they should be.
fn values(options: &Options, number: Number) -> Vec<Vec<u8>> {
    let fits =
        |value: &&[u8]| number.shape().is_some_and(|shape| (shape.min..=shape.max).contains(&value.len()));
    options.all(number).filter(fits).map(<[u8]>::to_vec).collect()
}

fn block(options: &Options, number: Number) -> Result<Option<Block>, Response> {
    let Some(value) = options.first(number) else { return Ok(None) };
    match Block::decode(value) {
        Some(block) => Ok(Some(block)),
        None => Err(Response::error(Code::BAD_REQUEST, "size exponent 7 of a block is reserved")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Kind, Token};

    fn request(options: &[(Number, &[u8])]) -> Result<Request, Response> {
        let mut message = Message {
            kind: Kind::Con,
            code: Code::GET,
            id: 1,
            token: Token::default(),
            options: Options::default(),
            payload: Bytes::new(),
        };
        for (number, value) in options {
            message.options.add(*number, *value);
        }
        Request::parse(message)
    }

    fn refused(options: &[(Number, &[u8])]) -> Code {
        request(options).unwrap_err().code
    }

    #[test]
    fn an_unknown_critical_option_is_refused_and_an_elective_one_is_ignored() {
        assert_eq!(refused(&[(Number(9), b"x")]), Code::BAD_OPTION, "OSCORE is not spoken here");
        assert_eq!(refused(&[(Number(65_001), b"")]), Code::BAD_OPTION);
        assert!(request(&[(Number(65_000), b"x")]).is_ok());
        assert!(request(&[(Number(2), &[0; 1000])]).is_ok());
    }

    #[test]
    fn an_option_that_is_repeated_or_too_long_counts_as_unknown() {
        assert_eq!(refused(&[(option::ACCEPT, &[0]), (option::ACCEPT, &[50])]), Code::BAD_OPTION);
        assert_eq!(refused(&[(option::URI_HOST, b"")]), Code::BAD_OPTION);
        assert_eq!(refused(&[(option::URI_PATH, &[b'a'; 256])]), Code::BAD_OPTION);
        assert_eq!(refused(&[(option::IF_NONE_MATCH, b"x")]), Code::BAD_OPTION);
        let long = request(&[(option::ETAG, &[1; 9]), (option::ETAG, &[2; 8])]).unwrap();
        assert_eq!(long.etags, [vec![2; 8]]);
    }

    #[test]
    fn a_proxy_s_work_is_refused() {
        assert_eq!(refused(&[(option::PROXY_URI, b"coap://x/")]), Code::PROXYING_NOT_SUPPORTED);
        assert_eq!(refused(&[(option::PROXY_SCHEME, b"http")]), Code::PROXYING_NOT_SUPPORTED);
    }

    #[test]
    fn paths_and_queries() {
        let parts: &[(Number, &[u8])] = &[
            (option::URI_HOST, b"edge.example"),
            (option::URI_PORT, &[0x16, 0x33]),
            (option::URI_PATH, b"ps"),
            (option::URI_PATH, "\u{e9}/t".as_bytes()),
            (option::URI_QUERY, b"topic=a/+/b=c"),
            (option::URI_QUERY, b"flag"),
        ];
        let request = request(parts).unwrap();
        assert_eq!(request.path, ["ps", "\u{e9}/t"]);
        assert_eq!(request.argument("topic"), Some("a/+/b=c"));
        assert_eq!(request.argument("flag"), Some(""));
        assert_eq!(request.argument("fla"), None);
    }

    #[test]
    fn text_that_is_not_utf8_and_reserved_blocks_are_bad_requests() {
        assert_eq!(refused(&[(option::URI_PATH, b"\xff")]), Code::BAD_REQUEST);
        assert_eq!(refused(&[(option::BLOCK2, &[7])]), Code::BAD_REQUEST);
    }

    #[test]
    fn no_response_as_in_table_2_of_the_standard() {
        assert!(!Request::suppresses(0, Code::CHANGED));
        assert!(Request::suppresses(2, Code::CHANGED) && !Request::suppresses(2, Code::NOT_FOUND));
        assert!(
            Request::suppresses(8, Code::NOT_FOUND) && Request::suppresses(16, Code::SERVICE_UNAVAILABLE)
        );
        assert!(Request::suppresses(26, Code::CONTENT));
    }
}
