//! `store export`: events as CloudEvents, one JSON line each, in the order in which they were accepted.

use super::args::Export;
use super::dump::report_lost;
use super::progress::Progress;
use super::source::Source;
use super::walk::{Selection, Walk};
use super::{is_closed_pipe, line};
use crate::exit::Failure;
use anyhow::Context;
use eventmesh_edge_core::event::Position;
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;

/// What was exported.
#[derive(Serialize)]
struct Summary {
    events: u64,
    bytes: u64,
    /// Position of the first and the last of them.
    first: Option<String>,
    last: Option<String>,
    /// What `--from` takes to go on after the last one.
    next: Option<String>,
    /// Events that could not be read are between these.
    lost: Vec<Stretch>,
}

#[derive(Serialize)]
struct Stretch {
    stream: String,
    first: String,
    last: String,
}

/// Writes them; fails at the end if something could not be read.
pub(super) fn export(args: &Export) -> Result<(), Failure> {
    let source = Source::open(&args.place)?;
    let selection = Selection::new(&args.choice, &source.report(), !args.all)?;
    let mut out = output(args)?;
    let mut walk = Walk::new(&source, &selection);
    let mut progress = Progress::new("export", args.place.quiet);
    let mut sum = Sum::default();
    let written = write_all(&mut walk, &mut *out, selection.expected(), &mut progress, &mut sum);
    progress.finish();
    let summary = summary(&sum, &walk);
    tell(args, &summary)?;
    written?;
    report_lost(&walk)
}

#[derive(Default)]
struct Sum {
    events: u64,
    bytes: u64,
    first: Option<Position>,
    last: Option<Position>,
}

fn output(args: &Export) -> Result<Box<dyn Write>, Failure> {
    let Some(path) = &args.output else { return Ok(Box::new(BufWriter::new(io::stdout()))) };
    // Payloads are in it (P7).
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    if args.append {
        options.create(true).append(true)
    } else {
        options.create_new(true)
    };
    let file = options.open(path).with_context(|| format!("write {}", path.display()));
    Ok(Box::new(BufWriter::new(file.map_err(Failure::CannotStart)?)))
}

fn write_all(
    walk: &mut Walk<'_>,
    out: &mut dyn Write,
    expected: u64,
    progress: &mut Progress,
    sum: &mut Sum,
) -> Result<(), Failure> {
    let failed = |error: io::Error| match is_closed_pipe(&error) {
        true => Failure::Told,
        false => Failure::Failed(anyhow::Error::new(error).context("write the export")),
    };
    while let Some((stream, typed)) = walk.next()? {
        let mut text = line::write(&stream, &typed.event, &typed.kind);
        text.push(b'\n');
        out.write_all(&text).map_err(failed)?;
        sum.events += 1;
        sum.bytes += text.len() as u64;
        sum.first = sum.first.or(Some(typed.event.position));
        sum.last = Some(typed.event.position);
        progress.tell(walk.looked_at, expected, &stream);
    }
    out.flush().map_err(failed)
}

fn summary(sum: &Sum, walk: &Walk<'_>) -> Summary {
    let text = |position: Option<Position>| position.map(|position| position.to_string());
    let stretch = |(stream, first, last): &(String, Position, Position)| Stretch {
        stream: stream.clone(),
        first: first.to_string(),
        last: last.to_string(),
    };
    Summary {
        events: sum.events,
        bytes: sum.bytes,
        first: text(sum.first),
        last: text(sum.last),
        next: text(sum.last.map(Position::next)),
        lost: walk.lost.iter().map(stretch).collect(),
    }
}

/// On standard error where the events are on standard output.
fn tell(args: &Export, summary: &Summary) -> Result<(), Failure> {
    let text = if args.json {
        serde_json::to_string(summary).map_err(|error| Failure::Failed(error.into()))?
    } else if args.place.quiet {
        return Ok(());
    } else {
        let next =
            summary.next.as_deref().map_or(String::new(), |next| format!("; go on with --from {next}"));
        format!("exported {} events, {} bytes{next}", summary.events, summary.bytes)
    };
    if args.output.is_some() {
        println!("{text}")
    } else {
        eprintln!("{text}")
    }
    Ok(())
}
