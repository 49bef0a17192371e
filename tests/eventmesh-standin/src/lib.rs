//! Stand-in for an Apache EventMesh runtime.
pub mod proto;
