//! One of the two databases: writing a checkpoint into it, proving it, reading it.

use super::entry::{self, MARKER_KEY, Place, StoredKey};
use super::proof::{Proof, Tally};
use crate::backing::{BackingError, Lsn};
use crate::spill::files::{self, damaged, io_error};
use crate::spill::sled_dir::{self, Entries, SledDir};
use bytes::Bytes;
use sled::IVec;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of keys and values read or written before the database is reopened: what bounds the memory of its cache.
pub(super) const WINDOW_BYTES: usize = 2 * 1024 * 1024;

/// The same of a large side, as a share of what it holds.
const WINDOW_SHARE: u64 = 16;

/// Up to this size every entry is checked when a side is opened or was written; above, the marker alone.
const FULL_CHECK_BYTES: u64 = 8 * 1024 * 1024;

/// A side whose file is this much larger than what it holds is written anew.
const BLOAT_FACTOR: u64 = 6;
const BLOAT_ALLOWANCE: u64 = 16 * 1024 * 1024;

/// One side.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) label: &'static str,
    path: PathBuf,
    /// Where it is filled anew, while what it was before still counts.
    filling: PathBuf,
    proof_path: PathBuf,
    /// `None`: empty, or an unfinished checkpoint.
    pub(super) proof: Option<Proof>,
    /// The changes in memory, on top of this side, are the whole map; so a checkpoint needs to write only those.
    pub(super) caught_up: bool,
}

/// What lies where a side should be.
pub(super) enum Found {
    Nothing,
    /// A checkpoint that was not finished: removed.
    Unfinished,
    /// Claims to be proven; yet to be [checked](Side::check).
    Proven,
    /// A proof that cannot be read, or one without a database.
    Damaged(BackingError),
}

impl Side {
    pub(super) fn new(data_dir: &Path, label: &'static str) -> Side {
        let beside = |suffix| data_dir.join(format!("{label}.{suffix}"));
        let (path, filling, proof_path) = (data_dir.join(label), beside("filling"), beside("proof"));
        Side { label, path, filling, proof_path, proof: None, caught_up: false }
    }

    pub(super) fn lsn(&self) -> Lsn {
        self.proof.map_or(Lsn(0), |proof| proof.lsn)
    }

    /// Whether it has any entry: if not, it is never opened.
    pub(super) fn holds_entries(&self) -> bool {
        self.proof.is_some_and(|proof| proof.tally.parts > 0)
    }

    /// How much of it may be read before its cache is given back: a small part, but of a large one not so small that most
    /// of the time goes into opening it; all of it, if it is small.
    pub(super) fn window_bytes(&self) -> usize {
        let bytes = self.proof.map_or(0, |proof| proof.tally.bytes);
        if bytes <= WINDOW_BYTES as u64 {
            return usize::MAX;
        }
        usize::try_from(bytes / WINDOW_SHARE).unwrap_or(usize::MAX).max(WINDOW_BYTES)
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        files::disk_bytes(&self.path)
    }

