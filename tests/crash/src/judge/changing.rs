//! P2 where readers come and go: each event of the stream `changing` reaches everybody who read the stream when it was made, or
//! whoever took their place, or it is counted for them; and what reaches somebody is not counted.
//!
//! What is owed to whom follows from the sets of readers in their order. One that was asked for and not answered for before the
//! cut may have been made or not: what it does to those who leave with it is not held against either.

use super::{Broken, Found, Verdict, broken};
use crate::model::{Asked, Expected, Said};
use crate::workload::{CHANGING, consumer};
use eventmesh_edge_core::ports::store::{LossReason, Store};
use std::collections::{BTreeMap, BTreeSet};

/// The reader of a stream that nobody reads.
const NOBODY: u16 = u16::MAX;

/// An event of the stream.
#[derive(Clone, Copy)]
struct Made {
    position: u64,
    /// How many sets of readers had been asked for.
    shapes: usize,
}

/// One reader, over all its time.
#[derive(Clone, Debug, Default)]
struct Account {
    /// Positions.
    owed: BTreeSet<u64>,
    /// Began with this set of readers; `None`: with all that was there, or nobody knows.
    began: Option<usize>,
    left: Option<usize>,
    /// Others have taken its place.
    is_succeeded: bool,
    /// It left with a set that may not have been made, or into one of which that cannot be told.
    is_uncertain: bool,
}

/// All of them, as the sets of readers follow each other.
#[derive(Default)]
struct Accounts {
    /// Cursors that may have been reached: what is in front of them nobody inherits.
    acked: BTreeMap<u16, u64>,
    all: BTreeMap<u16, Account>,
    active: BTreeSet<u16>,
    /// Were certainly there at some time.
    known: BTreeSet<u16>,
    /// May have been.
    heard_of: BTreeSet<u16>,
}

impl Accounts {
    fn shape(&mut self, index: usize, asked: &Asked) {
        let mut now: BTreeSet<u16> = asked.shape.readers.iter().copied().collect();
        if now.is_empty() {
            now.insert(NOBODY);
        }
        let draining = asked.shape.drain.iter().copied();
        let stays: BTreeSet<u16> = now.iter().copied().chain(draining).collect();
        let leaving: Vec<u16> = self.active.difference(&stays).copied().collect();
        let fresh: BTreeSet<u16> = now.difference(&self.heard_of).copied().collect();
        let may_be_fresh = now.iter().any(|uplink| *uplink != NOBODY && !self.known.contains(uplink));
        for uplink in leaving {
            let heirs = match (asked.by_start, uplink) {
                (_, NOBODY) => now.clone(),
                (true, _) if now.contains(&NOBODY) => now.clone(),
                (true, _) => fresh.clone(),
                (false, _) => BTreeSet::new(),
            };
            let is_certain = asked.made && (!asked.by_start || !heirs.is_empty() || !may_be_fresh);
            self.leave(uplink, index, &heirs, is_certain);
        }
        if !asked.made {
            // A drain that was not begun ends at the next start, as a word that was not heard.
            for uplink in &asked.shape.drain {
                self.all.entry(*uplink).or_default().is_uncertain = true;
            }
        }
        for uplink in now.difference(&self.active) {
            let took_over = asked.by_start || self.active.contains(&NOBODY) || !asked.made;
            let account = self.all.entry(*uplink).or_default();
            // Whoever stays after all began when it began; nobody in particular begins again and again.
            if *uplink == NOBODY || !self.heard_of.contains(uplink) {
                account.began = (!took_over).then_some(index);
            }
            (account.left, account.is_succeeded) = (None, false);
        }
        if asked.made {
            self.known.extend(&now);
        }
        self.heard_of.extend(now.iter().filter(|uplink| **uplink != NOBODY));
        self.active = stays;
    }

    fn leave(&mut self, uplink: u16, index: usize, heirs: &BTreeSet<u16>, is_certain: bool) {
        let account = self.all.entry(uplink).or_default();
        account.left = Some(index);
        account.is_uncertain |= !is_certain;
        if heirs.is_empty() || account.is_uncertain {
            return;
        }
        account.is_succeeded = true;
        let mut owed = std::mem::take(&mut account.owed);
        let acked = self.acked.get(&uplink).copied().unwrap_or(0);
        owed.retain(|position| *position > acked);
        for heir in heirs {
            self.all.entry(*heir).or_default().owed.extend(&owed);
        }
    }

    fn made(&mut self, readers: &[u16], position: u64) {
        let nobody = readers.is_empty().then_some(NOBODY);
        for reader in readers.iter().copied().chain(nobody) {
            self.all.entry(reader).or_default().owed.insert(position);
        }
    }
}

/// The sets of readers up to the start that the judge made itself, with what was asked for last.
fn shapes(said: &Said) -> Vec<Asked> {
    let mut shapes = said.shapes.clone();
    match shapes.last_mut() {
        Some(last) if last.by_start => last.made = true,
        Some(last) => {
            let shape = crate::marks::Shape { readers: last.shape.readers.clone(), ..Default::default() };
            shapes.push(Asked { shape, by_start: true, made: true });
        }
        None => {}
    }
    shapes
}

fn made(expected: &Expected) -> Vec<Made> {
    let tags = expected.streams.get(&CHANGING).map(Vec::as_slice).unwrap_or_default();
    let known = tags.iter().filter_map(|tag| expected.events.get(tag));
    known.filter_map(|known| Some(Made { position: known.position?, shapes: known.shapes })).collect()
}

