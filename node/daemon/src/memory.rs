//! How the allocator keeps what was freed: as little as it can, on a gateway with 256 MB.
//!
//! glibc raises its threshold for separate mappings with the first large block that is freed, and keeps everything below
//! it in its heaps from then on: after a burst or a seal, 15 to 20 MiB stay resident that nobody uses. A fixed threshold
//! and one arena more than one keep the node near what it really holds (figures: docs/benchmarks.md). Elsewhere (musl)
//! there is nothing to set.

/// Sets the thresholds; call it before the first thread starts.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(
    unsafe_code,
    reason = "mallopt has no safe wrapper; it takes two integers and is called before any thread is there"
)]
pub(crate) fn keep_little() {
    const SEPARATE_FROM_BYTES: libc::c_int = 128 * 1024;
    for (option, value) in [
        (libc::M_MMAP_THRESHOLD, SEPARATE_FROM_BYTES),
        (libc::M_TRIM_THRESHOLD, SEPARATE_FROM_BYTES),
        (libc::M_ARENA_MAX, 2),
    ] {
        // SAFETY: no pointer is passed and no other thread runs yet; a refused option changes nothing.
        let accepted = unsafe { libc::mallopt(option, value) };
        debug_assert_eq!(accepted, 1, "glibc knows the option {option}");
    }
}

/// See above.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn keep_little() {}
