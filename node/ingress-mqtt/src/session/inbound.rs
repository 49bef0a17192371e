//! What a client sends: the batch of one read, its completion, and the answers that wait for it.

use super::records::{self, Inbound};
use super::{Answer, Batch, Context, Machine, Output, Phase, Purpose, Session, Step, Undo};
use crate::codec::encode::{self, AckKind};
use crate::codec::{Ack, DecodeError, Publish, Subscribe, Unsubscribe};
use crate::reason::{Place, Reason};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event as CoreEvent, Qos, Timestamp, Via};
use eventmesh_edge_core::mapping::{self, Admission};
use eventmesh_edge_core::ports::hub::{
    Accepted, Outlet, Publication, Submission, SubscribeOptions, SubscriberId,
};
use eventmesh_edge_core::ports::store::{CommitError, SessionNo, StateChange, StateValue, Table};
use eventmesh_edge_core::topic::TopicFilter;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

impl Machine {
    pub(super) fn batch(&mut self) -> &mut Batch {
        self.batch.get_or_insert_default()
    }

    pub(super) fn publish(&mut self, cx: &Context<'_>, publish: Publish, out: &mut Output) {
        if publish.payload.len() > cx.limits.payload_max_bytes as usize {
            return self.fail(cx, Reason::PacketTooLarge, out);
        }
        let topic = match self.resolve_alias(&publish, cx.limits.topic_alias_maximum) {
            Ok(topic) => topic,
            Err(reason) => return self.fail(cx, reason, out),
        };
        // MQTT 3.x clients do not know the limit; what they have in flight is bounded by one read.
        if publish.qos != Qos::AtMostOnce
            && self.version.is_v5()
            && self.receive_window_is_full(cx.limits.receive_maximum)
        {
            return self.fail(cx, Reason::ReceiveMaximumExceeded, out); // [MQTT-3.3.4-9]
        }
        let (pid, dup, qos) = (publish.pid, publish.dup, publish.qos);
        if cx.sessions.guard().has_passed(publish.properties.as_deref()) {
            return self.drop_loop(cx, pid, qos);
        }
        let Some(session) = self.session.as_ref() else { return };
        let event = event(session, publish, topic, self.version.is_v5(), cx.wall);
        let publication = Publication { event, publisher: session.subscriber };
        match qos {
            Qos::AtMostOnce => self.batch().push(publication),
            Qos::AtLeastOnce => self.publish_qos1(pid, dup, publication),
            Qos::ExactlyOnce => self.publish_qos2(pid, dup, publication),
        }
    }

