//! The stream that messages come down on: opened, read, opened again.

use crate::call::{ANSWER_MAX_BYTES, CallError, check_head, check_trailers, request};
use crate::wire::Frames;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::Uri;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Between the end of a stream and the next one; doubled while the runtime refuses.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// An open stream. Dropping it cancels it, which the runtime does not notice before the heartbeat expires: then it is replaced by the
/// next one, which claims the same identity.
#[derive(Debug)]
struct Open {
    /// Half-closing it would end the stream, so it is kept.
    _requests: SendStream<Bytes>,
    head: Option<ResponseFuture>,
    body: Option<RecvStream>,
    frames: Frames,
}

/// The one subscription of a connection.
#[derive(Debug)]
pub(crate) struct Subscription {
    open: Option<Open>,
    /// When the next one is opened.
    due: Duration,
    failures: u32,
    opened_at: Duration,
    accepted_at: Option<Duration>,
}

impl Subscription {
    pub(crate) fn new() -> Subscription {
        Subscription {
            open: None,
            due: Duration::ZERO,
            failures: 0,
            opened_at: Duration::ZERO,
            accepted_at: None,
        }
    }

    /// Whether "I do not know you" to a heartbeat of that moment is about the stream there is. Said of the time before the runtime
    /// accepted it, it is old news: to end the new stream for it would lose what is on it.
    pub(crate) fn is_meant(&self, asked: Duration) -> bool {
        self.open.is_some() && is_later(asked, self.accepted_at)
    }

    /// The runtime has left the subscription itself unanswered.
    pub(crate) fn is_overdue(&self, now: Duration, timeout: Duration) -> bool {
        self.open.is_some() && self.accepted_at.is_none() && now.saturating_sub(self.opened_at) >= timeout
    }

    /// True if a stream is to be opened now.
    pub(crate) fn is_due(&self, now: Duration) -> bool {
        self.open.is_none() && now >= self.due
    }

    /// When it is to be opened, if it is not open.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.open.is_none().then_some(self.due)
    }

    /// Opens a stream; the requests must be ready.
    pub(crate) fn open(
        &mut self,
        requests: &mut SendRequest<Bytes>,
        method: &Uri,
        frame: Bytes,
        now: Duration,
    ) -> Result<(), h2::Error> {
        let (response, mut body) = requests.send_request(request(method), false)?;
        body.send_data(frame, false)?;
        (self.opened_at, self.accepted_at) = (now, None);
        self.open =
            Some(Open { _requests: body, head: Some(response), body: None, frames: Frames::default() });
        Ok(())
    }

    /// The runtime has said that it knows us.
    pub(crate) fn accepted(&mut self, now: Duration) {
        self.failures = 0;
        self.accepted_at = Some(now);
    }

    /// Ends the stream; the next one is opened soon, or later if this was refused.
    pub(crate) fn again(&mut self, now: Duration) {
        self.open = None;
        self.due = now + (WAIT_MIN * 2_u32.saturating_pow(self.failures.min(6))).min(WAIT_MAX);
        self.failures = self.failures.saturating_add(1);
    }

    /// The next message; `Ready(Ok(None))` is the end of the stream.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, CallError>> {
        let Some(open) = &mut self.open else { return Poll::Pending };
        open.poll_next(cx)
    }
}

/// Whether a heartbeat was sent after the runtime had accepted the subscription.
fn is_later(asked: Duration, accepted_at: Option<Duration>) -> bool {
    accepted_at.is_some_and(|at| asked > at)
}

impl Open {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, CallError>> {
        if let Some(head) = &mut self.head {
            let (head, body) = ready!(Pin::new(head).poll(cx))?.into_parts();
            self.head = None;
            check_head(head.status, &head.headers)?;
            self.body = Some(body);
        }
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(None)) };
        loop {
            if let Some(message) = self.frames.next(ANSWER_MAX_BYTES)? {
                return Poll::Ready(Ok(Some(message)));
            }
            match ready!(body.poll_data(cx)) {
                Some(data) => {
                    let data = data?;
                    body.flow_control().release_capacity(data.len())?;
                    self.frames.push(&data);
                }
                None => {
                    let trailers = ready!(body.poll_trailers(cx))?;
                    check_trailers(trailers.as_ref())?;
                    return Poll::Ready(Ok(None));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_next_stream_comes_later_each_time_until_one_is_accepted() {
        let mut subscription = Subscription::new();
        assert!(subscription.is_due(s(0)));
        let mut waits = Vec::new();
        for _ in 0..8 {
            subscription.again(s(100));
            waits.push(subscription.due().unwrap().as_secs() - 100);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        subscription.accepted(s(200));
        subscription.again(s(200));
        assert_eq!((subscription.due(), subscription.is_due(s(200))), (Some(s(201)), false));
    }

    #[test]
    fn what_was_asked_before_the_runtime_accepted_is_old_news() {
        assert!(!is_later(s(5), None), "not accepted yet");
        assert!(!is_later(s(5), Some(s(5))) && !is_later(s(4), Some(s(5))));
        assert!(is_later(s(6), Some(s(5))));
    }

    #[test]
    fn without_a_stream_nothing_is_meant_and_nothing_overdue() {
        let mut subscription = Subscription::new();
        subscription.accepted(s(1));
        assert!(!subscription.is_meant(s(2)) && !subscription.is_overdue(s(99), s(1)));
    }
}
