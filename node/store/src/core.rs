//! The store without threads: what a committer does with a queue, what a blocking thread does with a read, what the
//! maintenance does when it is woken. [`crate::service`] gives it threads, [`crate::stepped`] turns it by hand.

pub(crate) mod pages;
mod reshape;

use crate::backing::BackingError;
use crate::directory::OpenError;
use crate::disk::{Disk, Mode};
use crate::engine::ahead::{LOOK_AHEAD, MARKS_MAX};
use crate::engine::mailboxes::Claim;
use crate::engine::read::{Plan, fetch, lock_generations};
use crate::engine::recent::{FoundEvent, Harvest, Want};
use crate::engine::room::is_no_room;
use crate::engine::spaces::Spaces;
use crate::engine::{Engine, Finished, Internal, Request, Seal, SharedGenerations, keys};
use crate::journal::writer::{Pool, Writer};
use crate::journal::{QUARANTINE, path_of};
use bytes::Bytes;
use eventmesh_edge_core::event::{LogId, Position, StoredEvent, Timestamp, record};
use eventmesh_edge_core::ports::store::{
    Backlog, Batch, Consumer, LedgerEntry, LedgerLine, MailboxItem, Read, ReadError, SessionNo, StoreStats,
    Table,
};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Copies of damaged segments that are kept.
const QUARANTINE_MAX: usize = 4;
/// Mailbox entries read with the lock held at once.
const MAILBOX_PAGE: usize = 64;

/// Shared by all threads of a store.
pub(crate) struct Core {
    engine: Mutex<Engine>,
    disk: Arc<dyn Disk>,
    pool: Arc<Pool>,
    generations: SharedGenerations,
    spaces: Spaces,
    /// The newest time that [`Core::tick`] was told and nothing was done about yet.
    ticked: Mutex<Option<Timestamp>>,
}

/// What a round of the committer came to.
pub(crate) struct Round {
    pub(crate) finished: Finished,
    /// The disk failed: what the store itself has to commit is not tried again at once.
    pub(crate) failed: bool,
}

impl Core {
    pub(crate) fn new(
        engine: Engine,
        disk: Arc<dyn Disk>,
        pool: Arc<Pool>,
        generations: SharedGenerations,
    ) -> Core {
        let spaces = engine.spaces.clone();
        Core { engine: Mutex::new(engine), disk, pool, generations, spaces, ticked: Mutex::default() }
    }

    /// Held for moments only; a panic elsewhere does not end the store.
    pub(crate) fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- committing

    /// Makes one group from the front of the queue durable. The lock is not held while the disk works.
    pub(crate) fn commit_group(&self, writer: &mut Writer, queue: &mut VecDeque<Request>) -> Round {
        if self.engine().is_short_of_room() && queue.iter().any(|request| !request.commit.events.is_empty()) {
            self.make_room();
        }
        if writer.active().is_none()
            && let Err(error) = self.open_segment(writer)
        {
            return self.refuse(queue, error);
        }
        let Some(active) = writer.active().cloned() else { return self.refuse(queue, no_segment()) };
        let mut group = self.engine().begin(queue, &active, writer.frame_max());
        if group.is_idle() && group.segment_full {
            if let Err(error) = self.open_segment(writer) {
                return self.refuse(queue, error);
            }
            let Some(active) = writer.active().cloned() else { return self.refuse(queue, no_segment()) };
            group = self.engine().begin(queue, &active, writer.frame_max());
        }
        if group.is_empty() {
            return Round { finished: self.engine().finish_unwritten(group), failed: false };
        }
        let outcome = writer.append(&mut group.frames).map_err(Arc::new);
        let failed = outcome.is_err();
        if let Err(error) = &outcome {
            tracing::error!(%error, "journal write failed, its segment is not used again");
        }
        let finished = {
            let mut engine = self.engine();
            let finished = engine.finish(group, outcome);
            engine.counters.syncs = writer.syncs();
            engine.counters.journal_bytes = writer.bytes_written();
            finished
        };
        if failed && let Err(error) = self.open_segment(writer) {
            // Then the next commit tries again. Until it succeeds nothing follows that could make the failed group look
            // like an older part of a longer log.
            tracing::warn!(%error, "no new journal segment yet");
        }
        Round { finished, failed }
    }

