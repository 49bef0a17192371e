//! From files to [facts](super::facts): every file is opened for reading only, databases in copies.

use super::disk::ReadOnlyDisk;
use super::facts::{
    Copy, GenerationFact, JournalFacts, MetaFact, ReadFact, SegmentFact, SideFact, WholeFacts,
};
use super::scratch::{Scratch, copy_file};
use super::{InspectError, Progress};
use crate::backing::BackingError;
use crate::directory;
use crate::disk::{Disk, DiskFile, Mode};
use crate::journal::frame::{Frame, Item};
use crate::journal::header::{HEADER_BYTES, Header, Identity};
use crate::journal::reader::{End, FrameCursor};
use crate::journal::recover::{Found, Recovered};
use crate::journal::{DIR, RESERVE_NAMES, path_of};
use crate::meta;
use crate::spill::files;
use crate::spill::inspect::{extents_file_is_whole, list, read_through};
use crate::spill::sums::{self, Checked};
use crate::views::inspect::{check_side, labels};
use eventmesh_edge_core::event::record;
use std::collections::HashSet;
use std::path::Path;

/// Names that a data directory may have beside the store's own.
const BESIDE: [&str; 4] = ["lock", "lost+found", "admin.sock", "quarantine"];

/// The version file.
pub(crate) fn format(dir: &Path) -> Copy {
    match std::fs::read(dir.join("format")) {
        Ok(bytes) => match std::str::from_utf8(&bytes).ok().and_then(directory::version_in) {
            Some(_) => Copy::Whole,
            None => Copy::Unreadable,
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Copy::Missing,
        Err(_) => Copy::Unreadable,
    }
}

/// The two copies of identity and epoch.
pub(crate) fn meta(disk: &ReadOnlyDisk) -> Vec<MetaFact> {
    let copy = |file: &'static str| match disk.read(file).map(|bytes| meta::decode(&bytes)) {
        Ok(Ok(meta)) => MetaFact { file, state: Copy::Whole, epoch: Some(meta.epoch) },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            MetaFact { file, state: Copy::Missing, epoch: None }
        }
        Ok(Err(_)) | Err(_) => MetaFact { file, state: Copy::Unreadable, epoch: None },
    };
    meta::COPIES.map(copy).to_vec()
}

/// Every frame of every believed segment.
pub(crate) fn journal(
    disk: &ReadOnlyDisk,
    recovered: &Recovered,
    sealed: &HashSet<u32>,
    progress: &mut Progress<'_>,
) -> JournalFacts {
    let mut facts = JournalFacts { foreign: recovered.foreign.clone(), ..JournalFacts::default() };
    for number in &recovered.unreadable {
        let file = path_of(*number);
        let there = disk.open(&file, Mode::Existing).is_ok();
        facts.unreadable.push((*number, file, there));
    }
    let newest = recovered.segments.last().map(|found| found.source.number);
    for found in &recovered.segments {
        let mut fact = segment(found);
        fact.newest = newest == Some(fact.number);
        fact.sealed = sealed.contains(&fact.number);
        progress.add(u64::from(fact.end), &fact.file);
        facts.segments.push(fact);
    }
    facts
}

/// One segment, both headers and every frame.
pub(crate) fn segment(found: &Found) -> SegmentFact {
    let file = &found.source.file;
    let bytes = file.len().unwrap_or(0);
    let header = u64::from(HEADER_BYTES);
    let copies = [0, bytes.saturating_sub(header)];
    let mut fact = SegmentFact {
        number: found.source.number,
        file: path_of(found.source.number),
        bytes,
        headers: copies.map(|at| header_state(&**file, at, &found.header)),
        newest: matches!(found.source.end, End::Open(_)),
        sealed: false,
        first_lsn: found.header.first_lsn,
        last_lsn: crate::backing::Lsn(found.header.first_lsn.0.saturating_sub(1)),
        commits: 0,
        events: 0,
        end: HEADER_BYTES,
        torn_bytes: 0,
        clean_end: false,
        gaps: Vec::new(),
        senseless: Vec::new(),
    };
    let mut cursor = FrameCursor::new(found.source.clone());
    while let Some(located) = cursor.next() {
        if let Ok(frame) = Frame::parse(&located.body, &found.source.base) {
            look_into(&frame, located.offset, &mut fact);
        }
    }
    fact.end = cursor.offset();
    fact.torn_bytes = cursor.torn_bytes;
    fact.clean_end = cursor.clean_end;
    fact.gaps = cursor.gaps;
    fact
}

