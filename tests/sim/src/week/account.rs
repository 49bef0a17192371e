//! Sunday night: does what the receiver knows explain what it does not have?

use super::plan::{OWN, STREAMS};
use super::receiver::{Line, broken};
use super::world::{Week, uplink_id};
use crate::checks::{Check, Violation};
use crate::world::Summary;
use eventmesh_edge_core::ports::store::{Consumer, LossReason, StreamId};
use std::collections::BTreeMap;

impl Week<'_> {
    pub(super) fn close_account(mut self) -> Result<Summary, Violation> {
        self.summary.accepted = self.truth.accepted.values().map(|a| a.len() as u64).sum();
        let ledger = self.true_ledger();
        for idx in 0..self.sides.len() {
            self.drained(idx)?;
            self.totals_are_the_ledger(idx, &ledger)?;
            self.entries_are_the_ledger(idx, &ledger)?;
            for stream in STREAMS {
                self.every_event_is_accounted_for(idx, stream)?;
            }
        }
        self.refused_are_told(&ledger)?;
        self.summary.lost = ledger.values().sum();
        Ok(self.summary)
    }

    /// The store's own totals, by the names that the receiver sees.
    fn true_ledger(&self) -> BTreeMap<Line, u64> {
        let spec = &self.plan.spec;
        let name = |line: &eventmesh_edge_core::ports::store::LedgerLine| {
            let stream = line.consumer.map(|c| spec.streams[usize::from(c.stream.0)].name.to_string());
            let uplink = line.consumer.and_then(|c| spec.uplinks.get(usize::from(c.uplink.0)));
            let uplink = uplink.map(ToString::to_string).unwrap_or_default();
            (stream.unwrap_or_default(), uplink, line.reason.as_str().to_owned())
        };
        self.ledger().iter().map(|line| (name(line), line.events)).collect()
    }

    fn drained(&self, idx: usize) -> Check {
        for stream in 0..STREAMS.len() {
            let stream = StreamId(u16::try_from(stream).unwrap_or(0));
            let backlog = self.store.backlog(Consumer { stream, uplink: uplink_id(idx) });
            if backlog.events > 0 {
                return broken(format!("uplink {idx} did not drain {stream:?} on a quiet day: {backlog:?}"));
            }
        }
        Ok(())
    }

    /// Whatever the node's own stream has lost on the way: the newest heartbeat tells all of it.
    fn totals_are_the_ledger(&self, idx: usize, ledger: &BTreeMap<Line, u64>) -> Check {
        let totals = &self.sides[idx].receiver.totals;
        if totals != ledger {
            return broken(format!(
                "uplink {idx}: the newest heartbeat tells {totals:?}, the ledger is {ledger:?}"
            ));
        }
        Ok(())
    }

    /// Where no node event is missing, the ledger events add up to the ledger, to the event.
    fn entries_are_the_ledger(&self, idx: usize, ledger: &BTreeMap<Line, u64>) -> Check {
        let receiver = &self.sides[idx].receiver;
        let sums = receiver.sums();
        let others: BTreeMap<Line, u64> =
            ledger.iter().filter(|(line, _)| line.0 != OWN).map(|(line, n)| (line.clone(), *n)).collect();
        let (births, lives) = (receiver.births.len() as u64, self.truth.lives);
        if receiver.holes(OWN) == 0 {
            if sums != others {
                return broken(format!(
                    "uplink {idx}: ledger events add up to {sums:?}, the ledger is {others:?}"
                ));
            }
            // A life can be too short for a birth.
            if births > lives {
                return broken(format!("uplink {idx}: {births} births of {lives} lives"));
            }
        }
        let more = sums.iter().find(|(line, n)| **n > others.get(*line).copied().unwrap_or(0));
        more.map_or(Ok(()), |more| {
            broken(format!("uplink {idx}: {more:?} were told, more than the ledger has"))
        })
    }

    /// `edgeseq` says how many did not come, the ledger says why.
    fn every_event_is_accounted_for(&self, idx: usize, stream: &str) -> Check {
        let id = self.plan.spec.streams.iter().position(|s| s.name == stream).unwrap_or(0);
        let id = StreamId(u16::try_from(id).unwrap_or(0));
        let receiver = &self.sides[idx].receiver;
        let uplink = self.plan.spec.uplinks[idx].to_string();
        let of_it = |line: &Line| line.0 == stream && line.1 == uplink;
        let told: u64 = receiver.totals.iter().filter(|(line, _)| of_it(line)).map(|(_, n)| n).sum();
        let holes = receiver.holes(stream);
        if holes > told {
            return broken(format!(
                "uplink {idx}: {holes} numbers of {stream} are missing, {told} are accounted for"
            ));
        }
        // And what only the truth knows: those behind the last number that came.
        let accepted = self.truth.accepted.get(&id).map_or(0, |a| a.len() as u64);
        let missing = accepted.saturating_sub(receiver.distinct(stream));
        let both = self.truth.both.get(&(id, idx)).copied().unwrap_or(0);
        if !(missing..=missing + both).contains(&told) {
            return broken(format!(
                "uplink {idx}: of {accepted} events of {stream} {missing} did not arrive (at most {both} more may be \
                 counted although they did); the ledger accounts for {told}"
            ));
        }
        Ok(())
    }

    /// Messages that were never let in have no number: the ledger alone tells them.
    fn refused_are_told(&self, ledger: &BTreeMap<Line, u64>) -> Check {
        let line = (String::new(), String::new(), LossReason::Refused.as_str().to_owned());
        let told = ledger.get(&line).copied().unwrap_or(0);
        let (least, most) = (self.truth.refused, self.truth.refused_at_most);
        if !(least..=most).contains(&told) {
            return broken(format!("{least} to {most} messages were refused, the ledger has {told}"));
        }
        Ok(())
    }
}
