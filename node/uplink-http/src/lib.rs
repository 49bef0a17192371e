//! Uplink to whatever takes CloudEvents over HTTP.
