//! The answers to what a client sent, written once what they stand for is durable (P1).

use super::records;
use super::subscribe::Undo;
use super::{Context, FAILURE, Machine, Output, Phase, Step};
use crate::codec::encode::{self, AckKind, Words};
use crate::reason::{Place, Reason};
use eventmesh_edge_core::event::Qos;
use eventmesh_edge_core::ports::hub::{Accepted, SubscribeOptions};
use eventmesh_edge_core::ports::store::Table;
use eventmesh_edge_core::topic::TopicFilter;

/// An answer that waits for its submission; its effect on the session waits with it.
#[derive(Debug)]
pub(super) enum Answer {
    /// QoS 1. `event` is the index of the publication, `None` for a resend of one that is stored.
    PubAck {
        pid: u16,
        event: Option<usize>,
        refused: Option<Reason>,
    },
    /// QoS 2, likewise.
    PubRec {
        pid: u16,
        event: Option<usize>,
        refused: Option<Reason>,
    },
    /// QoS 2, released.
    PubComp {
        pid: u16,
        known: bool,
    },
    /// Answer to PUBREC for one of ours.
    PubRel {
        pid: u16,
        known: bool,
    },
    SubAck {
        pid: u16,
        codes: Vec<u8>,
        undo: Undo,
        retained: Vec<(TopicFilter, SubscribeOptions)>,
    },
    UnsubAck {
        pid: u16,
        codes: Vec<u8>,
        undo: Undo,
    },
}

impl Machine {
    /// What a lost connection's batch changed, now that it is durable. The client asks again for the answers.
    pub(super) fn effects_only(&mut self, answers: &[Answer]) {
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
    pub(super) fn answer(
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
            Answer::SubAck { pid, codes, retained, undo } => {
                encode::suback(&mut out.bytes, version, pid, &codes);
                self.tell_subscribed(cx, &codes, &undo, out);
                self.want_retained(retained);
                self.pump(cx, out);
            }
            Answer::UnsubAck { pid, codes, undo } => {
                encode::unsuback(&mut out.bytes, version, pid, &codes);
                self.tell_unsubscribed(cx, &undo, out);
            }
        }
    }

    fn write_ack(&mut self, kind: AckKind, pid: u16, reason: Reason, out: &mut Output) {
        let place = match kind {
            AckKind::PubAck | AckKind::PubRec => Place::PubAck,
            AckKind::PubRel | AckKind::PubComp => Place::PubComp,
        };
        let Some(code) = reason.code(self.version, place) else { return };
        if code < FAILURE || !self.wants_problem_info {
            return encode::ack(&mut out.bytes, kind, self.version, pid, code);
        }
        let max_bytes = self.client_packet_max as usize;
        let words = Words { reason: Some(reason.as_str()), server: None, max_bytes };
        encode::ack_refused(&mut out.bytes, kind, pid, code, words);
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
