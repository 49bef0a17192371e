//! What a start costs, in bytes read and written and in calls: the same on every machine, unlike its time.

use crate::workload::CONSUMERS;
use std::path::Path;

/// What the calling thread had the system do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes read and written.
    pub bytes: u64,
    /// Calls of read and write, with their relatives.
    pub calls: u64,
}

/// Runs `work` and says what it cost; sled does its reads at an open on the thread that opens. `None` where the system
/// does not account threads.
pub fn measured<T>(work: impl FnOnce() -> T) -> (T, Option<Cost>) {
    let before = so_far();
    let out = work();
    let after = so_far();
    let cost = before.zip(after).map(|(before, after)| Cost {
        bytes: after.bytes.saturating_sub(before.bytes),
        calls: after.calls.saturating_sub(before.calls),
    });
    (out, cost)
}

fn so_far() -> Option<Cost> {
    let text = std::fs::read_to_string("/proc/thread-self/io").ok()?;
    let figure = |name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok())
    };
    Some(Cost { bytes: figure("rchar")? + figure("wchar")?, calls: figure("syscr")? + figure("syscw")? })
}

/// What a start in this directory may take at most. The journal is read twice (what waits for whom, then the state). The
/// newer side of the views (the older one too, where that is damaged) is opened, compared with its proof and opened again, and sled looks at a log several times over. A consumer's cursor may lie inside a generation, which
/// then has to be looked into: one for each consumer, however many there are. All of these have limits of their own; of
/// what waits behind the cursors only the sums in `extents` are read.
#[must_use]
pub fn bound(dir: &Path) -> Cost {
    let size = |name: &str| bytes_below(&dir.join(name));
    let views = size("views-a") + size("views-b");
    let names = std::fs::read_dir(dir.join("generations")).into_iter().flatten().flatten();
    let mut generations: Vec<u64> = names.map(|entry| bytes_below(&entry.path())).collect();
    generations.sort_unstable_by(|a, b| b.cmp(a));
    let looked_into: u64 = generations.iter().take(CONSUMERS.len()).sum();
    let bytes = (1 << 20) + 2 * size("journal") + 6 * (views + looked_into);
    // A call per 16 KiB, and what opening a database and listing a directory take.
    Cost { bytes, calls: 100 + bytes / (16 << 10) + 16 * generations.len() as u64 }
}

fn bytes_below(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return std::fs::metadata(path).map_or(0, |m| m.len()) };
    entries.flatten().map(|entry| bytes_below(&entry.path())).sum()
}
