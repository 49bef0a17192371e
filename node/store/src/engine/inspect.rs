//! The engine as something to be looked at: what it found, what it would commit, what lies where.

use super::read::Plan;
use super::recent::Harvest;
use super::tables::{Bounds, scan_all};
use super::{Engine, keys};
use crate::backing::{BackingError, Extent, StreamNo, Views};
use crate::codec::Reader;
use crate::journal::frame::{LossEntry, UplinkNo};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::{StoreSpec, StreamSpec, UplinkId, WhenFull};
use std::collections::{BTreeMap, BTreeSet};

/// What a directory remembers of a configuration: opening with it gives nothing up.
pub(crate) fn remembered_spec(views: &dyn Views) -> Result<StoreSpec, BackingError> {
    let mut uplinks = BTreeMap::new();
    for (key, name) in scan_all(views, &[keys::UPLINK])? {
        if let Some(no) = Reader::new(key.get(1..).unwrap_or_default()).u32_be() {
            uplinks.insert(no, String::from_utf8_lossy(&name).into_owned());
        }
    }
    let mut readers: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for (key, _) in scan_all(views, &[keys::CURSOR])? {
        let mut numbers = Reader::new(key.get(1..).unwrap_or_default());
        if let (Some(stream), Some(uplink)) = (numbers.u32_be(), numbers.u32_be()) {
            readers.entry(stream).or_default().insert(uplink);
        }
    }
    let ids: BTreeMap<u32, UplinkId> =
        uplinks.keys().zip(0u16..).map(|(no, idx)| (*no, UplinkId(idx))).collect();
    let mut streams = Vec::new();
    for (key, value) in scan_all(views, &[keys::STREAM])? {
        let Some(no) = Reader::new(key.get(1..).unwrap_or_default()).u32_be() else { continue };
        let name = String::from_utf8_lossy(value.get(8..).unwrap_or_default()).into_owned();
        let readers = readers.get(&no).into_iter().flatten().filter_map(|no| ids.get(no).copied());
        streams.push(unbounded(Text::from(name), readers.collect()));
    }
    let bounds = views.get(keys::BOUNDS)?.and_then(|bytes| Bounds::decode(&bytes));
    Ok(StoreSpec {
        streams,
        uplinks: uplinks.into_values().map(Text::from).collect(),
        disk_max: u64::MAX / 4,
        mailbox_max_bytes: bounds.map_or(u64::MAX, |bounds| bounds.bytes),
        mailbox_max_events: bounds.map_or(u64::MAX, |bounds| bounds.events),
        mailboxes_max_bytes: bounds.map_or(u64::MAX, |bounds| bounds.all_bytes),
    })
}

/// A stream that refuses nothing and gives nothing up.
pub(crate) fn unbounded(name: Text, uplinks: Vec<UplinkId>) -> StreamSpec {
    StreamSpec { name, uplinks, max_bytes: u64::MAX / 4, max_age: None, when_full: WhenFull::Refuse }
}

/// Claims of a mailbox looked at together.
const CLAIMS_PAGE: usize = 512;

/// A session, what its mailbox is said to hold (entries, bytes), and what it holds.
pub(crate) type Disagreement = (u64, (u64, u64), (u64, u64));

/// One reader of a stream.
#[derive(Clone, Debug)]
pub(crate) struct ConsumerView {
    pub(crate) uplink: Option<Text>,
    pub(crate) acked: Position,
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) oldest_ms: Option<u64>,
}

/// One stream.
#[derive(Clone, Debug)]
pub(crate) struct StreamView {
    pub(crate) no: StreamNo,
    pub(crate) name: Text,
    pub(crate) newest: Position,
    /// What lies on disk, acknowledged or not.
    pub(crate) held: Option<Extent>,
    pub(crate) consumers: Vec<ConsumerView>,
}

impl Engine {
    /// What it found to commit of its own accord: at a start, all that damage costs.
    pub(crate) fn pending_losses(&self) -> Vec<LossEntry> {
        self.internal.iter().flat_map(|internal| internal.losses.iter().copied()).collect()
    }

    /// Last position that any durable event has.
    pub(crate) fn last_position(&self) -> Position {
        self.durable_position
    }

    /// Numbers of the segments that generations cover.
    pub(crate) fn sealed_segments(&self) -> Vec<u32> {
        self.segments.iter().filter(|s| s.sealed).map(super::segments::Segment::number).collect()
    }

