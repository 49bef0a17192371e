//! Commits that the views cannot take yet.

use super::*;
use crate::journal::frame;
use crate::journal::frame::{FRAME_HEADER, FrameWriter};
use crate::memory_backing::{MemoryBacking, MemoryViews};
use eventmesh_edge_core::event::{Event, Position, Qos, Sequence, Timestamp, Via};
use eventmesh_edge_core::ports::store::{MailboxEntry, SessionNo};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Stand-in for views on a full disk: they take changes, and cannot be read as long as the switch says so.
struct Unreadable {
    inner: MemoryViews,
    switch: Arc<AtomicBool>,
}

impl Unreadable {
    fn check(&self) -> Result<(), BackingError> {
        if self.switch.load(Ordering::SeqCst) {
            let source = Arc::new(io::Error::from(io::ErrorKind::StorageFull));
            return Err(BackingError::Io { what: "open views".to_owned(), source });
        }
        Ok(())
    }
}

impl Views for Unreadable {
    fn apply(&mut self, lsn: Lsn, ops: Vec<ViewOp>) {
        self.inner.apply(lsn, ops);
    }
    fn applied(&self) -> Lsn {
        self.inner.applied()
    }
    fn durable(&self) -> Lsn {
        self.inner.durable()
    }
    fn pending_bytes(&self) -> usize {
        self.inner.pending_bytes()
    }
    fn checkpoint(&mut self) -> Result<(), BackingError> {
        self.inner.checkpoint()
    }
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BackingError> {
        self.check()?;
        self.inner.get(key)
    }
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, BackingError> {
        self.check()?;
        self.inner.scan(prefix, after, max)
    }
    fn disk_bytes(&self) -> u64 {
        self.inner.disk_bytes()
    }
    fn bytes_written(&self) -> u64 {
        self.inner.bytes_written()
    }
}

const BASE: Base = Base { seed: 7, first_lsn: Lsn(1), first_position: Position(1) };

fn cursor(acked: u64) -> CursorEntry {
    CursorEntry { stream: StreamNo(1), uplink: UplinkNo(1), acked: Position(acked) }
}

/// A frame that moves a cursor and counts a loss.
fn frame(lsn: u64, acked: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = FrameWriter::start(&mut out, &BASE, Lsn(lsn), Position(1), true);
    writer.cursors(&[cursor(acked)]);
    writer.losses(&[LossEntry {
        stream: StreamNo(1),
        uplink: UplinkNo(1),
        reason: LossReason::Rejected,
        events: 1,
        bytes: 10,
        first: Position(acked),
        last: Position(acked),
    }]);
    writer.finish(BASE.seed);
    out
}

fn apply(tables: &mut Tables, lsn: u64, acked: u64) {
    let bytes = frame(lsn, acked);
    let body = Bytes::copy_from_slice(bytes.get(FRAME_HEADER..).unwrap());
    let frame = Frame::parse(&body, &BASE).unwrap();
    tables.apply(&frame, &body, &BASE, (Vec::new(), false));
}

fn acked(tables: &Tables) -> Option<u64> {
    let value = tables.views.get(&keys::cursor(StreamNo(1), UplinkNo(1))).unwrap()?;
    Reader::new(&value).u64_be()
}

fn lost(tables: &Tables) -> usize {
    tables.views.scan(&[keys::LEDGER], None, 10).unwrap().len()
}

#[test]
fn what_changes_views_that_cannot_be_read_waits_in_order_and_is_never_claimed() {
    let switch = Arc::new(AtomicBool::new(false));
    let inner = MemoryBacking::new().views();
    let mut tables = Tables::new(Box::new(Unreadable { inner, switch: Arc::clone(&switch) })).unwrap();
    apply(&mut tables, 1, 5);
    switch.store(true, Ordering::SeqCst);
    apply(&mut tables, 2, 6);
    apply(&mut tables, 3, 8);
    tables.apply_ops(Lsn(4), vec![ViewOp::Put(Bytes::from_static(b"x"), Bytes::from_static(b"y"))], false);
    assert!(tables.is_behind() && !tables.is_far_behind());
    assert!(tables.catch_up().is_err());
    // A checkpoint now must leave the journal what waits.
    assert_eq!(tables.views.applied(), Lsn(1));
    switch.store(false, Ordering::SeqCst);
    assert_eq!((acked(&tables), lost(&tables)), (Some(5), 1));
    tables.catch_up().unwrap();
    assert!(!tables.is_behind());
    assert_eq!((tables.views.applied(), acked(&tables)), (Lsn(4), Some(8)));
    assert_eq!(tables.views.get(b"x").unwrap().unwrap(), "y");
    // Each loss once, although one of them was tried several times.
    let mut changes = Vec::new();
    tables.ledger.cut(&mut changes);
    let total = tables.views.scan(&[keys::LEDGER], None, 10).unwrap();
    let events = total.first().and_then(|(_, value)| Reader::new(value).u64_be());
    assert_eq!(events, Some(3));
}