    /// The message has been here before: it was stored then, so it is answered now, or whoever sends it round a ring of
    /// nodes would send it again for ever. Counted, not stored.
    fn drop_loop(&mut self, cx: &Context<'_>, pid: u16, qos: Qos) {
        cx.sessions.stats().loop_dropped();
        match qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => {
                self.batch().answers.push(Answer::PubAck { pid, event: None, refused: None });
            }
            Qos::ExactlyOnce => {
                // Known until its PUBREL, in memory: a resend after a restart is recognised by its marker again.
                let inbound = Inbound { qos, hash: 0, durable: false, unsure: false };
                if let Some(session) = self.session.as_mut() {
                    session.inbound.entry(pid).or_insert(inbound);
                }
                self.batch().answers.push(Answer::PubRec { pid, event: None, refused: None });
            }
        }
    }

    /// Whether the client has as many publishes of QoS 1 and 2 unanswered as it may. Counts only when that is possible.
    fn receive_window_is_full(&self, maximum: u16) -> bool {
        let answers = self.batch.as_ref().map_or(&[][..], |batch| &batch.answers);
        let Some(session) = self.session.as_ref() else { return false };
        let maximum = usize::from(maximum);
        if answers.len() + session.inbound.len() < maximum {
            return false;
        }
        let batched = answers.iter().filter(|a| matches!(a, Answer::PubAck { .. })).count();
        let held = session.inbound.values().filter(|inbound| inbound.qos == Qos::ExactlyOnce).count();
        batched + held >= maximum
    }

    fn resolve_alias(&mut self, publish: &Publish, maximum: u16) -> Result<Text, Reason> {
        let Some(alias) = publish.alias else { return Ok(publish.topic.clone()) };
        // [MQTT-3.3.2-8], [MQTT-3.3.2-9]
        if alias == 0 || alias > maximum {
            return Err(Reason::TopicAliasInvalid);
        }
        let index = usize::from(alias) - 1;
        if publish.topic.is_empty() {
            let known = self.aliases.get(index).filter(|topic| !topic.is_empty());
            return known.cloned().ok_or(Reason::Protocol); // [MQTT-3.3.2-12]
        }
        if self.aliases.len() <= index {
            self.aliases.resize(index + 1, Text::new());
        }
        if let Some(slot) = self.aliases.get_mut(index) {
            // A copy: the topic's own bytes are a slice of this packet, payload and all.
            *slot = Text::from(&*publish.topic);
        }
        Ok(publish.topic.clone())
    }

    fn publish_qos1(&mut self, pid: u16, dup: bool, publication: Publication) {
        let batch_max = self.batch_max;
        let Some(session) = self.session.as_mut() else { return };
        let Some(number) = session.number else {
            // Nothing of this session outlives the connection, so there is nothing to recognise a resend by.
            return self.store(publication, None, |event| Answer::PubAck { pid, event, refused: None });
        };
        session.counts_up |= pid > batch_max.saturating_mul(2);
        if !dup {
            session.resends_are_over();
        }
        let hash = hash(&publication);
        // Stored by this session and not answered: the resend maps to the position that there is (P3). After our
        // PUBACK the identifier is new, whatever DUP says [MQTT-4.3.2-5]; its entry is gone by then.
        let known = session.inbound.get_mut(&pid).filter(|k| k.qos == Qos::AtLeastOnce && k.hash == hash);
        if let Some(known) = known.filter(|_| dup) {
            known.unsure = false;
            self.batch().answers.push(Answer::PubAck { pid, event: None, refused: None });
            return;
        }
        let inbound = Inbound { qos: Qos::AtLeastOnce, hash, durable: session.counts_up, unsure: false };
        session.inbound.insert(pid, inbound);
        let record = inbound.durable.then_some((number, inbound, pid));
        self.store(publication, record, |event| Answer::PubAck { pid, event, refused: None });
    }

    fn publish_qos2(&mut self, pid: u16, dup: bool, publication: Publication) {
        let Some(session) = self.session.as_mut() else { return };
        let durable = session.number.is_some();
        if !dup {
            session.resends_are_over();
        }
        let inbound = Inbound { qos: Qos::ExactlyOnce, hash: hash(&publication), durable, unsure: false };
        // Until PUBREL, the same packet identifier is the same message [MQTT-4.3.3-10]. Other content without DUP comes
        // from a client that has lost its state: that is a message of its own, and swallowing it would be a silent loss.
        let known = session.inbound.get(&pid).filter(|known| known.qos == Qos::ExactlyOnce);
        if known.is_some_and(|known| dup || known.hash == inbound.hash) {
            self.batch().answers.push(Answer::PubRec { pid, event: None, refused: None });
            return;
        }
        session.inbound.insert(pid, inbound);
        let record = session.number.map(|number| (number, inbound, pid));
        self.store(publication, record, |event| Answer::PubRec { pid, event, refused: None });
    }

    fn store(
        &mut self,
        publication: Publication,
        record: Option<(SessionNo, Inbound, u16)>,
        answer: impl FnOnce(Option<usize>) -> Answer,
    ) {
        let batch = self.batch();
        let event = batch.publications.len();
        batch.push(publication);
        batch.state.extend(record.map(|(number, inbound, pid)| inbound.put(number, pid, event)));
        batch.answers.push(answer(Some(event)));
    }

    pub(super) fn pubrel(&mut self, ack: Ack) {
        let Some(session) = self.session.as_ref() else { return };
        let known = session.inbound.get(&ack.pid).is_some_and(|inbound| inbound.qos == Qos::ExactlyOnce);
        let number = session.number.filter(|_| known);
        let batch = self.batch();
        if let Some(number) = number {
            batch.state.push(records::delete(Table::Inbound, records::pid_key(number, ack.pid)));
        }
        batch.answers.push(Answer::PubComp { pid: ack.pid, known });
    }

    pub(super) fn subscribe(&mut self, cx: &Context<'_>, subscribe: Subscribe) {
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        let (mut undo, mut retained) = (Vec::new(), Vec::new());
        for (filter, options) in subscribe.filters {
            match self.subscribe_one(cx, filter, options) {
                Ok((filter, earlier)) => {
                    codes.push(options.qos as u8);
                    let is_new = earlier.is_none();
                    let wanted = options.retain_handling == 0 || (options.retain_handling == 1 && is_new);
                    // Not for a shared subscription (MQTT 5.0 section 4.8.2).
                    if wanted && filter.share().is_none() {
                        retained.push((filter.clone(), options));
                    }
                    undo.push((filter, earlier));
                }
                Err(reason) => codes.extend(reason.code(self.version, Place::SubAck)),
            }
        }
        self.batch().answers.push(Answer::SubAck { pid: subscribe.pid, codes, undo, retained });
    }

    /// Into the hub's index at once, so that what the same read publishes behind it is matched; into the store with the
    /// batch, so that SUBACK stands for something (P1).
    fn subscribe_one(
        &mut self,
        cx: &Context<'_>,
        filter: Text,
        options: SubscribeOptions,
    ) -> Result<(TopicFilter, Option<SubscribeOptions>), Reason> {
        // A copy: it outlives the packet it came in.
        let filter = TopicFilter::parse(Text::from(&*filter)).map_err(|_| Reason::TopicFilterInvalid)?;
        if filter.share().is_some() && !cx.sessions.shared_subscriptions() {
            return Err(Reason::SharedNotSupported);
        }
        let Some(session) = self.session.as_mut() else { return Err(Reason::Unspecified) };
        let known = session.filters.contains_key(filter.as_text());
        if !known && session.filters.len() >= cx.limits.subscriptions_max {
            return Err(Reason::QuotaExceeded);
        }
        cx.hub().subscribe(subscriber(cx, session), &filter, options);
        let earlier = session.filters.insert(filter.as_text().clone(), options);
        if let Some(number) = session.number {
            let key = records::subscription_key(number, filter.as_text());
            let value = StateValue::Bytes(records::encode_subscription(options));
            self.batch().state.push(StateChange::Put { table: Table::Subscription, key, value });
        }
        Ok((filter, earlier))
    }

    pub(super) fn unsubscribe(&mut self, cx: &Context<'_>, unsubscribe: Unsubscribe) {
        let mut codes = Vec::with_capacity(unsubscribe.filters.len());
        let mut undo = Vec::new();
        for filter in unsubscribe.filters {
            let reason = self.unsubscribe_one(cx, filter, &mut undo);
            codes.extend(reason.code(self.version, Place::UnsubAck));
        }
        self.batch().answers.push(Answer::UnsubAck { pid: unsubscribe.pid, codes, undo });
    }

    /// Out of the hub's index at once [MQTT-3.10.4-2], and into it again if the batch cannot be stored: after the next
    /// start the subscription would be there again, so it must not look gone until then.
    fn unsubscribe_one(&mut self, cx: &Context<'_>, filter: Text, undo: &mut Undo) -> Reason {
        let Ok(filter) = TopicFilter::parse(filter) else { return Reason::TopicFilterInvalid };
        let Some(session) = self.session.as_mut() else { return Reason::Unspecified };
        let earlier = session.filters.remove(filter.as_text());
        let existed = session.subscriber.is_some_and(|s| cx.hub().unsubscribe(s, &filter));
        if let Some(number) = session.number {
            let key = records::subscription_key(number, filter.as_text());
            self.batch().state.push(records::delete(Table::Subscription, key));
        }
        undo.extend(earlier.is_some().then_some((filter, earlier)));
        if existed { Reason::Success } else { Reason::NoSubscriptionExisted }
    }

    /// Everything of one read is here: one submission, or the answers at once where nothing has to be durable.
    pub(super) fn read_done(&mut self, cx: &Context<'_>, out: &mut Output) {
        self.close_batch(cx, out);
        self.pump(cx, out);
    }

    pub(super) fn close_batch(&mut self, cx: &Context<'_>, out: &mut Output) {
        if let Some(batch) = self.batch.take() {
            self.finish_batch(cx, *batch, out);
        }
    }

    fn finish_batch(&mut self, cx: &Context<'_>, batch: Batch, out: &mut Output) {
        let Batch { publications, mut state, answers, .. } = batch;
        if publications.is_empty() && state.is_empty() {
            return self.answer(cx, answers, None, out);
        }
        cx.sessions.stats().published(publications.len());
        let refuse_when_full = cx.limits.when_full == super::WhenFull::Reject;
        let mut plain = Vec::new();
        if refuse_when_full {
            if let Some(session) = self.session.as_mut() {
                state.splice(0..0, session.lazy.drain(..));
            }
            plain.extend(state.iter().filter(|change| !refers_to_publication(change)).cloned());
        }
        let submission = Submission { publications, state, refuse_when_full, origin: None };
        self.submit(Purpose::Answers { answers, plain }, submission, out);
    }

    pub(super) fn completed(
        &mut self,
        cx: &Context<'_>,
        token: u64,
        result: Result<Accepted, CommitError>,
        out: &mut Output,
    ) {
        let Some(session) = self.session.as_mut() else { return };
        let Some(index) = session.outstanding.iter().position(|o| o.token == token) else { return };
        let Some(outstanding) = session.outstanding.remove(index) else { return };
        let ours = outstanding.generation == self.generation;
        match (outstanding.purpose, result) {
            (Purpose::Answers { answers, .. } | Purpose::AnswersAfterRefusal(answers), Ok(accepted)) => {
                self.accepted(cx, ours, answers, accepted, out);
            }
            (Purpose::Answers { answers, plain }, Err(error)) => {
                let refuse = ours && self.version.is_v5() && matches!(error, CommitError::Full { .. });
                if refuse && cx.limits.when_full == super::WhenFull::Reject {
                    self.refuse_publications(cx, answers, plain, out);
                } else {
                    self.roll_back(cx, &answers);
                    self.store_failed(cx, ours, &error, out);
                }
            }
            (Purpose::Open, Ok(_)) if ours && self.phase == Phase::Opening => self.open(cx, out),
            (Purpose::Open, Err(error)) if ours && self.phase == Phase::Opening => {
                tracing::warn!(%error, "session could not be made durable, connection refused");
                self.refuse(cx, Reason::ServerUnavailable, out);
            }
            (Purpose::Open, _) => {}
            (Purpose::Prepare(pids), Ok(_)) => self.prepared(cx, &pids, out),
            (Purpose::Prepare(pids), Err(error)) => {
                self.unprepared(&pids);
                self.store_failed(cx, ours, &error, out);
            }
            (Purpose::AnswersAfterRefusal(answers), Err(error)) => {
                self.roll_back(cx, &answers);
                self.store_failed(cx, ours, &error, out);
            }
            // At worst something is sent again that was answered.
            (Purpose::Lazy, Ok(_)) => self.pump(cx, out),
            (Purpose::Lazy, Err(error)) => {
                tracing::debug!(%error, "session changes that nobody waits for were not stored");
            }
        }
    }

    fn accepted(
        &mut self,
        cx: &Context<'_>,
        ours: bool,
        answers: Vec<Answer>,
        mut accepted: Accepted,
        out: &mut Output,
    ) {
        self.last_heard = cx.now; // it could not be heard while nobody read
        let cut = accepted.cut.take();
        // Of a batch that was stored in parts only the publications say whether they are in a part that is stored.
        let through = accepted.positions.len();
        let (answers, lost) = answers.into_iter().partition::<Vec<_>, _>(|answer| match answer {
            Answer::PubAck { event: Some(event), .. } | Answer::PubRec { event: Some(event), .. } => {
                *event < through
            }
            _ => cut.is_none(),
        });
        if ours {
            self.answer(cx, answers, Some(&accepted), out);
        } else {
            self.effects_only(&answers);
        }
        if let Some(error) = cut {
            self.roll_back(cx, &lost);
            self.store_failed(cx, ours, &error, out);
        }
        self.pump(cx, out);
    }

    /// The publications are refused one by one; what else was in the read still has to be durable.
    fn refuse_publications(
        &mut self,
        cx: &Context<'_>,
        mut answers: Vec<Answer>,
        plain: Vec<StateChange>,
        out: &mut Output,
    ) {
        let Some(session) = self.session.as_mut() else { return };
        let mut gone = HashSet::new();
        for answer in &mut answers {
            if let Answer::PubAck { pid, event, refused } | Answer::PubRec { pid, event, refused } = answer
                // Without an event it repeats one: of this batch, or one that is stored.
                && (event.take().is_some_and(|_| gone.insert(*pid)) || gone.contains(pid))
            {
                *refused = Some(Reason::QuotaExceeded);
                session.inbound.remove(pid);
            }
        }
        cx.sessions.stats().refused_full();
        if plain.is_empty() {
            return self.answer(cx, answers, None, out);
        }
        let submission = Submission { state: plain, ..Submission::default() };
        self.submit(Purpose::AnswersAfterRefusal(answers), submission, out);
    }

    /// Nothing of a submission was stored, so nothing of it is answered; the client sends it again.
    fn store_failed(&mut self, cx: &Context<'_>, ours: bool, error: &CommitError, out: &mut Output) {
        tracing::warn!(%error, client_id = ?self.client_id(), "commit failed, nothing of it was acknowledged");
        let reason = match error {
            CommitError::Full { .. } => Reason::QuotaExceeded,
            CommitError::TooLarge { .. } => Reason::PacketTooLarge,
            CommitError::Io(_) => Reason::Unspecified,
            CommitError::Closed => Reason::ServerShuttingDown,
        };
        if ours {
            self.fail(cx, reason, out);
        }
    }

    /// As if the batch had not been received: its packet identifiers are free, its subscriptions as before.
    fn roll_back(&mut self, cx: &Context<'_>, answers: &[Answer]) {
        let Some(session) = self.session.as_mut() else { return };
        // The last first: a filter may be subscribed, and subscribed again, in one read.
        for answer in answers.iter().rev() {
            match answer {
                Answer::PubAck { pid, event: Some(_), .. } | Answer::PubRec { pid, event: Some(_), .. } => {
                    session.inbound.remove(pid);
                }
                Answer::SubAck { undo, .. } | Answer::UnsubAck { undo, .. } => session.undo(cx, undo),
                _ => {}
            }
        }
    }

    /// What a lost connection's batch changed, now that it is durable. The client asks again for the answers.
    fn effects_only(&mut self, answers: &[Answer]) {
        for answer in answers {
            self.effect(answer);
        }
    }

    fn effect(&mut self, answer: &Answer) {
        let Some(session) = self.session.as_mut() else { return };
        match answer {
            Answer::PubComp { pid, known: true } => {
                session.inbound.remove(pid);
            }
            Answer::PubRel { pid, known: true } => {
                if let Some(flight) = session.flights.iter_mut().find(|f| f.pid == *pid) {
                    flight.step = Step::Released;
                    flight.delivery = None;
                }
            }
            _ => {}
        }
    }

    /// All answers of one batch, in the order of what they answer.
    fn answer(
        &mut self,
        cx: &Context<'_>,
        answers: Vec<Answer>,
        accepted: Option<&Accepted>,
        out: &mut Output,
    ) {
        for answer in answers {
            self.effect(&answer);
            self.write_answer(cx, answer, accepted, out);
            if self.phase == Phase::Ended {
                return;
            }
        }
    }

    fn write_answer(
        &mut self,
        cx: &Context<'_>,
        answer: Answer,
        accepted: Option<&Accepted>,
        out: &mut Output,
    ) {
        let version = self.version;
        match answer {
            Answer::PubAck { pid, event, refused } => {
                self.write_ack(
                    AckKind::PubAck,
                    pid,
                    refused.unwrap_or_else(|| matched(accepted, event)),
                    out,
                );
                if self.session.as_ref().is_some_and(|session| session.number.is_some()) {
                    self.unflushed.push(pid);
                }
            }
            Answer::PubRec { pid, event, refused } => {
                self.write_ack(
                    AckKind::PubRec,
                    pid,
                    refused.unwrap_or_else(|| matched(accepted, event)),
                    out,
                );
            }
            Answer::PubComp { pid, known } => self.write_ack(AckKind::PubComp, pid, found(known), out),
            Answer::PubRel { pid, known } => self.write_ack(AckKind::PubRel, pid, found(known), out),
            Answer::SubAck { pid, codes, retained, .. } => {
                encode::suback(&mut out.bytes, version, pid, &codes);
                self.want_retained(retained);
                self.pump(cx, out);
            }
            Answer::UnsubAck { pid, codes, .. } => encode::unsuback(&mut out.bytes, version, pid, &codes),
        }
    }

    fn write_ack(&mut self, kind: AckKind, pid: u16, reason: Reason, out: &mut Output) {
        let place = match kind {
            AckKind::PubAck | AckKind::PubRec => Place::PubAck,
            AckKind::PubRel | AckKind::PubComp => Place::PubComp,
        };
        if let Some(code) = reason.code(self.version, place) {
            encode::ack(&mut out.bytes, kind, self.version, pid, code);
        }
    }

    /// PUBACKs are in the socket: their packet identifiers are new from here on [MQTT-4.3.2-5].
    pub(super) fn flushed(&mut self) {
        if self.unflushed.is_empty() {
            return;
        }
        let pids = std::mem::take(&mut self.unflushed);
        let Some(session) = self.session.as_mut() else { return };
        let Some(number) = session.number else { return };
        for pid in pids {
            let Some(inbound) = session.inbound.get(&pid).filter(|i| i.qos == Qos::AtLeastOnce) else {
                continue;
            };
            if inbound.durable {
                session.lazy.push(records::delete(Table::Inbound, records::pid_key(number, pid)));
            }
            session.inbound.remove(&pid);
        }
    }

    pub(super) fn bad(&mut self, cx: &Context<'_>, error: &DecodeError, out: &mut Output) {
        tracing::debug!(%error, client_id = ?self.client_id(), "packet refused");
        cx.sessions.stats().bad_packet();
        if let (Phase::AwaitConnect, DecodeError::UnsupportedVersion { wants_v5: true, .. }) =
            (self.phase, error)
        {
            self.version = crate::codec::Version::V5;
        }
        let answerable = matches!(error, DecodeError::UnsupportedVersion { .. } | DecodeError::ClientIdEmpty);
        if self.phase == Phase::AwaitConnect && answerable {
            return self.refuse(cx, error.reason(), out);
        }
        self.fail(cx, error.reason(), out);
    }
}

