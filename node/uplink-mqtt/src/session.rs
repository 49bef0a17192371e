//! One connection's protocol state: packets in, packets and events out; no socket, no clock of its own.

use crate::codec::encode;
use crate::counters::{Counters, count};
use crate::encode::{EncodeError, Publish};
use crate::inflight::{Flying, InFlight, SUBSCRIBE_ID};
use crate::options::{Mode, Options, Subscription};
use crate::reason;
use crate::suspicion::{End, Suspicion};
use crate::topic::{Template, rewrite};
use crate::will::Wills;
use bytes::BytesMut;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Properties, Qos};
use eventmesh_edge_core::mapping::{
    LoopGuard, from_mqtt5, to_cloudevent, to_mqtt5_binary, to_mqtt5_structured,
};
use eventmesh_edge_core::ports::store::Class;
use eventmesh_edge_core::ports::uplink::{Downward, Outgoing, UplinkEvent};
use eventmesh_edge_uplink_net::Credentials;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5 as mqtt;
use rumqttc::v5::mqttbytes::v5::Packet;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Why the connection is of no use any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lost {
    #[error("server refused the connection: {0}")]
    Refused(&'static str),
    #[error("server takes QoS 0 only, nothing sent there would be acknowledged")]
    QosZeroOnly,
    #[error("server ended the connection: {0}")]
    Disconnected(String),
    #[error("server sent a {0} out of place")]
    OutOfPlace(&'static str),
    #[error("server sent more than the {0} unconfirmed messages it was allowed")]
    TooManyUnconfirmed(u16),
    #[error("server did not answer PINGREQ within {0:?}")]
    NoPingResponse(Duration),
    #[error("server took no byte of what waits for it within {0:?}, and said nothing")]
    TakesNothing(Duration),
}

/// What never changes between the connections of one uplink.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) template: Template,
    pub(crate) guard: LoopGuard,
    pub(crate) counters: Arc<Counters>,
    pub(crate) wills: Wills,
}

/// Packet identifiers of QoS 2 messages that we have taken over and the server has not released yet: session state that outlives
/// the connection if the server's does (section 4.1).
pub(crate) type Received = HashSet<u16>;

/// What outlives a connection.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) received: Received,
    pub(crate) suspicion: Suspicion,
}

/// State of one connection after its CONNACK.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    /// Packets on their way to the socket.
    pub(crate) out: BytesMut,
    in_flight: InFlight,
    /// Taken over, and not sent while few are sent at a time.
    waiting: VecDeque<Outgoing>,
    /// Messages that came down and are not confirmed.
    unconfirmed: HashMap<u16, Qos>,
    received: Received,
    suspicion: Suspicion,
    resumed: bool,
    generation: u64,
    limits: Limits,
    /// Scratch for the topic of the event being written.
    topic: String,
}

/// What the server allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) window: u16,
    pub(crate) packet_max: Option<u32>,
    pub(crate) retain: bool,
    pub(crate) keep_alive: Duration,
}

/// The CONNECT of an uplink.
///
/// With subscriptions the session stays at the server while we are away, so commands wait there. Without, there is no session: then no
/// rule asks for a resend with the old packet identifiers [MQTT-4.4.0-1], and the server has nothing to keep.
pub(crate) fn connect_packet(
    options: &Options,
    credentials: Option<&Credentials>,
    will: Option<mqtt::LastWill>,
) -> Packet {
    let keeps_session = !options.subscriptions.is_empty();
    let seconds = |d: Duration| u32::try_from(d.as_secs()).unwrap_or(u32::MAX);
    let properties = mqtt::ConnectProperties {
        session_expiry_interval: keeps_session.then(|| seconds(options.session_expiry)),
        receive_maximum: Some(options.unconfirmed_max),
        max_packet_size: Some(options.packet_max_bytes),
        ..mqtt::ConnectProperties::new()
    };
    let login = credentials.map(|c| mqtt::Login {
        username: c.username.clone(),
        password: c.password.as_ref().map(|p| p.reveal().to_owned()).unwrap_or_default(),
    });
    let connect = mqtt::Connect {
        keep_alive: u16::try_from(options.keep_alive.as_secs()).unwrap_or(u16::MAX),
        client_id: options.client_id.clone(),
        clean_start: !keeps_session,
        properties: Some(properties),
    };
    Packet::Connect(connect, will, login)
}

