//! A will, from the CONNECT that brings it to its publication or its end.
//!
//! A will is a promise: it is on disk before CONNACK says that it was taken (P1, [MQTT-3.1.2-7]; docs/adr/0011), for
//! sessions that end with their connection too. It leaves the disk in one commit with what ends it: the event that it
//! becomes, a DISCONNECT with reason 0 [MQTT-3.14.4-3], or the CONNECT that comes within the Will Delay [MQTT-3.1.3-9].
//! So a start finds exactly the wills that are still owed, and a node that was killed publishes them as if it had lost its
//! clients [MQTT-3.1.2-8].
//!
//! ```text
//! Will   key   number u64, big-endian; never used for another one while the first may still be on its way
//!        value version u8 = 1 | flags u8 (1 has a Message Expiry Interval) | delay_secs u32 | expiry_secs u32
//!              | record body (event/record.rs) of the event as it was let in at CONNECT
//! ```
//! The row of a persistent session names its will ([`super::records::SessionRecord`]). A will that no session names is due:
//! its session ended with the connection, or it was on its way into a stream that was full.

use super::records::{self, Reader};
use crate::codec::Will;
use bytes::{BufMut, Bytes};
use eventmesh_edge_core::Text;
use eventmesh_edge_core::event::{Event, Properties, Sequence, Timestamp, Via, record};
use eventmesh_edge_core::mapping::{self, Admission};
use eventmesh_edge_core::ports::hub::{Publication, Submission, SubscriberId};
use eventmesh_edge_core::ports::store::{StateChange, StateValue, Table};
use std::time::Duration;

/// Version byte of every value written today.
const VERSION: u8 = 1;
const HAS_EXPIRY: u8 = 1;

/// Names a will, on disk and in its session's record. Counts up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WillNo(pub(crate) u64);

/// A will that may have to be published. It has a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingWill {
    pub(crate) number: WillNo,
    event: Event,
    /// Message Expiry Interval: counts from the publication.
    expiry_secs: Option<u32>,
    pub(crate) delay: Duration,
}

impl PendingWill {
    /// What CONNECT brought. `source` and `id` are fixed here (P3).
    pub(super) fn admit(
        number: WillNo,
        will: Will,
        is_v5: bool,
        source: &Text,
        now: Timestamp,
    ) -> PendingWill {
        let event = mapping::admit(Admission {
            via: if is_v5 { Via::Mqtt5 } else { Via::Mqtt3 },
            qos: will.qos,
            retain: will.retain,
            topic: will.topic,
            payload: will.payload,
            properties: will.properties,
            expiry: None,
            source,
            received: now,
        });
        let delay = Duration::from_secs(will.delay_secs.into());
        PendingWill { number, event, expiry_secs: will.expiry_secs, delay }
    }

    /// The commit that publishes it: the event is in and the row is out, or neither.
    pub(crate) fn publish(&self, now: Timestamp, publisher: Option<SubscriberId>) -> Submission {
        let mut event = self.event.clone();
        // Its time is when the client was lost, as far as that is known, unless it brought one of its own.
        if event.time.is_none_or(|time| time == event.received) {
            event.time = now.is_plausible().then_some(now);
        }
        event.received = now;
        let expiry = self.expiry_secs.filter(|_| now.is_plausible());
        event.expires = expiry.map(|secs| now.after(Duration::from_secs(secs.into())));
        let publications = vec![Publication { event, publisher }];
        Submission { publications, state: vec![self.forget()], kept: true, ..Submission::default() }
    }

    /// What it takes, in memory and on disk.
    pub(crate) fn bytes(&self) -> usize {
        let user =
            |p: &Properties| p.user.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        let properties = self.event.properties.as_deref().map_or(0, user);
        self.event.payload.len() + self.event.topic.len() + properties
    }

    /// Its row.
    pub(super) fn put(&self) -> StateChange {
        let value = StateValue::Bytes(self.encode());
        StateChange::Put { table: Table::Will, key: key(self.number), value }
    }

    /// The end of its row.
    pub(crate) fn forget(&self) -> StateChange {
        records::delete(Table::Will, key(self.number))
    }

    fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(64 + self.event.topic.len() + self.event.payload.len());
        out.put_u8(VERSION);
        out.put_u8(if self.expiry_secs.is_some() { HAS_EXPIRY } else { 0 });
        out.put_u32(u32::try_from(self.delay.as_secs()).unwrap_or(u32::MAX));
        out.put_u32(self.expiry_secs.unwrap_or(0));
        record::encode(&self.event, Sequence::default(), &mut out);
        out.into()
    }

    /// What a start finds; `None` if it does not decode.
    pub(crate) fn decode(key: &[u8], value: &Bytes) -> Option<PendingWill> {
        let number = WillNo(u64::from_be_bytes(key.try_into().ok()?));
        let mut r = Reader(value);
        r.version(VERSION)?;
        let has_expiry = r.u8()? & HAS_EXPIRY != 0;
        let delay = Duration::from_secs(r.u32()?.into());
        let expiry_secs = Some(r.u32()?).filter(|_| has_expiry);
        let (event, _) = record::decode(&value.slice_ref(r.0)).ok()?;
        Some(PendingWill { number, event, expiry_secs, delay })
    }
}

fn key(number: WillNo) -> Bytes {
    Bytes::copy_from_slice(&number.0.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::WALL;
    use eventmesh_edge_core::event::Qos;
    use proptest::prelude::*;

    fn will(delay_secs: u32, expiry_secs: Option<u32>) -> Will {
        let user = vec![(Text::from_static("a"), Text::from_static("b"))];
        Will {
            topic: Text::from_static("last/é"),
            payload: Bytes::from_static(b"gone"),
            qos: Qos::ExactlyOnce,
            retain: true,
            delay_secs,
            expiry_secs,
            properties: Some(Box::new(Properties { utf8_payload: true, user, ..Properties::default() })),
        }
    }

    fn pending(delay_secs: u32, expiry_secs: Option<u32>, now: Timestamp) -> PendingWill {
        let source = Text::from_static("mqtt://plant-7/c");
        PendingWill::admit(WillNo(7), will(delay_secs, expiry_secs), true, &source, now)
    }

    fn read_back(will: &PendingWill) -> Option<PendingWill> {
        let StateChange::Put { key, value: StateValue::Bytes(value), .. } = will.put() else { return None };
        PendingWill::decode(&key, &value)
    }

    proptest! {
        #[test]
        fn a_will_is_read_back(delay_secs: u32, expiry_secs: Option<u32>, now: u64) {
            let will = pending(delay_secs, expiry_secs, Timestamp(now));
            prop_assert_eq!(read_back(&will), Some(will));
        }

        #[test]
        fn no_value_makes_the_reader_panic(value in proptest::collection::vec(any::<u8>(), 0..60)) {
            drop(PendingWill::decode(&[0; 8], &Bytes::from(value)));
        }
    }

    #[test]
    fn it_is_published_with_the_time_and_the_deadline_of_that_moment() {
        let will = pending(30, Some(60), WALL);
        let later = WALL.after(Duration::from_secs(30));
        let submission = will.publish(later, None);
        let event = &submission.publications[0].event;
        assert_eq!((event.received, event.time), (later, Some(later)));
        assert_eq!(event.expires, Some(later.after(Duration::from_secs(60))));
        assert_eq!(submission.state, [will.forget()]);
        // The clock was not set at CONNECT, and is now; and the other way round.
        let event = &pending(0, Some(60), Timestamp(5)).publish(WALL, None).publications[0].event;
        assert_eq!((event.time, event.expires), (Some(WALL), Some(WALL.after(Duration::from_secs(60)))));
        let event = &pending(0, Some(60), WALL).publish(Timestamp(5), None).publications[0].event;
        assert_eq!((event.time, event.expires), (None, None));
    }

    /// The value of version 1, byte for byte up to the record body: what the next version of the node has to read.
    #[test]
    fn the_layout_is_what_the_module_says() {
        let will = pending(30, Some(258), WALL);
        let value = will.encode();
        assert_eq!(&value[..10], b"\x01\x01\0\0\0\x1E\0\0\x01\x02");
        assert_eq!(value[10], record::VERSION);
        assert_eq!(key(will.number), &b"\0\0\0\0\0\0\0\x07"[..]);
    }
}
