//! The contract on the memory store.

use eventmesh_edge_contract::{Factory, MemoryDisk};
use eventmesh_edge_core::ports::store::{Store, StoreSpec};
use std::sync::Arc;

struct Memory(MemoryDisk);

impl Factory for Memory {
    fn open(&self, spec: StoreSpec) -> Arc<dyn Store> {
        self.0.open(spec)
    }

    fn cases(&self) -> u32 {
        256
    }
}

eventmesh_edge_contract::contract_tests!(Memory(MemoryDisk::default()));
