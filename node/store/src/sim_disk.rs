//! A simulated disk: in memory, deterministic, and as unkind as the contract of a real one allows.
//!
//! - What was written after the last good [`DiskFile::sync_data`] may, after [`SimDisk::power_cut`], be there, be missing
//!   or be torn at 512-byte sectors, each write by itself, decided by the seed.
//! - Creations, renames and removals after the last [`Disk::sync_dir`] survive as a prefix of their order.
//! - After a *failed* sync, what it should have made durable is never made durable by a later one (Linux marks such pages
//!   clean), although it can be read until the cut.
//! - [`SimDisk::fail`] makes the n-th operation fail with ENOSPC, EIO or a short write; [`SimDisk::set_capacity`] makes a
//!   disk that is really full.
//!
//! Handles opened before a cut answer EIO after it. Making a directory is durable at once: the store makes its three
//! directories before it holds anything.

use crate::disk::{Disk, DiskEntry, DiskFile, Mode};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SECTOR: usize = 512;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// ENOSPC, nothing done.
    NoSpace,
    /// EROFS, nothing done: the file system went read-only under a running node.
    ReadOnly,
    /// EIO, nothing done (a failed sync loses what it should have kept).
    Io,
    /// A write puts down the first half, then EIO. Other operations: as [`Fault::Io`].
    Short,
}

/// Which operations a fault waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any of the others.
    Any,
    /// [`DiskFile::write_at`] and [`DiskFile::set_len`].
    Write,
    /// [`DiskFile::sync_data`].
    Sync,
    /// Everything that changes names.
    Names,
}

#[derive(Clone, Debug)]
enum Change {
    Data { offset: usize, bytes: Vec<u8> },
    Len(usize),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Since the last sync, in order; a failed sync leaves its changes here, marked as out of reach of later syncs.
    pending: Vec<(Change, bool)>,
}

#[derive(Clone, Debug)]
enum NameOp {
    Link(String, u64),
    Unlink(String),
    /// Atomic, as POSIX has it.
    Rename(String, String),
}

#[derive(Clone, Debug)]
struct Plan {
    kind: Kind,
    skip: u64,
    times: u64,
    fault: Fault,
}

#[derive(Debug, Default)]
struct State {
    boot: u64,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    pending_names: Vec<(String, NameOp)>,
    dirs: BTreeSet<String>,
    plans: Vec<Plan>,
    ops: u64,
    syncs: u64,
    capacity: Option<usize>,
}

/// The simulated disk. Clones share the same platters.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        SimDisk::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After `skip` more operations of `kind`, the next `times` of them fail.
    pub fn fail(&self, kind: Kind, skip: u64, times: u64, fault: Fault) {
        self.lock().plans.push(Plan { kind, skip, times, fault });
    }

    /// Forgets all faults and the capacity.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.plans.clear();
        state.capacity = None;
    }

    /// Bytes that all files together may have.
    pub fn set_capacity(&self, bytes: usize) {
        self.lock().capacity = Some(bytes);
    }

    /// Bytes of all files.
    #[must_use]
    pub fn used(&self) -> usize {
        self.lock().used()
    }

    /// Operations that change something, so far.
    #[must_use]
    pub fn ops(&self) -> u64 {
        self.lock().ops
    }

    /// Successful `sync_data` calls so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// The power goes away and comes back; faults are forgotten.
    pub fn power_cut(&self, seed: u64) {
        let mut state = self.lock();
        let mut dice = Dice(seed);
        state.boot += 1;
        state.plans.clear();
        let kept = state.pending_names.len() as u64;
        let kept = dice.below(kept + 1);
        let ops = std::mem::take(&mut state.pending_names);
        for (_, op) in ops.into_iter().take(usize::try_from(kept).unwrap_or(0)) {
            op.apply(&mut state.durable_names);
        }
        state.names = state.durable_names.clone();
        for inode in state.inodes.values_mut() {
            inode.lose_power(&mut dice);
        }
        let live: BTreeSet<u64> = state.names.values().copied().collect();
        state.inodes.retain(|number, _| live.contains(number));
    }

    /// Another disk with the same contents, all of it durable.
    #[must_use]
    pub fn fork(&self) -> SimDisk {
        let state = self.lock();
        let mut inodes = state.inodes.clone();
        for inode in inodes.values_mut() {
            inode.durable = inode.current.clone();
            inode.pending.clear();
        }
        let forked = State {
            inodes,
            next_inode: state.next_inode,
            names: state.names.clone(),
            durable_names: state.names.clone(),
            dirs: state.dirs.clone(),
            ..State::default()
        };
        SimDisk { state: Arc::new(Mutex::new(forked)) }
    }

    /// Removes a file behind everybody's back.
    pub fn lose(&self, path: &str) {
        let mut state = self.lock();
        state.names.remove(path);
        state.durable_names.remove(path);
    }

    /// Changes bytes behind everybody's back: a bad sector, a flipped bit.
    pub fn corrupt(&self, path: &str, offset: usize, change: impl FnOnce(&mut [u8])) {
        let mut state = self.lock();
        let Some(number) = state.names.get(path).copied() else { return };
        let Some(inode) = state.inodes.get_mut(&number) else { return };
        if let Some(bytes) = inode.current.get_mut(offset..) {
            change(bytes);
        }
        inode.durable = inode.current.clone();
        inode.pending.clear();
    }
}

