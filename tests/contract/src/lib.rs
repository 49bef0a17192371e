//! What every [`Store`](eventmesh_edge_core::ports::store::Store) promises, as tests; a store in memory; a store that
//! fails when told to.
//!
//! - [`MemoryStore`]: the port in plain maps. The reference that the suite is tried on first, and the store of unit tests
//!   and of the simulation. It can hold completions back and lose what it has not completed ([`MemoryStore::crash`]).
//! - [`FaultyStore`]: wraps any store and fails, delays or swallows by a seeded [`Script`].
//! - [`Layered`]: a store in front of another, of which only what it does otherwise has to be written ([`Layer`]).
//! - [`contract_tests!`]: one `#[test]` per guarantee in the port's documentation, and a random run against a model.
//!
//! Running the suite on another store takes these lines in its `tests/contract.rs`:
//!
//! ```ignore
//! struct Dir(tempfile::TempDir);
//! impl eventmesh_edge_contract::Factory for Dir {
//!     fn open(&self, spec: StoreSpec) -> Arc<dyn Store> { Arc::new(JournalStore::open(self.0.path(), spec).unwrap()) }
//! }
//! eventmesh_edge_contract::contract_tests!(Dir(tempfile::tempdir().unwrap()));
//! ```
//!
//! The expression is evaluated once per test (and per case of the random run) and must give an empty backing; `open` is
//! called again on the same value after `close`, when the handle before it is dropped.

mod faulty;
mod layer;
mod memory;
mod rng;
pub mod suite;

pub use faulty::{Fault, Faulty, FaultyStore, Script};
pub use layer::{AsStore, Layer, Layered};
pub use memory::{MemoryDisk, MemoryStore};
pub use rng::Rng;
pub use suite::Factory;
