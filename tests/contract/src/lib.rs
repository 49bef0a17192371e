//! Contract suite of the Store port, with the memory store and the fault-injecting wrapper.
