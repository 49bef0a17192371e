//! The views as one commit sees them: its own changes lie over what was there.

use crate::backing::{BackingError, ViewOp, Views};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;

pub(super) struct Rows<'v> {
    views: &'v dyn Views,
    changed: BTreeMap<Bytes, Option<Bytes>>,
}

impl<'v> Rows<'v> {
    pub(super) fn over(views: &'v dyn Views) -> Self {
        Rows { views, changed: BTreeMap::new() }
    }

    /// With changes that are on their way into the views.
    pub(super) fn with(views: &'v dyn Views, ops: &[ViewOp]) -> Self {
        let change = |op: &ViewOp| match op {
            ViewOp::Put(key, value) => (key.clone(), Some(value.clone())),
            ViewOp::Delete(key) => (key.clone(), None),
        };
        Rows { views, changed: ops.iter().map(change).collect() }
    }

    pub(super) fn into_ops(self) -> Vec<ViewOp> {
        let op = |(key, value): (Bytes, Option<Bytes>)| match value {
            Some(value) => ViewOp::Put(key, value),
            None => ViewOp::Delete(key),
        };
        self.changed.into_iter().map(op).collect()
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BackingError> {
        match self.changed.get(key) {
            Some(changed) => Ok(changed.clone()),
            None => self.views.get(key),
        }
    }

    pub(super) fn put(&mut self, key: Bytes, value: Bytes) {
        self.changed.insert(key, Some(value));
    }

    pub(super) fn delete(&mut self, key: Bytes) {
        self.changed.insert(key, None);
    }

    /// As [`Views::scan`], with this commit's changes.
    pub(super) fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, BackingError> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mine = self.changed.range::<[u8], _>((from, Bound::Unbounded));
        let mine: Vec<_> = mine.take_while(|(key, _)| key.starts_with(prefix)).collect();
        let below = self.views.scan(prefix, after, max + mine.len())?;
        let mut merged: BTreeMap<Bytes, Option<Bytes>> =
            below.into_iter().map(|(k, v)| (k, Some(v))).collect();
        merged.extend(mine.into_iter().map(|(k, v)| (k.clone(), v.clone())));
        Ok(merged.into_iter().filter_map(|(k, v)| Some((k, v?))).take(max).collect())
    }
}