    /// Looks at the proof, and removes what an unfinished checkpoint left.
    pub(super) fn find(&mut self) -> Result<Found, BackingError> {
        files::remove_dir(&self.filling)?;
        let found = match fs::read(&self.proof_path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_error(format!("read {}", self.proof_path.display()))(error)),
        };
        let there = self.path.is_dir();
        let Some(bytes) = found else {
            if there {
                // A process killed between the removal of the proof and its sync leaves a name that may come back with the
                // next power cut, and a proof without its database is damage.
                self.path.parent().map_or(Ok(()), files::sync_dir)?;
            }
            files::remove_dir(&self.path)?;
            return Ok(if there { Found::Unfinished } else { Found::Nothing });
        };
        self.proof = Proof::decode(&bytes);
        Ok(match self.proof {
            None => Found::Damaged(damaged(&self.proof_path, "its checksum is wrong")),
            Some(_) if !there => Found::Damaged(damaged(&self.path, "the directory is missing")),
            Some(_) => Found::Proven,
        })
    }

    /// Opens the database and compares what it holds with its proof.
    pub(super) fn check(&self) -> Result<(), BackingError> {
        self.proof.as_ref().map_or(Ok(()), |proof| check(&self.path, proof))
    }

    /// Opens it for reading.
    pub(super) fn open(&self) -> Result<SledDir, BackingError> {
        SledDir::open(&self.path)
    }

    /// Moves it out of the way; what cannot even be moved is removed, so that it never counts again.
    pub(super) fn set_aside(&mut self, data_dir: &Path, keep: usize) -> Result<(), BackingError> {
        self.forget()?;
        if self.path.exists() && files::quarantine(data_dir, &self.path, self.label, keep).is_err() {
            files::remove_dir(&self.path)?;
        }
        Ok(())
    }

    /// Takes its proof away, durably, so that the next open passes it over. It goes on being read until then.
    pub(super) fn condemn(&self) -> Result<(), BackingError> {
        files::remove_file_durable(&self.proof_path)
    }

    /// From now on it counts for nothing.
    fn forget(&mut self) -> Result<(), BackingError> {
        self.condemn()?;
        self.proof = None;
        self.caught_up = false;
        Ok(())
    }

    /// Whether the changes after its commit can be written into it as it is; otherwise it is filled anew.
    pub(super) fn takes_changes(&self) -> bool {
        let bloated = |proof: &Proof| self.disk_bytes() > BLOAT_ALLOWANCE + BLOAT_FACTOR * proof.tally.bytes;
        self.caught_up && self.proof.as_ref().is_some_and(|proof| !bloated(proof))
    }

    /// Begins a checkpoint in place: until [`Side::conclude`] the side counts for nothing.
    pub(super) fn begin_changes(&mut self) -> Result<Writing, BackingError> {
        let tally = self.proof.map(|proof| proof.tally).unwrap_or_default();
        self.forget()?;
        let written_before = sled_dir::log_bytes(&self.path);
        Ok(Writing { sled: SledDir::open(&self.path)?, tally, in_window: 0, written_before })
    }

    /// Begins a checkpoint beside what the side was before, which counts until [`Side::conclude`].
    pub(super) fn begin_filling(&self) -> Result<Writing, BackingError> {
        files::remove_dir(&self.filling)?;
        let sled = SledDir::open(&self.filling)?;
        Ok(Writing { sled, tally: Tally::default(), in_window: 0, written_before: 0 })
    }

    /// Writes the marker behind everything, proves the database by opening it anew, syncs it, and makes it count. Returns
    /// the bytes written.
    pub(super) fn conclude(&mut self, writing: Writing, lsn: Lsn) -> Result<u64, BackingError> {
        let Writing { sled, tally, written_before, .. } = writing;
        let path = sled.path().to_owned();
        let proof = Proof { lsn, tally };
        sled.flush()?;
        sled.insert(MARKER_KEY, &proof.encode())?;
        sled.close()?;
        check(&path, &proof)?;
        // After the check, because the first open after a write rewrites the log's tail and makes a snapshot.
        files::sync_tree(&path)?;
        if path == self.filling {
            self.forget()?;
            files::remove_dir(&self.path)?;
            fs::rename(&path, &self.path)
                .map_err(io_error(format!("rename {} into place", path.display())))?;
            // A file system may persist two renames in either order, and a proof without its database is damage.
            path.parent().map_or(Ok(()), files::sync_dir)?;
        }
        files::write_durable(&self.proof_path, &proof.encode())?;
        self.proof = Some(proof);
        self.caught_up = true;
        Ok(sled_dir::log_bytes(&self.path).saturating_sub(written_before) + proof.encode().len() as u64)
    }
}

/// Opens a database and compares what it holds with a proof. One that is not small is compared by its marker.
pub(super) fn check(path: &Path, proof: &Proof) -> Result<(), BackingError> {
    let mut sled = SledDir::open(path)?;
    let marker = sled.get(MARKER_KEY)?;
    if marker.as_deref() != Some(proof.encode().as_slice()) {
        return Err(damaged(path, "it does not hold the checkpoint it was proven to hold"));
    }
    if proof.tally.bytes <= FULL_CHECK_BYTES {
        let mut tally = Tally::default();
        for_each_part(&mut sled, |key, part, stored| {
            tally.add(part.checksum, key.len() + stored.len());
            Ok(())
        })?;
        if tally != proof.tally {
            return Err(damaged(path, "its entries are not those of the checkpoint"));
        }
    }
    sled.close()
}

/// A checkpoint being written.
pub(super) struct Writing {
    sled: SledDir,
    tally: Tally,
    in_window: usize,
    written_before: u64,
}

