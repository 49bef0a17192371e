//! Embedded upstream hub (rumqttd) for the quickstart and the tests; not part of the node.
fn main() {}
