//! The model: what was said and answered, and what may and must follow from it.
//!
//! Nothing here knows how the node works. Between a request and its answer, and after a power cut that came before the
//! answer, a fact *may* hold; after the answer it *must*.

use crate::violation;
use eventmesh_edge_conformance::{Published, property};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Counts what happens.
pub(crate) type Step = u64;
/// Index of a message; its payload says it.
pub(crate) type MsgNo = usize;
/// Index of a client.
pub(crate) type ClientNo = usize;

/// What is wrong, in words; the seed replays it.
pub(crate) type Check = Result<(), String>;

/// A message that was published, or a will that may be.
#[derive(Clone, Debug)]
pub(crate) struct Msg {
    pub(crate) publisher: ClientNo,
    pub(crate) topic: String,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    /// Deletes a retained message.
    pub(crate) empty: bool,
    pub(crate) sent: Step,
    /// PUBACK or PUBREC, successful.
    pub(crate) answered: Option<Step>,
    /// Its publisher has sent it more than once.
    pub(crate) resent: bool,
    /// From when the node has it, which is not after its answer.
    pub(crate) expires: Option<Duration>,
    pub(crate) answered_at: Option<Duration>,
}

/// A subscription, from SUBSCRIBE to UNSUBACK.
#[derive(Clone, Debug)]
pub(crate) struct Sub {
    pub(crate) client: ClientNo,
    pub(crate) filter: String,
    pub(crate) qos: u8,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) identifier: u32,
    pub(crate) sent: Step,
    pub(crate) answered: Option<Step>,
    /// Something was sent that ends it.
    pub(crate) ending: Option<Step>,
    pub(crate) ended: Option<Step>,
}

impl Sub {
    pub(crate) fn group(&self) -> Option<(&str, &str)> {
        self.filter.strip_prefix("$share/")?.split_once('/')
    }

    fn matches(&self, topic: &str) -> bool {
        matches(self.group().map_or(&*self.filter, |(_, filter)| filter), topic)
    }
}

/// MQTT 5.0 section 4.7, as short as it can be said.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(level), Some(name)) if level == name => {}
            _ => return false,
        }
    }
}

/// What will come of a will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its connection stands, or may; `accepted`: CONNACK was received.
    Armed { accepted: bool },
    /// Its connection is lost: due between these times, unless its client comes back.
    Owed { min: Duration, max: Duration },
    /// It has to be published.
    Due,
    /// DISCONNECT was sent.
    TakingBack,
    /// It must never be published.
    Dead,
    /// Either is right.
    Open,
}

/// A will.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WillFact {
    pub(crate) msg: MsgNo,
    /// Will Delay, or the life of its session if that is shorter.
    pub(crate) delay: Duration,
    pub(crate) fate: Fate,
}

/// All facts.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) step: Step,
    pub(crate) now: Duration,
    pub(crate) msgs: Vec<Msg>,
    pub(crate) subs: Vec<Sub>,
    pub(crate) wills: Vec<WillFact>,
    /// Who has a session that never ends.
    pub(crate) durable: Vec<bool>,
    /// Application messages received, by client: how often.
    received: Vec<BTreeMap<MsgNo, u32>>,
    /// Newest message by receiver, publisher, topic and QoS.
    newest: BTreeMap<(ClientNo, ClientNo, String, u8), MsgNo>,
}

impl Facts {
    pub(crate) fn new(durable: Vec<bool>) -> Facts {
        let received = durable.iter().map(|_| BTreeMap::new()).collect();
        Facts { durable, received, ..Facts::default() }
    }

    pub(crate) fn tick(&mut self) -> Step {
        self.step += 1;
        self.step
    }

    pub(crate) fn answered(&mut self, no: MsgNo, step: Step) {
        self.msgs[no].answered = Some(step);
        self.msgs[no].answered_at = Some(self.now);
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.iter().flat_map(|by| by.values()).map(|n| u64::from(*n)).sum()
    }

    fn may(&self, msg: &Msg, client: ClientNo) -> impl Iterator<Item = &Sub> {
        let (from, to) = (msg.sent, msg.answered.unwrap_or(Step::MAX));
        self.matching(msg, client)
            .filter(move |sub| sub.sent <= to && sub.ended.is_none_or(|ended| ended >= from))
    }

    fn must(&self, msg: &Msg, client: ClientNo) -> impl Iterator<Item = &Sub> {
        let (from, to) = (msg.sent, msg.answered);
        self.matching(msg, client).filter(move |sub| {
            let until = |to: Step| sub.ending.is_none_or(|ending| ending > to);
            sub.answered.is_some_and(|answered| answered < from) && to.is_some_and(until)
        })
    }