impl State {
    fn used(&self) -> usize {
        self.names.values().filter_map(|n| self.inodes.get(n)).map(|i| i.current.len()).sum()
    }

    /// Counts an operation; the fault it meets, if any.
    fn step(&mut self, kind: Kind) -> Option<Fault> {
        self.ops += 1;
        let mut hit = None;
        for plan in self.plans.iter_mut().filter(|p| p.kind == kind || p.kind == Kind::Any) {
            if plan.skip > 0 {
                plan.skip -= 1;
            } else if plan.times > 0 && hit.is_none() {
                plan.times -= 1;
                hit = Some(plan.fault);
            }
        }
        self.plans.retain(|p| p.times > 0);
        hit
    }

    fn change_name(&mut self, op: NameOp) {
        let path = match &op {
            NameOp::Link(path, _) | NameOp::Unlink(path) | NameOp::Rename(_, path) => path.clone(),
        };
        op.clone().apply(&mut self.names);
        self.pending_names.push((parent(&path).to_owned(), op));
    }
}

impl NameOp {
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameOp::Link(path, inode) => {
                names.insert(path, inode);
            }
            NameOp::Unlink(path) => {
                names.remove(&path);
            }
            NameOp::Rename(from, to) => {
                if let Some(inode) = names.remove(&from) {
                    names.insert(to, inode);
                }
            }
        }
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Data { offset, bytes } => {
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                if let Some(place) = content.get_mut(*offset..end) {
                    place.copy_from_slice(bytes);
                }
            }
            Change::Len(len) => content.resize(*len, 0),
        }
    }

    fn overlaps(&self, other: &Change) -> bool {
        match (self, other) {
            (Change::Data { offset: a, bytes: x }, Change::Data { offset: b, bytes: y }) => {
                *a < b + y.len() && *b < a + x.len()
            }
            _ => false,
        }
    }

    /// What is left of it after a cut: each sector by itself.
    fn torn(&self, dice: &mut Dice, content: &mut Vec<u8>) {
        let Change::Data { offset, bytes } = self else { return };
        let mut at = 0;
        while at < bytes.len() {
            let end = bytes.len().min(((offset + at) / SECTOR + 1) * SECTOR - offset);
            if dice.below(2) == 0 {
                let piece = bytes.get(at..end).unwrap_or_default().to_vec();
                Change::Data { offset: offset + at, bytes: piece }.apply(content);
            }
            at = end;
        }
    }
}

impl Inode {
    fn write(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.pending.push((change, false));
    }

    fn synced(&mut self) {
        for (change, out_of_reach) in std::mem::take(&mut self.pending) {
            if out_of_reach {
                self.pending.push((change, true));
            } else {
                change.apply(&mut self.durable);
                // What was written over is decided: the lost write below it cannot come back.
                self.pending.retain(|(lost, _)| !lost.overlaps(&change));
            }
        }
    }

    fn sync_failed(&mut self) {
        for (_, out_of_reach) in &mut self.pending {
            *out_of_reach = true;
        }
    }

    fn lose_power(&mut self, dice: &mut Dice) {
        let mut content = std::mem::take(&mut self.durable);
        for (change, _) in std::mem::take(&mut self.pending) {
            match dice.below(3) {
                0 => {}
                1 => change.apply(&mut content),
                _ => change.torn(dice, &mut content),
            }
        }
        self.current = content.clone();
        self.durable = content;
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.lock();
        // Harsher than Linux, which sees that it is there before it looks for room.
        fail(state.step(Kind::Names))?;
        state.dirs.insert(dir.to_owned());
        Ok(())
    }

