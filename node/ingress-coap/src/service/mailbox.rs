//! `/d/{device}/cmd`: commands for a device that sleeps.
//!
//! What is published to the topic `d/{device}/cmd` with QoS 1 waits in a mailbox on disk from the device's first request
//! on, until the device has it or its deadline has passed. Awake, the device either
//!
//! - polls: GET answers the oldest command, with its position as ETag; DELETE with If-Match of that ETag says that it is
//!   done, and the next GET answers the next one;
//! - or observes: each command comes as a confirmable notification, one at a time, in order; its acknowledgement says that
//!   it is done. The answer to the registration itself is empty.
//!
//! A command that was not acknowledged comes again. The mailbox is one of the hub's: its budgets are `[session]`'s.

use super::read::with_content;
use super::{Action, Asked, Context, Output, Service};
use crate::records;
use eventmesh_edge_coap::{Code, ExchangeNo, Response, Token, option};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, Position, Qos};
use eventmesh_edge_core::ports::hub::{
    Delivery, Hub, Offer, Outlet, Submission, SubscribeOptions, SubscriberId,
};
use eventmesh_edge_core::ports::store::{MailboxItem, ReadError, SessionNo, StateChange};
use eventmesh_edge_core::topic::{TopicFilter, TopicName};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Makes the outlet of a device's mailbox; what it says comes back as [`crate::link::Event::Rung`].
pub type Bells = Arc<dyn Fn(SessionNo) -> Arc<dyn Outlet> + Send + Sync>;

/// An outlet that takes nothing: it only says that there is something to read.
pub struct Bell<F>(pub F);

impl<F: Fn() + Send + Sync> Outlet for Bell<F> {
    /// What is in the mailbox is read there; what is not (QoS 0) is not for a device that may be asleep.
    fn offer(&self, _delivery: Delivery) -> Offer {
        (self.0)();
        Offer::Full
    }

    fn flush(&self) {}
}

/// Devices with a mailbox.
pub(super) struct Mailboxes {
    bells: Bells,
    by_name: HashMap<Text, SessionNo>,
    boxes: HashMap<SessionNo, Mailbox>,
    next_number: u64,
    max: usize,
}

#[derive(Debug)]
struct Mailbox {
    subscriber: SubscriberId,
    observer: Option<(SocketAddr, Token)>,
    /// Everything up to here is done, on disk or on its way there.
    done: Position,
    /// Sent to the observer and not acknowledged.
    sending: Option<Position>,
    reading: bool,
    /// Requests that wait for what is read.
    polls: Vec<ExchangeNo>,
}

/// Polls of one device that wait.
const POLLS_MAX: usize = 8;
/// Longest name of a device.
const NAME_MAX_BYTES: usize = 255;

const COMMANDS: SubscribeOptions = SubscribeOptions {
    qos: Qos::AtLeastOnce,
    no_local: false,
    retain_as_published: false,
    retain_handling: 2,
    identifier: 0,
};

impl Mailboxes {
    pub(super) fn new(bells: Bells, max: usize) -> Mailboxes {
        Mailboxes { bells, by_name: HashMap::new(), boxes: HashMap::new(), next_number: 1, max }
    }

    pub(super) fn len(&self) -> usize {
        self.boxes.len()
    }

    pub(super) fn restore_mark(&mut self, next: u64) {
        self.next_number = self.next_number.max(next);
    }

    /// Opens a mailbox at the hub.
    pub(super) fn open(&mut self, hub: &dyn Hub, name: Text, number: u64) -> Option<SessionNo> {
        if name.contains('/') {
            return None;
        }
        let topic = TopicName::parse(Text::from(format!("d/{name}/cmd"))).ok()?;
        let filter = TopicFilter::parse(topic.into_text()).ok()?;
        let session = records::session(number);
        let subscriber = hub.attach(Some(session), Some((self.bells)(session)));
        hub.subscribe(subscriber, &filter, COMMANDS);
        self.next_number = self.next_number.max(number + 1);
        self.by_name.insert(name, session);
        let mailbox = Mailbox {
            subscriber,
            observer: None,
            done: Position::ZERO,
            sending: None,
            reading: false,
            polls: Vec::new(),
        };
        self.boxes.insert(session, mailbox);
        Some(session)
    }
}

