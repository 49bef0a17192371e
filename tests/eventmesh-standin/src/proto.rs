//! The generated messages and services of `node/uplink-eventmesh/proto`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    clippy::missing_errors_doc,
    clippy::let_underscore_must_use,
    reason = "generated from the .proto files, which have the comments and the names"
)]

tonic::include_proto!("org.apache.eventmesh.cloudevents.v1");
