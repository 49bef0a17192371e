//! A stopped store on a site that cannot write.

use super::disk::ReadOnlyDisk;
use super::facts::Facts;
use super::finding::{Severity, Verdict};
use super::judge::judge;
use super::report::{StoreReport, report};
use super::scratch::Scratch;
use super::{InspectError, Progress, Tell, walk};
use crate::StoreOptions;
use crate::assemble::recover_failed;
use crate::backing::{Generations, StreamNo};
use crate::core::Core;
use crate::core::pages::Page;
use crate::directory::{self, DirectoryLock, OpenError};
use crate::engine::inspect::remembered_spec;
use crate::engine::open::Parts;
use crate::engine::{Engine, SharedGenerations};
use crate::journal::header::Identity;
use crate::journal::recover::{Recovered, recover};
use crate::journal::writer::Pool;
use crate::spill::inspect::ReadOnlyGenerations;
use crate::views::{SledViews, inspect::labels};
use eventmesh_edge_core::event::{LogId, Position, StoredEvent};
use eventmesh_edge_core::ports::store::{ReadError, StoreSpec};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// How a store is looked at.
#[derive(Clone, Debug)]
pub struct InspectOptions {
    /// Where copies of databases are made: room for the views and for one generation.
    pub scratch: PathBuf,
}

impl Default for InspectOptions {
    fn default() -> Self {
        InspectOptions { scratch: std::env::temp_dir() }
    }
}

/// One bounded step along a stream.
#[derive(Clone, Debug, Default)]
pub struct EventPage {
    /// In order of position.
    pub events: Vec<StoredEvent>,
    /// Everything up to here was looked at: go on after it.
    pub through: Position,
    /// Nothing lies behind.
    pub at_end: bool,
    /// Stretches that could not be read: first and last position that may be missing.
    pub lost: Vec<(Position, Position)>,
}

impl From<Page> for EventPage {
    fn from(page: Page) -> EventPage {
        EventPage { events: page.events, through: page.through, at_end: page.at_end, lost: page.lost }
    }
}

/// A stopped store, opened for looking. No node can start there until it is dropped.
pub struct Inspection {
    core: Core,
    dir: PathBuf,
    disk: Arc<ReadOnlyDisk>,
    recovered: Recovered,
    spec: StoreSpec,
    options: InspectOptions,
    segment_bytes: u32,
    // The views below it are open until the core is gone: fields are dropped in this order.
    _scratch: Arc<Scratch>,
    _lock: Option<DirectoryLock>,
}

/// What of a directory needs no engine.
struct Ground {
    disk: Arc<ReadOnlyDisk>,
    recovered: Recovered,
    identity: Identity,
    epoch: u32,
    scratch: Arc<Scratch>,
}

impl Ground {
    fn find(dir: &Path, options: &InspectOptions) -> Result<Ground, InspectError> {
        let disk = Arc::new(ReadOnlyDisk::new(dir));
        let later = |version: u8| OpenError::Later { path: dir.to_owned(), found: version.to_string() };
        let loaded = walk::identity_of(&disk).map_err(later)?;
        let known = loaded.map(|(identity, _)| identity);
        let recovered = recover(&*disk, known).map_err(|error| recover_failed(dir, error))?;
        let scratch = Arc::new(Scratch::new(&options.scratch)?);
        for label in labels() {
            walk::copy_side(dir, label, &scratch)?;
        }
        let none = Identity { log: LogId(0), secret: 0 };
        let from_segments = recovered.segments.last().map(|found| found.header.identity);
        let epoch = loaded.map_or(0, |(_, epoch)| epoch).max(recovered.epoch);
        let identity = known.or(from_segments).unwrap_or(none);
        Ok(Ground { disk, recovered, identity, epoch, scratch })
    }

    /// The engine as a start makes it.
    fn engine(
        &self,
        spec: StoreSpec,
        generations: Box<dyn Generations>,
    ) -> Result<(Engine, SharedGenerations), InspectError> {
        let (views, _) = SledViews::open(self.scratch.path())?;
        let limits = StoreOptions::default().limits(spec.disk_max);
        let generations: SharedGenerations = Arc::new(Mutex::new(generations));
        let parts = Parts {
            identity: self.identity,
            epoch: self.epoch,
            space: None,
            spec,
            limits,
            views: Box::new(views),
            generations: Arc::clone(&generations),
        };
        let (engine, _) = Engine::open(parts, &self.recovered)?;
        Ok((engine, generations))
    }

