//! What the tests of this crate share: events to send, an uplink driven by hand, certificates.
#![allow(dead_code, reason = "each test file uses its part")]

use eventmesh_edge_core::Text;
use eventmesh_edge_core::ports::uplink::{Downward, Uplink, UplinkEvent};
use eventmesh_edge_uplink_mqtt::{Address, MqttUplink, Options, TlsIdentity, TlsOptions};
use eventmesh_edge_uplink_testing::Authority;
use eventmesh_edge_uplink_testing::events::{NODE, outgoing};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A test that waits longer has failed. Generous: nothing is decided by it but the end of a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn local(port: u16) -> Address {
    Address { host: "127.0.0.1".to_owned(), port }
}

pub(crate) fn options(port: u16) -> Options {
    Options::new(NODE, vec![local(port)])
}

/// An uplink, and all that it has said.
pub(crate) struct Driver {
    pub(crate) uplink: MqttUplink,
    pub(crate) events: Vec<UplinkEvent>,
}

impl Driver {
    pub(crate) fn new(options: Options) -> Driver {
        Driver { uplink: MqttUplink::new(options).unwrap(), events: Vec::new() }
    }

    /// Drives it until what it has said since the last call is enough, and returns that.
    pub(crate) async fn until(&mut self, enough: impl Fn(&[UplinkEvent]) -> bool) -> Vec<UplinkEvent> {
        let mut events = std::mem::take(&mut self.events);
        while !enough(&events) {
            let waited = tokio::time::timeout(PATIENCE, self.uplink.next(&mut events)).await;
            let last = &events[events.len().saturating_sub(3)..];
            assert!(waited.is_ok(), "nothing happened; {} events so far, the last: {last:?}", events.len());
        }
        events
    }

    /// Connects and says whether it is up, with the window, or why not.
    pub(crate) async fn connect(&mut self, index: usize, timeout: Duration) -> Result<usize, Text> {
        self.uplink.connect(index, timeout);
        let events = self.until(|events| !events.is_empty()).await;
        match &events[0] {
            UplinkEvent::Up { window, .. } => {
                self.events = events[1..].to_vec();
                Ok(*window)
            }
            UplinkEvent::Down { cause } | UplinkEvent::Unreachable { cause } => Err(cause.clone()),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn up(&mut self) -> usize {
        self.connect(0, PATIENCE).await.unwrap()
    }

    /// Drives it until the connection ends; the cause, and what was acknowledged before.
    pub(crate) async fn down(&mut self) -> (Text, Vec<u64>) {
        let events = self.until(|events| events.iter().any(|e| matches!(e, UplinkEvent::Down { .. }))).await;
        let cause = events.iter().find_map(|e| match e {
            UplinkEvent::Down { cause } => Some(cause.clone()),
            _ => None,
        });
        (cause.unwrap(), acked(&events))
    }

    pub(crate) async fn downward(&mut self) -> Downward {
        let events = self.until(|events| events.iter().any(|e| matches!(e, UplinkEvent::Downward(_)))).await;
        events
            .into_iter()
            .find_map(|e| if let UplinkEvent::Downward(m) = e { Some(m) } else { None })
            .unwrap()
    }

    /// Sends as the window allows until all is acknowledged; the positions in the order they were.
    pub(crate) async fn deliver(
        &mut self,
        window: usize,
        positions: std::ops::RangeInclusive<u64>,
    ) -> Vec<u64> {
        let (mut waiting, mut done) = (positions.clone().peekable(), Vec::new());
        while waiting.peek().is_some() || done.len() < positions.clone().count() {
            let in_flight = positions.clone().count() - waiting.clone().count() - done.len();
            self.send(waiting.by_ref().take(window - in_flight));
            done.extend(acked(&self.until(|events| !events.is_empty()).await));
        }
        done
    }

    pub(crate) fn send(&mut self, positions: impl IntoIterator<Item = u64>) {
        for position in positions {
            self.uplink.send(outgoing(position));
        }
        self.uplink.flush();
    }
}

/// Positions acknowledged, in the order they were.
pub(crate) fn acked(events: &[UplinkEvent]) -> Vec<u64> {
    events
        .iter()
        .filter_map(|e| if let UplinkEvent::Acked { position, .. } = e { Some(position.0) } else { None })
        .collect()
}

/// An authority, a server certificate for `localhost` and `127.0.0.1` and a client certificate, made for this run alone.
pub(crate) struct Certificates {
    authority: Authority,
    client: TlsIdentity,
}

impl Certificates {
    pub(crate) fn make() -> Certificates {
        let authority = Authority::new();
        drop(authority.files("server", &["localhost", "127.0.0.1"]));
        Certificates { client: authority.files("client", &[]), authority }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.authority.path(name)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.authority.dir()
    }

    pub(crate) fn trusting(&self) -> TlsOptions {
        self.authority.trusting()
    }

    pub(crate) fn identified(&self) -> TlsOptions {
        TlsOptions { identity: Some(self.client.clone()), ..self.trusting() }
    }
}
