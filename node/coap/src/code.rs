//! Method and response codes (RFC 7252 sections 5.8 and 5.9, RFC 7959, RFC 8132, RFC 8516).

use std::fmt;

/// A code: three bits of class, five of detail.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u8);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $class:literal . $detail:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Code = Code($class << 5 | $detail);)*
        }
    };
}

codes! {
    /// No request and no response: ping, acknowledgement or reset.
    EMPTY = 0 . 0;
    /// GET.
    GET = 0 . 1;
    /// POST.
    POST = 0 . 2;
    /// PUT.
    PUT = 0 . 3;
    /// DELETE.
    DELETE = 0 . 4;
    /// FETCH (RFC 8132).
    FETCH = 0 . 5;
    /// PATCH (RFC 8132).
    PATCH = 0 . 6;
    /// iPATCH (RFC 8132).
    IPATCH = 0 . 7;
    /// 2.01
    CREATED = 2 . 1;
    /// 2.02
    DELETED = 2 . 2;
    /// 2.03
    VALID = 2 . 3;
    /// 2.04
    CHANGED = 2 . 4;
    /// 2.05
    CONTENT = 2 . 5;
    /// 2.31 (RFC 7959 section 2.9.1)
    CONTINUE = 2 . 31;
    /// 4.00
    BAD_REQUEST = 4 . 0;
    /// 4.01
    UNAUTHORIZED = 4 . 1;
    /// 4.02
    BAD_OPTION = 4 . 2;
    /// 4.03
    FORBIDDEN = 4 . 3;
    /// 4.04
    NOT_FOUND = 4 . 4;
    /// 4.05
    METHOD_NOT_ALLOWED = 4 . 5;
    /// 4.06
    NOT_ACCEPTABLE = 4 . 6;
    /// 4.08 (RFC 7959 section 2.9.2)
    REQUEST_ENTITY_INCOMPLETE = 4 . 8;
    /// 4.09 (RFC 8132 section 4.6)
    CONFLICT = 4 . 9;
    /// 4.12
    PRECONDITION_FAILED = 4 . 12;
    /// 4.13
    REQUEST_ENTITY_TOO_LARGE = 4 . 13;
    /// 4.15
    UNSUPPORTED_CONTENT_FORMAT = 4 . 15;
    /// 4.22 (RFC 8132 section 4.3)
    UNPROCESSABLE_ENTITY = 4 . 22;
    /// 4.29 (RFC 8516)
    TOO_MANY_REQUESTS = 4 . 29;
    /// 5.00
    INTERNAL_SERVER_ERROR = 5 . 0;
    /// 5.01
    NOT_IMPLEMENTED = 5 . 1;
    /// 5.03
    SERVICE_UNAVAILABLE = 5 . 3;
    /// 5.05
    PROXYING_NOT_SUPPORTED = 5 . 5;
}

impl Code {
    /// The digit before the point.
    #[must_use]
    pub const fn class(self) -> u8 {
        self.0 >> 5
    }

    /// A method, known or not.
    #[must_use]
    pub const fn is_request(self) -> bool {
        self.class() == 0 && self.0 != 0
    }

    /// A response, known or not.
    #[must_use]
    pub const fn is_response(self) -> bool {
        matches!(self.class(), 2 | 4 | 5)
    }

    /// 2.xx
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.class() == 2
    }

    /// A method that changes nothing (RFC 7252 section 5.1, RFC 8132 section 2.1): doing it twice does no harm.
    #[must_use]
    pub const fn is_safe(self) -> bool {
        self.0 == Code::GET.0 || self.0 == Code::FETCH.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.class(), self.0 & 0x1f)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_written_as_in_the_standards() {
        assert_eq!(Code::CONTINUE.to_string(), "2.31");
        assert_eq!(Code::TOO_MANY_REQUESTS.to_string(), "4.29");
        assert_eq!(Code::GET.to_string(), "0.01");
        assert_eq!(Code::CONTENT.0, 0x45);
    }

    #[test]
    fn classes() {
        assert!(Code::POST.is_request() && !Code::EMPTY.is_request() && Code(31).is_request());
        assert!(Code::CREATED.is_response() && !Code(0x65).is_response());
        assert!(Code::GET.is_safe() && Code::FETCH.is_safe() && !Code::PUT.is_safe());
    }
}
