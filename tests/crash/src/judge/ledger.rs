//! P2: the loss ledger of an image.

use super::{Found, Verdict, broken};
use crate::marks::{LOSS_BYTES, ToldEntry};
use crate::model::{Expected, Said};
use crate::workload::CHANGING;
use eventmesh_edge_core::ports::store::{LedgerLine, LossReason, Store};
use eventmesh_edge_store::JournalStore;
use std::collections::BTreeMap;

/// P2: what was told as lost stays told; nothing is counted as damage that was only cut.
pub(super) fn p2_the_ledger_agrees(found: &Found, expected: &Expected, said: &Said) -> Verdict {
    for (line, events) in &said.ledger {
        if found.losses.get(line).copied().unwrap_or(0) < *events {
            return Err(broken("P2", format!("ledger line {line:?} went back from {events}")));
        }
    }
    for (line, must) in &expected.losses {
        let (there, may) = (found.losses.get(line), expected.losses_may.get(line).unwrap_or(must));
        if there.is_none_or(|there| there < must || there > may) {
            let why = format!("ledger line {line:?}: {must} to {may} were committed, {there:?} are there");
            return Err(broken("P2", why));
        }
    }
    // The store itself gives up only for these two reasons, where nothing is damaged and everybody stays.
    let own = [LossReason::QueueFull as u8, LossReason::Expired as u8];
    let removed = LossReason::StreamRemoved as u8;
    let is_known = |line: &(u16, u16, u8)| {
        own.contains(&line.2)
            || (line.0, line.2) == (CHANGING, removed)
            || expected.losses_may.contains_key(line)
    };
    match found.losses.iter().find(|(line, _)| !is_known(line)) {
        Some((line, events)) => Err(broken("P2", format!("ledger line {line:?}: {events}"))),
        None if expected.events.is_empty() && !found.losses.is_empty() => {
            Err(broken("P2", "losses where nothing was"))
        }
        None => Ok(()),
    }
}

/// P2: an entry of the ledger that was given out is there, as it was, until it is handed on, and not again after that; with
/// those that were handed on, the entries make the totals.
pub(super) fn p2_entries_are_given_out_until_they_are_handed_on(
    store: &JournalStore,
    expected: &Expected,
    said: &Said,
) -> Verdict {
    let there: BTreeMap<u64, ToldEntry> =
        store.ledger_after(0, usize::MAX).iter().map(|entry| (entry.no, entry.into())).collect();
    for (no, told) in &said.entries {
        match there.get(no) {
            Some(_) if *no <= expected.forgotten => {
                return Err(broken("P2", format!("entry {no} was handed on, and is given out again")));
            }
            Some(entry) if entry != told => {
                return Err(broken("P2", format!("{told:?} has become {entry:?}")));
            }
            None if *no > expected.forgotten_may => {
                return Err(broken("P2", format!("{told:?} was never handed on, and is gone")));
            }
            _ => {}
        }
    }
    let newest = said.entries.keys().next_back().copied().unwrap_or(0);
    if let Some(no) = there.keys().find(|no| **no <= newest && !said.entries.contains_key(no)) {
        return Err(broken("P2", format!("entry {no} after {newest} was told of")));
    }
    let handed_on = said.entries.iter().filter(|(no, _)| !there.contains_key(no)).map(|(_, told)| told);
    let mut sums: BTreeMap<u8, u64> = BTreeMap::new();
    for entry in there.values().chain(handed_on) {
        *sums.entry(entry.reason).or_default() += entry.events;
    }
    let mut totals: BTreeMap<u8, u64> = BTreeMap::new();
    for line in store.ledger() {
        *totals.entry(line.reason as u8).or_default() += line.events;
    }
    let of = |figures: &BTreeMap<u8, u64>, reason: &u8| figures.get(reason).copied().unwrap_or(0);
    let fits = |reason| {
        of(&sums, reason) == of(&totals, reason) || said.older && of(&sums, reason) < of(&totals, reason)
    };
    if !sums.keys().chain(totals.keys()).all(fits) {
        return Err(broken("P2", format!("entries make {sums:?} by reason, the totals are {totals:?}")));
    }
    Ok(())
}

/// P2: a line's bytes go with its events.
pub(super) fn p2_lines_are_whole(line: &LedgerLine) -> Verdict {
    let planned = [LossReason::Rejected, LossReason::Parked, LossReason::SlowSubscriber];
    if planned.contains(&line.reason) && line.bytes != line.events * LOSS_BYTES {
        return Err(broken("P2", format!("{line:?}: its bytes are not those of its events")));
    }
    if line.events == 0 || line.first > line.last {
        return Err(broken("P2", format!("{line:?} is no loss")));
    }
    Ok(())
}
