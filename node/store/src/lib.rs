//! Journal, sled generations and sled views behind the Store port of EventMesh Edge.

pub mod backing;
pub mod spill;
pub mod views;