    /// Generations that the views know of and that are not there.
    pub(crate) fn missing_generations(&self) -> Result<Vec<(u64, Vec<Extent>)>, BackingError> {
        let mut missing = Vec::new();
        for (key, value) in scan_all(self.views(), &[keys::GENERATION])? {
            let number = Reader::new(key.get(1..).unwrap_or_default()).u64_be().unwrap_or_default();
            if !self.generations.iter().any(|generation| generation.number == number) {
                missing.push((number, super::retain::decode_extents(&value).unwrap_or_default()));
            }
        }
        Ok(missing)
    }

    /// Mailboxes whose figures are not what is in them: session, entries and bytes as noted, and as found.
    pub(crate) fn mailbox_disagreements(&self) -> Result<Vec<Disagreement>, BackingError> {
        let mut wrong = Vec::new();
        for session in self.mailboxes().sessions() {
            let noted = self.mailboxes().len(session);
            let found = self.claims_of(session)?;
            if noted != found {
                wrong.push((session, noted, found));
            }
        }
        Ok(wrong)
    }

    fn claims_of(&self, session: u64) -> Result<(u64, u64), BackingError> {
        let (mut sum, mut after) = ((0, 0), Position::ZERO);
        loop {
            let page = self.mailboxes().page(self.views(), session, after, CLAIMS_PAGE)?;
            let Some(last) = page.last() else { return Ok(sum) };
            after = last.position;
            sum.0 += page.len() as u64;
            sum.1 += page.iter().map(|claim| u64::from(claim.stored_bytes)).sum::<u64>();
        }
    }

    /// Names behind durable numbers; `None` for 0 and for what nobody remembers.
    pub(crate) fn names_of(&self, stream: StreamNo, uplink: UplinkNo) -> (Option<Text>, Option<Text>) {
        let stream = self.catalog.by_no.get(&stream).and_then(|idx| self.catalog.stream(*idx));
        let known = self.catalog.uplinks.iter().position(|no| *no == uplink);
        (stream.map(|s| s.name.clone()), known.and_then(|idx| self.spec.uplinks.get(idx).cloned()))
    }

    pub(crate) fn stream_views(&self) -> Vec<StreamView> {
        let view = |stream: &super::catalog::StreamState| StreamView {
            no: stream.no,
            name: stream.name.clone(),
            newest: stream.newest,
            held: self.held(stream.no),
            consumers: stream.consumers.iter().filter_map(|idx| self.consumer_view(*idx)).collect(),
        };
        self.catalog.streams.iter().map(view).collect()
    }

    fn consumer_view(&self, idx: usize) -> Option<ConsumerView> {
        let consumer = self.catalog.consumer(idx)?;
        let oldest = consumer.id.and_then(|id| self.catalog.backlog(id).oldest).map(|t| t.0);
        Some(ConsumerView {
            uplink: self.names_of(consumer.stream_no, consumer.uplink).1,
            acked: consumer.acked,
            events: consumer.events,
            bytes: consumer.bytes,
            oldest_ms: oldest.or(consumer.oldest_ms).filter(|_| consumer.events > 0),
        })
    }

    /// All of a stream that lies in generations and in segments that no generation covers.
    fn held(&self, stream: StreamNo) -> Option<Extent> {
        let spilled = self.generations.iter().filter_map(|generation| generation.extent(stream));
        let journal = self.segments.iter().filter(|s| !s.sealed).filter_map(|s| s.extent(stream));
        spilled.chain(journal).copied().reduce(|sum, next| Extent {
            stream,
            first: sum.first.min(next.first),
            last: sum.last.max(next.last),
            events: sum.events + next.events,
            bytes: sum.bytes + next.bytes,
            oldest_ms: sum.oldest_ms.min(next.oldest_ms),
            newest_ms: sum.newest_ms.max(next.newest_ms),
        })
    }

    /// Where the events of a stream after a position are, whoever has acknowledged them.
    pub(crate) fn plan_stream(&self, stream: StreamNo, after: Position) -> Plan {
        self.plan(stream, after, None)
    }

    /// For [`Plan::Memory`]; true if there is nothing more.
    pub(crate) fn read_recent(&self, stream: StreamNo, after: Position, harvest: &mut Harvest) -> bool {
        self.recent.read(stream, after, harvest)
    }
}
