//! Which consumers there are: at a start, and when the set changes in between.

use super::{Cursor, Disk, Effects, Stream};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::{
    Consumer, LossReason, Reshape, ReshapeError, StoreSpec, StreamSpec, UplinkId,
};
use std::collections::BTreeSet;

impl Disk {
    /// The consumers of a stream at a start. What waits for uplinks that are gone goes to those that are new, or to nobody in
    /// particular; where everybody is known it is counted.
    pub(super) fn seat_consumers(&mut self, spec: &StreamSpec) {
        let wanted = self.wanted(spec, &self.spec);
        let stream = self.streams.entry(spec.name.clone()).or_default();
        let known = wanted.iter().all(|name| name.is_some() && stream.cursors.contains_key(name));
        let oldest = stream.cursors.values().map(|c| c.acked).min().unwrap_or_default();
        let left = stream.cursors.iter().filter(|(name, c)| c.until.is_some() && !wanted.contains(name));
        let left = left.map(|(_, c)| c.acked).min();
        let gone: Vec<Option<Text>> =
            stream.cursors.keys().filter(|name| !wanted.contains(name)).cloned().collect();
        for name in &wanted {
            let cursor = stream.cursors.entry(name.clone()).or_insert(Cursor::at(oldest));
            if let (None, Some(left)) = (name, left) {
                cursor.acked = cursor.acked.min(left);
            }
            cursor.until = None;
        }
        self.recount(&spec.name);
        if known {
            for name in gone.iter().filter(|name| name.is_some()) {
                self.give_up(&spec.name, name, LossReason::StreamRemoved, |_, _| true);
            }
        }
        if let Some(stream) = self.streams.get_mut(&spec.name) {
            stream.cursors.retain(|name, _| wanted.contains(name));
        }
        self.trim(&spec.name);
    }

    fn wanted(&self, spec: &StreamSpec, of: &StoreSpec) -> BTreeSet<Option<Text>> {
        let name = |uplink: &UplinkId| of.uplinks.get(usize::from(uplink.0)).cloned();
        let named: BTreeSet<Option<Text>> = spec.uplinks.iter().filter_map(name).map(Some).collect();
        if named.is_empty() { BTreeSet::from([None]) } else { named }
    }

    /// All of the change or nothing of it.
    pub(in crate::memory) fn reshape(&mut self, change: &Reshape) -> Result<Effects, ReshapeError> {
        self.check_reshape(&change.spec)?;
        self.check_farewells(change)?;
        self.effects = Effects { freed: true, ..Effects::default() };
        for spec in &change.spec.streams {
            self.reshape_stream(spec, change);
        }
        self.spec = change.spec.clone();
        Ok(self.effects)
    }

    fn check_reshape(&self, new: &StoreSpec) -> Result<(), ReshapeError> {
        let old = &self.spec;
        let streams = old.streams.len() <= new.streams.len()
            && old.streams.iter().zip(&new.streams).all(|(old, new)| old.name == new.name);
        let limits =
            |s: &StoreSpec| (s.disk_max, s.mailbox_max_bytes, s.mailbox_max_events, s.mailboxes_max_bytes);
        let unknown = |u: &UplinkId| usize::from(u.0) >= new.uplinks.len();
        if !streams
            || !new.uplinks.starts_with(&old.uplinks)
            || limits(old) != limits(new)
            || new.streams.iter().any(|s| s.uplinks.iter().any(unknown))
        {
            return Err(ReshapeError::Spec("an open store cannot become this one".to_owned()));
        }
        Ok(())
    }