fn header_state(file: &dyn DiskFile, at: u64, wanted: &Header) -> Copy {
    let mut bytes = [0; HEADER_BYTES as usize];
    let read = file.read_at(at, &mut bytes).unwrap_or(0);
    match Header::decode(bytes.get(..read).unwrap_or_default()) {
        Ok(header) if header == *wanted => Copy::Whole,
        _ => Copy::Unreadable,
    }
}

fn look_into(frame: &Frame<'_>, offset: u32, fact: &mut SegmentFact) {
    fact.commits += 1;
    fact.last_lsn = fact.last_lsn.max(frame.lsn);
    for item in frame.items() {
        match item {
            Ok(Item::Event(entry)) => {
                fact.events += 1;
                if record::decode(&bytes::Bytes::copy_from_slice(entry.body)).is_err() {
                    fact.senseless.push((offset, Some(entry.position)));
                }
            }
            Ok(_) => {}
            Err(_) => fact.senseless.push((offset, None)),
        }
    }
}

/// Every sealed generation: by its `sums` where they are, entry by entry in a copy where they are not or do not hold.
pub(crate) fn generations(
    dir: &Path,
    scratch: Option<&Scratch>,
    progress: &mut Progress<'_>,
) -> Result<(Vec<GenerationFact>, Vec<String>), InspectError> {
    let listed = list(dir)?;
    let mut facts = Vec::new();
    for (number, path) in &listed.sealed {
        facts.extend(generation(dir, *number, path, scratch, progress)?);
    }
    let leftovers = listed.leftovers.iter().map(|path| relative(dir, path)).collect();
    Ok((facts, leftovers))
}

/// `None` if it was removed meanwhile: a running node is done with it.
pub(crate) fn generation(
    dir: &Path,
    number: u64,
    path: &Path,
    scratch: Option<&Scratch>,
    progress: &mut Progress<'_>,
) -> Result<Option<GenerationFact>, InspectError> {
    let name = relative(dir, path);
    let checked = sums::check(path, &mut |bytes| progress.add(bytes, &name));
    if !path.is_dir() {
        return Ok(None);
    }
    let checked = checked?;
    let read = match (&checked, scratch) {
        (Checked::Whole, _) | (_, None) => None,
        (_, Some(scratch)) => Some(read_copy(path, scratch)?),
    };
    let extents_whole = extents_file_is_whole(path);
    Ok(Some(GenerationFact { number, dir: name, sums: checked, extents_whole, read }))
}

fn read_copy(path: &Path, scratch: &Scratch) -> Result<Result<ReadFact, String>, InspectError> {
    let copy = scratch.copy_dir(path)?;
    let read = read_through(&copy);
    scratch.remove(&copy);
    match read {
        Ok(read) => Ok(Ok(ReadFact { events: read.events, lost: read.lost })),
        Err(BackingError::Damaged { why, .. }) => Ok(Err(why)),
        Err(error) => Err(error.into()),
    }
}

/// Both sides of the views, in copies below `scratch`, which are left there as a start would find them.
pub(crate) fn sides(
    dir: &Path,
    scratch: &Scratch,
    progress: &mut Progress<'_>,
) -> Result<Vec<SideFact>, InspectError> {
    let mut facts = Vec::new();
    for label in labels() {
        copy_side(dir, label, scratch)?;
        let state = check_side(scratch.path(), label)?;
        progress.add(files::disk_bytes(&scratch.path().join(label)), label);
        facts.push(SideFact { label, state });
    }
    Ok(facts)
}

