//! The generated messages and services of `node/uplink-eventmesh/proto`.
#![allow(
    missing_docs,
    unreachable_pub,
    non_camel_case_types,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::unwrap_used,
    clippy::missing_errors_doc,
    clippy::let_underscore_must_use,
    reason = "generated from the .proto files, which have the comments and the names"
)]

tonic::include_proto!("org.apache.eventmesh.cloudevents.v1");
