//! Writing a generation and proving it.
//!
//! 1. Chunks go into sled as they fill, the manifest behind them; all is flushed, closed, and synced by our own handles.
//! 2. The database is opened anew and every entry read back and checked: what comes back is what a start will find.
//!    This first clean open is also the one that writes sled's snapshot; later opens change no byte.
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

/// Values written or read before the database is reopened: what bounds the memory of its cache.
pub(super) const WINDOW_BYTES: usize = 2 * 1024 * 1024;

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
    /// Value bytes since the last open.
    in_window: usize,
}

struct Stream {
    builder: Builder,
    last: Option<Position>,
}

impl Writer {
    fn create(path: &Path) -> Result<Self, BackingError> {
        let sled = SledDir::open(path)?;
        let (packer, collector) = (Packer::new(), Collector::new());
        Ok(Writer { sled, streams: BTreeMap::new(), packer, collector, in_window: 0 })
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
        let (sled, in_window) = (&self.sled, &mut self.in_window);
        let head = builder.finish(&mut self.packer, |key, value| {
            *in_window += value.len();
            sled.insert(key, value).map(|_| ())
        })?;
        if let Some(head) = head {
            self.collector.add(stream, &head);
        }
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