    fn open_segment(&self, writer: &mut Writer) -> io::Result<()> {
        let (lsn, position) = self.engine().next_numbers();
        let active = writer.activate(lsn, position)?.clone();
        let ready = self.ready();
        let mut engine = self.engine();
        engine.counts_ready(ready.0, ready.1);
        engine.segment_opened(&active);
        Ok(())
    }

    fn refuse(&self, queue: &mut VecDeque<Request>, error: io::Error) -> Round {
        tracing::error!(%error, "no journal segment can be opened, commits fail");
        let error = Arc::new(error);
        let mut engine = self.engine();
        engine.io_failed = true;
        if is_no_room(&error) {
            engine.ran_out_of_room(&error);
        }
        let answers = queue.drain(..).map(|request| {
            let refusal = engine.refusal(&request.commit, &error);
            (request.done, Err(refusal))
        });
        let answers = answers.collect();
        Round { finished: Finished { answers, ..Finished::default() }, failed: true }
    }

    /// What the start itself found to commit: done before anybody else comes, so that it is in the ledger by then. A full
    /// disk does not stop it (P6): then it goes with the first group that succeeds.
    pub(crate) fn commit_findings(&self, writer: &mut Writer) {
        while self.engine().has_internal() {
            if self.commit_group(writer, &mut VecDeque::new()).failed {
                return;
            }
        }
    }

    /// The mark of an orderly end: what stands before it was synced, so damage there can be told from a torn tail. And
    /// what a failed group may have left is cut off, if that was not possible so far.
    pub(crate) fn end_cleanly(&self, writer: &mut Writer) {
        if writer.active().is_some() || writer.has_failed() {
            self.engine().commit_internal(Internal { clean_end: true, ..Internal::default() });
            self.commit_group(writer, &mut VecDeque::new());
        }
    }

    // --- reading

    /// Answers from memory, or gives the read back.
    pub(crate) fn read_now(&self, read: &Read) -> Option<Batch> {
        let memory = self.engine().read_memory(read)?;
        let events = self.decode(memory.found);
        Some(Batch { events, through: memory.through.max(read.after), at_end: memory.at_end })
    }

    fn decode(&self, found: Vec<FoundEvent>) -> Vec<StoredEvent> {
        let mut lost = Vec::new();
        let mut events = Vec::with_capacity(found.len());
        for FoundEvent { position, stored_bytes, body } in found {
            match record::decode(&body) {
                Ok((event, sequence)) => {
                    let log = self.spaces.of(position);
                    events.push(StoredEvent { position, log, sequence, event, stored_bytes });
                }
                Err(error) => {
                    tracing::error!(%error, %position, "stored event does not decode, counted as lost");
                    lost.push((position, stored_bytes));
                }
            }
        }
        if !lost.is_empty() {
            let mut engine = self.engine();
            for (position, bytes) in lost {
                let reason = eventmesh_edge_core::ports::store::LossReason::Damaged;
                engine.lose(reason, 1, u64::from(bytes), (position, position));
            }
        }
        events
    }

    /// Reads from wherever the events are. Blocks on the disk, without the engine's lock.
    pub(crate) fn read_blocking(&self, read: &Read) -> Result<Batch, ReadError> {
        let mut after = read.after;
        loop {
            let planned = self.engine().plan_read(read, after);
            let Some((stream, from, plan)) = planned else { return Ok(Batch::default()) };
            after = from;
            match plan {
                Plan::Memory => {
                    let rest = Read { after, ..*read };
                    if let Some(batch) = self.read_now(&rest) {
                        return Ok(batch);
                    }
                }
                Plan::End => {
                    let through = self.engine().durable_position().max(after);
                    return Ok(Batch { events: Vec::new(), through, at_end: true });
                }
                plan => {
                    let mut harvest = Harvest::new(Want { events: read.max_events, bytes: read.max_bytes });
                    let fetched = match fetch(&plan, stream, after, &mut harvest, &self.generations) {
                        Ok(fetched) => fetched,
                        Err(error) => {
                            self.read_failed(&plan, error)?;
                            continue;
                        }
                    };
                    let through = fetched.through.max(after);
                    let at_end = {
                        let mut engine = self.engine();
                        engine.absorb(read, after, &harvest.events, &fetched);
                        engine.clip_read(read, &mut harvest.events) || engine.is_at_end(read, through)
                    };
                    if !harvest.events.is_empty() || at_end {
                        return Ok(Batch { events: self.decode(harvest.events), through, at_end });
                    }
                    after = if through > after { through } else { after.next() };
                }
            }
        }
    }

