//! Seeded simulation of store and forwarder in virtual time.