/// What a CONNACK allows, or why it does not.
pub(crate) fn limits(options: &Options, connack: &mqtt::ConnAck) -> Result<Limits, Lost> {
    if connack.code != mqtt::ConnectReturnCode::Success {
        return Err(Lost::Refused(reason::connack(connack.code)));
    }
    let p = connack.properties.as_ref();
    if p.and_then(|p| p.max_qos) == Some(0) {
        return Err(Lost::QosZeroOnly);
    }
    let server = p.and_then(|p| p.receive_max).filter(|max| *max > 0).unwrap_or(u16::MAX);
    // The server's keep-alive replaces ours [MQTT-3.2.2-21].
    let keep_alive = p.and_then(|p| p.server_keep_alive).map(|s| Duration::from_secs(s.into()));
    Ok(Limits {
        window: server.min(options.window_max),
        packet_max: p.and_then(|p| p.max_packet_size),
        retain: p.and_then(|p| p.retain_available) != Some(0),
        keep_alive: keep_alive.unwrap_or(options.keep_alive),
    })
}

impl Session {
    /// After a CONNACK that lets us in; asks for the subscriptions.
    pub(crate) fn new(
        shared: Arc<Shared>,
        generation: u64,
        limits: Limits,
        resumed: bool,
        kept: Kept,
    ) -> Session {
        let mut session = Session {
            out: BytesMut::with_capacity(16 * 1_024),
            in_flight: InFlight::default(),
            waiting: VecDeque::new(),
            unconfirmed: HashMap::new(),
            received: if resumed { kept.received } else { Received::new() },
            suspicion: kept.suspicion,
            resumed,
            generation,
            limits,
            topic: String::new(),
            shared,
        };
        session.subscribe();
        session
    }

    /// What the server allows.
    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// What the next connection has to know.
    pub(crate) fn end(mut self, end: End) -> Kept {
        let unanswered = self.in_flight.first().map(|first| (self.in_flight.unanswered(), first.topic));
        self.suspicion.ended(end, unanswered);
        Kept { received: self.received, suspicion: self.suspicion }
    }

    fn subscribe(&mut self) {
        let filters: Vec<_> = self.shared.options.subscriptions.iter().map(filter).collect();
        if !filters.is_empty() {
            encode(
                &Packet::Subscribe(mqtt::Subscribe { pkid: SUBSCRIBE_ID, filters, properties: None }),
                &mut self.out,
            );
        }
    }

    /// Takes one event over: into the out buffer, or says why not.
    pub(crate) fn send(&mut self, outgoing: &Outgoing, events: &mut Vec<UplinkEvent>) {
        let window = usize::from(self.limits.window);
        let taken = self.in_flight.unanswered() + self.waiting.len();
        if taken >= window {
            let words = Text::from_static("beyond the server's receive maximum");
            return events.push(failed(outgoing, Class::Retry, words));
        }
        if taken >= self.suspicion.width(window) {
            self.waiting.push_back(outgoing.clone());
        } else {
            self.write_event(outgoing, events);
        }
    }

    /// Sends what waits because few were sent at a time.
    fn send_waiting(&mut self, events: &mut Vec<UplinkEvent>) {
        let window = usize::from(self.limits.window);
        while self.in_flight.unanswered() < self.suspicion.width(window)
            && let Some(outgoing) = self.waiting.pop_front()
        {
            self.write_event(&outgoing, events);
        }
    }

    fn write_event(&mut self, outgoing: &Outgoing, events: &mut Vec<UplinkEvent>) {
        self.topic.clear();
        self.shared.template.render(&outgoing.event.event.topic, &mut self.topic);
        let topic = self.suspicion.key(&self.topic);
        if let Err(words) = self.suspicion.admit(topic) {
            return events.push(failed(outgoing, Class::Retry, words));
        }
        let flying = Flying { stream: outgoing.stream, position: outgoing.event.position, topic };
        let Some(id) = self.in_flight.open(flying) else {
            let words = Text::from_static("server left a packet unanswered for 65,533 others");
            return events.push(failed(outgoing, Class::Fatal, words));
        };
        if let Err(error) = self.write_publish(outgoing, id) {
            self.in_flight.undo();
            events.push(failed(outgoing, Class::Reject, Text::from(error.to_string())));
        }
    }

