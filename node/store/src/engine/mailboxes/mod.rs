//! Mailboxes: per session a queue of claims on events. An event lies in the views once (`m`), however many wait for it;
//! claims are small and there may be millions, so they come in *blocks*.
//!
//! The newest claims of a session, up to a block's worth, are kept here in memory, encoded, and go into the views when the
//! block is full or a checkpoint is made ([`Mailboxes::flush`]); until then the journal has them. So ten thousand
//! sessions that get a message each cost some bytes of memory each and not ten thousand rows per message. The figures of
//! each mailbox are here too, and in the views as of the last checkpoint: memory grows with the number of sessions
//! that are away, not with what waits for them (P5).
//!
//! All of this is a function of the frames, except where blocks are cut, which nothing depends on.

mod block;

pub(crate) use self::block::Claim;

use self::block::{Block, Mailbox, decode_block, encode_block, join_tail, may_join, put_block};
use super::keys;
use super::rows::Rows;
use super::tables::{Bounds, scan_all};
use crate::backing::{BackingError, Views};
use crate::codec::Reader;
use bytes::Bytes;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::MAILBOX_CLAIM_BYTES;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Claims of a block: this many, and by the session's number up to as many more, so that the blocks of sessions that get
/// the same messages do not all become full with the same one.
const BLOCK_CLAIMS: u64 = 32;
/// Blocks joined by one flush at most: each is read for it.
const JOINS_MAX: usize = 256;
/// Rows of the layout before blocks that one flush removes, at most.
const LEGACY_PAGE: usize = 4096;
/// Budgets of at least this size give up a little more than they must at a time, so that a full one does not read its
/// oldest block for every message.
const SLACK_FROM_EVENTS: u64 = 256;
const SLACK_FROM_BYTES: u64 = 1 << 20;
const SLACK_DIVISOR: u64 = 64;

/// Claims that were given up together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Evicted {
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) range: Option<(Position, Position)>,
}

/// No block of the session ends in [`from`, `last`).
#[derive(Clone, Copy, Debug)]
struct Hint {
    session: u64,
    from: Position,
    last: Position,
}

/// What a commit has changed so far, as it was before.
#[derive(Debug, Default)]
struct Undo {
    boxes: HashMap<u64, Option<Mailbox>>,
    claims: u64,
    bodies: u64,
    fresh_bytes: usize,
}

/// All mailboxes that hold something.
#[derive(Debug, Default)]
pub(crate) struct Mailboxes {
    boxes: HashMap<u64, Mailbox>,
    /// The same by size, for whoever looks for the fullest.
    by_bytes: BTreeSet<(u64, u64)>,
    /// Figures that differ from the views'.
    dirty: HashSet<u64>,
    claims: u64,
    /// Stored bytes of the events that are claimed, each once.
    bodies: u64,
    fresh_bytes: usize,
    /// The block that was changed last: whoever takes entries out, takes out the next ones next.
    hint: Option<Hint>,
    /// How it was before the commit that is being applied.
    undo: Option<Undo>,
    /// The views still have rows of the layout before blocks.
    legacy: bool,
}

impl Mailboxes {
    pub(super) fn load(views: &dyn Views) -> Result<Mailboxes, BackingError> {
        let mut all =
            Mailboxes { legacy: !views.scan(&[keys::CLAIM], None, 1)?.is_empty(), ..Mailboxes::default() };
        let Some(bodies) = views.get(keys::BODIES)?.and_then(|b| Reader::new(&b).u64_be()) else {
            all.load_legacy(views)?;
            return Ok(all);
        };
        all.bodies = bodies;
        for (key, value) in scan_all(views, &[keys::MAILBOX])? {
            let session = key.get(1..).and_then(|s| Reader::new(s).u64_be());
            if let (Some(session), Some(mailbox)) = (session, Mailbox::decode(&value)) {
                all.claims += mailbox.events;
                all.by_bytes.insert((mailbox.bytes, session));
                all.boxes.insert(session, mailbox);
            }
        }
        Ok(all)
    }

