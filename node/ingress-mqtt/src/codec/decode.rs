//! The one module that knows `rmqtt-codec`.

use super::raw::{self, CLEAN_START, ConnectShape};
use super::{Ack, Connect, DecodeError, Disconnect, Packet, Publish, Subscribe, Unsubscribe, Version, Will};
use bytes::{Bytes, BytesMut};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Properties, Qos};
use eventmesh_edge_core::ports::hub::SubscribeOptions;
use eventmesh_edge_core::topic::TopicName;
use rmqtt_codec::types::QoS as TheirQos;
use rmqtt_codec::{error::DecodeError as TheirError, v3, v5};
use tokio_util::codec::Decoder as _;

/// Packet types (upper half of the first byte).
const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const PUBREL: u8 = 6;
const SUBSCRIBE: u8 = 8;
const UNSUBSCRIBE: u8 = 10;
const PINGREQ: u8 = 12;
const DISCONNECT: u8 = 14;

/// Decodes one whole packet; without a `version` only CONNECT.
pub(super) fn decode(mut packet: BytesMut, version: Option<Version>) -> Result<Packet, DecodeError> {
    let first = packet.first().copied().unwrap_or_default();
    match (first >> 4, version) {
        (CONNECT, None) => connect(packet),
        (CONNECT, Some(_)) => Err(DecodeError::Protocol("a second CONNECT")), // [MQTT-3.1.0-2]
        (_, None) => Err(DecodeError::Protocol("the first packet must be CONNECT")), // [MQTT-3.1.0-1]
        (kind, Some(version)) => {
            check_first_byte(&mut packet, kind, version)?;
            check_empty_ones(&packet, kind, version)?;
            if version.is_v5() { v5_packet(packet) } else { v3_packet(packet, kind) }
        }
    }
}

/// DUP goes with QoS 1 and 2 only [MQTT-3.3.1-2]. MQTT 3.1 allowed it on other packets, for which 3.1.1 reserved the bit.
fn check_first_byte(packet: &mut BytesMut, kind: u8, version: Version) -> Result<(), DecodeError> {
    let Some(first) = packet.first_mut() else { return Ok(()) };
    if kind == PUBLISH && *first & 0x0E == 0x08 {
        return Err(DecodeError::Malformed("DUP set on a PUBLISH with QoS 0"));
    }
    if version == Version::V31 && matches!(kind, PUBREL | SUBSCRIBE | UNSUBSCRIBE) {
        *first &= !0x08;
    }
    Ok(())
}

/// PINGREQ, and DISCONNECT of 3.x, have no body; the parser does not look.
fn check_empty_ones(packet: &[u8], kind: u8, version: Version) -> Result<(), DecodeError> {
    let bodyless = kind == PINGREQ || (kind == DISCONNECT && !version.is_v5());
    if bodyless && packet.len() != 2 {
        return Err(DecodeError::Malformed("a packet without a body has one"));
    }
    Ok(())
}

fn connect(mut packet: BytesMut) -> Result<Packet, DecodeError> {
    let shape = ConnectShape::of(&packet)?;
    if shape.client_id_is_empty && shape.flags & CLEAN_START == 0 {
        if !shape.version.is_v5() {
            return Err(DecodeError::ClientIdEmpty);
        }
        // MQTT 5 lets the server assign an id in this case too [MQTT-3.1.3-6]; the parser refuses it. A fresh id has
        // no session, so the flag makes no difference.
        if let Some(flags) = packet.get_mut(shape.flags_at) {
            *flags |= CLEAN_START;
        }
    }
    let will_expires_at_once =
        shape.will_properties.as_ref().is_some_and(|range| patch_zero_expiry(&mut packet, range.clone()));
    let connect = if shape.version.is_v5() {
        match parse_v5(packet)? {
            v5::Packet::Connect(connect) => from_v5_connect(*connect, will_expires_at_once)?,
            _ => return Err(DecodeError::Malformed("not a CONNECT")),
        }
    } else {
        match parse_v3(packet)? {
            v3::Packet::Connect(connect) => from_v3_connect(*connect, shape.version)?,
            _ => return Err(DecodeError::Malformed("not a CONNECT")),
        }
    };
    Ok(Packet::Connect(Box::new(connect)))
}

/// The parser takes a Message Expiry Interval of 0 for malformed, the standard does not. It is changed to 1 in the
/// buffer and changed back in the result. True if there was one.
fn patch_zero_expiry(packet: &mut BytesMut, properties: std::ops::Range<usize>) -> bool {
    let Some(at) = raw::zero_expiry(packet, properties) else { return false };
    let Some(last) = packet.get_mut(at + 3) else { return false };
    *last = 1;
    true
}

