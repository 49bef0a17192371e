//! The tokio tasks that drive the rules of EventMesh Edge over its ports.

pub mod clock;
pub mod floor;
pub mod forward;
pub mod hub;
pub mod routes;
pub mod sys;
pub mod telemetry;
