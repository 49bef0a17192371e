//! Pages that are filled up: fewer of them are written, and what is in them reads as before.

use super::frame::{Base, FRAME_HEADER, Frame, FrameWriter, fill_up};
use super::header::HEADER_BYTES;
use super::reader::{End, FrameCursor, Source};
use super::{PAGE_BYTES, TERMINATOR, page_rest};
use crate::backing::Lsn;
use crate::disk::{Disk, Mode};
use crate::sim_disk::SimDisk;
use eventmesh_edge_core::event::Position;

const BASE: Base = Base { seed: 77, first_lsn: Lsn(10), first_position: Position(100) };

/// Pages that groups of this size touch, written one behind the other, and the bytes of journal that they take.
fn written(len: usize, groups: usize, fill: bool) -> (usize, usize) {
    let (mut at, mut pages) = (HEADER_BYTES as usize, 0);
    for _ in 0..groups {
        let rest = page_rest(u32::try_from(at).unwrap(), len).filter(|_| fill);
        let bytes = len + rest.unwrap_or(TERMINATOR);
        pages += (at + bytes).div_ceil(PAGE_BYTES) - at / PAGE_BYTES;
        at += len + rest.unwrap_or(0);
    }
    (pages, at)
}

#[test]
fn groups_of_some_kilobytes_touch_one_page_each_and_no_size_touches_more_than_before() {
    for len in [100, 270, 810, 1500, 2160, 2700, 3240, 3900] {
        assert!(written(len, 1000, true).0 <= 1001, "{len}");
    }
    for len in (50..70_000).step_by(37) {
        let (filled, plain) = (written(len, 200, true), written(len, 200, false));
        assert!(filled.0 <= plain.0, "{len}: {filled:?} {plain:?}");
        assert!(filled.1 <= 2 * plain.1, "{len}: {filled:?} {plain:?}");
        assert!(len < 32_768 || filled.1 <= plain.1 * 11 / 10, "{len}: {filled:?} {plain:?}");
    }
}

fn frame(lsn: u64, zeros: Option<usize>) -> Vec<u8> {
    let mut out = Vec::new();
    FrameWriter::start(&mut out, &BASE, Lsn(lsn), Position(105), true).finish(BASE.seed);
    if let Some(zeros) = zeros {
        fill_up(&mut out, 0, zeros, BASE.seed);
    }
    out
}

#[test]
fn a_frame_that_is_filled_up_says_so_and_holds_the_same() {
    for lsn in [10, 137, 138, 20_000] {
        let filled = frame(lsn, Some(1000));
        let found = Frame::parse(&filled[FRAME_HEADER..], &BASE).unwrap();
        assert_eq!((found.lsn, found.first_position, found.fills_page()), (Lsn(lsn), Position(105), true));
        assert_eq!(found.items().count(), 0);
        assert!(found.is_group_start() && !found.is_clean_end());
        assert!(!Frame::parse(&frame(lsn, None)[FRAME_HEADER..], &BASE).unwrap().fills_page());
    }
}

/// What a start finds in a file that an earlier use left full, once `frames` are written to its front.
fn found(frames: &[Vec<u8>], terminated: bool) -> (Vec<u64>, u64) {
    let disk = SimDisk::new();
    let file = disk.open("journal", Mode::New).unwrap();
    file.write_at(0, &[0x5A; 4 * PAGE_BYTES]).unwrap();
    let mut bytes = frames.concat();
    if terminated {
        bytes.extend([0; TERMINATOR]);
    }
    file.write_at(u64::from(HEADER_BYTES), &bytes).unwrap();
    let end = End::Open(u32::try_from(4 * PAGE_BYTES).unwrap());
    let mut cursor = FrameCursor::new(Source { number: 1, file, base: BASE, end });
    let lsns = std::iter::from_fn(|| cursor.next())
        .map(|located| Frame::parse(&located.body, &BASE).unwrap().lsn.0)
        .collect();
    assert!(cursor.gaps.is_empty());
    (lsns, cursor.torn_bytes)
}

#[test]
fn the_end_of_a_filled_page_is_an_end_and_not_torn() {
    let plain = frame(10, None);
    let zeros = PAGE_BYTES - HEADER_BYTES as usize - plain.len();
    assert_eq!(found(std::slice::from_ref(&plain), true), (vec![10], 0));
    assert!(found(&[plain], false).1 > 0, "what an earlier use left looks like the start of a group");
    let filled = frame(10, Some(zeros));
    assert_eq!(found(std::slice::from_ref(&filled), false), (vec![10], 0));
    assert_eq!(found(&[filled, frame(11, None), frame(12, None)], true), (vec![10, 11, 12], 0));
}