    fn open(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        let number = match (state.names.get(path).copied(), mode) {
            (Some(_), Mode::New) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(number), _) => number,
            (None, Mode::Existing) => return Err(io::ErrorKind::NotFound.into()),
            (None, _) => {
                fail(state.step(Kind::Names))?;
                state.next_inode += 1;
                let number = state.next_inode;
                state.inodes.insert(number, Inode::default());
                state.change_name(NameOp::Link(path.to_owned(), number));
                number
            }
        };
        Ok(Arc::new(SimFile { disk: self.clone(), boot: state.boot, number }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DiskEntry>> {
        let state = self.lock();
        if !dir.is_empty() && !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let files =
            state.names.iter().filter(|(path, _)| parent(path) == dir).map(|(path, number)| DiskEntry {
                name: name(path).to_owned(),
                len: state.inodes.get(number).map_or(0, |i| i.current.len() as u64),
                is_dir: false,
            });
        let dirs = state.dirs.iter().filter(|path| !path.is_empty() && parent(path) == dir);
        let dirs = dirs.map(|path| DiskEntry { name: name(path).to_owned(), len: 0, is_dir: true });
        let mut entries: Vec<DiskEntry> = files.chain(dirs).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        fail(state.step(Kind::Names))?;
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_name(NameOp::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.lock();
        fail(state.step(Kind::Names))?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_name(NameOp::Unlink(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.lock();
        fail(state.step(Kind::Names))?;
        let (done, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.pending_names).into_iter().partition(|(d, _)| d == dir);
        state.pending_names = rest;
        for (_, op) in done {
            op.apply(&mut state.durable_names);
        }
        Ok(())
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let state = self.lock();
        let number = state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(state.inodes.get(number).map(|i| i.current.clone()).unwrap_or_default())
    }
}

struct SimFile {
    disk: SimDisk,
    boot: u64,
    number: u64,
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut State, u64) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.lock();
        if state.boot != self.boot {
            return Err(io::Error::other("this handle did not survive the power cut"));
        }
        act(&mut state, self.number)
    }
}

impl DiskFile for SimFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.with(|state, number| {
            let fault = state.step(Kind::Write);
            let used = state.used();
            let capacity = state.capacity;
            let inode = state.inodes.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
            let grows = (offset + bytes.len()).saturating_sub(inode.current.len());
            if fault == Some(Fault::Short) {
                let half = bytes.get(..bytes.len() / 2).unwrap_or_default().to_vec();
                inode.write(Change::Data { offset, bytes: half });
            }
            fail(fault)?;
            if grows > 0 && capacity.is_some_and(|capacity| used + grows > capacity) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            inode.write(Change::Data { offset, bytes: bytes.to_vec() });
            Ok(())
        })
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.with(|state, number| {
            let inode = state.inodes.get(&number).ok_or(io::ErrorKind::NotFound)?;
            let there = inode.current.get(offset..).unwrap_or_default();
            let n = there.len().min(buf.len());
            if let (Some(to), Some(from)) = (buf.get_mut(..n), there.get(..n)) {
                to.copy_from_slice(from);
            }
            Ok(n)
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state, number| Ok(state.inodes.get(&number).map_or(0, |i| i.current.len() as u64)))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.with(|state, number| {
            fail(state.step(Kind::Write))?;
            let inode = state.inodes.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
            inode.write(Change::Len(len));
            Ok(())
        })
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let end = usize::try_from(len).map_err(io::Error::other)?;
        self.with(|state, number| {
            fail(state.step(Kind::Write))?;
            let used = state.used();
            let capacity = state.capacity;
            let inode = state.inodes.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
            let grows = end.saturating_sub(inode.current.len());
            if capacity.is_some_and(|capacity| used + grows > capacity) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            inode.write(Change::Len(end));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state, number| {
            let fault = state.step(Kind::Sync);
            let inode = state.inodes.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
            if fault.is_some() {
                inode.sync_failed();
            } else {
                inode.synced();
                state.syncs += 1;
            }
            fail(fault)
        })
    }
}

fn fail(fault: Option<Fault>) -> io::Result<()> {
    match fault {
        None => Ok(()),
        Some(Fault::NoSpace) => Err(io::ErrorKind::StorageFull.into()),
        Some(Fault::ReadOnly) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        Some(Fault::Io | Fault::Short) => Err(io::Error::other("simulated EIO")),
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.next() % n }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_synced_write_survives_every_cut_and_an_unsynced_one_some() {
        let mut survived = 0;
        for seed in 0..200 {
            let disk = SimDisk::new();
            let file = disk.open("a", Mode::New).unwrap();
            disk.sync_dir("").unwrap();
            file.write_at(0, b"kept").unwrap();
            file.sync_data().unwrap();
            file.write_at(4, b"maybe").unwrap();
            disk.power_cut(seed);
            let content = disk.read("a").unwrap();
            assert!(content.starts_with(b"kept"), "seed {seed}");
            survived += u32::from(content.ends_with(b"maybe"));
            assert!(file.sync_data().is_err(), "old handles are dead");
        }
        assert!((50..190).contains(&survived), "{survived} of 200");
    }

    #[test]
    fn what_a_failed_sync_should_have_kept_is_not_kept_by_the_next() {
        let mut lost = 0;
        for seed in 0..50 {
            let disk = SimDisk::new();
            let file = disk.open("a", Mode::New).unwrap();
            disk.sync_dir("").unwrap();
            file.write_at(0, b"x").unwrap();
            disk.fail(Kind::Sync, 0, 1, Fault::Io);
            assert!(file.sync_data().is_err());
            file.sync_data().unwrap();
            disk.power_cut(seed);
            lost += u32::from(disk.read("a").unwrap().is_empty());
        }
        assert!(lost > 5, "{lost} of 50");
    }

    #[test]
    fn names_survive_as_a_prefix() {
        for seed in 0..50 {
            let disk = SimDisk::new();
            disk.create_dir("d").unwrap();
            disk.open("d/a", Mode::New).unwrap();
            disk.sync_dir("d").unwrap();
            disk.rename("d/a", "d/b").unwrap();
            disk.power_cut(seed);
            let names: Vec<_> = disk.list("d").unwrap().into_iter().map(|e| e.name).collect();
            assert_eq!(names.len(), 1, "a rename is atomic, seed {seed}");
        }
    }
}