    /// Every consumer that something waits for and that has no place any more has to be named.
    fn check_farewells(&self, change: &Reshape) -> Result<(), ReshapeError> {
        for spec in &change.spec.streams {
            let wanted = self.wanted(spec, &change.spec);
            let Some(stream) = self.streams.get(&spec.name) else { continue };
            let gone = stream.cursors.iter().filter(|(name, c)| !wanted.contains(name) && c.events > 0);
            for (name, cursor) in gone.filter(|(name, _)| name.is_some()) {
                let Some(consumer) = self.consumer(&(spec.name.clone(), name.clone())) else { continue };
                let is_told = |told: &[Consumer]| told.contains(&consumer);
                if !is_told(&change.drain) && !is_told(&change.drop) {
                    return Err(ReshapeError::Waiting { consumer, events: cursor.events });
                }
            }
        }
        Ok(())
    }

    fn reshape_stream(&mut self, spec: &StreamSpec, change: &Reshape) {
        let wanted = self.wanted(spec, &change.spec);
        let is_drained = |disk: &Disk, name: &Option<Text>| {
            let consumer = disk.consumer(&(spec.name.clone(), name.clone()));
            consumer.is_some_and(|consumer| change.drain.contains(&consumer))
        };
        let stream = self.streams.entry(spec.name.clone()).or_default();
        let newest = stream.newest;
        let begin = stream.cursors.get(&None).map_or(newest, |waiting| waiting.acked);
        let gone: Vec<Option<Text>> =
            stream.cursors.keys().filter(|name| !wanted.contains(name)).cloned().collect();
        for name in &wanted {
            stream.cursors.entry(name.clone()).or_insert(Cursor::at(begin)).until = None;
        }
        self.recount(&spec.name);
        for name in gone {
            let drains = name.is_some() && is_drained(self, &name) && self.waits(&spec.name, &name);
            if drains {
                self.set_until(&spec.name, &name, newest);
                continue;
            }
            if name.is_some() {
                self.give_up(&spec.name, &name, LossReason::StreamRemoved, |_, _| true);
            }
            if let Some(stream) = self.streams.get_mut(&spec.name) {
                stream.cursors.remove(&name);
            }
        }
        self.trim(&spec.name);
    }

    fn waits(&self, stream: &Text, name: &Option<Text>) -> bool {
        self.streams.get(stream).and_then(|s| s.cursors.get(name)).is_some_and(|c| c.events > 0)
    }

    fn set_until(&mut self, stream: &Text, name: &Option<Text>, newest: Position) {
        if let Some(cursor) = self.streams.get_mut(stream).and_then(|s| s.cursors.get_mut(name)) {
            cursor.until.get_or_insert(newest);
        }
    }

    /// What waits for each, counted anew.
    fn recount(&mut self, name: &Text) {
        let Some(stream) = self.streams.get(name) else { return };
        let count = |cursor: &Cursor| {
            let waiting = stream.retained.iter().filter(|p| cursor.waits_for(**p));
            waiting.fold((0, 0), |(events, bytes), p| (events + 1, bytes + self.stored_bytes(*p)))
        };
        let counted: Vec<(u64, u64)> = stream.cursors.values().map(count).collect();
        if let Some(stream) = self.streams.get_mut(name) {
            for (cursor, (events, bytes)) in stream.cursors.values_mut().zip(counted) {
                (cursor.events, cursor.bytes) = (events, bytes);
            }
        }
    }
}

impl Cursor {
    fn at(acked: Position) -> Cursor {
        Cursor { acked, ..Cursor::default() }
    }

    pub(super) fn waits_for(&self, position: Position) -> bool {
        position > self.acked && self.until.is_none_or(|until| position <= until)
    }
}

impl Stream {
    /// Takes out what nobody waits for any more.
    pub(super) fn take_passed(&mut self) -> Vec<Position> {
        let Stream { retained, cursors, .. } = self;
        if cursors.values().all(|c| c.until.is_none()) {
            let floor = cursors.values().map(|c| c.acked).min().unwrap_or(self.newest);
            let keep = retained.split_off(&floor.next());
            return std::mem::replace(retained, keep).into_iter().collect();
        }
        let passed: Vec<Position> =
            retained.iter().filter(|p| !cursors.values().any(|c| c.waits_for(**p))).copied().collect();
        passed.iter().for_each(|position| {
            retained.remove(position);
        });
        passed
    }
}