impl Writing {
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), BackingError> {
        let place = Place::of(key);
        let mut stale = 0;
        let Writing { sled, tally, in_window, .. } = self;
        let parts = entry::write_parts(&place, key, value, |sled_key, stored| {
            *in_window += sled_key.len() + stored.len();
            stale = stale.max(insert(sled, tally, sled_key, stored)?);
            Ok(())
        });
        let parts = parts
            .map_err(|error| error.unwrap_or_else(|| damaged(sled.path(), "a value is over 256 MiB")))?;
        self.remove_parts(&place, parts..stale)?;
        self.keep_window()
    }

    pub(super) fn delete(&mut self, key: &[u8]) -> Result<(), BackingError> {
        let place = Place::of(key);
        let removed = remove(&self.sled, &mut self.tally, &place.part(0))?;
        self.remove_parts(&place, 1..removed)?;
        self.keep_window()
    }

    /// Takes one part of another side over into this one, which began empty.
    pub(super) fn copy(&mut self, key: &[u8], stored: &[u8]) -> Result<(), BackingError> {
        self.in_window += key.len() + stored.len();
        insert(&self.sled, &mut self.tally, key, stored)?;
        self.keep_window()
    }

    fn remove_parts(&mut self, place: &Place, parts: std::ops::Range<u16>) -> Result<(), BackingError> {
        for part in parts {
            remove(&self.sled, &mut self.tally, &place.part(part))?;
        }
        Ok(())
    }

    fn keep_window(&mut self) -> Result<(), BackingError> {
        if self.in_window > WINDOW_BYTES {
            self.in_window = 0;
            self.sled.reopen()?;
        }
        Ok(())
    }
}

/// Puts one part; returns how many parts the entry had that it replaces, if this is its part 0.
fn insert(sled: &SledDir, tally: &mut Tally, key: &[u8], stored: &[u8]) -> Result<u16, BackingError> {
    let number = part_number(sled.path(), key)?;
    let part = entry::read_part(key, number, stored)
        .ok_or_else(|| damaged(sled.path(), "a part reads back wrong"))?;
    let before = sled.insert(key, stored)?;
    tally.add(part.checksum, key.len() + stored.len());
    forget(sled.path(), tally, key, number, before)
}

fn remove(sled: &SledDir, tally: &mut Tally, key: &[u8]) -> Result<u16, BackingError> {
    let before = sled.remove(key)?;
    forget(sled.path(), tally, key, part_number(sled.path(), key)?, before)
}

/// Takes what was there before out of the tally.
fn forget(
    path: &Path,
    tally: &mut Tally,
    key: &[u8],
    number: u16,
    before: Option<IVec>,
) -> Result<u16, BackingError> {
    let Some(before) = before else { return Ok(0) };
    let part = entry::read_part(key, number, &before)
        .ok_or_else(|| damaged(path, "an entry has a wrong checksum"))?;
    tally.subtract(part.checksum, key.len() + before.len());
    Ok(part.total.map_or(0, |(_, parts)| parts))
}

fn part_number(path: &Path, key: &[u8]) -> Result<u16, BackingError> {
    let key = StoredKey::parse(key).ok_or_else(|| damaged(path, "a key is not one of ours"))?;
    Ok(key.part)
}

/// A part as it is stored.
pub(super) type StoredPart = (IVec, IVec);

/// Where the parts begin: behind the marker.
pub(super) fn first_key() -> Vec<u8> {
    vec![0x01]
}

/// Parts from a key on, each checked, until they come to `max_bytes`; and how many bytes were read.
pub(super) fn page(
    sled: &SledDir,
    from: &[u8],
    max_bytes: usize,
) -> Result<(Vec<StoredPart>, usize), BackingError> {
    let mut entries = sled.range_from(from)?;
    let (mut parts, mut bytes) = (Vec::new(), 0);
    while bytes < max_bytes
        && let Some((key, stored)) = entries.next_entry()?
    {
        let number = part_number(sled.path(), &key)?;
        if entry::read_part(&key, number, &stored).is_none() {
            return Err(damaged(sled.path(), "an entry has a wrong checksum"));
        }
        bytes += key.len() + stored.len();
        parts.push((key, stored));
    }
    Ok((parts, bytes))
}

