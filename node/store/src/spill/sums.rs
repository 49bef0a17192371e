//! Checksums of a sealed generation's files, block by block: what tells *where* a disk has lost something, without
//! opening the database, and so while a node has it open too.
//!
//! ```text
//! file `sums`   magic "EMGS" | version u8 = 1 | files × (name length, name, length, checksums × u32 LE)
//!               | crc32c u32 LE of all before
//! ```
//! Numbers without a type are varints; one CRC32C per [`BLOCK_BYTES`] of the file, the last one of what is left. A sealed
//! generation never changes a byte ([`super::seal`]: what opens and readers change of a new one they change before), so
//! these hold for as long as it exists. Generations of earlier versions of the program may get another snapshot of sled's at
//! the first open: one that is not known here is judged by its own checksum. Chunks have checksums of their own: a generation without this file (an older one) loses
//! nothing but the place of its damage.

use super::files::{self, io_error};
use super::{sled_dir, varint};
use crate::backing::BackingError;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// File beside the database.
pub(crate) const SUMS_FILE: &str = "sums";

/// The unit in which damage is named: a page of the file system, and of most flash.
pub(crate) const BLOCK_BYTES: usize = 4096;

const MAGIC: &[u8; 5] = b"EMGS\x01";

/// More files than a generation has.
const FILES_MAX: usize = 64;

/// Bytes read at once.
const READ_BYTES: usize = 64 * BLOCK_BYTES;

/// What one file should be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileSums {
    name: String,
    len: u64,
    blocks: Vec<u32>,
}

/// A stretch of a file that is not what was sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadBlocks {
    /// File in the generation's directory.
    pub(crate) name: String,
    /// First byte of the first bad block.
    pub(crate) from: u64,
    /// Behind the last bad block.
    pub(crate) to: u64,
}

/// What [`check`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    /// Every byte is as it was sealed.
    Whole,
    /// These are not; never empty.
    Bad(Vec<BadBlocks>),
    /// There is no file `sums`: sealed by an earlier version.
    Unknown,
    /// `sums` itself cannot be read.
    Unreadable,
}

/// Writes `sums` for a directory that is complete but for it. Returns its length.
pub(super) fn write(dir: &Path) -> Result<u64, BackingError> {
    let mut sums = Vec::new();
    for (path, kind) in files::entries(dir)? {
        let name = files::name(&path);
        if kind.is_file() && name != SUMS_FILE {
            let (len, blocks) = sum_file(&path)?;
            sums.push(FileSums { name: name.to_owned(), len, blocks });
        }
    }
    let encoded = encode(&sums);
    files::write_durable(&dir.join(SUMS_FILE), &encoded)?;
    Ok(encoded.len() as u64)
}

/// Compares the files of a sealed generation with its `sums`. `progress` is told the bytes read.
pub(crate) fn check(dir: &Path, progress: &mut dyn FnMut(u64)) -> Result<Checked, BackingError> {
    let path = dir.join(SUMS_FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Checked::Unknown),
        // A bad block: as good as damaged.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
            return Ok(Checked::Unreadable);
        }
        Err(error) => return Err(io_error(format!("read {}", path.display()))(error)),
    };
    let Some(sums) = decode(&bytes) else { return Ok(Checked::Unreadable) };
    let mut bad = Vec::new();
    for file in &sums {
        let known = bad.len();
        check_file(dir, file, &mut bad)?;
        // A snapshot is what sled derives from the log, and may be renewed when the node opens the database to read. The one that
        // is there answers for itself.
        if bad.len() > known && sled_dir::is_snapshot(&file.name) && sled_dir::has_whole_snapshot(dir)? {
            bad.truncate(known);
        }
        progress(file.len);
    }
    Ok(if bad.is_empty() { Checked::Whole } else { Checked::Bad(bad) })
}

