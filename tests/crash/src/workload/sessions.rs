//! Sessions: QoS 2 both ways, and what begins and ends with them.

use super::life::Life;
use crate::marks::{Planned, PlannedChange};
use std::collections::BTreeSet;

impl Life {
    /// One step of a session: what an MQTT client makes the store commit.
    pub(super) fn session(&mut self) -> Planned {
        let session = 1 + self.rng.below(4);
        let mut planned = self.next(true);
        match self.rng.below(12) {
            0..=4 => self.publish_received(session, &mut planned),
            5 | 6 => planned.state.extend(self.publish_released(session)),
            7 | 8 => self.delivery_begun(session, &mut planned),
            9 => self.delivery_ended(&mut planned),
            10 => planned.state.extend([
                PlannedChange::Put(1, format!("client-{session}"), format!("{} clean=0", self.number)),
                PlannedChange::Put(
                    2,
                    format!("s{session}/{}", self.rng.below(6)),
                    format!("qos={}", self.number % 3),
                ),
            ]),
            _ if self.rng.chance(300) => self.session_ends(session, &mut planned),
            _ => {}
        }
        planned
    }

    /// PUBLISH with QoS 2: the event and its packet id, in one commit [MQTT-4.3.3-2].
    fn publish_received(&mut self, session: u64, planned: &mut Planned) {
        let mut event = self.event();
        event.mailboxes = self.claims();
        planned.events.push(event);
        let id = format!("s{session}-{}", self.rng.below(30));
        if self.inbound.insert(id.clone()) {
            planned.state.push(PlannedChange::PutPosition(3, id, 0));
        }
    }

    /// PUBREL: the packet id is free again, durably before PUBCOMP.
    fn publish_released(&mut self, session: u64) -> Option<PlannedChange> {
        let prefix = format!("s{session}-");
        let id = self.inbound.iter().find(|id| id.starts_with(&prefix)).cloned()?;
        self.inbound.remove(&id);
        Some(PlannedChange::Delete(3, id))
    }

    /// PUBREC for a delivery: it must not be sent as a PUBLISH again [MQTT-4.3.3-1].
    fn delivery_begun(&mut self, session: u64, planned: &mut Planned) {
        let under_way: BTreeSet<u64> = self.outbound.iter().map(|(_, _, position)| *position).collect();
        let waiting = self.mailboxes.get(&session).into_iter().flatten();
        let Some(position) = waiting.copied().find(|position| !under_way.contains(position)) else { return };
        let id = format!("s{session}-{}", self.number);
        planned.state.push(PlannedChange::Put(4, id.clone(), position.to_string()));
        self.outbound.push((session, id, position));
    }

    /// PUBCOMP: the claim ends.
    fn delivery_ended(&mut self, planned: &mut Planned) {
        if self.outbound.is_empty() {
            return;
        }
        let at = self.rng.index(self.outbound.len());
        let (session, id, position) = self.outbound.swap_remove(at);
        planned.state.push(PlannedChange::MailboxRemove(session, position));
        planned.state.push(PlannedChange::Delete(4, id));
        if let Some(waiting) = self.mailboxes.get_mut(&session) {
            waiting.retain(|waits| *waits != position);
        }
    }

    /// Its expiry, or a clean start: nothing of it stays.
    fn session_ends(&mut self, session: u64, planned: &mut Planned) {
        planned.state.push(PlannedChange::MailboxClear(session));
        planned.state.push(PlannedChange::Delete(1, format!("client-{session}")));
        planned.state.extend((0..6).map(|filter| PlannedChange::Delete(2, format!("s{session}/{filter}"))));
        let prefix = format!("s{session}-");
        let (own, others) =
            std::mem::take(&mut self.inbound).into_iter().partition(|id| id.starts_with(&prefix));
        self.inbound = others;
        let own: BTreeSet<String> = own;
        planned.state.extend(own.into_iter().map(|id| PlannedChange::Delete(3, id)));
        let (own, others) =
            std::mem::take(&mut self.outbound).into_iter().partition(|(of, _, _)| *of == session);
        self.outbound = others;
        let own: Vec<(u64, String, u64)> = own;
        planned.state.extend(own.into_iter().map(|(_, id, _)| PlannedChange::Delete(4, id)));
        self.mailboxes.remove(&session);
    }
}
