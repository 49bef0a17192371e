//! The adapter itself: what it holds, and how it is driven.

use crate::auth::{AuthError, Obtained, Wallet, obtain};
use crate::connect::{Attempt, ConnectError, Connected, connect};
use crate::counters::{Counters, count};
use crate::dial::{Conn, Dialer, Peer};
use crate::exchange::{Answer, Call, ExchangeError, Shared, exchange};
use crate::options::{Options, OptionsError};
use crate::outbox::{Outbox, Parcel};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::ports::uplink::{Outgoing, PortFuture, Uplink, UplinkEvent};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

pub(crate) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// When an uplink ends, other requests that are under way get so long to be answered: fewer duplicates.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// A credential that could not be renewed in the background is tried for again after this.
const RENEW_AGAIN: Duration = Duration::from_secs(10);
/// That bodies are still leaving is said at most this often.
const SAY_LEAVING_EVERY: Duration = Duration::from_secs(1);
/// An idle connection is closed after this; a receiver's own limit is seldom shorter, a NAT's seldom longer.
const IDLE: Duration = Duration::from_secs(60);

/// An uplink to a receiver of CloudEvents over HTTP.
///
/// It is driven by [`Uplink::next`] alone; dropping that future and calling it again loses nothing, because all state is here.
pub struct HttpUplink {
    pub(crate) shared: Arc<Shared>,
    pub(crate) state: State,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) outbox: Outbox,
    pub(crate) wallet: Wallet,
    dialer: Arc<Dialer>,
    /// Obtains the next credential, now or when it is time.
    pub(crate) renewing: Option<Renewal>,
    /// What is said when the last request under way is answered, or at the moment.
    pub(crate) ending: Option<(UplinkEvent, Pin<Box<Sleep>>)>,
    /// Tries whether the first address is back.
    homing: Option<Work<()>>,
    pub(crate) addresses: Vec<AddressState>,
    /// Found while sending; given out by the next call of `next`.
    pub(crate) found: Vec<UplinkEvent>,
    /// Bytes that had left when it was said last that bytes leave, and when.
    said_leaving: (u64, Instant),
}

/// What is remembered about an address.
#[derive(Debug, Default)]
pub(crate) struct AddressState {
    /// It asked to be left alone until then; why.
    pub(crate) pause: Option<(Instant, String)>,
    /// It has taken an event over since the start.
    pub(crate) has_taken: bool,
}

pub(crate) struct Renewal {
    pub(crate) work: Work<Result<Obtained, AuthError>>,
    /// Requests wait for it, because the present one was refused.
    pub(crate) urgent: bool,
}

pub(crate) enum State {
    /// Not connected; the number of the address that idle connections belong to.
    Idle(usize),
    Connecting(usize, Work<Result<Connected, ConnectError>>),
    Up(usize),
}

/// One connection, or the place for one.
pub(crate) enum Lane {
    Idle(Option<(Conn, Pin<Box<Sleep>>)>),
    Busy { parcel: Parcel, credential: u64, work: Work<Exchanged> },
}

type Exchanged = (Option<Conn>, Result<Answer, ExchangeError>);

impl Lane {
    pub(crate) fn idle(conn: Option<Conn>) -> Lane {
        Lane::Idle(conn.map(|conn| (conn, Box::pin(sleep(IDLE)))))
    }
}

impl HttpUplink {
    /// Checks the options; opens nothing.
    ///
    /// # Errors
    /// [`OptionsError`], in words that name the field.
    pub fn new(options: Options) -> Result<HttpUplink, OptionsError> {
        options.check()?;
        Ok(HttpUplink {
            state: State::Idle(0),
            lanes: (0..options.connections).map(|_| Lane::Idle(None)).collect(),
            outbox: Outbox::new(&options),
            wallet: Wallet::default(),
            dialer: Arc::default(),
            renewing: None,
            ending: None,
            homing: None,
            addresses: options.urls.iter().map(|_| AddressState::default()).collect(),
            found: Vec::new(),
            said_leaving: (0, Instant::now()),
            shared: Arc::new(Shared { options, counters: Arc::default(), written: Arc::default() }),
        })
    }

