//! Records a workload: each life under strace, its file operations and markers in one trace.

use crate::marks::Mark;
use crate::model::Said;
use crate::parse::{CALLS, ParseError, Parser};
use crate::sweep::{Cut, Plan, image};
use crate::trace::{Moment, Trace};
use crate::volume::Volume;
use crate::workload::{Workload, ends_in_order};
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Why there is no recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// strace is missing or may not trace.
    #[error(
        "run strace (Debian: `apt-get install strace`; a container needs the SYS_PTRACE capability): {0}"
    )]
    Strace(io::Error),
    /// A file of the recording.
    #[error("recording: {0}")]
    Io(#[from] io::Error),
    /// The workload itself failed.
    #[error("life {life} of {workload:?} failed: {why}")]
    Life {
        /// Which workload.
        workload: Workload,
        /// Which life.
        life: u32,
        /// What it said.
        why: String,
    },
    /// A line is not understood.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// What the operations make is not what is there: some were missed.
    #[error("the recorded operations do not make the directory that is there: {0}")]
    Incomplete(String),
}

/// Records a workload in a directory of its own. `program` takes `life`, see [`crate::workload::live`].
///
/// # Errors
/// [`RecordError`].
pub fn record(program: &Path, workload: Workload, seed: u64) -> Result<Trace, RecordError> {
    whole(|| record_once(program, workload, seed))
}

/// A kill can end a process in the middle of a call of which strace never tells the end, or tells nonsense, such as an open
/// that makes a file: such a recording does not add up, and is made again.
fn whole(mut make: impl FnMut() -> Result<Trace, RecordError>) -> Result<Trace, RecordError> {
    const TRIES: u32 = 4;
    for _ in 1..TRIES {
        match make() {
            Err(RecordError::Incomplete(_) | RecordError::Parse(_)) => {}
            made => return made,
        }
    }
    make()
}

fn record_once(program: &Path, workload: Workload, seed: u64) -> Result<Trace, RecordError> {
    let scratch = scratch()?;
    let data = scratch.path().join("data");
    std::fs::create_dir(&data)?;
    let mut parser = Parser::new(&data, &scratch.path().join("marks"));
    let before = workload.begins_with(seed)?;
    if let Some(before) = &before {
        before.image.write(&data)?;
        parser.adopt(&data)?;
    }
    let begins = parser.moments();
    let first = before.as_ref().map_or(0, |before| next_life(&before.said));
    for life in first..first + workload.lives() {
        // After a life that was cut short only one checkpoint may be there: its loss would be a second fault.
        if life > 0 && workload.damages() && ends_in_order(seed, life - 1) {
            damage(&mut parser, &data)?;
        }
        one_life(program, (workload, seed, life), scratch.path(), &mut parser)?;
    }
    let before = before.map(|before| before.said).unwrap_or_default();
    let trace = Trace { begins, before, ..parser.finish() };
    verify(&trace, &data)?;
    Ok(trace)
}

fn next_life(said: &Said) -> u32 {
    u32::try_from(said.life + 1).unwrap_or(u32::MAX)
}

/// How a recorded life came to its end before the one that is recorded now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The power was cut: what was not durable is as the seed has it, and all that is left is durable.
    Power,
    /// The process was killed: everything can be read, and what was not durable is so no more than before.
    Kill,
}

/// Records a start, and what follows, in the directory that a cut of an earlier recording leaves.
///
/// # Errors
/// [`RecordError`].
pub fn record_after(
    program: &Path,
    trace: &Trace,
    plan: &Plan,
    (cut, end): (&Cut, End),
) -> Result<Trace, RecordError> {
    whole(|| record_after_once(program, trace, plan, (cut, end)))
}

fn record_after_once(
    program: &Path,
    trace: &Trace,
    plan: &Plan,
    (cut, end): (&Cut, End),
) -> Result<Trace, RecordError> {
    let scratch = scratch()?;
    let data = scratch.path().join("data");
    let marks = scratch.path().join("marks");
    let (image, said) = image(trace, plan, cut, end);
    image.write(&data)?;
    // The next life goes on with the newest configuration.
    let shapes = said.marks.iter().filter(|mark| matches!(mark, Mark::Start(_) | Mark::Change(_)));
    let lines = shapes.map(serde_json::to_string).collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
    std::fs::write(&marks, lines.into_iter().map(|line| line + "\n").collect::<String>())?;
    let life = next_life(&said);
    let (mut parser, before) = match end {
        End::Kill => (Parser::resume(&data, &marks, trace, cut.after), trace.before.clone()),
        End::Power => {
            let mut parser = Parser::new(&data, &marks);
            parser.adopt(&data)?;
            (parser, said)
        }
    };
    let begins = parser.moments();
    one_life(program, (plan.workload, cut.seed % 1000, life), scratch.path(), &mut parser)?;
    let trace = Trace { begins, before, ..parser.finish() };
    verify(&trace, &data)?;
    Ok(trace)
}

