//! Uplink of EventMesh Edge to an MQTT 5 broker or another node.
