//! Events for the tests of this crate.

use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, LogId, Position, Qos, Sequence, StoredEvent, Timestamp, Via};
use eventmesh_edge_core::mapping::mqtt_source;
use eventmesh_edge_core::ports::store::StreamId;
use eventmesh_edge_core::ports::uplink::Outgoing;
use std::sync::Arc;

pub(crate) fn outgoing(position: u64) -> Outgoing {
    with(position, |_| {})
}

pub(crate) fn with(position: u64, change: impl FnOnce(&mut Event)) -> Outgoing {
    let mut event = Event {
        via: Via::Mqtt3,
        qos: Qos::AtLeastOnce,
        retain: false,
        source: mqtt_source("plant-7", "sensor-12"),
        id: None,
        time: Some(Timestamp(1_790_000_000_000)),
        received: Timestamp(1_790_000_000_000),
        expires: None,
        topic: Text::from_static("plant/7/temp"),
        payload: Bytes::from(format!("{{\"n\":{position}}}")),
        properties: None,
    };
    change(&mut event);
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