    /// A directory of format version 1 has a row per claim. They become blocks with the next checkpoint.
    fn load_legacy(&mut self, views: &dyn Views) -> Result<(), BackingError> {
        let mut after: Option<Bytes> = None;
        loop {
            let page = views.scan(&[keys::CLAIM], after.as_deref(), LEGACY_PAGE)?;
            for (key, value) in &page {
                let session = key.get(1..9).and_then(|s| Reader::new(s).u64_be());
                let position = keys::claim_position(key);
                if let (Some(session), Some(position), Some(stored)) =
                    (session, position, Reader::new(value).u32_be())
                {
                    self.add(session, position, stored, value.get(4..).unwrap_or_default());
                }
            }
            after = page.last().map(|(key, _)| key.clone());
            if page.len() < LEGACY_PAGE {
                break;
            }
        }
        let mut after: Option<Bytes> = None;
        loop {
            let page = views.scan(&[keys::MAIL], after.as_deref(), 64)?;
            let stored =
                |(_, body): &(Bytes, Bytes)| u64::from(crate::journal::frame::stored_bytes(body.len()));
            self.bodies += page.iter().map(stored).sum::<u64>();
            after = page.last().map(|(key, _)| key.clone());
            if page.len() < 64 {
                return Ok(());
            }
        }
    }

    /// Entries and stored bytes in one.
    pub(crate) fn len(&self, session: u64) -> (u64, u64) {
        self.boxes.get(&session).map_or((0, 0), |mailbox| (mailbox.events, mailbox.bytes))
    }

    /// Whose hold something.
    pub(crate) fn sessions(&self) -> Vec<u64> {
        let mut sessions: Vec<u64> = self.boxes.keys().copied().collect();
        sessions.sort_unstable();
        sessions
    }

    /// How many hold something, entries in all, their stored bytes.
    pub(crate) fn totals(&self) -> (u64, u64, u64) {
        (self.boxes.len() as u64, self.claims, self.boxes.values().map(|mailbox| mailbox.bytes).sum())
    }

