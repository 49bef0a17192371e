//! A directory in one file: lz4 over path, length and bytes of each file. What a fixture is kept in.

use std::fs;
use std::io;
use std::path::Path;

/// Everything below `dir`, but the lock.
pub(crate) fn pack(dir: &Path) -> io::Result<Vec<u8>> {
    let mut raw = Vec::new();
    add(dir, "", &mut raw)?;
    Ok(lz4_flex::compress_prepend_size(&raw))
}

fn add(dir: &Path, prefix: &str, out: &mut Vec<u8>) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            add(&entry.path(), &format!("{name}/"), out)?;
        } else if name != "lock" {
            let bytes = fs::read(entry.path())?;
            for part in [name.as_bytes(), &bytes] {
                out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
                out.extend_from_slice(part);
            }
        }
    }
    Ok(())
}

/// The other way round, into an empty directory.
pub(crate) fn unpack(archive: &[u8], dir: &Path) -> io::Result<()> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "not an archive of a data directory");
    let raw = lz4_flex::decompress_size_prepended(archive).map_err(|_| bad())?;
    let mut rest = raw.as_slice();
    while !rest.is_empty() {
        let name = take(&mut rest).and_then(|name| std::str::from_utf8(name).ok()).ok_or_else(bad)?;
        let path = dir.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, take(&mut rest).ok_or_else(bad)?)?;
    }
    Ok(())
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, behind) = rest.split_first_chunk::<4>()?;
    let (part, behind) = behind.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
    *rest = behind;
    Some(part)
}
