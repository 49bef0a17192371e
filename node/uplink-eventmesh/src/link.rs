//! One connection's I/O: HTTP/2, the calls under way, the subscription, the clock.

use crate::answer::{Status, of_publish};
use crate::call::{Call, begin};
use crate::consume::{heartbeat, subscription};
use crate::counters::count;
use crate::dial::{Dialed, Heard, Inbound};
use crate::down::{Incoming, incoming};
use crate::keepalive::{Due, KeepAlive};
use crate::proto::CloudEvent;
use crate::session::{Leave, Session, Shared, What};
use crate::subscription::Subscription;
use bytes::Bytes;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::ports::uplink::{Outgoing, UplinkEvent};
use futures_util::stream::{FuturesUnordered, Stream as _};
use h2::client::{Connection, SendRequest};
use h2::{Ping, PingPong};
use prost::Message as _;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// Longest time between two looks at what is due by time.
const TICK_MAX: Duration = Duration::from_secs(1);
const TICK_MIN: Duration = Duration::from_millis(5);

/// Answers read, and calls made, before the other direction has its turn: about 100 events each way. With whole windows the node, the way
/// and the runtime would work one after the other instead of at the same time.
const READ_TURN_BYTES: usize = 16 * 1_024;
const CALLS_TURN: usize = 128;

/// What is unanswered when a connection is left has this long to be answered: what is answered need not be sent twice.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("HTTP/2: {0}")]
    Http2(#[from] h2::Error),
    #[error("server closed the connection")]
    Closed,
    #[error("nothing was heard from the server for {0:?} after it was asked")]
    Silent(Duration),
    #[error("{}", .0.cause)]
    Left(Leave),
}

/// A connection that is up.
#[derive(Debug)]
pub(crate) struct Link {
    shared: Arc<Shared>,
    session: Session,
    connection: Connection<Heard, Bytes>,
    requests: SendRequest<Bytes>,
    dialed: Parts,
    calls: FuturesUnordered<Call<What>>,
    subscription: Option<Subscription>,
    since: Instant,
    alive: KeepAlive,
    /// `None`: not before somebody asks; without a subscription there is nothing to keep alive.
    heartbeat_due: Option<Duration>,
    heartbeats: usize,
    timer: Pin<Box<Sleep>>,
    leaving: Option<(Leave, Duration)>,
}

/// What of a [`Dialed`] is kept as it is.
#[derive(Debug)]
struct Parts {
    ping: Option<PingPong>,
    inbound: Arc<Inbound>,
    methods: crate::call::Methods,
}

impl Link {
    pub(crate) fn new(shared: Arc<Shared>, generation: u64, dialed: Dialed) -> Link {
        let Dialed { connection, requests, ping, inbound, methods } = dialed;
        let subscribes = !shared.options.down.topics.is_empty();
        Link {
            session: Session::new(shared.clone(), generation),
            connection,
            requests,
            dialed: Parts { ping, inbound, methods },
            calls: FuturesUnordered::new(),
            subscription: subscribes.then(Subscription::new),
            since: Instant::now(),
            alive: KeepAlive::new(shared.options.keep_alive),
            heartbeat_due: subscribes.then_some(shared.options.down.heartbeat),
            heartbeats: 0,
            timer: Box::pin(sleep(TICK_MIN)),
            leaving: None,
            shared,
        }
    }

    pub(crate) fn send(&mut self, outgoing: Outgoing) {
        self.session.send(outgoing);
    }

    pub(crate) fn settle(&mut self, token: u64, dropped: Option<Text>) {
        self.session.settle(token, dropped);
    }

    /// Events that the adapter lets be unanswered at present.
    pub(crate) fn window_limit(&self) -> usize {
        self.session.window_limit()
    }

    /// Nothing new is sent; when what is under way is answered, or a little later, the connection ends.
    pub(crate) fn leave(&mut self, leave: Leave) {
        let now = self.now();
        self.leaving.get_or_insert((leave, now + LEAVE_WITHIN));
    }

    fn now(&self) -> Duration {
        self.since.elapsed()
    }

