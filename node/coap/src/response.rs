//! What is answered: a code, options, a payload. Message type, id and token are the endpoint's.

use crate::code::Code;
use crate::message::Options;
use crate::option;
use bytes::Bytes;

/// A response, or the content of a notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Code.
    pub code: Code,
    /// Options.
    pub options: Options,
    /// Body, whole: the endpoint cuts it into blocks.
    pub payload: Bytes,
}

impl Response {
    /// A response without payload.
    #[must_use]
    pub fn new(code: Code) -> Response {
        Response { code, options: Options::default(), payload: Bytes::new() }
    }

    /// An error with a diagnostic payload (RFC 7252 section 5.5.2): a sentence for a human.
    #[must_use]
    pub fn error(code: Code, diagnostic: impl Into<String>) -> Response {
        Response { code, options: Options::default(), payload: Bytes::from(diagnostic.into()) }
    }

    /// With a `uint` option.
    #[must_use]
    pub fn with_uint(mut self, number: option::Number, value: u32) -> Response {
        self.options.add_uint(number, value);
        self
    }

    /// With an option.
    #[must_use]
    pub fn with(mut self, number: option::Number, value: impl Into<Vec<u8>>) -> Response {
        self.options.add(number, value);
        self
    }

    /// With a payload.
    #[must_use]
    pub fn with_payload(mut self, payload: impl Into<Bytes>) -> Response {
        self.payload = payload.into();
        self
    }
}
