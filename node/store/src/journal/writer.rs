//! Where groups of commits become durable: one write, one fdatasync, and a [`Synced`] that nothing else can make.

use super::frame::Base;
use super::header::{HEADER_BYTES, Header, Identity};
use super::reserve::Reserve;
use super::{DIR, TERMINATOR, path_of};
use crate::backing::Lsn;
use crate::codec::as_u32;
use crate::disk::{Disk, DiskFile, Mode, write_zeros};
use eventmesh_edge_core::event::Position;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Proof that fdatasync returned for a group (P1). Only [`Writer::append`] makes one, after `sync_data` said so; whoever
/// answers a commit with success has to show it.
#[derive(Debug)]
pub(crate) struct Synced {
    segment: u32,
    offset: u32,
}

impl Synced {
    /// Which segment the group lies in.
    pub(crate) fn segment(&self) -> u32 {
        self.segment
    }

    /// Where its first frame starts.
    pub(crate) fn offset(&self) -> u32 {
        self.offset
    }
}

/// A segment file, written through once and synced, that waits for its turn.
struct Prepared {
    number: u32,
    file: Arc<dyn DiskFile>,
    from_reserve: bool,
}

struct PoolState {
    ready: VecDeque<Prepared>,
    next_number: u32,
}

/// Segments ready for use. Shared: the maintenance fills it, the committer empties it.
pub(crate) struct Pool {
    disk: Arc<dyn Disk>,
    segment_bytes: u32,
    state: Mutex<PoolState>,
    reserve: Reserve,
}

impl Pool {
    pub(crate) fn new(disk: Arc<dyn Disk>, segment_bytes: u32, next_number: u32) -> Self {
        let reserve = Reserve::adopt(Arc::clone(&disk), segment_bytes);
        let state = Mutex::new(PoolState { ready: VecDeque::new(), next_number });
        Pool { disk, segment_bytes, state, reserve }
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ready(&self) -> usize {
        self.lock().ready.len()
    }

    pub(crate) fn segment_bytes(&self) -> u32 {
        self.segment_bytes
    }

    fn take_number(&self) -> u32 {
        let mut state = self.lock();
        let number = state.next_number;
        state.next_number += 1;
        number
    }

    /// Makes one more, from nothing. Writes every byte: an extent that was only reserved would cost a metadata write at
    /// the first sync of each of its pages. Where there is no room for all of it nothing is written.
    pub(crate) fn make(&self) -> io::Result<()> {
        let number = self.take_number();
        let path = path_of(number);
        let made = self.make_file(&path);
        if made.is_err() {
            // Half a file takes room that may be what is missing.
            self.discard(&path);
        }
        self.add(Prepared { number, file: made?, from_reserve: false });
        Ok(())
    }

    fn make_file(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, Mode::New)?;
        file.allocate(u64::from(self.segment_bytes))?;
        write_zeros(&*file, u64::from(self.segment_bytes))?;
        file.sync_data()?;
        self.disk.sync_dir(DIR)?;
        Ok(file)
    }

    /// Makes one more from a segment that nobody needs.
    pub(crate) fn recycle(&self, path: &str) -> io::Result<()> {
        let number = self.take_number();
        let to = path_of(number);
        let file = self.disk.open(path, Mode::Existing)?;
        if file.len()? != u64::from(self.segment_bytes) {
            return Err(io::Error::other("of another size"));
        }
        self.disk.rename(path, &to)?;
        self.disk.sync_dir(DIR)?;
        self.add(Prepared { number, file, from_reserve: false });
        Ok(())
    }

    /// Numbers are used in their order: the start walks the segments by number.
    fn add(&self, prepared: Prepared) {
        let mut state = self.lock();
        let at = state.ready.partition_point(|p| p.number < prepared.number);
        state.ready.insert(at, prepared);
    }

    /// The next one; made on the spot if none waits, and where that cannot be, the reserve. `above`: smaller numbers are
    /// of no use any more.
    fn take(&self, above: u32) -> io::Result<Prepared> {
        loop {
            let next = self.lock().ready.pop_front();
            match next {
                Some(prepared) if prepared.number > above => return Ok(prepared),
                Some(late) => self.discard(&path_of(late.number)),
                None => {
                    if let Err(error) = self.make() {
                        return self.take_reserve().map_err(|more| {
                            tracing::debug!(error = %more, "there is no reserve to take");
                            error
                        });
                    }
                }
            }
        }
    }

    fn take_reserve(&self) -> io::Result<Prepared> {
        let number = self.take_number();
        let file = self.reserve.take(&path_of(number))?;
        Ok(Prepared { number, file, from_reserve: true })
    }

    /// Files of the reserve that are there.
    pub(crate) fn reserved(&self) -> usize {
        self.reserve.held()
    }

    /// Makes what is missing of the reserve: from free room, or else from a segment that waits for its use.
    pub(crate) fn fill_reserve(&self) -> io::Result<()> {
        self.reserve.fill(|| self.lock().ready.pop_back().map(|prepared| path_of(prepared.number)))
    }