/// Every part but the marker, checked, in key order and bounded memory.
pub(super) fn for_each_part(
    sled: &mut SledDir,
    mut work: impl FnMut(&[u8], entry::Part<'_>, &[u8]) -> Result<(), BackingError>,
) -> Result<(), BackingError> {
    let mut from = first_key();
    loop {
        let mut in_window = 0;
        let mut entries = sled.range_from(&from)?;
        while in_window <= WINDOW_BYTES {
            let Some((key, stored)) = entries.next_entry()? else { return Ok(()) };
            let number = part_number(sled.path(), &key)?;
            let part = entry::read_part(&key, number, &stored)
                .ok_or_else(|| damaged(sled.path(), "an entry has a wrong checksum"))?;
            work(&key, part, &stored)?;
            in_window += key.len() + stored.len();
            from.clear();
            from.extend_from_slice(&key);
            from.push(0);
        }
        drop(entries);
        sled.reopen()?;
    }
}

/// `map[key]` of a side.
pub(super) fn get(sled: &SledDir, key: &[u8]) -> Result<Option<Bytes>, BackingError> {
    let place = Place::of(key);
    let first = place.part(0);
    let Some(stored) = sled.get(&first)? else { return Ok(None) };
    let content = assemble(sled.path(), &first, &stored, |part| {
        let key = place.part(part);
        Ok(sled.get(&key)?.map(|stored| (IVec::from(key), stored)))
    })?;
    if !place.is_hashed() {
        return Ok(Some(content));
    }
    let (found, skip) =
        entry::split_key(&content).ok_or_else(|| damaged(sled.path(), "an entry lacks its key"))?;
    Ok((found == key).then(|| content.slice(skip..)))
}

/// Entries of a side with `prefix`, after `after`, in key order, at most `max`.
pub(super) fn scan(
    sled: &SledDir,
    prefix: &[u8],
    after: Option<&[u8]>,
    max: usize,
) -> Result<Vec<(Bytes, Bytes)>, BackingError> {
    let lower = entry::lower_bound(prefix);
    let behind = after.map(|after| Place::of(after).seek_behind()).unwrap_or_default();
    let mut entries = sled.range_from(lower.as_slice().max(&behind))?;
    let mut out = Sorted { found: Vec::new(), group: None, max };
    while let Some(stored) = next_whole(sled.path(), &mut entries, &lower)? {
        if out.is_full_before(&stored) {
            break;
        }
        let wanted = stored.key.starts_with(prefix) && after.is_none_or(|after| stored.key.as_ref() > after);
        if wanted {
            out.add(stored);
        }
    }
    Ok(out.finish())
}

/// An entry with all its parts.
struct Whole {
    key: Bytes,
    value: Bytes,
    group: Option<Vec<u8>>,
}

fn next_whole(path: &Path, entries: &mut Entries, lower: &[u8]) -> Result<Option<Whole>, BackingError> {
    let Some((first, stored)) = entries.next_entry()? else { return Ok(None) };
    if !first.starts_with(lower) {
        return Ok(None);
    }
    let parsed = StoredKey::parse(&first).ok_or_else(|| damaged(path, "a key is not one of ours"))?;
    let content = assemble(path, &first, &stored, |_| entries.next_entry())?;
    let group = parsed.group.map(<[u8]>::to_vec);
    let (key, value) = if group.is_some() {
        let (key, skip) =
            entry::split_key(&content).ok_or_else(|| damaged(path, "an entry lacks its key"))?;
        (content.slice_ref(key), content.slice(skip..))
    } else {
        (Bytes::from(parsed.unescape()), content)
    };
    Ok(Some(Whole { key, value, group }))
}

/// Puts an entry's parts together, from its part 0 and what `next` gives for the others.
fn assemble(
    path: &Path,
    first: &[u8],
    stored: &[u8],
    mut next: impl FnMut(u16) -> Result<Option<(IVec, IVec)>, BackingError>,
) -> Result<Bytes, BackingError> {
    let torn = || damaged(path, "an entry is not whole");
    let number = part_number(path, first)?;
    let part = entry::read_part(first, number, stored).ok_or_else(torn)?;
    let (len, parts) = part.total.ok_or_else(torn)?;
    let mut content = part.data.to_vec();
    for number in 1..parts {
        let (key, stored) = next(number)?.ok_or_else(torn)?;
        if StoredKey::parse(&key).map(|key| key.part) != Some(number) {
            return Err(torn());
        }
        content.extend_from_slice(entry::read_part(&key, number, &stored).ok_or_else(torn)?.data);
    }
    if content.len() == len { Ok(Bytes::from(content)) } else { Err(torn()) }
}

/// Brings the entries of a group, which sled has in hash order, into key order, holding no more than `max` of them.
struct Sorted {
    found: Vec<(Bytes, Bytes)>,
    group: Option<(Vec<u8>, BTreeMap<Bytes, Bytes>)>,
    max: usize,
}

impl Sorted {
    /// Whether nothing from `next` on can be among the first `max`.
    fn is_full_before(&mut self, next: &Whole) -> bool {
        let ends = self.group.as_ref().is_some_and(|(group, _)| next.group.as_ref() != Some(group));
        if ends {
            self.end_group();
        }
        self.found.len() >= self.max
    }

    fn add(&mut self, entry: Whole) {
        let Some(group) = entry.group else {
            self.found.push((entry.key, entry.value));
            return;
        };
        let (_, members) = self.group.get_or_insert_with(|| (group, BTreeMap::new()));
        members.insert(entry.key, entry.value);
        if members.len() > self.max {
            members.pop_last();
        }
    }

    fn end_group(&mut self) {
        self.found.extend(self.group.take().into_iter().flat_map(|(_, members)| members));
        self.found.truncate(self.max);
    }

    fn finish(mut self) -> Vec<(Bytes, Bytes)> {
        self.end_group();
        self.found
    }
}