    fn matching(&self, msg: &Msg, client: ClientNo) -> impl Iterator<Item = &Sub> {
        let (topic, own) = (msg.topic.clone(), msg.publisher == client);
        self.subs
            .iter()
            .filter(move |sub| sub.client == client && sub.matches(&topic) && !(own && sub.no_local))
    }

    /// An application message was received, for the first time or as a duplicate that QoS allows.
    pub(crate) fn deliver(&mut self, client: ClientNo, published: &Published, now: Duration) -> Check {
        let Some(no) = published.payload.strip_prefix('m').and_then(|no| no.parse::<MsgNo>().ok()) else {
            return Ok(()); // an empty one, which deletes a retained message
        };
        let Some(msg) = self.msgs.get(no).cloned() else {
            return violation(format!("client {client} received {no}, which was never sent"));
        };
        if msg.topic != published.topic {
            return violation(format!(
                "client {client} received {no} of {} as {}",
                msg.topic, published.topic
            ));
        }
        let deadline = msg.expires.zip(msg.answered_at).map(|(expires, answered)| answered + expires);
        // One whose delivery had begun comes again all the same [MQTT-4.4.0-1].
        if deadline.is_some_and(|deadline| now > deadline) && !published.dup {
            return violation(format!("client {client} received {no} after it expired [MQTT-3.3.2-5]"));
        }
        self.will_is_due(client, no, now)?;
        if published.retain && self.retained(client, no, &msg, published).is_ok() {
            self.count(client, no);
            return Ok(());
        }
        self.options(client, no, &msg, published)?;
        let times = self.count(client, no);
        if times > 1 && msg.qos == 2 && published.qos == 2 && !msg.retain {
            return violation(format!("client {client} received {no} of QoS 2 {times} times"));
        }
        self.order(client, no, &msg, published.qos, times)
    }

    fn count(&mut self, client: ClientNo, no: MsgNo) -> u32 {
        let times = self.received[client].entry(no).or_default();
        *times += 1;
        *times
    }

    /// QoS, RETAIN and Subscription Identifiers are those of subscriptions that there may be.
    fn options(&self, client: ClientNo, no: MsgNo, msg: &Msg, published: &Published) -> Check {
        let may: Vec<&Sub> = self.may(msg, client).collect();
        if may.is_empty() {
            return violation(format!(
                "client {client} received {no} ({}), it has no such subscription",
                msg.topic
            ));
        }
        if !may.iter().any(|sub| sub.qos.min(msg.qos) == published.qos) {
            return violation(format!(
                "client {client} received {no} with QoS {} [MQTT-3.8.4-8]",
                published.qos
            ));
        }
        if published.retain && !(msg.retain && may.iter().any(|sub| sub.retain_as_published)) {
            return violation(format!("client {client} received {no} as retained"));
        }
        let ids: BTreeSet<u32> = identifiers(published).collect();
        let known = |id: &u32| may.iter().any(|sub| sub.identifier == *id);
        if let Some(id) = ids.iter().find(|id| !known(id)) {
            return violation(format!("client {client} received {no} with Subscription Identifier {id}"));
        }
        let must = self.must(msg, client).filter(|sub| sub.group().is_none() && sub.identifier > 0);
        if let Some(sub) = must.into_iter().find(|sub| !ids.contains(&sub.identifier)) {
            let id = sub.identifier;
            return violation(format!(
                "client {client} received {no} without its identifier {id} [MQTT-3.3.4-3]"
            ));
        }
        Ok(())
    }

    /// First deliveries come in the order of publication [MQTT-4.6.0-6].
    fn order(&mut self, client: ClientNo, no: MsgNo, msg: &Msg, qos: u8, times: u32) -> Check {
        let is_will = self.wills.iter().any(|will| will.msg == no);
        if qos == 0 || times > 1 || is_will {
            return Ok(());
        }
        let newest = self.newest.entry((client, msg.publisher, msg.topic.clone(), qos)).or_default();
        if no < *newest {
            return violation(format!("client {client} received {no} after {newest}"));
        }
        *newest = no;
        Ok(())
    }