/// What the store says about one reader.
struct Told<'a> {
    found: &'a Found,
    expected: &'a Expected,
}

impl Told<'_> {
    fn counted(&self, uplink: u16) -> u64 {
        let line = (CHANGING, uplink, LossReason::StreamRemoved as u8);
        self.found.losses.get(&line).copied().unwrap_or(0)
    }

    fn must(&self, uplink: u16) -> u64 {
        self.expected.cursors.get(&(CHANGING, uplink)).copied().unwrap_or(0)
    }

    fn may(&self, uplink: u16) -> u64 {
        self.expected.cursors_may.get(&(CHANGING, uplink)).copied().unwrap_or(0)
    }

    fn waits(&self, uplink: u16, position: u64) -> bool {
        let waiting = self.found.streams.get(&(CHANGING, uplink));
        waiting.is_some_and(|waiting| waiting.iter().any(|event| event.position.0 == position))
    }

    fn has_or_may_have(&self, uplink: u16, position: u64) -> bool {
        position <= self.may(uplink) || self.waits(uplink, position)
    }
}

/// P2: see the module.
pub(super) fn p2_every_reader_got_it_or_it_is_counted(
    found: &Found,
    expected: &Expected,
    said: &Said,
) -> Verdict {
    let shapes = shapes(said);
    let events = made(expected);
    let of_changing = expected.cursors_may.iter().filter(|((stream, _), _)| *stream == CHANGING);
    let acked = of_changing.map(|((_, uplink), acked)| (*uplink, *acked)).collect();
    let mut accounts = Accounts { acked, ..Accounts::default() };
    for (index, asked) in shapes.iter().enumerate() {
        accounts.shape(index, asked);
        for event in events.iter().filter(|event| event.shapes == index + 1) {
            accounts.made(&asked.shape.readers, event.position);
        }
    }
    let told = Told { found, expected };
    for (uplink, account) in &accounts.all {
        nothing_is_missing(*uplink, account, &accounts, &told)?;
        nothing_is_counted_that_is_not_lost(*uplink, account, &events, &told)?;
        if accounts.active.contains(uplink) {
            its_cursor_is_its_own(*uplink, account, &events, &told)?;
        }
    }
    Ok(())
}

fn nothing_is_missing(uplink: u16, account: &Account, accounts: &Accounts, told: &Told<'_>) -> Verdict {
    let missing = account.owed.iter().copied().filter(|at| !told.has_or_may_have(uplink, *at));
    let missing: Vec<u64> = missing.collect();
    if account.left.is_none() && !account.is_uncertain {
        return match missing.first() {
            Some(at) => {
                let what = format!("lacks the event at {at} and, with it,");
                let events = missing.len() as u64;
                Err(over_or_under(uplink, account, &what, events, told.counted(uplink)))
            }
            None => Ok(()),
        };
    }
    let others = || accounts.all.keys().filter(|other| **other != uplink);
    let reaches_another = |at: &&u64| others().any(|other| told.has_or_may_have(*other, **at));
    let spared = if account.is_uncertain { missing.iter().filter(reaches_another).count() } else { 0 };
    let (missing, counted) = ((missing.len() - spared) as u64, told.counted(uplink));
    if counted < missing {
        return Err(over_or_under(uplink, account, "got not", missing, counted));
    }
    Ok(())
}

fn over_or_under(uplink: u16, account: &Account, what: &str, events: u64, counted: u64) -> Broken {
    let Account { began, left, is_succeeded, is_uncertain, .. } = account;
    let life = format!("began {began:?}, left {left:?}, succeeded {is_succeeded}, uncertain {is_uncertain}");
    broken("P2", format!("reader {uplink} {what} {events} events, {counted} are counted ({life})"))
}

fn nothing_is_counted_that_is_not_lost(
    uplink: u16,
    account: &Account,
    events: &[Made],
    told: &Told<'_>,
) -> Verdict {
    let stays = account.left.is_none() || account.is_succeeded || uplink == NOBODY;
    let was_for_it = |event: &&Made| {
        let in_time = account.began.is_none_or(|began| event.shapes > began)
            && account.left.is_none_or(|left| event.shapes <= left);
        event.position > told.must(uplink) && (in_time || account.is_uncertain)
    };
    let most = events.iter().filter(was_for_it).count() as u64;
    let most = if stays && !account.is_uncertain { 0 } else { most };
    let counted = told.counted(uplink);
    if counted > most {
        return Err(over_or_under(uplink, account, "can have lost no more than", most, counted));
    }
    Ok(())
}

fn its_cursor_is_its_own(uplink: u16, account: &Account, events: &[Made], told: &Told<'_>) -> Verdict {
    if !told.found.streams.contains_key(&(CHANGING, uplink)) {
        return Ok(());
    }
    let acked = told.found.store.backlog(consumer((CHANGING, uplink))).acked.0;
    let before = |event: &&Made| account.began.is_none_or(|began| event.shapes <= began);
    let begins = events.iter().filter(before).map(|event| event.position).max().unwrap_or(0);
    let (must, may) = (told.must(uplink), told.may(uplink).max(begins));
    if acked < must || acked > may {
        return Err(broken("P2", format!("cursor of reader {uplink} is at {acked}, not in {must}..={may}")));
    }
    Ok(())
}
