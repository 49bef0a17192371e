//! The store, opened or refused with one clear message, and what it found.

use eventmesh_edge_config::Config;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::Store as StorePort;
use eventmesh_edge_core::telemetry::PreviousStop;
use eventmesh_edge_store::{GatherOptions, JournalStore, OpenError, Opened, StoreOptions};
use std::sync::Arc;
use tracing::{info, warn};

/// An open store, and what the node tells of its start (docs/node-events.md).
pub(super) struct Store {
    pub(super) port: Arc<dyn StorePort>,
    /// The same, for whoever looks at what is on disk.
    pub(super) journal: Arc<JournalStore>,
    pub(super) previous_stop: PreviousStop,
    pub(super) cut_bytes: u64,
    pub(super) quarantined_files: u64,
}

/// Opens the data directory. Its errors name the directory and say what to do; damage is no error (P6).
pub(super) fn open(config: &Config, clock: &Arc<dyn Clock>) -> Result<Store, OpenError> {
    let gather = GatherOptions { max_delay: config.node.commit_delay, ..GatherOptions::default() };
    let defaults = StoreOptions::default();
    let segment_bytes = defaults.segment_bytes.max(segment_bytes(config));
    let options = StoreOptions { gather, segment_bytes, ..defaults };
    let dir = &config.node.data_dir;
    let (store, opened) = JournalStore::open(dir, config.store_spec(), &options, Arc::clone(clock))?;
    report(&opened);
    let journal = Arc::new(store);
    super::rest::as_long_as_it_gathers(&journal);
    Ok(Store {
        port: Arc::clone(&journal) as Arc<dyn StorePort>,
        journal,
        previous_stop: match (opened.log.is_new, opened.clean) {
            (true, _) => PreviousStop::First,
            (false, true) => PreviousStop::Clean,
            (false, false) => PreviousStop::Unclean,
        },
        cut_bytes: opened.torn_bytes,
        quarantined_files: opened.quarantined.len() as u64,
    })
}

/// A commit is at most one segment: one half for the largest payload, one for the claims of every session on it.
fn segment_bytes(config: &Config) -> u32 {
    let largest =
        config.listeners.iter().map(|listener| listener.max_payload.bytes()).max().unwrap_or_default();
    let largest = largest.max(u64::from(config.session.sessions_max) * CLAIM_BYTES);
    u32::try_from(largest.saturating_mul(2).next_power_of_two()).unwrap_or(u32::MAX)
}

/// One session's claim on an event, with some Subscription Identifiers.
const CLAIM_BYTES: u64 = 16;

fn report(opened: &Opened) {
    info!(
        log = format_args!("{:08x}", opened.log.id),
        is_new = opened.log.is_new,
        epoch = opened.epoch,
        clean = opened.clean,
        replayed = opened.commits_replayed,
        segments = opened.segments,
        generations = opened.generations,
        moved = opened.moved,
        "store opened"
    );
    if opened.torn_bytes > 0 {
        // Not a warning: it is what a power cut in the middle of a write leaves, and nobody was answered for it (P1).
        info!(bytes = opened.torn_bytes, "cut a commit that was being written when the node went down");
    }
    for range in &opened.damaged {
        warn!(?range, "the journal is damaged here: what was in it is counted in the ledger as damaged");
    }
    for name in &opened.quarantined {
        warn!(name, "put aside into `quarantine`: it cannot be read or belongs to another log");
    }
}