    /// A generation that cannot be read is moved aside and counted (P6); anything else is the caller's to try again.
    fn read_failed(&self, plan: &Plan, error: BackingError) -> Result<(), ReadError> {
        match (plan, error) {
            (Plan::Generation { number, .. }, error @ BackingError::Damaged { .. }) => {
                self.lose_generation(*number, &error);
                Ok(())
            }
            (_, error) => Err(ReadError::Io(Arc::new(io::Error::other(error.to_string())))),
        }
    }

    fn lose_generation(&self, number: u64, error: &BackingError) {
        tracing::error!(%error, generation = number, "generation is damaged, moved aside, its events counted as lost");
        if let Err(error) = lock_generations(&self.generations).quarantine(number) {
            tracing::error!(%error, generation = number, "damaged generation cannot be moved aside");
        }
        self.engine().generation_lost(number);
    }

    /// Entries of a mailbox after a position.
    pub(crate) fn read_mailbox(
        &self,
        session: SessionNo,
        after: Position,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<Vec<MailboxItem>, ReadError> {
        let mut items: Vec<MailboxItem> = Vec::new();
        let mut bytes = 0usize;
        let mut after = after;
        while items.len() < max_events && bytes < max_bytes {
            let want = MAILBOX_PAGE.min(max_events - items.len());
            let page = self.mailbox_page(session, after, want, max_bytes - bytes)?;
            let Some((last, _)) = page.last() else { break };
            after = last.position;
            for (claim, body) in page {
                let Some(body) = body else { continue };
                bytes = bytes.saturating_add(claim.stored_bytes as usize);
                let (position, stored_bytes, options) = (claim.position, claim.stored_bytes, claim.options);
                let found = vec![FoundEvent { position, stored_bytes, body }];
                items.extend(self.decode(found).pop().map(|event| MailboxItem { event, options }));
            }
        }
        Ok(items)
    }

    /// The next claims and the events that they are on, up to about `max_bytes` of them.
    fn mailbox_page(
        &self,
        session: SessionNo,
        after: Position,
        want: usize,
        max_bytes: usize,
    ) -> Result<Vec<(Claim, Option<Bytes>)>, ReadError> {
        let mut engine = self.engine();
        engine.views_now().map_err(views_failed)?;
        let views = engine.views();
        let claims = engine.mailboxes().page(views, session.0, after, want).map_err(views_failed)?;
        let mut page = Vec::with_capacity(claims.len());
        let mut bytes = 0usize;
        for claim in claims {
            if bytes >= max_bytes {
                break;
            }
            bytes += claim.stored_bytes as usize;
            let body = views.get(&keys::mail(claim.position)).map_err(views_failed)?;
            page.push((claim, body));
        }
        Ok(page)
    }

    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let mut engine = self.engine();
        let views = engine.views_now().map_err(views_failed)?;
        views.get(&keys::table(table as u8, key)).map_err(views_failed)
    }