#[test]
fn what_waits_is_bounded() {
    let switch = Arc::new(AtomicBool::new(false));
    let inner = MemoryBacking::new().views();
    let mut tables = Tables::new(Box::new(Unreadable { inner, switch: Arc::clone(&switch) })).unwrap();
    switch.store(true, Ordering::SeqCst);
    // Changes alone need no reading: they wait behind the first commit that does.
    apply(&mut tables, 1, 1);
    for lsn in 2..100 {
        let big = Bytes::from(vec![0; 100_000]);
        tables.apply_ops(Lsn(lsn), vec![ViewOp::Put(Bytes::from_static(b"x"), big)], false);
    }
    assert!(tables.is_far_behind());
    switch.store(false, Ordering::SeqCst);
    tables.catch_up().unwrap();
    assert!(!tables.is_far_behind() && !tables.is_behind());
    assert_eq!(tables.waiting_bytes, 0);
}

/// An event for three sessions, and the first of them has the event before it.
fn mail(lsn: u64, before: u64) -> Vec<u8> {
    let event = Event {
        via: Via::Mqtt3,
        qos: Qos::AtLeastOnce,
        retain: false,
        source: "s".into(),
        id: None,
        time: None,
        received: Timestamp(5),
        expires: None,
        topic: "t".into(),
        payload: Bytes::from_static(&[1; 64]),
        properties: None,
    };
    let entry = |session| MailboxEntry { session: SessionNo(session), options: Bytes::from_static(b"q1") };
    let mut out = Vec::new();
    let mut writer = FrameWriter::start(&mut out, &BASE, Lsn(lsn), Position(lsn), true);
    writer.events(1);
    writer.event(StreamNo(0), &[entry(1), entry(2), entry(3)], &event, Sequence::default());
    writer.changes(1);
    writer.change(&frame::Change::MailboxRemove { session: 1, position: Position(before) });
    writer.finish(BASE.seed);
    out
}

fn apply_mail(tables: &mut Tables, lsn: u64, before: u64) {
    let bytes = mail(lsn, before);
    let body = &bytes[FRAME_HEADER..];
    let frame = Frame::parse(body, &BASE).unwrap();
    tables.apply(&frame, body, &BASE, (Vec::new(), false));
}

/// Claims are taken in memory before the removal finds that the views cannot be read: nothing of the commit stays.
#[test]
fn a_commit_that_has_to_wait_leaves_the_mailboxes_as_they_were() {
    let switch = Arc::new(AtomicBool::new(false));
    let inner = MemoryBacking::new().views();
    let mut tables = Tables::new(Box::new(Unreadable { inner, switch: Arc::clone(&switch) })).unwrap();
    for lsn in 1..=40 {
        apply_mail(&mut tables, lsn, 0);
    }
    let before = (tables.mailboxes.totals(), tables.mailboxes.disk_bytes());
    assert_eq!(before.0.1, 120);
    switch.store(true, Ordering::SeqCst);
    for lsn in 41..=60 {
        apply_mail(&mut tables, lsn, lsn - 40);
    }
    assert!(tables.is_behind());
    assert_eq!((tables.mailboxes.totals(), tables.mailboxes.disk_bytes()), before);
    switch.store(false, Ordering::SeqCst);
    tables.catch_up().unwrap();
    assert_eq!(tables.mailboxes.totals().1, 180 - 20);
    let left = |session| tables.mailboxes.page(&*tables.views, session, Position::ZERO, 999).unwrap();
    let at: Vec<u64> = left(1).iter().map(|claim| claim.position.0).collect();
    assert_eq!(at, (21..=60).collect::<Vec<_>>());
    assert_eq!((left(2).len(), left(3).len()), (60, 60));
}
