//! A store to read from: a directory that nobody has open, or the node that has it.

use super::args::Place;
use super::place;
use crate::exit::Failure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use eventmesh_edge_admin::{FetchError, fetch_events, fetch_store_report};
use eventmesh_edge_config::Config;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{LogId, Position, StoredEvent, record};
use eventmesh_edge_core::route::Router;
use eventmesh_edge_store::inspect::{Inspection, StoreReport};
use std::path::PathBuf;

/// Events asked for at a time, and about how many bytes.
pub(super) const PAGE_EVENTS: usize = 512;
pub(super) const PAGE_BYTES: usize = 1 << 20;

/// An event with the `type` that the routes give it.
#[derive(Clone, Debug)]
pub(super) struct Typed {
    pub(super) event: StoredEvent,
    pub(super) kind: Text,
}

/// One step along a stream.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) events: Vec<Typed>,
    pub(super) through: Position,
    pub(super) at_end: bool,
    pub(super) lost: Vec<(Position, Position)>,
}

/// Where events come from.
pub(super) enum Source {
    Stopped { inspection: Box<Inspection>, router: Router },
    Running(Box<Remote>),
}

/// A node that answers.
pub(super) struct Remote {
    socket: PathBuf,
    report: StoreReport,
    log: LogId,
}

impl Source {
    /// Opens the directory, or asks the node that has it.
    pub(super) fn open(at: &Place) -> Result<Source, Failure> {
        let config = place::config(at)?;
        match Inspection::open(&config.node.data_dir, &place::options(at)) {
            Ok(inspection) => {
                let router = config.router().map_err(|error| Failure::CannotStart(error.into()))?;
                Ok(Source::Stopped { inspection: Box::new(inspection), router })
            }
            Err(error) if place::holder(&error).is_some() => {
                Remote::ask(&config).map(|remote| Source::Running(Box::new(remote)))
            }
            Err(error) => Err(place::failed(error)),
        }
    }

    pub(super) fn report(&self) -> StoreReport {
        match self {
            Source::Stopped { inspection, .. } => inspection.report(),
            Source::Running(remote) => remote.report.clone(),
        }
    }

    /// Up to some events of a stream after a position.
    pub(super) fn page(&self, stream: u32, after: Position) -> Result<Page, Failure> {
        match self {
            Source::Stopped { inspection, router } => {
                let page = inspection.read_stream(stream, after, PAGE_EVENTS, PAGE_BYTES);
                let page = page.map_err(|error| Failure::Failed(error.into()))?;
                let typed = |event: StoredEvent| {
                    let kind = router.kind_for(&event.event.topic, event.event.via);
                    Typed { event, kind }
                };
                Ok(Page {
                    events: page.events.into_iter().map(typed).collect(),
                    through: page.through,
                    at_end: page.at_end,
                    lost: page.lost,
                })
            }
            Source::Running(remote) => remote.page(stream, after),
        }
    }
}

impl Remote {
    fn ask(config: &Config) -> Result<Remote, Failure> {
        let socket = config.admin.socket.clone();
        let report = ask_report(&socket).map_err(Failure::CannotStart)?;
        let log = LogId(u32::from_str_radix(&report.log, 16).unwrap_or_default());
        Ok(Remote { socket, report, log })
    }

    fn page(&self, stream: u32, after: Position) -> Result<Page, Failure> {
        let page = fetch_events(&self.socket, stream, after.0, PAGE_EVENTS);
        let page = page.map_err(|error| Failure::Failed(error.into()))?;
        let mut out = Page {
            events: Vec::with_capacity(page.events.len()),
            through: Position(page.through),
            at_end: page.at_end,
            lost: page.lost.iter().map(|(first, last)| (Position(*first), Position(*last))).collect(),
        };
        for stored in page.events {
            let body = STANDARD.decode(&stored.body).map_err(|error| Failure::Failed(error.into()))?;
            let (event, sequence) =
                record::decode(&Bytes::from(body)).map_err(|error| Failure::Failed(error.into()))?;
            let (position, stored_bytes) = (Position(stored.position), stored.stored_bytes);
            let event = StoredEvent { position, log: self.log, sequence, event, stored_bytes };
            out.events.push(Typed { event, kind: Text::from(stored.kind) });
        }
        Ok(out)
    }
}

/// The report of the node that has the store; where it does not answer, whoever has the lock is no node.
pub(super) fn ask_report(socket: &std::path::Path) -> anyhow::Result<StoreReport> {
    fetch_store_report(socket).map_err(|error| match error {
        FetchError::NotRunning { path, .. } => anyhow::anyhow!(
            "the store is in use, and no node answers at {}: wait for the other command, or say with --config where the \
             node listens",
            path.display()
        ),
        other => other.into(),
    })
}

/// `3.118`
pub(super) fn parse_position(text: &str) -> Result<Position, Failure> {
    let parse = || {
        let (epoch, counter) = text.split_once('.')?;
        let epoch: u32 = epoch.parse().ok().filter(|epoch| *epoch <= Position::EPOCH_MAX)?;
        let counter: u64 = counter.parse().ok()?;
        let position = Position(Position::first_of(epoch).0.checked_sub(1)?.checked_add(counter)?);
        (position.epoch() == u64::from(epoch)).then_some(position)
    };
    let usage = || anyhow::anyhow!("{text:?} is no position: two numbers, as in 3.118");
    parse().ok_or_else(|| Failure::CannotStart(usage()))
}
