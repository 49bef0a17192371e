//! Which log this is and which start this is: `meta-a` and `meta-b`, 64 bytes each, alike.
//!
//! ```text
//!    0  8   magic "EMESHMET"
//!    8  4   version u8 = 2, three zero bytes
//!   12  4   log id
//!   16  8   secret of the log (seeds the checksums of journal frames)
//!   24  4   epoch of the newest start
//!   28  16  machine that the newest start was on: hash of each kind of mark, 0 for none   since version 2
//!   44  4   log id of the events since the last move to another machine                   since version 2
//!   48  4   epoch of that move, 0 for none                                                since version 2
//!   52  8   zero
//!   60  4   CRC32C of bytes 0..60
//! ```
//! One copy after the other is overwritten in place and synced, so one whole copy exists at every moment, and a full
//! disk cannot refuse it. The segment headers carry the epoch too: if both copies are lost, or cannot be written, the
//! next start still takes an epoch above every one that gave out a position (P3, P6).

use crate::codec::Reader;
use crate::disk::{Disk, Mode};
use crate::journal::header::Identity;
use crate::machine::Machine;
use eventmesh_edge_core::event::LogId;
use std::io;

const MAGIC: &[u8; 8] = b"EMESHMET";
const BYTES: usize = 64;
/// Format version of the whole directory.
pub(crate) const VERSION: u8 = 2;
pub(crate) const COPIES: [&str; 2] = ["meta-a", "meta-b"];

/// What the two copies say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) identity: Identity,
    pub(crate) epoch: u32,
    /// The machine that it was on; without any mark in a directory of version 1.
    pub(crate) machine: Machine,
    /// Since which epoch events have another log id than the identity's.
    pub(crate) space: Option<(u32, LogId)>,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loaded {
    /// The newer of the readable copies, and how many were unreadable.
    Meta(Meta, u32),
    /// No copy can be read; how many files are there all the same.
    Nothing(u32),
    /// A later program wrote it.
    Later(u8),
}

/// Reads both copies.
pub(crate) fn load(disk: &dyn Disk) -> Loaded {
    let mut best: Option<Meta> = None;
    let mut bad = 0;
    for path in COPIES {
        match disk.read(path).map(|bytes| decode(&bytes)) {
            Ok(Ok(meta)) => best = Some(best.filter(|b| b.epoch >= meta.epoch).unwrap_or(meta)),
            Ok(Err(Some(later))) => return Loaded::Later(later),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(Err(None)) | Err(_) => bad += 1,
        }
    }
    best.map_or(Loaded::Nothing(bad), |meta| Loaded::Meta(meta, bad))
}

/// Writes both copies, one after the other.
///
/// # Errors
/// From the file system. The first copy that was synced counts.
pub(crate) fn store(disk: &dyn Disk, meta: &Meta) -> io::Result<()> {
    for path in COPIES {
        let file = disk.open(path, Mode::Create)?;
        file.write_at(0, &encode(meta))?;
        file.sync_data()?;
    }
    disk.sync_dir("")
}

fn encode(meta: &Meta) -> Vec<u8> {
    let mut out = Vec::with_capacity(BYTES);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[VERSION, 0, 0, 0]);
    out.extend_from_slice(&meta.identity.log.0.to_le_bytes());
    out.extend_from_slice(&meta.identity.secret.to_le_bytes());
    out.extend_from_slice(&meta.epoch.to_le_bytes());
    for hash in meta.machine.hashes() {
        out.extend_from_slice(&hash.to_le_bytes());
    }
    let (epoch, LogId(log)) = meta.space.unwrap_or((0, LogId(0)));
    out.extend_from_slice(&log.to_le_bytes());
    out.extend_from_slice(&epoch.to_le_bytes());
    out.resize(BYTES - 4, 0);
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out
}

/// `Err(Some(version))` if a later program wrote it, `Err(None)` if it cannot be read.
pub(crate) fn decode(bytes: &[u8]) -> Result<Meta, Option<u8>> {
    let (body, crc) = bytes.get(..BYTES).and_then(|b| b.split_last_chunk::<4>()).ok_or(None)?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err(None);
    }
    let mut reader = Reader::new(body);
    if reader.take(8) != Some(MAGIC) {
        return Err(None);
    }
    match reader.byte() {
        Some(1..=VERSION) => fields(&mut reader).ok_or(None),
        later => Err(later),
    }
}

fn fields(reader: &mut Reader<'_>) -> Option<Meta> {
    reader.take(3)?;
    let identity = Identity { log: LogId(reader.u32_le()?), secret: reader.u64_le()? };
    let epoch = reader.u32_le()?;
    let mut hashes = [0; Machine::KINDS];
    for hash in &mut hashes {
        *hash = reader.u32_le()?;
    }
    let (log, since) = (LogId(reader.u32_le()?), reader.u32_le()?);
    let space = (since > 0).then_some((since, log));
    Some(Meta { identity, epoch, machine: Machine::from_hashes(hashes), space })
}

/// A new identity from the system's random numbers.
///
/// # Errors
/// If the system has none.
pub(crate) fn draw_identity() -> Result<Identity, getrandom::Error> {
    Ok(Identity { log: LogId(getrandom::u32()?), secret: getrandom::u64()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim_disk::SimDisk;

    fn meta(epoch: u32) -> Meta {
        let marks = [None, Some(format!("{epoch}")), None, Some("m".to_owned())];
        let space = (epoch > 1).then_some((epoch, LogId(epoch)));
        let identity = Identity { log: LogId(9), secret: 11 };
        Meta { identity, epoch, machine: Machine::of(marks), space }
    }

    #[test]
    fn a_cut_between_the_copies_leaves_one_of_the_two_epochs() {
        for seed in 0..300 {
            let disk = SimDisk::new();
            store(&disk, &meta(1)).unwrap();
            disk.fail(crate::sim_disk::Kind::Sync, seed % 2, 1, crate::sim_disk::Fault::Io);
            assert!(store(&disk, &meta(2)).is_err());
            disk.power_cut(seed);
            let Loaded::Meta(found, bad) = load(&disk) else { panic!("seed {seed}: both copies lost") };
            assert!(found.epoch == 1 || found.epoch == 2, "seed {seed}");
            assert!(bad <= 1);
        }
    }

    #[test]
    fn one_damaged_copy_does_not_matter_and_a_later_version_is_named() {
        let disk = SimDisk::new();
        assert_eq!(load(&disk), Loaded::Nothing(0));
        store(&disk, &meta(7)).unwrap();
        disk.corrupt("meta-a", 20, |bytes| bytes[0] ^= 1);
        assert_eq!(load(&disk), Loaded::Meta(meta(7), 1));
        let mut later = encode(&meta(8));
        later[8] = VERSION + 1;
        let crc = crc32c::crc32c(&later[..60]).to_le_bytes();
        later[60..].copy_from_slice(&crc);
        disk.corrupt("meta-b", 0, |bytes| bytes.copy_from_slice(&later));
        assert_eq!(load(&disk), Loaded::Later(VERSION + 1));
    }
}
