//! What a store holds, in figures: the same of a running node and of a directory that nobody has open.

use super::census::{Kind, census};
use super::finding::Lost;
use crate::backing::StreamNo;
use crate::core::Core;
use crate::engine::inspect::{ConsumerView, StreamView};
use crate::journal::frame::UplinkNo;
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::store::Table;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One reader of a stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsumerReport {
    /// `None`: the stream has no uplink yet.
    pub uplink: Option<String>,
    /// Everything up to here is acknowledged or given up, `epoch.counter`.
    pub cursor: String,
    /// Events behind it.
    pub events: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Receipt of the oldest of them, ms since 1970, where it is known without reading.
    pub oldest_ms: Option<u64>,
}

/// One stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamReport {
    /// Its number on disk: what `dump` and `export` of a running node ask for.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// Events on disk, acknowledged ones included until their room is used again.
    pub events: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Position of the first of them.
    pub first: Option<String>,
    /// Position of the last one.
    pub last: Option<String>,
    /// Receipt of the oldest, ms since 1970.
    pub oldest_ms: Option<u64>,
    /// The newest position that the stream ever had.
    pub newest: String,
    /// Who reads it.
    pub consumers: Vec<ConsumerReport>,
}

/// One line of the loss ledger.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LedgerReport {
    /// Of which stream, if it is one's.
    pub stream: Option<String>,
    /// For which uplink.
    pub uplink: Option<String>,
    /// Why.
    pub reason: String,
    /// Events in all.
    pub events: u64,
    /// Stored bytes in all.
    pub bytes: u64,
    /// First position ever.
    pub first: String,
    /// Last one.
    pub last: String,
}

/// Room on disk by kind of file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskReport {
    /// Which kind.
    pub kind: String,
    /// How many files.
    pub files: u64,
    /// Bytes that they take (blocks, not lengths).
    pub bytes: u64,
}

/// One sealed generation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationReport {
    /// Its number, as in the name of its directory.
    pub number: u64,
    /// Events in it.
    pub events: u64,
    /// Streams in it.
    pub streams: u64,
}

/// Entries of the keyed tables and mailboxes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StateReport {
    /// Persistent sessions.
    pub sessions: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Retained messages.
    pub retained: u64,
    /// QoS 1 and 2 packet ids received and not released, and QoS 2 messages sent and not completed.
    pub in_flight: u64,
    /// Mailboxes that hold something.
    pub mailboxes: u64,
    /// Messages in them.
    pub mailbox_events: u64,
    /// Their stored bytes.
    pub mailbox_bytes: u64,
}

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreReport {
    /// The data directory.
    pub data_dir: String,
    /// A node has it open.
    pub running: bool,
    /// Which log, eight hexadecimal digits.
    pub log: String,
    /// Newest start.
    pub epoch: u32,
    /// Segments that hold something, by number.
    pub segments: Vec<u32>,
    /// The one that is being written, if one is.
    pub active_segment: Option<u32>,
    /// Sealed generations.
    pub generations: Vec<GenerationReport>,
    /// The streams.
    pub streams: Vec<StreamReport>,
    /// Sessions, subscriptions, retained messages, mailboxes.
    pub state: StateReport,
    /// What was given up, and why.
    pub ledger: Vec<LedgerReport>,
    /// Room on disk.
    pub disk: Vec<DiskReport>,
    /// What the next start would add to the ledger.
    pub pending_losses: Vec<PendingLoss>,
}

/// What damage will cost, as soon as a start counts it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PendingLoss {
    /// Of which stream.
    pub stream: Option<String>,
    /// For which uplink.
    pub uplink: Option<String>,
    /// Why.
    pub reason: String,
    /// What.
    pub lost: Lost,
}

