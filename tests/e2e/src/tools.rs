//! Small things: random numbers that a seed repeats, settings from the environment, programs that may be missing.

use std::path::{Path, PathBuf};

/// splitmix64: the same numbers for the same seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `low..high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next_u64() % (high - low)
    }
}

/// A number from the environment, or the default.
#[must_use]
pub fn number_from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Finds a foreign program; says loudly that the test is skipped where it is missing.
#[must_use]
pub fn foreign(program: &str, test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|p| p.is_file());
    if found.is_none() {
        println!("SKIPPED {test}: `{program}` is not on this machine");
    }
    found
}

/// Where the built programs are: `EDGE_BIN_DIR`, else two folders above the test's own program.
///
/// # Panics
/// If the test's own path cannot be read.
#[must_use]
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("EDGE_BIN_DIR") {
        return PathBuf::from(dir);
    }
    let own = std::env::current_exe().expect("a test has a path");
    own.ancestors().nth(2).unwrap_or(Path::new(".")).to_path_buf()
}