fn from_v3_connect(connect: v3::Connect, version: Version) -> Result<Connect, DecodeError> {
    Ok(Connect {
        version,
        clean_start: connect.clean_session,
        keep_alive_secs: connect.keep_alive,
        client_id: text(connect.client_id)?,
        username: connect.username.map(text).transpose()?,
        password: connect.password,
        will: connect.last_will.map(from_v3_will).transpose()?.map(Box::new),
        // Clean Session = 0 keeps the session for as long as the server lets it.
        session_expiry_secs: if connect.clean_session { 0 } else { u32::MAX },
        receive_maximum: u16::MAX,
        maximum_packet_bytes: None,
        topic_alias_maximum: 0,
        wants_problem_info: false,
        wants_enhanced_auth: false,
    })
}

fn from_v3_will(will: v3::LastWill) -> Result<Will, DecodeError> {
    Ok(Will {
        topic: topic(will.topic)?,
        payload: will.message,
        qos: qos(will.qos),
        retain: will.retain,
        delay_secs: 0,
        expiry_secs: None,
        properties: None,
    })
}

fn from_v5_connect(connect: v5::Connect, will_expires_at_once: bool) -> Result<Connect, DecodeError> {
    if connect.auth_data.is_some() && connect.auth_method.is_none() {
        return Err(DecodeError::Protocol("Authentication Data without an Authentication Method"));
    }
    check_texts(connect.auth_method.as_ref(), &connect.user_properties)?;
    Ok(Connect {
        version: Version::V5,
        clean_start: connect.clean_start,
        keep_alive_secs: connect.keep_alive,
        client_id: text(connect.client_id)?,
        username: connect.username.map(text).transpose()?,
        password: connect.password,
        will: connect.last_will.map(|w| from_v5_will(w, will_expires_at_once)).transpose()?.map(Box::new),
        session_expiry_secs: connect.session_expiry_interval_secs,
        receive_maximum: connect.receive_max.map_or(u16::MAX, |max| max.get()),
        maximum_packet_bytes: connect.max_packet_size.map(|max| max.get()),
        topic_alias_maximum: connect.topic_alias_max,
        wants_problem_info: connect.request_problem_info,
        wants_enhanced_auth: connect.auth_method.is_some(),
    })
}

fn from_v5_will(will: v5::LastWill, expires_at_once: bool) -> Result<Will, DecodeError> {
    let properties = properties(
        will.is_utf8_payload.unwrap_or(false),
        will.content_type,
        will.response_topic,
        will.correlation_data,
        will.user_properties,
    )?;
    Ok(Will {
        topic: topic(will.topic)?,
        payload: will.message,
        qos: qos(will.qos),
        retain: will.retain,
        delay_secs: will.will_delay_interval_sec.unwrap_or(0),
        expiry_secs: if expires_at_once {
            Some(0)
        } else {
            will.message_expiry_interval.map(|secs| secs.get())
        },
        properties,
    })
}

fn parse_v3(mut packet: BytesMut) -> Result<v3::Packet, DecodeError> {
    match v3::Codec::new(0).decode(&mut packet) {
        Ok(Some((packet, _))) => Ok(packet),
        Ok(None) => Err(DecodeError::Malformed("packet is shorter than it says")),
        Err(error) => Err(from_theirs(&error)),
    }
}

fn parse_v5(mut packet: BytesMut) -> Result<v5::Packet, DecodeError> {
    match v5::Codec::new(0, 0).decode(&mut packet) {
        Ok(Some((packet, _))) => Ok(packet),
        Ok(None) => Err(DecodeError::Malformed("packet is shorter than it says")),
        Err(error) => Err(from_theirs(&error)),
    }
}

fn from_theirs(error: &TheirError) -> DecodeError {
    match error {
        TheirError::Utf8Error => DecodeError::Malformed("text that is not UTF-8"), // [MQTT-1.5.4-1]
        TheirError::UnsupportedPacketType => DecodeError::Malformed("reserved packet type or header flags"),
        TheirError::InvalidTopicFilter => DecodeError::Protocol("no topic filter, or an empty one"),
        TheirError::InvalidTopicName => DecodeError::Protocol("an empty topic name"),
        TheirError::PacketIdRequired => DecodeError::Protocol("packet identifier missing"),
        TheirError::InvalidClientId => DecodeError::ClientIdEmpty,
        TheirError::InvalidConnectFlags | TheirError::ConnectReservedFlagSet => {
            DecodeError::Malformed("Connect Flags")
        }
        _ => DecodeError::Malformed("fields do not fit the packet"),
    }
}

