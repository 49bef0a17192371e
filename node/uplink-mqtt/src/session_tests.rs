use super::*;
use crate::codec::decode;
use bytes::Bytes;
use eventmesh_edge_core::event::{Event, LogId, Position, Sequence, StoredEvent, Timestamp, Via};
use eventmesh_edge_core::mapping::{VIA_PROPERTY, mqtt_source};
use eventmesh_edge_core::ports::store::StreamId;
use eventmesh_edge_core::topic::TopicFilter;
use eventmesh_edge_uplink_net::{Address, Credentials, Secret};
use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnAckProperties, ConnectReturnCode, PubAck, PubAckReason};

fn options() -> Options {
    let address = Address { host: "hub".to_owned(), port: 1883 };
    let filter = |f: &'static str| Subscription::new(TopicFilter::parse(f).unwrap());
    Options {
        subscriptions: vec![
            Subscription { strip_prefix: "edge/plant-7/".to_owned(), ..filter("edge/plant-7/#") },
            filter("commands/+"),
        ],
        ..Options::new("plant-7", vec![address])
    }
}

const LIMITS: Limits =
    Limits { window: 3, packet_max: None, retain: true, keep_alive: Duration::from_secs(30) };

fn session_with(options: Options, limits: Limits, generation: u64, received: Option<Received>) -> Session {
    let shared = Shared {
        template: options.template().unwrap(),
        guard: LoopGuard::new(&options.node),
        counters: Arc::new(Counters::default()),
        wills: Wills::default(),
        options,
    };
    let resumed = received.is_some();
    let kept = Kept { received: received.unwrap_or_default(), ..Kept::default() };
    let mut session = Session::new(Arc::new(shared), generation, limits, resumed, kept);
    assert!(matches!(written(&mut session)[..], [Packet::Subscribe(_)] | []));
    session
}

fn session() -> Session {
    session_with(options(), LIMITS, 1, None)
}

fn outgoing(position: u64, payload: &'static [u8]) -> Outgoing {
    let event = Event {
        via: Via::Mqtt3,
        qos: Qos::AtLeastOnce,
        retain: true,
        source: mqtt_source("plant-7", "sensor-12"),
        id: None,
        time: Some(Timestamp(1_790_000_000_000)),
        received: Timestamp(1_790_000_000_000),
        expires: None,
        topic: Text::from_static("plant/7/temp"),
        payload: Bytes::from_static(payload),
        properties: None,
    };
    let stored = StoredEvent {
        position: Position(position),
        log: LogId(7),
        sequence: Sequence { source: position, stream: position },
        event,
        stored_bytes: 0,
    };
    Outgoing { stream: StreamId(2), event: Arc::new(stored), kind: Text::from_static("t"), again: false }
}

/// What the session wants to write, and the out buffer empty again.
fn written(session: &mut Session) -> Vec<Packet> {
    let mut packets = Vec::new();
    while let Some(packet) = decode(&mut session.out, u32::MAX).unwrap() {
        packets.push(packet);
    }
    packets
}

fn send(session: &mut Session, position: u64) -> Vec<UplinkEvent> {
    let mut events = Vec::new();
    session.send(&outgoing(position, b"21.5"), &mut events);
    events
}

fn handle(session: &mut Session, packet: Packet) -> Vec<UplinkEvent> {
    let mut events = Vec::new();
    session.handle(packet, &mut events).unwrap();
    events
}

fn puback(id: u16, reason: PubAckReason) -> Packet {
    Packet::PubAck(PubAck { pkid: id, reason, properties: None })
}

fn publish(topic: &str, qos: QoS, id: u16, user: &[(&str, &str)]) -> mqtt::Publish {
    let user_properties = user.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let properties = mqtt::PublishProperties { user_properties, ..mqtt::PublishProperties::default() };
    mqtt::Publish { pkid: id, ..mqtt::Publish::new(topic, qos, &b"open"[..], Some(properties)) }
}

