//! The adapter itself.

use crate::counters::Counters;
use crate::dial::{DialError, Dialed, dial};
use crate::link::{Link, LinkError};
use crate::options::{Options, OptionsError};
use crate::session::{Leave, Shared};
use crate::up::Mapper;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::ports::uplink::{Outgoing, PortFuture, Uplink, UplinkEvent};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// An uplink to an Apache EventMesh runtime.
///
/// It is driven by [`Uplink::next`] alone; dropping that future and calling it again loses nothing, because all state is here.
pub struct EventMeshUplink {
    shared: Arc<Shared>,
    state: State,
    /// Number of the connection, from 1; part of every token, so that a token of an earlier one is known.
    generation: u64,
    timeout: Duration,
}

/// With what the connection is to be used with: the password may be another one by then.
type Dialing = Pin<Box<dyn Future<Output = Result<(Arc<Shared>, Dialed), DialFailure>> + Send>>;

enum State {
    Idle,
    Connecting(usize, Dialing),
    Up(Box<Up>),
}

struct Up {
    index: usize,
    link: Link,
    better: Better,
}

/// The search for a better address while connected to a worse one.
enum Better {
    /// This is the best one, or no other is wanted.
    None,
    Waiting(Pin<Box<tokio::time::Sleep>>),
    Dialing(usize, Dialing),
}

enum DialFailure {
    Dial(DialError),
    Timeout(Duration),
}

impl EventMeshUplink {
    /// Checks the options; opens nothing.
    ///
    /// # Errors
    /// [`OptionsError`], in words that name the field.
    pub fn new(options: Options) -> Result<EventMeshUplink, OptionsError> {
        options.check()?;
        let shared =
            Shared { mapper: Mapper::new(&options)?, counters: Arc::new(Counters::default()), options };
        Ok(EventMeshUplink {
            shared: Arc::new(shared),
            state: State::Idle,
            generation: 0,
            timeout: Duration::ZERO,
        })
    }

    /// What was not passed on; stays readable after the uplink has been moved into its task.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }

    /// How many events may be unanswered at present, found out from latency; 0 while not connected.
    #[must_use]
    pub fn window(&self) -> usize {
        match &self.state {
            State::Up(up) => up.link.window_limit(),
            _ => 0,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, out: &mut Vec<UplinkEvent>) -> Poll<()> {
        match &mut self.state {
            State::Idle => Poll::Pending,
            State::Connecting(index, dialing) => {
                let index = *index;
                let Poll::Ready(dialed) = dialing.as_mut().poll(cx) else { return Poll::Pending };
                self.state = State::Idle;
                out.push(self.dialed(index, dialed));
                Poll::Ready(())
            }
            State::Up(up) => {
                if let Some(leave) = up.better.poll(cx, &self.shared, up.index, self.timeout) {
                    up.link.leave(leave);
                }
                let Poll::Ready(done) = up.link.poll(cx, out) else { return Poll::Pending };
                if let Err(error) = done {
                    let address = address(&self.shared, up.index);
                    self.state = State::Idle;
                    out.push(ended(&address, error));
                }
                Poll::Ready(())
            }
        }
    }

    fn dialed(&mut self, index: usize, dialed: Result<(Arc<Shared>, Dialed), DialFailure>) -> UplinkEvent {
        let address = address(&self.shared, index);
        let (shared, dialed) = match dialed {
            Ok(dialed) => dialed,
            Err(DialFailure::Dial(DialError::Unavailable(words))) => {
                let cause = Text::from(format!("{address}: {words}"));
                return UplinkEvent::Unavailable { cause, retry_after: None };
            }
            Err(DialFailure::Dial(error)) => {
                let cause = Text::from(format!("{address}: {error}"));
                return match error.is_unreachable() {
                    true => UplinkEvent::Unreachable { cause },
                    false => UplinkEvent::Down { cause },
                };
            }
            Err(DialFailure::Timeout(after)) => {
                return UplinkEvent::Down {
                    cause: Text::from(format!("{address}: no answer within {after:?}")),
                };
            }
        };
        self.generation += 1;
        self.shared = shared;
        let link = Link::new(self.shared.clone(), self.generation, dialed);
        let better = Better::after(&self.shared, index);
        self.state = State::Up(Box::new(Up { index, link, better }));
        UplinkEvent::Up { window: self.shared.options.window_max, address }
    }
}

fn ended(address: &Text, error: LinkError) -> UplinkEvent {
    let cause = Text::from(format!("{address}: {error}"));
    match error {
        // Answered and well, but not for us or not any more: no event is why.
        LinkError::Left(Leave { retry_after, .. }) => UplinkEvent::Unavailable { cause, retry_after },
        _ => UplinkEvent::Down { cause },
    }
}

fn address(shared: &Shared, index: usize) -> Text {
    shared.options.addresses.get(index).map(|a| Text::from(a.to_string())).unwrap_or_default()
}

fn dialing(shared: &Arc<Shared>, index: usize, timeout: Duration) -> Dialing {
    let shared = shared.clone();
    Box::pin(async move {
        let Some(address) = shared.options.addresses.get(index) else {
            return Err(DialFailure::Timeout(Duration::ZERO));
        };
        // The inner limit is looked at first, and says that it was TCP.
        let deadline = Instant::now() + timeout;
        let dialing = async {
            let shared = with_current_password(&shared).await;
            let dialed = dial(&shared, address, deadline).await?;
            Ok((shared, dialed))
        };
        match timeout_at(deadline, dialing).await {
            Ok(done) => done.map_err(DialFailure::Dial),
            Err(_) => Err(DialFailure::Timeout(timeout)),
        }
    })
}

/// Every event carries the password, so another one is another mapper.
async fn with_current_password(shared: &Arc<Shared>) -> Arc<Shared> {
    let Some(credentials) = &shared.options.credentials else { return shared.clone() };
    let current = credentials.current().await;
    if current == *credentials {
        return shared.clone();
    }
    let options = Options { credentials: Some(current), ..shared.options.clone() };
    match Mapper::new(&options) {
        Ok(mapper) => Arc::new(Shared { mapper, counters: shared.counters.clone(), options }),
        // What was right with the old password is not wrong with the new one.
        Err(_) => shared.clone(),
    }
}

impl Better {
    fn after(shared: &Shared, index: usize) -> Better {
        let wait = shared.options.return_after;
        if index == 0 || wait.is_zero() {
            return Better::None;
        }
        Better::Waiting(Box::pin(tokio::time::sleep(wait)))
    }

