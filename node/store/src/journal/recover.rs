//! Which segments of a journal directory are believed, and up to where. Nothing is changed here.

use super::frame::Base;
use super::header::{HEADER_BYTES, Header, Identity, NotAHeader};
use super::reader::{End, Source};
use super::{DIR, number_of, path_of};
use crate::disk::{Disk, DiskFile, Mode};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// A believed segment.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) header: Header,
    pub(crate) source: Source,
}

/// What a journal directory holds.
#[derive(Default)]
pub(crate) struct Recovered {
    /// Oldest first.
    pub(crate) segments: Vec<Found>,
    /// Files that can be used again.
    pub(crate) spares: Vec<String>,
    /// Files of another log.
    pub(crate) foreign: Vec<String>,
    /// Segments that were in use and whose headers are both unreadable, or that are missing.
    pub(crate) unreadable: Vec<u32>,
    /// Higher than every number that may have been used.
    pub(crate) next_number: u32,
    /// Highest epoch seen; 0 for none.
    pub(crate) epoch: u32,
}

/// Why the journal is left alone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoverError {
    #[error("{path} has format version {version}")]
    Later { path: String, version: u8 },
    #[error("list journal: {0}")]
    Io(#[from] io::Error),
}

/// Reads all headers and follows the chain from the newest back.
pub(crate) fn recover(disk: &dyn Disk, identity: Option<Identity>) -> Result<Recovered, RecoverError> {
    let mut files = BTreeMap::new();
    for entry in disk.list(DIR)? {
        if let Some(number) = number_of(&entry.name) {
            files.insert(number, read_header(disk, number)?);
        }
    }
    let highest = files.keys().next_back().copied().unwrap_or(0);
    let mut out = Recovered { next_number: highest.saturating_add(1), ..Recovered::default() };
    let identity = identity.or_else(|| newest(&files).map(|header| header.identity));
    let mut used = BTreeMap::new();
    for (number, (file, header)) in files {
        match header {
            Some(header) if header.number == number && Some(header.identity) != identity => {
                out.foreign.push(path_of(number));
            }
            Some(header) if header.number == number => {
                out.epoch = out.epoch.max(header.epoch);
                used.insert(number, (file, header));
            }
            _ => out.spares.push(path_of(number)),
        }
    }
    follow(used, &mut out);
    Ok(out)
}

fn newest(files: &BTreeMap<u32, (Arc<dyn DiskFile>, Option<Header>)>) -> Option<Header> {
    files.iter().rev().find_map(|(number, (_, header))| header.filter(|h| h.number == *number))
}

type Used = BTreeMap<u32, (Arc<dyn DiskFile>, Header)>;

/// From the newest back: each header says where the one before it ends; what lies between the two was given up.
fn follow(mut used: Used, out: &mut Recovered) {
    let mut end = None;
    let mut upto = u32::MAX;
    while let Some((number, (file, header))) = used.range(..=upto).next_back().map(|(n, f)| (*n, f.clone())) {
        used.remove(&number);
        let end_here = match end.take() {
            Some((previous, end)) if previous == number => End::At(end),
            Some((previous, _)) => {
                out.unreadable.push(previous);
                End::Open(header.frames_end())
            }
            None => End::Open(header.frames_end()),
        };
        let source = Source { number, file, base: Base::from(&header), end: end_here };
        out.segments.push(Found { header, source });
        upto = header.previous;
        end = Some((header.previous, header.previous_end));
    }
    // The oldest one's predecessor is usually recycled under another name; if its file is there, its headers are gone.
    if let Some((previous, _)) = end.filter(|(p, _)| out.spares.contains(&path_of(*p))) {
        out.unreadable.push(previous);
    }
    out.segments.reverse();
    out.spares.retain(|path| !out.unreadable.iter().any(|number| *path == path_of(*number)));
    // Whatever is left lies between a segment and its predecessor: opened, failed, and passed over.
    out.spares.extend(used.into_keys().map(path_of));
}

type Read = (Arc<dyn DiskFile>, Option<Header>);

fn read_header(disk: &dyn Disk, number: u32) -> Result<Read, RecoverError> {
    let path = path_of(number);
    let file = disk.open(&path, Mode::Existing)?;
    let len = file.len().unwrap_or(0);
    let copies = [0, len.saturating_sub(u64::from(HEADER_BYTES))];
    let mut header = None;
    for at in copies {
        match header_at(&*file, at) {
            Ok(found) if found.number == number => return Ok((file, Some(found))),
            // Left from an earlier use of the file.
            Ok(stale) => header = Some(stale),
            Err(NotAHeader::Later(version)) => return Err(RecoverError::Later { path, version }),
            Err(NotAHeader::Unreadable) => {}
        }
    }
    Ok((file, header))
}

fn header_at(file: &dyn DiskFile, at: u64) -> Result<Header, NotAHeader> {
    let mut bytes = [0; HEADER_BYTES as usize];
    let n = file.read_at(at, &mut bytes).map_err(|_| NotAHeader::Unreadable)?;
    Header::decode(bytes.get(..n).unwrap_or_default())
}
