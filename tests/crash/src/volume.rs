//! A directory while a trace runs over it: what is durable, what is only in memory, and what a power cut may leave.
//!
//! A file's bytes and size are durable once an fsync or fdatasync that began after the write ended has returned; names
//! are durable once their directory was synced likewise. `sync_file_range` promises nothing. All that is not durable may
//! be kept, dropped, or torn at 512 bytes, in any combination ([`Unkindness`]). A rename is atomic, also between two
//! directories; a sync of either makes it durable.

use crate::strata::SyncKind;
use crate::trace::{Data, Moment, Node, Op, ROOT, Trace};
use eventmesh_edge_contract::Rng;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::Path;

/// What a device writes in one piece.
const SECTOR: usize = 512;
/// No file of a workload is larger: a recording that says so is wrong.
const FILE_MAX: usize = 64 << 20;

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, data: Data },
    SetLen(usize),
}

#[derive(Clone, Debug)]
struct Pending {
    step: usize,
    change: Change,
    ended: bool,
}

#[derive(Clone, Debug, Default)]
struct FileState {
    durable: Vec<u8>,
    current: Vec<u8>,
    pending: Vec<Pending>,
}

type Names = BTreeMap<String, Node>;
type Dirs = HashMap<Node, Names>;

/// A name operation that is not durable.
#[derive(Clone, Debug)]
struct NameChange {
    step: usize,
    op: Op,
    /// What a rename moves.
    node: Option<Node>,
}

impl NameChange {
    fn touches(&self, node: Node) -> bool {
        match &self.op {
            Op::Link { dir, .. } | Op::Unlink { dir, .. } => *dir == node,
            Op::Rename { from, to, .. } => *from == node || *to == node,
            _ => false,
        }
    }

    fn dir(&self) -> Node {
        match &self.op {
            Op::Link { dir, .. } | Op::Unlink { dir, .. } => *dir,
            Op::Rename { to, .. } => *to,
            _ => ROOT,
        }
    }
}

/// The directory.
#[derive(Clone, Debug)]
pub struct Volume {
    files: HashMap<Node, FileState>,
    /// As a reader sees them.
    dirs: Dirs,
    durable_dirs: Dirs,
    /// The difference.
    names: Vec<NameChange>,
    /// Syncs under way: which steps they will have made durable.
    syncs: HashMap<usize, BTreeSet<usize>>,
    /// Syncs of these kinds are treated as if the code did not have them.
    ignored: Vec<SyncKind>,
    /// Per step.
    kinds: Vec<Option<SyncKind>>,
}

impl Default for Volume {
    fn default() -> Self {
        Self::new()
    }
}

impl Volume {
    /// An empty directory.
    #[must_use]
    pub fn new() -> Self {
        Volume {
            files: HashMap::new(),
            dirs: HashMap::from([(ROOT, Names::new())]),
            durable_dirs: HashMap::from([(ROOT, Names::new())]),
            names: Vec::new(),
            syncs: HashMap::new(),
            ignored: Vec::new(),
            kinds: Vec::new(),
        }
    }

    /// The same, on a disk where some syncs do nothing; `kinds` per step.
    #[must_use]
    pub fn ignoring(ignored: Vec<SyncKind>, kinds: Vec<Option<SyncKind>>) -> Self {
        Volume { ignored, kinds, ..Self::new() }
    }

    /// Lets one moment of `trace` happen.
    pub fn advance(&mut self, trace: &Trace, moment: &Moment) {
        match moment {
            Moment::Begin(step) => {
                if let Some(found) = trace.steps.get(*step) {
                    self.begin(*step, &found.op);
                }
            }
            Moment::End(step) => {
                if let Some(found) = trace.steps.get(*step) {
                    self.end(*step, &found.op);
                }
            }
            Moment::Never(step) => self.never(*step),
            Moment::Mark(_) | Moment::Life => {}
        }
    }

    fn never(&mut self, step: usize) {
        self.syncs.remove(&step);
        for file in self.files.values_mut().filter(|file| file.pending.iter().any(|p| p.step == step)) {
            file.pending.retain(|pending| pending.step != step);
            file.current = file.durable.clone();
            for pending in &file.pending {
                apply(&pending.change, &mut file.current);
            }
        }
    }

    fn begin(&mut self, step: usize, op: &Op) {
        match op {
            Op::Write { node, offset, data } => {
                self.change(*node, step, Change::Write { offset: *offset, data: data.clone() });
            }
            Op::SetLen { node, len } => self.change(*node, step, Change::SetLen(*len)),
            Op::Sync { node, .. } => {
                let mut covered: BTreeSet<usize> =
                    self.names.iter().filter(|name| name.touches(*node)).map(|name| name.step).collect();
                if let Some(file) = self.files.get(node) {
                    covered.extend(file.pending.iter().filter(|p| p.ended).map(|p| p.step));
                }
                self.syncs.insert(step, covered);
            }
            _ => {}
        }
    }