    /// What all together take of their budget.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.bodies + self.claims * MAILBOX_CLAIM_BYTES
    }

    /// Memory of claims that are not in the views yet.
    pub(crate) fn fresh_bytes(&self) -> usize {
        self.fresh_bytes
    }

    /// A commit begins: until [`Mailboxes::end`] it can be taken back.
    pub(super) fn begin(&mut self) {
        let (claims, bodies, fresh_bytes) = (self.claims, self.bodies, self.fresh_bytes);
        self.undo = Some(Undo { boxes: HashMap::new(), claims, bodies, fresh_bytes });
    }

    /// It stays, or nothing of it has happened.
    pub(super) fn end(&mut self, stays: bool) {
        let Some(undo) = self.undo.take().filter(|_| !stays) else { return };
        for (session, before) in undo.boxes {
            if let Some(now) = self.boxes.remove(&session) {
                self.by_bytes.remove(&(now.bytes, session));
            }
            if let Some(mailbox) = before {
                self.by_bytes.insert((mailbox.bytes, session));
                self.boxes.insert(session, mailbox);
            }
        }
        (self.claims, self.bodies, self.fresh_bytes) = (undo.claims, undo.bodies, undo.fresh_bytes);
        self.hint = None;
    }

    /// Changes a mailbox and keeps the figures of all.
    fn change<T>(&mut self, session: u64, work: impl FnOnce(&mut Mailbox) -> T) -> T {
        if let Some(undo) = &mut self.undo {
            undo.boxes.entry(session).or_insert_with(|| self.boxes.get(&session).cloned());
        }
        let mailbox = self.boxes.entry(session).or_default();
        let before = (mailbox.events, mailbox.bytes, mailbox.fresh.capacity());
        let out = work(mailbox);
        let after = (mailbox.events, mailbox.bytes, mailbox.fresh.capacity());
        // A mailbox that was taken back may have less room in hand than it had.
        self.fresh_bytes = (self.fresh_bytes + after.2).saturating_sub(before.2);
        self.claims = self.claims + after.0 - before.0;
        if before.1 != after.1 || before.0 == 0 || after.0 == 0 {
            self.by_bytes.remove(&(before.1, session));
        }
        if after.0 == 0 {
            self.fresh_bytes = self.fresh_bytes.saturating_sub(after.2);
            self.boxes.remove(&session);
        } else {
            self.by_bytes.insert((after.1, session));
        }
        self.dirty.insert(session);
        out
    }

    fn add(&mut self, session: u64, position: Position, stored: u32, options: &[u8]) {
        self.change(session, |mailbox| {
            if mailbox.events == 0 {
                mailbox.lowest = position;
            }
            mailbox.events += 1;
            mailbox.bytes += u64::from(stored);
            mailbox.push(position, stored, options);
        });
    }

    /// An event that somebody waits for, in the views before its claims.
    pub(super) fn add_event(&mut self, stored_bytes: u32) {
        self.bodies += u64::from(stored_bytes);
    }

    /// False if the session has claimed this event already: two claims of one session on one event are one.
    pub(super) fn claim(
        &mut self,
        rows: &mut Rows<'_>,
        session: u64,
        position: Position,
        stored: u32,
        options: &[u8],
    ) -> bool {
        let mailbox = self.boxes.get(&session);
        if mailbox.is_some_and(|m| m.fresh_events > 0 && m.fresh_range.1 == position || m.tail.0 == position)
        {
            return false;
        }
        self.add(session, position, stored, options);
        let full = BLOCK_CLAIMS + session % BLOCK_CLAIMS;
        if self.boxes.get(&session).is_some_and(|m| m.fresh_events >= full) {
            self.change(session, |mailbox| put_block(rows, session, mailbox));
        }
        true
    }

    /// Gives the oldest entries of one mailbox up until it is within its bounds; the newest stays whatever its size.
    pub(super) fn keep_bounds(
        &mut self,
        rows: &mut Rows<'_>,
        session: u64,
        bounds: &Bounds,
    ) -> Result<Evicted, BackingError> {
        let mut evicted = Evicted::default();
        if !self.boxes.get(&session).is_some_and(|mailbox| mailbox.is_over(bounds)) {
            return Ok(evicted);
        }
        let less = |max: u64, from: u64| if max >= from { max - max / SLACK_DIVISOR } else { max };
        let events = less(bounds.events, SLACK_FROM_EVENTS);
        let bytes = less(bounds.bytes, SLACK_FROM_BYTES);
        let aim = Bounds { events, bytes, ..*bounds };
        self.evict(rows, session, &mut evicted, |mailbox, _| mailbox.is_over(&aim))?;
        Ok(evicted)
    }

    /// Gives the oldest entries of the fullest mailboxes up until all together are within their budget.
    pub(super) fn keep_total(&mut self, rows: &mut Rows<'_>, max: u64) -> Result<Vec<Evicted>, BackingError> {
        let mut all = Vec::new();
        if self.disk_bytes() <= max {
            return Ok(all);
        }
        let aim = if max >= SLACK_FROM_BYTES { max - max / SLACK_DIVISOR / 4 } else { max };
        while self.disk_bytes() > aim
            && let Some((_, fullest)) = self.by_bytes.last().copied()
        {
            let next = self.by_bytes.iter().rev().nth(1).copied().unwrap_or_default();
            let mut evicted = Evicted::default();
            let is_fullest = |mailbox: &Mailbox| (mailbox.bytes, fullest) > next;
            self.evict(rows, fullest, &mut evicted, |mailbox, all| all > aim && is_fullest(mailbox))?;
            if evicted.events == 0 {
                break;
            }
            all.push(evicted);
        }
        Ok(all)
    }

    /// Takes the oldest claims of a mailbox out while `more` says so, which is told what all take at that moment.
    fn evict(
        &mut self,
        rows: &mut Rows<'_>,
        session: u64,
        evicted: &mut Evicted,
        more: impl Fn(&Mailbox, u64) -> bool,
    ) -> Result<(), BackingError> {
        loop {
            let Some(mailbox) = self.boxes.get(&session) else { return Ok(()) };
            if !more(mailbox, self.disk_bytes()) {
                return Ok(());
            }
            let Some((key, claims)) = self.oldest_block(rows, session)? else {
                tracing::error!(session, "a mailbox lacks claims that its figures have");
                self.change(session, |mailbox| (mailbox.events, mailbox.bytes) = (0, 0));
                return Ok(());
            };
            let mut taken = 0;
            for claim in &claims {
                taken += 1;
                self.note_gone(session, claim);
                self.drop_claim(rows, claim.position, claim.stored_bytes)?;
                evicted.events += 1;
                evicted.bytes += u64::from(claim.stored_bytes);
                let first = evicted.range.map_or(claim.position, |(first, _)| first);
                evicted.range = Some((first, claim.position));
                let Some(mailbox) = self.boxes.get(&session) else { break };
                if !more(mailbox, self.disk_bytes()) {
                    break;
                }
            }
            self.replace_block(rows, session, key, claims.get(taken..).unwrap_or_default());
        }
    }

    /// Takes one claim out of the figures; the mailbox itself goes with the last one.
    fn note_gone(&mut self, session: u64, claim: &Claim) {
        self.change(session, |mailbox| {
            mailbox.events = mailbox.events.saturating_sub(1);
            mailbox.bytes = mailbox.bytes.saturating_sub(u64::from(claim.stored_bytes));
            if mailbox.lowest >= claim.position || mailbox.events == 0 {
                mailbox.lowest = claim.position.next();
            }
        });
    }

    /// The oldest claims: a block of the views with its key, or what is in memory.
    fn oldest_block(&self, rows: &Rows<'_>, session: u64) -> Result<Option<Block>, BackingError> {
        let Some(mailbox) = self.boxes.get(&session) else { return Ok(None) };
        self.block_from(rows, session, mailbox.lowest)
    }

    /// The first claims that end at or behind a position.
    fn block_from(
        &self,
        rows: &Rows<'_>,
        session: u64,
        from: Position,
    ) -> Result<Option<Block>, BackingError> {
        let Some(mailbox) = self.boxes.get(&session) else { return Ok(None) };
        if let Some(hint) = self.hint.filter(|h| h.session == session && h.from <= from && from <= h.last)
            && let Some(block) = rows.get(&keys::block(session, hint.last))?
        {
            return Ok(Some((Some(hint.last), decode_block(&block))));
        }
        if mailbox.tail.1 > 0 && from <= mailbox.tail.0 {
            let after = keys::block(session, Position(from.0.saturating_sub(1)));
            let found = rows.scan(&keys::blocks(session), Some(&after), 1)?;
            if let Some((key, block)) = found.into_iter().next()
                && let Some(last) = keys::claim_position(&key)
            {
                return Ok(Some((Some(last), decode_block(&block))));
            }
        }
        let has_fresh = mailbox.fresh_events > 0 && from <= mailbox.fresh_range.1;
        Ok(has_fresh.then(|| (None, decode_block(&mailbox.fresh))))
    }

    /// Puts what is left of a block in its place.
    fn replace_block(&mut self, rows: &mut Rows<'_>, session: u64, key: Option<Position>, left: &[Claim]) {
        if let Some(last) = key {
            let key = keys::block(session, last);
            if left.is_empty() {
                rows.delete(key);
            } else {
                rows.put(key, encode_block(left).into());
            }
        }
        if !self.boxes.contains_key(&session) {
            return;
        }
        self.change(session, |mailbox| match key {
            None => mailbox.set_fresh(left),
            Some(last) if last == mailbox.tail.0 => {
                mailbox.tail.1 = left.len() as u64;
                if left.is_empty() {
                    // Rows before it, if there are any, are found by a scan up to here all the same.
                    mailbox.tail.1 = u64::from(mailbox.events > mailbox.fresh_events);
                }
            }
            Some(_) => {}
        });
    }

    /// One claim less on an event: with the last one, the event goes.
    fn drop_claim(
        &mut self,
        rows: &mut Rows<'_>,
        position: Position,
        stored: u32,
    ) -> Result<(), BackingError> {
        let key = keys::mail_claims(position);
        let claims = rows.get(&key)?.and_then(|bytes| Reader::new(&bytes).u32_be()).unwrap_or(1);
        match claims.saturating_sub(1) {
            0 => {
                rows.delete(keys::mail(position));
                rows.delete(key);
                self.bodies = self.bodies.saturating_sub(u64::from(stored));
            }
            1 => rows.delete(key),
            left => rows.put(key, Bytes::copy_from_slice(&left.to_be_bytes())),
        }
        Ok(())
    }

    /// A second claim of one session on one event: it counts once.
    pub(super) fn drop_double(
        &mut self,
        rows: &mut Rows<'_>,
        position: Position,
        stored: u32,
    ) -> Result<(), BackingError> {
        self.drop_claim(rows, position, stored)
    }

    /// The session has this event.
    pub(super) fn remove(
        &mut self,
        rows: &mut Rows<'_>,
        session: u64,
        position: Position,
    ) -> Result<(), BackingError> {
        let Some((key, mut claims)) = self.block_from(rows, session, position)? else { return Ok(()) };
        let Some(at) = claims.iter().position(|claim| claim.position == position) else { return Ok(()) };
        self.hint = match (key, self.hint) {
            (Some(last), Some(hint)) if hint.session == session && hint.last == last => Some(hint),
            (Some(last), _) => Some(Hint { session, from: position, last }),
            (None, hint) => hint,
        };
        let claim = claims.remove(at);
        self.note_gone(session, &claim);
        self.drop_claim(rows, position, claim.stored_bytes)?;
        self.replace_block(rows, session, key, &claims);
        Ok(())
    }

    /// New options for an entry: only journals of format version 1 can ask for it.
    pub(super) fn update(
        &mut self,
        rows: &mut Rows<'_>,
        session: u64,
        position: Position,
        options: &[u8],
    ) -> Result<(), BackingError> {
        let Some((key, mut claims)) = self.block_from(rows, session, position)? else { return Ok(()) };
        let Some(claim) = claims.iter_mut().find(|claim| claim.position == position) else { return Ok(()) };
        claim.options = Bytes::copy_from_slice(options);
        self.replace_block(rows, session, key, &claims);
        Ok(())
    }

    /// The session has ended.
    pub(super) fn clear(&mut self, rows: &mut Rows<'_>, session: u64) -> Result<(), BackingError> {
        let mut ignored = Evicted::default();
        self.evict(rows, session, &mut ignored, |mailbox, _| mailbox.events > 0)
    }

    /// Writes what is only here: with a checkpoint, which is to hold everything up to its commit.
    pub(super) fn flush(&mut self, rows: &mut Rows<'_>) {
        let mut joins = 0;
        for session in std::mem::take(&mut self.dirty) {
            let Some(mailbox) = self.boxes.get_mut(&session) else {
                rows.delete(keys::mailbox(session));
                continue;
            };
            let before = mailbox.fresh.capacity();
            if joins < JOINS_MAX && may_join(mailbox) {
                joins += 1;
                join_tail(rows, session, mailbox);
            }
            put_block(rows, session, mailbox);
            mailbox.fresh = Vec::new();
            self.fresh_bytes = self.fresh_bytes.saturating_sub(before);
            rows.put(keys::mailbox(session), mailbox.encode());
        }
        rows.put(Bytes::from_static(keys::BODIES), Bytes::copy_from_slice(&self.bodies.to_be_bytes()));
        if self.legacy
            && let Ok(old) = rows.scan(&[keys::CLAIM], None, LEGACY_PAGE)
        {
            self.legacy = !old.is_empty();
            old.into_iter().for_each(|(key, _)| rows.delete(key));
        }
    }
}

impl Mailboxes {
    /// Up to about `want` claims of a session after a position.
    pub(crate) fn page(
        &self,
        views: &dyn Views,
        session: u64,
        after: Position,
        want: usize,
    ) -> Result<Vec<Claim>, BackingError> {
        let rows = Rows::over(views);
        let mut claims: Vec<Claim> = Vec::new();
        let mut from = after.next();
        while claims.len() < want
            && let Some((key, block)) = self.block_from(&rows, session, from)?
        {
            let last = block.last().map_or(from, |claim| claim.position);
            claims.extend(block.into_iter().filter(|claim| claim.position >= from));
            from = key.unwrap_or(last).max(from).next();
        }
        claims.truncate(want);
        Ok(claims)
    }
}