/// Figures from an engine, and from the file system.
pub(crate) fn report(core: &Core, dir: &Path, running: bool) -> StoreReport {
    let disk = census(dir).into_iter().map(|(kind, files, bytes)| DiskReport {
        kind: Kind::as_str(kind).to_owned(),
        files,
        bytes,
    });
    let disk = disk.collect();
    let state = state(core);
    let engine = core.engine();
    let segments: Vec<u32> = engine.segments.iter().map(|s| s.number()).collect();
    let generation = |g: &crate::engine::segments::GenerationInfo| GenerationReport {
        number: g.number,
        events: g.extents.iter().map(|e| e.events).sum(),
        streams: g.extents.len() as u64,
    };
    let name = |no: StreamNo, uplink: UplinkNo| {
        let (stream, uplink) = engine.names_of(no, uplink);
        (stream.map(|s| s.to_string()), uplink.map(|u| u.to_string()))
    };
    let pending = |loss: crate::journal::frame::LossEntry| {
        let (stream, uplink) = name(loss.stream, loss.uplink);
        let lost = Lost::range(loss.first, Some(loss.last), Some(loss.events));
        PendingLoss { stream, uplink, reason: loss.reason.as_str().to_owned(), lost }
    };
    StoreReport {
        data_dir: dir.display().to_string(),
        running,
        log: engine.spaces.newest().to_string(),
        epoch: engine.epoch,
        active_segment: if running { segments.last().copied() } else { None },
        segments,
        generations: engine.generations.iter().map(generation).collect(),
        streams: engine.stream_views().iter().map(stream).collect(),
        state,
        ledger: ledger(&engine),
        disk,
        pending_losses: if running {
            Vec::new()
        } else {
            engine.pending_losses().into_iter().map(pending).collect()
        },
    }
}

fn stream(view: &StreamView) -> StreamReport {
    let position = |of: fn(&crate::backing::Extent) -> Position| view.held.map(|held| of(&held).to_string());
    StreamReport {
        number: view.no.0,
        name: view.name.to_string(),
        events: view.held.map_or(0, |held| held.events),
        bytes: view.held.map_or(0, |held| held.bytes),
        first: position(|held| held.first),
        last: position(|held| held.last),
        oldest_ms: view.held.map(|held| held.oldest_ms),
        newest: view.newest.to_string(),
        consumers: view.consumers.iter().map(consumer).collect(),
    }
}

fn consumer(view: &ConsumerView) -> ConsumerReport {
    ConsumerReport {
        uplink: view.uplink.as_ref().map(ToString::to_string),
        cursor: view.acked.to_string(),
        events: view.events,
        bytes: view.bytes,
        oldest_ms: view.oldest_ms,
    }
}

fn ledger(engine: &crate::engine::Engine) -> Vec<LedgerReport> {
    let spec = &engine.spec;
    let lines = engine.ledger().into_iter().map(|line| {
        let stream = line.consumer.and_then(|c| spec.streams.get(usize::from(c.stream.0)));
        let uplink = line.consumer.and_then(|c| spec.uplinks.get(usize::from(c.uplink.0)));
        LedgerReport {
            stream: stream.map(|s| s.name.to_string()),
            uplink: uplink.map(ToString::to_string),
            reason: line.reason.as_str().to_owned(),
            events: line.events,
            bytes: line.bytes,
            first: line.first.to_string(),
            last: line.last.to_string(),
        }
    });
    lines.collect()
}

/// Entries counted at a time with the engine's lock held.
const PAGE: usize = 512;

fn state(core: &Core) -> StateReport {
    let count = |table| count_entries(core, table);
    let (mailboxes, mailbox_events, mailbox_bytes) = core.mailbox_totals();
    StateReport {
        sessions: count(Table::Session),
        subscriptions: count(Table::Subscription),
        retained: count(Table::Retained),
        in_flight: count(Table::Inbound) + count(Table::Outbound),
        mailboxes,
        mailbox_events,
        mailbox_bytes,
    }
}

fn count_entries(core: &Core, table: Table) -> u64 {
    let mut count = 0;
    let mut after: Option<bytes::Bytes> = None;
    // What cannot be read is not counted: `verify` says what is wrong with it.
    while let Ok(page) = core.scan(table, &[], after.as_deref(), PAGE) {
        count += page.len() as u64;
        match page.into_iter().last() {
            Some((key, _)) => after = Some(key),
            None => break,
        }
    }
    count
}
