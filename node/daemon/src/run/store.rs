//! The store, opened or refused with one clear message.

use anyhow::Context;
use eventmesh_edge_config::Config;
use eventmesh_edge_core::ports::store::Store;
use eventmesh_edge_store::JournalStore;
use std::sync::Arc;

pub(super) fn open(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    let dir = &config.node.data_dir;
    JournalStore::open(dir, config.store_spec())
        .with_context(|| format!("open data directory {}", dir.display()))
}
