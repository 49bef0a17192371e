//! The Uplink port: one connection upward, driven by the forwarder.
//!
//! An uplink adapter owns its sockets and its protocol state and nothing else: it keeps no queue of events that the
//! forwarder has not given it, never decides to resend, and forgets everything when the connection ends. Delivery state
//! lives in the store's cursors (P2), whatever session state the upstream claims to have.

use super::store::StreamId;
use crate::Text;
use crate::event::{Position, StoredEvent};
use crate::ports::store::Class;
use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// One event on its way up.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Which stream it came from.
    pub stream: StreamId,
    /// The event with its position; the pair (stream, position) names it in [`UplinkEvent`].
    pub event: Arc<StoredEvent>,
    /// CloudEvents `type` from the route or the default.
    pub kind: Text,
    /// Sent before without an answer.
    pub again: bool,
}

/// A message that came down, to be published to devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downward {
    /// Local topic name, after the uplink's rewriting.
    pub topic: Text,
    /// Payload.
    pub payload: Bytes,
    /// Properties that travel with it.
    pub properties: Option<Box<crate::event::Properties>>,
    /// QoS it came with.
    pub qos: crate::event::Qos,
    /// RETAIN flag it came with.
    pub retain: bool,
    /// CloudEvents `source` and `id` if it came as a CloudEvent; used for deduplication.
    pub identity: Option<(Text, Text)>,
    /// Hand back with [`Uplink::confirm`] when the message is durable; 0 if the upstream wants no answer.
    pub token: u64,
}

/// What happened on an uplink.
#[derive(Clone, Debug)]
pub enum UplinkEvent {
    /// Connected and ready for [`Uplink::send`]; `window` is how many may be unanswered (MQTT Receive Maximum).
    Up {
        /// Bound set by the upstream.
        window: usize,
        /// Which address, for `status`.
        address: Text,
    },
    /// The connection ended or could not be made. Everything unanswered is unanswered for good.
    Down {
        /// In words, for `status` and the log: no secrets.
        cause: Text,
    },
    /// An attempt to connect met nobody who took the connection: refused, no way there, no such name, no answer to the first
    /// packet. The upstream has had no work from it, so it may be made again soon.
    Unreachable {
        /// In words, for `status` and the log: no secrets.
        cause: Text,
    },
    /// The upstream is there and takes nothing at present: a wrong credential, overload, maintenance. Ends the connection
    /// as [`UplinkEvent::Down`] does, or answers an attempt to connect; no event is suspected of being the reason.
    Unavailable {
        /// In words, for `status` and the log: no secrets.
        cause: Text,
        /// How long the upstream asked to be left alone, if it did. With a single address the next attempt is not
        /// earlier; with several the next one is tried meanwhile.
        retry_after: Option<Duration>,
    },
    /// Bytes of what was handed over are still leaving, slowly: no answer can be here yet, and the other side lives. What was
    /// handed over is finite, and so is this.
    Leaving,
    /// The upstream has taken the event over.
    Acked {
        /// Which stream.
        stream: StreamId,
        /// Which event.
        position: Position,
    },
    /// The upstream refused the event.
    Failed {
        /// Which stream.
        stream: StreamId,
        /// Which event.
        position: Position,
        /// Retry: later, here or elsewhere. Reject: never. Fatal: the connection is of no use, reconnect.
        class: Class,
        /// The upstream's words or code.
        reason: Text,
    },
    /// The upstream takes nothing of this event's group yet, and may later: no fault of the event, which waits without limit.
    Held {
        /// Which stream.
        stream: StreamId,
        /// Which event.
        position: Position,
        /// What is held, the same for all of its events.
        group: Text,
        /// When it may be tried again.
        retry_after: Duration,
        /// The upstream's words or code.
        reason: Text,
    },
    /// A message came down.
    Downward(Downward),
}

/// The future type of the port: the core names no executor.
pub type PortFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One uplink. Used by one task, which calls [`Uplink::next`] again and again.
pub trait Uplink: Send {
    /// Starts connecting to address number `index` (modulo how many there are), ending any connection there is.
    /// [`UplinkEvent::Up`], [`UplinkEvent::Down`], [`UplinkEvent::Unreachable`] or [`UplinkEvent::Unavailable`] follows,
    /// within `timeout`.
    fn connect(&mut self, index: usize, timeout: Duration);

    /// Takes one event over for sending; called only while up, never beyond the window. Does not block and may buffer
    /// until [`Uplink::flush`].
    fn send(&mut self, outgoing: Outgoing);

    /// Everything taken over goes out now.
    fn flush(&mut self);

    /// The message that came down under this token is durable (P1, towards the upstream).
    fn confirm(&mut self, token: u64);

    /// The message that came down under this token can never be kept, for this reason: the upstream need not send it again.
    /// Where the protocol has no word for it, this is [`Uplink::confirm`].
    fn refuse(&mut self, token: u64, _reason: &Text) {
        self.confirm(token);
    }

    /// Waits until at least one thing happened and appends all that did to `out`. Cancel safe.
    fn next<'a>(&'a mut self, out: &'a mut Vec<UplinkEvent>) -> PortFuture<'a, ()>;

    /// Says goodbye (MQTT DISCONNECT) and ends; bounded by `timeout`.
    fn close(&mut self, timeout: Duration) -> PortFuture<'_, ()>;

    /// How many addresses there are, at least 1.
    fn addresses(&self) -> usize;
}
