//! Commits in groups: beside a plain log, and what they make the disk write.

use crate::load::{Content, Events, PAYLOAD_BYTES, commit, open};
use crate::machine::{cpu, disk_counter, rss_mib};
use crate::{Args, report};
use eventmesh_edge_core::ports::store::{NewEvent, Store};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const TURNS: usize = 24;
const GROUPS: [u64; 4] = [1, 16, 64, 256];

/// What one turn took per message.
#[derive(Clone, Copy)]
struct Turn {
    wall_us: f64,
    cpu_us: f64,
}

/// Events are made beforehand, so that only what takes them is measured.
fn turn(length: Duration, group: u64, events: &mut Events, mut step: impl FnMut(Vec<NewEvent>)) -> Turn {
    let (mut wall, mut used, mut messages) = (Duration::ZERO, Duration::ZERO, 0);
    while wall < length {
        let made: Vec<Vec<NewEvent>> = (0..32).map(|_| events.group(group)).collect();
        let (start, cpu_before) = (Instant::now(), cpu());
        made.into_iter().for_each(&mut step);
        wall += start.elapsed();
        used += cpu().saturating_sub(cpu_before);
        messages += group * 32;
    }
    let per_message = |time: Duration| time.as_secs_f64() * 1e6 / messages as f64;
    Turn { wall_us: per_message(wall), cpu_us: per_message(used) }
}

/// A log that anybody would write by hand: a checksummed record per event, one write and one fdatasync per group, in a file
/// written through before.
struct PlainLog {
    file: File,
    offset: u64,
    buffer: Vec<u8>,
}

const PLAIN_BYTES: u64 = 4 << 20;

impl PlainLog {
    fn new(dir: &Path) -> PlainLog {
        let mut file = File::create(dir.join("plain.log")).expect("create");
        let zeros = vec![0; usize::try_from(PLAIN_BYTES).expect("small")];
        file.write_all(&zeros).expect("preallocate");
        file.sync_all().expect("sync");
        PlainLog { file, offset: 0, buffer: Vec::new() }
    }

    fn append(&mut self, events: Vec<NewEvent>) {
        let out = &mut self.buffer;
        out.clear();
        for NewEvent { event, .. } in &events {
            let start = out.len();
            out.extend_from_slice(&[0; 8]);
            for field in [event.source.as_bytes(), event.topic.as_bytes(), &event.payload] {
                out.extend_from_slice(&u16::try_from(field.len()).expect("short").to_le_bytes());
                out.extend_from_slice(field);
            }
            out.extend_from_slice(&event.received.0.to_le_bytes());
            let len = u32::try_from(out.len() - start - 8).expect("short");
            let crc = crc32c::crc32c(&out[start + 8..]);
            out[start..start + 4].copy_from_slice(&len.to_le_bytes());
            out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
        }
        if self.offset + out.len() as u64 > PLAIN_BYTES {
            self.offset = 0;
        }
        self.file.write_all_at(out, self.offset).expect("write");
        self.file.sync_data().expect("sync");
        self.offset += out.len() as u64;
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Both logs in turns; medians of what the turns say.
pub(crate) fn throughput(args: &Args) {
    for group in GROUPS.into_iter().filter(|group| args.only.is_none_or(|only| only == *group)) {
        let dir = tempfile::tempdir_in(&args.dir).expect("make a directory");
        let mut plain = PlainLog::new(dir.path());
        let store = open(&dir.path().join("data"));
        let mut events = Events::new(args.content);
        let mut last = None;
        let length = args.turn / u32::try_from(TURNS).expect("few");
        let mut turns = Vec::new();
        for _ in 0..TURNS {
            let of_plain = turn(length, group, &mut events, |events| plain.append(events));
            let of_store = turn(length, group, &mut events, |events| {
                // The uplink keeps up: each commit acknowledges the one before it.
                last = Some(commit(&store, events, last));
            });
            turns.push((of_plain, of_store));
        }
        println!(
            "commits of {group:>3}: plain log {:>9.0}/s {:>6.2} us CPU, store {:>9.0}/s {:>6.2} us CPU, RSS {:.1} MiB",
            1e6 / median(turns.iter().map(|t| t.0.wall_us)),
            median(turns.iter().map(|t| t.0.cpu_us)),
            1e6 / median(turns.iter().map(|t| t.1.wall_us)),
            median(turns.iter().map(|t| t.1.cpu_us)),
            rss_mib().0,
        );
        let what = |of: &str| format!("  commits of {group} x 200 B, {of} beside the plain log");
        report(
            &what("throughput"),
            median(turns.iter().map(|(p, s)| p.wall_us / s.wall_us)),
            "x",
            Some(0.8),
            true,
        );
        report(&what("CPU"), median(turns.iter().map(|(p, s)| s.cpu_us / p.cpu_us)), "x", Some(1.5), false);
    }
}

/// Bytes written per payload byte, by the store's own books and by the disk's, which counts whole pages and whatever else
/// the file system does.
pub(crate) fn amplification(args: &Args) {
    for group in [64, 256] {
        for (connected, goal) in [(true, 1.3), (false, 2.5)] {
            let dir = tempfile::tempdir_in(&args.dir).expect("make a directory");
            let count = args.events.unwrap_or(2_000_000) / group;
            let mut events = Events::new(Content::Telemetry);
            let store = open(&dir.path().join("data"));
            let (written, on_disk) = (store.stats().bytes_written, disk_counter(dir.path()));
            let mut last = None;
            for _ in 0..count {
                let position = commit(&store, events.group(group), last.filter(|_| connected));
                last = Some(position);
            }
            // What is spilled late belongs to it.
            store.close();
            let payload = (count * group) as f64 * PAYLOAD_BYTES as f64;
            let state = if connected { "uplink connected" } else { "all spilled" };
            let what = format!("commits of {group}, {state}: written per payload");
            report(&what, (store.stats().bytes_written - written) as f64 / payload, "x", Some(goal), false);
            let counted = (disk_counter(dir.path()) - on_disk) as f64 / payload;
            report("  the same by the disk's counter", counted, "x", None, false);
        }
    }
}
