//! What a client publishes: QoS 0, 1 and 2, topic aliases, resends.

use super::answers::Answer;
use super::records::{self, Inbound};
use super::{Context, Machine, Output, Phase, Session};
use crate::codec::{Ack, DecodeError, Publish};
use crate::reason::Reason;
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event as CoreEvent, Qos, Timestamp, Via};
use eventmesh_edge_core::mapping::{self, Admission};
use eventmesh_edge_core::ports::hub::Publication;
use eventmesh_edge_core::ports::store::{SessionNo, Table};
use eventmesh_edge_core::topic;
use std::time::Duration;

impl Machine {
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
        if topic::is_nodes_own(&topic) {
            return self.not_allowed(cx, pid, qos);
        }
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

    /// Nobody but the node publishes to its own topics (section 4.7.2). A 3.x client cannot be told: its message is
    /// acknowledged and dropped [3.1.1 MQTT-3.3.5-2].
    fn not_allowed(&mut self, cx: &Context<'_>, pid: u16, qos: Qos) {
        cx.sessions.stats().not_allowed();
        let refused = self.version.is_v5().then_some(Reason::NotAuthorized);
        let answer = match qos {
            Qos::AtMostOnce => return,
            Qos::AtLeastOnce => Answer::PubAck { pid, event: None, refused },
            Qos::ExactlyOnce => Answer::PubRec { pid, event: None, refused },
        };
        self.batch().answers.push(answer);
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

fn hash(publication: &Publication) -> u64 {
    records::content_hash(publication.event.topic.as_bytes(), &publication.event.payload)
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
