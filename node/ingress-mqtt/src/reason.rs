//! Reason codes: what happened, in our words, and the one function that turns it into the bytes of each protocol.

use crate::codec::Version;

/// What happened. The numbers live in [`Reason::code`] alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// All well.
    Success,
    /// Stored or not, nobody has a subscription for it.
    NoMatchingSubscribers,
    /// UNSUBSCRIBE of a filter that was not subscribed to.
    NoSubscriptionExisted,
    /// No other fits.
    Unspecified,
    /// Bytes that are not MQTT.
    Malformed,
    /// MQTT, but not allowed here.
    Protocol,
    /// Not for us: a limit of this implementation.
    ImplementationSpecific,
    /// CONNECT of a protocol we do not speak.
    UnsupportedVersion,
    /// The client identifier is not acceptable.
    ClientIdNotValid,
    /// User name or password.
    BadCredentials,
    /// Known, but not allowed.
    NotAuthorized,
    /// The store or the node cannot serve now.
    ServerUnavailable,
    /// Too many connections.
    ServerBusy,
    /// Graceful stop.
    ServerShuttingDown,
    /// Enhanced authentication is not offered.
    BadAuthenticationMethod,
    /// Nothing heard for one and a half Keep Alive.
    KeepAliveTimeout,
    /// Another connection uses the client identifier now.
    SessionTakenOver,
    /// A topic filter breaks the rules.
    TopicFilterInvalid,
    /// A topic name breaks the rules.
    TopicNameInvalid,
    /// PUBREL or PUBREC for a packet identifier that is not in use.
    PacketIdNotFound,
    /// More unanswered publishes than we allowed.
    ReceiveMaximumExceeded,
    /// Topic Alias 0, above the maximum, or unknown.
    TopicAliasInvalid,
    /// Larger than the listener takes.
    PacketTooLarge,
    /// A stream is full, or too many sessions.
    QuotaExceeded,
    /// `$share` is switched off.
    SharedNotSupported,
    /// For the time being, another server serves.
    UseAnotherServer,
    /// Another server serves from now on.
    ServerMoved,
}

/// Which packet the code goes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// CONNACK.
    ConnAck,
    /// PUBACK or PUBREC.
    PubAck,
    /// PUBREL or PUBCOMP.
    PubComp,
    /// SUBACK.
    SubAck,
    /// UNSUBACK.
    UnsubAck,
    /// DISCONNECT.
    Disconnect,
}

impl Reason {
    /// The byte to send, or `None` where the protocol has no way of saying it: then the connection is closed (or, for
    /// an acknowledgement, the answer is withheld).
    ///
    /// MQTT 5.0 section 2.4; MQTT 3.1.1 table 3.1 and section 3.9.3.
    #[must_use]
    pub fn code(self, version: Version, place: Place) -> Option<u8> {
        match (version, place) {
            (Version::V5, _) => Some(self.v5()).filter(|_| self.allowed_in(place)),
            (_, Place::ConnAck) => self.v3_connack(),
            // 3.1 and 3.1.1 know one failure [MQTT-3.9.3-2]; the grants are written by the caller.
            (_, Place::SubAck) => Some(if self == Reason::Success { 0 } else { 0x80 }),
            // Nothing but "yes" can be said.
            (_, Place::PubAck | Place::PubComp | Place::UnsubAck) => match self {
                Reason::Success | Reason::NoMatchingSubscribers => Some(0),
                Reason::NoSubscriptionExisted | Reason::PacketIdNotFound => Some(0),
                _ => None,
            },
            // A 3.x server has no DISCONNECT.
            (_, Place::Disconnect) => None,
        }
    }

    fn v5(self) -> u8 {
        match self {
            Reason::Success => 0x00,
            Reason::NoMatchingSubscribers => 0x10,
            Reason::NoSubscriptionExisted => 0x11,
            Reason::Unspecified => 0x80,
            Reason::Malformed => 0x81,
            Reason::Protocol => 0x82,
            Reason::ImplementationSpecific => 0x83,
            Reason::UnsupportedVersion => 0x84,
            Reason::ClientIdNotValid => 0x85,
            Reason::BadCredentials => 0x86,
            Reason::NotAuthorized => 0x87,
            Reason::ServerUnavailable => 0x88,
            Reason::ServerBusy => 0x89,
            Reason::ServerShuttingDown => 0x8B,
            Reason::BadAuthenticationMethod => 0x8C,
            Reason::KeepAliveTimeout => 0x8D,
            Reason::SessionTakenOver => 0x8E,
            Reason::TopicFilterInvalid => 0x8F,
            Reason::TopicNameInvalid => 0x90,
            Reason::PacketIdNotFound => 0x92,
            Reason::ReceiveMaximumExceeded => 0x93,
            Reason::TopicAliasInvalid => 0x94,
            Reason::PacketTooLarge => 0x95,
            Reason::QuotaExceeded => 0x97,
            Reason::SharedNotSupported => 0x9E,
            Reason::UseAnotherServer => 0x9C,
            Reason::ServerMoved => 0x9D,
        }
    }

