//! Writing a generation and proving it.
//!
//! 1. Chunks go into sled as they fill, some hundred at a time ([`Pending`]), the manifest behind them; all is flushed,
//!    closed, and synced by our own handles.
//! 2. The database is opened anew and every entry read back and checked: what comes back is what a start will find.
//!    Then it is opened once more. Readers of sled split a leaf that its writer left too full (`Tree::view_for_key`), which
//!    goes into the log; and an open whose log has grown since the snapshot writes a new one. So the first open has the
//!    tree finished and the second the snapshot, and later opens change no byte.
//! 3. The files `extents` and `sums` are written, everything synced again. The caller renames the directory into place.

use super::chunk::{self, Builder, Key, Packer, RAW_MAX};
use super::files::{self, damaged};
use super::manifest::{Collector, Manifest};
use super::sled_dir::{self, SledDir};
use super::sums;
use crate::backing::{BackingError, Lsn, SpillRecord, SpillSource, StreamNo};
use eventmesh_edge_core::event::Position;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

/// File beside the database that holds the manifest again.
pub(super) const EXTENTS_FILE: &str = "extents";

/// Values written or read before the database is reopened: what bounds the memory of its cache. Not smaller, because
/// each open reads the whole page table again.
pub(super) const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// Values gathered before they go into sled together.
const PENDING_BYTES: usize = 512 * 1024;

/// Manifest bytes in one entry.
const MANIFEST_PART: usize = 4000;

/// Largest record: as many parts as their number can count.
const BODY_MAX: usize = RAW_MAX * (u16::MAX as usize - 1);

/// Builds, syncs and proves a generation in `path`, which is new. Returns its manifest and the bytes written for it.
pub(super) fn build(
    path: &Path,
    lsns: RangeInclusive<Lsn>,
    source: &mut dyn SpillSource,
) -> Result<(Manifest, u64), BackingError> {
    let mut writer = Writer::create(path)?;
    while let Some(record) = source.next() {
        writer.add(&record)?;
    }
    let manifest = writer.finish(lsns)?;
    files::sync_tree(path)?;
    prove(path, &manifest)?;
    let encoded = manifest.encode();
    files::write_durable(&path.join(EXTENTS_FILE), &encoded)?;
    let sums_len = sums::write(path)?;
    files::sync_tree(path)?;
    Ok((manifest, sled_dir::log_bytes(path) + encoded.len() as u64 + sums_len))
}

struct Writer {
    sled: SledDir,
    streams: BTreeMap<StreamNo, Stream>,
    packer: Packer,
    collector: Collector,
    pending: Pending,
    /// Value bytes since the last open.
    in_window: usize,
}

/// Entries on their way into sled. Appended one by one, each is written three times: when it is inserted, and with its leaf
/// of 17 when that is split, on the right side and later on the left. So first the keys go in with empty values, which
/// makes leaves of 8 or 9 entries, and then the values: a leaf takes nine changes without being written anew, so nearly
/// all of them are written once. The last keys of each stream stay empty for the moment: their leaf is yet to be split.
#[derive(Default)]
struct Pending {
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: usize,
}

/// More than a leaf holds.
const LEAF_MAX: usize = 17;

/// Bytes of a key that all entries of a stream share.
const STREAM_PREFIX: usize = 5;

impl Pending {
    fn push(&mut self, key: &[u8], value: &[u8]) {
        self.bytes += value.len();
        self.entries.push((key.to_vec(), value.to_vec()));
    }

    /// Writes what can be written now, or at the end all; returns the bytes.
    fn write(&mut self, sled: &SledDir, at_end: bool) -> Result<usize, BackingError> {
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_unstable();
        for (key, _) in &entries {
            sled.insert(key, &[])?;
        }
        let stream = |entry: &(Vec<u8>, Vec<u8>)| entry.0.get(..STREAM_PREFIX).map(<[u8]>::to_vec);
        let mut is_last: Vec<bool> = entries
            .iter()
            .enumerate()
            .map(|(idx, entry)| {
                entries.get(idx + LEAF_MAX).is_none_or(|later| stream(later) != stream(entry))
            })
            .collect();
        let kept = entries.iter().zip(&is_last).filter(|(_, last)| **last).map(|(entry, _)| entry.1.len());
        if at_end || kept.sum::<usize>() > PENDING_BYTES / 2 {
            // So many streams that keeping would be all that is left.
            is_last.fill(false);
        }
        let mut written = 0;
        for (entry, is_last) in entries.into_iter().zip(is_last) {
            if is_last {
                self.entries.push(entry);
            } else {
                sled.insert(&entry.0, &entry.1)?;
                written += entry.1.len();
            }
        }
        self.bytes -= written;
        Ok(written)
    }
}

struct Stream {
    builder: Builder,
    last: Option<Position>,
}

