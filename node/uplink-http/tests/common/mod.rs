//! What the tests of this crate share: events, an uplink driven by hand, a stand-in for a receiver, certificates.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod node;
pub(crate) mod proxy;
pub(crate) mod standin;

use eventmesh_edge_core::event::Event;
use eventmesh_edge_core::ports::uplink::{Outgoing, Uplink, UplinkEvent};
use eventmesh_edge_uplink_http::{HttpUplink, Options, Url};
use eventmesh_edge_uplink_testing::events::{event, outgoing_of};
use std::time::Duration;

/// A test that waits longer has failed. Generous: nothing is decided by it but the end of a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

/// No timer of these decides a test that is not about it.
pub(crate) fn options(urls: &[String]) -> Options {
    Options { probe_interval: Duration::ZERO, ..Options::new(urls.iter().map(|u| url(u)).collect()) }
}

/// Without a time of its own.
pub(crate) fn outgoing(n: u64) -> Outgoing {
    outgoing_of(n, Event { time: None, ..event(n) })
}

/// An uplink, and all that it has said.
pub(crate) struct Driver {
    pub(crate) uplink: HttpUplink,
    pub(crate) events: Vec<UplinkEvent>,
}

/// How a connection ended, or was not made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Down(String),
    Unavailable(String, Option<Duration>),
    Fatal(u64, String),
}

impl End {
    pub(crate) fn cause(&self) -> &str {
        match self {
            End::Down(cause) | End::Unavailable(cause, _) | End::Fatal(_, cause) => cause,
        }
    }
}

/// What became of events.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) acked: Vec<u64>,
    pub(crate) failed: Vec<(u64, String, String)>,
    pub(crate) end: Option<End>,
}

impl Driver {
    pub(crate) fn new(options: Options) -> Driver {
        Driver { uplink: HttpUplink::new(options).unwrap(), events: Vec::new() }
    }

    pub(crate) async fn connect(&mut self, index: usize) -> Result<usize, End> {
        self.connect_within(index, PATIENCE).await
    }

    pub(crate) async fn connect_within(&mut self, index: usize, timeout: Duration) -> Result<usize, End> {
        self.events.clear();
        self.uplink.connect(index, timeout);
        self.step().await;
        match self.events.remove(0) {
            UplinkEvent::Up { window, .. } => Ok(window),
            UplinkEvent::Down { cause } | UplinkEvent::Unreachable { cause } => {
                Err(End::Down(cause.to_string()))
            }
            UplinkEvent::Unavailable { cause, retry_after } => {
                Err(End::Unavailable(cause.to_string(), retry_after))
            }
            other => panic!("{other:?}"),
        }
    }

    async fn step(&mut self) {
        let waited = tokio::time::timeout(PATIENCE, self.uplink.next(&mut self.events)).await;
        assert!(waited.is_ok(), "nothing happened; {:?}", self.uplink);
    }

    /// Sends these and waits until each of them has an outcome, or the connection ends.
    pub(crate) async fn send(&mut self, events: impl IntoIterator<Item = u64>) -> Outcome {
        let mut open = 0;
        for n in events {
            self.uplink.send(outgoing(n));
            open += 1;
        }
        self.uplink.flush();
        let mut outcome = Outcome::default();
        while outcome.acked.len() + outcome.failed.len() < open && outcome.end.is_none() {
            self.step().await;
            for event in self.events.drain(..) {
                outcome.note(event);
            }
        }
        outcome
    }

    /// Waits until the connection ends by itself.
    pub(crate) async fn end(&mut self) -> End {
        let mut outcome = Outcome::default();
        while outcome.end.is_none() {
            self.step().await;
            self.events.drain(..).for_each(|event| outcome.note(event));
        }
        outcome.end.unwrap()
    }
}

impl Outcome {
    fn note(&mut self, event: UplinkEvent) {
        match event {
            UplinkEvent::Acked { position, .. } => self.acked.push(position.0),
            UplinkEvent::Failed { position, class, reason, .. } => {
                let class = format!("{class:?}");
                if class == "Fatal" {
                    self.end = Some(End::Fatal(position.0, reason.to_string()));
                } else {
                    self.failed.push((position.0, class, reason.to_string()));
                }
            }
            UplinkEvent::Leaving => {}
            UplinkEvent::Down { cause } => self.end = Some(End::Down(cause.to_string())),
            UplinkEvent::Unavailable { cause, retry_after } => {
                self.end = Some(End::Unavailable(cause.to_string(), retry_after));
            }
            other => panic!("{other:?}"),
        }
    }
}
