//! The adapter itself.

use crate::counters::Counters;
use crate::dial::{DialError, Dialed, dial};
use crate::link::Link;
use crate::options::{Options, OptionsError};
use crate::session::{Kept, Received, Shared};
use crate::suspicion::End;
use crate::will::Wills;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::mapping::LoopGuard;
use eventmesh_edge_core::ports::uplink::{Outgoing, PortFuture, Uplink, UplinkEvent};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// An uplink to an MQTT 5 broker or another node.
///
/// It is driven by [`Uplink::next`] alone; dropping that future and calling it again loses nothing, because all state is here.
pub struct MqttUplink {
    shared: Arc<Shared>,
    state: State,
    /// Number of the connection, from 1; part of every token, so that a token of an earlier one is known.
    generation: u64,
    /// What the last connection has left, and which address it was to: QoS 2 identifiers taken over are in that server's session.
    kept: (usize, Kept),
    /// Found while sending; given out by the next call of `next`.
    failed: Vec<UplinkEvent>,
}

enum State {
    Idle,
    Connecting(usize, Pin<Box<dyn Future<Output = Result<Dialed, DialTimeout>> + Send>>),
    Up(usize, Box<Link>),
}

enum DialTimeout {
    Dial(DialError),
    Timeout(Duration),
}

impl MqttUplink {
    /// Checks the options; opens nothing.
    ///
    /// # Errors
    /// [`OptionsError`], in words that name the field.
    pub fn new(options: Options) -> Result<MqttUplink, OptionsError> {
        options.check()?;
        let shared = Shared {
            template: options.template()?,
            guard: LoopGuard::new(&options.node),
            counters: Arc::new(Counters::default()),
            wills: Wills::default(),
            options,
        };
        Ok(MqttUplink {
            shared: Arc::new(shared),
            state: State::Idle,
            generation: 0,
            kept: (0, Kept::default()),
            failed: Vec::new(),
        })
    }

    /// What was not passed on; stays readable after the uplink has been moved into its task.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }

    fn address(&self, index: usize) -> Text {
        self.shared.options.addresses.get(index).map(|a| Text::from(a.to_string())).unwrap_or_default()
    }

    /// Ends what there is without a word and keeps what the next connection needs.
    fn drop_link(&mut self, end: End) {
        if let State::Up(index, link) = std::mem::replace(&mut self.state, State::Idle) {
            self.kept = (index, link.end(end));
        }
        self.failed.clear();
    }

    fn poll(&mut self, cx: &mut Context<'_>, out: &mut Vec<UplinkEvent>) -> Poll<()> {
        if !self.failed.is_empty() {
            out.append(&mut self.failed);
            return Poll::Ready(());
        }
        match &mut self.state {
            State::Idle => Poll::Pending,
            State::Connecting(index, dialing) => {
                let index = *index;
                let Poll::Ready(dialed) = dialing.as_mut().poll(cx) else { return Poll::Pending };
                self.state = State::Idle;
                out.push(self.dialed(index, dialed));
                Poll::Ready(())
            }
            State::Up(index, link) => {
                let index = *index;
                let Poll::Ready(done) = link.poll(cx, out) else { return Poll::Pending };
                if let Err(error) = done {
                    let cause = Text::from(format!("{}: {error}", self.address(index)));
                    self.drop_link(error.end());
                    out.push(UplinkEvent::Down { cause });
                }
                Poll::Ready(())
            }
        }
    }

    fn dialed(&mut self, index: usize, dialed: Result<Dialed, DialTimeout>) -> UplinkEvent {
        let address = self.address(index);
        let dialed = match dialed {
            Ok(dialed) => dialed,
            Err(DialTimeout::Dial(error)) => {
                let cause = Text::from(format!("{address}: {error}"));
                return match error.is_unreachable() {
                    true => UplinkEvent::Unreachable { cause },
                    false => UplinkEvent::Down { cause },
                };
            }
            Err(DialTimeout::Timeout(after)) => {
                return UplinkEvent::Down {
                    cause: Text::from(format!("{address}: no connection within {after:?}")),
                };
            }
        };
        self.generation += 1;
        let (of, mut kept) = std::mem::take(&mut self.kept);
        if of != index {
            kept.received = Received::new();
        }
        let link = Link::new(self.shared.clone(), self.generation, dialed, kept);
        let window = link.window();
        self.state = State::Up(index, Box::new(link));
        UplinkEvent::Up { window, address }
    }
}

impl Uplink for MqttUplink {
    fn connect(&mut self, index: usize, timeout: Duration) {
        self.drop_link(End::Lost);
        let shared = self.shared.clone();
        let index = index % shared.options.addresses.len().max(1);
        let dialing = async move {
            let Some(address) = shared.options.addresses.get(index) else {
                return Err(DialTimeout::Timeout(Duration::ZERO));
            };
            // The inner limit is looked at first, and says that it was TCP.
            let deadline = Instant::now() + timeout;
            match timeout_at(deadline, dial(&shared, address, deadline)).await {
                Ok(done) => done.map_err(DialTimeout::Dial),
                Err(_) => Err(DialTimeout::Timeout(timeout)),
            }
        };
        self.state = State::Connecting(index, Box::pin(dialing));
    }

    fn send(&mut self, outgoing: Outgoing) {
        // Not up: it is as unanswered as what was in flight, and the `Down` that says so is on its way or has been seen.
        if let State::Up(_, link) = &mut self.state {
            link.send(&outgoing, &mut self.failed);
        }
    }

    fn flush(&mut self) {
        // `next` writes before it waits.
    }

    fn confirm(&mut self, token: u64) {
        if let State::Up(_, link) = &mut self.state {
            link.confirm(token);
        }
    }

    fn next<'a>(&'a mut self, out: &'a mut Vec<UplinkEvent>) -> PortFuture<'a, ()> {
        Box::pin(poll_fn(move |cx| self.poll(cx, out)))
    }

    fn close(&mut self, timeout: Duration) -> PortFuture<'_, ()> {
        Box::pin(async move {
            if let State::Up(_, link) = std::mem::replace(&mut self.state, State::Idle) {
                // The server learns by the closed socket what it could not be told in time.
                drop(tokio::time::timeout(timeout, link.close()).await);
            }
        })
    }

    fn addresses(&self) -> usize {
        self.shared.options.addresses.len()
    }
}

impl fmt::Debug for MqttUplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Idle => "idle",
            State::Connecting(..) => "connecting",
            State::Up(..) => "up",
        };
        f.debug_struct("MqttUplink")
            .field("client_id", &self.shared.options.client_id)
            .field("state", &state)
            .finish()
    }
}
