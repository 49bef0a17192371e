//! `/d/{device}/cmd`: commands for a device that sleeps.
//!
//! What is published to the topic `d/{device}/cmd` with QoS 1 waits in a mailbox on disk from the device's first request
//! on, until the device has it or its deadline has passed. Awake, the device either
//!
//! - polls: GET answers the oldest command, with its position as ETag; DELETE with If-Match of that ETag says that it is
//!   done, and the next GET answers the next one;
//! - or observes: each command comes as a confirmable notification, one at a time, in order; its acknowledgement says that
//!   it is done. The answer to the registration itself is empty. Of a command that is longer than one block the
//!   notification is only the beginning: it is done when the device has fetched the rest in order (RFC 7959 section 2.6)
//!   and acknowledged the last block, which therefore comes as a confirmable response of its own; or by DELETE.
//!
//! A command that was not acknowledged comes again. The mailbox is one of the hub's: its budgets are `[session]`'s.
//!
//! **Opening one** takes a verified address (RFC 9175): a single datagram from anywhere makes nothing durable. Requests of
//! the device wait until it is on disk, and are refused if it cannot be (P1). Their number is bounded, and the mailbox of a
//! device that was not heard of for [`super::ServiceOptions::mailbox_expiry`] is removed with what is in it (P5).

use super::publish::Then;
use super::read::with_content;
use super::{Action, Asked, Context, Output, Service, ServiceOptions};
use crate::records;
use eventmesh_edge_coap::option::Block;
use eventmesh_edge_coap::{Code, ExchangeNo, Response, Token, option};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, Position, Qos, Timestamp};
use eventmesh_edge_core::ports::hub::{Delivery, Offer, Outlet, Submission, SubscribeOptions, SubscriberId};
use eventmesh_edge_core::ports::store::{MailboxItem, ReadError, SessionNo, StateChange};
use eventmesh_edge_core::topic::TopicFilter;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

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
    by_observer: HashMap<(SocketAddr, Token), SessionNo>,
    /// Devices whose mailbox is on its way to the disk, with the requests that wait for it.
    opening: HashMap<Text, Vec<Asked>>,
    next_number: u64,
    max: usize,
    expiry: Duration,
    swept: Duration,
}

struct Mailbox {
    name: Text,
    subscriber: SubscriberId,
    observer: Option<(SocketAddr, Token)>,
    /// Everything up to here is done, on disk or on its way there.
    done: Position,
    /// What the observer is being sent.
    sending: Option<Sending>,
    reading: bool,
    /// Requests that wait for what is read.
    polls: Vec<Poll>,
    /// When it is removed, if the device is not heard of before.
    expires: Duration,
    /// The same by what is on disk.
    expires_on_disk: Duration,
}

/// A command on its way to the observer.
#[derive(Clone, Copy, Debug)]
struct Sending {
    position: Position,
    bytes: usize,
    /// How much of it the observer has asked for, from the start; none before its notification is acknowledged.
    fetched: Option<usize>,
}

/// A request for the oldest command.
#[derive(Clone, Copy, Debug)]
struct Poll {
    exchange: ExchangeNo,
    peer: SocketAddr,
    block: Option<Block>,
}

/// Polls of one device that wait.
const POLLS_MAX: usize = 8;
/// Longest name of a device.
const NAME_MAX_BYTES: usize = 255;
/// Between two looks for mailboxes of devices that are gone.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Mailboxes removed in one look.
const CLOSED_AT_ONCE: usize = 64;
/// What is on disk of the time when a device was heard of may be behind by this part of the expiry.
const NOTED_PARTS: u32 = 8;

const COMMANDS: SubscribeOptions = SubscribeOptions {
    qos: Qos::AtLeastOnce,
    no_local: false,
    retain_as_published: false,
    retain_handling: 2,
    identifier: 0,
};

impl Mailboxes {
    pub(super) fn new(bells: Bells, options: &ServiceOptions) -> Mailboxes {
        Mailboxes {
            bells,
            by_name: HashMap::new(),
            boxes: HashMap::new(),
            by_observer: HashMap::new(),
            opening: HashMap::new(),
            next_number: 1,
            max: options.mailboxes_max,
            expiry: options.mailbox_expiry,
            swept: Duration::ZERO,
        }
    }

    pub(super) fn restore_mark(&mut self, next: u64) {
        self.next_number = self.next_number.max(next);
    }

    pub(super) fn len(&self) -> usize {
        self.boxes.len()
    }

    fn is_full(&self) -> bool {
        self.boxes.len() + self.opening.len() >= self.max
    }