    /// Gives a part of the reserve back to the file system; false if there is none to give.
    pub(crate) fn give_up_ballast(&self) -> bool {
        self.reserve.give_up()
    }

    /// Best effort: what stays is found and removed at the next start.
    pub(crate) fn discard(&self, path: &str) {
        if let Err(error) = self.disk.remove(path).and_then(|()| self.disk.sync_dir(DIR)) {
            tracing::debug!(%error, path, "segment file stays for now");
        }
    }
}

/// The segment that takes frames.
#[derive(Clone)]
pub(crate) struct Active {
    pub(crate) header: Header,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Where the next frame goes.
    pub(crate) offset: u32,
    /// There was no room for another: it was kept for what has to be written all the same.
    pub(crate) from_reserve: bool,
}

impl Active {
    pub(crate) fn base(&self) -> Base {
        Base::from(&self.header)
    }

    /// Bytes that frames can still take.
    pub(crate) fn room(&self) -> usize {
        (self.header.frames_end().saturating_sub(self.offset) as usize).saturating_sub(TERMINATOR)
    }
}

/// The end of the log. Owned by whoever commits.
pub(crate) struct Writer {
    pool: Arc<Pool>,
    identity: Identity,
    epoch: u32,
    active: Option<Active>,
    /// Segment and offset behind the last group that was synced.
    good_end: (u32, u32),
    /// A group failed and nothing cuts it off yet.
    failed: bool,
    syncs: u64,
    bytes_written: u64,
}

impl Writer {
    /// Continues behind `good_end`, always in a new segment: what an earlier process left half-written is never appended to.
    pub(crate) fn new(pool: Arc<Pool>, identity: Identity, epoch: u32, good_end: (u32, u32)) -> Self {
        Writer { pool, identity, epoch, active: None, good_end, failed: false, syncs: 0, bytes_written: 0 }
    }

    pub(crate) fn active(&self) -> Option<&Active> {
        self.active.as_ref()
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.syncs
    }

    pub(crate) fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    /// Largest frame that fits into an empty segment.
    pub(crate) fn frame_max(&self) -> usize {
        (self.pool.segment_bytes().saturating_sub(2 * HEADER_BYTES) as usize).saturating_sub(TERMINATOR)
    }

    /// Opens the next segment, durably, before it holds anything. Its header cuts off whatever lies behind the last good
    /// group of the segment before.
    pub(crate) fn activate(&mut self, first_lsn: Lsn, first_position: Position) -> io::Result<&Active> {
        self.active = None;
        let prepared = self.pool.take(self.good_end.0)?;
        let header = Header {
            identity: self.identity,
            epoch: self.epoch,
            number: prepared.number,
            first_lsn,
            first_position,
            previous: self.good_end.0,
            previous_end: self.good_end.1,
            size: self.pool.segment_bytes(),
        };
        if let Err(error) = write_header(&header, &*prepared.file) {
            self.pool.discard(&path_of(prepared.number));
            return Err(error);
        }
        self.bytes_written += 2 * u64::from(HEADER_BYTES);
        self.syncs += 1;
        self.good_end = (header.number, HEADER_BYTES);
        self.failed = false;
        let Prepared { file, from_reserve, .. } = prepared;
        Ok(self.active.insert(Active { header, file, offset: HEADER_BYTES, from_reserve }))
    }

    /// Writes a group and syncs it. After an error the segment is not trusted again: the next group needs
    /// [`Writer::activate`].
    pub(crate) fn append(&mut self, frames: &mut Vec<u8>) -> io::Result<Synced> {
        let active = self.active.as_mut().ok_or_else(|| io::Error::other("no segment is open"))?;
        let len = frames.len();
        frames.extend_from_slice(&[0; TERMINATOR]);
        let outcome = write_and_sync(active, frames);
        frames.truncate(len);
        match outcome {
            Ok(synced) => {
                active.offset += as_u32(len);
                self.good_end = (active.header.number, active.offset);
                self.syncs += 1;
                self.bytes_written += (len + TERMINATOR) as u64;
                Ok(synced)
            }
            Err(error) => {
                erase(active);
                self.active = None;
                self.failed = true;
                Err(error)
            }
        }
    }
}

/// Best effort: the next segment's header cuts off what a failed group left, but where none can be written before the
/// process ends, the next start would read the group in the page cache, and believe what was refused.
fn erase(active: &Active) {
    if let Err(error) = active.file.write_at(u64::from(active.offset), &[0; TERMINATOR]) {
        tracing::debug!(%error, "what a failed group left stays until the next segment is opened");
    }
}

/// The one place where a [`Synced`] comes from.
fn write_and_sync(active: &Active, frames: &[u8]) -> io::Result<Synced> {
    active.file.write_at(u64::from(active.offset), frames)?;
    active.file.sync_data()?;
    Ok(Synced { segment: active.header.number, offset: active.offset })
}

fn write_header(header: &Header, file: &dyn DiskFile) -> io::Result<()> {
    let mut first = header.encode().to_vec();
    first.extend_from_slice(&[0; TERMINATOR]);
    file.write_at(u64::from(header.frames_end()), &header.encode())?;
    file.write_at(0, &first)?;
    file.sync_data()
}
