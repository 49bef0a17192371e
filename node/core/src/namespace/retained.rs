//! The last retained message of each topic (MQTT 5.0 section 3.3.1.3), within a budget of bytes (P5).
//!
//! A retained message takes effect in two steps around the commit that makes it durable: [`Retained::admit`] when it is
//! submitted, which reserves its bytes, and [`Retained::settle`] when the commit has come back. Between the two, lookups
//! find the old value.
//!
//! Policy at the budget: a new value is refused and counted. If the topic has an older value, that one goes: no value
//! is better than one that is known to be wrong.
//!
//! Events are kept as copies of exactly their own size, not as slices of the read buffer they came in.

use crate::Text;
use crate::event::{Event, Sequence, Timestamp, record};
use crate::topic::TopicFilter;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// What a retained publication does to its topic; the same to the table on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retain {
    /// It is the value now.
    Put,
    /// There is no value now: the payload is empty [MQTT-3.3.1-6], or there was no room.
    Delete,
}

/// Figures for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetainedStats {
    /// Topics with a value.
    pub topics: usize,
    /// What they take of the budget, reservations included.
    pub bytes: usize,
    /// Values refused for want of room since the start.
    pub refused: u64,
}

/// The index.
#[derive(Debug)]
pub struct Retained {
    slots: BTreeMap<Text, Slot>,
    max_bytes: usize,
    stats: RetainedStats,
}

#[derive(Debug, Default)]
struct Slot {
    event: Option<Arc<Event>>,
    /// Admitted and not settled.
    pending: u32,
}

/// Beside text and payload: the map's node, the slot, the event.
const OVERHEAD_BYTES: usize = 320;

impl Retained {
    /// An empty index.
    #[must_use]
    pub fn new(max_bytes: usize) -> Retained {
        Retained { slots: BTreeMap::new(), max_bytes, stats: RetainedStats::default() }
    }

    /// Decides what a publication with RETAIN does, and reserves what it needs. To be followed by
    /// [`Retained::settle`] with the same event.
    pub fn admit(&mut self, event: &Event) -> Retain {
        let key: &str = &event.topic;
        let change = if event.payload.is_empty() {
            Retain::Delete
        } else if self.has_room_for(event) {
            self.stats.bytes += weight(event);
            Retain::Put
        } else {
            self.stats.refused += 1;
            Retain::Delete
        };
        match self.slots.get_mut(key) {
            Some(slot) => slot.pending += 1,
            None => {
                self.slots.insert(own(key), Slot { event: None, pending: 1 });
            }
        }
        change
    }

    /// The commit came back: with `durable` the change takes effect, otherwise the old value stays.
    pub fn settle(&mut self, event: &Event, change: Retain, durable: bool) {
        let key: &str = &event.topic;
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.pending = slot.pending.saturating_sub(1);
        let value = match change {
            Retain::Put if durable => Some(Arc::new(compact(event))),
            Retain::Put => {
                self.stats.bytes -= weight(event);
                None
            }
            Retain::Delete => None,
        };
        if durable && let Some(old) = std::mem::replace(&mut slot.event, value) {
            self.stats.bytes -= weight(&old);
        }
        if slot.event.is_none() && slot.pending == 0 {
            self.slots.remove(key);
        }
    }

    /// Puts back what the table on disk holds. False if there is no room.
    pub fn restore(&mut self, event: &Event) -> bool {
        let fits = self.stats.bytes + weight(event) <= self.max_bytes;
        if fits {
            self.stats.bytes += weight(event);
            self.slots.entry(own(&event.topic)).or_default().event = Some(Arc::new(compact(event)));
        } else {
            self.stats.refused += 1;
        }
        fits
    }

    /// Appends every value whose topic matches, in order of topic. What has expired is left out [MQTT-3.3.2-5].
    pub fn find(&self, filter: &TopicFilter, now: Timestamp, out: &mut Vec<Arc<Event>>) {
        let text = filter.filter();
        let Some(wildcard) = text.find(['+', '#']) else {
            out.extend(self.slots.get(text).and_then(|slot| slot.live(now)).cloned());
            return;
        };
        let prefix = text.get(..wildcard).unwrap_or_default();
        // `sport/#` matches `sport` too (MQTT 5.0 section 4.7.1.2).
        let prefix = if text.ends_with("/#") { prefix.trim_end_matches('/') } else { prefix };
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let candidates = self.slots.range::<str, _>(from).take_while(|(topic, _)| topic.starts_with(prefix));
        let matching = candidates.filter(|(topic, _)| filter.matches(topic));
        out.extend(matching.filter_map(|(_, slot)| slot.live(now)).cloned());
    }