    fn change(&mut self, node: Node, step: usize, change: Change) {
        let file = self.files.entry(node).or_default();
        apply(&change, &mut file.current);
        file.pending.push(Pending { step, change, ended: false });
    }

    fn end(&mut self, step: usize, op: &Op) {
        match op {
            Op::Write { node, .. } | Op::SetLen { node, .. } => {
                let file = self.files.entry(*node).or_default();
                for pending in file.pending.iter_mut().filter(|p| p.step == step) {
                    pending.ended = true;
                }
            }
            Op::Sync { node, .. } => self.synced(step, *node),
            Op::Link { .. } | Op::Unlink { .. } | Op::Rename { .. } => self.rename(step, op),
            Op::SyncRange { .. } => {}
        }
    }

    fn rename(&mut self, step: usize, op: &Op) {
        let node = match op {
            Op::Rename { from, name, .. } => self.dirs.get(from).and_then(|d| d.get(name)).copied(),
            Op::Link { node, is_dir: true, .. } => {
                self.dirs.insert(*node, Names::new());
                self.durable_dirs.insert(*node, Names::new());
                None
            }
            Op::Link { node, .. } => {
                self.files.insert(*node, FileState::default());
                None
            }
            _ => None,
        };
        let change = NameChange { step, op: op.clone(), node };
        put_name(&change, &mut self.dirs);
        self.names.push(change);
    }

    fn synced(&mut self, step: usize, node: Node) {
        let covered = self.syncs.remove(&step).unwrap_or_default();
        if self.kinds.get(step).copied().flatten().is_some_and(|kind| self.ignored.contains(&kind)) {
            return;
        }
        if let Some(file) = self.files.get_mut(&node) {
            let pending = std::mem::take(&mut file.pending);
            for change in pending {
                if covered.contains(&change.step) {
                    apply(&change.change, &mut file.durable);
                } else {
                    file.pending.push(change);
                }
            }
        }
        let names = std::mem::take(&mut self.names);
        for name in names {
            if covered.contains(&name.step) {
                put_name(&name, &mut self.durable_dirs);
            } else {
                self.names.push(name);
            }
        }
    }

    /// What a reader would see now: path to bytes, files only.
    #[must_use]
    pub fn current_files(&self) -> BTreeMap<String, Vec<u8>> {
        let bytes = |node: &Node| self.files.get(node).map(|f| f.current.clone()).unwrap_or_default();
        walk(&self.dirs, &bytes).files
    }

    /// What the power cut leaves.
    #[must_use]
    pub fn cut(&self, unkindness: &Unkindness, rng: &mut Rng) -> Image {
        let names = self.cut_names(unkindness, rng);
        let fates = self.fates(unkindness, rng);
        let mut kept = HashMap::new();
        for (node, file) in &self.files {
            if !file.pending.is_empty() {
                kept.insert(*node, file.left(&fates, unkindness, rng));
            }
        }
        let bytes = |node: &Node| match (kept.get(node), self.files.get(node)) {
            (Some(bytes), _) => bytes.clone(),
            (None, Some(file)) => file.durable.clone(),
            (None, None) => Vec::new(),
        };
        let mut image = walk(&names, &bytes);
        image.torn_append = self.has_torn_append(&names, &kept);
        image
    }

    fn cut_names(&self, unkindness: &Unkindness, rng: &mut Rng) -> Dirs {
        let mut dirs = self.durable_dirs.clone();
        let upto = rng.index(self.names.len() + 1);
        let mut closed: BTreeSet<Node> = BTreeSet::new();
        for (index, name) in self.names.iter().enumerate() {
            let keep = match unkindness.names {
                Keep::All => true,
                Keep::None => false,
                Keep::Prefix => index < upto,
                Keep::PrefixPerFile => {
                    if rng.chance(250) {
                        closed.insert(name.dir());
                    }
                    !closed.contains(&name.dir())
                }
                Keep::Subset(chance) => rng.chance(chance),
            };
            if keep {
                put_name(name, &mut dirs);
            }
        }
        dirs
    }