    pub(crate) fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        let prefix = keys::table(table as u8, prefix);
        let after = after.map(|after| keys::table(table as u8, after));
        let mut engine = self.engine();
        let views = engine.views_now().map_err(views_failed)?;
        let rows = views.scan(&prefix, after.as_deref(), max).map_err(views_failed)?;
        // Two bytes of every key are ours.
        Ok(rows.into_iter().map(|(key, value)| (key.slice(2.min(key.len())..), value)).collect())
    }

    pub(crate) fn mailbox_len(&self, session: SessionNo) -> (u64, u64) {
        self.engine().mailbox_len(session)
    }

    pub(crate) fn backlog(&self, consumer: Consumer) -> Backlog {
        self.engine().catalog.backlog(consumer)
    }

    pub(crate) fn ledger(&self) -> Vec<LedgerLine> {
        self.engine().ledger()
    }

    /// Ledger entries after a number; true if a group has to be made for those that come next.
    pub(crate) fn ledger_after(&self, after: u64, max: usize) -> (Vec<LedgerEntry>, bool) {
        let mut engine = self.engine();
        let cut = engine.cut_ledger();
        (engine.ledger_after(after, max), cut)
    }

    pub(crate) fn stats(&self) -> StoreStats {
        self.engine().stats()
    }

    pub(crate) fn log_id(&self) -> LogId {
        self.spaces.newest()
    }

    // --- maintenance

    /// Does what is due off the commit path. True if a group has to be made for it: the store has something to commit.
    pub(crate) fn maintain(&self) -> bool {
        if let Err(error) = self.engine().views_now() {
            tracing::warn!(%error, "answered commits wait for the views, the journal has them");
        }
        self.expire();
        self.checkpoint();
        self.release_segments();
        self.seal();
        self.remove_generations();
        self.release_segments();
        self.make_room();
        let generations = {
            let generations = lock_generations(&self.generations);
            (generations.disk_bytes(), generations.bytes_written())
        };
        let near = self.engine().near_drops();
        for idx in near {
            self.look_ahead(idx, LOOK_AHEAD, "oldest events cannot be read ahead");
        }
        let mut engine = self.engine();
        engine.generations_changed(generations);
        engine.relieve_disk();
        engine.ask_checkpoint();
        engine.has_internal()
    }

    /// Notes what time it is, for the maintenance: no lock that is held over the disk, no disk.
    pub(crate) fn tick(&self, now: Timestamp) {
        *self.ticked.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// What is due by time since the last tick. As long as there is more than was marked it goes on by itself.
    fn expire(&self) {
        let ticked = || self.ticked.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(now) = ticked().take() else { return };
        {
            let mut engine = self.engine();
            engine.blocked = false;
            engine.room_ticked();
        }
        let unknown = self.engine().unknown_ages(now);
        for idx in unknown {
            self.look_ahead(idx, MARKS_MAX, "oldest events cannot be read, so they do not expire");
        }
        if self.engine().expire(now) {
            ticked().get_or_insert(now);
        }
    }

    /// Marks more of a consumer's oldest events; the engine's lock is not held while the disk is read.
    fn look_ahead(&self, idx: usize, max: usize, failure: &'static str) {
        let Some(mut look) = self.engine().begin_look(idx, max) else { return };
        loop {
            let plan = self.engine().plan_look(&mut look);
            let Some(plan) = plan else { break };
            match fetch(&plan, look.stream, look.through, &mut look.harvest, &self.generations) {
                Ok(fetched) => look.fetched(&fetched),
                Err(error) => {
                    tracing::warn!(%error, "{failure}");
                    return;
                }
            }
        }
        self.engine().end_look(look);
    }

    /// Logs a failure and keeps the maintenance from trying again before the next tick.
    fn note<T>(&self, outcome: Result<T, BackingError>, what: &'static str) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::warn!(%error, "{what}");
                self.engine().blocked = true;
                None
            }
        }
    }

    /// Writes the checkpoint that is ready. Where there is no room for it, the ballast makes some.
    fn checkpoint(&self) {
        let work = self.engine().take_checkpoint();
        let Some(work) = work else { return };
        if self.engine().needs_ballast() {
            self.lend_ballast();
        }
        let done = work();
        let outcome = self.engine().end_checkpoint(done);
        let had_no_room = matches!(&outcome, Err(BackingError::Io { source, .. }) if is_no_room(source));
        self.engine().checkpoint_ended(had_no_room);
        if had_no_room && self.lend_ballast() {
            return;
        }
        self.note(outcome, "checkpoint failed, the journal keeps what it would have held");
    }

    fn lend_ballast(&self) -> bool {
        let lent = self.pool.give_up_ballast();
        if lent {
            let reserved = self.pool.reserved();
            self.engine().lent_ballast(reserved);
        }
        lent
    }

    fn release_segments(&self) {
        let released = self.engine().take_releasable();
        for number in released {
            let path = path_of(number);
            if self.pool.ready() >= self.engine().spare_segments_max() {
                self.pool.discard(&path);
            } else if let Err(error) = self.pool.recycle(&path) {
                tracing::debug!(%error, path, "segment cannot be used again");
                self.pool.discard(&path);
            }
        }
    }

    fn seal(&self) {
        let Some(mut seal) = self.engine().plan_seal() else { return };
        if self.engine().blocked {
            return;
        }
        let outcome = lock_generations(&self.generations).seal_from(seal.lsns.clone(), &mut seal.records);
        let what = "generation cannot be sealed, the journal keeps its events";
        if let Some((number, extents)) = self.note(outcome, what) {
            tracing::info!(
                generation = number,
                streams = extents.len(),
                "sealed what the uplinks have not taken yet"
            );
            self.keep_damaged(&seal);
            self.engine().sealed(&seal, number, extents);
        }
    }

    fn keep_damaged(&self, seal: &Seal) {
        for (number, _) in &seal.records.gaps {
            self.quarantine(*number);
        }
    }

    fn remove_generations(&self) {
        let finished = self.engine().finished_generations();
        for number in finished {
            let outcome = lock_generations(&self.generations).remove(number);
            if self.note(outcome, "finished generation cannot be removed yet").is_some() {
                self.engine().generation_removed(number);
            }
        }
    }

    /// Makes what is missing of the reserve, and then, if one is wanted, a segment for the events to come.
    fn make_room(&self) {
        let ready = self.ready();
        let wants_reserve = {
            let mut engine = self.engine();
            engine.counts_ready(ready.0, ready.1);
            // What the checkpoint has been lent says nothing of the disk, and is not for events.
            if engine.has_lent_ballast() {
                return;
            }
            engine.wants_reserve()
        };
        let reserve = if wants_reserve { self.pool.fill_reserve() } else { Ok(()) };
        let ready = self.ready();
        let wants_spare = {
            let mut engine = self.engine();
            engine.counts_ready(ready.0, ready.1);
            reserve.is_ok() && engine.wants_spare()
        };
        let spare = if wants_spare { self.pool.make() } else { Ok(()) };
        let ready = self.ready();
        self.engine().looked_for_room(ready, reserve, spare);
    }

    /// How many prepared segments and files of the reserve there are. Asked before the engine is locked: the answer waits
    /// for whoever makes one.
    fn ready(&self) -> (usize, usize) {
        (self.pool.ready(), self.pool.reserved())
    }

    /// Copies a damaged segment aside, for whoever wants to look; the oldest copies make room.
    pub(crate) fn quarantine(&self, number: u32) {
        if let Err(error) = copy_aside(&*self.disk, number) {
            tracing::warn!(%error, segment = number, "damaged segment could not be copied aside");
        }
    }
}