    /// Forgets up to `max` values that have expired and returns their topics, to be deleted on disk. A topic whose next
    /// value is on its way is left alone: that one replaces it.
    pub fn take_expired(&mut self, now: Timestamp, max: usize) -> Vec<Text> {
        let is_due = |slot: &Slot| slot.pending == 0 && slot.event.is_some() && slot.live(now).is_none();
        let due = self.slots.iter().filter(|(_, slot)| is_due(slot));
        let topics: Vec<Text> = due.take(max).map(|(topic, _)| topic.clone()).collect();
        for topic in &topics {
            if let Some(event) = self.slots.remove(topic).and_then(|slot| slot.event) {
                self.stats.bytes -= weight(&event);
            }
        }
        topics
    }

    /// Figures.
    #[must_use]
    pub fn stats(&self) -> RetainedStats {
        let topics = self.slots.values().filter(|slot| slot.event.is_some()).count();
        RetainedStats { topics, ..self.stats }
    }

    /// Old and new value stand side by side until the commit; what counts is what is left then.
    fn has_room_for(&self, event: &Event) -> bool {
        let key: &str = &event.topic;
        let replaced = self.slots.get(key).and_then(|slot| slot.event.as_deref()).map_or(0, weight);
        (self.stats.bytes + weight(event)).saturating_sub(replaced) <= self.max_bytes
    }
}

impl Slot {
    /// The value, unless it has expired. A clock that is not set yet expires nothing.
    fn live(&self, now: Timestamp) -> Option<&Arc<Event>> {
        let expired = |event: &Event| event.expires.is_some_and(|at| now.is_plausible() && at <= now);
        self.event.as_ref().filter(|event| !expired(event))
    }
}

/// What an event takes of the budget.
fn weight(event: &Event) -> usize {
    let properties = event.properties.as_deref().map_or(0, |p| {
        let text = |t: &Option<Text>| t.as_ref().map_or(0, |t| t.len());
        let user: usize = p.user.iter().map(|(k, v)| k.len() + v.len() + 64).sum();
        text(&p.content_type)
            + text(&p.response_topic)
            + user
            + p.correlation_data.as_ref().map_or(0, Bytes::len)
            + 128
    });
    let id = event.id.as_ref().map_or(0, |id| id.len());
    // The topic counts twice: it is the key as well.
    2 * event.topic.len() + event.source.len() + id + event.payload.len() + properties + OVERHEAD_BYTES
}

/// The same event in one allocation of its own: written as a record and read back as slices of it.
fn compact(event: &Event) -> Event {
    let mut out = Vec::new();
    record::encode(event, Sequence::default(), &mut out);
    let record = Bytes::from(out.into_boxed_slice());
    record::decode(&record).map_or_else(|_| event.clone(), |(event, _)| event)
}

