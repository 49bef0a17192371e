//! Events of several streams in the order of their positions: the order in which they were accepted.

use super::args::Choice;
use super::source::{Page, Source, Typed, parse_position};
use crate::exit::Failure;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::topic::TopicFilter;
use eventmesh_edge_store::inspect::{StoreReport, StreamReport};
use std::collections::VecDeque;

/// Which of the events of a store.
pub(super) struct Selection {
    pub(super) streams: Vec<StreamReport>,
    from: Option<Position>,
    to: Position,
    filter: Option<TopicFilter>,
    /// Only what some uplink has not acknowledged.
    waiting_only: bool,
}

impl Selection {
    pub(super) fn new(
        choice: &Choice,
        report: &StoreReport,
        waiting_only: bool,
    ) -> Result<Selection, Failure> {
        let wrong = |text: String| Failure::CannotStart(anyhow::anyhow!(text));
        if let Some(name) = choice.stream.iter().find(|name| !report.streams.iter().any(|s| s.name == **name))
        {
            let known: Vec<&str> = report.streams.iter().map(|s| s.name.as_str()).collect();
            return Err(wrong(format!("no stream {name:?} in this store: it has {}", known.join(", "))));
        }
        let chosen = |s: &&StreamReport| choice.stream.is_empty() || choice.stream.contains(&s.name);
        let filter = choice.topic.as_deref().map(TopicFilter::parse).transpose();
        Ok(Selection {
            streams: report.streams.iter().filter(chosen).cloned().collect(),
            from: choice.from.as_deref().map(parse_position).transpose()?,
            to: choice.to.as_deref().map(parse_position).transpose()?.unwrap_or(Position(u64::MAX)),
            filter: filter.map_err(|error| wrong(format!("--topic: {error}")))?,
            waiting_only,
        })
    }

    /// Events that are looked at, at most: for the progress.
    pub(super) fn expected(&self) -> u64 {
        let of = |stream: &StreamReport| match self.waiting_only {
            true => stream.consumers.iter().map(|consumer| consumer.events).max().unwrap_or(0),
            false => stream.events,
        };
        self.streams.iter().map(of).sum()
    }

    fn start(&self, stream: &StreamReport) -> Position {
        let cursors = stream.consumers.iter().filter_map(|c| parse_position(&c.cursor).ok());
        let waits = if self.waiting_only { cursors.min() } else { None };
        let from = self.from.map(|from| Position(from.0.saturating_sub(1)));
        waits.unwrap_or_default().max(from.unwrap_or_default())
    }

    fn takes(&self, typed: &Typed) -> bool {
        let Some(filter) = &self.filter else { return true };
        filter.matches(&typed.event.event.topic)
    }
}

/// One stream on the way.
struct Lane {
    stream: StreamReport,
    after: Position,
    at_end: bool,
    ahead: VecDeque<Typed>,
}

/// The walk. Holds one page per stream.
pub(super) struct Walk<'a> {
    source: &'a Source,
    selection: &'a Selection,
    lanes: Vec<Lane>,
    /// Events looked at.
    pub(super) looked_at: u64,
    /// Stretches that could not be read, by stream.
    pub(super) lost: Vec<(String, Position, Position)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(source: &'a Source, selection: &'a Selection) -> Walk<'a> {
        let lane = |stream: &StreamReport| Lane {
            stream: stream.clone(),
            after: selection.start(stream),
            at_end: false,
            ahead: VecDeque::new(),
        };
        let lanes = selection.streams.iter().map(lane).collect();
        Walk { source, selection, lanes, looked_at: 0, lost: Vec::new() }
    }

    /// The next event, with the name of its stream.
    pub(super) fn next(&mut self) -> Result<Option<(String, Typed)>, Failure> {
        loop {
            for lane in &mut self.lanes {
                fill(self.source, lane, &mut self.lost)?;
            }
            let first = |lane: &&mut Lane| lane.ahead.front().map(|typed| typed.event.position);
            let next = self.lanes.iter_mut().filter(|lane| !lane.ahead.is_empty()).min_by_key(first);
            let Some(lane) = next else { return Ok(None) };
            let Some(typed) = lane.ahead.pop_front() else { return Ok(None) };
            if typed.event.position > self.selection.to {
                return Ok(None);
            }
            self.looked_at += 1;
            if self.selection.takes(&typed) {
                return Ok(Some((lane.stream.name.clone(), typed)));
            }
        }
    }
}

fn fill(
    source: &Source,
    lane: &mut Lane,
    lost: &mut Vec<(String, Position, Position)>,
) -> Result<(), Failure> {
    while lane.ahead.is_empty() && !lane.at_end {
        let Page { events, through, at_end, lost: missing } = source.page(lane.stream.number, lane.after)?;
        lost.extend(missing.into_iter().map(|(first, last)| (lane.stream.name.clone(), first, last)));
        // A page that brings nothing and leads nowhere would be asked for for ever.
        lane.at_end = at_end || (through <= lane.after && events.is_empty());
        lane.after = through.max(lane.after);
        lane.ahead.extend(events);
    }
    Ok(())
}
