//! What is done to the store while it is recorded. A workload is several lives of one data directory; each life is a
//! process of its own, so that it can end like a process that was killed.
//!
//! Every commit but some that only move cursors also sets `Node/last-<life>` to its number: since commits become durable
//! in their order, the value in an image says exactly which of them are in it.

mod changing;
mod life;
mod room;
mod sessions;

pub use self::life::{LifeError, ends_in_order, live};

use crate::fixture::{Fixture, older};
use crate::model::Configured;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Timestamp;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::{Consumer, StoreSpec, StreamId, StreamSpec, UplinkId, WhenFull};
use eventmesh_edge_store::disk::{Disk, RealDisk};
use eventmesh_edge_store::{GatherOptions, JournalStore, Machine, OpenError, StoreOptions};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// When all workloads take place.
pub const BASE_MS: u64 = 1_790_000_000_000;
/// Commits of a life are numbered from here times its number.
pub const NUMBERS_PER_LIFE: u64 = 100_000;
/// Entries that a mailbox takes.
pub const MAILBOX_MAX: u64 = 20;
/// Entries of the ledger that are handed on together.
const ENTRIES: usize = 5;
/// `max_age` of the stream `aged`.
const MAX_AGE: Duration = Duration::from_secs(30);

/// Stream that refuses when it is full; read by both uplinks.
pub const KEPT: u16 = 0;
/// Stream that drops its oldest; read by both uplinks, the second of which never acknowledges anything.
pub const NEWEST: u16 = 1;
/// Stream that expires.
pub const AGED: u16 = 2;
/// Stream without an uplink.
pub const WAITING: u16 = 3;
/// Stream that refuses, and is small enough to do so.
pub const SCARCE: u16 = 4;

/// Stream whose readers come and go; only where a workload has it.
pub const CHANGING: u16 = 5;

/// All consumers but those of [`CHANGING`].
pub const CONSUMERS: [(u16, u16); 7] =
    [(KEPT, 0), (KEPT, 1), (NEWEST, 0), (NEWEST, 1), (AGED, 0), (WAITING, u16::MAX), (SCARCE, 0)];

/// The kinds of workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Workload {
    /// One event per commit, one commit at a time, both uplinks keep up: journal and recycling.
    Forward,
    /// Groups of commits of several events; the second uplink is away for lives, then drains: generations.
    Spill,
    /// Streams that overflow and expire.
    Overflow,
    /// Sessions, mailboxes, packet ids, retained values: views and their checkpoints.
    State,
    /// Like `State`, and between lives a byte of the views changes: quarantine.
    Damage,
    /// Many short lives: epochs.
    Restarts,
    /// A stream that is full refuses, and takes more when its uplink has moved on.
    Refuse,
    /// QoS 2 both ways and sessions that come and go: packet ids, deliveries, what a session leaves behind.
    Sessions,
    /// A directory that an older program left is opened and used on.
    Upgrade,
    /// A stream's readers come, are drained, dropped and renamed, in the open store and between two lives.
    Reshape,
    /// The file system is full for some time: the reserve, relief, the room that returns.
    Room,
}

/// All of them.
pub const WORKLOADS: [Workload; 11] = [
    Workload::Forward,
    Workload::Spill,
    Workload::Overflow,
    Workload::State,
    Workload::Damage,
    Workload::Restarts,
    Workload::Refuse,
    Workload::Sessions,
    Workload::Upgrade,
    Workload::Reshape,
    Workload::Room,
];

/// How much of what a workload does.
struct Mix {
    commits: u64,
    window: usize,
    events: (u64, u64),
    bytes: (u64, u64),
    /// Chance in 1,000 of a commit to change state.
    state: u64,
    /// Chance that a commit is followed by an acknowledgement, per uplink.
    acks: [u64; 2],
    /// Relative weights of the streams.
    streams: [u64; 6],
    /// Simulated milliseconds between commits.
    pace: u64,
}

impl Workload {
    /// How many lives.
    #[must_use]
    pub fn lives(self) -> u32 {
        match self {
            Workload::Restarts => 8,
            Workload::Spill => 5,
            Workload::Upgrade => 3,
            _ => 4,
        }
    }

    /// What is there before the first life, if anything is.
    ///
    /// # Errors
    /// If the fixture cannot be read.
    pub fn begins_with(self, seed: u64) -> std::io::Result<Option<Fixture>> {
        if self == Workload::Upgrade { older(seed).map(Some) } else { Ok(None) }
    }

    /// Whether commits may be refused for want of room.
    #[must_use]
    pub fn refuses(self) -> bool {
        matches!(self, Workload::Refuse | Workload::Room)
    }

    /// Whether files are damaged between lives.
    #[must_use]
    pub fn damages(self) -> bool {
        self == Workload::Damage
    }

