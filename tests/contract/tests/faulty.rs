//! The contract on the fault-injecting wrapper while nothing fails: it adds nothing of its own.

use eventmesh_edge_contract::{Factory, FaultyStore, MemoryDisk, Script};
use eventmesh_edge_core::ports::store::{Store, StoreSpec};
use std::sync::Arc;

struct Faultless(MemoryDisk);

impl Factory for Faultless {
    fn open(&self, spec: StoreSpec) -> Arc<dyn Store> {
        Arc::new(FaultyStore::new(self.0.open(spec), Script::none()))
    }
}

eventmesh_edge_contract::contract_tests!(Faultless(MemoryDisk::default()));
