//! `store import`: exported events into the store of a stopped node, in their order, ids and sources kept (P3).
//!
//! A file is read twice: every line is checked before anything is written. Then batches are committed, each whole or not at
//! all; where one fails, everything before it is stored, and the message says with which line to go on.

use super::args::{Duplicates, Import};
use super::line::{self, Line};
use super::progress::Progress;
use super::{place, print_json};
use crate::exit::Failure;
use anyhow::{Context, anyhow};
use blake2::{Blake2s, Digest, digest::consts::U16};
use eventmesh_edge_core::event::Position;
use eventmesh_edge_core::ports::clock::Clock;
use eventmesh_edge_core::ports::store::{Commit, NewEvent, Store, StoreSpec, StreamId, StreamSpec, UplinkId};
use eventmesh_edge_runtime::clock::SystemClock;
use eventmesh_edge_store::inspect::{InspectError, Inspection};
use eventmesh_edge_store::{JournalStore, OpenError, StoreOptions};
use serde::Serialize;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::sync::{Arc, mpsc};

/// Events in one commit, and about how many bytes.
const BATCH_EVENTS: usize = 256;
const BATCH_BYTES: usize = 1 << 20;
/// A line is an event, and an event is at most one commit.
const LINE_MAX_BYTES: u64 = 64 << 20;

/// What was imported.
#[derive(Debug, Default, Serialize)]
struct Summary {
    dry_run: bool,
    /// Lines read, empty ones included.
    lines: u64,
    events: u64,
    duplicates: u64,
    /// Positions that the first and the last of them got.
    first: Option<String>,
    last: Option<String>,
}

/// Checks the lines, then stores them.
pub(super) fn import(args: &Import) -> Result<(), Failure> {
    let config = place::config(&args.place)?;
    let spec = config.store_spec();
    let is_stdin = args.input == Path::new("-");
    let mut summary = Summary { dry_run: args.dry_run, ..Summary::default() };
    if !is_stdin || args.dry_run {
        let mut check = Reader::open(args, &spec, "check")?;
        while check.next_event().map_err(Failure::Failed)?.is_some() {
            summary.events += 1;
        }
        (summary.lines, summary.duplicates) = (check.line, check.duplicates);
    }
    if !args.dry_run {
        let mut reader = Reader::open(args, &spec, "import")?;
        let store = open(args, &config.node.data_dir, &spec)?;
        summary = Summary { dry_run: false, ..Summary::default() };
        let done = store_all(&store, &mut reader, &mut summary);
        store.close();
        (summary.lines, summary.duplicates) = (reader.line, reader.duplicates);
        done.with_context(|| format!("{} events are imported", summary.events)).map_err(Failure::Failed)?;
    }
    if args.json {
        return print_json(&summary);
    }
    let verb = if args.dry_run { "would import" } else { "imported" };
    let positions = match (&summary.first, &summary.last) {
        (Some(first), Some(last)) => format!(", positions {first} to {last}"),
        _ => String::new(),
    };
    println!(
        "{verb} {} events of {} lines{positions}, {} duplicates left out",
        summary.events, summary.lines, summary.duplicates
    );
    Ok(())
}

/// With the streams of the configuration, and those that the directory remembers beside them, so that nothing is given up.
fn open(args: &Import, dir: &Path, spec: &StoreSpec) -> Result<JournalStore, Failure> {
    let refused = |error| place::needs_a_stopped_node("import", error);
    let (spec, options) = match Inspection::open(dir, &place::options(&args.place)) {
        Ok(found) => (with_remembered(spec.clone(), &found.spec()), found.store_options()),
        // A new node may begin with what another one kept.
        Err(InspectError::Open(OpenError::NoStore { .. })) => (spec.clone(), StoreOptions::default()),
        Err(error) => return Err(refused(error)),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let opened = JournalStore::open(dir, spec, &options, clock);
    Ok(opened.map_err(|error| refused(error.into()))?.0)
}

/// Streams that the configuration does not name keep their readers.
pub(super) fn with_remembered(mut spec: StoreSpec, remembered: &StoreSpec) -> StoreSpec {
    let mut ids = Vec::new();
    for name in &remembered.uplinks {
        let known = spec.uplinks.iter().position(|uplink| uplink == name);
        let index = known.unwrap_or_else(|| {
            spec.uplinks.push(name.clone());
            spec.uplinks.len() - 1
        });
        ids.push(UplinkId(u16::try_from(index).unwrap_or(u16::MAX)));
    }
    for stream in &remembered.streams {
        if !spec.streams.iter().any(|known| known.name == stream.name) {
            let uplinks = stream.uplinks.iter().filter_map(|id| ids.get(usize::from(id.0)).copied());
            spec.streams.push(StreamSpec { uplinks: uplinks.collect(), ..stream.clone() });
        }
    }
    spec
}

fn store_all(store: &JournalStore, reader: &mut Reader<'_>, summary: &mut Summary) -> anyhow::Result<()> {
    loop {
        let batch = reader.next_batch()?;
        let Some(first_line) = batch.first().map(|parsed| parsed.line) else { return Ok(()) };
        let positions = commit(store, batch.into_iter().map(|parsed| parsed.event).collect());
        let positions = positions.with_context(|| format!("go on with --from-line {first_line}"))?;
        summary.events += positions.len() as u64;
        summary.first = summary.first.take().or(positions.first().map(ToString::to_string));
        summary.last = positions.last().map(ToString::to_string).or(summary.last.take());
    }
}

fn commit(store: &JournalStore, events: Vec<NewEvent>) -> anyhow::Result<Vec<Position>> {
    let (into, answer) = mpsc::channel();
    // The receiver is waited on right below.
    store.submit(Commit { events, ..Commit::default() }, Box::new(move |done| drop(into.send(done))));
    Ok(answer.recv().context("the store is gone")??.positions)
}

/// The lines of a file, as events for the store.
struct Reader<'a> {
    args: &'a Import,
    spec: &'a StoreSpec,
    input: Box<dyn BufRead>,
    clock: SystemClock,
    /// Lines read so far.
    line: u64,
    duplicates: u64,
    seen: HashSet<[u8; 16]>,
    bytes: (u64, u64),
    progress: Progress,
    /// Read, and not in a batch yet.
    ahead: Option<Parsed>,
    /// Met behind the events of the last batch.
    failed: Option<anyhow::Error>,
}