impl Service {
    /// A request to a mailbox. The response, unless it has to wait.
    pub(super) fn mailbox(
        &mut self,
        cx: &Context<'_>,
        asked: &Asked,
        device: &str,
        out: &mut Output,
    ) -> Option<Response> {
        if asked.multicast || device.len() > NAME_MAX_BYTES {
            return Some(Response::new(Code::NOT_FOUND));
        }
        match asked.request.method {
            Code::GET => self.take_command(cx, asked, device, out),
            Code::DELETE => self.command_done(asked, device, out),
            _ => Some(Response::error(
                Code::METHOD_NOT_ALLOWED,
                "a mailbox knows GET and DELETE; publish to the topic",
            )),
        }
    }

    fn take_command(
        &mut self,
        cx: &Context<'_>,
        asked: &Asked,
        device: &str,
        out: &mut Output,
    ) -> Option<Response> {
        let Some(session) = self.mailboxes.by_name.get(device).copied() else {
            return self.first_request(cx, asked, device, out);
        };
        match asked.request.observe {
            Some(0) => return Some(self.watch(cx, asked, session, out)),
            Some(1) => {
                self.endpoint.forget_observer(asked.peer, asked.token);
                self.unwatch(asked.peer, asked.token);
            }
            _ => {}
        }
        let mailbox = self.mailboxes.boxes.get_mut(&session)?;
        if mailbox.polls.len() >= POLLS_MAX {
            let busy = Response::new(Code::TOO_MANY_REQUESTS).with_uint(option::MAX_AGE, 2);
            return Some(busy);
        }
        mailbox.polls.push(asked.exchange);
        self.read_mailbox(session, out);
        None
    }

    /// From here on commands are kept for it, which is so when it is durable (P1).
    fn first_request(
        &mut self,
        cx: &Context<'_>,
        asked: &Asked,
        device: &str,
        out: &mut Output,
    ) -> Option<Response> {
        if self.mailboxes.len() >= self.mailboxes.max {
            let full = Response::error(Code::SERVICE_UNAVAILABLE, "too many devices have a mailbox");
            return Some(full.with_uint(option::MAX_AGE, 60));
        }
        let number = self.mailboxes.next_number;
        let name = Text::from(device);
        let Some(session) = self.mailboxes.open(cx.hub, name, number) else {
            return Some(Response::error(Code::BAD_REQUEST, "a device's name is one topic level"));
        };
        let state = vec![records::put_mark(number + 1), records::put_device(device, number)];
        if asked.request.observe == Some(0) {
            self.watch(cx, asked, session, out);
        }
        let submission = Submission { state, ..Submission::default() };
        self.submit_for(Some((asked.exchange, Code::CONTENT)), submission, out);
        None
    }

    /// Makes the peer the one that gets this mailbox's commands.
    fn watch(&mut self, cx: &Context<'_>, asked: &Asked, session: SessionNo, out: &mut Output) -> Response {
        if self.endpoint.observe(cx.now, asked.exchange, true) {
            self.unwatch(asked.peer, asked.token);
            let earlier = self.mailboxes.boxes.get_mut(&session).and_then(|mailbox| {
                mailbox.sending = None;
                mailbox.observer.replace((asked.peer, asked.token))
            });
            if let Some((peer, token)) = earlier {
                self.endpoint.forget_observer(peer, token);
            }
            self.read_mailbox(session, out);
        }
        Response::new(Code::CONTENT)
    }

    /// The peer does not observe a mailbox any more.
    pub(super) fn unwatch(&mut self, peer: SocketAddr, token: Token) {
        let watched =
            self.mailboxes.boxes.values_mut().find(|mailbox| mailbox.observer == Some((peer, token)));
        if let Some(mailbox) = watched {
            mailbox.observer = None;
            mailbox.sending = None;
        }
    }

    fn command_done(&mut self, asked: &Asked, device: &str, out: &mut Output) -> Option<Response> {
        let Some(session) = self.mailboxes.by_name.get(device).copied() else {
            return Some(Response::error(Code::NOT_FOUND, "this device has no mailbox"));
        };
        let etag: Option<[u8; 8]> =
            asked.request.if_match.first().and_then(|etag| etag.as_slice().try_into().ok());
        let Some(position) = etag.map(|etag| Position(u64::from_be_bytes(etag))) else {
            return Some(Response::error(Code::BAD_REQUEST, "say which command by If-Match with its ETag"));
        };
        let state = vec![StateChange::MailboxRemove { session, position }];
        let submission = Submission { state, ..Submission::default() };
        self.submit_for(Some((asked.exchange, Code::DELETED)), submission, out);
        None
    }

    /// Something came into a mailbox.
    pub(super) fn rung(&mut self, session: SessionNo, out: &mut Output) {
        let watched = self.mailboxes.boxes.get(&session).is_some_and(|mailbox| mailbox.observer.is_some());
        if watched {
            self.read_mailbox(session, out);
        }
    }