fn v3_packet(packet: BytesMut, kind: u8) -> Result<Packet, DecodeError> {
    if kind == SUBSCRIBE {
        raw::check_v3_subscribe(&packet)?;
    }
    let ack = |pid: std::num::NonZeroU16| Ack { pid: pid.get(), reason: 0 };
    Ok(match parse_v3(packet)? {
        v3::Packet::Publish(publish) => Packet::Publish(from_publish(*publish, false)?),
        v3::Packet::PublishAck { packet_id } => Packet::PubAck(ack(packet_id)),
        v3::Packet::PublishReceived { packet_id } => Packet::PubRec(ack(packet_id)),
        v3::Packet::PublishRelease { packet_id } => Packet::PubRel(ack(packet_id)),
        v3::Packet::PublishComplete { packet_id } => Packet::PubComp(ack(packet_id)),
        v3::Packet::Subscribe { packet_id, topic_filters } => {
            let filters = topic_filters.into_iter().map(|(filter, q)| Ok((text(filter)?, v3_options(q))));
            let filters = filters.collect::<Result<_, DecodeError>>()?;
            Packet::Subscribe(Subscribe { pid: packet_id.get(), filters })
        }
        v3::Packet::Unsubscribe { packet_id, topic_filters } => {
            let filters = topic_filters.into_iter().map(text).collect::<Result<_, _>>()?;
            Packet::Unsubscribe(Unsubscribe { pid: packet_id.get(), filters })
        }
        v3::Packet::PingRequest => Packet::PingReq,
        v3::Packet::Disconnect => Packet::Disconnect(Disconnect { reason: 0, session_expiry_secs: None }),
        v3::Packet::Connect(_) => return Err(DecodeError::Protocol("a second CONNECT")),
        v3::Packet::ConnectAck(_)
        | v3::Packet::SubscribeAck { .. }
        | v3::Packet::UnsubscribeAck { .. }
        | v3::Packet::PingResponse => return Err(DecodeError::Protocol("a packet that only servers send")),
    })
}

/// What a 3.x subscription means in MQTT 5's terms.
fn v3_options(requested: TheirQos) -> SubscribeOptions {
    SubscribeOptions {
        qos: qos(requested),
        no_local: false,
        retain_as_published: false,
        retain_handling: 0,
        identifier: 0,
    }
}

fn v5_packet(mut packet: BytesMut) -> Result<Packet, DecodeError> {
    let is_publish = packet.first().is_some_and(|first| first >> 4 == PUBLISH);
    let expires_at_once = is_publish && {
        let range = raw::publish_properties(&packet)?;
        !range.is_empty() && patch_zero_expiry(&mut packet, range)
    };
    Ok(match parse_v5(packet)? {
        v5::Packet::Publish(publish) => Packet::Publish(from_publish(*publish, expires_at_once)?),
        v5::Packet::PublishAck(a) => {
            check_texts(a.reason_string.as_ref(), &a.properties)?;
            Packet::PubAck(Ack { pid: a.packet_id.get(), reason: a.reason_code.into() })
        }
        v5::Packet::PublishReceived(a) => {
            check_texts(a.reason_string.as_ref(), &a.properties)?;
            Packet::PubRec(Ack { pid: a.packet_id.get(), reason: a.reason_code.into() })
        }
        v5::Packet::PublishRelease(a) => {
            check_texts(a.reason_string.as_ref(), &a.properties)?;
            Packet::PubRel(Ack { pid: a.packet_id.get(), reason: a.reason_code.into() })
        }
        v5::Packet::PublishComplete(a) => {
            check_texts(a.reason_string.as_ref(), &a.properties)?;
            Packet::PubComp(Ack { pid: a.packet_id.get(), reason: a.reason_code.into() })
        }
        v5::Packet::Subscribe(subscribe) => Packet::Subscribe(from_v5_subscribe(subscribe)?),
        v5::Packet::Unsubscribe(unsubscribe) => {
            check_texts(None, &unsubscribe.user_properties)?;
            let filters = unsubscribe.topic_filters.into_iter().map(text).collect::<Result<_, _>>()?;
            Packet::Unsubscribe(Unsubscribe { pid: unsubscribe.packet_id.get(), filters })
        }
        v5::Packet::PingRequest => Packet::PingReq,
        v5::Packet::Disconnect(disconnect) => Packet::Disconnect(from_v5_disconnect(disconnect)?),
        v5::Packet::Auth(_) => Packet::Auth,
        v5::Packet::Connect(_) => return Err(DecodeError::Protocol("a second CONNECT")),
        v5::Packet::ConnectAck(_)
        | v5::Packet::SubscribeAck(_)
        | v5::Packet::UnsubscribeAck(_)
        | v5::Packet::PingResponse => return Err(DecodeError::Protocol("a packet that only servers send")),
    })
}