impl Session {
    fn undo(&mut self, cx: &Context<'_>, undo: &Undo) {
        let Some(subscriber) = self.subscriber else { return };
        for (filter, earlier) in undo.iter().rev() {
            if let Some(options) = earlier {
                cx.hub().subscribe(subscriber, filter, *options);
                self.filters.insert(Text::from(&**filter.as_text()), *options);
            } else {
                cx.hub().unsubscribe(subscriber, filter);
                self.filters.remove(filter.as_text());
            }
        }
    }

    /// The connection is gone; its QoS 1 messages may have been answered or not.
    pub(super) fn inbound_is_unsure(&mut self) {
        self.inbound.values_mut().for_each(|inbound| inbound.unsure = true);
    }

    /// The client is back, and sends again first what it has no answer for [MQTT-4.4.0-1].
    pub(super) fn expect_resends(&mut self) {
        self.resends_due = !self.inbound.is_empty();
    }

    /// Something new: what the client has not sent again by now it has an answer for, so its identifier is free. To take
    /// a later message under it for the earlier one would be a silent loss (P2).
    fn resends_are_over(&mut self) {
        if !std::mem::take(&mut self.resends_due) {
            return;
        }
        let (number, lazy) = (self.number, &mut self.lazy);
        self.inbound.retain(|pid, inbound| {
            let answered = inbound.unsure && inbound.qos == Qos::AtLeastOnce;
            let row = number.filter(|_| answered && inbound.durable);
            lazy.extend(row.map(|number| records::delete(Table::Inbound, records::pid_key(number, *pid))));
            !answered
        });
    }
}