    /// Opens a mailbox at the hub. `heard`: when its device was heard of before a restart. False if no device has such a name.
    pub(super) fn open(
        &mut self,
        cx: &Context<'_>,
        name: Text,
        number: u64,
        heard: Option<Timestamp>,
    ) -> bool {
        let Some(filter) = filter(&name) else { return false };
        let session = records::session(number);
        let subscriber = cx.hub.attach(Some(session), Some((self.bells)(session)));
        cx.hub.subscribe(subscriber, &filter, COMMANDS);
        self.next_number = self.next_number.max(number + 1);
        self.by_name.insert(name.clone(), session);
        let known = |heard: &Timestamp| heard.is_plausible() && cx.wall.is_plausible();
        let silent = heard.filter(known).map_or(Duration::ZERO, |heard| heard.until(cx.wall));
        let expires = cx.now + self.expiry.saturating_sub(silent);
        let mailbox = Mailbox {
            name,
            subscriber,
            observer: None,
            done: Position::ZERO,
            sending: None,
            reading: false,
            polls: Vec::new(),
            expires,
            expires_on_disk: expires,
        };
        self.boxes.insert(session, mailbox);
        true
    }

    /// The mailbox whose commands this observer is sent.
    fn of_observer(&mut self, peer: SocketAddr, token: Token) -> Option<(SessionNo, &mut Mailbox)> {
        let session = *self.by_observer.get(&(peer, token))?;
        Some((session, self.boxes.get_mut(&session)?))
    }
}