/// One event, and where it stood.
struct Parsed {
    event: NewEvent,
    line: u64,
    bytes: usize,
}

impl<'a> Reader<'a> {
    fn open(args: &'a Import, spec: &'a StoreSpec, verb: &'static str) -> Result<Reader<'a>, Failure> {
        let (input, len): (Box<dyn BufRead>, u64) = if args.input == Path::new("-") {
            (Box::new(BufReader::new(io::stdin())), 0)
        } else {
            let file = File::open(&args.input).with_context(|| format!("read {}", args.input.display()));
            let file = file.map_err(Failure::CannotStart)?;
            let len = file.metadata().map_or(0, |metadata| metadata.len());
            (Box::new(BufReader::new(file)), len)
        };
        Ok(Reader {
            args,
            spec,
            input,
            clock: SystemClock::new(),
            line: 0,
            duplicates: 0,
            seen: HashSet::new(),
            bytes: (0, len),
            progress: Progress::new(verb, args.place.quiet),
            ahead: None,
            failed: None,
        })
    }

    /// Events for one commit; empty at the end. What stands before a line that is wrong comes before its error.
    fn next_batch(&mut self) -> anyhow::Result<Vec<Parsed>> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_EVENTS {
            let next = match self.ahead.take() {
                Some(ahead) => Ok(Some(ahead)),
                None => self.next_event(),
            };
            match next {
                Ok(None) => break,
                Ok(Some(parsed)) if !batch.is_empty() && bytes + parsed.bytes > BATCH_BYTES => {
                    self.ahead = Some(parsed);
                    break;
                }
                Ok(Some(parsed)) => {
                    bytes += parsed.bytes;
                    batch.push(parsed);
                }
                Err(error) if batch.is_empty() => return Err(error),
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
        Ok(batch)
    }

    fn next_event(&mut self) -> anyhow::Result<Option<Parsed>> {
        let mut text = Vec::new();
        loop {
            text.clear();
            let read = io::Read::take(&mut self.input, LINE_MAX_BYTES).read_until(b'\n', &mut text);
            if read.with_context(|| format!("read line {}", self.line + 1))? == 0 {
                return Ok(None);
            }
            self.line += 1;
            if text.len() as u64 >= LINE_MAX_BYTES {
                return Err(anyhow!("line {}: is longer than {LINE_MAX_BYTES} bytes", self.line));
            }
            self.bytes.0 += text.len() as u64;
            self.progress.tell(self.bytes.0, self.bytes.1.max(1), "");
            let parsed = line::read(text.trim_ascii(), self.clock.now());
            if self.line < self.args.from_line {
                // Stored by an earlier import: only for what comes a second time.
                if let Ok(line) = &parsed {
                    self.remember(line);
                }
                continue;
            }
            if text.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let line = parsed.with_context(|| format!("line {}", self.line))?;
            if self.is_duplicate(&line)? {
                continue;
            }
            let stream = Some(self.stream(&line)?);
            let event = NewEvent { stream, event: line.event, mailboxes: Vec::new() };
            return Ok(Some(Parsed { event, line: self.line, bytes: text.len() }));
        }
    }

    /// Sixteen bytes per line: no two identities share them. False if they were there before.
    fn remember(&mut self, line: &Line) -> bool {
        if self.args.duplicates == Duplicates::Keep {
            return true;
        }
        let mut hash = Blake2s::<U16>::new();
        hash.update(line.event.source.len().to_le_bytes());
        hash.update(line.event.source.as_bytes());
        hash.update(line.event.id.as_deref().unwrap_or_default().as_bytes());
        self.seen.insert(hash.finalize().into())
    }

    fn is_duplicate(&mut self, line: &Line) -> anyhow::Result<bool> {
        if self.remember(line) {
            return Ok(false);
        }
        if self.args.duplicates == Duplicates::Refuse {
            let (source, id) = (&line.event.source, line.event.id.as_deref().unwrap_or_default());
            return Err(anyhow!(
                "line {}: source {source:?} with id {id:?} was there before: --duplicates skip leaves it out",
                self.line
            ));
        }
        self.duplicates += 1;
        Ok(true)
    }

    fn stream(&self, line: &Line) -> anyhow::Result<StreamId> {
        let name = self.args.stream.as_deref().or(line.stream.as_deref());
        let name = name.with_context(|| format!("line {}: names no stream: say --stream", self.line))?;
        let index = self.spec.streams.iter().position(|stream| stream.name == name);
        let index = index.with_context(|| {
            format!(
                "line {}: stream {name:?} is not in the configuration: add [[stream]] to it (--config), or say --stream",
                self.line
            )
        })?;
        Ok(StreamId(u16::try_from(index)?))
    }
}
