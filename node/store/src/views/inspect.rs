//! One side looked at, in a copy of it: what a start would find, and further than a start looks.

use super::LABELS;
use super::proof::{Proof, Tally};
use super::side::{self, check};
use crate::backing::{BackingError, Lsn};
use crate::spill::files;
use crate::spill::sled_dir::SledDir;
use std::path::Path;

/// What lies where a side should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SideState {
    /// Nothing, or a checkpoint that was not finished: no loss.
    Empty,
    /// The proof file cannot be read.
    ProofDamaged,
    /// The proof is there, the database is not.
    Missing,
    /// The database does not hold what was proven.
    Damaged(String),
    /// It holds exactly what was proven, entry by entry.
    Sound {
        /// Newest commit in it.
        lsn: Lsn,
        /// Entries' parts and their bytes.
        parts: u64,
        bytes: u64,
    },
}

/// The names of the two sides.
pub(crate) fn labels() -> [&'static str; 2] {
    LABELS
}

/// Checks one side below `copy`, a directory with copies of the sides: opening may change them.
pub(crate) fn check_side(copy: &Path, label: &str) -> Result<SideState, BackingError> {
    let Ok(bytes) = std::fs::read(copy.join(format!("{label}.proof"))) else { return Ok(SideState::Empty) };
    let Some(proof) = Proof::decode(&bytes) else { return Ok(SideState::ProofDamaged) };
    let path = copy.join(label);
    if !path.is_dir() {
        return Ok(SideState::Missing);
    }
    match check(&path, &proof).and_then(|()| check_all(&path, &proof)) {
        Ok(()) => Ok(SideState::Sound { lsn: proof.lsn, parts: proof.tally.parts, bytes: proof.tally.bytes }),
        Err(BackingError::Damaged { why, .. }) => Ok(SideState::Damaged(why)),
        Err(error) => Err(error),
    }
}

/// Every entry, however many: a start looks at all of them only in a small side.
fn check_all(path: &Path, proof: &Proof) -> Result<(), BackingError> {
    let mut sled = SledDir::open(path)?;
    let mut tally = Tally::default();
    side::for_each_part(&mut sled, |key, part, stored| {
        tally.add(part.checksum, key.len() + stored.len());
        Ok(())
    })?;
    sled.close()?;
    if tally == proof.tally {
        Ok(())
    } else {
        Err(files::damaged(path, "its entries are not those of the checkpoint"))
    }
}
