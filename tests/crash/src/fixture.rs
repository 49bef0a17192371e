//! Images that are kept: a directory, what had been said before its end, and what is asked of it.
//!
//! ```text
//!  gzip of:  one line of JSON ([`Head`]) | the bytes of its files, without the zeros at their ends, in its order
//! ```
//! Kept are images that once broke a promise (`tests/crash/fixtures/`, each judged by `tests/fixtures.rs`), and directories
//! that older formats left: those begin the workload [`Workload::Upgrade`](crate::workload::Workload::Upgrade), too. A line
//! of JSON and not a record of ours, because a fixture must be read for as long as its format is.

use crate::judge::{Broken, Case, judge};
use crate::marks::Mark;
use crate::model::Said;
use crate::trace::{Data, Moment};
use crate::volume::Image;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;

/// How a fixture's file name ends.
pub const EXTENSION: &str = "image";

/// Directories that older programs left, and what their formats are called.
const OLDER: [(&str, &[u8]); 4] = [
    ("format-1-spill", include_bytes!("../fixtures/format-1-spill.image")),
    ("format-1-state", include_bytes!("../fixtures/format-1-state.image")),
    ("format-2-state", include_bytes!("../fixtures/format-2-state.image")),
    ("format-1-overflow", include_bytes!("../fixtures/format-1-overflow.image")),
];

/// The older directory that this seed begins with.
///
/// # Errors
/// If it is not one of ours.
pub fn older(seed: u64) -> io::Result<Fixture> {
    let at = usize::try_from(seed % OLDER.len() as u64).unwrap_or(0);
    OLDER.get(at).map_or_else(|| Err(io::ErrorKind::NotFound.into()), |(_, bytes)| Fixture::decode(bytes))
}

/// One kept image.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// Where it comes from, for whoever meets it.
    pub origin: String,
    /// What was said before its end.
    pub said: Said,
    /// See [`Case`].
    pub torn_append: bool,
    /// See [`Case`].
    pub damaged: bool,
    /// The directory.
    pub image: Image,
}

#[derive(Serialize, Deserialize)]
struct Head {
    origin: String,
    marks: Vec<Mark>,
    closed: bool,
    torn_append: bool,
    damaged: bool,
    dirs: Vec<String>,
    /// Path, bytes, those of them before the zeros.
    files: Vec<(String, usize, usize)>,
}

impl Fixture {
    /// What a process left in `dir` that wrote its markers to `marks`.
    ///
    /// # Errors
    /// From the file system; if a marker is none.
    pub fn pack(origin: &str, dir: &Path, marks: &Path) -> io::Result<Fixture> {
        let mut said = Vec::new();
        for line in std::fs::read_to_string(marks)?.lines() {
            said.push(serde_json::from_str(line)?);
        }
        let mut image = Image::default();
        collect(dir, "", &mut image)?;
        Ok(Fixture {
            origin: origin.to_owned(),
            said: Said::of(&said),
            torn_append: false,
            damaged: false,
            image,
        })
    }

    /// From bytes.
    ///
    /// # Errors
    /// If they are not those of a fixture.
    pub fn decode(bytes: &[u8]) -> io::Result<Fixture> {
        let mut input = BufReader::new(GzDecoder::new(bytes));
        let mut line = String::new();
        input.read_line(&mut line)?;
        let mut head: Head = serde_json::from_str(&line)?;
        let mut files = BTreeMap::new();
        for (path, len, kept) in std::mem::take(&mut head.files) {
            let mut content = vec![0; kept];
            input.read_exact(&mut content)?;
            content.resize(len, 0);
            files.insert(path, content);
        }
        let Head { origin, marks, closed, torn_append, damaged, dirs, .. } = head;
        let mut said = Said::of(&marks);
        let format: &[u8] = files.get("format").map_or(&[], Vec::as_slice);
        if format.starts_with(b"eventmesh-edge store 1") && !said.older {
            said.advance(&Moment::Mark(Mark::Older));
        }
        said.closed = closed;
        Ok(Fixture { origin, said, torn_append, damaged, image: Image { files, dirs, torn_append } })
    }

    /// To bytes.
    ///
    /// # Errors
    /// None that are known of: it is written to memory.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let trimmed: Vec<(&String, usize, Data)> =
            self.image.files.iter().map(|(path, b)| (path, b.len(), Data::new(b.clone()))).collect();
        let head = Head {
            origin: self.origin.clone(),
            marks: self.said.marks.clone(),
            closed: self.said.closed,
            torn_append: self.torn_append,
            damaged: self.damaged,
            dirs: self.image.dirs.clone(),
            files: trimmed
                .iter()
                .map(|(path, len, data)| ((*path).clone(), *len, data.kept().len()))
                .collect(),
        };
        let mut out = GzEncoder::new(Vec::new(), Compression::best());
        serde_json::to_writer(&mut out, &head)?;
        out.write_all(b"\n")?;
        for (_, _, data) in &trimmed {
            out.write_all(data.kept())?;
        }
        out.finish()
    }

    /// Reads one.
    ///
    /// # Errors
    /// From the file system; if it is no fixture.
    pub fn load(path: &Path) -> io::Result<Fixture> {
        Fixture::decode(&std::fs::read(path)?)
    }

    /// Keeps it below `dir`, by `name`.
    ///
    /// # Errors
    /// From the file system.
    pub fn keep(&self, dir: &Path, name: &str) -> io::Result<std::path::PathBuf> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(name).with_extension(EXTENSION);
        std::fs::write(&path, self.encode()?)?;
        Ok(path)
    }

    /// Judges it, in `scratch`, which is not there yet.
    ///
    /// # Errors
    /// From the file system of `scratch`; the verdict is within.
    pub fn judge(&self, scratch: &Path) -> io::Result<Result<(), Broken>> {
        self.image.write(scratch)?;
        let case = Case {
            said: &self.said,
            torn_append: self.torn_append,
            damaged: self.damaged,
            faulty: false,
            twice: true,
        };
        Ok(judge(scratch, &case))
    }
}

fn collect(dir: &Path, shown: &str, image: &mut Image) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let below = if shown.is_empty() { name } else { format!("{shown}/{name}") };
        if entry.file_type()?.is_dir() {
            image.dirs.push(below.clone());
            collect(&entry.path(), &below, image)?;
        } else {
            image.files.insert(below, std::fs::read(entry.path())?);
        }
    }
    Ok(())
}