    /// The topic is rendered.
    fn write_publish(&mut self, outgoing: &Outgoing, id: u16) -> Result<(), EncodeError> {
        let Session { shared, topic, out, limits, .. } = self;
        let event = &outgoing.event.event;
        let cloudevent = to_cloudevent(&outgoing.event, &outgoing.kind, None);
        let message = match shared.options.mode {
            Mode::Binary => to_mqtt5_binary(cloudevent),
            Mode::Structured => to_mqtt5_structured(&cloudevent),
        };
        let via = shared.guard.stamp(event.properties.as_deref());
        let retain = event.retain && shared.options.keep_retain && limits.retain;
        Publish { topic, id, retain, via: &via, message: &message }.write(limits.packet_max, out)
    }

    /// The message under this token is durable here: the server may forget it (P1).
    pub(crate) fn confirm(&mut self, token: u64) {
        let Ok(id) = u16::try_from(token & 0xffff) else { return };
        // A token of an earlier connection: the server will send that message again.
        if token >> 16 != self.generation {
            return;
        }
        match self.unconfirmed.remove(&id) {
            Some(Qos::AtLeastOnce) => encode(&Packet::PubAck(mqtt::PubAck::new(id, None)), &mut self.out),
            Some(Qos::ExactlyOnce) => {
                self.received.insert(id);
                encode(&Packet::PubRec(mqtt::PubRec::new(id, None)), &mut self.out);
            }
            Some(Qos::AtMostOnce) | None => {}
        }
    }

    /// Asks the server whether it is there.
    pub(crate) fn ping(&mut self) {
        encode(&Packet::PingReq(mqtt::PingReq), &mut self.out);
    }

    /// Says goodbye.
    pub(crate) fn disconnect(&mut self) {
        let packet = mqtt::Disconnect::new(mqtt::DisconnectReasonCode::NormalDisconnection);
        encode(&Packet::Disconnect(packet), &mut self.out);
    }

    /// Takes a packet from the server.
    pub(crate) fn handle(&mut self, packet: Packet, events: &mut Vec<UplinkEvent>) -> Result<(), Lost> {
        match packet {
            Packet::PubAck(ack) => self.acknowledged(&ack, events),
            Packet::Publish(publish) => return self.came_down(publish, events),
            Packet::PubRel(release) => {
                self.received.remove(&release.pkid);
                // Also for an identifier that we do not know: it was released before (section 4.3.3).
                encode(&Packet::PubComp(mqtt::PubComp::new(release.pkid, None)), &mut self.out);
            }
            // That bytes came is all that it says, and the link has noticed that.
            Packet::PingResp(_) => {}
            Packet::SubAck(ack) => self.subscribed(&ack),
            Packet::Disconnect(packet) => return Err(Lost::Disconnected(reason::disconnect(&packet))),
            other => return Err(Lost::OutOfPlace(name(&other))),
        }
        Ok(())
    }

    fn acknowledged(&mut self, ack: &mqtt::PubAck, events: &mut Vec<UplinkEvent>) {
        let Some(Flying { stream, position, topic }) = self.in_flight.close(ack.pkid) else {
            return count(&self.shared.counters.unknown_acks);
        };
        events.push(match reason::puback(ack.reason) {
            None => {
                self.suspicion.acked(topic, usize::from(self.limits.window));
                UplinkEvent::Acked { stream, position }
            }
            Some((class, words)) => {
                let own = ack.properties.as_ref().and_then(|p| p.reason_string.as_deref());
                let reason = own.map_or(Text::from_static(words), |own| {
                    let own: String = own.chars().filter(|c| !c.is_control()).take(200).collect();
                    Text::from(format!("{words}: {own}"))
                });
                self.suspicion.refused(topic, &reason);
                UplinkEvent::Failed { stream, position, class, reason }
            }
        });
        self.send_waiting(events);
    }

    fn subscribed(&self, ack: &mqtt::SubAck) {
        for (subscription, code) in self.shared.options.subscriptions.iter().zip(&ack.return_codes) {
            if let Some(code) = reason::suback(*code) {
                count(&self.shared.counters.subscriptions_refused);
                tracing::warn!(filter = %subscription.filter, %code, "mqtt uplink subscription refused");
            }
        }
    }