fn from_v5_disconnect(disconnect: v5::Disconnect) -> Result<Disconnect, DecodeError> {
    if disconnect.server_reference.is_some() {
        return Err(DecodeError::Protocol("Server Reference from a client"));
    }
    check_texts(disconnect.reason_string.as_ref(), &disconnect.user_properties)?;
    Ok(Disconnect {
        reason: disconnect.reason_code.into(),
        session_expiry_secs: disconnect.session_expiry_interval_secs,
    })
}

fn from_v5_subscribe(subscribe: v5::Subscribe) -> Result<Subscribe, DecodeError> {
    check_texts(None, &subscribe.user_properties)?;
    let identifier = subscribe.id.map_or(0, |id| id.get());
    let filters = subscribe.topic_filters.into_iter().map(|(filter, options)| {
        // [MQTT-3.8.3-4]
        if options.no_local && filter.starts_with("$share/") {
            return Err(DecodeError::Protocol("No Local on a shared subscription"));
        }
        let options = SubscribeOptions {
            qos: qos(options.qos),
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            retain_handling: options.retain_handling.into(),
            identifier,
        };
        Ok((text(filter)?, options))
    });
    Ok(Subscribe { pid: subscribe.packet_id.get(), filters: filters.collect::<Result<_, _>>()? })
}

fn from_publish(publish: rmqtt_codec::types::Publish, expires_at_once: bool) -> Result<Publish, DecodeError> {
    let mut alias = None;
    let mut expiry_secs = None;
    let mut carried = None;
    if let Some(p) = publish.properties {
        if !p.subscription_ids.is_empty() {
            // [MQTT-3.3.4-6]
            return Err(DecodeError::Protocol("Subscription Identifier from a client"));
        }
        alias = p.topic_alias.map(|alias| alias.get());
        expiry_secs =
            if expires_at_once { Some(0) } else { p.message_expiry_interval.map(|secs| secs.get()) };
        carried = properties(
            p.is_utf8_payload,
            p.content_type,
            p.response_topic,
            p.correlation_data,
            p.user_properties,
        )?;
    }
    let topic = match (publish.topic.is_empty(), alias) {
        (true, Some(_)) => publish.topic,
        (true, None) => return Err(DecodeError::Protocol("an empty topic name without a Topic Alias")),
        (false, _) => topic(publish.topic)?,
    };
    Ok(Publish {
        dup: publish.dup,
        qos: qos(publish.qos),
        retain: publish.retain,
        topic,
        pid: publish.packet_id.map_or(0, |pid| pid.get()),
        alias,
        expiry_secs,
        properties: carried,
        payload: publish.payload,
    })
}

fn properties(
    utf8_payload: bool,
    content_type: Option<Text>,
    response_topic: Option<Text>,
    correlation_data: Option<Bytes>,
    user: Vec<(Text, Text)>,
) -> Result<Option<Box<Properties>>, DecodeError> {
    let bare = !utf8_payload
        && content_type.is_none()
        && response_topic.is_none()
        && correlation_data.is_none()
        && user.is_empty();
    if bare {
        return Ok(None);
    }
    check_texts(None, &user)?;
    Ok(Some(Box::new(Properties {
        utf8_payload,
        content_type: content_type.map(text).transpose()?,
        // A Response Topic is a topic name [MQTT-3.3.2-14].
        response_topic: response_topic.map(topic).transpose()?,
        correlation_data,
        user,
    })))
}

fn qos(theirs: TheirQos) -> Qos {
    match theirs {
        TheirQos::AtMostOnce => Qos::AtMostOnce,
        TheirQos::AtLeastOnce => Qos::AtLeastOnce,
        TheirQos::ExactlyOnce => Qos::ExactlyOnce,
    }
}

/// Text without U+0000 [MQTT-1.5.4-2]; that it is UTF-8 was checked when it was made.
fn text(text: Text) -> Result<Text, DecodeError> {
    if text.as_bytes().contains(&0) {
        return Err(DecodeError::Malformed("text contains the null character U+0000"));
    }
    Ok(text)
}

/// Texts that the session does not look at are texts all the same [MQTT-1.5.4-2], [MQTT-1.5.7-1].
fn check_texts(one: Option<&Text>, user: &[(Text, Text)]) -> Result<(), DecodeError> {
    let pairs = user.iter().flat_map(|(name, value)| [name, value]);
    one.into_iter().chain(pairs).try_for_each(|some| text(some.clone()).map(drop))
}

fn topic(name: Text) -> Result<Text, DecodeError> {
    Ok(TopicName::parse(name)?.into_text())
}