fn copy_aside(disk: &dyn Disk, number: u32) -> io::Result<()> {
    disk.create_dir(QUARANTINE)?;
    let mut kept: Vec<String> = disk
        .list(QUARANTINE)?
        .into_iter()
        .map(|e| e.name)
        .filter(|name| name.starts_with("segment."))
        .collect();
    let name = format!("segment.{number:08x}");
    if kept.contains(&name) {
        return Ok(());
    }
    kept.sort();
    for old in kept.iter().take((kept.len() + 1).saturating_sub(QUARANTINE_MAX)) {
        disk.remove(&format!("{QUARANTINE}/{old}"))?;
    }
    let bytes = disk.read(&path_of(number))?;
    let path = format!("{QUARANTINE}/{name}");
    let written = disk.open(&path, Mode::New).and_then(|file| file.write_at(0, &bytes));
    if written.is_err() {
        // A full disk needs its room for other things.
        disk.remove(&path)?;
    }
    written
}

fn no_segment() -> io::Error {
    io::Error::other("no journal segment is open")
}

fn views_failed(error: BackingError) -> ReadError {
    ReadError::Io(Arc::new(io::Error::other(error.to_string())))
}

/// An error of the backing stores at the start.
pub(crate) fn open_failed(path: &std::path::Path, what: &'static str, error: &BackingError) -> OpenError {
    match error {
        BackingError::Io { source, .. } => {
            crate::directory::refused(path, what, io::Error::new(source.kind(), error.to_string()))
        }
        BackingError::Damaged { .. } => {
            OpenError::Io { path: path.to_owned(), what, source: io::Error::other(error.to_string()) }
        }
    }
}

#[cfg(test)]
#[path = "core/tick_tests.rs"]
mod tick_tests;