    /// What happened beside the events' own fates; stays readable after the uplink has been moved into its task.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.shared.counters)
    }

    pub(crate) fn url(&self, index: usize) -> String {
        self.shared.options.urls.get(index).map(ToString::to_string).unwrap_or_default()
    }

    /// With one connection, events are taken over in the order sent.
    pub(crate) fn is_ordered(&self) -> bool {
        self.lanes.len() == 1
    }

    fn index(&self) -> usize {
        match self.state {
            State::Idle(index) | State::Connecting(index, _) | State::Up(index) => index,
        }
    }

    /// Requests under way end without a word; connections without one stay.
    pub(crate) fn stand_down(&mut self) {
        for lane in &mut self.lanes {
            if let Lane::Busy { .. } = lane {
                *lane = Lane::Idle(None);
            }
        }
        self.outbox.clear();
        (self.ending, self.homing) = (None, None);
        self.state = State::Idle(self.index());
    }

    fn poll(&mut self, cx: &mut Context<'_>, out: &mut Vec<UplinkEvent>) -> Poll<()> {
        let before = out.len();
        out.append(&mut self.found);
        match &mut self.state {
            State::Idle(_) => {}
            State::Connecting(index, work) => {
                let index = *index;
                if let Poll::Ready(outcome) = work.as_mut().poll(cx) {
                    let event = self.connected(index, outcome);
                    out.push(event);
                }
            }
            State::Up(index) => {
                let index = *index;
                self.poll_up(cx, index);
                out.append(&mut self.found);
            }
        }
        if out.len() > before { Poll::Ready(()) } else { Poll::Pending }
    }

    fn connected(&mut self, index: usize, outcome: Result<Connected, ConnectError>) -> UplinkEvent {
        let url = self.url(index);
        self.state = State::Idle(index);
        let Connected { dialer, credential, conn } = match outcome {
            Ok(connected) => connected,
            Err(ConnectError::Down(cause)) => {
                return UplinkEvent::Down { cause: Text::from(format!("{url}: {cause}")) };
            }
            Err(ConnectError::Unreachable(cause)) => {
                return UplinkEvent::Unreachable { cause: Text::from(format!("{url}: {cause}")) };
            }
            Err(ConnectError::Paused(left, cause)) => {
                return UplinkEvent::Unavailable { cause: Text::from(cause), retry_after: Some(left) };
            }
            Err(ConnectError::NoCredential(cause)) => {
                let cause = Text::from(format!("{url}: {cause}"));
                return UplinkEvent::Unavailable { cause, retry_after: None };
            }
        };
        self.dialer = dialer;
        if let Some(address) = self.addresses.get_mut(index) {
            address.pause = None;
        }
        if let Some(obtained) = credential {
            self.wallet.put(obtained, false, Instant::now());
        }
        self.renew_in_time();
        if let Some(lane) = self.lanes.first_mut() {
            *lane = Lane::idle(Some(conn));
        }
        self.homing = self.home(index);
        self.state = State::Up(index);
        UplinkEvent::Up { window: self.shared.options.window(), address: Text::from(url) }
    }

    /// Everything that can be done without waiting; what it says is in `found`.
    fn poll_up(&mut self, cx: &mut Context<'_>, index: usize) {
        self.poll_renewal(cx, index);
        for lane in 0..self.lanes.len() {
            // An answer frees its lane for the next request, which has to be polled too.
            while self.poll_lane(cx, index, lane) {}
            if !matches!(self.state, State::Up(_)) {
                return;
            }
        }
        self.poll_homing(cx, index);
        self.poll_ending(cx);
        self.say_leaving();
    }

    /// A body may take longer to leave than an answer may; asked at the latest when the forwarder looks at its figures.
    fn say_leaving(&mut self) {
        let (written, now) = (self.shared.written.load(Relaxed), Instant::now());
        let (before, at) = self.said_leaving;
        if written > before && now >= at + SAY_LEAVING_EVERY {
            self.said_leaving = (written, now);
            if self.lanes.iter().any(|lane| matches!(lane, Lane::Busy { .. })) {
                self.found.push(UplinkEvent::Leaving);
            }
        }
    }

    /// True if the lane has something to go on with.
    fn poll_lane(&mut self, cx: &mut Context<'_>, index: usize, lane: usize) -> bool {
        match self.lanes.get_mut(lane) {
            Some(Lane::Idle(conn)) => {
                let gone = conn
                    .as_mut()
                    .is_some_and(|(conn, limit)| !conn.poll_idle(cx) || limit.as_mut().poll(cx).is_ready());
                if gone {
                    *conn = None;
                }
                matches!(self.state, State::Up(_)) && self.begin(index, lane)
            }
            Some(Lane::Busy { work, .. }) => {
                let Poll::Ready(exchanged) = work.as_mut().poll(cx) else { return false };
                self.finished(index, lane, exchanged);
                true
            }
            None => false,
        }
    }

    /// Puts the next request on an idle lane.
    fn begin(&mut self, index: usize, lane: usize) -> bool {
        let waits = self.renewing.as_ref().is_some_and(|renewal| renewal.urgent);
        if waits || self.ending.is_some() || self.outbox.is_empty() {
            return false;
        }
        let Some(url) = self.shared.options.urls.get(index).cloned() else { return false };
        let Some(parcel) = self.outbox.next() else { return false };
        let Some(Lane::Idle(conn)) = self.lanes.get_mut(lane) else { return false };
        let conn = conn.take().map(|(conn, _)| conn);
        let call = Call { url, content: parcel.content.clone(), authorization: self.wallet.header() };
        count(&self.shared.counters.requests);
        let bytes = u64::try_from(parcel.content.body.len()).unwrap_or(u64::MAX);
        self.shared.counters.body_bytes.fetch_add(bytes, Relaxed);
        let (shared, dialer) = (Arc::clone(&self.shared), Arc::clone(&self.dialer));
        let work = Box::pin(async move { exchange(&shared, &dialer, conn, call).await });
        if let Some(lane) = self.lanes.get_mut(lane) {
            *lane = Lane::Busy { parcel, credential: self.wallet.number(), work };
        }
        true
    }

    fn finished(&mut self, index: usize, lane: usize, (conn, outcome): Exchanged) {
        let Some(lane) = self.lanes.get_mut(lane) else { return };
        let Lane::Busy { parcel, credential, .. } = std::mem::replace(lane, Lane::idle(conn)) else { return };
        match outcome {
            Ok(answer) => self.answered(index, parcel, credential, &answer),
            Err(error) => {
                let cause = Text::from(format!("{}: {error}", self.url(index)));
                self.end(UplinkEvent::Down { cause });
            }
        }
    }

    // --- credentials

    /// Arranges for the next credential before the present one ends.
    fn renew_in_time(&mut self) {
        self.renewing = self.wallet.renew_at().map(|at| self.renewal(at, false));
    }

    /// Arranges for the next credential; requests wait for it.
    pub(crate) fn renew_now(&mut self) {
        if !self.renewing.as_ref().is_some_and(|renewal| renewal.urgent) {
            self.renewing = Some(self.renewal(Instant::now(), true));
        }
    }

    fn renewal(&self, at: Instant, urgent: bool) -> Renewal {
        let (shared, dialer) = (Arc::clone(&self.shared), Arc::clone(&self.dialer));
        let work = Box::pin(async move {
            sleep_until(at).await;
            obtain(&shared, &dialer).await
        });
        Renewal { work, urgent }
    }

    fn poll_renewal(&mut self, cx: &mut Context<'_>, index: usize) {
        let Some(Renewal { work, urgent }) = &mut self.renewing else { return };
        let urgent = *urgent;
        let Poll::Ready(outcome) = work.as_mut().poll(cx) else { return };
        self.renewing = None;
        let now = Instant::now();
        match outcome {
            Ok(obtained) => {
                if self.wallet.put(obtained, urgent, now) {
                    self.renew_in_time();
                } else {
                    self.wallet.forget();
                    let cause = "the credential is refused, and there is no other where it came from";
                    self.unavailable(index, cause, None);
                }
            }
            // Not yet a reason to stop: the present one may be good for a while.
            Err(error) if !urgent && self.wallet.is_usable(now) => {
                tracing::debug!(%error, "a credential is not renewed yet");
                self.renewing = Some(self.renewal(now + RENEW_AGAIN, false));
            }
            Err(error) => {
                self.wallet.forget();
                self.unavailable(index, &error.to_string(), None);
            }
        }
        // Polled once, so that it is known when to come back.
        if let Some(renewal) = &mut self.renewing
            && renewal.work.as_mut().poll(cx).is_ready()
        {
            self.renewing = None;
            cx.waker().wake_by_ref();
        }
    }

    // --- the way back to the first address, and the end

    /// On another address than the first one: a future that ends when the first one can be connected to.
    fn home(&self, index: usize) -> Option<Work<()>> {
        let every = self.shared.options.return_interval;
        let first = self.shared.options.urls.first().filter(|_| index > 0 && !every.is_zero())?.clone();
        let free_at = self.addresses.first().and_then(|a| a.pause.as_ref()).map(|(until, _)| *until);
        let (shared, dialer) = (Arc::clone(&self.shared), Arc::clone(&self.dialer));
        Some(Box::pin(async move {
            if let Some(until) = free_at {
                sleep_until(until).await;
            }
            loop {
                sleep(every).await;
                count(&shared.counters.connections);
                if dialer.dial(&first, Peer::Receiver, shared.options.connect_timeout).await.is_ok() {
                    return;
                }
            }
        }))
    }

    fn poll_homing(&mut self, cx: &mut Context<'_>, index: usize) {
        let Some(work) = &mut self.homing else { return };
        if work.as_mut().poll(cx).is_ready() {
            self.homing = None;
            let cause = format!("{}: going back to {}, which is there again", self.url(index), self.url(0));
            self.end(UplinkEvent::Down { cause: Text::from(cause) });
        }
    }

    /// Nothing more is sent; when the requests under way are answered, `event` is said.
    pub(crate) fn end(&mut self, event: UplinkEvent) {
        // What is not sent yet is as unanswered as what is.
        self.outbox.clear();
        if self.ending.is_none() {
            self.ending = Some((event, Box::pin(sleep(LAST_ANSWERS))));
        }
    }

    fn poll_ending(&mut self, cx: &mut Context<'_>) {
        let busy = self.lanes.iter().any(|lane| matches!(lane, Lane::Busy { .. }));
        let Some((_, limit)) = &mut self.ending else { return };
        if busy && limit.as_mut().poll(cx).is_pending() {
            return;
        }
        let event = self.ending.take().map(|(event, _)| event);
        self.stand_down();
        self.found.extend(event);
    }
}