/// Lives two lives below `scratch`, the first of them with some of its system calls failing as `inject` says
/// (strace's `-e inject=`). Returns what was said; the directory is `data`.
///
/// # Errors
/// [`RecordError`]; also if the first life fails or does not end.
pub fn live_with_faults(
    program: &Path,
    (workload, seed): (Workload, u64),
    inject: &str,
    scratch: &Path,
) -> Result<Said, RecordError> {
    let (data, marks) = (scratch.join("data"), scratch.join("marks"));
    std::fs::create_dir(&data)?;
    let name = format!("{workload:?}").to_lowercase();
    // A life that hangs is ended, and counts as failed.
    let output = Command::new("timeout")
        .args(["-s", "KILL", "60", "strace", "-f", "--seccomp-bpf", "-e", "signal=none", "-o", "/dev/null"])
        .args(["-e", &format!("trace={FAILING}"), "-e", &format!("inject={inject}")])
        .arg(program)
        .args(["life", &name, &seed.to_string(), "0"])
        .args([&data, &marks])
        .arg("--faulty")
        .stdin(Stdio::null())
        .output()
        .map_err(RecordError::Strace)?;
    if !output.status.success() {
        let why = format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        return Err(RecordError::Life { workload, life: 0, why });
    }
    let mut said = Said::default();
    for line in std::fs::read_to_string(&marks)?.lines() {
        let mark = serde_json::from_str(line).map_err(io::Error::other)?;
        said.advance(&Moment::Mark(mark));
    }
    Ok(said)
}

/// Whether a recording can be made here: a container may forbid tracing.
///
/// # Errors
/// [`RecordError::Strace`], which says what is missing.
pub fn can_trace() -> Result<(), RecordError> {
    let mut probe = Command::new("strace");
    probe.args(["-f", "--seccomp-bpf", "-e", "trace=close", "-o", "/dev/null", "true"]);
    let output = probe.stdin(Stdio::null()).output().map_err(RecordError::Strace)?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(RecordError::Strace(io::Error::other(why)))
}

/// The calls that change files and that no marker needs.
pub const FAILING: &str =
    "pwrite64,fsync,fdatasync,ftruncate,rename,unlink,unlinkat,mkdir,rmdir,sync_file_range";

/// A directory in memory if there is one: the images are many.
///
/// # Errors
/// From the file system.
pub fn scratch() -> io::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let builder = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix("eventmesh-edge-crash-");
        builder
    };
    if memory.is_dir()
        && let Ok(dir) = builder().tempdir_in(memory)
    {
        return Ok(dir);
    }
    builder().tempdir()
}

fn one_life(
    program: &Path,
    (workload, seed, life): (Workload, u64, u32),
    scratch: &Path,
    parser: &mut Parser,
) -> Result<(), RecordError> {
    let log = scratch.join("strace");
    let name = format!("{workload:?}").to_lowercase();
    let output = Command::new("strace")
        .args(["-f", "--seccomp-bpf", "-y", "-xx", "-s", "16777216", "-e", "signal=none", "-o"])
        .arg(&log)
        .args(["-e", &format!("trace={CALLS}")])
        .arg(program)
        .args(["life", &name, &seed.to_string(), &life.to_string()])
        .arg(scratch.join("data"))
        .arg(scratch.join("marks"))
        .stdin(Stdio::null())
        .output()
        .map_err(RecordError::Strace)?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(RecordError::Life { workload, life, why });
    }
    parser.life(BufReader::new(File::open(&log)?))?;
    std::fs::remove_file(&log)?;
    Ok(())
}

/// Changes a byte in the middle of the newer of the views.
fn damage(parser: &mut Parser, data: &Path) -> Result<(), RecordError> {
    let proven =
        |side: &&str| std::fs::metadata(data.join(side).with_extension("proof")).and_then(|m| m.modified());
    let sides = ["views-a", "views-b"].into_iter().filter(|side| proven(side).is_ok());
    let Some(side) = sides.max_by_key(|side| proven(side).ok()) else { return Ok(()) };
    let side = &format!("{side}/db");
    let path = data.join(side);
    let Ok(mut bytes) = std::fs::read(&path) else { return Ok(()) };
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
    let offset = used / 2;
    let Some(byte) = bytes.get_mut(offset) else { return Ok(()) };
    *byte ^= 0x40;
    let changed = vec![*byte];
    std::fs::write(&path, &bytes)?;
    parser.meddle(side, offset, changed);
    Ok(())
}

/// The directory that all operations together make must be the one that is there.
fn verify(trace: &Trace, data: &Path) -> Result<(), RecordError> {
    let mut volume = Volume::new();
    for moment in &trace.moments {
        volume.advance(trace, moment);
    }
    let made = volume.current_files();
    let mut there = std::collections::BTreeMap::new();
    list(data, "", &mut there)?;
    let missing = made.keys().filter(|name| !there.contains_key(*name));
    let unknown = there.keys().filter(|name| !made.contains_key(*name));
    if let Some(name) = missing.chain(unknown).next() {
        return Err(RecordError::Incomplete(format!("{name} is in one of the two only")));
    }
    for (path, bytes) in &made {
        if path != "lock" && there.get(path) != Some(bytes) {
            return Err(RecordError::Incomplete(format!("{path} has other bytes")));
        }
    }
    Ok(())
}

fn list(
    dir: &Path,
    shown: &str,
    out: &mut std::collections::BTreeMap<String, Vec<u8>>,
) -> Result<(), RecordError> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let below = if shown.is_empty() { name } else { format!("{shown}/{name}") };
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &below, out)?;
        } else {
            out.insert(below, std::fs::read(entry.path())?);
        }
    }
    Ok(())
}

/// Where failing images are kept if nothing else is said: below the target directory of the program.
#[must_use]
pub fn failures_dir(program: &Path) -> PathBuf {
    let target = program.ancestors().find(|dir| dir.file_name().is_some_and(|name| name == "target"));
    target.unwrap_or(Path::new("target")).join("crash")
}