    /// Whether MQTT 5 lists the code for that packet.
    fn allowed_in(self, place: Place) -> bool {
        use Reason::{
            BadCredentials, ClientIdNotValid, ImplementationSpecific, KeepAliveTimeout, Malformed,
            NoMatchingSubscribers, NoSubscriptionExisted, NotAuthorized, PacketIdNotFound, PacketTooLarge,
            Protocol, QuotaExceeded, ReceiveMaximumExceeded, ServerShuttingDown, ServerUnavailable,
            SessionTakenOver, SharedNotSupported, Success, TopicAliasInvalid, TopicFilterInvalid,
            TopicNameInvalid, Unspecified, UnsupportedVersion,
        };
        match place {
            Place::ConnAck => !matches!(
                self,
                NoMatchingSubscribers
                    | NoSubscriptionExisted
                    | ServerShuttingDown
                    | KeepAliveTimeout
                    | SessionTakenOver
                    | TopicFilterInvalid
                    | PacketIdNotFound
                    | ReceiveMaximumExceeded
                    | TopicAliasInvalid
                    | SharedNotSupported
            ),
            Place::PubAck => matches!(
                self,
                Success
                    | NoMatchingSubscribers
                    | Unspecified
                    | ImplementationSpecific
                    | NotAuthorized
                    | TopicNameInvalid
                    | QuotaExceeded
            ),
            Place::PubComp => matches!(self, Success | PacketIdNotFound),
            Place::SubAck => matches!(
                self,
                Success
                    | Unspecified
                    | ImplementationSpecific
                    | NotAuthorized
                    | TopicFilterInvalid
                    | QuotaExceeded
                    | SharedNotSupported
            ),
            Place::UnsubAck => matches!(
                self,
                Success
                    | NoSubscriptionExisted
                    | Unspecified
                    | ImplementationSpecific
                    | NotAuthorized
                    | TopicFilterInvalid
            ),
            Place::Disconnect => {
                matches!(self, Malformed | Protocol | PacketTooLarge)
                    || !matches!(
                        self,
                        NoMatchingSubscribers
                            | NoSubscriptionExisted
                            | UnsupportedVersion
                            | ClientIdNotValid
                            | BadCredentials
                            | ServerUnavailable
                            | PacketIdNotFound
                    )
            }
        }
    }

    /// MQTT 3.1.1 table 3.1. Where it has no code the connection is closed without an answer.
    fn v3_connack(self) -> Option<u8> {
        match self {
            Reason::Success => Some(0),
            Reason::UnsupportedVersion => Some(1),
            Reason::ClientIdNotValid => Some(2),
            Reason::ServerUnavailable
            | Reason::ServerBusy
            | Reason::ServerShuttingDown
            | Reason::UseAnotherServer
            | Reason::ServerMoved
            | Reason::QuotaExceeded => Some(3),
            Reason::BadCredentials => Some(4),
            Reason::NotAuthorized => Some(5),
            _ => None,
        }
    }

    /// The words for the log and for counters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Success => "success",
            Reason::NoMatchingSubscribers => "no matching subscribers",
            Reason::NoSubscriptionExisted => "no subscription existed",
            Reason::Unspecified => "unspecified error",
            Reason::Malformed => "malformed packet",
            Reason::Protocol => "protocol error",
            Reason::ImplementationSpecific => "implementation specific error",
            Reason::UnsupportedVersion => "unsupported protocol version",
            Reason::ClientIdNotValid => "client identifier not valid",
            Reason::BadCredentials => "bad user name or password",
            Reason::NotAuthorized => "not authorized",
            Reason::ServerUnavailable => "server unavailable",
            Reason::ServerBusy => "server busy",
            Reason::ServerShuttingDown => "server shutting down",
            Reason::BadAuthenticationMethod => "bad authentication method",
            Reason::KeepAliveTimeout => "keep alive timeout",
            Reason::SessionTakenOver => "session taken over",
            Reason::TopicFilterInvalid => "topic filter invalid",
            Reason::TopicNameInvalid => "topic name invalid",
            Reason::PacketIdNotFound => "packet identifier not found",
            Reason::ReceiveMaximumExceeded => "receive maximum exceeded",
            Reason::TopicAliasInvalid => "topic alias invalid",
            Reason::PacketTooLarge => "packet too large",
            Reason::QuotaExceeded => "quota exceeded",
            Reason::SharedNotSupported => "shared subscriptions not supported",
            Reason::UseAnotherServer => "use another server",
            Reason::ServerMoved => "server moved",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_3_x_client_gets_the_codes_of_its_table_and_nothing_else() {
        for version in [Version::V31, Version::V311] {
            assert_eq!(Reason::UnsupportedVersion.code(version, Place::ConnAck), Some(1));
            assert_eq!(Reason::ClientIdNotValid.code(version, Place::ConnAck), Some(2));
            assert_eq!(Reason::ServerBusy.code(version, Place::ConnAck), Some(3));
            assert_eq!(Reason::BadCredentials.code(version, Place::ConnAck), Some(4));
            assert_eq!(Reason::NotAuthorized.code(version, Place::ConnAck), Some(5));
            assert_eq!(Reason::Malformed.code(version, Place::ConnAck), None);
            assert_eq!(Reason::QuotaExceeded.code(version, Place::PubAck), None, "withheld, not invented");
            assert_eq!(Reason::SessionTakenOver.code(version, Place::Disconnect), None);
            assert_eq!(Reason::SharedNotSupported.code(version, Place::SubAck), Some(0x80));
        }
    }

    #[test]
    fn a_v5_code_is_sent_only_where_the_standard_lists_it() {
        assert_eq!(Reason::QuotaExceeded.code(Version::V5, Place::PubAck), Some(0x97));
        assert_eq!(Reason::PacketIdNotFound.code(Version::V5, Place::PubComp), Some(0x92));
        assert_eq!(Reason::PacketIdNotFound.code(Version::V5, Place::Disconnect), None);
        assert_eq!(Reason::SessionTakenOver.code(Version::V5, Place::Disconnect), Some(0x8E));
        assert_eq!(Reason::SessionTakenOver.code(Version::V5, Place::ConnAck), None);
        assert_eq!(Reason::NoMatchingSubscribers.code(Version::V5, Place::PubAck), Some(0x10));
    }
}