    /// What becomes of each write that is not durable.
    fn fates(&self, unkindness: &Unkindness, rng: &mut Rng) -> HashMap<usize, Fate> {
        let mut steps: Vec<(usize, Node)> =
            self.files.iter().flat_map(|(node, file)| file.pending.iter().map(|p| (p.step, *node))).collect();
        steps.sort_unstable();
        let upto = rng.index(steps.len() + 1);
        let mut files: HashMap<Node, usize> = HashMap::new();
        for (_, node) in &steps {
            *files.entry(*node).or_default() += 1;
        }
        let mut ordered: Vec<(&Node, &mut usize)> = files.iter_mut().collect();
        ordered.sort_unstable_by_key(|(node, _)| **node);
        for (_, count) in ordered {
            *count = rng.index(*count + 1);
        }
        let mut fates = HashMap::new();
        for (index, (step, node)) in steps.iter().enumerate() {
            let fate = match unkindness.data {
                Keep::All => Fate::Kept,
                Keep::None => Fate::Dropped,
                Keep::Prefix if index == upto => Fate::Torn,
                Keep::Prefix => Fate::of(index < upto),
                Keep::PrefixPerFile => {
                    let left = files.entry(*node).or_default();
                    let keep = *left > 0;
                    *left = left.saturating_sub(1);
                    Fate::of(keep)
                }
                Keep::Subset(_) if rng.chance(unkindness.torn) => Fate::Torn,
                Keep::Subset(chance) => Fate::of(rng.chance(chance)),
            };
            fates.insert(*step, fate);
        }
        fates
    }

    /// True if a frame of a group that was being written is there in part: its length is, its end is not.
    fn has_torn_append(&self, names: &Dirs, kept: &HashMap<Node, Vec<u8>>) -> bool {
        let journal = names.get(&ROOT).and_then(|root| root.get("journal")).and_then(|dir| names.get(dir));
        let segments = journal.into_iter().flatten().filter(|(name, _)| name.ends_with(".seg"));
        segments.into_iter().any(|(_, node)| {
            let (Some(file), Some(left)) = (self.files.get(node), kept.get(node)) else { return false };
            file.pending.iter().any(|pending| match &pending.change {
                Change::Write { offset, data } => {
                    // Headers and zeros are no frames.
                    let is_append = *offset >= 64 && !data.is_blank() && data.len() != 64;
                    is_append && is_torn(*offset, &data.to_vec(), left)
                }
                Change::SetLen(_) => false,
            })
        })
    }
}

/// Frames are a length, a checksum and so many bytes; the first that is not whole decides.
fn is_torn(offset: usize, written: &[u8], left: &[u8]) -> bool {
    let mut at = 0;
    while let Some(len) = written.get(at..at + 4).and_then(|b| b.first_chunk::<4>()) {
        let len = u32::from_le_bytes(*len) as usize;
        let frame = at..at + 8 + len;
        let (Some(wanted), Some(found)) =
            (written.get(frame.clone()), left.get(offset + frame.start..offset + frame.end))
        else {
            return false;
        };
        if len == 0 {
            return false;
        }
        if wanted != found {
            return found.get(..4) == wanted.get(..4);
        }
        at = frame.end;
    }
    false
}

fn put_name(change: &NameChange, dirs: &mut Dirs) {
    match &change.op {
        Op::Link { dir, name, node, .. } => {
            if let Some(names) = dirs.get_mut(dir) {
                names.insert(name.clone(), *node);
            }
        }
        Op::Unlink { dir, name } => {
            if let Some(names) = dirs.get_mut(dir) {
                names.remove(name);
            }
        }
        Op::Rename { from, name, to, new } => {
            if let Some(names) = dirs.get_mut(from)
                && names.get(name).copied() == change.node
            {
                names.remove(name);
            }
            if let (Some(names), Some(node)) = (dirs.get_mut(to), change.node) {
                names.insert(new.clone(), node);
            }
        }
        _ => {}
    }
}

fn apply(change: &Change, bytes: &mut Vec<u8>) {
    match change {
        Change::Write { offset, data } => {
            let end = (offset + data.len()).min(FILE_MAX);
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            if let Some(target) = bytes.get_mut(*offset..end) {
                data.copy(0..end - offset, target);
            }
        }
        Change::SetLen(len) => bytes.resize((*len).min(FILE_MAX), 0),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    Dropped,
    Torn,
}

impl Fate {
    fn of(kept: bool) -> Fate {
        if kept { Fate::Kept } else { Fate::Dropped }
    }
}

impl FileState {
    fn left(&self, fates: &HashMap<usize, Fate>, unkindness: &Unkindness, rng: &mut Rng) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for pending in &self.pending {
            let fate = fates.get(&pending.step).copied().unwrap_or(Fate::Dropped);
            match &pending.change {
                Change::SetLen(len) => {
                    if fate == Fate::Kept || (fate == Fate::Torn && rng.chance(500)) {
                        bytes.resize((*len).min(FILE_MAX), 0);
                    }
                }
                Change::Write { offset, data } => {
                    write_left(&mut bytes, *offset, data, fate, unkindness, rng);
                }
            }
        }
        bytes
    }
}