    fn mix(self, life: u32) -> Mix {
        let base = Mix {
            commits: 90,
            window: 1,
            events: (1, 1),
            bytes: (20, 400),
            state: 100,
            acks: [800, 800],
            streams: [6, 2, 1, 1, 0, 0],
            pace: 100,
        };
        match self {
            Workload::Forward => Mix { commits: 150, ..base },
            Workload::Spill => Mix {
                commits: 70,
                window: 12,
                events: (1, 8),
                acks: [500, if life >= 3 { 1000 } else { 0 }],
                streams: [8, 1, 1, 1, 0, 0],
                ..base
            },
            Workload::Overflow => Mix {
                window: 4,
                events: (1, 4),
                bytes: (100, 900),
                acks: [200, 200],
                streams: [1, 5, 5, 1, 0, 0],
                pace: 900,
                ..base
            },
            Workload::State | Workload::Damage => {
                Mix { window: 3, events: (0, 2), state: 950, acks: [900, 900], ..base }
            }
            Workload::Restarts => Mix { commits: 12, window: 2, events: (0, 3), state: 400, ..base },
            Workload::Refuse => Mix {
                events: (1, 3),
                bytes: (100, 900),
                acks: [120, 900],
                streams: [2, 1, 0, 0, 8, 0],
                ..base
            },
            Workload::Sessions => Mix { window: 3, acks: [900, 900], ..base },
            Workload::Upgrade => Mix { window: 4, events: (0, 4), state: 500, ..base },
            Workload::Reshape => {
                Mix { window: 3, events: (1, 3), streams: [2, 1, 0, 1, 0, 8], acks: [900, 900], ..base }
            }
            Workload::Room => Mix { events: (1, 3), bytes: (100, 900), acks: [600, 600], ..base },
        }
    }
}

/// The consumers of [`CHANGING`].
#[must_use]
pub fn readers_of(configured: &Configured) -> Vec<(u16, u16)> {
    let readers = configured.readers.iter().copied();
    let nobody = configured.readers.is_empty().then_some(u16::MAX);
    readers.chain(nobody).map(|uplink| (CHANGING, uplink)).collect()
}

/// The spec with the stream [`CHANGING`], if it has come.
#[must_use]
pub fn spec_of(changing: Option<&Configured>) -> StoreSpec {
    let mut spec = spec();
    let Some(Configured { readers, known }) = changing else { return spec };
    let own = u16::try_from(spec.uplinks.len()).unwrap_or(u16::MAX);
    let others = own..known.map_or(own, |known| known + 1);
    spec.uplinks.extend(others.map(|no| Text::from(format!("reader-{no}"))));
    spec.streams.push(StreamSpec {
        name: "changing".into(),
        uplinks: readers.iter().copied().map(UplinkId).collect(),
        max_bytes: 1 << 20,
        max_age: None,
        when_full: WhenFull::Refuse,
    });
    spec
}

/// The spec of all workloads.
#[must_use]
pub fn spec() -> StoreSpec {
    let stream = |name: &str, uplinks: &[u16], max_bytes, when_full, max_age| StreamSpec {
        name: name.to_owned().into(),
        uplinks: uplinks.iter().map(|u| UplinkId(*u)).collect(),
        max_bytes,
        max_age,
        when_full,
    };
    StoreSpec {
        streams: vec![
            stream("kept", &[0, 1], 1 << 20, WhenFull::Refuse, None),
            stream("newest", &[0, 1], 24 << 10, WhenFull::DropOldest, None),
            stream("aged", &[0], 1 << 20, WhenFull::Refuse, Some(MAX_AGE)),
            stream("waiting", &[], 1 << 20, WhenFull::Refuse, None),
            stream("scarce", &[0], 8 << 10, WhenFull::Refuse, None),
        ],
        uplinks: vec!["up".into(), "down".into()],
        disk_max: 64 << 20,
        mailbox_max_bytes: 1 << 20,
        mailbox_max_events: MAILBOX_MAX,
        mailboxes_max_bytes: 1 << 30,
    }
}

/// Options so small that seals and checkpoints happen within a few dozen commits.
#[must_use]
pub fn options() -> StoreOptions {
    StoreOptions {
        gather: GatherOptions { lazy_delay: Duration::from_millis(1), ..GatherOptions::default() },
        segment_bytes: 16 << 10,
        recent_bytes: 4 << 10,
        seal_segments: 3,
        checkpoint_segments: 2,
        checkpoint_bytes: 6 << 10,
        // Kept images are opened on other machines, where a directory notices that it moved.
        machine: Some(Machine::default()),
        ..StoreOptions::default()
    }
}

struct FixedWall(Instant);

impl Clock for FixedWall {
    fn now(&self) -> Timestamp {
        Timestamp(BASE_MS)
    }
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Opens the real store as the workloads do.
///
/// # Errors
/// [`OpenError`].
pub fn open(
    dir: &Path,
    changing: Option<&Configured>,
) -> Result<(JournalStore, eventmesh_edge_store::Opened), OpenError> {
    open_on(dir, Arc::new(RealDisk::new(dir)), changing)
}

fn open_on(
    dir: &Path,
    disk: Arc<dyn Disk>,
    changing: Option<&Configured>,
) -> Result<(JournalStore, eventmesh_edge_store::Opened), OpenError> {
    JournalStore::open_on(dir, disk, spec_of(changing), &options(), Arc::new(FixedWall(Instant::now())))
}

/// The consumer with these numbers.
#[must_use]
pub fn consumer((stream, uplink): (u16, u16)) -> Consumer {
    Consumer { stream: StreamId(stream), uplink: UplinkId(uplink) }
}
