//! Room on disk, by kind of file.

use crate::journal::{DIR, QUARANTINE};
use crate::spill::files;
use std::collections::BTreeMap;
use std::path::Path;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Journal,
    Generations,
    Views,
    Identity,
    Quarantine,
    Other,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Journal => "journal",
            Kind::Generations => "generations",
            Kind::Views => "views",
            Kind::Identity => "identity",
            Kind::Quarantine => "quarantine",
            Kind::Other => "other",
        }
    }

    fn of(name: &str) -> Kind {
        match name {
            DIR => Kind::Journal,
            "generations" => Kind::Generations,
            QUARANTINE => Kind::Quarantine,
            "format" | "lock" => Kind::Identity,
            name if name.starts_with("views-") => Kind::Views,
            name if name.starts_with("meta-") => Kind::Identity,
            _ => Kind::Other,
        }
    }
}

/// Files and bytes of each kind that is there.
pub(crate) fn census(dir: &Path) -> Vec<(Kind, u64, u64)> {
    let mut sums: BTreeMap<Kind, (u64, u64)> = BTreeMap::new();
    for (path, kind) in files::entries(dir).unwrap_or_default() {
        let sum = sums.entry(Kind::of(files::name(&path))).or_default();
        if kind.is_file() {
            add(&path, sum);
        } else if kind.is_dir() {
            below(&path, 3, sum);
        }
    }
    sums.into_iter().map(|(kind, (files, bytes))| (kind, files, bytes)).collect()
}

/// A store's directories are three deep at most: `quarantine/generation.1/blobs`.
fn below(dir: &Path, depth: u8, sum: &mut (u64, u64)) {
    for (path, kind) in files::entries(dir).unwrap_or_default() {
        if kind.is_file() {
            add(&path, sum);
        } else if kind.is_dir() && depth > 0 {
            below(&path, depth - 1, sum);
        }
    }
}

fn add(path: &Path, sum: &mut (u64, u64)) {
    use std::os::unix::fs::MetadataExt;
    if let Ok(metadata) = std::fs::metadata(path) {
        sum.0 += 1;
        sum.1 += metadata.blocks() * 512;
    }
}