fn check_file(dir: &Path, wanted: &FileSums, bad: &mut Vec<BadBlocks>) -> Result<(), BackingError> {
    let all = BadBlocks { name: wanted.name.clone(), from: 0, to: wanted.len };
    let (len, blocks) = match sum_file(&dir.join(&wanted.name)) {
        Ok(found) => found,
        Err(BackingError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            bad.push(all);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let count = wanted.blocks.len().max(blocks.len());
    for at in 0..count {
        if wanted.blocks.get(at) != blocks.get(at) {
            let from = (at * BLOCK_BYTES) as u64;
            let to = (from + BLOCK_BYTES as u64).min(wanted.len.max(len));
            match bad.last_mut().filter(|last| last.name == wanted.name && last.to == from) {
                Some(last) => last.to = to,
                None => bad.push(BadBlocks { name: wanted.name.clone(), from, to }),
            }
        }
    }
    Ok(())
}

/// Length and checksums of a file. What the device does not give back counts as zeros, block by block.
fn sum_file(path: &Path) -> Result<(u64, Vec<u32>), BackingError> {
    let failed = || io_error(format!("read {}", path.display()));
    let mut file = File::open(path).map_err(failed())?;
    let len = file.metadata().map_err(failed())?.len();
    let mut blocks = Vec::new();
    let mut buf = vec![0; READ_BYTES];
    let mut at = 0u64;
    while at < len {
        let want = usize::try_from(len - at).unwrap_or(READ_BYTES).min(READ_BYTES);
        let Some(piece) = buf.get_mut(..want) else { break };
        if file.read_exact(piece).is_err() {
            read_blocks(&file, at, piece);
            std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(at + want as u64)).map_err(failed())?;
        }
        blocks.extend(piece.chunks(BLOCK_BYTES).map(crc32c::crc32c));
        at += want as u64;
    }
    Ok((len, blocks))
}

fn read_blocks(file: &File, at: u64, buf: &mut [u8]) {
    let mut offset = at;
    for block in buf.chunks_mut(BLOCK_BYTES) {
        if std::os::unix::fs::FileExt::read_exact_at(file, block, offset).is_err() {
            block.fill(0);
        }
        offset += block.len() as u64;
    }
}

fn encode(sums: &[FileSums]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    varint::put(&mut out, sums.len() as u64);
    for file in sums {
        varint::put(&mut out, file.name.len() as u64);
        out.extend_from_slice(file.name.as_bytes());
        varint::put(&mut out, file.len);
        for block in &file.blocks {
            out.extend_from_slice(&block.to_le_bytes());
        }
    }
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<Vec<FileSums>> {
    let (body, checksum) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC.as_slice())?;
    let count = varint::take_len(&mut rest)?;
    let sums = (0..count.min(FILES_MAX)).map_while(|_| take_file(&mut rest)).collect::<Vec<_>>();
    (sums.len() == count && rest.is_empty()).then_some(sums)
}

fn take_file(rest: &mut &[u8]) -> Option<FileSums> {
    let name_len = varint::take_len(rest)?;
    let name = std::str::from_utf8(varint::take_bytes(rest, name_len)?).ok()?.to_owned();
    // A name is no path.
    if name.is_empty() || name.contains('/') {
        return None;
    }
    let len = varint::take(rest)?;
    let count = usize::try_from(len.div_ceil(BLOCK_BYTES as u64)).ok()?;
    let raw = varint::take_bytes(rest, count.checked_mul(4)?)?;
    let blocks = raw.as_chunks::<4>().0.iter().map(|block| u32::from_le_bytes(*block)).collect();
    Some(FileSums { name, len, blocks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    fn dir_with(files: &[(&str, usize)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (index, (name, len)) in files.iter().enumerate() {
            let bytes = crate::spill::noise_for_tests(index as u64 + 1, *len);
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        write(dir.path()).unwrap();
        dir
    }

    fn checked(dir: &Path) -> Checked {
        check(dir, &mut |_| {}).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_flipped_bit_is_found_where_it_is(bit: prop::sample::Index, second in any::<bool>()) {
            let dir = dir_with(&[("db", 3 * BLOCK_BYTES + 100), ("conf", 66)]);
            prop_assert_eq!(checked(dir.path()), Checked::Whole);
            let name = if second { "db" } else { "conf" };
            let mut bytes = fs::read(dir.path().join(name)).unwrap();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(dir.path().join(name), &bytes).unwrap();
            let Checked::Bad(bad) = checked(dir.path()) else { panic!("not seen") };
            prop_assert_eq!(bad.len(), 1);
            prop_assert_eq!(&bad[0].name, name);
            prop_assert!((bad[0].from..bad[0].to).contains(&((bit / 8) as u64)));
        }

        #[test]
        fn a_flip_in_the_sums_themselves_is_no_verdict_on_the_files(bit: prop::sample::Index) {
            let dir = dir_with(&[("db", 2 * BLOCK_BYTES)]);
            let path = dir.path().join(SUMS_FILE);
            let mut bytes = fs::read(&path).unwrap();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bytes).unwrap();
            prop_assert_eq!(checked(dir.path()), Checked::Unreadable);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            prop_assert!(decode(&bytes).is_none());
        }
    }

    #[test]
    fn neighbouring_blocks_are_one_stretch_and_a_missing_or_cut_file_is_seen() {
        let dir = dir_with(&[("db", 8 * BLOCK_BYTES)]);
        let path = dir.path().join("db");
        let mut bytes = fs::read(&path).unwrap();
        bytes[BLOCK_BYTES..3 * BLOCK_BYTES].fill(0);
        fs::write(&path, &bytes).unwrap();
        let block = BLOCK_BYTES as u64;
        let stretch = |from, to| Checked::Bad(vec![BadBlocks { name: "db".to_owned(), from, to }]);
        assert_eq!(checked(dir.path()), stretch(block, 3 * block));
        bytes.truncate(BLOCK_BYTES);
        fs::write(&path, &bytes).unwrap();
        assert_eq!(checked(dir.path()), stretch(block, 8 * block));
        fs::remove_file(&path).unwrap();
        assert_eq!(checked(dir.path()), stretch(0, 8 * block));
        fs::remove_file(dir.path().join(SUMS_FILE)).unwrap();
        assert_eq!(checked(dir.path()), Checked::Unknown);
    }

    #[test]
    fn a_renewed_snapshot_is_no_damage_and_a_spoiled_one_is() {
        let dir = dir_with(&[("db", 2 * BLOCK_BYTES), ("snap.0000000000000010", 100)]);
        let old = dir.path().join("snap.0000000000000010");
        let renewed = dir.path().join("snap.0000000000000020");
        fs::remove_file(&old).unwrap();
        assert_eq!(bad_names(dir.path()), ["snap.0000000000000010"], "none is there");
        let mut bytes = b"pages".to_vec();
        bytes.extend_from_slice(&5u64.to_le_bytes());
        bytes.extend_from_slice(&sled_dir::crc32(b"pages").to_le_bytes());
        fs::write(&renewed, &bytes).unwrap();
        assert_eq!(checked(dir.path()), Checked::Whole);
        bytes[1] ^= 1;
        fs::write(&renewed, &bytes).unwrap();
        assert_eq!(bad_names(dir.path()), ["snap.0000000000000010"], "it does not answer for itself");
    }

    fn bad_names(dir: &Path) -> Vec<String> {
        let Checked::Bad(bad) = checked(dir) else { panic!("not seen") };
        bad.into_iter().map(|bad| bad.name).collect()
    }
}
