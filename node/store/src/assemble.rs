//! A store from a disk and its backings: identity, epoch, journal, engine. No threads yet.

use crate::backing::{Generations, Views};
use crate::core::{Core, open_failed};
use crate::directory::{OpenError, refused};
use crate::disk::Disk;
use crate::engine::open::{Findings, Parts};
use crate::engine::{Engine, Limits, SharedGenerations};
use crate::gather::GatherOptions;
use crate::journal::header::Identity;
use crate::journal::recover::{RecoverError, Recovered, recover};
use crate::journal::writer::{Pool, Writer};
use crate::journal::{DIR, SEGMENT_BYTES};
use crate::machine::Machine;
use crate::meta::{self, Loaded, Meta};
use eventmesh_edge_core::event::{LogId, Position};
use eventmesh_edge_core::ports::store::{StoreSpec, StreamSpec};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// How a store works; the defaults fit a gateway of 256 MB.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// When a group of commits is written.
    pub gather: GatherOptions,
    /// Size of a journal segment; made smaller by itself where `disk_max` is small. Also the bound of one commit.
    pub segment_bytes: u32,
    /// Commits in one group, at most.
    pub group_commits: usize,
    /// Bytes in one group, at most; one commit may exceed it alone.
    pub group_bytes: usize,
    /// Bytes of the newest groups kept in memory for consumers that keep up.
    pub recent_bytes: usize,
    /// Full segments that consumers still need before they are sealed into one generation.
    pub seal_segments: usize,
    /// Full segments that wait only for a checkpoint of the views before one is made.
    pub checkpoint_segments: usize,
    /// Bytes of changed views in memory before a checkpoint is made.
    pub checkpoint_bytes: usize,
    /// Used segments kept for the next use.
    pub spare_segments: usize,
    /// The machine that this runs on; `None`: look ([`Machine::this`]). A simulated store has no marks of its own.
    pub machine: Option<Machine>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            gather: GatherOptions::default(),
            segment_bytes: SEGMENT_BYTES,
            group_commits: 1024,
            group_bytes: 1 << 20,
            recent_bytes: 1 << 20,
            seal_segments: 16,
            checkpoint_segments: 4,
            checkpoint_bytes: 1 << 20,
            spare_segments: 2,
            machine: None,
        }
    }
}

/// Segments that fit into `disk_max`, at least.
const SEGMENTS_MIN: u64 = 32;
const SEGMENT_BYTES_MIN: u64 = 64 << 10;

impl StoreOptions {
    pub(crate) fn limits(&self, disk_max: u64) -> Limits {
        let fitting = (disk_max / SEGMENTS_MIN).max(SEGMENT_BYTES_MIN) & !0xfff;
        Limits {
            segment_bytes: u32::try_from(fitting).unwrap_or(u32::MAX).min(self.segment_bytes),
            recent_bytes: self.recent_bytes,
            group_commits: self.group_commits.max(1),
            group_bytes: self.group_bytes,
            seal_segments: self.seal_segments.max(1),
            checkpoint_segments: self.checkpoint_segments.max(1),
            checkpoint_bytes: self.checkpoint_bytes,
            spare_segments: self.spare_segments,
        }
    }
}

/// A damaged stretch of a journal segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DamagedRange {
    /// Number of the segment.
    pub segment: u32,
    /// From this byte
    pub from: u32,
    /// up to this one.
    pub to: u32,
    /// First position that may be lost.
    pub first: Position,
    /// The position after it that is whole again, if there is one in the segment.
    pub next: Option<Position>,
}

/// What a start found, for the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Which log.
    pub log: LogIdOrNew,
    /// This start's epoch.
    pub epoch: u32,
    /// Commits that the views did not have yet.
    pub commits_replayed: u64,
    /// Bytes of a group that was being written when the power went; nobody was answered for it.
    pub torn_bytes: u64,
    /// True if the store was closed in order.
    pub clean: bool,
    /// Damage in the journal, counted in the ledger.
    pub damaged: Vec<DamagedRange>,
    /// Files and directories that cannot be read or are not of this log; moved or copied aside.
    pub quarantined: Vec<String>,
    /// Journal segments that still hold something.
    pub segments: usize,
    /// Sealed generations.
    pub generations: usize,
    /// It was written on another machine, told by this kind of mark: a copy, or a disk that moved. New events have a new
    /// log id, so that two copies never give out the same (P3).
    pub moved: Option<&'static str>,
}