/// Copies a side as it is; what the check changed is thrown away.
pub(crate) fn copy_side(dir: &Path, label: &str, scratch: &Scratch) -> Result<(), InspectError> {
    let to = scratch.path().join(label);
    scratch.remove(&to);
    if dir.join(label).is_dir() {
        scratch.copy_dir_to(&dir.join(label), &to)?;
    }
    let proof = format!("{label}.proof");
    let target = scratch.path().join(&proof);
    files::remove_file_durable(&target)?;
    if dir.join(&proof).is_file() {
        copy_file(&dir.join(&proof), &target)?;
    }
    Ok(())
}

/// Names in the data directory, and in `journal`, that no store makes.
pub(crate) fn strange(dir: &Path) -> Vec<String> {
    let ours = |name: &str| {
        ["meta-", "views-", "."].iter().any(|ours| name.starts_with(ours))
            || [DIR, "generations", "format"].contains(&name)
            || BESIDE.iter().any(|beside| name.starts_with(beside))
    };
    let names = |dir: &Path| -> Vec<String> {
        let found = files::entries(dir).unwrap_or_default();
        found.iter().map(|(path, _)| files::name(path).to_owned()).collect()
    };
    let mut strange: Vec<String> = names(dir).into_iter().filter(|name| !ours(name)).collect();
    let segments = names(&dir.join(DIR)).into_iter();
    let is_ours = |name: &String| {
        [".seg", ".foreign"].iter().any(|ours| name.ends_with(ours)) || RESERVE_NAMES.contains(&name.as_str())
    };
    strange.extend(segments.filter(|name| !is_ours(name)).map(|name| format!("{DIR}/{name}")));
    strange
}

/// Segments by what the engine made of them.
pub(crate) fn whole(engine: &crate::engine::Engine) -> Result<WholeFacts, InspectError> {
    let mut whole = WholeFacts { last_position: engine.last_position(), ..WholeFacts::default() };
    for stream in engine.stream_views() {
        for consumer in stream.consumers {
            let uplink = consumer.uplink.map(|name| name.to_string());
            whole.cursors.push((stream.name.to_string(), uplink, consumer.acked));
        }
    }
    whole.missing_generations = engine.missing_generations()?;
    whole.mailboxes = engine.mailbox_disagreements()?;
    let lines = engine
        .ledger()
        .into_iter()
        .filter(|line| line.first > line.last || line.events == 0 && line.bytes > 0);
    whole.ledger = lines.map(|line| format!("{:?}: {} to {}", line.reason, line.first, line.last)).collect();
    Ok(whole)
}

fn relative(dir: &Path, path: &Path) -> String {
    path.strip_prefix(dir).unwrap_or(path).display().to_string()
}

/// What a directory without any identity would be read with.
pub(crate) fn identity_of(disk: &ReadOnlyDisk) -> Result<Option<(Identity, u32)>, u8> {
    match meta::load(disk) {
        meta::Loaded::Meta(meta, _) => Ok(Some((meta.identity, meta.epoch))),
        meta::Loaded::Nothing(_) => Ok(None),
        meta::Loaded::Later(version) => Err(version),
    }
}

/// Files of a store in the order in which they are looked at, for nothing but their sizes.
pub(crate) fn size_of(dir: &Path) -> u64 {
    let journal = files::entries(&dir.join(DIR)).unwrap_or_default();
    let journal: u64 =
        journal.iter().filter_map(|(path, _)| std::fs::metadata(path).ok()).map(|m| m.len()).sum();
    let generations = list(dir).map(|listed| listed.sealed).unwrap_or_default();
    let generations: u64 = generations.values().map(|path| files::disk_bytes(path)).sum();
    journal + generations + labels().iter().map(|label| files::disk_bytes(&dir.join(label))).sum::<u64>()
}
