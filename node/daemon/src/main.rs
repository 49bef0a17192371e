//! EventMesh Edge: MQTT and CoAP at the edge, CloudEvents to Apache EventMesh, nothing acknowledged is lost.
fn main() {}