    /// A retained message at SUBSCRIBE is the last one that was answered before, or a later one.
    fn retained(&self, client: ClientNo, no: MsgNo, msg: &Msg, published: &Published) -> Check {
        let mut subs = self.subs.iter().filter(|sub| sub.client == client && sub.matches(&msg.topic));
        let Some(asked) = subs.clone().map(|sub| sub.sent).max() else {
            return violation(format!("client {client} received the retained {no} without a subscription"));
        };
        if !subs.any(|sub| sub.qos.min(msg.qos) == published.qos) {
            return violation(format!(
                "client {client} received the retained {no} with QoS {}",
                published.qos
            ));
        }
        self.is_current(client, &msg.topic, Some(no), asked)
    }

    /// Whether `found` is what a topic may hold for somebody who asked then; each topic has one publisher.
    pub(crate) fn is_current(
        &self,
        client: ClientNo,
        topic: &str,
        found: Option<MsgNo>,
        asked: Step,
    ) -> Check {
        let on_topic = || self.msgs.iter().enumerate().filter(|(_, msg)| msg.retain && msg.topic == topic);
        let before = on_topic().filter(|(_, msg)| msg.answered.is_some_and(|answered| answered < asked));
        let last = before.map(|(no, _)| no).max();
        let candidates: Vec<MsgNo> =
            on_topic().map(|(no, _)| no).filter(|no| last.is_none_or(|last| *no >= last)).collect();
        let right = match found {
            Some(found) => candidates.contains(&found),
            None => last.is_none() || candidates.iter().any(|no| self.msgs[*no].empty),
        };
        if right {
            return Ok(());
        }
        violation(format!("client {client} found {found:?} retained at {topic}, not one of {candidates:?}"))
    }

    fn will_is_due(&self, client: ClientNo, no: MsgNo, now: Duration) -> Check {
        let Some(will) = self.wills.iter().find(|will| will.msg == no) else { return Ok(()) };
        let early = match will.fate {
            Fate::Armed { accepted } => accepted,
            Fate::Owed { min, .. } => now < min,
            Fate::Dead => true,
            _ => false,
        };
        if early {
            return violation(format!("client {client} received the will {no} at {now:?}: {:?}", will.fate));
        }
        Ok(())
    }

    /// Everything has come to rest: who has not received what must have been delivered?
    pub(crate) fn everything_arrived(&self, watcher: ClientNo) -> Check {
        for (no, msg) in self.msgs.iter().enumerate() {
            if msg.answered.is_none() || msg.expires.is_some() || msg.qos == 0 || msg.empty {
                continue;
            }
            for client in (0..self.durable.len()).filter(|client| self.durable[*client]) {
                let must = self.must(msg, client).filter(|sub| sub.group().is_none());
                if must.map(|sub| sub.qos).max().unwrap_or(0) > 0 && !self.has(client, no) {
                    return violation(format!("client {client} never received {no} ({})", msg.topic));
                }
            }
            self.one_of_each_group(no, msg)?;
        }
        for will in &self.wills {
            let published = self.has(watcher, will.msg);
            if published && will.fate == Fate::Dead {
                return violation(format!("the will {} was published", will.msg));
            }
            if !published && will.fate == Fate::Due {
                return violation(format!("the will {} was not published", will.msg));
            }
        }
        Ok(())
    }

    fn has(&self, client: ClientNo, no: MsgNo) -> bool {
        self.received[client].contains_key(&no)
    }

    fn one_of_each_group(&self, no: MsgNo, msg: &Msg) -> Check {
        let clients = || (0..self.durable.len()).filter(|client| self.durable[*client]);
        let in_group = |sub: &&Sub| sub.group().is_some();
        let receivers: Vec<ClientNo> = clients()
            .filter(|client| self.has(*client, no) && self.may(msg, *client).any(|sub| in_group(&sub)))
            .collect();
        if receivers.len() > 1 && !msg.resent {
            return violation(format!("{no} ({}) went to {receivers:?} of one group", msg.topic));
        }
        let members =
            clients().filter(|client| self.must(msg, *client).any(|sub| in_group(&sub) && sub.qos > 0));
        let somebody = members.count() > 0;
        let all_reliable = self.subs.iter().filter(in_group).all(|sub| sub.qos > 0);
        if somebody && all_reliable && receivers.is_empty() {
            return violation(format!("{no} ({}) went to nobody of its group", msg.topic));
        }
        Ok(())
    }
}

fn identifiers(published: &Published) -> impl Iterator<Item = u32> {
    published.properties.iter().filter_map(|(id, value)| match value {
        eventmesh_edge_conformance::packet::Value::Number(n) if *id == property::SUBSCRIPTION_ID => Some(*n),
        _ => None,
    })
}