    /// Does what can be done without waiting; ready when something happened.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        events: &mut Vec<UplinkEvent>,
    ) -> Poll<Result<(), LinkError>> {
        let before = events.len();
        loop {
            let now = self.now();
            self.dialed.inbound.allow(READ_TURN_BYTES);
            match Pin::new(&mut self.connection).poll(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(Err(LinkError::Closed)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => {}
            }
            let mut more = self.poll_timer(cx, now, events)?;
            more |= self.poll_calls(cx, now, events);
            more |= self.poll_subscription(cx, now, events);
            more |= self.dispatch(cx, now, events)?;
            self.check_leaving(now)?;
            if !more {
                break;
            }
        }
        if events.len() > before { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn check_leaving(&mut self, now: Duration) -> Result<(), LinkError> {
        let over = |until: Duration| self.session.unanswered() == 0 || now >= until;
        match self.leaving.take_if(|(_, until)| over(*until)) {
            Some((leave, _)) => Err(LinkError::Left(leave)),
            None => Ok(()),
        }
    }

    /// True if something was done that the connection should see.
    fn poll_timer(
        &mut self,
        cx: &mut Context<'_>,
        now: Duration,
        events: &mut Vec<UplinkEvent>,
    ) -> Result<bool, LinkError> {
        if let Some(ping) = &mut self.dialed.ping
            && let Poll::Ready(pong) = ping.poll_pong(cx)
        {
            pong?;
        }
        if self.timer.as_mut().poll(cx).is_pending() {
            return Ok(false);
        }
        if let Some(leave) = self.session.tick(now, events) {
            self.leave(leave);
        }
        let timeout = self.shared.options.answer_timeout;
        if self.subscription.as_ref().is_some_and(|s| s.is_overdue(now, timeout)) {
            self.stream_ended("the runtime did not answer it", now);
        }
        self.keep_alive(now)?;
        self.arm(now);
        Ok(true)
    }

    fn arm(&mut self, now: Duration) {
        let options = &self.shared.options;
        let mut tick = TICK_MAX.min(options.answer_timeout / 4);
        if !options.keep_alive.is_zero() {
            tick = tick.min(options.keep_alive / 8);
        }
        let subscribe = self.subscription.as_ref().and_then(Subscription::due);
        let due = [self.session.wakes_at(now), subscribe, self.heartbeat_due].into_iter().flatten().min();
        let wait = due.map_or(tick, |due| due.saturating_sub(now).min(tick)).max(TICK_MIN);
        self.timer.as_mut().reset(Instant::now() + wait);
    }

    fn keep_alive(&mut self, now: Duration) -> Result<(), LinkError> {
        if self.dialed.inbound.take_heard() {
            self.alive.heard(now);
        }
        match self.alive.due(now) {
            Due::Nothing => Ok(()),
            Due::Ask => {
                self.ask(now);
                Ok(())
            }
            Due::Lost(after) => Err(LinkError::Silent(after)),
        }
    }

    /// While something is unanswered, an HTTP/2 PING asks whether anybody is there. While nothing is, a heartbeat does: servers of the
    /// gRPC family end a connection that pings without a call ("too many pings"), and this one asks the runtime, not only its socket.
    fn ask(&mut self, now: Duration) {
        if self.calls.is_empty() {
            self.heartbeat_due = Some(now);
        } else if let Some(ping) = &mut self.dialed.ping {
            // An error says that the last one has no answer yet: it still asks.
            drop(ping.send_ping(Ping::opaque()));
        }
    }

    fn poll_calls(&mut self, cx: &mut Context<'_>, now: Duration, events: &mut Vec<UplinkEvent>) -> bool {
        let mut any = false;
        while let Poll::Ready(Some((what, result))) = Pin::new(&mut self.calls).poll_next(cx) {
            any = true;
            match what {
                Some(What::Heartbeat(asked)) => self.heartbeat_answered(asked, now, result.ok()),
                Some(what) => {
                    if let Some(leave) = self.session.answered(what, of_publish(result), now, events) {
                        self.leave(leave);
                    }
                }
                None => {}
            }
        }
        any
    }

    fn heartbeat_answered(&mut self, asked: Duration, now: Duration, body: Option<Bytes>) {
        self.heartbeats = self.heartbeats.saturating_sub(1);
        let Some(Ok(event)) = body.map(CloudEvent::decode) else { return };
        let status = Status::of(&event);
        match (status.code, &mut self.subscription) {
            // The runtime has forgotten us, or is another one behind the same address.
            (Some(30), Some(subscription)) if subscription.is_meant(asked) => {
                tracing::debug!("runtime does not know the subscription any more, subscribing again");
                count(&self.shared.counters.resubscribed);
                subscription.again(now);
            }
            (Some(0 | 30), _) => {}
            _ => tracing::debug!(answer = %status.words(), "heartbeat refused"),
        }
    }

    /// Makes the calls that may be made; true if one was.
    fn dispatch(
        &mut self,
        cx: &mut Context<'_>,
        now: Duration,
        events: &mut Vec<UplinkEvent>,
    ) -> Result<bool, LinkError> {
        if self.leaving.is_some() {
            return Ok(false);
        }
        let mut any = self.due_by_time(cx, now)?;
        for _ in 0..CALLS_TURN {
            // More than the server lets be open: it wakes us when one of them ends.
            if self.requests.poll_ready(cx)?.is_pending() {
                return Ok(any);
            }
            let Some((what, frame)) = self.session.next_call(now, events) else { return Ok(any) };
            self.call(what, frame)?;
            any = true;
        }
        Ok(any)
    }

    fn due_by_time(&mut self, cx: &mut Context<'_>, now: Duration) -> Result<bool, LinkError> {
        let subscribe = self.subscription.as_ref().is_some_and(|s| s.is_due(now));
        let beat = self.heartbeat_due.is_some_and(|due| now >= due) && self.heartbeats == 0;
        if !(subscribe || beat) || self.requests.poll_ready(cx)?.is_pending() {
            return Ok(false);
        }
        let Shared { options, mapper, .. } = &*self.shared;
        if subscribe && let Some(stream) = &mut self.subscription {
            stream.open(
                &mut self.requests,
                &self.dialed.methods.subscribe_stream,
                subscription(options, mapper),
                now,
            )?;
            return Ok(true);
        }
        let frame = heartbeat(options, mapper);
        self.heartbeat_due = self.subscription.as_ref().map(|_| now + options.down.heartbeat);
        self.heartbeats += 1;
        self.call(What::Heartbeat(now), frame)?;
        Ok(true)
    }

    fn call(&mut self, what: What, frame: Bytes) -> Result<(), LinkError> {
        let method = match what {
            What::Heartbeat(_) => &self.dialed.methods.heartbeat,
            What::Publish(_) | What::Receipt(_) => &self.dialed.methods.publish,
        };
        self.calls.push(begin(&mut self.requests, method, frame, what)?);
        Ok(())
    }

    /// Reads the subscription's stream while there is room: what is not read fills its HTTP/2 window, and the runtime waits (P5).
    fn poll_subscription(
        &mut self,
        cx: &mut Context<'_>,
        now: Duration,
        events: &mut Vec<UplinkEvent>,
    ) -> bool {
        let mut any = false;
        while self.session.unconfirmed() < self.shared.options.down.unconfirmed_max {
            let Some(Poll::Ready(message)) = self.subscription.as_mut().map(|s| s.poll_next(cx)) else {
                return any;
            };
            any = true;
            let cause = match message {
                Ok(Some(message)) => match CloudEvent::decode(message) {
                    Ok(event) => {
                        self.came_down(event, now, events);
                        continue;
                    }
                    Err(error) => error.to_string(),
                },
                Ok(None) => "the runtime ended it".to_owned(),
                Err(error) => error.to_string(),
            };
            self.stream_ended(&cause, now);
        }
        any
    }

    fn stream_ended(&mut self, cause: &str, now: Duration) {
        tracing::debug!(%cause, "subscription ended, subscribing again");
        count(&self.shared.counters.resubscribed);
        if let Some(subscription) = &mut self.subscription {
            subscription.again(now);
        }
        self.arm(now);
    }

    fn came_down(&mut self, event: CloudEvent, now: Duration, events: &mut Vec<UplinkEvent>) {
        let Shared { options, mapper, counters } = &*self.shared;
        match incoming(event, &options.down, &mapper.guard) {
            Incoming::Control(status) => self.subscription_answered(&status, now),
            Incoming::Message(message) => match self.session.came_down(*message) {
                Some(message) => events.push(UplinkEvent::Downward(message)),
                None => count(&counters.duplicates_dropped),
            },
            Incoming::Loop => count(&counters.loops_dropped),
            Incoming::Unroutable(why) => {
                count(&counters.unroutable_dropped);
                tracing::debug!(why, "message from above dropped");
            }
        }
    }

    fn subscription_answered(&mut self, status: &Status, now: Duration) {
        let Some(subscription) = &mut self.subscription else { return };
        if status.code == Some(0) {
            return subscription.accepted(now);
        }
        count(&self.shared.counters.subscriptions_refused);
        tracing::warn!(answer = %status.words(), "runtime refused the subscription, trying again");
        subscription.again(now);
        self.arm(now);
    }

    /// Sends what is buffered and says goodbye (GOAWAY); the caller sets the time limit.
    pub(crate) async fn close(self) {
        let Link { connection, requests, calls, subscription, dialed, .. } = self;
        dialed.inbound.allow(usize::MAX);
        // With the last handle gone the connection says GOAWAY and ends.
        drop((requests, calls, subscription));
        let mut connection = connection;
        std::future::poll_fn(|cx| {
            drop(ready!(Pin::new(&mut connection).poll(cx)));
            Poll::Ready(())
        })
        .await;
    }
}
