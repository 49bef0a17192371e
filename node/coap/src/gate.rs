//! What is a message (RFC 7252 section 3), decided on the bytes, before the codec sees them.
//!
//! `coap-lite` accepts four kinds of malformed messages: a version other than 1, an empty message that is not empty, a
//! payload marker without a payload, and the reserved code classes. Here they are refused, together with everything else
//! that section 3 forbids, so that what passes is a message; the property tests hold this against the codec.

use crate::code::Code;
use crate::message::{Kind, Token};

/// Options in one message, at most: the codec's time grows with them.
pub const OPTIONS_MAX: usize = 64;

/// The fixed part of a message that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Type.
    pub kind: Kind,
    /// Code.
    pub code: Code,
    /// Message id.
    pub id: u16,
    /// Token.
    pub token: Token,
}

/// What to do with bytes that are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing at all.
    Silence(Fault),
    /// Reject with a Reset of this message id (section 4.2): it was confirmable.
    Reset {
        /// Message id.
        id: u16,
        /// What is wrong.
        fault: Fault,
    },
}

/// What is wrong with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Section 3: the header has four bytes.
    #[error("shorter than a header")]
    Short,
    /// Section 3: "Messages with unknown version numbers MUST be silently ignored."
    #[error("not version 1")]
    Version,
    /// Section 3: "Lengths 9-15 are reserved, MUST NOT be sent, and MUST be processed as a message format error."
    #[error("token length 9 to 15")]
    TokenLength,
    /// Section 3: the token is cut.
    #[error("the token is cut")]
    TokenCut,
    /// Section 4.1: "If there are any bytes, they MUST be processed as a message format error."
    #[error("an empty message is not empty")]
    NotEmpty,
    /// Section 12.1: classes 1, 6 and 7 are reserved (7 is signaling over TCP, RFC 8323).
    #[error("reserved class of code")]
    CodeClass,
    /// Section 3: "The presence of a marker followed by a zero-length payload MUST be processed as a message format
    /// error."
    #[error("a payload marker without payload")]
    BareMarker,
    /// Section 3.1: 15 is reserved in an option's delta and length.
    #[error("reserved option delta or length")]
    OptionNibble,
    /// Section 3.1: an option is cut.
    #[error("an option is cut")]
    OptionCut,
    /// Section 3.1: option numbers have 16 bits.
    #[error("option number above 65535")]
    OptionNumber,
    /// More than [`OPTIONS_MAX`].
    #[error("more than 64 options")]
    TooManyOptions,
    /// Section 4.2 and 4.3: this type of message does not carry this code.
    #[error("type and code do not go together")]
    KindAndCode,
}

/// Checks a datagram.
///
/// # Errors
/// [`Refusal`] says what the sender is to hear: a confirmable message with a format error is rejected with a Reset
/// (section 4.2), everything else is ignored (sections 3, 4.2, 4.3).
pub fn check(datagram: &[u8]) -> Result<Head, Refusal> {
    let (Some([first, code, id_high, id_low]), Some(rest)) = (datagram.first_chunk(), datagram.get(4..))
    else {
        return Err(Refusal::Silence(Fault::Short));
    };
    if first >> 6 != 1 {
        return Err(Refusal::Silence(Fault::Version));
    }
    let kind = Kind::from_bits(first >> 4);
    let (code, id) = (Code(*code), u16::from_be_bytes([*id_high, *id_low]));
    let refuse = |fault| match kind {
        Kind::Con => Refusal::Reset { id, fault },
        // An acknowledgement or a reset is never answered (section 4.2), a NON may be ignored (section 4.3).
        _ => Refusal::Silence(fault),
    };
    let token = check_body(usize::from(first & 15), code, rest).map_err(refuse)?;
    let fits = match kind {
        // Empty: ping. A response: from somebody who takes us for a client.
        Kind::Con => true,
        Kind::Non => code != Code::EMPTY,
        Kind::Ack => !code.is_request(),
        Kind::Rst => code == Code::EMPTY,
    };
    if !fits {
        return Err(refuse(Fault::KindAndCode));
    }
    Ok(Head { kind, code, id, token })
}

fn check_body(token_length: usize, code: Code, rest: &[u8]) -> Result<Token, Fault> {
    if token_length > 8 {
        return Err(Fault::TokenLength);
    }
    if code == Code::EMPTY && (token_length > 0 || !rest.is_empty()) {
        return Err(Fault::NotEmpty);
    }
    if !matches!(code.class(), 0 | 2 | 4 | 5) {
        return Err(Fault::CodeClass);
    }
    let token = rest.get(..token_length).and_then(Token::new).ok_or(Fault::TokenCut)?;
    check_options(rest.get(token_length..).unwrap_or_default())?;
    Ok(token)
}

/// Section 3.1. Ends at the payload marker, or with the message.
fn check_options(mut rest: &[u8]) -> Result<(), Fault> {
    let mut number = 0u32;
    for _ in 0..=OPTIONS_MAX {
        let Some((&first, tail)) = rest.split_first() else { return Ok(()) };
        if first == 0xff {
            return if tail.is_empty() { Err(Fault::BareMarker) } else { Ok(()) };
        }
        let (delta, tail) = extended(first >> 4, tail)?;
        let (length, tail) = extended(first & 15, tail)?;
        number += delta;
        if number > u32::from(u16::MAX) {
            return Err(Fault::OptionNumber);
        }
        rest = tail.get(length as usize..).ok_or(Fault::OptionCut)?;
    }
    Err(Fault::TooManyOptions)
}

