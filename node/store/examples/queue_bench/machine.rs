//! What the system says about this process and its disk.

use rustix::time::{ClockId, clock_gettime};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;

/// CPU time of this process, all threads.
pub(crate) fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("below a second"))
}

fn status_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|l| l.starts_with(field)).expect("Linux");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Memory in use, and the most of it since [`forget_peak`].
pub(crate) fn rss_mib() -> (f64, f64) {
    (status_kib("VmRSS:") as f64 / 1024.0, status_kib("VmHWM:") as f64 / 1024.0)
}

/// The peak counts from here on.
pub(crate) fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").expect("own process");
}

/// Bytes that the disk below a path has written, for everybody.
pub(crate) fn disk_counter(path: &Path) -> u64 {
    let device = std::fs::metadata(path).expect("there").dev();
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    let stat = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap_or_default();
    stat.split_whitespace().nth(6).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 512
}

/// Blocks of all files below a path, in bytes: what `du` says.
pub(crate) fn du(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => du(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

/// Starts this program again with the allocator set as the node's is (`node/daemon/src/memory.rs`), if it is not yet.
pub(crate) fn keep_little() {
    const SET: [(&str, &str); 3] = [
        ("MALLOC_MMAP_THRESHOLD_", "131072"),
        ("MALLOC_TRIM_THRESHOLD_", "131072"),
        ("MALLOC_ARENA_MAX", "2"),
    ];
    if SET.iter().all(|(name, _)| std::env::var_os(name).is_some()) {
        return;
    }
    let program = std::env::current_exe().expect("own path");
    let error = std::process::Command::new(program).args(std::env::args_os().skip(1)).envs(SET).exec();
    panic!("start again: {error}");
}
