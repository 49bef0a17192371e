//! A CoAP server endpoint as a state machine: bytes and time go in, bytes and requests come out.
//!
//! - [`gate`]: what is a message and what is not (RFC 7252 section 3), before the codec sees it
//! - [`message`], [`option`], [`code`]: messages over `coap-lite`'s codec, the only place that knows it
//! - [`request`], [`response`]: a request with its options checked (RFC 7252 section 5.4), and what is answered
//! - [`endpoint`]: the message layer (section 4) with deduplication and retransmission, block-wise transfers (RFC 7959),
//!   observation (RFC 7641), Echo and Request-Tag (RFC 9175), No-Response (RFC 7967)
//! - [`link`]: the CoRE Link Format (RFC 6690)
//!
//! No socket, no clock, no random source: the caller passes time in and a seed. It knows nothing of topics, events or
//! the node around it.

pub mod code;
pub mod endpoint;
pub mod gate;
pub mod link;
pub mod message;
pub mod option;
pub mod request;
pub mod response;
mod rng;

pub use code::Code;
pub use endpoint::{Endpoint, ExchangeNo, Fingerprint, Identity, Output, Params};
pub use message::{Kind, Message, Token};
pub use request::Request;
pub use response::Response;
