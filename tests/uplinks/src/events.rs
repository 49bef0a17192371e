//! Events whose data are their number.

use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, LogId, Position, Qos, Sequence, StoredEvent, Timestamp, Via};
use eventmesh_edge_core::mapping::mqtt_source;
use eventmesh_edge_core::ports::store::StreamId;
use eventmesh_edge_core::ports::uplink::Outgoing;
use std::sync::Arc;

/// The node whose devices they come from.
pub const NODE: &str = "plant-7";

/// A reading of one sensor, `{"n":…}`.
#[must_use]
pub fn event(n: u64) -> Event {
    Event {
        via: Via::Mqtt3,
        qos: Qos::AtLeastOnce,
        retain: false,
        source: mqtt_source(NODE, "sensor-12"),
        id: None,
        time: Some(Timestamp(1_790_000_000_000)),
        received: Timestamp(1_790_000_000_000),
        expires: None,
        topic: Text::from_static("plant/7/temp"),
        payload: Bytes::from(format!("{{\"n\":{n}}}")),
        properties: None,
    }
}

/// The event of that number, on its way up.
#[must_use]
pub fn outgoing(position: u64) -> Outgoing {
    outgoing_of(position, event(position))
}

/// Any event, as the forwarder hands it to an adapter.
#[must_use]
pub fn outgoing_of(position: u64, event: Event) -> Outgoing {
    let stored = StoredEvent {
        position: Position(position),
        log: LogId(7),
        sequence: Sequence { source: position, stream: position },
        event,
        stored_bytes: 0,
    };
    Outgoing {
        stream: StreamId(1),
        event: Arc::new(stored),
        kind: Text::from_static("com.example.t.v1"),
        again: false,
    }
}
