//! What the tests share: events to send, an uplink driven by hand.
#![allow(dead_code, unused_imports, reason = "each test file uses its part")]

use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, Properties, Via};
use eventmesh_edge_core::ports::store::Class;
use eventmesh_edge_core::ports::uplink::{Downward, Outgoing, Uplink, UplinkEvent};
use eventmesh_edge_standin::proto::CloudEvent;
use eventmesh_edge_standin::{StandIn, valve_command};
use eventmesh_edge_uplink_eventmesh::{Address, EventMeshUplink, Options};
use eventmesh_edge_uplink_testing::events::{event, outgoing_of};
use std::net::SocketAddr;
use std::time::Duration;

/// A test that waits longer has failed. Generous: nothing is decided by it but the end of a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) use eventmesh_edge_uplink_testing::events::{NODE, outgoing};

pub(crate) fn address(addr: SocketAddr) -> Address {
    Address { host: addr.ip().to_string(), port: addr.port() }
}

pub(crate) fn options(addresses: &[SocketAddr]) -> Options {
    Options::new(NODE, "cloud", addresses.iter().copied().map(address).collect())
}

/// With a subscription.
pub(crate) fn subscribing(addresses: &[SocketAddr]) -> Options {
    let mut options = options(addresses);
    options.down.topics = vec!["commands".to_owned()];
    options
}

pub(crate) fn outgoing_with(
    position: u64,
    payload: impl Into<Bytes>,
    properties: Option<Properties>,
) -> Outgoing {
    let via = if properties.is_some() { Via::Mqtt5 } else { Via::Mqtt3 };
    let properties = properties.map(Box::new);
    outgoing_of(position, Event { via, payload: payload.into(), properties, ..event(position) })
}

/// A command as a cloud application publishes it.
pub(crate) fn command(id: &str) -> CloudEvent {
    let attributes = [
        ("env", "prod"),
        ("idc", "cloud"),
        ("ip", "10.0.0.1"),
        ("pid", "1"),
        ("sys", "app"),
        ("username", "u"),
        ("passwd", "p"),
        ("language", "JAVA"),
        ("protocoltype", "cloudevents"),
        ("protocoldesc", "grpc-cloud-event"),
        ("protocolversion", "1.0"),
        ("subject", "commands"),
        ("producergroup", "app"),
        ("uniqueid", id),
        ("ttl", "4000"),
        ("datacontenttype", "text/plain"),
        ("edgetopic", "valve/1/set"),
        ("urgency", "high"),
    ];
    valve_command(id, &attributes)
}

/// Waits for a condition of the stand-in.
pub(crate) async fn until(standin: &StandIn, wanted: impl Fn(&StandIn) -> bool) {
    let waited = tokio::time::timeout(PATIENCE, standin.until(wanted)).await;
    assert!(waited.is_ok(), "{standin:?}");
}

/// An uplink, and all that it has said.
pub(crate) struct Driver {
    pub(crate) uplink: EventMeshUplink,
    pub(crate) events: Vec<UplinkEvent>,
}

impl Driver {
    pub(crate) fn new(options: Options) -> Driver {
        Driver { uplink: EventMeshUplink::new(options).unwrap(), events: Vec::new() }
    }

    /// Drives it until what it has said since the last call is enough, and returns that.
    pub(crate) async fn until(&mut self, enough: impl Fn(&[UplinkEvent]) -> bool) -> Vec<UplinkEvent> {
        let mut events = std::mem::take(&mut self.events);
        while !enough(&events) {
            let waited = tokio::time::timeout(PATIENCE, self.uplink.next(&mut events)).await;
            let last = &events[events.len().saturating_sub(3)..];
            assert!(waited.is_ok(), "nothing happened; {} events so far, the last: {last:?}", events.len());
        }
        events
    }

    /// Drives it until something else has happened.
    pub(crate) async fn while_waiting<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = std::pin::pin!(other);
        loop {
            tokio::select! {
                done = &mut other => return done,
                () = self.uplink.next(&mut self.events) => {}
            }
        }
    }

    /// Connects and says whether it is up, with the window, or why not.
    pub(crate) async fn connect(&mut self, index: usize, timeout: Duration) -> Result<usize, Text> {
        self.uplink.connect(index, timeout);
        let events = self.until(|events| !events.is_empty()).await;
        match &events[0] {
            UplinkEvent::Up { window, .. } => {
                self.events = events[1..].to_vec();
                Ok(*window)
            }
            UplinkEvent::Down { cause }
            | UplinkEvent::Unreachable { cause }
            | UplinkEvent::Unavailable { cause, .. } => Err(cause.clone()),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn up(&mut self) -> usize {
        self.connect(0, PATIENCE).await.unwrap()
    }

    /// Drives it until the connection ends; what it said to that, and what was acknowledged before.
    pub(crate) async fn down(&mut self) -> (UplinkEvent, Vec<u64>) {
        let is_end =
            |e: &UplinkEvent| matches!(e, UplinkEvent::Down { .. } | UplinkEvent::Unavailable { .. });
        let events = self.until(|events| events.iter().any(is_end)).await;
        let end = events.iter().find(|e| is_end(e)).cloned();
        (end.unwrap(), acked(&events))
    }

    pub(crate) async fn downward(&mut self) -> Downward {
        let mut events =
            self.until(|events| events.iter().any(|e| matches!(e, UplinkEvent::Downward(_)))).await;
        let at = events.iter().position(|e| matches!(e, UplinkEvent::Downward(_))).unwrap();
        let UplinkEvent::Downward(message) = events.remove(at) else { panic!() };
        self.events = events;
        message
    }

    /// Sends all at once and waits for as many answers.
    pub(crate) async fn deliver(&mut self, all: impl IntoIterator<Item = Outgoing>) -> Vec<UplinkEvent> {
        let mut sent = 0;
        for outgoing in all {
            self.uplink.send(outgoing);
            sent += 1;
        }
        self.uplink.flush();
        self.until(|events| acked(events).len() + failed(events).len() >= sent).await
    }
}

pub(crate) fn acked(events: &[UplinkEvent]) -> Vec<u64> {
    let position =
        |e: &UplinkEvent| if let UplinkEvent::Acked { position, .. } = e { Some(position.0) } else { None };
    events.iter().filter_map(position).collect()
}

pub(crate) fn failed(events: &[UplinkEvent]) -> Vec<(u64, Class, Text)> {
    let failure = |e: &UplinkEvent| match e {
        UplinkEvent::Failed { position, class, reason, .. } => Some((position.0, *class, reason.clone())),
        UplinkEvent::Held { position, reason, .. } => Some((position.0, Class::Retry, reason.clone())),
        _ => None,
    };
    events.iter().filter_map(failure).collect()
}
