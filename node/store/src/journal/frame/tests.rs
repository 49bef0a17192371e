//! What is written is read back, and nothing else checks.

use super::*;
use bytes::Bytes;
use eventmesh_edge_core::event::{Event, Qos, Sequence, Timestamp, Via, record};
use eventmesh_edge_core::ports::store::SessionNo;
use proptest::prelude::*;

const BASE: Base = Base { seed: 77, first_lsn: Lsn(10), first_position: Position(100) };

pub(crate) fn event(payload: &[u8]) -> Event {
    Event {
        via: Via::Mqtt3,
        qos: Qos::AtLeastOnce,
        retain: false,
        source: "mqtt://plant-7/sensor-12".into(),
        id: None,
        time: Some(Timestamp(1_790_000_000_000)),
        received: Timestamp(1_790_000_000_000),
        expires: None,
        topic: "plant/7/temp".into(),
        payload: Bytes::copy_from_slice(payload),
        properties: None,
    }
}

fn frame(
    events: &[(u32, Vec<MailboxEntry>, Vec<u8>)],
    cursors: &[CursorEntry],
    losses: &[LossEntry],
) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = FrameWriter::start(&mut out, &BASE, Lsn(12), Position(105), true);
    writer.events(events.len());
    for (stream, claims, payload) in events {
        writer.event(StreamNo(*stream), claims, &event(payload), Sequence { source: 1, stream: 2 });
    }
    writer.changes(2);
    writer.change(&Change::Put { table: 3, key: b"k", value: b"v" });
    writer.change(&Change::MailboxClear { session: 9 });
    writer.cursors(cursors);
    writer.losses(losses);
    writer.finish(BASE.seed);
    out
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        payloads in proptest::collection::vec((0u32..9, 0usize..3, proptest::collection::vec(any::<u8>(), 0..90)), 0..5),
        acked in proptest::collection::vec(any::<u64>(), 0..3),
    ) {
        let claim = |session| MailboxEntry { session: SessionNo(session), options: Bytes::from_static(b"q1") };
        let events: Vec<_> = payloads
            .into_iter()
            .map(|(stream, claims, payload)| (stream, (0..claims as u64).map(claim).collect::<Vec<_>>(), payload))
            .collect();
        let cursors: Vec<_> = acked
            .into_iter()
            .map(|p| CursorEntry { stream: StreamNo(1), uplink: UplinkNo(2), acked: Position(p) })
            .collect();
        let losses = [LossEntry { stream: StreamNo(0), uplink: UplinkNo(0), reason: LossReason::Damaged, events: 1,
            bytes: 2, first: Position(3), last: Position(4) }];
        let bytes = frame(&events, &cursors, &losses);
        let Found::Frame(body) = check(&bytes, bytes.len(), BASE.seed) else { panic!("must check") };
        let frame = Frame::parse(body, &BASE).unwrap();
        prop_assert_eq!((frame.lsn, frame.first_position, frame.is_group_start()), (Lsn(12), Position(105), true));
        let items: Vec<_> = frame.items().collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(items.len(), events.len() + 2 + cursors.len() + 1);
        let mut seen_events = 0;
        let mut seen_cursors = 0;
        for item in items {
            match item {
                Item::Event(entry) => {
                    let (stream, claims, payload) = &events[seen_events];
                    prop_assert_eq!(entry.position, Position(105 + seen_events as u64));
                    prop_assert_eq!(entry.stream.0, *stream);
                    let read: Vec<_> = entry.mailboxes.map(|(s, o)| (s, o.to_vec())).collect();
                    let written: Vec<_> = claims.iter().map(|c| (c.session.0, c.options.to_vec())).collect();
                    prop_assert_eq!(read, written);
                    let (read, _) = record::decode(&Bytes::copy_from_slice(entry.body)).unwrap();
                    prop_assert_eq!(&read.payload[..], &payload[..]);
                    seen_events += 1;
                }
                Item::Cursor(cursor) => {
                    prop_assert_eq!(cursor, cursors[seen_cursors]);
                    seen_cursors += 1;
                }
                Item::Loss(loss) => prop_assert_eq!(loss, losses[0]),
                Item::Change(_) => {}
            }
        }
    }

    #[test]
    fn no_body_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(frame) = Frame::parse(&body, &BASE) {
            for item in frame.items() { if let Ok(Item::Event(e)) = item { e.mailboxes.for_each(drop); } }
        }
    }
}

#[test]
fn a_torn_frame_never_checks() {
    let bytes = frame(&[(1, Vec::new(), vec![7; 50])], &[], &[]);
    for cut in 0..bytes.len() {
        let mut torn = bytes.clone();
        torn[cut..].fill(0);
        // The last bytes of a frame may be zeros by themselves: then nothing was torn off.
        if torn != bytes {
            assert!(!matches!(check(&torn, torn.len(), BASE.seed), Found::Frame(_)), "cut at {cut}");
        }
    }
    assert!(!matches!(check(&bytes, bytes.len(), BASE.seed + 1), Found::Frame(_)), "another segment's seed");
}

#[test]
fn a_lone_event_pays_little_beside_its_payload() {
    let mut out = Vec::new();
    let mut writer = FrameWriter::start(&mut out, &BASE, Lsn(10_010), Position(10_100), true);
    writer.events(1);
    writer.event(StreamNo(1), &[], &event(&[b'x'; 200]), Sequence { source: 100_000, stream: 100_000 });
    writer.finish(BASE.seed);
    assert!(out.len() <= 200 + 80, "{}", out.len());
}