    /// What the views and the journal remember of streams, uplinks and cursors.
    fn spec(&self) -> Result<StoreSpec, InspectError> {
        let nothing = StoreSpec {
            streams: Vec::new(),
            uplinks: Vec::new(),
            disk_max: u64::MAX / 4,
            mailbox_max_bytes: u64::MAX,
            mailbox_max_events: u64::MAX,
            mailboxes_max_bytes: u64::MAX,
        };
        let (engine, _) = self.engine(nothing, Box::new(ReadOnlyGenerations::none(&self.scratch)))?;
        Ok(remembered_spec(engine.views())?)
    }
}

impl Inspection {
    /// Opens a stopped store for looking.
    ///
    /// # Errors
    /// [`InspectError`]; [`OpenError::InUse`] while a node has it. Damage is not among the reasons.
    pub fn open(dir: &Path, options: &InspectOptions) -> Result<Inspection, InspectError> {
        let lock = directory::claim_to_read(dir)?;
        let ground = Ground::find(dir, options)?;
        let spec = ground.spec()?;
        // Whoever is not the owner would leave files behind that the node cannot open.
        let own = std::fs::metadata(dir).is_ok_and(|m| m.uid() == rustix::process::geteuid().as_raw());
        let generations = ReadOnlyGenerations::open(dir, &ground.scratch, own)?;
        let (engine, generations) = ground.engine(spec.clone(), Box::new(generations))?;
        let Ground { disk, recovered, scratch, .. } = ground;
        let largest = recovered.segments.iter().map(|found| found.header.size).max();
        let segment_bytes = largest.unwrap_or_default().max(StoreOptions::default().segment_bytes);
        let pool = Arc::new(Pool::new(Arc::clone(&disk) as _, segment_bytes, recovered.next_number));
        let core = Core::new(engine, Arc::clone(&disk) as _, pool, generations);
        Ok(Inspection {
            core,
            dir: dir.to_owned(),
            disk,
            recovered,
            spec,
            options: options.clone(),
            segment_bytes,
            _scratch: scratch,
            _lock: lock,
        })
    }

    /// What it holds.
    #[must_use]
    pub fn report(&self) -> StoreReport {
        report(&self.core, &self.dir, false)
    }

    /// What the directory remembers of its configuration, with bounds that give nothing up: opening the store with it
    /// loses nothing that a start would not lose anyway.
    #[must_use]
    pub fn spec(&self) -> StoreSpec {
        self.spec.clone()
    }

    /// Options that fit the segments that are there.
    #[must_use]
    pub fn store_options(&self) -> StoreOptions {
        StoreOptions { segment_bytes: self.segment_bytes, ..StoreOptions::default() }
    }

    /// Reads a stream, by its number in the report, after a position.
    ///
    /// # Errors
    /// [`ReadError`] if the disk fails; what is damaged is stepped over and named in [`EventPage::lost`].
    pub fn read_stream(
        &self,
        stream: u32,
        after: Position,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<EventPage, ReadError> {
        self.core.read_stream(StreamNo(stream), after, max_events, max_bytes).map(EventPage::from)
    }

    /// Checks every checksum in every kind of file, and whether the files agree with each other.
    ///
    /// # Errors
    /// [`InspectError`] if something cannot be read, or the scratch directory has no room; never for damage.
    pub fn verify(&self, tell: Tell<'_>) -> Result<Verdict, InspectError> {
        let mut progress = Progress::new(walk::size_of(&self.dir), tell);
        let facts = self.facts(&mut progress)?;
        let segments = &facts.journal.segments;
        let mut verdict = Verdict {
            sound: false,
            running: false,
            segments: segments.len() as u64,
            commits: segments.iter().map(|segment| segment.commits).sum(),
            events: segments.iter().map(|segment| segment.events).sum(),
            generations: facts.generations.len() as u64,
            bytes: progress.done(),
            findings: judge(&facts),
            unchecked: Vec::new(),
        };
        verdict.sound = verdict.findings.iter().all(|finding| finding.severity < Severity::Damage);
        Ok(verdict)
    }

    pub(super) fn facts(&self, progress: &mut Progress<'_>) -> Result<Facts, InspectError> {
        // The views that the engine has open are not disturbed.
        let scratch = Scratch::new(&self.options.scratch)?;
        let (sealed, whole) = {
            let engine = self.core.engine();
            (engine.sealed_segments().into_iter().collect(), walk::whole(&engine)?)
        };
        let journal = walk::journal(&self.disk, &self.recovered, &sealed, progress);
        let (generations, leftovers) = walk::generations(&self.dir, Some(&scratch), progress)?;
        Ok(Facts {
            format: walk::format(&self.dir),
            meta: walk::meta(&self.disk),
            journal,
            generations,
            leftovers,
            sides: walk::sides(&self.dir, &scratch, progress)?,
            whole: Some(whole),
            strange: walk::strange(&self.dir),
        })
    }
}