fn write_left(
    bytes: &mut Vec<u8>,
    offset: usize,
    data: &Data,
    fate: Fate,
    unkindness: &Unkindness,
    rng: &mut Rng,
) {
    let end = (offset + data.len()).min(FILE_MAX);
    let grows = bytes.len() < end;
    let wanted = match unkindness.sizes {
        Sizes::WithData => fate != Fate::Dropped,
        Sizes::Behind => fate != Fate::Dropped && rng.chance(300),
        Sizes::Ahead => true,
    };
    if grows && wanted {
        let before = bytes.len();
        bytes.resize(end, 0);
        if unkindness.garbage {
            for byte in bytes.iter_mut().skip(before) {
                *byte = rng.next_u64().to_le_bytes()[0];
            }
        }
    }
    if fate == Fate::Dropped {
        return;
    }
    let end = end.min(bytes.len());
    let mut at = offset;
    while at < end {
        let next = ((at / SECTOR + 1) * SECTOR).min(end);
        let keep = fate == Fate::Kept || rng.chance(500);
        if keep && let Some(target) = bytes.get_mut(at..next) {
            data.copy(at - offset..next - offset, target);
        }
        at = next;
    }
}

fn walk(dirs: &Dirs, bytes: &dyn Fn(&Node) -> Vec<u8>) -> Image {
    let mut image = Image::default();
    let mut waiting = vec![(String::new(), ROOT, 0u32)];
    while let Some((path, dir, depth)) = waiting.pop() {
        for (name, node) in dirs.get(&dir).into_iter().flatten() {
            let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            if dirs.contains_key(node) {
                // A directory cannot lie in itself; nothing of the store is deeper.
                if depth < 8 {
                    image.dirs.push(below.clone());
                    waiting.push((below, *node, depth + 1));
                }
            } else {
                image.files.insert(below, bytes(node));
            }
        }
    }
    image
}

/// What of some changes is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All: the process was killed, the machine went on.
    All,
    /// Only what is durable.
    None,
    /// The older ones, over all files: a journaling file system, a device without a cache.
    Prefix,
    /// The older ones of each file or directory.
    PrefixPerFile,
    /// Each by itself, with this chance in 1,000.
    Subset(u64),
}

/// What becomes of the size of a file whose last writes are not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// It covers what is kept.
    WithData,
    /// It may not.
    Behind,
    /// It covers what was dropped, too.
    Ahead,
}

/// How a power cut treats what is not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unkindness {
    /// Creations, renames, removals.
    pub names: Keep,
    /// Bytes.
    pub data: Keep,
    /// Chance in 1,000 that a write is torn, under [`Keep::Subset`].
    pub torn: u64,
    /// Sizes.
    pub sizes: Sizes,
    /// What a size covers and nothing wrote is not zero.
    pub garbage: bool,
}

impl Unkindness {
    /// Everything that was written is there.
    pub const NONE: Unkindness =
        Unkindness { names: Keep::All, data: Keep::All, torn: 0, sizes: Sizes::WithData, garbage: false };

    /// Drawn.
    pub fn draw(rng: &mut Rng) -> Unkindness {
        let keep = |rng: &mut Rng| match rng.below(8) {
            0 => Keep::All,
            1 => Keep::None,
            2 | 3 => Keep::Prefix,
            4 => Keep::PrefixPerFile,
            5 => Keep::Subset(100),
            6 => Keep::Subset(500),
            _ => Keep::Subset(900),
        };
        let sizes = match rng.below(4) {
            0 => Sizes::Behind,
            1 => Sizes::Ahead,
            _ => Sizes::WithData,
        };
        Unkindness {
            names: keep(rng),
            data: keep(rng),
            torn: [0, 200, 600].get(rng.index(3)).copied().unwrap_or(0),
            sizes,
            garbage: rng.chance(100),
        }
    }
}

/// A directory after a power cut.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Path to bytes.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Directories, parents first.
    pub dirs: Vec<String>,
    /// A frame of the journal is there in part.
    pub torn_append: bool,
}

impl Image {
    /// Writes it below `path`, which is made.
    ///
    /// # Errors
    /// From the file system.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)?;
        for dir in &self.dirs {
            std::fs::create_dir_all(path.join(dir))?;
        }
        for (name, bytes) in &self.files {
            std::fs::write(path.join(name), bytes)?;
        }
        Ok(())
    }
}