/// A delta or a length with its extension bytes.
fn extended(nibble: u8, rest: &[u8]) -> Result<(u32, &[u8]), Fault> {
    match (nibble, rest) {
        (0..=12, _) => Ok((u32::from(nibble), rest)),
        (13, [one, rest @ ..]) => Ok((u32::from(*one) + 13, rest)),
        (14, [high, low, rest @ ..]) => Ok((u32::from(u16::from_be_bytes([*high, *low])) + 269, rest)),
        (13 | 14, _) => Err(Fault::OptionCut),
        _ => Err(Fault::OptionNibble),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;
    use proptest::prelude::*;

    fn fault(bytes: &[u8]) -> Option<Fault> {
        match check(bytes).err()? {
            Refusal::Silence(fault) | Refusal::Reset { fault, .. } => Some(fault),
        }
    }

    #[test]
    fn the_four_kinds_that_the_codec_lets_pass_are_refused() {
        assert_eq!(check(&[0x80, 1, 0, 1]), Err(Refusal::Silence(Fault::Version)));
        assert_eq!(check(&[0x00, 1, 0, 1]), Err(Refusal::Silence(Fault::Version)));
        let reset = |id, fault| Err(Refusal::Reset { id, fault });
        assert_eq!(check(&[0x40, 0, 0, 1, 0x11]), reset(1, Fault::NotEmpty));
        assert_eq!(check(&[0x41, 0, 0, 1, 9]), reset(1, Fault::NotEmpty));
        assert_eq!(check(&[0x40, 1, 2, 3, 0xff]), reset(0x203, Fault::BareMarker));
        for class in [1u8, 3, 6, 7] {
            assert_eq!(check(&[0x40, class << 5 | 1, 0, 1]), reset(1, Fault::CodeClass), "{class}");
        }
    }

    #[test]
    fn the_rest_of_section_3() {
        assert_eq!(fault(&[]), Some(Fault::Short));
        assert_eq!(fault(&[0x40, 1, 0]), Some(Fault::Short));
        for length in 9..=15u8 {
            let mut bytes = vec![0x40 | length, 1, 0, 1];
            bytes.extend([0; 15]);
            assert_eq!(fault(&bytes), Some(Fault::TokenLength));
        }
        assert_eq!(fault(&[0x42, 1, 0, 1, 7]), Some(Fault::TokenCut));
        assert_eq!(fault(&[0x40, 1, 0, 1, 0xf0]), Some(Fault::OptionNibble));
        assert_eq!(fault(&[0x40, 1, 0, 1, 0x0f]), Some(Fault::OptionNibble));
        assert_eq!(fault(&[0x40, 1, 0, 1, 0xd0]), Some(Fault::OptionCut));
        assert_eq!(fault(&[0x40, 1, 0, 1, 0x13, 1, 2]), Some(Fault::OptionCut));
        assert_eq!(fault(&[0x40, 1, 0, 1, 0xe0, 0xff, 0xff]), Some(Fault::OptionNumber));
        let mut many = vec![0x40, 1, 0, 1];
        many.extend([0; OPTIONS_MAX]);
        assert_eq!(fault(&many), None);
        many.push(0);
        assert_eq!(fault(&many), Some(Fault::TooManyOptions));
    }

    #[test]
    fn types_and_codes_that_do_not_go_together_are_ignored() {
        for bytes in [[0x50, 0, 0, 1], [0x60, 1, 0, 1], [0x70, 1, 0, 1], [0x70, 0x45, 0, 1]] {
            assert_eq!(check(&bytes), Err(Refusal::Silence(Fault::KindAndCode)), "{bytes:x?}");
        }
        assert!(check(&[0x40, 0, 0, 1]).is_ok(), "ping");
        assert!(check(&[0x60, 0, 0, 1]).is_ok() && check(&[0x70, 0, 0, 1]).is_ok());
    }

    /// Bytes near a message: a valid one, with some of its bytes replaced and its end cut.
    fn nearly() -> impl Strategy<Value = Vec<u8>> {
        let option = (0u8..=255, prop::collection::vec(any::<u8>(), 0..20));
        let options = prop::collection::vec(option, 0..6);
        let edit = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
        (any::<[u8; 3]>(), 0u8..=8, options, prop::collection::vec(any::<u8>(), 0..30), edit, 0usize..8)
            .prop_map(|(head, token, options, payload, edits, cut)| {
                let mut bytes = vec![0x40 | (head[0] & 0x30) | token, head[0], head[1], head[2]];
                bytes.extend(std::iter::repeat_n(7, usize::from(token)));
                for (first, value) in options {
                    let length = value.len().min(12);
                    bytes.push((first % 13) << 4 | u8::try_from(length).unwrap());
                    bytes.extend(value.iter().take(length));
                }
                if !payload.is_empty() {
                    bytes.push(0xff);
                    bytes.extend(payload);
                }
                for (at, byte) in edits {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(4)));
                bytes
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        /// Whatever passes, the codec reads, and writes back byte for byte.
        #[test]
        fn what_passes_is_what_the_codec_reads(bytes in nearly()) {
            if let Ok(head) = check(&bytes) {
                let message = Message::decode(head, &bytes).unwrap();
                prop_assert_eq!((message.kind, message.code, message.id), (head.kind, head.code, head.id));
                prop_assert_eq!(message.token, head.token);
                let again = message.encode();
                // Option lengths and deltas may have been written longer than needed; the content is the same.
                let head_again = check(&again).unwrap();
                prop_assert_eq!(Message::decode(head_again, &again).unwrap(), message);
            }
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(head) = check(&bytes) {
                prop_assert!(Message::decode(head, &bytes).is_some());
            }
        }
    }
}