    fn read_mailbox(&mut self, session: SessionNo, out: &mut Output) {
        let Some(mailbox) = self.mailboxes.boxes.get_mut(&session).filter(|mailbox| !mailbox.reading) else {
            return;
        };
        mailbox.reading = true;
        out.actions.push(Action::ReadMailbox { session, after: mailbox.done });
    }

    /// A piece of a mailbox was read: for who polled and for who observes.
    pub(super) fn mailbox_read(
        &mut self,
        cx: &Context<'_>,
        session: SessionNo,
        result: Result<Vec<MailboxItem>, ReadError>,
        out: &mut Output,
    ) {
        let Some(mailbox) = self.mailboxes.boxes.get_mut(&session) else { return };
        mailbox.reading = false;
        let polls = std::mem::take(&mut mailbox.polls);
        let items = match result {
            Ok(items) => items,
            Err(error) => {
                tracing::warn!(%error, "a mailbox cannot be read");
                for poll in polls {
                    self.respond(
                        cx,
                        poll,
                        Response::new(Code::SERVICE_UNAVAILABLE).with_uint(option::MAX_AGE, 10),
                    );
                }
                return;
            }
        };
        let late = |item: &&MailboxItem| expired(&item.event.event, cx);
        let expired: Vec<_> = items.iter().take_while(late).map(|item| item.event.position).collect();
        if let Some(last) = expired.last() {
            mailbox.done = *last;
            let remove = |position| StateChange::MailboxRemove { session, position };
            let state = expired.iter().copied().map(remove).collect();
            self.submit_for(None, Submission { state, ..Submission::default() }, out);
        }
        let next = items.iter().find(|item| !expired.contains(&item.event.position));
        if next.is_none() && !expired.is_empty() {
            if let Some(mailbox) = self.mailboxes.boxes.get_mut(&session) {
                mailbox.polls = polls;
            }
            return self.read_mailbox(session, out);
        }
        for poll in polls {
            self.respond(
                cx,
                poll,
                next.map_or_else(|| Response::new(Code::CONTENT), |item| command(item, cx)),
            );
        }
        self.feed(cx, session, next, out);
    }

    /// The next command to the observer, or the hub is told that there is none.
    fn feed(&mut self, cx: &Context<'_>, session: SessionNo, next: Option<&MailboxItem>, out: &mut Output) {
        let Some(mailbox) = self.mailboxes.boxes.get_mut(&session) else { return };
        let Some((peer, token)) = mailbox.observer.filter(|_| mailbox.sending.is_none()) else { return };
        let Some(item) = next else {
            let (subscriber, done) = (mailbox.subscriber, mailbox.done);
            if !cx.hub.resume(subscriber, done) {
                self.read_mailbox(session, out);
            }
            return;
        };
        mailbox.sending = Some(item.event.position);
        let tag = item.event.position.0;
        self.endpoint.notify(cx.now, peer, token, command(item, cx), tag, &mut self.said);
    }

    /// The observer acknowledged a notification. False if it was no command.
    pub(super) fn command_acknowledged(
        &mut self,
        peer: SocketAddr,
        token: Token,
        tag: u64,
        out: &mut Output,
    ) -> bool {
        let position = Position(tag);
        let found = self
            .mailboxes
            .boxes
            .iter_mut()
            .find(|(_, m)| m.observer == Some((peer, token)) && m.sending == Some(position));
        let Some((session, mailbox)) = found else { return false };
        let session = *session;
        mailbox.sending = None;
        mailbox.done = position;
        let state = vec![StateChange::MailboxRemove { session, position }];
        self.submit_for(None, Submission { state, ..Submission::default() }, out);
        self.read_mailbox(session, out);
        true
    }
}

fn expired(event: &Event, cx: &Context<'_>) -> bool {
    cx.wall.is_plausible() && event.expires.is_some_and(|expires| expires <= cx.wall)
}

/// A command as it is shown: its ETag names it.
fn command(item: &MailboxItem, cx: &Context<'_>) -> Response {
    let event = &item.event.event;
    let response = Response::new(Code::CONTENT).with(option::ETAG, item.event.position.0.to_be_bytes());
    let response = match event.expires.filter(|_| cx.wall.is_plausible()) {
        Some(expires) => {
            let secs = u32::try_from(cx.wall.until(expires).as_secs()).unwrap_or(u32::MAX);
            response.with_uint(option::MAX_AGE, secs)
        }
        // It is not for the next one who asks.
        None => response.with_uint(option::MAX_AGE, 0),
    };
    with_content(response, event)
}