/// The topic of a device's commands; `None` if the name is no topic level.
fn filter(name: &str) -> Option<TopicFilter> {
    let literal = !name.is_empty() && !name.contains(['/', '+', '#']);
    TopicFilter::parse(Text::from(format!("d/{name}/cmd"))).ok().filter(|_| literal)
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
            Code::DELETE => self.command_done(cx, asked, device, out),
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
        self.heard(cx, session, out);
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
            return Some(busy());
        }
        let Asked { exchange, peer, .. } = *asked;
        mailbox.polls.push(Poll { exchange, peer, block: asked.request.block2 });
        self.read_mailbox(session, out);
        None
    }

    /// From here on commands are kept for it, which is so when it is durable (P1): until then its requests wait.
    fn first_request(
        &mut self,
        cx: &Context<'_>,
        asked: &Asked,
        device: &str,
        out: &mut Output,
    ) -> Option<Response> {
        if let Some(waiting) = self.mailboxes.opening.get_mut(device) {
            if waiting.len() >= POLLS_MAX {
                return Some(busy());
            }
            waiting.push(asked.clone());
            return None;
        }
        if filter(device).is_none() {
            return Some(Response::error(Code::BAD_REQUEST, "a device's name is one topic level"));
        }
        if !self.endpoint.is_verified(asked.peer) {
            return Some(self.endpoint.challenge(cx.now, asked.peer, &mut self.said));
        }
        if self.mailboxes.is_full() {
            let full = Response::error(Code::SERVICE_UNAVAILABLE, "too many devices have a mailbox");
            return Some(full.with_uint(option::MAX_AGE, 60));
        }
        let number = self.mailboxes.next_number;
        self.mailboxes.next_number += 1;
        let name = Text::from(device);
        let mut asked = asked.clone();
        asked.request.payload.clear();
        self.mailboxes.opening.insert(name.clone(), vec![asked]);
        let state = vec![records::put_mark(number + 1), records::put_device(device, number, cx.wall)];
        let submission = Submission { state, ..Submission::default() };
        self.submit_for(None, Then::Opened(name, number), submission, out);
        None
    }

    /// A mailbox is on disk, or is not: those who wait get their answer.
    pub(super) fn mailbox_opened(
        &mut self,
        cx: &Context<'_>,
        name: &Text,
        number: u64,
        refusal: Option<&Response>,
        out: &mut Output,
    ) {
        let waiting = self.mailboxes.opening.remove(name).unwrap_or_default();
        if refusal.is_none() {
            self.mailboxes.open(cx, name.clone(), number, None);
        }
        for asked in waiting {
            let response = match refusal {
                Some(refusal) => Some(refusal.clone()),
                None => self.take_command(cx, &asked, name, out),
            };
            if let Some(response) = response {
                self.respond(cx, asked.exchange, response);
            }
        }
    }

    /// The device is there. On disk that is noted now and then.
    fn heard(&mut self, cx: &Context<'_>, session: SessionNo, out: &mut Output) {
        let expiry = self.mailboxes.expiry;
        let Some(mailbox) = self.mailboxes.boxes.get_mut(&session) else { return };
        mailbox.expires = cx.now + expiry;
        if mailbox.expires - mailbox.expires_on_disk.min(mailbox.expires) > expiry / NOTED_PARTS {
            mailbox.expires_on_disk = mailbox.expires;
            let number = records::number(session);
            let state = vec![records::put_device(&mailbox.name, number, cx.wall)];
            self.submit_state(state, out);
        }
    }

    /// Removes mailboxes of devices that were not heard of for too long, with what is in them (P5).
    pub(super) fn close_forgotten_mailboxes(&mut self, cx: &Context<'_>, out: &mut Output) {
        if cx.now.saturating_sub(self.mailboxes.swept) < SWEEP_EVERY {
            return;
        }
        self.mailboxes.swept = cx.now;
        // The endpoint sees to it that who observes is there.
        let forgotten = |mailbox: &Mailbox| {
            mailbox.expires <= cx.now && mailbox.observer.is_none() && mailbox.polls.is_empty()
        };
        let mut gone: Vec<SessionNo> = self
            .mailboxes
            .boxes
            .iter()
            .filter_map(|(session, mailbox)| forgotten(mailbox).then_some(*session))
            .collect();
        gone.sort_unstable();
        gone.truncate(CLOSED_AT_ONCE);
        for session in gone {
            let Some(mailbox) = self.mailboxes.boxes.remove(&session) else { continue };
            self.mailboxes.by_name.remove(&mailbox.name);
            cx.hub.detach(mailbox.subscriber);
            tracing::info!(device = &*mailbox.name, "not heard of for so long: its mailbox is removed");
            let state = vec![StateChange::MailboxClear { session }, records::delete_device(&mailbox.name)];
            self.submit_state(state, out);
        }
    }

    /// Makes the peer the one that gets this mailbox's commands.
    fn watch(&mut self, cx: &Context<'_>, asked: &Asked, session: SessionNo, out: &mut Output) -> Response {
        if self.endpoint.observe(cx.now, asked.exchange, true) {
            self.unwatch(asked.peer, asked.token);
            let observer = (asked.peer, asked.token);
            let earlier = self.mailboxes.boxes.get_mut(&session).and_then(|mailbox| {
                mailbox.sending = None;
                mailbox.observer.replace(observer)
            });
            if let Some((peer, token)) = earlier {
                self.mailboxes.by_observer.remove(&(peer, token));
                self.endpoint.forget_observer(peer, token);
            }
            self.mailboxes.by_observer.insert(observer, session);
            self.read_mailbox(session, out);
        }
        Response::new(Code::CONTENT)
    }

    /// The peer does not observe a mailbox any more.
    pub(super) fn unwatch(&mut self, peer: SocketAddr, token: Token) {
        let session = self.mailboxes.by_observer.remove(&(peer, token));
        if let Some(mailbox) = session.and_then(|session| self.mailboxes.boxes.get_mut(&session)) {
            mailbox.observer = None;
            mailbox.sending = None;
        }
    }

    fn command_done(
        &mut self,
        cx: &Context<'_>,
        asked: &Asked,
        device: &str,
        out: &mut Output,
    ) -> Option<Response> {
        let Some(session) = self.mailboxes.by_name.get(device).copied() else {
            return Some(Response::error(Code::NOT_FOUND, "this device has no mailbox"));
        };
        self.heard(cx, session, out);
        let etag: Option<[u8; 8]> =
            asked.request.if_match.first().and_then(|etag| etag.as_slice().try_into().ok());
        let Some(position) = etag.map(|etag| Position(u64::from_be_bytes(etag))) else {
            return Some(Response::error(Code::BAD_REQUEST, "say which command by If-Match with its ETag"));
        };
        let state = vec![StateChange::MailboxRemove { session, position }];
        let submission = Submission { state, ..Submission::default() };
        let then = Then::Removed(session, position);
        self.submit_for(Some((asked.exchange, Code::DELETED)), then, submission, out);
        None
    }

    /// A command is out of the mailbox because the device said so: the observer gets the next one.
    pub(super) fn command_removed(&mut self, session: SessionNo, position: Position, out: &mut Output) {
        let Some(mailbox) = self.mailboxes.boxes.get_mut(&session) else { return };
        if mailbox.sending.is_some_and(|sending| sending.position == position) {
            mailbox.sending = None;
            self.read_mailbox(session, out);
        }
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
                let later = Response::new(Code::SERVICE_UNAVAILABLE).with_uint(option::MAX_AGE, 10);
                return polls.iter().for_each(|poll| self.respond(cx, poll.exchange, later.clone()));
            }
        };
        let late = |item: &&MailboxItem| expired(&item.event.event, cx);
        let expired: Vec<_> = items.iter().take_while(late).map(|item| item.event.position).collect();
        if let Some(last) = expired.last() {
            mailbox.done = *last;
            let remove = |position| StateChange::MailboxRemove { session, position };
            self.submit_state(expired.iter().copied().map(remove).collect(), out);
        }
        let next = items.get(expired.len());
        if next.is_none() && !expired.is_empty() {
            if let Some(mailbox) = self.mailboxes.boxes.get_mut(&session) {
                mailbox.polls = polls;
            }
            return self.read_mailbox(session, out);
        }
        for poll in polls {
            self.answer_poll(cx, session, poll, next);
        }
        self.feed(cx, session, next, out);
    }

    /// The last block of a command to the observer that has asked for all before it wants an acknowledgement: then it is
    /// done.
    fn answer_poll(&mut self, cx: &Context<'_>, session: SessionNo, poll: Poll, next: Option<&MailboxItem>) {
        let Some(item) = next else { return self.respond(cx, poll.exchange, Response::new(Code::CONTENT)) };
        let (response, position) = (command(item, cx), item.event.position);
        let szx_max = self.options.params.block_szx;
        let sending = self.mailboxes.boxes.get_mut(&session).and_then(|mailbox| {
            let observes = mailbox.observer.is_some_and(|(peer, _)| peer == poll.peer);
            mailbox.sending.as_mut().filter(|sending| observes && sending.position == position)
        });
        let is_last = poll.block.zip(sending).is_some_and(|(block, sending)| sending.ask(block, szx_max));
        if is_last {
            let (exchange, tag) = (poll.exchange, position.0);
            self.endpoint.respond_acknowledged(cx.now, exchange, response, tag, &mut self.said);
        } else {
            self.respond(cx, poll.exchange, response);
        }
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
        let position = item.event.position;
        let bytes = item.event.event.payload.len();
        mailbox.sending = Some(Sending { position, bytes, fetched: None });
        self.endpoint.notify(cx.now, peer, token, command(item, cx), position.0, &mut self.said);
    }

    /// The observer acknowledged a notification. False if it was no command.
    pub(super) fn command_acknowledged(
        &mut self,
        cx: &Context<'_>,
        peer: SocketAddr,
        token: Token,
        tag: u64,
        out: &mut Output,
    ) -> bool {
        let block_bytes = 16usize << self.options.params.block_szx;
        let Some((session, mailbox)) = self.mailboxes.of_observer(peer, token) else { return false };
        let Some(sending) = mailbox.sending.as_mut().filter(|sending| sending.position == Position(tag))
        else {
            return false;
        };
        if sending.bytes > block_bytes {
            // It has the first block: the rest is to be fetched.
            sending.fetched = Some(block_bytes);
            self.heard(cx, session, out);
        } else {
            self.observer_has(cx, session, out);
        }
        true
    }

    /// The last block of a command arrived at the observer.
    pub(super) fn command_fetched(&mut self, cx: &Context<'_>, peer: SocketAddr, tag: u64, out: &mut Output) {
        let sent = |mailbox: &Mailbox| {
            mailbox.observer.is_some_and(|observer| observer.0 == peer)
                && mailbox.sending.is_some_and(|sending| sending.position == Position(tag))
        };
        let found = self.mailboxes.boxes.iter().find(|(_, mailbox)| sent(mailbox));
        if let Some(session) = found.map(|(session, _)| *session) {
            self.observer_has(cx, session, out);
        }
    }

    /// The observer has the whole command: it is done, and the next one follows.
    fn observer_has(&mut self, cx: &Context<'_>, session: SessionNo, out: &mut Output) {
        self.heard(cx, session, out);
        let Some(mailbox) = self.mailboxes.boxes.get_mut(&session) else { return };
        let Some(Sending { position, .. }) = mailbox.sending.take() else { return };
        mailbox.done = position;
        self.submit_state(vec![StateChange::MailboxRemove { session, position }], out);
        self.read_mailbox(session, out);
    }
}

impl Sending {
    /// The observer asks for a block. True if that is the last one, and it has asked for everything before it.
    fn ask(&mut self, block: Block, szx_max: u8) -> bool {
        let Some(fetched) = self.fetched.as_mut() else { return false };
        let (from, size) = (block.offset(), 16usize << block.szx.min(szx_max));
        let to = from.saturating_add(size).min(self.bytes);
        if from <= *fetched {
            *fetched = (*fetched).max(to);
        }
        to == self.bytes && *fetched == self.bytes && from < self.bytes
    }
}

fn busy() -> Response {
    Response::new(Code::TOO_MANY_REQUESTS).with_uint(option::MAX_AGE, 2)
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