impl Writer {
    fn create(path: &Path) -> Result<Self, BackingError> {
        let sled = SledDir::open(path)?;
        let (packer, collector) = (Packer::new(), Collector::new());
        let (streams, pending) = (BTreeMap::new(), Pending::default());
        Ok(Writer { sled, streams, packer, collector, pending, in_window: 0 })
    }

    fn add(&mut self, record: &SpillRecord<'_>) -> Result<(), BackingError> {
        let stream = self
            .streams
            .entry(record.stream)
            .or_insert_with(|| Stream { builder: Builder::new(record.stream), last: None });
        if stream.last.is_some_and(|last| last >= record.position) || record.body.len() > BODY_MAX {
            let why = format!(
                "record {} of stream {} is out of order or too large",
                record.position, record.stream.0
            );
            return Err(damaged(self.sled.path(), why));
        }
        stream.last = Some(record.position);
        if stream.builder.takes(record) {
            stream.builder.push(record);
            return Ok(());
        }
        self.flush(record.stream)?;
        if let Some(stream) = self.streams.get_mut(&record.stream) {
            stream.builder.push(record);
        }
        Ok(())
    }

    /// Writes the chunk that a stream has gathered.
    fn flush(&mut self, stream: StreamNo) -> Result<(), BackingError> {
        let Some(Stream { builder, .. }) = self.streams.get_mut(&stream) else { return Ok(()) };
        let pending = &mut self.pending;
        let head = builder.finish(&mut self.packer, |key, value| -> Result<(), BackingError> {
            pending.push(key, value);
            Ok(())
        })?;
        if let Some(head) = head {
            self.collector.add(stream, &head);
        }
        if self.pending.bytes > PENDING_BYTES { self.write_pending(false) } else { Ok(()) }
    }

    fn write_pending(&mut self, at_end: bool) -> Result<(), BackingError> {
        self.in_window += self.pending.write(&self.sled, at_end)?;
        if self.in_window > WINDOW_BYTES {
            self.in_window = 0;
            self.sled.reopen()?;
        }
        Ok(())
    }

    fn finish(mut self, lsns: RangeInclusive<Lsn>) -> Result<Manifest, BackingError> {
        let streams: Vec<_> = self.streams.keys().copied().collect();
        for stream in streams {
            self.flush(stream)?;
        }
        self.write_pending(true)?;
        let Writer { sled, collector, .. } = self;
        let manifest = collector.finish(lsns);
        let encoded = manifest.encode();
        for (part, bytes) in encoded.chunks(MANIFEST_PART).enumerate() {
            let part = u16::try_from(part)
                .map_err(|_| damaged(sled.path(), "too many streams for one generation"))?;
            sled.insert(&Key::Manifest(part).encode(), bytes)?;
        }
        sled.close()?;
        Ok(manifest)
    }
}

/// Opens the database anew and checks each of its entries and the manifest at their end.
fn prove(path: &Path, manifest: &Manifest) -> Result<(), BackingError> {
    let mut sled = SledDir::open(path)?;
    let (mut from, mut chunks) = (Vec::new(), 0);
    loop {
        let mut entries = sled.range_from(&from)?;
        let mut in_window = 0;
        while in_window <= WINDOW_BYTES {
            let Some((key, value)) = entries.next_entry()? else {
                drop(entries);
                let proven =
                    chunks == manifest.summary.chunks && read_manifest(&sled)?.as_ref() == Some(manifest);
                sled.close()?;
                SledDir::open(path)?.close()?;
                return if proven { Ok(()) } else { Err(damaged(path, "it does not read back as written")) };
            };
            chunks += u64::from(
                check_entry(&key, &value).ok_or_else(|| damaged(path, "an entry reads back wrong"))?,
            );
            in_window += value.len();
            from.clear();
            from.extend_from_slice(&key);
            from.push(0);
        }
        drop(entries);
        sled.reopen()?;
    }
}

/// Whether the entry begins a chunk; `None` if it is damaged.
fn check_entry(key: &[u8], value: &[u8]) -> Option<bool> {
    match Key::parse(key)? {
        Key::Chunk(_, first) => chunk::read_head(key, first, value)?.1.is_whole().then_some(true),
        Key::Part(..) => chunk::read_part(key, value).map(|_| false),
        Key::Manifest(_) => Some(false),
    }
}

/// The manifest as sled has it; `None` if it is missing or damaged.
pub(super) fn read_manifest(sled: &SledDir) -> Result<Option<Manifest>, BackingError> {
    let mut entries = sled.range_from(&Key::Manifest(0).encode())?;
    let mut bytes = Vec::new();
    while let Some((key, value)) = entries.next_entry()? {
        if matches!(Key::parse(&key), Some(Key::Manifest(_))) {
            bytes.extend_from_slice(&value);
        }
    }
    Ok(Manifest::decode(&bytes))
}