/// The hub's number for this session; one that is not persistent gets it with its first subscription.
fn subscriber(cx: &Context<'_>, session: &mut Session) -> SubscriberId {
    *session.subscriber.get_or_insert_with(|| {
        let outlet: Arc<dyn Outlet> = session.link.clone();
        cx.hub().attach(session.number, Some(outlet))
    })
}

fn refers_to_publication(change: &StateChange) -> bool {
    let by_index = |value: &StateValue| !matches!(value, StateValue::Bytes(_));
    matches!(change, StateChange::Put { value, .. } if by_index(value))
}

fn hash(publication: &Publication) -> u64 {
    records::content_hash(publication.event.topic.as_bytes(), &publication.event.payload)
}

fn matched(accepted: Option<&Accepted>, event: Option<usize>) -> Reason {
    match event.and_then(|event| accepted?.matched.get(event)) {
        Some(0) => Reason::NoMatchingSubscribers,
        _ => Reason::Success,
    }
}

fn found(known: bool) -> Reason {
    if known { Reason::Success } else { Reason::PacketIdNotFound }
}

fn event(session: &Session, publish: Publish, topic: Text, is_v5: bool, wall: Timestamp) -> CoreEvent {
    mapping::admit(Admission {
        via: if is_v5 { Via::Mqtt5 } else { Via::Mqtt3 },
        qos: publish.qos,
        retain: publish.retain,
        topic,
        payload: publish.payload,
        properties: publish.properties,
        expiry: publish.expiry_secs.map(|secs| Duration::from_secs(secs.into())),
        source: &session.source,
        received: wall,
    })
}