/// The log id, and whether it was drawn just now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogIdOrNew {
    /// The log id as a number ([`eventmesh_edge_core::event::LogId`]).
    pub id: u32,
    /// True in a directory that was empty.
    pub is_new: bool,
}

/// Where a store is made: on a real or a simulated disk.
pub(crate) struct Site {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) views: Box<dyn Views>,
    pub(crate) generations: Box<dyn Generations>,
    /// For messages.
    pub(crate) path: PathBuf,
    /// For a log that is new.
    pub(crate) identity: Identity,
    /// Where this runs.
    pub(crate) machine: Machine,
    /// What the backings put aside.
    pub(crate) quarantined: Vec<String>,
}

/// The store at rest: [`Core`] and the writer that only the committer has.
pub(crate) struct Assembled {
    pub(crate) core: Core,
    pub(crate) writer: Writer,
    pub(crate) opened: Opened,
}

/// Opens what is there, or makes it.
pub(crate) fn assemble(site: Site, spec: StoreSpec, options: &StoreOptions) -> Result<Assembled, OpenError> {
    check_spec(&spec)?;
    let Site { disk, views, generations, path, identity, machine, quarantined } = site;
    let io = |what: &'static str| {
        let path = path.clone();
        move |error| refused(&path, what, error)
    };
    make_journal_dir(&*disk).map_err(io("make `journal`"))?;
    let loaded = match meta::load(&*disk) {
        Loaded::Meta(meta, _) => Some(meta),
        Loaded::Nothing(_) => None,
        Loaded::Later(version) => return Err(OpenError::Later { path, found: version.to_string() }),
    };
    let recovered =
        recover(&*disk, loaded.map(|m| m.identity)).map_err(|error| recover_failed(&path, error))?;
    settle_tail(&*disk, &recovered);
    let from_segments = recovered.segments.last().map(|found| found.header.identity);
    let known = loaded.map(|m| m.identity).or(from_segments);
    let epoch = loaded.map_or(0, |m| m.epoch).max(recovered.epoch) + 1;
    let drawn = identity.log;
    let identity = known.unwrap_or(identity);
    let moved = loaded.and_then(|m| m.machine.differs(&machine));
    let space = match moved {
        Some(_) => Some((epoch, drawn)),
        None => loaded.and_then(|m| m.space),
    };
    let before = loaded.filter(|_| moved.is_none()).map_or(Machine::default(), |m| m.machine);
    let meta = Meta { identity, epoch, machine: machine.or(before), space };
    if let Err(error) = meta::store(&*disk, &meta) {
        // The first segment of this epoch carries it too, durably, before it holds anything (P6).
        tracing::warn!(%error, epoch, "meta files cannot be written");
    }
    let limits = options.limits(spec.disk_max);
    let pool = Arc::new(Pool::new(Arc::clone(&disk), limits.segment_bytes, recovered.next_number));
    let generations: SharedGenerations = Arc::new(Mutex::new(generations));
    let parts = Parts { identity, epoch, space, spec, limits, views, generations: Arc::clone(&generations) };
    let (engine, findings) =
        Engine::open(parts, &recovered).map_err(|error| open_failed(&path, "read the views", &error))?;
    let good_end = engine.journal_end();
    let mut opened = report(&engine, &findings, &recovered, known.is_none(), quarantined);
    opened.moved = moved;
    tell_moved(&opened, identity.log);
    let mut writer = Writer::new(Arc::clone(&pool), identity, epoch, good_end);
    let core = Core::new(engine, Arc::clone(&disk), Arc::clone(&pool), generations);
    tidy(&core, &*disk, &pool, &recovered, &opened, limits.spare_segments);
    core.commit_findings(&mut writer);
    Ok(Assembled { core, writer, opened })
}

/// A file system in trouble may refuse to make even what is there, and then it need not be made (P6).
fn make_journal_dir(disk: &dyn Disk) -> std::io::Result<()> {
    match disk.create_dir(DIR) {
        Err(error) if disk.list(DIR).is_ok() => {
            tracing::warn!(%error, "`journal` cannot be made, and is there");
            Ok(())
        }
        made => made,
    }
}