    /// Says that the connection should be left when a better address answers. The forwarder begins with the first one then.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        shared: &Arc<Shared>,
        index: usize,
        timeout: Duration,
    ) -> Option<Leave> {
        loop {
            match self {
                Better::None => return None,
                Better::Waiting(sleep) => {
                    if sleep.as_mut().poll(cx).is_pending() {
                        return None;
                    }
                    *self = Better::Dialing(0, dialing(shared, 0, timeout));
                }
                Better::Dialing(candidate, attempt) => {
                    let candidate = *candidate;
                    let Poll::Ready(dialed) = attempt.as_mut().poll(cx) else { return None };
                    if dialed.is_ok() {
                        *self = Better::None;
                        let cause = format!("{} answers again and is preferred", address(shared, candidate));
                        return Some(Leave { cause, retry_after: None });
                    }
                    *self = match candidate + 1 {
                        next if next < index => Better::Dialing(next, dialing(shared, next, timeout)),
                        _ => Better::after(shared, index),
                    };
                }
            }
        }
    }
}

impl Uplink for EventMeshUplink {
    fn connect(&mut self, index: usize, timeout: Duration) {
        let index = index % self.shared.options.addresses.len().max(1);
        self.timeout = timeout;
        self.state = State::Connecting(index, dialing(&self.shared, index, timeout));
    }

    fn send(&mut self, outgoing: Outgoing) {
        // Not up: it is as unanswered as what was in flight, and the `Down` that says so is on its way or has been seen.
        if let State::Up(up) = &mut self.state {
            up.link.send(outgoing);
        }
    }

    fn flush(&mut self) {
        // `next` sends before it waits.
    }

    fn confirm(&mut self, token: u64) {
        if let State::Up(up) = &mut self.state {
            up.link.settle(token, None);
        }
    }

    fn refuse(&mut self, token: u64, reason: &Text) {
        if let State::Up(up) = &mut self.state {
            up.link.settle(token, Some(reason.clone()));
        }
    }

    fn next<'a>(&'a mut self, out: &'a mut Vec<UplinkEvent>) -> PortFuture<'a, ()> {
        Box::pin(poll_fn(move |cx| self.poll(cx, out)))
    }

    fn close(&mut self, timeout: Duration) -> PortFuture<'_, ()> {
        Box::pin(async move {
            if let State::Up(up) = std::mem::replace(&mut self.state, State::Idle) {
                // The runtime learns by the closed socket what it could not be told in time.
                drop(tokio::time::timeout(timeout, up.link.close()).await);
            }
        })
    }

    fn addresses(&self) -> usize {
        self.shared.options.addresses.len()
    }
}

impl fmt::Debug for EventMeshUplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Idle => "idle",
            State::Connecting(..) => "connecting",
            State::Up(..) => "up",
        };
        f.debug_struct("EventMeshUplink")
            .field("name", &self.shared.options.name)
            .field("state", &state)
            .finish()
    }
}