fn own(text: &str) -> Text {
    Text::from(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Qos, Via};
    use proptest::prelude::*;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_790_000_000_000);

    fn event(topic: &str, payload: &str) -> Event {
        Event {
            via: Via::Mqtt5,
            qos: Qos::AtLeastOnce,
            retain: true,
            source: Text::from_static("mqtt://plant-7/s"),
            id: None,
            time: None,
            received: NOW,
            expires: None,
            topic: own(topic),
            payload: Bytes::from(payload.to_owned()),
            properties: None,
        }
    }

    fn publish(retained: &mut Retained, event: &Event) -> Retain {
        let change = retained.admit(event);
        retained.settle(event, change, true);
        change
    }

    fn found(retained: &Retained, filter: &str) -> Vec<(String, String)> {
        let mut out = Vec::new();
        retained.find(&TopicFilter::parse(filter.to_owned()).unwrap(), NOW, &mut out);
        let payload = |e: &Event| String::from_utf8(e.payload.to_vec()).unwrap();
        out.iter().map(|e| (e.topic.to_string(), payload(e))).collect()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(t, p)| ((*t).to_owned(), (*p).to_owned())).collect()
    }

    #[test]
    fn the_last_value_of_a_topic_is_kept_and_an_empty_payload_removes_it() {
        let mut retained = Retained::new(1 << 20);
        publish(&mut retained, &event("a/b", "1"));
        publish(&mut retained, &event("a/b", "2"));
        publish(&mut retained, &event("a", "root"));
        publish(&mut retained, &event("ab", "other"));
        assert_eq!(found(&retained, "a/#"), pairs(&[("a", "root"), ("a/b", "2")]));
        assert_eq!(publish(&mut retained, &event("a/b", "")), Retain::Delete);
        assert_eq!(found(&retained, "#"), pairs(&[("a", "root"), ("ab", "other")]));
        publish(&mut retained, &event("a", ""));
        publish(&mut retained, &event("ab", ""));
        assert_eq!(retained.stats(), RetainedStats::default());
    }

    #[test]
    fn nothing_is_seen_before_the_commit_and_a_failed_one_changes_nothing() {
        let mut retained = Retained::new(1 << 20);
        publish(&mut retained, &event("a", "old"));
        let before = retained.stats();
        let (new, empty) = (event("a", "new"), event("a", ""));
        let (put, delete) = (retained.admit(&new), retained.admit(&empty));
        assert_eq!(found(&retained, "a"), pairs(&[("a", "old")]));
        retained.settle(&new, put, false);
        retained.settle(&empty, delete, false);
        assert_eq!(found(&retained, "a"), pairs(&[("a", "old")]));
        assert_eq!(retained.stats(), before);
    }

    #[test]
    fn at_the_budget_new_values_are_refused_and_counted() {
        let one = weight(&event("a", "0123456789"));
        let mut retained = Retained::new(2 * one);
        assert_eq!(publish(&mut retained, &event("a", "0123456789")), Retain::Put);
        assert_eq!(publish(&mut retained, &event("b", "0123456789")), Retain::Put);
        assert_eq!(publish(&mut retained, &event("c", "0123456789")), Retain::Delete);
        assert_eq!(publish(&mut retained, &event("a", "9876543210")), Retain::Put, "replacing needs no room");
        assert_eq!(found(&retained, "#"), pairs(&[("a", "9876543210"), ("b", "0123456789")]));
        // Too large for what is left: the value that is known to be wrong goes.
        assert_eq!(publish(&mut retained, &event("a", "much too long a value")), Retain::Delete);
        assert_eq!(found(&retained, "#"), pairs(&[("b", "0123456789")]));
        assert_eq!(retained.stats(), RetainedStats { topics: 1, bytes: one, refused: 2 });
    }

    #[test]
    fn reservations_count_against_the_budget() {
        let mut retained = Retained::new(weight(&event("a", "1")));
        let (first, second) = (event("a", "1"), event("b", "2"));
        let change = retained.admit(&first);
        assert_eq!(publish(&mut retained, &second), Retain::Delete);
        retained.settle(&first, change, true);
        assert_eq!(found(&retained, "#"), pairs(&[("a", "1")]));
    }

    #[test]
    fn what_has_expired_is_not_found_and_its_topic_is_handed_out_once() {
        let mut retained = Retained::new(1 << 20);
        let short = Event { expires: Some(NOW), ..event("short", "x") };
        let long = Event { expires: Some(NOW.after(Duration::from_secs(1))), ..event("long", "x") };
        publish(&mut retained, &short);
        publish(&mut retained, &long);
        assert_eq!(found(&retained, "#"), pairs(&[("long", "x")]));
        assert_eq!(retained.take_expired(Timestamp(0), 9), Vec::<Text>::new(), "the clock is not set");
        let next = event("short", "y");
        let change = retained.admit(&next);
        assert_eq!(retained.take_expired(NOW, 9), Vec::<Text>::new(), "its next value is on the way");
        retained.settle(&next, change, false);
        assert_eq!(retained.take_expired(NOW, 9), vec![Text::from_static("short")]);
        assert_eq!(retained.take_expired(NOW, 9), Vec::<Text>::new());
        assert_eq!(retained.stats().topics, 1);
    }

    #[test]
    fn a_value_does_not_hold_on_to_the_buffer_it_came_in() {
        let buffer = Bytes::from(vec![b'x'; 64 * 1024]);
        let arrived = Event { payload: buffer.slice(10..20), ..event("a", "") };
        let mut retained = Retained::new(1 << 20);
        publish(&mut retained, &arrived);
        drop(arrived);
        assert!(buffer.is_unique());
    }

    #[test]
    fn the_start_loads_no_more_than_the_budget() {
        let mut retained = Retained::new(weight(&event("a", "1")));
        assert!(retained.restore(&event("a", "1")));
        assert!(!retained.restore(&event("b", "2")));
        assert_eq!(found(&retained, "#"), pairs(&[("a", "1")]));
    }

    proptest! {
        #[test]
        fn lookup_agrees_with_the_filter_asked_for_every_topic(
            topics in prop::collection::btree_set("(\\$|a|b|é|/){1,5}", 0..12),
            filter in "((a|b|é|\\$a|\\+)/){0,3}(a|b|#|\\+)",
        ) {
            let mut retained = Retained::new(1 << 20);
            for topic in &topics {
                publish(&mut retained, &event(topic, "x"));
            }
            let parsed = TopicFilter::parse(filter.clone()).unwrap();
            let expected: Vec<_> = topics.iter().filter(|t| parsed.matches(t)).cloned().collect();
            let found: Vec<_> = found(&retained, &filter).into_iter().map(|(topic, _)| topic).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
