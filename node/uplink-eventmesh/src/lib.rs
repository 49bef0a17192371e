//! Uplink to an Apache EventMesh runtime over gRPC.