fn downward(events: &[UplinkEvent]) -> &Downward {
    match events {
        [UplinkEvent::Downward(message)] => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_acknowledgement_is_for_the_event_of_its_packet() {
    let mut s = session();
    assert!(send(&mut s, 10).is_empty() && send(&mut s, 11).is_empty() && send(&mut s, 12).is_empty());
    let ids: Vec<u16> = written(&mut s)
        .into_iter()
        .map(|p| match p {
            Packet::Publish(p) => {
                assert_eq!((p.qos, p.dup, p.retain), (QoS::AtLeastOnce, false, true));
                assert_eq!((&p.topic[..], &p.payload[..]), (&b"plant/7/temp"[..], &b"21.5"[..]));
                let user = p.properties.unwrap().user_properties;
                assert!(user.contains(&("specversion".to_owned(), "1.0".to_owned())));
                assert!(user.contains(&(VIA_PROPERTY.to_owned(), "plant-7".to_owned())));
                p.pkid
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let beyond = send(&mut s, 13);
    assert!(matches!(&beyond[..], [UplinkEvent::Failed { class: Class::Retry, position: Position(13), .. }]));
    for (id, position) in [(ids[1], 11), (ids[0], 10), (ids[2], 12)] {
        let events = handle(&mut s, puback(id, PubAckReason::Success));
        assert!(
            matches!(&events[..], [UplinkEvent::Acked { stream: StreamId(2), position: Position(p) }] if *p == position)
        );
        assert!(handle(&mut s, puback(id, PubAckReason::Success)).is_empty(), "a second answer is nobody's");
    }
    assert!(handle(&mut s, puback(0, PubAckReason::Success)).is_empty());
    assert!(handle(&mut s, puback(SUBSCRIBE_ID, PubAckReason::Success)).is_empty());
    assert_eq!(s.shared.counters.read().unknown_acks, 5);
}

#[test]
fn reason_codes_say_whether_to_try_again() {
    for (reason, class) in [
        (PubAckReason::NoMatchingSubscribers, None),
        (PubAckReason::QuotaExceeded, Some(Class::Retry)),
        (PubAckReason::ImplementationSpecificError, Some(Class::Retry)),
        (PubAckReason::UnspecifiedError, Some(Class::Retry)),
        (PubAckReason::NotAuthorized, Some(Class::Retry)),
        (PubAckReason::TopicNameInvalid, Some(Class::Retry)),
        (PubAckReason::PacketIdentifierInUse, Some(Class::Retry)),
        (PubAckReason::PayloadFormatInvalid, Some(Class::Reject)),
    ] {
        let mut s = session();
        send(&mut s, 1);
        let events = handle(&mut s, puback(1, reason));
        let got = match &events[..] {
            [UplinkEvent::Acked { .. }] => None,
            [UplinkEvent::Failed { class, reason, .. }] => {
                assert!(reason.starts_with("0x"), "{reason}");
                Some(*class)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(got, class, "{reason:?}");
    }
}

#[test]
fn an_event_that_does_not_fit_is_refused_and_takes_no_place() {
    let mut s = session_with(options(), Limits { packet_max: Some(600), ..LIMITS }, 1, None);
    let mut events = Vec::new();
    s.send(&outgoing(5, &[b'x'; 1_000]), &mut events);
    let [UplinkEvent::Failed { class: Class::Reject, position: Position(5), reason, .. }] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert!(reason.contains("larger than the server's maximum of 600"), "{reason}");
    assert!(s.out.is_empty());
    assert!(send(&mut s, 6).is_empty());
    assert!(matches!(&written(&mut s)[..], [Packet::Publish(p)] if p.pkid == 1));
    assert!(matches!(
        &handle(&mut s, puback(1, PubAckReason::Success))[..],
        [UplinkEvent::Acked { position: Position(6), .. }]
    ));
}

#[test]
fn structured_mode_topic_template_and_a_server_without_retain() {
    let options = Options { mode: Mode::Structured, topic: "edge/{node}/{topic}".to_owned(), ..options() };
    let mut s = session_with(options, Limits { retain: false, ..LIMITS }, 1, None);
    send(&mut s, 1);
    let packets = written(&mut s);
    let [Packet::Publish(p)] = &packets[..] else { panic!("{packets:?}") };
    assert_eq!((&p.topic[..], p.retain), (&b"edge/plant-7/plant/7/temp"[..], false));
    let properties = p.properties.as_ref().unwrap();
    assert_eq!(properties.content_type.as_deref(), Some("application/cloudevents+json; charset=utf-8"));
    assert!(p.payload.starts_with(b"{\"specversion\":\"1.0\""));
}

#[test]
fn what_came_down_is_answered_when_it_is_confirmed_and_not_before() {
    let mut s = session();
    let events = handle(&mut s, Packet::Publish(publish("edge/plant-7/valve/1", QoS::AtLeastOnce, 9, &[])));
    let message = downward(&events);
    assert_eq!(
        (&*message.topic, &message.payload[..], message.qos),
        ("valve/1", &b"open"[..], Qos::AtLeastOnce)
    );
    assert!(written(&mut s).is_empty());
    s.confirm(message.token);
    assert!(matches!(&written(&mut s)[..], [Packet::PubAck(a)] if a.pkid == 9));
    s.confirm(message.token);
    assert!(written(&mut s).is_empty(), "once");

    let events = handle(&mut s, Packet::Publish(publish("commands/x", QoS::ExactlyOnce, 9, &[])));
    let token = downward(&events).token;
    assert!(written(&mut s).is_empty());
    s.confirm(token);
    assert!(matches!(&written(&mut s)[..], [Packet::PubRec(a)] if a.pkid == 9));
    handle(&mut s, Packet::PubRel(mqtt::PubRel::new(9, None)));
    assert!(matches!(&written(&mut s)[..], [Packet::PubComp(a)] if a.pkid == 9));

    let events = handle(&mut s, Packet::Publish(publish("commands/x", QoS::AtMostOnce, 0, &[])));
    assert_eq!(downward(&events).token, 0);
    s.confirm(0);
    assert!(written(&mut s).is_empty());
}

/// A window of three; the server closes in the middle of it, again and again, and says nothing.
#[tokio::test(start_paused = true)]
async fn a_server_that_closes_is_sent_one_at_a_time_and_what_it_closes_for_stays_here() {
    let mut kept = Kept::default();
    let mut sent = Vec::new();
    for _ in 0..3 {
        let shared = session().shared;
        let mut session = Session::new(shared, 1, LIMITS, false, kept);
        let mut events = Vec::new();
        (1..=3).for_each(|position| session.send(&outgoing(position, b"{}"), &mut events));
        assert!(events.is_empty(), "{events:?}");
        sent.push(written(&mut session).iter().filter(|p| matches!(p, Packet::Publish(_))).count());
        kept = session.end(End::Closed);
    }
    assert_eq!(sent, [3, 3, 1]);
    let mut session = Session::new(session().shared, 1, LIMITS, false, kept);
    let mut events = Vec::new();
    session.send(&outgoing(1, b"{}"), &mut events);
    let refused = |reason: &Text| reason.contains("the server closes the connection for this topic");
    let [UplinkEvent::Failed { class: Class::Retry, reason, .. }] = &events[..] else { panic!("{events:?}") };
    assert!(refused(reason), "{reason}");
}

#[test]
fn few_at_a_time_become_more_with_every_acknowledgement() {
    let mut kept = Kept::default();
    for _ in 0..2 {
        let mut session = Session::new(session().shared, 1, LIMITS, false, kept);
        session.send(&outgoing(1, b"{}"), &mut Vec::new());
        kept = session.end(End::Closed);
    }
    let mut session = Session::new(session().shared, 1, LIMITS, false, kept);
    let ids = |session: &mut Session| {
        let of = |p: Packet| if let Packet::Publish(p) = p { Some(p.pkid) } else { None };
        written(session).into_iter().filter_map(of).collect::<Vec<_>>()
    };
    (1..=3).for_each(|position| session.send(&outgoing(position, b"{}"), &mut Vec::new()));
    assert_eq!(ids(&mut session), [1]);
    session.send(&outgoing(4, b"{}"), &mut Vec::new());
    handle(&mut session, Packet::PubAck(mqtt::PubAck::new(1, None)));
    assert_eq!(ids(&mut session), [2, 3]);
    session.send(&outgoing(5, b"{}"), &mut Vec::new());
    handle(&mut session, Packet::PubAck(mqtt::PubAck::new(2, None)));
    handle(&mut session, Packet::PubAck(mqtt::PubAck::new(3, None)));
    assert_eq!(ids(&mut session), [4], "the one beyond the window was answered, the others leave in order");
}

#[test]
fn a_token_of_an_earlier_connection_answers_nothing() {
    let mut first = session();
    let old =
        downward(&handle(&mut first, Packet::Publish(publish("commands/x", QoS::AtLeastOnce, 1, &[])))).token;
    let mut second = session_with(options(), LIMITS, 2, Some(first.end(End::Lost).received));
    let new =
        downward(&handle(&mut second, Packet::Publish(publish("commands/y", QoS::AtLeastOnce, 1, &[]))))
            .token;
    second.confirm(old);
    assert!(written(&mut second).is_empty());
    second.confirm(new);
    assert_eq!(written(&mut second).len(), 1);
}

#[test]
fn a_qos_2_message_sent_again_is_delivered_once_and_a_new_one_is_never_taken_for_it() {
    let mut first = session();
    let token =
        downward(&handle(&mut first, Packet::Publish(publish("commands/x", QoS::ExactlyOnce, 4, &[])))).token;
    first.confirm(token);
    let received = first.end(End::Lost).received;
    let again =
        |dup| Packet::Publish(mqtt::Publish { dup, ..publish("commands/x", QoS::ExactlyOnce, 4, &[]) });

    let mut resumed = session_with(options(), LIMITS, 2, Some(received.clone()));
    assert!(handle(&mut resumed, again(true)).is_empty());
    assert!(matches!(&written(&mut resumed)[..], [Packet::PubRec(a)] if a.pkid == 4));
    assert_eq!(resumed.shared.counters.read().duplicates_dropped, 1);
    handle(&mut resumed, Packet::PubRel(mqtt::PubRel::new(4, None)));
    assert_eq!(handle(&mut resumed, again(true)).len(), 1, "released: the identifier is new");

    // Session Present is a lie: the server numbers anew, without DUP.
    let mut lied_to = session_with(options(), LIMITS, 2, Some(received));
    assert_eq!(handle(&mut lied_to, again(false)).len(), 1);
    // No session: nothing is remembered, whatever the flag says.
    let mut fresh = session_with(options(), LIMITS, 2, None);
    assert_eq!(handle(&mut fresh, again(true)).len(), 1);
}

#[test]
fn our_own_messages_do_not_come_back() {
    let native = |source| [("specversion", "1.0"), ("id", "1"), ("type", "t"), ("source", source)];
    let mut s = session();
    for user in [&native("mqtt://plant-7/sensor-12")[..], &[(VIA_PROPERTY, "other plant-7")][..]] {
        assert!(handle(&mut s, Packet::Publish(publish("commands/x", QoS::AtLeastOnce, 3, user))).is_empty());
        assert!(
            matches!(&written(&mut s)[..], [Packet::PubAck(a)] if a.pkid == 3),
            "answered, or it comes for ever"
        );
    }
    assert_eq!(s.shared.counters.read().loops_dropped, 2);
    let events =
        handle(&mut s, Packet::Publish(publish("commands/x", QoS::AtLeastOnce, 3, &native("/cloud"))));
    assert_eq!(downward(&events).identity, Some((Text::from_static("/cloud"), Text::from_static("1"))));
}

#[test]
fn what_has_no_place_here_is_answered_and_counted() {
    let mut s = session();
    assert!(handle(&mut s, Packet::Publish(publish("other", QoS::ExactlyOnce, 3, &[]))).is_empty());
    assert!(matches!(&written(&mut s)[..], [Packet::PubRec(a)] if a.pkid == 3));
    assert_eq!(s.shared.counters.read().unroutable_dropped, 1);
}

#[test]
fn a_server_that_breaks_the_protocol_is_left() {
    let lost = |s: &mut Session, packet| s.handle(packet, &mut Vec::new()).unwrap_err().to_string();
    let mut s = session_with(Options { unconfirmed_max: 2, ..options() }, LIMITS, 1, None);
    for id in [1, 2] {
        handle(&mut s, Packet::Publish(publish("commands/x", QoS::AtLeastOnce, id, &[])));
    }
    let third = Packet::Publish(publish("commands/x", QoS::AtLeastOnce, 3, &[]));
    assert_eq!(lost(&mut s, third), "server sent more than the 2 unconfirmed messages it was allowed");
    assert_eq!(lost(&mut session(), Packet::PingReq(mqtt::PingReq)), "server sent a PINGREQ out of place");
    let goodbye = mqtt::Disconnect {
        reason_code: mqtt::DisconnectReasonCode::ServerShuttingDown,
        properties: Some(mqtt::DisconnectProperties {
            session_expiry_interval: None,
            reason_string: Some("back at 8\n".to_owned()),
            user_properties: Vec::new(),
            server_reference: None,
        }),
    };
    let words = lost(&mut session(), Packet::Disconnect(goodbye));
    assert_eq!(words, "server ended the connection: server shutting down: back at 8");
}

#[test]
fn connect_keeps_a_session_only_for_commands() {
    let password = Some(Secret::new("p4ssw0rd"));
    let credentials = Credentials { username: "u".to_owned(), password, password_file: None };
    let with = Options { credentials: Some(credentials.clone()), ..options() };
    let Packet::Connect(connect, None, Some(login)) = connect_packet(&with, Some(&credentials), None) else {
        panic!()
    };
    assert!(!connect.clean_start);
    assert_eq!((connect.keep_alive, &*connect.client_id), (30, "plant-7-uplink"));
    assert_eq!(login.password, "p4ssw0rd");
    assert!(!format!("{with:?}").contains("p4ssw0rd"), "P7");
    let properties = connect.properties.unwrap();
    assert_eq!((properties.session_expiry_interval, properties.receive_maximum), (Some(86_400), Some(256)));

    let Packet::Connect(connect, None, None) =
        connect_packet(&Options { subscriptions: Vec::new(), ..options() }, None, None)
    else {
        panic!()
    };
    assert!(connect.clean_start && connect.properties.unwrap().session_expiry_interval.is_none());
}

#[test]
fn connack_sets_the_limits() {
    let connack = |code, properties| ConnAck { session_present: false, code, properties };
    assert_eq!(
        limits(&options(), &connack(ConnectReturnCode::Success, None)),
        Ok(Limits { window: 4_096, packet_max: None, retain: true, keep_alive: Duration::from_secs(30) })
    );
    let properties = ConnAckProperties {
        receive_max: Some(20),
        max_packet_size: Some(1_000),
        retain_available: Some(0),
        server_keep_alive: Some(7),
        ..no_properties()
    };
    assert_eq!(
        limits(&options(), &connack(ConnectReturnCode::Success, Some(properties))),
        Ok(Limits { window: 20, packet_max: Some(1_000), retain: false, keep_alive: Duration::from_secs(7) })
    );
    let zero = ConnAckProperties { max_qos: Some(0), ..no_properties() };
    assert_eq!(limits(&options(), &connack(ConnectReturnCode::Success, Some(zero))), Err(Lost::QosZeroOnly));
    let refused = limits(&options(), &connack(ConnectReturnCode::BadUserNamePassword, None)).unwrap_err();
    assert_eq!(refused.to_string(), "server refused the connection: bad user name or password");
}

/// rumqttc gives this type no constructor.
fn no_properties() -> ConnAckProperties {
    ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}