/// What a killed process wrote and had not synced can be read all the same, as long as the power stays. Before it is
/// believed it is made durable: it will be read and forwarded (P3), and the next segment's header vouches for it.
fn settle_tail(disk: &dyn Disk, recovered: &Recovered) {
    let Some(newest) = recovered.segments.last() else { return };
    let synced = newest.source.file.sync_data().and_then(|()| disk.sync_dir(DIR));
    if let Err(error) = synced {
        tracing::warn!(%error, "the end of the journal cannot be synced: what was not answered may be lost again");
    }
}

pub(crate) fn recover_failed(path: &Path, error: RecoverError) -> OpenError {
    match error {
        RecoverError::Later { path: file, version } => {
            OpenError::Later { path: path.join(file), found: version.to_string() }
        }
        RecoverError::Io(error) => refused(path, "read `journal`", error),
    }
}

fn report(
    engine: &Engine,
    findings: &Findings,
    recovered: &Recovered,
    is_new: bool,
    quarantined: Vec<String>,
) -> Opened {
    let damaged = findings.gaps.iter().map(|(segment, gap)| DamagedRange {
        segment: *segment,
        from: gap.from,
        to: gap.to,
        first: gap.before.1,
        next: gap.after.map(|(_, position)| position),
    });
    let LogId(id) = engine.spaces.newest();
    Opened {
        log: LogIdOrNew { id, is_new },
        epoch: engine.epoch,
        commits_replayed: findings.commits_replayed,
        torn_bytes: findings.torn_bytes,
        clean: is_new || findings.clean_end,
        damaged: damaged.collect(),
        quarantined: quarantined.into_iter().chain(recovered.foreign.iter().cloned()).collect(),
        segments: engine.segments.len(),
        generations: engine.generations.len(),
        moved: None,
    }
}

fn tell_moved(opened: &Opened, before: LogId) {
    if let Some(mark) = opened.moved {
        let now = format_args!("{:08x}", opened.log.id);
        tracing::warn!(
            differs = mark, first_log = %before, log = now, epoch = opened.epoch,
            "data directory was written on another machine: new events get a new log id, so that no copy gives out the same \
             (what was stored keeps its ids; if this is a copy, its original will hand on the same stored events)"
        );
    }
}

/// Files that are not part of the log: a few are kept for use, the others go. Best effort.
fn tidy(
    core: &Core,
    disk: &dyn Disk,
    pool: &Pool,
    recovered: &Recovered,
    opened: &Opened,
    spare_segments: usize,
) {
    for path in &recovered.spares {
        if pool.ready() >= spare_segments || pool.recycle(path).is_err() {
            pool.discard(path);
        }
    }
    for path in &recovered.foreign {
        if let Err(error) = disk.rename(path, &format!("{path}.foreign")) {
            tracing::warn!(%error, path, "segment of another log stays where it is");
        }
    }
    for damage in &opened.damaged {
        core.quarantine(damage.segment);
    }
    let mut engine = core.engine();
    engine.counters.quarantined += (opened.quarantined.len() + opened.damaged.len()) as u64;
    engine.counts_ready(pool.ready(), pool.reserved());
}

pub(crate) fn check_spec(spec: &StoreSpec) -> Result<(), OpenError> {
    let mut names = HashSet::new();
    for StreamSpec { name, uplinks, .. } in &spec.streams {
        if name.is_empty() || name.len() > 64 || !names.insert(name.clone()) {
            return Err(OpenError::Spec(format!(
                "stream name {name:?} is empty, longer than 64 bytes, or there twice"
            )));
        }
        if let Some(uplink) = uplinks.iter().find(|u| usize::from(u.0) >= spec.uplinks.len()) {
            return Err(OpenError::Spec(format!(
                "stream {name:?} names uplink {}, which does not exist",
                uplink.0
            )));
        }
    }
    let mut names = HashSet::new();
    match spec.uplinks.iter().find(|name| name.is_empty() || !names.insert((*name).clone())) {
        Some(name) => Err(OpenError::Spec(format!("uplink name {name:?} is empty or there twice"))),
        None => Ok(()),
    }
}