impl Uplink for HttpUplink {
    fn connect(&mut self, index: usize, timeout: Duration) {
        let before = self.index();
        let index = index % self.shared.options.urls.len().max(1);
        self.stand_down();
        self.found.clear();
        self.renewing = None;
        if index != before {
            self.lanes.iter_mut().for_each(|lane| *lane = Lane::Idle(None));
            self.outbox.start_anew();
        }
        let Some(url) = self.shared.options.urls.get(index).cloned() else { return };
        let live = self.lanes.iter_mut().find_map(|lane| match lane {
            Lane::Idle(conn) => conn.take_if(|(conn, _)| conn.is_open()).map(|(conn, _)| conn),
            Lane::Busy { .. } => None,
        });
        let pause = self.addresses.get(index).and_then(|address| address.pause.clone());
        let needs_credential = !self.wallet.is_fresh(Instant::now());
        let attempt = Attempt { url, timeout, pause, live, needs_credential };
        self.state = State::Connecting(index, Box::pin(connect(Arc::clone(&self.shared), attempt)));
    }

    fn send(&mut self, outgoing: Outgoing) {
        // Not up, or about to end: it is as unanswered as what was in flight, and what says so is on its way.
        if matches!(self.state, State::Up(_)) && self.ending.is_none() {
            self.outbox.push(outgoing);
        }
    }

    fn flush(&mut self) {
        // `next` sends before it waits.
    }

    fn confirm(&mut self, _token: u64) {
        // Nothing comes down over HTTP.
    }

    fn next<'a>(&'a mut self, out: &'a mut Vec<UplinkEvent>) -> PortFuture<'a, ()> {
        Box::pin(poll_fn(move |cx| self.poll(cx, out)))
    }

    fn close(&mut self, _timeout: Duration) -> PortFuture<'_, ()> {
        self.stand_down();
        self.lanes.iter_mut().for_each(|lane| *lane = Lane::Idle(None));
        self.renewing = None;
        // HTTP has no goodbye: a closed socket says it all.
        Box::pin(std::future::ready(()))
    }

    fn addresses(&self) -> usize {
        self.shared.options.urls.len()
    }
}

impl fmt::Debug for HttpUplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Idle(_) => "idle",
            State::Connecting(..) => "connecting",
            State::Up(_) => "up",
        };
        f.debug_struct("HttpUplink").field("options", &self.shared.options).field("state", &state).finish()
    }
}
