//! Reason codes in words, and what they mean for an event.

use eventmesh_edge_core::ports::store::Class;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, Disconnect, PubAckReason, SubscribeReasonCode};

/// Longest part of a server's own words that is kept.
const WORDS_MAX: usize = 200;

/// What a PUBACK says: `None` the event is taken over, else whether to try again, and why (MQTT 5.0 section 3.4.2.1).
///
/// `Reject` gives the event up for good, so it is for what no change of the server can mend. Whatever an administrator up
/// there or a correct `topic` here would mend is `Retry`: one wrong line in an access list must not empty the backlog of a
/// week. Retries wait longer and longer, up to `retry_max`; `status` shows the last refusal. While the server takes nothing
/// at all, nothing is ever given up for it; if it refuses some events and takes others, those refused are parked, counted, once
/// they alone hold up the stream (the forwarder's gap bound, P5).
///
/// | code | class | because |
/// |---|---|---|
/// | 0x00, 0x10 | taken | nobody subscribes there now; the server has it all the same |
/// | 0x80, 0x83 | retry | anything, and it does not say what: an error of the server is not the event's fault |
/// | 0x87 | retry | rights are given and mended at the server |
/// | 0x90 | retry | well-formed but not accepted *there*: a policy of the server's, or a wrong `topic` here |
/// | 0x91 | retry | the identifier is new each time |
/// | 0x97 | retry | quotas are refilled |
/// | 0x99 | reject | the device says UTF-8 and its bytes are not: they are stored as received and stay so |
pub(crate) fn puback(reason: PubAckReason) -> Option<(Class, &'static str)> {
    use PubAckReason as R;
    Some(match reason {
        R::Success | R::NoMatchingSubscribers => return None,
        R::UnspecifiedError => (Class::Retry, "0x80 unspecified error"),
        R::ImplementationSpecificError => (Class::Retry, "0x83 implementation specific error"),
        R::PacketIdentifierInUse => (Class::Retry, "0x91 packet identifier in use"),
        R::QuotaExceeded => (Class::Retry, "0x97 quota exceeded"),
        R::NotAuthorized => (Class::Retry, "0x87 not authorized for this topic"),
        R::TopicNameInvalid => (Class::Retry, "0x90 topic name not accepted"),
        R::PayloadFormatInvalid => (Class::Reject, "0x99 payload format invalid"),
    })
}

/// Why a server did not let us in (section 3.2.2.2).
pub(crate) fn connack(code: ConnectReturnCode) -> &'static str {
    use ConnectReturnCode as C;
    match code {
        C::Success => "success",
        C::RefusedProtocolVersion | C::UnsupportedProtocolVersion => "it does not speak MQTT 5",
        C::BadClientId | C::ClientIdentifierNotValid => "client id not allowed",
        C::ServiceUnavailable | C::ServerUnavailable => "server unavailable",
        C::UnspecifiedError => "unspecified error",
        C::MalformedPacket => "malformed packet",
        C::ProtocolError => "protocol error",
        C::ImplementationSpecificError => "implementation specific error",
        C::BadUserNamePassword => "bad user name or password",
        C::NotAuthorized => "not authorized",
        C::ServerBusy => "server busy",
        C::Banned => "banned",
        C::BadAuthenticationMethod => "bad authentication method",
        C::TopicNameInvalid => "topic name invalid",
        C::PacketTooLarge => "packet too large",
        C::QuotaExceeded => "quota exceeded",
        C::PayloadFormatInvalid => "payload format invalid",
        C::RetainNotSupported => "retain not supported",
        C::QoSNotSupported => "QoS not supported",
        C::UseAnotherServer => "use another server",
        C::ServerMoved => "server moved",
        C::ConnectionRateExceeded => "connection rate exceeded",
    }
}

/// `ServerShuttingDown` → `server shutting down`, then the server's own words, cut.
pub(crate) fn disconnect(packet: &Disconnect) -> String {
    let mut words = String::new();
    for c in format!("{:?}", packet.reason_code).chars() {
        if c.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
    }
    if let Some(own) = packet.properties.as_ref().and_then(|p| p.reason_string.as_deref()) {
        words.push_str(": ");
        words.extend(own.chars().filter(|c| !c.is_control()).take(WORDS_MAX));
    }
    words
}

/// Why a subscription was refused; `None` if it was granted.
pub(crate) fn suback(code: SubscribeReasonCode) -> Option<String> {
    match code {
        SubscribeReasonCode::Success(_) => None,
        refused => Some(format!("{refused:?}")),
    }
}