    fn came_down(&mut self, publish: mqtt::Publish, events: &mut Vec<UplinkEvent>) -> Result<(), Lost> {
        let (id, qos) = (publish.pkid, qos(publish.qos));
        if qos == Qos::ExactlyOnce && self.is_repeat(&publish) {
            count(&self.shared.counters.duplicates_dropped);
            encode(&Packet::PubRec(mqtt::PubRec::new(id, None)), &mut self.out);
            return Ok(());
        }
        let max = self.shared.options.unconfirmed_max;
        if qos != Qos::AtMostOnce && self.unconfirmed.insert(id, qos).is_some()
            || self.unconfirmed.len() > usize::from(max)
        {
            // [MQTT-3.3.4-7], [MQTT-2.2.1-4]
            return Err(Lost::TooManyUnconfirmed(max));
        }
        let token = if qos == Qos::AtMostOnce { 0 } else { self.generation << 16 | u64::from(id) };
        match self.downward(publish, qos, token)? {
            Some(message) => events.push(UplinkEvent::Downward(message)),
            // Dropped and counted: nothing has to become durable for the answer.
            None => self.confirm(token),
        }
        Ok(())
    }

    /// Sent again in a session that the server has kept, after we had taken it over. DUP is asked for too: a server that lost its session
    /// and only claims to have it numbers anew, and its new message must not be taken for an old one.
    fn is_repeat(&self, publish: &mqtt::Publish) -> bool {
        self.resumed && publish.dup && self.received.contains(&publish.pkid)
    }

    fn downward(&self, publish: mqtt::Publish, qos: Qos, token: u64) -> Result<Option<Downward>, Lost> {
        let Shared { options, guard, counters, .. } = &*self.shared;
        let Ok(topic) = std::str::from_utf8(&publish.topic) else {
            return Err(Lost::OutOfPlace("topic that is not UTF-8"));
        };
        let unwrapped = from_mqtt5(publish.payload, publish.properties.map(properties));
        let own = unwrapped.identity.as_ref().is_some_and(|(source, _)| guard.is_own(source));
        if own || guard.has_passed(unwrapped.properties.as_deref()) {
            count(&counters.loops_dropped);
            return Ok(None);
        }
        let topic = match rewrite(&options.subscriptions, topic) {
            Ok(topic) => topic.into_text(),
            Err(error) => {
                count(&counters.unroutable_dropped);
                tracing::debug!(topic, %error, "mqtt uplink dropped a message that came down");
                return Ok(None);
            }
        };
        Ok(Some(Downward {
            topic,
            payload: unwrapped.payload,
            properties: unwrapped.properties,
            qos,
            retain: publish.retain,
            identity: unwrapped.identity,
            token,
        }))
    }
}

fn failed(outgoing: &Outgoing, class: Class, reason: Text) -> UplinkEvent {
    UplinkEvent::Failed { stream: outgoing.stream, position: outgoing.event.position, class, reason }
}

fn filter(subscription: &Subscription) -> mqtt::Filter {
    mqtt::Filter {
        path: subscription.filter.to_string(),
        qos: match subscription.qos {
            Qos::AtMostOnce => QoS::AtMostOnce,
            Qos::AtLeastOnce => QoS::AtLeastOnce,
            Qos::ExactlyOnce => QoS::ExactlyOnce,
        },
        // What we publish ourselves does not come back (No Local), whatever else guards against loops.
        nolocal: true,
        preserve_retain: true,
        // Retained commands at a new subscription only: after a short outage they are old news.
        retain_forward_rule: mqtt::RetainForwardRule::OnNewSubscribe,
    }
}

fn qos(qos: QoS) -> Qos {
    match qos {
        QoS::AtMostOnce => Qos::AtMostOnce,
        QoS::AtLeastOnce => Qos::AtLeastOnce,
        QoS::ExactlyOnce => Qos::ExactlyOnce,
    }
}

fn properties(received: mqtt::PublishProperties) -> Box<Properties> {
    Box::new(Properties {
        utf8_payload: received.payload_format_indicator == Some(1),
        content_type: received.content_type.map(Text::from),
        response_topic: received.response_topic.map(Text::from),
        correlation_data: received.correlation_data,
        user: received.user_properties.into_iter().map(|(n, v)| (Text::from(n), Text::from(v))).collect(),
    })
}

fn name(packet: &Packet) -> &'static str {
    match packet {
        Packet::Auth(_) => "AUTH",
        Packet::Connect(..) => "CONNECT",
        Packet::ConnAck(_) => "second CONNACK",
        Packet::Subscribe(_) => "SUBSCRIBE",
        Packet::PubRec(_) => "PUBREC",
        Packet::PubComp(_) => "PUBCOMP",
        Packet::Unsubscribe(_) => "UNSUBSCRIBE",
        Packet::UnsubAck(_) => "UNSUBACK",
        Packet::PingReq(_) => "PINGREQ",
        _ => "packet",
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
